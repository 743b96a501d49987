"""Make the definition tables of `shared/fhir/definitions` from HL7's packages.

    python tools/generate_definitions.py FOLDER [--into DIRECTORY]

FOLDER holds the packages' archives, as published (`PACKAGES` below names the parts of them that are read): the R4 core
package and the US Core package, both CC0. What is written are facts only: names, cardinalities, types, codes of
required bindings, search parameters and compartments; no prose.

| file                 | holds                                                                               |
|----------------------|-------------------------------------------------------------------------------------|
| `types.json`         | element trees of every R4 resource type and datatype                                |
| `codes.json`         | the codes of every value set that a required binding names, by code system          |
| `search.json`        | search parameters of the held types, with the part of the expression for each type  |
| `summary.json`       | of the held types: by path, the elements of the summary; ``!`` marks those that modify  |
| `compartments.json`  | by compartment and type: the search parameters that place a resource in it          |
| `ids.json`           | small numbers for types and parameter codes; a number once given is never reused    |
| `units.json`         | UCUM units that HL7 calls common: factor, offset, base units                        |
| `sources.json`       | name, version and SHA-256 of each package read                                      |

An element is one string: ``value[x] 0..1 Quantity CodeableConcept string``. The type ``Reference(Patient,Group)``
names the targets allowed, ``@component`` is the backbone element of that path in the same type, ``Quantity!`` is a
SimpleQuantity (no comparator), and a last word ``^observation-status`` is a required binding.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
import tarfile
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, TypeAlias

Definition: TypeAlias = dict[str, Any]

HELD = [
    "Patient",
    "RelatedPerson",
    "Practitioner",
    "PractitionerRole",
    "Organization",
    "Location",
    "Coverage",
    "ServiceRequest",
    "Condition",
    "AllergyIntolerance",
    "MedicationStatement",
    "RiskAssessment",
    "Consent",
    "EpisodeOfCare",
    "CarePlan",
    "CareTeam",
    "Goal",
    "MedicationRequest",
    "Medication",
    "Device",
    "Specimen",
    "FamilyMemberHistory",
    "Immunization",
    "DiagnosticReport",
    "Questionnaire",
    "Schedule",
    "Slot",
    "Appointment",
    "AppointmentResponse",
    "Encounter",
    "Procedure",
    "MedicationAdministration",
    "MedicationDispense",
    "Observation",
    "AdverseEvent",
    "ClinicalImpression",
    "DocumentReference",
    "Composition",
    "SupplyDelivery",
    "QuestionnaireResponse",
    "Measure",
    "MeasureReport",
    "Subscription",
    "Group",
    "Bundle",
    "Endpoint",
    "Task",
    "Flag",
    "DetectedIssue",
    "Communication",
    "Provenance",
    "AuditEvent",
    "OperationOutcome",
    "CapabilityStatement",
    "Parameters",
    "Binary",
    "List",
]

CORE = "hl7.fhir.r4.core"
US_CORE = "hl7.fhir.us.core"
US_CORE_VERSION = "7.0.0"

BASE = "http://hl7.org/fhir/StructureDefinition/"
FHIR_TYPE = BASE + "structuredefinition-fhir-type"
SIMPLE_QUANTITY = BASE + "SimpleQuantity"

SWAPPED = "http://hl7.org/fhir/SearchParameter/DocumentReference-relationship"
"""R4 gives the component of the reference the expression of the code, and the other way round."""

MORE_UNITS = frozenset({"1", "[degF]", "[oz_av]", "[lb_av]", "[in_i]", "[ft_i]", "mg/kg/h", "ug/kg/min", "mL/kg/h"})
"""Units that are looked for, and that HL7's list may lack."""

SYNTAX_ONLY = {"currencies", "mimetypes", "ucum-units"}
"""Value sets of open code systems: validation checks the syntax of their codes."""
LICENSED = ("http://loinc.org", "http://snomed.info/sct")


class Package:
    """The JSON documents of one package's archive."""

    def __init__(self, archive: Path) -> None:
        raw = archive.read_bytes()
        self.sha256 = hashlib.sha256(raw).hexdigest()
        self.documents: list[Definition] = []
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as members:
            for member in members:
                parts = Path(member.name).parts
                file = members.extractfile(member) if member.isfile() and member.name.endswith(".json") else None
                if file is None or len(parts) != 2 or parts[0] != "package":
                    continue
                content = json.loads(file.read())
                if parts[1] == "package.json":
                    self.name, self.version = content["name"], content["version"]
                elif "resourceType" in content:
                    self.documents.append(content)

    def of(self, resource_type: str) -> list[Definition]:
        """Return the documents of a resource type, by url."""
        found = [document for document in self.documents if document["resourceType"] == resource_type]
        return sorted(found, key=lambda document: (document.get("url", ""), document.get("id", "")))


