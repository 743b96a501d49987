"""What follows from a dose that was given past a closed gate: a call, or a review where it is long over; and its end.

It stands under the name of the dose. Where somebody has taken the call, and the dose turns out to be more, or closed to
other rules, it is another call; where a correction shows that the gate was open, what was raised is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from services.sessions.calling import WITHDRAWN, Finding, call, have_reviewed, withdraw
from services.sessions.rules.claims import LIVE
from services.sessions.setting import Setting
from services.sessions.standing import issue_of, last_call, numbered
from shared.fhir.codes import GATE_PASSED_CLOSED, ID_FINDING, ID_TASK, RULE
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, effective_start, id_in, patient_of
from shared.fhir.outcome import Issue
from shared.fhir.raised import identifier
from shared.runtime.escalation import is_acknowledged
from shared.runtime.raising import OPEN_TASK, content_of, find, own_work
from shared.runtime.record import Record

_GIVEN: Final = "dose"
_LATE: Final = "late-dose"
"""As that, of a dose that is long over when it is charted: its review stands in no call's place."""
_GATE: Final = "gate"
"""What the names of the calls for a dose past a closed gate begin with, and end with."""


async def raise_past_gate(
    id_: str,
    record: Record,
    dose: Resource,
    issues: Sequence[Issue],
    setting: Setting,
    *,
    judged: frozenset[str] | None = None,
    graver: bool = True,
) -> None:
    """Raise what is closed to a dose that was given; take back what was raised for it and is not so any more.

    `issues`: what is closed; none: the gate was open to it. `judged`: the rules that were looked at, None: all.
    `graver`: whether the dose may be more, or worse, than what was said of it before.
    """
    patient, now = patient_of(dose), setting.clock()
    if patient is None:
        return
    rules = tuple(dict.fromkeys(str(issue.rule) for issue in issues))
    held = await raised_with(record, id_)
    for one in held:
        said = set(codes_of(one.get("code"), RULE))
        if not said.intersection(rules) and (judged is None or said <= judged):
            await withdraw(record, _name_of(one), "The record of the dose was corrected.", setting)
    what = " ".join(f"{issue.rule}: {issue.diagnostics}" for issue in issues)
    text = f"A dose was given past a closed gate. {what}"
    began = effective_start(dose) or now
    late = began < now - timedelta(minutes=setting.alarms.late.minutes) and dose.get("status") not in LIVE
    alike = [_name_of(one) for one in held if str(one.get("detail")).startswith(text)]
    if not issues or any(late or not one.startswith(f"{_LATE}:") for one in alike):
        return
    finding = Finding(
        await _place(record, (_LATE if late else _GIVEN, id_, _GATE), rules, judged=judged, graver=graver),
        patient,
        GATE_PASSED_CLOSED,
        f"{text} A prescriber looks at it now.",
        (f"MedicationAdministration/{id_}",),
        rules,
        id_in(dose.get("context"), "Encounter"),
    )
    if late:  # nobody is called to a bedside for it
        await have_reviewed(record, finding, setting, again=True, priority="stat", flagged=True)
        return
    await call(record, finding, setting, again=True)
    await _say_anew(record, finding)
    for name in alike:
        await withdraw(record, name, "Its time was corrected: it calls.", setting)


async def raised_with(record: Record, id_: str) -> list[Resource]:
    """Return the DetectedIssues that a dose was given past a closed gate; none that was taken back."""
    found = await record.search("DetectedIssue", {"implicated": f"MedicationAdministration/{id_}"})
    return [one for one in found if one["status"] != WITHDRAWN and _name_of(one).endswith(f":{_GATE}")]


def _name_of(issue: Resource) -> str:
    """Return the name under which a DetectedIssue was raised."""
    return next((str(one["value"]) for one in issue.get("identifier", []) if one.get("system") == ID_FINDING), "")


async def _place(
    record: Record, name: tuple[str, ...], rules: Sequence[str], *, judged: frozenset[str] | None, graver: bool
) -> tuple[str, ...]:
    """Return the name of a call: that of the last, or the next where the last says, or was taken for, something else.

    The last still says something else where it names rules that were not looked at now.
    """
    number, last = await last_call(record, name)
    issue = None if last is None else await issue_of(record, last)
    if last is None or issue is None or issue["status"] == WITHDRAWN:
        return numbered(name, number)
    unseen = frozenset() if judged is None else set(codes_of(issue.get("code"), RULE)) - judged
    taken = graver and last["status"] in OPEN_TASK and is_acknowledged(last)
    return numbered(name, number + (taken or not unseen <= set(rules)))


async def _say_anew(record: Record, finding: Finding) -> None:
    """Have a call that climbs say what is known of the dose now."""
    task = await find(record, "Task", identifier(ID_TASK, *finding.name))
    if task is not None and not is_acknowledged(task) and task.get("description") != finding.text:
        with own_work():
            await record.update(content_of({**task, "description": finding.text}))
