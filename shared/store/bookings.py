"""Who and what is booked when, in PostgreSQL: held by a constraint, in the transaction that writes the appointment.

Resources have names (``Practitioner/<id>``, ``Location/<id>``); each is created as it is first booked. Who holds it has
one, too: ``Appointment/<id>``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg

from shared.store.connection import Contended, translated

if TYPE_CHECKING:
    from shared.store.store import Transaction


@dataclass(frozen=True, slots=True)
class Claim:
    """What an appointment needs: a resource in [start, end); `lanes`: how many may share it, 0 where nobody may."""

    resource: str
    start: datetime
    end: datetime
    lanes: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """What stands in the way: a resource is held by another, or closed, in [start, end)."""

    resource: str
    start: datetime
    end: datetime
    closed: bool


@dataclass(frozen=True, slots=True)
class Busy:
    """A resource is taken in [start, end): a lane of it, or all of it (None)."""

    resource: str
    start: datetime
    end: datetime
    lane: int | None


async def book(transaction: Transaction, owner: str, claims: Sequence[Claim]) -> list[Taken]:
    """Let `owner` hold what it claims, in place of what it held; return what stands in the way: then nothing changed.

    Who claims a resource waits for the commit of any other who does.

    Raises:
        Contended: somebody booked by another way at the same time; try again.

    """
    with translated():
        try:
            rows = await transaction.connection.fetch(
                "SELECT * FROM kap_book($1, $2, $3, $4, $5, $6)",
                transaction.number,
                owner,
                [claim.resource for claim in claims],
                [claim.lanes for claim in claims],
                [claim.start for claim in claims],
                [claim.end for claim in claims],
            )
        except asyncpg.ExclusionViolationError as error:
            raise Contended("Another booking of the same time came first. Try again.") from error
    return [Taken(*row) for row in rows]


async def book_all(transaction: Transaction, claims: Mapping[str, Sequence[Claim]]) -> dict[str, list[Taken]]:
    """Let each owner hold what it claims, as `book` does, all in one call; return by owner what stands in the way.

    Raises:
        Contended: somebody booked by another way at the same time; try again.

    """
    every = [(owner, claim) for owner, own in claims.items() for claim in own]
    with translated():
        try:
            rows = await transaction.connection.fetch(
                "SELECT * FROM kap_book_all($1, $2, $3, $4, $5, $6)",
                transaction.number,
                [owner for owner, _ in every],
                [claim.resource for _, claim in every],
                [claim.lanes for _, claim in every],
                [claim.start for _, claim in every],
                [claim.end for _, claim in every],
            )
        except asyncpg.ExclusionViolationError as error:
            raise Contended("Another booking of the same time came first. Try again.") from error
    found: dict[str, list[Taken]] = {owner: [] for owner in claims}
    for owner, *taken in rows:
        found[owner].append(Taken(*taken))
    return found


async def unbook(transaction: Transaction, owner: str) -> None:
    """Free what `owner` holds or closes."""
    with translated():
        await transaction.connection.execute("SELECT kap_unbook($1, $2)", transaction.number, owner)


async def close(
    transaction: Transaction, owner: str, resources: Sequence[str], start: datetime, end: datetime
) -> list[str]:
    """Close resources in [start, end), in place of what `owner` closed before; return who holds them in that time."""
    with translated():
        rows = await transaction.connection.fetch(
            "SELECT owner FROM kap_close($1, $2, $3, $4, $5)", transaction.number, owner, list(resources), start, end
        )
    return [row["owner"] for row in rows]


async def busy(transaction: Transaction, resources: Sequence[str], start: datetime, end: datetime) -> list[Busy]:
    """Return what is taken of resources in [start, end), cut to it."""
    with translated():
        rows = await transaction.connection.fetch(
            "SELECT * FROM kap_busy($1, $2, $3, $4)", transaction.number, list(resources), start, end
        )
    return [Busy(*row) for row in rows]
