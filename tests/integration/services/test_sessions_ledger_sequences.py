"""However bookings meet, the ledger of controlled substances balances to the microgram at any instant, and its reports
say what it holds: entries of several writers at once, of now and of an earlier hour, on the same vials; doses that are
booked out of them, out of several, and corrected while they are booked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.outcome import Unprocessable
from shared.runtime.policy import load_policy
from tests.integration.services.bedside import Bedside
from tests.integration.services.course import START, Bench, Clock, about, milligrams
from tests.integration.services.test_sessions_substances import book, call, known

NDC = "0409-2051-05"
WITNESSED = {"waste", "destroy", "adjust"}
DOSES = {"administer": 0, "administer another": 1}
"""Kinds of bookings that are of a dose, and of which."""
GIVEN = (100, 500_000)
"""What the two doses are at first, in micrograms."""
BOOKING = st.tuples(
    st.sampled_from(
        [
            *("receive", "open", "waste", "waste", "destroy", "return", "count", "count", "adjust"),
            *("administer", "administer", "administer", "administer another", "correct", "correct"),
        ]
    ),
    st.sampled_from(["V1", "V2"]),
    st.one_of(st.integers(1, 400), st.sampled_from([1, 100_000, 500_000, 500_001])),  # micrograms
    st.sampled_from([0, 0, 1, 30]),  # minutes ago
)
STEP = st.one_of(st.lists(BOOKING, min_size=1, max_size=5), st.integers(1, 20))
"""Bookings that are made at once; or minutes that pass."""


@dataclass(frozen=True)
class Line:
    """An entry as the dispensing log says it."""

    id: str
    kind: str
    vial: str
    change: int
    balance: int
    occurred: datetime
    performer: str
    witness: str | None
    dose: str | None

    @classmethod
    def of(cls, told: dict[str, Any]) -> Line:
        said = {one["name"]: next(value for name, value in one.items() if name != "name") for one in told["part"]}
        return cls(
            said["id"], said["kind"], said["vial"], int(said["change"]["value"]), int(said["balance"]["value"]),
            interval(said["occurred"])[0], said["performer"]["reference"], said.get("witness", {}).get("reference"),
            said.get("administration", {}).get("reference"),
        )  # fmt: skip


async def log(at: Bedside, **within: str) -> list[Line]:
    return [Line.of(one) for one in (await call(at, "substance-log", **within)).get("parameter", [])]


def held(lines: list[Line], vial: str, when: datetime) -> int | None:
    """Add up what a vial held at an instant; None: it had not come in."""
    changes = [one.change for one in lines if one.vial == vial and one.occurred <= when]
    return sum(changes) if changes else None


def out_of(lines: list[Line], dose: str) -> int:
    """Add up what was booked out for a dose."""
    return -sum(one.change for one in lines if one.dose == dose)


def may_be_booked(
    lines: list[Line], kind: str, vial: str, amount: int, when: datetime, dose: tuple[str, int] | None = None
) -> bool:
    """Tell by a model of its own whether an entry is one that can have been; `dose`: which it is of, and how much."""
    again = dose is not None and any(one.dose == dose[0] and one.vial == vial for one in lines)
    if dose is not None and again and out_of(lines, dose[0]) + amount > dose[1]:
        return False
    there = held(lines, vial, when)
    if kind == "receive":
        return not any(one.vial == vial for one in lines)
    if there is None:
        return False
    change = {"open": 0, "adjust": amount}.get(kind, -amount)
    if kind == "count" or change >= 0:  # what is counted is a fact, whatever was booked out after it
        return True
    later = [when, *(one.occurred for one in lines if one.vial == vial and one.occurred >= when)]
    return all((held(lines, vial, one) or 0) + change >= 0 for one in later)


async def given_to(at: Bedside) -> list[Resource]:
    """Return the two doses as they are on record, the one that was recorded first before the other."""
    found = await at.sessions.search("MedicationAdministration", patient=at.who["id"])
    return sorted(found, key=lambda one: str(one["note"][0]["text"]))


def micrograms(dose: Resource) -> int:
    return int(Decimal(str(dose["dosage"]["dose"]["value"])) * 1000)


def counted_less(lines: list[Line], vial: str) -> bool:
    """Tell whether somebody counted less in a vial than the ledger had: the difference is investigated."""
    return any(one.kind == "count" and one.vial == vial and one.change < 0 for one in lines)


async def booked(at: Bedside, booking: tuple[str, str, int, int]) -> Any:
    kind, vial, amount, ago = booking
    if kind == "correct" or kind in DOSES:
        dose = (await given_to(at))[DOSES.get(kind, amount % 2)]
        if kind == "correct":
            said = {**dose["dosage"], "dose": milligrams(Decimal(amount) / 1000)}
            return await at.sessions.update({**dose, "dosage": said})
        more = {"administration": about(dose)["reference"], "occurred": zulu(at.clock.now - timedelta(minutes=ago))}
        return await book(at, "administer", Decimal(amount) / 1000, vial=vial, **more)
    more = {"witness": "Practitioner/other", "form41": "F41", "note": "label torn"}
    needs = {"waste": ("witness",), "destroy": ("witness", "form41"), "adjust": ("witness", "note")}.get(kind, ())
    return await book(
        at,
        kind,
        None if kind == "open" else Decimal(amount) / 1000,
        vial=vial,
        occurred=zulu(at.clock.now - timedelta(minutes=ago)),
        **{name: more[name] for name in needs},
    )


async def play(at: Bedside, steps: list[Any], seen: Counter[str]) -> None:
    for step in steps:
        if isinstance(step, int):
            at.clock.forward(minutes=step)
            continue
        before, doses = await log(at), await given_to(at)
        answers = await asyncio.gather(*(booked(at, one) for one in step), return_exceptions=True)
        faults = [one for one in answers if isinstance(one, BaseException) and not isinstance(one, Unprocessable)]
        assert not faults
        lines = await log(at)
        entries = [one for one in answers if isinstance(one, dict) and one["resourceType"] == "Parameters"]
        made = [Line.of(one["parameter"][0]) for one in entries]
        assert sorted(one.id for one in lines) == sorted(one.id for one in (*before, *made)), "lost, or invented"
        seen["booked"] += len(made)
        seen["refused"] += sum(isinstance(one, Unprocessable) for one in answers)
        kinds = {kind for (kind, *_), answer in zip(step, answers, strict=True) if isinstance(answer, dict)}
        seen["doses"] += bool(kinds & DOSES.keys())
        seen["corrected while it is booked"] += "correct" in kinds and bool(kinds & DOSES.keys())
        seen["at once"] += len(made) > 1
        took = zip(step, answers, strict=True)
        seen["of an earlier hour"] += any(isinstance(answer, dict) and ago > 0 for (*_, ago), answer in took)
        if len(step) == 1 and step[0][0] != "correct":
            kind, vial, amount, ago = step[0]
            when = at.clock.now - timedelta(minutes=ago)
            of = doses[DOSES[kind]] if kind in DOSES else None
            dose = None if of is None else (about(of)["reference"], micrograms(of))
            may_be = may_be_booked(before, kind, vial, amount, when, dose)
            assert bool(made) == may_be, "refused what was, or booked what not"
        await doses_are_booked(at, lines)
    await balances(at, seen)


async def doses_are_booked(at: Bedside, lines: list[Line]) -> None:
    """Hold each dose against the ledger: its Task stands while less is booked than was given, more is looked into."""
    tasks = await at.sessions.search("Task", patient=at.who["id"], code=codes.BOOK_SUBSTANCE.token())
    found = await at.sessions.search("Task", code=codes.INVESTIGATE_SUBSTANCE.token())
    looked_into = {one["identifier"][0]["value"] for one in found}
    for dose in await given_to(at):
        reference = about(dose)["reference"]
        (task,) = [one for one in tasks if one["focus"]["reference"] == reference]
        out, wanted = out_of(lines, reference), micrograms(dose)
        assert (task["status"] == "completed") == (out >= wanted), "a dose that is not booked, and nobody is asked"
        if out > wanted:
            assert f"substance:differs:{reference}:{out}" in looked_into, "more is booked than was given, unseen"


async def balances(at: Bedside, seen: Counter[str]) -> None:
    """Hold every report against the entries."""
    lines = await log(at)
    for vial in ("V1", "V2"):
        left = 0
        for one in (one for one in lines if one.vial == vial):
            left += one.change
            assert one.balance == left
            assert left >= 0 or counted_less(lines, vial), "more is booked out than there was, and nobody counted"
    for one in lines:
        assert (one.witness is not None and one.witness != one.performer) == (one.kind in WITNESSED), "two signatures"
    for when in sorted({one.occurred + timedelta(seconds=by) for one in lines for by in (-1, 0, 1)}):
        there = {vial: amount for vial in ("V1", "V2") if (amount := held(lines, vial, when)) is not None}
        assert all(amount >= 0 or counted_less(lines, vial) for vial, amount in there.items())
        inventory = (await call(at, "substance-inventory", at=zulu(when))).get("parameter", [])
        said = [{part["name"]: part for part in one["part"]} for one in inventory if one["name"] == "vial"]
        told = {one["vial"]["valueString"]: int(one["balance"]["valueQuantity"]["value"]) for one in said}
        assert told == {vial: amount for vial, amount in there.items() if amount}
        products = [one["part"] for one in inventory if one["name"] == "product"]
        whole = [int(part["valueQuantity"]["value"]) for one in products for part in one if part["name"] == "balance"]
        assert sum(whole) == sum(there.values())
        seen["instants"] += 1
    for one in lines[:1]:
        some = await log(at, start=zulu(one.occurred), end=zulu(one.occurred + timedelta(minutes=5)))
        assert some == [x for x in lines if one.occurred <= x.occurred <= one.occurred + timedelta(minutes=5)]
    tasks = await at.sessions.search("Task", code=codes.INVESTIGATE_SUBSTANCE.token(), status="requested")
    asked = {one["identifier"][0]["value"].rpartition(":")[2] for one in tasks}
    mine = {one.id for one in lines}
    assert asked & mine == {one.id for one in lines if one.kind == "count" and one.change}, "a difference nobody sees"
    seen["differences"] += len(asked & mine)


def campaign(make_database: Any, examples: int, *, same: bool = False) -> None:
    loop = asyncio.new_event_loop()
    clock, seen, number = Clock(START), Counter[str](), iter(range(10**6))
    bench = Bench(make_database, clock, load_policy())
    try:
        opened = loop.run_until_complete(bench.open(sessions_service))

        @settings(max_examples=examples, deadline=None, derandomize=same, suppress_health_check=list(HealthCheck))
        @given(st.lists(STEP, min_size=3, max_size=9))
        def run(steps: list[Any]) -> None:
            at = Bedside(opened, clock, who={"resourceType": "Patient", "id": f"p{next(number)}"})
            loop.run_until_complete(emptied(at))
            loop.run_until_complete(known(at, "nurse", "other"))
            loop.run_until_complete(dosed(at))
            loop.run_until_complete(booked(at, ("receive", "V1", 500_000, 30)))
            loop.run_until_complete(play(at, steps, seen))

        run()
    finally:
        loop.run_until_complete(bench.close())
        loop.close()
    for name in ("booked", "refused", "at once", "of an earlier hour", "instants", "differences", *WITH_DOSES):
        assert seen[name], f"the campaign has to come to '{name}' to say anything: {seen}"


WITH_DOSES = ("doses", "corrected while it is booked")


async def dosed(at: Bedside) -> None:
    """Record two doses that were given: what is there to be booked."""
    for number, amount in enumerate(GIVEN):
        await at.sessions.create(
            {
                "resourceType": "MedicationAdministration",
                "status": "completed",
                "medicationCodeableConcept": codes.KETAMINE.concept(),
                "subject": about(at.who),
                "effectivePeriod": {"start": zulu(at.clock.now - timedelta(days=1))},
                "dosage": {"dose": milligrams(Decimal(amount) / 1000)},
                "note": [{"text": str(number)}],
            }
        )


async def emptied(at: Bedside) -> None:
    """Begin with no entry at all: what is append-only for everybody is emptied by its owner past its triggers."""
    async with at.sessions.record("none") as record:
        connection = record.transaction.connection
        await connection.execute("ALTER TABLE substance_event DISABLE TRIGGER USER")
        await connection.execute("DELETE FROM substance_event")
        await connection.execute("ALTER TABLE substance_event ENABLE TRIGGER USER")


def test_the_ledger_balances_at_any_instant_whoever_books_at_once(make_database):
    campaign(make_database, 40, same=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_ledger_balances_through_a_long_campaign(make_database):
    campaign(make_database, 400)