def read_packages(folder: Path) -> tuple[Package, Package]:
    """Return the R4 core package and the US Core package in `folder`."""
    packages = [Package(archive) for archive in sorted(folder.glob("*.tgz"))]
    core = next(package for package in packages if package.name == CORE)
    us_core = next(p for p in packages if p.name == US_CORE and p.version == US_CORE_VERSION)
    return core, us_core


def tail(canonical: str) -> str:
    """Return the last part of a canonical url, without version."""
    return canonical.partition("|")[0].rsplit("/", 1)[-1]


def type_word(element: Definition, type_: Definition, inner: str, *, has_children: bool) -> str:
    """Return the word for one type of an element."""
    code: str = type_["code"]
    if code.startswith("http://hl7.org/fhirpath/"):
        given = [extension["valueUrl"] for extension in type_.get("extension", ()) if extension["url"] == FHIR_TYPE]
        return "id" if element["base"]["path"] == "Resource.id" else str(given[0])
    if has_children and code in {"Element", "BackboneElement"}:
        return f"@{inner}"
    if code == "Reference":
        targets = sorted({tail(profile) for profile in type_.get("targetProfile", ())})
        return f"Reference({','.join(targets)})" if targets and "Resource" not in targets else "Reference"
    if SIMPLE_QUANTITY in type_.get("profile", ()):
        return "Quantity!"
    return code


def element_tree(definition: Definition, used: dict[str, str]) -> dict[str, list[str]]:
    """Return ``{path within the type: [element, ...]}``; note the value sets of required bindings in `used`."""
    elements = definition["snapshot"]["element"]
    root = definition["id"]
    parents = {element["path"].rsplit(".", 1)[0] for element in elements}
    tree: dict[str, list[str]] = {}
    for element in elements:
        path: str = element["path"]
        if path == root:
            continue
        parent, name = path.rsplit(".", 1)
        inner = path[len(root) + 1 :]
        if "contentReference" in element:
            types = ["@" + element["contentReference"].split("#")[1].split(".", 1)[1]]
        else:
            types = [type_word(element, t, inner, has_children=path in parents) for t in element["type"]]
        words = [name, f"{element['min']}..{element['max']}", *dict.fromkeys(types)]
        binding = element.get("binding", {})
        if binding.get("strength") == "required":
            url = binding["valueSet"].split("|")[0]
            if not url.startswith(LICENSED):
                used[tail(url)] = url
                words.append(f"^{tail(url)}")
        tree.setdefault(parent[len(root) + 1 :], []).append(" ".join(words))
    return tree


def type_tables(core: Package) -> tuple[dict[str, Definition], dict[str, str]]:
    """Return the element trees by type, and the value sets that required bindings name."""
    used: dict[str, str] = {}
    tables: dict[str, Definition] = {}
    for definition in core.of("StructureDefinition"):
        kind = definition["kind"]
        if definition["id"] != "Element" and (
            definition.get("derivation") != "specialization"
            or kind not in {"resource", "complex-type"}
            or definition["abstract"]
        ):
            continue
        if "snapshot" not in definition or definition["url"] != BASE + definition["id"]:
            continue
        tables[definition["id"]] = {
            "kind": "resource" if kind == "resource" else "complex",
            "elements": element_tree(definition, used),
        }
    return dict(sorted(tables.items())), used


def summary_tables(core: Package) -> dict[str, dict[str, list[str]]]:
    """Return ``{type: {path within the type: [element of the summary, ...]}}`` of the held types.

    An element that modifies what the others mean is listed too, whether in the summary or not, with a ``!`` at its end.
    """
    tables: dict[str, dict[str, list[str]]] = {}
    for definition in core.of("StructureDefinition"):
        root = definition["id"]
        if root not in HELD or definition["url"] != BASE + root:
            continue
        table = tables.setdefault(root, {})
        for element in definition["snapshot"]["element"][1:]:
            if not element.get("isSummary") and not element.get("isModifier"):
                continue
            parent, name = element["path"].rsplit(".", 1)
            word = name.removesuffix("[x]") + ("!" if element.get("isModifier") else "")
            table.setdefault(parent[len(root) + 1 :], []).append(word)
        # Of an inner element without anything but what modifies it nothing is marked: then all of it belongs.
        tables[root] = {path: words for path, words in table.items() if any(not w.endswith("!") for w in words)}
    return dict(sorted(tables.items()))


