"""The ledger of controlled substances: append-only, balanced at any instant and under concurrency, two signatures."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal

import asyncpg
import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, Unprocessable
from shared.runtime.service import OperationCall
from tests.integration.services.bedside import rules_of
from tests.integration.services.course import about, milligrams

VIAL = {"ndc": "0409-2051-05", "lot": "L7", "vial": "V1"}
FORMS = {
    **dict.fromkeys(("ndc", "lot", "vial", "form41", "note"), "valueString"),
    **dict.fromkeys(("performer", "witness", "administration"), "valueReference"),
    **dict.fromkeys(("occurred", "at", "start", "end"), "valueDateTime"),
    "kind": "valueCode",
    "amount": "valueQuantity",
    "expires": "valueDate",
}


async def call(bedside, name, **given):
    operation = next(one for one in bedside.sessions.service.operations if one.name == name)
    parameters = []
    for key, value in given.items():
        said = {"reference": value} if FORMS[key] == "valueReference" else value
        parameters.append({"name": key, FORMS[key]: milligrams(Decimal(str(said))) if key == "amount" else said})
    body = {"resourceType": "Parameters", "parameter": parameters}
    async with bedside.sessions.record(f"Patient/{bedside.who['id']}") as record:
        return await operation.handler(OperationCall(name, "SupplyDelivery", None, body), record)


async def known(bedside, *people):
    """Have sessions know these people."""
    for one in people:
        if f"Practitioner/{one}" not in bedside.versions:
            await bedside.tell("intake", {"resourceType": "Practitioner", "id": one, "name": [{"family": one}]})


async def book(bedside, kind, amount=None, **more):
    await known(bedside, "nurse", "other")
    given = {"kind": kind, **VIAL, "performer": "Practitioner/nurse", **more}
    return await call(bedside, "substance-book", **(given if amount is None else {**given, "amount": amount}))


async def balance(bedside, **more):
    answer = await call(bedside, "substance-balance", **VIAL, **more)
    return answer["parameter"][0]["valueQuantity"]["value"]


async def given_dose(bedside, amount=70):
    await bedside.chart()
    dose = await bedside.start(amount)
    return f"MedicationAdministration/{dose['id']}"


async def investigations(bedside):
    return await bedside.sessions.search("Task", code=codes.INVESTIGATE_SUBSTANCE.token())


@pytest.mark.parametrize(
    "witness",
    [
        "https://kap.example/fhir/Practitioner/nurse",
        "Practitioner/nurse/_history/1",
        "PractitionerRole/of-the-nurse",
        "PractitionerRole/of-nobody",
        "Practitioner/unheard-of",
        "Patient/ada",
    ],
)
async def test_one_hand_gives_one_signature_however_it_is_referred_to(bedside, witness):
    role = {"resourceType": "PractitionerRole", "practitioner": {"reference": "Practitioner/nurse"}}
    await bedside.tell("intake", {**role, "id": "of-the-nurse"})
    await book(bedside, "receive", 70)
    with pytest.raises(Unprocessable) as refused:
        await book(bedside, "waste", 1, witness=witness)
    assert rules_of(refused) == {"C-WITNESS"}
    assert await balance(bedside) == 70_000


async def test_a_role_of_another_signs_as_the_person_who_has_it(bedside):
    role = {"resourceType": "PractitionerRole", "practitioner": {"reference": "Practitioner/other"}}
    await bedside.tell("intake", {**role, "id": "of-the-other"})
    await book(bedside, "receive", 70)
    entry = (await book(bedside, "waste", 1, witness="PractitionerRole/of-the-other"))["parameter"][0]
    assert {"name": "witness", "valueReference": {"reference": "Practitioner/other"}} in entry["part"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "performer", "valueReference": {"display": "Nurse Jane"}},
        {"name": "performer", "valueReference": {"reference": 7}},
        {"name": "performer", "valueString": "Jane"},
        {"name": "witness", "valueReference": {"identifier": {"value": "x"}}},
        {"name": "administration", "valueString": "the dose"},
        {"name": "expires", "valueDate": "soon"},
        {"name": "amount", "valueString": "10 mg"},
        {"name": "ndc", "valueString": 4},
    ],
    ids=lambda one: f"{one['name']} {[value for name, value in one.items() if name != 'name']}",
)
async def test_a_parameter_of_a_wrong_form_is_refused_in_words(bedside, wrong):
    given = [
        {"name": "kind", "valueCode": "receive"},
        *({"name": name, "valueString": value} for name, value in VIAL.items()),
        {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
        {"name": "amount", "valueQuantity": milligrams(10)},
    ]
    asked = [*(one for one in given if one["name"] != wrong["name"]), wrong]
    body = {"resourceType": "Parameters", "parameter": asked}
    operation = next(one for one in bedside.sessions.service.operations if one.name == "substance-book")
    async with bedside.sessions.record(f"Patient/{bedside.who['id']}") as record:
        with pytest.raises(BadRequest):
            await operation.handler(OperationCall("substance-book", "SupplyDelivery", None, body), record)


async def test_a_vial_that_expires_in_a_month_is_good_until_its_last_day(bedside):
    await book(bedside, "receive", 10, expires="2027-02")
    stock = (await call(bedside, "substance-inventory"))["parameter"]
    (vial,) = [one["part"] for one in stock if one["name"] == "vial"]
    assert {"name": "expires", "valueDate": "2027-02-28"} in vial


async def test_an_expired_vial_that_the_dose_empties_is_investigated(bedside):
    dose = await given_dose(bedside)
    await book(bedside, "receive", 70, expires="2020-01-01")
    await book(bedside, "administer", 70, administration=dose)
    assert [one for one in await investigations(bedside) if "last day" in one["description"]]


async def test_a_vial_is_followed_from_its_receipt_to_the_last_microgram(bedside):
    dose = await given_dose(bedside)
    await book(bedside, "receive", 500, expires="2027-12-31")
    await book(bedside, "open")
    bedside.clock.forward(minutes=1)
    before = bedside.clock.now
    bedside.clock.forward(minutes=1)
    await book(bedside, "administer", 70, administration=dose)
    await book(bedside, "waste", 0.001, witness="Practitioner/other")
    assert await balance(bedside) == 429_999
    assert await balance(bedside, at=zulu(before)) == 500_000
    await book(bedside, "return", 29.999)
    await book(bedside, "destroy", 400, witness="Practitioner/other", form41="F41-1")
    assert await balance(bedside) == 0
    inventory = await call(bedside, "substance-inventory", at=zulu(before))
    (vial,) = [one["part"] for one in inventory["parameter"] if one["name"] == "vial"]
    assert {"name": "expires", "valueDate": "2027-12-31"} in vial
    log = await call(bedside, "substance-log")
    kinds = [next(part["valueCode"] for part in one["part"] if part["name"] == "kind") for one in log["parameter"]]
    assert kinds == ["receive", "open", "administer", "waste", "return", "destroy"]
    given = {part["name"]: part for part in log["parameter"][2]["part"]}
    assert given["patient"]["valueReference"] == about(bedside.who)
    assert await investigations(bedside) == []


@pytest.mark.parametrize(
    ("kind", "amount", "more", "rule"),
    [
        ("waste", 501, {"witness": "Practitioner/other"}, "C-BALANCE"),
        ("waste", 1, {"witness": "Practitioner/nurse"}, "C-WITNESS"),
        ("receive", 500, {}, "C-RECEIVED"),
        ("open", None, {"vial": "V2"}, "C-RECEIVED"),
        ("administer", 1, {"administration": "MedicationAdministration/none"}, "C-DOSE"),
        ("adjust", -501, {"witness": "Practitioner/other", "note": "spilt"}, "C-BALANCE"),
    ],
)
async def test_what_cannot_be_is_not_booked(bedside, kind, amount, more, rule):
    await book(bedside, "receive", 500)
    with pytest.raises(Unprocessable) as error:
        await book(bedside, kind, amount, **more)
    assert rules_of(error) == {rule}
    assert await balance(bedside) == 500_000


@pytest.mark.parametrize(
    ("kind", "amount", "more"),
    [
        ("waste", 1, {}),
        ("destroy", 1, {"witness": "Practitioner/other"}),
        ("adjust", 1, {"witness": "Practitioner/other"}),
        ("administer", 1, {}),
        ("receive", -1, {}),
        ("receive", 0, {}),
        ("receive", 0.0001, {}),
        ("receive", 1e17, {}),
        ("burn", 1, {}),
    ],
)
async def test_an_entry_without_what_it_needs_is_refused(bedside, kind, amount, more):
    with pytest.raises(BadRequest):
        await book(bedside, kind, amount, **more)
    with pytest.raises(BadRequest):
        await book(bedside, "receive", 1, occurred=zulu(bedside.clock.now + timedelta(minutes=5)))


async def test_a_count_that_differs_is_booked_and_investigated(bedside):
    await book(bedside, "receive", 500)
    await book(bedside, "count", 500)
    assert await investigations(bedside) == []
    await book(bedside, "count", 480)
    assert await balance(bedside) == 480_000
    (task,) = await investigations(bedside)
    assert "counted 480000 micrograms, 500000 by the ledger" in task["description"]


async def test_the_rest_of_a_dose_that_was_corrected_to_more_is_booked_out_of_its_vial_and_no_entry_counts_twice(
    bedside,
):
    reference = await given_dose(bedside, 60)
    await book(bedside, "receive", 500)
    await book(bedside, "administer", 60, administration=reference)
    with pytest.raises(Unprocessable) as error:
        await book(bedside, "administer", 60, administration=reference)
    assert rules_of(error) == {"C-DOSE"}
    dose = await bedside.sessions.get(*reference.split("/"))
    dosage = {**dose["dosage"], "dose": milligrams(70)}
    await bedside.sessions.update({**dose, "status": "completed", "dosage": dosage})
    await book(bedside, "administer", 10, administration=reference)
    assert await balance(bedside) == 430_000
    assert await investigations(bedside) == []


async def test_nothing_is_booked_out_of_a_vial_before_it_came_in_nor_so_that_it_had_held_less_than_nothing(bedside):
    came = bedside.clock.now
    for minutes, kind, amount in ((0, "receive", 100), (60, "waste", 90)):
        bedside.clock.now = came + timedelta(minutes=minutes)
        await book(bedside, kind, amount, **({"witness": "Practitioner/other"} if kind == "waste" else {}))
    for minutes, rule in ((-1, "C-RECEIVED"), (30, "C-BALANCE")):
        at = zulu(came + timedelta(minutes=minutes))
        with pytest.raises(Unprocessable) as error:
            await book(bedside, "waste", 20, witness="Practitioner/other", occurred=at)
        assert rules_of(error) == {rule}
    assert await balance(bedside) == 10_000


async def test_a_count_of_an_earlier_hour_is_held_against_what_the_vial_held_then(bedside):
    await book(bedside, "receive", 100)
    bedside.clock.forward(minutes=10)
    counted = zulu(bedside.clock.now)
    bedside.clock.forward(minutes=10)
    await book(bedside, "waste", 30, witness="Practitioner/other")
    await book(bedside, "count", 100, occurred=counted)
    assert await investigations(bedside) == []
    assert await balance(bedside) == 70_000


async def test_a_count_of_an_earlier_hour_is_recorded_where_more_was_booked_out_since_than_there_was(bedside):
    await book(bedside, "receive", 100)
    bedside.clock.forward(minutes=10)
    counted = zulu(bedside.clock.now)
    bedside.clock.forward(minutes=10)
    await book(bedside, "waste", 80, witness="Practitioner/other")
    await book(bedside, "count", 70, occurred=counted)
    assert await balance(bedside, at=counted) == 70_000
    assert await balance(bedside) == -10_000
    (task,) = await investigations(bedside)
    assert "counted 70000 micrograms, 100000 by the ledger; 10000 more were booked out since" in task["description"]
    with pytest.raises(Unprocessable) as error:
        await book(bedside, "waste", 1, witness="Practitioner/other")
    assert rules_of(error) == {"C-BALANCE"}
    await book(bedside, "open")
    bedside.clock.forward(minutes=1)
    await book(bedside, "count", 5)
    await book(bedside, "waste", 5, witness="Practitioner/other")
    assert await balance(bedside) == 0


async def test_more_booked_out_for_a_dose_than_was_given_is_investigated(bedside):
    dose = await given_dose(bedside)
    await book(bedside, "receive", 500)
    await book(bedside, "administer", 80, administration=dose)
    (task,) = await investigations(bedside)
    assert "80000 micrograms booked out" in task["description"]


async def test_the_ledger_balances_under_concurrency_and_is_never_overdrawn(bedside):
    await book(bedside, "receive", 10)
    bookings = [book(bedside, "waste", 3, witness="Practitioner/other") for _ in range(8)]
    done = await asyncio.gather(*bookings, return_exceptions=True)
    refused = [one for one in done if isinstance(one, Unprocessable)]
    assert len(done) - len(refused) == 3
    assert await balance(bedside) == 1_000
    log = await call(bedside, "substance-log")
    balances = []
    for one in log["parameter"]:
        parts = {part["name"]: part for part in one["part"]}
        change, left = parts["change"]["valueQuantity"]["value"], parts["balance"]["valueQuantity"]["value"]
        assert left == (balances[-1] if balances else 0) + change
        balances.append(left)
    assert min(balances) >= 0


async def test_the_ledger_is_append_only(bedside):
    await book(bedside, "receive", 10)
    for statement in ("UPDATE substance_event SET note = 'x'", "DELETE FROM substance_event"):
        async with bedside.sessions.record("none") as record:
            with pytest.raises(asyncpg.RaiseError, match="append-only"):
                await record.transaction.connection.execute(statement)
            await record.transaction.connection.execute("ROLLBACK")
            await record.transaction.connection.execute("BEGIN")
    assert await balance(bedside) == 10_000
