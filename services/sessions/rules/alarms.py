"""Alarms: which readings call a person at once, and which are asked about. Limits: `policies/alarms.yaml`."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from services.sessions.rules.readings import Limit, Value, readings_of, taken_at, with_code
from shared.fhir.cited import Cited
from shared.fhir.json import Resource


class Alarm(Limit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit that calls a person at once."""


class Late(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long after it was taken a reading is news; later it is charted late, and reviewed."""

    minutes: int


class AlarmPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `alarms`."""

    late: Late
    limits: dict[str, Alarm]


def alarms_of(observation: Resource, policy: AlarmPolicy) -> list[tuple[Alarm, Value]]:
    """Return the alarm limits that an Observation is certainly beyond, and its value.

    Whatever its status says: only what was entered in error or cancelled alarms nobody.
    """
    return [
        (alarm, value)
        for alarm in policy.limits.values()
        for reading in with_code(readings_of(observation), alarm.codes)
        if (value := reading.value_in(alarm.units)) is not None and alarm.is_beyond(value)
    ]


def alarm_texts(observation: Resource, policy: AlarmPolicy) -> dict[str, str]:
    """Return what an Observation alarms about, by rule: every value beyond a limit, and what to do."""
    texts: dict[str, str] = {}
    for alarm, value in alarms_of(observation, policy):
        text = f"{alarm.title}: {value} {alarm.units[0]}. {alarm.advice} Source: {alarm.source}."
        texts[alarm.rule] = f"{texts[alarm.rule]} {text}" if alarm.rule in texts else text
    return texts


def is_not_understood(observation: Resource, policy: AlarmPolicy) -> bool:
    """Tell whether an Observation gives a vital sign with an alarm limit in a form that cannot be held against it."""
    for alarm in policy.limits.values():
        for reading in with_code(readings_of(observation), alarm.codes):
            value = reading.value_in(alarm.units)
            if value is None or (alarm.may_be_beyond(value) and not alarm.is_beyond(value)):
                return True
    return False


def is_late(observation: Resource, now: datetime, policy: AlarmPolicy) -> bool:
    """Tell whether an Observation is charted so long after it was taken that its alarm is no longer news."""
    when, timed = taken_at(observation)
    return timed and when is not None and when < now - timedelta(minutes=policy.late.minutes)
