"""Doses that were given: always recorded, judged by their time, kept; rescue drugs are never gated."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from tests.integration.services.bedside import rules_of
from tests.integration.services.course import about, milligrams, order
from tests.integration.services.three_services import (
    dose,
    pressure,
    raised,
    start_parameters,
)


@pytest.mark.parametrize(
    ("status", "minutes"), [("completed", 0), ("completed", 40), ("stopped", 1), ("in-progress", 6)]
)
async def test_a_dose_that_was_given_past_a_closed_gate_is_recorded_and_raises_once(
    at_bedside, clock, sessions, status, minutes
):
    who, _, _, visit = at_bedside
    given = await sessions.create(dose(who, visit, status, clock.now - timedelta(minutes=minutes)))
    assert given["meta"]["versionId"] == "1"
    assert await raised(sessions, who) == [1, 1, 1]
    (issue,) = await sessions.search("DetectedIssue", patient=who["id"])
    assert issue["code"]["coding"][0]["code"] == "dose-past-closed-gate"
    assert "G-BP" in [one["code"] for one in issue["code"]["coding"]]
    assert issue["implicated"] == [about(given)]
    await sessions.update({**given, "status": "completed", "note": [{"text": "lot 7"}]})
    assert await raised(sessions, who) == [1, 1, 1]


async def test_a_given_dose_through_an_open_gate_raises_nothing(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    clock.forward(hours=2)
    await sessions.create(dose(who, visit, "completed", clock.now - timedelta(hours=2)))
    assert await raised(sessions, who) == [0, 0, 0]


async def test_a_dose_charted_after_the_visit_ended_is_judged_by_its_time(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    start = clock.now
    await sessions.create(pressure(who, visit, start))
    clock.forward(hours=2)
    await sessions.update({**visit, "status": "finished", "period": {**visit["period"], "end": zulu(clock.now)}})
    await sessions.create(dose(who, visit, "completed", start))
    assert await raised(sessions, who) == [0, 0, 0]


async def test_a_rescue_drug_is_never_gated(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    midazolam = codes.Code(codes.RXNORM, "6960", "midazolam").concept()
    await sessions.create(dose(who, visit, "in-progress", clock.now, medicationCodeableConcept=midazolam))
    assert await raised(sessions, who) == [0, 0, 0]


async def test_a_drug_the_record_cannot_name_is_recorded_and_asked_about(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    unknown = dose(who, visit, "completed", clock.now, medicationReference={"reference": "Medication/unknown"})
    del unknown["medicationCodeableConcept"]
    await sessions.create(unknown)
    assert await raised(sessions, who) == [1, 0, 1]


async def test_the_record_of_a_dose_is_not_deleted(at_bedside, clock, sessions):
    who, _, _, visit = at_bedside
    given = await sessions.create(dose(who, visit, "completed", clock.now))
    with pytest.raises(Unprocessable) as error:
        await sessions.delete(given)
    assert rules_of(error) == {"D-KEEP"}
    await sessions.update({**given, "status": "entered-in-error"})


async def test_the_operation_says_what_it_needs(at_bedside, sessions, intake):
    who, _, ordered, visit = at_bedside
    with pytest.raises(BadRequest, match="medicationRequest, dose, performer"):
        await sessions.call("start-dose", visit)
    with pytest.raises(BadRequest, match="route"):
        await sessions.call("start-dose", visit, {"name": "route", "valueCode": "im"})
    millilitres = {"name": "dose", "valueQuantity": milligrams(1, "mL")}
    with pytest.raises(BadRequest, match="mg"):
        await sessions.call("start-dose", visit, *start_parameters(ordered), millilitres)
    with pytest.raises(NotFound):
        await sessions.call("start-dose", {"resourceType": "Encounter", "id": "none"}, *start_parameters(ordered))
    unknown = {**order(who), "id": "unknown"}
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(unknown))
    assert rules_of(error) == {"G-ORDER"}


def mixed(name):
    """Return a preparation that names itself by a text alone, and ketamine among what is in it."""
    midazolam = codes.Code(codes.RXNORM, "6960", "midazolam").concept()
    parts = [{"itemCodeableConcept": one} for one in (midazolam, codes.KETAMINE.concept())]
    return {"resourceType": "Medication", "id": "mixed", "code": {"text": name}, "ingredient": parts}


@pytest.mark.parametrize("contained", [True, False])
async def test_ketamine_among_the_ingredients_is_ketamine(bedside, contained):
    await bedside.chart(200, 120)
    dose = bedside.dose(70)
    del dose["medicationCodeableConcept"]
    if contained:
        dose |= {"contained": [mixed("MKO Melt")], "medicationReference": {"reference": "#mixed"}}
    else:
        dose["medicationReference"] = about(await bedside.tell("intake", {**mixed("Troche no. 7"), "status": "active"}))
    with pytest.raises(Unprocessable) as error:
        await bedside.sessions.create(dose)
    assert "G-BP-STOP" in rules_of(error)


@pytest.mark.parametrize(("text", "unknown"), [("Troche no. 7", 1), ("Lorazepam 1 mg", 0)])
async def test_words_that_no_value_set_knows_are_asked_about_in_a_dosing_visit(bedside, text, unknown):
    await bedside.sessions.create(bedside.dose(70, "completed", medicationCodeableConcept={"text": text}))
    found = await bedside.sessions.search("DetectedIssue", code=codes.DRUG_NOT_KNOWN.token())
    assert len(found) == unknown
