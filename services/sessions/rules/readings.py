"""Readings: what an Observation measured, and how it stands to a limit. Pure functions.

A value may be given with a comparator (``<70 %``); then it is a range, and some limits are certainly passed, others
only perhaps. What is perhaps beyond a limit is not known, and never taken for within it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, NamedTuple

from shared.fhir.cited import Cited
from shared.fhir.codes import KAP, LOINC
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, effective_start, quantity_in
from shared.fhir.numbers import DECIMAL_DIGITS

UPWARD: Final = frozenset((">", ">="))
DOWNWARD: Final = frozenset(("<", "<="))


class Value(NamedTuple):
    """A number in the unit of its limit, and its comparator (``<``, ``<=``, ``>=``, ``>``), None where it is exact."""

    number: Decimal
    comparator: str | None = None

    def __str__(self) -> str:
        """Return it as people write it."""
        return f"{self.comparator or ''}{self.number:f}"


class Limit(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit on a vital sign: the LOINC codes and UCUM units it is read in, and what is beyond it."""

    rule: str
    title: str
    codes: tuple[str, ...]
    units: tuple[str, ...]
    advice: str
    at_least: Decimal | None = None
    above: Decimal | None = None
    below: Decimal | None = None

    def is_beyond(self, value: Value) -> bool:
        """Tell whether `value` is certainly beyond the limit."""
        number, sign = value
        if sign in DOWNWARD:
            return self.below is not None and (number < self.below or (sign == "<" and number == self.below))
        if sign in UPWARD:
            reaches = self.at_least is not None and number >= self.at_least
            passes = self.above is not None and (number > self.above or (sign == ">" and number == self.above))
            return reaches or passes
        return (
            (self.at_least is not None and number >= self.at_least)
            or (self.above is not None and number > self.above)
            or (self.below is not None and number < self.below)
        )

    def may_be_beyond(self, value: Value) -> bool:
        """Tell whether `value` cannot be said to be within the limit."""
        number, sign = value
        if sign in DOWNWARD:
            most = self.at_least
            reaches = most is not None and (number > most or (sign == "<=" and number == most))
            return self.below is not None or reaches or (self.above is not None and number > self.above)
        if sign in UPWARD:
            low = self.below is not None and number < self.below
            return self.at_least is not None or self.above is not None or low
        return self.is_beyond(value)

    def __str__(self) -> str:
        """Return the limit as people write it."""
        said = [
            f"{word} {number:f}"
            for word, number in (("below", self.at_least), ("at most", self.above), ("at least", self.below))
            if number is not None
        ]
        return f"{' and '.join(reversed(said))} {self.units[0]}"


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured value.

    Attributes:
        reference: the Observation it is in.
        codes: LOINC, and the project's own where there is none.
        quantity: the Quantity as it stands; None: another type of value.
        when: when it was taken; where that is not said to the minute, when it was recorded.
        timed: whether it is said when it was taken.
        trusted: whether its status says that it counts (final, amended ...): one that is not yet final alarms, and
            opens, completes and ends nothing.
        sampled: whether it is of a device's feed (SampledData), not charted.

    """

    reference: str
    codes: tuple[str, ...]
    quantity: Mapping[str, Any] | None
    when: datetime | None
    timed: bool = True
    trusted: bool = True
    sampled: bool = False

    def value_in(self, units: Sequence[str]) -> Value | None:
        """Return the number in one of `units`; None where it is not understood."""
        plain = {key: value for key, value in (self.quantity or {}).items() if key != "comparator"}
        number = quantity_in(plain, units)
        return None if number is None else Value(Decimal(number), (self.quantity or {}).get("comparator"))

    def value_for(self, limit: Limit) -> Value | None:
        """Return the number to be held against a limit; what a device could not measure any more is beyond its side."""
        value, said = self.value_in(limit.units), self.quantity or {}
        if value is not None or not self._is_off(limit):
            return value
        sign = str(said["comparator"])
        end = limit.below if sign in DOWNWARD else limit.at_least if limit.above is None else limit.above
        return None if end is None else Value(end, sign)

    def passes(self, limit: Limit) -> bool:
        """Tell whether it is only known to be on a side of a limit on which nothing is beyond it."""
        return self._is_off(limit) and self.value_for(limit) is None

    def _is_off(self, limit: Limit) -> bool:
        """Tell whether it is a sample beyond what its device can measure, which does not say where that ends."""
        said = self.quantity or {}
        return "value" not in said and "comparator" in said and said.get("code") in limit.units


COUNTING: Final = frozenset(("final", "amended", "corrected"))
WITHDRAWN: Final = frozenset(("entered-in-error", "cancelled"))
_PRECISE: Final = timedelta(minutes=1)


def readings_of(observation: Resource) -> list[Reading]:
    """Return what an Observation measured: its value and its components; nothing of one that was withdrawn."""
    if observation.get("status") in WITHDRAWN:
        return []
    when, timed = taken_at(observation)
    return [
        Reading(
            f"Observation/{observation['id']}",
            (*codes_of(part.get("code"), LOINC), *codes_of(part.get("code"), KAP)),
            quantity,
            when,
            timed,
            observation.get("status") in COUNTING,
            sampled="valueSampledData" in part,
        )
        for part in (observation, *observation.get("component", []))
        if any(key.startswith("value") for key in part)
        for quantity in _quantities(part)
    ]


def measures_anew(before: Resource | None, after: Resource) -> bool:
    """Tell whether a change of an Observation says of anything that it was measured then, which was not said before.

    A device's feed that grows within its minute does not, whatever its values.
    """
    said = [
        {(one.codes, one.when, one.timed, one.trusted) for one in readings_of(each)} if each is not None else set()
        for each in (before, after)
    ]
    return not said[1] <= said[0]


def _quantities(part: Resource) -> list[Mapping[str, Any] | None]:
    """Return the Quantity of an Observation or component; of a feed its extremes, one beyond the device's range too."""
    if "valueInteger" in part:  # a score
        return [{"value": part["valueInteger"], "code": "{score}"}]
    if "valueSampledData" not in part:
        return [part.get("valueQuantity")]
    feed = part["valueSampledData"]
    origin = feed.get("origin", {})
    samples = _samples(str(feed.get("data", "")))
    if samples is None:
        return [None]
    beyond, extremes = samples
    found: list[Mapping[str, Any] | None] = []
    for mark in beyond:
        name, sign = ("upperLimit", ">") if mark == "U" else ("lowerLimit", "<")
        limit = {"value": feed[name]} if name in feed else {}
        found.append({key: one for key, one in origin.items() if key != "value"} | limit | {"comparator": sign})
    if extremes:
        factor, zero = Decimal(str(feed.get("factor", 1))), Decimal(str(origin.get("value", 0)))
        found.extend({**origin, "value": one * factor + zero} for one in extremes)
    return found


