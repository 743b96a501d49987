from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from shared.events.envelope import Event
from shared.events.shards import SHARDS, shard_of
from shared.fhir.extraction import extract
from shared.fhir.history import HistoryQuery
from shared.fhir.ids import subject_uuid
from shared.fhir.json import dump
from shared.fhir.outcome import Conflict, Gone, NotFound
from shared.fhir.query import parse_search
from shared.store.access import Access
from shared.store.outbox import LostShard, open_outbox
from shared.store.store import Store
from shared.testing.writes import write_of

ALL = Access.unrestricted()
WORKER = "scheduling"


def patient(id_: str, **more):
    return {"resourceType": "Patient", "id": id_, **more}


def event(id_: str, version: int, *, sequence: int | None = None, source: str = "intake", **more) -> Event:
    """An event of Patient/`id_`; `interaction` may be given, the rest is of the resource."""
    interaction = more.pop("interaction", "update" if version > 1 else "create")
    key = f"Patient/{id_}"
    return Event(
        id=f"{key}/{version}",
        source=source,
        interaction=interaction,
        type="Patient",
        resource_id=id_,
        version=version,
        time=datetime(2026, 11, 22, 10, 0, version, 123000, tzinfo=UTC),
        tenant="default",
        key=key,
        shard=shard_of("default", key),
        sequence=version if sequence is None else sequence,
        body=dump({**patient(id_), "meta": {"versionId": str(version)}, **more}),
        labels=("R",),
        request_id="r1",
        traceparent="00-1",
    )


async def apply(store: Store, one: Event) -> bool:
    """What a consumer does with an event; False for a repeat."""
    async with store.transaction(keys=[one.key], tenant=one.tenant) as transaction:
        if not await transaction.take_in(WORKER, one):
            return False
        resource = {"resourceType": "Patient"} if one.interaction == "delete" else patient(one.resource_id, active=True)
        await transaction.apply_copy(one, extract(resource), subject_uuid(one.resource_id))
        return True


# Out


async def test_an_event_is_the_committed_change(store: Store, database: str):
    written = await store.write(ALL, write_of(patient("p1", meta={"security": [{"code": "R"}]})))
    outbox = await open_outbox(database, service="intake")
    try:
        assert await outbox.unpublished(10) == []
        assert await outbox.acquire(SHARDS) == set(range(SHARDS))
        [published] = await outbox.unpublished(10)
        assert published == Event(
            id="Patient/p1/1",
            source="intake",
            interaction="create",
            type="Patient",
            resource_id="p1",
            version=1,
            time=written.stored.last_updated,
            tenant="default",
            key="Patient/p1",
            shard=shard_of("default", "Patient/p1"),
            sequence=written.sequence,
            body=written.stored.body,
            labels=("R",),
            request_id="test",
        )
        assert [one async for one in store.replay.events_since()] == [published]
        await outbox.mark_published([published])
        assert await outbox.unpublished(10) == []
        counts = await store.verify.outbox()
        assert (counts.written, counts.published, counts.pending, counts.oldest_seconds) == (1, 1, 0, None)
        [latency] = await store.verify.latencies(datetime(2020, 1, 1, tzinfo=UTC))
        assert (latency.hop, latency.count) == ("published", 1)
        assert await store.pruning.outbox(datetime.now(UTC) + timedelta(seconds=1)) == (1, written.sequence)
        assert (await store.verify.outbox()).written == 1
    finally:
        await outbox.close()


async def test_a_shard_has_one_holder_and_is_free_when_its_session_ends(database: str):
    first = await open_outbox(database, service="intake")
    second = await open_outbox(database, service="intake")
    try:
        held = await first.acquire(10)
        assert len(held) == 10
        assert await second.acquire(SHARDS) == set(range(SHARDS)) - held
        first._connection.terminate()
        for _ in range(100):
            if await second.acquire(SHARDS) == set(range(SHARDS)):
                break
            await asyncio.sleep(0.02)
        assert second.held() == set(range(SHARDS))
    finally:
        await first.close()
        await second.close()


async def test_who_lost_a_shard_cannot_mark_its_events(store: Store, database: str):
    await store.write(ALL, write_of(patient("p1")))
    outbox = await open_outbox(database, service="intake")
    try:
        await outbox.acquire(SHARDS)
        events = await outbox.unpublished(10)
        await outbox._connection.execute("SELECT pg_advisory_unlock_all()")
        with pytest.raises(LostShard):
            await outbox.mark_published(events)
        assert outbox.held() == set()
        assert (await store.verify.outbox()).pending == 1
    finally:
        await outbox.close()


