"""Each example of HL7 is right; changed in one place it is refused, and the place is named. So for every held type.

One mutation of each kind per example, chosen by the example's name: the choice is the same in each run.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from services.gateway.catalog import TYPES as HELD
from shared.fhir.definitions import value_set
from shared.fhir.json import Resource, dump, parse
from shared.fhir.outcome import BadRequest
from shared.fhir.tree import Element, Node, node
from shared.fhir.validation import validate
from tests.data import examples
from tests.unit.fhir.more_examples import MORE


@dataclass(frozen=True, slots=True)
class Place:
    """An object of a resource, what it is, and where: its FHIRPath location."""

    value: dict[str, Any]
    at: Node
    where: str


def places(resource: Resource, where: str) -> Iterator[Place]:
    """Yield the resource and every object in it that is described by R4's trees, contained ones included."""
    yield from _places(resource, node(str(resource["resourceType"])), where)


def _places(value: dict[str, Any], at: Node, where: str) -> Iterator[Place]:
    yield Place(value, at, where)
    for key, item in value.items():
        member = at.members.get(key)
        if member is None or member.is_primitive:
            continue
        listed = item if member.many else [item]
        for position, one in enumerate(listed):
            inner = f"{where}.{member.name}" + (f"[{position}]" if member.many else "")
            if member.type == "Resource":
                yield from places(one, inner)
            else:
                yield from _places(one, node(member.type, member.path), inner)


def present(place: Place, element: Element) -> list[str]:
    return [key for member in element.members for key in (member.key, f"_{member.key}") if key in place.value]


def remove_a_required_element(found: list[Place], choose: random.Random) -> str | None:
    ways = [
        (place, element)
        for place in found
        for element in place.at.elements
        if element.minimum and present(place, element) and len(place.value) > len(present(place, element)) + 1
    ]
    if not ways:
        return None
    place, element = choose.choice(ways)
    for key in present(place, element):
        del place.value[key]
    return f"{place.where}.{element.name}"


def write_a_wrong_code(found: list[Place], choose: random.Random) -> str | None:
    ways = [
        (place, member)
        for place in found
        for member in place.at.members.values()
        if member.type == "code" and member.binding and value_set(member.binding) and member.key in place.value
    ]
    if not ways:
        return None
    place, member = choose.choice(ways)
    if member.many:
        place.value[member.key][0] = "no-such-code"
    else:
        place.value[member.key] = "no-such-code"
    return f"{place.where}.{member.name}" + ("[0]" if member.many else "")


def write_a_wrong_type(found: list[Place], choose: random.Random) -> str | None:
    ways = [
        (place, member)
        for place in found
        for member in place.at.members.values()
        if member.key in place.value and member.type != "Resource"
    ]
    place, member = choose.choice(ways)
    wrong: Any = {"unknown": 1} if member.is_primitive else "text"
    if member.many:
        place.value[member.key][0] = wrong
    else:
        place.value[member.key] = wrong
    return f"{place.where}.{member.name}" + ("[0]" if member.many else "")


def add_an_unknown_element(found: list[Place], choose: random.Random) -> str | None:
    place = choose.choice(found)
    place.value["colourOfHair"] = "red"
    return f"{place.where}.colourOfHair"


def every_example() -> dict[str, Resource]:
    return {**examples(), **{f"a {one['resourceType']} of ours": one for one in MORE}}


def has_enumerated_codes(type_: str) -> bool:
    """Tell whether a type has, at its top, a code that is bound to a value set whose codes are known."""
    return any(one.type == "code" and one.binding and value_set(one.binding) for one in node(type_).members.values())


MUTATIONS = (remove_a_required_element, write_a_wrong_code, write_a_wrong_type, add_an_unknown_element)


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda one: one.__name__)
def test_a_mutated_example_is_refused_at_the_place(
    mutate: Callable[[list[Place], random.Random], str | None],
) -> None:
    mutated: dict[str, int] = {}
    for name, resource in every_example().items():
        changed = copy.deepcopy(resource)
        where = mutate(list(places(changed, str(changed["resourceType"]))), random.Random(name))
        if where is None:
            continue
        told = {place for issue in validate(changed) for place in issue.expression}
        assert any(place == where or place.startswith((f"{where}.", f"{where}[")) for place in told), (
            name,
            where,
            sorted(told),
        )
        mutated[resource["resourceType"]] = mutated.get(resource["resourceType"], 0) + 1
    assert sum(mutated.values()) > 250, "so few examples could be changed so"
    without = {type_ for type_ in HELD if not has_enumerated_codes(type_)} if mutate is write_a_wrong_code else set()
    assert set(mutated) >= HELD - without, HELD - without - set(mutated)


def test_what_is_mutated_is_right_before() -> None:
    assert {name: validate(one) for name, one in every_example().items() if validate(one)} == {}


def test_a_doubled_key_is_refused_and_named() -> None:
    doubled = set()
    for name, resource in every_example().items():
        choose = random.Random(name)
        key = choose.choice([key for key in resource if key != "resourceType"])
        text = dump(resource)
        member = dump({key: resource[key]})[1:-1]
        with pytest.raises(BadRequest) as refused:
            parse(text[:-1] + b"," + member + b"}")
        assert key in str(refused.value), name
        doubled.add(resource["resourceType"])
    assert doubled >= HELD


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (r'{"resourceType":"Patient","id":"\ud800"}', "Patient.id"),
        (r'{"resourceType":"Patient","meta":{"versionId":"a\udfff"}}', "Patient.meta.versionId"),
        (r'{"resourceType":"Patient","name":[{"family":"A"},{"given":["\uDE00\uD83D"]}]}', "Patient.name[1].given[0]"),
        (r'{"resourceType":"Patient","name":[{"\ud800":1}]}', "Patient.name[0]"),
        (r'{"resourceType":"\ud800"}', "http.body.resourceType"),
        (r'[{"op":"remove","path":"/\uD800"}]', "http.body[0].path"),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_where_it_stands(text: str, place: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(text.encode())
    assert refused.value.issues[0].expression == (place,)


def test_a_whole_surrogate_pair_is_the_character_it_stands_for() -> None:
    assert parse(rb'{"text":"\ud83d\ude00 \\ud800"}') == {"text": "\U0001f600 \\ud800"}
