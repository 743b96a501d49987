"""The monitoring form of the REMS of esketamine at work: filled from what a session has recorded, and kept with it.

It follows the session: filled at its end, and again where a dose is charted, corrected or withdrawn after that. Of what
was sent already a person tells the programme.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from services.sessions.calling import Finding, have_reviewed
from services.sessions.dose import known_of
from services.sessions.drugs import gated_drug
from services.sessions.events import is_serious
from services.sessions.gathering import WITNESS, answers_of, enrolment_of, is_identified, places_of
from services.sessions.lots import lot_of
from services.sessions.names import address_in, called, reached_by
from services.sessions.rules.answers import answers_in
from services.sessions.rules.claims import COUNTED
from services.sessions.rules.gate import gate
from services.sessions.rules.leaving import Leaving, against_vital_signs
from services.sessions.rules.monitoring import cadence_of
from services.sessions.rules.readings import readings_of, with_code
from services.sessions.rules.rems import (
    Session,
    acceptable,
    limits_of,
    minutes_watched,
    missing,
    occurred,
    pressures,
    together,
)
from services.sessions.rules.visits import OVER
from services.sessions.setting import Setting
from services.sessions.what_was_given import Given, doses_of
from shared.fhir.codes import (
    EXT_REMS,
    ID_REMS_FORM,
    ID_REMS_SITE,
    ID_TASK,
    OXYGEN_SATURATION,
    OXYGEN_SATURATION_ANY,
    PRE_DOSE_QUESTIONNAIRE,
    REMS_QUESTIONNAIRE,
    REPORT_LATE,
    SUBMIT_REMS,
)
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import effective_start, has_code, id_in, milligrams_in, patient_of, reference
from shared.fhir.raised import identifier, task
from shared.fhir.zones import day_at, end_of_day, zone_of
from shared.runtime.raising import OPEN_TASK, close_task, content_of, find, is_own_work, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change

MINUTE: Final = timedelta(minutes=1)
SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Filled:
    """A form that was filled: its id, the Task to send it, and what is missing."""

    form: str
    task: Resource
    lacking: list[str]


def is_inpatient(visit: Resource, setting: Setting) -> bool:
    """Tell whether a visit is of an inpatient, who has no form."""
    return visit.get("class", {}).get("code") in setting.gate.rems.inpatient


async def devices_of(record: Record, visit: Resource, setting: Setting, new: Resource | None = None) -> list[Given]:
    """Return the doses of esketamine of a visit, oldest first; `new`: one that is about to be written."""
    doses = await doses_of(record, str(visit["id"]), setting, new)
    return [one for one in doses if one.drug == "esketamine" and one.start is not None]


async def fill_at_the_end(change: Change, record: Record, setting: Setting) -> None:
    """Fill the form, and set its Task, at the end of an outpatient session with esketamine."""
    after = change.after
    if after is None or after["status"] != "finished" or (change.before or {}).get("status") in (*OVER, None):
        return
    visit = {**after, "id": change.id}
    doses = [] if is_inpatient(visit, setting) else await devices_of(record, visit, setting)
    if doses:
        await fill(visit, doses, record, setting)


async def fill_after_the_end(change: Change, record: Record, setting: Setting) -> None:
    """Bring the form of a visit that is finished to what is charted, corrected or withdrawn in it after that.

    `change`: of a MedicationAdministration, an Observation or an AdverseEvent, about to be written.
    """
    if is_own_work() and change.type == "Observation":  # what is stamped anew measures nothing anew
        return
    after = None if change.after is None else {**change.after, "id": change.id}
    for id_ in dict.fromkeys(one for one in map(_visit_of, (change.before, after)) if one is not None):
        visit = await record.get("Encounter", id_)
        if visit is None or visit["status"] != "finished" or is_inpatient(visit, setting):
            continue
        if change.type != "MedicationAdministration":
            doses = await devices_of(record, visit, setting)
            if doses:
                await fill(visit, doses, record, setting, change=change)
            continue
        stands = after if _visit_of(after) == id_ else None
        held = await devices_of(record, visit, setting, stands)
        doses = [one for one in held if stands is not None or one.resource.get("id") != change.id]
        if doses:
            await fill(visit, doses, record, setting)
        else:
            await _withdraw(visit, record, setting)


def _visit_of(resource: Resource | None) -> str | None:
    said = resource or {}
    return id_in(said.get("context") or said.get("encounter"), "Encounter")


async def _withdraw(visit: Resource, record: Record, setting: Setting) -> None:
    """Withdraw the form of a visit in which no dose of esketamine stands any more, and the Task to send it."""
    held = await _held(record, str(visit["id"]))
    if held is None or held["status"] == "entered-in-error":
        return
    with own_work():
        await record.update(content_of({**held, "status": "entered-in-error"}))
    name = identifier(ID_TASK, "rems", str(visit["id"]))
    sent = await find(record, "Task", name)
    if sent is not None and sent["status"] == "completed":
        await _tell_the_programme(visit, str(held["id"]), "was withdrawn: no dose stands", record, setting)
    why = "No dose of esketamine stands in this visit."
    await close_task(record, name, setting.clock(), status="cancelled", why=why)


async def _tell_the_programme(visit: Resource, form: str, what: str, record: Record, setting: Setting) -> None:
    text = f"The monitoring form of the REMS was sent, and {what}. Tell the programme by telephone."
    name, about = ("rems", str(visit["id"]), "corrected"), (f"QuestionnaireResponse/{form}",)
    patient = str(patient_of(visit))
    asked = Finding(name, patient, REPORT_LATE, text, about, ("G-REMS-FORM",), str(visit["id"]))
    await have_reviewed(record, asked, setting, again=True)


async def _held(record: Record, visit: str) -> Resource | None:
    name = identifier(ID_REMS_FORM, visit)
    held = await record.search("QuestionnaireResponse", {"identifier": f"{name['system']}|{name['value']}"})
    return held[-1] if held else None


def _submission(due: str, sent: str | None) -> dict[str, Any]:
    """Return the extension of a form that says until when it is to be sent, and when it was."""
    said = [{"url": "due", "valueInstant": due}]
    return {"url": EXT_REMS, "extension": said if sent is None else [*said, {"url": "sent", "valueDateTime": sent}]}


def with_submission(change: Change) -> Resource | None:
    """Return a form that a person writes with what the one before said of its sending; None: as it is."""
    before, after = change.before or {}, change.after
    said = [one for one in before.get("extension", []) if one.get("url") == EXT_REMS]
    if after is None or not said or any(one.get("url") == EXT_REMS for one in after.get("extension", [])):
        return None
    return {**after, "extension": [*after.get("extension", []), *said]}


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


async def fill(
    visit: Resource,
    doses: list[Given],
    record: Record,
    setting: Setting,
    *,
    sent: datetime | None = None,
    change: Change | None = None,
) -> Filled:
    """Fill the form of a visit from its doses of esketamine (at least one), and set the Task to send it.

    `sent`: when it was sent, where that is said now. `change`: of a reading or an event, about to be written. Where the
    form was sent already, and says another thing now, a person tells the programme.
    """
    now, id_ = setting.clock(), str(visit["id"])
    first = doses[0].start or now
    held = await _held(record, id_)
    kept = {} if held is None or held["status"] == "entered-in-error" else answers_in(held)
    answers = together(kept, await _answers(record, visit, doses, first, setting, change))
    lacking = missing(answers)
    zone = zone_of(await places_of(record, visit), setting.zone)
    day = day_at(first, zone)
    due = end_of_day(day + timedelta(days=setting.rems.submit.days), zone) - SECOND
    form: dict[str, Any] = {
        "resourceType": "QuestionnaireResponse",
        "extension": [_submission(zulu(due), _sent_in(held or {}) if sent is None else zulu(sent))],
        "identifier": identifier(ID_REMS_FORM, id_),
        "questionnaire": REMS_QUESTIONNAIRE,
        "status": "in-progress" if lacking else "completed",
        "subject": reference("Patient", str(patient_of(visit))),
        "encounter": reference("Encounter", id_),
        "item": [{"linkId": link, "answer": [_value(answer)]} for link, answer in sorted(answers.items())],
    }
    is_changed = held is None or any(held.get(name) != value for name, value in form.items())
    form["authored"] = zulu(now)
    with own_work():
        if held is None:
            form_id = (await record.create(form)).stored.id
        else:
            form_id = str(held["id"])
            if is_changed:
                await record.update(content_of({**form, "id": form_id}))
    to_send = await _to_send(visit, form_id, day, due, record, setting)
    says_another = held is not None and answers_in(held) != answers_in(form)
    if says_another and to_send["status"] == "completed":
        await _tell_the_programme(visit, form_id, "says another thing now", record, setting)
    return Filled(form_id, to_send, lacking)


async def _to_send(visit: Resource, form: str, day: date, due: datetime, record: Record, setting: Setting) -> Resource:
    """Set the Task to send a form, move it with the day of the treatment, and return it as it stands."""
    id_ = str(visit["id"])
    made = task(
        ("rems", id_),
        patient=str(patient_of(visit)),
        code=SUBMIT_REMS,
        description=f"Send the REMS monitoring form of {day}. {setting.rems.submit.advice}",
        now=setting.clock(),
        priority="asap",
        focus=f"QuestionnaireResponse/{form}",
        encounter=id_,
        due=due,
    )
    held = await find(record, "Task", made["identifier"][0])
    with own_work():
        if held is None:
            return {**made, "id": (await record.create(made)).stored.id}
        moved = {"description": made["description"], "restriction": made["restriction"]}
        if held["status"] == "cancelled":
            held = {**made, "id": held["id"]}
            await record.update(held)
        elif held["status"] in OPEN_TASK and any(held.get(name) != value for name, value in moved.items()):
            held = content_of({**{name: one for name, one in held.items() if name != "businessStatus"}, **moved})
            await record.update(held)
    return held


def _with(change: Change | None, type_: str, held: list[Resource]) -> list[Resource]:
    """Return resources of a type with the one that a change is about to write in its place."""
    if change is None or change.type != type_:
        return held
    new = [] if change.after is None else [{**change.after, "id": change.id}]
    return [*(one for one in held if one["id"] != change.id), *new]


async def _answers(
    record: Record, visit: Resource, doses: list[Given], first: datetime, setting: Setting, change: Change | None
) -> dict[str, Any]:
    """Return what the session itself answers of the form, by linkId; what it cannot is left out."""
    about, dose = f"Patient/{patient_of(visit)}", doses[0].resource
    patient = await record.get("Patient", str(patient_of(visit))) or {}
    enrolment = await enrolment_of(record, dose, visit, first)
    places = await places_of(record, visit)
    end = visit.get("period", {}).get("end")
    held = _with(change, "Observation", await record.search("Observation", {"encounter": f"Encounter/{visit['id']}"}))
    held = [one for one in held if id_in(one.get("encounter"), "Encounter") == visit["id"]]
    whose = (patient_of(visit), None)
    session = Session(
        first,
        interval(end)[0] if end is not None else None,
        [reading for one in held if patient_of(one) in whose for reading in readings_of(one)],
    )
    asked = await answers_of(record, visit["id"], PRE_DOSE_QUESTIONNAIRE, None, first + MINUTE)
    events = _with(change, "AdverseEvent", await record.search("AdverseEvent", {"subject": about}))
    serious = [one for one in events if id_in(one.get("encounter"), "Encounter") == visit["id"] and is_serious(one)]
    amounts = [milligrams_in(one.resource.get("dosage", {}).get("dose")) for one in doses]
    lots = [one for one in [await lot_of(record, given.resource) for given in doses] if one]
    found: dict[str, Any] = {
        "patient-name": called(patient, first) or None,
        "birth-date": patient.get("birthDate"),
        "sex": patient.get("gender"),
        "first-treatment": not await _had_before(record, visit, first, setting),
        "enrolled": enrolment.patient,
        "setting": enrolment.site or None,
        "treatment-date": str(day_at(first, zone_of(places, setting.zone))),
        "dose-mg": None if None in amounts else sum((one for one in amounts if one is not None), Decimal(0)),
        "lot": ", ".join(dict.fromkeys(lots)) or None,
        "monitoring-minutes": minutes_watched(session, MINUTE),
        "benzodiazepine": None if asked is None else asked.answers.get("benzodiazepine"),
        "serious-event": True if serious else None,
        **_place(places, first),
        **await _professional(record, dose, first),
        **await _readings(record, session, doses[0], setting),
    }
    return {link: answer for link, answer in found.items() if answer is not None}


async def _had_before(record: Record, visit: Resource, first: datetime, setting: Setting) -> bool:
    """Tell whether the patient had esketamine before this visit: in another, or elsewhere, where it names none here."""
    for one in await record.search("MedicationAdministration", {"patient": f"Patient/{patient_of(visit)}"}):
        other = id_in(one.get("context"), "Encounter") != visit["id"] and one["status"] in COUNTED
        if other and (effective_start(one) or first) < first and await gated_drug(record, one, setting) == "esketamine":
            return True
    return False


def _place(places: list[Resource | None], when: datetime) -> dict[str, Any]:
    """Return name and address of the setting: of the certified place, else of where the visit is."""
    ordered = sorted(places, key=lambda one: not is_identified(one, ID_REMS_SITE, when))
    names = (str(one["name"]) for one in ordered if one is not None and one.get("name"))
    addresses = (said for one in ordered if (said := address_in(one)))
    return {"setting-name": next(names, None), "setting-address": next(addresses, None)}


async def _professional(record: Record, dose: Resource, when: datetime) -> dict[str, Any]:
    """Return who of the staff watched a dose, and how he is reached: its witness, else another who performed it."""
    staff = [
        one
        for one in dose.get("performer", [])
        if any(id_in(one.get("actor"), type_) for type_ in ("Practitioner", "PractitionerRole"))
    ]
    watched = [one for one in staff if any(c.get("code") == WITNESS for c in one.get("function", {}).get("coding", []))]
    named = next((one["actor"] for one in (*watched, *staff)), None)
    role_id = id_in(named, "PractitionerRole")
    roles = [] if role_id is None else [await record.get("PractitionerRole", role_id)]
    person_id = id_in(named if role_id is None else (roles[0] or {}).get("practitioner"), "Practitioner")
    person = None if person_id is None else await record.get("Practitioner", person_id)
    if role_id is None and person_id is not None:
        held = await record.search("PractitionerRole", {"practitioner": f"Practitioner/{person_id}"})
        roles.extend(one for one in held if one.get("active") is not False)
    return {
        "professional": called(person, when) or (named or {}).get("display"),
        "professional-phone": reached_by((person, *roles), "phone", when),
        "professional-email": reached_by((person, *roles), "email", when),
    }


async def _readings(record: Record, session: Session, first: Given, setting: Setting) -> dict[str, Any]:
    """Return what the readings of a session say: pressures, whether they were acceptable, and what occurred."""
    near = timedelta(minutes=setting.monitoring.after.minutes)
    leaving = timedelta(minutes=setting.discharge.age.minutes)
    found: dict[str, Any] = {
        **pressures(session, near, timedelta(minutes=setting.rems.pressure_at.minutes), leaving),
        "oximetry": _oximetry(session),
    }
    known = await known_of(record, first.resource, session.first, first.drug, setting)
    vital = frozenset(rule for one in setting.gate.readings.values() for rule in (one.rule, one.unknown))
    found["vitals-before"] = acceptable(gate(known.situation, setting.gate), vital)
    if session.end is not None and {"systolic-end", "diastolic-end"} <= found.keys():
        left = Leaving(session.end, session.end, None, None, session.readings, session.first)
        found["vitals-end"] = not against_vital_signs(left, setting.discharge, setting.alarms)
    cadence = cadence_of(first.drug, first.route, setting.monitoring)
    for what, one in setting.rems.occurred.items():
        limits = limits_of(one, setting.alarms.limits)
        found |= occurred(what, session, limits, (one.due, cadence.at.get(one.due, ())), setting.monitoring)
    return found


def _oximetry(session: Session) -> bool | None:
    """Tell whether the oxygen saturation was looked at after the first device; None: not yet."""
    if with_code(session.since(), (OXYGEN_SATURATION.code, OXYGEN_SATURATION_ANY.code)):
        return True
    return None if session.end is None else False


def _value(answer: Any) -> dict[str, Any]:
    if isinstance(answer, bool):
        return {"valueBoolean": answer}
    if isinstance(answer, int):
        return {"valueInteger": answer}
    return {"valueDecimal": answer} if isinstance(answer, Decimal) else {"valueString": str(answer)}
