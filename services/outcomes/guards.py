"""Outcomes' guards: answers are scored in the transaction that stores them; an alarming one is raised there too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.outcomes.expectations import fulfil
from services.outcomes.risks import end_what_asked_for_it, raise_risk, raise_risk_elsewhere
from services.outcomes.rules.instruments import Instrument
from services.outcomes.rules.risk import is_settled
from services.outcomes.rules.scoring import COUNTED, Scored, instrument_of, score
from services.outcomes.scores import keep_risk, keep_score, withdraw
from services.outcomes.setting import Setting
from services.outcomes.surveillance import lift_pause
from services.outcomes.taken_back import stand_again
from shared.fhir.codes import COMPLETE_QUESTIONNAIRE, ID_TASK
from shared.fhir.json import Resource
from shared.fhir.kap import id_in
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import identifier, task
from shared.notify.telling import withdraw_when_stopped
from shared.runtime.ownership import OUTCOMES, owner_of
from shared.runtime.raising import close_task, is_own_work, keep_names, raise_once
from shared.runtime.raising_risk import keep_flags
from shared.runtime.record import Record
from shared.runtime.service import Change, Guard


def guards(setting: Setting) -> Mapping[str, Sequence[Guard]]:
    """Return outcomes' guards by type, under a policy."""

    async def answers(change: Change, record: Record) -> None:
        await _answers(change, record, setting)

    async def reviewed(change: Change, record: Record) -> None:
        await lift_pause(change, record, setting)

    return {
        "QuestionnaireResponse": (answers,),
        "Observation": (_score_only,),
        "Task": (keep_names, setting.escalation.guard, reviewed),
        "Flag": (keep_names, keep_flags),
        "Communication": (keep_names, withdraw_when_stopped),
    }


async def _score_only(change: Change, record: Record) -> None:
    if not is_own_work():
        raise Unprocessable(
            "A score is made from its answers: post or correct the QuestionnaireResponse.",
            expression=["Observation"],
            rule="O-SCORE",
            source="KAP Exchange",
        )


def whose(answers: Resource) -> str:
    """Return the logical id of the patient whose answers they are.

    Raises:
        Unprocessable: they name none.

    """
    patient = id_in(answers.get("subject"), "Patient")
    if patient is None:
        raise Unprocessable(
            "Answers need their patient: give QuestionnaireResponse.subject.",
            code="required",
            expression=["QuestionnaireResponse.subject"],
            rule="O-SUBJECT",
            source="US Core QuestionnaireResponse",
        )
    return patient


async def _answers(change: Change, record: Record, setting: Setting) -> None:
    after = change.after
    if after is None:
        await withdraw(change.id, record, setting)
        await stand_again(change, record, setting)
        return
    owner = owner_of(after, origin_of=lambda _type, _id: None)
    found = instrument_of(after, setting.instruments)
    if owner != OUTCOMES or found is None:
        raise Unprocessable(
            f"Answers to this questionnaire belong to {owner}; only outcome instruments are kept here.",
            expression=["QuestionnaireResponse.questionnaire"],
        )
    patient = whose(after)
    name, instrument = found
    if after["status"] == "entered-in-error":
        await withdraw(change.id, record, setting)
        await stand_again(change, record, setting)
        return
    risk = await raise_risk(after, change.before, patient, instrument, record, setting)
    await raise_risk_elsewhere(after, change.before, patient, name, record, setting)
    counts = after["status"] in COUNTED
    await withdraw(change.id, record, setting, keep=name if counts else None)
    await stand_again(change, record, setting)
    if not counts:
        return
    scored = score(after, instrument)
    if next(instrument.scores(), None) is not None:
        await keep_score(after, name, instrument, scored, record, setting)
    is_known = instrument.risk is None or is_settled(risk, scored.missing, instrument.risk)
    await keep_risk(after, name, instrument, risk, record, setting, known=is_known)
    await _ask_for_missing(after, patient, instrument, scored, record, setting)
    await fulfil(after, patient, instrument, record, setting)
    await end_what_asked_for_it(after, instrument, risk, patient, record, setting)


async def _ask_for_missing(
    response: Resource, patient: str, instrument: Instrument, scored: Scored, record: Record, setting: Setting
) -> None:
    """Say which answers are missing; a missing one about suicide is urgent."""
    now, name = setting.clock(), ("missing", response["id"])
    if not scored.missing:
        await close_task(record, identifier(ID_TASK, *name), now, why="All answers are there.")
        return
    missing = ", ".join(scored.missing)
    grave = instrument.risk is not None and not instrument.risk.items.isdisjoint(scored.missing)
    text = f"{instrument.title}: these answers are missing or not understood: {missing}."
    made = task(
        name,
        patient=patient,
        code=COMPLETE_QUESTIONNAIRE,
        description=f"{text} Ask about suicidal thoughts in this contact." if grave else text,
        now=now,
        priority="urgent" if grave else "routine",
        focus=f"QuestionnaireResponse/{response['id']}",
    )
    await raise_once(record, made, reopen=True)
