"""What a guard does when it has not heard of others for longer than the policy allows: refuse, ask, or record."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.intake.service import intake as intake_service
from services.scheduling.service import scheduling as scheduling_service
from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unavailable, Unprocessable
from shared.testing.knowledge import all_is_heard
from tests.integration.services.bedside import Bedside
from tests.integration.services.course import START, about, appointment, milligrams, planned

LONG_AGO = timedelta(minutes=5)
NEXT_DAY = START + timedelta(days=5)
PRESCRIBER = {"reference": "Practitioner/prescriber"}


async def heard_again(opened) -> None:
    await all_is_heard(opened.store, opened.service)


async def test_a_booking_on_old_news_is_503_names_the_source_and_is_made_when_it_is_heard_again(bench, clock):
    intake, scheduling = await bench.open(intake_service), await bench.open(scheduling_service, heard=LONG_AGO)
    who, _, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    wanted = appointment(who, ordered, NEXT_DAY)
    with pytest.raises(Unavailable, match=r"intake: last heard of \d+ s ago") as error:
        await scheduling.create(wanted)
    assert error.value.headers["Retry-After"]
    assert error.value.issues[0].rule == "N-NEWS"
    await heard_again(scheduling)
    assert (await scheduling.create(wanted))["status"] == "booked"


async def test_what_stands_on_no_news_is_booked_and_what_happened_is_recorded(bench, clock):
    scheduling = await bench.open(scheduling_service, heard=LONG_AGO)
    who = {"resourceType": "Patient", "id": "x"}
    consult = await scheduling.create(appointment(who, None, NEXT_DAY, visit=codes.VISIT_CONSULT))
    clock.now = NEXT_DAY
    assert (await scheduling.update({**consult, "status": "arrived"}))["status"] == "arrived"
    walked_in = await scheduling.create(appointment(who, None, clock.now, status="arrived"))
    assert walked_in["status"] == "arrived"


@pytest.fixture
async def unheard(bench, clock):
    """A dosing visit in progress, all in order, but that nothing was heard of the others for long."""
    at = Bedside(await bench.open(sessions_service, heard=LONG_AGO), clock)
    await at.begin()
    await at.chart(118, 76)
    return at


def parameters(at, **more):
    return [
        {"name": "medicationRequest", "valueReference": about(at.ordered)},
        {"name": "dose", "valueQuantity": milligrams(70)},
        {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
        *({"name": name, "valueReference": value} for name, value in more.items()),
    ]


async def news_of(at):
    answer = await at.sessions.call("pre-dose-gate", at.visit, *parameters(at))
    for one in answer["parameter"]:
        parts = {part["name"]: next(v for k, v in part.items() if k != "name") for part in one.get("part", [])}
        if parts.get("rule") == "G-NEWS":
            return answer["parameter"][0]["valueBoolean"], parts
    raise AssertionError("the gate has no check of its news")


async def test_the_gate_asks_a_person_where_its_news_is_old_and_opens_by_itself_when_it_is_not(unheard):
    opens, news = await news_of(unheard)
    assert (opens, news["verdict"], news["closes"]) == (False, "ask", True)
    assert "intake: last heard of 30" in news["text"]
    assert "outcomes: last heard of 30" in news["text"]
    with pytest.raises(Unprocessable, match="confirmedBy") as error:
        await unheard.sessions.call("start-dose", unheard.visit, *parameters(unheard))
    assert {issue.rule for issue in error.value.issues} == {"G-NEWS"}
    await heard_again(unheard.sessions)
    opens, news = await news_of(unheard)
    assert (opens, news["verdict"]) == (True, "open")


async def test_a_person_s_confirmation_opens_the_gate_for_a_while_and_is_documented(unheard):
    started = await unheard.sessions.call("start-dose", unheard.visit, *parameters(unheard, confirmedBy=PRESCRIBER))
    assert started["status"] == "in-progress"
    issues = await unheard.sessions.search("DetectedIssue", implicated=f"Encounter/{unheard.visit['id']}")
    (kept,) = [one for one in issues if any(c["code"] == "G-NEWS" for c in one["code"]["coding"])]
    assert kept["mitigation"][0]["author"] == PRESCRIBER
    assert kept["mitigation"][0]["date"] == zulu(unheard.clock.now)
    assert "intake: last heard of" in kept["detail"]
    assert (await news_of(unheard))[1]["verdict"] == "decided"
    unheard.clock.forward(minutes=31)
    assert (await news_of(unheard))[1]["verdict"] == "ask"


async def test_a_confirmation_is_a_practitioner_s(unheard):
    with pytest.raises(Unprocessable, match="Practitioner"):
        await unheard.sessions.call(
            "start-dose", unheard.visit, *parameters(unheard, confirmedBy={"reference": "Patient/x"})
        )


async def test_a_confirmation_nobody_asked_for_leaves_no_trace(bench, clock):
    at = Bedside(await bench.open(sessions_service), clock)
    await at.begin()
    await at.chart(118, 76)
    await at.sessions.call("start-dose", at.visit, *parameters(at, confirmedBy=PRESCRIBER))
    assert await at.sessions.search("DetectedIssue", implicated=f"Encounter/{at.visit['id']}") == []


async def test_a_dose_that_was_given_is_recorded_however_old_the_news_is(unheard):
    given = {
        "resourceType": "MedicationAdministration",
        "status": "completed",
        "medicationCodeableConcept": unheard.ordered["medicationCodeableConcept"],
        "subject": about(unheard.who),
        "context": about(unheard.visit),
        "effectiveDateTime": zulu(unheard.clock.now - timedelta(minutes=1)),
        "request": about(unheard.ordered),
        "dosage": {
            "route": codes.ROUTE_IM.concept(),
            "dose": milligrams(70),
        },
    }
    kept = await unheard.sessions.create(given)
    raised = await unheard.sessions.search("DetectedIssue", implicated=f"MedicationAdministration/{kept['id']}")
    assert not [one for one in raised if "G-NEWS" in one.get("detail", "")]
