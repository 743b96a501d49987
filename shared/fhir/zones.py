"""In which time zone the days of a place begin and end, and what a date means there. Pure functions.

A place says its zone by HL7's extension `timezone`; one that says none, or one that nobody knows, has the clinic's.
Source: http://hl7.org/fhir/StructureDefinition/timezone, IANA time zone database.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shared.fhir.cited import Cited
from shared.fhir.codes import EXT_TIMEZONE
from shared.fhir.dates import Interval, interval
from shared.fhir.json import Resource

_DATE: Final = len("2026-01-01")
_DAY: Final = timedelta(days=1)


class Zone(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time zone of the IANA database."""

    name: str


def zone_named(name: str) -> ZoneInfo | None:
    """Return a time zone by its name in the IANA database; None: there is none of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones, a name too long
        return None


def zone_of(places: Iterable[Resource | None], clinic: tzinfo) -> tzinfo:
    """Return the zone of the first place that says one, else the clinic's."""
    for place in places:
        for one in (place or {}).get("extension", []):
            found = zone_named(str(one.get("valueCode"))) if one.get("url") == EXT_TIMEZONE else None
            if found is not None:
                return found
    return clinic


def day_at(moment: datetime, zone: tzinfo) -> date:
    """Return the day that it is in a zone; at the first and last moment of time that of the moment."""
    try:
        return moment.astimezone(zone).date()
    except OverflowError:
        return moment.date()


def end_of_day(day: date, zone: tzinfo) -> datetime:
    """Return the moment at which a day is over in a zone: the next midnight, after a day of 23 or 25 hours, too."""
    return datetime.combine(day + min(_DAY, date.max - day), time.min, zone)


def interval_in(value: str, zone: tzinfo) -> Interval:
    """Return the interval of a date or dateTime; one without a time is of the zone's days.

    Raises:
        ValueError: not a date, or no such day.

    """
    low, high = interval(value)
    if len(value) > _DATE:
        return low, high
    begin, end = (datetime.combine(one.date(), time.min, zone) for one in (low, high))
    return begin, end
