"""`kill -9` of any one process in the middle of a dosing session, on Apache Kafka: what is right afterwards.

The state of the session, what is due and when, its alarms, the ledger, and that all of it reaches the hospital.

One stack; for each process a patient of its own with a dose that began 19.5 minutes ago. While the process is killed
readings are charted and the vial is booked, an alarming reading and a positive answer about suicide come in, and
vital signs that were due are missed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from cli.demo.client import FhirClient, Refused
from cli.demo.resources import parameters, quantity, reference
from cli.demo.visits import parts_of
from cli.stack.ports import GATEWAY
from shared.fhir.codes import ASK_CSSRS, EXPECT_QUESTIONNAIRE, EXT_ESCALATION, VITAL_ALARM, VITALS_DUE, VITALS_MISSED
from shared.fhir.json import Resource
from shared.fhir.kap import moment
from tests.e2e.kap import Kap
from tests.live import Session, publish_questionnaires

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.kafka, pytest.mark.timeout(600)]

T = TypeVar("T")

VICTIMS = (
    "sessions",
    "postgres",
    "kafka",
    *(
        pytest.param(service, marks=pytest.mark.slow)
        for service in ("gateway", "intake", "scheduling", "outcomes", "delivery")
    ),
)
"""The short form kills one of each layer."""
BETWEEN_BEDSIDE_AND_RECORD = {"gateway", "sessions", "postgres"}
"""Without these nothing can be charted; the bedside does not notice that any other is gone."""

SEEDS = {
    name: 40_000 + number
    for number, name in enumerate(
        ("sessions", "postgres", "kafka", "gateway", "intake", "scheduling", "outcomes", "delivery")
    )
}
"""Each victim has a patient and a team of its own."""
BEGAN = timedelta(minutes=19, seconds=30)
DUE = (15, 30, 45, 60, 90, 120)
"""Minutes after an injection at which vital signs are due (`policies/monitoring.yaml`); missed five minutes later."""
MISSED = timedelta(minutes=DUE[0] + 5)
A_MINUTE = timedelta(seconds=60)
RECEIVED_UG = 500_000
_ROUNDING = timedelta(seconds=2)


@pytest.fixture(scope="module")
def kap(make_stack: Callable[..., Kap]) -> Kap:
    return make_stack("--kafka", "apache")


@dataclass
class Middle:
    """A session in its middle, and all that was acknowledged to those at the bedside."""

    kap: Kap
    gateway: FhirClient
    sessions: FhirClient
    outcomes: FhirClient
    at: Session
    charted: list[str] = field(default_factory=list)
    booked: list[tuple[str, int]] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def chart(self) -> None:
        """Chart set after set, each acknowledged before the next."""
        number = 1000
        while not self.over.is_set():
            number += 1
            # Without saturation, so that none of them is the set that is due.
            made = self.at.reading(number)[:2]
            await self.at.transact(*made)
            self.charted.extend(one["identifier"][0]["value"] for one in made)
            await asyncio.sleep(0.05)

    async def keep_the_ledger(self) -> None:
        """Receive, open, give; then waste a little again and again before a witness, each time another amount."""
        dose_ug = self.at.person.sessions[0].dose_mg * 1000
        await self.book("receive", RECEIVED_UG)
        await self.book("open", 0)
        await self.book("administer", dose_ug, administration_valueReference=reference(self.at.dose_ref))
        number = 0
        while not self.over.is_set():
            number += 1
            await self.book("waste", 100 + number, witness_valueReference=reference(self.at.team.prescriber))
            await asyncio.sleep(0.1)

    async def book(self, kind: str, micrograms: int, **more: Any) -> None:
        """Book an entry of so many micrograms once, however often it must be asked for."""
        amount = {"amount_valueQuantity": quantity(Decimal(micrograms) / 1000, "mg")} if micrograms else {}
        named = parameters(
            kind_valueCode=kind,
            **self.at.vial(),
            performer_valueReference=reference(self.at.team.nurse),
            **amount,
            **more,
        )

        async def done() -> Resource | None:
            return {"is": "there"} if (kind, micrograms) in await self.ledger() else None

        await self.gateway.call_once("SupplyDelivery/$substance-book", named, done)
        self.booked.append((kind, micrograms))

    async def ledger(self) -> list[tuple[str, int]]:
        """Return the entries of the vial: kind, and by how many micrograms it changed."""
        log = await self.gateway.call("SupplyDelivery/$substance-log")
        entries = [parts_of(one) for one in log.get("parameter", [])]
        vial = self.at.vial()["vial_valueString"]
        return [(one["kind"], abs(int(one["change"]["value"]))) for one in entries if one["vial"] == vial]

    async def alarming(self, number: int) -> str:
        """Chart a heart rate beyond the limit; return the Observation."""
        _, rate, _ = self.at.reading(number, heart_rate=150)
        return (await self.at.create(rate)).reference

    async def tasks(self, code: Any, client: FhirClient | None = None) -> list[Resource]:
        """Return the patient's Tasks of a code, by the owner's own account."""
        query = {"patient": self.at.subject, "code": code.token()}
        return await (client or self.sessions).search("Task", query)

    async def eventually(self, what: str, look: Callable[[], Awaitable[T | None]], within: float = 90) -> T:
        """Look again and again until it is there."""
        deadline = time.monotonic() + within
        while True:
            found = await look()
            if found:
                return found
            assert time.monotonic() < deadline, f"{what} did not come within {within:.0f} s"
            await asyncio.sleep(0.3)


@asynccontextmanager
async def in_the_middle(kap: Kap, seed: int) -> AsyncIterator[Middle]:
    """Bring a patient to the middle of a session that goes on now."""
    fhir, auth = kap.ports.fhir, kap.auth()
    async with (
        FhirClient(fhir(GATEWAY), auth=auth) as gateway,
        FhirClient(fhir("sessions"), name="Sessions", auth=auth) as sessions,
        FhirClient(fhir("outcomes"), name="Outcomes", auth=auth) as outcomes,
    ):
        await publish_questionnaires(gateway)
        at = await Session.of_a_team_of_its_own(gateway, seed, datetime.now(UTC) - BEGAN)
        await at.until_the_dose()
        yield Middle(kap, gateway, sessions, outcomes, at)


@pytest.mark.parametrize("victim", VICTIMS)
async def test_after_a_kill_in_a_session_its_state_due_times_alarms_and_ledger_are_right(kap: Kap, victim: str) -> None:
    async with in_the_middle(kap, seed=SEEDS[victim]) as middle:
        due = due_times(await middle.tasks(VITALS_DUE))
        first = await middle.alarming(1)
        expected = await middle.eventually("the CADSS-6 that is expected", lambda: cadss6_expected(middle))
        charting = [asyncio.create_task(middle.chart()), asyncio.create_task(middle.keep_the_ledger())]
        await middle.eventually("the first entries", lambda: enough(middle, readings=8, entries=6))

        os.kill(kap.pid(victim), signal.SIGKILL)
        killed = time.monotonic()
        second = asyncio.create_task(middle.alarming(2))
        answered = asyncio.create_task(middle.at.create(middle.at.phq9(1, 1, 1, 1, 1, 1, 1, 1, 2)))
        if victim not in BETWEEN_BEDSIDE_AND_RECORD:
            await asyncio.wait_for(asyncio.shield(second), timeout=5)
            assert len(await alarms_of(middle, await second)) == 1, f"The alarm waited for {victim}."
        await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - killed)))
        await asyncio.to_thread(kap.must, "up", "--detach")
        up = datetime.now(UTC)

        readings, entries = len(middle.charted), len(middle.booked)
        await middle.eventually("charting after it", lambda: enough(middle, readings + 8, entries + 3))
        middle.over.set()
        await asyncio.gather(second, answered, *charting)

        await state_is_right(middle)
        await alarms_are_right(middle, first, await second)
        await ledger_is_right(middle)
        await due_times_are_right(middle, due, up)
        assert await cadss6_expected(middle) == expected
        await suicidality_climbs_once(middle)
        assert "Nothing is missing, nothing is doubled, nothing differs." in await asyncio.to_thread(kap.must, "verify")


async def enough(middle: Middle, readings: int, entries: int) -> bool:
    return len(middle.charted) >= readings and len(middle.booked) >= entries


# -- what must be right -----------------------------------------------------------------------------------------------


async def state_is_right(middle: Middle) -> None:
    """All that was acknowledged is there once, at its owner; the visit and the dose go on; nobody may go home yet."""
    held = await middle.sessions.search("Observation", {"encounter": middle.at.visit_ref, "_count": "1000"})
    counted = Counter(one["identifier"][0]["value"] for one in held if "identifier" in one)
    assert not [one for one in middle.charted if counted[one] != 1], "acknowledged, and lost or doubled"
    assert set(counted.values()) == {1}
    visit = await middle.sessions.read(middle.at.visit_ref)
    dose = await middle.sessions.read(middle.at.dose_ref)
    assert (visit["status"], dose["status"]) == ("in-progress", "in-progress")
    assert moment(dose["effectivePeriod"]["start"]) == middle.at.began.replace(microsecond=0)
    left = parameters(disposition_valueCode="home")
    with pytest.raises(Refused) as refused:
        await middle.gateway.call(f"{middle.at.visit_ref}/$discharge", left)
    assert "L-STAY" in refused.value.rules


async def alarms_of(middle: Middle, reading: str) -> list[str]:
    """Return the names of the alarms that a reading is in: its own, or the one that stood and took it in."""
    found = await middle.sessions.search("DetectedIssue", {"patient": middle.at.subject, "code": VITAL_ALARM.token()})
    mine = [one for one in found if {"reference": reading} in one["implicated"]]
    return [one["identifier"][0]["value"] for one in mine]


async def alarms_are_right(middle: Middle, *readings: str) -> None:
    """Each alarming reading is in one alarm, with its Flag and call; the call climbs until somebody takes it."""
    for reading in readings:
        (name,) = await alarms_of(middle, reading)
        for type_ in ("Flag", "Task"):
            held = await middle.sessions.search(type_, {"patient": middle.at.subject})
            named = [one["identifier"][0]["value"] for one in held if "identifier" in one]
            assert named.count(name) == 1, (type_, reading, named)
    call = await middle.eventually("the next step of the ladder", lambda: climbed(middle, VITAL_ALARM, middle.sessions))
    taken = {**call, "status": "accepted", "owner": reference(middle.at.team.prescriber)}
    await middle.gateway.bring(
        f"Task/{call['id']}", lambda now: None if now["status"] == "accepted" else {**now, **only_taken(taken)}
    )
    assert (await middle.sessions.read(f"Task/{call['id']}"))["status"] == "accepted"


def only_taken(task: Resource) -> Resource:
    return {name: task[name] for name in ("status", "owner")}


async def climbed(middle: Middle, code: Any, owner: FhirClient) -> Resource | None:
    """Return a Task of a code that has gone beyond its first step."""
    for one in await middle.tasks(code, owner):
        inner = next((said["extension"] for said in one["extension"] if said["url"] == EXT_ESCALATION), [])
        if next(said["valueInteger"] for said in inner if said["url"] == "step") > 1:
            return one
    return None


async def ledger_is_right(middle: Middle) -> None:
    """The ledger has each acknowledged entry once and nothing else, and the vial holds what is left."""
    entries = await middle.ledger()
    assert Counter(entries) == Counter(middle.booked)
    assert set(Counter(entries).values()) == {1}
    out = sum(amount for kind, amount in entries if kind in {"administer", "waste"})
    balance = await middle.gateway.call("SupplyDelivery/$substance-balance", parameters(**middle.at.vial()))
    assert balance["parameter"][0]["valueQuantity"]["value"] == RECEIVED_UG - out


def due_times(tasks: list[Resource]) -> dict[str, datetime]:
    """Return when vital signs are due, by the Task's id."""
    return {one["id"]: moment(one["executionPeriod"]["start"]) for one in tasks}


