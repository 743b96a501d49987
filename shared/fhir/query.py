"""The parameters of a URL as a `SearchQuery`, or a refusal that names every one that cannot be understood.

Strict: a parameter or modifier that is not known is refused, never ignored, for a search that ignores a condition
returns what was not asked for. Lenient (``Prefer: handling=lenient``): it is left out and listed in `ignored`. A value
that cannot be read is refused in both.

Source: https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Final, TypeAlias

from shared.fhir.dates import interval
from shared.fhir.definitions import RESOURCE_TYPES, TYPES, SearchParameter, other_parameters, search_parameters
from shared.fhir.numbers import implied_interval, is_storable
from shared.fhir.outcome import BadRequest, Issue
from shared.fhir.references import parse_literal
from shared.fhir.search import (
    Criterion,
    DateValue,
    Kind,
    MissingValue,
    NumberValue,
    Prefix,
    QuantityValue,
    ReferenceValue,
    SearchQuery,
    SortKey,
    StringValue,
    TokenValue,
    Total,
    UriValue,
    Value,
)
from shared.fhir.text import fold

Pair: TypeAlias = tuple[str, str]

_MODIFIERS: Final[Mapping[Kind, frozenset[str]]] = {
    "token": frozenset({"not", "missing"}),
    "string": frozenset({"exact", "contains", "missing"}),
    "reference": frozenset({"missing"}),
    "date": frozenset({"missing"}),
    "number": frozenset({"missing"}),
    "quantity": frozenset({"missing"}),
    "uri": frozenset({"missing"}),
}
_KNOWN_MODIFIERS: Final = frozenset(
    {"exact", "contains", "missing", "not", "text", "in", "not-in", "above", "below", "of-type", "identifier"}
)
_PREFIXES: Final[Mapping[str, Prefix]] = {
    "eq": "eq",
    "ne": "ne",
    "gt": "gt",
    "lt": "lt",
    "ge": "ge",
    "le": "le",
    "sa": "sa",
    "eb": "eb",
    "ap": "ap",
}
_TOTALS: Final[Mapping[str, Total]] = {"none": "none", "estimate": "estimate", "accurate": "accurate"}
_NOT_YET: Final = frozenset(
    {"_include", "_revinclude", "_text", "_content", "_list", "_has", "_filter", "_query", "_contained", "_type"}
    | {"_containedType", "_score"}
)
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ID: Final = re.compile(r"[A-Za-z0-9.-]{1,64}")
_ESCAPE: Final = re.compile(r"\\([\\,|$])")
MAX_VALUES: Final = 500
"""Alternatives of one criterion: above it the search is refused."""


class _NotOffered(Exception):
    """A parameter or modifier that is unknown or not supported: refused, or ignored when lenient."""


def split_escaped(text: str, separator: str) -> list[str]:
    r"""Return the parts of `text` between separators that no ``\`` escapes; the escapes stay."""
    parts, start, position = [], 0, 0
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        if text[position] == separator:
            parts.append(text[start:position])
            start = position + 1
        position += 1
    return [*parts, text[start:]]


def unescape(text: str) -> str:
    r"""Return `text` with ``\,``, ``\|``, ``\$`` and ``\\`` resolved."""
    return _ESCAPE.sub(r"\1", text)


def _token(text: str, _: SearchParameter, __: str | None) -> Value:
    parts = [unescape(part) for part in split_escaped(text, "|")]
    if len(parts) == 1:
        return TokenValue(None, parts[0])
    if len(parts) > 2 or not any(parts):
        message = "a token is code, system|code, |code or system|"
        raise ValueError(message)
    system, code = parts
    return TokenValue(system, code or None)


def _string(text: str, _: SearchParameter, modifier: str | None) -> Value:
    exact = unescape(text)
    folded = fold(exact)
    if not folded and modifier != "exact":
        message = "nothing is left of it when case and accents are ignored"
        raise ValueError(message)
    return StringValue(folded, exact)


def _reference(text: str, parameter: SearchParameter, modifier: str | None) -> Value:
    literal = unescape(text)
    targets = _targets(parameter)
    if modifier is not None:
        targets = (modifier,)
    parsed = parse_literal(literal)
    if parsed.url:
        if _ID.fullmatch(literal):
            return ReferenceValue(targets, literal)
        if ":" not in literal:
            message = "a reference is Type/id, id or an absolute url"
            raise ValueError(message)
        return ReferenceValue((), "", literal)
    if parsed.fragment is not None:
        message = "a contained resource cannot be searched for"
        raise ValueError(message)
    if parsed.type not in targets:
        message = f"it points to {parsed.type}, and only {', '.join(targets)} can be meant here"
        raise ValueError(message)
    return ReferenceValue((parsed.type,), parsed.id)


def _targets(parameter: SearchParameter) -> tuple[str, ...]:
    """Return the types a parameter's references may point to; ``patient`` means Patient, whatever its element may."""
    if parameter.code == "patient" and "Patient" in parameter.targets:
        return ("Patient",)
    return parameter.targets or tuple(sorted(RESOURCE_TYPES))


