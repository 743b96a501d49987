"""Leaving after a dose: when a patient may go home, and what is said when he may not. Pure functions.

Who leaves is always recorded: going home is a decision and has conditions (`policies/discharge.yaml`), leaving against
advice is a fact and has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec

from services.sessions.rules.alarms import AlarmPolicy
from services.sessions.rules.answers import Asked
from services.sessions.rules.gate import Minutes
from services.sessions.rules.readings import Reading, Value, with_code
from shared.fhir.cited import Cited
from shared.fhir.codes import DIASTOLIC, SYSTOLIC
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.outcome import Issue

DISPOSITION: Final = "http://terminology.hl7.org/CodeSystem/discharge-disposition"
HOME: Final = "home"
AGAINST_ADVICE: Final = "aadvice"
DIED: Final = "exp"


class Aldrete(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The modified Aldrete score: its items (linkId ``aldrete-<item>``), the highest of each, and the least total."""

    items: tuple[str, ...]
    highest: int
    minimum: int


class Low(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pressure below which nobody leaves, in mmHg, where it is not near the baseline."""

    systolic: Decimal
    diastolic: Decimal


class GraveRisk(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Codes of Flags for suicidality while which nobody goes home, whatever the checklist says."""

    grave: tuple[str, ...]


class SafePressure(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pressure to leave with: near the baseline by a share, or below both limits and not rising.

    It rises where it is more than `rise` mmHg above the reading before it, after the dose; `low` is not safe either.
    """

    share: Decimal
    systolic: Decimal
    diastolic: Decimal
    low: Low
    rise: Decimal


class Wanted(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"must_be": "is"}):
    """What an answer of kap-discharge must be."""

    rule: str
    title: str
    link: str
    must_be: bool | None = None
    named: bool = False


class Integration(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many hours after leaving, at least and at most, the integration session is to be."""

    earliest: int
    latest: int


class Elsewhere(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The dispositions by which the patient goes into other hands, and not home."""

    codes: tuple[str, ...]


class DischargePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `discharge`."""

    stay: Cited
    age: Minutes
    aldrete: Aldrete
    pressure: SafePressure
    risk: GraveRisk
    integration: Integration
    elsewhere: Elsewhere
    answers: dict[str, Wanted]


@dataclass(frozen=True, slots=True)
class Leaving:
    """What is known where a patient leaves.

    Attributes:
        when: he leaves. now: the present.
        until: end of the least stay, None: a dose goes on.
        asked: the newest answers to kap-discharge.
        readings: of the visit.
        first: when the first dose began: before it is the baseline.
        alarms: references of the alarms that nobody has ended, and no reading.
        baseline: the modified Aldrete score from before the first dose, None: it was not taken.
        flags: for suicidality that are up: reference, since when, and codes.

    """

    when: datetime
    now: datetime
    until: datetime | None
    asked: Asked | None
    readings: Sequence[Reading]
    first: datetime
    alarms: Sequence[str] = ()
    baseline: int | None = None
    flags: Sequence[tuple[str, datetime, frozenset[str]]] = ()


def disposition_of(visit: Resource | None) -> str | None:
    """Return the code of an Encounter's discharge disposition; of several home counts, then leaving against advice."""
    concept = (visit or {}).get("hospitalization", {}).get("dischargeDisposition", {})
    codes = [one.get("code") for one in concept.get("coding", []) if one.get("system") == DISPOSITION]
    return next((one for one in (HOME, AGAINST_ADVICE) if one in codes), codes[0] if codes else None)


def goes_home(disposition: str | None, policy: DischargePolicy) -> bool:
    """Tell whether a disposition is judged as going home: every one that names no other hands, but against advice."""
    return disposition is not None and disposition not in (AGAINST_ADVICE, *policy.elsewhere.codes)


def in_other_hands(disposition: str | None, policy: DischargePolicy) -> bool:
    """Tell whether a disposition says that others watch the patient now: handed over, and alive."""
    return disposition in policy.elsewhere.codes and disposition != DIED


def integration_booked(left: datetime, starts: Iterable[datetime], policy: Integration) -> bool:
    """Tell whether one of the sessions booked begins in the time after leaving in which integration is to be."""
    first, last = left + timedelta(hours=policy.earliest), left + timedelta(hours=policy.latest)
    return any(first <= one <= last for one in starts)


def against_going_home(leaving: Leaving, policy: DischargePolicy, alarms: AlarmPolicy) -> list[Issue]:
    """Return what speaks against going home; nothing when the patient may."""
    return [
        *(_not_home(rule, what, policy.stay.source) for rule, what in too_early(leaving).items()),
        *_alarms(leaving, alarms),
        *_aldrete(leaving, policy),
        *_pressure(leaving, policy),
        *_answers(leaving, policy),
        *_risk(leaving, policy),
    ]


def against_vital_signs(leaving: Leaving, policy: DischargePolicy, alarms: AlarmPolicy) -> list[Issue]:
    """Return what of the readings speaks against going home: the pressure, and what is beyond the limit of an alarm."""
    return [*_alarms(leaving, alarms), *_pressure(leaving, policy)]


def _not_home(rule: str, what: str, source: str) -> Issue:
    return Issue(
        f"Not home yet: {what} Who leaves all the same is recorded with disposition aadvice ($discharge).",
        code="business-rule",
        expression=("Encounter.hospitalization.dischargeDisposition",),
        rule=rule,
        source=source,
    )


def too_early(leaving: Leaving) -> dict[str, str]:
    """Return what the least stay says against a time of leaving, by rule."""
    found = {}
    if leaving.when > leaving.now + timedelta(minutes=1):
        found["L-TIME"] = f"{zulu(leaving.when)} is still to come."
    if leaving.until is None:
        found["L-STAY"] = "a dose of this session has no end yet."
    elif leaving.when < leaving.until:
        found["L-STAY"] = f"the least stay is over at {zulu(leaving.until)}."
    return found


def _answers_at(leaving: Leaving, policy: DischargePolicy) -> dict[str, Any]:
    asked = leaving.asked
    if asked is None or not leaving.when - timedelta(minutes=policy.age.minutes) <= asked.when <= leaving.when:
        return {}
    return dict(asked.answers)


def aldrete_of(answers: dict[str, Any], policy: Aldrete) -> int | None:
    """Return the modified Aldrete total; None: an item is missing or out of its range."""
    values = [answers.get(f"aldrete-{item}") for item in policy.items]
    if any(isinstance(one, bool) or not isinstance(one, int) or not 0 <= one <= policy.highest for one in values):
        return None
    return sum(int(one) for one in values if one is not None)


def _aldrete(leaving: Leaving, policy: DischargePolicy) -> Iterator[Issue]:
    total, baseline = aldrete_of(_answers_at(leaving, policy), policy.aldrete), leaving.baseline
    if total is None:
        lacking = f"the modified Aldrete score of the last {policy.age.minutes} minutes is not known (kap-discharge)."
        yield _not_home("L-ALDRETE", lacking, policy.aldrete.source)
    elif total < policy.aldrete.minimum and (baseline is None or total < baseline):
        low = f"the modified Aldrete score is {total}; at least {policy.aldrete.minimum}, or the baseline, is needed."
        yield _not_home("L-ALDRETE", low, policy.aldrete.source)


def _alarms(leaving: Leaving, alarms: AlarmPolicy) -> Iterator[Issue]:
    """Yield the alarms that stand, and the newest readings that are, or may be, beyond the limit of an alarm."""
    source = alarms.late.source
    if leaving.alarms:
        yield _not_home("L-ALARM", f"an alarm is open: {', '.join(leaving.alarms)}. See to it and end it.", source)
    for limit in alarms.limits.values():
        taken = [one for one in with_code(leaving.readings, limit.codes) if one.when is not None]
        newest = max((one.when for one in taken if one.when is not None and one.when <= leaving.when), default=None)
        for one in taken:
            if one.when != newest:
                continue
            value = one.value_in(limit.units)
            if value is None or limit.may_be_beyond(value):
                said = "cannot be read" if value is None else f"is {value} {limit.units[0]}"
                what = f"the newest reading for '{limit.title}' {said} ({one.reference}): measure again."
                yield _not_home("L-ALARM", what, limit.source)
                break


def _pressure(leaving: Leaving, policy: DischargePolicy) -> Iterator[Issue]:
    safe = policy.pressure
    limits = {SYSTOLIC.code: (safe.low.systolic, safe.systolic), DIASTOLIC.code: (safe.low.diastolic, safe.diastolic)}
    earliest = leaving.when - timedelta(minutes=policy.age.minutes)
    for code, (low, limit) in limits.items():
        taken = [
            (one.trusted, one.when, one.value_in(("mm[Hg]",)))
            for one in with_code(leaving.readings, [code])
            if one.timed and not one.sampled and one.when is not None
        ]
        charted = sorted(((when, value) for trusted, when, value in taken if trusted), key=lambda one: one[0])
        since = [(when, value) for when, value in charted if leaving.first <= when <= leaving.when]
        if not since or since[-1][0] < earliest:
            yield _not_home(
                "L-BP",
                f"no blood pressure of the last {policy.age.minutes} minutes is recorded.",
                policy.pressure.source,
            )
            return
        before = _exact_of(value for when, value in charted if when <= leaving.first)
        earlier = _exact_of(value for when, value in since[:-1] if when > leaving.first)
        now = _exact(since[-1][1])
        if now is None:
            yield _not_home("L-BP", f"the newest pressure is not exact ({code}).", policy.pressure.source)
            continue
        near = bool(before) and abs(now - before[-1]) <= before[-1] * policy.pressure.share
        rises = bool(earlier) and now > earlier[-1] + policy.pressure.rise
        if not near and (now >= limit or now < low or rises):
            said = f", and was {earlier[-1]:f} before" if rises else ""
            yield _not_home("L-BP", f"the pressure is {now:f} mmHg ({code}){said}.", policy.pressure.source)
        newest = since[-1][0]
        unsure = [_exact(value) for trusted, when, value in taken if not trusted and newest < when <= leaving.when]
        if any(value is None or value >= limit or value < low for value in unsure):
            what = f"one since then that is not final yet ({code}) is beyond a limit, or cannot be read: measure again."
            yield _not_home("L-BP", what, policy.pressure.source)


def _exact_of(values: Iterable[Value | None]) -> list[Decimal]:
    return [number for value in values if (number := _exact(value)) is not None]


def _exact(value: Value | None) -> Decimal | None:
    return None if value is None or value.comparator is not None else value.number


def _answers(leaving: Leaving, policy: DischargePolicy) -> Iterator[Issue]:
    answers = _answers_at(leaving, policy)
    for one in policy.answers.values():
        answer = answers.get(one.link)
        if one.named:
            holds = isinstance(answer, str) and bool(answer.strip())
        else:
            holds = isinstance(answer, bool) and answer == one.must_be
        if not holds:
            said = "not answered" if answer is None else f"the answer is {answer}"
            yield _not_home(one.rule, f"{one.title}: {said} (kap-discharge, item {one.link}).", one.source)


def _risk(leaving: Leaving, policy: DischargePolicy) -> Iterator[Issue]:
    """Yield the Flags for suicidality that speak against going home: the grave, and what the checklist did not know."""
    asked = leaving.asked
    for name, since, codes in leaving.flags:
        if codes.isdisjoint(policy.risk.grave) and asked is not None and since <= asked.when:
            continue
        what = f"{name} for suicidality is up. Evaluate it, and record what was found (C-SSRS, safety plan)."
        yield _not_home("L-RISK", what, policy.risk.source)


def baseline_of(asked: Asked | None, policy: Aldrete) -> int | None:
    """Return the modified Aldrete score that was taken before the dose (kap-pre-dose); None: none, or out of range."""
    said = None if asked is None else dict(asked.answers).get("aldrete-baseline")
    if isinstance(said, bool) or not isinstance(said, int):
        return None
    return said if 0 <= said <= policy.highest * len(policy.items) else None
