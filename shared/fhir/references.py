"""References between resources: what a literal points to, and where a resource holds any.

Source: https://hl7.org/fhir/R4/references.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from shared.fhir.definitions import RESOURCE_TYPES
from shared.fhir.json import Resource
from shared.fhir.tree import Member, Node, node

_LITERAL: Final = re.compile(
    r"(?P<base>[A-Za-z][A-Za-z0-9+.-]*://[^\s?#]+/)?"
    r"(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9.-]{1,64})(?:/_history/(?P<version>[A-Za-z0-9.-]{1,64}))?"
)


@dataclass(frozen=True, slots=True)
class Literal:
    """A literal reference, read.

    Attributes:
        type, id, version: of the form ``[base/]Type/id[/_history/version]``; empty in any other form.
        base: the absolute base before them (``https://other.example/fhir/``); empty for a relative reference.
        url: the literal itself where it is absolute (with a base, a urn, any other url); empty where relative.
        fragment: of ``#med1``, ``med1``; None where it is no contained reference.

    """

    type: str = ""
    id: str = ""
    version: str = ""
    base: str = ""
    url: str = ""
    fragment: str | None = None


@lru_cache(maxsize=4096)
def parse_literal(literal: str) -> Literal:
    """Return what `Reference.reference` points to."""
    if literal.startswith("#"):
        return Literal(fragment=literal[1:])
    match = _LITERAL.fullmatch(literal)
    if match is None or match["type"] not in RESOURCE_TYPES:
        return Literal(url=literal)
    base = match["base"] or ""
    return Literal(match["type"], match["id"], match["version"] or "", base, literal if base else "")


def relative(literal: str, base: str) -> str:
    """Return `literal` without `base` where it is a resource under it: an absolute reference to oneself is a local one.

    `base` is a FHIR base URL without a slash at its end; empty: none is known.
    """
    if base and literal.startswith(base) and literal[len(base) : len(base) + 1] == "/":
        rest = literal[len(base) + 1 :]
        if parse_literal(rest).type:
            return rest
    return literal


def target_type(reference: dict[str, Any], root: Resource | None = None) -> str | None:
    """Return the resource type that a Reference points to; None where it does not tell.

    It is told by the literal, by the resource of `root` that it names (``#med1``), or by `Reference.type`.
    """
    literal = reference.get("reference")
    if isinstance(literal, str):
        parsed = parse_literal(literal)
        if parsed.type:
            return parsed.type
        if parsed.fragment is not None and root is not None:
            if not parsed.fragment:
                return _name(root.get("resourceType"))
            for contained in root.get("contained", ()):
                if isinstance(contained, dict) and contained.get("id") == parsed.fragment:
                    return _name(contained.get("resourceType"))
    given = reference.get("type")
    return _name(given.rsplit("/", 1)[-1]) if isinstance(given, str) else None


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and value in RESOURCE_TYPES else None


def references_of(resource: Resource) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every Reference in a resource with its FHIRPath location, extensions and contained resources included.

    The dicts are those of `resource` itself, so that a caller may rewrite them.
    """
    type_ = _name(resource.get("resourceType"))
    if type_ is not None:
        yield from _walk(resource, node(type_), type_)


def relative_references(raw: bytes, base: str) -> bytes:
    """Return JSON in which references to resources under `base`, this system's own base URL, are relative ones.

    A system knows a resource by one name only: by another it would not be in its patient's compartment, nor found by
    whom it is about. A Bundle whose entries are known by such urls is left as it is: its links are followed by them.
    Source: https://hl7.org/fhir/R4/references.html#literal
    """
    start = base.encode()
    if not base or start not in raw or re.search(rb'"fullUrl"\s*:\s*"' + re.escape(start), raw):
        return raw
    return re.sub(
        rb'("reference"\s*:\s*")' + re.escape(start) + rb'/([^"\\]+)(?=")',
        lambda found: found[1] + found[2] if parse_literal(found[2].decode("utf-8", "replace")).type else found[0],
        raw,
    )


def _walk(value: dict[str, Any], at: Node, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, item in value.items():
        if key.startswith("_"):
            member = at.members.get(key[1:])
            if member is not None and member.is_primitive:
                yield from _extensions(item, f"{path}.{member.name}")
            continue
        member = at.members.get(key)
        if member is None or member.is_primitive:
            continue
        if isinstance(item, list):
            for position, one in enumerate(item):
                yield from _step(one, member, f"{path}.{member.name}[{position}]")
        else:
            yield from _step(item, member, f"{path}.{member.name}")


def _step(item: object, member: Member, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(item, dict):
        return
    if member.type == "Resource":
        type_ = _name(item.get("resourceType"))
        if type_ is not None:
            yield from _walk(item, node(type_), path)
        return
    if member.type == "Reference":
        yield path, item
    yield from _walk(item, node(member.type, member.path), path)


def _extensions(item: object, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk the extensions of a primitive: the value of its ``_field`` member."""
    if isinstance(item, list):
        for position, one in enumerate(item):
            yield from _extensions(one, f"{path}[{position}]")
    elif isinstance(item, dict):
        for position, extension in enumerate(item.get("extension", ())):
            if isinstance(extension, dict):
                yield from _walk(extension, node("Extension"), f"{path}.extension[{position}]")
