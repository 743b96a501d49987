"""Reading: one resource, one version, a search. Shared by the store and by a transaction.

Every function takes the caller's `Access` and the number of its tenant, and compiles both into the statement.
"""

from __future__ import annotations

from dataclasses import replace
from time import monotonic

from asyncpg import Record

from shared.fhir.definitions import TYPE_IDS
from shared.fhir.outcome import Forbidden, Gone, NotFound
from shared.fhir.search import SearchQuery
from shared.store import includes
from shared.store import search as compiled
from shared.store.access import Access
from shared.store.codes import looked_up
from shared.store.comparisons import Binder
from shared.store.connection import Connection, translated
from shared.store.costs import require_affordable
from shared.store.cursor import Cursor, decode, encode
from shared.store.explaining import explain
from shared.store.includes import current
from shared.store.terminology import StoredTerminology
from shared.store.types import Page, Stored, Write
from shared.store.visibility import visible

_OF_THE_RESOURCE = "r.tenant = $1 AND r.type = $2 AND r.id = $3"
_CURRENT = (
    "SELECT r.rid, r.version, r.last_updated, r.deleted, r.origin, h.interaction, h.body "
    "FROM resource r JOIN history h ON h.rid = r.rid AND h.version = r.version WHERE "
)
_VERSION = (
    "SELECT h.version, h.last_updated, h.interaction = 'delete' AS deleted, h.origin, h.interaction, h.body "
    "FROM resource r JOIN history h ON h.rid = r.rid WHERE "
)
_LAST_VERSION = 2**31 - 1


def _of(access: Access, tenant: int, type_: str, id_: str, version: int | None = None) -> tuple[str, list[object]]:
    """Return the condition that a row `r` is the resource and that the caller may know of it, and its arguments.

    With a version also that a row `h` is it, and may be seen.
    """
    number = TYPE_IDS.get(type_)
    if number is None:
        raise NotFound(f"{type_} is not a resource type of FHIR R4.")
    bind = Binder()
    bind.arguments = [tenant, number, id_]
    where = [_OF_THE_RESOURCE]
    if version is not None:
        where.append(f"h.version = {bind(version, 'integer')}")
        if access.hidden_labels:
            where.append(f"NOT h.labels && {bind(sorted(access.hidden_labels), 'text[]')}")
    where += visible(access, bind, "$1", (type_,), version=None if version is None else "h")
    return " AND ".join(where), bind.arguments


def _stored(type_: str, id_: str, row: Record) -> Stored:
    return Stored(
        type=type_,
        id=id_,
        version=row["version"],
        last_updated=row["last_updated"],
        deleted=row["deleted"],
        body=row["body"],
        origin=row["origin"],
        interaction=row["interaction"],
    )


async def find(
    connection: Connection, access: Access, tenant: int, type_: str, id_: str, *, lock: bool = False
) -> Stored | None:
    """Return the current version, deleted or not; None where the caller knows of none. `lock`: until the commit."""
    with translated():
        where, arguments = _of(access, tenant, type_, id_)
        sql = f"{_CURRENT}{where} FOR UPDATE OF r" if lock else f"{_CURRENT}{where}"
        row = await connection.fetchrow(sql, *arguments)
        if row is None and lock:
            # The locked row's new version was committed while this statement waited, and its snapshot cannot see it.
            row = await connection.fetchrow(sql, *arguments)
    return None if row is None else _stored(type_, id_, row)


async def require_changeable(connection: Connection, access: Access, tenant: int, write: Write) -> None:
    """Pass a write of what is not there yet, or of what the caller may see.

    Raises:
        NotFound: there is such a resource, and it does not exist for this caller.

    """
    everything = Access.unrestricted(access.tenant)
    held = await find(connection, everything, tenant, write.type, write.id, lock=True)
    if held is not None and await find(connection, replace(access, origin=None), tenant, write.type, write.id) is None:
        raise NotFound(f"There is no {write.type}/{write.id} here.")


