"""The clinical services on a real database, driven through `Record`, with a clock that tests set."""

from __future__ import annotations

import pytest
import pytest_asyncio

from services.intake.service import intake as intake_service
from services.sessions.service import sessions as sessions_service
from shared.runtime.policy import load_policy
from tests.integration.services.bedside import Bedside
from tests.integration.services.course import START, Bench, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest_asyncio.fixture
async def bench(make_database, clock):
    """Opens services, each on a database of its own."""
    opened = Bench(make_database, clock, load_policy())
    try:
        yield opened
    finally:
        await opened.close()


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
