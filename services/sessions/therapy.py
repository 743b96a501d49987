"""The psychotherapy at work: what a visit is to say at its end, and the check-ins between the sessions."""

from __future__ import annotations

from datetime import timedelta

from services.sessions.calling import Finding, have_reviewed
from services.sessions.rules.psychotherapy import check_in_times, is_unmade, lacking
from services.sessions.rules.visits import reckoned
from services.sessions.setting import Setting
from services.sessions.what_was_given import doses_of
from shared.fhir.codes import CHECK_IN, CHECK_IN_MISSED, COMPLETE_VISIT, VISIT_DOSING
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, moment, patient_of, visit_of
from shared.fhir.raised import task
from shared.runtime.raising import OPEN_TASK, content_of, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change
from shared.runtime.timers import Round, Timer

EVERY = timedelta(minutes=1)


async def guard_therapy(change: Change, record: Record, setting: Setting) -> None:
    """At the end of a visit, ask for what it does not say, and after a dose set the check-ins."""
    before, after = change.before or {}, change.after
    if after is None or after["status"] != "finished" or before.get("status") in ("finished", None):
        return
    kind, patient = visit_of(after), patient_of(after)
    if kind is None or patient is None:
        return
    about = {"encounter": f"Encounter/{change.id}"}
    said = [*await record.search("Observation", about), *await record.search("Procedure", about)]
    missing = lacking(kind, said, setting.psychotherapy)
    if missing:
        asked = task(
            ("therapy", change.id),
            patient=patient,
            code=COMPLETE_VISIT,
            description=f"The visit does not say yet: {', '.join(missing)}. Record it ($record-psychotherapy).",
            now=setting.clock(),
            focus=f"Encounter/{change.id}",
            encounter=change.id,
        )
        await raise_once(record, asked, reopen=True)
    if kind == VISIT_DOSING.code and await doses_of(record, change.id, setting):
        await _set_check_ins(after, change.id, patient, record, setting)


async def _set_check_ins(visit: Resource, id_: str, patient: str, record: Record, setting: Setting) -> None:
    now, policy = setting.clock(), setting.psychotherapy.check_ins
    said = visit.get("period", {}).get("end")
    end = now if said is None else reckoned(interval(said)[0], now)
    for number, when in enumerate(check_in_times(end, now, policy), start=1):
        made = task(
            ("check-in", id_, str(number)),
            patient=patient,
            code=CHECK_IN,
            description="Ask the patient how it went since the session; record it (check-in of $record-psychotherapy).",
            now=now,
            focus=f"Encounter/{id_}",
            encounter=id_,
            due=when + timedelta(hours=policy.within),
        )
        await raise_once(record, {**made, "executionPeriod": {"start": zulu(when)}}, reopen=True)


async def close_check_in(record: Record, visit: str, said: str, performer: Resource | None, setting: Setting) -> None:
    """Complete the check-in of a visit that was due first with the Observation of what was said."""
    waiting = [
        one
        for one in await record.search("Task", {"encounter": f"Encounter/{visit}", "code": CHECK_IN.token()})
        if one["status"] in OPEN_TASK
    ]
    if not waiting:
        return
    first = min(waiting, key=lambda one: moment(one["executionPeriod"]["start"]))
    done = {
        **first,
        "status": "completed",
        "lastModified": zulu(setting.clock()),
        "output": [{"type": CHECK_IN.concept(), "valueReference": {"reference": said}}],
        **({} if performer is None else {"owner": performer}),
    }
    with own_work():
        await record.update(content_of(done))


def timer(setting: Setting) -> Timer:
    """Return the timer that asks after check-ins that were not made."""

    async def look(one: Round) -> None:
        found = await one.search("Task", {"code": CHECK_IN.token(), "status": ",".join(sorted(OPEN_TASK))})

        async def ask(due: Resource, record: Record) -> None:
            patient, visit = patient_of(due), id_in(due.get("encounter"), "Encounter")
            if due["status"] not in OPEN_TASK or patient is None or not is_unmade(due, one.now):
                return
            text = f"Nobody has asked the patient since {due['executionPeriod']['start']} how it went. Reach him."
            about = (f"Task/{due['id']}",)
            missed = Finding(
                ("check-in", str(due["id"])), patient, CHECK_IN_MISSED, text, about, ("V-CHECK-IN",), visit
            )
            await have_reviewed(record, missed, setting)
            with own_work():
                await record.update(content_of({**due, "businessStatus": {"text": "missed"}}))

        await one.each([due for due in found if is_unmade(due, one.now)], ask)

    return Timer("check-ins", EVERY, look)
