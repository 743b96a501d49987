"""Intake's guards: they gather what the rules need, refuse what is about to happen, and keep the course in step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.intake.consents import guard_consent
from services.intake.course import bring_up_to_date, subject_id
from services.intake.decisions import require_decision
from services.intake.directory import guard_directory
from services.intake.merging import guard_links
from services.intake.orders import guard_order
from services.intake.rules.course import may_move, statuses_of
from services.intake.screening import JUDGED_BY, judge_again
from services.intake.setting import Setting
from shared.fhir.json import Resource
from shared.fhir.kap import (
    RUNNING_EPISODE,
    eligibility_outcome,
    is_course,
    is_referral,
    latest_eligibility,
    patient_of,
    routes_consented,
    stage_of,
    stages_of,
)
from shared.fhir.outcome import Unprocessable
from shared.runtime.belonging import belongs_here
from shared.runtime.ownership import BY_ENCOUNTER
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
        await guard_consent(change, record, setting)

    async def order(change: Change, record: Record) -> None:
        await guard_order(change, record, setting)

    async def plan(change: Change, record: Record) -> None:
        patient = subject_id(change)
        if patient is not None and change.after is not None and change.after.get("status") == "active":
            await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)

    async def episode(change: Change, record: Record) -> None:
        await _episode(change, record, setting)

    async def decision(change: Change, record: Record) -> None:
        await require_decision(change, record, setting)

    async def screened(change: Change, record: Record) -> None:
        await judge_again(change, record, setting)

    own: dict[str, tuple[Guard, ...]] = {
        **dict.fromkeys((*BY_ENCOUNTER, "Encounter", "QuestionnaireResponse"), (belongs_here,)),
        **dict.fromkeys(("Practitioner", "PractitionerRole", "Organization", "Location"), (guard_directory,)),
        "Patient": (guard_links,),
        "ServiceRequest": (referral,),
        "RiskAssessment": (assessment,),
        "DetectedIssue": (decision,),
        "Consent": (consent,),
        "MedicationRequest": (order,),
        "CarePlan": (plan,),
        "EpisodeOfCare": (episode,),
    }
    return {**own, **{type_: (*own.get(type_, ()), screened) for type_ in JUDGED_BY}}


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
    allowed = statuses_of(stages_of(after), stage_of(after))
    moved = (stage_of(before), before["status"]) != (stage_of(after), after["status"])
    if moved and after["status"] not in {*allowed, "entered-in-error"}:
        raise Unprocessable(
            f"A course in stage {stage_of(after)} is {' or '.join(sorted(allowed))}, not {after['status']}; one that "
            "ends before its first dosing session is cancelled. Give status and stage together.",
            expression=["EpisodeOfCare.status"],
            rule="K-STATUS",
            source="FHIR R4 EpisodeOfCare.status; kap-stage",
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
