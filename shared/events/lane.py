"""One partition's events, taken in in order: try, wait, park, never drop.

What has queued up is taken in together, by one transaction; where that fails, each of its events alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import structlog
from aiokafka import ConsumerRecord

from shared.events import metrics
from shared.events.claims import Piece, piece_of
from shared.events.codec import UnreadableEvent, decode, is_for, unreadable
from shared.events.envelope import Event
from shared.events.handler import EventHandler, Outcome, Position
from shared.events.watermark import Watermark
from shared.events.watermark import decode as read_watermark
from shared.fhir.outcome import Unavailable

log = structlog.get_logger(__name__)

_NOT_NOW = (Unavailable, OSError, TimeoutError)
_ERROR_CHARACTERS = 2000
PARKED = "parked"
_SEVERAL = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a consumer tries and holds.

    Attributes:
        attempts: at one event, before it is parked.
        first_wait, longest_wait: seconds between attempts; each wait is twice the one before.
        most_parked: parked events of one partition, waiting ones included, at which it takes in nothing more.
        recheck: seconds after which a partition at that bound looks again.
        together: events that one transaction takes in at most, where so many wait.
        together_bytes: bytes of their bodies, at most; an event that is larger goes alone.
        queue: events of one partition held in memory, at which it is fetched no more until half of them are done.
        queue_bytes: bytes of their bodies, at which the same is done.

    """

    attempts: int = 4
    first_wait: float = 0.1
    longest_wait: float = 5.0
    most_parked: int = 1000
    recheck: float = 5.0
    together: int = 64
    together_bytes: int = 1024 * 1024
    queue: int = 200
    queue_bytes: int = 16 * 1024 * 1024


