"""Required bindings: the code must be one of the value set's.

Source: https://hl7.org/fhir/R4/terminologies.html#required
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.fhir.checking import Checker, Found, shown
from shared.fhir.definitions import value_set
from shared.fhir.primitives import CHECKS, OPEN_VALUE_SETS
from shared.fhir.primitives import Check as PrimitiveCheck
from shared.fhir.tree import Member


def bound_code(member: Member) -> PrimitiveCheck:
    """Return the check of a code that must be from a value set; of an open one, of its form."""
    binding = str(member.binding)
    form = CHECKS[member.type]
    codes = value_set(binding)
    if codes is None:
        return OPEN_VALUE_SETS.get(binding, form)
    allowed = frozenset().union(*codes.values())
    codes_listed = _listed(allowed)

    def check(value: object) -> str | None:
        if type(value) is str and value in allowed:
            return None
        return (
            form(value) or f"'{shown(str(value))}' is not a code of the value set {binding}, which has {codes_listed}"
        )

    return check


def _listed(codes: frozenset[str]) -> str:
    return ", ".join(sorted(codes)) if len(codes) <= 20 else f"{len(codes)} codes"


def bound_concept(member: Member, inner: Checker) -> Checker:
    """Return the checker of a Coding, CodeableConcept or Quantity whose code must be from a value set."""
    codes = value_set(str(member.binding))
    if codes is None or member.type not in {"CodeableConcept", "Coding"}:
        return inner
    systems: Mapping[str, frozenset[str]] = codes
    codes_listed = _listed(frozenset().union(*codes.values()))

    def checker(value: Any, out: Found) -> None:
        inner(value, out)
        if not isinstance(value, dict) or value.keys() <= {"id", "extension"}:
            return
        codings = value.get("coding") if member.type == "CodeableConcept" else [value]
        if not any(_is_among(coding, systems) for coding in (codings if isinstance(codings, list) else ())):
            systems_listed = ", ".join(sorted(systems))
            out.append(
                (
                    "",
                    "code-invalid",
                    f"has no code of the value set {member.binding}: one of {codes_listed} of {systems_listed}",
                )
            )

    return checker


def _is_among(coding: object, systems: Mapping[str, frozenset[str]]) -> bool:
    if not isinstance(coding, dict):
        return False
    system, code = coding.get("system"), coding.get("code")
    return isinstance(system, str) and isinstance(code, str) and code in systems.get(system, ())
