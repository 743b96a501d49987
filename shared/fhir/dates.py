"""FHIR dates and times as half-open intervals [low, high) in UTC.

A value means the whole period that its precision implies: ``2026-11`` is the month, ``2026-11-22T10:00:00Z`` is
the second. Where a value has no time zone, it is read as UTC.

Source: https://hl7.org/fhir/R4/search.html#date, https://hl7.org/fhir/R4/datatypes.html#dateTime
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

Interval: TypeAlias = tuple[datetime, datetime]

MIN_INSTANT: Final = datetime(1, 1, 1, tzinfo=UTC)
"""The low end of an interval that has no beginning."""

CENTURY: Final = timedelta(days=36525)
"""A Julian century: no time in a life is further off."""

MAX_INSTANT: Final = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
"""The high end of an interval that has no end."""

_DATE = re.compile(
    r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2})"
    r"(?:T([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?)?)?"
)
_MAX_OFFSET = 14 * 60
_LEAST = timedelta(microseconds=1)


def _offset(zone: str | None) -> timedelta:
    if zone is None or zone == "Z":
        return timedelta(0)
    minutes = int(zone[1:3]) * 60 + int(zone[4:6])
    if int(zone[4:6]) > 59 or minutes > _MAX_OFFSET:
        message = f"{zone} is not a time zone"
        raise ValueError(message)
    return timedelta(minutes=-minutes if zone[0] == "-" else minutes)


def _moved(moment: datetime, by: timedelta) -> datetime:
    """Return `moment` + `by`, held within what a datetime can express."""
    try:
        return min(moment + by, MAX_INSTANT)
    except OverflowError:
        return MAX_INSTANT if by > timedelta(0) else MIN_INSTANT


def interval(value: str) -> Interval:
    """Return the interval of a date, dateTime or instant, also of the forms a search may use (no seconds, no zone).

    Raises:
        ValueError: not a date, or no such day.

    """
    match = _DATE.fullmatch(value)
    if match is None:
        message = f"'{value}' is not a FHIR date or dateTime"
        raise ValueError(message)
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if month is None:
        low = datetime(int(year), 1, 1, tzinfo=UTC)
        high = MAX_INSTANT if year == "9999" else datetime(int(year) + 1, 1, 1, tzinfo=UTC)
        return low, high
    if day is None:
        low = datetime(int(year), int(month), 1, tzinfo=UTC)
        return low, _moved(low, timedelta(days=_days(int(year), int(month))))
    low = datetime(int(year), int(month), int(day), tzinfo=UTC)
    if hour is None:
        return low, _moved(low, timedelta(days=1))
    if hour > "23" or minute > "59" or (second or "0") > "60":
        message = f"'{value}' has no such time of day"
        raise ValueError(message)
    span = timedelta(minutes=1) if second is None else timedelta(seconds=1)
    since_midnight = timedelta(hours=int(hour), minutes=int(minute), seconds=int(second or 0))
    if fraction is not None:
        digits = fraction[:6]
        since_midnight += timedelta(microseconds=int(digits.ljust(6, "0")))
        span = timedelta(microseconds=10 ** (6 - len(digits)))
    low = min(_moved(low, since_midnight - _offset(zone)), MAX_INSTANT - _LEAST)
    return low, _moved(low, span)


def _days(year: int, month: int) -> int:
    if month == 2:
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        return 29 if leap else 28
    return 30 if month in {4, 6, 9, 11} else 31


def period_interval(period: dict[str, Any]) -> Interval | None:
    """Return the interval of a Period; a side that is missing is open; None where both are.

    Raises:
        ValueError: an end that is not a date, or before the start.

    """
    start, end = period.get("start"), period.get("end")
    if start is None and end is None:
        return None
    low = MIN_INSTANT if start is None else interval(start)[0]
    high = MAX_INSTANT if end is None else interval(end)[1]
    if low >= high:
        message = "the period ends before it starts"
        raise ValueError(message)
    return low, high


def timing_interval(timing: dict[str, Any]) -> Interval | None:
    """Return the outer limits of a Timing's events and bounds; its schedule is ignored; None where there are none.

    Raises:
        ValueError: an event or bound that is not a date.

    """
    spans = [interval(event) for event in timing.get("event", ()) if event is not None]
    bounds = timing.get("repeat", {}).get("boundsPeriod")
    outer = period_interval(bounds) if bounds is not None else None
    if outer is not None:
        spans.append(outer)
    if not spans:
        return None
    return min(low for low, _ in spans), max(high for _, high in spans)


def zulu(moment: datetime) -> str:
    """Return `moment` as a FHIR instant in UTC with milliseconds: ``2026-11-22T10:00:00.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
