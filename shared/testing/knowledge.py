"""Where there is no Kafka: the others have told everything, now and for the length of a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shared.events.shards import SHARDS
from shared.events.watermark import Watermark
from shared.runtime.service import Service
from shared.store.store import Store


async def all_is_heard(store: Store, service: Service, *, ago: timedelta = -timedelta(days=1)) -> None:
    """Have a service know everything of those whose events it takes in, up to so long `ago`; by default to tomorrow."""
    until = datetime.now(UTC) - ago
    watermarks = [Watermark(source, shard, until) for source in service.consumes for shard in range(SHARDS)]
    await store.knowledge.hear(service.name, watermarks)
