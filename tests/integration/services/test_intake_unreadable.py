"""What intake cannot read never counts as a "no": it asks a person."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from tests.integration.services.at_intake import condition, latest, outcome
from tests.integration.services.course import about, eligible, patient, referral, screening

ESKETAMINE = ({"name": "drug", "valueCode": "esketamine"}, {"name": "route", "valueCode": "46713006"})
ONDANSETRON = codes.Code(codes.RXNORM, "26225").concept()


async def test_words_of_what_is_over_ask_a_person(intake, clock):
    who = await eligible(intake, clock)
    over = condition(who, "x")
    over["code"] = {"text": "brain bleed 2015"}
    over["clinicalStatus"]["coding"][0]["code"] = "resolved"
    await intake.create(over)
    assert outcome(await latest(intake, who)) == "needs-decision"


@pytest.mark.parametrize(
    "ingredient",
    [
        {"itemReference": {"reference": "http://elsewhere.example/fhir/Substance/9"}},
        {"itemReference": {"reference": "#inside"}},
        {"itemReference": {"identifier": {"value": "9"}}},
    ],
    ids=["held elsewhere", "inside, and said to be nothing", "named by an identifier"],
)
async def test_an_ingredient_that_nothing_is_known_of_asks_a_person(intake, clock, ingredient):
    who = await eligible(intake, clock)
    inside = {"resourceType": "Medication", "id": "inside"}
    mixed = await intake.create(
        {
            "resourceType": "Medication",
            **({"contained": [inside]} if "#inside" in str(ingredient) else {}),
            "code": ONDANSETRON,
            "ingredient": [ingredient],
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
    assert outcome(await latest(intake, who)) == "needs-decision"


async def screened(intake, clock, **referred):
    who = await intake.create(patient())
    await intake.create(referral(who, **referred))
    await intake.create(screening(who, clock.now))
    return who, outcome(await intake.call("screen", who, *ESKETAMINE))


@pytest.mark.parametrize(
    ("referred", "found"),
    [
        ({}, "needs-answers"),
        ({"reasonCode": [{"text": "TRD, failed 3 SSRIs"}]}, "needs-answers"),
        ({"reasonReference": [{"reference": "http://elsewhere.example/fhir/Condition/1"}]}, "needs-answers"),
        ({"reasonCode": [codes.Code(codes.ICD10CM, "R45.851").concept()]}, "eligible"),
    ],
    ids=["none", "in words", "held elsewhere", "coded, and another"],
)
async def test_esketamine_for_what_nobody_can_read_asks_whether_treatment_was_resisted(intake, clock, referred, found):
    who, said = await screened(intake, clock, **referred)
    assert said == found
    told = [each for one in (await latest(intake, who))["extension"] for each in one.get("extension", [])]
    assert ("E24" in {each.get("valueCode") for each in told}) is (found != "eligible")


async def test_a_positive_test_of_pregnancy_without_its_day_is_no_eligibility(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(
        {
            "resourceType": "Observation",
            "status": "final",
            "code": codes.PREGNANCY.concept(),
            "subject": about(who),
            "valueCodeableConcept": codes.Code(codes.SNOMED, "77386006").concept(),
        }
    )
    assert outcome(await latest(intake, who)) == "not-eligible"
