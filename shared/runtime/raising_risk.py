"""Raising what answers to the clinic's own forms say about the risk of suicide, by whoever keeps them.

    await raise_said(response, before, patient, runs, forms, escalation, record, now)

They are raised in the transaction that stores them, or takes in the news of them, and by one service: sessions those of
a visit, outcomes those that intake keeps. `runs` are the screeners that clinicians ran: one since the answers has done
what they call for, so that nobody is called late for what is settled; it is on record all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from shared.fhir.at_risk import ANSWERS, FORM, TOOK_DOWN, Forms, Run, given_at, said_in, since
from shared.fhir.codes import ID_FLAG, KAP, SUICIDE_PRECAUTIONS, SUICIDE_RISK, Code
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import moment
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import flag, task
from shared.runtime.escalation import Escalation
from shared.runtime.raising import is_own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change


async def raise_said(
    response: Resource,
    before: Resource | None,
    patient: str,
    runs: Iterable[Run],
    forms: Forms,
    escalation: Escalation,
    record: Record,
    now: datetime,
) -> None:
    """Raise what the answers to a form say: Flag, and Task with its ladder; ended where a screener was run since.

    What was raised for the version before, and closed, opens again where this one says another thing.
    """
    said, given = said_in(response, forms), response.get("authored")
    if said is None or (given is not None and moment(given) < now - timedelta(days=forms.within_days)):
        return
    name = ("risk", str(response["id"]), FORM)
    text = f"An answer to a form of the clinic: {said}. {forms.advice}"
    raised = flag(name, patient=patient, code=SUICIDE_RISK, text=text, now=now)
    made = task(
        name,
        patient=patient,
        code=Code(KAP, forms.task, forms.title),
        description=f"{text} Source: {forms.source}.",
        now=now,
        priority="stat",
        focus=f"QuestionnaireResponse/{response['id']}",
        due=now + timedelta(hours=forms.within_hours),
    )
    made["reasonCode"] = SUICIDE_PRECAUTIONS.concept()
    again = said != said_in(before, forms)
    amended = before is not None and again
    counts = given_at(response, now, amended=amended)
    if amended:
        made["restriction"]["period"]["start"] = counts
    ended = since(runs, counts)
    if ended:
        await raise_done(raised, made, ended, record, now, again=again)
        return
    await raise_once(record, raised, reopen=again)
    await escalation.raise_task(record, made, now, reopen=again)


async def raise_done(
    raised: Resource, made: Resource, runs: Sequence[Run], record: Record, now: datetime, *, again: bool
) -> None:
    """Keep a Flag and a Task as done by the screeners that were run since what called for them was answered."""
    calm = next((one for one in runs if one.calm), None)
    by = calm or runs[0]
    over = {} if calm is None else {"status": "inactive", "period": {**raised["period"], "end": zulu(now)}}
    outputs = [by.output(ANSWERS), *([] if calm is None else [calm.output(TOOK_DOWN)])]
    await raise_once(record, {**raised, **over}, reopen=again)
    await raise_once(record, {**made, "status": "completed", "owner": by.by, "output": outputs}, reopen=again)


RAISED: Final = ("risk:", "watch:")
"""How the names of the Flags begin that stand until what they say is settled: of suicidality, of a complaint."""


async def keep_flags(change: Change, record: Record) -> None:
    """Guard of Flag: one of suicidality, or of a complaint that is not reviewed, is taken down by no hand.

    Raises:
        Unprocessable: a client would end, change or delete one that is up.

    """
    before, after = change.before or {}, change.after or {}
    names = [one["value"] for one in before.get("identifier", []) if one.get("system") == ID_FLAG and "value" in one]
    if is_own_work() or before.get("status") != "active" or not any(one.startswith(RAISED) for one in names):
        return
    said = ("status", "identifier", "code", "subject", "period")
    if any(before.get(element) != after.get(element) for element in said):
        raise Unprocessable(
            "This Flag stands until what it says is settled, and is not taken down by hand: one of suicidality comes "
            "down by a clinician's complete C-SSRS without risk, one of a complaint with the Task to review it.",
            code="business-rule",
            expression=["Flag.status"],
            rule="T-KEEP",
            source="KAP Exchange",
        )
