"""Symptoms at work: one that calls a person does so with its record, in its transaction (`policies/alarms.yaml`)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from services.sessions.calling import Finding, call, have_reviewed, withdraw
from services.sessions.charted import charted_between
from services.sessions.rules.alarms import Symptom, alarms_of, is_symptom_not_understood, symptoms_in
from services.sessions.rules.readings import taken_at
from services.sessions.setting import Setting
from shared.fhir.codes import CHARTED_LATE, READING_NOT_UNDERSTOOD, SYMPTOM_ALARM
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, patient_of
from shared.fhir.outcome import Unprocessable
from shared.runtime.record import Record
from shared.runtime.service import Change

RULE: Final = "A-SYMPTOM"
SYMPTOM: Final = "symptom"
LATE_SYMPTOM: Final = "late-symptom"
"""What the names of what is raised about symptoms begin with: of one that calls, of one that was charted late."""


async def guard_symptom(change: Change, record: Record, setting: Setting) -> None:
    """Raise the alarm of a symptom that is told of now, by an Observation or an AdverseEvent.

    Raises:
        Unprocessable: it does not say whom it is about.

    """
    after = change.after
    if after is None:
        return
    late, was_late = _is_late(after, setting), change.before is not None and _is_late(change.before, setting)
    before = {} if was_late and not late else symptoms_in(change.before, setting.alarms)
    told = {name: one for name, one in symptoms_in(after, setting.alarms).items() if name not in before}
    unclear = change.type == "Observation" and is_symptom_not_understood(after, setting.alarms)
    if not told and not unclear:
        return
    patient = await _patient(after, record)
    if patient is None:
        raise Unprocessable(
            "A symptom needs the patient it is about (subject), so that its alarm reaches somebody.",
            code="required",
            expression=[f"{change.type}.subject"],
        )
    about, visit = f"{change.type}/{change.id}", id_in(after.get("encounter"), "Encounter")
    if unclear:
        text = "A symptom was recorded, and which it is cannot be read. See to the patient."
        finding = Finding(("symptom", change.id), patient, READING_NOT_UNDERSTOOD, text, (about,), (), visit)
        await have_reviewed(record, finding, setting)
    for name, one in told.items():
        beside = await _reading_beyond(record, after, one, visit, setting)
        if one.beside is None or beside is not None:
            evidence = (about,) if beside is None else (about, f"Observation/{beside['id']}")
            await _raise(record, _finding(after, name, one, patient, evidence), setting, late=late)
            if was_late and not late:  # it was reviewed, and calls now
                await withdraw(record, f"{LATE_SYMPTOM}:{change.id}:{name}", "Its time was corrected.", setting)


async def join_symptoms(record: Record, reading: Resource, patient: str, rules: set[str], setting: Setting) -> None:
    """Raise the alarm of a symptom that was told of before the reading that makes it one; `rules` alarm with it."""
    visit, when = id_in(reading.get("encounter"), "Encounter"), taken_at(reading)[0]
    for name, one in setting.alarms.symptoms.items():
        if one.beside not in rules or visit is None or when is None:
            continue
        near = timedelta(minutes=one.within)
        charted = await charted_between(record, visit, _codes(one), when - near, when + near, untimed=True)
        for told in [*charted, *await _events(record, visit, patient, when, near)]:
            if told["id"] != reading["id"] and name in symptoms_in(told, setting.alarms):
                about = (f"{told['resourceType']}/{told['id']}", f"Observation/{reading['id']}")
                await _raise(record, _finding(told, name, one, patient, about), setting, late=False)


async def _events(record: Record, visit: str, patient: str, when: datetime, near: timedelta) -> list[Resource]:
    """Return the AdverseEvents of a visit that happened near a time; of those that do not say when, told since then."""
    held = await record.search("AdverseEvent", {"subject": f"Patient/{patient}"})
    found = []
    for one in held:
        said = one.get("date", one.get("recordedDate"))
        when_told = interval(one["meta"]["lastUpdated"] if said is None else said)[0]
        near_it = when_told >= when - near if said is None else abs(when_told - when) <= near
        if id_in(one.get("encounter"), "Encounter") == visit and near_it:
            found.append(one)
    return found


async def _reading_beyond(
    record: Record, told: Resource, one: Symptom, visit: str | None, setting: Setting
) -> Resource | None:
    """Return a reading beyond its limit near a symptom that alarms only beside one; None: there is none."""
    if one.beside is None or visit is None:
        return None
    when, near = _when(told) or setting.clock(), timedelta(minutes=one.within)
    codes = [code for limit in setting.alarms.limits.values() if limit.rule == one.beside for code in limit.codes]
    for held in await charted_between(record, visit, codes, when - near, when + near, untimed=True):
        if any(alarm.rule == one.beside for alarm, _ in alarms_of(held, setting.alarms)):
            return held
    return None


def _finding(told: Resource, name: str, one: Symptom, patient: str, about: tuple[str, ...]) -> Finding:
    text, visit = f"{one.title}. {one.advice} Source: {one.source}.", id_in(told.get("encounter"), "Encounter")
    return Finding((SYMPTOM, str(told["id"]), name), patient, SYMPTOM_ALARM, text, about, (RULE,), visit)


async def _raise(record: Record, finding: Finding, setting: Setting, *, late: bool) -> None:
    if late:
        text, name = f"Charted late, after the fact. {finding.text}", (LATE_SYMPTOM, *finding.name[1:])
        await have_reviewed(record, replace(finding, name=name, code=CHARTED_LATE, text=text), setting, again=True)
    else:
        await call(record, finding, setting, again=True)


def _is_late(told: Resource, setting: Setting) -> bool:
    now = setting.clock()
    return (_when(told) or now) < now - timedelta(minutes=setting.alarms.late.minutes)


def _when(told: Resource) -> datetime | None:
    if told["resourceType"] == "AdverseEvent":
        said = told.get("date")
        return None if said is None else interval(said)[1]
    return taken_at(told)[0]


def _codes(one: Symptom) -> tuple[str, ...]:
    return ("symptom", *one.codes)


async def _patient(told: Resource, record: Record) -> str | None:
    visit = id_in(told.get("encounter"), "Encounter")
    found = patient_of(told)
    held = None if found is not None or visit is None else await record.get("Encounter", visit)
    return found if held is None else patient_of(held)
