"""Timers of several clinics: none waits for another's trouble, and what is counted is counted of all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY

from shared.fhir.outcome import Unavailable
from shared.runtime.escalation import Escalation
from shared.runtime.policy import load_policy
from shared.runtime.timers import Timer, TimerFailed, run_once

NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
SERVICE = SimpleNamespace(name="sessions")


class Clinics:
    """A store of three clinics."""

    async def tenants(self):
        return ["east", "north", "south"]


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (ValueError("what is in north's data"), TimerFailed, "clinic north: ValueError"),
        (Unavailable("late"), Unavailable, "late"),
    ],
)
async def test_one_clinics_failure_stops_the_timers_of_no_other_clinic(error, raised, said):
    ran = []

    async def run(one):
        ran.append(one.tenant)
        if one.tenant == "north":
            raise error

    with pytest.raises(raised, match=said) as told:
        await run_once(Timer("climb", timedelta(seconds=1), run), SERVICE, Clinics(), NOW, lambda: None)
    assert ran == ["east", "north", "south"]
    assert "what is in" not in str(told.value)


async def test_escalations_that_nobody_has_taken_are_counted_of_all_clinics():
    escalation = Escalation.of(load_policy())
    held = {"east": 2, "north": 1, "south": 0}

    class Of:
        service, now = SERVICE, NOW

        def __init__(self, tenant):
            self.tenant = tenant

        async def search(self, _type, _criteria):
            return [{"resourceType": "Task", "status": "requested"}] * held[self.tenant]

        async def each(self, _found, _work):
            pass

    def counted():
        return REGISTRY.get_sample_value("kap_escalations_unacknowledged", {"service": "sessions"})

    for tenant in held:
        await escalation.climb(Of(tenant))
    assert counted() == 3
    held["east"] = 0
    await escalation.climb(Of("east"))
    assert counted() == 1
