"""Screening again: whenever its ground changes, months later too, and when its answers grow old."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import eligibility_outcome, stage_of
from shared.runtime.timers import run_once
from tests.integration.services.at_intake import (
    SUBLINGUAL,
    allergic,
    condition,
    latest,
    outcome,
    pregnancy,
    proceeding,
    taking,
    the_course,
)
from tests.integration.services.course import (
    about,
    eligible,
    order,
    patient,
    planned,
    screening,
)

NEW_FACTS = {
    "pregnancy observed": (lambda who, now: pregnancy(who, "77386006", now), "E12"),
    "pregnancy diagnosed": (lambda who, now: condition(who, "77386006"), "E12"),
    "aneurysm": (lambda who, now: condition(who, "67362008"), "E01"),
    "theophylline": (lambda who, now: taking(who, "10438"), "I-THEOPHYLLINE"),
    "theophylline ordered": (
        lambda who, now: {**order(who), "medicationCodeableConcept": codes.Code(codes.RXNORM, "10438").concept()},
        "I-THEOPHYLLINE",
    ),
    "allergy": (lambda who, now: allergic(who), "E04"),
    "words no rule can read": (lambda who, now: condition(who, "x", "urn:local"), "UNCODED"),
    "answers": (lambda who, now: screening(who, now, E06=True), "E06"),
    "no longer able to consent": (lambda who, now: screening(who, now, E23=False), "E23"),
}


@pytest.mark.parametrize("fact", sorted(NEW_FACTS))
async def test_a_new_fact_months_later_suspends_the_course_and_tells_people(intake, clock, fact):
    who, _, _ = await planned(intake, clock)
    clock.forward(days=60)
    make, rule = NEW_FACTS[fact]
    await intake.create(make(who, clock.now))
    assessment = await latest(intake, who)
    assert outcome(assessment) in ("not-eligible", "needs-decision")
    assert assessment["occurrenceDateTime"] == zulu(clock.now)
    course = await the_course(intake, who)
    assert (stage_of(course), course["status"]) == ("planned", "onhold")
    (flagged,) = await intake.search("Flag", patient=who["id"])
    (asked,) = await intake.search("Task", patient=who["id"])
    assert rule in flagged["code"]["text"]
    assert (asked["priority"], asked["focus"]) == ("urgent", {"reference": f"RiskAssessment/{assessment['id']}"})
    issues = await intake.search("DetectedIssue", patient=who["id"])
    assert rule in {issue["code"]["coding"][0]["code"] for issue in issues}


async def test_a_corrected_birth_date_is_judged_at_once(intake, clock):
    who, _, _ = await planned(intake, clock)
    await intake.update({**who, "birthDate": "2010-01-01"})
    assert outcome(await latest(intake, who)) == "not-eligible"
    assert (await the_course(intake, who))["status"] == "onhold"


def relative(who, relationship, code):
    return {
        "resourceType": "FamilyMemberHistory",
        "status": "completed",
        "patient": about(who),
        "relationship": codes.Code("http://terminology.hl7.org/CodeSystem/v3-RoleCode", relationship).concept(),
        "condition": [{"code": codes.Code(codes.ICD10CM, code).concept()}],
    }


async def test_a_psychosis_in_the_family_that_is_recorded_later_waits_for_a_prescriber(intake, clock):
    who, _, _ = await planned(intake, clock)
    await intake.create(relative(who, "STPMTH", "F20.9"))
    await intake.create(relative(who, "PGRFTH", "F20.9"))
    assert outcome(await latest(intake, who)) == "eligible"
    of_mother = await intake.create(relative(who, "NMTH", "F20.9"))
    assert outcome(await latest(intake, who)) == "needs-decision"
    assert (await the_course(intake, who))["status"] == "onhold"
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    assert (issue["code"]["coding"][0]["code"], issue["implicated"]) == ("E08", [about(of_mother)])
    await intake.update({**issue, "mitigation": [proceeding(await intake.prescriber())]})
    assert outcome(await latest(intake, who)) == "eligible"
    await intake.update({**of_mother, "status": "entered-in-error"})
    assert outcome(await latest(intake, who)) == "eligible"


async def test_what_is_taken_back_makes_eligible_again_and_a_person_lets_the_course_go_on(intake, clock):
    who, _, _ = await planned(intake, clock)
    found = await intake.create(condition(who, "77386006"))
    assert outcome(await latest(intake, who)) == "not-eligible"
    doubt = {"system": "http://terminology.hl7.org/CodeSystem/condition-ver-status", "code": "entered-in-error"}
    refuted = {name: value for name, value in found.items() if name != "clinicalStatus"}
    await intake.update({**refuted, "verificationStatus": {"coding": [doubt]}})
    assert outcome(await latest(intake, who)) == "eligible"
    (flagged,) = await intake.search("Flag", patient=who["id"])
    (asked,) = await intake.search("Task", patient=who["id"])
    assert (flagged["status"], asked["status"]) == ("inactive", "completed")
    course = await the_course(intake, who)
    assert course["status"] == "onhold"
    await intake.update({**course, "status": "active"})


async def test_a_deleted_fact_counts_no_longer(intake, clock):
    who, _, _ = await planned(intake, clock)
    found = await intake.create(condition(who, "77386006"))
    await intake.delete(found)
    assert outcome(await latest(intake, who)) == "eligible"


async def test_what_changes_nothing_writes_nothing(intake, clock):
    who, _, _ = await planned(intake, clock)
    before = len(await intake.search("RiskAssessment", patient=who["id"]))
    await intake.create(pregnancy(who, "60001007", clock.now))
    await intake.create(taking(who, "26225"))
    await intake.update({**who, "telecom": [{"system": "phone", "value": "1"}]})
    assert len(await intake.search("RiskAssessment", patient=who["id"])) == before
    assert (await the_course(intake, who))["status"] == "active"


async def test_who_was_never_screened_is_not_judged(intake):
    who = await intake.create(patient())
    await intake.create(condition(who, "67362008"))
    assert await latest(intake, who) is None


async def test_it_is_judged_again_by_the_drug_and_route_it_was_asked_for(intake):
    who = await intake.create(patient())
    await intake.create(screening(who))
    await intake.call("screen", who, *SUBLINGUAL)
    await intake.create(condition(who, "67362008"))
    assert outcome(await latest(intake, who)) == "needs-decision"


async def test_an_eligible_screening_is_valid_as_long_as_its_answers(intake, clock):
    who = await eligible(intake, clock)
    valid = (await latest(intake, who))["prediction"][0]["whenPeriod"]
    assert valid == {"start": zulu(clock.now), "end": zulu(clock.now + timedelta(days=180))}
    assessment = await latest(intake, who)
    assert eligibility_outcome(assessment, clock.now + timedelta(days=179)) == "eligible"
    assert eligibility_outcome(assessment, clock.now + timedelta(days=180)) == "needs-answers"


async def test_before_the_answers_are_too_old_somebody_is_asked_and_then_the_course_is_on_hold(intake, clock):
    who, _, _ = await planned(intake, clock)
    (timer,) = [one for one in intake.service.timers if one.name == "judged-anew"]

    async def tick():
        await run_once(timer, intake.service, intake.store, clock.now, lambda: None)

    async def tasks(code):
        return [one["status"] for one in await intake.search("Task", patient=who["id"], code=code.token())]

    clock.forward(days=165)
    await tick()
    assert await tasks(codes.SCREEN_AGAIN) == []
    clock.forward(days=1)
    await tick()
    await tick()
    assert await tasks(codes.SCREEN_AGAIN) == ["requested"]
    clock.forward(days=14)
    await tick()
    await tick()
    assert outcome(await latest(intake, who)) == "needs-answers"
    assert (await the_course(intake, who))["status"] == "onhold"
    assert await tasks(codes.ELIGIBILITY_LOST) == ["requested"]
    await intake.create(screening(who, clock.now))
    assert outcome(await latest(intake, who)) == "eligible"
    assert await tasks(codes.ELIGIBILITY_LOST) == ["completed"]
    assert await tasks(codes.SCREEN_AGAIN) == ["completed"]
