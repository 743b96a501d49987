"""Codes named by a value set or a hierarchy, uris by what they begin with, identifiers by their type."""

from __future__ import annotations

import pytest

from shared.fhir.outcome import BadRequest
from shared.fhir.query import parse_search
from shared.store.access import Access
from shared.store.store import Store
from shared.testing.writes import write_of

ALL = Access.unrestricted()
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
GENDER = "http://hl7.org/fhir/ValueSet/administrative-gender"
STATUS = "http://hl7.org/fhir/ValueSet/condition-clinical"
TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"


def condition(id_: str, code: str, system: str = CLINICAL) -> dict:
    return {
        "resourceType": "Condition",
        "id": id_,
        "clinicalStatus": {"coding": [{"system": system, "code": code}]},
        "subject": {"reference": "Patient/ada", "identifier": {"system": "urn:mrn", "value": "12"}},
    }


RECORD = [
    condition("active", "active"),
    condition("relapse", "relapse"),
    condition("resolved", "resolved"),
    condition("local", "active", "urn:local"),
    {"resourceType": "Condition", "id": "unsaid", "subject": {"reference": "Patient/ada"}},
    {
        "resourceType": "Patient",
        "id": "ada",
        "gender": "female",
        "identifier": [
            {
                "type": {"coding": [{"system": TYPES, "code": "MR"}], "text": "Record"},
                "system": "urn:a",
                "value": "1|2",
            },
            {"type": {"coding": [{"system": TYPES, "code": "SS"}]}, "system": "urn:b", "value": "3"},
        ],
    },
    {"resourceType": "Patient", "id": "bob", "gender": "nonsense"},
    {"resourceType": "Questionnaire", "id": "phq", "url": "http://clinic.example/q/phq-9", "status": "active"},
    {"resourceType": "Questionnaire", "id": "gad", "url": "http://clinic.example/q/gad-7", "status": "active"},
    {"resourceType": "Questionnaire", "id": "other", "url": "http://other.example/q", "status": "active"},
]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        (f"Condition?clinical-status:in={STATUS}", ["active", "relapse", "resolved"]),
        (f"Condition?clinical-status:not-in={STATUS}", ["local", "unsaid"]),
        (f"Condition?clinical-status:below={CLINICAL}|active", ["active", "relapse"]),
        (f"Condition?clinical-status:below={CLINICAL}|resolved", ["resolved"]),
        (f"Condition?clinical-status:above={CLINICAL}|relapse", ["active", "relapse"]),
        (f"Condition?clinical-status:below={CLINICAL}|nonsense", []),
        (f"Patient?gender:in={GENDER}", ["ada"]),
        (f"Condition?patient.gender:in={GENDER}", ["active", "relapse", "resolved", "local", "unsaid"]),
        (f"Patient?_has:Condition:patient:clinical-status:in={STATUS}", ["ada"]),
        ("Condition?subject:identifier=urn:mrn|12", ["active", "relapse", "resolved", "local"]),
        ("Condition?subject:identifier=urn:other|12", []),
        (rf"Patient?identifier:of-type={TYPES}|MR|1\|2", ["ada"]),
        (rf"Patient?identifier:of-type={TYPES}|SS|1\|2", []),
        ("Patient?identifier:text=record", ["ada"]),
        ("Questionnaire?url:below=http://clinic.example/", ["phq", "gad"]),
        ("Questionnaire?url:below=http://clinic.example/q/phq", ["phq"]),
        ("Questionnaire?url:above=http://other.example/q/1/2", ["other"]),
        ("Questionnaire?url:above=http://other.example/", []),
    ],
)
async def test_a_search_by_meaning_finds(store: Store, query: str, ids: list[str]):
    for resource in RECORD:
        await store.write(ALL, write_of(resource))
    type_, _, rest = query.partition("?")
    page = await store.search(ALL, parse_search(type_, [tuple(rest.split("=", 1))], strict=True))
    assert [entry.id for entry in page.entries] == ids


@pytest.mark.parametrize(
    "pair",
    [
        ("clinical-status:in", "http://nowhere.example/set"),
        ("clinical-status:below", "active"),
        ("clinical-status:above", f"{CLINICAL}|"),
        ("patient.gender:in", "http://nowhere.example/set"),
    ],
)
async def test_what_is_not_known_is_refused_and_not_taken_for_nothing(store: Store, pair):
    with pytest.raises(BadRequest):
        await store.search(ALL, parse_search("Condition", [pair], strict=True))
