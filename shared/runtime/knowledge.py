"""How old what a service knows of others is, and what others do not know of it yet, for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import Gauge

from shared.events import metrics
from shared.fhir.outcome import Unavailable

if TYPE_CHECKING:
    from shared.runtime.service import Service
    from shared.store.store import Store

AGE: Final = Gauge(
    "kap_knowledge_age_seconds",
    "How old what is known of a source is, of its oldest shard: the lag in seconds; NaN: never heard of all",
    ("service", "source"),
)

_LOOK_SECONDS: Final = 5.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def watch(service: Service, store: Store, beat: Callable[[], None]) -> None:
    """Keep the gauges of what this service knows and has told, until cancelled; they grow while Kafka is away, too."""
    while True:
        try:
            if service.publishes:
                pending, oldest = await store.verify.unpublished()
                metrics.OUTBOX_PENDING.labels(service.name).set(pending)
                metrics.OUTBOX_AGE.labels(service.name).set(oldest)
            for one in await store.knowledge.by_source(service.name, service.consumes):
                AGE.labels(service.name, one.source).set(float("nan") if one.seconds is None else one.seconds)
        except Unavailable:
            _log.warning("database_away", service=service.name)
        beat()
        await asyncio.sleep(_LOOK_SECONDS)
