"""The profiles that are known here: HL7's, from tables, and the project's own, from StructureDefinitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from shared.fhir.profiles import own
from shared.fhir.profiles.compile import Rule, rule_tree, tail

FOLDER: Final = Path(__file__).with_name("tables")
PREFERRED: Final = ("7.0.0", "4.0.1")
"""The version that is meant where a claim names none, and several are known."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile or the definition of an extension.

    Attributes:
        url, version: its canonical.
        type: the FHIR type it constrains; ``Extension`` for an extension.
        title: its name for people.
        rule: what it asks beyond R4 (`shared.fhir.profiles.compile`).
        base: canonical of the profile it builds on, whose rule holds, too; None: R4's type itself.
        context: of an extension: where it may stand.

    """

    url: str
    version: str
    type: str
    title: str
    rule: Rule
    base: str | None = None
    context: tuple[str, ...] = ()


class _Row(msgspec.Struct):
    type: str
    name: str
    title: str
    rule: dict[str, Any]
    base: str | None = None
    context: list[str] = []


@cache
def _rows() -> Mapping[str, msgspec.Raw]:
    return msgspec.json.decode((FOLDER / "profiles.json").read_bytes(), type=dict[str, msgspec.Raw])


@cache
def _versions() -> Mapping[str, tuple[str, ...]]:
    versions: dict[str, tuple[str, ...]] = {}
    for canonical in _rows():
        url, _, version = canonical.partition("|")
        versions[url] = (*versions.get(url, ()), version)
    return versions


@cache
def profile_of(canonical: str) -> Profile | None:
    """Return a profile by its canonical, ``url`` or ``url|version``; None where it is not known here.

    Without a version the newest is meant. A version that is not known is not known, though another one is.
    """
    url, _, version = canonical.partition("|")
    definition = own.definitions().get(url)
    if definition is not None:
        return _own(definition) if version in {"", definition["version"]} else None
    known = _versions().get(url, ())
    if not version:
        version = next((one for one in PREFERRED if one in known), known[-1] if known else "")
    if version not in known:
        return None
    row = msgspec.json.decode(_rows()[f"{url}|{version}"], type=_Row)
    base = None if row.base is None else f"{row.base}|{version}"
    if base is not None and base not in _rows():
        base = row.base
    return Profile(url, version, row.type, row.title, row.rule, base, tuple(row.context))


def _own(definition: Mapping[str, Any]) -> Profile:
    base = definition["baseDefinition"]
    return Profile(
        definition["url"],
        definition["version"],
        definition["type"],
        definition["title"],
        rule_tree(definition["differential"]["element"], lambda _: None, _target),
        None if base.startswith("http://hl7.org/fhir/StructureDefinition/") else base,
        tuple(one["expression"] for one in definition.get("context", ())),
    )


def _target(canonical: str) -> str:
    held = profile_of(canonical)
    return tail(canonical) if held is None else held.type


@cache
def profiles_of_type(type_: str) -> tuple[Profile, ...]:
    """Return every profile of a type that is known, by canonical."""
    urls = [*own.definitions(), *_rows()]
    found = (profile_of(url) for url in urls)
    return tuple(one for one in found if one is not None and one.type == type_)


def extension_of(url: str) -> Profile | None:
    """Return the definition of an extension; None where it is not known."""
    return profile_of(url) if url in own.definitions() or url in _versions() else None
