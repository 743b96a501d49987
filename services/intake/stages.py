"""The guards that keep a course in step: a referral, answers and a plan move it, a person moves it as far as he may."""

from __future__ import annotations

from collections.abc import Mapping

from services.intake.course import bring_up_to_date, is_screening, subject_id
from services.intake.planning import guard_plan
from services.intake.referrals import acknowledge, follow_referral
from services.intake.rules.course import UNDECIDED, may_move, statuses_of
from services.intake.setting import Setting
from shared.fhir.json import Resource
from shared.fhir.kap import (
    RUNNING_EPISODE,
    consent_routes,
    eligibility_outcome,
    is_course,
    is_referral,
    latest_eligibility,
    patient_of,
    routes_consented,
    stage_of,
    stage_reason,
    stages_of,
)
from shared.fhir.outcome import Unprocessable
from shared.runtime.joined import denied_elsewhere
from shared.runtime.raising import is_own_work
from shared.runtime.record import Record
from shared.runtime.service import Change, Guard


def course_guards(setting: Setting) -> Mapping[str, Guard]:
    """Return the guards of what moves a course, by type."""

    async def referral(change: Change, record: Record) -> None:
        patient = subject_id(change)
        concerned = any(is_referral(one) for one in (change.before, change.after) if one is not None)
        if concerned and patient is not None and not is_own_work():
            await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)
            await acknowledge(change, record, setting)

    async def plan(change: Change, record: Record) -> None:
        await guard_plan(change, record, setting)
        patient = subject_id(change)
        if patient is not None and change.after is not None and change.after.get("status") == "active":
            await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)

    async def episode(change: Change, record: Record) -> None:
        await _episode(change, record, setting)
        await follow_referral(change, record, setting)

    async def answers(change: Change, record: Record) -> None:
        patient = subject_id(change)
        concerned = any(is_screening(one) for one in (change.before, change.after) if one is not None)
        if concerned and patient is not None and not is_own_work():
            await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)

    return {"ServiceRequest": referral, "QuestionnaireResponse": answers, "CarePlan": plan, "EpisodeOfCare": episode}


async def _episode(change: Change, record: Record, setting: Setting) -> None:
    after, before = change.after, change.before
    was, is_ = is_course(before or {}), is_course(after or {})
    if is_own_work() or not (was or is_):
        return
    if after is None or before is None or was != is_:
        raise Unprocessable(
            "A course is opened by a referral (POST ServiceRequest, code kap-referral), goes on by screening, consent, "
            "plan and visits, and is ended by its status. Post the referral, or change the course that there is.",
            expression=["EpisodeOfCare"],
            rule="K-COURSE",
            source="KAP Exchange",
            evidence=[] if before is None else [f"EpisodeOfCare/{change.id}"],
        )
    if not may_move(stage_of(before), stage_of(after)) or not _keeps_history(before, after):
        raise Unprocessable(
            f"A course cannot go from stage {stage_of(before)} to {stage_of(after)} by hand: it follows from "
            "screening, consent, plan and visits, and what it has been through stays. It can be stopped at any time.",
            expression=["EpisodeOfCare.extension"],
            rule="K-STAGE",
            source="KAP Exchange",
            evidence=[f"EpisodeOfCare/{change.id}"],
        )
    if stage_of(after) == "stopped" and stage_of(before) != "stopped" and stage_reason(after) is None:
        raise Unprocessable(
            "A course that is stopped says why: give the reason (CodeableConcept, with a text) in the extension "
            "kap-stage of the stage stopped, beside its stage and period.",
            expression=["EpisodeOfCare.extension"],
            rule="K-REASON",
            source="KAP Exchange",
            evidence=[f"EpisodeOfCare/{change.id}"],
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
            evidence=[f"EpisodeOfCare/{change.id}"],
        )
    if before["status"] not in RUNNING_EPISODE and after["status"] in RUNNING_EPISODE:
        await _require_ground(record, after, setting)


def _keeps_history(before: Resource, after: Resource) -> bool:
    """Tell whether a course still says what it has been through, with one stage more at most."""
    held, said = stages_of(before), stages_of(after)
    return said[: len(held)] == held and len(said) <= len(held) + 1


async def _require_ground(record: Record, episode: Resource, setting: Setting) -> None:
    about = {"patient": f"Patient/{patient_of(episode)}"}
    newest = latest_eligibility(await record.search("RiskAssessment", about))
    now = setting.clock()
    consents = await record.search("Consent", about)
    consents.extend(await denied_elsewhere(record, str(patient_of(episode)), now))
    consented = bool(routes_consented(consents, now))
    eligible = newest is not None and eligibility_outcome(newest) == "eligible"
    if not eligible or (stage_of(episode) not in (*UNDECIDED, "eligible") and not consented):
        lacking = "an eligible screening" if not eligible else "a consent in force"
        held = [newest] if not eligible else [one for one in consents if consent_routes(one)]
        evidence = [f"{one['resourceType']}/{one['id']}" for one in held if one is not None]
        raise Unprocessable(
            f"The course cannot go on: it needs {lacking}. Obtain it first, then change the status.",
            expression=["EpisodeOfCare.status"],
            rule="K-HOLD",
            source="KAP Exchange",
            evidence=evidence or [about["patient"]],
        )
