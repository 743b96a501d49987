"""What is answered about suicide before a dose and before leaving: raised with the answers, settled by a screener.

The call is a Task that climbs its ladder, in the transaction of the answers: it waits for nobody's news. A clinician's
screener is kept by outcomes; the level of risk that it came to (an Observation) ends the call, and where there is none
its Flag. One that is taken back lets both stand again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.sessions.setting import Setting
from shared.fhir.at_risk import ANSWERS, FORM, TOOK_DOWN, Run, asked_from, since
from shared.fhir.codes import ID_FLAG, ID_TASK, KAP, Code
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, moment, patient_of
from shared.runtime.escalation import has_owner
from shared.runtime.raising import OPEN_TASK, close_flag, content_of, find, own_work, raise_once
from shared.runtime.raising_risk import raise_said
from shared.runtime.record import Record
from shared.runtime.service import Change

_PEOPLE = ("Practitioner", "PractitionerRole")


async def guard_answers(change: Change, record: Record, setting: Setting) -> None:
    """Raise what answers to a form say about suicide, in their own transaction."""
    after = change.after
    patient = None if after is None else patient_of(after) or await _of_the_visit(after, record)
    if after is None or patient is None:
        return
    runs, said = await _runs_of(patient, record, setting), {**after, "id": change.id}
    now = setting.clock()
    await raise_said(said, change.before, patient, runs, setting.forms, setting.escalation, record, now)


def is_of_risk(name: str) -> bool:
    """Tell whether a Task or Flag of this name was raised for answers about suicide: no hand takes its Flag down."""
    return name.startswith("risk:") and name.endswith(f":{FORM}")


async def settle(screened: Resource, record: Record, setting: Setting) -> None:
    """Bring the calls of a patient to what clinicians' screeners say now; `screened`: an Observation that is news."""
    level, patient = setting.forms.screeners.level, patient_of(screened)
    coded = screened.get("code", {}).get("coding", [])
    if patient is None or not any(level.matches(one.get("system", ""), one.get("code", "")) for one in coded):
        return
    runs = await _runs_of(patient, record, setting)
    about = {"patient": f"Patient/{patient}", "code": Code(KAP, setting.forms.task).token()}
    for call in await record.search("Task", about):
        name = next((one["value"] for one in call.get("identifier", []) if one.get("system") == ID_TASK), "")
        if is_of_risk(name):
            answers = await record.get("QuestionnaireResponse", str(id_in(call.get("focus"), "QuestionnaireResponse")))
            await _settle(call, name, since(runs, asked_from(call, answers)), record, setting)


async def _settle(call: Resource, name: str, runs: Sequence[Run], record: Record, setting: Setting) -> None:
    """End a call and its Flag by the screeners since; let them stand where what had ended them is none any more."""
    now, words = setting.clock(), {out.get("type", {}).get("text") for out in call.get("output", [])}
    calm = next((run for run in runs if run.calm), None)
    is_open = call["status"] in OPEN_TASK
    if ANSWERS in words and not runs:
        rest = {key: value for key, value in call.items() if key not in ("output", "owner", "statusReason")}
        opened = content_of({**rest, "status": "requested", "lastModified": zulu(now)})
        await setting.escalation.raise_task(record, opened, now, reopen=True)
    elif runs:
        outputs = [out for out in call.get("output", []) if out.get("type", {}).get("text") not in (ANSWERS, TOOK_DOWN)]
        if is_open or ANSWERS in words:
            outputs.append((calm or runs[0]).output(ANSWERS))
        if calm is not None:
            outputs.append(calm.output(TOOK_DOWN))
        done: dict[str, Any] = {key: value for key, value in call.items() if key != "output"}
        if is_open:
            done |= {"status": "completed", "lastModified": zulu(now)}
            done["owner"] = call["owner"] if has_owner(call) else (calm or runs[0]).by
        done |= {"output": outputs} if outputs else {}
        if done != call:
            with own_work():
                await record.update(content_of(done))
    if calm is not None:
        await close_flag(record, {"system": ID_FLAG, "value": name}, now)
    elif TOOK_DOWN in words:
        up = await find(record, "Flag", {"system": ID_FLAG, "value": name})
        if up is not None:
            period = {key: value for key, value in up.get("period", {}).items() if key != "end"}
            await raise_once(record, content_of({**up, "status": "active", "period": period}), reopen=True)


async def _runs_of(patient: str, record: Record, setting: Setting) -> list[Run]:
    """Return the screeners that clinicians ran, by the level of risk that each came to, oldest first."""
    level, none = setting.forms.screeners.level, setting.forms.screeners.none
    coded = {"patient": f"Patient/{patient}", "code": f"{level.system}|{level.code}"}
    found = []
    for one in await record.search("Observation", coded):
        by = next((who for who in one.get("performer", []) if any(id_in(who, type_) for type_ in _PEOPLE)), None)
        answers = next((ref["reference"] for ref in one.get("derivedFrom", []) if "reference" in ref), None)
        if by is None or answers is None or one["status"] not in ("final", "amended") or "effectiveDateTime" not in one:
            continue
        values = one.get("valueCodeableConcept", {}).get("coding", [])
        calm = any(none.matches(value.get("system", ""), value.get("code", "")) for value in values)
        when = moment(one["effectiveDateTime"])
        if when > setting.clock():  # dated ahead: it settles nothing that is answered from when it was written on
            when = min(when, moment(one.get("meta", {}).get("lastUpdated")))
        found.append(Run(answers, by, when, calm))
    return sorted(found, key=lambda run: run.when)


async def _of_the_visit(answers: Resource, record: Record) -> str | None:
    visit = id_in(answers.get("encounter"), "Encounter")
    held = None if visit is None else await record.get("Encounter", visit)
    return None if held is None else patient_of(held)
