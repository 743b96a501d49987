"""What scheduling does on intake's events: when the ground of a booked dosing session falls away, people are told.

The Appointment itself stays as it is: it is a fact. Whenever something the session stands on changes, its ground is
looked at again; what was raised is closed when the ground is back. So a repeat of an event changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.scheduling.ground import Setting, ground_of
from services.scheduling.rules import INTENDED, unmet
from shared.events.envelope import Event
from shared.fhir.codes import GROUND_LOST, ID_FLAG, ID_TASK
from shared.fhir.json import Resource
from shared.fhir.kap import visit_of
from shared.fhir.raised import flag, identifier, task
from shared.runtime.raising import close_flag, close_task, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Reaction

STANDS_ON = ("RiskAssessment", "EpisodeOfCare", "Consent", "CarePlan", "MedicationRequest")


def reactions(setting: Setting) -> Mapping[str, Sequence[Reaction]]:
    """Return scheduling's reactions by type, under a policy."""

    async def ground_changed(event: Event, resource: Resource, record: Record) -> None:
        if event.patient is None:
            return
        patient = event.patient.removeprefix("Patient/")
        for appointment in await record.search("Appointment", {"patient": event.patient}):
            if visit_of(appointment) == "kap-dosing" and appointment["status"] in INTENDED:
                await _look_again(appointment, patient, record, setting)

    return dict.fromkeys(STANDS_ON, (ground_changed,))


async def _look_again(appointment: Resource, patient: str, record: Record, setting: Setting) -> None:
    lacking = unmet(await ground_of(record, appointment), setting.policy)
    now = setting.clock()
    name = ("ground", appointment["id"])
    if not lacking:
        why = "The ground is back."
        await close_flag(record, identifier(ID_FLAG, *name), now)
        await close_task(record, identifier(ID_TASK, *name), now, status="cancelled", why=why)
        return
    what = "; ".join(f"{issue.rule}: {issue.diagnostics}" for issue in lacking)
    text = f"Dosing session {appointment.get('start', '')}: {what}"
    await raise_once(record, flag(name, patient=patient, code=GROUND_LOST, text=text, now=now), reopen=True)
    await raise_once(
        record,
        task(
            name,
            patient=patient,
            code=GROUND_LOST,
            description=f"{text} Settle it, or cancel the appointment and tell patient and staff.",
            now=now,
            priority="urgent",
            focus=f"Appointment/{appointment['id']}",
        ),
        reopen=True,
    )
