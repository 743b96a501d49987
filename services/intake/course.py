"""The course as a resource: when it is opened, and how it is brought to where its ground puts it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from services.intake.rules.course import ENDED, Ground, course_after, why_ended
from services.intake.rules.forms import Sets
from shared.fhir.codes import COURSE, ID_EPISODE, PLAN, SCREENING_QUESTIONNAIRE
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import (
    OPEN_EPISODE,
    drug_of,
    eligibility_outcome,
    has_code,
    id_in,
    is_course,
    is_order_in_force,
    is_referral,
    latest_eligibility,
    patient_of,
    reference,
    replaced_by,
    replaces,
    routes_consented,
    stage_extension,
    stage_of,
    with_stage,
    with_status,
)
from shared.fhir.profiles import own
from shared.fhir.raised import identifier
from shared.runtime.joined import denied_elsewhere
from shared.runtime.medications import substances_of
from shared.runtime.raising import content_of, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change


def with_change(found: Iterable[Resource], change: Change | None, type_: str) -> list[Resource]:
    """Return resources of `type_` as they will be once `change`, which is about to be committed, is."""
    if change is None or change.type != type_:
        return list(found)
    others = [one for one in found if one["id"] != change.id]
    return others if change.after is None else [*others, change.after]


async def courses_of(record: Record, patient: str) -> list[Resource]:
    """Return the patient's courses, oldest first."""
    return [one for one in await record.search("EpisodeOfCare", {"patient": f"Patient/{patient}"}) if is_course(one)]


async def open_course(record: Record, patient: str) -> Resource | None:
    """Return the patient's course that is not over, None where there is none."""
    return _open(await courses_of(record, patient))


def _open(courses: Iterable[Resource]) -> Resource | None:
    running = [one for one in courses if one["status"] in OPEN_EPISODE]
    return running[-1] if running else None


async def bring_up_to_date(
    record: Record, patient: str, now: datetime, sets: Sets, *, change: Change | None = None
) -> None:
    """Open the patient's course when he is referred, or bring it to where its ground puts it."""
    about = {"patient": f"Patient/{patient}"}
    newest = latest_eligibility(with_change(await record.search("RiskAssessment", about), change, "RiskAssessment"))
    outcome = None if newest is None else eligibility_outcome(newest)
    courses = await courses_of(record, patient)
    episode = _open(courses)
    referrals = await _referrals(record, patient, change)
    if episode is None:
        held = await record.get("Patient", patient)
        referral = _to_open(referrals, courses, outcome)
        if referral is None or (held is not None and replaced_by(held) is not None):
            return
        episode = _new_course(patient, referral, courses, now)
    ground = Ground(
        outcome=outcome,
        consented=await _is_consented(record, patient, now, change),
        planned=await _is_planned(record, patient, sets, change),
        screening=newest is not None or await _is_answered(record, about, change),
        referred=_stands(referrals, episode),
    )
    stage, status = course_after(stage_of(episode) or "eligible", episode["status"], ground)
    why = why_ended(stage) if stage in ENDED else None
    brought = with_status(with_stage(episode, stage, now, why), status, now)
    if stage in ENDED:
        brought = {**brought, "period": {**brought.get("period", {}), "end": zulu(now)}}
    with own_work():
        if "id" not in episode:
            await record.create(brought)
        elif brought != episode:
            await record.update(content_of(brought))


async def _referrals(record: Record, patient: str, change: Change | None) -> list[Resource]:
    """Return the referrals of a patient, and of whom he stands for."""
    held = await record.get("Patient", patient)
    same = [patient, *replaces(held or {})]
    about = {"patient": ",".join(f"Patient/{one}" for one in same)}
    found = with_change(await record.search("ServiceRequest", about), change, "ServiceRequest")
    return [one for one in found if is_referral(one)]


def _to_open(referrals: Iterable[Resource], courses: Sequence[Resource], outcome: str | None) -> str | None:
    """Return the id of the referral that opens a course: an active one that has had none.

    One whose course ended because the patient was not eligible opens another once he is.
    """
    for referral in reversed([one for one in referrals if one.get("status") == "active"]):
        had = [one for one in courses if referral["id"] in _referred_by(one)]
        if not had or (outcome == "eligible" and stage_of(had[-1]) == "not-eligible"):
            return str(referral["id"])
    return None


def _referred_by(course: Resource) -> list[str | None]:
    return [id_in(one, "ServiceRequest") for one in course.get("referralRequest", [])]


def _stands(referrals: Iterable[Resource], course: Resource) -> bool:
    """Tell whether a referral of the course was not withdrawn, and is still this patient's."""
    held = {one["id"]: one.get("status") for one in referrals}
    named = _referred_by(course)
    return not named or any(held.get(one) not in (None, "revoked", "entered-in-error") for one in named)


def _new_course(patient: str, referral: str, courses: Sequence[Resource], now: datetime) -> Resource:
    when = zulu(now)
    before = sum(referral in _referred_by(one) for one in courses)
    return {
        "resourceType": "EpisodeOfCare",
        "meta": own.claiming(own.COURSE),
        "extension": [stage_extension("referred", when)],
        "identifier": [identifier(ID_EPISODE, referral, *([str(before + 1)] if before else []))],
        "status": "planned",
        "type": [COURSE.concept()],
        "patient": reference("Patient", patient),
        "period": {"start": when},
        "referralRequest": [reference("ServiceRequest", referral)],
    }


async def _is_answered(record: Record, about: dict[str, str], change: Change | None) -> bool:
    given = await record.search("QuestionnaireResponse", {**about, "questionnaire": SCREENING_QUESTIONNAIRE})
    answered = [one for one in with_change(given, change, "QuestionnaireResponse") if is_screening(one)]
    return any(one["status"] != "entered-in-error" for one in answered)


def is_screening(response: Resource) -> bool:
    """Tell whether a QuestionnaireResponse answers the screening questionnaire."""
    return str(response.get("questionnaire", "")).partition("|")[0] == SCREENING_QUESTIONNAIRE


async def _is_consented(record: Record, patient: str, now: datetime, change: Change | None) -> bool:
    consents = with_change(await record.search("Consent", {"patient": f"Patient/{patient}"}), change, "Consent")
    return bool(routes_consented([*consents, *await denied_elsewhere(record, patient, now)], now))


async def _is_planned(record: Record, patient: str, sets: Sets, change: Change | None) -> bool:
    about = {"patient": f"Patient/{patient}"}
    plans = with_change(await record.search("CarePlan", about), change, "CarePlan")
    if not any(plan.get("status") == "active" and has_code(plan.get("category"), PLAN) for plan in plans):
        return False
    orders = with_change(await record.search("MedicationRequest", about), change, "MedicationRequest")
    for order in orders:
        if is_order_in_force(order) and drug_of(await substances_of(record, order), sets) is not None:
            return True
    return False


def subject_id(change: Change) -> str | None:
    """Return the patient a change is about."""
    resource = change.after if change.after is not None else change.before
    return None if resource is None else patient_of(resource)
