"""Intake: screening, the opening of a course, consent, order and the stages they lead to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.intake.service import intake as intake_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import stage_of
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from tests.integration.services.course import (
    about,
    care_plan,
    consent,
    eligible,
    order,
    patient,
    planned,
    referral,
    screening,
    weight,
)


@pytest.fixture
async def intake(bench):
    return await bench.open(intake_service)


def outcome(assessment):
    return assessment["prediction"][0]["outcome"]["coding"][0]["code"]


def rules_of(error):
    return {issue.rule for issue in error.value.issues}


async def the_course(intake, who):
    episodes = await intake.search("EpisodeOfCare", patient=f"Patient/{who['id']}")
    assert len(episodes) <= 1
    return episodes[0] if episodes else None


def condition(who, code, system=codes.SNOMED, **more):
    return {
        "resourceType": "Condition",
        "clinicalStatus": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]
        },
        "code": {"coding": [{"system": system, "code": code}]},
        "subject": about(who),
        **more,
    }


async def test_a_referral_and_an_eligible_screening_open_one_course(intake, clock):
    who = await eligible(intake, clock)
    course = await the_course(intake, who)
    assert course["status"] == "planned"
    assert stage_of(course) == "eligible"
    await intake.call("screen", who)
    assert await the_course(intake, who) is not None


async def test_the_order_of_referral_and_screening_does_not_matter(intake, clock):
    who = await intake.create(patient())
    await intake.create(screening(who))
    assert outcome(await intake.call("screen", who)) == "eligible"
    assert await the_course(intake, who) is None
    asked = await intake.create(referral(who))
    course = await the_course(intake, who)
    assert course["referralRequest"] == [{"reference": f"ServiceRequest/{asked['id']}"}]


async def test_without_answers_it_is_not_known_and_no_course_opens(intake):
    who = await intake.create(patient())
    await intake.create(referral(who))
    assert outcome(await intake.call("screen", who)) == "needs-answers"
    assert await the_course(intake, who) is None


async def test_an_aneurysm_blocks_esketamine_with_its_evidence_and_source(intake):
    who = await intake.create(patient())
    await intake.create(referral(who))
    found = await intake.create(condition(who, "67362008"))
    await intake.create(screening(who))
    result = await intake.call("screen", who, {"name": "drug", "valueCode": "esketamine"})
    assert outcome(result) == "not-eligible"
    assert {"reference": f"Condition/{found['id']}"} in result["basis"]
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    assert issue["code"]["coding"][0]["code"] == "E01"
    assert issue["severity"] == "high"
    assert issue["implicated"] == [{"reference": f"Condition/{found['id']}"}]
    assert "label" in issue["detail"]
    assert await the_course(intake, who) is None


async def test_a_prescribers_decision_on_a_relative_finding_lets_the_course_open(intake):
    who = await intake.create(patient())
    await intake.create(referral(who))
    await intake.create(condition(who, "67362008"))
    await intake.create(screening(who))
    drug = {"name": "drug", "valueCode": "ketamine"}
    assert outcome(await intake.call("screen", who, drug)) == "needs-decision"
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    decision = {
        "action": codes.PROCEED.concept(text="Small, stable, seen by vascular surgery"),
        "date": "2026-11-22",
        "author": {"reference": "Practitioner/prescriber"},
    }
    await intake.update({**issue, "mitigation": [decision]})
    assert outcome(await intake.call("screen", who, drug)) == "eligible"
    assert await the_course(intake, who) is not None
    await intake.create(condition(who, "I71.4", codes.ICD10CM))
    assert outcome(await intake.call("screen", who, drug)) == "needs-decision", "new evidence asks for a new decision"


async def test_screening_again_neither_doubles_nor_keeps_what_no_longer_applies(intake, clock):
    who = await intake.create(patient())
    await intake.create(screening(who, E04=True))
    await intake.call("screen", who)
    await intake.call("screen", who)
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    assert (issue["status"], issue["meta"]["versionId"]) == ("final", "1")
    clock.forward(days=1)
    await intake.create(screening(who, clock.now))
    assert outcome(await intake.call("screen", who)) == "eligible"
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    assert issue["status"] == "cancelled"


async def test_eligibility_cannot_be_posted(intake, clock):
    who = await eligible(intake, clock)
    (assessment,) = await intake.search("RiskAssessment", patient=who["id"])
    del assessment["id"]
    with pytest.raises(Unprocessable) as error:
        await intake.create(assessment)
    assert rules_of(error) == {"E-SCREEN"}


async def test_a_decision_on_eligibility_is_only_taken_back_as_an_error_and_takes_its_course_with_it(intake, clock):
    who = await eligible(intake, clock)
    (decision,) = await intake.search("RiskAssessment", patient=who["id"])
    for status in ("cancelled", "preliminary"):
        with pytest.raises(Unprocessable, match="screen"):
            await intake.update({**decision, "status": status})
    await intake.update({**decision, "status": "entered-in-error"})
    (course,) = await intake.search("EpisodeOfCare", patient=who["id"])
    assert course["status"] == "onhold"


async def test_answers_without_a_date_do_not_outlive_newer_ones(intake, clock):
    who = await eligible(intake, clock)
    undated = screening(who, clock.now)
    del undated["authored"]
    await intake.create(undated)
    clock.now = max(clock.now, datetime.now(UTC)) + timedelta(minutes=1)
    await intake.create(screening(who, clock.now, E12=True))
    result = await intake.call("screen", who)
    assert result["prediction"][0]["outcome"]["coding"][0]["code"] != "eligible"


async def test_a_question_answered_both_ways_is_not_known(intake, clock):
    who = await eligible(intake, clock)
    both = screening(who, clock.now, E12=True)
    both["item"].append({"linkId": "E12", "answer": [{"valueBoolean": False}]})
    clock.forward(minutes=1)
    await intake.create({**both, "authored": zulu(clock.now)})
    result = await intake.call("screen", who)
    assert result["prediction"][0]["outcome"]["coding"][0]["code"] == "needs-answers"


async def test_the_decision_names_the_policy_that_made_it(intake, clock):
    who = await eligible(intake, clock)
    (assessment,) = await intake.search("RiskAssessment", patient=who["id"])
    assert {"url": codes.EXT_POLICY, "valueString": "2026.11.1"} in assessment["extension"]


async def test_screening_asks_for_a_known_patient_and_known_parameters(intake):
    with pytest.raises(NotFound):
        await intake.call("screen", {"resourceType": "Patient", "id": "nobody"})
    who = await intake.create(patient())
    with pytest.raises(BadRequest):
        await intake.call("screen", who, {"name": "drug", "valueCode": "aspirin"})
    with pytest.raises(BadRequest):
        await intake.call("screen", who, {"name": "route", "valueCode": "iv"})


async def test_consent_plan_and_order_move_the_course_to_planned(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(consent(who))
    assert stage_of(await the_course(intake, who)) == "consented"
    await intake.create(care_plan(who))
    assert stage_of(await the_course(intake, who)) == "consented"
    await intake.create(weight(who))
    await intake.create(order(who))
    course = await the_course(intake, who)
    assert (stage_of(course), course["status"]) == ("planned", "active")
    stages = [one["extension"][0]["valueCode"] for one in course["extension"]]
    assert stages == ["eligible", "consented", "planned"]


@pytest.mark.parametrize("missing", ["dateTime", "performer"])
async def test_a_consent_without_time_or_signer_is_refused(intake, clock, missing):
    who = await eligible(intake, clock)
    lacking = consent(who)
    del lacking[missing]
    with pytest.raises(Unprocessable) as error:
        await intake.create(lacking)
    assert rules_of(error) == {"C-CONSENT"}
    await intake.create({**lacking, "status": "draft"})


async def test_a_consent_without_a_route_is_refused(intake, clock):
    who = await eligible(intake, clock)
    signed = consent(who)
    with pytest.raises(Unprocessable):
        await intake.create({**signed, "category": signed["category"][:1]})


async def test_a_withdrawn_consent_puts_the_course_on_hold_and_a_person_lifts_it(intake, clock):
    who, signed, _ = await planned(intake, clock)
    await intake.update({**signed, "status": "inactive"})
    course = await the_course(intake, who)
    assert (stage_of(course), course["status"]) == ("planned", "onhold")
    with pytest.raises(Unprocessable) as error:
        await intake.update({**course, "status": "active"})
    assert rules_of(error) == {"K-HOLD"}
    await intake.create(consent(who))
    assert (await the_course(intake, who))["status"] == "onhold"
    await intake.update({**(await the_course(intake, who)), "status": "active"})


async def test_a_finding_after_the_plan_puts_the_course_on_hold(intake, clock):
    who, _, _ = await planned(intake, clock)
    clock.forward(days=3)
    await intake.create(screening(who, clock.now, E12=True))
    assert outcome(await intake.call("screen", who)) == "not-eligible"
    assert (await the_course(intake, who))["status"] == "onhold"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"requester": {"reference": "Patient/x"}}, "RX-PRESCRIBER"),
        ({"dosageInstruction": [{"text": "some"}]}, "RX-ROUTE"),
    ],
)
async def test_an_order_without_prescriber_or_route_is_refused(intake, clock, change, rule):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who, **change))
    assert rules_of(error) == {rule}


async def test_a_dose_outside_the_range_for_weight_and_route_is_refused_by_name(intake, clock):
    who = await eligible(intake, clock)
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who))
    assert rules_of(error) == {"RX-WEIGHT"}
    await intake.create(weight(who, 70))
    with pytest.raises(Unprocessable, match="mg/kg") as error:
        await intake.create(order(who, 200))
    assert rules_of(error) == {"RX-DOSE"}
    await intake.create(order(who, 140))
    await intake.create(order(who, 200, status="draft"))
    await intake.create(order(who, 200, status="completed"))


async def test_another_drug_is_not_judged(intake, clock):
    who = await eligible(intake, clock)
    other = codes.Code(codes.RXNORM, "26225", "ondansetron").concept()
    await intake.create({**order(who, 4000), "medicationCodeableConcept": other, "requester": {"display": "?"}})


async def test_a_course_is_not_opened_or_moved_by_hand(intake, clock):
    who = await eligible(intake, clock)
    course = await the_course(intake, who)
    with pytest.raises(Unprocessable) as error:
        await intake.create({key: value for key, value in course.items() if key != "id"})
    assert rules_of(error) == {"K-COURSE"}
    stages = [{**course["extension"][0]}]
    stages[0]["extension"] = [{"url": "stage", "valueCode": "dosing"}, stages[0]["extension"][1]]
    with pytest.raises(Unprocessable) as error:
        await intake.update({**course, "extension": stages})
    assert rules_of(error) == {"K-STAGE"}


async def test_ketamine_is_not_started_outside_a_visit_but_history_is_kept(intake):
    who = await intake.create(patient())
    dose = {
        "resourceType": "MedicationAdministration",
        "status": "in-progress",
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(who),
        "effectiveDateTime": "2026-11-22T09:00:00Z",
    }
    with pytest.raises(Unprocessable):
        await intake.create(dose)
    await intake.create({**dose, "status": "completed"})
    await intake.create({**dose, "meta": {"source": "urn:hospital"}})


async def test_a_visit_that_begins_moves_the_course_once(intake, clock):
    who, _, _ = await planned(intake, clock)
    visit = {
        "resourceType": "Encounter",
        "id": "visit",
        "status": "in-progress",
        "type": [codes.VISIT_DOSING.concept()],
        "subject": about(who),
    }
    react = intake.service.reactions["Encounter"][0]
    for _ in range(2):
        async with intake.record(f"Patient/{who['id']}") as record:
            await react(_Event("update"), visit, record)
    course = await the_course(intake, who)
    assert stage_of(course) == "dosing"
    assert [one["extension"][0]["valueCode"] for one in course["extension"]].count("dosing") == 1


class _Event:
    def __init__(self, interaction):
        self.interaction = interaction


def visit_elsewhere(who, **more):
    return {
        "resourceType": "Encounter",
        "status": "finished",
        "class": codes.Code(codes.ACT_CODE, "AMB").coding(),
        "subject": about(who),
        **more,
    }


async def test_an_update_never_changes_the_owner(intake):
    who = await intake.create(patient())
    held = await intake.create(visit_elsewhere(who))
    with pytest.raises(Unprocessable, match="as changed it would belong to sessions"):
        await intake.update({**held, "appointment": [{"reference": "Appointment/a"}]})
    answers = await intake.create(screening(who))
    with pytest.raises(Unprocessable, match="outcomes"):
        await intake.update({**answers, "questionnaire": codes.PHQ9_QUESTIONNAIRE})


async def test_what_belongs_to_another_service_is_not_kept_here_unless_it_comes_from_elsewhere(intake):
    who = await intake.create(patient())
    theirs = visit_elsewhere(who, appointment=[{"reference": "Appointment/a"}])
    with pytest.raises(Unprocessable, match="belongs to sessions"):
        await intake.create(theirs)
    history = await intake.create({**theirs, "meta": {"source": "urn:hospital"}})
    await intake.update({**history, "status": "entered-in-error"})


async def test_another_episode_does_not_become_a_course_nor_a_course_another_episode(intake, clock):
    who = await eligible(intake, clock)
    (course,) = await intake.search("EpisodeOfCare", patient=who["id"])
    other = {"resourceType": "EpisodeOfCare", "status": "active", "patient": about(who)}
    other = await intake.create(other)
    for change in ({**other, "type": course["type"]}, {key: one for key, one in course.items() if key != "type"}):
        with pytest.raises(Unprocessable) as error:
            await intake.update(change)
        assert {issue.rule for issue in error.value.issues} == {"K-COURSE"}


async def test_a_bedside_reading_does_not_become_history(intake):
    who = await intake.create(patient())
    reading = weight(who)
    await intake.create(reading)
    with pytest.raises(Unprocessable, match="intake-measurement"):
        await intake.create({key: value for key, value in reading.items() if key != "meta"})
