"""FHIRPath Patch: the five operations on the element that a FHIRPath points to.

Source: https://hl7.org/fhir/R4/fhirpatch.html. A path that finds nothing, or several elements where one is meant, is an
error, except that deleting what is not there succeeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from shared.fhir.json import Json, Resource
from shared.fhir.outcome import BadRequest, Unprocessable
from shared.fhir.patch.content import Content, NotContent, content_of
from shared.fhir.patch.places import NotUnderstood, Place, Places, children, places_of
from shared.fhir.tree import Member

_Pairs: TypeAlias = list[tuple[Json, Json]]
"""The elements of a list: their values, and of primitives the objects beside them, which hold id and extensions."""

_VALUE: Final = re.compile(r"value[A-Z]\w*")

_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "add": ("path", "name", "value"),
    "insert": ("path", "value", "index"),
    "delete": ("path",),
    "replace": ("path", "value"),
    "move": ("path", "source", "destination"),
}


@dataclass(frozen=True, slots=True)
class _Operation:
    """One operation, and its place in the Parameters for the errors."""

    where: str
    type: str
    parts: Mapping[str, Resource]

    def text(self, name: str) -> str:
        """Return a part's value as text."""
        return str(_primitive(self.parts[name]))

    def number(self, name: str) -> int:
        """Return a part's value, a number from 0."""
        value = _primitive(self.parts[name])
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise BadRequest(f"'{name}' of {self.where} is an integer from 0.", code="value", expression=[self.where])
        return value

    def bad(self, what: str) -> BadRequest:
        """Return a refusal of the operation as such."""
        return BadRequest(f"{self.where}, {self.type}: {what}.", code="value", expression=[self.where])

    def unfit(self, what: str) -> Unprocessable:
        """Return a refusal of the operation on this version of the resource."""
        return Unprocessable(
            f"{self.where}, {self.type} at {self.text('path')}: {what}. Nothing was changed.",
            code="processing",
            expression=[self.where],
        )


def apply_fhirpath_patch(resource: Resource, patch: Json) -> Resource:
    """Return `resource`, which is changed, after the operations of `patch`, a Parameters resource.

    Raises:
        BadRequest: not a FHIRPath Patch.
        Unprocessable: a path that finds nothing or several elements, an index outside of its list.

    """
    if not isinstance(patch, dict) or patch.get("resourceType") != "Parameters":
        raise BadRequest(
            "A FHIRPath Patch is a Parameters resource; a JSON Patch is application/json-patch+json.",
            expression=["http.body"],
        )
    parameters = patch.get("parameter")
    if not parameters:
        raise BadRequest("The patch has no operation.", code="required", expression=["Parameters.parameter"])
    _require_parameters(parameters, "Parameters.parameter")
    for number, parameter in enumerate(parameters):
        operation = _operation(parameter, f"Parameters.parameter[{number}]")
        _APPLY[operation.type](resource, operation)
    _prune(resource)
    return resource


def _require_parameters(parameters: Json, where: str) -> None:
    """Accept a list of named parameters, each with one value, resource, or list of parts.

    What the values are is judged when the resource is complete: a reference may be to what it contains.
    """
    if not isinstance(parameters, list):
        raise BadRequest(f"{where} is not a list.", expression=[where])
    for number, parameter in enumerate(parameters):
        place = f"{where}[{number}]"
        if not isinstance(parameter, dict) or not isinstance(parameter.get("name"), str):
            raise BadRequest(f"{place} is not an object with a name.", expression=[place])
        given = {name.removeprefix("_") for name in parameter} - {"name", "id", "extension", "modifierExtension"}
        if len(given) != 1 or not all(name in {"part", "resource"} or _VALUE.fullmatch(name) for name in given):
            said = ", ".join(sorted(given))[:200] or "nothing"
            raise BadRequest(f"{place} has {said}, where a value, a resource or parts are meant.", expression=[place])
        if "part" in parameter:
            _require_parameters(parameter["part"], f"{place}.part")


