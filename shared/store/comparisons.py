"""What the values of a search ask of the columns of one index row `t`, as SQL with bind parameters.

No value of a caller ever becomes part of a statement's text.

Source: https://hl7.org/fhir/R4/search.html (prefixes, modifiers, token and string matching).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from shared.fhir.dates import MAX_INSTANT, MIN_INSTANT
from shared.fhir.outcome import BadRequest
from shared.fhir.search import (
    CodesValue,
    Criterion,
    DateValue,
    Kind,
    NumberValue,
    PairValue,
    QuantityValue,
    ReferenceValue,
    StringValue,
    TokenValue,
    UriValue,
)
from shared.fhir.values import escape
from shared.store.rows import bounded, reference_target

V = TypeVar("V")

PREFIX_LENGTH: Final = 100
"""Characters of a string that are indexed: `idx_string.prefix`."""

_LAST_CHARACTER = chr(0x10FFFF)
_BEFORE_SURROGATES, _AFTER_SURROGATES = "\ud7ff", "\ue000"


class Binder:
    """Collects the bind parameters of one statement."""

    def __init__(self) -> None:
        self.arguments: list[Any] = []

    def __call__(self, value: object, cast: str) -> str:
        """Bind `value` and return its placeholder, cast to an SQL type."""
        self.arguments.append(value)
        return f"${len(self.arguments)}::{cast}"


def holds(criterion: Criterion, bind: Binder) -> str:
    """Return the condition that one of the values of a criterion without `missing` is what a row `t` holds."""
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


def within(criterion: Criterion, table: str, bind: Binder) -> str:
    """Return the condition that the interval of a row of `table` satisfies one of the dates of a criterion."""
    return "(" + " OR ".join(f"({_interval(_as(DateValue, value), table, bind)})" for value in criterion.values) + ")"


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


def low_bounds(criterion: Criterion, bind: Binder) -> list[str]:
    """Return what a date says of the `low` of a plain row, which ends a day later at most: bounds for an index.

    None where there are several dates, of which any will do.
    """
    if len(criterion.values) > 1:
        return []
    value, day = _as(DateValue, criterion.values[0]), timedelta(days=1)
    after = {"ge": value.low, "gt": value.high}.get(value.prefix)
    before = {"lt": value.low, "eb": value.low, "le": value.high}.get(value.prefix)
    bounds = []
    if after is not None:
        bounds.append(f"t.low >= {bind(_moved(after, -day), 'timestamptz')}")
    if before is not None:
        bounds.append(f"t.low < {bind(before, 'timestamptz')}")
    return bounds


def last_updated(criterion: Criterion, row: str, bind: Binder) -> str:
    """Return the condition that a `resource` row was last updated at one of the instants of a criterion."""
    return " OR ".join(f"({_instant(_as(DateValue, value), row, bind)})" for value in criterion.values)


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


def _as(form: type[V], value: object) -> V:
    if not isinstance(value, form):
        raise TypeError(f"a criterion of this kind holds {form.__name__} values, not {type(value).__name__}")
    return value
