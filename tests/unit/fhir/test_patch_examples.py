"""FHIRPath Patch on HL7's examples: every element is found by its path, replaced by itself, and deleted alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from shared.fhir.definitions import TYPES
from shared.fhir.json import Resource, dump
from shared.fhir.patch.apply import FHIRPATH_PATCH, apply_patch
from shared.fhir.patch.places import Place, children, places_of
from shared.fhir.tree import node
from tests.data import examples

GIVEN_AS_VALUE = {member.type for member in node("Parameters", "parameter").members_named("value")}


def elements(place: Place, path: str) -> Iterator[tuple[str, Place]]:
    """Yield path and place of every element below `place`."""
    type_, inner = ("Element", "") if place.member is not None and place.member.is_primitive else place.type
    if place.inside is None:
        return
    for element in node(type_, inner).elements:
        for index, child in enumerate(children(place, element.name)):
            assert child.member is not None
            below = f"{path}.{element.name}" + (f"[{index}]" if child.member.many else "")
            yield below, child
            yield from elements(child, below)


def patched(resource: Resource, type_: str, path: str, *value: Resource) -> Resource:
    part = [{"name": "type", "valueCode": type_}, {"name": "path", "valueString": path}, *value]
    patch = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": part}]}
    return apply_patch(resource, patch, FHIRPATH_PATCH)


def sampled(number: int) -> Iterator[tuple[Resource, str, Place]]:
    chosen = random.Random(20261122)
    held = [one for one in examples().values() if one["resourceType"] in TYPES and "id" in one]
    for resource in chosen.choices(held, k=number):
        all_of_it = [one for one in elements(Place(resource, None), resource["resourceType"]) if one[0].count(".") > 0]
        path, place = chosen.choice([one for one in all_of_it if not one[0].endswith((".id", ".versionId"))])
        yield resource, path, place


@pytest.mark.parametrize("number", [120, pytest.param(900, marks=pytest.mark.slow)])
def test_every_element_of_an_example_is_found_replaced_by_itself_and_deleted_alone(number):
    replaced = 0
    for resource, path, place in sampled(number):
        assert [(one.holder, one.member, one.index) for one in places_of(resource, path)] == [
            (place.holder, place.member, place.index)
        ]
        before = dump(resource)
        member, value = place.member, place.value
        assert member is not None
        if value is not None and not member.path and member.type in GIVEN_AS_VALUE:
            key = "value" + member.type[0].upper() + member.type[1:]
            part = {"name": "value", key: value}
            if member.is_primitive and place.inside is not None:
                part[f"_{key}"] = place.inside
            assert patched(resource, "replace", path, part) == resource, path
            replaced += 1
        after = patched(resource, "delete", path)
        assert len(dump(after)) < len(before), path
        assert dump(resource) == before
    assert replaced > number / 3