def _operation(parameter: Resource, where: str) -> _Operation:
    if parameter["name"] != "operation":
        raise BadRequest(f"{where} is not an 'operation', but '{parameter['name']}'.", code="value", expression=[where])
    parts: dict[str, Resource] = {}
    for part in parameter.get("part", ()):
        if part["name"] in parts:
            raise BadRequest(f"{where} has '{part['name']}' twice.", code="value", expression=[where])
        parts[part["name"]] = part
    type_ = str(_primitive(parts["type"])) if "type" in parts else ""
    if type_ not in _PARTS:
        raise BadRequest(
            f"{where} has no 'type' of {', '.join(_PARTS)}.",
            code="required" if not type_ else "value",
            expression=[where],
        )
    missing = [name for name in _PARTS[type_] if name not in parts]
    unknown = sorted(parts.keys() - {"type", *_PARTS[type_]})
    if missing or unknown:
        said = [f"lacks '{name}'" for name in missing] + [f"has no use for '{name}'" for name in unknown]
        raise BadRequest(f"{where}, {type_}, {', '.join(said)}.", code="required", expression=[where])
    return _Operation(where, type_, parts)


def _primitive(part: Resource) -> Json:
    return next((value for name, value in part.items() if name.startswith("value")), None)


# The operations


def _add(resource: Resource, operation: _Operation) -> None:
    place = _one(resource, operation)
    name = operation.text("name")
    choices = place.members(name)
    if not choices:
        raise operation.bad(f"there is no element '{name}' in {_said(place)}")
    content = _content(operation, choices)
    held = children(place, name)
    if content.member.many:
        inside = _opened(place)
        _gather(inside, content.member, [*_spread(inside, content.member), (content.value, content.beside)])
    elif held:
        raise operation.unfit(f"'{name}' is there already, and there can be one only; replace it")
    else:
        _set(_opened(place), content)


def _insert(resource: Resource, operation: _Operation) -> None:
    holder, member, choices = _list(resource, operation)
    content = _content(operation, choices)
    pairs = _spread(holder, member)
    index = operation.number("index")
    if index > len(pairs):
        raise operation.unfit(f"index {index} is behind the end of the list, which has {len(pairs)}")
    pairs.insert(index, (content.value, content.beside))
    _gather(holder, member, pairs)


def _delete(resource: Resource, operation: _Operation) -> None:
    found = _found(resource, operation)
    if len(found) > 1:
        raise operation.unfit(f"{len(found)} elements are there; only one can be deleted at a time")
    for place in found:
        member = _changeable(place, operation)
        if place.index is None:
            place.holder.pop(member.key, None)
            place.holder.pop(f"_{member.key}", None)
        else:
            pairs = _spread(place.holder, member)
            del pairs[place.index]
            _gather(place.holder, member, pairs)


def _replace(resource: Resource, operation: _Operation) -> None:
    place = _one(resource, operation)
    member = _changeable(place, operation)
    content = _content(operation, place.choices)
    if place.index is not None:
        pairs = _spread(place.holder, member)
        pairs[place.index] = (content.value, content.beside)
        _gather(place.holder, member, pairs)
        return
    if content.member.key != member.key:
        _rename(place.holder, member.key, content.member.key)
    _set(place.holder, content)


def _move(resource: Resource, operation: _Operation) -> None:
    holder, member, _ = _list(resource, operation)
    pairs = _spread(holder, member)
    source, destination = operation.number("source"), operation.number("destination")
    if max(source, destination) >= len(pairs):
        raise operation.unfit(f"the list has {len(pairs)} elements, so the last is {len(pairs) - 1}")
    pairs.insert(destination, pairs.pop(source))
    _gather(holder, member, pairs)


_APPLY: Final[Mapping[str, Callable[[Resource, _Operation], None]]] = {
    "add": _add,
    "insert": _insert,
    "delete": _delete,
    "replace": _replace,
    "move": _move,
}


# What they work on


