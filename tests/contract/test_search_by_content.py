"""Every search parameter finds what the content of real resources implies, and US Core's combinations find it together.

The expected values come from an independent FHIRPath engine (fhirpathpy) by HL7's own expressions, never from the code
under test; which resources a code, a reference or a uri must find, and no others, follows from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import fhirpathpy
import pytest
from fhirpathpy.models import models

from shared.fhir.definitions import TYPES, SearchParameter, search_parameters
from shared.fhir.json import Resource, parse
from shared.fhir.query import parse_search
from shared.store.access import Access
from shared.store.store import Store
from shared.testing.writes import write_of
from tests.data import examples, shared_data, synthea_bundles

ALL = Access.unrestricted()
NAMES = ("text", "family", "given", "prefix", "suffix")
ADDRESS = ("text", "line", "city", "district", "state", "postalCode", "country")
COMPARATORS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


@cache
def engine(type_: str, expression: str) -> Any:
    """Return the engine's own evaluation; it has neither resolve() nor 'Resource', and 'as' for one only."""
    expression = re.sub(r"\(([\w.]+) as (\w+)\)", r"\1.ofType(\2)", expression)
    expression = re.sub(r"where\(resolve\(\) is (\w+)\)", r"where(reference.contains('\1/'))", expression)
    expression = re.sub(r"hasExtension\(('[^']+')\)", r"extension(\1).exists()", expression)
    expression = re.sub(r"\bResource\b", type_, expression).replace(".as(", ".ofType(")
    return fhirpathpy.compile(expression, models["r4"])


def escaped(text: object) -> str:
    return re.sub(r"([\\,|$])", r"\\\1", str(text))


def tokens(value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, str):
        yield escaped(value)
    elif isinstance(value, dict) and "coding" in value:
        for coding in value["coding"]:
            yield from tokens(coding)
    elif isinstance(value, dict):
        code = value.get("code", value.get("value"))
        if isinstance(code, str) and "system" in value:
            yield f"{escaped(value['system'])}|{escaped(code)}"
        elif isinstance(code, str):
            yield f"|{escaped(code)}"


def strings(value: Any) -> Iterator[str]:
    parts = value if isinstance(value, dict) else {"text": value}
    for name in dict.fromkeys((*NAMES, *ADDRESS)):
        for text in parts.get(name, ()) if isinstance(parts.get(name), list) else (parts.get(name),):
            if isinstance(text, str) and text.strip():
                yield escaped(text)


def references(value: Any) -> Iterator[str]:
    literal = value.get("reference") if isinstance(value, dict) else value
    if isinstance(literal, str) and not literal.startswith("#"):
        yield escaped(literal)


