"""The course as a resource: when it is opened, and how it is brought to where its ground puts it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from services.intake.rules.course import Ground, course_after
from services.intake.rules.forms import Sets
from shared.fhir.codes import COURSE, EXT_STAGE, ID_EPISODE, PLAN
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import (
    OPEN_EPISODE,
    drug_of,
    eligibility_outcome,
    has_code,
    is_course,
    is_order_in_force,
    is_referral,
    latest_eligibility,
    patient_of,
    reference,
    routes_consented,
    stage_of,
    with_stage,
    with_status,
)
from shared.fhir.profiles import own
from shared.fhir.raised import identifier
from shared.runtime.medications import medication_of
from shared.runtime.raising import content_of, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change


def with_change(found: Iterable[Resource], change: Change | None, type_: str) -> list[Resource]:
    """Return resources of `type_` as they will be once `change`, which is about to be committed, is."""
    if change is None or change.type != type_:
        return list(found)
    others = [one for one in found if one["id"] != change.id]
    return others if change.after is None else [*others, change.after]


async def open_course(record: Record, patient: str) -> Resource | None:
    """Return the patient's course that is not over, None where there is none."""
    episodes = await record.search("EpisodeOfCare", {"patient": f"Patient/{patient}"})
    running = [one for one in episodes if is_course(one) and one["status"] in OPEN_EPISODE]
    return running[-1] if running else None


async def bring_up_to_date(
    record: Record, patient: str, now: datetime, sets: Sets, *, change: Change | None = None
) -> None:
    """Open the patient's course when referral and eligibility are there, or bring it to where its ground puts it."""
    about = {"patient": f"Patient/{patient}"}
    assessments = with_change(await record.search("RiskAssessment", about), change, "RiskAssessment")
    newest = latest_eligibility(assessments)
    eligible = newest is not None and eligibility_outcome(newest) == "eligible"
    episode = await open_course(record, patient)
    if episode is None:
        referrals = with_change(await record.search("ServiceRequest", about), change, "ServiceRequest")
        active = [one for one in referrals if is_referral(one) and one.get("status") == "active"]
        if not (eligible and active):
            return
        episode = _new_course(patient, active[-1]["id"], now)
    ground = Ground(
        eligible=eligible,
        consented=await _is_consented(record, patient, now, change),
        planned=await _is_planned(record, patient, sets, change),
    )
    stage, status = course_after(stage_of(episode) or "eligible", episode["status"], ground)
    brought = with_status(with_stage(episode, stage, now), status, now)
    with own_work():
        if "id" not in episode:
            await record.create(brought)
        elif brought != episode:
            await record.update(content_of(brought))


def _new_course(patient: str, referral: str, now: datetime) -> Resource:
    when = zulu(now)
    stage = [{"url": "stage", "valueCode": "eligible"}, {"url": "period", "valuePeriod": {"start": when}}]
    return {
        "resourceType": "EpisodeOfCare",
        "meta": own.claiming(own.COURSE),
        "extension": [{"url": EXT_STAGE, "extension": stage}],
        "identifier": [identifier(ID_EPISODE, referral)],
        "status": "planned",
        "type": [COURSE.concept()],
        "patient": reference("Patient", patient),
        "period": {"start": when},
        "referralRequest": [reference("ServiceRequest", referral)],
    }


async def _is_consented(record: Record, patient: str, now: datetime, change: Change | None) -> bool:
    consents = with_change(await record.search("Consent", {"patient": f"Patient/{patient}"}), change, "Consent")
    return bool(routes_consented(consents, now))


async def _is_planned(record: Record, patient: str, sets: Sets, change: Change | None) -> bool:
    about = {"patient": f"Patient/{patient}"}
    plans = with_change(await record.search("CarePlan", about), change, "CarePlan")
    if not any(plan.get("status") == "active" and has_code(plan.get("category"), PLAN) for plan in plans):
        return False
    orders = with_change(await record.search("MedicationRequest", about), change, "MedicationRequest")
    for order in orders:
        if is_order_in_force(order) and drug_of(await medication_of(record, order), sets) is not None:
            return True
    return False


def subject_id(change: Change) -> str | None:
    """Return the patient a change is about."""
    resource = change.after if change.after is not None else change.before
    return None if resource is None else patient_of(resource)
