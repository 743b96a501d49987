"""Intake's guards: they gather what the rules need, refuse what is about to happen, and keep the course in step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.intake.consents import guard_consent
from services.intake.course import subject_id
from services.intake.decisions import require_decision
from services.intake.directory import guard_directory
from services.intake.glass import guard_glass
from services.intake.history import guard_history
from services.intake.matching import ask_whether_double, require_known
from services.intake.merging import guard_links
from services.intake.orders import guard_order
from services.intake.rules.matching import MatchPolicy
from services.intake.screening import JUDGED_BY, judge_again, judge_in_place_of, judge_who_takes
from services.intake.setting import Setting
from services.intake.stages import course_guards
from shared.fhir.kap import (
    eligibility_outcome,
)
from shared.fhir.outcome import Unprocessable
from shared.notify.telling import withdraw_when_stopped
from shared.runtime.belonging import belongs_here
from shared.runtime.ownership import BY_ENCOUNTER
from shared.runtime.raising import is_own_work
from shared.runtime.record import Record
from shared.runtime.service import Change, Guard


def guards(setting: Setting) -> Mapping[str, Sequence[Guard]]:
    """Return intake's guards by type, under a policy."""
    matching = setting.policy.section("matching", MatchPolicy)

    async def assessment(change: Change, record: Record) -> None:
        concerned = [one for one in (change.before, change.after) if one is not None and eligibility_outcome(one)]
        if concerned and not is_own_work():
            patient = subject_id(change)
            if change.after is not None and change.after["status"] == "entered-in-error" and patient is not None:
                await judge_in_place_of(change, patient, record, setting)
                return
            raise Unprocessable(
                "Eligibility is decided by POST Patient/<id>/$screen, which shows its working; it cannot be posted. "
                "Have the questions answered, then screen.",
                expression=["RiskAssessment.code"],
                rule="E-SCREEN",
                source="KAP Exchange",
            )

    async def consent(change: Change, record: Record) -> None:
        await guard_consent(change, record, setting)

    async def dose(change: Change, record: Record) -> None:
        await guard_history(change, record, setting)

    async def order(change: Change, record: Record) -> None:
        await guard_order(change, record, setting)

    async def decision(change: Change, record: Record) -> None:
        await require_decision(change, record, setting)

    async def screened(change: Change, record: Record) -> None:
        await judge_again(change, record, setting)

    async def recoded(change: Change, record: Record) -> None:
        await judge_who_takes(change, record, setting)

    async def entered(change: Change, record: Record) -> None:
        await ask_whether_double(change, record, setting, matching)

    async def referred(change: Change, record: Record) -> None:
        await require_known(change, record, matching)

    course = course_guards(setting)
    own: dict[str, tuple[Guard, ...]] = {
        **dict.fromkeys((*BY_ENCOUNTER, "Encounter"), (belongs_here,)),
        "MedicationAdministration": (belongs_here, dose),
        "QuestionnaireResponse": (belongs_here, course["QuestionnaireResponse"]),
        "Communication": (withdraw_when_stopped,),
        **dict.fromkeys(("Practitioner", "PractitionerRole", "Organization", "Location"), (guard_directory,)),
        "Patient": (guard_links, entered),
        "Task": (guard_glass, setting.escalation.guard),
        "ServiceRequest": (referred, course["ServiceRequest"]),
        "RiskAssessment": (assessment,),
        "DetectedIssue": (decision,),
        "Consent": (consent,),
        "MedicationRequest": (order,),
        "Medication": (recoded,),
        "CarePlan": (course["CarePlan"],),
        "EpisodeOfCare": (course["EpisodeOfCare"],),
    }
    return {**own, **{type_: (*own.get(type_, ()), screened) for type_ in JUDGED_BY}}
