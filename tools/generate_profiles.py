"""Make the tables of profiles and of terminology from HL7's packages: facts only, no prose.

    python tools/generate_profiles.py FOLDER

| file                                                  | holds                                                       |
|-------------------------------------------------------|-------------------------------------------------------------|
| `shared/fhir/profiles/tables/profiles.json`           | rule trees of R4's and US Core's profiles and extensions    |
| `shared/terminology/tables/code-systems.json`         | codes, displays, hierarchy of HL7's own code systems in use |
| `shared/terminology/tables/value-sets.json`           | codes of the value sets that are bound, where all are HL7's |
| `sources.json` beside each                            | name, version and SHA-256 of each package read              |

Names of licensed or others' code systems appear only as systems: `value-sets.json` says of such a value set which
systems it draws on (`open`), and none of their codes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from shared.fhir.profiles.compile import Definition as Element  # noqa: E402 - after the path that it needs
from shared.fhir.profiles.compile import rule_tree, tail  # noqa: E402 - after the path that it needs
from tools.generate_definitions import CORE, HELD, Package, rows  # noqa: E402 - after the path that it needs

Definition: TypeAlias = dict[str, Any]
Codes: TypeAlias = dict[str, dict[str, str]]
"""Display by code, by system."""

OURS = ("http://terminology.hl7.org/CodeSystem/", "http://hl7.org/fhir/", "http://unitsofmeasure.org")
"""Systems whose codes are shipped: HL7's (CC0), and the units that HL7's value sets list one by one."""
NOT_OURS = ("http://hl7.org/fhir/sid/",)

WANTED_VALUE_SETS = (
    "http://terminology.hl7.org/ValueSet/v3-ActReason",
    "http://terminology.hl7.org/ValueSet/v3-PurposeOfUse",
    "http://terminology.hl7.org/ValueSet/v3-ConfidentialityClassification",
    "http://terminology.hl7.org/ValueSet/v3-InformationSensitivityPolicy",
    "http://terminology.hl7.org/ValueSet/v3-ObligationPolicy",
    "http://hl7.org/fhir/ValueSet/security-labels",
    "http://hl7.org/fhir/ValueSet/all-types",
)
"""Value sets beyond those of bindings, which labels and consents draw on."""


class Unshippable(Exception):
    """A value set with codes that are not HL7's own, or that cannot be told by the package alone."""


def profile_tables(core: Package, us_cores: Iterable[Package], held: Iterable[str]) -> dict[str, Definition]:
    """Return, by ``url|version``, the rule tree of each profile of a held type and of each of US Core's extensions."""
    types = {definition["url"]: definition for definition in core.of("StructureDefinition")}
    wanted = set(held)
    tables: dict[str, Definition] = {}
    for package in (core, *us_cores):
        known = {**types, **{definition["url"]: definition for definition in package.of("StructureDefinition")}}
        for definition in package.of("StructureDefinition"):
            type_ = definition.get("type")
            if definition.get("derivation") != "constraint" or "snapshot" not in definition:
                continue
            if type_ not in wanted and (type_ != "Extension" or package is core):
                continue
            base = definition["baseDefinition"].partition("|")[0]
            table: Definition = {
                "type": type_,
                "name": definition["name"],
                "title": definition.get("title", definition["name"]),
                "rule": rule_tree(definition["snapshot"]["element"], _base(definition, types), _targets(known)),
            }
            if type_ == "Extension":
                table["context"] = sorted(one["expression"] for one in definition.get("context", ()))
            elif base in known and known[base].get("derivation") == "constraint":
                table["base"] = base
            tables[f"{definition['url']}|{definition['version']}"] = table
    return dict(sorted(tables.items()))


def _targets(known: dict[str, Definition]) -> Callable[[str], str]:
    def target(canonical: str) -> str:
        definition = known.get(canonical.partition("|")[0])
        return tail(canonical) if definition is None else str(definition["type"])

    return target


