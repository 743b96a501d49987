"""Numbers by their precision, text by its letters, JSON by its digits, ids by their form."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fhir.ids import new_id, subject_uuid
from shared.fhir.json import dump, parse
from shared.fhir.numbers import MAX_NUMBER, MIN_NUMBER, implied_interval, is_storable
from shared.fhir.outcome import BadRequest
from shared.fhir.text import fold


@pytest.mark.parametrize(
    ("number", "low", "high"),
    [
        ("100", "99.5", "100.5"),
        ("100.00", "99.995", "100.005"),
        ("1e2", "95", "105"),
        ("5.4e-3", "0.00535", "0.00545"),
        ("-7.0", "-7.05", "-6.95"),
        ("0", "-0.5", "0.5"),
    ],
)
def test_a_number_means_what_rounds_to_it(number: str, low: str, high: str) -> None:
    assert implied_interval(Decimal(number)) == (Decimal(low), Decimal(high))


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_number_lies_in_its_interval(number: Decimal) -> None:
    if is_storable(number):
        low, high = implied_interval(number)
        assert MIN_NUMBER < low < number < high < MAX_NUMBER


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e401", "1e-401", "1" * 401])
def test_numbers_no_store_can_compare_are_known(number: str) -> None:
    assert not is_storable(Decimal(number))
    with pytest.raises(ValueError, match="compared"):
        implied_interval(Decimal(number))


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("  Müller   SMITH ", "muller smith"),
        ("Alcántar", "alcantar"),
        ("Straße", "strasse"),
        ("İstanbul", "istanbul"),
        ("\uff26\uff35\uff2c\uff2c", "full"),
        ("山田\u3000太郎", "山田 太郎"),
        ("", ""),
    ],
)
def test_text_is_compared_without_case_accents_and_white_space(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(st.text())
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_json_keeps_every_digit_of_a_decimal(number: Decimal) -> None:
    raw = f'{{"value":{number:f}}}'.encode()
    assert dump(parse(raw)) == raw


def test_json_keeps_digits_order_and_times() -> None:
    raw = b'{"z":1.00,"a":"2026-01-01T10:00:00.120+01:00","n":5,"e":1.0E+3}'
    parsed = parse(raw)
    assert str(parsed["z"]) == "1.00"
    assert parse(dump(parsed)) == parsed
    assert list(parse(dump(parsed))) == ["z", "a", "n", "e"]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b"[" * 100_000, b"1" * 5000, b'{"x":{"b":1,"b":1}}'],
)
def test_what_is_no_json_is_refused_in_a_sentence(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(raw)


def test_ids_grow_and_patients_have_a_uuid() -> None:
    one, other = new_id(), new_id()
    assert one < other
    assert str(subject_uuid(one)) == one
    assert isinstance(subject_uuid("example"), UUID)
    assert subject_uuid("example") != subject_uuid("Example")
    assert str(subject_uuid(one.upper())) != one
