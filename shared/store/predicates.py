"""What one search parameter asks of a resource: which index rows there must be, or must not.

`shared.store.comparisons` says which rows hold a value; `shared.store.conditions` joins these conditions, and those
that lead to other resources, to the condition of a whole search.

No value of a caller ever becomes part of a statement's text; only the numbers of types and parameters do, which are
ours, so that PostgreSQL plans with what it knows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared.fhir.definitions import parameter_id, search_parameters, type_id
from shared.fhir.ids import subject_uuid
from shared.fhir.search import (
    Criterion,
    MissingValue,
    ReferenceValue,
    TokenValue,
)
from shared.store.access import Access
from shared.store.comparisons import Binder, holds, last_updated, low_bounds, within

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
        "FamilyMemberHistory",
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


FEW_REFER_TO: Final = (SINGLE_SUBJECT - {"Device"}) | {"Appointment", "Patient", "Task"}
"""What is referred to by its own patient's record only, and so by few: an Encounter is, a Practitioner is not."""


def finds_few(criterion: Criterion) -> bool:
    """Tell whether a criterion finds few resources whatever value it has, so that a search begins with its index rows.

    A whole identifier, an id, a reference to what few refer to. PostgreSQL need not know the value to plan such a
    search, and planning costs more than carrying it out.
    """
    if criterion.modifier is not None:
        return False
    if criterion.parameter in ("_id", "identifier") and criterion.kind == "token":
        return all(isinstance(value, TokenValue) and value.code is not None for value in criterion.values)
    return criterion.kind == "reference" and all(
        isinstance(value, ReferenceValue) and value.types and FEW_REFER_TO.issuperset(value.types)
        for value in criterion.values
    )


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
    if found is not None and finds_few(criterion) and row.scope.startswith("t.tenant = $"):
        # Looked up first, whatever PostgreSQL knows of the tables: a new database has no statistics, and would walk
        # through all resources of the type to find the few; and it takes any code for as rare as an identifier.
        return f"{row.rid} = ANY (ARRAY(SELECT t.rid FROM {found}))"
    if found is not None:
        return f"{row.rid} IN (SELECT t.rid FROM {found})"
    # `row` may be an index row itself, named t as well: the rows that are looked for are kept apart from it.
    rows = f"SELECT t.rid FROM {rows_against(criterion, row.scope, bind)}"
    return f"NOT EXISTS (SELECT FROM ({rows}) n WHERE n.rid = {row.rid})"


def rows_against(criterion: Criterion, scope: str, bind: Binder) -> str:
    """Return ``idx_token t WHERE ...``, the index rows of which none may be there: of ``:not``, ``:missing=true``."""
    matches = "true" if criterion.modifier == "missing" else holds(criterion, bind)
    return f"idx_{criterion.kind} t WHERE {scope} AND t.param = {parameter_id(criterion.parameter)} AND ({matches})"


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
        matches = holds(criterion, bind)
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


def within_dates(criteria: Sequence[Criterion], row: Row, bind: Binder) -> str:
    """Return the SQL condition of all criteria on one date parameter without modifiers, which hold together."""
    return f"{row.rid} IN ({rows_within(criteria, row.scope, bind)})"


def rows_within(criteria: Sequence[Criterion], scope: str, bind: Binder) -> str:
    """Return the SELECT of the row numbers for which all criteria on one date parameter hold; some come twice.

    Each may be satisfied by another of the parameter's intervals. Where there is one only, one row satisfies all, and a
    search between two dates reads what lies between them.
    """
    parameter = f"t.param = {parameter_id(criteria[0].parameter)}"
    plain, others = ["t.plain"], ["NOT t.plain"]
    for number, criterion in enumerate(criteria):
        matches = within(criterion, "t", bind)
        plain += [matches, *low_bounds(criterion, bind)]
        others.append(
            matches
            if number == 0
            else "EXISTS (SELECT FROM idx_date u WHERE u.rid = t.rid "
            f"AND u.param = {parameter_id(criterion.parameter)} AND {within(criterion, 'u', bind)})"
        )
    return (
        f"SELECT t.rid FROM idx_date t WHERE {scope} AND {parameter} AND {' AND '.join(plain)} "
        f"UNION ALL SELECT t.rid FROM idx_date t WHERE {scope} AND {parameter} AND {' AND '.join(others)}"
    )


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
        matches = last_updated(criterion, row, bind)
    return f"NOT ({matches})" if criterion.modifier == "not" else f"({matches})"
