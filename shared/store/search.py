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

from shared.fhir.definitions import parameter_id
from shared.fhir.search import Chain, Condition, Criterion, Kind, SearchQuery, SortKey
from shared.store.access import Access
from shared.store.comparisons import Binder
from shared.store.conditions import Conditions, index_rows_tell
from shared.store.connection import PlanMode
from shared.store.cursor import Cursor, SortValue
from shared.store.predicates import (
    Row,
    finds_few,
    index_rows,
    led_by_patient,
    of_types,
    rows_against,
    rows_within,
    scope_of,
)
from shared.store.rows import HIGHEST, LOWEST
from shared.store.visibility import visible

_SORT_COLUMNS: Final[dict[Kind, tuple[str, str]]] = {
    "token": ("code", "text"),
    "string": ("prefix", "text"),
    "reference": ("target", "text"),
    "date": ("low", "timestamptz"),
    "number": ("low", "numeric"),
    "quantity": ("low", "numeric"),
    "uri": ("value", "text"),
}


_ROW: Final = "SELECT r.rid, r.type, r.id, r.version, r.last_updated, r.origin"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL, its arguments, and how it is to be planned."""

    sql: str
    arguments: Sequence[object]
    plan: PlanMode


@dataclass(frozen=True, slots=True)
class _Key:
    """One sort key.

    `expression` is the value in SQL, `cast` its type. A key of an index table has in `table` and `on` what joins the
    one row of a resource that it is sorted by; a resource without such a row sorts as null.
    """

    expression: str
    cast: str
    descending: bool
    table: str = ""
    on: str = ""

    @property
    def nullable(self) -> bool:
        return bool(self.table)


def page(query: SearchQuery, access: Access, tenant: int, cursor: Cursor | None) -> Statement:
    """Return the statement for one page and one entry more: the stored columns, then the sort values.

    A page before a cursor (`cursor.backward`) comes in reverse.
    """
    bind = Binder()
    begin = cursor if not query.sort else None
    where, scope, plan = _conditions(query, access, tenant, bind, begin)
    keys = [_key(sort, number, scope) for number, sort in enumerate(query.sort)]
    backward = cursor is not None and cursor.backward
    limit = bind(query.count + 1, "bigint")
    if len(keys) == 1 and keys[0].nullable:
        rows = _known_then_null(keys[0], where, cursor, limit, bind)
    else:
        if cursor is not None and keys:
            where.append(_beyond(keys, cursor, bind))
        columns = "".join(f", {key.expression} AS k{number}" for number, key in enumerate(keys))
        joins = "".join(f" LEFT JOIN {key.table} ON {key.on}" for key in keys if key.nullable)
        order = _order(keys, "r.rid", backward=backward)
        rows = f"{_ROW}{columns} FROM resource r{joins} WHERE {' AND '.join(where)} ORDER BY {order} LIMIT {limit}"
    sorted_by = [replace(key, expression=f"p.k{number}") for number, key in enumerate(keys)]
    sql = (
        "SELECT p.type, p.id, p.version, p.last_updated, p.origin, h.interaction, h.body, p.rid"
        f"{''.join(f', {key.expression}' for key in sorted_by)} "
        f"FROM ({rows}) p JOIN history h ON h.rid = p.rid AND h.version = p.version "
        f"ORDER BY {_order(sorted_by, 'p.rid', backward=backward)}"
    )
    return Statement(sql, bind.arguments, plan)


def count(query: SearchQuery, access: Access, tenant: int) -> Statement:
    """Return the statement that counts every match.

    Where all is seen and index rows tell who matches, they alone are counted: no row of a resource is read.
    """
    by_index = _counted_by_index(query, access, tenant)
    if by_index is not None:
        return by_index
    bind = Binder()
    where, _, plan = _conditions(query, access, tenant, bind, None)
    return Statement(f"SELECT count(*) FROM resource r WHERE {' AND '.join(where)}", bind.arguments, plan)


def _counted_by_index(query: SearchQuery, access: Access, tenant: int) -> Statement | None:
    """Return the statement that counts index rows; None where they do not tell who matches, or who is seen.

    What is not something is counted as all less what is: that one index tells, and nothing has to be joined.
    """
    hidden = visible(access, Binder(), "", query.searched)
    chain = query.criteria[0] if len(query.criteria) == 1 and isinstance(query.criteria[0], Chain) else None
    told = chain is not None or all(index_rows_tell(one) for one in query.criteria)
    if hidden or not query.criteria or not told:
        return None
    bind = Binder()
    clinic, types, patient = bind(tenant, "integer"), query.searched, _patient(query)
    mode: PlanMode = "force_custom_plan" if patient is None else "force_generic_plan"
    scope = scope_of(types, clinic, None if patient is None else bind(patient, "uuid"))
    if chain is not None:
        those = Conditions(access, clinic, bind).chained(chain, scope)
        return Statement(f"SELECT count(DISTINCT t.rid) FROM ({those}) t", bind.arguments, mode)
    first, *others = sorted(query.criteria, key=_rank)
    if not isinstance(first, Criterion):
        return None
    if _is_plain(first):
        rows = index_rows(first, scope, bind) or ""
    elif _is_date(first):
        same = [one for one in query.criteria if isinstance(one, Criterion) and _is_date(one)]
        same = [one for one in same if one.parameter == first.parameter]
        others = [one for one in query.criteria if one not in same]
        rows = f"({rows_within(same, scope, bind)}) t WHERE true"
    elif others:
        return None
    elif (found := index_rows(first, scope, bind)) is not None:
        rows = found
    else:
        everything = f"r.tenant = {clinic} AND {of_types('r.type', types)} AND NOT r.deleted"
        those = f"SELECT count(DISTINCT t.rid) FROM {rows_against(first, scope, bind)}"
        return Statement(
            f"SELECT (SELECT count(*) FROM resource r WHERE {everything}) - ({those})", bind.arguments, mode
        )
    also = Conditions(access, clinic, bind).all_of(others, Row("t.rid", "", types, scope))
    return Statement(f"SELECT count(DISTINCT t.rid) FROM {' AND '.join([rows, *also])}", bind.arguments, mode)


def _rank(one: Condition) -> int:
    """Return which of the criteria leads a count: one that index rows satisfy, else a date."""
    return 0 if _is_plain(one) else 1 if _is_date(one) else 2


def _is_plain(one: Condition) -> bool:
    """Tell whether a criterion is satisfied by an index row, and not by the want of one."""
    if not isinstance(one, Criterion) or (one.kind == "date" and one.modifier is None):
        return False
    return one.modifier not in ("not", "not-in", "missing")


def _is_date(one: Condition) -> bool:
    return isinstance(one, Criterion) and one.kind == "date" and one.modifier is None


def _conditions(
    query: SearchQuery, access: Access, tenant: int, bind: Binder, begin: Cursor | None
) -> tuple[list[str], str, PlanMode]:
    """Return the conditions on `resource r`, the scope of index rows `t`, and how to plan.

    `begin`, of a search in order of creation, is a bound for index rows too.
    """
    clinic = bind(tenant, "integer")
    types = query.searched
    where = [f"r.tenant = {clinic}", of_types("r.type", types), "NOT r.deleted"]
    where += visible(access, bind, clinic, types)
    patient = _patient(query)
    leader = None if patient is None else bind(patient, "uuid")
    if leader is not None:
        where.append(f"r.patient = {leader}")
    scope = scope_of(types, clinic, leader)
    bounded = scope
    if begin is not None:
        beyond = f"rid {'<' if begin.backward else '>'} {bind(begin.row, 'bigint')}"
        where.append(f"r.{beyond}")
        bounded += f" AND t.{beyond}"
    where += Conditions(access, clinic, bind).all_of(query.criteria, Row("r.rid", "r", types, bounded))
    led = leader is not None or any(isinstance(one, Criterion) and finds_few(one) for one in query.criteria)
    return where, scope, "force_generic_plan" if led else "force_custom_plan"


def _patient(query: SearchQuery) -> UUID | None:
    """Return the one patient whose rows hold every match, where the query says so."""
    for criterion in query.criteria:
        patients = led_by_patient(query.searched, criterion) if isinstance(criterion, Criterion) else None
        if patients is not None and len(patients) == 1:
            return patients[0]
    return None


def _key(sort: SortKey, number: int, scope: str) -> _Key:
    if sort.parameter == "_id":
        return _Key("r.id", "text", sort.descending)
    if sort.parameter == "_lastUpdated":
        return _Key("r.last_updated", "timestamptz", sort.descending)
    column, cast = _SORT_COLUMNS[sort.kind]
    alias, edge = f"s{number}", HIGHEST if sort.descending else LOWEST
    of_alias = scope.replace("t.", f"{alias}.")
    on = f"{alias}.rid = r.rid AND {of_alias} AND {alias}.param = {parameter_id(sort.parameter)}"
    return _Key(
        f"{alias}.{column}", cast, sort.descending, f"idx_{sort.kind} {alias}", f"{on} AND {alias}.edge & {edge} <> 0"
    )


def _known_then_null(key: _Key, where: list[str], cursor: Cursor | None, limit: str, bind: Binder) -> str:
    """Return the rows of a search with one sort key: those with a value, led by the sort's index, then those without.

    As two parts, of which PostgreSQL does the second only where the first does not fill the page: one part with an
    outer join would have to sort everything that matches.
    """
    backward = cursor is not None and cursor.backward
    known = [*where, key.on]
    null = [*where, f"NOT EXISTS (SELECT FROM {key.table} WHERE {key.on})"]
    with_known = with_null = True
    if cursor is not None:
        [value] = cursor.values
        row = bind(cursor.row, "bigint")
        in_row = f"r.rid {'<' if backward else '>'} {row}"
        if value is None:
            null.append(in_row)
            with_known = backward
        else:
            beyond = f"{key.expression} {'<' if key.descending != backward else '>'}"
            placeholder = bind(value, key.cast)
            known.append(f"{beyond}= {placeholder} AND ({beyond} {placeholder} OR {in_row})")
            with_null = not backward
    inner = replace(key, table="")
    parts = []
    if with_known:
        parts.append(
            f"({_ROW}, {key.expression} AS k0 FROM resource r, {key.table} WHERE {' AND '.join(known)} "
            f"ORDER BY {_order([inner], 'r.rid', backward=backward)} LIMIT {limit})"
        )
    if with_null:
        parts.append(
            f"({_ROW}, NULL::{key.cast} AS k0 FROM resource r WHERE {' AND '.join(null)} "
            f"ORDER BY {_order([], 'r.rid', backward=backward)} LIMIT {limit})"
        )
    if backward:
        parts.reverse()
    return parts[0] if len(parts) == 1 else f"{' UNION ALL '.join(parts)} LIMIT {limit}"


def _order(keys: Sequence[_Key], row: str, *, backward: bool) -> str:
    """Return the ORDER BY terms. A key that is never null has no word on nulls: it would keep an index from serving."""
    nulls = f" NULLS {'FIRST' if backward else 'LAST'}"
    terms = [
        f"{key.expression} {'DESC' if key.descending != backward else 'ASC'}{nulls if key.nullable else ''}"
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
