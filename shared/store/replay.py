"""History as events: what a service committed, again, in the order it was committed in along every key.

Replay reads PostgreSQL, never Kafka: topics keep days, history keeps everything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from shared.events.envelope import Event
from shared.events.shards import shard_of
from shared.store.connection import Pool, translated

_BATCH: Final = 500
_SINCE = """
SELECT h.sequence, h.version, h.last_updated, h.interaction, h.key, h.labels, h.request_id, h.traceparent, h.body,
       r.id, t.name AS tenant, k.name AS type
FROM history h
JOIN resource r ON r.rid = h.rid
JOIN tenant t ON t.id = r.tenant
JOIN resource_type k ON k.id = r.type
WHERE h.origin = $1 AND h.sequence IS NOT NULL AND h.sequence > $2
  AND ($3::timestamptz IS NULL OR h.last_updated >= $3)
  AND ($4::text IS NULL OR h.key = $4)
  AND ($5::text IS NULL OR t.name = $5)
ORDER BY h.sequence LIMIT $6
"""


class Replay:
    """The service's own history."""

    def __init__(self, pool: Pool, service: str) -> None:
        self._pool = pool
        self._service = service

    async def events_since(
        self,
        *,
        sequence: int = 0,
        time: datetime | None = None,
        key: str | None = None,
        tenant: str | None = None,
    ) -> AsyncIterator[Event]:
        """Yield the service's events after an outbox sequence, or from a time on; of one key, or of all.

        An event that is repeated is equal to the first one, its id and sequence included. What is committed while this
        runs may come or not; the relay sends it.
        """
        while True:
            with translated():
                rows = await self._pool.fetch(_SINCE, self._service, sequence, time, key, tenant, _BATCH)
            for row in rows:
                yield Event(
                    id=f"{row['type']}/{row['id']}/{row['version']}",
                    source=self._service,
                    interaction=row["interaction"],
                    type=row["type"],
                    resource_id=row["id"],
                    version=row["version"],
                    time=row["last_updated"],
                    tenant=row["tenant"],
                    key=row["key"],
                    shard=shard_of(row["tenant"], row["key"]),
                    sequence=row["sequence"],
                    body=row["body"],
                    labels=tuple(row["labels"]),
                    request_id=row["request_id"],
                    traceparent=row["traceparent"],
                )
            if len(rows) < _BATCH:
                return
            sequence = rows[-1]["sequence"]
