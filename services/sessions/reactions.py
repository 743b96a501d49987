"""What sessions does on the events of others: a booked visit is planned, once; one that is off is cancelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from services.sessions.calling import WITHDRAWN
from services.sessions.dose import judge_given
from services.sessions.drugs import drug_at_worst
from services.sessions.events import guard_event, take_back_unless_serious
from services.sessions.ground import RULES as GROUND
from services.sessions.ground import judge_ground
from services.sessions.leaving import integration_is_booked, integration_is_off
from services.sessions.ledger import book_nothing
from services.sessions.monitoring_form import fill_after_the_end
from services.sessions.rules.visits import COMING, OFF, is_kap_visit, planned_visit
from services.sessions.setting import Setting
from services.sessions.suicidality import settle
from services.sessions.watching import close_due, keep_watch
from shared.events.envelope import Event
from shared.fhir.codes import ID_ENCOUNTER, MEDICATION_INPATIENT
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import RUNNING_EPISODE, has_code, id_in, is_course, patient_of, reference
from shared.fhir.raised import identifier
from shared.runtime.ownership import OUTCOMES
from shared.runtime.raising import content_of, find, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change, Reaction

PLANNED_BY_BOOKING = ("extension", "class", "type", "participant", "location")


def reactions(setting: Setting) -> Mapping[str, Sequence[Reaction]]:
    """Return sessions' reactions by type, under a policy."""

    async def medication_known(event: Event, resource: Resource, record: Record) -> None:
        """Judge the doses that named a Medication before it was known here, and so could not be judged as ketamine."""
        if event.interaction == "delete":
            return
        named = {"medication": f"Medication/{event.resource_id}"}
        for dose in await record.search("MedicationAdministration", named):
            stored = await record.stored("MedicationAdministration", dose["id"])
            if stored is not None and stored.origin == record.service.name:
                await judge_given(dose, record, setting)
                known = Change("update", "MedicationAdministration", str(dose["id"]), None, dose)
                await fill_after_the_end(known, record, setting)
                await _is_other_drug(dose, record, setting)

    async def scored(event: Event, resource: Resource, record: Record) -> None:
        """Close what was due at a bedside with a score that outcomes made of a questionnaire there."""
        if event.interaction != "delete" and event.source == OUTCOMES:
            await close_due(record, resource, setting)
            await settle(resource, record, setting)

    async def integrating(event: Event, resource: Resource, record: Record) -> None:
        """Close the Task to book an integration session with its booking; ask again where that is off, or moved."""
        if event.interaction != "delete":
            await integration_is_booked(resource, record, setting)
        await integration_is_off(resource, record, setting)

    async def happened(event: Event, resource: Resource, record: Record) -> None:
        """Call and have reported what happened outside of a visit: at home, elsewhere. What is long past is history."""
        gone = event.interaction == "delete"
        await take_back_unless_serious(record, event.resource_id, None if gone else resource, setting)
        if gone:
            return
        since = setting.clock() - timedelta(days=setting.rems.report.days)
        if "date" not in resource or interval(resource["date"])[1] > since:
            await guard_event(Change("update", event.type, event.resource_id, None, resource), record, setting)

    async def stood_on(event: Event, resource: Resource, record: Record) -> None:
        """Judge the doses of a session that goes on again with the news of what they stand on."""
        kind, _, patient = event.key.partition("/")
        if kind == "Patient":
            gone = {"resourceType": event.type, "id": event.resource_id, "status": WITHDRAWN}
            await judge_ground(gone if event.interaction == "delete" else resource, patient, record, setting)

    return {
        **dict.fromkeys(GROUND, (stood_on,)),
        "AdverseEvent": (happened,),
        "Appointment": (_booked, integrating),
        "EpisodeOfCare": (_course_known,),
        "Medication": (medication_known,),
        "MedicationRequest": (stood_on, _order_known),
        "Observation": (scored,),
    }


