"""Searches that lead from one resource to others: chains, `_has`, `_list`, includes; and none that may not be seen."""

from __future__ import annotations

import pytest

from shared.fhir.query import parse_search
from shared.store import includes
from shared.store.access import Access
from shared.store.store import Store
from shared.testing.writes import write_of

ALL = Access.unrestricted()
SECRET = {"meta": {"security": [{"code": "ETH"}]}}
UNLABELLED = Access("default", None, None, frozenset({"ETH"}), None)
ONLY_ADA = Access("default", None, frozenset({"ada"}), frozenset(), None)

CLINIC = {"resourceType": "Organization", "id": "clinic", "name": "Klinik Süd"}
HOUSE = {"resourceType": "Organization", "id": "house", "name": "House", "partOf": {"reference": "Organization/clinic"}}
DOCTOR = {"resourceType": "Practitioner", "id": "doc", "name": [{"family": "Okafor"}]}
RECORD = [
    CLINIC,
    HOUSE,
    DOCTOR,
    {
        "resourceType": "Patient",
        "id": "ada",
        "name": [{"family": "Lovelace"}],
        "managingOrganization": {"reference": "Organization/house"},
        "generalPractitioner": [{"reference": "Practitioner/doc"}],
    },
    {"resourceType": "Patient", "id": "bob", "name": [{"family": "Babbage"}]},
    {"resourceType": "Group", "id": "herd", "type": "person", "actual": True},
    {"resourceType": "Encounter", "id": "visit", "status": "finished", "subject": {"reference": "Patient/ada"}},
    {
        "resourceType": "Observation",
        "id": "weight",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7", "display": "Body weight"}]},
        "subject": {"reference": "Patient/ada"},
        "encounter": {"reference": "Encounter/visit"},
        "performer": [{"reference": "Practitioner/doc"}],
    },
    {
        "resourceType": "Observation",
        "id": "score",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "44261-6"}], "text": "PHQ-9 total"},
        "subject": {"reference": "Patient/bob"},
        "hasMember": [{"reference": "Observation/weight"}],
        "derivedFrom": [{"reference": "QuestionnaireResponse/answers"}],
        **SECRET,
    },
    {"resourceType": "Questionnaire", "id": "phq9", "url": "http://q/phq-9", "title": "PHQ-9", "status": "active"},
    {
        "resourceType": "QuestionnaireResponse",
        "id": "answers",
        "status": "completed",
        "questionnaire": "http://q/phq-9|1.0",
        "subject": {"reference": "Patient/bob"},
    },
    {
        "resourceType": "Provenance",
        "id": "origin",
        "recorded": "2026-11-22T10:00:00Z",
        "target": [{"reference": "Observation/weight"}],
        "agent": [{"who": {"reference": "Practitioner/doc"}}],
    },
    {
        "resourceType": "List",
        "id": "todo",
        "status": "current",
        "mode": "working",
        "entry": [{"item": {"reference": "Observation/weight"}}],
    },
]


@pytest.fixture
async def held(store: Store) -> Store:
    for resource in RECORD:
        await store.write(ALL, write_of(resource))
    return store


async def searched(store: Store, query: str, access: Access = ALL) -> tuple[list[str], list[str]]:
    type_, _, rest = query.partition("?")
    pairs = [tuple(one.split("=", 1)) for one in rest.split("&")]
    page = await store.search(access, parse_search(type_ or None, pairs, strict=True))
    return [entry.id for entry in page.entries], sorted(entry.id for entry in page.included)


async def found(store: Store, query: str, access: Access = ALL) -> list[str]:
    return (await searched(store, query, access))[0]


