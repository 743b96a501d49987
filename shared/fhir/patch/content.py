"""The value of a FHIRPath Patch operation, as the JSON members it becomes.

A datatype is given as ``value[x]``, with ``_value[x]`` for a primitive's extensions; an element that is no datatype
(``Patient.contact``) as parts, each named after a child; a contained resource as ``resource``.

Source: https://hl7.org/fhir/R4/fhirpatch.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.fhir.json import Json, Resource
from shared.fhir.tree import Member, node


@dataclass(frozen=True, slots=True)
class Content:
    """An element: the member it becomes, its value, and of a primitive the object beside it (id, extensions)."""

    member: Member
    value: Json
    beside: Json = None


class NotContent(Exception):
    """The value cannot be one of the element; the message says why."""


def content_of(part: Resource, choices: Sequence[Member]) -> Content:
    """Return the content of a part for an element that may be any of `choices`.

    Raises:
        NotContent: no value, or one of a type the element cannot have.

    """
    name = choices[0].name
    if "resource" in part:
        if choices[0].type != "Resource":
            raise NotContent(f"'{name}' is no resource")
        return Content(choices[0], part["resource"])
    if "part" in part:
        return Content(choices[0], _object(part["part"], choices, name))
    said = next((key.lstrip("_").removeprefix("value") for key in part if key.lstrip("_").startswith("value")), None)
    if said is None:
        raise NotContent(f"'{name}' is given no value")
    member = _member(said, choices)
    value, beside = part.get(f"value{said}"), part.get(f"_value{said}")
    if beside is not None and not member.is_primitive:
        raise NotContent(f"'{name}' is no primitive, so nothing stands beside it")
    return Content(member, value, beside)


def _member(said: str, choices: Sequence[Member]) -> Member:
    first = choices[0]
    if not first.choice:
        return first
    for member in choices:
        if member.key == first.name + said:
            return member
    allowed = ", ".join(member.type for member in choices)
    raise NotContent(f"'{first.name}' cannot be of type {said}, only {allowed}")


def _object(parts: Sequence[Resource], choices: Sequence[Member], name: str) -> Resource:
    member = choices[0]
    if len(choices) > 1 or member.is_primitive or member.type == "Resource":
        raise NotContent(f"'{name}' has no parts; give it as value[x]")
    of = node(member.type, member.path)
    made: Resource = {}
    for part in parts:
        inner = of.members_named(str(part["name"]))
        if not inner:
            raise NotContent(f"there is no element '{part['name']}' in '{name}'")
        content = content_of(part, inner)
        if content.member.many:
            _append(made, content)
        elif any(one.key in made or f"_{one.key}" in made for one in inner):
            raise NotContent(f"'{name}' has one '{part['name']}' only")
        else:
            _put(made, content)
    return made


def _put(made: Resource, content: Content) -> None:
    if content.value is not None:
        made[content.member.key] = content.value
    if content.beside is not None:
        made[f"_{content.member.key}"] = content.beside


def _append(made: Resource, content: Content) -> None:
    key = content.member.key
    values, beside = made.setdefault(key, []), made.get(f"_{key}", [])
    if content.beside is not None or beside:
        made[f"_{key}"] = [*beside, *[None] * (len(values) - len(beside)), content.beside]
    values.append(content.value)
