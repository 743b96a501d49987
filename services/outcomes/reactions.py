"""What outcomes does on sessions' events: a dosing session that ended makes it expect questionnaires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.outcomes.expectations import fulfil
from services.outcomes.rules import COUNTED, due_after, expectation_name, instrument_of
from services.outcomes.setting import Setting
from shared.events.envelope import Event
from shared.fhir.codes import EXPECT_QUESTIONNAIRE
from shared.fhir.dates import MIN_INSTANT, interval
from shared.fhir.json import Resource
from shared.fhir.kap import moment, patient_of, visit_of
from shared.fhir.raised import task
from shared.runtime.raising import close_task, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Reaction


def reactions(setting: Setting) -> Mapping[str, Sequence[Reaction]]:
    """Return outcomes' reactions by type, under a policy."""

    async def visit_changed(event: Event, resource: Resource, record: Record) -> None:
        visit = await record.get("Encounter", event.resource_id)
        if visit is None or visit["status"] == "entered-in-error":
            await _expect_nothing(event.resource_id, record, setting)
        elif visit["status"] == "finished" and visit_of(visit) == "kap-dosing":
            await _expect(visit, record, setting)

    return {"Encounter": (visit_changed,)}


async def _expect(visit: Resource, record: Record, setting: Setting) -> None:
    patient = patient_of(visit)
    if patient is None:
        return
    now = setting.clock()
    for name, expected in setting.policy.after_dosing.items():
        instrument = setting.instruments[expected.instrument]
        made = task(
            ("expect", visit["id"], name),
            patient=patient,
            code=EXPECT_QUESTIONNAIRE,
            description=f"{instrument.title}, {expected.days} days after the session. Source: {expected.source}.",
            now=now,
            encounter=visit["id"],
            due=due_after(visit, expected, now),
        )
        asked = {"type": {"text": "questionnaire"}, "valueCanonical": instrument.canonicals[0]}
        await raise_once(record, {**made, "input": [asked]})
    # Answers may have been given before the news of the session's end came here, but not before that end.
    end = interval(visit["period"]["end"])[0] if "end" in visit.get("period", {}) else MIN_INSTANT
    for response in await record.search("QuestionnaireResponse", {"encounter": f"Encounter/{visit['id']}"}):
        found = instrument_of(response, setting.instruments)
        is_after = moment(response.get("authored")) >= end
        if found is not None and response["status"] in COUNTED and patient_of(response) == patient and is_after:
            await fulfil(response, patient, found[1], record, setting)


async def _expect_nothing(visit: str, record: Record, setting: Setting) -> None:
    for name in setting.policy.after_dosing:
        await close_task(
            record,
            expectation_name(visit, name),
            setting.clock(),
            status="cancelled",
            why="The dosing session was entered in error.",
        )
