"""A whole search as SQL: which resources, in which order, from where on.

Without `_sort`, resources come in the order they were created in (their row numbers, which never change), so a page can
continue where the last one ended however much is written meanwhile. With `_sort`, nulls are last both ways and the row
number breaks ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from shared.fhir.definitions import parameter_id, type_id
from shared.fhir.search import Kind, SearchQuery, SortKey
from shared.store.access import Access
from shared.store.connection import PlanMode
from shared.store.cursor import Cursor, SortValue
from shared.store.predicates import Binder, condition, led_by_patient, scope_of, visible
from shared.store.rows import HIGHEST, LOWEST

_SORT_COLUMNS: Final[dict[Kind, tuple[str, str]]] = {
    "token": ("code", "text"),
    "string": ("prefix", "text"),
    "reference": ("target", "text"),
    "date": ("low", "timestamptz"),
    "number": ("low", "numeric"),
    "quantity": ("low", "numeric"),
    "uri": ("value", "text"),
}


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL, its arguments, and how it is to be planned."""

    sql: str
    arguments: Sequence[object]
    plan: PlanMode


@dataclass(frozen=True, slots=True)
class _Key:
    """One sort key: an SQL expression, its type, whether it may be null, and the join it needs."""

    expression: str
    cast: str
    descending: bool
    nullable: bool
    join: str = ""


def page(query: SearchQuery, access: Access, tenant: int, cursor: Cursor | None) -> Statement:
    """Return the statement for one page and one entry more: the stored columns, then the sort values.

    A page before a cursor (`cursor.backward`) comes in reverse.
    """
    bind = Binder()
    where, plan = _conditions(query, access, tenant, bind)
    keys = [_key(sort, number) for number, sort in enumerate(query.sort)]
    backward = cursor is not None and cursor.backward
    if cursor is not None:
        where.append(_beyond(keys, cursor, bind))
    columns = "".join(f", {key.expression} AS k{number}" for number, key in enumerate(keys))
    joins = "".join(key.join for key in keys)
    order = _order(keys, "r.rid", backward=backward)
    outer = _order([replace(key, expression=f"p.k{n}") for n, key in enumerate(keys)], "p.rid", backward=backward)
    sql = (
        "SELECT p.id, p.version, p.last_updated, p.origin, h.interaction, h.body, p.rid"
        f"{''.join(f', p.k{n}' for n in range(len(keys)))} "
        f"FROM (SELECT r.rid, r.id, r.version, r.last_updated, r.origin{columns} FROM resource r{joins} "
        f"WHERE {' AND '.join(where)} ORDER BY {order} LIMIT {bind(query.count + 1, 'bigint')}) p "
        f"JOIN history h ON h.rid = p.rid AND h.version = p.version ORDER BY {outer}"
    )
    return Statement(sql, bind.arguments, plan)


def count(query: SearchQuery, access: Access, tenant: int) -> Statement:
    """Return the statement that counts every match."""
    bind = Binder()
    where, plan = _conditions(query, access, tenant, bind)
    return Statement(f"SELECT count(*) FROM resource r WHERE {' AND '.join(where)}", bind.arguments, plan)


def _conditions(query: SearchQuery, access: Access, tenant: int, bind: Binder) -> tuple[list[str], PlanMode]:
    clinic = bind(tenant, "integer")
    where = [f"r.tenant = {clinic}", f"r.type = {type_id(query.type)}", "NOT r.deleted", *visible(access, bind)]
    patient = _patient(query)
    leader = None if patient is None else bind(patient, "uuid")
    if leader is not None:
        where.append(f"r.patient = {leader}")
    scope = scope_of(query.type, clinic, leader)
    where.extend(condition(criterion, scope, bind) for criterion in query.criteria)
    led = leader is not None or any(criterion.parameter == "_id" for criterion in query.criteria)
    return where, "force_generic_plan" if led else "force_custom_plan"


def _patient(query: SearchQuery) -> UUID | None:
    """Return the one patient whose rows hold every match, where the query says so."""
    for criterion in query.criteria:
        patients = led_by_patient(query.type, criterion)
        if patients is not None and len(patients) == 1:
            return patients[0]
    return None


def _key(sort: SortKey, number: int) -> _Key:
    if sort.parameter == "_id":
        return _Key("r.id", "text", sort.descending, nullable=False)
    if sort.parameter == "_lastUpdated":
        return _Key("r.last_updated", "timestamptz", sort.descending, nullable=False)
    column, cast = _SORT_COLUMNS[sort.kind]
    alias, edge = f"s{number}", HIGHEST if sort.descending else LOWEST
    join = (
        f" LEFT JOIN idx_{sort.kind} {alias} ON {alias}.rid = r.rid "
        f"AND {alias}.param = {parameter_id(sort.parameter)} AND {alias}.edge & {edge} <> 0"
    )
    return _Key(f"{alias}.{column}", cast, sort.descending, nullable=True, join=join)


def _order(keys: Sequence[_Key], row: str, *, backward: bool) -> str:
    terms = [
        f"{key.expression} {'DESC' if key.descending != backward else 'ASC'} NULLS {'FIRST' if backward else 'LAST'}"
        for key in keys
    ]
    return ", ".join([*terms, f"{row} DESC" if backward else row])


def _beyond(keys: Sequence[_Key], cursor: Cursor, bind: Binder) -> str:
    """Return the condition for everything after the cursor's entry in the order of the page, or before it."""
    row = bind(cursor.row, "bigint")
    alternatives = []
    equal: list[str] = []
    for key, value in zip(keys, cursor.values, strict=True):
        beyond, same = _step(key, value, bind, backward=cursor.backward)
        if beyond is not None:
            alternatives.append(" AND ".join([*equal, beyond]))
        equal.append(same)
    alternatives.append(" AND ".join([*equal, f"r.rid {'<' if cursor.backward else '>'} {row}"]))
    return "(" + " OR ".join(f"({alternative})" for alternative in alternatives) + ")"


def _step(key: _Key, value: SortValue, bind: Binder, *, backward: bool) -> tuple[str | None, str]:
    """Return the conditions "beyond `value`" (None: nothing can be) and "the same as `value`" for one key."""
    if value is None:
        return (f"{key.expression} IS NOT NULL" if backward else None), f"{key.expression} IS NULL"
    placeholder = bind(value, key.cast)
    operator = "<" if key.descending != backward else ">"
    beyond = f"{key.expression} {operator} {placeholder}"
    if key.nullable and not backward:
        beyond = f"({beyond} OR {key.expression} IS NULL)"
    return beyond, f"{key.expression} = {placeholder}"
