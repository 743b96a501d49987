"""Reading the parameters of scheduling's operations: of a Parameters resource, or of the URL."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from services.scheduling.rules.booking import name_of
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.outcome import BadRequest
from shared.runtime.asking import wrongly_asked

FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    "time": ("valueDateTime", "valueInstant", "valueDate", "valueString"),
    "reference": ("valueReference", "valueUri", "valueString"),
    "code": ("valueCode", "valueCoding", "valueCodeableConcept", "valueString"),
    "text": ("valueString", "valueMarkdown"),
    "number": ("valuePositiveInt", "valueInteger", "valueUnsignedInt", "valueString"),
    "boolean": ("valueBoolean", "valueString"),
    "resource": ("resource",),
}


MOST_DIGITS: Final = 9
"""Of a number that is asked for."""


class Given:
    """The parameters of one call.

    Args:
        operation: for messages.
        parameters: the Parameters resource.
        known: each parameter's form, by name; one that is not known is refused.
        aliases: other names of parameters, as guides differ on them.

    """

    def __init__(
        self, operation: str, parameters: Resource, known: Mapping[str, str], aliases: Mapping[str, str] | None = None
    ) -> None:
        self._operation = operation
        self._found: dict[str, list[Any]] = {}
        for one in parameters.get("parameter", []):
            name = (aliases or {}).get(str(one.get("name")), str(one.get("name")))
            if name not in known:
                raise wrongly_asked(
                    f"${operation} has no parameter '{name}': leave it out. It has: {', '.join(sorted(known))}.",
                    code="not-supported",
                )
            form = next((form for form in FORMS[known[name]] if form in one), None)
            if form is None:
                raise self._wrong(name, f"a {FORMS[known[name]][0]}")
            self._found.setdefault(name, []).append(one[form])

    def _wrong(self, name: str, what: str) -> BadRequest:
        return wrongly_asked(f"The parameter {name} of ${self._operation} cannot be read: give {what}.")

    def _first(self, name: str, *, needed: bool) -> Any | None:
        values = self._found.get(name)
        if values is None and needed:
            raise wrongly_asked(f"${self._operation} cannot do without it: give the parameter {name}.", code="required")
        return values[0] if values else None

    def has(self, name: str) -> bool:
        """Tell whether a parameter is given."""
        return name in self._found

    def time(self, name: str) -> datetime | None:
        """Return a time; of a date its beginning."""
        value = self._first(name, needed=False)
        if value is None:
            return None
        try:
            return interval(str(value).replace(" ", "+"))[0]
        except ValueError:
            raise self._wrong(name, "a dateTime such as 2026-11-22T09:00:00Z") from None

    def needed_time(self, name: str) -> datetime:
        """Return a time that must be given."""
        self._first(name, needed=True)
        found = self.time(name)
        assert found is not None  # noqa: S101 - it is given, and else refused as none
        return found

    def references(self, name: str) -> list[str]:
        """Return references, as ``Type/id``."""
        return [self._name(name, value) for value in self._found.get(name, [])]

    def reference(self, name: str) -> str | None:
        """Return one reference, as ``Type/id``."""
        value = self._first(name, needed=False)
        return None if value is None else self._name(name, value)

    def needed_reference(self, name: str) -> str:
        """Return one reference that must be given."""
        return self._name(name, self._first(name, needed=True))

    def _name(self, parameter: str, value: Any) -> str:
        reference = value.get("reference", "") if isinstance(value, dict) else str(value)
        parts = str(reference).partition("/_history/")[0].split("/")
        if len(parts) < 2 or not all(parts[-2:]):
            raise self._wrong(parameter, "a reference such as Practitioner/1")
        return name_of({"reference": reference}) or "/".join(parts[-2:])

    def code(self, name: str) -> str | None:
        """Return a code, of whatever system; of ``system|code`` the code."""
        value = self._first(name, needed=False)
        if isinstance(value, dict):
            codings = value.get("coding", [value])
            value = next((one.get("code") for one in codings if one.get("code")), None)
            if value is None:
                raise self._wrong(name, "a code")
        return None if value is None else str(value).rpartition("|")[2]

    def text(self, name: str) -> str | None:
        """Return a text."""
        value = self._first(name, needed=False)
        return None if value is None else str(value)

    def number(self, name: str, default: int, most: int) -> int:
        """Return a positive number, at most `most`."""
        value = self._first(name, needed=False)
        if value is None:
            return default
        digits = str(value)
        if not digits.isdecimal() or len(digits) > MOST_DIGITS or not 0 < int(digits) <= most:
            raise self._wrong(name, f"a number from 1 to {most}")
        return int(digits)

    def flag(self, name: str) -> bool:
        """Return a boolean; not given is false."""
        value = self._first(name, needed=False)
        if value is None:
            return False
        if value not in (True, False, "true", "false"):
            raise self._wrong(name, "true or false")
        return value in (True, "true")

    def resource(self, name: str, type_: str) -> Resource | None:
        """Return a resource of a type."""
        value = self._first(name, needed=False)
        if value is None:
            return None
        if not isinstance(value, dict) or value.get("resourceType") != type_:
            raise self._wrong(name, f"a resource of type {type_}")
        return value
