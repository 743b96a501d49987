"""What is asked of terminology, whoever answers: `record.terminology` in a service, a `Fixed` value in a test."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, TypeAlias

Members: TypeAlias = Mapping[str, frozenset[str]]
"""Codes by code system: what a value set holds."""


class Terminology(Protocol):
    """The meaning of codes, as far as it is shipped or was loaded.

    Subsumption is that of the code system: SNOMED CT's "is a", LOINC's hierarchy, a CodeSystem's nested concepts.
    Source: https://hl7.org/fhir/R4/terminology-service.html
    """

    async def subsumes(self, system: str, ancestor: str, code: str) -> bool:
        """Tell whether `code` is `ancestor` or below it. Equal codes of a system that is not loaded: True."""
        ...

    async def ancestors(self, system: str, codes: Collection[str]) -> Mapping[str, frozenset[str]]:
        """Return, for each of `codes`, itself and every code above it: one query for all the codes of a record.

        A rule then matches a condition where the set of its ancestors meets the codes that the rule lists.
        """
        ...

    async def descendants(self, system: str, code: str) -> frozenset[str]:
        """Return the code and every code below it; the code alone where nothing is known of the system."""
        ...

    async def members(self, value_set: str) -> Members | None:
        """Return the codes of a value set by its canonical, ``url`` or ``url|version``; None where it is not known."""
        ...
