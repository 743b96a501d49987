"""The validator against an independent one: what fhir.resources refuses of mutated examples is refused here, too.

It speaks R4B; the types of `TYPES` differ from R4 in nothing that it checks. It knows neither required bindings nor
targets of references, so it cannot be the oracle the other way round: the examples are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.fhir.definitions import TYPES
from shared.fhir.json import Resource, dump, parse
from shared.fhir.validation import validate
from tests.data import examples

NONSENSE: list[Any] = [None, -1, 7, 1.5, True, "", " ", "x", "a b", "2020-02-30", "2020-13", "2020-01-01T10:00"]
NONSENSE += ["#x", "http://a b", [], {}, [None], {"foo": 1}, {"id": "x"}]


@cache
def model(type_: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(import_module(f"fhir.resources.R4B.{type_.lower()}"), type_)


def refused_by_oracle(resource: Resource) -> bool:
    try:
        model(resource["resourceType"]).model_validate_json(dump(resource))
    except (ValidationError, ValueError):
        return True
    return False


def places(value: object) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a resource as (container, key), but for type names and narratives."""
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, item in pairs:
        if key not in {"resourceType", "div"}:
            yield value, key
            yield from places(item)


@st.composite
def mutated(draw: st.DrawFn) -> Resource:
    held = [resource for _, resource in sorted(examples().items()) if resource["resourceType"] in TYPES]
    resource = copy.deepcopy(draw(st.sampled_from(held)))
    container, key = draw(st.sampled_from(list(places(resource))))
    what = draw(st.sampled_from(["drop", "wrap", "unwrap", "rename", "twist", *["replace"] * 4]))
    value = container[key]
    if what == "drop":
        del container[key]
    elif what == "wrap":
        container[key] = [value]
    elif what == "unwrap" and isinstance(value, list) and value:
        container[key] = value[0]
    elif what == "rename" and isinstance(key, str):
        container[f"{key}X"] = container.pop(key)
    elif what == "twist" and isinstance(value, str):
        container[key] = f"{value} \n"
    else:
        container[key] = draw(st.sampled_from(NONSENSE))
    return resource


@settings(
    max_examples=7 * settings.default.max_examples,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(mutated())
def test_what_fhir_resources_refuses_is_refused(resource: Resource) -> None:
    if refused_by_oracle(resource):
        assert validate(parse(dump(resource))) != []


@pytest.mark.parametrize("type_", sorted(TYPES))
def test_the_oracle_knows_every_held_type(type_: str) -> None:
    assert model(type_).get_resource_type() == type_
