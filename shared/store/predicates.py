"""What one search parameter asks of index rows, as SQL conditions with bind parameters.

`shared.store.conditions` joins these, and those that lead to other resources, to the condition of a whole search.

No value of a caller ever becomes part of a statement's text; only the numbers of types and parameters do, which are
ours, so that PostgreSQL plans with what it knows of them.

Source: https://hl7.org/fhir/R4/search.html (prefixes, modifiers, token and string matching).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from shared.fhir.dates import MAX_INSTANT, MIN_INSTANT
from shared.fhir.definitions import parameter_id, search_parameters, type_id
from shared.fhir.ids import subject_uuid
from shared.fhir.outcome import BadRequest
from shared.fhir.search import (
    CodesValue,
    Criterion,
    DateValue,
    Kind,
    MissingValue,
    NumberValue,
    PairValue,
    QuantityValue,
    ReferenceValue,
    StringValue,
    TokenValue,
    UriValue,
)
from shared.fhir.values import escape
from shared.store.access import Access
from shared.store.rows import bounded, reference_target

V = TypeVar("V")

PREFIX_LENGTH: Final = 100
"""Characters of a string that are indexed: `idx_string.prefix`."""

_LAST_CHARACTER = chr(0x10FFFF)
_BEFORE_SURROGATES, _AFTER_SURROGATES = "\ud7ff", "\ue000"

SUBJECT_PARAMETERS: Final = frozenset({"patient", "subject"})
SINGLE_SUBJECT: Final = frozenset(
    {
        "AdverseEvent",
        "AllergyIntolerance",
        "CarePlan",
        "CareTeam",
        "ClinicalImpression",
        "Communication",
        "Composition",
        "Condition",
        "Consent",
        "DetectedIssue",
        "Device",
        "DiagnosticReport",
        "DocumentReference",
        "Encounter",
        "EpisodeOfCare",
        "Flag",
        "Goal",
        "Immunization",
        "MeasureReport",
        "MedicationAdministration",
        "MedicationDispense",
        "MedicationRequest",
        "MedicationStatement",
        "Observation",
        "Procedure",
        "QuestionnaireResponse",
        "RelatedPerson",
        "RiskAssessment",
        "ServiceRequest",
        "Specimen",
    }
)
"""Types that name one subject at most, the one whose compartment they are in.

