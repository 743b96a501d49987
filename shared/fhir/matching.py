"""Whether one resource satisfies a search, without a store: for criteria of tokens and references, pure.

The rows are those that the store would search (`shared.fhir.extraction`), so a resource is found by a criterion here
where it would be found there.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Final
from urllib.parse import parse_qsl

from shared.fhir.extraction import extract
from shared.fhir.index import IndexRows, ReferenceRow, TokenRow
from shared.fhir.json import Resource
from shared.fhir.query import parse_search
from shared.fhir.search import Condition, Criterion, ReferenceValue, TokenValue

KINDS: Final = ("token", "reference")


class NotMatched(ValueError):
    """A criterion that cannot be judged on one resource alone; the message is for who wrote it."""


@cache
def criteria_of(type_: str, search: str) -> tuple[Criterion, ...]:
    """Return the criteria of a search as in a URL (``status=booked&patient=Patient/1``), all of which have to hold.

    Raises:
        NotMatched: it asks for more than tokens and references of the resource itself.
        BadRequest: it is not a search of that type.

    """
    pairs = parse_qsl(search, keep_blank_values=True, strict_parsing=bool(search))
    return tuple(_judgeable(one) for one in parse_search(type_, pairs, strict=True).criteria)


def _judgeable(one: Condition) -> Criterion:
    if (
        not isinstance(one, Criterion)
        or one.kind not in KINDS
        or one.modifier not in (None, "not")
        or one.parameter in {"_id", "_lastUpdated"}
        or not all(isinstance(value, TokenValue | ReferenceValue) for value in one.values)
    ):
        raise NotMatched(
            "Only codes and references of the resource itself can be asked for: status=final, patient=Patient/1."
        )
    return one


def satisfies(resource: Resource, criteria: Iterable[Criterion]) -> bool:
    """Tell whether a resource satisfies all criteria."""
    asked = list(criteria)
    if not asked:
        return True
    rows = extract(resource)
    return all(_satisfies(rows, one) for one in asked)


def _satisfies(rows: IndexRows, one: Criterion) -> bool:
    found = any(_token(row, one) for row in rows.token) or any(_reference(row, one) for row in rows.reference)
    return found != (one.modifier == "not")


def _token(row: TokenRow, one: Criterion) -> bool:
    return row.parameter == one.parameter and any(
        isinstance(value, TokenValue)
        and value.system in (None, row.system)
        and (value.code is None or value.code == row.code)
        for value in one.values
    )


def _reference(row: ReferenceRow, one: Criterion) -> bool:
    return row.parameter == one.parameter and any(
        isinstance(value, ReferenceValue)
        and (row.url == value.url if value.url else row.target_id == value.id and row.target_type in value.types)
        for value in one.values
    )
