"""Secret links to calendars in PostgreSQL: made, looked up by their hash, revoked."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from shared.store.clinics import Clinics
from shared.store.connection import translated

if TYPE_CHECKING:
    from shared.store.store import Transaction

_BYTES = 32


@dataclass(frozen=True, slots=True)
class CalendarOf:
    """Whose calendar a link shows."""

    tenant: str
    actor: str


async def make_link(transaction: Transaction, actor: str, now: datetime) -> str:
    """Return a new secret for an actor's calendar (``Practitioner/<id>``); it cannot be read again."""
    token = secrets.token_urlsafe(_BYTES)
    with translated():
        await transaction.connection.execute(
            "INSERT INTO calendar_link (digest, tenant, actor, created_at) VALUES ($1, $2, $3, $4)",
            _digest(token),
            transaction.tenant,
            actor,
            now,
        )
    return token


async def revoke_links(transaction: Transaction, actor: str, now: datetime) -> int:
    """Make all links to an actor's calendar worthless; return how many there were."""
    with translated():
        done = await transaction.connection.execute(
            "UPDATE calendar_link SET revoked_at = $3 WHERE tenant = $1 AND actor = $2 AND revoked_at IS NULL",
            transaction.tenant,
            actor,
            now,
        )
    return int(done.rsplit(" ", 1)[-1])


class Calendars:
    """The links of one service, for who comes with a secret."""

    def __init__(self, clinics: Clinics) -> None:
        self._clinics = clinics

    async def of(self, token: str) -> CalendarOf | None:
        """Return whose calendar a secret shows; None where there is no such link, or it was revoked."""
        with translated():
            row = await self._clinics.fetchrow(
                "SELECT tenant, actor FROM calendar_link WHERE digest = $1 AND revoked_at IS NULL", _digest(token)
            )
        return None if row is None else CalendarOf(*row)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
