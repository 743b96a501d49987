"""How far a service has looked through what it wrote before the rules by which it labels now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from shared.store.clinics import Clinics
from shared.store.connection import translated

AFTER_THE_OTHERS: Final = timedelta(minutes=15)
"""How long after the beginning programs of other rules may still write: what is looked at sooner is looked at again."""

_BEGIN: Final = """
INSERT INTO labelling (one, digest, after, finished_at, begun_at)
SELECT true, $1, 0, CASE WHEN new THEN clock_timestamp() END, CASE WHEN new THEN '-infinity' ELSE clock_timestamp() END
FROM (SELECT NOT EXISTS (SELECT FROM resource) AS new) AS q
ON CONFLICT (one) DO UPDATE SET digest = excluded.digest, after = 0, looked = 0, changed = 0, finished_at = NULL,
    begun_at = clock_timestamp() WHERE labelling.digest <> excluded.digest
"""
_PROGRESS: Final = "SELECT after, looked, changed, finished_at IS NOT NULL AS finished FROM labelling WHERE digest = $1"
_NEXT: Final = """
SELECT r.rid, n.name AS tenant, t.name AS type, r.id, h.key, h.body FROM resource r
JOIN tenant n ON n.id = r.tenant JOIN resource_type t ON t.id = r.type
JOIN history h ON h.rid = r.rid AND h.version = r.version
WHERE r.rid > $1 AND r.origin = $2 AND NOT r.deleted ORDER BY r.rid LIMIT $3
"""
_STEP: Final = """
UPDATE labelling SET after = $3, looked = looked + $4, changed = changed + $5,
    finished_at = CASE WHEN $6 THEN clock_timestamp() END
WHERE digest = $1 AND after = $2 AND finished_at IS NULL
"""
_AGAIN: Final = """
UPDATE labelling SET after = 0, finished_at = NULL
WHERE digest = $1 AND finished_at < begun_at + $2::interval AND clock_timestamp() >= begun_at + $2::interval
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: the place up to which was looked, how many were looked at and changed, whether it is finished."""

    after: int
    looked: int
    changed: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Labelled:
    """A resource of the service's own, as it is."""

    rid: int
    tenant: str
    type: str
    id: str
    key: str
    body: bytes


class Labelling:
    """The progress in one service's database."""

    def __init__(self, clinics: Clinics, service: str) -> None:
        self._clinics = clinics
        self._service = service

    async def begin(self, digest: str) -> None:
        """Begin anew where the rules are others than those of this `digest`; an empty database is finished at once."""
        with translated():
            await self._clinics.execute(_BEGIN, digest)

    async def progress(self, digest: str) -> Progress | None:
        """Return how far it is by these rules; None: another program has begun by others."""
        with translated():
            row = await self._clinics.fetchrow(_PROGRESS, digest)
        return None if row is None else Progress(**row)

    async def again(self, digest: str) -> None:
        """Begin once more where the end was reached while programs of other rules may still have written."""
        with translated():
            await self._clinics.execute(_AGAIN, digest, AFTER_THE_OTHERS)

    async def next(self, after: int, limit: int) -> Sequence[Labelled]:
        """Return the next of the service's own resources, of all clinics, behind a place."""
        with translated():
            rows = await self._clinics.fetch(_NEXT, after, self._service, limit)
        return [Labelled(**row) for row in rows]

    async def step(self, digest: str, before: int, after: int, looked: int, changed: int, *, last: bool) -> None:
        """Note that was looked up to a place, unless another process was faster."""
        with translated():
            await self._clinics.execute(_STEP, digest, before, after, looked, changed, last)