class Lane:
    """Takes in what is read of one partition, in order, in a task of its own.

    Args:
        topic, partition: which one.
        handler: what an event does.
        service: who takes in: what was replayed for another consumer passes by.
        limits: how much it tries and holds.
        slots: how many lanes may be in a handler at once, all together.
        beat: called whenever it is seen to be alive: an event done, or an outage waited for.
        heard: given each watermark that is come to: all before it is done.

    """

    def __init__(
        self,
        topic: str,
        partition: int,
        handler: EventHandler,
        *,
        service: str,
        limits: Limits,
        slots: asyncio.Semaphore,
        beat: Callable[[], None],
        heard: Callable[[Watermark], None],
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.done: int | None = None
        """The offset to commit: one after the last event that is done."""
        self.parked: int | None = None
        self.paused = False
        self._handler = handler
        self._service = service
        self._limits = limits
        self._slots = slots
        self._beat = beat
        self._heard = heard
        self._queue: deque[ConsumerRecord] = deque()
        self._queued_bytes = 0
        self._more = asyncio.Event()
        self._alone = 0
        """How many events are taken in alone before several are tried together again."""
        self._closing = False
        self._task = asyncio.create_task(self._run(), name=f"lane {topic}-{partition}")

    def add(self, records: Sequence[ConsumerRecord]) -> None:
        """Take over records that were read, in order."""
        self._queue.extend(records)
        self._queued_bytes += sum(map(_size, records))
        self._more.set()

    @property
    def waiting(self) -> int:
        """How many events are read and not done."""
        return len(self._queue)

    def is_full(self) -> bool:
        """Return whether no more should be read for now."""
        return len(self._queue) >= self._limits.queue or self._queued_bytes >= self._limits.queue_bytes

    def has_room(self) -> bool:
        """Return whether a full lane should be read for again."""
        return len(self._queue) <= self._limits.queue // 2 and self._queued_bytes <= self._limits.queue_bytes // 2

    def check(self) -> None:
        """Raise what ended the lane, if anything did: that is a fault of the program."""
        if self._task.done() and not self._closing:
            self._task.result()

    async def close(self, grace: float) -> None:
        """Finish what is at hand, or give it up after `grace` seconds; what waits is read again by the next owner."""
        self._closing = True
        self._more.set()
        await asyncio.wait([self._task], timeout=grace)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self.paused:
            self._set_paused(paused=False)

    def count_parked(self, parked: int) -> None:
        """Note how many events of this partition are parked."""
        self.parked = parked
        metrics.PARKED.labels(self._service, self.topic, str(self.partition)).set(parked)

    async def _run(self) -> None:
        while not self._closing:
            if not self._queue:
                self._more.clear()
                await self._more.wait()
                continue
            watermark = _watermark_in(self._queue[0])
            if watermark is not None:
                self._heard(watermark)
            if watermark is not None or not is_for(self._queue[0].headers, self._service):
                self._leave_behind()
                continue
            taken = await self._take_together()
            if not taken:
                await self._take(self._queue[0])
                self._alone = max(self._alone - 1, 0)
                taken = 1
            for _ in range(taken):
                self._leave_behind()
            self._beat()

    def _leave_behind(self) -> None:
        record = self._queue.popleft()
        self._queued_bytes -= _size(record)
        self.done = record.offset + 1

    async def _take_together(self) -> int:
        """Take in what waits, as far as it may go together; return how many events, 0 where one is to go alone."""
        if self._alone or len(self._queue) < _SEVERAL:
            return 0
        events: list[Event] = []
        try:
            await self._below_bound()
            room = self._limits.most_parked - (self.parked or 0)
            events = self._first(min(self._limits.together, room))
            if len(events) < _SEVERAL:
                return 0
            positions = [
                Position(self.topic, self.partition, record.offset) for record in islice(self._queue, len(events))
            ]
            async with self._slots:
                outcomes = await self._handler.handle_many(events, positions)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is met again, and dealt with, by an event alone
            self._alone = len(events) or 1
            metrics.TOGETHER_FAILED.labels(self._service).inc()
            log.warning(
                "events_go_alone",
                service=self._service,
                topic=self.topic,
                partition=self.partition,
                events=len(events),
                error=type(error).__name__,
            )
            return 0
        for event, outcome in zip(events, outcomes, strict=True):
            self._note(event, outcome)
        metrics.TOGETHER.labels(self._service).observe(len(events))
        return len(events)

    def _first(self, most: int) -> list[Event]:
        """Return the first events that wait: readable, whole, of one tenant, and not too many bytes."""
        events: list[Event] = []
        size = 0
        for record in islice(self._queue, most):
            if _watermark_in(record) is not None or not is_for(record.headers, self._service):
                break
            event, refused = self._read(record)
            size += len(event.body)
            if refused is not None or event.claim is not None or size > self._limits.together_bytes:
                break
            if events and event.tenant != events[0].tenant:
                break
            events.append(event)
        return events

    async def _take(self, record: ConsumerRecord) -> None:
        position = Position(self.topic, self.partition, record.offset)
        event, refused = self._read(record)
        piece = _piece_in(record)
        if piece is not None:
            refused = None
        if refused is not None:
            log.error("event_unreadable", **self._where(position))
        await self._until_done(event, position, refused, piece)

    def _read(self, record: ConsumerRecord) -> tuple[Event, Exception | None]:
        try:
            return decode(record.key, record.value, record.headers), None
        except UnreadableEvent as error:
            where = {"topic": self.topic, "partition": self.partition, "offset": record.offset}
            return unreadable(record.key, record.value, record.headers, **where), error

    async def _until_done(
        self, event: Event, position: Position, refused: Exception | None, piece: Piece | None
    ) -> None:
        """Handle the event, or park it where it is `refused`; come back only when one of both is committed.

        Where its record is a `piece`, that is deposited instead.
        """
        failures = outages = 0
        while True:
            try:
                await self._below_bound()
                async with self._slots:
                    if refused is None and piece is not None:
                        await self._handler.deposit(piece)
                    elif refused is None:
                        self._note(event, await self._handler.handle(event, position))
                        metrics.TOGETHER.labels(self._service).observe(1)
                    elif refused is not None:
                        words = f"{type(refused).__name__}: {refused}"[:_ERROR_CHARACTERS]
                        await self._handler.park(event, position, words)
                        metrics.CONSUMED.labels(self._service, event.source, PARKED).inc()
                        self.count_parked((self.parked or 0) + 1)
                        log.error("event_parked", **self._where(position), error=type(refused).__name__)
            except _NOT_NOW as error:
                outages += 1
                if outages == 1:
                    log.warning("event_waits", **self._where(position), error=type(error).__name__)
                self._beat()
                await self._wait(outages)
            except Exception as error:  # noqa: BLE001 - whatever a handler raises, its event is parked and not lost
                failures += 1
                metrics.ATTEMPTS_FAILED.labels(self._service, event.source).inc()
                log.warning("event_failed", **self._where(position), error=type(error).__name__, attempt=failures)
                if refused is None and failures >= self._limits.attempts:
                    refused, failures = error, 0
                else:
                    await self._wait(failures)
            else:
                return

    async def _below_bound(self) -> None:
        while True:
            if self.parked is None or self.paused:
                counts = await self._handler.parked()
                self.count_parked(counts.get((self.topic, self.partition), 0))
            if (self.parked or 0) < self._limits.most_parked:
                if self.paused:
                    self._set_paused(paused=False)
                return
            if not self.paused:
                log.error("partition_paused", topic=self.topic, partition=self.partition, parked=self.parked)
                self._set_paused(paused=True)
            self._beat()
            await asyncio.sleep(self._limits.recheck)

    def _set_paused(self, *, paused: bool) -> None:
        self.paused = paused
        metrics.PAUSED.labels(self._service, self.topic, str(self.partition)).set(int(paused))

    async def _wait(self, times: int) -> None:
        await asyncio.sleep(min(self._limits.first_wait * 2 ** min(times - 1, 20), self._limits.longest_wait))

    def _note(self, event: Event, outcome: Outcome) -> None:
        metrics.CONSUMED.labels(self._service, event.source, outcome.value).inc()
        if outcome is Outcome.WAITING:
            self.count_parked((self.parked or 0) + 1)
        elif outcome is Outcome.APPLIED:
            delay = (datetime.now(UTC) - event.time).total_seconds()
            metrics.APPLY_DELAY.labels(self._service, event.source).observe(delay)

    def _where(self, position: Position) -> dict[str, object]:
        return {
            "service": self._service,
            "topic": position.topic,
            "partition": position.partition,
            "offset": position.offset,
        }


def _size(record: ConsumerRecord) -> int:
    return len(record.value or b"")


def _piece_in(record: ConsumerRecord) -> Piece | None:
    """Return the piece that a record is; one that cannot be read is parked like any other record."""
    try:
        return piece_of(record.value, record.headers)
    except UnreadableEvent:
        return None


def _watermark_in(record: ConsumerRecord) -> Watermark | None:
    """Return the watermark that a record is; one that cannot be read is parked like any other record."""
    try:
        return read_watermark(record.headers)
    except UnreadableEvent:
        return None
