"""Events as programs of each time have written them are read by this one, for ever: add to the file, never change it.

Within `v1` a header or member may be added, and none may be removed or change its meaning; whoever does not know it
passes over it. What an older consumer must not pass over is a new `ce_type` version: it parks it, with all that comes
after it in that record, until it is updated (`tests/integration/runtime/test_consume.py`).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.events.codec import REQUIRED_HEADERS, UnreadableEvent, decode, encode
from shared.events.shards import shard_of

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "events.json").read_text("utf-8"))
WRITTEN_BY_THIS_PROGRAM = [one for one in GOLDEN if one["since"] != "later"]


def record_of(golden: dict[str, Any]) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    record = golden["record"]
    headers = [(name, text.encode()) for name, text in record["headers"].items()]
    return record["key"].encode(), record["value"].encode(), headers


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["said"])
def test_an_event_of_another_time_is_read_as_what_it_was(golden):
    key, value, headers = record_of(golden)
    event = decode(key, value, headers)
    assert {name: getattr(event, name) for name in golden["event"] if name != "labels"} == {
        name: expected for name, expected in golden["event"].items() if name != "labels"
    }
    assert list(event.labels) == golden["event"]["labels"]
    assert event.body == value
    assert event.time == datetime(2026, 11, 22, 9, 30, 0, 123000, UTC)
    assert event.shard == shard_of(event.tenant, event.key)


@pytest.mark.parametrize("golden", WRITTEN_BY_THIS_PROGRAM, ids=lambda golden: golden["said"])
def test_this_program_writes_it_to_the_byte_as_it_was_written_then(golden):
    key, value, headers = record_of(golden)
    again = encode(decode(key, value, headers))
    assert (again.key, again.value, dict(again.headers)) == (key, value, dict(headers))


@pytest.mark.parametrize("header", REQUIRED_HEADERS)
def test_a_header_that_v1_has_always_had_is_never_left_out(header):
    key, value, headers = record_of(GOLDEN[0])
    without = [(name, text) for name, text in headers if name != header]
    if header == "content-type":  # says what the value is, and nothing that is read
        assert decode(key, value, without)
        return
    with pytest.raises(UnreadableEvent):
        decode(key, value, without)


def test_an_event_of_a_new_major_version_is_not_guessed_at():
    key, value, headers = record_of(GOLDEN[0])
    newer = [(name, b"org.kap-exchange.fhir.create.v3" if name == "ce_type" else text) for name, text in headers]
    with pytest.raises(UnreadableEvent):
        decode(key, value, newer)
