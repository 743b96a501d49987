"""The small checkers that validation is built of: of one JSON value, of an array, of an object at its place.

On the good path nothing is built: a checker appends to `out` what is wrong, and who called it puts the path before it
on the way up.

Source: https://hl7.org/fhir/R4/json.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from shared.fhir.primitives import Check as PrimitiveCheck

Found: TypeAlias = list[tuple[str, str, str]]
"""Issues as (location, issue code, what is wrong); the location grows from the inside out: ``.component[1].code``."""

Checker: TypeAlias = Callable[[Any, Found], None]

# Notes that checkers leave in a `Found` for the object or resource around them, which takes them out again.
NULL: Final = "#null"
"""A null in an array of primitives; the text is the array's key."""
SIBLING: Final = "#sibling"
"""There is a ``_field``; the text is the field's key."""
REFERENCE: Final = "#reference"
"""A reference to a contained resource; the text is its id."""
MENTION: Final = "#mention"
"""A uri that may name a contained resource; the text is its id."""
CLAIM: Final = "profile "
"""Begins the code of an issue that is about a profile the resource claims, not about FHIR itself."""

ENOUGH: Final = 1000
"""After so many issues an array or object is not read further: a large body of nonsense shall not cost much."""

REPEATED: Final = "is given as an array, and may occur only once"
NOT_REPEATED: Final = "must be an array: it may occur more than once"


def json_kind(value: object) -> str:
    """Return what a JSON value is, in words."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def place(out: Found, since: int, where: str) -> None:
    """Put `where` before the location of each issue from number `since` on."""
    for number in range(since, len(out)):
        location, code, what = out[number]
        out[number] = (where + location, code, what)


def shown(key: str) -> str:
    """Return a member's name as it may be shown: it is the caller's, and may be anything."""
    return key[:64].encode("ascii", "backslashreplace").decode()


def primitive(where: str, check: PrimitiveCheck, code: str) -> Checker:
    """Return the checker of a primitive that occurs once."""

    def checker(value: Any, out: Found) -> None:
        problem = check(value)
        if problem is not None:
            structural = value is None or isinstance(value, (dict, list))
            problem = REPEATED if isinstance(value, list) else problem
            out.append((where, "structure" if structural else code, problem))

    return checker


def primitives(where: str, check: PrimitiveCheck, code: str, key: str) -> Checker:
    """Return the checker of an array of primitives; it leaves a note on each null."""

    def checker(value: Any, out: Found) -> None:
        if type(value) is not list:
            out.append((where, "structure", NOT_REPEATED))
            return
        if not value:
            out.append((where, "structure", "is an empty array; leave it out"))
        for position, item in enumerate(value):
            if item is None:
                out.append((f"{where}[{position}]", NULL, key))
                continue
            problem = check(item)
            if problem is not None:
                structural = isinstance(item, (dict, list))
                out.append((f"{where}[{position}]", "structure" if structural else code, problem))
                if len(out) > ENOUGH:
                    break

    return checker


def noting(where: str, inner: Checker) -> Checker:
    """Return the checker of a uri, which may name a contained resource (``#vs1``)."""

    def checker(value: Any, out: Found) -> None:
        inner(value, out)
        for one in value if type(value) is list else (value,):
            if type(one) is str and one[:1] == "#":
                out.append((where, MENTION, one[1:]))

    return checker


def complex_one(where: str, inner: Checker) -> Checker:
    """Return the checker of an object that occurs once."""

    def checker(value: Any, out: Found) -> None:
        since = len(out)
        if type(value) is list:
            out.append((where, "structure", REPEATED))
            return
        inner(value, out)
        if len(out) > since:
            place(out, since, where)

    return checker


def complex_many(where: str, inner: Checker) -> Checker:
    """Return the checker of an array of objects."""

    def checker(value: Any, out: Found) -> None:
        if type(value) is not list:
            out.append((where, "structure", NOT_REPEATED))
            return
        if not value:
            out.append((where, "structure", "is an empty array; leave it out"))
        for position, item in enumerate(value):
            since = len(out)
            inner(item, out)
            if len(out) > since:
                place(out, since, f"{where}[{position}]")
                if len(out) > ENOUGH:
                    break

    return checker
