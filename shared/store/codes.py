"""The codes that a search names by a value set or by their place in a hierarchy, looked up before it is run.

Source: https://hl7.org/fhir/R4/search.html#modifiers (`:in`, `:not-in`, `:below`, `:above`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from shared.fhir.outcome import BadRequest
from shared.fhir.search import (
    Chain,
    CodesValue,
    Condition,
    Criterion,
    Has,
    HierarchyValue,
    SearchQuery,
    Value,
    ValueSetValue,
)
from shared.terminology.port import Terminology

MOST: Final = 100_000
"""Codes that one value of a search may stand for: above it the search is refused."""

_MODIFIERS: Final = frozenset({"in", "not-in", "below", "above"})


async def looked_up(query: SearchQuery, terminology: Terminology) -> SearchQuery:
    """Return the search with the codes themselves in the place of what names them.

    Raises:
        BadRequest: a value set is not known here, or holds too many codes.

    """
    if not any(_asks(one) for one in query.criteria):
        return query
    return replace(query, criteria=tuple([await _resolved(one, terminology) for one in query.criteria]))


def _asks(one: Condition) -> bool:
    match one:
        case Criterion():
            return one.kind == "token" and one.modifier in _MODIFIERS
        case Chain():
            return any(_asks(beyond) for _, beyond in one.targets)
        case Has():
            return _asks(one.condition)
        case _:
            return False


async def _resolved(one: Condition, terminology: Terminology) -> Condition:
    match one:
        case Criterion() if _asks(one):
            return replace(one, values=tuple([await _codes(value, one.parameter, terminology) for value in one.values]))
        case Chain():
            beyond = [(type_, await _resolved(condition, terminology)) for type_, condition in one.targets]
            return replace(one, targets=tuple(beyond))
        case Has():
            return replace(one, condition=await _resolved(one.condition, terminology))
        case _:
            return one


async def _codes(value: Value, parameter: str, terminology: Terminology) -> Value:
    found: Mapping[str, Collection[str]]
    match value:
        case ValueSetValue():
            members = await terminology.members(value.url)
            if members is None:
                raise BadRequest(
                    f"The value set {value.url} is not known here: nothing was searched. A clinic loads what is "
                    "licensed from its own files.",
                    code="not-found",
                    expression=[f"http.{parameter}"],
                )
            found = {**members, "": frozenset().union(*members.values())} if value.bare else members
        case HierarchyValue(system, code, above=True):
            found = {system: (await terminology.ancestors(system, [code]))[code]}
        case HierarchyValue(system, code):
            found = {system: await terminology.descendants(system, code)}
        case _:
            return value
    if sum(len(codes) for codes in found.values()) > MOST:
        raise BadRequest(
            f"'{parameter}' asks for more than {MOST} codes at once: name a narrower set.",
            code="too-costly",
            expression=[f"http.{parameter}"],
        )
    return CodesValue(tuple((system, tuple(sorted(codes))) for system, codes in sorted(found.items())))
