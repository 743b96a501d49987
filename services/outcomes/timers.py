"""What outcomes does because time has passed: overdue questionnaires and their reminders, long-term use, escalation."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from services.outcomes.rules.measures import definition
from services.outcomes.rules.schedule import (
    MISSED,
    OVERDUE,
    is_marked,
    reminders_due,
    standing_of,
)
from services.outcomes.setting import Setting
from services.outcomes.surveillance import looked_back_to, watch
from shared.fhir.codes import EXPECT_QUESTIONNAIRE, QUESTIONNAIRE_REMINDER, VISIT_DOSING
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, patient_of
from shared.notify.telling import Letter, tell
from shared.runtime.raising import content_of, keep, own_work
from shared.runtime.record import Record
from shared.runtime.timers import Round, Timer

EVERY: Final = timedelta(minutes=5)
DAILY: Final = timedelta(hours=6)


def timers(setting: Setting) -> tuple[Timer, ...]:
    """Return outcomes' timers, under a policy."""

    async def expectations(one: Round) -> None:
        asked = {"code": EXPECT_QUESTIONNAIRE.token(), "status": "requested"}
        # By the index of when they are due: what is open for months ahead is not read. Older Tasks do not say it there.
        found = [
            *await one.search("Task", {**asked, "period": f"lt{zulu(one.now)}"}),
            *await one.search("Task", {**asked, "period:missing": "true"}),
        ]

        async def work(expected: Resource, record: Record) -> None:
            await _look_at(expected, one.now, record, setting)

        late = [expected for expected in found if standing_of(expected, one.now, setting.policy.reminders) is not None]
        await one.each(late, work)

    async def surveillance(one: Round) -> None:
        async def work(patient: Resource, record: Record) -> None:
            await watch(str(patient["id"]), one.now, record, setting)

        asked = {
            "status": "finished",
            "type": VISIT_DOSING.token(),
            "date": f"ge{zulu(looked_back_to(one.now, setting))}",
        }
        async with one.record() as record:
            visits = await record.search("Encounter", asked)
        treated = {patient for visit in visits if (patient := patient_of(visit)) is not None}
        await one.each([{"resourceType": "Patient", "id": patient} for patient in sorted(treated)], work)

    async def publish_measures(one: Round) -> None:
        async with one.record() as record:
            for name, measure in setting.measures.measures.items():
                await publish(definition(name, measure, setting.version), record)

    return (
        setting.escalation.timer(),
        Timer("expectations", EVERY, expectations),
        Timer("surveillance", DAILY, surveillance),
        Timer("measures", DAILY, publish_measures),
    )


async def publish(measure: Resource, record: Record) -> None:
    """Keep the clinic's Measure as the policy has it; one that somebody posted under its canonical stays theirs."""
    held = await record.search("Measure", {"url": measure["url"]})
    own = [one for one in held if measure["identifier"][0] in one.get("identifier", [])]
    if own or not held:
        await keep(record, measure)


async def _look_at(expected: Resource, now: datetime, record: Record, setting: Setting) -> None:
    """Mark what is overdue or missed, and remind the patient."""
    if expected["status"] != "requested":
        return
    reminding = setting.policy.reminders
    standing = standing_of(expected, now, reminding)
    if standing is None:
        return
    if not is_marked(expected, standing):
        ended = {"status": "failed"} if standing == MISSED else {}
        marked = {**expected, "businessStatus": standing.concept(), "lastModified": zulu(now), **ended}
        with own_work():
            await record.update(content_of(marked))
    if standing == OVERDUE:
        await _remind(expected, now, record, setting)


async def _remind(expected: Resource, now: datetime, record: Record, setting: Setting) -> None:
    who = id_in(expected.get("owner"), "Patient")
    held = None if who is None else await record.get("Patient", who)
    hours = reminders_due(expected, now, setting.policy.reminders)
    if held is None or who is None or not hours:
        return
    letter = Letter(
        topic=QUESTIONNAIRE_REMINDER,
        subject="A questionnaire waits for you",
        text="Your clinic has a questionnaire for you that you have not answered yet. Please open it in your portal. "
        "If you are in distress or think of harming yourself, call or text 988 at once, or 911 in an emergency.",
        category="reminder",
        about=[f"Task/{expected['id']}"],
    )
    # One reminder at a time: after an outage the last that was due stands for those before it.
    await tell(record, ("reminder", str(expected["id"]), str(max(hours))), letter, to=held, now=now, patient=who)
