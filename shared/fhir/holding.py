"""What invariants are made of: small predicates on the JSON object that a rule is about.

Source: https://hl7.org/fhir/R4/conformance-rules.html#constraints
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from shared.fhir.dates import interval

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule: `says` completes the sentence "Period ..." when it does not hold."""

    key: str
    says: str
    holds: Callable[[Json], bool]


def has(value: Json, name: str) -> bool:
    """Tell whether an element is there: as itself or as ``_name``; a name ending in ``[x]``, as any of its types."""
    if not name.endswith("[x]"):
        return name in value or f"_{name}" in value
    name = name[:-3]
    return any(key.startswith(name) and key[len(name) : len(name) + 1].isupper() for key in value)


def any_of(*names: str) -> Callable[[Json], bool]:
    """Return: one of these elements is there."""
    return lambda value: any(has(value, name) for name in names)


def not_both(one: str, other: str) -> Callable[[Json], bool]:
    """Return: only one of the two is there, or none."""
    return lambda value: not (has(value, one) and has(value, other))


def needs(one: str, other: str) -> Callable[[Json], bool]:
    """Return: where `one` is, `other` is."""
    return lambda value: not has(value, one) or has(value, other)


def in_order(start: str, end: str) -> Callable[[Json], bool]:
    """Return: the one time is not after the other."""

    def holds(value: Json) -> bool:
        if start not in value or end not in value:
            return True
        first, last = value[start], value[end]
        if len(first) == len(last) and first[10:] == last[10:]:  # the common case: same form, zone and time of day
            return bool(first <= last)
        return interval(first)[0] < interval(last)[1]

    return holds


def has_code(concept: Any, system: str, codes: frozenset[str]) -> bool:
    """Tell whether a CodeableConcept has one of the codes of a system."""
    codings = concept.get("coding", ()) if isinstance(concept, dict) else ()
    return any(coding.get("system") == system and coding.get("code") in codes for coding in codings)
