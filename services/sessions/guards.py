"""Sessions' guards: what belongs to a visit, a visit's states, the gate before a dose, and alarms with the reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.sessions.dose import guard_dose
from services.sessions.rules import alarm_texts, is_not_understood, may_become
from services.sessions.setting import Setting
from shared.fhir.codes import READING_NOT_UNDERSTOOD, REVIEW, VITAL_ALARM
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, patient_of
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import detected_issue, flag, task
from shared.runtime.belonging import belongs_here
from shared.runtime.ownership import BY_ENCOUNTER
from shared.runtime.raising import is_own_work, keep, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change, Guard


def guards(setting: Setting) -> Mapping[str, Sequence[Guard]]:
    """Return sessions' guards by type, under a policy."""

    async def dose(change: Change, record: Record) -> None:
        await guard_dose(change, record, setting)

    async def reading(change: Change, record: Record) -> None:
        await _alarm(change, record, setting)

    return {
        **dict.fromkeys((*BY_ENCOUNTER, "QuestionnaireResponse"), (belongs_here,)),
        "MedicationAdministration": (belongs_here, dose),
        "Observation": (belongs_here, reading),
        "Encounter": (belongs_here, _visit),
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
    patient = None if after is None else await _patient(after, record)
    if after is None or patient is None:
        return
    told = {} if change.before is None else alarm_texts(change.before, setting.alarms.values())
    for rule, text in alarm_texts(after, setting.alarms.values()).items():
        await _raise(
            change, record, after, setting, rule=rule, text=text, patient=patient, again=told.get(rule) != text
        )
    if is_not_understood(after, setting.alarms.values()):
        text = "A vital sign was recorded in a form or unit that cannot be held against its limits. See to the patient."
        now = setting.clock()
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


async def _patient(reading: Resource, record: Record) -> str | None:
    """Return the patient of a reading: the one it is about, else its visit's."""
    visit = id_in(reading.get("encounter"), "Encounter")
    found = patient_of(reading)
    held = None if found is not None or visit is None else await record.get("Encounter", visit)
    return found if held is None else patient_of(held)


async def _raise(
    change: Change,
    record: Record,
    reading: Resource,
    setting: Setting,
    *,
    rule: str,
    text: str,
    patient: str,
    again: bool,
) -> None:
    """Raise an alarm; `again`: the reading says something else than before, so what was closed opens with it."""
    put = keep if again else raise_once
    now = setting.clock()
    name = ("alarm", change.id, rule)
    about = f"Observation/{change.id}"
    visit = id_in(reading.get("encounter"), "Encounter")
    issue = detected_issue(
        name,
        patient=patient,
        code=VITAL_ALARM,
        rules=[rule],
        severity="high",
        detail=text,
        now=now,
        implicated=[about],
        policy=setting.version,
    )
    await put(record, issue)
    await put(record, flag(name, patient=patient, code=VITAL_ALARM, text=text, now=now, encounter=visit))
    await put(
        record,
        task(
            name,
            patient=patient,
            code=VITAL_ALARM,
            description=text,
            now=now,
            priority="stat",
            focus=about,
            encounter=visit,
        ),
    )
