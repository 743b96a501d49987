"""A FHIR search as a value: what was asked, checked against the R4 definitions, before any SQL.

Source: https://hl7.org/fhir/R4/search.html. `shared.fhir.query` makes it from the parameters of a URL;
`shared.store.search` compiles it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

Kind = Literal["token", "string", "reference", "date", "number", "quantity", "uri"]
Prefix = Literal["eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"]
Total = Literal["none", "estimate", "accurate"]


@dataclass(frozen=True, slots=True)
class TokenValue:
    """`system|code`. `system` None: any system; "": no system. `code` None: any code of the system."""

    system: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class StringValue:
    """A text: folded as in `StringRow.value`, and as it was given."""

    value: str
    exact: str


@dataclass(frozen=True, slots=True)
class ReferenceValue:
    """`Type/id`, a bare id (`types` then holds every type it may be), or an absolute url (`id` is then empty)."""

    types: tuple[str, ...]
    id: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class DateValue:
    """A prefix and the half-open interval [low, high) in UTC that the value's precision implies."""

    prefix: Prefix
    low: datetime
    high: datetime


@dataclass(frozen=True, slots=True)
class NumberValue:
    """A prefix, the number, and the interval [low, high) that its precision implies."""

    prefix: Prefix
    value: Decimal
    low: Decimal
    high: Decimal


@dataclass(frozen=True, slots=True)
class QuantityValue:
    """A `NumberValue` with a unit. `system` and `code` None: any."""

    number: NumberValue
    system: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class UriValue:
    """A uri as it stands."""

    value: str


@dataclass(frozen=True, slots=True)
class MissingValue:
    """The operand of `:missing`."""

    missing: bool


Value: TypeAlias = (
    TokenValue | StringValue | ReferenceValue | DateValue | NumberValue | QuantityValue | UriValue | MissingValue
)


@dataclass(frozen=True, slots=True)
class Criterion:
    """One parameter of the query: any of `values` satisfies it. Criteria of a query are joined by AND.

    `parameter` is the code of a SearchParameter of the type (``code``, ``patient``, also ``_id``, ``_lastUpdated``,
    ``_tag``, ``_profile``, ``_security``, ``_source``). `modifier` is None or one of ``exact``, ``contains``, ``not``,
    ``missing``.
    """

    parameter: str
    kind: Kind
    values: tuple[Value, ...]
    modifier: str | None = None


@dataclass(frozen=True, slots=True)
class SortKey:
    """One key of `_sort`."""

    parameter: str
    kind: Kind
    descending: bool = False


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A whole search of one type.

    `given` are the parameters as understood, in order, for the `self` link. `ignored` are those left out because the
    caller asked for lenient handling; the Bundle names them.
    """

    type: str
    criteria: tuple[Criterion, ...] = ()
    sort: tuple[SortKey, ...] = ()
    count: int = 50
    total: Total = "none"
    given: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = field(default=())
