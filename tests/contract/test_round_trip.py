"""What was sent comes back: HL7's examples and whole Synthea records, to the digit and in their order."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shared.runtime.ownership import CLINICAL, types_of
from tests.contract.server import SOURCE, Server
from tests.data import BREAK_R4, shared_data

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

HELD = frozenset().union(*(types_of(owner) for owner in CLINICAL))
FOLDERS = ("hl7-r4-examples", "us-core-6.1.0-examples")


class Number(str):
    """A number as it is written."""

    __slots__ = ()


def exact(text: str | bytes) -> Any:
    """Return JSON with every object as a list of its members in order, and every number as it is written."""
    return json.loads(text, object_pairs_hook=lambda pairs: pairs, parse_float=Number, parse_int=Number)


def content(members: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return what a server may not change: all but id and meta."""
    return [(name, value) for name, value in members if name not in ("id", "meta")]


def labels(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return what a server may not change of meta."""
    meta = dict(dict(members).get("meta", []))
    return {name: meta[name] for name in ("profile", "tag") if name in meta}


def security(members: list[tuple[str, Any]]) -> list[Any]:
    """Return the labels that a server may not take away, to which it may add; of confidentiality there is but one."""
    meta = dict(dict(members).get("meta", []))
    return [one for one in meta.get("security", []) if "Confidentiality" not in str(dict(one).get("system"))]


def taken_away(sent: list[tuple[str, Any]], read: list[tuple[str, Any]]) -> bool:
    """Tell whether something that was sent is not there, or not the same."""
    kept = security(read)
    return (
        content(read) != content(sent) or labels(read) != labels(sent) or any(one not in kept for one in security(sent))
    )


def sourced(text: str) -> str:
    """Say in `meta.source` that a resource comes from elsewhere, and change nothing else."""
    members = json.loads(text, parse_float=Verbatim, parse_int=Verbatim)
    members["meta"] = {**members.get("meta", {}), "source": SOURCE}
    return "{" + ",".join(f"{json.dumps(name)}:{written(value)}" for name, value in members.items()) + "}"


class Verbatim(str):
    """A number's text, to be written without quotes."""

    __slots__ = ()


def written(value: Any) -> str:
    if isinstance(value, Verbatim):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{written(child)}" for name, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def hl7_examples() -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for file in sorted(shared_data(folder).glob("*.json")):
            text = file.read_text(encoding="utf-8-sig")
            if file.name not in BREAK_R4 and json.loads(text)["resourceType"] in HELD:
                yield file.name, text


def test_every_example_of_hl7_is_taken_and_comes_back_as_it_was_sent(server: Server) -> None:
    wrong = {}
    count = 0
    for name, text in hl7_examples():
        type_ = json.loads(text)["resourceType"]
        answer = server.http.post(type_, content=sourced(text).encode())
        for _ in range(5):
            if answer.status_code != 503:  # an owner that has not heard yet says so, and asks to try again
                break
            time.sleep(1)
            answer = server.http.post(type_, content=sourced(text).encode())
        count += 1
        if answer.status_code != 201:
            wrong[name] = f"{answer.status_code} {answer.text[:300]}"
            continue
        read = exact(server.send("GET", f"{type_}/{answer.json()['id']}").content)
        sent = exact(text)
        if taken_away(sent, read):
            wrong[name] = "differs"
    assert wrong == {}
    assert count > 200


def test_every_synthea_record_is_one_transaction_and_comes_back_as_it_was_sent(server: Server) -> None:
    folder = shared_data("synthea-r4")
    wrong = []
    count = 0
    for file in sorted(folder.glob("*.json.gz"))[:4]:
        whole = json.loads(gzip.decompress(file.read_bytes()), parse_float=Verbatim, parse_int=Verbatim)
        kept = [entry for entry in whole["entry"] if entry["resource"]["resourceType"] in HELD]
        for entry in kept:
            entry["resource"]["meta"] = {**entry["resource"].get("meta", {}), "source": SOURCE}
            entry["request"] = {"method": "POST", "url": entry["resource"]["resourceType"]}
        text = written({"resourceType": "Bundle", "type": "transaction", "entry": kept})
        # References to what these services do not hold (a Claim) stay as they are: nobody here can resolve them.
        answered = server.send("POST", "", text.encode(), Prefer="return=minimal").json()["entry"]
        places = {
            entry["fullUrl"]: "/".join(answer["response"]["location"].split("/_history")[0].split("/")[-2:])
            for entry, answer in zip(kept, answered, strict=True)
        }
        for entry in kept:
            count += 1
            expected = written(entry["resource"])
            for full_url, place in places.items():
                expected = expected.replace(f'"{full_url}"', f'"{place}"')
            read = exact(server.send("GET", places[entry["fullUrl"]]).content)
            if content(read) != content(exact(expected)):
                wrong.append(f"{file.name}: {places[entry['fullUrl']]}")
    assert wrong == []
    assert count > 300
