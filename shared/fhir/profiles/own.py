"""The project's own StructureDefinitions, made from the facts in `project.yaml`.

A differential says what a profile adds; whoever needs a snapshot makes it from R4's definitions, as validators do.

Source: https://hl7.org/fhir/R4/structuredefinition.html
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from shared.fhir.definitions import FHIR_VERSION

FILE: Final = Path(__file__).with_name("project.yaml")
BASE: Final = "https://kap-exchange.org/fhir"
# The profiles that the services' own resources claim
COURSE: Final = f"{BASE}/StructureDefinition/kap-course"
ELIGIBILITY: Final = f"{BASE}/StructureDefinition/kap-eligibility"
VISIT: Final = f"{BASE}/StructureDefinition/kap-visit"
DOSING_SESSION: Final = f"{BASE}/StructureDefinition/kap-dosing-session"
DOSE: Final = f"{BASE}/StructureDefinition/kap-dose"
SCORE: Final = f"{BASE}/StructureDefinition/kap-score"
CLAIMED: Final = (COURSE, ELIGIBILITY, VISIT, DOSING_SESSION, DOSE, SCORE)
_R4: Final = "http://hl7.org/fhir/StructureDefinition/"
Json = dict[str, Any]


@cache
def definitions() -> Mapping[str, Json]:
    """Return the project's StructureDefinitions by canonical, as they are published."""
    content = yaml.safe_load(FILE.read_text("utf-8"))
    made = [
        *(_extension(name, said, content) for name, said in content["extensions"].items()),
        *(_profile(name, said, content) for name, said in content["profiles"].items()),
    ]
    return MappingProxyType({one["url"]: one for one in made})


def claiming(*profiles: str) -> dict[str, list[str]]:
    """Return the `meta` of a resource that claims `profiles`; it is then held to them, whoever changes it."""
    return {"profile": list(profiles)}


def canonical(name: str) -> str:
    """Return the canonical of one of the project's definitions by its name; a url stays as it is."""
    return name if "://" in name else f"{BASE}/StructureDefinition/{name}"


def _about(name: str, said: Json, content: Json) -> Json:
    return {
        "resourceType": "StructureDefinition",
        "id": name,
        "url": canonical(name),
        "version": content["version"],
        "name": "".join(part.title() for part in name.split("-")),
        "title": said["title"],
        "status": "active",
        "date": content["date"],
        "publisher": "KAP Exchange",
        "description": said["description"],
        "fhirVersion": FHIR_VERSION,
    }


def _profile(name: str, said: Json, content: Json) -> Json:
    type_ = said["type"]
    base = canonical(said["base"]) if "base" in said else f"{_R4}{type_}"
    elements = [{"id": type_, "path": type_}, *(_element(type_, one) for one in said["elements"])]
    return {
        **_about(name, said, content),
        "kind": "resource",
        "abstract": False,
        "type": type_,
        "baseDefinition": base,
        "derivation": "constraint",
        "differential": {"element": elements},
    }


def _element(type_: str, said: Json) -> Json:
    id_ = f"{type_}.{said['path']}"
    element: Json = {"id": id_, "path": ".".join(part.partition(":")[0] for part in id_.split("."))}
    _, slice_, name = said["path"].rpartition(".")[2].partition(":")
    if slice_:
        element["sliceName"] = name
    if "slicing" in said:
        element["slicing"] = said["slicing"]
    if "card" in said:
        least, _, most = said["card"].partition("..")
        element |= {"min": int(least), "max": most}
    if "extension" in said:
        element["type"] = [{"code": "Extension", "profile": [canonical(said["extension"])]}]
    elif "targets" in said:
        targets = [one if "://" in one else f"{_R4}{one}" for one in said["targets"]]
        element["type"] = [{"code": "Reference", "targetProfile": targets}]
    elif "types" in said:
        element["type"] = [{"code": one} for one in said["types"]]
    for kind in ("pattern", "fixed"):
        for name_, value in said.get(kind, {}).items():
            element[f"{kind}{name_}"] = _with_systems(value)
    if "binding" in said:
        element["binding"] = {"strength": "required", "valueSet": f"{BASE}/ValueSet/{said['binding']}"}
    return element


def _with_systems(value: Any) -> Any:
    """Return a pattern with the project's code system under its whole name."""
    if isinstance(value, dict):
        return {
            name: f"{BASE}/CodeSystem/kap" if name == "system" and inner == "kap" else _with_systems(inner)
            for name, inner in value.items()
        }
    return [_with_systems(one) for one in value] if isinstance(value, list) else value


def _extension(name: str, said: Json, content: Json) -> Json:
    url = canonical(name)
    elements: list[Json] = [{"id": "Extension", "path": "Extension"}]
    if "parts" in said:
        slicing = {"discriminator": [{"type": "value", "path": "url"}], "rules": "open"}
        elements.append({"id": "Extension.extension", "path": "Extension.extension", "slicing": slicing})
        for part, (card, type_) in said["parts"].items():
            elements += _part(part, card, type_)
    elements.append({"id": "Extension.url", "path": "Extension.url", "fixedUri": url})
    value: Json = {"id": "Extension.value[x]", "path": "Extension.value[x]"}
    if "parts" in said:
        elements.append({**value, "max": "0"})
    else:
        types = said["value"] if isinstance(said["value"], list) else [said["value"]]
        elements.append({**value, "min": 1, "type": [{"code": one} for one in types]})
    return {
        **_about(name, said, content),
        "kind": "complex-type",
        "abstract": False,
        "context": [{"type": "element", "expression": one} for one in said["context"]],
        "type": "Extension",
        "baseDefinition": f"{_R4}Extension",
        "derivation": "constraint",
        "differential": {"element": elements},
    }


def _part(name: str, card: str, type_: str) -> list[Json]:
    least, _, most = card.partition("..")
    short = name.rpartition("/")[2]
    id_, path = f"Extension.extension:{short}", "Extension.extension"
    sliced = {"id": id_, "path": path, "sliceName": short, "min": int(least), "max": most}
    if name != short:
        return [{**sliced, "type": [{"code": "Extension", "profile": [name]}]}]
    return [
        sliced,
        {"id": f"{id_}.url", "path": f"{path}.url", "fixedUri": name},
        {"id": f"{id_}.value[x]", "path": f"{path}.value[x]", "min": 1, "type": [{"code": type_}]},
    ]