def _base(profile: Definition, types: dict[str, Definition]) -> Callable[[str], Element | None]:
    """Return what R4 says of an element by its path, stepping from type to type as the profile narrows them."""
    by_type = {
        definition["type"]: {element["path"]: element for element in definition["snapshot"]["element"]}
        for definition in types.values()
        if definition.get("derivation") != "constraint" and "snapshot" in definition
    }
    narrowed = {
        element["path"]: [one["code"] for one in element.get("type", ())] for element in profile["snapshot"]["element"]
    }

    def element(path: str) -> Element | None:
        segments = path.split(".")
        type_, inner = segments[0], segments[0]
        found = by_type.get(type_, {}).get(inner)
        for position, segment in enumerate(segments[1:], 2):
            step = f"{inner}.{segment}"
            if step not in by_type.get(type_, {}):
                codes = narrowed.get(".".join(segments[: position - 1]), [])
                if len(codes) != 1 or codes[0] not in by_type:
                    return None
                type_, step = codes[0], f"{codes[0]}.{segment}"
            inner = step
            found = by_type[type_].get(inner)
            if found is None:
                return None
        return found

    return element


def bound(packages: Iterable[Package], held: Iterable[str]) -> list[str]:
    """Return the canonicals of the value sets that elements of held types, datatypes and profiles are bound to."""
    wanted, found = set(held), set(WANTED_VALUE_SETS)
    for package in packages:
        for definition in package.of("StructureDefinition"):
            if definition.get("kind") == "resource" and definition.get("type") not in wanted:
                continue
            for element in definition.get("snapshot", {}).get("element", ()):
                url = element.get("binding", {}).get("valueSet", "").partition("|")[0]
                if url:
                    found.add(url)
    return sorted(found)


class Terminology:
    """The code systems and value sets of the packages."""

    def __init__(self, packages: Iterable[Package]) -> None:
        self._systems: dict[str, Definition] = {}
        self._sets: dict[str, Definition] = {}
        for package in packages:
            self._systems.update({one["url"]: one for one in package.of("CodeSystem")})
            self._sets.update({one["url"]: one for one in package.of("ValueSet")})
        self.fragments: dict[str, dict[str, str]] = {}
        self._concepts: dict[str, dict[str, tuple[str, list[str]]]] = {}

    def concepts(self, system: str) -> dict[str, tuple[str, list[str]]]:
        """Return display and parents by code of a code system that the packages hold whole."""
        if system not in self._concepts:
            held = self._systems.get(system)
            if held is None or "concept" not in held or held.get("content") not in {"complete", None}:
                raise Unshippable(system)
            found: dict[str, tuple[str, list[str]]] = {}
            _collect(held["concept"], [], found)
            self._concepts[system] = found
        return self._concepts[system]

    def systems(self, url: str) -> set[str]:
        """Return the systems that a value set draws on, whoever's they are; nothing where that cannot be told."""
        found: set[str] = set()
        for include in self._sets.get(url, {}).get("compose", {}).get("include", ()):
            if "system" in include:
                found.add(include["system"].partition("|")[0])
            for inner in include.get("valueSet", ()):
                found |= self.systems(inner.partition("|")[0])
        return found

    def expand(self, url: str) -> Codes:
        """Return a value set's codes with their displays, by system.

        Raises:
            Unshippable: it holds codes that may not be shipped, or is not in the packages.

        """
        held = self._sets.get(url)
        if held is None or "compose" not in held:
            raise Unshippable(url)
        codes: Codes = {}
        for include in held["compose"]["include"]:
            for system, more in self._include(include).items():
                codes.setdefault(system, {}).update(more)
        for exclude in held["compose"].get("exclude", ()):
            for system, less in self._include(exclude).items():
                codes[system] = {code: text for code, text in codes.get(system, {}).items() if code not in less}
        return {system: listed for system, listed in sorted(codes.items()) if listed}

    def _include(self, include: Definition) -> Codes:
        found: Codes | None = None
        if "system" in include:
            found = {include["system"].partition("|")[0]: self._of_system(include)}
        for inner in include.get("valueSet", ()):
            other = self.expand(inner.partition("|")[0])
            found = (
                other
                if found is None
                else {
                    system: {code: text for code, text in listed.items() if code in other.get(system, {})}
                    for system, listed in found.items()
                }
            )
        return found or {}

    def _of_system(self, include: Definition) -> dict[str, str]:
        system: str = include["system"].partition("|")[0]
        if not system.startswith(OURS) or system.startswith(NOT_OURS):
            raise Unshippable(system)
        if "concept" in include:
            return self._listed(system, include["concept"])
        concepts = self.concepts(system)
        codes = set(concepts)
        for rule in include.get("filter", ()):
            codes &= self._filtered(system, rule)
        return {code: text for code, (text, _) in concepts.items() if code in codes}

    def _listed(self, system: str, listed: list[Definition]) -> dict[str, str]:
        try:
            concepts = self.concepts(system)
        except Unshippable:
            found = {str(one["code"]): str(one.get("display", one["code"])) for one in listed}
            self.fragments.setdefault(system, {}).update(found)
            return found
        missing = {one["code"] for one in listed} - set(concepts)
        if missing:
            raise Unshippable(f"{system} has no {sorted(missing)}")
        return {one["code"]: concepts[one["code"]][0] for one in listed}

    def _filtered(self, system: str, rule: Definition) -> set[str]:
        concepts = self.concepts(system)
        if rule["property"] not in {"concept", "code"} or rule["op"] not in {"is-a", "descendent-of"}:
            raise Unshippable(f"{system} by {rule['property']} {rule['op']}")
        below, before = {rule["value"]}, set[str]()
        while below != before:
            before = set(below)
            below |= {code for code, (_, parents) in concepts.items() if below.intersection(parents)}
        return below - ({rule["value"]} if rule["op"] == "descendent-of" else set())

    def about(self, url: str) -> Definition:
        """Return the document of a value set or code system; an empty one where the packages have none."""
        return self._sets.get(url) or self._systems.get(url) or {}


