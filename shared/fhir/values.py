"""One value of a search parameter, as text in a URL, read as what the store compares by.

Every function raises ValueError, with what is wrong in words, where a text cannot be read.

Source: https://hl7.org/fhir/R4/search.html (types of parameters, prefixes, escaping).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final

from shared.fhir import units
from shared.fhir.dates import interval
from shared.fhir.definitions import RESOURCE_TYPES, SearchParameter
from shared.fhir.numbers import implied_interval, is_storable
from shared.fhir.references import parse_literal, relative
from shared.fhir.search import (
    DateValue,
    HierarchyValue,
    Kind,
    MissingValue,
    NumberValue,
    Prefix,
    QuantityValue,
    ReferenceValue,
    StringValue,
    TokenValue,
    UriValue,
    Value,
    ValueSetValue,
)
from shared.fhir.text import fold

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
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ID: Final = re.compile(r"[A-Za-z0-9.-]{1,64}")
_ESCAPE: Final = re.compile(r"\\([\\,|$])")
_ESCAPED: Final = re.compile(r"[\\,|$]")


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


def escape(text: str) -> str:
    r"""Return `text` with ``\``, ``,``, ``|`` and ``$`` escaped."""
    return _ESCAPED.sub(r"\\\g<0>", text)


def token(text: str) -> TokenValue:
    """Read ``code``, ``system|code``, ``|code`` or ``system|``."""
    parts = [unescape(part) for part in split_escaped(text, "|")]
    if len(parts) == 1:
        return TokenValue(None, parts[0])
    if len(parts) > 2 or not any(parts):
        message = "a token is code, system|code, |code or system|"
        raise ValueError(message)
    system, code = parts
    return TokenValue(system, code or None)


def of_type(text: str) -> TokenValue:
    """Read ``system|code|value`` of `:of-type`: an identifier's type and its value."""
    parts = [unescape(part) for part in split_escaped(text, "|")]
    if len(parts) != 3 or not parts[1] or not parts[2]:
        message = ":of-type takes system|code|value, the type of an identifier and its value"
        raise ValueError(message)
    return TokenValue(f"{escape(parts[0])}|{escape(parts[1])}", parts[2])


def string(text: str, *, exact: bool = False) -> StringValue:
    """Read a text."""
    given = unescape(text)
    folded = fold(given)
    if not folded and not exact:
        message = "nothing is left of it when case and accents are ignored"
        raise ValueError(message)
    return StringValue(folded, given)


def reference(text: str, targets: tuple[str, ...], base: str = "") -> ReferenceValue:
    """Read ``Type/id``, ``id`` or an absolute url, where one of the types `targets` is meant.

    A url under `base`, this system's own (``https://clinic.example/fhir``), is the relative reference it stands for.
    """
    literal = relative(unescape(text), base)
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


def targets_of(parameter: SearchParameter) -> tuple[str, ...]:
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


def date(text: str) -> DateValue:
    """Read a date or dateTime with its prefix."""
    prefix, rest = _prefixed(unescape(text))
    # In a URL a plus sign that was not escaped arrives as a space: 2026-01-01T10:00:00 02:00.
    return DateValue(prefix, *interval(rest.replace(" ", "+")))


def number(text: str) -> NumberValue:
    """Read a number with its prefix."""
    prefix, rest = _prefixed(unescape(text))
    if _NUMBER.fullmatch(rest) is None:
        message = f"'{rest}' is not a number"
        raise ValueError(message)
    value = Decimal(rest)
    if not is_storable(value):
        message = "it has too many digits"
        raise ValueError(message)
    return NumberValue(prefix, value, *implied_interval(value))


def quantity(text: str) -> QuantityValue:
    """Read ``number``, ``number|system|code`` or ``number||code``."""
    parts = split_escaped(text, "|")
    if len(parts) not in {1, 3}:
        message = "a quantity is number, number|system|code or number||code"
        raise ValueError(message)
    value = number(parts[0])
    if len(parts) == 1:
        return QuantityValue(value, None, None)
    return in_base_units(QuantityValue(value, unescape(parts[1]) or None, unescape(parts[2]) or None))


def in_base_units(value: QuantityValue) -> QuantityValue:
    """Return a quantity of a known UCUM unit as rows in base units have it; another one as it is."""
    known = units.unit(value.system, value.code)
    if known is None:
        return value
    given = value.number
    exact, low, high = (known.canonical(one) for one in (given.value, given.low, given.high))
    # What was written with more digits than are compared means one number all the same.
    number = NumberValue(given.prefix, exact, min(low, exact), max(high, units.after(exact)))
    return QuantityValue(number, None, known.base, canonical=True)


def hierarchy(text: str) -> HierarchyValue:
    """Read ``system|code`` of `:below` and `:above`."""
    value = token(text)
    if not value.system or not value.code:
        message = ":below and :above take system|code"
        raise ValueError(message)
    return HierarchyValue(value.system, value.code)


def missing(text: str) -> MissingValue:
    """Read ``true`` or ``false`` of `:missing`."""
    if text not in {"true", "false"}:
        message = ":missing is true or false"
        raise ValueError(message)
    return MissingValue(text == "true")


def plain(parameter: SearchParameter, text: str, modifier: str | None, base: str = "") -> Value:
    """Read one value of a parameter, as its kind and its modifier say; a type as modifier is read as that type."""
    if parameter.kind == "reference" and modifier != "identifier":
        targets = (modifier,) if modifier in RESOURCE_TYPES else targets_of(parameter)
        return reference(text, targets, base)
    read = _MODIFIED.get(modifier or "", {}).get(parameter.kind) or _READ[parameter.kind]
    return read(text)


_READ: Final[Mapping[Kind, Callable[[str], Value]]] = {
    "token": token,
    "string": string,
    "date": date,
    "number": number,
    "quantity": quantity,
    "uri": lambda text: UriValue(unescape(text)),
}
_MODIFIED: Final[Mapping[str, Mapping[Kind, Callable[[str], Value]]]] = {
    "exact": {"string": lambda text: string(text, exact=True)},
    "text": {"token": string},
    "of-type": {"token": of_type},
    "identifier": {"reference": token},
    "in": {"token": lambda text: ValueSetValue(unescape(text))},
    "not-in": {"token": lambda text: ValueSetValue(unescape(text))},
    "below": {"token": hierarchy},
    "above": {"token": lambda text: replace(hierarchy(text), above=True)},
}
