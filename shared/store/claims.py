"""The pieces of bodies that are ahead of their events: deposited as they come, and given for the event's claim."""

from __future__ import annotations

import asyncio

from shared.events.claims import Piece, redeemed
from shared.events.envelope import Event
from shared.store.clinics import Clinics
from shared.store.connection import Connection, translated

_DEPOSIT = """
INSERT INTO claim_piece (consumer, source, tenant, event_id, number, body) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (consumer, source, tenant, event_id, number)
    DO UPDATE SET body = excluded.body, deposited_at = clock_timestamp()
"""
_OF = "consumer = $1 AND source = $2 AND tenant = $3 AND event_id = $4"
_REDEEM = f"SELECT body FROM claim_piece WHERE {_OF} AND number <= $5 ORDER BY number"
_RELEASE = f"DELETE FROM claim_piece WHERE {_OF}"


class Claims:
    """What waits for its event."""

    def __init__(self, clinics: Clinics) -> None:
        self._clinics = clinics

    async def deposit(self, consumer: str, piece: Piece) -> None:
        """Keep a piece for `consumer`. A repeat replaces it: the owner may have cut the body otherwise since."""
        with translated():
            await self._clinics.execute(
                _DEPOSIT, consumer, piece.source, piece.tenant, piece.event_id, piece.number, piece.body
            )

    async def redeem(self, consumer: str, event: Event) -> bytes | None:
        """Return the body that the event has the claim on, to the byte; None where it has not come, or not all of it.

        The pieces stay until they are released.
        """
        if event.claim is None:
            return event.body
        with translated():
            rows = await self._clinics.fetch(
                _REDEEM, consumer, event.source, event.tenant, event.id, event.claim.pieces
            )
        return await asyncio.to_thread(redeemed, event.claim, [row["body"] for row in rows])


async def release(connection: Connection, consumer: str, event: Event) -> None:
    """Forget the pieces of an event, in the transaction that takes it in or parks it whole."""
    with translated():
        await connection.execute(_RELEASE, consumer, event.source, event.tenant, event.id)
