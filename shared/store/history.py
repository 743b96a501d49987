"""Histories of one resource, of a type, of everything: pages of versions, newest first, deletions among them.

A page of one resource goes by its primary key, the others by an index on (type and) time. A copy that an event brings
late takes its place by its owner's time. A page ends early where a reference on it would mean two of its entries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from asyncpg import Record

from shared.fhir.definitions import TYPE_IDS
from shared.fhir.history import HistoryQuery
from shared.fhir.outcome import BadRequest, NotFound
from shared.store.access import Access
from shared.store.comparisons import Binder
from shared.store.connection import Connection, translated
from shared.store.cursor import Cursor, decode, encode
from shared.store.types import Page, Stored
from shared.store.visibility import visible

_TYPE_NAMES: Final = {number: name for name, number in TYPE_IDS.items()}
_LAST_VERSION: Final = 2**31 - 1

_REFERENCE: Final = re.compile(rb'"reference"\s*:\s*"([A-Za-z]+/[A-Za-z0-9.-]{1,64})"')
"""To a resource of this record, whichever its version; what is longer, as one to a version is, does not match."""

_COLUMNS = "r.id, h.type, h.rid, h.version, h.last_updated, h.origin, h.interaction, h.body"


async def history(
    connection: Connection, access: Access, tenant: int, query: HistoryQuery, *, cursor: str | None
) -> Page:
    """Return a page of versions; from `cursor` on.

    Raises:
        NotFound: a history of one resource, and there never was one that the caller may see.
        BadRequest: the cursor cannot be read.

    """
    of_one = query.id is not None
    sql, arguments = compiled(query, access, tenant, cursor)
    with translated():
        # How frequent the type is decides between the indexes, so its value has to be known to the planner.
        await connection.plan("force_generic_plan" if of_one else "force_custom_plan")
        rows = await connection.fetch(sql, *arguments)
    if of_one and not rows and not await _known(connection, access, tenant, query):
        raise NotFound(f"There is no {query.type}/{query.id} here.")
    entries = [Stored.of(_TYPE_NAMES[row["type"]], row) for row in rows[: query.count]]
    held = unambiguous(entries)
    following = _after(rows[held - 1], of_one=of_one) if len(rows) > held else None
    return Page(entries[:held], next=following)


def unambiguous(versions: Sequence[Stored]) -> int:
    """Return how many of the first `versions` stand in one Bundle without a reference that means two of them.

    Versions of one resource share a fullUrl (bdl-7, bdl-8), and a reference is resolved by it: "if multiple matches are
    found, it is ambiguous which is correct". One that names a version is not.
    Source: https://hl7.org/fhir/R4/bundle.html#references
    """
    times: dict[bytes, int] = {}
    referred: set[bytes] = set()
    for at, version in enumerate(versions):
        name = f"{version.type}/{version.id}".encode()
        times[name] = times.get(name, 0) + 1
        refers = set() if version.deleted else set(_REFERENCE.findall(version.body))
        referred |= refers
        if any(times.get(one, 0) > 1 and one in referred for one in (name, *refers)):
            return at
    return len(versions)


def compiled(query: HistoryQuery, access: Access, tenant: int, cursor: str | None) -> tuple[str, list[object]]:
    """Return the statement for a page and one row more, which tells whether there is a next page."""
    statement = _Statement(access, tenant, query.type)
    if query.type is not None:
        number = TYPE_IDS.get(query.type)
        if number is None:
            raise NotFound(f"{query.type} is not a resource type of FHIR R4.")
        statement.require("h.type = {}", number)
    if query.id is not None:
        statement.require("r.tenant = $1 AND r.type = h.type AND r.id = {}", query.id)
    if query.since is not None:
        statement.require("h.last_updated >= {}", query.since)
    if query.at is not None:
        low, high = query.at
        statement.require("h.last_updated < {}", high)
        statement.require("(h.interaction <> 'delete' OR h.last_updated >= {})", low)
        statement.require(
            "NOT EXISTS (SELECT FROM history n WHERE n.rid = h.rid AND n.version > h.version AND n.last_updated <= {})",
            low,
        )
    if cursor is not None:
        if query.id is not None:
            statement.require("h.version < {}", _version_of(cursor))
        else:
            statement.require("(h.last_updated, h.rid, h.version) < ({}, {}, {})", *_place_of(cursor))
    order = "h.last_updated DESC, h.rid DESC, h.version DESC" if query.id is None else "h.version DESC"
    return statement.sql(order, query.count + 1), statement.arguments


class _Statement:
    """A SELECT put together from conditions; every value is a parameter."""

    def __init__(self, access: Access, tenant: int, type_: str | None) -> None:
        self._bind = Binder()
        self._conditions = [f"h.tenant = {self._bind(tenant, 'integer')}"]
        if access.origin is not None:
            self._conditions.append(f"h.origin = {self._bind(access.origin, 'text')}")
        if access.hidden_labels:
            self._conditions.append(f"NOT h.labels && {self._bind(sorted(access.hidden_labels), 'text[]')}")
        types = None if type_ is None or type_ not in TYPE_IDS else (type_,)
        self._conditions += visible(replace(access, origin=None), self._bind, "$1", types, version="h")

    @property
    def arguments(self) -> list[object]:
        """The values of its parameters."""
        return self._bind.arguments

    def require(self, condition: str, *values: object) -> None:
        """Add a condition, with a ``{}`` for each value."""
        begin = len(self.arguments) + 1
        self.arguments.extend(values)
        self._conditions.append(condition.format(*(f"${begin + n}" for n in range(len(values)))))

    def sql(self, order: str, limit: int) -> str:
        """Return the statement."""
        self.arguments.append(limit)
        return (
            f"SELECT {_COLUMNS} FROM history h JOIN resource r ON r.rid = h.rid "
            f"WHERE {' AND '.join(self._conditions)} ORDER BY {order} LIMIT ${len(self.arguments)}"
        )


async def _known(connection: Connection, access: Access, tenant: int, query: HistoryQuery) -> bool:
    """Tell whether there is any version that the caller may see, where none is on the page asked for."""
    statement = _Statement(access, tenant, query.type)
    statement.require("h.type = {}", TYPE_IDS[str(query.type)])
    statement.require("r.tenant = $1 AND r.type = h.type AND r.id = {}", query.id)
    with translated():
        return bool(await connection.fetch(statement.sql("h.version DESC", 1), *statement.arguments))


def _after(row: Record, *, of_one: bool) -> str:
    if of_one:
        return encode(Cursor(backward=False, values=(), row=row["version"]))
    return encode(Cursor(backward=False, values=(row["last_updated"], Decimal(row["version"])), row=row["rid"]))


def _version_of(cursor: str) -> int:
    version = decode(cursor, keys=0).row
    if not 0 < version <= _LAST_VERSION:
        raise _unreadable()
    return version


def _place_of(cursor: str) -> tuple[datetime, int, int]:
    place = decode(cursor, keys=2)
    match place.values:
        case [datetime() as when, Decimal() as version] if 0 < version <= _LAST_VERSION:
            return when, place.row, int(version)
    raise _unreadable()


def _unreadable() -> BadRequest:
    return BadRequest("The page cursor cannot be read. Follow the links of a page as they are.")
