"""A continuous device's feed: its samples by signal and minute. Pure functions.

A minute of a signal is one SampledData (https://hl7.org/fhir/R4/datatypes.html#SampledData): each sample has its place
by its time, and a place without one says ``E``, that nothing valid was measured there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final

from shared.fhir.cited import Cited
from shared.fhir.numbers import is_storable

NOTHING: Final = "E"
MARKS: Final = frozenset((NOTHING, "U", "L"))
"""What stands for no valid value, one above and one below what the device can measure."""

MINUTE: Final = timedelta(minutes=1)


class Clock(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When samples come as they are measured, by a device whose clock is wrong.

    Attributes:
        share: of the time that went by at the device as much went by here, at least.
        seconds: so much more, at most.

    """

    share: Decimal
    seconds: int


class Silent(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """After how many minutes somebody is called in which a feed says only that nothing valid was measured."""

    minutes: int


def is_sample(text: str) -> bool:
    """Tell whether a text is a sample: a finite number, or one of `MARKS`."""
    if text in MARKS:
        return True
    try:
        return is_storable(Decimal(text))
    except InvalidOperation:
        return False


def minute_of(when: datetime) -> datetime:
    """Return the beginning of the minute that a time is in."""
    return when.replace(second=0, microsecond=0)


def by_minute(
    start: datetime, period: timedelta, samples: Sequence[str], early: Decimal
) -> dict[datetime, dict[int, str]]:
    """Return samples by the minute that they were measured in, and by their place in it.

    A device's clock is a little early or late from one batch to the next: no sample takes the place of the one before.

    Args:
        start: of the first sample.
        period: from one sample to the next, a minute at most.
        samples: in their order.
        early: the share of a period by which a sample may be early for its place.

    """
    found: dict[datetime, dict[int, str]] = {}
    for number, sample in enumerate(samples):
        when = start + number * period
        minute = minute_of(when)
        place = (when - minute + period * float(early)) // period
        if place * period >= MINUTE:
            minute, place = minute + MINUTE, 0
        found.setdefault(minute, {})[place] = sample
    return found


def sees_nothing(data: str) -> bool:
    """Tell whether all that a minute's data say is that nothing valid was measured."""
    return all(one == NOTHING for one in data.split())


def continues(ended: datetime, arrived: datetime, end: datetime, now: datetime, clock: Clock) -> bool:
    """Tell whether samples come as they are measured, whatever the device's clock says.

    They do where as much time went by there as here. What was kept back for a while comes long after what was there
    before it, or faster than it was measured.

    Args:
        ended: when the last sample was measured that is held, by the device's clock.
        arrived: when it came.
        end: when the last of these was measured, by the device's clock.
        now: when they came.
        clock: by how much the two may differ.

    """
    there, here = end - ended, now - arrived
    if there <= timedelta(0):
        return False
    return here >= there * float(clock.share) and here - there <= timedelta(seconds=clock.seconds)


def news_of(before: str, data: str) -> str:
    """Return a minute's data with nothing in the places where it says what was there before."""
    held = before.split()
    said = data.split()
    return " ".join(NOTHING if held[place : place + 1] == [one] else one for place, one in enumerate(said))


def put_in(data: str, samples: Mapping[int, str], stays: Callable[[str, str], bool]) -> str:
    """Return a minute's data with further samples in their places.

    What is measured is not taken back by nothing: a sample that says ``E`` leaves what stands in its place. Of two that
    come to one place the one that is held is left where it `stays` against the other.
    """
    placed = data.split()
    placed += [NOTHING] * (max(samples) + 1 - len(placed))
    for place, sample in samples.items():
        held = placed[place]
        if sample not in (NOTHING, held) and (held == NOTHING or not stays(held, sample)):
            placed[place] = sample
    return " ".join(placed)
