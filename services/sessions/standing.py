"""Calls of an alarm that stand: which takes a further reading in, and when another is made.

A crisis that lasts is one call: readings beyond the same limit join the one that stands. It is another where somebody
has taken the call and a value is by so much further beyond than the one that called (`alarms.worse`), or where it was
over, and begins again.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from services.sessions.charted import charted_between
from services.sessions.rules.alarms import alarms_of, is_far_worse
from services.sessions.rules.feeds import MINUTE, news_of
from services.sessions.rules.readings import taken_at
from services.sessions.setting import Setting
from shared.fhir.codes import BACK_WITHIN, ID_FINDING, ID_TASK, RULE, SUSTAINED_PRESSURE, VITAL_ALARM
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, id_in
from shared.fhir.raised import identifier
from shared.runtime.escalation import is_acknowledged
from shared.runtime.raising import OPEN_TASK, content_of, find, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change

CHARTED: Final = "alarm"
FEED: Final = "feed"
"""What the names of alarms begin with: of a reading that was charted, of a device's feed. They end with the rule."""
LATE: Final = {CHARTED: "late-alarm", FEED: "late-feed"}
"""As these, of a reading that is charted late: its review stands in no call's place."""
_CALLS: Final = ",".join(one.token() for one in (VITAL_ALARM, SUSTAINED_PRESSURE))
_OPEN: Final = ",".join(sorted(OPEN_TASK))


def news_in(change: Change) -> Resource:
    """Return what a change of an Observation says that it did not say before: of a device's feed the new samples."""
    before, after = change.before or {}, change.after or {}
    was, is_ = before.get("valueSampledData"), after.get("valueSampledData")
    if was is None or is_ is None or any(was.get(name) != is_.get(name) for name in ("origin", "period", "factor")):
        return after
    data = news_of(str(was.get("data", "")), str(is_.get("data", "")))
    return {**after, "valueSampledData": {**is_, "data": data}}


def numbered(name: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Return the name of the `number`-th call of an alarm; it ends with the rule, too."""
    return name if number == 1 else (*name[:-1], str(number), name[-1])


async def last_call(record: Record, name: tuple[str, ...]) -> tuple[int, Resource | None]:
    """Return the number and the Task of the last call of an alarm; 1 and None: there was none yet."""
    number, last = 1, None
    while (held := await find(record, "Task", identifier(ID_TASK, *numbered(name, number)))) is not None:
        number, last = number + 1, held
    return max(number - 1, 1), last


async def issue_of(record: Record, task: Resource) -> Resource | None:
    """Return the DetectedIssue that was raised with a call."""
    name = next((one["value"] for one in task.get("identifier", []) if one.get("system") == ID_TASK), None)
    return None if name is None else await find(record, "DetectedIssue", {"system": ID_FINDING, "value": name})


async def calls_of_it(record: Record, issue: Resource | None) -> list[Resource]:
    """Return the Observations for which a call was made, the one that called first."""
    named = (id_in(one, "Observation") for one in (issue or {}).get("implicated", []))
    return [held for one in named if one is not None and (held := await record.get("Observation", one)) is not None]


async def is_deeper(record: Record, task: Resource, news: Resource, rule: str, setting: Setting) -> bool:
    """Tell whether a reading is so much further beyond its limit than the one that a call was made for."""
    called = await calls_of_it(record, await issue_of(record, task))
    return not called or is_far_worse(called[0], news, rule, setting.alarms)


async def was_raised(record: Record, about: str, rule: str) -> bool:
    """Tell whether a reading (``Observation/id``) was raised by a rule before."""
    found = await record.search("DetectedIssue", {"implicated": about})
    return any(rule in codes_of(one.get("code"), RULE) for one in found)


async def is_taken_in(
    record: Record, observation: Resource, patient: str, visit: str, rule: str, setting: Setting, *, news: bool
) -> bool:
    """Let a call of the rule that stands in the visit take a charted reading in; return whether one has it.

    `news`: whether the reading says what it did not say before; what one took in before is no news later.
    """
    about = f"Observation/{observation['id']}"
    if not news and await was_raised(record, about, rule):
        return True
    asked = {"encounter": f"Encounter/{visit}", "patient": f"Patient/{patient}", "code": _CALLS, "status": _OPEN}
    for task in await record.search("Task", {**asked, "business-status:not": BACK_WITHIN.token()}):
        name = next((one["value"] for one in task["identifier"] if one.get("system") == ID_TASK), "")
        if name.partition(":")[0] != CHARTED or name.rpartition(":")[2] != rule:
            continue
        issue = await issue_of(record, task)
        called = await calls_of_it(record, issue)
        deeper = not called or is_far_worse(called[0], observation, rule, setting.alarms)
        if issue is None or (deeper and (is_acknowledged(task) or not called)):
            continue
        if {"reference": about} not in issue["implicated"]:
            with own_work():
                await record.update(content_of({**issue, "implicated": [*issue["implicated"], {"reference": about}]}))
        return True
    return False


async def still_beyond(
    record: Record, observation: Resource, visit: str, rules: Iterable[str], setting: Setting
) -> frozenset[str]:
    """Return the rules beyond whose limits a device's feed was in the minute before one of it, or has been since."""
    when, limits = taken_at(observation)[0], setting.alarms.limits.values()
    wanted = frozenset(rules)
    codes = [code for one in limits if one.rule in wanted for code in one.codes]
    if when is None or not codes:
        return frozenset()
    near = await charted_between(record, visit, codes, when - MINUTE, setting.clock() + timedelta(seconds=1))
    fed = [one for one in near if "valueSampledData" in one and one["id"] != observation["id"]]
    return wanted.intersection(alarm.rule for one in fed for alarm, _ in alarms_of(one, setting.alarms))