def _found(resource: Resource, operation: _Operation) -> Places:
    try:
        return places_of(resource, operation.text("path"))
    except NotUnderstood as error:
        raise operation.bad(f"the path cannot be read: {error}") from None


def _one(resource: Resource, operation: _Operation) -> Place:
    found = _found(resource, operation)
    if len(found) != 1:
        raise operation.unfit(f"{len(found) or 'no'} elements are there, where one is meant")
    return found[0]


def _changeable(place: Place, operation: _Operation) -> Member:
    if place.member is None:
        raise operation.bad("that is the resource itself; update it, or delete it")
    return place.member


def _list(resource: Resource, operation: _Operation) -> tuple[Resource, Member, tuple[Member, ...]]:
    """Return the whole list that the path points to: who holds it, and as what."""
    found = _found(resource, operation)
    if not found:
        raise operation.unfit("no element is there; add the first")
    first = found[0]
    member = _changeable(first, operation)
    whole = len(_spread(first.holder, member)) if member.many else 0
    if len(found) != whole or any(place.holder is not first.holder for place in found):
        raise operation.bad("the path does not name one whole list")
    return first.holder, member, first.choices


def _content(operation: _Operation, choices: tuple[Member, ...]) -> Content:
    try:
        return content_of(operation.parts["value"], choices)
    except NotContent as error:
        raise operation.bad(str(error)) from None


def _said(place: Place) -> str:
    return "the resource" if place.member is None else f"'{place.member.name}'"


# Members of JSON objects: an element is its value, and of a primitive also the object beside it


def _opened(place: Place) -> Resource:
    """Return the object that holds the children of `place`, made for a primitive that had none."""
    inside = place.inside
    if inside is not None or place.member is None:
        return inside if inside is not None else place.holder
    made: Resource = {}
    if place.index is None:
        place.holder[f"_{place.member.key}"] = made
    else:
        pairs = _spread(place.holder, place.member)
        pairs[place.index] = (pairs[place.index][0], made)
        _gather(place.holder, place.member, pairs)
    return made


def _spread(holder: Resource, member: Member) -> _Pairs:
    values = list(holder.get(member.key) or ())
    beside = list(holder.get(f"_{member.key}") or ()) if member.is_primitive else []
    length = max(len(values), len(beside))
    values.extend([None] * (length - len(values)))
    beside.extend([None] * (length - len(beside)))
    return list(zip(values, beside, strict=True))


def _gather(holder: Resource, member: Member, pairs: _Pairs) -> None:
    for key, values in ((member.key, [pair[0] for pair in pairs]), (f"_{member.key}", [pair[1] for pair in pairs])):
        if any(value is not None for value in values):
            holder[key] = values
        else:
            holder.pop(key, None)


def _set(holder: Resource, content: Content) -> None:
    for key, value in ((content.member.key, content.value), (f"_{content.member.key}", content.beside)):
        if value is not None:
            holder[key] = value
        elif key in holder:
            del holder[key]


def _rename(holder: Resource, old: str, new: str) -> None:
    """Give the member `old` another name in its place; what stood beside it goes."""
    members = [(new if name == old else name, value) for name, value in holder.items() if name != f"_{old}"]
    holder.clear()
    holder.update(members)


def _prune(value: Json) -> Json:
    """Take out objects and lists that were emptied: FHIR knows no element without content."""
    if isinstance(value, dict):
        for name in list(value):
            if isinstance(value[name], list):
                _prune_list(value, name)
            elif _prune(value[name]) == {}:
                del value[name]
    return value


def _prune_list(holder: Resource, name: str) -> None:
    beside = name.startswith("_")  # its places are those of the values beside it, so nulls keep them
    kept = [None if _prune(one) == {} else one for one in holder[name]]
    emptied = [one for one, before in zip(kept, holder[name], strict=True) if one is not None or before is None]
    holder[name] = kept if beside else emptied
    if not any(one is not None for one in holder[name]):
        del holder[name]
