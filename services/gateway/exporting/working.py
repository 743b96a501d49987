"""The worker's part of exports: one after the other is taken from the line and becomes a list of versions, or fails.

The list is made in one transaction. Who is killed at it leaves nothing, the lock ends with his connection, and the next
worker begins it again; what is complete is complete. Any number of workers may run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from prometheus_client import Counter, Gauge, Histogram

from services.gateway.catalog import OWNERS
from services.gateway.exporting.asked import Asked
from services.gateway.exporting.caller import Who, members, wanted_by
from shared.fhir.freshness import Freshness, KnowledgePolicy
from shared.fhir.outcome import FhirError, Unavailable
from shared.runtime.app import Background
from shared.runtime.logging import fault
from shared.runtime.policy import load_policy
from shared.security.notice import NOTICE
from shared.store.connection import Contended
from shared.store.exports import LONGEST_WRITE, Listing, Miscounted, snapshot
from shared.store.knowledge import consents_known

if TYPE_CHECKING:
    from shared.runtime.app import Parts
    from shared.security.caller import Caller
    from shared.store.exports import Job
    from shared.store.store import Store

LOOK_SECONDS: Final = 0.5
EXPIRE_SECONDS: Final = 60.0

PATIENCE: Final = timedelta(seconds=30)
"""For so long one of the clinic's own waits for news that is new enough; then it says what may lack."""

MOST_PATIENCE: Final = timedelta(minutes=10)
"""For so long one waits that cannot be without news: of somebody outside, or where an owner never spoke."""

EXPORTS: Final = Counter("kap_exports_total", "Exports that were ended, by how", ("service", "result"))
WAITING: Final = Gauge("kap_exports_waiting", "Exports in line", ("service",))
SECONDS: Final = Histogram("kap_export_seconds", "How long the list of an export took", ("service",))
LINES: Final = Counter("kap_export_lines_total", "Resources that exports came to", ("service",))

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Wrong(Exception):
    """The export cannot be made; the message is for who asked."""


@dataclass(frozen=True, slots=True)
class Exporting:
    """What makes the lists of one gateway's exports. `news`: how old it may be where somebody is told."""

    store: Store
    service: str
    news: Freshness

    async def run(self, beat: Callable[[], None]) -> None:
        """Take exports from the line until cancelled."""
        loop = asyncio.get_running_loop()
        expired = 0.0
        while True:
            beat()
            if loop.time() - expired > EXPIRE_SECONDS:
                await self.store.exports.expire()
                expired = loop.time()
            waiting = await self.store.exports.waiting()
            WAITING.labels(self.service).set(len(waiting))
            for job in waiting:
                await self._attempt(job, beat)
            await asyncio.sleep(LOOK_SECONDS)

    async def _attempt(self, job: Job, beat: Callable[[], None]) -> None:
        working = asyncio.create_task(self.attempt(job))
        try:
            while not (await asyncio.wait((working,), timeout=LOOK_SECONDS))[0]:
                beat()
            working.result()
        finally:
            working.cancel()

    async def attempt(self, job: Job) -> bool:
        """Make the list of an export, if it is to be made now and nobody else makes it; return whether it was ended."""
        try:
            made = await self._listed(job)
        except Contended:
            return False  # another worker ended it, or its client did
        except Unavailable:
            _log.warning("export_waits_for_database", service=self.service)
            return False
        except (Wrong, FhirError) as error:
            await self._fail(job, str(error))
            return True
        except Exception as error:  # noqa: BLE001 - whatever it is, it would be so again: the line goes on
            _log.error("export_failed", service=self.service, **fault(error))
            said = "It met a fault of the server, or was miscounted." if not isinstance(error, Miscounted) else (
                "What was listed is not what is there; the record was made anew meanwhile, perhaps."
            )  # fmt: skip
            await self._fail(job, said)
            return True
        if made is None:
            return False
        EXPORTS.labels(self.service, "complete").inc()
        LINES.labels(self.service).inc(made)
        return True

    async def _fail(self, job: Job, said: str) -> None:
        EXPORTS.labels(self.service, "failed").inc()
        await self.store.exports.end(job, "failed", said)

    async def _listed(self, job: Job) -> int | None:
        """Return how many resources an export came to; None: it is not its time, or another's work."""
        asked, who = read(job)
        caller = who.caller(job.tenant)
        async with snapshot(self.store, job.tenant) as transaction:
            listing = Listing(transaction, job)
            if not await listing.begin():
                return None
            news, now = await listing.news(self.service, OWNERS), await listing.now()
            if caller.disclosure is None:
                said = self._judge(job, caller, news, now)
            else:
                # What is parked of one patient keeps nobody outside waiting; of whom it is a Consent, nothing is told.
                consents = await consents_known(transaction.connection, self.service, self.news, job.tenant)
                caller = replace(caller, disclosure=replace(caller.disclosure, doubted=consents.doubted))
                heard = await listing.news(self.service, OWNERS, parked=False)
                heard |= {one.source: None for one in consents.unheard if heard.get(one.source) is not None}
                said = self._judge(job, caller, heard, now)
            if said is None:
                return None
            with SECONDS.labels(self.service).time():
                of_group = await members(transaction, caller, asked.group) if asked.level == "group" else None
                several = wanted_by(caller, asked, of_group)
                count = sum([await listing.add(one) for one in several])
                if asked.since is not None:
                    count += sum([await listing.add(one, deleted=True) for one in several])
            if caller.disclosure is not None and await listing.tells_of_a_programme():
                said.append(NOTICE)
            if asked.ignored:
                said.append(f"Not known to $export, and left out: {', '.join(asked.ignored)}.")
            known = min(until for until in news.values() if until is not None)
            await listing.finish(known - LONGEST_WRITE, said)
        return count

    def _judge(self, job: Job, caller: Caller, news: Mapping[str, datetime | None], now: datetime) -> list[str] | None:
        """Return what is to be said of how old the news is; None: wait for more.

        Raises:
            Wrong: it was waited for long enough.

        """
        unheard = sorted(source for source, until in news.items() if until is None)
        late = sorted(
            source
            for source, until in news.items()
            if until is not None and now - until > timedelta(seconds=self.news.seconds)
        )
        waited = now - job.asked_at
        if unheard or (late and caller.disclosure is not None):
            if waited > MOST_PATIENCE:
                raise Wrong(f"There is no news that is new enough of {', '.join(unheard + late)}. Ask again later.")
            return None
        if late and waited <= PATIENCE:
            return None
        return [_may_lack(source, news[source]) for source in late]


def _may_lack(source: str, until: datetime | None) -> str:
    said = "" if until is None else until.isoformat(timespec="seconds")
    return f"What {source} committed after {said} may be missing: nothing was heard of it since."


def read(job: Job) -> tuple[Asked, Who]:
    """Return what an export asks for, and who."""
    kept = msgspec.json.decode(job.asked, type=Kept)
    return kept.asked, kept.who


class Kept(msgspec.Struct, frozen=True):
    """What an export's row keeps."""

    asked: Asked
    who: Who


async def _run(parts: Parts, beat: Callable[[], None]) -> None:
    news = load_policy(parts.settings.policy).section("knowledge", KnowledgePolicy).disclosure
    await Exporting(parts.store, parts.service.name, news).run(beat)


EXPORT_TASK: Final = Background("exports", _run)
