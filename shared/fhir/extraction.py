"""What of a resource can be searched for, whose record it belongs to, and how it is labelled.

The search parameters of R4 (`shared.fhir.definitions`) are compiled once for each type, when the first resource of that
type comes. Values that cannot be compared (a date of a month 13) make no row: validation refuses them before.

Source: https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, Final, TypeAlias

from shared.fhir import units
from shared.fhir.dates import Interval, interval, period_interval, timing_interval
from shared.fhir.definitions import SearchParameter, compartment_parameters, search_parameters
from shared.fhir.index import (
    DateRow,
    IndexRows,
    NumberRow,
    QuantityRow,
    ReferenceRow,
    StringRow,
    TokenRow,
    UriRow,
)
from shared.fhir.json import Resource
from shared.fhir.numbers import MAX_NUMBER, MIN_NUMBER, as_decimal, implied_interval, is_storable
from shared.fhir.paths import Branch, compile_path
from shared.fhir.references import parse_literal, references_of
from shared.fhir.search import Kind
from shared.fhir.text import fold
from shared.fhir.tree import PRIMITIVES
from shared.fhir.values import escape

__all__ = ["compartment_key", "extract", "labels_of", "references_of"]

Row: TypeAlias = TokenRow | StringRow | ReferenceRow | DateRow | NumberRow | QuantityRow | UriRow
Convert: TypeAlias = Callable[[str, Any, str], Iterable[Row]]
"""From parameter code, value and FHIR type to rows."""

CURRENCIES: Final = "urn:iso:std:iso:4217"
ON_THE_RESOURCE: Final = frozenset({"_id", "_lastUpdated"})
"""Parameters that the store answers from the resource itself, without an index row."""

_HUMAN_NAME: Final = ("text", "family", "given", "prefix", "suffix")
_ADDRESS: Final = ("text", "line", "city", "district", "state", "postalCode", "country")


@dataclass(frozen=True, slots=True)
class _Rule:
    """One branch of one search parameter."""

    code: str
    branch: Branch
    convert: Convert
    kind: str


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _tokens(code: str, value: Any, type_: str) -> Iterable[Row]:
    if type_ == "CodeableConcept":
        for coding in value.get("coding", ()):
            yield from _tokens(code, coding, "Coding")
    elif type_ == "Coding":
        if "code" in value or "system" in value:
            yield TokenRow(code, _text(value.get("system")), _text(value.get("code")))
    elif type_ in {"Identifier", "ContactPoint"}:
        if "value" in value:
            yield TokenRow(code, _text(value.get("system")), _text(value["value"]))
    elif type_ == "boolean":
        yield TokenRow(code, "", "true" if value is True else "false")
    elif type_ in PRIMITIVES:
        yield TokenRow(code, "", str(value))


def _strings(code: str, value: Any, type_: str) -> Iterable[Row]:
    texts: list[object] = [value]
    if type_ in {"HumanName", "Address"}:
        texts = [value.get(part) for part in (_HUMAN_NAME if type_ == "HumanName" else _ADDRESS)]
    elif type_ == "CodeableConcept":
        texts = [value.get("text"), *(coding.get("display") for coding in value.get("coding", ()))]
    for text in texts:
        for one in text if isinstance(text, list) else (text,):
            if isinstance(one, str) and (folded := fold(one)):
                yield StringRow(code, folded, one)


def _coded_texts(code: str, value: Any, type_: str) -> Iterable[Row]:
    """The words beside a code: what `:text` searches."""
    if type_ == "Identifier":
        value = value.get("type", {})
    texts = [value.get("text"), value.get("display"), *(one.get("display") for one in value.get("coding", ()))]
    for text in texts:
        if isinstance(text, str) and (folded := fold(text)):
            yield StringRow(code, folded, text)


def _typed_identifiers(code: str, value: Any, _: str) -> Iterable[Row]:
    """An identifier's value under each coding of its type: what `:of-type` searches."""
    if "value" in value:
        for coding in value.get("type", {}).get("coding", ()):
            kind = f"{escape(_text(coding.get('system')))}|{escape(_text(coding.get('code')))}"
            yield TokenRow(code, kind, _text(value["value"]))


def _logical(code: str, value: Any, _: str) -> Iterable[Row]:
    """The identifier in a reference: what `:identifier` searches."""
    if "identifier" in value:
        yield from _tokens(code, value["identifier"], "Identifier")


