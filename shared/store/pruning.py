"""Forgetting what has served: events that were published, and what was noted of events that were applied.

Deletes are small, each a transaction of its own, so that none holds anything up for long. What is lost with these rows
is only what they say of the way: history keeps every event's content (`Replay`), copies their versions, and the inbox
its positions.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from shared.store.clinics import Clinics
from shared.store.connection import translated

ROWS: Final = 1000
"""Rows that one delete looks at, at most."""

# Rows were made in the order of their sequence, but for writers that overlapped: where the last one looked at is
# young, so are all after it.
_OUTBOX = """
WITH looked_at AS (
    SELECT sequence, created_at, published_at FROM outbox WHERE sequence > $2 ORDER BY sequence LIMIT $3
), gone AS (
    DELETE FROM outbox WHERE sequence IN (SELECT sequence FROM looked_at WHERE published_at < $1) RETURNING 1
), last AS (
    SELECT sequence, created_at FROM looked_at ORDER BY sequence DESC LIMIT 1
)
SELECT (SELECT count(*) FROM gone) AS gone, last.sequence, last.created_at < $1 AS old FROM last
"""
_INBOX = """
DELETE FROM inbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM inbox WHERE applied_at < $1 ORDER BY applied_at LIMIT $2))
"""
_PIECES = """
DELETE FROM claim_piece WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM claim_piece WHERE deposited_at < $1 ORDER BY deposited_at LIMIT $2))
"""


class Pruning:
    """What may be forgotten of one service's database."""

    def __init__(self, clinics: Clinics) -> None:
        self._clinics = clinics

    async def outbox(self, before: datetime, *, after: int = 0, rows: int = ROWS) -> tuple[int, int | None]:
        """Delete events that were published before a time; those that wait to be published stay, however old.

        Looks at so many rows from sequence `after` on. Returns how many are gone, and the sequence to go on after;
        None where there is nothing as old any more.
        """
        with translated():
            row = await self._clinics.fetchrow(_OUTBOX, before, after, rows)
        if row is None:
            return 0, None
        return row["gone"], row["sequence"] if row["old"] else None

    async def inbox(self, before: datetime, *, rows: int = ROWS) -> int:
        """Forget events that were applied before a time, so many at most; return how many.

        Kafka must not be able to bring them again: they would be applied again.
        """
        with translated():
            done = await self._clinics.execute(_INBOX, before, rows)
        return int(done.rsplit(" ", 1)[-1])

    async def pieces(self, before: datetime, *, rows: int = ROWS) -> int:
        """Forget pieces deposited before a time whose event never came, so many at most; return how many."""
        with translated():
            done = await self._clinics.execute(_PIECES, before, rows)
        return int(done.rsplit(" ", 1)[-1])
