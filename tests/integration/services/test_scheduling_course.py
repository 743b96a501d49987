"""A whole course is laid in one call, and what a visit needs is shown, each met or not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.fhir import codes
from shared.fhir.dates import interval
from shared.fhir.kap import visit_of
from shared.fhir.outcome import Unprocessable
from tests.integration.services.at_scheduling import (
    code,
    found,
    ref,
    rules_of,
    schedule,
    time,
)
from tests.integration.services.course import about, appointment, consent, eligible, milligrams, planned


async def ready(bench, clock, intake, clinic):
    who, signed, ordered = await planned(intake, clock, sessions=6)
    await bench.deliver(intake, clinic)
    return who, signed, (ref("patient", f"Patient/{who['id']}"), ref("order", f"MedicationRequest/{ordered['id']}"))


async def test_a_whole_course_is_laid_and_booked_in_one_call(bench, clock, intake, clinic):
    who, _, parameters = await ready(bench, clock, intake, clinic)
    made = found(await clinic.ask("book-series", "Appointment", *parameters))
    kinds = [visit_of(one) for one in made]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "kap-prep": 3,
        "kap-dosing": 3,
        "kap-integration": 3,
        "kap-followup": 2,
    }
    by_kind = {
        kind: [interval(one["start"])[0] for one in made if visit_of(one) == kind] for kind in dict.fromkeys(kinds)
    }
    ends = [interval(one["end"])[0] for one in made if visit_of(one) == "kap-dosing"]
    assert max(by_kind["kap-prep"]) < min(by_kind["kap-dosing"])
    for end, after in zip(ends, by_kind["kap-integration"], strict=True):
        assert timedelta(hours=24) <= after - end <= timedelta(hours=72)
    for first, second in zip(by_kind["kap-dosing"], by_kind["kap-dosing"][1:], strict=False):
        assert second - first >= timedelta(hours=120)
    assert all(one["status"] == "booked" for one in await clinic.search("Appointment", patient=who["id"]))
    therapists = {
        one["actor"]["reference"]
        for made_one in made
        for one in made_one["participant"]
        if one.get("type", [{}])[0].get("coding", [{}])[0].get("code") == "therapist"
    }
    assert len(therapists) == 1, "one therapist all the way"


async def test_a_course_is_laid_around_the_doses_that_are_booked_already(bench, clock, intake, clinic):
    who, _, parameters = await ready(bench, clock, intake, clinic)
    dry = await clinic.ask("book-series", "Appointment", *parameters, {"name": "dry-run", "valueBoolean": True})
    first = min(interval(one["start"])[0] for one in found(dry) if visit_of(one) == "kap-dosing")
    ordered = {"resourceType": "MedicationRequest", "id": parameters[1]["valueReference"]["reference"].split("/")[1]}
    there = await clinic.create(appointment(who, ordered, first + timedelta(hours=24)))

    made = found(await clinic.ask("book-series", "Appointment", *parameters))
    dosing = [interval(one["start"])[0] for one in made if visit_of(one) == "kap-dosing"]
    assert len(dosing) == 3
    for one in dosing:
        assert abs(one - interval(there["start"])[0]) >= timedelta(hours=48)


async def test_a_course_without_ground_is_not_laid_and_says_all_that_is_missing(bench, clock, intake, clinic):
    who, signed, parameters = await ready(bench, clock, intake, clinic)
    await intake.update({**signed, "status": "inactive"})
    await bench.deliver(intake, clinic)
    with pytest.raises(Unprocessable) as error:
        await clinic.ask("book-series", "Appointment", *parameters)
    assert rules_of(error) == {"S-CONSENT", "S-EPISODE"}
    assert await clinic.search("Appointment", patient=who["id"]) == []


async def test_a_course_that_has_no_place_books_nothing_and_says_what_and_why(bench, clock, intake, scheduling):
    await scheduling.create(schedule("Practitioner/t1", "therapist", hours=(("08:00:00", "18:00:00"),)))
    await scheduling.create(schedule("Practitioner/m", "monitor", hours=(("08:00:00", "18:00:00"),)))
    await scheduling.create(schedule("Location/r", "room", hours=(("08:00:00", "18:00:00"),)))
    who, _, parameters = await ready(bench, clock, intake, scheduling)
    with pytest.raises(Unprocessable) as error:
        await scheduling.ask("book-series", "Appointment", *parameters)
    assert rules_of(error) == {"S-SERIES"}
    said = " ".join(issue.diagnostics for issue in error.value.issues)
    assert "followup 1 (kap-followup) has no place: no time for prescriber" in said
    assert "3 preparation, 3 dosing, 3 integration" in said
    assert await scheduling.search("Appointment", patient=who["id"]) == []

    answer = await scheduling.ask("book-series", "Appointment", *parameters, {"name": "partial", "valueBoolean": True})
    assert len(found(answer)) == 9
    assert answer["entry"][-1]["resource"]["issue"][0]["severity"] == "warning"


async def test_a_dosing_session_is_laid_only_where_integration_can_follow(bench, clock, intake, scheduling):
    long = {"hours": (("08:00:00", "18:00:00"),)}
    await scheduling.create(schedule("Practitioner/t1", "therapist", days=("mon", "tue"), **long))
    for actor, role in (("Practitioner/m", "monitor"), ("Location/r", "room"), ("Practitioner/d", "prescriber")):
        await scheduling.create(schedule(actor, role, **long))
    _, _, parameters = await ready(bench, clock, intake, scheduling)
    answer = await scheduling.ask("book-series", "Appointment", *parameters, {"name": "partial", "valueBoolean": True})
    dosing = [one for one in found(answer) if visit_of(one) == "kap-dosing"]
    assert dosing
    assert {interval(one["start"])[0].strftime("%a") for one in dosing} == {"Mon"}


async def test_a_dry_run_shows_the_course_and_books_nothing(bench, clock, intake, clinic):
    who, _, parameters = await ready(bench, clock, intake, clinic)
    answer = await clinic.ask("book-series", "Appointment", *parameters, {"name": "dry-run", "valueBoolean": True})
    assert {one["status"] for one in found(answer)} == {"proposed"}
    assert await clinic.search("Appointment", patient=who["id"]) == []


# -- prerequisites ----------------------------------------------------------------------------------------------------


def told(parameters):
    values = {
        one["name"]: one.get("valueBoolean") for one in parameters["parameter"] if one["name"] in ("bookable", "ready")
    }
    found_ = {}
    for one in parameters["parameter"]:
        if one["name"] == "prerequisite":
            parts = {part["name"]: part for part in one["part"]}
            found_[parts["rule"]["valueCoding"]["code"]] = parts
    return values, found_


async def test_prerequisites_are_shown_each_met_or_not_with_what_to_do(bench, clock, intake, clinic):
    who = await eligible(intake, clock)
    await bench.deliver(intake, clinic)
    values, rules = told(await clinic.ask("prerequisites", "Appointment", ref("patient", f"Patient/{who['id']}")))
    assert values == {"bookable": False, "ready": False}
    assert rules["S-ELIGIBLE"]["met"]["valueBoolean"] is True
    assert rules["S-ELIGIBLE"]["evidence"]["valueReference"]["reference"].startswith("RiskAssessment/")
    assert rules["S-CONSENT"]["met"]["valueBoolean"] is False
    assert "Obtain" in rules["S-CONSENT"]["to-do"]["valueString"]
    assert all(one["source"]["valueString"] for one in rules.values())


async def test_the_prerequisites_of_a_booked_visit_come_to_be_met(bench, clock, intake, clinic):
    _, _, parameters = await ready(bench, clock, intake, clinic)
    made = found(await clinic.ask("book-series", "Appointment", *parameters))
    first = next(one for one in made if visit_of(one) == "kap-dosing")
    values, rules = told(await clinic.call("prerequisites", first))
    assert values == {"bookable": True, "ready": False}
    assert {rule for rule, one in rules.items() if not one["met"]["valueBoolean"]} == {"S-PREPARED", "S-ESCORT"}
    for one in made:
        if visit_of(one) == "kap-prep":
            clock.now = max(clock.now, interval(one["end"])[0])
            await clinic.update({**one, "status": "fulfilled"})
    escort = {"type": [codes.ESCORT.concept()], "actor": {"display": "his sister"}, "status": "accepted"}
    await clinic.update({**first, "participant": [*first["participant"], escort]})
    values, _ = told(await clinic.call("prerequisites", first))
    assert values == {"bookable": True, "ready": True}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"dateTime": "2026-11-30"}, "S-CONSENT"),
        ({"meta": {"source": "urn:hospital"}}, "S-CONSENT"),
    ],
)
async def test_a_consent_from_elsewhere_or_of_tomorrow_is_no_ground(bench, clock, intake, clinic, change, rule):
    who = await eligible(intake, clock)
    await intake.create(consent(who, **change))
    await bench.deliver(intake, clinic)
    _, rules = told(await clinic.ask("prerequisites", "Appointment", ref("patient", f"Patient/{who['id']}")))
    assert rules[rule]["met"]["valueBoolean"] is False
    assert about(who)


async def test_a_course_is_laid_as_the_patients_plan_says_how_many_and_how_far_apart(bench, clock, intake, clinic):
    who, _, parameters = await ready(bench, clock, intake, clinic)
    personal = (
        {"name": "template", "valueCode": "ketamine-im"},
        {"name": "sessions", "valuePositiveInt": 2},
        {"name": "days-between", "valuePositiveInt": 9},
        {"name": "dose", "valueQuantity": milligrams(1, "mg/kg")},
        {"name": "goal", "valueString": "To sleep"},
        {"name": "status", "valueCode": "active"},
        *(
            {"name": "member", "part": [code("role", role), ref("reference", f"Practitioner/{role}")]}
            for role in ("prescriber", "therapist", "monitor")
        ),
    )
    await intake.call("plan", who, *personal)
    await bench.deliver(intake, clinic)
    made = found(await clinic.ask("book-series", "Appointment", *parameters))
    doses = [interval(one["start"])[0] for one in made if visit_of(one) == "kap-dosing"]
    assert len(doses) == 2
    assert doses[1] - doses[0] >= timedelta(days=9)
    second = max((one for one in made if visit_of(one) == "kap-dosing"), key=lambda one: one["start"])
    with pytest.raises(Unprocessable, match="by the plan they are at least 9 days apart") as error:
        await clinic.call("reschedule", second, time("start", doses[0] + timedelta(days=8, hours=1)))
    assert rules_of(error) == {"S-SPACING"}
    await clinic.call("reschedule", second, time("start", doses[0] + timedelta(days=9, hours=-1)))