def _references(code: str, value: Any, type_: str) -> Iterable[Row]:
    if type_ == "Resource":
        if "id" in value:
            yield ReferenceRow(code, _text(value.get("resourceType")), _text(value["id"]), "")
        return
    literal = value if type_ != "Reference" else value.get("reference")
    if type_ == "Attachment":
        literal = value.get("url")
    if not isinstance(literal, str):
        return
    parsed = parse_literal(literal)
    if parsed.url:
        yield ReferenceRow(code, "", "", parsed.url)
        bare = parsed.url.partition("|")[0]
        if bare != parsed.url:  # a canonical with its version is also found without
            yield ReferenceRow(code, "", "", bare)
    elif parsed.type:
        yield ReferenceRow(code, parsed.type, parsed.id, "")


def _dates(code: str, value: Any, type_: str) -> Iterable[Row]:
    found: Interval | None = None
    if type_ == "Period":
        found = period_interval(value)
    elif type_ == "Timing":
        found = timing_interval(value)
    elif type_ in {"date", "dateTime", "instant", "string"}:  # of a string, where it is a date
        found = interval(value)
    if found is not None:
        yield DateRow(code, *found)


def _numbers(code: str, value: Any, type_: str) -> Iterable[Row]:
    if type_ == "Range":
        yield NumberRow(code, *_range(value))
    elif type_ in {"decimal", "integer", "positiveInt", "unsignedInt"}:
        yield NumberRow(code, *implied_interval(as_decimal(value)))


def _range(value: dict[str, Any]) -> tuple[Decimal, Decimal]:
    low, high = value.get("low", {}).get("value"), value.get("high", {}).get("value")
    return (
        MIN_NUMBER if low is None else implied_interval(as_decimal(low))[0],
        MAX_NUMBER if high is None else implied_interval(as_decimal(high))[1],
    )


def _quantities(code: str, value: Any, type_: str) -> Iterable[Row]:
    if type_ == "Range":
        unit = value.get("low") or value.get("high") or {}
        low, high = _range(value)
    elif type_ == "SampledData":
        unit = value.get("origin", {})
        low, high = _sampled(value)
    elif type_ == "Money":
        if "value" in value:
            low, high = implied_interval(as_decimal(value["value"]))
            yield QuantityRow(code, low, high, CURRENCIES, _text(value.get("currency")))
        return
    else:
        unit = value
        if value.get("value") is None:
            return
        low, high = implied_interval(as_decimal(value["value"]))
        comparator = value.get("comparator", "")
        if comparator.startswith("<"):
            low = MIN_NUMBER
        elif comparator.startswith(">"):
            high = MAX_NUMBER
    system, unit_code, name = _text(unit.get("system")), _text(unit.get("code")), _text(unit.get("unit"))
    yield QuantityRow(code, low, high, system, unit_code)
    known = units.unit(system, unit_code)
    if known is not None:
        # One number is compared as it stands, a range by its ends.
        one = as_decimal(value["value"]) if "value" in value and "comparator" not in value else None
        ends = (low, high) if one is None else (one, one)
        first, last = (end if end in {MIN_NUMBER, MAX_NUMBER} else known.canonical(end) for end in ends)
        yield QuantityRow(f"{code}:ucum", first, last, "", known.base)
    if name and name != unit_code:  # a search for ``5||mg`` finds the unit as written, too
        yield QuantityRow(code, low, high, "", name)


def _sampled(value: dict[str, Any]) -> tuple[Decimal, Decimal]:
    """Return the limits of sampled data: each point is origin + factor * number; E, L and U are no numbers."""
    points = [Decimal(word) for word in set(value.get("data", "").split()) - {"E", "L", "U"}]
    if not points or not all(is_storable(point) for point in points):
        message = "no data points"
        raise ValueError(message)
    origin = as_decimal(value["origin"]["value"])
    factor = as_decimal(value.get("factor", 1))
    ends = sorted((origin + factor * min(points), origin + factor * max(points)))
    return implied_interval(ends[0])[0], implied_interval(ends[1])[1]


def _uris(code: str, value: Any, type_: str) -> Iterable[Row]:
    if type_ in PRIMITIVES and isinstance(value, str):
        yield UriRow(code, value)


