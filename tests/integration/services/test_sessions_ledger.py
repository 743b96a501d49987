"""Every dose of a controlled substance is booked out of the ledger, or a person finds out why not; lot and expiry."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from shared.runtime.timers import run_once
from tests.integration.services.bedside import Bedside, rules_of
from tests.integration.services.course import about, milligrams
from tests.integration.services.test_sessions_substances import VIAL, book, call, given_dose, investigations


async def bookings(bedside):
    return await bedside.sessions.search("Task", code=codes.BOOK_SUBSTANCE.token())


async def pass_time(bedside, minutes):
    bedside.clock.forward(minutes=minutes)
    service = bedside.sessions.service
    (timer,) = [one for one in service.timers if one.name == "unbooked-substances"]
    await run_once(timer, service, bedside.sessions.store, bedside.clock.now, lambda: None)


async def test_a_dose_is_to_be_booked_and_what_the_ledger_holds_for_it_closes_that(bedside):
    dose = await given_dose(bedside)
    (task,) = await bookings(bedside)
    assert (task["status"], task["focus"]["reference"]) == ("requested", dose)
    await book(bedside, "receive", 50)
    await book(bedside, "administer", 50, administration=dose)
    assert [one["status"] for one in await bookings(bedside)] == ["requested"]
    await book(bedside, "receive", 50, vial="V2")
    await book(bedside, "administer", 20, administration=dose, vial="V2")
    assert [one["status"] for one in await bookings(bedside)] == ["completed"]
    await pass_time(bedside, 90)
    assert await investigations(bedside) == []


async def test_a_dose_that_nobody_books_is_investigated_once_after_its_time(bedside):
    await given_dose(bedside)
    await pass_time(bedside, 60)
    assert await investigations(bedside) == []
    for _ in range(2):
        await pass_time(bedside, 1)
        (asked,) = await investigations(bedside)
    assert "the ledger does not hold it" in asked["description"]


async def test_nobody_ticks_off_the_booking_of_a_dose_and_it_is_investigated_all_the_same(bedside):
    await given_dose(bedside)
    (due,) = await bookings(bedside)
    nurse = {"owner": {"reference": "Practitioner/nurse"}}
    later = {**due["restriction"], "period": {"end": "2031-01-01T00:00:00Z"}}
    for by_hand in (
        {"status": "completed", **nurse},
        {"status": "cancelled", **nurse},
        {"restriction": later},
        {"businessStatus": {"text": "overdue"}},
    ):
        with pytest.raises(Unprocessable) as refused:
            await bedside.sessions.update({**due, **by_hand})
        assert rules_of(refused) == {"T-KEEP"}
    with pytest.raises(Unprocessable):
        await bedside.sessions.delete(due)
    taken = await bedside.sessions.update({**due, "status": "in-progress", **nurse, "note": [{"text": "I book it."}]})
    assert taken["status"] == "in-progress"
    await pass_time(bedside, 61)
    assert len(await investigations(bedside)) == 1


async def test_a_drug_that_is_known_only_later_as_another_is_not_watched_and_not_booked(bedside):
    await bedside.chart()
    unnamed = {key: value for key, value in bedside.dose(4, "completed").items() if key != "medicationCodeableConcept"}
    await bedside.sessions.create({**unnamed, "medicationReference": {"reference": "Medication/m"}})
    watched = await bedside.sessions.search("Task", code=codes.VITALS_DUE.token(), status="requested")
    assert watched
    assert [one["status"] for one in await bookings(bedside)] == ["requested"]
    ondansetron = codes.Code(codes.RXNORM, "26225", "Ondansetron").concept()
    await bedside.tell("intake", {"resourceType": "Medication", "id": "m", "code": ondansetron})
    assert await bedside.sessions.search("Task", code=codes.VITALS_DUE.token(), status="requested") == []
    assert [one["status"] for one in await bookings(bedside)] == ["cancelled"]
    await pass_time(bedside, 90)
    assert await investigations(bedside) == []


async def test_a_dose_that_is_corrected_to_another_drug_is_not_booked_and_what_was_booked_is_investigated(bedside):
    await bedside.chart()
    held = await bedside.sessions.create(bedside.dose(70, "completed"))
    await book(bedside, "receive", 70)
    await book(bedside, "administer", 30, administration=f"MedicationAdministration/{held['id']}")
    await bedside.sessions.update({**held, "status": "completed", "medicationCodeableConcept": {"text": "ondansetron"}})
    assert [one["status"] for one in await bookings(bedside)] == ["cancelled"]
    (asked,) = await investigations(bedside)
    assert "another drug" in asked["description"]


@pytest.mark.parametrize(
    ("booked", "status", "differs"),
    [
        (66.499, "requested", False),
        (66.5, "completed", False),
        (70, "completed", False),
        (73.5, "completed", False),
        (73.501, "completed", True),
    ],
)
async def test_a_dose_by_weight_is_booked_as_it_was_drawn_up(bedside, booked, status, differs):
    """1 mg/kg of 70 kg, within the 5 % to which what is drawn up is rounded (policies/dosing.yaml)."""
    await bedside.chart()
    dose = bedside.dose(0)
    dose["dosage"]["dose"] = milligrams(1, "mg/kg")
    given = await bedside.sessions.create({**dose, "status": "completed"})
    await book(bedside, "receive", 100)
    await book(bedside, "administer", booked, administration=f"MedicationAdministration/{given['id']}")
    assert [one["status"] for one in await bookings(bedside)] == [status]
    assert bool(await investigations(bedside)) is differs


async def test_a_dose_by_a_weight_that_nobody_knows_is_of_an_unknown_amount(bedside):
    await bedside.chart()
    dose = bedside.dose(0)
    dose["dosage"]["dose"] = milligrams(1, "mg/kg")
    bedside.clock.forward(days=40)
    given = await bedside.sessions.create(
        {**dose, "status": "completed", "effectivePeriod": bedside.dose()["effectivePeriod"]}
    )
    await book(bedside, "receive", 100)
    await book(bedside, "administer", 70, administration=f"MedicationAdministration/{given['id']}")
    (asked,) = await investigations(bedside)
    assert "not known how much" in asked["description"]


async def test_a_rescue_drug_is_not_booked(bedside):
    other = {**bedside.dose(4, "completed"), "medicationCodeableConcept": {"text": "ondansetron"}}
    await bedside.sessions.create(other)
    assert await bookings(bedside) == []


async def test_a_dose_corrected_to_more_is_to_be_booked_again_and_to_less_is_investigated(bedside):
    reference = await given_dose(bedside, 60)
    await book(bedside, "receive", 500)
    await book(bedside, "administer", 60, administration=reference)
    dose = await bedside.sessions.get(*reference.split("/"))
    dosage = {**dose["dosage"], "dose": milligrams(70)}
    more = await bedside.sessions.update({**dose, "status": "completed", "dosage": dosage})
    assert [one["status"] for one in await bookings(bedside)] == ["requested"]
    await bedside.sessions.update({**more, "dosage": {**dosage, "dose": milligrams(40)}})
    (asked,) = await investigations(bedside)
    assert "of which 40000 were given" in asked["description"]


async def test_what_was_booked_for_a_dose_that_was_an_error_is_investigated(bedside):
    reference = await given_dose(bedside)
    await book(bedside, "receive", 500)
    await book(bedside, "administer", 70, administration=reference)
    dose = await bedside.sessions.get(*reference.split("/"))
    await bedside.sessions.update({**dose, "status": "entered-in-error"})
    (asked,) = await investigations(bedside)
    assert "which was not given" in asked["description"]


async def test_a_dose_that_was_not_given_needs_no_booking_and_is_asked_why(bedside):
    refused = bedside.dose(70, "not-done")
    await bedside.sessions.create(refused)
    assert await bookings(bedside) == []
    (asked,) = await bedside.sessions.search("Task", code=codes.REVIEW.token())
    assert "does not say why" in asked["description"]
    said = bedside.dose(70, "not-done", statusReason=[{"text": "The patient did not want it today"}])
    await bedside.sessions.create(said)
    assert len(await bedside.sessions.search("Task", code=codes.REVIEW.token())) == 1


async def test_steps_of_an_infusion_are_booked_with_it(bedside):
    reference = await given_dose(bedside)
    step = {**bedside.dose(10, "completed"), "partOf": [{"reference": reference}]}
    await bedside.sessions.create(step)
    assert len(await bookings(bedside)) == 1


async def test_at_home_the_lozenges_that_were_handed_out_are_booked_and_the_dose_is_not(bench, clock):
    home = Bedside(await bench.open(sessions_service), clock)
    await home.begin(codes.ROUTE_SUBLINGUAL, 100, virtual=True)
    handed = {
        "resourceType": "MedicationDispense",
        "status": "completed",
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(home.who),
        "context": about(home.visit),
        "quantity": milligrams(600),
    }
    made = await home.sessions.create(handed)
    await home.sessions.create(home.dose(100, "completed", minutes=10))
    (task,) = await bookings(home)
    assert task["focus"]["reference"] == f"MedicationDispense/{made['id']}"
    await book(home, "receive", 600)
    await book(home, "administer", 600, administration=f"MedicationDispense/{made['id']}")
    assert [one["status"] for one in await bookings(home)] == ["completed"]


async def test_however_bookings_of_a_dose_meet_the_task_stands_as_the_ledger_does(bedside):
    reference = await given_dose(bedside)
    for number in range(7):
        await book(bedside, "receive", 10, vial=f"W{number}")
    bookings_at_once = [
        book(bedside, "administer", 10, administration=reference, vial=f"W{number}") for number in range(7)
    ]
    await asyncio.gather(*bookings_at_once)
    assert [one["status"] for one in await bookings(bedside)] == ["completed"]
    assert await investigations(bedside) == []


# -- lot and expiry


@pytest.mark.parametrize(("expires", "opens"), [("2026-11-21", False), ("2026-11-22", True), ("2026-11-23", True)])
async def test_a_product_past_its_last_day_keeps_the_gate_closed(bedside, expires, opens):
    await bedside.chart()
    if opens:
        dose = await bedside.start(lot="L7", expires=expires)
        assert dose["contained"][0]["batch"] == {"lotNumber": "L7", "expirationDate": expires}
    else:
        with pytest.raises(Unprocessable) as refused:
            await bedside.start(lot="L7", expires=expires)
        assert rules_of(refused) == {"G-LOT"}


async def test_a_product_that_expires_in_a_month_is_good_until_its_last_day(bedside):
    await bedside.chart()
    inside = {
        "resourceType": "Medication",
        "id": "p",
        "code": codes.KETAMINE.concept(),
        "batch": {"lotNumber": "L7", "expirationDate": "2026-11"},
    }
    dose = bedside.dose(contained=[inside], medicationReference={"reference": "#p"})
    del dose["medicationCodeableConcept"]
    await bedside.sessions.create(dose)
    inside["batch"] = {"lotNumber": "L7", "expirationDate": "2026-10"}
    with pytest.raises(Unprocessable) as refused:
        await bedside.sessions.create({**dose, "dosage": {**dose["dosage"], "dose": milligrams(1)}})
    assert "G-LOT" in rules_of(refused)


async def test_a_vial_used_after_its_last_day_is_booked_and_investigated(bedside):
    reference = await given_dose(bedside)
    await book(bedside, "receive", 500, expires="2026-11-21")
    await book(bedside, "administer", 70, administration=reference)
    (asked,) = await investigations(bedside)
    assert "after its last day" in asked["description"]
    assert VIAL["vial"] in asked["description"]


@pytest.mark.parametrize(("volume", "opens"), [("1.4", True), ("1.6", False)])
async def test_a_dose_in_millilitres_counts_by_the_strength_of_its_product(bedside, volume, opens):
    await bedside.chart()
    strength = {"numerator": milligrams(50), "denominator": milligrams(1, "mL")}
    part = {"itemCodeableConcept": codes.KETAMINE.concept(), "strength": strength}
    inside = {"resourceType": "Medication", "id": "p", "code": codes.KETAMINE.concept(), "ingredient": [part]}
    dose = bedside.dose(contained=[inside], medicationReference={"reference": "#p"})
    del dose["medicationCodeableConcept"]
    dose["dosage"]["dose"] = milligrams(Decimal(volume), "mL")
    if opens:
        await bedside.sessions.create(dose)
    else:
        with pytest.raises(Unprocessable) as refused:
            await bedside.sessions.create(dose)
        assert rules_of(refused) == {"G-DOSE-ORDER"}


# -- reports


def parts(entry):
    return {one["name"]: next(value for name, value in one.items() if name != "name") for one in entry["part"]}


async def test_the_dispensing_log_says_what_was_given_to_whom_and_where_he_lives(bedside):
    home = {"line": ["5 Elm Street"], "city": "Boston", "postalCode": "02108"}
    await bedside.tell("intake", {**bedside.who, "address": [home]})
    nurse = {"resourceType": "Practitioner", "id": "nurse", "name": [{"family": "Ode", "given": ["Ann"]}]}
    await bedside.tell("intake", nurse)
    reference = await given_dose(bedside)
    await book(bedside, "receive", 500)
    await book(bedside, "administer", 70, administration=reference)
    log = await call(bedside, "substance-log")
    said = parts(log["parameter"][-1])
    assert (said["substance"], said["form"], said["strength"]) == ("ketamine hydrochloride", "injection", "100 mg/mL")
    assert (said["patient-name"], said["patient-address"]) == ("Ada Moss", "5 Elm Street, Boston, 02108")
    assert said["performer-name"] == "Ann Ode"


async def test_the_inventory_adds_up_each_product(bedside):
    await book(bedside, "receive", 500)
    await book(bedside, "receive", 200, vial="V2")
    inventory = await call(bedside, "substance-inventory")
    (product,) = [parts(one) for one in inventory["parameter"] if one["name"] == "product"]
    assert (product["balance"]["value"], product["substance"]) == (700_000, "ketamine hydrochloride")


async def test_an_inventory_is_asked_for_at_the_beginning_and_again_within_two_years(bedside):
    async def asked(days):
        bedside.clock.forward(days=days)
        service = bedside.sessions.service
        (timer,) = [one for one in service.timers if one.name == "inventory"]
        await run_once(timer, service, bedside.sessions.store, bedside.clock.now, lambda: None)
        return await bedside.sessions.search("Task", code=codes.TAKE_INVENTORY.token())

    assert await asked(0) == []
    await book(bedside, "receive", 500)
    (first,) = await asked(0)
    assert len(await asked(30)) == 1
    done = {**first, "status": "completed", "lastModified": zulu(bedside.clock.now)}
    await bedside.sessions.update({**done, "owner": {"reference": "Practitioner/nurse"}})
    assert len(await asked(699)) == 1
    again = await asked(1)
    assert [one["status"] for one in again] == ["completed", "requested"]
