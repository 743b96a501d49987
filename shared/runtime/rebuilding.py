"""Building anew what a service made of others' events, from nothing, while the service serves.

A second projection (`shared.store.projection`) is filled by a consumer group of its own (``kap.gateway-next``), which
reads what Kafka still holds and is told the rest by replays out of the owners' histories; then it takes the first one's
place. For a service whose tables are copies only: the gateway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from shared.events.consumer import EventConsumer
from shared.events.kafka import KafkaConnection
from shared.fhir.outcome import Unavailable
from shared.runtime.consume import ServiceEvents
from shared.runtime.service import Service
from shared.store import projection
from shared.store.store import Store

_LOOK_SECONDS: Final = 1.0
_CONNECTIONS: Final = 6


class CannotRebuild(Exception):
    """The second projection does not come to hold what the owners have; the first one serves on, unchanged."""


class _Second(ServiceEvents):
    """Takes events into the second projection; how far behind the service is is not its to say."""

    __slots__ = ()

    async def measured(self, lags: Mapping[tuple[str, int], int]) -> None:
        """Note nothing."""


def group_of(service: str) -> str:
    """Return the consumer that fills the second projection of a service: whom owners replay their events to."""
    return f"{service}-next"


async def rebuild(
    service: Service,
    dsn: str,
    kafka: KafkaConnection,
    *,
    partitions: int,
    replay: Callable[[str, str], Awaitable[None]],
    committed: Callable[[], Awaitable[Mapping[str, int]]],
    report: Callable[[str], None],
    patience: float = 120.0,
) -> int:
    """Build the projection of `service` anew, switch, and return how many versions it holds.

    Args:
        service: whose `reactions` are none: its tables are copies, and nothing of its own would be lost.
        dsn: its database.
        kafka: where events come by.
        partitions: of each topic.
        replay: asks an owner to tell all it has to a consumer.
        committed: returns how many versions each owner has committed.
        report: is told how far it is.
        patience: seconds without progress after which it is given up.

    Raises:
        CannotRebuild: it does not come to hold all.
        Conflict: the service has resources of its own.

    """
    if service.reactions:
        raise CannotRebuild(f"{service.title} reacts to events; reactions would run once more. It cannot be rebuilt.")
    await projection.prepare(dsn, service.name)
    store = await Store.connect(projection.second(dsn), service=service.name, publishes=False, max_size=_CONNECTIONS)
    consumer = EventConsumer(
        kafka,
        _Second(service, store),
        service=group_of(service.name),
        sources=service.consumes,
        partitions=partitions,
        concurrency=_CONNECTIONS - 1,
    )
    filling = asyncio.create_task(consumer.run())
    try:
        for source in service.consumes:
            await replay(source, group_of(service.name))
        held = await _filled(store, committed, report, patience)
        report("It holds what the owners have; switching.")
        await _switched(dsn, patience)
    finally:
        filling.cancel()
        with suppress(asyncio.CancelledError):
            await filling
        await store.close()
    await projection.tidy(dsn)
    return held


async def _filled(
    store: Store,
    committed: Callable[[], Awaitable[Mapping[str, int]]],
    report: Callable[[str], None],
    patience: float,
) -> int:
    owed = await committed()  # what comes later is looked for by the switch
    total, moved, before = sum(owed.values()), time.monotonic(), -1
    while True:
        held_of = await store.verify.held()
        held = sum(held_of.get(source, 0) for source in owed)
        if held >= total:
            return held
        if held != before:
            moved, before = time.monotonic(), held
            report(f"{held} of {total} versions.")
        elif time.monotonic() - moved > patience:
            parked = sum((await store.parking.counts(store.service)).values())
            raise CannotRebuild(
                f"{total - held} of {total} versions do not come, and {parked} events are parked. Nothing was changed."
            )
        await asyncio.sleep(_LOOK_SECONDS)


async def _switched(dsn: str, patience: float) -> None:
    deadline = time.monotonic() + patience
    lacks: Mapping[str, int] = {}
    while time.monotonic() < deadline:
        with suppress(Unavailable):
            lacks = await projection.switch(dsn)
            if not lacks:
                return
        await asyncio.sleep(_LOOK_SECONDS / 4)
    raise CannotRebuild(f"No moment was found to switch (still lacking: {dict(lacks)}). Nothing was changed.")