async def test_a_sleeping_relay_is_woken_by_a_commit(store: Store, database: str):
    outbox = await open_outbox(database, service="intake")
    try:
        await outbox.acquire(SHARDS)
        for number, transacted in enumerate((False, True)):
            sleeper = asyncio.create_task(outbox.wait(20))
            await asyncio.sleep(0.2)
            assert not sleeper.done()
            begun = asyncio.get_running_loop().time()
            if transacted:
                async with store.transaction(keys=[], tenant="default") as transaction:
                    await transaction.write(ALL, write_of(patient(f"p{number}")))
            else:
                await store.write(ALL, write_of(patient(f"p{number}")))
            await sleeper
            assert asyncio.get_running_loop().time() - begun < 1
            events = await outbox.unpublished(10)
            assert len(events) == 1
            await outbox.mark_published(events)
        assert await asyncio.wait_for(outbox.wait(0.1), 5) is None
    finally:
        await outbox.close()


async def test_replay_starts_from_a_sequence_a_time_or_a_key(store: Store):
    for number in range(7):
        await store.write(ALL, write_of(patient(f"p{number % 2}", active=True), "update"))
    everything = [one async for one in store.replay.events_since()]
    assert [one.sequence for one in everything] == list(range(1, 8))
    assert [one async for one in store.replay.events_since(sequence=5)] == everything[5:]
    assert [one async for one in store.replay.events_since(time=everything[3].time)] == everything[3:]
    assert [one async for one in store.replay.events_since(key="Patient/p1")] == everything[1::2]
    assert [one async for one in store.replay.events_since(tenant="elsewhere")] == []


# In


async def test_a_repeated_event_is_taken_in_once(store: Store):
    assert await apply(store, event("p1", 1))
    assert not await apply(store, event("p1", 1))
    [counts] = await store.verify.inbox()
    assert (counts.consumer, counts.source, counts.applied) == (WORKER, "intake", 1)


async def test_a_copy_is_kept_to_the_byte_and_belongs_to_its_owner(store: Store):
    one = event("p1", 1, active=True)
    await apply(store, one)
    held = await store.read(ALL, "Patient", "p1")
    assert (held.body, held.version, held.last_updated, held.origin) == (one.body, 1, one.time, "intake")
    assert (await store.verify.outbox()).pending == 0


async def test_an_older_version_that_arrives_late_goes_into_history_only(store: Store):
    source = "sessions"
    assert await apply(store, event("p1", 3, source=source))
    assert await apply(store, event("p1", 1, source=source))
    assert await apply(store, event("p1", 2, source=source, interaction="delete"))
    assert (await store.read(ALL, "Patient", "p1")).version == 3
    page = await store.history(ALL, HistoryQuery("Patient", "p1"))
    assert [entry.version for entry in page.entries] == [3, 2, 1]
    found = await store.search(ALL, parse_search("Patient", [("active", "true")], strict=True))
    assert [entry.version for entry in found.entries] == [3]
    assert await store.inbox.position(WORKER, source, "default", "Patient/p1") == 3


async def test_a_copied_deletion_removes_and_a_later_version_brings_back(store: Store):
    active = parse_search("Patient", [("active", "true")], strict=True)
    source = "sessions"
    await apply(store, event("p1", 1, source=source))
    await apply(store, event("p1", 2, source=source, interaction="delete"))
    with pytest.raises(Gone):
        await store.read(ALL, "Patient", "p1")
    assert (await store.search(ALL, active)).entries == []
    await apply(store, event("p1", 3, source=source))
    assert len((await store.search(ALL, active)).entries) == 1


async def test_a_copy_never_replaces_what_belongs_to_another_service(store: Store):
    await store.write(ALL, write_of(patient("p1")))
    with pytest.raises(Conflict):
        await apply(store, event("p1", 2, source="sessions"))
    assert await store.inbox.position(WORKER, "sessions", "default", "Patient/p1") == 0


