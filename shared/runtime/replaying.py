"""Telling again what was committed: a worker works off the replays that an operator asked for (`./kap replay`).

Events come from PostgreSQL's history and go the way of all events, in order along each key, with their first ids and
sequences; so a consumer that had applied one takes it for the repeat that it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from prometheus_client import Counter

from shared.events.envelope import Event
from shared.events.producer import PublishError
from shared.fhir.outcome import Unavailable
from shared.store.replay import Replay

REPLAYED: Final = Counter("kap_events_replayed_total", "Events told again by an operator's word", ("service",))

_LOOK_SECONDS: Final = 1.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Publisher(Protocol):
    """Publishes events; `EventProducer` is the real one."""

    async def publish(self, events: Sequence[Event]) -> None:
        """Return when all are acknowledged, else raise `PublishError`."""
        ...

    async def stop(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True, slots=True)
class Replaying:
    """What tells the events of one service again, in one process."""

    service: str
    replay: Replay
    publisher: Publisher

    async def run(self, beat: Callable[[], None]) -> None:
        """Work off what is asked for, until cancelled; Kafka or the database being away is waited for."""
        try:
            while True:
                try:
                    more = await self.once()
                except (Unavailable, PublishError) as error:
                    _log.warning("replay_waits", service=self.service, error=type(error).__name__)
                    more = False
                beat()
                if not more:
                    await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await self.publisher.stop()

    async def once(self) -> bool:
        """Tell one batch; return whether there was anything to tell.

        Raises:
            Unavailable: no database now; nothing of the batch is noted.
            PublishError: not all were acknowledged; the batch is told again.

        """
        async with self.replay.batch() as events:
            if events is None:
                return False
            await self.publisher.publish(events)
            REPLAYED.labels(self.service).inc(len(events))
        return True
