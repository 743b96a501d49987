"""Dates as intervals: what a value of each precision covers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fhir.dates import MAX_INSTANT, MIN_INSTANT, interval, period_interval, timing_interval, zulu


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("2024", at(2024, 1, 1), at(2025, 1, 1)),
        ("2024-02", at(2024, 2, 1), at(2024, 3, 1)),
        ("2023-02", at(2023, 2, 1), at(2023, 3, 1)),
        ("2024-12", at(2024, 12, 1), at(2025, 1, 1)),
        ("2024-02-29", at(2024, 2, 29), at(2024, 3, 1)),
        ("2024-01-01T10:00", at(2024, 1, 1, 10), at(2024, 1, 1, 10, 1)),
        ("2024-01-01T10:00:00Z", at(2024, 1, 1, 10), at(2024, 1, 1, 10, 0, 1)),
        ("2024-01-01T01:00:00+02:00", at(2023, 12, 31, 23), at(2023, 12, 31, 23, 0, 1)),
        ("2024-01-01T23:30:00-01:30", at(2024, 1, 2, 1), at(2024, 1, 2, 1, 0, 1)),
        ("2024-01-01T10:00:00", at(2024, 1, 1, 10), at(2024, 1, 1, 10, 0, 1)),
        ("2024-01-01T10:00:00.5Z", at(2024, 1, 1, 10, 0, 0, 500000), at(2024, 1, 1, 10, 0, 0, 600000)),
        ("2024-01-01T10:00:00.123Z", at(2024, 1, 1, 10, 0, 0, 123000), at(2024, 1, 1, 10, 0, 0, 124000)),
        ("2016-12-31T23:59:60Z", at(2017, 1, 1), at(2017, 1, 1, 0, 0, 1)),
        ("9999", at(9999, 1, 1), MAX_INSTANT),
        ("9999-12-31", at(9999, 12, 31), MAX_INSTANT),
        ("0001-01-01T00:00:00+14:00", MIN_INSTANT, MIN_INSTANT + timedelta(seconds=1)),
    ],
)
def test_a_value_covers_the_period_its_precision_implies(value: str, low: datetime, high: datetime) -> None:
    assert interval(value) == (low, high)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "24",
        "2024-13",
        "2024-00",
        "2023-02-29",
        "2024-1-1",
        "2024-01-01T",
        "2024-01-01T24:00:00Z",
        "2024-01-01T10:60:00Z",
        "2024-01-01T10:00:61Z",
        "2024-01-01T10:00:00+15:00",
        "2024-01-01T10:00:00+01:70",
        "2024-01-01 10:00:00Z",
        "0000-01-01",
        "٢٠٢٤",
        "yesterday",
    ],
)
def test_what_is_no_date_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        interval(value)


moments = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@given(moments, st.integers(-14 * 60, 14 * 60))
def test_the_zone_moves_the_text_and_not_the_instant(moment: datetime, offset: int) -> None:
    local = moment + timedelta(minutes=offset)
    sign = "-" if offset < 0 else "+"
    zone = f"{sign}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    text = local.replace(tzinfo=None).isoformat(timespec="microseconds") + zone
    assert interval(text) == (moment, moment + timedelta(microseconds=1))


@given(moments)
def test_each_precision_contains_the_finer_ones(moment: datetime) -> None:
    text = moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    texts = [text[:4], text[:7], text[:10], text[:16] + "Z", text[:19] + "Z", text[:23] + "Z", text]
    spans = [interval(one) for one in texts]
    for (low, high), (finer_low, finer_high) in pairwise(spans):
        assert low <= finer_low < finer_high <= high


@given(moments, moments)
def test_a_period_reaches_from_the_start_of_its_start_to_the_end_of_its_end(one: datetime, other: datetime) -> None:
    start, end = sorted((one, other))
    assert period_interval({"start": zulu(start), "end": zulu(end)}) == (
        interval(zulu(start))[0],
        interval(zulu(end))[1],
    )


def test_an_open_side_of_a_period_has_no_end() -> None:
    assert period_interval({"start": "2024"}) == (at(2024, 1, 1), MAX_INSTANT)
    assert period_interval({"end": "2024"}) == (MIN_INSTANT, at(2025, 1, 1))
    assert period_interval({"id": "x"}) is None
    with pytest.raises(ValueError, match="before it starts"):
        period_interval({"start": "2024", "end": "2022"})


def test_a_timing_is_its_outer_limits() -> None:
    timing = {
        "event": ["2024-03-01", "2024-01-01"],
        "repeat": {"boundsPeriod": {"start": "2024-02-01", "end": "2024-05"}},
    }
    assert timing_interval(timing) == (at(2024, 1, 1), at(2024, 6, 1))
    assert timing_interval({"repeat": {"frequency": 1}}) is None


def test_an_instant_is_written_in_utc_with_milliseconds() -> None:
    assert zulu(at(2026, 11, 22, 10)) == "2026-11-22T10:00:00.000Z"
