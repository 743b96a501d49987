"""The conditions of a search joined to one: alternatives, and those that lead to other resources.

A chain goes from a resource to what it refers to, `_has` to what refers to it. What the caller may not see is not there
for either: the access is compiled into every step, so that nothing can be learnt by asking for it in a roundabout way.

Source: https://hl7.org/fhir/R4/search.html#chaining
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.fhir.definitions import parameter_id, type_id
from shared.fhir.search import AnyOf, Chain, Condition, Criterion, Has
from shared.store.access import Access
from shared.store.comparisons import Binder
from shared.store.predicates import (
    ON_THE_RESOURCE,
    SINGLE_SUBJECT,
    SUBJECT_PARAMETERS,
    Row,
    any_of,
    condition,
    has_canonical,
    index_rows,
    of_types,
    scope_of,
    within_dates,
)
from shared.store.visibility import visible


class Conditions:
    """Compiles conditions for one caller; `tenant` is the placeholder of the tenant's number.

    The names of further rows begin with `prefix`: those of a statement within another have to differ.
    """

    def __init__(self, access: Access, tenant: str, bind: Binder, *, prefix: str = "") -> None:
        self._access = access
        self._tenant = tenant
        self._bind = bind
        self._prefix = prefix
        self._rows = 0

    def all_of(self, conditions: Iterable[Condition], row: Row) -> list[str]:
        """Return the SQL conditions on a resource, all of which must hold."""
        where = []
        dates: dict[str, list[Criterion]] = {}
        for one in conditions:
            if (
                isinstance(one, Criterion)
                and one.kind == "date"
                and one.modifier is None
                and one.parameter not in ON_THE_RESOURCE
            ):
                dates.setdefault(one.parameter, []).append(one)
            else:
                where.append(self._one(one, row))
        where.extend(within_dates(criteria, row, self._bind) for criteria in dates.values())
        return where

    def _one(self, one: Condition, row: Row) -> str:
        match one:
            case Criterion():
                return condition(one, row, self._bind)
            case AnyOf():
                return any_of(one.alternatives, row, self._bind)
            case Chain():
                return self._chain(one, row)
            case Has():
                return self._has(one, row)

    def _held(self, type_: str) -> tuple[Row, list[str]]:
        """Return a further resource of a type, and the conditions under which the caller knows of it."""
        self._rows += 1
        alias = f"{self._prefix}r{self._rows}"
        where = [
            f"{alias}.tenant = {self._tenant}",
            f"{alias}.type = {type_id(type_)}",
            f"NOT {alias}.deleted",
            *visible(self._access, self._bind, self._tenant, (type_,), alias),
        ]
        return Row(f"{alias}.rid", alias, (type_,), scope_of((type_,), self._tenant, None)), where

    def _sees_all(self, type_: str) -> bool:
        """Tell whether the caller knows of every resource of a type, so that index rows alone may answer."""
        return not visible(self._access, Binder(), self._tenant, (type_,))

    def _chain(self, chain: Chain, row: Row) -> str:
        if [type_ for type_, _ in chain.targets] == ["Patient"] and _bears_patient(row.types, chain.parameter):
            return self._chain_to_patient(chain, row)
        return f"{row.rid} IN ({self.chained(chain, row.scope)})"

    def chained(self, chain: Chain, scope: str) -> str:
        """Return the SELECT of the row numbers that a chain finds by the references alone; some come twice."""
        targets = []
        for type_, beyond in chain.targets:
            held, where = self._held(type_)
            where += self.all_of([beyond], held)
            source = f"resource {held.resource} WHERE {' AND '.join(where)}"
            targets.append(f"SELECT '{type_}/' || {held.resource}.id FROM {source}")
            if has_canonical(type_):  # what is referred to by a canonical
                url = f"u.rid = {held.rid} AND u.param = {parameter_id('url')}"
                targets.append(f"SELECT u.value FROM idx_uri u, {source} AND {url}")
        return (
            f"SELECT t.rid FROM idx_reference t WHERE {scope} "
            f"AND t.param = {parameter_id(chain.parameter)} AND t.target IN ({' UNION ALL '.join(targets)})"
        )

    def _chain_to_patient(self, chain: Chain, row: Row) -> str:
        """Join by the patient that a resource's row bears, of whom PostgreSQL knows how many rows there are."""
        [(type_, beyond)] = chain.targets
        held, where = self._held(type_)
        same = f"{row.resource}.patient"
        refers = _refers_to_patient(row.rid, chain.parameter)
        rows = _rows_of(beyond, held.scope, self._bind) if self._sees_all(type_) else None
        if rows is not None:  # the patient's index rows bear the patient, too
            return f"EXISTS (SELECT FROM {rows} AND t.patient = {same}) AND {refers}"
        where += [*self.all_of([beyond], held), f"{held.resource}.patient = {same}"]
        return f"EXISTS (SELECT FROM resource {held.resource} WHERE {' AND '.join(where)}) AND {refers}"

    def _has(self, has: Has, row: Row) -> str:
        held, where = self._held(has.type)
        unrestricted = self._sees_all(has.type)
        if row.types == ("Patient",) and _bears_patient((has.type,), has.parameter):
            rows = _rows_of(has.condition, held.scope, self._bind) if unrestricted else None
            same = f"{row.resource}.patient"
            if rows is not None:  # index rows bear the patient as well
                refers = _refers_to_patient("t.rid", has.parameter)
                return f"EXISTS (SELECT FROM {rows} AND t.patient = {same} AND {refers})"
            where += [*self.all_of([has.condition], held), f"{held.resource}.patient = {same}"]
            refers = _refers_to_patient(held.rid, has.parameter)
            return f"EXISTS (SELECT FROM resource {held.resource} WHERE {' AND '.join(where)} AND {refers})"
        refers = f"{self._prefix}h{self._rows}"
        conditions = [
            f"{refers}.tenant = {self._tenant} AND {of_types(f'{refers}.type', [has.type])}",
            f"{refers}.param = {parameter_id(has.parameter)}",
            f"{refers}.target = {_literal(row)}",
        ]
        if index_rows_tell(has.condition) and unrestricted:
            beside = Row(f"{refers}.rid", "", held.types, held.scope)
            conditions += self.all_of([has.condition], beside)
            return f"EXISTS (SELECT FROM idx_reference {refers} WHERE {' AND '.join(conditions)})"
        conditions += [f"{held.rid} = {refers}.rid", *where, *self.all_of([has.condition], held)]
        return f"EXISTS (SELECT FROM idx_reference {refers}, resource {held.resource} WHERE {' AND '.join(conditions)})"