CHAINS = [
    ("Observation?subject:Patient.name=lovelace", ["weight"]),
    ("Observation?patient.name=babbage", ["score"]),
    ("Observation?subject.name=lovelace", ["weight"]),
    ("Observation?patient.organization.name=house", ["weight"]),
    ("Observation?patient.organization.partof.name=klinik sud", ["weight"]),
    ("Observation?patient.organization.partof.name=house", []),
    ("Observation?patient._id=bob,nobody", ["score"]),
    ("Observation?performer:Practitioner.family=okafor&patient.name=lovelace", ["weight"]),
    ("Observation?has-member.code=29463-7", ["score"]),
    ("Observation?subject:Patient.name:missing=false", ["weight", "score"]),
    ("QuestionnaireResponse?questionnaire.title=phq", ["answers"]),
    ("QuestionnaireResponse?questionnaire.title=gad", []),
    ("Patient?_has:Observation:patient:code=29463-7", ["ada"]),
    ("Patient?_has:Observation:patient:code=http://loinc.org|29463-7,44261-6", ["ada", "bob"]),
    ("Patient?_has:Observation:patient:_has:Provenance:target:agent=Practitioner/doc", ["ada"]),
    ("Patient?_has:Observation:patient:_id=score", ["bob"]),
    ("Patient?_has:Observation:patient:performer.name=okafor", ["ada"]),
    ("Patient?_has:Observation:patient:status:not=final", []),
    ("Patient?_has:Observation:patient:code:not=29463-7", ["bob"]),
    ("Patient?_has:Observation:patient:performer:missing=true", ["bob"]),
    ("Observation?patient.name:missing=true", []),
    ("Observation?patient.organization:missing=true", ["score"]),
    ("Observation?encounter.status:not=planned", ["weight"]),
    ("Encounter?_has:Observation:encounter:status=final", ["visit"]),
    ("Practitioner?_has:Patient:general-practitioner:name=lovelace", ["doc"]),
    ("Observation?_list=todo", ["weight"]),
    ("Observation?_list=nothing", []),
    ("Observation?code:text=weight", ["weight"]),
    ("Observation?code:text=total", ["score"]),
    ("?_type=Observation,Encounter&patient=ada", ["visit", "weight"]),
    ("?_type=Patient,Practitioner&name=okafor", ["doc"]),
    ("?_type=Patient,Practitioner&_sort=-family", ["doc", "ada", "bob"]),
    ("?_type=Patient,Observation&_has:Provenance:target:agent.family=okafor", ["weight"]),
]


@pytest.mark.parametrize(("query", "ids"), CHAINS)
async def test_a_search_leads_to_other_resources(held: Store, query: str, ids: list[str]):
    assert await found(held, query) == ids


async def test_a_search_leads_nowhere_by_way_of_what_may_not_be_seen(held: Store):
    """Of Bob there is one observation, which is labelled, and one that belongs to another patient."""
    assert await found(held, "Patient?_has:Observation:patient:code=44261-6") == ["bob"]
    assert await found(held, "Patient?_has:Observation:patient:code=44261-6", UNLABELLED) == []
    assert await found(held, "Patient?_has:Observation:patient:status=final", UNLABELLED) == ["ada"]
    assert await found(held, "Observation?_has:Observation:has-member:status=final", UNLABELLED) == []
    assert await found(held, "Observation?_has:Observation:has-member:status=final") == ["weight"]
    assert await found(held, "Observation?patient.name=babbage", ONLY_ADA) == []
    assert await found(held, "Observation?patient.name=lovelace", ONLY_ADA) == ["weight"]
    assert await found(held, "Observation?has-member.patient.name=lovelace", ONLY_ADA) == []


