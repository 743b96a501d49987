"""Counts and hashes of what is held, to compare one service's with another's hop by hop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shared.fhir.definitions import type_id
from shared.store.access import Access, Disclosure
from shared.store.clinics import Clinics
from shared.store.comparisons import Binder
from shared.store.connection import translated
from shared.store.types import Digest
from shared.store.visibility import consented

# The sum of 64 bits of each version's SHA-256 does not depend on order, and differs where any byte does.
_DIGEST = """
SELECT k.name AS type, h.origin, count(*) AS versions,
       count(*) FILTER (WHERE h.version = r.version AND NOT r.deleted) AS current,
       mod(sum(('x' || encode(substr(sha256(h.body), 1, 8), 'hex'))::bit(64)::bigint::numeric),
           18446744073709551616) AS content
FROM history h
JOIN resource r ON r.rid = h.rid
JOIN resource_type k ON k.id = r.type
WHERE ($1::timestamptz IS NULL OR h.last_updated >= $1) AND ($2::timestamptz IS NULL OR h.last_updated < $2)
GROUP BY k.name, h.origin ORDER BY k.name, h.origin
"""
_VERSIONS = """
SELECT r.rid, r.id, h.version, h.origin, sha256(h.body) AS hash
FROM history h JOIN resource r ON r.rid = h.rid
WHERE r.type = $1 AND (r.id, h.version) > ($2, $3)
  AND ($4::timestamptz IS NULL OR h.last_updated >= $4) AND ($5::timestamptz IS NULL OR h.last_updated < $5)
ORDER BY r.id, h.version LIMIT $6
"""
_DISCLOSABLE = """
SELECT r.id, r.version, coalesce({may}, false) AS permitted, (
    SELECT greatest(max(h.last_updated), (
        SELECT max(b.at) FROM consent_rule u CROSS JOIN LATERAL (VALUES (u.low), (u.high)) AS b(at)
        WHERE u.tenant = tn.id AND u.patient = r.patient AND b.at <= now()))
    FROM resource x JOIN history h ON h.rid = x.rid
    WHERE x.tenant = tn.id AND x.patient = r.patient AND x.type = {consent}) AS changed
FROM tenant tn JOIN resource r ON r.tenant = tn.id AND r.type = {type_} AND NOT r.deleted
WHERE tn.name = {tenant} AND r.id > {after} ORDER BY r.id LIMIT {limit}
"""
_OUTBOX = """
SELECT (SELECT count(*) FROM history WHERE origin = $1 AND sequence IS NOT NULL) AS written,
       count(*) AS pending,
       extract(epoch FROM clock_timestamp() - min(created_at))::float8 AS oldest
FROM outbox WHERE published_at IS NULL
"""
_UNPUBLISHED = """
SELECT count(*) AS pending, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest
FROM outbox WHERE published_at IS NULL
"""
_INBOX = "SELECT consumer, source, count(*) AS applied, max(applied_at) AS last FROM inbox GROUP BY 1, 2 ORDER BY 1, 2"
_PUBLISHING = """
SELECT count(*) AS count, percentile_cont(ARRAY[0.5, 0.95, 1.0])
    WITHIN GROUP (ORDER BY extract(epoch FROM published_at - created_at)) AS seconds
FROM outbox WHERE published_at >= $1
"""
_APPLYING = """
SELECT source, count(*) AS count, percentile_cont(ARRAY[0.5, 0.95, 1.0])
    WITHIN GROUP (ORDER BY extract(epoch FROM applied_at - time)) AS seconds
FROM inbox WHERE applied_at >= $1 GROUP BY source ORDER BY source
"""
_BATCH: Final = 1000
_SLOW = 120.0


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one resource: its id, number, owner, and the SHA-256 of its body."""

    id: str
    version: int
    origin: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Disclosable:
    """Whether a resource may be told to somebody now; `changed`: when what its patient's consents say last changed."""

    id: str
    version: int
    permitted: bool
    changed: datetime | None


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """Events ever written, those not published yet, and the age of the oldest of these in seconds (None: none)."""

    written: int
    pending: int
    oldest_seconds: float | None

    @property
    def published(self) -> int:
        """Events that the broker acknowledged."""
        return self.written - self.pending