_CONVERT: Final[dict[str, Convert]] = {
    "token": _tokens,
    "string": _strings,
    "reference": _references,
    "date": _dates,
    "number": _numbers,
    "quantity": _quantities,
    "uri": _uris,
}
_SUITS: Final[dict[str, frozenset[str]]] = {
    "token": PRIMITIVES | {"CodeableConcept", "Coding", "Identifier", "ContactPoint"},
    "string": frozenset({"string", "markdown", "code", "HumanName", "Address", "CodeableConcept"}),
    "reference": frozenset({"Reference", "canonical", "uri", "url", "Attachment", "Resource"}),
    "date": frozenset({"date", "dateTime", "instant", "Period", "Timing", "string"}),
    "number": frozenset({"decimal", "integer", "positiveInt", "unsignedInt", "Range"}),
    "quantity": frozenset({"Quantity", "Age", "Count", "Distance", "Duration", "Money", "Range", "SampledData"}),
    "uri": frozenset({"uri", "url", "canonical", "oid", "uuid"}),
}
"""The types that a kind of parameter can compare; a branch that ends in another one makes no row."""

_BESIDE: Final[tuple[tuple[str, frozenset[str], str, Convert], ...]] = (
    ("token", frozenset({"CodeableConcept", "Coding", "Identifier"}), "text", _coded_texts),
    ("token", frozenset({"Identifier"}), "of-type", _typed_identifiers),
    ("reference", frozenset({"Reference"}), "identifier", _logical),
)
"""Rows of another form, for modifiers: of which kind of parameter, from which types, for which modifier, and how."""

_KIND_BESIDE: Final = {"text": "string", "of-type": "token", "identifier": "token"}


def _rules_of(parameter: SearchParameter, type_: str) -> list[_Rule]:
    branches = list(compile_path(parameter.expression, type_))
    # The genetics parameters of R4 end at the extension; what is meant is its value.
    for branch in [branch for branch in branches if branch.type == "Extension"]:
        branches.extend(_values_of_extension(branch))
    branches = [branch for branch in branches if branch.type in _SUITS[parameter.kind] and not branch.path]
    rules = [_Rule(parameter.code, branch, _CONVERT[parameter.kind], parameter.kind) for branch in branches]
    rules.extend(
        _Rule(f"{parameter.code}:{modifier}", branch, convert, _KIND_BESIDE[modifier])
        for kind, types, modifier, convert in _BESIDE
        for branch in branches
        if kind == parameter.kind and branch.type in types
    )
    return rules


def _values_of_extension(branch: Branch) -> list[Branch]:
    return [
        Branch((*branch.steps, *value.steps), value.type, value.path, branch.first)
        for value in compile_path("value", "Extension")
    ]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Turns elements into rows that hold a value of the first component beside one of the second."""

    firsts: tuple[_Rule, ...]
    seconds: tuple[_Rule, ...]

    def __call__(self, code: str, value: Any, _: str) -> Iterable[Row]:
        """Return the rows of one element: the first value stands in `system`."""
        firsts = dict.fromkeys(text for row in _found(self.firsts, value) if (text := _paired_text(row)))
        for second in dict.fromkeys(_found(self.seconds, value)):
            for first in firsts:
                if isinstance(second, QuantityRow):
                    form = second.parameter.partition(":")[1:]
                    yield QuantityRow(code + "".join(form), second.low, second.high, first, second.code)
                elif text := _paired_text(second):
                    yield TokenRow(code, first, text)


def _found(rules: Iterable[_Rule], element: object) -> list[Row]:
    return [row for rule in rules for value in rule.branch.values(element) for row in _converted(rule, value)]


def _paired_text(row: Row) -> str:
    """Return a code as ``code|system``, so that it is also found by what it begins with; a reference as it is."""
    if isinstance(row, TokenRow) and row.code:
        return f"{escape(row.code)}|{escape(row.system)}"
    if isinstance(row, ReferenceRow):
        return row.url or f"{row.target_type}/{row.target_id}"
    return ""


def composites_of(parameter: SearchParameter, type_: str) -> tuple[SearchParameter, ...]:
    """Return the composites by which a resource is searched for one; several for one that joins them.

    ``combo-code-value-quantity`` looks at a resource itself and at its components, each of which has a parameter, too.
    """
    whole, *parts = parameter.expression.split(" | ")
    if whole != type_ or not parts:
        return (parameter,)
    known = search_parameters(type_)
    return tuple(known[parameter.code.replace("combo-", prefix)] for prefix in ("", "component-"))


def is_of_the_whole(parameter: SearchParameter, type_: str) -> bool:
    """Tell whether a composite joins elements of the resource itself, so that each can be searched for by itself."""
    return parameter.expression == type_


def second_kind(parameter: SearchParameter, type_: str) -> Kind:
    """Return the kind of a composite's second component: the table that its rows are in."""
    return search_parameters(type_)[parameter.components[1][0]].kind


