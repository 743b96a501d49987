"""The formats of FHIR's primitive types, as JSON writes them.

Each check takes a JSON value and returns None when it is right, else what is wrong with it.

Source: https://hl7.org/fhir/R4/datatypes.html#primitive
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Final, TypeAlias

from shared.fhir.numbers import MAX_DIGITS, is_storable
from shared.fhir.xhtml import check_narrative

Check: TypeAlias = Callable[[object], str | None]

MAX_STRING: Final = 1024 * 1024
"""Characters of a string; what is larger is base64Binary."""

_URI = r"[^\s\x00-\x1f\ud800-\udfff]+"
_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_MONTH = r"(?:0[1-9]|1[0-2])"
_DAY = r"(?:0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?"
_ZONE = r"(?:Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))"

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
_WHITE = {ord(character): None for character in " \t\r\n"}
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_DAYS_IN_MONTH_ALWAYS = "28"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _string(value: object) -> str | None:
    if type(value) is str and value.isprintable() and 0 < len(value) <= MAX_STRING:
        return None
    if type(value) is not str:
        return f"is {_kind(value)}, and must be a string"
    if not value:
        return "is an empty string; leave the element out"
    if _FORBIDDEN.search(value) is not None:
        return "holds a control character or half a surrogate pair"
    if len(value) > MAX_STRING:
        return f"is longer than {MAX_STRING} characters"
    return None


def _matching(name: str, pattern: str, example: str) -> Check:
    fullmatch = re.compile(pattern, re.ASCII).fullmatch

    def check(value: object) -> str | None:
        if type(value) is str and fullmatch(value) is not None:
            return None
        if type(value) is not str:
            return f"is {_kind(value)}, and must be a string"
        return f"is not of the form of {name}, which is like {example}"

    return check


def _calendar(name: str, pattern: str, example: str) -> Check:
    """Check the form, and that the day exists."""
    formed = _matching(name, pattern, example)

    def check(value: object) -> str | None:
        problem = formed(value)
        if problem is None and type(value) is str and value[8:10] > _DAYS_IN_MONTH_ALWAYS:
            try:
                date.fromisoformat(value[:10])
            except ValueError:
                return "names a day that the month does not have"
        return problem

    return check


def _boolean(value: object) -> str | None:
    return None if value is True or value is False else f"is {_kind(value)}, and must be true or false"


def _whole(name: str, least: int) -> Check:
    def check(value: object) -> str | None:
        if type(value) is not int:
            return f"is {_kind(value)}, and must be a whole number without fraction or exponent"
        if not least <= value <= 2147483647:
            return f"is outside what {name} can be: {least} to 2147483647"
        return None

    return check


def _decimal(value: object) -> str | None:
    if type(value) is int or type(value) is float:
        value = Decimal(repr(value))
    if type(value) is not Decimal:
        return f"is {_kind(value)}, and must be a number"
    if not is_storable(value):
        return f"has more than {MAX_DIGITS} digits, or is not finite"
    return None


def _base64(value: object) -> str | None:
    if type(value) is not str:
        return f"is {_kind(value)}, and must be a base64 string"
    bare = value if _BASE64.fullmatch(value) is not None else value.translate(_WHITE)
    if not bare or _BASE64.fullmatch(bare) is None:
        return "is not base64"
    return None


def _narrative(value: object) -> str | None:
    return _string(value) or check_narrative(str(value))


CHECKS: Final[Mapping[str, Check]] = {
    "base64Binary": _base64,
    "boolean": _boolean,
    "canonical": _matching("a canonical", _URI, "http://example.org/Questionnaire/1|2.0"),
    "code": _matching("a code", rf"{_URI}(?: {_URI})*", "final"),
    "date": _calendar("a date", rf"{_YEAR}(?:-{_MONTH}(?:-{_DAY})?)?", "2026-11-22, 2026-11 or 2026"),
    "dateTime": _calendar(
        "a dateTime",
        rf"{_YEAR}(?:-{_MONTH}(?:-{_DAY}(?:T{_CLOCK}{_ZONE})?)?)?",
        "2026-11-22T10:00:00+01:00 (a time needs seconds and a zone), 2026-11-22, 2026-11 or 2026",
    ),
    "decimal": _decimal,
    "id": _matching("an id", r"[A-Za-z0-9.-]{1,64}", "a-1.b (1 to 64 letters, digits, - and .)"),
    "instant": _calendar("an instant", rf"{_YEAR}-{_MONTH}-{_DAY}T{_CLOCK}{_ZONE}", "2026-11-22T10:00:00.000Z"),
    "integer": _whole("an integer", -2147483648),
    "markdown": _string,
    "oid": _matching("an oid", r"urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+", "urn:oid:1.2.3"),
    "positiveInt": _whole("a positiveInt", 1),
    "string": _string,
    "time": _matching("a time", _CLOCK, "10:00:00"),
    "unsignedInt": _whole("an unsignedInt", 0),
    "uri": _matching("a uri", _URI, "http://example.org/1 (no spaces)"),
    "url": _matching("a url", _URI, "http://example.org/1 (no spaces)"),
    "uuid": _matching(
        "a uuid",
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "urn:uuid:c757873d-ec9a-4326-a141-556f43239520",
    ),
    "xhtml": _narrative,
}
"""By primitive type: the check of one value."""

OPEN_VALUE_SETS: Final[Mapping[str, Check]] = {
    "currencies": _matching("a currency of ISO 4217", r"[A-Z]{3}", "USD"),
    "mimetypes": _matching(
        "a media type of BCP 13",
        r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}(?:/[A-Za-z0-9*][A-Za-z0-9!#$&^_.+-]{0,126})?(?:\s*;.*)?",
        "application/pdf",
    ),
}
"""Required value sets of open code systems: their codes' form."""
