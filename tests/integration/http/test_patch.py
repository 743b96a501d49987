"""PATCH on PostgreSQL: three forms, through the door of an update."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from shared.fhir.json import dump, parse

PATIENT = {"resourceType": "Patient", "active": True, "name": [{"family": "Kerr", "given": ["Ann"]}]}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
FHIRPATH_PATCH = {"Content-Type": "application/fhir+json"}
PLAIN_JSON = {"Content-Type": "application/json"}


def replaced(path, **value):
    """Return a FHIRPath Patch that replaces one element."""
    part = [{"name": "type", "valueCode": "replace"}, {"name": "path", "valueString": path}, {"name": "value", **value}]
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": part}]}


def goal_of(patient, text="sleep"):
    subject = {"reference": f"Patient/{patient['id']}"}
    return {"resourceType": "Goal", "lifecycleStatus": "active", "description": {"text": text}, "subject": subject}


@pytest.mark.parametrize(
    ("headers", "patch"),
    [
        (JSON_PATCH, [{"op": "replace", "path": "/active", "value": False}]),
        (MERGE_PATCH, {"active": False}),
        (FHIRPATH_PATCH, replaced("Patient.active", valueBoolean=False)),
        (PLAIN_JSON, replaced("Patient.active", valueBoolean=False)),
        (PLAIN_JSON, {"active": False}),
    ],
)
async def test_a_patch_makes_a_version_like_an_update(fhir, headers, patch):
    patient = await fhir.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    answer = await fhir.http.patch(place, content=dump(patch), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == 'W/"2"'
    assert answer.headers["location"].endswith("/_history/2")
    assert "x-kap-position" in answer.headers
    assert answer.json() == (await fhir.http.get(place)).json()
    assert {**answer.json(), "active": True, "meta": 0} == {**patient, "meta": 0}
    found = (await fhir.http.get("/fhir/Patient?active=false")).json()
    assert [entry["resource"]["id"] for entry in found["entry"]] == [patient["id"]]


async def test_a_patch_changes_no_digit_of_what_it_does_not_touch(fhir):
    body = (
        '{"resourceType":"Observation","status":"final","code":{"text":"weight"},'
        '"valueQuantity":{"value":70.500,"unit":"kg"}}'
    )
    made = (await fhir.http.post("/fhir/Observation", content=body, headers=FHIRPATH_PATCH)).json()
    patch = [{"op": "add", "path": "/note", "value": [{"text": "fasting"}]}]
    answer = await fhir.http.patch(f"/fhir/Observation/{made['id']}", content=dump(patch), headers=JSON_PATCH)
    assert parse(answer.content)["valueQuantity"]["value"].as_tuple() == Decimal("70.500").as_tuple()


async def test_a_patch_of_another_version_than_the_named_one_is_refused(fhir, issues):
    patient = await fhir.create(PATIENT)
    place, patch = f"/fhir/Patient/{patient['id']}", dump({"active": False})
    stale = {**MERGE_PATCH, "If-Match": 'W/"7"'}
    issues(await fhir.http.patch(place, content=patch, headers=stale), 412)
    assert (await fhir.http.get(place)).json() == patient
    current = {**MERGE_PATCH, "If-Match": 'W/"1"'}
    assert (await fhir.http.patch(place, content=patch, headers=current)).status_code == 200


async def test_racing_patches_all_count(fhir):
    patient = await fhir.create({**PATIENT, "name": [{"family": "Kerr", "given": ["Ann"]}]})
    place = f"/fhir/Patient/{patient['id']}"

    async def add(number):
        patch = [{"op": "add", "path": "/name/0/given/-", "value": f"N{number}"}]
        return await fhir.http.patch(place, content=dump(patch), headers=JSON_PATCH)

    answers = await asyncio.gather(*(add(number) for number in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    given = (await fhir.http.get(place)).json()["name"][0]["given"]
    assert sorted(given) == sorted(["Ann", *(f"N{number}" for number in range(20))])


async def test_what_a_guard_refuses_in_an_update_it_refuses_in_a_patch(fhir, issues):
    patient = await fhir.create(PATIENT)
    goal = await fhir.create(goal_of(patient))
    before = await fhir.held()
    place = f"/fhir/Goal/{goal['id']}"
    for headers, patch in (
        (JSON_PATCH, [{"op": "replace", "path": "/description/text", "value": "nothing"}]),
        (MERGE_PATCH, {"description": {"text": "nothing"}}),
        (FHIRPATH_PATCH, replaced("Goal.description.text", valueString="nothing")),
    ):
        (issue,) = issues(await fhir.http.patch(place, content=dump(patch), headers=headers), 422)
        assert issue["details"]["coding"][0]["code"] == "T1"
    assert await fhir.held() == before


async def test_a_patch_to_what_is_not_fhir_is_refused_with_its_place(fhir, issues):
    patient = await fhir.create(PATIENT)
    answer = await fhir.http.patch(
        f"/fhir/Patient/{patient['id']}", content=dump({"gender": "none", "shoe": 1}), headers=MERGE_PATCH
    )
    assert {issue["expression"][0] for issue in issues(answer, 400)} == {"Patient.gender", "Patient.shoe"}


async def test_the_patient_of_a_resource_cannot_be_patched(fhir, issues):
    ann, bob = await fhir.create(PATIENT), await fhir.create(PATIENT)
    goal = await fhir.create(goal_of(ann))
    patch = {"subject": {"reference": f"Patient/{bob['id']}"}}
    issues(await fhir.http.patch(f"/fhir/Goal/{goal['id']}", content=dump(patch), headers=MERGE_PATCH), 422)


async def test_an_intent_is_not_patched_without_the_news_its_caller_has_seen(fhir, issues, monkeypatch):
    monkeypatch.setattr("shared.http.local.AWAIT_SECONDS", 0.05)
    goal = await fhir.create(goal_of(await fhir.create(PATIENT)))
    headers = {**MERGE_PATCH, "X-Kap-Await": "sessions Patient/x 5"}
    patch = dump({"lifecycleStatus": "planned"})
    issues(await fhir.http.patch(f"/fhir/Goal/{goal['id']}", content=patch, headers=headers), 503)


@pytest.mark.parametrize(
    ("patch", "status"),
    [
        ([{"op": "test", "path": "/active", "value": False}], 422),
        ([{"op": "remove", "path": "/birthDate"}], 422),
        ([{"op": "drop", "path": "/active"}], 400),
        ([{"op": "replace", "path": "/id", "value": "x"}], 400),
        ([], 400),
        ({"active": False}, 400),
    ],
)
async def test_a_json_patch_that_fails_or_is_none_changes_nothing(fhir, issues, patch, status):
    patient = await fhir.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    issues(await fhir.http.patch(place, content=dump(patch), headers=JSON_PATCH), status)
    assert (await fhir.http.get(place)).json() == patient


async def test_what_is_not_there_or_gone_cannot_be_patched(fhir, issues):
    patch = dump({"active": False})
    issues(await fhir.http.patch("/fhir/Patient/nobody", content=patch, headers=MERGE_PATCH), 404)
    patient = await fhir.create(PATIENT)
    await fhir.http.delete(f"/fhir/Patient/{patient['id']}")
    issues(await fhir.http.patch(f"/fhir/Patient/{patient['id']}", content=patch, headers=MERGE_PATCH), 410)


async def test_a_patch_answers_as_prefer_asks(fhir):
    patient = await fhir.create(PATIENT)
    place, patch = f"/fhir/Patient/{patient['id']}", dump({"active": False})
    minimal = await fhir.http.patch(place, content=patch, headers={**MERGE_PATCH, "Prefer": "return=minimal"})
    assert minimal.content == b""
    outcome = await fhir.http.patch(place, content=patch, headers={**MERGE_PATCH, "Prefer": "return=OperationOutcome"})
    assert outcome.json()["resourceType"] == "OperationOutcome"
    assert outcome.headers["etag"] == 'W/"3"'
