"""Timers: one process at a time, at their period, also after a restart; a failing one is seen, and holds up none."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from shared.fhir.extraction import extract
from shared.fhir.json import parse
from shared.fhir.outcome import Unavailable
from shared.runtime.app import App
from shared.runtime.record import open_record
from shared.runtime.running import opened, tasks_running
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.runtime.timers import Timer, TimerFailed, TimerTask, run_once
from shared.store.access import Access
from shared.store.store import Store
from shared.store.timers import TimerLocks

ALL = Access.unrestricted()
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SERVICE = Service(name="intake", title="Plain", types=frozenset(("Patient",)))


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
async def locks(database):
    made = [TimerLocks(database, "intake") for _ in range(2)]
    yield made
    for one in made:
        await one.close()


async def patients(store, count):
    made = []
    for number in range(count):
        async with open_record(SERVICE, store, ALL, keys=[f"Patient/{number}"]) as record:
            made.append(await record.create({"resourceType": "Patient", "active": False, "gender": "other"}))
    return [one.stored.id for one in made]


async def activate(one):
    async def work(patient, record):
        await record.update({**patient, "active": True})

    await one.each(await one.search("Patient", {"active": "false"}), work)


async def test_a_timer_runs_at_its_period_and_remembers_it_over_a_restart(store, locks):
    ran, clock = [], Clock()

    async def run(one):
        ran.append(one.now)

    timer = Timer("tick", MINUTE, run)
    await patients(store, 1)
    assert await TimerTask(timer, SERVICE, store, locks[0], clock).once()
    assert not await TimerTask(timer, SERVICE, store, locks[1], clock).once()
    clock.now += MINUTE - timedelta(seconds=1)
    assert not await TimerTask(timer, SERVICE, store, locks[1], clock).once()
    clock.now += timedelta(seconds=1)
    assert await TimerTask(timer, SERVICE, store, locks[1], clock).once()
    assert ran == [NOW, NOW + MINUTE]
    last = await store.timers.last("tick")
    assert (last.started_at, last.succeeded_at, last.failures, last.error) == (NOW + MINUTE, NOW + MINUTE, 0, None)


async def test_a_clock_that_was_set_back_does_not_stop_a_timer(store, locks):
    clock = Clock()

    async def run(one):
        pass

    task = TimerTask(Timer("back", MINUTE, run), SERVICE, store, locks[0], clock)
    assert await task.once()
    clock.now -= timedelta(days=1)
    assert await task.once()


async def test_a_timer_is_run_by_one_process_at_a_time_and_by_another_when_that_one_dies(store, database, locks):
    began, go, ran = asyncio.Event(), asyncio.Event(), []

    async def run(one):
        ran.append(1)
        began.set()
        await go.wait()

    timer = Timer("alone", timedelta(0), run)
    await patients(store, 1)
    first = asyncio.create_task(TimerTask(timer, SERVICE, store, locks[0]).once())
    await began.wait()
    second = TimerTask(timer, SERVICE, store, locks[1])
    assert not await second.once()
    await locks[0].close()  # as when its process is killed: the session ends
    go.set()
    for _ in range(500):  # the server notices the end of a session in its own time
        if await second.once():
            break
        await asyncio.sleep(0.01)
    assert len(ran) == 2
    await first


async def test_what_a_timer_writes_goes_through_the_record_and_becomes_events(store):
    made = await patients(store, 3)
    await run_once(Timer("write", MINUTE, activate), SERVICE, store, NOW, lambda: None)
    events = [event async for event in store.replay.events_since()]
    assert [event.resource_id for event in events if event.interaction == "update"] == made


async def test_a_resource_that_fails_keeps_no_other_waiting_and_is_seen(store, locks):
    made = await patients(store, 3)

    async def one_fails(one):
        async def work(patient, record):
            if patient["id"] == made[1]:
                raise ValueError("of this one")
            await record.update({**patient, "active": True})

        await one.each(await one.search("Patient", {"active": "false"}), work)

    timer = Timer("fails", timedelta(0), one_fails)
    with pytest.raises(TimerFailed, match=f"Patient/{made[1]}: ValueError"):
        await run_once(timer, SERVICE, store, NOW, lambda: None)
    task = TimerTask(timer, SERVICE, store, locks[0])
    assert task.trouble() is None
    for _ in range(2):
        await task.once()
    assert "2 runs in a row failed, the last by TimerFailed" in task.trouble()
    labels = {"service": "intake", "timer": "fails"}
    assert REGISTRY.get_sample_value("kap_timer_failures_total", labels) == 2
    assert REGISTRY.get_sample_value("kap_timer_failing", labels) == 2
    assert REGISTRY.get_sample_value("kap_timer_duration_seconds_count", labels) == 2
    last = await store.timers.last("fails")
    assert (last.failures, last.error, last.succeeded_at) == (2, "TimerFailed", None)
    held = [(await store.find(ALL, "Patient", id_)).body for id_ in made]
    assert [b'"active":true' in body for body in held] == [True, False, True]


async def test_copies_of_other_services_resources_are_not_a_timers_to_change(store, make_database):
    await patients(store, 1)
    other = await Store.connect(make_database("other"), service="sessions")
    seen = []

    async def look(one):
        seen.append(await one.search("Patient", {}))

    try:
        async for event in store.replay.events_since():
            async with other.transaction(keys=[event.key], tenant=event.tenant) as transaction:
                await transaction.apply_copy(event, extract(parse(event.body)), None)
        await run_once(Timer("look", MINUTE, look), replace(SERVICE, name="sessions"), other, NOW, lambda: None)
    finally:
        await other.close()
    assert seen == [[]]


async def test_an_outage_of_the_database_is_no_end_of_a_timer(store, locks):
    task = TimerTask(Timer("away", timedelta(0), activate), SERVICE, store, locks[0])
    await store.close()
    with pytest.raises(Unavailable):
        await task.once()
    running = asyncio.create_task(task.run())
    await asyncio.sleep(0.05)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_worker_runs_the_timers_of_its_service_and_livez_names_a_failing_one(database):
    ran, failed_once, failed = asyncio.Event(), asyncio.Event(), []

    async def good(one):
        ran.set()

    async def bad(one):
        if failed:
            failed_once.set()
        failed.append(1)
        raise ValueError

    timers = (Timer("good", timedelta(seconds=0.05), good), Timer("bad", timedelta(seconds=0.05), bad))
    settings = Settings(
        service="intake", database_url=SecretStr(database), kafka_bootstrap="127.0.0.1:1", port=0, no_auth=True
    )

    async def trouble(http):
        return {name: task.get("trouble") for name, task in (await http.get("/livez")).json()["tasks"].items()}

    app = App(replace(SERVICE, timers=timers), settings)
    async with (
        opened(app) as service,
        tasks_running(service),
        httpx.AsyncClient(transport=httpx.ASGITransport(service.asgi), base_url="http://kap.example") as http,
    ):
        await http.post("/fhir/Patient", json={"resourceType": "Patient", "active": True})
        async with asyncio.timeout(10):
            await ran.wait()
            await failed_once.wait()
        told = await trouble(http)
        assert "TimerFailed" in told["timer bad"]
        assert told["timer good"] is None
        assert (await http.get("/livez")).status_code == 200