def all_codes(concepts: list[Definition]) -> list[str]:
    """Return the codes of a code system's concepts, children included."""
    codes: list[str] = []
    for concept in concepts:
        codes.append(concept["code"])
        codes.extend(all_codes(concept.get("concept", [])))
    return codes


def code_tables(core: Package, used: dict[str, str]) -> dict[str, dict[str, list[str]]]:
    """Return the codes of each value set in `used`, by code system."""
    systems = {system["url"]: system for system in core.of("CodeSystem")}
    value_sets = {value_set["url"]: value_set for value_set in core.of("ValueSet")}

    def expand(url: str) -> dict[str, list[str]]:
        codes: dict[str, list[str]] = {}
        for include in value_sets[url]["compose"]["include"]:
            for inner in include.get("valueSet", ()):
                for system, more in expand(inner.split("|")[0]).items():
                    codes.setdefault(system, []).extend(more)
            if "system" not in include:
                continue
            if "filter" in include or include["system"].startswith(LICENSED):
                message = f"{url} is not a plain list of codes"
                raise ValueError(message)
            listed = include.get("concept") or systems[include["system"]]["concept"]
            codes.setdefault(include["system"], []).extend(all_codes(listed))
        return {system: sorted(set(listed)) for system, listed in codes.items()}

    return {name: expand(url) for name, url in sorted(used.items()) if name not in SYNTAX_ONLY}


