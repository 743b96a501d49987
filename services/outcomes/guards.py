"""Outcomes' guards: answers are scored in the transaction that stores them; an alarming one is raised there too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from services.outcomes.expectations import fulfil
from services.outcomes.rules import (
    COUNTED,
    Instrument,
    Scored,
    instrument_of,
    is_alarming,
    score,
    score_observation,
)
from services.outcomes.setting import Setting
from shared.fhir.codes import (
    ASK_CSSRS,
    COMPLETE_QUESTIONNAIRE,
    ID_SCORE,
    ID_TASK,
    SUICIDE_RISK,
)
from shared.fhir.json import Resource
from shared.fhir.kap import id_in
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import flag, identifier, task
from shared.runtime.ownership import OUTCOMES, owner_of
from shared.runtime.raising import close_task, content_of, find, is_own_work, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change, Guard


def guards(setting: Setting) -> Mapping[str, Sequence[Guard]]:
    """Return outcomes' guards by type, under a policy."""

    async def answers(change: Change, record: Record) -> None:
        await _answers(change, record, setting)

    return {"QuestionnaireResponse": (answers,), "Observation": (_score_only,)}


async def _score_only(change: Change, record: Record) -> None:
    if not is_own_work():
        raise Unprocessable(
            "A score is made from its answers: post or correct the QuestionnaireResponse.",
            expression=["Observation"],
            rule="O-SCORE",
            source="KAP Exchange",
        )


async def _answers(change: Change, record: Record, setting: Setting) -> None:
    after = change.after
    if after is None:
        await _withdraw(change, record, setting)
        return
    found = instrument_of(after, setting.instruments)
    if found is None:
        owner = owner_of(after, origin_of=lambda _type, _id: None)
        if owner != OUTCOMES:
            raise Unprocessable(
                f"Answers to this questionnaire belong to {owner}; only outcome instruments are kept here.",
                expression=["QuestionnaireResponse.questionnaire"],
            )
        return
    patient = id_in(after.get("subject"), "Patient")
    if patient is None:
        raise Unprocessable(
            "Answers need their patient: give QuestionnaireResponse.subject.",
            code="required",
            expression=["QuestionnaireResponse.subject"],
            rule="O-SUBJECT",
            source="US Core QuestionnaireResponse",
        )
    name, instrument = found
    if after["status"] == "entered-in-error":
        await _withdraw(change, record, setting)
        return
    scored = score(after, instrument)
    if is_alarming(scored, instrument):
        before = change.before
        said = None if before is None or before["status"] == "entered-in-error" else score(before, instrument).risk
        await _raise_risk(after, patient, instrument, record, setting, again=said != scored.risk)
    if after["status"] in COUNTED:
        await _keep_score(after, name, instrument, scored, record, setting)
        await _ask_for_missing(after, patient, instrument, scored, record, setting)
        await fulfil(after, patient, instrument, record, setting)


async def _keep_score(
    response: Resource, name: str, instrument: Instrument, scored: Scored, record: Record, setting: Setting
) -> None:
    held = await find(record, "Observation", identifier(ID_SCORE, response["id"], name))
    if held is None and scored.total is None:
        return
    made = score_observation(response, name, instrument, scored, setting.version, again=held is not None)
    with own_work():
        if held is None:
            await record.create(made)
        else:
            await record.update({**made, "id": held["id"]})


async def _withdraw(change: Change, record: Record, setting: Setting) -> None:
    """The answers are gone or wrong: so is their score. What was raised stays for a person to close."""
    resource = change.before or {}
    found = instrument_of(resource, setting.instruments)
    held = None if found is None else await find(record, "Observation", identifier(ID_SCORE, change.id, found[0]))
    if held is not None and held["status"] != "entered-in-error":
        with own_work():
            await record.update(content_of({**held, "status": "entered-in-error"}))


async def _raise_risk(
    response: Resource, patient: str, instrument: Instrument, record: Record, setting: Setting, *, again: bool
) -> None:
    """Raise an alarming answer; `again`: it is another than before, so what was closed opens again."""
    now = setting.clock()
    risk = instrument.risk
    source = "" if risk is None else risk.source
    text = f"{instrument.title}: the answer about suicidal thoughts is positive. {source}"
    name = ("risk", response["id"])
    raised = flag(name, patient=patient, code=SUICIDE_RISK, text=text, now=now)
    await raise_once(record, raised, reopen=again)
    await raise_once(
        record,
        task(
            name,
            patient=patient,
            code=ASK_CSSRS,
            description=text,
            now=now,
            priority="stat",
            focus=f"QuestionnaireResponse/{response['id']}",
            due=now,
        ),
        reopen=again,
    )


async def _ask_for_missing(
    response: Resource, patient: str, instrument: Instrument, scored: Scored, record: Record, setting: Setting
) -> None:
    now: datetime = setting.clock()
    name = ("missing", response["id"])
    if not scored.missing:
        await close_task(record, identifier(ID_TASK, *name), now, why="All answers are there.")
        return
    missing = ", ".join(scored.missing)
    text = f"{instrument.title}: no total, because these answers are missing or not understood: {missing}."
    made = task(
        name,
        patient=patient,
        code=COMPLETE_QUESTIONNAIRE,
        description=text,
        now=now,
        focus=f"QuestionnaireResponse/{response['id']}",
    )
    await raise_once(record, made, reopen=True)
