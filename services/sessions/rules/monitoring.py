"""Watching after a dose: when vital signs are due and missed, what is plausible (`policies/monitoring.yaml`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

import msgspec

from services.sessions.rules.feeds import Clock, Silent
from services.sessions.rules.readings import Reading, readings_of, with_code
from shared.fhir.cited import Cited
from shared.fhir.json import Resource
from shared.fhir.kap import Drug


class Minutes(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of minutes."""

    minutes: int


class Hours(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of hours."""

    hours: int


class Wanted(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is due at a bedside: of each line of `needs` one of the codes; `missed`: who looks when it is not there."""

    title: str
    needs: tuple[tuple[str, ...], ...]
    missed: Literal["call", "review"]


class Cadence(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is due after a dose by a route, by its code and in minutes, and how long the patient stays.

    Attributes:
        at: minutes from the dose. then: after the last of them every so many minutes, until the patient has left.
        stay: minutes from the first dose. stay_after_last, stay_after_end: from the beginning and the end of the last.
            With neither the first dose alone counts, and sets what is due.
        together: minutes after the first in which, where it alone counts, further doses are one with it (the devices of
            a spray). One that is given later counts as a first does: the stay, too, is from it.

    """

    route: str
    at: dict[str, tuple[int, ...]]
    home: bool = False
    stay: int
    stay_after_last: int | None = None
    stay_after_end: int | None = None
    together: int | None = None
    drug: Drug | None = None
    then: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def of_each_dose(self) -> bool:
        """Whether every dose counts, and not the first alone."""
        return self.stay_after_last is not None or self.stay_after_end is not None

    def is_apart(self, first: datetime, dose: datetime) -> bool:
        """Tell whether a dose comes too long after the first to be one with it."""
        return self.together is not None and dose - first > timedelta(minutes=self.together)


class Plausible(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a vital sign can be, both ends included."""

    codes: tuple[str, ...]
    units: tuple[str, ...]
    low: Decimal
    high: Decimal


class Early(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of a period by which a sample of a device's feed may be early for its place."""

    share: Decimal


class MonitoringPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `monitoring`."""

    grace: Minutes
    before: Minutes
    after: Minutes
    early: Early
    clock: Clock
    silent: Silent
    due: dict[str, Wanted]
    longest: Hours
    cadences: dict[str, Cadence]
    plausible: dict[str, Plausible]


def cadence_of(drug: Drug, route: str | None, policy: MonitoringPolicy, *, home: bool = False) -> Cadence:
    """Return how a drug by a route is watched; of a route that is not known, as the one that is watched closest.

    At home, by a route that is not meant for it, as in the clinic, and by the chaperone, too: nobody else is there.
    """
    fitting = [one for one in policy.cadences.values() if one.route == route and one.drug in (None, drug)]
    here = next((one for one in fitting if not one.home), None) or _closest(policy, home=False)
    if not home:
        return here
    there = next((one for one in fitting if one.home), None)
    if there is not None:
        return there
    like = _closest(policy, home=True)
    return msgspec.structs.replace(here, home=True, at={**like.at, **here.at}, then={**like.then, **here.then})


def _closest(policy: MonitoringPolicy, *, home: bool) -> Cadence:
    rows = (one for one in policy.cadences.values() if one.home == home)
    return max(rows, key=lambda one: (one.stay, sum(len(minutes) for minutes in one.at.values())))


@dataclass(frozen=True, slots=True)
class Due:
    """What is due: its code, minutes from the first dose, and when."""

    what: str
    minute: int
    when: datetime


def planned(doses: Iterable[tuple[datetime, Cadence]], policy: MonitoringPolicy) -> list[Due]:
    """Return what is due after the doses of a visit, by its time; of two so near that one reading is both, the first.

    `Due.minute` counts from the first dose.
    """
    ordered = sorted(doses, key=lambda one: one[0])
    apart = timedelta(minutes=policy.before.minutes)
    times = sorted(
        (start + timedelta(minutes=minute), what)
        for start, cadence in _counted(ordered)
        for what, minutes in cadence.at.items()
        for minute in minutes
    )
    found: list[Due] = []
    last: dict[str, datetime] = {}
    for when, what in times:
        if what not in last or when - last[what] >= apart:
            last[what] = when
            found.append(Due(what, minutes_from(ordered[0][0], when), when))
    return found


def _counted(ordered: Sequence[tuple[datetime, Cadence]]) -> Iterator[tuple[datetime, Cadence]]:
    """Yield the doses after which something is due, of all in their order."""
    first: datetime | None = None
    for start, cadence in ordered:
        if first is None or cadence.of_each_dose or cadence.is_apart(first, start):
            yield start, cadence
            first = start if first is None or not cadence.of_each_dose else first


def next_due(due: datetime, every: int, now: datetime, policy: MonitoringPolicy) -> datetime:
    """Return the first of the times every so many minutes after `due` that is not missed yet."""
    step, grace = timedelta(minutes=every), timedelta(minutes=policy.grace.minutes)
    return due + step * max(-((due + grace - now) // step), 1)


def is_missed(due: datetime, now: datetime, policy: MonitoringPolicy) -> bool:
    """Tell whether what was due at `due` is missed."""
    return now > due + timedelta(minutes=policy.grace.minutes)


def covers(
    readings: Iterable[Reading],
    due: datetime,
    policy: MonitoringPolicy,
    what: str,
    *,
    after: datetime | None = None,
    until: datetime | None = None,
) -> list[str] | None:
    """Return the Observations that make up what is due at `due`; None: something of it is lacking.

    `after`: only what was taken after it counts. `until`: of what was missed, until when it may be taken late.
    """
    low = due - timedelta(minutes=policy.before.minutes)
    high = max(due + timedelta(minutes=policy.after.minutes), until or due)
    near = [
        one
        for one in readings
        if one.timed and one.when is not None and low <= one.when <= high and (after is None or one.when > after)
    ]
    numbers = {code for limit in policy.plausible.values() for code in limit.codes}
    found: list[str] = []
    for codes in policy.due[what].needs:
        # Where a number is due, words such as "not measured" are none.
        there = [one for one in with_code(near, codes) if one.quantity is not None or not numbers.intersection(codes)]
        if not there:
            return None
        found.append(there[-1].reference)
    return list(dict.fromkeys(found))


def is_needed(observation: Resource, policy: MonitoringPolicy) -> bool:
    """Tell whether an Observation has something that is due at a bedside."""
    wanted = [code for one in policy.due.values() for codes in one.needs for code in codes]
    return bool(with_code(readings_of(observation), wanted))


def serves(observation: Resource, policy: MonitoringPolicy) -> list[str]:
    """Return the kinds of what is due that an Observation has something of."""
    readings = readings_of(observation)
    return [
        what for what, one in policy.due.items() if with_code(readings, [code for any_ in one.needs for code in any_])
    ]


def is_watched(observation: Resource, policy: MonitoringPolicy) -> bool:
    """Tell whether an Observation measured or rated something that is watched after a dose."""
    codes = [code for limit in policy.plausible.values() for code in limit.codes]
    return is_needed(observation, policy) or bool(with_code(readings_of(observation), codes))


def minutes_from(first: datetime, when: datetime) -> int:
    """Return the whole minutes from the first dose to a reading; below 0 before it."""
    return (when - first) // timedelta(minutes=1)


def implausible(observation: Resource, policy: MonitoringPolicy) -> list[str]:
    """Return what an Observation says that can hardly be, in words."""
    readings = [one for one in readings_of(observation) if not one.sampled]
    found = []
    values: dict[str, Decimal] = {}
    for name, limit in policy.plausible.items():
        for reading in with_code(readings, limit.codes):
            value = reading.value_in(limit.units)
            if value is None:
                continue
            values[name] = value.number
            if not limit.low <= value.number <= limit.high:
                found.append(f"{name} {value} {limit.units[0]} (expected {limit.low:f} to {limit.high:f})")
    if "systolic" in values and "diastolic" in values and values["systolic"] <= values["diastolic"]:
        found.append(f"systolic {values['systolic']:f} is not above diastolic {values['diastolic']:f}")
    return found


def stays_until(
    first: datetime, ends: Sequence[datetime | None], cadence: Cadence, last: datetime | None = None
) -> datetime | None:
    """Return when the least stay is over: from the first dose, the begin of the last and its end; None: one goes on."""
    until = first + timedelta(minutes=cadence.stay)
    if last is not None and not cadence.of_each_dose and cadence.is_apart(first, last):
        until = last + timedelta(minutes=cadence.stay)
    if cadence.stay_after_last is not None and last is not None:
        until = max(until, last + timedelta(minutes=cadence.stay_after_last))
    if cadence.stay_after_end is None:
        return until
    known = [end for end in ends if end is not None]
    if len(known) != len(ends):
        return None
    return max([until, *(end + timedelta(minutes=cadence.stay_after_end) for end in known)])
