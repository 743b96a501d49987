"""When somebody works, in his own time zone, and time as the bits of a grid.

Hours are wall-clock times, so they keep their place when the clocks change: a window that begins in the hour that is
left out begins when that hour would have; one that ends in the hour that comes twice ends with the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shared.fhir.codes import EXT_AVAILABLE_TIME, EXT_TIMEZONE
from shared.fhir.dates import MAX_INSTANT, MIN_INSTANT, period_interval
from shared.fhir.json import Resource

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of the day on some weekdays; an end that is not after the start is on the next day."""

    days: frozenset[str]
    start: time
    end: time


@dataclass(frozen=True, slots=True)
class Working:
    """When somebody works: windows in a time zone, from `first` to `last`."""

    windows: tuple[Window, ...]
    zone: str
    first: datetime = MIN_INSTANT
    last: datetime = MAX_INSTANT


def working_of(schedule: Resource, zone: str) -> Working:
    """Return when the actor of a Schedule works; `zone` is the clinic's, for one that names none.

    Raises:
        ValueError: its time zone, a day or a time is none.

    """
    extensions = schedule.get("extension", [])
    named = next((str(one.get("valueCode")) for one in extensions if one.get("url") == EXT_TIMEZONE), zone)
    try:
        ZoneInfo(named)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones, a name too long
        message = f"there is no time zone '{named}'"
        raise ValueError(message) from None
    horizon = period_interval(schedule.get("planningHorizon", {})) or (MIN_INSTANT, MAX_INSTANT)
    windows = tuple(_window(one) for one in extensions if one.get("url") == EXT_AVAILABLE_TIME)
    return Working(windows if schedule.get("active", True) else (), named, *horizon)


def _window(extension: dict[str, Any]) -> Window:
    days, times = [], {}
    for part in extension.get("extension", []):
        if part.get("url") == "daysOfWeek":
            days.append(str(part.get("valueCode")))
        else:
            times[part.get("url")] = part.get("valueTime")
    wrong = [day for day in days if day not in DAYS]
    if wrong or not days:
        message = f"daysOfWeek is one of {', '.join(DAYS)}, not {', '.join(wrong) or 'nothing'}"
        raise ValueError(message)
    try:
        start, end = (time.fromisoformat(str(times[name])) for name in ("availableStartTime", "availableEndTime"))
    except (KeyError, ValueError):
        message = "available-time needs availableStartTime and availableEndTime, such as 09:00:00"
        raise ValueError(message) from None
    return Window(frozenset(days), start, end)


def hours_in(working: Working, low: datetime, high: datetime) -> list[tuple[datetime, datetime]]:
    """Return when somebody works in [low, high), in UTC, cut to it."""
    low, high = max(low, working.first), min(high, working.last)
    if low >= high:
        return []
    zone = ZoneInfo(working.zone)
    day, last = low.astimezone(zone).date() - _DAY, high.astimezone(zone).date()
    found = []
    while day <= last:
        for window in working.windows:
            if DAYS[day.weekday()] in window.days:
                start, end = _instants(window, day, zone)
                if start < high and low < end:
                    found.append((max(start, low), min(end, high)))
        day += _DAY
    return sorted(found)


def _instants(window: Window, day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    until = day if window.end > window.start else day + _DAY
    start = datetime.combine(day, window.start, zone)
    end = datetime.combine(until, window.end, zone).replace(fold=1)
    if _is_left_out(end):
        end = end.replace(fold=0)  # as late as it would have been
    return start.astimezone(UTC), end.astimezone(UTC)


def _is_left_out(local: datetime) -> bool:
    """Tell whether a wall-clock time does not exist: the clocks go over it."""
    return local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) != local.replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class Grid:
    """Time in steps from `origin`; bit n of a number is the step from origin + n steps on.

    `origin` is a multiple of the step since 1970, so that the hours of every time zone begin at steps.
    """

    origin: datetime
    step: timedelta
    count: int

    @classmethod
    def over(cls, low: datetime, high: datetime, step: timedelta) -> Grid:
        """Return the grid of [low, high): it begins at the first step that is not before `low`."""
        epoch = datetime.fromtimestamp(0, UTC)
        origin = epoch + -(-(low - epoch) // step) * step
        return cls(origin, step, max((high - origin) // step, 0))

    @property
    def everything(self) -> int:
        """All bits."""
        return (1 << self.count) - 1

    def within(self, low: datetime, high: datetime) -> int:
        """Return the bits of the steps that are wholly in [low, high)."""
        return self._bits(-(-(low - self.origin) // self.step), (high - self.origin) // self.step)

    def touching(self, low: datetime, high: datetime) -> int:
        """Return the bits of the steps that have something of [low, high)."""
        return self._bits((low - self.origin) // self.step, -(-(high - self.origin) // self.step))

    def _bits(self, first: int, end: int) -> int:
        first, end = max(first, 0), min(end, self.count)
        return ((1 << (end - first)) - 1) << first if first < end else 0

    def steps(self, length: timedelta) -> int:
        """Return how many steps a length takes."""
        return -(-length // self.step)

    def at(self, bit: int) -> datetime:
        """Return when a step begins."""
        return self.origin + bit * self.step


def fits(free: int, length: int) -> int:
    """Return the bits from which on `length` steps in a row are free."""
    have = 1
    while have < length:
        further = min(have, length - have)
        free &= free >> further
        have += further
    return free


def bits_of(number: int) -> Iterator[int]:
    """Yield the places of the bits that are set, the lowest first."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def working_bits(grid: Grid, working: Sequence[Working]) -> int:
    """Return the bits in which somebody with several schedules works."""
    found = 0
    for one in working:
        for low, high in hours_in(one, grid.at(0), grid.at(grid.count)):
            found |= grid.within(low, high)
    return found
