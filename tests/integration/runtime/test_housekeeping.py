"""The tables of events stay small: what has served is forgotten after its time, what has not stays."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from shared.events.shards import SHARDS
from shared.events.topics import RETENTION_MS
from shared.fhir.outcome import Unavailable
from shared.runtime.housekeeping import Housekeeping
from shared.runtime.settings import Settings
from shared.store.access import Access
from shared.store.outbox import open_outbox
from shared.testing.writes import write_of

ALL = Access.unrestricted()
SOON = datetime.now(UTC) + timedelta(days=1)
AT_ONCE = timedelta(seconds=-1)


async def written(store, count):
    for number in range(count):
        await store.write(ALL, write_of({"resourceType": "Patient", "id": f"p{number}"}))
    return [event async for event in store.replay.events_since()]


async def publish(database, events):
    outbox = await open_outbox(database, service="intake")
    await outbox.acquire(SHARDS)
    await outbox.mark_published(events)
    await outbox.close()


def pruned(service, table):
    return REGISTRY.get_sample_value("kap_pruned_rows_total", {"service": service, "table": table})


async def test_published_events_are_forgotten_a_few_at_a_time_and_unpublished_ones_never(store, database):
    events = await written(store, 7)
    await publish(database, [*events[:2], *events[4:]])
    first, second, third = [events[at].sequence for at in (2, 5, 6)]
    assert await store.pruning.outbox(SOON, rows=3) == (2, first)
    assert await store.pruning.outbox(SOON, after=first, rows=3) == (2, second)
    assert await store.pruning.outbox(SOON, after=second, rows=3) == (1, third)
    assert await store.pruning.outbox(SOON, after=third, rows=3) == (0, None)
    counts = await store.verify.outbox()
    assert (counts.written, counts.pending) == (7, 2)
    assert [event async for event in store.replay.events_since()] == events


async def test_what_is_younger_than_its_time_stays(store, database):
    events = await written(store, 3)
    await publish(database, events)
    async with store.transaction(keys=[events[0].key], tenant=events[0].tenant) as transaction:
        await transaction.take_in("sessions", events[0])
    week = timedelta(days=7)
    await Housekeeping("young", store.pruning, outbox=week, inbox=week).once()
    assert (pruned("young", "outbox"), pruned("young", "inbox")) == (0, 0)
    assert len(await store.verify.latencies(SOON - timedelta(days=2))) == 2


async def test_a_round_forgets_all_that_is_old_counts_it_and_leaves_the_positions(store, database):
    events = await written(store, 5)
    await publish(database, events)
    async with store.transaction(keys=[event.key for event in events], tenant="default") as transaction:
        await transaction.take_in_many("sessions", events)
    beats = []
    await Housekeeping("old", store.pruning, outbox=AT_ONCE, inbox=AT_ONCE).once(lambda: beats.append(1))
    assert (pruned("old", "outbox"), pruned("old", "inbox")) == (5, 5)
    assert beats
    assert await store.verify.inbox() == []
    assert await store.inbox.position("sessions", "intake", "default", events[4].key) == events[4].sequence
    assert await store.pruning.inbox(SOON) == 0


async def test_an_outage_of_the_database_does_not_end_the_housekeeping(store):
    keeping, beaten = Housekeeping("away", store.pruning, outbox=AT_ONCE, inbox=AT_ONCE), asyncio.Event()
    await store.close()
    with pytest.raises(Unavailable):
        await keeping.once()
    task = asyncio.create_task(keeping.run(beaten.set))
    await asyncio.wait_for(beaten.wait(), 5)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_the_inbox_remembers_longer_than_kafka_can_repeat():
    days = timedelta(milliseconds=RETENTION_MS).days
    given = {"service": "intake", "database_url": "postgresql://one", "no_auth": True}
    assert Settings(**given).inbox_days > days
    with pytest.raises(ValueError, match="inbox_days"):
        Settings(**given, inbox_days=days)
