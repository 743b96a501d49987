"""What a ValueSet's `compose` comes to: codes with their systems, by the code systems that are there.

Source: https://hl7.org/fhir/R4/valueset.html#compositions
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from shared.terminology.port import Members
from shared.terminology.release import CannotRead

Codes: TypeAlias = dict[str, set[str]]


class CodeSource(Protocol):
    """What is known of code systems and value sets while one is computed."""

    async def codes(self, system: str) -> frozenset[str] | None:
        """Return every active code of a system; None where it is not there whole."""
        ...

    async def descendants(self, system: str, code: str) -> frozenset[str]:
        """Return a code and all below it."""
        ...

    async def members(self, value_set: str) -> Members | None:
        """Return the codes of a value set; None where it is not known."""
        ...


async def composed(compose: Mapping[str, Any], source: CodeSource) -> Codes:
    """Return the codes that a `compose` includes, by system.

    Raises:
        CannotRead: it draws on a code system or value set that is not there, or filters in a way not known here.

    """
    codes: Codes = {}
    for include in compose.get("include", ()):
        for system, found in (await _included(include, source)).items():
            codes.setdefault(system, set()).update(found)
    for exclude in compose.get("exclude", ()):
        for system, found in (await _included(exclude, source)).items():
            codes.get(system, set()).difference_update(found)
    return {system: found for system, found in codes.items() if found}


async def _included(include: Mapping[str, Any], source: CodeSource) -> Codes:
    found: Codes | None = None
    if "system" in include:
        found = {include["system"]: await _of_system(include, source)}
    for canonical in include.get("valueSet", ()):
        members = await source.members(canonical)
        if members is None:
            raise CannotRead(f"it draws on the value set {canonical}, which is not loaded; load that first")
        if found is None:
            found = {system: set(codes) for system, codes in members.items()}
        else:
            found = {system: codes & members.get(system, frozenset()) for system, codes in found.items()}
    return found or {}


async def _of_system(include: Mapping[str, Any], source: CodeSource) -> set[str]:
    system = include["system"]
    if "concept" in include:
        return {str(one["code"]) for one in include["concept"]}
    every = await source.codes(system)
    if every is None:
        raise CannotRead(f"it draws on the code system {system}, which is not loaded; load that first")
    found = set(every)
    for rule in include.get("filter", ()):
        found &= await _filtered(system, rule, every, source)
    return found


async def _filtered(system: str, rule: Mapping[str, Any], every: frozenset[str], source: CodeSource) -> set[str]:
    property_, operator, value = rule.get("property"), rule.get("op"), str(rule.get("value", ""))
    if property_ in {"concept", "code", "ancestor"}:
        if operator == "in":
            return set(value.split(","))
        below = set(await source.descendants(system, value))
        if operator == "is-a":
            return below
        if operator == "descendent-of" or (property_ == "ancestor" and operator == "="):
            return below - {value}
        if operator == "is-not-a":
            return set(every) - below
    if property_ == "parent" and operator == "=":
        raise CannotRead("it filters by parent; give its expansion instead")
    raise CannotRead(f"it filters by '{property_} {operator} {value}', which is not known here; give its expansion")


def expanded(expansion: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Return display by (system, code) of an `expansion`, nested ones included, abstract ones not."""
    found: dict[tuple[str, str], str] = {}

    def collect(listed: list[Mapping[str, Any]]) -> None:
        for one in listed:
            if "code" in one and "system" in one and one.get("abstract") is not True:
                found[one["system"], one["code"]] = str(one.get("display", one["code"]))
            collect(one.get("contains", []))

    collect(list(expansion.get("contains", ())))
    return found