def _prefixed(text: str) -> tuple[Prefix, str]:
    prefix = _PREFIXES.get(text[:2])
    if prefix is not None:
        return prefix, text[2:]
    if text[:2].isalpha():
        message = f"'{text[:2]}' is not a prefix; there are {', '.join(_PREFIXES)}"
        raise ValueError(message)
    return "eq", text


def _date(text: str, _: SearchParameter, __: str | None) -> Value:
    prefix, rest = _prefixed(text)
    # In a URL a plus sign that was not escaped arrives as a space: 2026-01-01T10:00:00 02:00.
    return DateValue(prefix, *interval(rest.replace(" ", "+")))


def _number_value(text: str) -> NumberValue:
    prefix, rest = _prefixed(text)
    if _NUMBER.fullmatch(rest) is None:
        message = f"'{rest}' is not a number"
        raise ValueError(message)
    number = Decimal(rest)
    if not is_storable(number):
        message = "it has too many digits"
        raise ValueError(message)
    return NumberValue(prefix, number, *implied_interval(number))


def _number(text: str, _: SearchParameter, __: str | None) -> Value:
    return _number_value(unescape(text))


def _quantity(text: str, _: SearchParameter, __: str | None) -> Value:
    parts = [unescape(part) for part in split_escaped(text, "|")]
    if len(parts) not in {1, 3}:
        message = "a quantity is number, number|system|code or number||code"
        raise ValueError(message)
    number = _number_value(parts[0])
    if len(parts) == 1:
        return QuantityValue(number, None, None)
    return QuantityValue(number, parts[1] or None, parts[2] or None)


def _uri(text: str, _: SearchParameter, __: str | None) -> Value:
    return UriValue(unescape(text))


_PARSE: Final[Mapping[Kind, Callable[[str, SearchParameter, str | None], Value]]] = {
    "token": _token,
    "string": _string,
    "reference": _reference,
    "date": _date,
    "number": _number,
    "quantity": _quantity,
    "uri": _uri,
}


def _missing(text: str) -> Value:
    if text not in {"true", "false"}:
        message = ":missing is true or false"
        raise ValueError(message)
    return MissingValue(text == "true")


def _known(type_: str, code: str) -> SearchParameter:
    parameter = search_parameters(type_).get(code)
    if parameter is not None:
        return parameter
    if code in other_parameters(type_) or code in _NOT_YET:
        why = f"The search parameter '{code}' of {type_} is not supported by this server."
        raise _NotOffered(why)
    why = f"{type_} has no search parameter '{code}'."
    raise _NotOffered(why)


def _modifier(parameter: SearchParameter, modifier: str) -> str | None:
    if not modifier:
        return None
    if modifier in _MODIFIERS[parameter.kind]:
        return modifier
    if parameter.kind == "reference" and modifier in RESOURCE_TYPES:
        if modifier in _targets(parameter):
            return modifier
        why = f"'{parameter.code}' never points to {modifier}; it points to {', '.join(_targets(parameter))}."
        raise _NotOffered(why)
    known = "is not supported by this server" if modifier in _KNOWN_MODIFIERS else "is not a modifier of FHIR"
    raise _NotOffered(f"':{modifier}' {known} for the {parameter.kind} parameter '{parameter.code}'.")


