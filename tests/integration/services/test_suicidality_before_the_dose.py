"""A C-SSRS of high risk, kept by outcomes, changes who is eligible at intake and what is booked at scheduling."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.outcomes.service import outcomes as outcomes_service
from shared.fhir import codes
from shared.fhir.codes import KAP, LOINC, Code
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from tests.integration.services.at_intake import latest, outcome, proceeding, replayed, rules_of, the_course
from tests.integration.services.course import about, appointment, eligible, order, planned

CSSRS = ["93246-7", "93247-5", "93248-3", "93249-1", "93250-9", "93267-3", "93269-9"]
NURSE = {"reference": "Practitioner/nurse"}


@pytest.fixture
async def outcomes(bench):
    return await bench.open(outcomes_service)


def cssrs(who, when, *positive, **more):
    """Return a C-SSRS screener in which the questions `positive` (from 1) are answered with yes."""
    said = {True: "LA33-6", False: "LA32-8"}
    return {
        "resourceType": "QuestionnaireResponse",
        "questionnaire": "https://kap-exchange.org/fhir/Questionnaire/c-ssrs-screener",
        "status": "completed",
        "subject": about(who),
        "author": about(who),
        "authored": zulu(when),
        "item": [
            {"linkId": link, "answer": [{"valueCoding": {"system": LOINC, "code": said[number in positive]}}]}
            for number, link in enumerate(CSSRS, 1)
        ],
        **more,
    }


async def settled_by(outcomes, who, clock):
    """Let a person end what the answers called for, and a clinician find no risk later."""
    for one in await outcomes.search("Task", patient=who["id"], code=Code(KAP, "evaluate-suicide-risk").token()):
        await outcomes.update({**one, "status": "completed", "owner": NURSE})
    clock.forward(hours=3)
    await outcomes.create(cssrs(who, clock.now, author=NURSE))


async def test_a_c_ssrs_of_high_risk_suspends_the_course_and_flags_the_booked_dose(
    bench, clock, intake, scheduling, outcomes
):
    who, _, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    booked = await scheduling.create(appointment(who, ordered, clock.now + timedelta(days=5)))
    await outcomes.create(cssrs(who, clock.now, 1, 2, 4))
    await bench.deliver(outcomes, intake)
    assessment = await latest(intake, who)
    assert outcome(assessment) == "needs-decision"
    (up,) = await intake.search("Flag", patient=who["id"], identifier=f"{codes.ID_FLAG}|eligibility:{who['id']}")
    assert "E22" in up["code"]["text"]
    (warned,) = [one for one in await outcomes.search("Flag", patient=who["id"]) if one["status"] == "active"]
    assert {"reference": f"Flag/{warned['id']}"} in assessment["basis"]
    assert (await the_course(intake, who))["status"] == "onhold"
    await bench.deliver(intake, scheduling)
    (task,) = await scheduling.search("Task", patient=who["id"], code=codes.GROUND_LOST.code)
    assert (task["priority"], task["focus"]) == ("urgent", about(booked))
    assert "S-ELIGIBLE" in task["description"]
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(appointment(who, ordered, clock.now + timedelta(days=9)))
    assert "S-ELIGIBLE" in rules_of(error)
    answered = await replayed(intake, assessment)
    assert answered["same"] is True


async def test_a_clinician_who_finds_no_risk_later_makes_eligible_again_and_a_patient_does_not(
    bench, clock, intake, outcomes
):
    who, _, _ = await planned(intake, clock)
    await outcomes.create(cssrs(who, clock.now, 5))
    await bench.deliver(outcomes, intake)
    clock.forward(hours=1)
    await outcomes.create(cssrs(who, clock.now))
    await bench.deliver(outcomes, intake)
    assert outcome(await latest(intake, who)) == "needs-decision"
    await settled_by(outcomes, who, clock)
    await bench.deliver(outcomes, intake)
    assert outcome(await latest(intake, who)) == "eligible"
    assert (await the_course(intake, who))["status"] == "onhold"


async def test_who_answered_so_before_he_was_screened_is_not_found_eligible_and_is_not_ordered_for(
    bench, clock, intake, outcomes
):
    who = await eligible(intake, clock)
    await outcomes.create(cssrs(who, clock.now, 7, 6))
    await bench.deliver(outcomes, intake)
    assert outcome(await intake.call("screen", who)) == "needs-decision"
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who))
    assert "E22" in rules_of(error)


@pytest.mark.parametrize("positive", [(1,), (1, 2, 3), ()])
async def test_less_than_a_plan_or_recent_behaviour_leaves_the_course_to_the_clinician(
    bench, clock, intake, outcomes, positive
):
    who, _, _ = await planned(intake, clock)
    await outcomes.create(cssrs(who, clock.now, *positive))
    await bench.deliver(outcomes, intake)
    assert outcome(await latest(intake, who)) == "eligible"
    assert await intake.search("Flag", patient=who["id"]) == []


async def test_a_prescriber_decides_past_it_with_a_reason_and_new_answers_ask_again(bench, clock, intake, outcomes):
    who, _, _ = await planned(intake, clock)
    await outcomes.create(cssrs(who, clock.now, 4))
    await bench.deliver(outcomes, intake)
    (issue,) = await intake.search("DetectedIssue", patient=who["id"], identifier=finding("E22", who))
    by = await intake.prescriber()
    await intake.update({**issue, "mitigation": [proceeding(by, "On the crisis pathway, seen daily")]})
    assert outcome(await latest(intake, who)) == "eligible"
    clock.forward(hours=2)
    await outcomes.create(cssrs(who, clock.now, 5))
    await bench.deliver(outcomes, intake)
    assert outcome(await latest(intake, who)) == "needs-decision"


async def test_the_news_told_again_writes_nothing(bench, clock, intake, outcomes):
    who, _, _ = await planned(intake, clock)
    await outcomes.create(cssrs(who, clock.now, 4))
    await bench.deliver(outcomes, intake)
    before = await intake.count()
    await bench.deliver(outcomes, intake, again=True)
    await bench.react_again(outcomes, intake)
    assert await intake.count() == before


def finding(rule, who):
    return f"{codes.ID_FINDING}|screen:{who['id']}:{rule}"
