"""Events to test with, and what stands for the store where a test is about Kafka only."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from shared.events.claims import Piece, redeemed
from shared.events.envelope import Event
from shared.events.handler import Outcome, Position
from shared.events.shards import SHARDS, shard_of
from shared.events.watermark import Watermark
from shared.fhir.outcome import Unavailable


def event_of(
    number: int,
    *,
    source: str = "intake",
    patient: str | None = None,
    tenant: str = "default",
    body: bytes | None = None,
) -> Event:
    """Return the event of a new Observation; `number` is its id and its place in the outbox."""
    key = f"Patient/{patient if patient is not None else number}"
    return Event(
        id=f"Observation/{number}/1",
        source=source,
        interaction="create",
        type="Observation",
        resource_id=str(number),
        version=1,
        time=datetime.now(UTC),
        tenant=tenant,
        key=key,
        shard=shard_of(tenant, key),
        sequence=number,
        body=body if body is not None else f'{{"resourceType":"Observation","id":"{number}"}}'.encode(),
    )


def events_of(count: int, *, source: str, patients: int = 20) -> list[Event]:
    """Return `count` events over so many patients, in turn."""
    return [event_of(number, source=source, patient=f"p{number % patients}") for number in range(1, count + 1)]


async def eventually(true: Callable[[], bool | Awaitable[bool]], *, seconds: float = 30.0) -> None:
    """Return as soon as something is true; fail when it is not within so many seconds."""
    async with asyncio.timeout(seconds):
        while True:
            answer = true()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)


class Runs(Protocol):
    """A relay or a consumer: runs until it is cancelled."""

    async def run(self) -> None:
        """Run."""
        ...


@asynccontextmanager
async def running(*several: Runs) -> AsyncIterator[None]:
    """Run relays and consumers while the block runs; none of them may have ended by itself."""
    tasks = [asyncio.create_task(one.run()) for one in several]
    try:
        yield
        ended = [one for one, task in zip(several, tasks, strict=True) if task.done()]
        if ended:
            raise AssertionError(f"ended by itself: {ended}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class MemoryOutbox:
    """An outbox in memory, with the same promises as the real one. `lose` takes its shards away, as an outage would."""

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self.pending: list[Event] = list(events)
        self.published: list[Event] = []
        self.opened = 0
        self.closed = 0
        self.fails: list[Exception] = []
        """Raised one by one, by the next marks."""
        self._held: set[int] = set()
        self._woken = asyncio.Event()

    async def open(self) -> MemoryOutbox:
        """Open it, as the relay does."""
        self.opened += 1
        self._held.clear()
        return self

    def write(self, *events: Event) -> None:
        """Commit events."""
        self.pending.extend(events)
        self._woken.set()

    async def acquire(self, max_shards: int) -> set[int]:
        """Hold all shards."""
        self._held = set(range(min(max_shards, SHARDS)))
        return self.held()

    def held(self) -> set[int]:
        """Return the shards that are held."""
        return set(self._held)

    async def now(self) -> datetime:
        """Return the present."""
        return datetime.now(UTC)

    async def unpublished(self, limit: int, most_bytes: int) -> list[Event]:
        """Return what waits, in order."""
        read: list[Event] = []
        for event in self.pending:
            if len(read) == limit or sum(len(one.body) for one in read) >= most_bytes:
                break
            if event.shard in self._held:
                read.append(event)
        return read

    async def mark_published(self, events: Sequence[Event]) -> None:
        """Mark, or raise what `fails` holds."""
        if self.fails:
            raise self.fails.pop(0)
        marked = set(events)
        self.published.extend(event for event in self.pending if event in marked)
        self.pending = [event for event in self.pending if event not in marked]

    async def wait(self, timeout: float) -> None:
        """Return when there may be something to publish."""
        self._woken.clear()
        try:
            await asyncio.wait_for(self._woken.wait(), timeout)
        except TimeoutError:
            return

    async def close(self) -> None:
        """Give up all shards."""
        self.closed += 1
        self._held.clear()


class MemoryInbox:
    """An `EventHandler` in memory, with the same promises as the real one: each event once, parked keys wait.

    Args:
        poison: events for which this is true fail, until `cure` is called.
        before: awaited before each event, for a test to slow it down or to fail.

    """

    def __init__(
        self,
        *,
        poison: Callable[[Event], bool] = lambda _: False,
        before: Callable[[Event], Awaitable[None]] | None = None,
    ) -> None:
        self.applied: list[Event] = []
        self.pieces: dict[tuple[str, int], bytes] = {}
        self.waiting: list[tuple[Event, Position, str]] = []
        self.calls: Counter[str] = Counter()
        """How often each event was tried alone."""
        self.together: list[int] = []
        """How many events were tried together, each time."""
        self.outcomes: Counter[Outcome] = Counter()
        self.heard: list[Watermark] = []
        self.lags: dict[tuple[str, int], int] = {}
        self.available = True
        self._poison = poison
        self._before = before
        self._seen: set[tuple[str, str]] = set()

    def applied_of(self, key: str) -> list[int]:
        """Return the sequences applied along a key, in the order of their application."""
        return [event.sequence for event in self.applied if event.key == key]

    async def handle(self, event: Event, position: Position) -> Outcome:
        """Apply an event once."""
        self.calls[event.id] += 1
        if self._before is not None:
            await self._before(event)
        outcome = self._handle(event, position)
        self.outcomes[outcome] += 1
        return outcome

    async def handle_many(self, events: Sequence[Event], positions: Sequence[Position]) -> list[Outcome]:
        """Apply events once, all or none."""
        self.together.append(len(events))
        if self._before is not None:
            for event in events:
                await self._before(event)
        held = list(self.applied), list(self.waiting), set(self._seen)
        try:
            outcomes = [self._handle(event, position) for event, position in zip(events, positions, strict=True)]
        except Exception:
            self.applied[:], self.waiting[:], self._seen = held
            raise
        self.outcomes.update(outcomes)
        return outcomes

    def _handle(self, event: Event, position: Position) -> Outcome:
        self._require()
        if event.claim is not None:
            body = redeemed(event.claim, [self.pieces[event.id, n + 1] for n in range(event.claim.pieces)])
            if body is None:
                raise ValueError("the body of this event did not come")
            event = replace(event, body=body, claim=None)
        if (event.source, event.id) in self._seen:
            return Outcome.DUPLICATE
        if any(event.key == parked.key for parked, _, _ in self.waiting):
            self.waiting.append((event, position, "an earlier event of this key is parked"))
            return Outcome.WAITING
        if self._poison(event):
            raise ValueError("this event is poison")
        self._seen.add((event.source, event.id))
        self.applied.append(event)
        return Outcome.APPLIED

    async def deposit(self, piece: Piece) -> None:
        """Keep a piece of a body."""
        self._require()
        self.pieces[piece.event_id, piece.number] = piece.body

    async def park(self, event: Event, position: Position, error: str) -> None:
        """Set an event aside."""
        self._require()
        self.waiting.append((event, position, error))

    async def parked(self) -> Mapping[tuple[str, int], int]:
        """Count what is set aside."""
        self._require()
        return Counter((position.topic, position.partition) for _, position, _ in self.waiting)

    async def hear(self, watermarks: Sequence[Watermark]) -> None:
        """Note watermarks, in the order they come in."""
        self._require()
        self.heard.extend(watermarks)

    async def measured(self, lags: Mapping[tuple[str, int], int]) -> None:
        """Note what waits."""
        self._require()
        self.lags.update(lags)

    def cure(self) -> None:
        """Let nothing be poison any more, and apply what is parked, in order."""
        self._poison = lambda _: False
        parked, self.waiting = self.waiting, []
        for event, position, _ in parked:
            self._handle(event, position)

    def _require(self) -> None:
        if not self.available:
            raise Unavailable("There is no database now.")
