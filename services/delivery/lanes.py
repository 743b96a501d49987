"""One lane for each destination: it holds the right to send there, connects, and takes patients' queues over.

A lane knows nothing of the others, so a destination that is away delays nobody else. What is tried again, and when, is
its own matter; what has to survive the process is in the ledger.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

import httpx
import structlog

from services.delivery.courier import Courier, Patience, Turn
from services.delivery.destination import DestinationServer, NoAnswer
from shared.fhir.freshness import Freshness, as_words
from shared.fhir.outcome import Unavailable
from shared.runtime.app import Beat, Parts
from shared.runtime.logging import fault
from shared.runtime.pauses import pause
from shared.store.knowledge import ages_of_consents
from shared.store.lease import Lease, lease
from shared.store.ledger import Ledger
from shared.store.ledger_types import Destination
from shared.store.store import Transaction

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

AT_ONCE: Final = 4
"""Patients whose queues are sent to one destination at the same time."""

POLL: Final = 0.1
"""Seconds between looks at an empty queue."""

OTHER_HOLDER: Final = 2.0
"""Seconds until a destination is tried again that another process sends to."""


@dataclass(slots=True)
class LaneState:
    """What is known of a destination besides its ledger, for `/ops/deliveries`."""

    connected: bool = False
    problem: str | None = None
    software: str = ""
    not_accepted: tuple[str, ...] = ()
    late: str | None = None
    """Why patients' queues wait although the destination is there; None: none does."""


@dataclass(slots=True)
class Lane:
    """The work for one destination."""

    parts: Parts
    destination: Destination
    courier: Courier
    state: LaneState
    news: Freshness
    _due: dict[str, float] = field(default_factory=dict)
    _running: dict[str, asyncio.Task[Turn]] = field(default_factory=dict)
    _failures: int = 0
    _tidied: float = 0.0
    _held_since: float = 0.0
    _consents_looked_at: float = 0.0
    _consents_until: datetime | None = None
    _late: str | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                what, once = f"delivery {self.destination.path}", f"delivery {self.destination.id}"
                async with lease(self.parts.settings.dsn, what, once=once) as held:
                    if held is None:
                        await asyncio.sleep(OTHER_HOLDER)
                    else:
                        await self._hold(held)
            except Unavailable:
                await asyncio.sleep(OTHER_HOLDER)
            finally:
                self.state.connected = False

    async def _hold(self, held: Lease) -> None:
        self._held_since = monotonic()
        try:
            while held.held:
                if await self._connected():
                    await self._work(held)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            self._running.clear()

    async def _connected(self) -> bool:
        """Read what the destination accepts; False, after a pause, where it is not there."""
        try:
            accepted = await self.courier.server.capabilities()
        except NoAnswer as error:
            self._failures += 1
            self.state.connected, self.state.problem = False, str(error)
            await self._tidy()
            await asyncio.sleep(pause(self._failures, random.random()))  # noqa: S311 - jitter, no secret
            return False
        self.courier.accepted = accepted
        self.state.connected, self.state.problem = True, None
        self.state.software = accepted.software
        self.state.not_accepted = tuple(one for one in accepted.not_accepted if one in self.destination.types)
        if not self.destination.filled:
            await self._fill()
        return True

    async def _fill(self) -> None:
        async with self.parts.store.transaction(keys=(), tenant=self.destination.tenant) as transaction:
            count = await Ledger(transaction).fill(self.destination)
        self.destination = replace(self.destination, filled=True)
        _log.info("destination_filled", destination=self.destination.id, queued=count)

    async def _work(self, held: Lease) -> None:
        """Send as long as the destination goes along."""
        while held.held:
            started = await self._start_turns()
            await self._tidy()  # after it: what is shown says why it waits
            if not self._running:
                await asyncio.sleep(0 if started else POLL)
                continue
            done, _ = await asyncio.wait(self._running.values(), timeout=POLL, return_when=asyncio.FIRST_COMPLETED)
            outages = [outage for task in done if (outage := self._ended(task)) is not None]
            if outages:
                await self._outage(outages[0])
                return

    async def _start_turns(self) -> int:
        now = monotonic()
        self._due = {key: due for key, due in self._due.items() if due > now}
        room = AT_ONCE - len(self._running)
        if room <= 0:
            return 0
        async with self.parts.store.transaction(keys=(), tenant=self.destination.tenant) as transaction:
            keys = await Ledger(transaction).keys(self.destination.id, busy=[*self._due, *self._running], limit=room)
            sent = await self._disclosable(transaction, keys)
        for key in sent:
            self._running[key] = asyncio.create_task(self.courier.turn(key), name=f"turn {self.destination.id}")
        return len(sent)

    async def _disclosable(self, transaction: Transaction, keys: Sequence[str]) -> list[str]:
        """Return the keys whose consent is known as it is now; the others stay queued, and are looked at again."""
        service, sources = self.parts.service.name, self.news.of
        sent, late = [], ""
        for key in keys:
            told = await ages_of_consents(transaction.connection, service, sources, transaction.tenant, key)
            unheard = self.news.too_old(told)
            if unheard:
                late = as_words(unheard)
                self._due[key] = monotonic() + OTHER_HOLDER
            else:
                sent.append(key)
        if late:
            self._late = f"Waits: what is known of consent may be too old ({late})."
        elif sent:
            self._late = None
        self.courier.late = self.state.late = self._late
        return sent

    def _ended(self, task: asyncio.Task[Turn]) -> Turn | None:
        """Take note of a turn; return it where the destination was away."""
        key = next(key for key, running in self._running.items() if running is task)
        del self._running[key]
        error = task.exception()
        if error is not None:
            if not isinstance(error, Exception):
                raise error
            if not isinstance(error, Unavailable):
                _log.error("turn_failed", destination=self.destination.id, **fault(error))
            self._due[key] = monotonic() + OTHER_HOLDER
            return None
        turn = task.result()
        if turn.late is not None:
            self._late = self.state.late = turn.late
        if turn.again_in is not None:
            self._due[key] = monotonic() + turn.again_in
        if turn.moved:
            self._failures = 0
        return None if turn.outage is None else turn

    async def _outage(self, turn: Turn) -> None:
        """Let what is under way end, and wait before the destination is connected to again."""
        self._failures += 1
        self.state.connected, self.state.problem = False, turn.outage
        _log.warning("destination_away", destination=self.destination.id, problem=turn.outage)
        while self._running:
            done, _ = await asyncio.wait(self._running.values())
            for task in done:
                self._ended(task)
        await asyncio.sleep(pause(self._failures, random.random(), asked=turn.asked))  # noqa: S311 - jitter, no secret

    async def _tidy(self) -> None:
        """Queue again what a dead process was sending, and what the clock lets go; show people what waits for long."""
        if monotonic() - self._tidied < self.courier.patience.housekeeping:
            return
        self._tidied = monotonic()
        await self._recover()
        if monotonic() - self._consents_looked_at >= self.courier.patience.consents:
            self._consents_looked_at = monotonic()
            async with self.parts.store.transaction(keys=(), tenant=self.destination.tenant) as transaction:
                since = self._consents_until
                self._consents_until = await Ledger(transaction).ask_anew_by_time(self.destination, since=since)
        await self.courier.show_waiting()

    async def _recover(self) -> None:
        """Queue again what was being sent when its turn or process ended.

        Not before a request that was under way then has been given its time: asked too early, the destination would not
        have it yet, and get it twice.
        """
        answer = self.courier.patience.answer
        if monotonic() - self._held_since < answer:
            return
        before = datetime.now(UTC) - timedelta(seconds=answer)
        async with self.parts.store.transaction(keys=(), tenant=self.destination.tenant) as transaction:
            found = await Ledger(transaction).recover(self.destination.id, busy=list(self._running), before=before)
        if found:
            _log.info("attempts_without_end", destination=self.destination.id, count=found)