def _collect(listed: list[Definition], parents: list[str], into: dict[str, tuple[str, list[str]]]) -> None:
    for concept in listed:
        above = [*parents, *(one["valueCode"] for one in concept.get("property", ()) if one["code"] == "subsumedBy")]
        into[str(concept["code"])] = (str(concept.get("display", concept["code"])), above)
        _collect(concept.get("concept", []), [concept["code"]], into)


def terminology_tables(packages: Iterable[Package], held: Iterable[str]) -> tuple[Definition, Definition]:
    """Return the tables of value sets and of the code systems that they draw on, each by canonical."""
    packages = list(packages)
    terminology = Terminology(packages)
    sets: Definition = {}
    used: dict[str, set[str]] = {}
    for url in bound(packages, held):
        about = terminology.about(url)
        row: Definition = {"id": about.get("id", tail(url)), "title": about.get("title") or about.get("name", "")}
        row["version"] = about.get("version", "")
        try:
            codes = terminology.expand(url)
        except Unshippable:
            row["open"] = sorted(terminology.systems(url))
        else:
            row["members"] = {system: sorted(listed) for system, listed in codes.items()}
            for system, listed in codes.items():
                used.setdefault(system, set()).update(listed)
        sets[url] = row
    systems: Definition = {}
    for system in sorted(used):
        about = terminology.about(system)
        try:
            concepts = terminology.concepts(system)
        except Unshippable:
            concepts = {code: (str(text), []) for code, text in terminology.fragments[system].items()}
        whole = system not in terminology.fragments
        systems[system] = {
            "id": about.get("id", tail(system)),
            "title": about.get("title") or about.get("name") or tail(system),
            "version": about.get("version", ""),
            "content": "complete" if whole else "fragment",
            "concepts": [[code, text, *above] for code, (text, above) in concepts.items()],
        }
    for row in sets.values():
        for system, listed in row.get("members", {}).items():
            if len(listed) == len(systems[system]["concepts"]):
                row["members"][system] = None
    return sets, systems


def generate(folder: Path) -> dict[str, str]:
    """Return the text of each file by its path in the repository."""
    packages = [Package(archive) for archive in sorted(folder.glob("*.tgz"))]
    core = next(package for package in packages if package.name == CORE)
    others = [package for package in packages if package is not core]
    sets, systems = terminology_tables(packages, HELD)
    sources = rows(
        {
            f"{package.name} {package.version}": {"license": "CC0-1.0", "sha256": package.sha256}
            for package in (core, *others)
        }
    )
    return {
        "shared/fhir/profiles/tables/profiles.json": rows(profile_tables(core, others, HELD)),
        "shared/fhir/profiles/tables/sources.json": sources,
        "shared/terminology/tables/code-systems.json": rows(systems),
        "shared/terminology/tables/value-sets.json": rows(sets),
        "shared/terminology/tables/sources.json": sources,
    }


def main() -> int:
    """Write the tables."""
    parser = argparse.ArgumentParser(description="Make the tables of profiles and terminology from HL7's packages.")
    parser.add_argument("folder", type=Path, help="folder with the packages' .tgz files")
    arguments = parser.parse_args()
    for name, text in generate(arguments.folder).items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{name}: {len(text):,} characters\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