async def require_visible(connection: Connection, access: Access, tenant: int, write: Write) -> None:
    """Pass what was just written and is what the caller may write; raised within its transaction, it is undone.

    Raises:
        Forbidden: it is outside.

    """
    if await find(connection, replace(access, origin=None), tenant, write.type, write.id) is None:
        raise Forbidden(f"This {write.type} is outside of what you may write. Nothing was stored.")


async def read(connection: Connection, access: Access, tenant: int, type_: str, id_: str) -> Stored:
    """Return the current version.

    Raises:
        NotFound: there never was one that the caller may see.
        Gone: it was deleted.

    """
    stored = await find(connection, access, tenant, type_, id_)
    if stored is None:
        raise NotFound(f"There is no {type_}/{id_} here.")
    if stored.deleted:
        raise Gone(f"{type_}/{id_} was deleted. Its earlier versions are in {type_}/{id_}/_history.")
    return stored


async def read_version(
    connection: Connection, access: Access, tenant: int, type_: str, id_: str, version: int
) -> Stored:
    """Return one version.

    Raises:
        NotFound: no such version that the caller may see.
        Gone: the version is a deletion.

    """
    row = None
    if 0 < version <= _LAST_VERSION:
        where, arguments = _of(access, tenant, type_, id_, version)
        with translated():
            row = await connection.fetchrow(f"{_VERSION}{where}", *arguments)
    if row is None:
        raise NotFound(f"There is no version {version} of {type_}/{id_} here.")
    if row["deleted"]:
        raise Gone(f"Version {version} of {type_}/{id_} is its deletion.")
    return _stored(type_, id_, row)


async def search(
    connection: Connection,
    access: Access,
    tenant: int,
    query: SearchQuery,
    *,
    cursor: str | None,
    costliest: float | None = None,
) -> Page:
    """Return one page of the current resources that match.

    Raises:
        TooCostly: its estimated cost is above `costliest` (`shared.store.costs`).

    """
    place = None if cursor is None else decode(cursor, keys=len(query.sort))
    query = await looked_up(query, StoredTerminology(connection))
    total = None
    if query.total != "none" or query.count == 0:
        counting = compiled.count(query, access, tenant)
        await require_affordable(connection, counting, query, costliest)
        with translated():
            await connection.plan(counting.plan)
            total = await connection.fetchval(counting.sql, *counting.arguments)
    if query.count == 0:
        return Page([], total=total)
    statement = compiled.page(query, access, tenant, place)
    await require_affordable(connection, statement, query, costliest)
    began = monotonic()
    with translated():
        await connection.plan(statement.plan)
        rows = await connection.fetch(statement.sql, *statement.arguments)
    took = monotonic() - began
    explained = await explain(connection, statement, took) if query.explain else None
    more = len(rows) > query.count
    rows = rows[: query.count]
    backward = place is not None and place.backward
    if backward:
        rows.reverse()
    entries = [current(row) for row in rows]
    if not rows:
        # Everything on this side of the cursor is gone; the other side begins at the same place.
        turned = None if place is None else encode(replace(place, backward=not place.backward))
        return Page(
            [],
            next=turned if backward else None,
            previous=None if backward else turned,
            total=total,
            explained=explained,
        )
    has_next = True if backward else more
    has_previous = more if backward else place is not None
    included, partial = await includes.included(connection, access, tenant, query.includes, rows)
    return Page(
        entries,
        next=encode(_place(rows[-1], len(query.sort), backward=False)) if has_next else None,
        previous=encode(_place(rows[0], len(query.sort), backward=True)) if has_previous else None,
        total=total,
        included=included,
        partial=partial,
        explained=explained,
    )


def _place(row: Record, keys: int, *, backward: bool) -> Cursor:
    return Cursor(backward, tuple(row[f"k{number}"] for number in range(keys)), row["rid"])
