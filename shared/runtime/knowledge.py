"""How old what a service knows of others is, and what others do not know of it yet, for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import Gauge

from shared.events import metrics
from shared.fhir.freshness import as_words
from shared.fhir.outcome import Unavailable
from shared.store.knowledge import consents_known

if TYPE_CHECKING:
    from uuid import UUID

    from shared.fhir.freshness import Freshness
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


async def require_news_of_consents(service: Service, store: Store, news: Freshness, tenant: str) -> frozenset[UUID]:
    """Pass where what a service knows of consents by events is new enough to tell somebody outside anything.

    Returns:
        The patients of whom nothing is told all the same (`Disclosure.doubted`).

    Raises:
        Unavailable: it is not, or this service does not hold consents.

    """
    if "Consent" not in service.holds:
        raise Unavailable(f"{service.title} does not know of patients' consents. Ask the gateway.")
    async with store.transaction(keys=(), tenant=tenant) as transaction:
        known = await consents_known(transaction.connection, service.name, news, tenant)
    if known.unheard:
        said = as_words(known.unheard)
        raise Unavailable(f"What is known of patients' consents may be too old ({said}). Try again.")
    return known.doubted