async def test_an_owner_waits_until_its_inbox_has_reached_a_position(store: Store):
    async def later() -> None:
        await asyncio.sleep(0.1)
        await apply(store, event("p1", 1, sequence=41))

    task = asyncio.create_task(later())
    assert await store.inbox.await_position(WORKER, "intake", "default", "Patient/p1", 41, timeout=5)
    assert not await store.inbox.await_position(WORKER, "intake", "default", "Patient/p1", 42, timeout=0.05)
    await task
    assert await store.pruning.inbox(datetime.now(UTC) + timedelta(seconds=1)) == 1
    assert await store.inbox.position(WORKER, "intake", "default", "Patient/p1") == 41


# Set aside


async def park(store: Store, one: Event, error: str) -> None:
    async with store.transaction(keys=[one.key], tenant=one.tenant) as transaction:
        await transaction.park(WORKER, one, topic="kap.intake.v1", partition=3, offset=one.sequence, error=error)


async def waits(store: Store, one: Event) -> bool:
    async with store.transaction(keys=[one.key], tenant=one.tenant) as transaction:
        return await transaction.waits_behind(WORKER, one)


async def test_events_of_a_parked_key_wait_and_are_taken_up_in_order(store: Store):
    first, second, other = event("p1", 1), event("p1", 2), event("p2", 1)
    await park(store, first, "cannot be read")
    await park(store, first, "still cannot be read")
    assert await waits(store, second)
    assert not await waits(store, other)
    await park(store, second, "waits")
    listed = await store.parking.list(WORKER)
    assert [(one.event_id, one.attempts, one.error) for one in listed] == [
        ("Patient/p1/1", 2, "cannot be read"),  # what comes again does not take the reason away
        ("Patient/p1/2", 1, "waits"),
    ]
    assert await store.parking.counts(WORKER) == {("kap.intake.v1", 3): 2}
    assert await store.parking.due(WORKER) == []
    assert await store.parking.retry(listed[1].number) == 2
    late = event("p1", 3)
    await park(store, late, "waits")
    due = await store.parking.due(WORKER)
    assert [one.event for one in due] == [first, second, late]
    for one in due:
        async with store.transaction(keys=[one.event.key], tenant="default") as transaction:
            assert await transaction.take_up(one.parked.number)
            assert not await transaction.take_up(one.parked.number)
            assert await transaction.take_in(WORKER, one.event)
            await transaction.apply_copy(one.event, extract(patient("p1")), subject_uuid("p1"))
    assert await store.parking.list() == []
    assert (await store.read(ALL, "Patient", "p1")).version == 3


async def test_a_retry_that_fails_leaves_the_key_waiting(store: Store):
    await park(store, event("p1", 1), "cannot be read")
    await park(store, event("p1", 2), "waits")
    [first, _] = await store.parking.list()
    await store.parking.retry(first.number)
    await store.parking.failed(first.number, "still not")
    assert await store.parking.due(WORKER) == []
    assert [(one.attempts, one.error) for one in await store.parking.list()] == [(2, "still not"), (1, "waits")]


async def test_dropping_an_event_lets_those_behind_it_go_on(store: Store):
    await park(store, event("p1", 1), "cannot be read")
    await park(store, event("p1", 2), "waits")
    [first, second] = await store.parking.list()
    assert await store.parking.drop(first.number) == first
    assert [one.parked.number for one in await store.parking.due(WORKER)] == [second.number]
    for call in (store.parking.drop, store.parking.retry):
        with pytest.raises(NotFound):
            await call(first.number)


# Compared


async def test_owner_and_holder_of_copies_have_equal_digests(make_database):
    owner = await Store.connect(make_database("owner"), service="intake")
    holder = await Store.connect(make_database("holder"), service="gateway")
    try:
        for number in range(9):
            await owner.write(ALL, write_of(patient(f"p{number % 4}", active=number % 2 == 0), "update"))
        await owner.write(ALL, write_of(patient("p1"), "delete"))
        events = [one async for one in owner.replay.events_since()]
        for one in events:
            assert await apply(holder, one)
        [digest] = await owner.verify.digest()
        assert [digest] == await holder.verify.digest()
        assert (digest.type, digest.origin, digest.versions, digest.current) == ("Patient", "intake", 10, 3)
        listed = [one async for one in owner.verify.versions("Patient")]
        assert listed == [one async for one in holder.verify.versions("Patient")]
        assert len(listed) == 10
        until = events[4].time
        assert await owner.verify.digest(until=until) == await holder.verify.digest(until=until)
        assert await owner.verify.digest(since=until, until=until) == []
    finally:
        await owner.close()
        await holder.close()
