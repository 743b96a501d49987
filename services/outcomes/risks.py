"""Raising what answers say about the risk of suicide, in the transaction that stores them: it waits for nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from services.outcomes.rules.instruments import Instrument, Level
from services.outcomes.rules.risk import AtRisk, is_graver, risk_of, says_more
from services.outcomes.rules.scoring import COUNTED, answers_of, instrument_of, score
from services.outcomes.setting import Setting
from shared.fhir.at_risk import ANSWERS, TOOK_DOWN, Run, Said, asked_from, given_at, since
from shared.fhir.codes import (
    CRISIS_PLAN,
    ID_FLAG,
    ID_TASK,
    KAP,
    SAFETY_PLAN,
    SUICIDE_PRECAUTIONS,
    SUICIDE_RISK,
    Code,
)
from shared.fhir.dates import zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import codes_of, id_in, moment
from shared.fhir.outcome import Gone, NotFound
from shared.fhir.raised import flag, identifier, task
from shared.runtime.escalation import is_acknowledged
from shared.runtime.raising import OPEN_TASK, close_flag, content_of, find, own_work, raise_once
from shared.runtime.raising_risk import raise_done, raise_said
from shared.runtime.record import Record
from shared.store.access import Access

_CLINICIANS = ("Practitioner", "PractitionerRole")


def risk_in(response: Resource | None, instrument: Instrument, *, own: bool = True) -> AtRisk | None:
    """Return the risk that a version of a response says, None where there is none or the version does not count.

    `own`: the response is to this instrument; in one to another, an item that is not there is not missing.
    """
    if response is None or response["status"] == "entered-in-error":
        return None
    return risk_of(answers_of(response, instrument), instrument, final=own and response["status"] in COUNTED)


async def raise_risk_elsewhere(
    response: Resource,
    before: Resource | None,
    patient: str,
    name: str,
    record: Record,
    setting: Setting,
    runs: Sequence[Run] = (),
) -> None:
    """Raise what the answers say about items of other instruments than the one that the response names.

    A clinic's form may ask more than its canonical says, and a client may name the wrong one.
    """
    for other, instrument in setting.instruments.items():
        if other != name:
            await raise_risk(response, before, patient, instrument, record, setting, own=False, runs=runs)


async def raise_risk(
    response: Resource,
    before: Resource | None,
    patient: str,
    instrument: Instrument,
    record: Record,
    setting: Setting,
    *,
    own: bool = True,
    runs: Sequence[Run] = (),
) -> AtRisk | None:
    """Raise the risk that the answers say: Flag, Task with its ladder, safety plan. Return it.

    What was raised for the version before, and closed, opens again where this one says another thing, no less grave;
    where somebody has taken it, and this one is worse, it is another call.
    `runs`: screeners by clinicians that end what asks for one; of answers that come late as news.
    """
    found = risk_in(response, instrument, own=own)
    if found is None or instrument.risk is None:
        return found
    was = risk_in(before, instrument, own=own)
    again = is_graver(found, was, instrument.risk)
    several = len(instrument.risk.levels) > 1
    name: tuple[str, ...] = ("risk", response["id"], found.level.name) if several else ("risk", response["id"])
    asks = found.level.task == setting.forms.task
    given = given_at(response, setting.clock(), amended=before is not None and found != was)
    done = since(runs, given) if asks else []
    name = await _place(name, record, more=says_more(found, was, instrument.risk))
    await _call(response, found, name, patient, record, setting, instrument, done, again=again)
    return found


async def _place(name: tuple[str, ...], record: Record, *, more: bool) -> tuple[str, ...]:
    """Return the name of a call: that of the last, or the next where it is `more` now than what somebody took."""
    number, named, last = 1, name, await find(record, "Task", identifier(ID_TASK, *name))
    while last is not None:
        following = (*name, str(number + 1))
        held = await find(record, "Task", identifier(ID_TASK, *following))
        if held is None:
            taken = last["status"] in OPEN_TASK and is_acknowledged(last)
            return following if more and taken else named
        number, named, last = number + 1, following, held
    return named


async def raise_what_was_answered_elsewhere(
    response: Resource, before: Resource | None, patient: str, record: Record, setting: Setting, *, here: bool
) -> None:
    """Raise the risk that answers say which another service keeps: to its forms, or from another system.

    They are raised with the news of them; what a clinician's screener has settled since is on record, and calls nobody.
    What is older than the policy says is history. `here`: the forms are raised here; sessions raises its own with them.
    """
    now = setting.clock()
    oldest = now - timedelta(days=setting.forms.within_days)
    if response["status"] == "entered-in-error" or ("authored" in response and moment(response["authored"]) < oldest):
        return
    runs = await _runs_of(patient, record, setting)
    await raise_risk_elsewhere(response, before, patient, "", record, setting, runs)
    if here:
        await raise_said(response, before, patient, runs, setting.forms, setting.escalation, record, now)


async def _runs_of(patient: str, record: Record, setting: Setting) -> list[Run]:
    """Return the screeners that clinicians ran to their end, oldest first."""
    found = []
    for one in await record.search("QuestionnaireResponse", {"subject": f"Patient/{patient}"}):
        named = instrument_of(one, setting.instruments)
        when = None if named is None or not has_run(one, named[1]) else await run_at(one, record, setting)
        if named is not None and when is not None:
            calm = risk_in(one, named[1]) is None
            found.append(Run(f"QuestionnaireResponse/{one['id']}", one["author"], when, calm))
    return sorted(found, key=lambda run: run.when)


async def _call(
    response: Resource,
    found: AtRisk,
    name: tuple[str, ...],
    patient: str,
    record: Record,
    setting: Setting,
    instrument: Instrument,
    done: Sequence[Run],
    *,
    again: bool,
) -> None:
    now, level = setting.clock(), found.level
    text = f"{instrument.title}: {Said(found.signs, found.not_understood)}. {level.advice}"
    source = "" if instrument.risk is None else instrument.risk.source
    flagged = flag(name, patient=patient, code=SUICIDE_RISK, text=text, now=now)
    if level.answer is not None:
        flagged["code"]["coding"].append(Code(KAP, f"suicide-risk-{level.name}").coding())
    made = task(
        name,
        patient=patient,
        code=Code(KAP, level.task, level.title),
        description=f"{text} Source: {source}.",
        now=now,
        priority=level.priority,
        focus=f"QuestionnaireResponse/{response['id']}",
        due=now + timedelta(hours=level.within_hours),
    )
    if level.priority == "stat":
        made["reasonCode"] = SUICIDE_PRECAUTIONS.concept()
    if done:
        await raise_done(flagged, made, done, record, now, again=again)
        return
    await raise_once(record, flagged, reopen=again)
    if setting.escalation.ladder_of(made) is None:
        await raise_once(record, made, reopen=again)
    else:
        await setting.escalation.raise_task(record, made, now, reopen=again)
    if level.safety_plan:
        await _ask_for_safety_plan(response, level, patient, record, setting)


async def _ask_for_safety_plan(
    response: Resource, level: Level, patient: str, record: Record, setting: Setting
) -> None:
    now = setting.clock()
    made = task(
        ("safety-plan", response["id"]),
        patient=patient,
        code=SAFETY_PLAN,
        description="Make the safety plan with the patient, or go through it again; offer it where risk is low.",
        now=now,
        priority=level.priority,
        focus=f"QuestionnaireResponse/{response['id']}",
        due=now + timedelta(hours=level.within_hours),
    )
    made["code"]["coding"].append(CRISIS_PLAN.coding())
    await raise_once(record, made)


def has_run(response: Resource, instrument: Instrument, task: Resource | None = None) -> bool:
    """Tell whether a clinician ran an instrument to its end that ends Tasks which ask for it; `task`: this one."""
    ends = None if instrument.risk is None else instrument.risk.ends_task
    if ends is None or (task is not None and ends not in codes_of(task.get("code"), KAP)):
        return False
    by_clinician = any(id_in(response.get("author"), type_) for type_ in _CLINICIANS)
    return by_clinician and response["status"] in COUNTED and not score(response, instrument).missing


async def end_what_asked_for_it(
    response: Resource, instrument: Instrument, risk: AtRisk | None, patient: str, record: Record, setting: Setting
) -> None:
    """Complete the Tasks that asked for the instrument: a clinician has run it now. A patient's own answers do not.

    Where the clinician found no risk, the Flags of the answers that asked for it are taken down, too. One that was run
    before those answers were given, or nobody knows when, says nothing of them: not when it is amended either.
    """
    author = response.get("author")
    if instrument.risk is None or instrument.risk.ends_task is None or not has_run(response, instrument):
        return
    code = Code(KAP, instrument.risk.ends_task).token()
    for one in await record.search("Task", {"patient": f"Patient/{patient}", "code": code}):
        if (
            one["status"] in ("completed", "cancelled", "entered-in-error")
            or id_in(one.get("for"), "Patient") != patient
            or not await is_since(response, one, record, setting)
        ):
            continue
        owner = one["owner"] if is_acknowledged(one) and "owner" in one else author
        done = {
            **one,
            "status": "completed",
            "owner": owner,
            "output": [_output(ANSWERS, response)],
            "lastModified": zulu(setting.clock()),
        }
        with own_work():
            await record.update(content_of(done))
        if risk is None:
            for raised_for in one.get("identifier", []):
                await close_flag(record, {"system": ID_FLAG, "value": raised_for["value"]}, setting.clock())
    if risk is None:
        await _take_down(response, patient, record, setting)


def _output(what: str, response: Resource) -> dict[str, Any]:
    return {"type": {"text": what}, "valueReference": {"reference": f"QuestionnaireResponse/{response['id']}"}}


async def _take_down(response: Resource, patient: str, record: Record, setting: Setting) -> None:
    """Take down the Flags of answers that a later measurement by a clinician, without risk, has overtaken.

    One measurement raises a Flag; a second takes it down, and only where a person has ended what the first called for:
    the Flag of answers whose Task is still open stands. The Task says which measurement it was.
    """
    for up in await record.search("Flag", {"patient": f"Patient/{patient}"}):
        name = next((one["value"] for one in up.get("identifier", []) if one.get("system") == ID_FLAG), "")
        if up["status"] != "active" or name.partition(":")[0] != "risk":
            continue
        called = await find(record, "Task", {"system": ID_TASK, "value": name})
        if called is not None and called["status"] in OPEN_TASK:
            continue
        about = {"focus": {"reference": f"QuestionnaireResponse/{name.split(':')[1]}"}}
        asked = called or {**about, "authoredOn": up.get("period", {}).get("start")}
        if not await overtakes(response, asked, record, setting):
            continue
        await close_flag(record, {"system": ID_FLAG, "value": name}, setting.clock())
        if called is not None:
            said = [*called.get("output", []), _output(TOOK_DOWN, response)]
            with own_work():
                await record.update(content_of({**called, "output": said}))


async def is_since(response: Resource, asked: Mapping[str, Any], record: Record, setting: Setting) -> bool:
    """Tell whether the screener was run no earlier than the answers that asked for it were given."""
    given = await _given(asked, record)
    run = await run_at(response, record, setting)
    return run is not None and (given is None or run >= moment(given))


async def overtakes(response: Resource, asked: Mapping[str, Any], record: Record, setting: Setting) -> bool:
    """Tell whether the screener was run later than the answers were given by which a Task was raised."""
    given = await _given(asked, record)
    run = await run_at(response, record, setting)
    return run is not None and given is not None and run > moment(given)


async def run_at(response: Resource, record: Record, setting: Setting) -> datetime | None:
    """Return when answers were given: as they say, at the latest when that was first written; None: they do not say.

    Who dates a screener ahead settles nothing that is answered from then on.
    """
    if "authored" not in response:
        return None
    said, now = moment(response["authored"]), setting.clock()
    held = None if said <= now else await record.get("QuestionnaireResponse", str(response["id"]))
    if held is None:
        return min(said, now)
    whole = Access.unrestricted(record.access.tenant)
    for number in range(1, int(held["meta"]["versionId"]) + 1):
        with suppress(NotFound, Gone):
            stored = await record.transaction.read_version(whole, "QuestionnaireResponse", str(held["id"]), number)
            version = parse(stored.body)
            if version.get("authored") == response["authored"]:
                return min(said, moment(version["meta"]["lastUpdated"]))
    return now


async def _given(asked: Mapping[str, Any], record: Record) -> str | None:
    """Return when the answers were given by which a Task was raised, else when it was."""
    about = id_in(asked.get("focus"), "QuestionnaireResponse")
    return asked_from(asked, None if about is None else await record.get("QuestionnaireResponse", about))
