"""From a StructureDefinition's elements to a rule tree: plain JSON that says what a profile asks beyond R4.

A rule tree mirrors the element tree. A node holds only what the profile adds:

| member       | meaning                                                                                       |
|--------------|-----------------------------------------------------------------------------------------------|
| `min`, `max` | how often the element is there; `max` is absent where it is unbounded                          |
| `types`      | the types a choice is narrowed to                                                             |
| `targets`    | the resource types that a Reference is narrowed to                                            |
| `fixed`      | the value, exactly                                                                            |
| `pattern`    | what the value must contain                                                                   |
| `binding`    | the canonical of a required binding's value set                                               |
| `rules`      | keys of invariants (`shared.fhir.profiles.rules`)                                             |
| `by`, `closed`, `slices` | slicing: discriminators (``value:url``), whether others are refused, nodes by slice name |
| `extension`  | of a slice of extensions: the extension's canonical                                            |
| `children`   | nodes by element name (without ``[x]``)                                                       |

The same function makes the shipped table of HL7's profiles (`tools/generate_terminology.py`, from snapshots, which say
what R4 says too, and that is left out) and reads the project's own, whose differential says only what they add.

Source: https://hl7.org/fhir/R4/profiling.html, https://hl7.org/fhir/R4/elementdefinition.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

Definition: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = dict[str, Any]

Base: TypeAlias = Callable[[str], Definition | None]
"""By path (``Observation.code.coding``): what R4 says of the element, an ElementDefinition; None: compare nothing."""


def tail(canonical: str) -> str:
    """Return the last part of a canonical url, without version."""
    return canonical.partition("|")[0].rsplit("/", 1)[-1]


def rule_tree(elements: Iterable[Definition], base: Base, targets: Callable[[str], str]) -> Rule:
    """Return the rule tree of a StructureDefinition's elements.

    Args:
        elements: of its snapshot or differential, in order.
        base: what R4 says, to leave it out.
        targets: the resource type of a profile's canonical, for references to profiles.

    """
    root: Rule = {}
    for element in elements:
        node = _place(root, element.get("id", element["path"]))
        node.update(_constraints(element, base(element["path"]), targets))
    _name_extensions(root)
    return _pruned(root)


def _place(root: Rule, id_: str) -> Rule:
    """Return the node of an element's id: ``Observation.component:systolic.value[x]``; made where there is none."""
    node = root
    for segment in id_.split(".")[1:]:
        name, _, slice_ = segment.partition(":")
        node = node.setdefault("children", {}).setdefault(name.removesuffix("[x]"), {})
        for part in slice_.split("/") if slice_ else ():
            node = node.setdefault("slices", {}).setdefault(part, {})
    return node


def _constraints(element: Definition, base: Definition | None, targets: Callable[[str], str]) -> Rule:
    node: Rule = {}
    known: Definition = base or {}
    sliced = "sliceName" in element
    if element.get("min", 0) > (0 if sliced or base is None else known.get("min", 0)):
        node["min"] = element["min"]
    most = element.get("max", "*")
    if most != "*" and (sliced or base is None or most != known.get("max")):
        node["max"] = int(most)
    types = {one["code"]: one for one in element.get("type", ()) if not one["code"].startswith("http")}
    before = {one["code"]: one for one in known.get("type", ())}
    if types and element["path"].endswith("[x]") and (base is None or set(types) != set(before)):
        node["types"] = sorted(types)
    _references(node, types, before, targets)
    for name, value in element.items():
        if name.startswith("fixed") and value != known.get(name):
            node["fixed"] = value
        elif name.startswith("pattern") and value != known.get(name):
            node["pattern"] = value
    binding = element.get("binding", {})
    if binding.get("strength") == "required" and _binding(known) != _canonical(binding.get("valueSet", "")):
        node["binding"] = _canonical(binding["valueSet"])
    keys = {one["key"] for one in known.get("constraint", ())}
    rules = [one["key"] for one in element.get("constraint", ()) if one["severity"] == "error"]
    if added := [key for key in rules if key not in keys]:
        node["rules"] = added
    slicing = element.get("slicing")
    if slicing is not None:
        node["by"] = [f"{one['type']}:{one['path']}" for one in slicing.get("discriminator", ())]
        if slicing.get("rules") == "closed":
            node["closed"] = True
    extension = types.get("Extension", {}).get("profile", ())
    if extension:
        node["extension"] = _canonical(extension[0])
    return node


def _references(node: Rule, types: Definition, before: Definition, targets: Callable[[str], str]) -> None:
    if "Reference" not in types:
        return
    allowed = {targets(one) for one in types["Reference"].get("targetProfile", ())}
    usual = {tail(one) for one in before.get("Reference", {}).get("targetProfile", ())}
    if allowed and "Resource" not in allowed and allowed != usual:
        node["targets"] = sorted(allowed)


def _binding(element: Definition) -> str | None:
    binding = element.get("binding", {})
    return _canonical(binding.get("valueSet", "")) if binding.get("strength") == "required" else None


def _canonical(url: str) -> str:
    return url.partition("|")[0]


def _name_extensions(node: Rule) -> None:
    """Give a slice of extensions that says its url as a fixed value its `extension`, too."""
    for name, child in node.get("children", {}).items():
        if name in {"extension", "modifierExtension"}:
            for slice_ in child.get("slices", {}).values():
                url = slice_.get("children", {}).get("url", {}).get("fixed")
                if url is not None and "extension" not in slice_:
                    slice_["extension"] = url
        _name_extensions(child)
    for slice_ in node.get("slices", {}).values():
        _name_extensions(slice_)


def _pruned(node: Rule) -> Rule:
    """Return the node without members that ask for nothing."""
    kept = {name: value for name, value in node.items() if name not in {"children", "slices", "by", "closed"}}
    slices = {name: _pruned(slice_) for name, slice_ in node.get("slices", {}).items()}
    if slices:
        kept["by"] = node.get("by", [])
        if node.get("closed"):
            kept["closed"] = True
        kept["slices"] = slices
    children = {name: rule for name, child in node.get("children", {}).items() if (rule := _pruned(child))}
    if children:
        kept["children"] = children
    return kept
