"""What comes along with a page of matches: `_include` and `_revinclude`, one statement for each step away from them.

What the caller may not see does not come, and what has come does not come again. How far and how much is bounded.

Source: https://hl7.org/fhir/R4/search.html#include
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from asyncpg import Record

from shared.fhir.definitions import TYPE_IDS, TYPES, parameter_id, search_parameters, type_id
from shared.fhir.search import Include
from shared.fhir.values import targets_of
from shared.store.access import Access
from shared.store.comparisons import Binder
from shared.store.connection import Connection, translated
from shared.store.predicates import has_canonical
from shared.store.types import Stored
from shared.store.visibility import visible

MOST: Final = 1000
"""Resources that come along with a page, at most."""

MOST_STEPS: Final = 8
"""Steps away from the matches that `:iterate` may go."""

TYPE_NAMES: Final[Mapping[int, str]] = {number: name for name, number in TYPE_IDS.items()}


def current(row: Record) -> Stored:
    """Return the current version in a row of a search."""
    return Stored.of(TYPE_NAMES[row["type"]], row)


async def included(
    connection: Connection, access: Access, tenant: int, includes: Sequence[Include], matches: Sequence[Record]
) -> tuple[list[Stored], bool]:
    """Return what comes along with `matches`, rows of a page, and whether that is only a part of it."""
    if not includes or not matches:
        return [], False
    seen = {row["rid"] for row in matches}
    found: list[Stored] = []
    rows, due = list(matches), list(includes)
    again = [include for include in includes if include.iterate]
    for _ in range(MOST_STEPS):
        room = MOST - len(found)
        sql, arguments = _step(access, tenant, due, rows, seen, room + 1)
        with translated():
            await connection.plan("force_custom_plan")
            rows = await connection.fetch(sql, *arguments)
        found.extend(current(row) for row in rows[:room])
        if len(rows) > room:
            return found, True
        if not rows or not again:
            return found, False
        seen.update(row["rid"] for row in rows)
        due = again
    return found, True


def _step(
    access: Access, tenant: int, includes: Sequence[Include], rows: Sequence[Record], seen: set[int], limit: int
) -> tuple[str, list[object]]:
    """Return the statement for what is one step away from `rows`."""
    bind = Binder()
    clinic = bind(tenant, "integer")
    parts = []
    forward = [include for include in includes if not include.reverse]
    if forward:
        parts.append(_forward(forward, rows, clinic, bind))
    reverse = [include for include in includes if include.reverse]
    if reverse:
        parts.append(_reverse(reverse, rows, clinic, bind))
    where = ["NOT r.deleted", *visible(access, bind, clinic, None), f"r.rid <> ALL ({bind(sorted(seen), 'bigint[]')})"]
    sql = (
        "SELECT r.rid, r.type, r.id, r.version, r.last_updated, r.origin, h.interaction, h.body "
        f"FROM (SELECT DISTINCT y.rid FROM ({' UNION ALL '.join(parts)}) y) x JOIN resource r ON r.rid = x.rid "
        "JOIN history h ON h.rid = r.rid AND h.version = r.version "
        f"WHERE r.tenant = {clinic} AND {' AND '.join(where)} ORDER BY r.rid LIMIT {bind(limit, 'bigint')}"
    )
    return sql, bind.arguments


def _forward(includes: Sequence[Include], rows: Sequence[Record], clinic: str, bind: Binder) -> str:
    """Return the row numbers of what `rows` refer to: by type and id, or by a canonical."""
    conditions = []
    for include in includes:
        source = "true" if include.source is None else f"t.type = {type_id(include.source)}"
        if include.parameter is not None:
            source += f" AND t.param = {parameter_id(include.parameter)}"
        of_target = "" if include.target is None else f" AND y.name = {bind(include.target, 'text')}"
        conditions.append(f"({source}{of_target})")
    rids = bind(sorted({row["rid"] for row in rows}), "bigint[]")
    asked = " OR ".join(conditions)
    # The targets are taken apart first, by themselves: behind the wall between clinics, no index is asked for the
    # outcome of a function that is not leakproof.
    by_id = (
        "SELECT q.rid FROM (SELECT y.id AS type, split_part(t.target, '/', 2) AS id FROM idx_reference t "
        "JOIN resource_type y ON y.name = split_part(t.target, '/', 1) "
        f"WHERE t.rid = ANY ({rids}) AND ({asked}) OFFSET 0) n "
        f"JOIN resource q ON q.tenant = {clinic} AND q.type = n.type AND q.id = n.id"
    )
    with_url = sorted({target for include in includes for target in _named_by_url(include)})
    if not with_url:
        return by_id
    types = ", ".join(str(type_id(target)) for target in with_url)
    return (
        f"{by_id} UNION ALL SELECT u.rid FROM idx_reference t JOIN idx_uri u ON u.tenant = {clinic} "
        f"AND u.type IN ({types}) AND u.param = {parameter_id('url')} AND u.value = t.target "
        f"JOIN resource_type y ON y.id = u.type WHERE t.rid = ANY ({rids}) AND ({asked})"
    )


def _reverse(includes: Sequence[Include], rows: Sequence[Record], clinic: str, bind: Binder) -> str:
    """Return the row numbers of what refers to `rows`."""
    named: dict[str, list[Record]] = {}
    for row in rows:
        named.setdefault(TYPE_NAMES[row["type"]], []).append(row)
    parts = []
    for target, of_target in named.items():
        pairs = sorted(
            {
                pair
                for include in includes
                if include.target in (None, target)
                for pair in referring(target)
                if include.source in (None, pair[0]) and include.parameter in (None, pair[1])
            }
        )
        if not pairs:
            continue
        literals = bind([f"{target}/{row['id']}" for row in of_target], "text[]")
        urls = ""
        if has_canonical(target):
            rids = bind([row["rid"] for row in of_target], "bigint[]")
            urls = f" UNION ALL SELECT u.value FROM idx_uri u WHERE u.rid = ANY ({rids}) AND u.param = "
            urls += str(parameter_id("url"))
        values = ", ".join(f"({type_id(source)}::smallint, {parameter_id(code)}::smallint)" for source, code in pairs)
        parts.append(
            f"SELECT t.rid FROM (VALUES {values}) AS p(type, param) "
            f"CROSS JOIN (SELECT unnest({literals}) AS target{urls}) AS n "
            f"JOIN idx_reference t ON t.tenant = {clinic} AND t.type = p.type AND t.param = p.param "
            "AND t.target = n.target"
        )
    return " UNION ALL ".join(parts) or "SELECT NULL::bigint AS rid WHERE false"


def _named_by_url(include: Include) -> frozenset[str]:
    """Return the held types that an `_include` may find by a canonical."""
    found: set[str] = set()
    for source in TYPES if include.source is None else (include.source,):
        for parameter in search_parameters(source).values():
            if parameter.kind == "reference" and include.parameter in (None, parameter.code):
                found.update(_with_url(targets_of(parameter)))
    return frozenset(found) if include.target is None else frozenset(found & {include.target})


def _with_url(types: Sequence[str]) -> set[str]:
    return {type_ for type_ in types if type_ in TYPES and has_canonical(type_)}


@cache
def referring(target: str) -> tuple[tuple[str, str], ...]:
    """Return the held types and their reference parameters that may refer to a resource of type `target`."""
    return tuple(
        (source, parameter.code)
        for source in sorted(TYPES)
        for parameter in search_parameters(source).values()
        if parameter.kind == "reference" and target in targets_of(parameter)
    )
