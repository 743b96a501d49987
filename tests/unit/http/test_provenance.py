"""What stands in `X-Provenance` is a Provenance or refused, and comes through a second header as it was."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fhir.json import dump
from shared.fhir.outcome import BadRequest
from shared.http.provenance import in_one_line, provenance_in

SAID = {"resourceType": "Provenance", "recorded": "2026-03-04T05:06:07Z", "agent": [{"who": {"display": "Ada"}}]}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text(st.characters(max_codepoint=255)))
def test_any_text_is_taken_or_refused(text: str) -> None:
    with suppress(BadRequest):
        provenance_in(text)


@given(st.sampled_from([*SAID, "entity", "policy", "meta", "extension", "target"]), VALUES)
def test_any_damage_is_taken_or_refused(name: str, value: object) -> None:
    with suppress(BadRequest):
        provenance_in(json.dumps({**SAID, name: value}))


@pytest.mark.parametrize("depth", [90, 101, 5_000, 100_000])
def test_one_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    with pytest.raises(BadRequest):
        provenance_in('{"resourceType":"Provenance","extension":' + "[" * depth + "]" * depth + "}")


@given(st.text(min_size=1).filter(str.strip))
def test_it_is_sent_on_in_ascii_and_read_as_it_was(name: str) -> None:
    said = {**SAID, "agent": [{"who": {"display": name}}]}
    line = in_one_line(said)
    assert line.isascii()
    assert line.isprintable()
    with suppress(BadRequest):  # a text of control characters is no FHIR
        assert dump(provenance_in(line)) == dump(said)
