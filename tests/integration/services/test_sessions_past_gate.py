"""A dose past a closed gate whose record changes: who took the call hears of more; what was never so is taken back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from tests.integration.services.bedside import Bedside
from tests.integration.services.course import milligrams
from tests.integration.services.test_sessions_infusions import product, step
from tests.integration.services.test_sessions_watching import tasks

TAKEN = {"status": "accepted", "owner": {"reference": "Practitioner/nurse"}}


async def calls(bedside, status="requested"):
    return await tasks(bedside, codes.GATE_PASSED_CLOSED, status)


async def corrected(bedside, dose, amount):
    held = await bedside.sessions.get("MedicationAdministration", dose["id"])
    return await bedside.sessions.update({**held, "dosage": {**held["dosage"], "dose": milligrams(amount)}})


async def past_closed(bedside, amount, minutes=6):
    """Record a dose that was given at 190/118."""
    await bedside.chart(190, 118)
    bedside.clock.forward(minutes=8)
    return await bedside.sessions.create(bedside.dose(amount, "completed", minutes=minutes))


async def test_a_dose_that_becomes_ten_times_as_much_calls_anew_where_somebody_has_taken_the_call(bedside):
    dose = await past_closed(bedside, 7)
    (first,) = await calls(bedside)
    await bedside.sessions.update({**first, **TAKEN})
    await corrected(bedside, dose, 700)
    (second,) = await calls(bedside)
    assert {"G-DOSE-ORDER", "G-DOSE-MAX"} <= {word.strip(":") for word in second["description"].split()}
    assert [one["id"] for one in await calls(bedside, "accepted")] == [first["id"]]
    assert {"G-BP-STOP", "G-DOSE-MAX"} <= await bedside.rules()  # nothing that was raised is written over
    await bedside.sessions.update({**second, **TAKEN})
    await corrected(bedside, dose, 7000)
    (third,) = await calls(bedside)
    await bedside.sessions.update({**third, **TAKEN})
    await corrected(bedside, dose, 600)
    assert await calls(bedside) == []  # less than what was taken calls nobody


async def test_a_call_that_nobody_has_taken_says_what_is_known_of_the_dose_now(bedside):
    await bedside.chart()
    bedside.clock.forward(minutes=8)
    dose = await bedside.sessions.create(bedside.dose(100, "completed", minutes=6))
    await corrected(bedside, dose, 700)
    (call,) = await calls(bedside)
    assert "700 mg" in call["description"]


async def test_a_slip_of_the_amount_that_is_corrected_ends_the_call_for_it_and_no_other(bedside):
    dose = await past_closed(bedside, 700)
    (call,) = await calls(bedside)
    await corrected(bedside, dose, 70)
    assert [one["id"] for one in await calls(bedside)] == [call["id"]]  # it was given at 190/118 all the same
    await bedside.sessions.update({**dose, "status": "entered-in-error"})
    bedside.clock.forward(minutes=20)
    await bedside.chart()
    slip = await bedside.sessions.create(bedside.dose(700, "completed"))
    (_, second) = await calls(bedside)
    await corrected(bedside, slip, 70)
    ended = await bedside.sessions.get("Task", second["id"])
    assert (ended["status"], ended["statusReason"]["text"]) == ("completed", "The record of the dose was corrected.")
    assert [one["id"] for one in await calls(bedside)] == [call["id"]]


async def test_a_dose_charted_as_of_hours_ago_and_corrected_to_now_calls_and_its_review_is_taken_back(bedside):
    dose = await past_closed(bedside, 70, minutes=120)
    (review,) = await tasks(bedside, codes.REVIEW, "requested")
    assert await calls(bedside) == []
    just_now = {"start": zulu(bedside.clock.now - timedelta(minutes=6))}
    await bedside.sessions.update({**dose, "effectivePeriod": just_now})
    assert len(await calls(bedside)) == 1
    assert (await bedside.sessions.get("Task", review["id"]))["status"] == "completed"


@pytest.mark.parametrize("by", ["update", "step"])
async def test_slowing_down_an_infusion_of_which_nobody_said_how_fast_it_goes_is_recorded_and_calls(bench, clock, by):
    at = Bedside(await bench.open(sessions_service), clock)
    await at.begin(codes.ROUTE_IV, 35)
    await at.chart()
    dose = at.dose(35)
    del dose["medicationCodeableConcept"]
    parent = await at.sessions.create(dose | product(1))
    clock.forward(minutes=15)
    await at.chart(190, 118)
    before = await calls(at)
    rate = milligrams(20, "mg/h")
    if by == "update":
        said = await at.sessions.update({**parent, "dosage": {**parent["dosage"], "rateQuantity": rate}})
    else:
        said = await at.sessions.create(step(at, parent, rate=20))
    assert said["dosage"]["rateQuantity"]["value"] == 20
    (call,) = [one for one in await calls(at) if one not in before]
    assert "G-BP-STOP" in call["description"]