def _pair_rules(parameter: SearchParameter, type_: str) -> list[_Rule]:
    if is_of_the_whole(parameter, type_) or composites_of(parameter, type_) != (parameter,):
        return []
    return [
        _Rule(
            parameter.code,
            branch,
            _Pairs(*(_component_rules(one, type_, branch) for one in parameter.components)),
            second_kind(parameter, type_),
        )
        for branch in compile_path(parameter.expression, type_)
    ]


def _component_rules(component: tuple[str, str], type_: str, element: Branch) -> tuple[_Rule, ...]:
    code, expression = component
    kind = search_parameters(type_)[code].kind
    return tuple(
        _Rule(code, branch, _CONVERT[kind], kind)
        for branch in compile_path(expression, element.type, element.path)
        if branch.type in _SUITS[kind] and not branch.path
    )


@cache
def _rules(type_: str) -> dict[str | None, list[_Rule]]:
    """Return the rules of a type by the JSON member that must be there for them to find anything."""
    rules: dict[str | None, list[_Rule]] = {}
    for parameter in search_parameters(type_).values():
        if parameter.code not in ON_THE_RESOURCE:
            rules_of = _pair_rules if parameter.kind == "composite" else _rules_of
            for rule in rules_of(parameter, type_):
                rules.setdefault(rule.branch.first, []).append(rule)
    return rules


def extract(resource: Resource) -> IndexRows:
    """Return the index rows of a resource: none for a type that is not held, and no two equal ones."""
    rows = IndexRows()
    rules = _rules(str(resource.get("resourceType")))
    found: dict[str, dict[Row, None]] = {}
    for key in (None, *resource):
        for rule in rules.get(key, ()):
            values = rule.branch.values(resource)
            if values:
                of_kind = found.setdefault(rule.kind, {})
                for value in values:
                    of_kind.update(dict.fromkeys(_converted(rule, value)))
    for kind, of_kind in found.items():
        getattr(rows, kind).extend(of_kind)
    return rows


def _converted(rule: _Rule, value: object) -> list[Row]:
    try:
        return list(rule.convert(rule.code, value, rule.branch.type))
    except (ValueError, ArithmeticError):  # not comparable, see the module's docstring
        return []


SUBJECT_CODES: Final[tuple[str, ...]] = ("patient", "subject", "individual", "beneficiary", "actor")
"""Parameters that say whom a resource is about; others of the compartment (performer, author ...) come after them."""

BESIDE_THE_COMPARTMENT: Final[Mapping[str, tuple[str, ...]]] = {"Device": ("patient",), "Task": ("patient", "subject")}
"""Types that R4 leaves out of the Patient compartment, and the parameters that tell whom they are about."""

NO_ONES: Final = frozenset({"Group"})
"""Types that name many patients and belong to none."""

_LOCAL_PATIENT: Final = re.compile(r"Patient/([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?")


@cache
def _subject_branches(type_: str) -> tuple[Branch, ...]:
    if type_ in NO_ONES:
        return ()
    in_compartment = (*compartment_parameters(type_), *BESIDE_THE_COMPARTMENT.get(type_, ()))
    # R4 names 'patient' for some types and 'subject' for others, and some define both: the same element either way.
    codes = dict.fromkeys(code for code in SUBJECT_CODES if code in in_compartment)
    codes.update(dict.fromkeys(in_compartment))
    parameters = search_parameters(type_)
    return tuple(
        branch
        for code in codes
        if code in parameters
        for branch in compile_path(parameters[code].expression, type_)
        if branch.type == "Reference"
    )


def compartment_key(resource: Resource | None, type_: str, id_: str) -> str:
    """Return ``Patient/<id>`` of the patient whom the resource is about, else its own ``Type/<id>``.

    A patient is named by a relative reference; one on another server (an absolute url) or one that is contained is not
    a patient of this record. Where several are named (a group session) it is the first.
    """
    if type_ == "Patient" or resource is None:
        return f"{type_}/{id_}"
    for branch in _subject_branches(type_):
        for reference in branch.values(resource):
            literal = reference.get("reference") if isinstance(reference, dict) else None
            match = _LOCAL_PATIENT.fullmatch(literal) if isinstance(literal, str) else None
            if match is not None:
                return f"Patient/{match[1]}"
    return f"{type_}/{id_}"


def labels_of(resource: Resource) -> tuple[str, ...]:
    """Return the codes of `meta.security`, each once, in order."""
    meta = resource.get("meta") or {}
    codes = (coding.get("code") for coding in meta.get("security", ()) if isinstance(coding, dict))
    return tuple(dict.fromkeys(code for code in codes if isinstance(code, str)))