For these, what `patient=` and `subject=` find is within the rows that bear that patient, so every index row of the
search may be asked for by patient. An Appointment has several patients and bears one of them.
"""


class Binder:
    """Collects the bind parameters of one statement."""

    def __init__(self) -> None:
        self.arguments: list[Any] = []

    def __call__(self, value: object, cast: str) -> str:
        """Bind `value` and return its placeholder, cast to an SQL type."""
        self.arguments.append(value)
        return f"${len(self.arguments)}::{cast}"


def visible(access: Access, bind: Binder, row: str = "r") -> list[str]:
    """Return the conditions on a `resource` row under which the caller may know of it; not the tenant, which is bound.

    `row` is the alias of the row.
    """
    conditions = []
    if access.origin is not None:
        conditions.append(f"{row}.origin = {bind(access.origin, 'text')}")
    if access.patients is not None:
        conditions.append(f"{row}.patient = ANY ({bind(patient_uuids(access), 'uuid[]')})")
    if access.hidden_labels:
        conditions.append(f"NOT {row}.labels && {bind(sorted(access.hidden_labels), 'text[]')}")
    return conditions


def patient_uuids(access: Access) -> list[UUID] | None:
    """Return the patients of `access` as index rows know them; None where it is not restricted."""
    return None if access.patients is None else [subject_uuid(patient) for patient in sorted(access.patients)]


def led_by_patient(types: Sequence[str], criterion: Criterion) -> list[UUID] | None:
    """Return the patients whose rows hold every match of `criterion`; None where it does not ask for patients."""
    if (
        criterion.parameter not in SUBJECT_PARAMETERS
        or criterion.kind != "reference"
        or criterion.modifier is not None
        or not SINGLE_SUBJECT.issuperset(types)
    ):
        return None
    values = [value for value in criterion.values if isinstance(value, ReferenceValue)]
    if len(values) != len(criterion.values) or any(value.types != ("Patient",) or value.url for value in values):
        return None
    return [subject_uuid(value.id) for value in values]


@dataclass(frozen=True, slots=True)
class Row:
    """The resource that conditions are put on.

    Attributes:
        rid: its row number in SQL: ``r.rid``.
        resource: the alias of its `resource` row; "" where the statement has none, for conditions on index rows only.
        types: what it may be.
        scope: the condition on an index row `t` that every subselect begins with (tenant, type, perhaps patient).

    """

    rid: str
    resource: str
    types: tuple[str, ...]
    scope: str


def condition(criterion: Criterion, row: Row, bind: Binder) -> str:
    """Return the SQL condition of one criterion on a resource."""
    if criterion.parameter in ON_THE_RESOURCE:
        return _on_column(criterion, row.resource, bind)
    if criterion.kind == "date" and criterion.modifier is None:
        return within_dates([criterion], row, bind)
    found = index_rows(criterion, row.scope, bind)
    if found is not None:
        return f"{row.rid} IN (SELECT t.rid FROM {found})"
    matches = "true" if criterion.modifier == "missing" else _values(criterion, bind)
    parameter = f"t.param = {parameter_id(criterion.parameter)}"
    # `row` may be an index row itself, named t as well: the rows that are looked for are kept apart from it.
    rows = f"SELECT t.rid FROM idx_{criterion.kind} t WHERE {parameter} AND ({matches})"
    return f"NOT EXISTS (SELECT FROM ({rows}) n WHERE n.rid = {row.rid})"


def index_rows(criterion: Criterion, scope: str, bind: Binder) -> str | None:
    """Return ``idx_token t WHERE ...``, the index rows of which one satisfies a criterion; None where none may.

    Not for a date, and not for what the resource's own row answers.
    """
    if criterion.modifier in ("not", "not-in"):
        return None
    matches = "true"
    if criterion.modifier == "missing":
        [value] = criterion.values
        if not isinstance(value, MissingValue) or value.missing:
            return None
    else:
        matches = _values(criterion, bind)
    return f"idx_{criterion.kind} t WHERE {scope} AND t.param = {parameter_id(criterion.parameter)} AND ({matches})"


def any_of(alternatives: Sequence[Sequence[Criterion]], row: Row, bind: Binder) -> str:
    """Return the SQL condition that all of one of `alternatives` hold, as one list of row numbers.

    As conditions joined by OR, PostgreSQL would try them on every resource of the type.
    """
    selects = []
    for first, *others in alternatives:
        inner = Row("t.rid", "", row.types, row.scope)
        also = "".join(f" AND {condition(other, inner, bind)}" for other in others)
        selects.append(f"SELECT t.rid FROM {index_rows(first, row.scope, bind)}{also}")
    return f"{row.rid} IN ({' UNION ALL '.join(selects)})"


def scope_of(types: Sequence[str], tenant: str, patients: str | None) -> str:
    """Return the `scope` of a `Row`; `tenant` and `patients` are placeholders."""
    led = "" if patients is None else f" AND t.patient = {patients}"
    return f"t.tenant = {tenant} AND {of_types('t.type', types)}{led}"


def has_canonical(type_: str) -> bool:
    """Tell whether resources of a type are referred to by their `url`: a Questionnaire is, a Device is not."""
    return {"url", "version"} <= search_parameters(type_).keys()


def of_types(column: str, types: Sequence[str]) -> str:
    """Return the condition that a column of type numbers is one of `types`."""
    numbers = [str(type_id(type_)) for type_ in types]
    return f"{column} = {numbers[0]}" if len(numbers) == 1 else f"{column} IN ({', '.join(numbers)})"


def _values(criterion: Criterion, bind: Binder) -> str:
    if any(isinstance(value, PairValue) for value in criterion.values):
        return " OR ".join(f"({_pair(_as(PairValue, value), bind)})" for value in criterion.values)
    if any(isinstance(value, CodesValue) for value in criterion.values):
        return " OR ".join(_codes(_as(CodesValue, value), bind) for value in criterion.values)
    if criterion.kind == "token":
        return _tokens([_as(TokenValue, value) for value in criterion.values], bind)
    if criterion.kind == "reference":
        targets = sorted({target for value in criterion.values for target in _targets(_as(ReferenceValue, value))})
        return f"t.target = {bind(targets[0], 'text')}" if len(targets) == 1 else _any_of("t.target", targets, bind)
    if criterion.kind == "uri":
        return _uris([_as(UriValue, value).value for value in criterion.values], criterion.modifier, bind)
    one = _ONE[criterion.kind]
    return " OR ".join(f"({one(value, criterion.modifier, bind)})" for value in criterion.values)


def _pair(value: PairValue, bind: Binder) -> str:
    """Two values of one element: the first stands in the row's `system`. A code is ``code|system`` there."""
    if isinstance(value.first, ReferenceValue):
        first = f"t.system = {bind(_targets(value.first)[0], 'text')}"
    else:
        first = _paired_token("t.system", value.first, bind)
    if isinstance(value.second, QuantityValue):
        return f"{first} AND {_quantity(replace(value.second, system=None), None, bind)}"
    return f"{first} AND {_paired_token('t.code', value.second, bind)}"


