"""Part of a resource: what `_summary` and `_elements` leave of it.

What the caller did not ask for is left out, but never what is mandatory, what modifies the meaning of the rest, `id`
and `meta`; the resource is tagged SUBSETTED, so that nobody takes it for the whole and writes it back.

Source: https://hl7.org/fhir/R4/search.html#summary, https://hl7.org/fhir/R4/search.html#elements
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from shared.fhir.definitions import summary_table
from shared.fhir.json import Json, Resource
from shared.fhir.tree import Member, node

Summary: TypeAlias = Literal["true", "text", "data"]

SUBSETTED: Final = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}

_ALWAYS: Final = frozenset(("id", "meta"))


@dataclass(frozen=True, slots=True)
class View:
    """What of each resource is wanted: by `_summary`, or (None) the elements that `_elements` names."""

    summary: Summary | None = None
    elements: frozenset[str] = frozenset()


def unknown_elements(view: View, type_: str) -> list[str]:
    """Return the elements a view names that resources of `type_` do not have."""
    known = {element.name for element in node(type_).elements}
    return sorted(view.elements - known)


def subset(resource: Resource, view: View) -> Resource:
    """Return what `view` shows of `resource`, tagged SUBSETTED; the resource itself stays as it is."""
    type_ = str(resource["resourceType"])
    if view.summary == "data":
        shown = {name: value for name, value in resource.items() if name != "text"}
    elif view.summary == "true":
        shown = _summarised(resource, type_, "")
        if "contained" in resource and _refers_inside(shown):
            shown["contained"] = resource["contained"]
    else:
        kept = _kept(type_, view)
        shown = {name: value for name, value in resource.items() if name in kept}
    return _tagged({"resourceType": resource["resourceType"], **shown})


@lru_cache(maxsize=512)
def _kept(type_: str, view: View) -> frozenset[str]:
    """Return the JSON members of a type that a view shows."""
    wanted = _ALWAYS | ({"text"} if view.summary == "text" else view.elements) | _modifiers(type_, "")
    return frozenset(
        key
        for element in node(type_).elements
        if element.minimum > 0 or element.name in wanted
        for member in element.members
        for key in (member.key, f"_{member.key}")
    )


def _modifiers(type_: str, path: str) -> frozenset[str]:
    return frozenset(name.removesuffix("!") for name in summary_table(type_).get(path, ()) if name.endswith("!"))


@lru_cache(maxsize=512)
def _in_summary(type_: str, path: str) -> dict[str, Member]:
    """Return by JSON key the members of a type, or of a backbone element in it, that belong to its summary."""
    wanted = {name.removesuffix("!") for name in summary_table(type_).get(path, ())}
    return {
        key: member
        for element in node(type_, path).elements
        if element.minimum > 0 or element.name in wanted
        for member in element.members
        for key in (member.key, f"_{member.key}")
    }


def _summarised(value: Resource, type_: str, path: str) -> Resource:
    members = _in_summary(type_, path)
    shown: Resource = {}
    for name, inner in value.items():
        member = members.get(name)
        if member is None:
            continue
        if member.path and summary_table(type_).get(member.path):
            items = inner if isinstance(inner, list) else [inner]
            parts = [_summarised(item, type_, member.path) if isinstance(item, dict) else item for item in items]
            shown[name] = parts if isinstance(inner, list) else parts[0]
        else:
            shown[name] = inner
    return shown


def _refers_inside(value: Json) -> bool:
    """Tell whether anything in `value` refers to a contained resource."""
    if isinstance(value, dict):
        reference = value.get("reference")
        return (isinstance(reference, str) and reference.startswith("#")) or any(
            _refers_inside(inner) for inner in value.values()
        )
    return isinstance(value, list) and any(_refers_inside(inner) for inner in value)


def _tagged(resource: Resource) -> Resource:
    meta = resource.get("meta", {})
    tags = [tag for tag in meta.get("tag", ()) if tag.get("code") != SUBSETTED["code"]]
    resource["meta"] = {**meta, "tag": [*tags, SUBSETTED]}
    return resource
