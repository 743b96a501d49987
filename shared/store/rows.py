"""Index rows as the arrays that the write functions take, in the order of their parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from decimal import Decimal, localcontext
from typing import Any, Final, TypeAlias

from shared.fhir.definitions import parameter_id
from shared.fhir.index import IndexRows, QuantityRow
from shared.fhir.numbers import MAX_DIGITS

Arrays: TypeAlias = tuple[list[Any], ...]

LOWEST: Final = 1
"""Bit of `edge`: the row by which an ascending sort places the resource."""

HIGHEST: Final = 2
"""Bit of `edge`: the row by which a descending sort places the resource."""

_KEY_BYTES = 600
_KEPT_CHARACTERS = 100

_VALUE_COLUMNS = (2, 2, 1, 2, 2, 4, 1)  # of token, string, reference, date, number, quantity, uri

NO_ROWS: Final[Arrays] = tuple([] for columns in _VALUE_COLUMNS for _ in range(columns + 2))
"""The arrays of a resource without any index row: of a deleted one."""


def bounded(text: str) -> str:
    """Return `text`, or where a B-tree could not hold it, its beginning and a digest: equal texts stay equal."""
    if len(text) <= _KEY_BYTES // 4:
        return text
    raw = text.encode()
    if len(raw) <= _KEY_BYTES:
        return text
    return f"{text[:_KEPT_CHARACTERS]}#{hashlib.sha256(raw).hexdigest()}"


def reference_target(type_: str, id_: str, url: str) -> str:
    """Return what `idx_reference.target` holds: ``Type/id``, or the absolute url."""
    return bounded(url or f"{type_}/{id_}")


def exact_or_range(low: Decimal, high: Decimal) -> tuple[Decimal, Decimal]:
    """Return (value, value) where [low, high) is only what the precision of one number implies, else (low, high).

    R4 compares a number with a search as it stands, whatever its precision, and only a true range (a Range, a value
    with a comparator) by its two ends; https://hl7.org/fhir/R4/search.html#number.
    """
    with localcontext() as context:
        context.prec = 3 * MAX_DIGITS
        width = (high - low).normalize()
        middle = (low + high) / 2
        if width.as_tuple().digits == (1,) and middle == middle.quantize(width):
            return middle, middle
    return low, high


def _ends(row: QuantityRow) -> tuple[Decimal, Decimal]:
    """Return the ends of a quantity; those in base units are what they are."""
    return (row.low, row.high) if row.parameter.endswith(":ucum") else exact_or_range(row.low, row.high)


def arrays_of(index: IndexRows) -> Arrays:
    """Return the arrays of all kinds."""
    token = [(r.parameter, (bounded(r.code), bounded(r.system))) for r in index.token]
    string = [(r.parameter, (r.value, r.exact)) for r in index.string]
    reference = [(r.parameter, (reference_target(r.target_type, r.target_id, r.url),)) for r in index.reference]
    date = [(r.parameter, (r.low, r.high)) for r in index.date]
    number = [(r.parameter, exact_or_range(r.low, r.high)) for r in index.number]
    quantity = [(r.parameter, (*_ends(r), bounded(r.system), bounded(r.code))) for r in index.quantity]
    uri = [(r.parameter, (bounded(r.value),)) for r in index.uri]
    token_param, token_code, token_system, token_edge = _columns(token, 2)
    return (
        token_param,
        token_system,
        token_code,
        token_edge,
        *_columns(string, 2),
        *_columns(reference, 1),
        *_columns(date, 2),
        *_columns(number, 2),
        *_columns(quantity, 4),
        *_columns(uri, 1),
    )


def _columns(rows: Iterable[tuple[str, tuple[Any, ...]]], width: int) -> list[list[Any]]:
    """Return the columns param, values..., edge. A value is compared by its first column, then by the others."""
    distinct = list(dict.fromkeys(rows))
    lowest: dict[str, tuple[Any, ...]] = {}
    highest: dict[str, tuple[Any, ...]] = {}
    for parameter, value in distinct:
        if parameter not in lowest or value < lowest[parameter]:
            lowest[parameter] = value
        if parameter not in highest or value > highest[parameter]:
            highest[parameter] = value
    columns: list[list[Any]] = [[] for _ in range(width + 2)]
    for parameter, value in distinct:
        columns[0].append(parameter_id(parameter))
        for column, part in zip(columns[1:-1], value, strict=True):
            column.append(part)
        columns[-1].append(
            (LOWEST if value == lowest[parameter] else 0) | (HIGHEST if value == highest[parameter] else 0)
        )
    return columns