def _paired_token(column: str, value: TokenValue, bind: Binder) -> str:
    if value.code is None:
        raise BadRequest("A part of a composite that is a token needs a code.")
    code = f"{escape(value.code)}|"
    if value.system is None:
        return _begins(column, bounded(code), bind)
    return f"{column} = {bind(bounded(code + escape(value.system)), 'text')}"


def _codes(value: CodesValue, bind: Binder) -> str:
    conditions = [
        f"(t.system = {bind(bounded(system), 'text')} AND {_any_of('t.code', [bounded(code) for code in codes], bind)})"
        for system, codes in value.codes
    ]
    return " OR ".join(conditions) or "false"


def _uris(given: list[str], modifier: str | None, bind: Binder) -> str:
    """A uri as it stands; `:below`: what begins with it; `:above`: what it begins with."""
    if modifier == "below":
        return " OR ".join(f"({_begins('t.value', bounded(value), bind)})" for value in given)
    if modifier == "above":
        given = [value[:length] for value in given for length in range(1, len(value) + 1)]
    return _any_of("t.value", [bounded(value) for value in given], bind)


def _begins(column: str, start: str, bind: Binder) -> str:
    conditions = [f"{column} >= {bind(start, 'text')}"]
    end = after_prefix(start)
    if end is not None:
        conditions.append(f"{column} < {bind(end, 'text')}")
    return " AND ".join(conditions)


def _any_of(column: str, values: list[str], bind: Binder) -> str:
    return f"{column} = ANY ({bind(values, 'text[]')})"


def _tokens(values: list[TokenValue], bind: Binder) -> str:
    """Any system, no system, that system: `code`, `|code`, `system|code`; `system|` for any of its codes."""
    conditions = []
    any_system = [bounded(value.code) for value in values if value.system is None and value.code is not None]
    if len(any_system) == 1:
        conditions.append(f"t.code = {bind(any_system[0], 'text')}")
    elif any_system:
        conditions.append(_any_of("t.code", any_system, bind))
    any_code = [bounded(value.system) for value in values if value.system is not None and value.code is None]
    if any_code:
        conditions.append(_any_of("t.system", any_code, bind))
    for value in values:
        if value.system is not None and value.code is not None:
            code, system = bind(bounded(value.code), "text"), bind(bounded(value.system), "text")
            conditions.append(f"t.code = {code} AND t.system = {system}")
    if not conditions:
        raise BadRequest("A token search needs a code or a system.")
    return " OR ".join(f"({condition})" for condition in conditions)


def _targets(value: ReferenceValue) -> list[str]:
    if value.url:
        return [reference_target("", "", value.url)]
    return [reference_target(type_, value.id, "") for type_ in value.types]


