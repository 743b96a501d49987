"""The links of a resource, rewritten: how a transaction gives what it creates the ids that the server chose.

A link is a `Reference.reference`, an element of type uri or url (`Attachment.url`), or an ``href`` or ``src`` of the
narrative. Elements of type canonical stay as they are, as R4 says; so do oid and uuid, whose form no ``Type/id`` has,
and `meta.source`, which says where a resource came from.

Source: https://hl7.org/fhir/R4/http.html#trules
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import escape, unescape
from typing import Any, Final, Literal, TypeAlias

from shared.fhir.definitions import RESOURCE_TYPES
from shared.fhir.json import Resource
from shared.fhir.tree import Member, Node, node

LinkKind: TypeAlias = Literal["reference", "uri", "narrative"]

Relink: TypeAlias = Callable[[LinkKind, str], str]
"""From a link's kind and text to the text that is to stand there."""

_URIS: Final = frozenset({"uri", "url"})
_NARRATIVE_LINK: Final = re.compile(r"""(\s(?:href|src)\s*=\s*)(?:"([^"]*)"|'([^']*)')""")
_AS_IT_CAME: Final = frozenset({("Meta", "source")})


def relinked(resource: Resource, relink: Relink) -> Resource:
    """Return the resource with every link as `relink` says; what is not changed is shared with the one given.

    It need not be valid: what is not of the form that its type asks for is left for the validation to refuse.
    """
    type_ = resource.get("resourceType")
    if not isinstance(type_, str) or type_ not in RESOURCE_TYPES:
        return resource
    changed: Resource = _object(resource, node(type_), relink)
    return changed


def links_of(resource: Resource) -> Iterator[tuple[LinkKind, str]]:
    """Yield kind and text of each link."""
    found: list[tuple[LinkKind, str]] = []

    def note(kind: LinkKind, text: str) -> str:
        found.append((kind, text))
        return text

    relinked(resource, note)
    yield from found


def _object(value: dict[str, Any], at: Node, relink: Relink) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, item in value.items():
        if key.startswith("_"):
            after = _many(item, _extended, relink)
        else:
            member = at.members.get(key)
            if member is None:
                continue
            step = _step(member, at)
            if step is None:
                continue
            after = _many(item, step, relink)
        if after is not item:
            changes[key] = after
    return {**value, **changes} if changes else value


_Step: TypeAlias = Callable[[Any, Relink], Any]


def _many(item: Any, step: _Step, relink: Relink) -> Any:
    if not isinstance(item, list):
        return step(item, relink)
    after = [step(one, relink) for one in item]
    return item if all(new is old for new, old in zip(after, item, strict=True)) else after


def _step(member: Member, at: Node) -> _Step | None:
    """Return what to do with the values of a member; None where nothing in them can be a link."""
    if member.type in _URIS:
        return None if (at.type, member.key) in _AS_IT_CAME else _uri
    if member.type == "xhtml":
        return _narrative
    if at.type == "Reference" and member.key == "reference":
        return _reference
    if member.is_primitive:
        return None
    if member.type == "Resource":
        return _resource
    inner = node(member.type, member.path)
    return lambda value, relink: _object(value, inner, relink) if isinstance(value, dict) else value


def _reference(value: Any, relink: Relink) -> Any:
    return _same(value, relink("reference", value)) if isinstance(value, str) else value


def _uri(value: Any, relink: Relink) -> Any:
    return _same(value, relink("uri", value)) if isinstance(value, str) else value


def _narrative(value: Any, relink: Relink) -> Any:
    if not isinstance(value, str):
        return value

    def link(match: re.Match[str]) -> str:
        double = match[2] is not None
        said = unescape(match[2] if double else match[3])
        after = relink("narrative", said)
        if after == said:
            return match[0]
        return f'{match[1]}"{escape(after)}"'

    return _same(value, _NARRATIVE_LINK.sub(link, value))


def _same(before: str, after: str) -> str:
    return before if after == before else after


def _resource(value: Any, relink: Relink) -> Any:
    return relinked(value, relink) if isinstance(value, dict) else value


def _extended(value: Any, relink: Relink) -> Any:
    """Rewrite the extensions of a primitive: the value of its ``_field`` member."""
    if not isinstance(value, dict) or "extension" not in value:
        return value
    inner = node("Extension")
    after = _many(
        value["extension"], lambda one, relink: _object(one, inner, relink) if isinstance(one, dict) else one, relink
    )
    return value if after is value["extension"] else {**value, "extension": after}
