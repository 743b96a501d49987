"""What intake does because time has passed: answers grow too old, the text of a consent changes, nobody reviews."""

from __future__ import annotations

from datetime import timedelta

from services.intake.consents import ask_to_renew
from services.intake.screening import ask_again
from services.intake.setting import Setting
from shared.fhir.codes import COURSE
from shared.fhir.json import Resource
from shared.fhir.kap import is_treatment_consent, patient_of
from shared.runtime.record import Record
from shared.runtime.timers import Round, Timer


def timers(setting: Setting) -> tuple[Timer, ...]:
    """Return intake's timers under a policy."""

    async def answers_age(round_: Round) -> None:
        async def look(course: Resource, record: Record) -> None:
            patient = patient_of(course)
            if patient is not None:
                await ask_again(record, patient, setting)

        running = {"type": COURSE.token(), "status": "planned,active"}
        await round_.each(await round_.search("EpisodeOfCare", running), look)

    async def consents_renewed(round_: Round) -> None:
        async def look(consent: Resource, record: Record) -> None:
            if is_treatment_consent(consent):
                await ask_to_renew(consent, record, setting)

        await round_.each(await round_.search("Consent", {"status": "active"}), look)

    return (
        Timer("answers-age", timedelta(hours=1), answers_age),
        setting.escalation.timer(),
        Timer("consent-renewal", timedelta(days=1), consents_renewed),
    )