@dataclass(frozen=True, slots=True)
class InboxCounts:
    """Events that a consumer applied of a source (of those not yet forgotten), and when it last did."""

    consumer: str
    source: str
    applied: int
    last: datetime


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from a commit to a hop.

    `hop` is ``published`` (from the outbox row to the broker's acknowledgement) or ``applied`` (from the event's time
    to the consumer's row); `source` is the service that committed.
    """

    hop: str
    source: str
    count: int
    median: float
    p95: float
    maximum: float


class Verification:
    """Questions about everything that one service holds, of all tenants."""

    def __init__(self, clinics: Clinics, service: str) -> None:
        self._clinics = clinics
        self._service = service

    async def digest(self, *, since: datetime | None = None, until: datetime | None = None) -> list[Digest]:
        """Return a digest by type and owner, of the versions committed in [since, until), deletions among them."""
        with translated():
            rows = await self._clinics.fetch(_DIGEST, since, until, timeout=_SLOW)
        return [
            Digest(
                type=row["type"],
                origin=row["origin"],
                versions=row["versions"],
                current=row["current"],
                content=int(row["content"]) % 2**64,
            )
            for row in rows
        ]

    async def versions(
        self, type_: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[Version]:
        """Yield every version of a type, by id and number: to find what differs where digests do."""
        place = ("", 0)
        while True:
            with translated():
                rows = await self._clinics.fetch(_VERSIONS, type_id(type_), *place, since, until, _BATCH, timeout=_SLOW)
            for row in rows:
                yield Version(row["id"], row["version"], row["origin"], row["hash"])
            if len(rows) < _BATCH:
                return
            place = (rows[-1]["id"], rows[-1]["version"])

    async def disclosable(self, tenant: str, type_: str, told: Disclosure) -> AsyncIterator[Disclosable]:
        """Yield, by id, of each current resource of a type whether consents held here let it be told to somebody."""
        after = ""
        while True:
            bind = Binder()
            statement = _DISCLOSABLE.format(
                may=" AND ".join(consented(Access.outside(tenant, told), bind, "tn.id", [type_])) or "true",
                consent=bind(type_id("Consent"), "smallint"),
                type_=bind(type_id(type_), "smallint"),
                tenant=bind(tenant, "text"),
                after=bind(after, "text"),
                limit=bind(_BATCH, "integer"),
            )
            with translated():
                rows = await self._clinics.fetch(statement, *bind.arguments, timeout=_SLOW)
            for row in rows:
                yield Disclosable(row["id"], row["version"], row["permitted"], row["changed"])
            if len(rows) < _BATCH:
                return
            after = rows[-1]["id"]

    async def outbox(self) -> OutboxCounts:
        """Return the outbox's counts."""
        with translated():
            row = await self._clinics.fetchrow(_OUTBOX, self._service, timeout=_SLOW)
        assert row is not None  # noqa: S101 - an aggregate answers one row
        return OutboxCounts(row["written"], row["pending"], row["oldest"])

    async def held(self) -> dict[str, int]:
        """Return how many versions are held, by owner, deletions among them: cheaper than `digest`."""
        with translated():
            rows = await self._clinics.fetch("SELECT origin, count(*) AS n FROM history GROUP BY origin", timeout=_SLOW)
        return {row["origin"]: row["n"] for row in rows}

    async def unpublished(self) -> tuple[int, float]:
        """Return how many events are not published yet, and the age of the oldest in seconds, 0 where there is none."""
        with translated():
            row = await self._clinics.fetchrow(_UNPUBLISHED)
        assert row is not None  # noqa: S101 - an aggregate answers one row
        return row["pending"], row["oldest"]

    async def inbox(self) -> list[InboxCounts]:
        """Return the inbox's counts by consumer and source."""
        with translated():
            rows = await self._clinics.fetch(_INBOX, timeout=_SLOW)
        return [InboxCounts(row["consumer"], row["source"], row["applied"], row["last"]) for row in rows]

    async def latencies(self, since: datetime) -> list[Latency]:
        """Return how long each hop took for what passed it since a time."""
        with translated():
            published = await self._clinics.fetch(_PUBLISHING, since, timeout=_SLOW)
            applied = await self._clinics.fetch(_APPLYING, since, timeout=_SLOW)
        hops = [("published", self._service, row) for row in published]
        hops += [("applied", row["source"], row) for row in applied]
        return [_latency(hop, source, row["count"], row["seconds"]) for hop, source, row in hops if row["count"]]


def _latency(hop: str, source: str, count: int, seconds: Sequence[float]) -> Latency:
    median, p95, maximum = seconds
    return Latency(hop, source, count, median, p95, maximum)
