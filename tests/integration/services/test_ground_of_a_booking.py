"""Whatever takes the ground of a booked dose away, in whichever record it stands, flags it; no other is booked."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from shared.runtime.timers import run_once
from tests.integration.services.at_intake import (
    SUBLINGUAL,
    condition,
    latest,
    outcome,
    proceeding,
    rules_of,
    the_course,
)
from tests.integration.services.bedside import Bedside
from tests.integration.services.course import (
    START,
    about,
    appointment,
    care_plan,
    consent,
    eligible,
    for_sessions,
    milligrams,
    order,
    patient,
    planned,
    referral,
    screening,
    weight,
)

NEXT = START + timedelta(days=5)
ANEURYSM = "67362008"
THEOPHYLLINE = codes.Code(codes.RXNORM, "10438")


@pytest.fixture
async def booked(bench, clock, intake, scheduling):
    """Return a patient, his order and a dosing session that is booked for him."""
    who, _, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    return who, ordered, await scheduling.create(appointment(who, ordered, NEXT))


async def flagged(scheduling, visit):
    name = f"{codes.ID_FLAG}|ground:{visit['id']}"
    return [one["status"] for one in await scheduling.search("Flag", identifier=name)]


async def refused(scheduling, who, ordered, start):
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(appointment(who, ordered, start))
    return rules_of(error)


async def test_a_refusal_that_is_taken_back_as_an_error_is_judged_anew_and_no_older_assessment_counts(
    bench, clock, intake, scheduling, booked
):
    who, ordered, visit = booked
    clock.forward(days=1)
    await intake.create(condition(who, ANEURYSM))
    judged = await latest(intake, who)
    assert outcome(judged) == "not-eligible"
    clock.forward(minutes=1)
    await intake.update({**judged, "status": "entered-in-error"})
    again = await latest(intake, who)
    assert (outcome(again), again["id"] != judged["id"]) == ("not-eligible", True)
    with pytest.raises(Unprocessable) as error:
        await intake.update({**await the_course(intake, who), "status": "active"})
    assert rules_of(error) == {"K-HOLD"}
    await bench.deliver(intake, scheduling)
    assert await flagged(scheduling, visit) == ["active"]
    assert "S-ELIGIBLE" in await refused(scheduling, who, ordered, NEXT + timedelta(days=7))


async def test_who_was_screened_for_one_route_is_booked_by_no_other(bench, clock, intake, scheduling):
    who = await intake.create(patient())
    await intake.create(referral(who))
    await intake.create(screening(who, clock.now))
    await intake.call("screen", who, *SUBLINGUAL)
    for made in (consent(who), weight(who), care_plan(who)):
        await intake.create(made)
    ordered = await intake.create(order(who))
    await bench.deliver(intake, scheduling)
    assert await refused(scheduling, who, ordered, NEXT) == {"S-ELIGIBLE"}
    clock.forward(minutes=1)
    await intake.call("screen", who)
    await bench.deliver(intake, scheduling)
    visit = await scheduling.create(appointment(who, ordered, NEXT))
    clock.forward(days=1)
    await intake.create(condition(who, ANEURYSM))
    await intake.call("screen", who, *SUBLINGUAL)
    by = await intake.prescriber()
    for one in await intake.search("DetectedIssue", patient=who["id"]):
        await intake.update({**one, "mitigation": [proceeding(by)]})
    assert outcome(await latest(intake, who)) == "eligible"
    await intake.update({**await the_course(intake, who), "status": "active"})
    await bench.deliver(intake, scheduling)
    assert await flagged(scheduling, visit) == ["active"]


@pytest.mark.parametrize("routes", [(codes.ROUTE_IM,), (codes.ROUTE_IM, codes.ROUTE_IV)])
async def test_a_denial_that_is_dated_a_moment_ahead_counts_at_once(bench, clock, intake, scheduling, routes):
    who = await eligible(intake, clock)
    for route in routes:
        await intake.create(consent(who, route))
    for made in (weight(who), care_plan(who)):
        await intake.create(made)
    ordered = await intake.create(order(who))
    await bench.deliver(intake, scheduling)
    visit = await scheduling.create(appointment(who, ordered, NEXT))
    ahead = zulu(clock.now + timedelta(seconds=30))
    await intake.create(consent(who, dateTime=ahead, provision={"type": "deny"}))
    await bench.deliver(intake, scheduling)
    assert await flagged(scheduling, visit) == ["active"]
    assert "S-CONSENT" in await refused(scheduling, who, ordered, NEXT + timedelta(days=7))


async def test_a_consent_that_is_dated_ahead_permits_nothing_before(bench, clock, intake, scheduling):
    who = await eligible(intake, clock)
    await intake.create(consent(who))
    for made in (weight(who), care_plan(who)):
        await intake.create(made)
    ordered = await intake.create(order(who, 70, codes.ROUTE_IM))
    (held,) = await intake.search("Consent", patient=who["id"])
    await intake.update({**held, "dateTime": zulu(clock.now + timedelta(days=2))})
    await bench.deliver(intake, scheduling)
    assert "S-CONSENT" in await refused(scheduling, who, ordered, NEXT)


@pytest.mark.parametrize("status", ["arrived", "checked-in", "fulfilled"])
async def test_of_a_visit_weeks_ahead_nobody_says_that_somebody_is_there_or_that_it_is_over(
    clock, scheduling, booked, status
):
    who, _, visit = booked
    attempts = (
        scheduling.call("check-in", visit),
        scheduling.update({**visit, "status": status}),
        scheduling.create(appointment(who, None, START + timedelta(days=20), visit=codes.VISIT_PREP, status=status)),
    )
    for attempt in attempts:
        with pytest.raises(Unprocessable) as error:
            await attempt
        assert rules_of(error) == {"S-STATUS"}
    clock.now = NEXT - timedelta(hours=12)
    assert (await scheduling.update({**visit, "status": status}))["status"] == status


async def test_a_medication_that_becomes_another_has_everybody_who_takes_it_judged(
    bench, clock, intake, scheduling, booked
):
    who, _, visit = booked
    held = await intake.create({"resourceType": "Medication", "code": codes.Code(codes.RXNORM, "26225").concept()})
    mixed = await intake.create(
        {
            "resourceType": "Medication",
            "code": codes.Code(codes.RXNORM, "26225").concept(),
            "ingredient": [{"itemReference": about(held)}],
        }
    )
    await intake.create(
        {
            "resourceType": "MedicationStatement",
            "status": "active",
            "medicationReference": about(mixed),
            "subject": about(who),
        }
    )
    assert outcome(await latest(intake, who)) == "eligible"
    await intake.update({**held, "code": THEOPHYLLINE.concept()})
    assert outcome(await latest(intake, who)) == "not-eligible"
    await bench.deliver(intake, scheduling)
    assert await flagged(scheduling, visit) == ["active"]


async def test_an_order_whose_medication_becomes_another_is_no_ground_any_more(bench, clock, intake, scheduling):
    who = await eligible(intake, clock)
    for made in (consent(who), weight(who), care_plan(who)):
        await intake.create(made)
    drug = await intake.create({"resourceType": "Medication", "code": codes.KETAMINE.concept()})
    by_reference = {name: value for name, value in order(who).items() if name != "medicationCodeableConcept"}
    ordered = await intake.create({**by_reference, "medicationReference": about(drug)})
    await bench.deliver(intake, scheduling)
    visit = await scheduling.create(appointment(who, ordered, NEXT))
    assert await flagged(scheduling, visit) == []
    spray = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray")
    await intake.update({**drug, "code": spray.concept()})
    await bench.deliver(intake, scheduling)
    (up,) = await scheduling.search("Flag", identifier=f"{codes.ID_FLAG}|ground:{visit['id']}")
    assert "S-REMS" in up["code"]["text"]


async def test_an_ingredient_that_nothing_here_knows_asks_a_person(intake, clock):
    who, _, _ = await planned(intake, clock)
    elsewhere = {"itemReference": {"reference": "http://elsewhere.example/fhir/Substance/9"}}
    drug = codes.Code(codes.RXNORM, "26225").concept()
    held = await intake.create({"resourceType": "Medication", "code": drug, "ingredient": [elsewhere]})
    taken = {"resourceType": "MedicationStatement", "status": "active", "medicationReference": about(held)}
    await intake.create({**taken, "subject": about(who)})
    assert outcome(await latest(intake, who)) == "needs-decision"


async def test_words_about_something_that_is_over_ask_a_person(intake, clock):
    who, _, _ = await planned(intake, clock)
    once = condition(who, "x")
    once["code"] = {"text": "brain bleed 2015"}
    once["clinicalStatus"]["coding"][0]["code"] = "resolved"
    await intake.create(once)
    assert outcome(await latest(intake, who)) == "needs-decision"


@pytest.mark.parametrize("said", [{"deceasedBoolean": True}, {"deceasedDateTime": "2026-11-23"}])
async def test_who_died_is_not_eligible_and_what_is_booked_is_flagged_and_he_is_told_nothing(
    bench, clock, intake, scheduling, booked, said
):
    who, _, visit = booked
    who = await intake.update({**who, "telecom": [{"system": "email", "value": "ada@example.org"}]})
    await bench.deliver(intake, scheduling)
    await intake.update({**who, **said})
    assert outcome(await latest(intake, who)) == "not-eligible"
    assert (await the_course(intake, who))["status"] == "onhold"
    await bench.deliver(intake, scheduling)
    assert await flagged(scheduling, visit) == ["active"]
    told = await scheduling.search("Communication", recipient=f"Patient/{who['id']}")
    assert {one["status"] for one in told} == {"stopped"}
    with pytest.raises(Unprocessable) as error:
        await scheduling.create(appointment(who, None, clock.now + timedelta(hours=20), visit=codes.VISIT_PREP))
    assert rules_of(error) == {"S-PATIENT"}
    await scheduling.create(appointment(who, None, clock.now - timedelta(hours=2), visit=codes.VISIT_PREP))
    (timer,) = [one for one in scheduling.service.timers if one.name == "messages"]
    await run_once(timer, scheduling.service, scheduling.store, clock.now, lambda: None)
    assert await scheduling.search("Communication", recipient=f"Patient/{who['id']}") == told


async def test_no_more_doses_are_booked_than_their_order_is_for_and_who_is_beyond_it_is_flagged(
    bench, clock, intake, scheduling
):
    who, _, ordered = await planned(intake, clock)
    ordered = await intake.update(for_sessions(ordered, 2))
    await bench.deliver(intake, scheduling)
    first, second = [await scheduling.create(appointment(who, ordered, NEXT + timedelta(days=day))) for day in (0, 3)]
    assert await refused(scheduling, who, ordered, NEXT + timedelta(days=6)) == {"S-ORDER"}
    assert await refused(scheduling, who, ordered, NEXT - timedelta(days=3)) == {"S-ORDER"}
    later = NEXT + timedelta(days=4)
    second = await scheduling.update({**second, "start": zulu(later), "end": zulu(later + timedelta(hours=3))})

    await intake.update(for_sessions(ordered, 1))
    await bench.deliver(intake, scheduling)
    assert await flagged(scheduling, first) == []
    assert await flagged(scheduling, second) == ["active"]


async def test_an_order_that_says_no_number_is_for_as_many_sessions_as_the_plan_has(bench, clock, intake, scheduling):
    who, _, ordered = await planned(intake, clock)
    (plan,) = await intake.search("CarePlan", patient=f"Patient/{who['id']}")
    await intake.update({**plan, "status": "revoked"})
    personal = (
        {"name": "template", "valueCode": "ketamine-im"},
        {"name": "sessions", "valuePositiveInt": 2},
        {"name": "dose", "valueQuantity": milligrams(1, "mg/kg")},
        {"name": "goal", "valueString": "To sleep"},
        {"name": "status", "valueCode": "active"},
        *(
            {
                "name": "member",
                "part": [
                    {"name": "role", "valueCode": role},
                    {"name": "reference", "valueReference": {"reference": f"Practitioner/{role}"}},
                ],
            }
            for role in ("prescriber", "therapist", "monitor")
        ),
    )
    await intake.call("plan", who, *personal)
    await bench.deliver(intake, scheduling)
    for days in (0, 7):
        await scheduling.create(appointment(who, ordered, NEXT + timedelta(days=days)))
    assert await refused(scheduling, who, ordered, NEXT + timedelta(days=14)) == {"S-ORDER"}


async def test_an_order_is_for_one_session_where_neither_it_nor_the_plan_says_a_number(
    bench, clock, intake, scheduling
):
    who, _, _ = await planned(intake, clock)
    ordered = await intake.create(order(who))
    await bench.deliver(intake, scheduling)
    await scheduling.create(appointment(who, ordered, NEXT))
    assert await refused(scheduling, who, ordered, NEXT + timedelta(days=7)) == {"S-ORDER"}


async def test_a_dose_that_was_given_outside_of_a_visit_is_one_of_its_order(bench, clock, intake, scheduling):
    who, _, ordered = await planned(intake, clock)
    ordered = await intake.update(for_sessions(ordered, 1))
    await bench.deliver(intake, scheduling)
    given = {
        "resourceType": "MedicationAdministration",
        "status": "completed",
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(who),
        "request": about(ordered),
        "effectiveDateTime": zulu(START),
    }
    await Bedside(scheduling, clock).tell("sessions", given)
    assert await refused(scheduling, who, ordered, NEXT) == {"S-ORDER"}


async def test_the_doses_of_one_visit_are_one_session_of_its_order_and_it_may_begin_before_its_time(
    bench, clock, intake, scheduling
):
    who, _, ordered = await planned(intake, clock)
    ordered = await intake.update(for_sessions(ordered, 2))
    await bench.deliver(intake, scheduling)
    _, second = [await scheduling.create(appointment(who, ordered, NEXT + timedelta(days=day))) for day in (0, 3)]
    at = Bedside(scheduling, clock)
    for minutes in (-5, 0, 5):  # three devices, the first of them before the booked time
        given = {
            "resourceType": "MedicationAdministration",
            "status": "unknown" if minutes else "completed",
            "medicationCodeableConcept": codes.KETAMINE.concept(),
            "subject": about(who),
            "request": about(ordered),
            "context": {"reference": "Encounter/of-the-first"},
            "effectiveDateTime": zulu(NEXT + timedelta(minutes=minutes)),
        }
        await at.tell("sessions", given)
    assert await flagged(scheduling, second) == []
    assert "S-ORDER" in await refused(scheduling, who, ordered, NEXT + timedelta(days=6))


async def test_a_visit_that_is_over_and_in_which_nothing_was_given_took_no_session_of_its_order(
    bench, clock, intake, scheduling
):
    who, _, ordered = await planned(intake, clock)
    ordered = await intake.update(for_sessions(ordered, 1))
    await bench.deliver(intake, scheduling)
    first = await scheduling.create(appointment(who, ordered, NEXT))
    clock.now = NEXT + timedelta(hours=4)
    assert await refused(scheduling, who, ordered, NEXT + timedelta(days=1)) == {"S-ORDER", "S-SPACING"}
    await scheduling.update({**first, "status": "fulfilled"})  # the pressure was too high
    again = await scheduling.create(appointment(who, ordered, NEXT + timedelta(days=1)))
    given = {
        "resourceType": "MedicationAdministration",
        "status": "completed",
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(who),
        "request": about(ordered),
        "effectiveDateTime": zulu(NEXT),
    }
    await Bedside(scheduling, clock).tell("sessions", given)
    assert await flagged(scheduling, again) == ["active"], "it was given after all"
    assert await refused(scheduling, who, ordered, NEXT + timedelta(days=1, hours=4)) >= {"S-ORDER", "S-SPACING"}


async def test_a_dose_is_not_booked_for_a_day_on_which_the_answers_are_too_old(bench, clock, intake, scheduling):
    who, _, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    with pytest.raises(Unprocessable, match="too old by the day of the visit") as error:
        await scheduling.create(appointment(who, ordered, START + timedelta(days=180)))
    assert "S-ELIGIBLE" in rules_of(error)
    assert "S-ELIGIBLE" not in await refused(scheduling, who, None, START + timedelta(days=179))


async def test_nobody_is_told_to_fast_for_a_visit_whose_ground_is_lost_until_it_is_back(
    bench, clock, intake, scheduling
):
    who, signed, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    await scheduling.create(appointment(who, ordered, NEXT))
    await intake.update({**signed, "status": "inactive"})
    await bench.deliver(intake, scheduling)
    clock.now = NEXT - timedelta(hours=12)
    assert "instruction" not in await told(scheduling, clock, who)
    await intake.create(consent(who))
    await intake.update({**await the_course(intake, who), "status": "active"})
    await bench.deliver(intake, scheduling)
    assert "instruction" in await told(scheduling, clock, who)


async def told(scheduling, clock, who):
    """Return of which category the messages to a patient are, once the timer has run."""
    (timer,) = [one for one in scheduling.service.timers if one.name == "messages"]
    await run_once(timer, scheduling.service, scheduling.store, clock.now, lambda: None)
    found = await scheduling.search("Communication", recipient=f"Patient/{who['id']}")
    return {one["category"][0]["coding"][0]["code"] for one in found}


async def test_what_was_denied_in_another_record_of_the_same_person_is_denied_here_until_they_are_parted(
    bench, clock, intake, scheduling, booked
):
    who, ordered, visit = booked
    other = await intake.create(patient(active=True))
    await intake.create(consent(other, dateTime=zulu(clock.now), provision={"type": "deny"}))
    pair = [
        {"name": name, "valueReference": about(one)}
        for name, one in (("source-patient", other), ("target-patient", who))
    ]
    await bench.deliver(intake, scheduling)
    assert await flagged(scheduling, visit) == []
    await intake.ask("merge", "Patient", *pair)
    await bench.deliver(intake, scheduling)
    assert await flagged(scheduling, visit) == ["active"]
    assert await refused(scheduling, who, ordered, NEXT + timedelta(days=7)) >= {"S-CONSENT"}
    await intake.ask("unmerge", "Patient", *pair)
    await intake.update({**await the_course(intake, who), "status": "active"})
    await bench.deliver(intake, scheduling)
    assert await flagged(scheduling, visit) == ["inactive"]


async def test_a_dose_is_booked_on_one_order_of_one_of_the_two_drugs(bench, clock, intake, scheduling):
    who, _, ordered = await planned(intake, clock)
    other = codes.Code(codes.RXNORM, "26225", "ondansetron").concept()
    beside, again = await intake.create(order(who, medicationCodeableConcept=other)), await intake.create(order(who))
    await bench.deliver(intake, scheduling)
    assert await refused(scheduling, who, beside, NEXT) == {"S-ORDER"}
    both = appointment(who, ordered, NEXT)
    both["supportingInformation"].append(about(again))
    with pytest.raises(Unprocessable, match="not the only order") as error:
        await scheduling.create(both)
    assert rules_of(error) == {"S-ORDER"}
    made = appointment(who, beside, NEXT)
    made["supportingInformation"].append(about(ordered))
    assert (await scheduling.create(made))["status"] == "booked"
    unknown = {"coding": [{"system": "http://www.whocc.no/atc", "code": "N01AX03"}]}
    unread = await intake.create(order(who, 700, medicationCodeableConcept=unknown))
    await bench.deliver(intake, scheduling)
    assert "S-ORDER" in await refused(scheduling, who, unread, NEXT + timedelta(days=7))


async def test_a_weight_or_a_preparation_that_is_yet_to_come_is_none(bench, clock, intake, scheduling, booked):
    who, _, visit = booked
    at = START + timedelta(days=80)
    await intake.create(weight(who, on=zulu(at - timedelta(days=1))[:10]))
    await bench.deliver(intake, scheduling)
    clock.now = START + timedelta(hours=1)
    moved = {**visit, "start": zulu(at), "end": zulu(at + timedelta(hours=3))}
    said = await scheduling.call("prerequisites", await scheduling.update(moved))
    found = [{part["name"]: part for part in one["part"]} for one in said["parameter"] if one["name"] == "prerequisite"]
    met = {one["rule"]["valueCoding"]["code"]: one["met"]["valueBoolean"] for one in found}
    assert (met["S-WEIGHT"], met["S-PREPARED"]) == (False, False)
