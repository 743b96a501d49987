"""The code systems and value sets that are shipped: HL7's own that the held types use, and the project's.

The tables are made by `tools/generate_profiles.py` from HL7's CC0 packages; the project's are in `project.yaml` and
`rules.yaml`. Read when first asked for; no I/O after that. No licensed code is among them: of a value set that draws on
SNOMED CT, LOINC and the like only the systems are known (`ShippedSet.open`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
import yaml

from shared.fhir import codes
from shared.terminology.port import Members

FOLDER: Final = Path(__file__).with_name("tables")
PROJECT: Final = Path(__file__).with_name("project.yaml")
RULES: Final = Path(__file__).with_name("rules.yaml")
HL7: Final = "HL7 International"
OWN: Final = "KAP Exchange"


@dataclass(frozen=True, slots=True)
class Concept:
    """A code, its display, the codes directly above it, and (of the project's own) what it means."""

    code: str
    display: str
    parents: tuple[str, ...] = ()
    definition: str | None = None


@dataclass(frozen=True, slots=True)
class ShippedSystem:
    """A code system; `complete` is False where only the codes of some value sets are known."""

    url: str
    id: str
    title: str
    version: str
    complete: bool
    publisher: str
    concepts: Mapping[str, Concept]


@dataclass(frozen=True, slots=True)
class ShippedSet:
    """A value set; `members` is None where it is open: its codes are not shipped, only their systems are known."""

    url: str
    id: str
    title: str
    version: str
    publisher: str
    members: Members | None
    open: tuple[str, ...] = ()


class _System(msgspec.Struct):
    id: str
    title: str
    version: str
    content: str
    concepts: list[list[str]]


class _Set(msgspec.Struct):
    id: str
    title: str
    version: str
    members: dict[str, list[str] | None] | None = None
    open: list[str] = []


@cache
def systems() -> Mapping[str, ShippedSystem]:
    """Return the shipped code systems by canonical."""
    table = msgspec.json.decode((FOLDER / "code-systems.json").read_bytes(), type=dict[str, _System])
    found = {
        url: ShippedSystem(
            url,
            row.id,
            row.title,
            row.version,
            row.content == "complete",
            HL7,
            MappingProxyType({code: Concept(code, text, tuple(above)) for code, text, *above in row.concepts}),
        )
        for url, row in table.items()
    }
    return MappingProxyType({**found, **{one.url: one for one in _project_systems()}})


@cache
def value_sets() -> Mapping[str, ShippedSet]:
    """Return the shipped value sets by canonical, those included of which only the systems are known."""
    table = msgspec.json.decode((FOLDER / "value-sets.json").read_bytes(), type=dict[str, _Set])
    found = {
        url: ShippedSet(
            url,
            row.id,
            row.title,
            row.version,
            HL7,
            None if row.members is None else _members(row.members),
            tuple(row.open),
        )
        for url, row in table.items()
    }
    return MappingProxyType({**found, **{one.url: one for one in _project_sets()}})


def _members(rows: Mapping[str, Collection[str] | None]) -> Members:
    return MappingProxyType(
        {system: frozenset(systems()[system].concepts if codes is None else codes) for system, codes in rows.items()}
    )


@cache
def _project() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(PROJECT.read_text("utf-8"))
    return content


@cache
def _rules() -> dict[str, dict[str, str]]:
    content: dict[str, dict[str, str]] = yaml.safe_load(RULES.read_text("utf-8"))
    return content


def own_codes() -> Mapping[str, codes.Code]:
    """Return the codes of the project's code system that `shared.fhir.codes` names, by code."""
    named = (one for one in vars(codes).values() if isinstance(one, codes.Code))
    return {one.code: one for one in named if one.system == codes.KAP}


def _project_systems() -> list[ShippedSystem]:
    content = _project()
    kap = {
        code: Concept(code, one.display or code, definition=content["kap"].get(code))
        for code, one in own_codes().items()
    }
    rule = {code: Concept(code, said["display"], definition=said["definition"]) for code, said in _rules().items()}
    titled = (
        (codes.KAP, "kap", "Ketamine-assisted psychotherapy", kap),
        (codes.RULE, "rule", "Rules of the house", rule),
    )
    return [
        ShippedSystem(
            url, id_, title, content["version"], complete=False, publisher=OWN, concepts=MappingProxyType(concepts)
        )
        for url, id_, title, concepts in titled
    ]


def _project_sets() -> list[ShippedSet]:
    content = _project()
    return [
        ShippedSet(
            f"{codes.BASE}/ValueSet/{name}",
            name,
            row["title"],
            content["version"],
            OWN,
            MappingProxyType({codes.KAP: frozenset(row["kap"])}),
        )
        for name, row in content["value_sets"].items()
    ]


def members(canonical: str) -> Members | None:
    """Return the codes of a shipped value set by its canonical, with ``|version`` or without; None where not shipped.

    A version other than the shipped one is another value set.
    """
    url, _, version = canonical.partition("|")
    held = value_sets().get(url)
    return None if held is None or (version and version != held.version) else held.members


def ancestors(system: str, given: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Return each code with itself and all above it in a shipped code system."""
    held = systems().get(system)
    concepts: Mapping[str, Concept] = {} if held is None else held.concepts
    return {code: _closed(code, concepts) for code in given}


def _closed(code: str, concepts: Mapping[str, Concept]) -> frozenset[str]:
    found, waiting = {code}, [code]
    while waiting:
        held = concepts.get(waiting.pop())
        for parent in held.parents if held is not None else ():
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return frozenset(found)


def descendants(system: str, code: str) -> frozenset[str]:
    """Return the code and all below it in a shipped code system."""
    held = systems().get(system)
    if held is None:
        return frozenset((code,))
    return frozenset((code, *(one for one in held.concepts if code in _closed(one, held.concepts))))