INCLUDES = [
    ("Observation?code=29463-7&_include=Observation:subject", ["ada"]),
    ("Observation?code=29463-7&_include=Observation:patient&_include=Observation:subject", ["ada"]),
    ("Observation?code=29463-7&_include=Observation:subject:Group", []),
    ("Observation?code=29463-7&_include=Observation:*", ["ada", "doc", "visit"]),
    ("Observation?code=29463-7&_include=*", ["ada", "doc", "visit"]),
    ("Observation?code=29463-7&_revinclude=Provenance:target", ["origin"]),
    ("Observation?code=29463-7&_revinclude=*", ["origin", "score", "todo"]),
    ("Observation?_revinclude=Provenance:target&_include=Observation:performer", ["doc", "origin"]),
    ("Observation?_include=Observation:has-member", []),  # is a match itself
    ("Observation?code=44261-6&_include=Observation:has-member", ["weight"]),
    ("Observation?code=44261-6&_include=Observation:derived-from", ["answers"]),
    (
        (
            "Observation?code=44261-6&_include=Observation:derived-from"
            "&_include:iterate=QuestionnaireResponse:questionnaire"
        ),
        ["answers", "phq9"],
    ),
    ("Questionnaire?_revinclude=QuestionnaireResponse:questionnaire", ["answers"]),
    (
        (
            "Observation?code=29463-7&_include=Observation:patient&_include:iterate=Patient:organization"
            "&_include:iterate=Organization:partof"
        ),
        ["ada", "clinic", "house"],
    ),
    (
        "Patient?_id=ada&_revinclude=Observation:patient&_revinclude:iterate=Provenance:target",
        ["origin", "weight"],
    ),
    ("?_type=Patient,Encounter&_id=ada,visit&_revinclude=Observation:encounter", ["weight"]),
]


@pytest.mark.parametrize(("query", "ids"), INCLUDES)
async def test_what_is_asked_for_comes_along_once(held: Store, query: str, ids: list[str]):
    assert (await searched(held, query))[1] == ids


async def test_who_is_named_otherwise_is_not_the_subject(held: Store):
    """An observation by a patient, of nobody, is in his compartment; but he is not its subject."""
    by_ada = {**RECORD[7], "id": "own", "performer": [{"reference": "Patient/ada"}]}
    del by_ada["subject"]
    await held.write(ALL, write_of(by_ada))
    await held.write(ALL, write_of({**RECORD[6], "id": "of-herd", "subject": {"reference": "Group/herd"}}))
    assert await found(held, "Observation?performer=Patient/ada") == ["own"]
    assert await found(held, "Observation?patient.name=lovelace") == ["weight"]
    assert await found(held, "Observation?subject:Patient.name=lovelace") == ["weight"]
    assert await found(held, "Patient?_has:Observation:patient:performer=Patient/ada") == []
    assert await found(held, "Patient?_has:Observation:patient:performer.name=okafor") == ["ada"]
    assert await found(held, "Patient?_has:Observation:performer:code=29463-7") == ["ada"]
    assert await found(held, "Encounter?subject:Group.type=person") == ["of-herd"]


async def test_what_may_not_be_seen_does_not_come_along(held: Store):
    everything = "Observation?code=29463-7&_revinclude=*&_include=*"
    assert (await searched(held, everything))[1] == ["ada", "doc", "origin", "score", "todo", "visit"]
    assert (await searched(held, everything, UNLABELLED))[1] == ["ada", "doc", "origin", "todo", "visit"]
    assert (await searched(held, everything, ONLY_ADA))[1] == ["ada", "visit"]
    assert (await searched(held, everything, Access.unrestricted("elsewhere"))) == ([], [])
    deleted = write_of(RECORD[3], "delete")
    await held.write(ALL, deleted)
    assert (await searched(held, everything))[1] == ["doc", "origin", "score", "todo", "visit"]


async def test_a_circle_ends_and_the_bound_is_said(held: Store, monkeypatch: pytest.MonkeyPatch):
    circle = {"resourceType": "Organization", "id": "clinic", "partOf": {"reference": "Organization/house"}}
    await held.write(ALL, write_of(circle, "update"))
    query = parse_search("Organization", [("_id", "house"), ("_include:iterate", "Organization:partof")], strict=True)
    page = await held.search(ALL, query)
    assert ([entry.id for entry in page.included], page.partial) == (["clinic"], False)
    monkeypatch.setattr(includes, "MOST", 2)
    query = parse_search("Observation", [("_revinclude", "*"), ("_include", "*")], strict=True)
    page = await held.search(ALL, query)
    assert (len(page.included), page.partial) == (2, True)


async def test_each_page_brings_along_its_own(held: Store):
    query = parse_search("Observation", [("_include", "Observation:subject"), ("_count", "1")], strict=True)
    first = await held.search(ALL, query)
    second = await held.search(ALL, query, cursor=first.next)
    assert [[entry.id for entry in page.included] for page in (first, second)] == [["ada"], ["bob"]]
