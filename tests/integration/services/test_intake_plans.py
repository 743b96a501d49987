"""The plan of a course: from a template, personal, with goals and team; what is ordered is what is planned."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import planned_doses, stage_of
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from tests.integration.services.at_intake import condition, latest, outcome, proceeding, rules_of, the_course
from tests.integration.services.course import (
    about,
    consent,
    eligible,
    milligrams,
    order,
    patient,
    referral,
    screening,
    weight,
)

MEMBERS = (("prescriber", "Practitioner/p"), ("therapist", "Practitioner/t"), ("monitor", "Practitioner/m"))


def given(name, value):
    kind = {int: "valuePositiveInt", dict: "valueQuantity"}.get(type(value), "valueString")
    kind = "valueDateTime" if name == "date" else kind
    kind = "valueCode" if name in ("template", "drug", "route", "status") else kind
    return {"name": name, kind: value}


def member(role, reference):
    parts = [{"name": "role", "valueCode": role}, {"name": "reference", "valueReference": {"reference": reference}}]
    return {"name": "member", "part": parts}


def step(session, value, unit="mg/kg"):
    parts = [
        {"name": "session", "valuePositiveInt": session},
        {"name": "dose", "valueQuantity": milligrams(value, unit)},
    ]
    return {"name": "step", "part": parts}


BY_MUSCLE = (given("drug", "ketamine"), given("route", codes.ROUTE_IM.code))
AGREED = (given("status", "active"), given("goal", "To sleep through the night"), *(member(*one) for one in MEMBERS))


def of(bundle, type_):
    return [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == type_]


async def test_a_plan_is_made_from_the_template_of_drug_route_and_condition_and_made_personal(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    trauma = await intake.create(condition(who, "47505003"))
    await intake.create(condition(who, "26929004"))
    made = await intake.call(
        "plan",
        who,
        *BY_MUSCLE,
        *AGREED,
        given("goal", "To ride the bus"),
        step(1, 0.5),
        step(2, 0.75),
        given("therapy", "EMDR with her own therapist"),
        given("integration", 3),
    )
    (plan,), goals, (team,) = of(made, "CarePlan"), of(made, "Goal"), of(made, "CareTeam")
    assert (plan["status"], plan["title"]) == ("active", "Ketamine into a muscle for trauma")
    assert plan["instantiatesUri"][0].endswith("#plans.templates.ketamine-im-trauma")
    assert plan["addresses"] == [about(trauma)]
    assert [one["description"]["text"] for one in goals] == ["To sleep through the night", "To ride the bus"]
    assert all(one["expressedBy"] == about(who) for one in goals)
    assert plan["goal"] == [about(one) for one in goals]
    assert plan["careTeam"] == [about(team)]
    said = [(one["role"][0]["coding"][0]["code"], one["member"]["reference"]) for one in team["participant"]]
    assert said == list(MEMBERS)
    doses = planned_doses(plan)
    assert [(one.session, one.sessions, one.quantity["value"], one.days) for one in doses] == [
        (1, 1, 0.5, 7),
        (2, 2, 0.75, 7),
    ]
    details = [one["detail"] for one in plan["activity"]]
    assert "EMDR with her own therapist" in [one["description"] for one in details]
    assert [one["scheduledTiming"]["repeat"]["count"] for one in details if one["kind"] == "Appointment"] == [3, 3, 2]
    assert "To ride the bus" in plan["text"]["div"]


INDICATIONS = {
    "depression": ("F33.2", "Ketamine by infusion for depression"),
    "anxiety": ("F41.1", "Ketamine by infusion"),
    "trauma": ("F43.10", "Ketamine by infusion"),
    "alcohol, decided on by a prescriber": ("F10.20", "Ketamine by infusion"),
    "chronic pain": ("G89.4", "Ketamine by infusion"),
    "distress at the end of life": ("Z51.5", "Ketamine by infusion"),
}
"""Conditions that the clinics treat, each with the template of its plan by vein."""


async def test_what_is_recommended_before_the_first_dose_is_still_to_do_in_screening_and_plan_and_blocks_nothing(
    intake, clock
):
    def to_do(assessment):
        found = [one["extension"] for one in assessment["extension"] if one["url"] == codes.EXT_TO_DO]
        return {part["valueCode"]: one for one in found for part in one if part["url"] == "test"}

    who = await eligible(intake, clock)
    first = to_do(await latest(intake, who))
    assert {"blood-pressure", "pregnancy-test", "liver-function", "urine-drug-screen"} <= set(first)
    assert "electrocardiogram" not in first
    assert all(part["valueString"] for one in first.values() for part in one if part["url"] in ("text", "source"))
    await intake.create(weight(who))
    liver = {"coding": [{"system": codes.LOINC, "code": "24325-3"}]}
    done = {"resourceType": "DiagnosticReport", "status": "final", "code": liver, "subject": about(who)}
    await intake.create({**done, "effectiveDateTime": "2026-11-20"})
    again = await intake.call("screen", who)
    assert outcome(again) == "eligible"
    assert set(first) - set(to_do(again)) == {"weight", "liver-function"}
    made = await intake.call("plan", who, *BY_MUSCLE, *AGREED)
    (plan,) = of(made, "CarePlan")
    planned_ = {one["detail"].get("code", {}).get("text") for one in plan["activity"]}
    assert {"Pregnancy test", "Urine drug screen"} <= planned_
    assert not {"Body weight", "Liver function"} & planned_
    assert "Recommended before the first dose: pregnancy test." in plan["text"]["div"]


async def test_each_condition_that_is_treated_opens_a_course_is_screened_and_planned_for(intake, clock):
    by_vein = (given("drug", "ketamine"), given("route", codes.ROUTE_IV.code))
    for what, (code, title) in INDICATIONS.items():
        who = await intake.create(patient(identifier=[{"system": "urn:clinic", "value": code}]))
        held = await intake.create(condition(who, code, codes.ICD10CM))
        await intake.create(weight(who))
        asked = await intake.create(referral(who, reasonCode=[held["code"]], reasonReference=[about(held)]))
        await intake.create(screening(who, clock.now))
        assessed = await intake.call("screen", who)
        if "decided" in what:
            (issue,) = await intake.search("DetectedIssue", patient=who["id"])
            await intake.update({**issue, "mitigation": [proceeding(await intake.prescriber())]})
            assessed = await latest(intake, who)
        assert outcome(assessed) == "eligible", (what, assessed["note"])
        (plan,) = of(await intake.call("plan", who, *by_vein, *AGREED), "CarePlan")
        assert plan["title"] == title, what
        await intake.create(consent(who, codes.ROUTE_IV))
        await intake.create(order(who, 35, codes.ROUTE_IV))
        course = await the_course(intake, who)
        assert (stage_of(course), course["referralRequest"]) == ("planned", [about(asked)]), what


async def test_a_draft_moves_nothing_and_an_agreed_plan_with_its_order_does(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    await intake.create(consent(who))
    (draft,) = of(await intake.call("plan", who, *BY_MUSCLE), "CarePlan")
    assert draft["status"] == "draft"
    await intake.create(order(who, 35))
    assert stage_of(await the_course(intake, who)) == "consented"
    await intake.call("plan", who, *BY_MUSCLE, *AGREED)
    course = await the_course(intake, who)
    assert (stage_of(course), course["status"]) == ("planned", "active")


async def test_a_plan_that_is_agreed_takes_the_place_of_the_one_before(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    (first,) = of(await intake.call("plan", who, *BY_MUSCLE, *AGREED), "CarePlan")
    (second,) = of(await intake.call("plan", who, *BY_MUSCLE, *AGREED, given("sessions", 2)), "CarePlan")
    assert second["replaces"] == [about(first)]
    held = await intake.search("CarePlan", patient=who["id"])
    assert [(one["id"], one["status"]) for one in held] == [(first["id"], "revoked"), (second["id"], "active")]


@pytest.mark.parametrize(
    ("more", "rules"),
    [
        ((given("template", "none"),), {"P-TEMPLATE"}),
        ((given("drug", "esketamine"), given("route", codes.ROUTE_IV.code)), {"P-TEMPLATE"}),
        ((*BY_MUSCLE, given("sessions", 12)), {"RX-SERIES"}),
        ((*BY_MUSCLE, given("days-between", 1)), {"P-STEPS"}),
        ((*BY_MUSCLE, given("dose", milligrams(1.5, "mg/kg"))), {"RX-TITRATION"}),
        ((*BY_MUSCLE, given("dose", milligrams(300, "mg"))), {"RX-DOSE", "RX-TITRATION"}),
        ((*BY_MUSCLE, given("status", "active")), {"P-GOAL"}),
    ],
)
async def test_a_plan_against_the_policy_is_refused_by_name_with_its_source_and_writes_nothing(
    intake, clock, more, rules
):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    with pytest.raises(Unprocessable) as error:
        await intake.call("plan", who, *more)
    assert rules_of(error) == rules
    assert all(one.source and one.diagnostics.count(".") for one in error.value.issues)
    assert await intake.search("CarePlan", patient=who["id"]) == []
    assert await intake.search("Goal", patient=who["id"]) == []


async def test_a_plan_that_is_changed_by_hand_is_judged_again(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    (plan,) = of(await intake.call("plan", who, *BY_MUSCLE, *AGREED), "CarePlan")
    for one in plan["activity"]:
        if "quantity" in one["detail"]:
            one["detail"]["quantity"]["value"] = 2
    with pytest.raises(Unprocessable) as error:
        await intake.update(plan)
    assert rules_of(error) == {"RX-TITRATION"}
    await intake.update({**plan, "status": "revoked"})


async def test_what_is_ordered_is_what_is_planned(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    await intake.call("plan", who, *BY_MUSCLE, *AGREED, given("dose", milligrams(0.5, "mg/kg")))
    for refused in (order(who, 70), order(who, 100, codes.ROUTE_SUBLINGUAL)):
        with pytest.raises(Unprocessable) as error:
            await intake.create(refused)
        assert rules_of(error) == {"RX-PLAN"}
    await intake.create(order(who, 35))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "colour", "valueString": "blue"},
        {"name": "drug", "valueCode": "aspirin"},
        {"name": "route", "valueCode": "1"},
        {"name": "sessions", "valuePositiveInt": 0},
        {"name": "sessions", "valueString": "six"},
        {"name": "dose", "valueQuantity": {"value": 1, "code": "mL", "system": codes.UCUM}},
        {"name": "dose", "valueString": "1 mg"},
        {"name": "step"},
        {"name": "goal", "valueString": " "},
        {"name": "member", "part": [{"name": "role", "valueCode": "king"}]},
        {"name": "status", "valueCode": "completed"},
        {"name": "template", "valueInteger": 1},
    ],
)
async def test_a_parameter_that_is_not_understood_is_refused_and_named(intake, wrong):
    who = await intake.create(patient())
    with pytest.raises(BadRequest, match=wrong["name"].replace("step", "step|dose")) as error:
        await intake.call("plan", who, wrong)
    assert error.value.issues[0].expression


async def test_a_plan_bears_the_day_it_was_agreed_and_no_day_to_come(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    agreed = clock() - timedelta(hours=1)
    made = await intake.call("plan", who, *BY_MUSCLE, *AGREED, given("date", agreed.isoformat()))
    assert of(made, "CarePlan")[0]["created"] == zulu(agreed)
    assert of(made, "Goal")[0]["startDate"] == zulu(agreed)[:10]
    for wrong in ((clock() + timedelta(minutes=1)).isoformat(), "2026-05-01", "yesterday"):
        with pytest.raises(BadRequest, match="date"):
            await intake.call("plan", who, *BY_MUSCLE, *AGREED, given("date", wrong))


async def test_a_plan_is_made_for_a_patient_who_is_known(intake):
    with pytest.raises(NotFound):
        await intake.call("plan", {"resourceType": "Patient", "id": "nobody"})
