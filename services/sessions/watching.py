"""Watching at work: due vital signs as Tasks from the first dose on, closed by readings, missed by the clock."""

from __future__ import annotations

from datetime import datetime, timedelta

from services.sessions.rules.monitoring import cadence_of, covers, due_times, is_missed, is_needed
from services.sessions.rules.readings import Reading, readings_of
from services.sessions.setting import Setting
from shared.fhir.codes import ID_TASK, VITALS_DUE, VITALS_MISSED
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, id_in, moment, patient_of
from shared.fhir.raised import detected_issue, identifier, task
from shared.runtime.raising import OPEN_TASK, close_task, content_of, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.timers import Round, Timer

EVERY = timedelta(seconds=15)
"""How often the clock is looked at: a missed reading is flagged within a minute."""


async def watch_from(
    record: Record, visit: str, patient: str, start: datetime, drug: Drug, route: str | None, setting: Setting
) -> None:
    """Set the Tasks for vital signs after the first dose of a visit; a later dose of it sets none anew."""
    held = await record.search("Task", {"encounter": f"Encounter/{visit}", "code": VITALS_DUE.token()})
    if held:
        return
    now = setting.clock()
    policy = setting.monitoring
    for due in due_times(start, cadence_of(drug, route, policy), now, policy):
        made = task(
            ("due", visit, str(due.minute)),
            patient=patient,
            code=VITALS_DUE,
            description=f"Vital signs {due.minute} minutes after the first dose: pressure, heart rate, saturation.",
            now=now,
            priority="asap",
            encounter=visit,
            due=due.when + timedelta(minutes=policy.grace.minutes),
        )
        await raise_once(record, {**made, "executionPeriod": {"start": zulu(due.when)}})


async def close_due(record: Record, reading: Resource, setting: Setting) -> None:
    """Complete the Tasks whose vital signs are there with this reading, which is about to be written."""
    visit = id_in(reading.get("encounter"), "Encounter")
    if visit is None or not is_needed(reading, setting.monitoring):
        return
    now, policy = setting.clock(), setting.monitoring
    open_ = [
        one
        for one in await record.search("Task", {"encounter": f"Encounter/{visit}", "code": VITALS_DUE.token()})
        if one["status"] in OPEN_TASK
    ]
    if not open_:
        return
    held = await record.search("Observation", {"encounter": f"Encounter/{visit}"})
    readings: list[Reading] = []
    for one in (*(one for one in held if one["id"] != reading["id"]), reading):
        readings.extend(found for found in readings_of(one) if found.trusted)
    for one in open_:
        due = moment(one["executionPeriod"]["start"])
        by = covers(readings, due, policy)
        if by is None:
            continue
        late = is_missed(due, now, policy)
        ended = {
            **one,
            "status": "completed",
            "lastModified": zulu(now),
            "businessStatus": {"text": "charted late" if late else "in time"},
            "output": [{"type": VITALS_DUE.concept(), "valueReference": {"reference": name}} for name in by],
        }
        with own_work():
            await record.update(content_of(ended))
        await close_task(record, identifier(ID_TASK, "missed", one["id"]), now, why="The vital signs are recorded now.")


async def end_watch(record: Record, visit: str, setting: Setting, why: str) -> None:
    """Cancel the Tasks for vital signs of a visit that is over."""
    now = setting.clock()
    for one in await record.search("Task", {"encounter": f"Encounter/{visit}", "code": VITALS_DUE.token()}):
        await close_task(record, one["identifier"][0], now, status="cancelled", why=why)
        if one["status"] in OPEN_TASK:
            await close_task(record, identifier(ID_TASK, "missed", one["id"]), now, status="cancelled", why=why)


def timer(setting: Setting) -> Timer:
    """Return the timer that flags missed vital signs."""

    async def look(one: Round) -> None:
        found = await one.search("Task", {"code": VITALS_DUE.token(), "status": ",".join(sorted(OPEN_TASK))})

        async def flag(due: Resource, record: Record) -> None:
            await _flag(due, record, one.now, setting)

        await one.each([due for due in found if "businessStatus" not in due], flag)

    return Timer("missed-vital-signs", EVERY, look)


async def _flag(due: Resource, record: Record, now: datetime, setting: Setting) -> None:
    when, patient = moment(due["executionPeriod"]["start"]), patient_of(due)
    if due["status"] not in OPEN_TASK or patient is None or not is_missed(when, now, setting.monitoring):
        return
    text = f"{due['description']} Due at {zulu(when)}, and not recorded. See to the patient, measure and record."
    name = ("missed", str(due["id"]))
    about = f"Task/{due['id']}"
    visit = id_in(due.get("encounter"), "Encounter")
    await raise_once(
        record,
        detected_issue(
            name,
            patient=patient,
            code=VITALS_MISSED,
            rules=["M-MISSED"],
            severity="high",
            detail=text,
            now=now,
            implicated=[about],
            policy=setting.version,
        ),
    )
    call = task(
        name,
        patient=patient,
        code=VITALS_MISSED,
        description=text,
        now=now,
        priority="stat",
        focus=about,
        encounter=visit,
    )
    await setting.escalation.raise_task(record, call, now)
    with own_work():
        await record.update(content_of({**due, "businessStatus": {"text": "missed"}}))