async def _is_other_drug(dose: Resource, record: Record, setting: Setting) -> None:
    """Watch, and have booked, no longer what was taken for ketamine and is known now as another drug."""
    if await drug_at_worst(record, dose, setting) == (None, True):
        await keep_watch(Change("update", "MedicationAdministration", str(dose["id"]), None, dose), record, setting)
        await book_nothing(record, dose, setting)


async def _booked(event: Event, resource: Resource, record: Record) -> None:
    """Bring the visit of an Appointment to what the Appointment says now, as long as the visit has not begun."""
    await _bring(event.resource_id, record)


async def _bring(id_: str, record: Record) -> None:
    appointment = await record.get("Appointment", id_)
    name = identifier(ID_ENCOUNTER, id_)
    visit = await find(record, "Encounter", name)
    status = "cancelled" if appointment is None else appointment["status"]
    if status in OFF:
        if visit is not None and visit["status"] == "planned":
            with own_work():
                await record.update(content_of({**visit, "status": "cancelled"}))
        return
    patient = None if appointment is None else patient_of(appointment)
    if appointment is None or patient is None or status not in COMING or not is_kap_visit(appointment):
        return
    if visit is None and await _has_visit(record, id_):
        return
    inpatient = await _is_for_inpatient(appointment, record)
    wanted = planned_visit(appointment, patient, await _course(record, patient), name, inpatient=inpatient)
    with own_work():
        if visit is None:
            await record.create(wanted)
        elif visit["status"] in ("planned", "cancelled"):
            kept = {key: value for key, value in visit.items() if key not in PLANNED_BY_BOOKING}
            brought = {**kept, "status": "planned", **{key: wanted[key] for key in PLANNED_BY_BOOKING if key in wanted}}
            if brought != visit:
                await record.update(content_of(brought))


async def _is_for_inpatient(appointment: Resource, record: Record) -> bool:
    """Tell whether an order that an Appointment names is for an inpatient (MedicationRequest.category)."""
    named = (id_in(one, "MedicationRequest") for one in appointment.get("supportingInformation", []))
    orders = [await record.get("MedicationRequest", one) for one in named if one is not None]
    return any(has_code((one or {}).get("category"), MEDICATION_INPATIENT) for one in orders)


async def _order_known(event: Event, resource: Resource, record: Record) -> None:
    """Bring the planned visits of an order to its setting, where they were booked before it was known here."""
    patient = patient_of(resource)
    if event.interaction == "delete" or patient is None or not has_code(resource.get("category"), MEDICATION_INPATIENT):
        return
    for one in await record.search("Appointment", {"patient": f"Patient/{patient}"}):
        named = [id_in(said, "MedicationRequest") for said in one.get("supportingInformation", [])]
        if event.resource_id in named and one["status"] in COMING:
            await _bring(one["id"], record)


async def _has_visit(record: Record, appointment: str) -> bool:
    """Tell whether somebody recorded the visit before the news of its booking came here."""
    held = await record.search("Encounter", {"appointment": f"Appointment/{appointment}"})
    return any(one["status"] != "entered-in-error" for one in held)


async def _course(record: Record, patient: str) -> str | None:
    episodes = await record.search("EpisodeOfCare", {"patient": f"Patient/{patient}"})
    running = [one for one in episodes if is_course(one) and one["status"] in RUNNING_EPISODE]
    return running[-1]["id"] if running else None


async def _course_known(event: Event, resource: Resource, record: Record) -> None:
    """Name the course in visits that were planned before it was known here."""
    patient = patient_of(resource)
    if event.interaction == "delete" or patient is None or not is_course(resource):
        return
    course = await _course(record, patient)
    if course is None:
        return
    for visit in await record.search("Encounter", {"patient": f"Patient/{patient}", "status": "planned"}):
        stored = await record.stored("Encounter", visit["id"])
        if "episodeOfCare" not in visit and stored is not None and stored.origin == record.service.name:
            with own_work():
                await record.update(content_of({**visit, "episodeOfCare": [reference("EpisodeOfCare", course)]}))
