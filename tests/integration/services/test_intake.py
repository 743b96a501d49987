"""Intake: screening, the opening of a course, consent, order and the stages they lead to."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from services.intake.service import intake as intake_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import eligibility_outcome, latest_eligibility, stage_of, with_stage
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.runtime.policy import FOLDER, load_policy
from shared.runtime.timers import run_once
from shared.store.store import Store
from shared.store.terminology import Loading
from shared.terminology.release import CodeSystemRelease, LoadedCode
from tests.integration.services.course import (
    Opened,
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


async def latest(intake, who):
    return latest_eligibility(await intake.search("RiskAssessment", patient=f"Patient/{who['id']}"))


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


SUBLINGUAL = ({"name": "drug", "valueCode": "ketamine"}, {"name": "route", "valueCode": "37839007"})


def proceeding(by="Practitioner/prescriber", why="Small, stable, seen by vascular surgery"):
    return {"action": codes.PROCEED.concept(text=why), "date": "2026-11-22", "author": {"reference": by}}


async def test_a_prescribers_decision_on_a_relative_finding_lets_the_course_open(intake):
    who = await intake.create(patient())
    await intake.create(referral(who))
    await intake.create(condition(who, "67362008"))
    await intake.create(screening(who))
    assert outcome(await intake.call("screen", who, *SUBLINGUAL)) == "needs-decision"
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    await intake.update({**issue, "mitigation": [proceeding()]})
    assert outcome(await latest(intake, who)) == "eligible"
    assert await the_course(intake, who) is not None
    await intake.create(condition(who, "I71.4", codes.ICD10CM))
    assert outcome(await latest(intake, who)) == "needs-decision", "new evidence asks for a new decision"


async def test_past_an_absolute_finding_that_two_may_decide_on_one_is_not_enough(intake):
    who = await intake.create(patient())
    await intake.create(condition(who, "67362008"))
    await intake.create(screening(who))
    planned_ = ({"name": "drug", "valueCode": "ketamine"}, {"name": "route", "valueCode": "47625008"})
    assert outcome(await intake.call("screen", who, *planned_)) == "not-eligible"
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    twice = [proceeding("Practitioner/a"), proceeding("Practitioner/a", "Said again")]
    issue = await intake.update({**issue, "mitigation": twice})
    assert outcome(await latest(intake, who)) == "not-eligible"
    await intake.update({**issue, "mitigation": [*twice, proceeding("Practitioner/b")]})
    assert outcome(await latest(intake, who)) == "eligible"


@pytest.mark.parametrize(
    "lacking",
    [
        {"author": None},
        {"action": codes.PROCEED.concept()},
        {"action": codes.PROCEED.concept(text=" ")},
        {"date": None},
    ],
)
async def test_a_decision_without_prescriber_reason_or_time_is_refused(intake, lacking):
    who = await intake.create(patient())
    await intake.create(screening(who, E08=True))
    await intake.call("screen", who)
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    decision = {name: value for name, value in {**proceeding(), **lacking}.items() if value is not None}
    with pytest.raises(Unprocessable) as error:
        await intake.update({**issue, "mitigation": [decision]})
    assert rules_of(error) == {"E-OVERRIDE"}


async def test_nobody_decides_past_what_is_absolute(intake):
    who = await intake.create(patient())
    await intake.create(screening(who, E12=True))
    await intake.call("screen", who)
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    with pytest.raises(Unprocessable, match="E12 is absolute"):
        await intake.update({**issue, "mitigation": [proceeding()]})
    await intake.update({**issue, "mitigation": [{"action": {"text": "Told the patient"}}]})


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
    with pytest.raises(BadRequest):
        await intake.call("screen", who, {"name": "mood", "valueCode": "low"})


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
    assert "C-CONSENT" in rules_of(error)
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


async def test_a_course_that_ends_before_its_first_dose_is_cancelled_and_stays_so(intake, clock):
    who = await eligible(intake, clock)
    course = await the_course(intake, who)
    stopped = with_stage(course, "stopped", clock.now)
    for status in ("planned", "active", "finished"):
        with pytest.raises(Unprocessable) as error:
            await intake.update({**stopped, "status": status})
        assert rules_of(error) == {"K-STATUS"}
    with pytest.raises(Unprocessable) as error:
        await intake.update({**course, "status": "cancelled"})
    assert rules_of(error) == {"K-STATUS"}
    ended = await intake.update({**stopped, "status": "cancelled"})
    with pytest.raises(Unprocessable) as error:
        await intake.update({**with_stage(ended, "eligible", clock.now), "status": "planned"})
    assert rules_of(error) == {"K-STAGE"}


async def test_a_dose_of_this_clinic_is_not_kept_here_but_history_is(intake):
    who = await intake.create(patient())
    dose = {
        "resourceType": "MedicationAdministration",
        "status": "in-progress",
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(who),
        "effectiveDateTime": "2026-11-22T09:00:00Z",
    }
    for status in ("in-progress", "completed"):
        with pytest.raises(Unprocessable, match="belongs to sessions"):
            await intake.create({**dose, "status": status})
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
    no_longer = {key: one for key, one in course.items() if key not in ("type", "meta")}
    for change in ({**other, "type": course["type"]}, no_longer):
        with pytest.raises(Unprocessable) as error:
            await intake.update(change)
        assert {issue.rule for issue in error.value.issues} == {"K-COURSE"}


async def test_a_bedside_reading_does_not_become_history(intake):
    who = await intake.create(patient())
    reading = weight(who)
    await intake.create(reading)
    with pytest.raises(Unprocessable, match="intake-measurement"):
        await intake.create({key: value for key, value in reading.items() if key != "meta"})


async def test_a_weight_in_pounds_bounds_the_dose(intake, clock):
    who = await eligible(intake, clock)
    pounds = {"value": 150, "unit": "lb", "system": codes.UCUM, "code": "[lb_av]"}
    await intake.create({**weight(who), "valueQuantity": pounds})
    with pytest.raises(Unprocessable, match="mg/kg") as error:
        await intake.create(order(who, 150))  # 2.2 mg/kg of 68 kg
    assert rules_of(error) == {"RX-DOSE"}
    await intake.create(order(who, 136))


async def test_an_order_from_elsewhere_is_kept_as_history_and_carries_no_course(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(consent(who))
    await intake.create(care_plan(who))
    theirs = await intake.create({**order(who, 5000), "meta": {"source": "urn:hospital"}})
    assert stage_of(await the_course(intake, who)) == "consented"
    with pytest.raises(Unprocessable):
        await intake.update({key: value for key, value in theirs.items() if key != "meta"})


# -- a screening is judged again whenever its ground changes ----------------------------------------------------------


def pregnancy(who, code, when):
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": codes.PREGNANCY.concept(),
        "subject": about(who),
        "effectiveDateTime": zulu(when),
        "valueCodeableConcept": codes.Code(codes.SNOMED, code).concept(),
    }


def taking(who, code, text=None, **more):
    return {
        "resourceType": "MedicationStatement",
        "status": "active",
        "medicationCodeableConcept": codes.Code(codes.RXNORM, code).concept(text=text),
        "subject": about(who),
        **more,
    }


def allergic(who):
    clinical = codes.Code("http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "active").concept()
    return {
        "resourceType": "AllergyIntolerance",
        "clinicalStatus": clinical,
        "code": codes.KETAMINE.concept(),
        "patient": about(who),
    }


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
    (timer,) = [one for one in intake.service.timers if one.name == "answers-age"]

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


# -- a decision is made again ------------------------------------------------------------------------------------------


async def replayed(intake, assessment):
    said = await intake.call("replay", assessment)
    return {one["name"]: next(value for key, value in one.items() if key != "name") for one in said["parameter"]}


async def test_a_decision_made_again_under_its_policy_on_what_it_saw_is_the_same(bench, intake, clock, tmp_path):
    who, _, _ = await planned(intake, clock)
    first = await latest(intake, who)
    clock.forward(days=1)
    found = await intake.create(condition(who, "67362008"))
    second = await latest(intake, who)
    clock.forward(days=1)
    await intake.delete(found)
    await intake.update({**who, "birthDate": "2010-01-01"})
    third = await latest(intake, who)
    for assessment, expected in ((first, "eligible"), (second, "not-eligible"), (third, "not-eligible")):
        again = await replayed(intake, assessment)
        assert (again["same"], again["outcome"]) == (True, expected), again
    assert first["basis"] != second["basis"]


async def test_a_decision_is_made_again_under_the_policy_of_its_time_not_todays(bench, intake, clock, tmp_path):
    who = await intake.create(patient())
    await intake.create(screening(who, clock.now, E08=True))
    assessment = await intake.call("screen", who)
    assert outcome(assessment) == "needs-decision"
    file = tmp_path / "own.yaml"
    file.write_text(
        'version: "1"\nclinic: example\nsections: {eligibility: {rules: {E08: {severity: I}}}}\n', encoding="utf-8"
    )
    newer = intake_service(load_policy(file), clock)
    changed = Opened(newer, intake.store)
    again = await replayed(changed, assessment)
    assert (again["same"], again["outcome"], again["version"]) == (True, "needs-decision", "2026.11.1")
    today = await changed.call("screen", who)
    assert outcome(today) == "eligible"
    again = await replayed(intake, today)
    assert (again["same"], again["outcome"]) == (True, "eligible")
    assert again["version"].startswith("2026.11.1+example.1.")


async def test_a_weakened_rule_stands_on_every_decision(bench, intake, clock, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        'version: "1"\nclinic: example\nsections: {eligibility: {rules: {E12: {severity: R}}}}\n'
        'acknowledged: {eligibility.rules.E12: "A. Lee, 2026-10-01: study"}\n',
        encoding="utf-8",
    )
    weaker = Opened(intake_service(load_policy(file), clock), intake.store)
    who = await weaker.create(patient())
    await weaker.create(screening(who, clock.now, E12=True))
    assessment = await weaker.call("screen", who)
    assert outcome(assessment) == "needs-decision"
    said = {"url": codes.EXT_ACKNOWLEDGED, "valueString": "eligibility.rules.E12: A. Lee, 2026-10-01: study"}
    assert said in assessment["extension"]


async def test_what_is_no_decision_is_not_made_again(intake):
    with pytest.raises(NotFound):
        await intake.call("replay", {"resourceType": "RiskAssessment", "id": "none", "subject": {}})
    who = await intake.create(patient())
    other = await intake.create({"resourceType": "RiskAssessment", "status": "final", "subject": about(who)})
    with pytest.raises(Unprocessable, match="not recorded"):
        await intake.call("replay", other)


# -- orders ------------------------------------------------------------------------------------------------------------


async def test_nothing_is_ordered_for_somebody_who_was_never_screened(intake):
    who = await intake.create(patient())
    await intake.create(weight(who))
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who))
    assert rules_of(error) == {"RX-SCREEN"}


async def test_an_order_is_judged_by_its_own_drug_and_route_with_evidence_and_source(intake):
    who = await intake.create(patient())
    found = await intake.create(condition(who, "67362008"))
    await intake.create(screening(who))
    await intake.create(weight(who))
    await intake.call("screen", who, *SUBLINGUAL)
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    await intake.update({**issue, "mitigation": [proceeding()]})
    await intake.create(order(who, 100, codes.ROUTE_SUBLINGUAL))
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who, 35, codes.ROUTE_IV))
    (issue,) = error.value.issues
    assert issue.rule == "E01"
    assert f"Condition/{found['id']}" in issue.diagnostics
    assert "two prescribers" in issue.diagnostics
    assert "label" in issue.source


async def test_an_order_beside_theophylline_is_refused_and_stopping_one_is_not(intake, clock):
    who, _, ordered = await planned(intake, clock)
    await intake.create(taking(who, "10438"))
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who))
    assert rules_of(error) == {"I-THEOPHYLLINE"}
    await intake.update({**ordered, "status": "stopped"})


async def test_an_order_for_home_needs_what_schedule_iii_asks_for(intake, clock):
    who = await eligible(intake, clock)
    dea = [{"system": codes.DEA, "value": "AB1234563"}]
    prescriber = await intake.create({"resourceType": "Practitioner", "identifier": dea})
    site = await intake.create({"resourceType": "Organization", "name": "Clinic", "identifier": dea})
    home = order(
        who,
        100,
        codes.ROUTE_SUBLINGUAL,
        category=[codes.MEDICATION_COMMUNITY.concept()],
        requester=about(prescriber),
        performer=about(site),
        identifier=[{"system": codes.ID_PRESCRIPTION, "value": "RX-77"}],
        dispenseRequest={
            "quantity": {"value": 6},
            "expectedSupplyDuration": {"value": 28, "unit": "d", "system": codes.UCUM, "code": "d"},
        },
    )
    with pytest.raises(Unprocessable) as error:
        await intake.create({**home, "requester": {"reference": "Practitioner/unknown"}})
    assert rules_of(error) == {"RX-PDMP", "RX-DEA"}
    await intake.create(
        {
            "resourceType": "Observation",
            "status": "final",
            "code": codes.PDMP_QUERY.concept(),
            "subject": about(who),
            "effectiveDateTime": "2026-11-20T09:00:00Z",
            "valueString": "Nothing unexpected",
        }
    )
    await intake.create(home)


# -- consent by element ------------------------------------------------------------------------------------------------


async def test_a_consent_in_which_an_element_is_missing_is_refused_by_its_name(intake, clock):
    who = await eligible(intake, clock)
    whole = consent(who)
    lacking = {**whole, "extension": [one for one in whole["extension"] if one["extension"][0]["valueCode"] != "touch"]}
    with pytest.raises(Unprocessable, match="'touch' is missing") as error:
        await intake.create(lacking)
    assert rules_of(error) == {"C-ELEMENT"}
    held = await intake.create({**lacking, "status": "proposed"})
    assert stage_of(await the_course(intake, who)) == "eligible"
    await intake.update({**held, "status": "inactive"})
    refusal = {name: value for name, value in whole.items() if name != "extension"}
    await intake.create({**refusal, "provision": {"type": "deny"}})


async def test_when_the_text_changes_whoever_signed_the_old_one_is_asked_again(intake, clock, tmp_path):
    who, signed, _ = await planned(intake, clock)
    file = tmp_path / "own.yaml"
    file.write_text(
        'version: "1"\nclinic: example\nsections: {consent: {elements: {cost: {version: "2"}}}}\n', encoding="utf-8"
    )
    newer = Opened(intake_service(load_policy(file), clock), intake.store)
    (timer,) = [one for one in newer.service.timers if one.name == "consent-renewal"]
    for _ in range(2):
        await run_once(timer, newer.service, newer.store, clock.now, lambda: None)
    (asked,) = await newer.search("Task", patient=who["id"], code=codes.RENEW_CONSENT.token())
    assert "cost" in asked["description"]
    assert (await the_course(newer, who))["status"] == "active", "the old one counts until then"
    await newer.update({**signed, "status": "inactive"})
    (asked,) = await newer.search("Task", patient=who["id"], code=codes.RENEW_CONSENT.token())
    assert asked["status"] == "completed"


async def test_a_privacy_consent_is_held_to_pcf_and_one_from_elsewhere_is_kept(intake):
    who = await intake.create(patient())
    privacy = {
        "resourceType": "Consent",
        "status": "active",
        "scope": codes.CONSENT_PRIVACY.concept(),
        "category": [codes.Code(codes.LOINC, "59284-0").concept()],
        "patient": about(who),
        "dateTime": "2026-11-20",
        "performer": [about(who)],
        "organization": [{"display": "Clinic"}],
        "sourceAttachment": {"title": "signed form"},
        "policy": [{"uri": "http://terminology.hl7.org/CodeSystem/consentpolicycodes#hipaa-auth"}],
        "provision": {"type": "permit", "purpose": [{"system": codes.ACT_REASON, "code": "TREAT"}]},
    }
    await intake.create(privacy)
    loose = {**privacy, "provision": {"type": "permit", "action": [{"text": "read"}]}}
    with pytest.raises(Unprocessable) as error:
        await intake.create(loose)
    assert rules_of(error) == {"P-PCF"}
    await intake.create({**loose, "meta": {"source": "urn:hospital"}})
    await intake.create({**loose, "status": "inactive"})


# -- what codes mean ---------------------------------------------------------------------------------------------------


async def loaded(dsn, url, below):
    """Load a terminology in which each code of `below` is directly below another."""
    names = {*below, *below.values()}
    loading = await Loading.open(dsn)
    try:
        concepts = {name: LoadedCode(name) for name in names}
        await loading.load_system(CodeSystemRelease(url, "1", "test", "0" * 64, concepts, frozenset(below.items())))
    finally:
        await loading.close()


async def test_what_is_below_a_code_of_a_rule_is_found_by_the_terminology_the_clinic_loaded(make_database, clock):
    dsn = make_database("intake")
    store = await Store.connect(dsn, service="intake")
    intake = Opened(intake_service(load_policy(), clock), store)
    try:
        who = await intake.create(patient())
        await intake.create(screening(who))
        assert outcome(await intake.call("screen", who)) == "eligible"
        found = await intake.create(condition(who, "900000000000001"))
        assert outcome(await latest(intake, who)) == "eligible", "a code above which nothing is known"
        await loaded(dsn, codes.SNOMED, {"900000000000001": "900000000000002", "900000000000002": "67362008"})
        assessment = await intake.call("screen", who)
        assert outcome(assessment) == "not-eligible"
        assert {"reference": f"Condition/{found['id']}"} in assessment["basis"]
        await loaded(dsn, codes.SNOMED, {"900000000000001": "900000000000003"})
        again = await replayed(intake, assessment)
        assert (again["same"], again["outcome"]) == (True, "not-eligible")
    finally:
        await store.close()


# -- the questionnaire -------------------------------------------------------------------------------------------------


async def test_the_screening_is_filled_with_what_is_known_and_never_with_a_no(intake):
    questionnaire = await intake.create(
        json.loads((FOLDER / "questionnaires" / "kap-screening.json").read_text(encoding="utf-8"))
    )
    who = await intake.create(patient())
    subject = {"name": "subject", "valueReference": about(who)}

    async def filled():
        said = await intake.call("populate", questionnaire, subject)
        response = said["parameter"][0]["resource"]
        assert response["status"] == "in-progress"
        answered = [one for one in response["item"] if "answer" in one]
        return {one["linkId"]: next(iter(one["answer"][0].values())) for one in answered}

    assert await filled() == {}
    found = await intake.create(condition(who, "67362008"))
    assert await filled() == {"E01": True, "E01-DETAIL": f"On record: Condition/{found['id']}"}


# -- the directory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", ["Practitioner", "Organization", "Location", "PractitionerRole"])
async def test_a_number_of_the_directory_that_cannot_be_one_is_refused(intake, type_):
    def named(npi, dea, **more):
        numbers = [{"system": codes.NPI, "value": npi}, {"system": codes.DEA, "value": dea}]
        name = {} if type_ in ("Practitioner", "PractitionerRole") else {"name": "Clinic"}
        return {"resourceType": type_, "identifier": numbers, **name, **more}

    await intake.create(named("1234567893", "AB1234563"))
    with pytest.raises(Unprocessable) as error:
        await intake.create(named("1234567890", "AB1234564"))
    assert rules_of(error) == {"D-NUMBER"}
    assert len(error.value.issues) == 2
    await intake.create(named("1234567890", "AB1234564", meta={"source": "urn:hospital"}))