def dates(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value[:4].isdecimal():  # "daily" is what an activity may be scheduled as, too
        yield value
        yield f"ge{value}"
    elif isinstance(value, dict):
        if "start" in value:
            yield f"ge{value['start']}"
        if "end" in value:
            yield f"le{value['end']}"
        for event in value.get("event", ()):
            yield f"ge{event}"
        if "repeat" in value:
            yield from dates(value["repeat"].get("boundsPeriod"))


def quantities(value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    for end, prefix in (("low", "ge"), ("high", "le")):
        yield from (f"{prefix}{text}" for text in quantities(value.get(end)))
    if "value" not in value:
        return
    amount = f"{COMPARATORS[value['comparator']] if 'comparator' in value else ''}{value['value']}"
    yield amount
    if "currency" in value:
        yield f"{amount}|urn:iso:std:iso:4217|{value['currency']}"
    elif "code" in value:
        yield f"{amount}|{escaped(value.get('system', ''))}|{escaped(value['code'])}"


def numbers(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from quantities(value)
    else:
        yield str(value)


TEXTS: dict[str, Callable[[Any], Iterable[str]]] = {
    "token": tokens,
    "string": strings,
    "reference": references,
    "date": dates,
    "number": numbers,
    "quantity": quantities,
    "uri": lambda value: [escaped(value)] if isinstance(value, str) else [],
}


def texts(resource: Resource, parameter: SearchParameter) -> list[str]:
    """Return how a search would write what the engine finds."""
    if parameter.kind == "composite":
        return list(dict.fromkeys(pairs(resource, parameter)))
    found = engine(resource["resourceType"], parameter.expression)(resource)
    return list(dict.fromkeys(text for value in found for text in TEXTS[parameter.kind](plain(value))))


def plain(value: Any) -> Any:
    """Return what an extension holds, where a parameter's expression ends at the extension itself."""
    if isinstance(value, dict) and "url" in value:
        return next((held for name, held in value.items() if name.startswith("value")), value)
    return value


def pairs(resource: Resource, parameter: SearchParameter) -> Iterator[str]:
    """Yield ``first$second`` of each element that a composite looks at."""
    type_ = resource["resourceType"]
    (first, to_first), (second, to_second) = parameter.components
    kinds = [search_parameters(type_)[code].kind for code in (first, second)]
    elements = [
        f"{place}.skip({number}).first()"
        for place in parameter.expression.split(" | ")
        for number in range(len(engine(type_, place)(resource)))
    ]
    for element in elements:
        left, right = (
            [
                text
                for path in to_part.split(" | ")
                for value in engine(type_, f"{element}.{path}")(resource)
                for text in TEXTS[kind](value)
            ]
            for to_part, kind in ((to_first, kinds[0]), (to_second, kinds[1]))
        )
        yield from (f"{one}${other}" for one in left for other in right)


def exactly(type_: str, parameter: SearchParameter) -> bool:
    """Tell whether a search by a value finds that value only: not what begins with it, or lies within it."""
    kinds = {search_parameters(type_)[code].kind for code, _ in parameter.components} or {parameter.kind}
    return kinds <= {"token", "uri", "reference"}


def renamed(resources: Iterable[Resource]) -> list[Resource]:
    """Return the resources of held types, each with an id of its own: several collections use the same."""
    held = [resource for resource in resources if resource["resourceType"] in TYPES]
    return [{**resource, "id": f"r{number}"} for number, resource in enumerate(held)]


async def filled(store: Store, resources: Iterable[Resource]) -> list[Resource]:
    """Write resources; return them as they are held, with the time of their change."""
    held = [parse((await store.write(ALL, write_of(resource))).stored.body) for resource in resources]
    await store.analyze()
    return held


async def found(store: Store, type_: str, *pairs: tuple[str, str]) -> set[str]:
    query = parse_search(type_, [*pairs, ("_count", "1000")], strict=True)
    page = await store.search(ALL, query)
    ids = {entry.id for entry in page.entries}
    while page.next is not None:
        page = await store.search(ALL, query, cursor=page.next)
        ids.update(entry.id for entry in page.entries)
    return ids


async def compare(store: Store, resources: list[Resource], *, most: int | None = None) -> int:
    """Search for what each parameter's values are; return how many searches were compared.

    `most`: so many values of each parameter only.
    """
    compared = 0
    of_type: dict[str, list[Resource]] = {}
    for resource in resources:
        of_type.setdefault(resource["resourceType"], []).append(resource)
    for type_, held in sorted(of_type.items()):
        for parameter in search_parameters(type_).values():
            expected: dict[str, set[str]] = {}
            for resource in held:
                for text in texts(resource, parameter):
                    expected.setdefault(text, set()).add(resource["id"])
            for text, ids in list(expected.items())[:most]:
                answer = await found(store, type_, (parameter.code, text))
                if exactly(type_, parameter):
                    assert versionless(answer, parameter, text, held) == ids, (type_, parameter.code, text)
                else:
                    assert ids <= answer, (type_, parameter.code, text)
                compared += 1
    return compared


def versionless(answer: set[str], parameter: SearchParameter, text: str, held: list[Resource]) -> set[str]:
    """Leave out what is found by a canonical or literal that names a version, where the search names none."""
    if parameter.kind != "reference":
        return answer
    named = {
        one["id"]
        for one in held
        for said in texts(one, parameter)
        if re.match(rf"{re.escape(text)}(\\\||/_hist)", said)
    }
    exact = {one["id"] for one in held if text in texts(one, parameter)}
    return answer - (named - exact)


async def test_every_parameter_finds_what_hl7s_examples_hold(store: Store):
    resources = await filled(store, renamed(examples().values()))
    assert await compare(store, resources, most=3) > 1_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_every_parameter_finds_every_value_that_examples_and_patients_hold(store: Store):
    bundles = (entry["resource"] for bundle in synthea_bundles().values() for entry in bundle["entry"])
    resources = await filled(store, renamed([*examples().values(), *bundles]))
    assert await compare(store, resources) > 20_000


def combinations() -> list[tuple[str, tuple[str, ...], str]]:
    """Return US Core's searches: type, parameters, and whether a server SHALL or SHOULD have them."""
    facts = json.loads((shared_data("us-core-facts") / "us-core-7.0.0-facts.json").read_text())
    searches = {
        (group["resource"], tuple(search["names"])): search["expectation"]
        for group in facts["groups"]
        for search in group["searches"]
    }
    return [(type_, names, expected) for (type_, names), expected in sorted(searches.items())]


def value_of(resource: Resource, name: str) -> str | None:
    """Return how US Core's parameter would be searched for to find `resource`; None where it has no such value."""
    if name == "_id":
        return str(resource["id"])
    if name == "_lastUpdated":
        return "gt2020-01-01"
    written = texts(resource, search_parameters(resource["resourceType"])[name])
    return written[0] if written else None


MORE = [
    {
        "resourceType": "CareTeam",
        "status": "active",
        "subject": {"reference": "Patient/example"},
        "participant": [
            {
                "role": [{"coding": [{"system": "http://snomed.info/sct", "code": "17561000"}]}],
                "member": {"reference": "Practitioner/doctor"},
            }
        ],
    },
    {
        "resourceType": "Device",
        "status": "active",
        "type": {"coding": [{"system": "http://snomed.info/sct", "code": "72506001"}]},
        "patient": {"reference": "Patient/example"},
    },
    {
        "resourceType": "CarePlan",
        "status": "active",
        "intent": "plan",
        "category": [{"coding": [{"code": "assess-plan"}]}],
        "subject": {"reference": "Patient/example"},
        "period": {"start": "2026-11-01", "end": "2026-11-30"},
    },
]
"""What the examples lack of US Core's searches."""

ORDERED = {"date", "onset-date", "recorded-date", "authored", "authoredon", "period", "asserted-date", "abatement-date"}
"""Parameters of US Core that shall take gt, ge, lt and le."""


async def test_us_cores_searches_and_their_provenance(store: Store):
    resources = renamed([*examples().values(), *MORE, *patients_of_synthea(3)])
    await filled(store, resources)
    searches = combinations()
    chosen = {(type_, names): example_of(resources, type_, names) for type_, names, _ in searches}
    for number, one in enumerate({(one["resourceType"], one["id"]) for one in chosen.values()}):
        await store.write(ALL, write_of(provenance(f"p{number}", "/".join(one))))
    for type_, names, expected in searches:
        resource = chosen[type_, names]
        pairs = [(name, str(value_of(resource, name))) for name in names]
        page = await store.search(
            ALL,
            parse_search(type_, [*pairs, ("_revinclude", "Provenance:target"), ("_count", "1000")], strict=True),
        )
        assert resource["id"] in {entry.id for entry in page.entries}, (expected, type_, pairs)
        assert any(f"{type_}/{resource['id']}".encode() in one.body for one in page.included), (type_, pairs)
        for name in ORDERED & set(names):
            rest = [pair for pair in pairs if pair[0] != name]
            for text in ("gt1900", "ge1900", "lt3000", "le3000"):
                assert resource["id"] in await found(store, type_, *rest, (name, text)), (type_, name, text)
            for text in ("eb1900", "sa3000"):  # gt and lt meet a period without an end
                assert resource["id"] not in await found(store, type_, *rest, (name, text)), (type_, name, text)
        for name in {"status", "intent"} & set(names):
            either = [(n, f"nonsense,{v}" if n == name else v) for n, v in pairs]
            assert resource["id"] in await found(store, type_, *either), (type_, either)
        if "patient" in names and dict(pairs)["patient"].startswith("Patient/"):  # by its bare id, too
            bare = [(n, v.rpartition("/")[2] if n == "patient" else v) for n, v in pairs]
            assert resource["id"] in await found(store, type_, *bare), (type_, bare)
    assert len(searches) >= 110


def patients_of_synthea(number: int) -> Iterator[Resource]:
    for bundle in list(synthea_bundles().values())[:number]:
        yield from (entry["resource"] for entry in bundle["entry"])


def example_of(resources: list[Resource], type_: str, names: tuple[str, ...]) -> Resource:
    """Return a resource that has a value for each of the parameters."""
    return next(
        one
        for one in resources
        if one["resourceType"] == type_ and all(value_of(one, name) is not None for name in names)
    )


def provenance(id_: str, target: str) -> Resource:
    return {
        "resourceType": "Provenance",
        "id": id_,
        "recorded": "2026-11-22T10:00:00Z",
        "target": [{"reference": target}],
        "agent": [{"who": {"reference": "Practitioner/doctor"}}],
    }


@pytest.mark.parametrize(
    ("include", "resource", "target"),
    [
        (
            "MedicationRequest:medication",
            {"medicationReference": {"reference": "Medication/m"}, "subject": {"reference": "Patient/p"}},
            {"resourceType": "Medication", "id": "m"},
        ),
        (
            "MedicationDispense:medication",
            {"medicationReference": {"reference": "Medication/m"}},
            {"resourceType": "Medication", "id": "m"},
        ),
        (
            "CareTeam:participant:Practitioner",
            {"participant": [{"member": {"reference": "Practitioner/d"}}]},
            {"resourceType": "Practitioner", "id": "d"},
        ),
        (
            "CareTeam:participant:PractitionerRole",
            {"participant": [{"member": {"reference": "PractitionerRole/d"}}]},
            {"resourceType": "PractitionerRole", "id": "d"},
        ),
        (
            "PractitionerRole:practitioner",
            {"practitioner": {"reference": "Practitioner/d"}},
            {"resourceType": "Practitioner", "id": "d"},
        ),
        (
            "PractitionerRole:endpoint",
            {"endpoint": [{"reference": "Endpoint/e"}]},
            {"resourceType": "Endpoint", "id": "e"},
        ),
    ],
)
async def test_us_cores_includes(store: Store, include: str, resource: Resource, target: Resource):
    type_ = include.partition(":")[0]
    await store.write(ALL, write_of({"resourceType": type_, "id": "one", **resource}))
    await store.write(ALL, write_of(target))
    page = await store.search(ALL, parse_search(type_, [("_include", include)], strict=True))
    assert [entry.id for entry in page.included] == [target["id"]]
