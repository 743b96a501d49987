"""Infusions and devices: steps by partOf share their infusion's amount, only more of the drug is judged."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from tests.integration.services.bedside import Bedside, rules_of
from tests.integration.services.course import about, milligrams


@pytest.fixture
async def infusion(bench, clock):
    """Return a bedside with an infusion of 35 mg at 52.5 mg/h in progress."""
    at = Bedside(await bench.open(sessions_service), clock)
    await at.begin(codes.ROUTE_IV, 35)
    await at.chart()
    dose = at.dose(35)
    dose["dosage"]["rateQuantity"] = milligrams(52.5, "mg/h")
    del dose["medicationCodeableConcept"]
    dose |= product(1)
    return at, await at.sessions.create(dose)


def product(strength):
    """Return ketamine of so many mg/mL as the medication of a dose."""
    part = {"numerator": milligrams(strength), "denominator": milligrams(1, "mL")}
    inside = {
        "resourceType": "Medication",
        "id": "product",
        "code": codes.KETAMINE.concept(),
        "ingredient": [{"itemCodeableConcept": codes.KETAMINE.concept(), "strength": part}],
    }
    return {"contained": [inside], "medicationReference": {"reference": "#product"}}


def step(at, parent, status="in-progress", rate=52.5, **more):
    made = at.dose(35, status, partOf=[about(parent)])
    made["dosage"] = {"route": made["dosage"]["route"], "rateQuantity": milligrams(rate, "mg/h"), **more}
    return made


@pytest.mark.parametrize(("status", "rate"), [("in-progress", 40), ("on-hold", 0), ("stopped", 0), ("completed", 52.5)])
async def test_less_of_the_drug_is_recorded_whatever_the_readings_say(infusion, status, rate):
    at, parent = infusion
    at.clock.forward(minutes=15)
    await at.sessions.create(at.vitals(190, 100))
    before = await at.raised()
    kept = await at.sessions.create(step(at, parent, status, rate))
    assert kept["partOf"] == [about(parent)]
    assert await at.raised() == before


async def test_a_lower_rate_is_recorded_in_the_first_minutes_too(infusion):
    at, parent = infusion
    at.clock.forward(minutes=1)
    await at.chart(190)
    slower = {**parent, "dosage": {**parent["dosage"], "rateQuantity": milligrams(40, "mg/h")}}
    kept = await at.sessions.update(slower)
    for rate in (41, 60):
        with pytest.raises(Unprocessable) as error:
            await at.sessions.update({**kept, "dosage": {**kept["dosage"], "rateQuantity": milligrams(rate, "mg/h")}})
        assert "G-BP-STOP" in rules_of(error)


async def test_a_higher_rate_goes_through_the_gate(infusion):
    at, parent = infusion
    at.clock.forward(minutes=15)
    await at.chart(165)
    with pytest.raises(Unprocessable) as error:
        await at.sessions.create(step(at, parent, rate=60))
    assert rules_of(error) == {"G-BP-HOLD"}
    at.clock.forward(minutes=10)
    await at.chart()
    await at.sessions.create(step(at, parent, rate=60))


@pytest.mark.parametrize("by", ["update", "step"])
async def test_a_rate_in_words_without_a_code_is_never_taken_for_a_lower_one(infusion, by):
    at, parent = infusion
    rates = [{"value": 52.5, "unit": "mg/h"}, {"value": 5, "unit": "mg/min"}]  # the second is 300 mg/h
    if by == "update":
        said = await at.sessions.update({**parent, "dosage": {**parent["dosage"], "rateQuantity": rates[0]}})
        faster = {**said, "dosage": {**said["dosage"], "rateQuantity": rates[1]}}
    else:
        first, faster = step(at, parent), step(at, parent)
        first["dosage"]["rateQuantity"], faster["dosage"]["rateQuantity"] = rates
        await at.sessions.create(first)
    at.clock.forward(minutes=15)
    await at.chart(190)
    noted = {**said, "note": [{"text": "Dozes."}]} if by == "update" else {**parent, "note": [{"text": "Dozes."}]}
    await at.sessions.update(noted)
    if by == "step":
        faster["effectivePeriod"] = {"start": zulu(at.clock.now)}
    with pytest.raises(Unprocessable) as error:
        await (at.sessions.update if by == "update" else at.sessions.create)(faster)
    assert "G-BP-STOP" in rules_of(error)


async def test_what_runs_after_the_end_of_an_infusion_is_a_dose_of_its_own(infusion):
    at, parent = infusion
    at.clock.forward(minutes=20)
    over = {**parent["effectivePeriod"], "end": zulu(at.clock.now)}
    stretch = step(at, parent, "completed")  # how it ran until its end, charted after it
    stretch["effectivePeriod"] = {**over, "start": zulu(at.clock.now - timedelta(minutes=5))}
    parent = await at.sessions.update({**parent, "status": "completed", "effectivePeriod": over})
    await at.sessions.create(stretch)
    assert await at.raised() == [0, 0, 0]
    at.clock.forward(minutes=30)
    await at.chart(190, minutes=6)
    again = step(at, parent, "completed")
    again["effectivePeriod"] = {"start": zulu(at.clock.now - timedelta(minutes=5)), "end": zulu(at.clock.now)}
    await at.sessions.create(again)
    assert {"G-BP-STOP", "G-DOSE"} <= await at.rules()


async def test_steps_are_no_doses_and_hide_none(infusion):
    at, parent = infusion
    await at.sessions.create(step(at, parent, "completed", dose=milligrams(35)))
    assert await at.raised() == [0, 0, 0]
    await at.sessions.create(step(at, parent, "completed", dose=milligrams(500)))
    assert "G-DOSE-ORDER" in await at.rules()


async def test_an_infusion_goes_on_after_a_pause_only_through_an_open_gate(infusion):
    at, parent = infusion
    paused = await at.sessions.update({**parent, "status": "on-hold"})
    at.clock.forward(minutes=10)
    await at.chart(185)
    for going_on in (step(at, paused), {**paused, "status": "in-progress"}):
        change = at.sessions.update if "id" in going_on else at.sessions.create
        with pytest.raises(Unprocessable) as error:
            await change(going_on)
        assert "G-BP-STOP" in rules_of(error)


async def test_boluses_that_exceed_the_infusion_they_are_part_of_are_doses(infusion):
    at, parent = infusion
    await at.sessions.create(step(at, parent, "completed", dose=milligrams(35)))
    with pytest.raises(Unprocessable) as error:
        await at.sessions.create(step(at, parent, "in-progress", dose=milligrams(5)))
    assert "G-DOSE-ORDER" in rules_of(error)
    await at.sessions.create(step(at, parent, "completed", dose=milligrams(5)))
    assert "G-DOSE-ORDER" in await at.rules()
    booked = await at.sessions.search("Task", code=codes.BOOK_SUBSTANCE.token())
    assert len(booked) == 2


async def test_ketamine_that_says_it_is_part_of_another_drug_is_a_dose(infusion):
    at, _ = infusion
    await at.chart(200, 120)
    magnesium = {"coding": [{"system": codes.RXNORM, "code": "6585"}], "text": "Magnesium sulfate 2 g"}
    other = await at.sessions.create(at.dose(2000, medicationCodeableConcept=magnesium))
    await at.sessions.create(at.dose(300, "completed", partOf=[about(other)]))
    assert {"G-DOSE-ORDER", "G-BP-STOP"} <= await at.rules()
    assert len(await at.sessions.search("Task", code=codes.BOOK_SUBSTANCE.token())) == 2


@pytest.mark.parametrize(("status", "rate"), [("on-hold", 0), ("stopped", 0), ("in-progress", 20)])
async def test_after_a_pause_or_a_lower_rate_the_old_rate_is_more(infusion, status, rate):
    at, parent = infusion
    at.clock.forward(minutes=10)
    await at.chart(190, 118)
    less = await at.sessions.create(step(at, parent, status, rate))
    at.clock.forward(minutes=2)
    for faster in (step(at, parent), {**less, "status": "in-progress", "dosage": step(at, parent)["dosage"]}):
        change = at.sessions.update if "id" in faster else at.sessions.create
        with pytest.raises(Unprocessable) as error:
            await change(faster)
        assert "G-BP-STOP" in rules_of(error)
    assert await at.sessions.create(step(at, parent, rate=rate))


@pytest.fixture
async def spray(bench, clock):
    """A patient after the first device of esketamine."""
    at = Bedside(await bench.open(sessions_service), clock)
    spray = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray").concept()
    await at.begin(codes.ROUTE_NASAL, 56, medicationCodeableConcept=spray)
    await at.tell("intake", {"resourceType": "Location", "id": "room", "identifier": [certified()]})
    who = [*at.who["identifier"], {"system": codes.ID_REMS_PATIENT, "value": "P-1"}]
    await at.tell("intake", {**at.who, "identifier": who})
    await at.chart()
    first = await at.start(28, witness="Practitioner/nurse")
    await at.sessions.update({**first, "status": "completed"})
    return at


async def test_devices_of_esketamine_are_five_minutes_apart(spray):
    at = spray
    at.clock.forward(minutes=4)
    with pytest.raises(Unprocessable) as error:
        await at.start(28, witness="Practitioner/nurse")
    assert rules_of(error) == {"G-DEVICE"}
    at.clock.forward(minutes=1)
    await at.start(28, witness="Practitioner/nurse")


async def test_a_device_long_after_the_first_is_asked_about_and_given_all_the_same_begins_the_stay_anew(spray):
    at = spray
    at.clock.forward(minutes=31)
    with pytest.raises(Unprocessable) as error:
        await at.start(28, witness="Practitioner/nurse")
    assert "G-DEVICE" in rules_of(error)
    at.clock.forward(minutes=79)
    spray_again = {"medicationCodeableConcept": at.ordered["medicationCodeableConcept"], "request": about(at.ordered)}
    await at.sessions.create(at.dose(28, "completed", **spray_again))
    assert "G-DEVICE" in await at.rules()
    due = await at.sessions.search("Task", code=codes.VITALS_DUE.token(), status="requested")
    assert zulu(at.clock.now + timedelta(minutes=40)) in [one["executionPeriod"]["start"] for one in due]
    at.clock.forward(minutes=12)
    for late, stays in ((0, True), (107, True), (1, False)):
        at.clock.forward(minutes=late)
        with pytest.raises(Unprocessable) as error:
            await at.sessions.call("discharge", at.visit, {"name": "disposition", "valueCode": "home"})
        assert ("L-STAY" in rules_of(error)) is stays


async def test_a_rate_that_can_hardly_be_is_asked_about_until_it_is_corrected(infusion):
    async def asked():
        found = await at.sessions.search("DetectedIssue", code=codes.DOSE_IMPLAUSIBLE.token())
        reviews = await at.sessions.search("Task", patient=at.who["id"], code=codes.REVIEW.token(), status="requested")
        return [one["description"] for one in reviews if found and "slip" in one["description"]]

    at, parent = infusion
    assert await asked() == []  # 35 mg at 52.5 mg/h: 40 minutes
    at.clock.forward(minutes=5)
    fast = await at.sessions.create(step(at, parent, rate=3000))
    (said,) = await asked()
    assert "after 1 minutes" in said
    slower = {**fast["dosage"], "rateQuantity": milligrams(30, "mg/h")}
    await at.sessions.update({**fast, "dosage": slower})
    assert await asked() == []
    await at.sessions.update({**fast, "status": "entered-in-error"})
    at.clock.forward(minutes=115)
    ended = {**parent["effectivePeriod"], "end": zulu(at.clock.now)}
    await at.sessions.update({**parent, "status": "completed", "effectivePeriod": ended})
    assert await asked() == []  # steps say how fast it went


async def test_an_infusion_that_ran_longer_than_its_amount_is_asked_about(infusion):
    at, parent = infusion
    for minutes, asked in ((42, 0), (78, 1)):
        at.clock.forward(minutes=minutes)
        ended = {**parent["effectivePeriod"], "end": zulu(at.clock.now)}
        parent = await at.sessions.update({**parent, "status": "completed", "effectivePeriod": ended})
        found = await at.sessions.search("DetectedIssue", code=codes.DOSE_IMPLAUSIBLE.token())
        assert len(found) == asked
    assert "105 mg ran in, and it says 35 mg" in found[0]["detail"]


async def test_a_dose_that_was_given_is_recorded_however_slow_it_says_it_was(infusion):
    at, _ = infusion
    given = at.dose(35, "completed", minutes=60)
    given["dosage"]["rateQuantity"] = milligrams(Decimal("0.000000001"), "mg/h")
    assert (await at.sessions.create(given))["status"] == "completed"


def certified():
    return {"system": codes.ID_REMS_SITE, "value": "S-1"}


async def test_an_infusion_is_not_made_faster_past_a_closed_gate_however_long_it_runs(infusion):
    at, parent = infusion
    at.clock.forward(minutes=15)
    await at.chart(190, 118)
    ratio = {"numerator": milligrams(100), "denominator": milligrams(1, "h")}
    plain = {name: value for name, value in parent["dosage"].items() if name != "rateQuantity"}
    for rate in (
        {"rateQuantity": milligrams(300, "mg/h")},
        {"rateRatio": ratio},
        {"rateQuantity": milligrams(1, "g/h")},
    ):
        with pytest.raises(Unprocessable) as refused:
            await at.sessions.update({**parent, "dosage": {**plain, **rate}})
        assert "G-BP-STOP" in rules_of(refused)
    slower = {**parent["dosage"], "rateQuantity": milligrams(20, "mg/h")}
    assert (await at.sessions.update({**parent, "dosage": slower}))["dosage"] == slower


async def test_a_bolus_and_a_faster_stretch_that_were_given_past_a_closed_gate_call_a_prescriber(infusion):
    at, parent = infusion
    at.clock.forward(minutes=15)
    await at.chart(190, 118)
    bolus = at.dose(20, "completed", partOf=[about(parent)])
    bolus["dosage"] = {"route": bolus["dosage"]["route"], "dose": milligrams(20)}
    kept = await at.sessions.create(bolus)
    faster = await at.sessions.create(step(at, parent, "completed", 300))
    found = await at.sessions.search("DetectedIssue", code=codes.GATE_PASSED_CLOSED.token())
    assert {one["implicated"][0]["reference"] for one in found} == {
        about(kept)["reference"],
        about(faster)["reference"],
    }
    assert "G-BP-STOP" in await at.rules()


async def test_an_infusion_begun_by_the_operation_says_its_rate_and_may_be_slowed_down(bench, clock):
    at = Bedside(await bench.open(sessions_service), clock)
    await at.begin(codes.ROUTE_IV, 35)
    await at.chart()
    given = [
        {"name": "medicationRequest", "valueReference": about(at.ordered)},
        {"name": "dose", "valueQuantity": milligrams(35)},
        {"name": "rate", "valueQuantity": milligrams(52.5, "mg/h")},
        {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
        {"name": "strength", "valueQuantity": milligrams(1, "mg/mL")},
    ]
    parent = await at.sessions.call("start-dose", at.visit, *given)
    assert parent["dosage"]["rateQuantity"]["value"] == 52.5
    clock.forward(minutes=15)
    await at.chart(190, 118)
    await at.sessions.create(step(at, parent, rate=20))
    with pytest.raises(Unprocessable):
        await at.sessions.create(step(at, parent, rate=21))


@pytest.mark.parametrize("to", ["ten times as strong", "esketamine"])
async def test_the_product_of_a_dose_in_progress_is_not_exchanged_unjudged(bench, clock, to):
    at = Bedside(await bench.open(sessions_service), clock)
    await at.begin()
    await at.chart()
    dose = at.dose(70)
    del dose["medicationCodeableConcept"]
    dose |= product(10)
    dose["dosage"]["dose"] = milligrams(7, "mL")
    given = await at.sessions.create(dose)
    assert await at.raised() == [0, 0, 0]
    other = product(100 if to == "ten times as strong" else 10)
    if to == "esketamine":
        inside = other["contained"][0]
        inside["code"] = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray").concept()
        inside["ingredient"][0]["itemCodeableConcept"] = inside["code"]
    with pytest.raises(Unprocessable) as error:
        await at.sessions.update({**given, **other})
    wanted = {"G-DOSE-ORDER", "G-DOSE-MAX"} if to == "ten times as strong" else {"G-ORDER"}
    assert wanted <= rules_of(error)
    at.clock.forward(minutes=10)
    await at.sessions.update({**given, **other})  # what was given is recorded
    assert wanted <= await at.rules()
