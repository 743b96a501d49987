"""Sessions' guards: what belongs to a visit, a visit's states, the gate before a dose, and alarms with the reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.sessions.dose import guard_dose
from services.sessions.events import guard_event
from services.sessions.leaving import guard_leaving, judge_home
from services.sessions.rules.alarms import alarm_texts, is_late, is_not_understood
from services.sessions.rules.monitoring import implausible
from services.sessions.rules.readings import readings_of
from services.sessions.rules.visits import OVER, may_become
from services.sessions.setting import Setting
from services.sessions.watching import close_due, end_watch
from shared.fhir.codes import CHARTED_LATE, ID_TASK, READING_IMPLAUSIBLE, READING_NOT_UNDERSTOOD, REVIEW, VITAL_ALARM
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, patient_of
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import detected_issue, flag, identifier, task
from shared.runtime.belonging import belongs_here
from shared.runtime.ownership import BY_ENCOUNTER
from shared.runtime.raising import OPEN_TASK, find, is_own_work, keep, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change, Guard


def guards(setting: Setting) -> Mapping[str, Sequence[Guard]]:
    """Return sessions' guards by type, under a policy."""

    async def dose(change: Change, record: Record) -> None:
        await guard_dose(change, record, setting)
        if change.after is not None:
            await judge_home(record, change.after, setting)

    async def reading(change: Change, record: Record) -> None:
        await _alarm(change, record, setting)
        if change.after is not None and not is_own_work():
            await _ask_about(change, record, setting)
            await close_due(record, change.after, setting)

    async def event(change: Change, record: Record) -> None:
        await guard_event(change, record, setting)

    async def visit(change: Change, record: Record) -> None:
        await _visit(change, record)
        await guard_leaving(change, record, setting)
        before, after = change.before or {}, change.after or {}
        if after.get("status") in OVER and before.get("status") not in OVER:
            await end_watch(record, change.id, setting, f"The visit is {after['status']}.")

    return {
        **dict.fromkeys((*BY_ENCOUNTER, "QuestionnaireResponse"), (belongs_here,)),
        "MedicationAdministration": (belongs_here, dose),
        "Observation": (belongs_here, reading),
        "AdverseEvent": (belongs_here, event),
        "Encounter": (belongs_here, visit),
        "Task": (setting.escalation.guard,),
    }


async def _visit(change: Change, record: Record) -> None:
    before, after = change.before, change.after
    if after is None:
        return
    if before is not None:
        revived = before["status"] == "cancelled" and after["status"] == "planned" and is_own_work()
        if not may_become(before["status"], after["status"]) and not revived:
            raise Unprocessable(
                f"A visit that is {before['status']} cannot become {after['status']}.",
                expression=["Encounter.status"],
                rule="N-STATE",
                source="https://hl7.org/fhir/R4/valueset-encounter-status.html",
            )
        return
    for one in after.get("appointment", []):
        appointment = id_in(one, "Appointment")
        held = (
            []
            if appointment is None
            else await record.search("Encounter", {"appointment": f"Appointment/{appointment}"})
        )
        standing = [other for other in held if other["status"] != "entered-in-error"]
        if standing:
            raise Unprocessable(
                f"Encounter/{standing[0]['id']} is the visit of Appointment/{appointment} already. Update that one.",
                code="duplicate",
                expression=["Encounter.appointment"],
                rule="N-ONCE",
                source="KAP Exchange",
            )


