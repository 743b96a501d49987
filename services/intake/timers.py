"""What intake does by time: who has a course is judged anew, a consent's text has changed, nobody reviews."""

from __future__ import annotations

from datetime import timedelta

from services.intake.consents import ask_to_renew
from services.intake.screening import judge_by_time
from services.intake.setting import Setting
from shared.fhir.codes import COURSE
from shared.fhir.json import Resource
from shared.fhir.kap import is_treatment_consent, patient_of
from shared.runtime.record import Record
from shared.runtime.timers import Round, Timer


def timers(setting: Setting) -> tuple[Timer, ...]:
    """Return intake's timers under a policy."""

    async def judged(round_: Round) -> None:
        async def look(course: Resource, record: Record) -> None:
            patient = patient_of(course)
            if patient is not None:
                await judge_by_time(record, patient, setting)

        running = {"type": COURSE.token(), "status": "planned,active,onhold"}
        await round_.each(await round_.search("EpisodeOfCare", running), look)

    async def consents_renewed(round_: Round) -> None:
        async def look(consent: Resource, record: Record) -> None:
            if is_treatment_consent(consent):
                await ask_to_renew(consent, record, setting)

        await round_.each(await round_.search("Consent", {"status": "active"}), look)

    return (
        Timer("judged-anew", timedelta(hours=1), judged),
        setting.escalation.timer(),
        Timer("consent-renewal", timedelta(days=1), consents_renewed),
    )
