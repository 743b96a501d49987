"""A FHIR search as a value: what was asked, checked against the R4 definitions, before any SQL.

Source: https://hl7.org/fhir/R4/search.html. `shared.fhir.query` makes it from the parameters of a URL;
`shared.store.search` compiles it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

Kind = Literal["token", "string", "reference", "date", "number", "quantity", "uri", "composite"]
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
    """A `NumberValue` with a unit. `system` and `code` None: any.

    `canonical` says that number and code are in UCUM's base units, and are to be compared with rows that are, too.
    """

    number: NumberValue
    system: str | None
    code: str | None
    canonical: bool = False


@dataclass(frozen=True, slots=True)
class UriValue:
    """A uri as it stands."""

    value: str


@dataclass(frozen=True, slots=True)
class PairValue:
    """Two values of one element, of a composite. A code needs a code: `system|` alone is no part of one."""

    first: TokenValue | ReferenceValue
    second: TokenValue | QuantityValue


@dataclass(frozen=True, slots=True)
class ValueSetValue:
    """The operand of `:in` and `:not-in`, the canonical of a value set; looked up before the search is run.

    `bare`: what is searched are codes whose system is not written beside them (``Observation.status``).
    """

    url: str
    bare: bool = False


@dataclass(frozen=True, slots=True)
class HierarchyValue:
    """The operand of `:below` and (`above`) `:above` on a code; looked up before the search is run."""

    system: str
    code: str
    above: bool = False


@dataclass(frozen=True, slots=True)
class CodesValue:
    """Codes by code system: what a value set or a hierarchy was found to hold. Any of them satisfies a criterion."""

    codes: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class MissingValue:
    """The operand of `:missing`."""

    missing: bool


Value: TypeAlias = (
    TokenValue
    | StringValue
    | ReferenceValue
    | DateValue
    | NumberValue
    | QuantityValue
    | UriValue
    | PairValue
    | ValueSetValue
    | HierarchyValue
    | CodesValue
    | MissingValue
)


@dataclass(frozen=True, slots=True)
class Criterion:
    """One parameter of the query: any of `values` satisfies it. Criteria of a query are joined by AND.

    `parameter` is the code of a SearchParameter of the type (``code``, ``patient``, also ``_id``, ``_lastUpdated``,
    ``_tag``, ``_profile``, ``_security``, ``_source``), or what index rows know a modifier by (``code:text``,
    ``identifier:of-type``, ``subject:identifier``). `modifier` is what is left for the store: None or one of
    ``exact``, ``contains``, ``not``, ``in``, ``not-in``, ``below``, ``above``, ``missing``.
    """

    parameter: str
    kind: Kind
    values: tuple[Value, ...]
    modifier: str | None = None


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Satisfied where all criteria of one of the alternatives are, none of which has a modifier: a composite, say."""

    alternatives: tuple[tuple[Criterion, ...], ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """The resource that `parameter` refers to is of one of the types and satisfies the condition beside it.

    ``subject:Patient.name=ada`` is ``Chain("subject", (("Patient", name=ada),))``.
    """

    parameter: str
    targets: tuple[tuple[str, Condition], ...]


@dataclass(frozen=True, slots=True)
class Has:
    """A resource of `type` refers to this one by its `parameter`, and satisfies the condition (None: any does).

    ``_has:Observation:patient:code=x`` is ``Has("Observation", "patient", code=x)``.
    """

    type: str
    parameter: str
    condition: Condition


Condition: TypeAlias = "Criterion | AnyOf | Chain | Has"


@dataclass(frozen=True, slots=True)
class Include:
    """An `_include` or (`reverse`) `_revinclude`.

    Attributes:
        source: the type that refers; None: any (of ``*``).
        parameter: its reference parameter; None: any (``Observation:*``).
        target: the type referred to; None: any.
        reverse: `_revinclude`: what refers to the matches comes too.
        iterate: goes on from what was included.

    """

    source: str | None
    parameter: str | None
    target: str | None
    reverse: bool = False
    iterate: bool = False


@dataclass(frozen=True, slots=True)
class SortKey:
    """One key of `_sort`."""

    parameter: str
    kind: Kind
    descending: bool = False


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A whole search, of one type or (`types`) of several at once.

    `given` are the parameters as understood, in order, for the `self` link. `ignored` are those left out because the
    caller asked for lenient handling; the Bundle names them. `includes` come with each page of matches.
    """

    type: str
    criteria: tuple[Condition, ...] = ()
    sort: tuple[SortKey, ...] = ()
    count: int = 50
    total: Total = "none"
    given: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = field(default=())
    includes: tuple[Include, ...] = ()
    types: tuple[str, ...] = ()
    explain: bool = False

    @property
    def searched(self) -> tuple[str, ...]:
        """The types among which matches are looked for."""
        return self.types or (self.type,)
