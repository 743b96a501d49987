"""What scheduling does on events: when the ground of a booked visit falls away, it is flagged, and people are told.

The Appointment itself stays as it is: it is a fact. Whenever something the visit stands on changes, its ground is
looked at again; what was raised is closed when the ground is back. So a repeat of an event changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.scheduling.ground import ground_of, start_of
from services.scheduling.rules.booking import HERE, INTENDED, is_coming
from services.scheduling.rules.ground import Found, lost
from services.scheduling.setting import Setting
from services.scheduling.telling import tell_of_loss
from shared.events.envelope import Event
from shared.fhir.codes import GROUND_LOST, ID_FLAG, ID_TASK, WEIGHT
from shared.fhir.json import Resource
from shared.fhir.kap import has_code, has_died, id_in, visit_of
from shared.fhir.raised import flag, identifier, task
from shared.notify.telling import tell_no_more
from shared.runtime.joined import joined_with
from shared.runtime.raising import close_flag, close_task, content_of, find, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Reaction

STANDS_ON = (
    "RiskAssessment",
    "EpisodeOfCare",
    "Consent",
    "CarePlan",
    "MedicationRequest",
    "MedicationAdministration",
    "Patient",
)


def reactions(setting: Setting) -> Mapping[str, Sequence[Reaction]]:
    """Return scheduling's reactions by type, under a policy."""

    async def ground_changed(event: Event, resource: Resource, record: Record) -> None:
        if event.patient is not None:
            await look_at_all(event.patient, record, setting)

    async def consented(event: Event, resource: Resource, record: Record) -> None:
        id_ = None if event.patient is None else id_in({"reference": event.patient}, "Patient")
        for one in [] if id_ is None else [id_, *await joined_with(record, id_)]:
            await look_at_all(f"Patient/{one}", record, setting)

    async def has_died_meanwhile(event: Event, resource: Resource, record: Record) -> None:
        if event.interaction != "delete" and has_died(resource):
            why = "The patient has died."
            await tell_no_more(record, f"Patient/{event.resource_id}", setting.clock(), why=why)

    async def measured(event: Event, resource: Resource, record: Record) -> None:
        if event.patient is not None and has_code(resource.get("code"), WEIGHT):
            await look_at_all(event.patient, record, setting)

    async def place_changed(event: Event, resource: Resource, record: Record) -> None:
        booked = [("actor", f"Location/{event.resource_id}"), ("status", ",".join(sorted(INTENDED)))]
        for appointment in await record.search("Appointment", booked):
            await look_again(appointment, record, setting)

    async def drug_changed(event: Event, resource: Resource, record: Record) -> None:
        orders = await record.search("MedicationRequest", {"medication": f"Medication/{event.resource_id}"})
        for patient in sorted({one["subject"]["reference"] for one in orders}):
            await look_at_all(patient, record, setting)

    return {
        **dict.fromkeys(STANDS_ON, (ground_changed,)),
        "Patient": (ground_changed, has_died_meanwhile),
        "Consent": (consented,),
        "Observation": (measured,),
        "Location": (place_changed,),
        "Medication": (drug_changed,),
    }


async def look_at_all(patient: str, record: Record, setting: Setting) -> None:
    """Look again at every booked visit of a patient (``Patient/<id>``)."""
    looked_at = ",".join(sorted((*INTENDED, *HERE)))
    for appointment in await record.search("Appointment", {"patient": patient, "status": looked_at}):
        await look_again(appointment, record, setting)


async def look_again(appointment: Resource, record: Record, setting: Setting) -> None:
    """Flag a booked visit that lacks something, or clear it."""
    visit = visit_of(appointment)
    now = setting.clock()
    if visit is None or visit not in setting.policy.prerequisites or not is_coming(appointment, now, setting.policy):
        return
    ground = await ground_of(record, appointment, setting)
    lacking = lost(visit, ground, start_of(appointment), now, setting.policy)
    name = ("ground", str(appointment["id"]))
    if not lacking:
        why = "The ground is back."
        await close_flag(record, identifier(ID_FLAG, *name), now)
        await close_task(record, identifier(ID_TASK, *name), now, status="cancelled", why=why)
        return
    await _raise(appointment, lacking, name, record, setting)


async def _raise(
    appointment: Resource, lacking: Sequence[Found], name: tuple[str, str], record: Record, setting: Setting
) -> None:
    patient = next(
        one["actor"]["reference"].rpartition("/")[2]
        for one in appointment["participant"]
        if "Patient/" in one.get("actor", {}).get("reference", "")
    )
    now = setting.clock()
    what = "; ".join(f"{one.rule}: {one.what}. {one.advice}" for one in lacking)
    text = f"Visit at {appointment.get('start', 'a time not set')}: {what}"
    raised = flag(name, patient=patient, code=GROUND_LOST, text=text, now=now)
    standing = await find(record, "Flag", raised["identifier"][0])
    if standing is not None and standing["status"] == "active":
        if standing["code"].get("text") == text:
            return
        with own_work():
            await record.update(content_of({**standing, "code": raised["code"]}))
    else:
        await raise_once(record, raised, reopen=True)
        await tell_of_loss(appointment, patient, record, setting)
    due = task(
        name,
        patient=patient,
        code=GROUND_LOST,
        description=f"{text} Settle it, or cancel the appointment and tell patient and staff.",
        now=now,
        priority="urgent",
        focus=f"Appointment/{appointment['id']}",
    )
    await raise_once(record, due, reopen=True)
    open_one = await find(record, "Task", due["identifier"][0])
    if open_one is not None and open_one["description"] != due["description"]:
        with own_work():
            await record.update(content_of({**open_one, "description": due["description"]}))
