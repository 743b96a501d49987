"""What sessions raises when a rule calls for a person: `call` for what cannot wait, `have_reviewed` for the rest.

Both are written in the transaction of what they are about, and found again by their name instead of being doubled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from services.sessions.setting import Setting
from services.sessions.suicidality import is_of_risk
from shared.fhir.codes import ID_FINDING, ID_FLAG, ID_TASK, REVIEW, Code
from shared.fhir.json import Resource
from shared.fhir.kap import has_code
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import Priority, detected_issue, flag, identifier, task
from shared.runtime.raising import (
    OPEN_TASK,
    close_flag,
    close_task,
    content_of,
    find,
    is_own_work,
    keep,
    own_work,
    raise_once,
)
from shared.runtime.record import Record
from shared.runtime.service import Change

_RAISED: Final = ("status", "code", "identifier", "subject", "period", "encounter")
_OF_THE_SERVICE: Final = (
    "code",
    "encounter",
    "executionPeriod",
    "restriction",
    "businessStatus",
    "identifier",
    "output",
    "focus",
)
"""Elements that only the service sets of a Task which it ends itself."""
WITHDRAWN: Final = "entered-in-error"
"""Status of a DetectedIssue that says what was never so."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found.

    Attributes:
        name: what it is about; makes the identifiers.
        patient: logical id.
        code: what is wrong.
        text: the sentence for people: what was found, and what to do.
        about: references ``Type/id`` of the evidence, the most telling first.
        rules: the rules of the house that found it.
        visit: logical id of the Encounter.

    """

    name: tuple[str, ...]
    patient: str
    code: Code
    text: str
    about: tuple[str, ...]
    rules: tuple[str, ...] = ()
    visit: str | None = None


async def call(
    record: Record, finding: Finding, setting: Setting, *, again: bool = False, flagged: bool = True
) -> None:
    """Call a person at once: DetectedIssue, Flag, and a Task of the finding's own code that climbs its ladder.

    `again`: what was found is another than before, so what was closed opens with it. `flagged`: whether the chart
    shows it as a Flag, too.
    """
    now = setting.clock()
    again = again or await was_withdrawn(record, finding)
    await _write(record, _issue(finding, setting, stat=True), again=again)
    if flagged:
        await _write(record, _flag(finding, setting), again=again)
    await setting.escalation.raise_task(record, _task(finding, setting, finding.code, "stat"), now, reopen=again)


async def have_reviewed(
    record: Record,
    finding: Finding,
    setting: Setting,
    *,
    again: bool = False,
    priority: Priority = "urgent",
    flagged: bool = False,
) -> None:
    """Have a person look at it: DetectedIssue and a Task to review it."""
    again = again or await was_withdrawn(record, finding)
    await _write(record, _issue(finding, setting, stat=priority == "stat"), again=again)
    if flagged:
        await _write(record, _flag(finding, setting), again=again)
    await _write(record, _task(finding, setting, REVIEW, priority), again=again)


async def withdraw(record: Record, name: str, why: str, setting: Setting) -> None:
    """Take back what was raised under a name, because it was never so: what people did about it stays with it."""
    now = setting.clock()
    issue = await find(record, "DetectedIssue", {"system": ID_FINDING, "value": name})
    if issue is not None and issue["status"] != WITHDRAWN:
        with own_work():
            await record.update(content_of({**issue, "status": WITHDRAWN}))
    await close_flag(record, {"system": ID_FLAG, "value": name}, now)
    await close_task(record, {"system": ID_TASK, "value": name}, now, why=why)


async def was_withdrawn(record: Record, finding: Finding) -> bool:
    """Tell whether what was raised under the name of a finding was taken back."""
    issue = await find(record, "DetectedIssue", identifier(ID_FINDING, *finding.name))
    return issue is not None and issue["status"] == WITHDRAWN


async def _write(record: Record, resource: Resource, *, again: bool) -> None:
    if again:  # what people decided and did about it stays with it
        held = await find(record, resource["resourceType"], resource["identifier"][0])
        done = (held or {}).get("mitigation")
        await keep(record, resource if done is None else {**resource, "mitigation": done})
    else:
        await raise_once(record, resource)


async def lower_flag(change: Change, record: Record, setting: Setting) -> None:
    """Guard of Task: who completes what was raised takes its Flag down; what comes after it raises another.

    A Flag of suicidality comes down by a screener alone, as those of outcomes do.
    """
    after = change.after
    if is_own_work() or after is None or after["status"] != "completed":
        return
    for name in after.get("identifier", []):
        if name.get("system") == ID_TASK and not is_of_risk(name["value"]):
            await close_flag(record, {"system": ID_FLAG, "value": name["value"]}, setting.clock())


def keep_by_hand(change: Change, code: Iterable[Code], instead: str) -> None:
    """Refuse to end, move or delete by hand an open Task of one of these codes, which the service ends itself.

    Raises:
        Unprocessable: T-KEEP; `instead` says what ends it.

    """
    before, after = change.before, change.after
    if is_own_work() or before is None or before["status"] not in OPEN_TASK:
        return
    if not any(has_code(before.get("code"), one) for one in code):
        return
    same = after is not None and all(before.get(name) == after.get(name) for name in _OF_THE_SERVICE)
    if after is None or not same or after["status"] not in OPEN_TASK:
        raise Unprocessable(
            f"{instead} You may take it, and add a note.",
            code="business-rule",
            expression=["Task.status"],
            rule="T-KEEP",
            source="KAP Exchange",
        )


async def keep_flag(change: Change, record: Record) -> None:
    """Guard of Flag: what was raised comes down with its Task, or by a reading: not by hand while that is open.

    Raises:
        Unprocessable: a client ends, changes or deletes it.

    """
    before, after = change.before, change.after
    if is_own_work() or before is None or before["status"] != "active":
        return
    names = [one["value"] for one in before.get("identifier", []) if one.get("system") == ID_FLAG and "value" in one]
    same = after is not None and all(before.get(name) == after.get(name) for name in _RAISED)
    raised = [] if same else [await find(record, "Task", {"system": ID_TASK, "value": name}) for name in names]
    if any(one is not None and one["status"] in OPEN_TASK for one in raised):
        raise Unprocessable(
            "This Flag was raised with a Task. Complete the Task in your name, and the Flag comes down with it.",
            code="business-rule",
            expression=["Flag.status"],
            rule="T-KEEP",
            source="KAP Exchange",
        )


def _issue(finding: Finding, setting: Setting, *, stat: bool) -> Resource:
    return detected_issue(
        finding.name,
        patient=finding.patient,
        code=finding.code,
        rules=finding.rules,
        severity="high" if stat else "moderate",
        detail=finding.text,
        now=setting.clock(),
        implicated=finding.about,
        policy=setting.version,
    )


def _flag(finding: Finding, setting: Setting) -> Resource:
    return flag(
        finding.name,
        patient=finding.patient,
        code=finding.code,
        text=finding.text,
        now=setting.clock(),
        encounter=finding.visit,
    )


def _task(finding: Finding, setting: Setting, code: Code, priority: Priority) -> Resource:
    return task(
        finding.name,
        patient=finding.patient,
        code=code,
        description=finding.text,
        now=setting.clock(),
        priority=priority,
        focus=next(iter(finding.about), None),
        encounter=finding.visit,
    )