@dataclass(slots=True)
class Lanes:
    """All lanes of the service: opened and closed as destinations come and go.

    `news` says how old what is known of consent may be where something is disclosed.
    """

    news: Freshness
    patience: Patience = field(default_factory=Patience)
    _states: dict[str, LaneState] = field(default_factory=dict)
    transport: Callable[[], httpx.AsyncBaseTransport | None] = lambda: None
    _tasks: dict[Destination, asyncio.Task[None]] = field(default_factory=dict)

    def state_of(self, destination: Destination) -> LaneState:
        """Return what is known of a destination beside its ledger; nothing where this process has no lane for it."""
        return self._states.get(destination.path, LaneState())

    async def run(self, parts: Parts, beat: Beat) -> None:
        """Keep a lane running for each active destination, until cancelled."""
        timeout = httpx.Timeout(self.patience.answer, connect=3.0)
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=50)
        async with httpx.AsyncClient(timeout=timeout, limits=limits, transport=self.transport()) as client:
            try:
                while True:
                    with suppress(Unavailable):
                        await self._follow(parts, client)
                    beat()
                    await asyncio.sleep(1.0)
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)
                self._tasks.clear()

    async def _follow(self, parts: Parts, client: httpx.AsyncClient) -> None:
        wanted: set[Destination] = set()
        for tenant in await parts.store.tenants():
            async with parts.store.transaction(keys=(), tenant=tenant) as transaction:
                wanted.update(one for one in await Ledger(transaction).destinations() if one.active)
        for destination, task in list(self._tasks.items()):
            if destination in wanted and not task.done():
                continue
            task.cancel()
            [ended] = await asyncio.gather(task, return_exceptions=True)
            del self._tasks[destination]
            if isinstance(ended, Exception):
                _log.error("lane_failed", destination=destination.id, **fault(ended))
        for destination in wanted - self._tasks.keys():
            state = self._states.setdefault(destination.path, LaneState())
            server = DestinationServer(client, destination.address)
            courier = Courier(
                parts.service, parts.store, destination, server, parts.settings.base_url, self.news, self.patience
            )
            lane = Lane(parts, destination, courier, state, self.news)
            self._tasks[destination] = asyncio.create_task(lane.run(), name=f"lane {destination.id}")
