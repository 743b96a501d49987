"""Long-term use: the checks that are due for a patient after so many sessions, or after so long.

A session that ended is looked at with its event. The timer looks again at those whose last session was lately, and at
those for whom days alone make a check due: what a clinic did before that is not read.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from services.outcomes.doses import first_dose
from services.outcomes.rules.schedule import complained_of, due_watches
from services.outcomes.setting import Setting
from shared.fhir.codes import ID_FLAG, ID_TASK, KAP, PAUSE_FOR_REVIEW, VISIT_DOSING, Code
from shared.fhir.dates import MIN_INSTANT, interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import patient_of
from shared.fhir.raised import flag, identifier, task
from shared.runtime.raising import close_flag, close_task, find, is_own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change


def looked_back_to(now: datetime, setting: Setting) -> datetime:
    """Return since when a session may have made a check due that its event did not."""
    longest = max((one.every_days or 0 for one in setting.policy.surveillance.values()), default=0)
    return now - timedelta(days=longest + setting.policy.look_back.days)


async def heed(complaint: Resource, record: Record, setting: Setting, *, gone: bool) -> None:
    """Raise the checks that a Condition or an AdverseEvent of a patient who was dosed calls for; drop them if `gone`.

    With the Task goes a Flag, up until a person completes it: while it is, screening finds the patient not eligible
    (R-LT), so that the course is on hold, and no dose is booked or started.
    """
    patient, now = patient_of(complaint), setting.clock()
    if patient is None:
        return
    policy, about = setting.policy.complaints, f"{complaint['resourceType']}/{complaint['id']}"
    since = now - timedelta(days=policy.within_days)
    named = [] if gone else complained_of(complaint, setting.policy.surveillance, since)
    standing = [] if gone else complained_of(complaint, setting.policy.surveillance, MIN_INSTANT)
    if named and not await _sessions(patient, record, setting, status="in-progress,onleave,finished"):
        return
    for name, one in setting.policy.surveillance.items():
        if one.complaint is None:
            continue
        raised = ("watch", patient, name, about)
        if name not in standing:
            why = f"{about} does not complain of it any more."
            await close_task(record, identifier(ID_TASK, *raised), now, status="cancelled", why=why)
            await close_flag(record, identifier(ID_FLAG, *raised), now)
        if name not in named:
            continue
        text = f"{one.title}: the patient complains of it. No further dose until it is reviewed."
        made = task(
            raised,
            patient=patient,
            code=Code(KAP, one.task, one.title),
            description=f"{text} The course is on hold: complete this Task, then let it go on. {one.advice} "
            f"Source: {policy.source}.",
            now=now,
            priority="urgent",
            focus=about,
            due=now + timedelta(hours=policy.within_hours),
        )
        was = await find(record, "Task", made["identifier"][0])
        again = was is not None and was["status"] == "cancelled"
        await raise_once(record, made, reopen=again)
        if was is None or again:
            await raise_once(
                record, flag(raised, patient=patient, code=PAUSE_FOR_REVIEW, text=text, now=now), reopen=again
            )


async def lift_pause(change: Change, record: Record, setting: Setting) -> None:
    """Guard of Task: a person who has completed the check that a complaint called for takes its Flag down."""
    after = change.after
    if is_own_work() or after is None or after["status"] != "completed":
        return
    for name in after.get("identifier", []):
        if name.get("system") == ID_TASK and str(name["value"]).startswith("watch:"):
            await close_flag(record, {"system": ID_FLAG, "value": name["value"]}, setting.clock())


async def _sessions(patient: str, record: Record, setting: Setting, *, status: str) -> list[datetime]:
    """Return when the first dose of each of a patient's dosing visits was given, oldest first."""
    dosing = {"subject": f"Patient/{patient}", "status": status, "type": VISIT_DOSING.token()}
    found = [await first_dose(str(visit["id"]), record, setting) for visit in await record.search("Encounter", dosing)]
    return sorted(start for start in found if start is not None)


async def watch(patient: str, now: datetime, record: Record, setting: Setting) -> None:
    """Raise the checks of long-term use that are due for a patient. A visit without a dose is no session."""
    sessions = await _sessions(patient, record, setting, status="finished")
    watches = setting.policy.surveillance
    checked: dict[str, datetime] = {}
    for name, one in watches.items():
        for done in await record.search("Task", {"patient": f"Patient/{patient}", "code": Code(KAP, one.task).token()}):
            if done["status"] == "completed":
                when = interval(done.get("executionPeriod", {}).get("end", done["lastModified"]))[0]
                checked[name] = max(when, checked.get(name, when))
    for name, why in due_watches(watches, sessions, checked, now).items():
        one = watches[name]
        since = zulu(checked[name]) if name in checked else "start"
        made = task(
            ("watch", patient, name, since),
            patient=patient,
            code=Code(KAP, one.task, one.title),
            description=f"{one.title}: {why}. {one.advice} Source: {one.source}.",
            now=now,
            priority="asap",
            due=now + timedelta(hours=one.within_hours),
        )
        await raise_once(record, made)