def _string(given: object, modifier: str | None, bind: Binder) -> str:
    value = _as(StringValue, given)
    if modifier == "contains":
        return f"strpos(t.value, {bind(value.value, 'text')}) > 0"
    start = value.value[:PREFIX_LENGTH]
    if modifier == "exact":
        return f"t.prefix = {bind(start, 'text')} AND t.exact = {bind(value.exact, 'text')}"
    begins = _begins("t.prefix", start, bind)
    if len(value.value) > PREFIX_LENGTH:
        return f"{begins} AND starts_with(t.value, {bind(value.value, 'text')})"
    return begins


def after_prefix(prefix: str) -> str | None:
    """Return the least text above all that begin with `prefix`, in code point order; None where there is none."""
    kept = prefix.rstrip(_LAST_CHARACTER)
    if not kept:
        return None
    last = kept[-1]
    following = _AFTER_SURROGATES if last == _BEFORE_SURROGATES else chr(ord(last) + 1)
    return kept[:-1] + following


def _interval(value: DateValue, table: str, bind: Binder) -> str:
    """Return the condition on a row's half-open interval [low, high)."""
    low, high = f"{table}.low", f"{table}.high"
    if value.prefix == "ap":
        earliest, latest = _about(value.low, value.high)
        return f"{low} < {bind(latest, 'timestamptz')} AND {high} > {bind(earliest, 'timestamptz')}"
    start = bind(value.low, "timestamptz") if value.prefix not in ("gt", "sa") else ""
    end = bind(value.high, "timestamptz") if value.prefix not in ("lt", "eb") else ""
    return {
        "eq": f"{low} >= {start} AND {low} < {end} AND {high} <= {end}",
        "ne": f"NOT ({low} >= {start} AND {high} <= {end})",
        "gt": f"{high} > {end}",
        "lt": f"{low} < {start}",
        "ge": f"{high} > {end} OR {low} >= {start}",
        "le": f"{low} < {start} OR {high} <= {end}",
        "sa": f"{low} >= {end}",
        "eb": f"{high} <= {start}",
    }[value.prefix]


def _bounds(value: DateValue, bind: Binder) -> list[str]:
    """Return what `value` says of the `low` of a plain row, which ends a day later at most: bounds for an index."""
    day = timedelta(days=1)
    after = {"ge": value.low, "gt": value.high}.get(value.prefix)
    before = {"lt": value.low, "eb": value.low, "le": value.high}.get(value.prefix)
    bounds = []
    if after is not None:
        bounds.append(f"t.low >= {bind(_moved(after, -day), 'timestamptz')}")
    if before is not None:
        bounds.append(f"t.low < {bind(before, 'timestamptz')}")
    return bounds


def within_dates(criteria: Sequence[Criterion], row: Row, bind: Binder) -> str:
    """Return the SQL condition of all criteria on one date parameter without modifiers, which hold together.

    Each may be satisfied by another of the parameter's intervals. Where there is one only, one row satisfies all, and a
    search between two dates reads what lies between them.
    """
    parameter = f"t.param = {parameter_id(criteria[0].parameter)}"
    plain, others = ["t.plain"], ["NOT t.plain"]
    for number, criterion in enumerate(criteria):
        values = [_as(DateValue, value) for value in criterion.values]
        matches = _either(values, "t", bind)
        plain.append(matches)
        if len(values) == 1:
            plain.extend(_bounds(values[0], bind))
        others.append(
            matches
            if number == 0
            else "EXISTS (SELECT FROM idx_date u WHERE u.rid = t.rid "
            f"AND u.param = {parameter_id(criterion.parameter)} AND {_either(values, 'u', bind)})"
        )
    return (
        f"{row.rid} IN (SELECT t.rid FROM idx_date t WHERE {row.scope} AND {parameter} AND {' AND '.join(plain)} "
        f"UNION ALL SELECT t.rid FROM idx_date t WHERE {row.scope} AND {parameter} AND {' AND '.join(others)})"
    )


def _either(values: Sequence[DateValue], table: str, bind: Binder) -> str:
    return "(" + " OR ".join(f"({_interval(value, table, bind)})" for value in values) + ")"


def _about(low: datetime, high: datetime) -> tuple[datetime, datetime]:
    """Widen an interval by a tenth of its distance from now, as R4 recommends for `ap`."""
    margin = abs(datetime.now(UTC) - low) / 10
    return _moved(low, -margin), _moved(high, margin)