def _bears_patient(types: Sequence[str], parameter: str) -> bool:
    """Tell whether a patient whom `parameter` names is the one whom the resource's rows bear."""
    return parameter in SUBJECT_PARAMETERS and SINGLE_SUBJECT.issuperset(types)


def _refers_to_patient(rid: str, parameter: str) -> str:
    """Return the condition that `parameter` of a resource names a patient, who is then the one whom its rows bear.

    Those of a resource that names none bear who else is in it, a performer, say. Nearly all name one, so it is a check
    of what is found otherwise, written in a way that PostgreSQL does not take for something rare.
    """
    return (
        f"(SELECT true FROM idx_reference h WHERE h.rid = {rid} AND h.param = {parameter_id(parameter)} "
        "AND h.target >= 'Patient/' AND h.target < 'Patient0' LIMIT 1)"
    )


def _rows_of(one: Condition, scope: str, bind: Binder) -> str | None:
    """Return the index rows that alone answer a condition; None where it takes more."""
    if not isinstance(one, Criterion) or not index_rows_tell(one) or one.kind == "date":
        return None
    return index_rows(one, scope, bind)


def index_rows_tell(one: Condition) -> bool:
    """Tell whether index rows alone answer a condition: those of deleted resources are gone."""
    return isinstance(one, AnyOf) or (isinstance(one, Criterion) and one.parameter not in ON_THE_RESOURCE)


def _literal(row: Row) -> str:
    """Return ``Type/id`` of a resource in SQL."""
    if len(row.types) == 1:
        return f"('{row.types[0]}/' || {row.resource}.id)"
    return f"((SELECT y.name FROM resource_type y WHERE y.id = {row.resource}.type) || '/' || {row.resource}.id)"
