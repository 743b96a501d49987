"""What a reader of some resources needs beside them: who and what they refer to, that is in nobody's compartment.

Source: https://hl7.org/fhir/R4/patient-operation-everything.html, "any resources referenced from them"
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from shared.fhir.json import Resource, parse
from shared.fhir.query import parse_search
from shared.fhir.search import SearchQuery
from shared.store.types import Page, Stored

TYPES_BESIDE: Final = frozenset(
    ("Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Device")
)

AT_ONCE: Final = 100
"""Ids that are asked for in one search."""

Place: TypeAlias = tuple[str, str]
"""Type and logical id."""

Search: TypeAlias = Callable[[SearchQuery], Awaitable[Page]]


def references_in(node: Any, base: str) -> Iterator[Place]:
    """Yield type and id of all local references in a resource, relative or under `base`, at whatever depth."""
    stack = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            reference = one.get("reference")
            if isinstance(reference, str):
                parts = reference.removeprefix(f"{base}/").partition("/_history/")[0].split("/")
                if len(parts) == 2:
                    yield parts[0], parts[1]
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)


async def beside(
    search: Search, resources: Iterable[Resource], known: Iterable[Place], base: str, types: frozenset[str]
) -> list[Stored]:
    """Return the resources of `types` that `resources` refer to, those that these refer to, and so on.

    Args:
        search: answers a search with what the caller may see.
        resources: where the references are.
        known: what is there already.
        base: the own FHIR base URL.
        types: what may be brought.

    """
    asked = set(known)
    found: list[Stored] = []
    wanted = list(resources)
    while wanted:
        new = {place for one in wanted for place in references_in(one, base) if place[0] in types} - asked
        asked |= new
        brought: list[Stored] = []
        for type_ in sorted({type_ for type_, _ in new}):
            ids = sorted(id_ for of, id_ in new if of == type_)
            for at in range(0, len(ids), AT_ONCE):
                brought.extend(await _held(search, type_, ids[at : at + AT_ONCE], base))
        found.extend(brought)
        wanted = [parse(stored.body) for stored in brought]
    return found


async def _held(search: Search, type_: str, ids: Sequence[str], base: str) -> list[Stored]:
    pairs = [("_id", ",".join(ids)), ("_count", str(len(ids)))]
    return list((await search(parse_search(type_, pairs, strict=True, base=base))).entries)
