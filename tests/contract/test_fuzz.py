"""Nonsense is answered, and never by a fault: by what OpenAPI lets one send, and by damaged resources."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from shared.runtime.ownership import CLINICAL, types_of
from tests.data import examples
from tests.e2e.kap import Kap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def explore(played: Kap, examples_each: int) -> Counter[int]:
    """Send requests that OpenAPI allows, to every operation; return how often each status was answered."""
    schema = schemathesis.openapi.from_url(f"{played.ports.url('gateway')}/openapi.json", wait_for_schema=5)
    statuses: Counter[int] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=examples_each,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            answer = case.call(timeout=20)
            statuses[answer.status_code] += 1
            case.validate_response(answer, checks=[not_a_server_error])

        send()
    return statuses


def test_no_request_that_openapi_allows_is_answered_by_a_fault(played: Kap) -> None:
    statuses = explore(played, 2)
    assert sum(statuses.values()) > 400


@pytest.mark.slow
def test_no_request_that_openapi_allows_is_answered_by_a_fault_at_length(played: Kap) -> None:
    statuses = explore(played, 20)
    assert sum(statuses.values()) > 4_000


HELD = set().union(*(types_of(owner) for owner in CLINICAL))

STRANGE: tuple[Any, ...] = (
    None, "", " ", "\u0000", "\ud800", "\u202e\u0301", "' OR 1=1 --", "x" * 70_000, "9999-99-99T99:99:99Z",
    "0001-01-01", -1, 0, 1, 1e308, 10**400, True, [], {}, [None], [[]], {"": ""}, {"reference": "Patient/../../x"},
    {"reference": "urn:uuid:nobody"}, {"extension": [{"url": "x"}]}, {"resourceType": "Patient"},
)  # fmt: skip


MOST_NESTED = 140
"""Far deeper than what is taken, and still written by Python's json where one lies within another."""


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every member and item below."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield (*at, key)
        yield from places(child, (*at, key))


def damaged(resource: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """Return a copy with one to three places removed, doubled, renamed, moved or filled with something strange."""
    copy: dict[str, Any] = json.loads(json.dumps(resource, default=float))
    for _ in range(dice.randint(1, 3)):
        path = dice.choice(list(places(copy)) or [()])
        if not path:
            return copy
        holder: Any = copy
        for key in path[:-1]:
            holder = holder[key]
        key = path[-1]
        what: Callable[[], Any] = dice.choice(
            [
                lambda holder=holder, key=key: holder.__delitem__(key),
                lambda holder=holder, key=key: holder.__setitem__(key, deepcopy(dice.choice(STRANGE))),
                lambda holder=holder, key=key: holder.__setitem__(key, [holder[key], deepcopy(holder[key])]),
                lambda holder=holder, key=key: holder.__setitem__(key, {"value": holder[key]}),
                lambda holder=holder, key=key: (
                    holder.__setitem__("_" + key, holder.pop(key)) if isinstance(holder, dict) else holder.append(key)
                ),
                lambda holder=holder, key=key: holder.__setitem__(key, nested(dice.randint(10, MOST_NESTED))),
            ]
        )
        what()
    return copy


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = {"extension": [value]} if depth % 2 else [value]
    return value


def storm(played: Kap, count: int, seed: int) -> Counter[int]:
    """Send `count` damaged resources; return how often each status was answered. No answer takes 20 s."""
    dice = random.Random(seed)
    good = [example for example in examples().values() if example["resourceType"] in HELD]
    statuses: Counter[int] = Counter()
    base = f"{played.ports.url('gateway')}/fhir"
    with httpx.Client(trust_env=False, timeout=20, headers={"Content-Type": "application/fhir+json"}) as client:
        for _ in range(count):
            example = dice.choice(good)
            resource = damaged(example, dice)
            text = json.dumps(resource).encode()
            if dice.random() < 0.05:
                text = text[: dice.randrange(len(text))]
            answer = client.post(f"{base}/{example['resourceType']}", content=text)
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, (answer.status_code, answer.text[:500], text[:2000])
            if answer.status_code >= 400:
                assert answer.json()["resourceType"] == "OperationOutcome"
    return statuses


def memory(played: Kap) -> int:
    """Return the bytes that the services hold: all in one process."""
    return int(psutil.Process(played.pid("gateway")).memory_info().rss)


def test_two_thousand_damaged_resources_are_refused_or_taken_and_never_a_fault(played: Kap) -> None:
    statuses = storm(played, 2_000, seed=1)
    assert statuses[400] + statuses[422] > 500, statuses
    assert sum(statuses.values()) == 2_000


@pytest.mark.slow
def test_twenty_thousand_damaged_resources_leave_the_memory_flat(played: Kap) -> None:
    storm(played, 10_000, seed=2)
    before = memory(played)
    statuses = storm(played, 10_000, seed=3)
    assert sum(statuses.values()) == 10_000
    after = memory(played)
    assert after < before * 1.1, f"{before / 1e6:.0f} MB after 10,000 of them, {after / 1e6:.0f} MB after 20,000"
