"""Watching at work: what is due at a bedside is a Task, closed by readings and missed by the clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from services.sessions.calling import Finding, call, have_reviewed
from services.sessions.rules.monitoring import (
    Cadence,
    covers,
    due_times,
    is_missed,
    is_needed,
    is_watched,
    minutes_from,
)
from services.sessions.rules.readings import Reading, readings_of, taken_at
from services.sessions.setting import Setting
from services.sessions.what_was_given import doses_of
from shared.fhir.codes import DUE_AT_BEDSIDE, EXT_MINUTES, ID_TASK, KAP, PRESSURE_AGAIN, RATING_MISSED, VITALS_MISSED
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, id_in, moment, patient_of
from shared.fhir.raised import identifier, task
from shared.runtime.raising import OPEN_TASK, close_task, content_of, is_own_work, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change
from shared.runtime.timers import Round, Timer

EVERY = timedelta(seconds=15)
"""How often the clock is looked at: a missed reading is flagged within a minute."""

_CODES: Final = {one.code: one for one in DUE_AT_BEDSIDE}
_TOKENS: Final = ",".join(one.token() for one in DUE_AT_BEDSIDE)


async def watch_from(
    record: Record, visit: str, patient: str, start: datetime, cadence: Cadence, setting: Setting
) -> None:
    """Set the Tasks for what is due after the first dose of a visit; a later dose of it sets none anew."""
    held = await record.search("Task", {"encounter": f"Encounter/{visit}", "code": _TOKENS})
    if any(codes_of(one["code"], KAP) != [PRESSURE_AGAIN.code] for one in held):
        return
    now, policy = setting.clock(), setting.monitoring
    for due in due_times(start, cadence, now, policy):
        made = task(
            ("due", visit, due.what, str(due.minute)),
            patient=patient,
            code=_CODES[due.what],
            description=f"{policy.due[due.what].title}: {due.minute} minutes after the first dose.",
            now=now,
            priority="asap",
            encounter=visit,
            due=due.when + timedelta(minutes=policy.grace.minutes),
        )
        await raise_once(record, {**made, "executionPeriod": {"start": zulu(due.when)}})


async def measure_again(
    record: Record, visit: str, patient: str, reading: str, taken: datetime, due: datetime, setting: Setting
) -> None:
    """Set the Task for a blood pressure to be measured again at `due`; only what is taken after `taken` counts."""
    policy = setting.monitoring
    made = task(
        ("due", visit, PRESSURE_AGAIN.code, reading),
        patient=patient,
        code=PRESSURE_AGAIN,
        description=f"{policy.due[PRESSURE_AGAIN.code].title}: it was beyond its alarm limit.",
        now=setting.clock(),
        priority="stat",
        encounter=visit,
        focus=reading,
    )
    period = {"start": zulu(taken), "end": zulu(due + timedelta(minutes=policy.grace.minutes))}
    await raise_once(record, {**made, "executionPeriod": {"start": zulu(due)}, "restriction": {"period": period}})


async def close_due(record: Record, reading: Resource, setting: Setting) -> None:
    """Complete the Tasks for what is there with this reading, which is about to be written, or was."""
    visit = id_in(reading.get("encounter"), "Encounter")
    if visit is None or not is_needed(reading, setting.monitoring):
        return
    now, policy = setting.clock(), setting.monitoring
    open_ = [
        one
        for one in await record.search("Task", {"encounter": f"Encounter/{visit}", "code": _TOKENS})
        if one["status"] in OPEN_TASK
    ]
    if not open_:
        return
    readings = await _readings(record, visit, reading)
    for one in open_:
        due = moment(one["executionPeriod"]["start"])
        earliest = one.get("restriction", {}).get("period", {}).get("start")
        what = codes_of(one["code"], KAP)[0]
        by = covers(readings, due, policy, what, after=None if earliest is None else moment(earliest))
        if by is None:
            continue
        late = is_missed(due, now, policy)
        ended = {
            **one,
            "status": "completed",
            "lastModified": zulu(now),
            "businessStatus": {"text": "charted late" if late else "in time"},
            "output": [{"type": _CODES[what].concept(), "valueReference": {"reference": name}} for name in by],
        }
        with own_work():
            await record.update(content_of(ended))
        await close_task(record, identifier(ID_TASK, "missed", one["id"]), now, why="It is recorded now.")


async def _readings(record: Record, visit: str, new: Resource) -> Sequence[Reading]:
    held = await record.search("Observation", {"encounter": f"Encounter/{visit}"})
    found: list[Reading] = []
    for one in (*(one for one in held if one["id"] != new["id"]), new):
        found.extend(reading for reading in readings_of(one) if reading.trusted)
    return found


async def end_watch(record: Record, visit: str, setting: Setting, why: str) -> None:
    """Cancel the Tasks for what is due in a visit that is over."""
    now = setting.clock()
    for one in await record.search("Task", {"encounter": f"Encounter/{visit}", "code": _TOKENS}):
        await close_task(record, one["identifier"][0], now, status="cancelled", why=why)
        if one["status"] in OPEN_TASK:
            await close_task(record, identifier(ID_TASK, "missed", one["id"]), now, status="cancelled", why=why)


def timer(setting: Setting) -> Timer:
    """Return the timer that flags what is missed."""

    async def look(one: Round) -> None:
        found = await one.search("Task", {"code": _TOKENS, "status": ",".join(sorted(OPEN_TASK))})

        async def flag(due: Resource, record: Record) -> None:
            await _flag(due, record, one.now, setting)

        new = [due for due in found if "businessStatus" not in due]
        await one.each([due for due in new if _is_missed(due, one.now, setting)], flag)

    return Timer("missed-vital-signs", EVERY, look)


def _is_missed(due: Resource, now: datetime, setting: Setting) -> bool:
    return is_missed(moment(due["executionPeriod"]["start"]), now, setting.monitoring)


async def _flag(due: Resource, record: Record, now: datetime, setting: Setting) -> None:
    when, patient = moment(due["executionPeriod"]["start"]), patient_of(due)
    if due["status"] not in OPEN_TASK or patient is None or not _is_missed(due, now, setting):
        return
    what = codes_of(due["code"], KAP)[0]
    calls = setting.monitoring.due[what].missed == "call"
    missed = Finding(
        ("missed", str(due["id"])),
        patient,
        VITALS_MISSED if calls else RATING_MISSED,
        f"{due['description']} Due at {zulu(when)}, and not recorded. See to the patient, measure and record.",
        (f"Task/{due['id']}",),
        ("M-MISSED",),
        id_in(due.get("encounter"), "Encounter"),
    )
    if calls:
        await call(record, missed, setting, flagged=False)
    else:
        await have_reviewed(record, missed, setting)
    with own_work():
        await record.update(content_of({**due, "businessStatus": {"text": "missed"}}))


# -- minutes from the dose --------------------------------------------------------------------------------------------


async def with_minutes(change: Change, record: Record, setting: Setting) -> Resource | None:
    """Return a reading of a visit with its minutes from the first dose, None where there is no dose or no time."""
    after = change.after
    visit = None if after is None else id_in(after.get("encounter"), "Encounter")
    if after is None or visit is None or is_own_work() or not is_watched(after, setting.monitoring):
        return None
    return _stamped(after, await _first_dose(record, visit, setting))


async def restamp(record: Record, visit: str, first: datetime, setting: Setting) -> None:
    """Bring the readings of a visit to the time of its first dose, which is about to be written."""
    for one in await record.search("Observation", {"encounter": f"Encounter/{visit}"}):
        stored = await record.stored("Observation", one["id"])
        stamped = _stamped(one, first) if is_watched(one, setting.monitoring) else None
        if stamped is not None and stored is not None and stored.origin == record.service.name:
            with own_work():
                await record.update(content_of(stamped))


def _stamped(reading: Resource, first: datetime | None) -> Resource | None:
    when, timed = taken_at(reading)
    if first is None or when is None or not timed:
        return None
    others = [one for one in reading.get("extension", []) if one.get("url") != EXT_MINUTES]
    said = {"url": EXT_MINUTES, "valueInteger": minutes_from(first, when)}
    return None if said in reading.get("extension", []) else {**reading, "extension": [*others, said]}


async def _first_dose(record: Record, visit: str, setting: Setting) -> datetime | None:
    starts = (one.start for one in await doses_of(record, visit, setting))
    return min((one for one in starts if one is not None), default=None)
