"""Alarms: which readings call a person at once, and which are asked about. Limits: `policies/alarms.yaml`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import msgspec

from services.sessions.rules.readings import WITHDRAWN, Limit, Value, readings_of, taken_at, with_code
from shared.fhir.cited import Cited
from shared.fhir.codes import KAP, OBSERVATION_CATEGORY, SNOMED, SYMPTOM, Code
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, has_code

VITAL_SIGNS: Final = Code(OBSERVATION_CATEGORY, "vital-signs")


class Alarm(Limit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit that calls a person at once."""


class Late(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long after it was taken a reading is news; later it is charted late, and reviewed."""

    minutes: int


class Again(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """After how many minutes what was beyond a limit is measured again; a pressure after those of `Sustained`."""

    minutes: int


class Worse(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By how much a value must be further beyond a limit than the one that called, to call anew: by name of limit."""

    by: dict[str, Decimal]


class Sustained(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an alarm is sustained: by a second reading in a row beyond the limit.

    Attributes:
        rule, title, advice: of the sustained alarm. of: the rule that is repeated.
        apart: readings fewer minutes apart are one. within: minutes in which the second counts.
        repeat: minutes after which the first is measured again.

    """

    rule: str
    of: str
    title: str
    advice: str
    apart: int
    within: int
    repeat: int


class Symptom(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A symptom that calls a person at once.

    Attributes:
        codes: of KAP's CodeSystem or SNOMED CT. title, advice: what it is, and what to do.
        denied: codes of questions whose answer `false` tells of it.
        beside: only with a reading of this rule beyond its limit. within: minutes between them, at most.

    """

    codes: tuple[str, ...]
    title: str
    advice: str
    beside: str | None = None
    within: int = 0
    denied: tuple[str, ...] = ()


class Unwatched(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """LOINC codes of vital signs that no rule looks at."""

    codes: tuple[str, ...]


class Unalarming(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Codes, of KAP's CodeSystem or SNOMED CT, of symptoms that call nobody."""

    codes: tuple[str, ...]


class AlarmPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `alarms`."""

    late: Late
    unalarming: Unalarming
    worse: Worse
    again: Again
    unwatched: Unwatched
    sustained: Sustained
    limits: dict[str, Alarm]
    symptoms: dict[str, Symptom]


def alarms_of(observation: Resource, policy: AlarmPolicy) -> list[tuple[Alarm, Value]]:
    """Return the alarm limits that an Observation is certainly beyond, and its value.

    Whatever its status says: only what was entered in error or cancelled alarms nobody.
    """
    readings = readings_of(observation)
    return [
        (alarm, value)
        for alarm in policy.limits.values()
        for reading in with_code(readings, alarm.codes)
        if (value := reading.value_for(alarm)) is not None and alarm.is_beyond(value)
    ]


def alarm_texts(observation: Resource, policy: AlarmPolicy) -> dict[str, str]:
    """Return what an Observation alarms about, by rule: every value beyond a limit, and what to do."""
    texts: dict[str, str] = {}
    for alarm, value in alarms_of(observation, policy):
        text = f"{alarm.title}: {value} {alarm.units[0]}. {alarm.advice} Source: {alarm.source}."
        texts[alarm.rule] = f"{texts[alarm.rule]} {text}" if alarm.rule in texts else text
    return texts


def is_worse(before: Resource, after: Resource, rule: str, policy: AlarmPolicy) -> bool:
    """Tell whether a change of an Observation puts a value further beyond a limit of a rule than it was."""
    was, is_ = ([one for one in alarms_of(each, policy) if one[0].rule == rule] for each in (before, after))
    for alarm, value in is_:
        same = [other.number for limit, other in was if limit == alarm]
        low = alarm.below is not None and value.number <= alarm.below
        if not same or (value.number < min(same) if low else value.number > max(same)):
            return True
    return False


def is_far_worse(called: Resource, observation: Resource, rule: str, policy: AlarmPolicy) -> bool:
    """Tell whether an Observation is so much further beyond a limit of a rule than the one that called."""
    was, is_ = ([one for one in alarms_of(each, policy) if one[0].rule == rule] for each in (called, observation))
    steps = {limit: policy.worse.by.get(name, Decimal(0)) for name, limit in policy.limits.items()}
    for alarm, value in is_:
        same = [other.number for limit, other in was if limit == alarm]
        low = alarm.below is not None and value.number <= alarm.below
        step = steps[alarm]
        if not same or (value.number <= min(same) - step if low else value.number >= max(same) + step):
            return True
    return False


def is_graver(sample: str, other: str, feed: Resource, policy: AlarmPolicy) -> bool:
    """Tell whether a sample of a device's `feed` (an Observation) is further beyond an alarm limit than another."""

    def alone(data: str) -> Resource:
        return {**feed, "id": "sample", "valueSampledData": {**feed["valueSampledData"], "data": data}}

    rules = {alarm.rule for alarm, _ in alarms_of(alone(sample), policy)}
    return any(is_worse(alone(other), alone(sample), rule, policy) for rule in rules)


def is_not_understood(observation: Resource, policy: AlarmPolicy) -> bool:
    """Tell whether an Observation gives a vital sign with an alarm limit in a form that cannot be held against it."""
    readings = readings_of(observation)
    for alarm in policy.limits.values():
        for reading in with_code(readings, alarm.codes):
            value = reading.value_for(alarm)
            if reading.passes(alarm):
                continue
            if value is None or (alarm.may_be_beyond(value) and not alarm.is_beyond(value)):
                return True
    return False


def is_unread(observation: Resource, policy: AlarmPolicy) -> bool:
    """Tell whether an Observation measured what is charted as a vital sign, none of it by a code that a rule reads."""
    if not has_code(observation.get("category"), VITAL_SIGNS):
        return False
    known = {*policy.unwatched.codes, *(code for one in policy.limits.values() for code in one.codes)}
    readings = readings_of(observation)
    return any(one.quantity is not None for one in readings) and not with_code(readings, known)


def is_late(observation: Resource, now: datetime, policy: AlarmPolicy) -> bool:
    """Tell whether an Observation is charted so long after it was taken that its alarm is no longer news."""
    when, timed = taken_at(observation)
    return timed and when is not None and when < now - timedelta(minutes=policy.late.minutes)


def is_sustained(observation: Resource, others: Iterable[Resource], policy: AlarmPolicy) -> bool:
    """Tell whether an Observation and the reading next to it are both beyond the limit that is to be repeated.

    Next to it is the nearest reading before or after it, of those that are understood: one within the limits between
    two beyond it ends the first.
    """
    said = policy.sustained
    points: list[tuple[datetime, bool]] = []
    here = _point(observation, policy)
    if here is None or not here[1]:
        return False
    for when, beyond in sorted(one for other in others if (one := _point(other, policy)) is not None):
        if points and when - points[-1][0] < timedelta(minutes=said.apart):
            points[-1] = points[-1][0], points[-1][1] or beyond
        else:
            points.append((when, beyond))
    apart, within = timedelta(minutes=said.apart), timedelta(minutes=said.within)
    before = [one for one in points if one[0] <= here[0] - apart]
    after = [one for one in points if one[0] >= here[0] + apart]
    near = [*before[-1:], *after[:1]]
    return any(beyond and abs(when - here[0]) <= within for when, beyond in near)


def _point(observation: Resource, policy: AlarmPolicy) -> tuple[datetime, bool] | None:
    """Return when a reading of what is to be repeated was taken, and whether it is beyond its limit; None: it is none.

    A value that is only perhaps within its limit ends nothing.
    """
    when, _ = taken_at(observation)
    limits = [one for one in policy.limits.values() if one.rule == policy.sustained.of]
    beyond, within, readings = False, False, readings_of(observation)
    for limit in limits:
        for reading in with_code(readings, limit.codes):
            value = reading.value_in(limit.units)
            beyond = beyond or (value is not None and limit.is_beyond(value))
            within = within or (value is not None and not limit.may_be_beyond(value))
    return None if when is None or not (beyond or within) else (when, beyond)


def rules_within(observation: Resource, policy: AlarmPolicy) -> frozenset[str]:
    """Return the rules of which an Observation measured all that they look at, and all of it is within the limits.

    Of limits that read the same thing (pulse oximetry by two codes) one reading is enough.
    """
    readings = [one for one in readings_of(observation) if one.trusted]

    def is_within(limit: Alarm) -> bool:
        values = [one.value_in(limit.units) for one in with_code(readings, limit.codes)]
        return bool(values) and not any(value is None or limit.may_be_beyond(value) for value in values)

    beyond = {limit.rule for limit in policy.limits.values() if not is_within(limit)}
    return frozenset(limit.rule for limit in policy.limits.values()) - beyond


def symptoms_in(resource: Resource | None, policy: AlarmPolicy) -> dict[str, Symptom]:
    """Return the symptoms of the policy that an Observation or an AdverseEvent tells of, by name.

    One that is coded as itself is there whatever its value says, unless it says `false`.
    """
    if resource is None or resource.get("status") in WITHDRAWN:
        return {}
    if resource.get("valueBoolean") is False:
        seen = set(codes_of(resource.get("code"), KAP))
        return {name: one for name, one in policy.symptoms.items() if seen.intersection(one.denied)}
    if resource["resourceType"] == "AdverseEvent":
        said = [resource["event"]] if resource.get("actuality") == "actual" and "event" in resource else []
    else:
        said = [resource[name] for name in ("code", "valueCodeableConcept") if name in resource]
    codes = {code for one in said for system in (KAP, SNOMED) for code in codes_of(one, system)}
    return {name: one for name, one in policy.symptoms.items() if codes.intersection(one.codes)}


def is_symptom_not_understood(observation: Resource, policy: AlarmPolicy) -> bool:
    """Tell whether an Observation says that there is a symptom, and not by a code of the policy which.

    One of a code that no rule knows is not understood either: chest pain is never silent for being coded elsewhere.
    """
    if not has_code(observation.get("code"), SYMPTOM) or observation.get("status") in WITHDRAWN:
        return False
    if observation.get("valueBoolean") is False or symptoms_in(observation, policy):
        return False
    said = observation.get("valueCodeableConcept")
    return not any(set(codes_of(said, system)).intersection(policy.unalarming.codes) for system in (KAP, SNOMED))