async def _alarm(change: Change, record: Record, setting: Setting) -> None:
    after = change.after
    texts = {} if after is None else alarm_texts(after, setting.alarms)
    unclear = after is not None and is_not_understood(after, setting.alarms)
    if after is None or not (texts or unclear):
        return
    patient = await _patient(after, record)
    if patient is None:
        raise Unprocessable(
            "A vital sign needs the patient it is about (Observation.subject), so that its alarms reach somebody.",
            code="required",
            expression=["Observation.subject"],
        )
    now = setting.clock()
    late = is_late(after, now, setting.alarms)
    visit = id_in(after.get("encounter"), "Encounter")
    told = {} if change.before is None else alarm_texts(change.before, setting.alarms)
    for rule, text in texts.items():
        raised = Raised(change.id, rule, text, patient, visit, now, any(one.sampled for one in readings_of(after)))
        await _raise(record, raised, setting, late=late, again=told.get(rule) != text)
    if unclear:
        text = "A vital sign was recorded in a form or unit that cannot be held against its limits. See to the patient."
        name = ("reading", change.id)
        about = f"Observation/{change.id}"
        await raise_once(
            record,
            detected_issue(
                name,
                patient=patient,
                code=READING_NOT_UNDERSTOOD,
                severity="moderate",
                detail=text,
                now=now,
                implicated=[about],
                policy=setting.version,
            ),
        )
        await raise_once(
            record,
            task(name, patient=patient, code=REVIEW, description=text, now=now, priority="urgent", focus=about),
        )


async def _ask_about(change: Change, record: Record, setting: Setting) -> None:
    """Ask a person about a value that can hardly be: it stays, and is looked at."""
    after = change.after or {}
    told = [] if change.before is None else implausible(change.before, setting.monitoring)
    found = implausible(after, setting.monitoring)
    patient = await _patient(after, record)
    if patient is None or not found or found == told:
        return
    now = setting.clock()
    name, about = ("plausible", change.id), f"Observation/{change.id}"
    text = f"Is this a slip? {'; '.join(found)}. Measure again; correct it, or say that it stands."
    issue = detected_issue(
        name,
        patient=patient,
        code=READING_IMPLAUSIBLE,
        severity="moderate",
        detail=text,
        now=now,
        implicated=[about],
        policy=setting.version,
    )
    await keep(record, issue)
    await keep(
        record,
        task(
            name,
            patient=patient,
            code=REVIEW,
            description=text,
            now=now,
            priority="urgent",
            focus=about,
            encounter=id_in(after.get("encounter"), "Encounter"),
        ),
    )


async def _patient(reading: Resource, record: Record) -> str | None:
    """Return the patient of a reading: the one it is about, else its visit's."""
    visit = id_in(reading.get("encounter"), "Encounter")
    found = patient_of(reading)
    held = None if found is not None or visit is None else await record.get("Encounter", visit)
    return found if held is None else patient_of(held)


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm: its Observation, rule, text, patient, visit, when it is raised, and whether a device's feed gave it."""

    observation: str
    rule: str
    text: str
    patient: str
    visit: str | None
    now: datetime
    of_a_feed: bool = False


async def _raise(record: Record, alarm: Raised, setting: Setting, *, late: bool, again: bool) -> None:
    """Raise an alarm; `again`: the reading says something else than before, so what was closed opens with it.

    A reading that is charted late calls nobody to a bedside: it is marked so, and reviewed.
    """
    patient, now, visit = alarm.patient, alarm.now, alarm.visit
    name = ("alarm", alarm.observation, alarm.rule)
    if alarm.of_a_feed:  # one alarm as long as it lasts, not one a minute
        name = ("feed", visit or patient, alarm.rule)
        held = await find(record, "Task", identifier(ID_TASK, *name))
        if held is not None and held["status"] in OPEN_TASK:
            return
        again = True
    put = keep if again else raise_once
    about = f"Observation/{alarm.observation}"
    text = f"Charted late, after the fact. {alarm.text}" if late else alarm.text
    issue = detected_issue(
        name,
        patient=patient,
        code=CHARTED_LATE if late else VITAL_ALARM,
        rules=[alarm.rule],
        severity="moderate" if late else "high",
        detail=text,
        now=now,
        implicated=[about],
        policy=setting.version,
    )
    await put(record, issue)
    more: dict[str, Any] = {"patient": patient, "description": text, "now": now, "focus": about, "encounter": visit}
    if late:
        await put(record, task(name, code=REVIEW, priority="urgent", **more))
        return
    await put(record, flag(name, patient=patient, code=VITAL_ALARM, text=text, now=now, encounter=visit))
    call = task(name, code=VITAL_ALARM, priority="stat", **more)
    await setting.escalation.raise_task(record, call, now, reopen=again)