@lru_cache
def _samples(data: str) -> tuple[tuple[str, ...], tuple[Decimal, ...]] | None:
    """Return the marks beyond the device's range in a feed's data and its extremes; None where it cannot be read.

    Each rule looks at the same minute: it is read once.
    """
    said = [sample for sample in data.split() if sample != "E"]
    beyond = tuple(dict.fromkeys(sample for sample in said if sample in ("U", "L")))
    try:
        numbers = [Decimal(sample) for sample in said if sample not in ("U", "L")]
    except InvalidOperation:
        return None
    if any(not one.is_finite() or one.adjusted() > DECIMAL_DIGITS for one in numbers):
        return None
    return beyond, tuple(sorted({min(numbers), max(numbers)})) if numbers else ()


def taken_at(observation: Resource) -> tuple[datetime | None, bool]:
    """Return when an Observation was taken, and whether it says so to the minute; else when it was recorded."""
    when = effective_start(observation)
    said = observation.get("effectiveDateTime")
    if when is not None and said is not None:
        low, high = interval(said)
        when = when if high - low <= _PRECISE else None
    if when is not None:
        return when, True
    recorded = observation.get("issued") or (observation.get("meta") or {}).get("lastUpdated")
    return (None if recorded is None else interval(recorded)[0]), False


def with_code(readings: Iterable[Reading], codes: Iterable[str]) -> list[Reading]:
    """Return the readings of one of the codes."""
    wanted = frozenset(codes)
    return [reading for reading in readings if wanted.intersection(reading.codes)]
