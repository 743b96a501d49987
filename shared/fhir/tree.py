"""The element trees of R4 as values: which members a JSON object of a type may have, and what they are.

Made lazily from `shared.fhir.definitions`; validation, extraction and the walk over references are all driven by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from shared.fhir.definitions import type_table

PRIMITIVES: Final = frozenset(
    {
        "base64Binary",
        "boolean",
        "canonical",
        "code",
        "date",
        "dateTime",
        "decimal",
        "id",
        "instant",
        "integer",
        "markdown",
        "oid",
        "positiveInt",
        "string",
        "time",
        "unsignedInt",
        "uri",
        "url",
        "uuid",
        "xhtml",
    }
)


@dataclass(frozen=True, slots=True)
class Member:
    """One JSON member: an element, or one type of a choice of types.

    Attributes:
        key: the JSON member's name: ``valueQuantity``.
        name: the element's name as FHIRPath knows it: ``value``.
        type: a primitive, a complex datatype, ``Resource``, or the type that holds the backbone element.
        path: of a backbone element its path within `type` (``component``); else empty.
        many: whether it is an array.
        targets: resource types that a Reference may point to; empty: any.
        binding: value set of a required binding.
        simple: a Quantity that may have no comparator.
        choice: whether it is one type of several.

    """

    key: str
    name: str
    type: str
    path: str
    many: bool
    targets: frozenset[str]
    binding: str | None
    simple: bool
    choice: bool

    @property
    def is_primitive(self) -> bool:
        """Whether its JSON value is a string, number or boolean."""
        return self.type in PRIMITIVES


@dataclass(frozen=True, slots=True)
class Element:
    """An element: its FHIRPath name, least number, and its members (several for a choice of types)."""

    name: str
    minimum: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """The elements of a type or of a backbone element in it; `members` by JSON key."""

    type: str
    path: str
    elements: tuple[Element, ...]
    members: Mapping[str, Member]

    def members_named(self, name: str) -> tuple[Member, ...]:
        """Return the members of the element `name`, as FHIRPath steps into them."""
        return next((element.members for element in self.elements if element.name == name), ())


def _member(type_: str, name: str, word: str, *, many: bool, binding: str | None, choice: bool) -> Member:
    base, _, rest = word.partition("(")
    simple = base.endswith("!")
    base = base.removesuffix("!")
    inner = base.removeprefix("@") if base.startswith("@") else ""
    return Member(
        key=name + base[0].upper() + base[1:] if choice else name,
        name=name,
        type=type_ if inner else base,
        path=inner,
        many=many,
        targets=frozenset(rest.removesuffix(")").split(",")) if rest else frozenset(),
        binding=binding,
        simple=simple,
        choice=choice,
    )


def _element(type_: str, line: str) -> Element:
    name, cardinality, *words = line.split(" ")
    binding = words.pop()[1:] if words[-1].startswith("^") else None
    minimum, _, maximum = cardinality.partition("..")
    choice = name.endswith("[x]")
    name = name.removesuffix("[x]")
    members = tuple(_member(type_, name, word, many=maximum != "1", binding=binding, choice=choice) for word in words)
    return Element(name, int(minimum), members)


@cache
def node(type_: str, path: str = "") -> Node:
    """Return the elements of a resource type or complex datatype, or of the backbone element `path` in it.

    Raises:
        KeyError: R4 has no such type.

    """
    table = type_table(type_)
    if table is None:
        raise KeyError(type_)
    elements = tuple(_element(type_, line) for line in table.elements[path])
    return Node(type_, path, elements, {member.key: member for element in elements for member in element.members})
