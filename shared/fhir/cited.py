"""What every entry of a policy carries, and coded value sets that a record can be matched with: pure values.

The services' rules declare the form of their policy section with these; `shared.runtime.policy` reads the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


class Cited(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of a policy: where it comes from, and whether that was read in the source itself."""

    source: str
    verified: bool


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One code of a value set, or, with `prefix`, every code that begins so (ICD-10-CM's hierarchy is in its codes)."""

    system: str
    code: str | None = None
    prefix: str | None = None

    def matches(self, system: str, code: str) -> bool:
        """Tell whether the coding is meant."""
        if system != self.system:
            return False
        return code == self.code or (self.prefix is not None and code.startswith(self.prefix))


class ValueSet(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Codes that mean one thing. `words`: a text or display with one of them means it too, never its absence."""

    codes: tuple[Term, ...]
    words: tuple[str, ...] = ()

    def holds(self, concept: Mapping[str, Any] | None) -> bool:
        """Tell whether a CodeableConcept has one of the codes or words."""
        if concept is None:
            return False
        codings = concept.get("coding", [])
        for coding in codings:
            system, code = coding.get("system", ""), coding.get("code", "")
            if any(term.matches(system, code) for term in self.codes):
                return True
        texts = [str(concept.get("text", "")), *(str(coding.get("display", "")) for coding in codings)]
        return any(word.casefold() in text.casefold() for word in self.words for text in texts)


def is_coded(concept: Mapping[str, Any] | None, systems: Iterable[str]) -> bool:
    """Tell whether a CodeableConcept has a code of one of `systems`; text alone says nothing a rule may rely on."""
    known = frozenset(systems)
    return concept is not None and any(
        coding.get("system") in known and coding.get("code") for coding in concept.get("coding", [])
    )
