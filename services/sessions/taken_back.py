"""A reading that is withdrawn, corrected or moved to another visit: what it had called is taken back with it.

A call for which another reading still speaks stands, and says what that one says. Of what people did about it nothing
is lost: it stays with the DetectedIssue, which says that it was entered in error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.sessions.calling import WITHDRAWN, withdraw
from services.sessions.charted import charted_between
from services.sessions.rules.alarms import alarm_texts, is_not_understood, is_sustained, symptoms_in
from services.sessions.rules.monitoring import implausible
from services.sessions.rules.readings import taken_at
from services.sessions.setting import Setting
from services.sessions.standing import FEED, LATE, calls_of_it, issue_of
from services.sessions.symptoms import LATE_SYMPTOM, SYMPTOM
from services.sessions.watching import not_again, repeats_of
from shared.fhir.codes import ID_FINDING, ID_FLAG, ID_TASK, RULE, SUSTAINED_PRESSURE
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, id_in
from shared.fhir.raised import identifier
from shared.runtime.raising import OPEN, OPEN_TASK, close_task, content_of, find, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change

_OPEN: Final = ",".join(sorted(OPEN_TASK))


@dataclass(frozen=True, slots=True)
class _Changed:
    """A reading that says less than before.

    Attributes:
        id: its logical id. visit: of which it was. why: what happened to it, for people.
        after: what it is to be in this visit; None: nothing.

    """

    id: str
    visit: str | None
    why: str
    after: Resource | None


async def take_back(change: Change, record: Record, setting: Setting) -> None:
    """Take back the alarms and questions that a reading raised which does not say any more what raised them."""
    before, policy = change.before, setting.alarms
    if before is None:
        return
    changed = _changed(change, before)
    after = changed.after or {"resourceType": "Observation", "id": change.id, "status": WITHDRAWN}
    still = set(alarm_texts(after, policy))
    lost = set(alarm_texts(before, policy)) - still
    for what, rules in repeats_of(setting).items() if lost else ():
        if rules.intersection(lost) and not rules.intersection(still):
            about = f"Observation/{change.id}"
            await not_again(record, what, str(changed.visit), about, setting, changed.why)
    if policy.sustained.of in lost:
        lost.add(policy.sustained.rule)
    if lost:
        for issue in await record.search("DetectedIssue", {"implicated": f"Observation/{change.id}"}):
            for rule in lost.intersection(codes_of(issue.get("code"), RULE)):
                await _without(changed, issue, rule, record, setting)
    if policy.sustained.rule in lost:
        await _alone(changed, record, setting)
    for name in set(symptoms_in(before, policy)) - set(symptoms_in(after, policy)):
        for kind in (SYMPTOM, LATE_SYMPTOM):
            await withdraw(record, f"{kind}:{change.id}:{name}", changed.why, setting)
    asked = {
        "plausible": bool(implausible(before, setting.monitoring)) and not implausible(after, setting.monitoring),
        "reading": is_not_understood(before, policy) and not is_not_understood(after, policy),
    }
    for kind in (one for one, over in asked.items() if over):
        await close_task(record, identifier(ID_TASK, kind, change.id), setting.clock(), why=changed.why)


def _changed(change: Change, before: Resource) -> _Changed:
    after, visit = change.after, id_in(before.get("encounter"), "Encounter")
    if after is None or after.get("status") in (WITHDRAWN, "cancelled"):
        return _Changed(change.id, visit, "The reading was withdrawn.", None)
    if id_in(after.get("encounter"), "Encounter") != visit:
        return _Changed(change.id, visit, "The reading was moved to another visit.", None)
    return _Changed(change.id, visit, "The reading was corrected.", {**after, "id": change.id})


async def _without(changed: _Changed, issue: Resource, rule: str, record: Record, setting: Setting) -> None:
    """Take a finding back, or leave it to the other readings that still speak for it."""
    name = next((one["value"] for one in issue.get("identifier", []) if one.get("system") == ID_FINDING), "")
    if issue["status"] == WITHDRAWN or name.rpartition(":")[2] != rule:
        return
    others = [one for one in await calls_of_it(record, issue) if one["id"] != changed.id]
    if name.partition(":")[0] in (FEED, LATE[FEED]):
        others.extend(await _fed(changed, rule, record, setting))
    rest = [one for one in others if await _speaks(one, rule, changed, record, setting)]
    if not rest:
        await withdraw(record, name, changed.why, setting)
        return
    text = alarm_texts(rest[0], setting.alarms).get(rule, issue["detail"])
    about = [{"reference": f"Observation/{one['id']}"} for one in rest]
    flag = await find(record, "Flag", {"system": ID_FLAG, "value": name})
    task = await find(record, "Task", {"system": ID_TASK, "value": name})
    with own_work():
        await record.update(content_of({**issue, "implicated": about, "detail": text}))
        if flag is not None and flag["status"] in OPEN:
            await record.update(content_of({**flag, "code": {**flag["code"], "text": text}}))
        if task is not None and task["status"] in OPEN:
            await record.update(content_of({**task, "description": text, "focus": about[0]}))


async def _fed(changed: _Changed, rule: str, record: Record, setting: Setting) -> list[Resource]:
    """Return what else of a device's feed was charted since the minute that called."""
    held = await record.get("Observation", changed.id)
    since = None if held is None else taken_at(held)[0]
    if since is None or changed.visit is None:
        return []
    codes = [code for one in setting.alarms.limits.values() if one.rule == rule for code in one.codes]
    found = await charted_between(record, changed.visit, codes, since, setting.clock())
    return [one for one in found if "valueSampledData" in one and one["id"] != changed.id]


async def _alone(changed: _Changed, record: Record, setting: Setting) -> None:
    """Take back a sustained alarm of which one of two readings is left."""
    asked = {"encounter": f"Encounter/{changed.visit}", "code": SUSTAINED_PRESSURE.token(), "status": _OPEN}
    for task in await record.search("Task", asked) if changed.visit is not None else ():
        issue, rule = await issue_of(record, task), setting.alarms.sustained.rule
        if issue is None or issue["status"] == WITHDRAWN:
            continue
        held = [one for one in await calls_of_it(record, issue) if one["id"] != changed.id]
        if not [one for one in held if await _speaks(one, rule, changed, record, setting)]:
            name = next(one["value"] for one in issue["identifier"] if one.get("system") == ID_FINDING)
            await withdraw(record, name, changed.why, setting)


async def _speaks(one: Resource, rule: str, changed: _Changed, record: Record, setting: Setting) -> bool:
    """Tell whether a reading alarms by a rule, without the one that was changed, or with what that says now."""
    said = setting.alarms.sustained
    if rule != said.rule:
        return rule in alarm_texts(one, setting.alarms)
    when, visit = taken_at(one)[0], id_in(one.get("encounter"), "Encounter")
    if when is None or visit is None:
        return False
    codes = [code for limit in setting.alarms.limits.values() if limit.rule == said.of for code in limit.codes]
    near = timedelta(minutes=said.within + said.apart)
    held = await charted_between(record, visit, codes, when - near, when + near, untimed=True)
    others: Iterable[Resource] = (other for other in held if other["id"] not in (one["id"], changed.id))
    return is_sustained(one, [*others, *([] if changed.after is None else [changed.after])], setting.alarms)
