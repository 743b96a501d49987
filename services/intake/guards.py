"""Intake's guards: they gather what the rules need, refuse what is about to happen, and keep the course in step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from services.intake.course import bring_up_to_date, subject_id
from services.intake.rules.course import may_move
from services.intake.rules.orders import Weight, check_consent, check_order
from services.intake.setting import Setting
from shared.fhir.codes import WEIGHT
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import (
    RUNNING_EPISODE,
    drug_of,
    effective_start,
    eligibility_outcome,
    id_in,
    is_course,
    is_order_in_force,
    is_referral,
    is_treatment_consent,
    latest_eligibility,
    patient_of,
    quantity_in,
    routes_consented,
    stage_of,
)
from shared.fhir.outcome import Unprocessable
from shared.runtime.belonging import belongs_here
from shared.runtime.medications import medication_of
from shared.runtime.ownership import BY_ENCOUNTER, comes_from_elsewhere
from shared.runtime.raising import is_own_work
from shared.runtime.record import Record
from shared.runtime.service import Change, Guard


def guards(setting: Setting) -> Mapping[str, Sequence[Guard]]:
    """Return intake's guards by type, under a policy."""

    async def referral(change: Change, record: Record) -> None:
        patient = subject_id(change)
        if change.after is not None and is_referral(change.after) and patient is not None:
            await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)

    async def assessment(change: Change, record: Record) -> None:
        concerned = [one for one in (change.before, change.after) if one is not None and eligibility_outcome(one)]
        if concerned and not is_own_work():
            patient = subject_id(change)
            if change.after is not None and change.after["status"] == "entered-in-error" and patient is not None:
                await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)
                return
            raise Unprocessable(
                "Eligibility is decided by POST Patient/<id>/$screen, which shows its working; it cannot be posted.",
                expression=["RiskAssessment.code"],
                rule="E-SCREEN",
                source="KAP Exchange",
            )

    async def consent(change: Change, record: Record) -> None:
        await _consent(change, record, setting)

    async def order(change: Change, record: Record) -> None:
        await _order(change, record, setting)

    async def plan(change: Change, record: Record) -> None:
        patient = subject_id(change)
        if patient is not None and change.after is not None and change.after.get("status") == "active":
            await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)

    async def episode(change: Change, record: Record) -> None:
        await _episode(change, record, setting)

    async def dose_elsewhere(change: Change, record: Record) -> None:
        await _dose_elsewhere(change, record, setting)

    return {
        **dict.fromkeys((*BY_ENCOUNTER, "Encounter", "QuestionnaireResponse"), (belongs_here,)),
        "ServiceRequest": (referral,),
        "RiskAssessment": (assessment,),
        "Consent": (consent,),
        "MedicationRequest": (order,),
        "CarePlan": (plan,),
        "EpisodeOfCare": (episode,),
        "MedicationAdministration": (belongs_here, dose_elsewhere),
    }


async def _consent(change: Change, record: Record, setting: Setting) -> None:
    concerned = [one for one in (change.before, change.after) if one is not None and is_treatment_consent(one)]
    if not concerned:
        return
    after = change.after
    if after is not None and is_treatment_consent(after) and after.get("status") == "active":
        lacking = check_consent(after, setting.orders)
        if lacking:
            raise Unprocessable(lacking)
    patient = patient_of(concerned[-1])
    if patient is not None:
        await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)


async def _order(change: Change, record: Record, setting: Setting) -> None:
    after = change.after
    resource = after or change.before or {}
    drug = drug_of(await medication_of(record, resource), setting.sets)
    patient = patient_of(resource)
    if drug is None or patient is None:
        return
    is_intent = after is not None and is_order_in_force(after) and not comes_from_elsewhere(after)
    if after is not None and is_intent:
        requester = after.get("requester")
        prescribers = [id_ for type_ in ("Practitioner", "PractitionerRole") if (id_ := id_in(requester, type_))]
        weights = await _weights(record, patient, after, setting)
        issues = check_order(after, drug, weights, setting.orders, prescribers)
        if issues:
            raise Unprocessable(issues)
    await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)


async def _weights(record: Record, patient: str, order: Resource, setting: Setting) -> list[Weight]:
    ordered = interval(order["authoredOn"])[0] if "authoredOn" in order else setting.clock()
    found = []
    for one in await record.search("Observation", {"patient": f"Patient/{patient}", "code": WEIGHT.token()}):
        when = effective_start(one)
        kilograms = quantity_in(one.get("valueQuantity"), ("kg",))
        if when is not None and kilograms and one["status"] in ("final", "amended", "corrected"):
            found.append(Weight(Decimal(kilograms), (ordered.date() - when.date()).days))
    return found


async def _episode(change: Change, record: Record, setting: Setting) -> None:
    after, before = change.after, change.before
    was, is_ = is_course(before or {}), is_course(after or {})
    if is_own_work() or not (was or is_):
        return
    if after is None or before is None or was != is_:
        raise Unprocessable(
            "A course is opened by a referral and an eligible screening (POST Patient/<id>/$screen), and ended by its "
            "status.",
            expression=["EpisodeOfCare"],
            rule="K-COURSE",
            source="KAP Exchange",
        )
    if not may_move(stage_of(before), stage_of(after)):
        raise Unprocessable(
            f"A course cannot go from stage {stage_of(before)} to {stage_of(after)} by hand: it follows from "
            "screening, consent, plan and visits. It can be stopped at any time.",
            expression=["EpisodeOfCare.extension"],
            rule="K-STAGE",
            source="KAP Exchange",
        )
    if before["status"] not in RUNNING_EPISODE and after["status"] in RUNNING_EPISODE:
        await _require_ground(record, after, setting)


async def _require_ground(record: Record, episode: Resource, setting: Setting) -> None:
    about = {"patient": f"Patient/{patient_of(episode)}"}
    newest = latest_eligibility(await record.search("RiskAssessment", about))
    now = setting.clock()
    consents = await record.search("Consent", about)
    consented = bool(routes_consented(consents, now))
    eligible = newest is not None and eligibility_outcome(newest) == "eligible"
    if not eligible or (stage_of(episode) not in ("referred", "screening", "eligible") and not consented):
        lacking = "an eligible screening" if not eligible else "a consent in force"
        raise Unprocessable(
            f"The course cannot go on: it needs {lacking}.",
            expression=["EpisodeOfCare.status"],
            rule="K-HOLD",
            source="KAP Exchange",
        )


async def _dose_elsewhere(change: Change, record: Record, setting: Setting) -> None:
    """What intake keeps is history: a dose that is about to be given belongs to a visit, where its gate is."""
    after = change.after
    if after is None or after.get("status") not in ("in-progress", "on-hold") or comes_from_elsewhere(after):
        return
    if drug_of(await medication_of(record, after), setting.sets) is not None:
        raise Unprocessable(
            "A dose of ketamine is started in its visit: POST Encounter/<id>/$start-dose. One that was given elsewhere "
            "is recorded as completed.",
            expression=["MedicationAdministration.context"],
            rule="G-VISIT",
            source="KAP Exchange",
        )
