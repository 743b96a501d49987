"""The REMS of esketamine: `Encounter/$rems-form` fills the monitoring form; a Task says until when it is to be sent."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from services.sessions.calling import Finding, have_reviewed
from services.sessions.events import is_serious
from services.sessions.gathering import answers_of, enrolment_of, places_of
from services.sessions.lots import lot_of
from services.sessions.operations.parameters import given_in, moment_in
from services.sessions.rules.answers import answers_in
from services.sessions.rules.readings import readings_of
from services.sessions.rules.rems import Session, minutes_watched, missing, pressures
from services.sessions.rules.visits import OVER
from services.sessions.setting import Setting
from services.sessions.what_was_given import Given, doses_of
from shared.fhir.codes import (
    EXT_REMS,
    ID_REMS_FORM,
    PRE_DOSE_QUESTIONNAIRE,
    REMS_QUESTIONNAIRE,
    REPORT_EVENT,
    REPORT_LATE,
    SUBMIT_REMS,
)
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import has_code, id_in, milligrams_in, moment, patient_of, reference
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.fhir.raised import identifier, task
from shared.fhir.zones import day_at, end_of_day, zone_of
from shared.runtime.raising import OPEN_TASK, content_of, is_own_work, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change, Operation, OperationCall
from shared.runtime.timers import Round, Timer

MINUTE: Final = timedelta(minutes=1)
SECOND: Final = timedelta(seconds=1)
EVERY: Final = timedelta(minutes=1)


def rems_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return the operation on the monitoring form."""

    async def fill(call: OperationCall, record: Record) -> Resource:
        return await _fill(call, record, setting)

    async def submitted(call: OperationCall, record: Record) -> Resource:
        return await _submitted(call, record, setting)

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
                "brings the same form up to date. At the end of a session it is filled without being asked."
            ),
        ),
        Operation(
            name="rems-submitted",
            type="Encounter",
            level="instance",
            handler=submitted,
            documentation=(
                "Records that the monitoring form of the REMS was sent. Parameters: sent (dateTime; default now), "
                "channel (code: web or fax), by (Reference to the Practitioner or PractitionerRole), confirmation "
                "(string; what the programme answered). Completes the Task, in time or late, and names what the form "
                "lacks; one that was sent with something missing is reviewed. Returns Parameters: task, missing."
            ),
        ),
    )


async def fill_at_the_end(change: Change, record: Record, setting: Setting) -> None:
    """Fill the form, and set its Task, at the end of an outpatient session with esketamine."""
    after = change.after
    if after is None or after["status"] != "finished" or (change.before or {}).get("status") in (*OVER, None):
        return
    doses = await doses_of(record, change.id, setting)
    inpatient = after.get("class", {}).get("code") in setting.gate.rems.inpatient
    if not inpatient and any(one.drug == "esketamine" and one.start is not None for one in doses):
        await _fill_form({**after, "id": change.id}, record, setting)


async def _fill(call: OperationCall, record: Record, setting: Setting, *, sent: datetime | None = None) -> Resource:
    visit = await record.get("Encounter", str(call.id))
    if visit is None:
        raise NotFound(f"There is no Encounter/{call.id} here.")
    return await _fill_form(visit, record, setting, sent=sent)


async def _fill_form(visit: Resource, record: Record, setting: Setting, *, sent: datetime | None = None) -> Resource:
    """Fill the form of a visit, and set its Task; `sent`: when it was sent, where that is said now."""
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
    zone = zone_of(await places_of(record, visit), setting.zone)
    day = day_at(first, zone)
    due = end_of_day(day + timedelta(days=setting.rems.submit.days), zone) - SECOND
    form: dict[str, Any] = {
        "resourceType": "QuestionnaireResponse",
        "extension": [_submission(zulu(due), _sent_in(held[-1] if held else {}) if sent is None else zulu(sent))],
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
    made = task(
        ("rems", visit["id"]),
        patient=patient,
        code=SUBMIT_REMS,
        description=f"Send the REMS monitoring form of {day}. {setting.rems.submit.advice}",
        now=now,
        priority="asap",
        focus=f"QuestionnaireResponse/{form_id}",
        encounter=visit["id"],
        due=due,
    )
    await raise_once(record, made)
    (asked,) = await record.search("Task", {"encounter": f"Encounter/{visit['id']}", "code": SUBMIT_REMS.token()})
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "form", "valueReference": reference("QuestionnaireResponse", form_id)},
            {"name": "task", "valueReference": reference("Task", asked["id"])},
            *({"name": "missing", "valueCode": link} for link in lacking),
        ],
    }


def _submission(due: str, sent: str | None) -> dict[str, Any]:
    """Return the extension of a form that says until when it is to be sent, and when it was."""
    said = [{"url": "due", "valueInstant": due}]
    return {"url": EXT_REMS, "extension": said if sent is None else [*said, {"url": "sent", "valueDateTime": sent}]}


def _sent_in(form: Resource) -> str | None:
    """Return when a form says that it was sent."""
    said = (part for one in form.get("extension", []) if one.get("url") == EXT_REMS for part in one["extension"])
    return next((part["valueDateTime"] for part in said if part["url"] == "sent"), None)


