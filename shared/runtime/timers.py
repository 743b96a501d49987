"""Timers: what a service does because time has passed, not because somebody asked.

A reading that was due and did not come, a questionnaire overdue, an alarm that nobody has taken: no request and no
event says so. A service declares its timers; each worker runs them, one process at a time for each. All that a timer
knows is in the record, so a restart loses nothing: it looks again. What it writes goes through the `Record`, in a
transaction for each resource it looked at, so that one that fails does not keep the others waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog
from prometheus_client import Counter, Gauge, Histogram

from shared.fhir.extraction import compartment_key
from shared.fhir.json import Resource, parse
from shared.fhir.outcome import Unavailable
from shared.fhir.query import parse_search
from shared.http.health import Progress
from shared.runtime.logging import fault
from shared.runtime.record import Record, open_record
from shared.store.access import Access
from shared.store.connection import retry_conflicts

if TYPE_CHECKING:
    from shared.runtime.service import Service
    from shared.store.store import Store
    from shared.store.timers import TimerLocks

RUNS = Histogram("kap_timer_duration_seconds", "How long a timer's run took", ("service", "timer"))
LAST = Gauge("kap_timer_last_run_timestamp_seconds", "When a timer last ran here, to its end", ("service", "timer"))
FAILURES = Counter("kap_timer_failures_total", "Runs of a timer that failed, or failed for some", ("service", "timer"))
FAILING = Gauge("kap_timer_failing", "Runs in a row that failed; 0: the last went well", ("service", "timer"))

STALLED_AFTER: Final = 60.0
"""Seconds beyond its period after which a timer that neither ran nor looked counts as stalled."""

Clock: TypeAlias = Callable[[], datetime]

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@dataclass
class Round:
    """One run of a timer for one tenant.

    Attributes:
        now: when it began; what is due is judged by it.
        failures: what went wrong for single resources, as ``Type/id: error``, without content.

    """

    service: Service
    store: Store
    tenant: str
    now: datetime
    beat: Callable[[], None] = lambda: None
    failures: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def record(self, *keys: str) -> AsyncIterator[Record]:
        """Open a transaction with `keys` (``Patient/<id>``) locked; it commits when the block ends well."""
        self.beat()
        access = Access.unrestricted(self.tenant)
        async with open_record(self.service, self.store, access, keys=keys) as record:
            yield record

    async def search(self, type_: str, criteria: Mapping[str, str] | Sequence[tuple[str, str]]) -> list[Resource]:
        """Return what the service owns of a type that matches FHIR search parameters, oldest first; nothing is locked.

        What it holds as copies of others' is left out: it is theirs to act on.
        """
        self.beat()
        pairs = list(criteria.items()) if isinstance(criteria, Mapping) else list(criteria)
        query = parse_search(type_, [*pairs, ("_count", "1000")], strict=True)
        own = Access.unrestricted(self.tenant, origin=self.service.name)
        found: list[Resource] = []
        cursor: str | None = None
        while True:
            page = await self.store.search(own, query, cursor=cursor)
            found.extend(parse(entry.body) for entry in page.entries)
            if page.next is None:
                return found
            cursor = page.next

    async def each(self, found: Sequence[Resource], work: Callable[[Resource, Record], Awaitable[None]]) -> None:
        """Do `work` for each resource in a transaction of its own, with its patient's record locked.

        It is given the resource as it is then; one that is gone is left out. One that fails is noted, and the others go
        on.

        Raises:
            Unavailable: the database does not answer; the next run goes on.

        """
        for one in found:
            type_, id_ = str(one["resourceType"]), str(one["id"])
            key = compartment_key(one, type_, id_)

            async def attempt(type_: str = type_, id_: str = id_, key: str = key) -> None:
                async with self.record(key) as record:
                    current = await record.get(type_, id_)
                    if current is not None:
                        await work(current, record)

            try:
                await retry_conflicts(attempt)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - one patient's trouble must not keep the others waiting
                _log.error("timer_failed_for_one", service=self.service.name, type=type_, **fault(error))
                self.failures.append(f"{type_}/{id_}: {type(error).__name__}")


@dataclass(frozen=True, slots=True)
class Timer:
    """Something a service does again and again.

    Attributes:
        name: for logs, `/livez` and metrics; its lock's name, too.
        every: how often, at the most often.
        run: looks at what is due at `Round.now`, and does it. It must not matter whether it is done twice.

    """

    name: str
    every: timedelta
    run: Callable[[Round], Awaitable[None]]


class TimerFailed(Exception):
    """A run did not do all it was to do: for these resources it failed."""

    def __init__(self, failures: Sequence[str]) -> None:
        super().__init__("; ".join(failures))


async def run_once(timer: Timer, service: Service, store: Store, now: datetime, beat: Callable[[], None]) -> None:
    """Run a timer for every tenant, whether or not it is due; what goes wrong in one keeps no other waiting.

    Raises:
        TimerFailed: for some resources, or some tenants, it failed; the others are done.
        Unavailable: it failed for some tenants, and for nothing else than that they cannot be asked now.

    """
    failures: list[str] = []
    away: Unavailable | None = None
    for tenant in await store.tenants():
        one = Round(service, store, tenant, now, beat)
        try:
            await timer.run(one)
        except Unavailable as error:
            away = away or error
        except Exception as error:  # noqa: BLE001 - one clinic's trouble must not keep the others waiting
            _log.error("timer_failed_for_clinic", service=service.name, timer=timer.name, **fault(error))
            failures.append(f"clinic {tenant}: {type(error).__name__}")
        failures.extend(one.failures)
    if failures:
        raise TimerFailed(failures)
    if away is not None:
        raise away


class TimerTask:
    """One timer in one process: waits, holds its lock, runs it where it is due, notes how it went."""

    def __init__(self, timer: Timer, service: Service, store: Store, locks: TimerLocks, clock: Clock = utc_now) -> None:
        self.timer = timer
        self.service = service
        self.store = store
        self.locks = locks
        self.clock = clock
        self.progress = Progress()
        self.error: str | None = None
        self.failures = 0

    @property
    def stalled_after(self) -> float:
        """Seconds without progress after which it counts as stalled."""
        return self.timer.every.total_seconds() + STALLED_AFTER

    def trouble(self) -> str | None:
        """Return what is wrong with it, for `/livez`: None where its last run here went well."""
        return None if self.error is None else f"{self.failures} runs in a row failed, the last by {self.error}"

    async def run(self) -> None:
        """Look once every period, until cancelled."""
        while True:
            try:
                await self.once()
            except Unavailable:
                _log.warning("database_away", service=self.service.name, timer=self.timer.name)
            self.progress.beat()
            await asyncio.sleep(self.timer.every.total_seconds())

    async def once(self) -> bool:
        """Run the timer where no other process does and it is due; return whether it ran.

        Raises:
            Unavailable: the database does not answer.

        """
        name = self.timer.name
        if not await self.locks.hold(name):
            return False
        try:
            now = self.clock()
            last = await self.store.timers.last(name)
            if last is not None and timedelta(0) <= now - last.started_at < self.timer.every:
                return False
            await self._run(now)
        finally:
            await self.locks.release(name)
        return True

    async def _run(self, now: datetime) -> None:
        labels = (self.service.name, self.timer.name)
        began, error = monotonic(), None
        try:
            await run_once(self.timer, self.service, self.store, now, self.progress.beat)
        except Unavailable:
            self._note("Unavailable")
            raise
        except Exception as raised:  # noqa: BLE001 - it is counted, shown, and tried again: time goes on
            error = type(raised).__name__
            _log.error("timer_failed", service=self.service.name, timer=self.timer.name, **fault(raised))
        self._note(error)
        seconds = monotonic() - began
        RUNS.labels(*labels).observe(seconds)
        LAST.labels(*labels).set(now.timestamp())
        await self.store.timers.note(self.timer.name, now, seconds, error)

    def _note(self, error: str | None) -> None:
        labels = (self.service.name, self.timer.name)
        self.error = error
        self.failures = 0 if error is None else self.failures + 1
        FAILING.labels(*labels).set(self.failures)
        if error is not None:
            FAILURES.labels(*labels).inc()
