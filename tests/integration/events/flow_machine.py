"""Outbox, relay, inbox and parking as a machine of steps, and what holds after each, whatever their order.

All but Kafka is the real thing on PostgreSQL: `Store.write`, the relay's locks, reads and marks, the codec, the
consumer's lanes, inbox, parking, claims and replay. Kafka is a list for each partition, so that every step is one that
a test chose: a crash falls exactly between an acknowledgement and its mark, or between a commit and its offset.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from shared.events.claims import records_of
from shared.events.codec import Headers
from shared.events.envelope import Event
from shared.events.lane import Lane, Limits
from shared.events.producer import PublishError
from shared.events.relay import Relay
from shared.events.shards import SHARDS
from shared.fhir.json import Resource
from shared.fhir.outcome import FhirError
from shared.runtime.consume import ServiceEvents
from shared.runtime.record import Record
from shared.runtime.replaying import Replaying
from shared.runtime.service import Service
from shared.store.access import Access
from shared.store.outbox import LostShard, Outbox, open_outbox
from shared.store.store import Store
from shared.testing.events import eventually
from shared.testing.writes import write_of

ALL = Access.unrestricted()
SOURCE, HOLDER = "intake", "gateway"
PATIENTS = ("a", "b", "c")
PARTITIONS = 2
MOST_BYTES, PIECE_BYTES = 400, 150
"""What is larger travels in pieces here, and of these sizes."""
_ROUNDS = 5
FATES = ("well", "well", "poisoned", "rolled back")
LIMITS = Limits(attempts=1, first_wait=0.0, longest_wait=0.0, recheck=0.01, together=4)
_EMPTIED = [
    "resource",
    "history",
    "outbox",
    "inbox",
    "inbox_position",
    "parked",
    "claim_piece",
    "known_until",
    "replay",
    "relay_state",
]
_TABLES = """
SELECT string_agg(tablename, ', ') FROM pg_tables
WHERE schemaname = 'public' AND (tablename LIKE 'idx%' OR tablename = ANY ($1))
"""


class Killed(Exception):
    """The process ends here, by SIGKILL."""


class Poison(Exception):
    """A reaction cannot do with this event."""


@dataclass(frozen=True)
class Kept:
    """A record on a partition, as a consumer is given it."""

    key: bytes
    value: bytes
    headers: Headers
    offset: int


@dataclass
class Topic:
    """Kafka, as one topic in memory; what it acknowledges next is up to the test."""

    partitions: dict[int, list[Kept]] = field(default_factory=lambda: defaultdict(list))
    acknowledges: int | None = None
    dies: bool = False

    async def publish(self, events: Sequence[Event]) -> None:
        taken = events if self.acknowledges is None else events[: self.acknowledges]
        for event in taken:
            place = self.partitions[event.shard % PARTITIONS]
            for made in records_of(event):
                place.append(Kept(made.key, made.value, made.headers, len(place)))
        if self.dies:
            raise Killed
        if len(taken) < len(events):
            raise PublishError("Kafka went away", list(taken))

    async def publish_watermarks(self, watermarks: Sequence[Any]) -> None:
        """No watermark is published here."""

    async def stop(self) -> None:
        """Nothing is open."""


class Flow(RuleBasedStateMachine):
    """One source with two relays, one consumer with one lane for each partition."""

    loop: asyncio.AbstractEventLoop
    source: Store
    holder: Store
    source_dsn: str
    holder_dsn: str

    def __init__(self) -> None:
        super().__init__()
        self.topic = Topic()
        self.relay = Relay(self._never, self.topic, service=SOURCE, longest_pause=0.0)
        self.outboxes: list[Outbox | None] = [None, None]
        self.read: list[list[Event]] = [[], []]
        self.poison: set[str] = set()
        self.dropped: set[str] = set()
        self.committed: dict[int, int] = {}
        self.lanes: dict[int, Lane] = {}
        self.versions: dict[str, int] = {}

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def _never(self) -> Outbox:
        raise AssertionError("the test opens outboxes itself")

    @initialize()
    def empty(self) -> None:
        async def empty(store: Store) -> None:
            async with store.transaction(keys=(), tenant="default") as transaction:
                tables = await transaction.connection.fetchval(_TABLES, _EMPTIED)
                await transaction.connection.execute(f"TRUNCATE {tables}")

        self.do(empty(self.source))
        self.do(empty(self.holder))
        held = frozenset(("Patient",))
        service = Service(
            HOLDER,
            HOLDER,
            types=frozenset(("Basic",)),
            consumes=(SOURCE,),
            holds=held,
            reactions={"Patient": (self._note,)},
            publishes=False,
        )
        self.events = ServiceEvents(service, self.holder)
        self.slots = asyncio.Semaphore(2)

    async def _note(self, event: Event, resource: Resource, record: Record) -> None:
        """Not idempotent: two lines where an event is applied twice."""
        await record.create({"resourceType": "Basic", "code": {"text": event.id}})
        if event.id in self.poison:
            raise Poison(event.id)

    # The source

    @rule(
        changes=st.lists(st.tuples(st.sampled_from(PATIENTS), st.sampled_from(FATES)), min_size=1, max_size=4),
        large=st.booleans(),
    )
    def write(self, changes: list[tuple[str, str]], large: bool) -> None:
        """Changes that commit, or of which the transactions are rolled back after their outbox rows were made."""

        async def write(patient: str, how: str) -> None:
            number = self.versions.get(patient, 0) + 1
            body = {"resourceType": "Patient", "id": patient, "multipleBirthInteger": number}
            if large:
                body["name"] = [{"text": f"{number}" * MOST_BYTES}]
            write = write_of(body, "create" if number == 1 else "update")
            with suppress(Killed):
                async with self.source.transaction(keys=(f"Patient/{patient}",), tenant="default") as transaction:
                    await transaction.write(ALL, write)
                    if how == "rolled back":
                        raise Killed
            if how != "rolled back":
                self.versions[patient] = number
                if how == "poisoned":
                    self.poison.add(f"Patient/{patient}/{number}")

        for patient, how in changes:
            self.do(write(patient, how))

    # The relays

    @rule(which=st.integers(0, 1), limit=st.integers(1, 10))
    def relay_reads(self, which: int, limit: int) -> None:
        async def read() -> None:
            outbox = self.outboxes[which]
            if outbox is None:
                outbox = self.outboxes[which] = await open_outbox(self.source_dsn, service=SOURCE)
            await outbox.acquire(SHARDS)
            self.read[which] = await outbox.unpublished(limit)

        if not self.read[which]:
            try:
                self.do(read())
            except FhirError:  # its session was ended: it begins anew
                self._kill_relay(which)

    @rule(
        which=st.integers(0, 1),
        acknowledged=st.sampled_from((None, 0, 1, 2, 3)),
        dies=st.sampled_from((False, False, True)),
    )
    def relay_publishes(self, which: int, acknowledged: int | None, dies: bool) -> None:
        """Publish what was read, however long ago: all of it, a part, or dying before the mark."""
        if not self.read[which]:
            self.relay_reads(which, 6)
        outbox, events = self.outboxes[which], self.read[which]
        if outbox is None or not events:
            return
        self.topic.acknowledges, self.topic.dies = acknowledged, dies
        try:
            self.do(self.relay._publish(outbox, events))
        except Killed:
            self._kill_relay(which)
        except (LostShard, FhirError):
            self._kill_relay(which)
        finally:
            self.topic.acknowledges, self.topic.dies = None, False
            self.read[which] = []

    @rule(which=st.integers(0, 1))
    def relay_is_killed(self, which: int) -> None:
        self._kill_relay(which)
        self.read[which] = []

    @rule(which=st.integers(0, 1))
    def relay_outlives_its_lock(self, which: int) -> None:
        """It is stopped; PostgreSQL ends its session, and so frees its shards. What it has read it still has."""
        outbox = self.outboxes[which]
        if outbox is None:
            return

        async def end() -> None:
            pid = outbox._connection.get_server_pid()
            async with self.source.transaction(keys=(), tenant="default") as transaction:
                await transaction.connection.execute("SELECT pg_terminate_backend($1, 5000)", pid)

        self.do(end())

    def _kill_relay(self, which: int) -> None:
        outbox, self.outboxes[which] = self.outboxes[which], None
        if outbox is not None:
            outbox._connection.terminate()
            self.do(asyncio.sleep(0.002))

    # The consumer

    @rule(partition=st.integers(0, PARTITIONS - 1), count=st.integers(1, 30))
    def consume(self, partition: int, count: int) -> None:
        self.do(self._consume(partition, count))

    async def _consume(self, partition: int, count: int) -> int:
        lane = self.lanes.get(partition)
        start = self.committed.get(partition, 0) if lane is None or lane.done is None else lane.done
        records = self.topic.partitions[partition][start : start + count]
        if not records:
            return 0
        if lane is None:
            lane = self.lanes[partition] = self._lane(partition)
        lane.add(records)
        async with asyncio.timeout(20):
            while lane.waiting:
                lane.check()
                await asyncio.sleep(0)
        return len(records)

    def _lane(self, partition: int) -> Lane:
        return Lane(
            "kap.intake.v1",
            partition,
            self.events,
            service=HOLDER,
            limits=LIMITS,
            slots=self.slots,
            beat=lambda: None,
            heard=lambda _: None,
        )

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def commit_offset(self, partition: int) -> None:
        lane = self.lanes.get(partition)
        if lane is not None and lane.done is not None:
            self.committed[partition] = lane.done

    @rule(
        partition=st.integers(0, PARTITIONS - 1),
        count=st.integers(1, 30),
        steps=st.integers(0, 150),
        commits=st.sampled_from((True, True, False)),
    )
    def consumer_is_killed(self, partition: int, count: int, steps: int, commits: bool) -> None:
        """In the middle of whatever it does, offsets committed until then or not; the next one begins there."""
        if not any(map(self._unread, range(PARTITIONS))):
            self.relay_publishes(0, None, dies=False)
        if not self._unread(partition):
            partition = max(range(PARTITIONS), key=self._unread)

        async def kill() -> None:
            lane = self.lanes.get(partition) or self._lane(partition)
            start = self.committed.get(partition, 0) if lane.done is None else lane.done
            lane.add(self.topic.partitions[partition][start : start + count])
            for _ in range(steps):
                await asyncio.sleep(0)
            if commits and lane.done is not None:
                self.committed[partition] = lane.done
            lane._task.cancel()
            await asyncio.gather(lane._task, return_exceptions=True)
            self.lanes.pop(partition, None)

        self.do(kill())

    def _unread(self, partition: int) -> int:
        lane = self.lanes.get(partition)
        read = self.committed.get(partition, 0) if lane is None or lane.done is None else lane.done
        return len(self.topic.partitions[partition]) - read

    @rule(which=st.integers(0, 1))
    def all_goes_well_for_a_while(self, which: int) -> None:
        """As it does nearly always: so the steps before meet many that come after."""
        for _ in range(2):
            self.relay_reads(which, 10)
            self.relay_publishes(which, None, dies=False)
        for partition in range(PARTITIONS):
            while self.do(self._consume(partition, 30)):
                pass

    # People

    @rule(healed=st.booleans(), which=st.integers(0, 9))
    def retry(self, healed: bool, which: int) -> None:
        parked = self.do(self.holder.parking.list())
        if not parked:
            return
        one = parked[which % len(parked)]
        if healed:
            self.poison -= {event for event in self.poison if event.startswith(f"{one.key}/")}
        self.do(self.holder.parking.retry(one.number))

    @rule()
    def take_up(self) -> None:
        self.do(self.events.take_up())

    @rule(which=st.integers(0, 9))
    def drop(self, which: int) -> None:
        parked = self.do(self.holder.parking.list())
        if parked:
            gone = self.do(self.holder.parking.drop(parked[which % len(parked)].number))
            if gone.event_id not in set(self.do(self._lines())):
                self.dropped.add(gone.event_id)

    @rule(patient=st.none() | st.sampled_from(PATIENTS))
    def replay(self, patient: str | None) -> None:
        self.do(self._replay(patient))

    async def _replay(self, patient: str | None) -> None:
        await self.source.replay.ask(key=None if patient is None else f"Patient/{patient}")
        again = Replaying(SOURCE, self.source.replay, self.topic)
        while await again.once():
            pass

    # What must hold

    async def _lines(self) -> list[str]:
        async with self.holder.transaction(keys=(), tenant="default") as transaction:
            rows = await transaction.connection.fetch(
                "SELECT convert_from(body, 'UTF8')::jsonb #>> '{code,text}' AS event FROM history "
                "WHERE origin = $1 ORDER BY rid",
                HOLDER,
            )
        return [row["event"] for row in rows]

    @invariant()
    def nothing_is_applied_twice_or_invented_and_the_order_of_each_record_is_kept(self) -> None:
        if hasattr(self, "events"):
            self._judge(self.do(self._lines()))

    def _judge(self, lines: list[str]) -> None:
        assert len(lines) == len(set(lines)), lines
        for patient in PATIENTS:
            applied = [int(line.rpartition("/")[2]) for line in lines if line.startswith(f"Patient/{patient}/")]
            in_turn = [number for number in applied if f"Patient/{patient}/{number}" not in self.dropped]
            assert in_turn == sorted(in_turn), (patient, applied)
            assert set(applied) <= set(range(1, self.versions.get(patient, 0) + 1))

    def teardown(self) -> None:
        """Let everything come to rest: all that was committed is applied, but for what a person has dropped."""
        if not hasattr(self, "events"):
            return
        try:
            self.do(self._rest())
        finally:
            for which in (0, 1):
                self._kill_relay(which)
            self.do(self._end_lanes())

    async def _rest(self) -> None:
        await self._end_lanes()
        for which in (0, 1):
            outbox, self.outboxes[which] = self.outboxes[which], None
            if outbox is not None:
                outbox._connection.terminate()
        outbox = await open_outbox(self.source_dsn, service=SOURCE)
        try:
            await eventually(lambda: self._holds_all(outbox), seconds=10)
            while events := await outbox.unpublished(100):
                await self.relay._publish(outbox, events)
        finally:
            await outbox.close()
        self.poison.clear()
        for partition in range(PARTITIONS):
            while await self._consume(partition, 100):
                pass
        for _ in range(_ROUNDS):
            for one in await self.holder.parking.list():
                await self.holder.parking.retry(one.number)
            while await self.events.take_up():
                pass
            if not await self.holder.parking.list():
                break
            # Of what a person dropped some pieces may have come again and others not: it has to be told again.
            await self._replay(None)
            for partition in range(PARTITIONS):
                while await self._consume(partition, 100):
                    pass
        assert not await self.holder.parking.list()
        owed = {f"Patient/{name}/{n}" for name, last in self.versions.items() for n in range(1, last + 1)}
        lines = await self._lines()
        self._judge(lines)
        assert owed - set(lines) <= self.dropped
        assert set(lines) <= owed
        for name, last in self.versions.items():
            if f"Patient/{name}/{last}" in lines:
                own, copy = await self.source.read(ALL, "Patient", name), await self.holder.read(ALL, "Patient", name)
                assert copy.body == own.body

    async def _holds_all(self, outbox: Outbox) -> bool:
        return len(await outbox.acquire(SHARDS)) == SHARDS

    async def _end_lanes(self) -> None:
        lanes, self.lanes = self.lanes, {}
        for lane in lanes.values():
            lane._task.cancel()
            await asyncio.gather(lane._task, return_exceptions=True)
