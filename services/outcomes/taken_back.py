"""What answers ended stands again when they are taken back: a call about suicide, its Flag, a Task that expects them.

Answers are taken back where they are entered in error or deleted, and where they no longer say what ended it: amended
to another author, to before the answers that called, to a form that is not complete, or to one that finds risk.
"""

from __future__ import annotations

from typing import Any, Final

from services.outcomes.risks import has_run, is_since, overtakes, risk_in
from services.outcomes.rules.schedule import MISSED, standing_of
from services.outcomes.rules.scoring import COUNTED, instrument_of
from services.outcomes.setting import Setting
from shared.fhir.at_risk import ANSWERS, TOOK_DOWN
from shared.fhir.codes import EXPECT_QUESTIONNAIRE, ID_FLAG, ID_TASK
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import has_code, patient_of
from shared.runtime.raising import content_of, find, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change

_OF_THE_END: Final = ("output", "owner", "statusReason", "businessStatus")
"""What a Task says of how it ended."""


async def stand_again(change: Change, record: Record, setting: Setting) -> None:
    """Open what the version before had ended and this one, None or entered in error included, does not end."""
    before, after = change.before, change.after
    patient = None if before is None else patient_of(before)
    if before is None or patient is None:
        return
    about = f"QuestionnaireResponse/{change.id}"
    counts = after is not None and after["status"] in COUNTED
    for one in await record.search("Task", {"patient": f"Patient/{patient}", "status": "completed"}):
        said = [out for out in one.get("output", []) if out.get("valueReference", {}).get("reference") == about]
        words = {out.get("type", {}).get("text") for out in said}
        if ANSWERS in words and has_code(one.get("code"), EXPECT_QUESTIONNAIRE):
            if not counts:
                await _expect_again(one, record, setting)
        elif words & {ANSWERS, TOOK_DOWN}:
            await _call_again(one, change, words, record, setting)


async def _expect_again(one: Resource, record: Record, setting: Setting) -> None:
    now = setting.clock()
    rest = {name: value for name, value in one.items() if name not in ("output", "statusReason", "businessStatus")}
    opened = {**rest, "status": "requested", "lastModified": zulu(now)}
    late = standing_of(opened, now, setting.policy.reminders)
    if late is not None:
        opened |= {"businessStatus": late.concept(), **({"status": "failed"} if late == MISSED else {})}
    with own_work():
        await record.update(content_of(opened))


async def _call_again(one: Resource, change: Change, words: set[Any], record: Record, setting: Setting) -> None:
    """Let a call stand again that a screener had ended, or its Flag, unless another screener ends it, too."""
    others = await record.search("QuestionnaireResponse", {"subject": f"Patient/{patient_of(one)}"})
    runs = [*([] if change.after is None else [change.after]), *(held for held in others if held["id"] != change.id)]
    ending = [run for run in runs if _has_run(run, one, setting) and await is_since(run, one, record, setting)]
    calm = [
        run for run in runs if _is_calm(run, setting) and (run in ending or await overtakes(run, one, record, setting))
    ]
    now = setting.clock()
    rest = {name: value for name, value in one.items() if name not in _OF_THE_END}
    if ANSWERS in words and not ending:
        opened = content_of({**rest, "status": "requested", "lastModified": zulu(now)})
        if setting.escalation.ladder_of(opened) is None:
            await raise_once(record, opened, reopen=True)
        else:
            await setting.escalation.raise_task(record, opened, now, reopen=True)
    else:
        by = (ending or calm)[:1]
        outputs = [
            {**out, "valueReference": {"reference": f"QuestionnaireResponse/{by[0]['id']}"}} if by else out
            for out in one["output"]
            if by or out.get("type", {}).get("text") != TOOK_DOWN
        ]
        kept = {name: value for name, value in one.items() if name != "output"}
        if outputs != one["output"]:
            with own_work():
                await record.update(content_of({**kept, **({"output": outputs} if outputs else {})}))
    if not calm and change.before is not None and _is_calm(change.before, setting):
        await _put_up(one, record)


def _has_run(response: Resource, task: Resource, setting: Setting) -> bool:
    """Tell whether a clinician ran an instrument to its end that ends this Task."""
    found = instrument_of(response, setting.instruments)
    return found is not None and has_run(response, found[1], task)


def _is_calm(response: Resource, setting: Setting) -> bool:
    """Tell whether a clinician ran a screener to its end that found no risk."""
    found = instrument_of(response, setting.instruments)
    return found is not None and has_run(response, found[1]) and risk_in(response, found[1]) is None


async def _put_up(task: Resource, record: Record) -> None:
    """Put the Flag up again that was raised with a Task."""
    name = next((one["value"] for one in task.get("identifier", []) if one.get("system") == ID_TASK), "")
    flag = await find(record, "Flag", {"system": ID_FLAG, "value": name})
    if flag is not None and flag["status"] == "inactive":
        period = {key: value for key, value in flag.get("period", {}).items() if key != "end"}
        with own_work():
            await record.update(content_of({**flag, "status": "active", "period": period}))