def _moved(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return MIN_INSTANT if by < timedelta(0) else MAX_INSTANT


def _number(given: object, modifier: str | None, bind: Binder) -> str:
    """Compare `idx_number` or `idx_quantity`: low = high for a number as it stands, else a range [low, high).

    With a prefix, the number that was asked for is exact; without one, it means all that it could be rounded from.
    """
    value = _as(NumberValue, given)
    if value.prefix in ("eq", "ne"):
        low, high = bind(value.low, "numeric"), bind(value.high, "numeric")
        equal = f"t.low >= {low} AND t.low < {high} AND t.high <= {high}"
        return equal if value.prefix == "eq" else f"NOT ({equal})"
    if value.prefix == "ap":
        margin = abs(value.value) / 10
        return (
            f"t.low <= {bind(max(value.value + margin, value.high), 'numeric')} "
            f"AND t.high >= {bind(min(value.value - margin, value.low), 'numeric')}"
        )
    exact = bind(value.value, "numeric")
    return {
        "gt": f"t.high > {exact}",
        "lt": f"t.low < {exact}",
        "ge": f"t.high > {exact} OR t.low >= {exact}",
        "le": f"t.low <= {exact}",
        "sa": f"t.low > {exact}",
        "eb": f"t.high <= {exact} AND t.low < {exact}",
    }[value.prefix]


def _quantity(given: object, modifier: str | None, bind: Binder) -> str:
    value = _as(QuantityValue, given)
    conditions = [f"({_number(value.number, modifier, bind)})"]
    if value.code is not None:
        conditions.append(f"t.code = {bind(bounded(value.code), 'text')}")
    if value.system is not None:
        conditions.append(f"t.system = {bind(bounded(value.system), 'text')}")
    return " AND ".join(conditions)


_ONE: Final[Mapping[Kind, Callable[[object, str | None, Binder], str]]] = {
    "string": _string,
    "number": _number,
    "quantity": _quantity,
}

ON_THE_RESOURCE: Final = frozenset({"_id", "_lastUpdated"})
"""Parameters that are answered from the resource's own row."""


def _on_column(criterion: Criterion, row: str, bind: Binder) -> str:
    """`_id` and `_lastUpdated` stand in the resource's own row; an instant is the millisecond it names."""
    if criterion.modifier == "missing":
        [value] = criterion.values
        return "false" if isinstance(value, MissingValue) and value.missing else "true"
    if criterion.parameter == "_id":
        ids = [value.code for value in criterion.values if isinstance(value, TokenValue) and value.code is not None]
        matches = f"{row}.id = ANY ({bind(ids, 'text[]')})"
    else:
        matches = " OR ".join(f"({_instant(_as(DateValue, value), row, bind)})" for value in criterion.values)
    return f"NOT ({matches})" if criterion.modifier == "not" else f"({matches})"


def _instant(value: DateValue, row: str, bind: Binder) -> str:
    """Compare `last_updated`: as the interval of one millisecond, and so that its index can be used."""
    column = f"{row}.last_updated"
    if value.prefix == "ap":
        earliest, latest = _about(value.low, value.high)
        return f"{column} >= {bind(earliest, 'timestamptz')} AND {column} < {bind(latest, 'timestamptz')}"
    start, last = value.low, _moved(value.high, -timedelta(milliseconds=1))  # the first and the last that are within
    operator, moment = {
        "gt": (">", last),
        "lt": ("<", start),
        "ge": (">=", start) if start <= last else (">", last),
        "le": ("<=", last) if start <= last else ("<", start),
        "sa": (">=", value.high),
        "eb": ("<=", _moved(start, -timedelta(milliseconds=1))),
    }.get(value.prefix, ("", start))
    if operator:
        return f"{column} {operator} {bind(moment, 'timestamptz')}"
    within = f"{column} BETWEEN {bind(start, 'timestamptz')} AND {bind(last, 'timestamptz')}"
    return within if value.prefix == "eq" else f"NOT {within}"


def _as(form: type[V], value: object) -> V:
    if not isinstance(value, form):
        raise TypeError(f"a criterion of this kind holds {form.__name__} values, not {type(value).__name__}")
    return value