def _criterion(type_: str, name: str, text: str) -> Criterion:
    code, _, given = name.partition(":")
    if code in {"_has", "_include", "_revinclude"}:
        why = f"'{code}' is not supported by this server."
        raise _NotOffered(why)
    if "." in name:
        why = f"Chained parameters ('{name}') are not supported by this server."
        raise _NotOffered(why)
    parameter = _known(type_, code)
    modifier = _modifier(parameter, given)
    if not text:
        message = "it has no value"
        raise ValueError(message)
    if modifier == "missing":
        return Criterion(code, parameter.kind, (_missing(text),), modifier)
    texts = split_escaped(text, ",")
    if len(texts) > MAX_VALUES:
        message = f"it has more than {MAX_VALUES} alternatives"
        raise ValueError(message)
    if not all(texts):
        message = "one of its alternatives is empty; a comma in a value is written \\,"
        raise ValueError(message)
    parse = _PARSE[parameter.kind]
    values = dict.fromkeys(parse(one, parameter, modifier) for one in texts)
    # A :[type] modifier is in the values' types; what is left for the store are the others.
    kept = None if modifier in RESOURCE_TYPES else modifier
    return Criterion(code, parameter.kind, tuple(values), kept)


def _sort(type_: str, text: str) -> list[SortKey]:
    keys = []
    for word in text.split(","):
        code = word.removeprefix("-")
        if not code:
            message = "one of its keys is empty"
            raise ValueError(message)
        parameter = _known(type_, code)
        keys.append(SortKey(code, parameter.kind, word.startswith("-")))
    return keys


def _count(text: str, max_count: int) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        message = "it is not a whole number of zero or more"
        raise ValueError(message)
    return min(int(text), max_count)


def parse_search(
    type_: str,
    pairs: Iterable[Pair],
    *,
    strict: bool,
    default_count: int = 50,
    max_count: int = 1000,
) -> SearchQuery:
    """Return the search of `type_` that decoded `pairs` of name and value ask for.

    `_format`, `_pretty`, `_summary` and `_elements` are no part of it: who calls takes them out first. A `_count` above
    `max_count` is that.

    Raises:
        BadRequest: with one issue for each parameter that cannot be understood.

    """
    if type_ not in TYPES:
        raise BadRequest(f"{type_} cannot be searched here.", code="not-supported")
    criteria: list[Criterion] = []
    sort: list[SortKey] = []
    counts: list[int] = []
    totals: list[Total] = []
    given: list[Pair] = []
    ignored: list[str] = []
    issues: list[Issue] = []
    for name, text in pairs:
        try:
            if name == "_sort":
                sort.extend(_sort(type_, text))
            elif name == "_count":
                counts.append(_count(text, max_count))
            elif name == "_total":
                totals.append(_TOTALS[text])
            else:
                criteria.append(_criterion(type_, name, text))
            given.append((name, text))
        except _NotOffered as refusal:
            if strict:
                issues.append(
                    Issue(f"{refusal} Nothing was searched.", code="not-supported", expression=(f"http.{name}",))
                )
            else:
                ignored.append(name)
        except KeyError:
            issues.append(_unreadable(name, "it is none, estimate or accurate"))
        except (ValueError, InvalidOperation) as error:
            issues.append(_unreadable(name, str(error)))
    for name, values in (("_count", counts), ("_total", totals)):
        if len(values) > 1:
            issues.append(Issue(f"'{name}' is given more than once.", code="value", expression=(f"http.{name}",)))
    if issues:
        raise BadRequest(issues)
    return SearchQuery(
        type=type_,
        criteria=tuple(criteria),
        sort=tuple(sort),
        count=counts[0] if counts else default_count,
        total=totals[0] if totals else "none",
        given=tuple(given),
        ignored=tuple(ignored),
    )


def _unreadable(name: str, why: str) -> Issue:
    return Issue(f"The value of '{name}' cannot be read: {why}.", code="value", expression=(f"http.{name}",))
