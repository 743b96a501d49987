"""The ledger of controlled substances in PostgreSQL: append-only, in the transaction of what it books.

Each entry holds what its vial contains after it, and a vial's entries are made one after the other (a lock of its own),
so that the balance is right at any instant, whoever books at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from shared.store.connection import translated
from shared.store.keys import condition_lock

if TYPE_CHECKING:
    from shared.store.store import Transaction


@dataclass(frozen=True, slots=True)
class Vial:
    """A container of a controlled substance: its product (NDC), lot and own number."""

    ndc: str
    lot: str
    vial: str

    def __str__(self) -> str:
        """Return it as people write it."""
        return f"{self.ndc} lot {self.lot} vial {self.vial}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is booked: amounts in micrograms. See the table for what each kind needs."""

    kind: str
    ndc: str
    lot: str
    vial: str
    change_ug: int
    occurred_at: datetime
    performer: str
    witness: str | None = None
    counted_ug: int | None = None
    administration: str | None = None
    patient: str | None = None
    form41: str | None = None
    note: str | None = None
    expires: date | None = None

    @property
    def of(self) -> Vial:
        """The vial it is about."""
        return Vial(self.ndc, self.lot, self.vial)


@dataclass(frozen=True, slots=True)
class Booked:
    """An entry of the ledger: its id and place, and what was in the vial after it."""

    sequence: int
    id: str
    balance_ug: int
    recorded_at: datetime
    entry: Entry


@dataclass(frozen=True, slots=True)
class Stock:
    """What a vial held at an instant, in micrograms, and until when it may be used."""

    of: Vial
    balance_ug: int
    expires: date | None


_ENTRY = tuple(one.name for one in fields(Entry))
_COLUMNS = ", ".join(_ENTRY)


class Substances:
    """The ledger, as one transaction sees it."""

    def __init__(self, transaction: Transaction) -> None:
        self._connection = transaction.connection
        self._tenant = transaction.tenant

    async def hold(self, vial: Vial) -> None:
        """Let one transaction at a time book on a vial; the others wait for its commit."""
        with translated():
            await self._connection.execute(
                "SELECT pg_advisory_xact_lock($1)", condition_lock(self._tenant, f"substance {vial}")
            )

    async def balance(self, vial: Vial, at: datetime | None = None) -> int | None:
        """Return what a vial holds, or held at a time, in micrograms; None: it never came in (until then)."""
        with translated():
            if at is None:
                last = await self._connection.fetchval(
                    "SELECT balance_ug FROM substance_event WHERE tenant = $1 AND ndc = $2 AND lot = $3 AND vial = $4 "
                    "ORDER BY sequence DESC LIMIT 1",
                    self._tenant,
                    vial.ndc,
                    vial.lot,
                    vial.vial,
                )
                return None if last is None else int(last)
            held = await self._connection.fetchval(
                "SELECT sum(change_ug) FROM substance_event WHERE tenant = $1 AND ndc = $2 AND lot = $3 AND vial = $4 "
                "AND occurred_at <= $5",
                self._tenant,
                vial.ndc,
                vial.lot,
                vial.vial,
                at,
            )
            return None if held is None else int(held)

    async def book(self, entry: Entry) -> Booked:
        """Append an entry. The vial must be held (`hold`), and must hold what is taken out."""
        before = await self.balance(entry.of) or 0
        values = [getattr(entry, name) for name in _ENTRY]
        numbers = ", ".join(f"${number}" for number in range(1, len(values) + 4))
        with translated():
            row = await self._connection.fetchrow(
                f"INSERT INTO substance_event ({_COLUMNS}, id, tenant, balance_ug) VALUES ({numbers}) "
                "RETURNING sequence, id, balance_ug, recorded_at",
                *values,
                uuid4(),
                self._tenant,
                before + entry.change_ug,
            )
        assert row is not None  # noqa: S101 - an INSERT that did not raise returns its row
        return Booked(row[0], str(row[1]), row[2], row[3], entry)

    async def least(self, vial: Vial, since: datetime) -> int | None:
        """Return the least that a vial held at `since` or at any time after it; None: it had not come in by then."""
        at = await self.balance(vial, since)
        if at is None:
            return None
        with translated():
            later = await self._connection.fetchval(
                "SELECT min(e.held)::bigint FROM (SELECT occurred_at, sum(change_ug) OVER (ORDER BY occurred_at) "
                "AS held FROM substance_event WHERE tenant = $1 AND ndc = $2 AND lot = $3 AND vial = $4) e "
                "WHERE e.occurred_at >= $5",
                self._tenant,
                vial.ndc,
                vial.lot,
                vial.vial,
                since,
            )
        return at if later is None else min(at, int(later))

    async def expires(self, vial: Vial) -> date | None:
        """Return the last day on which a vial may be used, full or empty; None: nobody said."""
        with translated():
            said = await self._connection.fetchval(
                "SELECT max(expires) FROM substance_event WHERE tenant = $1 AND ndc = $2 AND lot = $3 AND vial = $4",
                self._tenant,
                vial.ndc,
                vial.lot,
                vial.vial,
            )
        return said if isinstance(said, date) else None

    async def entries(
        self, *, since: datetime | None = None, until: datetime | None = None, administration: str | None = None
    ) -> Sequence[Booked]:
        """Return entries of a time (both ends included), or of a dose, in the order in which they were made."""
        asked = {"occurred_at >=": since, "occurred_at <=": until, "administration =": administration}
        named = {condition: value for condition, value in asked.items() if value is not None}
        where = "".join(f" AND {condition} ${number}" for number, condition in enumerate(named, start=2))
        with translated():
            rows = await self._connection.fetch(
                f"SELECT sequence, id, balance_ug, recorded_at, {_COLUMNS} FROM substance_event WHERE tenant = $1"
                f"{where} ORDER BY sequence",
                self._tenant,
                *named.values(),
            )
        return [Booked(row[0], str(row[1]), row[2], row[3], Entry(*row[4:])) for row in rows]

    async def stock(self, at: datetime) -> Sequence[Stock]:
        """Return what every vial held at a time, those that were empty left out."""
        with translated():
            rows = await self._connection.fetch(
                "SELECT ndc, lot, vial, sum(change_ug)::bigint, max(expires) FROM substance_event "
                "WHERE tenant = $1 AND occurred_at <= $2 GROUP BY ndc, lot, vial HAVING sum(change_ug) <> 0 "
                "ORDER BY ndc, lot, vial",
                self._tenant,
                at,
            )
        return [Stock(Vial(row[0], row[1], row[2]), row[3], row[4]) for row in rows]
