"""The clinical services on a real database, driven through `Record`, with a clock that tests set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.intake.service import intake as intake_service
from services.scheduling.service import scheduling as scheduling_service
from services.sessions.service import sessions as sessions_service
from shared.fhir.dates import zulu
from shared.runtime.policy import load_policy
from tests.integration.services.at_scheduling import schedule
from tests.integration.services.bedside import Bedside, pre_dose
from tests.integration.services.course import START, Bench, Clock
from tests.integration.services.emitted import KEPT_IN, Emitted
from tests.integration.services.three_services import booked


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture(scope="session")
def emitted() -> Iterator[Emitted]:
    """What the services of all tests emitted so far; at the end it is kept in a folder where one is named."""
    made = Emitted()
    yield made
    if folder := os.environ.get(KEPT_IN):
        made.keep(Path(folder))


@pytest_asyncio.fixture
async def bench(make_database, clock, emitted):
    """Opens services, each on a database of its own."""
    opened = Bench(make_database, clock, load_policy())
    try:
        yield opened
        lacks = [said for one in opened.opened for said in await emitted.gather(one)]
    finally:
        await opened.close()
    assert lacks == [], "what was emitted does not hold its US Core profile"


@pytest_asyncio.fixture
async def intake(bench):
    """Intake alone."""
    return await bench.open(intake_service)


@pytest_asyncio.fixture
async def bedside(bench, clock):
    """A dosing visit in progress, on sessions alone."""
    at = Bedside(await bench.open(sessions_service), clock)
    await at.begin()
    return at


@pytest_asyncio.fixture
async def scheduling(bench):
    return await bench.open(scheduling_service)


@pytest_asyncio.fixture
async def clinic(scheduling):
    """Scheduling with two therapists, a monitor, a prescriber and three rooms."""
    long = {"hours": (("08:00:00", "18:00:00"),)}
    for name in ("t1", "t2"):
        await scheduling.create(schedule(f"Practitioner/{name}", "therapist", **long))
    await scheduling.create(schedule("Practitioner/m", "monitor", **long))
    await scheduling.create(schedule("Practitioner/d", "prescriber"))
    for name in ("r1", "r2", "r3"):
        await scheduling.create(schedule(f"Location/{name}", "room", **long))
    return scheduling


@pytest_asyncio.fixture
async def sessions(bench):
    return await bench.open(sessions_service)


@pytest_asyncio.fixture
async def at_bedside(bench, clock, intake, scheduling, sessions):
    """Return patient, consent, order and a dosing visit in progress, as three services made them."""
    who, signed, ordered, _, visit = await booked(bench, clock, intake, scheduling, sessions)
    visit = await sessions.update({**visit, "status": "arrived"})
    visit = await sessions.update({**visit, "status": "in-progress", "period": {"start": zulu(clock.now)}})
    clock.forward(minutes=10)
    await sessions.create(pre_dose(who, visit, zulu(clock.now)))
    return who, signed, ordered, visit