def split_union(expression: str) -> list[str]:
    """Return the operands of the outermost ``|`` of a FHIRPath expression."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(expression):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "|" and depth == 0:
            parts.append(expression[start:position].strip())
            start = position + 1
    return [*parts, expression[start:].strip()]


def components(parameter: Definition, by_url: dict[str, Definition]) -> list[list[str]]:
    """Return [code, expression] of each component of a composite."""
    parts = parameter.get("component", [])
    expressions = [part["expression"] for part in parts]
    if parameter["url"] == SWAPPED:
        expressions.reverse()
    return [
        [by_url[part["definition"]]["code"], expression] for part, expression in zip(parts, expressions, strict=True)
    ]


def search_tables(core: Package, us_core: Package) -> dict[str, list[list[Any]]]:
    """Return ``{type: [[code, kind, expression, targets, url, components], ...]}``, also for the type `Resource`.

    A component of a composite is ``[code, expression]``: the parameter that it compares by, and the way to its values
    from what the composite's own expression finds.
    """
    codes = {parameter["url"]: parameter for parameter in core.of("SearchParameter")}
    tables: dict[str, dict[str, list[Any]]] = {type_: {} for type_ in [*HELD, "Resource"]}
    for parameter in [*core.of("SearchParameter"), *us_core.of("SearchParameter")]:
        if "code" not in parameter or parameter["url"].endswith("/example"):
            continue
        for base in parameter.get("base", ()):
            type_ = "Resource" if base == "DomainResource" or parameter["code"].startswith("_") else base
            if type_ not in tables or parameter["code"] in tables[type_]:
                continue
            parts = [
                part
                for part in split_union(parameter.get("expression", ""))
                if re.match(rf"\(*{type_}\b", part) or base == type_ == "Resource"
            ]
            tables[type_][parameter["code"]] = [
                parameter["code"],
                parameter["type"],
                " | ".join(dict.fromkeys(parts)),
                sorted(parameter.get("target", ())),
                parameter["url"],
                components(parameter, codes),
            ]
    return {type_: [rows[code] for code in sorted(rows)] for type_, rows in tables.items()}


def unit_tables(core: Package) -> dict[str, list[str]]:
    """Return ``{code: [factor, offset, base units]}`` of HL7's common UCUM units.

    A value times the factor, plus the offset, is the value in base units. Left out are arbitrary units, which are the
    same as nothing else (``[iU]``), and what is no line, as decibels are.
    """
    # 1.5 s to import, so only here.
    from ucumvert import PintUcumRegistry
    from ucumvert.xml_util import get_units_with_full_definition

    registry = PintUcumRegistry()
    arbitrary = [unit.code_cs for unit in get_units_with_full_definition() if unit.is_arbitrary]
    (common,) = [one for one in core.of("ValueSet") if one["id"] == "ucum-common"]
    table: dict[str, list[str]] = {}
    for code in sorted({concept["code"] for concept in common["compose"]["include"][0]["concept"]} | MORE_UNITS):
        if any(unit in code for unit in arbitrary):
            continue
        bare = re.sub(r"\{[^}]*\}", "", re.sub(r"(^|[./(])\{[^}]*\}", r"\g<1>1", code))
        try:
            unit = registry.from_ucum(bare)
            ends = [registry.Quantity(number, unit.units).to_base_units() for number in (0, 1, 1000)]
        except Exception as error:  # noqa: BLE001 - whatever the library makes of it, it is not compared
            sys.stderr.write(f"{code} is left out: {error}\n".splitlines()[0] + "\n")
            continue
        scale = Decimal(repr(float(getattr(unit, "magnitude", 1))))
        offset, one, many = (Decimal(repr(float(end.magnitude))) for end in ends)
        factor = one - offset
        if not factor or abs((many - offset) / factor / 1000 - 1) > Decimal("1e-9"):
            continue
        powers = sorted(dict(ends[1].unit_items()).items())
        base = ".".join(name if power == 1 else f"{name}{power:g}" for name, power in powers)
        table[code] = [_digits(factor * scale), _digits(offset), base or "1"]
    return table


def _digits(number: Decimal) -> str:
    """Return the number with 14 significant digits: what follows is noise of binary arithmetic."""
    return f"{Context(prec=14).plus(number).normalize():g}"


def compartment_tables(core: Package) -> dict[str, dict[str, list[str]]]:
    """Return ``{compartment: {type: [parameter code, ...]}}``."""
    tables: dict[str, dict[str, list[str]]] = {}
    for compartment in core.of("CompartmentDefinition"):
        if compartment["id"] == "example":
            continue
        tables[compartment["code"]] = {
            row["code"]: [p for p in row["param"] if p != "{def}"] for row in compartment["resource"] if "param" in row
        }
    return tables


def numbered(names: list[str], known: dict[str, int]) -> dict[str, int]:
    """Return numbers for `names`: those known stay, new ones follow after the highest."""
    numbers = dict(known)
    for name in names:
        numbers.setdefault(name, max(numbers.values(), default=0) + 1)
    return numbers


def rows(value: Any) -> str:
    """Return JSON with one line for each member of the outer object, so that a change reads well in a diff."""
    lines = [
        f"{json.dumps(key)}:{json.dumps(member, separators=(',', ':'), ensure_ascii=False)}"
        for key, member in value.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def generate(folder: Path, known_ids: dict[str, dict[str, int]]) -> dict[str, str]:
    """Return the text of each file by name; `known_ids` is the content of an earlier `ids.json`, or empty."""
    core, us_core = read_packages(folder)
    types, used = type_tables(core)
    search = search_tables(core, us_core)
    resource_types = [name for name, table in types.items() if table["kind"] == "resource"]
    codes = sorted({row[0] for table in search.values() for row in table})
    ids = {
        "held": dict.fromkeys(sorted(HELD), 1),
        "types": numbered([*sorted(HELD), *resource_types], known_ids.get("types", {})),
        "parameters": numbered(codes, known_ids.get("parameters", {})),
    }
    sources = {
        package.name: {"version": package.version, "license": "CC0-1.0", "sha256": package.sha256}
        for package in (core, us_core)
    }
    return {
        "types.json": rows(types),
        "codes.json": rows(code_tables(core, used)),
        "search.json": rows(search),
        "summary.json": rows(summary_tables(core)),
        "compartments.json": rows(compartment_tables(core)),
        "units.json": rows(unit_tables(core)),
        "ids.json": rows({**ids, "held": sorted(HELD)}),
        "sources.json": rows(sources),
    }


def main() -> int:
    """Write the tables."""
    parser = argparse.ArgumentParser(description="Make shared/fhir/definitions from HL7's packages.")
    parser.add_argument("folder", type=Path, help="folder with the packages' .tgz files")
    default = Path(__file__).resolve().parent.parent / "shared" / "fhir" / "definitions"
    parser.add_argument("--into", type=Path, default=default, help="where to write; default: shared/fhir/definitions")
    arguments = parser.parse_args()
    known = arguments.into / "ids.json"
    known_ids = json.loads(known.read_text("utf-8")) if known.exists() else {}
    arguments.into.mkdir(parents=True, exist_ok=True)
    for name, text in generate(arguments.folder, known_ids).items():
        (arguments.into / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{name}: {len(text):,} characters\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