async def note_submission(change: Change, record: Record, setting: Setting) -> None:
    """Guard of Task: who completes by hand the one to send the form says that it was sent now."""
    after = change.after
    if is_own_work() or after is None or after["status"] != "completed" or not has_code(after.get("code"), SUBMIT_REMS):
        return
    form = await record.get("QuestionnaireResponse", str(id_in(after.get("focus"), "QuestionnaireResponse")))
    if form is None or _sent_in(form) is not None:
        return
    due, sent = after.get("restriction", {}).get("period", {}).get("end"), zulu(setting.clock())
    with own_work():
        await record.update(content_of({**form, "extension": [_submission(due or sent, sent)]}))


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
    lots = [one for one in [await lot_of(record, given.resource) for given in doses] if one]
    near = timedelta(minutes=setting.monitoring.after.minutes)
    leaving = timedelta(minutes=setting.discharge.age.minutes)
    found: dict[str, Any] = {
        "patient-name": " ".join([*named.get("given", []), named.get("family", "")]).strip() or None,
        "birth-date": patient.get("birthDate"),
        "sex": patient.get("gender"),
        "first-treatment": not any(one.drug == "esketamine" and (one.start or first) < first for one in past),
        "enrolled": enrolment.patient,
        "setting": enrolment.site or None,
        "professional": next((one["actor"].get("reference") for one in dose.get("performer", [])), None),
        "treatment-date": str(day_at(first, zone_of(await places_of(record, visit), setting.zone))),
        "dose-mg": None if None in amounts else sum((one for one in amounts if one is not None), Decimal(0)),
        "lot": ", ".join(dict.fromkeys(lots)) or None,
        "monitoring-minutes": minutes_watched(session, MINUTE),
        "benzodiazepine": None if asked is None else asked.answers.get("benzodiazepine"),
        "serious-event": True if serious else None,
        **pressures(session, near, timedelta(minutes=setting.rems.pressure_at.minutes), leaving),
    }
    return {link: answer for link, answer in found.items() if answer is not None}


def _value(answer: Any) -> dict[str, Any]:
    if isinstance(answer, bool):
        return {"valueBoolean": answer}
    if isinstance(answer, int):
        return {"valueInteger": answer}
    return {"valueDecimal": answer} if isinstance(answer, Decimal) else {"valueString": str(answer)}


FORMS: Final = {
    "sent": "valueDateTime",
    "channel": "valueCode",
    "by": "valueReference",
    "confirmation": "valueString",
}
CHANNELS: Final = ("web", "fax")


def _parameters(call: OperationCall, now: datetime) -> tuple[dict[str, Any], datetime]:
    given = given_in(call, FORMS)
    person = any(id_in(given["by"], type_) for type_ in ("Practitioner", "PractitionerRole"))
    if given["channel"] not in CHANNELS or not person:
        raise BadRequest(
            "$rems-submitted needs channel (web or fax) and by (a Practitioner or PractitionerRole).",
            code="required",
            expression=["Parameters.parameter"],
        )
    sent = moment_in("sent", given["sent"], now)
    if sent > now:
        raise BadRequest("What is recorded has happened: sent is still to come.", expression=["Parameters.parameter"])
    return given, sent


async def _submitted(call: OperationCall, record: Record, setting: Setting) -> Resource:
    now = setting.clock()
    given, sent = _parameters(call, now)
    filled = await _fill(call, record, setting, sent=sent)
    named = {one["name"]: one["valueReference"]["reference"] for one in filled["parameter"] if "valueReference" in one}
    lacking = [one["valueCode"] for one in filled["parameter"] if one["name"] == "missing"]
    held = await record.get("Task", id_in({"reference": named["task"]}, "Task") or "")
    if held is None or held["status"] == "completed":
        raise Unprocessable(
            "The form was sent already: its Task is completed. A correction is sent to the REMS by telephone.",
            code="duplicate",
            rule="G-REMS-FORM",
            source=setting.rems.submit.source,
        )
    late = sent > moment(held["restriction"]["period"]["end"])
    how = {"type": SUBMIT_REMS.concept(text="Sent"), "valueDateTime": zulu(sent)}
    channel = {"type": SUBMIT_REMS.concept(text="Channel"), "valueCode": given["channel"]}
    answer = {"type": SUBMIT_REMS.concept(text="Confirmation"), "valueString": given["confirmation"]}
    done = {
        **held,
        "status": "completed",
        "owner": given["by"],
        "businessStatus": {"text": "late" if late else "in time"},
        "lastModified": zulu(now),
        "output": [how, channel, *([answer] if given["confirmation"] else [])],
    }
    with own_work():
        await record.update(content_of(done))
    if lacking:
        text = f"The monitoring form of the REMS was sent, and lacks {', '.join(lacking)}. Complete it."
        name = ("rems", str(call.id), "incomplete")
        visit = str(call.id)
        asked = Finding(name, str(patient_of(held)), REPORT_LATE, text, (named["form"],), ("G-REMS-FORM",), visit)
        await have_reviewed(record, asked, setting)
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "task", "valueReference": {"reference": named["task"]}},
            *({"name": "missing", "valueCode": link} for link in lacking),
        ],
    }


def timer(setting: Setting) -> Timer:
    """Return the timer that has reports looked at which were not sent in their time."""

    async def look(one: Round) -> None:
        codes = f"{SUBMIT_REMS.token()},{REPORT_EVENT.token()}"
        found = await one.search("Task", {"code": codes, "status": ",".join(sorted(OPEN_TASK))})
        late = [due for due in found if moment(due["restriction"]["period"]["end"]) < one.now]

        async def ask(due: Resource, record: Record) -> None:
            patient, visit = patient_of(due), id_in(due.get("encounter"), "Encounter")
            if due["status"] not in OPEN_TASK or patient is None or "businessStatus" in due:
                return
            text = f"Not sent by {due['restriction']['period']['end']}: {due['description']}"
            name, about = ("report", str(due["id"])), (f"Task/{due['id']}",)
            asked = Finding(name, patient, REPORT_LATE, text, about, ("G-REMS-FORM",), visit)
            await have_reviewed(record, asked, setting)
            with own_work():
                await record.update(content_of({**due, "businessStatus": {"text": "overdue"}}))

        await one.each([due for due in late if "businessStatus" not in due], ask)

    return Timer("late-reports", EVERY, look)
