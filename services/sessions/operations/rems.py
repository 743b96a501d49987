"""The REMS of esketamine: `Encounter/$rems-form` fills the monitoring form; a Task says until when it is to be sent."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from services.sessions.events import is_serious
from services.sessions.gathering import answers_of, enrolment_of
from services.sessions.rules.answers import answers_in
from services.sessions.rules.readings import readings_of
from services.sessions.rules.rems import Session, minutes_watched, missing, pressures
from services.sessions.setting import Setting
from services.sessions.what_was_given import Given, doses_of
from shared.fhir.codes import ID_REMS_FORM, PRE_DOSE_QUESTIONNAIRE, REMS_QUESTIONNAIRE, SUBMIT_REMS
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, milligrams_in, patient_of, reference
from shared.fhir.outcome import NotFound, Unprocessable
from shared.fhir.raised import identifier, task
from shared.runtime.raising import content_of, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

MINUTE: Final = timedelta(minutes=1)


def rems_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return the operation on the monitoring form."""

    async def fill(call: OperationCall, record: Record) -> Resource:
        return await _fill(call, record, setting)

    return (
        Operation(
            name="rems-form",
            type="Encounter",
            level="instance",
            handler=fill,
            documentation=(
                "Fills the monitoring form of the Spravato REMS (QuestionnaireResponse kap-rems-pmf) from what the "
                "session has recorded, and keeps what a person answered in it. Returns Parameters: `form` (Reference), "
                "`missing` (code, each), `task` (Reference) with the day until which it is to be sent. Run again, it "
                "brings the same form up to date."
            ),
        ),
    )


async def _fill(call: OperationCall, record: Record, setting: Setting) -> Resource:
    visit = await record.get("Encounter", str(call.id))
    if visit is None:
        raise NotFound(f"There is no Encounter/{call.id} here.")
    doses = [one for one in await doses_of(record, visit["id"], setting) if one.drug == "esketamine"]
    if not doses or doses[0].start is None:
        raise Unprocessable(
            "There is no dose of esketamine in this visit, so there is no form.",
            rule="G-REMS-FORM",
            source=setting.gate.rems.source,
        )
    if visit.get("class", {}).get("code") in setting.gate.rems.inpatient:
        raise Unprocessable(
            "Inpatients have no monitoring form; serious events are reported all the same.",
            rule="G-REMS-FORM",
            source=setting.gate.rems.source,
        )
    now, patient = setting.clock(), str(patient_of(visit))
    first = doses[0].start
    name = identifier(ID_REMS_FORM, visit["id"])
    held = await record.search("QuestionnaireResponse", {"identifier": f"{name['system']}|{name['value']}"})
    kept = answers_in(held[-1]) if held else {}
    answers = {**kept, **await _answers(record, visit, doses, first, setting)}
    lacking = missing(answers)
    form: dict[str, Any] = {
        "resourceType": "QuestionnaireResponse",
        "identifier": name,
        "questionnaire": REMS_QUESTIONNAIRE,
        "status": "in-progress" if lacking else "completed",
        "subject": reference("Patient", patient),
        "encounter": reference("Encounter", visit["id"]),
        "authored": zulu(now),
        "item": [{"linkId": link, "answer": [_value(answer)]} for link, answer in sorted(answers.items())],
    }
    with own_work():
        if held:
            await record.update(content_of({**form, "id": held[-1]["id"]}))
            form_id = held[-1]["id"]
        else:
            form_id = (await record.create(form)).stored.id
    due = first + timedelta(days=setting.rems.submit.days)
    made = task(
        ("rems", visit["id"]),
        patient=patient,
        code=SUBMIT_REMS,
        description=f"Send the REMS monitoring form of {zulu(first)[:10]}. {setting.rems.submit.advice}",
        now=now,
        priority="asap",
        focus=f"QuestionnaireResponse/{form_id}",
        encounter=visit["id"],
        due=due,
    )
    await raise_once(record, made)
    (sent,) = await record.search("Task", {"encounter": f"Encounter/{visit['id']}", "code": SUBMIT_REMS.token()})
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "form", "valueReference": reference("QuestionnaireResponse", form_id)},
            {"name": "task", "valueReference": reference("Task", sent["id"])},
            *({"name": "missing", "valueCode": link} for link in lacking),
        ],
    }


async def _answers(
    record: Record, visit: Resource, doses: list[Given], first: datetime, setting: Setting
) -> dict[str, Any]:
    """Return what the session itself answers of the form, by linkId; what it cannot is left out."""
    patient = await record.get("Patient", str(patient_of(visit))) or {}
    dose = doses[0].resource
    enrolment = await enrolment_of(record, dose, visit, first)
    end = visit.get("period", {}).get("end")
    held = await record.search("Observation", {"encounter": f"Encounter/{visit['id']}"})
    session = Session(
        first,
        interval(end)[0] if end is not None else None,
        [reading for one in held for reading in readings_of(one)],
    )
    asked = await answers_of(record, visit["id"], PRE_DOSE_QUESTIONNAIRE, None, first + MINUTE)
    earlier = await record.search("MedicationAdministration", {"patient": f"Patient/{patient_of(visit)}"})
    others = {id_in(one.get("context"), "Encounter") for one in earlier} - {visit["id"]}
    past = [one for other in others if other for one in await doses_of(record, other, setting)]
    events = await record.search("AdverseEvent", {"subject": f"Patient/{patient_of(visit)}"})
    serious = [one for one in events if id_in(one.get("encounter"), "Encounter") == visit["id"] and is_serious(one)]
    amounts = [milligrams_in(one.resource.get("dosage", {}).get("dose")) for one in doses]
    named = (patient.get("name") or [{}])[0]
    lots = [one for one in [await _lot(record, given.resource) for given in doses] if one]
    near = timedelta(minutes=setting.monitoring.after.minutes)
    found: dict[str, Any] = {
        "patient-name": " ".join([*named.get("given", []), named.get("family", "")]).strip() or None,
        "birth-date": patient.get("birthDate"),
        "sex": patient.get("gender"),
        "first-treatment": not any(one.drug == "esketamine" and (one.start or first) < first for one in past),
        "enrolled": enrolment.patient,
        "setting": enrolment.site or None,
        "professional": next((one["actor"].get("reference") for one in dose.get("performer", [])), None),
        "treatment-date": zulu(first)[:10],
        "dose-mg": None if None in amounts else sum((one for one in amounts if one is not None), Decimal(0)),
        "lot": ", ".join(dict.fromkeys(lots)) or None,
        "monitoring-minutes": minutes_watched(session, MINUTE),
        "benzodiazepine": None if asked is None else asked.answers.get("benzodiazepine"),
        "serious-event": True if serious else None,
        **pressures(session, near, timedelta(minutes=setting.rems.pressure_at.minutes)),
    }
    return {link: answer for link, answer in found.items() if answer is not None}


async def _lot(record: Record, dose: Resource) -> str | None:
    named = str(dose.get("medicationReference", {}).get("reference", ""))
    if named.startswith("#"):
        inside = [one for one in dose.get("contained", []) if one.get("id") == named.removeprefix("#")]
        product: Resource | None = inside[0] if inside else None
    else:
        product = await record.get("Medication", named.rpartition("/")[2]) if named else None
    lot = (product or {}).get("batch", {}).get("lotNumber")
    return None if lot is None else str(lot)


def _value(answer: Any) -> dict[str, Any]:
    if isinstance(answer, bool):
        return {"valueBoolean": answer}
    if isinstance(answer, int):
        return {"valueInteger": answer}
    return {"valueDecimal": answer} if isinstance(answer, Decimal) else {"valueString": str(answer)}