async def due_times_are_right(middle: Middle, before: dict[str, datetime], up: datetime) -> None:
    """What is due is due when it was, once; the missed set is called for within a minute, and a late one ends it."""
    began = middle.at.began.replace(microsecond=0)
    tasks = await middle.tasks(VITALS_DUE)
    assert due_times(tasks) == before
    assert sorted(before.values()) == [began + timedelta(minutes=minute) for minute in DUE]

    (call,) = await middle.eventually("the call for the missed set", lambda: middle.tasks(VITALS_MISSED))
    raised = moment(call["authoredOn"])
    assert began + MISSED <= raised + _ROUNDING
    assert raised <= max(began + MISSED, up) + A_MINUTE

    await middle.at.transact(*middle.at.reading(3000))
    by_time = {moment(one["executionPeriod"]["start"]): one for one in await middle.tasks(VITALS_DUE)}
    done = by_time.pop(began + timedelta(minutes=DUE[0]))
    assert (done["status"], done["businessStatus"]["text"]) == ("completed", "charted late")
    assert {one["status"] for one in by_time.values()} == {"requested"}
    (call,) = await middle.tasks(VITALS_MISSED)
    assert call["status"] == "completed"


async def cadss6_expected(middle: Middle) -> dict[str, str] | None:
    """Return what the dose made outcomes expect: by its identifier, when it is due; None: nothing yet."""
    found = [
        one
        for one in await middle.tasks(EXPECT_QUESTIONNAIRE, middle.outcomes)
        if "-dose:" in one["identifier"][0]["value"]
    ]
    return {one["identifier"][0]["value"]: one["restriction"]["period"]["end"] for one in found} or None


async def suicidality_climbs_once(middle: Middle) -> None:
    """The positive answer calls once, and climbs."""
    (asked,) = await middle.tasks(ASK_CSSRS, middle.outcomes)
    assert asked["priority"] == "stat"
    await middle.eventually("the next step after item 9", lambda: climbed(middle, ASK_CSSRS, middle.outcomes))
