"""Where there is no Kafka: the others have told everything, now and for the length of a test; or an event is parked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from shared.events.codec import unreadable
from shared.events.envelope import Event
from shared.events.handler import Position
from shared.events.shards import SHARDS, shard_of
from shared.events.topics import topic_of
from shared.events.watermark import Watermark
from shared.runtime.consume import ServiceEvents
from shared.runtime.service import Service
from shared.store.store import Store


async def all_is_heard(store: Store, service: Service, *, ago: timedelta = -timedelta(days=1)) -> None:
    """Have a service know everything of those whose events it takes in, up to so long `ago`; by default to tomorrow."""
    until = datetime.now(UTC) - ago
    watermarks = [Watermark(source, shard, until) for source in service.consumes for shard in range(SHARDS)]
    await store.knowledge.hear(service.name, watermarks)


async def not_applied(
    store: Store, service: Service, name: str, key: str, *, tenant: str = "default", ago: timedelta = timedelta(hours=1)
) -> None:
    """Park intake's event of version 2 of a resource (``Consent/1``), of a patient's key, committed so long ago."""
    type_, _, id_ = name.partition("/")
    event = Event(
        id=f"{name}/2",
        source="intake",
        interaction="update",
        type=type_,
        resource_id=id_,
        version=2,
        time=datetime.now(UTC) - ago,
        tenant=tenant,
        key=key,
        shard=shard_of(tenant, key),
        sequence=1,
        body=b"{}",
    )
    await ServiceEvents(service, store).park(event, Position(topic_of("intake"), 0, 1), "it could not be applied")


async def not_read(store: Store, service: Service, *, key: str | None, tenant: str | None = "default") -> None:
    """Park a record of intake's that no program here can read, as its lane does."""
    headers = [] if tenant is None else [("ce_tenant", tenant.encode())]
    place = Position(topic_of("intake"), 0, 2)
    event = unreadable(
        None if key is None else key.encode(), b"{}", headers, topic=place.topic, partition=place.partition,
        offset=place.offset,
    )  # fmt: skip
    await ServiceEvents(service, store).park(event, place, "it cannot be read")
