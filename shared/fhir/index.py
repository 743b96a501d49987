"""The values of a resource that can be searched for: one small row for each, by kind of search parameter.

Source: https://hl7.org/fhir/R4/search.html. The rows are made by `shared.fhir.extraction` from the R4 SearchParameter
definitions and are stored by `shared.store`; this module is what the two agree on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A code, identifier, boolean or contact point; `system` is empty where there is none."""

    parameter: str
    system: str
    code: str


@dataclass(frozen=True, slots=True)
class StringRow:
    """A text: `value` folded for comparison (case, accents, white space), `exact` as it stands."""

    parameter: str
    value: str
    exact: str


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """A reference to `target_type`/`target_id` on this server, or to an absolute `url` (then type and id are empty)."""

    parameter: str
    target_type: str
    target_id: str
    url: str


@dataclass(frozen=True, slots=True)
class DateRow:
    """A date, dateTime, instant, Period or Timing as the half-open interval [low, high) in UTC.

    An open side of a Period is `MIN_INSTANT` or `MAX_INSTANT`.
    """

    parameter: str
    low: datetime
    high: datetime


@dataclass(frozen=True, slots=True)
class NumberRow:
    """A number with the interval its precision implies: 100 is [99.5, 100.5)."""

    parameter: str
    low: Decimal
    high: Decimal


@dataclass(frozen=True, slots=True)
class QuantityRow:
    """A quantity: the interval its precision implies, `system` and `code` of its unit (empty where there is none)."""

    parameter: str
    low: Decimal
    high: Decimal
    system: str
    code: str


@dataclass(frozen=True, slots=True)
class UriRow:
    """A uri, url or canonical, as it stands."""

    parameter: str
    value: str


@dataclass(slots=True)
class IndexRows:
    """All rows of one resource. No two rows of a list are equal."""

    token: list[TokenRow] = field(default_factory=list)
    string: list[StringRow] = field(default_factory=list)
    reference: list[ReferenceRow] = field(default_factory=list)
    date: list[DateRow] = field(default_factory=list)
    number: list[NumberRow] = field(default_factory=list)
    quantity: list[QuantityRow] = field(default_factory=list)
    uri: list[UriRow] = field(default_factory=list)
