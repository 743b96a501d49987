"""The FHIR interactions on PostgreSQL, as a client sees them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import httpx
import pytest

from shared.fhir.json import parse
from shared.http.app import create_fhir_app
from shared.http.backend import parse_positions
from shared.http.local import LocalBackend
from tests.integration.http.conftest import SERVICE, make_settings

PATIENT = {"resourceType": "Patient", "active": True, "name": [{"family": "Kerr", "given": ["Ann"]}]}
OBSERVATION = (
    '{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},'
    '"subject":{"reference":"Patient/%s"},"effectiveDateTime":"2026-11-22T10:30:15.120+01:00",'
    '"valueQuantity":{"value":%s,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}}'
)
JSON = {"Content-Type": "application/fhir+json"}


def goal_of(patient, status):
    return {
        "resourceType": "Goal",
        "lifecycleStatus": status,
        "description": {"text": "sleep through the night"},
        "subject": {"reference": f"Patient/{patient['id']}"},
    }


def local(url: str) -> str:
    return url.replace("http://kap.example", "")


async def observation(fhir, patient: str, value="120.50") -> dict:
    answer = await fhir.http.post("/fhir/Observation", content=OBSERVATION % (patient, value), headers=JSON)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_what_was_sent_comes_back_to_the_digit(fhir):
    patient = await fhir.create(PATIENT)
    created = await observation(fhir, patient["id"], "120.500")
    answer = await fhir.http.get(f"/fhir/Observation/{created['id']}")
    read = parse(answer.content)
    assert read["valueQuantity"]["value"].as_tuple() == Decimal("120.500").as_tuple()
    assert read["effectiveDateTime"] == "2026-11-22T10:30:15.120+01:00"
    assert read["meta"]["versionId"] == "1"
    assert answer.headers["etag"] == 'W/"1"'


async def test_the_entries_of_a_bundle_are_the_very_bytes_of_a_read(fhir):
    patient = await fhir.create(PATIENT)
    created = await observation(fhir, patient["id"], "120.500")
    read = (await fhir.http.get(f"/fhir/Observation/{created['id']}")).content
    assert b'"value":120.500' in read
    for query in (
        "Observation",
        "Observation?_sort=-date&_total=accurate",
        "Patient?_revinclude=Observation:patient",
        "Observation/_history",
        f"Observation/{created['id']}/_history",
        "_history",
    ):
        answer = await fhir.http.get(f"/fhir/{query}")
        assert b'"resource":' + read in answer.content, query


async def test_a_create_answers_with_the_place_of_what_it_made(fhir):
    answer = await fhir.http.post("/fhir/Patient", json={**PATIENT, "id": "mine", "meta": {"versionId": "7"}})
    assert answer.status_code == 201
    made = answer.json()
    assert made["id"] != "mine"
    assert made["meta"]["versionId"] == "1"
    assert answer.headers["location"] == f"http://kap.example/fhir/Patient/{made['id']}/_history/1"
    assert (await fhir.http.get(local(answer.headers["location"]))).json() == made
    (position,) = parse_positions(answer.headers["x-kap-position"])
    assert (position.service, position.tenant, position.key) == ("intake", "default", f"Patient/{made['id']}")
    assert position.sequence > 0


async def test_an_update_makes_a_version_and_keeps_the_one_before(fhir):
    patient = await fhir.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    answer = await fhir.http.put(place, json={**patient, "active": False}, headers={"If-Match": 'W/"1"'})
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == 'W/"2"'
    assert (await fhir.http.get(place)).json()["active"] is False
    assert (await fhir.http.get(f"{place}/_history/1")).json() == patient
    history = (await fhir.http.get(f"{place}/_history")).json()
    assert [entry["resource"]["meta"]["versionId"] for entry in history["entry"]] == ["2", "1"]
    assert [entry["request"]["method"] for entry in history["entry"]] == ["PUT", "POST"]


async def test_a_deleted_resource_is_gone_but_its_history_stays(fhir, issues):
    patient = await fhir.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    answer = await fhir.http.delete(place)
    assert answer.status_code == 204
    assert answer.headers["etag"] == 'W/"2"'
    assert "x-kap-position" in answer.headers
    assert issues(await fhir.http.get(place), 410)[0]["code"] == "deleted"
    assert issues(await fhir.http.get(f"{place}/_history/2"), 410)
    history = (await fhir.http.get(f"{place}/_history")).json()
    assert [entry["request"]["method"] for entry in history["entry"]] == ["DELETE", "POST"]
    again = await fhir.http.delete(place)
    assert again.status_code == 204
    assert "x-kap-position" not in again.headers
    back = await fhir.http.put(place, json=patient)
    assert back.status_code in {200, 201}
    assert (await fhir.http.get(place)).json()["meta"]["versionId"] == "3"


async def test_a_search_finds_by_parameters_and_links_its_pages(fhir):
    ann, bob = await fhir.create(PATIENT), await fhir.create(PATIENT)
    values = [f"{100 + number}" for number in range(7)]
    for value in values:
        await observation(fhir, ann["id"], value)
    await observation(fhir, bob["id"])
    found, url = (
        [],
        f"/fhir/Observation?patient=Patient/{ann['id']}&code=http://loinc.org|8480-6&_count=3&_total=accurate",
    )
    pages = 0
    while url:
        bundle = (await fhir.http.get(local(url))).json()
        assert bundle["total"] == 7
        found += [str(entry["resource"]["valueQuantity"]["value"]) for entry in bundle["entry"]]
        url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
        pages += 1
    assert found == values
    assert pages == 3


async def test_a_search_by_post_finds_the_same(fhir):
    patient = await fhir.create(PATIENT)
    await observation(fhir, patient["id"])
    by_get = (await fhir.http.get(f"/fhir/Observation?subject=Patient/{patient['id']}")).json()
    by_post = (await fhir.http.post("/fhir/Observation/_search", data={"subject": f"Patient/{patient['id']}"})).json()
    assert by_post["entry"] == by_get["entry"]
    assert len(by_get["entry"]) == 1


async def test_a_guard_refuses_by_rule_and_nothing_is_stored(fhir, issues):
    patient = await fhir.create(PATIENT)
    before = await fhir.held()
    goal = {
        "resourceType": "Goal",
        "lifecycleStatus": "active",
        "description": {"text": "nothing"},
        "subject": {"reference": f"Patient/{patient['id']}"},
    }
    (issue,) = issues(await fhir.http.post("/fhir/Goal", json=goal), 422)
    assert issue["code"] == "business-rule"
    assert issue["details"]["coding"][0]["code"] == "T1"
    assert await fhir.held() == before


async def test_what_a_guard_writes_is_in_the_same_transaction_and_position(fhir):
    patient = await fhir.create(PATIENT)
    goal = {
        "resourceType": "Goal",
        "lifecycleStatus": "active",
        "description": {"text": "sleep"},
        "subject": {"reference": f"Patient/{patient['id']}"},
    }
    answer = await fhir.http.post("/fhir/Goal", json=goal)
    assert answer.status_code == 201, answer.text
    flags = (await fhir.http.get(f"/fhir/Flag?patient={patient['id']}")).json()["entry"]
    assert len(flags) == 1
    (position,) = parse_positions(answer.headers["x-kap-position"])
    done = await fhir.http.post(f"/fhir/Goal/{answer.json()['id']}/$complete")
    assert done.status_code == 200, done.text
    assert done.json()["lifecycleStatus"] == "completed"
    (later,) = parse_positions(done.headers["x-kap-position"])
    assert later.key == position.key == f"Patient/{patient['id']}"
    assert later.sequence > position.sequence


async def test_an_operation_that_fails_leaves_nothing(fhir, issues):
    (issue,) = issues(await fhir.http.post("/fhir/Patient/$fail"), 500)
    assert issue["code"] == "exception"
    assert await fhir.held() == 0


async def test_the_patient_of_a_resource_cannot_be_changed(fhir, issues):
    ann, bob = await fhir.create(PATIENT), await fhir.create(PATIENT)
    made = await observation(fhir, ann["id"])
    moved = {**made, "subject": {"reference": f"Patient/{bob['id']}"}}
    (issue,) = issues(await fhir.http.put(f"/fhir/Observation/{made['id']}", json=moved), 422)
    assert issue["expression"] == ["Observation.subject"]


async def test_fifty_conditional_creators_at_once_make_one(fhir):
    condition = {"If-None-Exist": "identifier=urn:kap:mrn|7"}
    patient = {**PATIENT, "identifier": [{"system": "urn:kap:mrn", "value": "7"}]}
    answers = await asyncio.gather(
        *(fhir.http.post("/fhir/Patient", json=patient, headers=condition) for _ in range(50))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert await fhir.held() == 1


async def test_a_condition_that_matches_several_is_refused(fhir, issues):
    for _ in range(2):
        await fhir.create(PATIENT)
    answer = await fhir.http.post("/fhir/Patient", json=PATIENT, headers={"If-None-Exist": "family=Kerr"})
    assert issues(answer, 412)[0]["code"] == "multiple-matches"


async def test_fifty_updates_of_the_version_one_saw_let_one_win(fhir):
    patient = await fhir.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    answers = await asyncio.gather(
        *(fhir.http.put(place, json=patient, headers={"If-Match": 'W/"1"'}) for _ in range(50))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 49


async def test_an_intent_is_not_judged_without_the_news_its_caller_has_seen(fhir, issues, monkeypatch):
    monkeypatch.setattr("shared.http.local.AWAIT_SECONDS", 0.05)
    patient = await fhir.create(PATIENT)
    before = await fhir.held()
    headers = {"X-Kap-Await": "sessions Patient/x 5"}
    intent = goal_of(patient, "planned")
    answer = await fhir.http.post("/fhir/Goal", json=intent, headers=headers)
    assert issues(answer, 503)[0]["code"] == "transient"
    assert answer.headers["retry-after"] == "1"
    assert await fhir.held() == before
    of_another = {"X-Kap-Await": "outcomes Patient/x 5"}
    assert (await fhir.http.post("/fhir/Goal", json=intent, headers=of_another)).status_code == 201


async def test_what_happened_is_recorded_whatever_news_is_missing(fhir, monkeypatch):
    monkeypatch.setattr("shared.http.local.AWAIT_SECONDS", 0.05)
    patient = await fhir.create(PATIENT)
    headers = {"X-Kap-Await": "sessions Patient/x 5"}
    fact = goal_of(patient, "completed")
    assert (await fhir.http.post("/fhir/Goal", json=fact, headers=headers)).status_code == 201


async def test_a_write_that_is_judged_on_no_news_does_not_wait_for_any(fhir, monkeypatch):
    async def waited(*_):
        pytest.fail("it waited for news")

    monkeypatch.setattr("shared.store.inbox.Inbox.await_position", waited)
    headers = {"X-Kap-Await": "sessions Patient/x 5"}
    assert (await fhir.http.post("/fhir/Patient", json=PATIENT, headers=headers)).status_code == 201


async def test_metadata_is_a_valid_capability_statement_and_says_what_is_offered(fhir):
    from shared.fhir.validation import validate

    statement = parse((await fhir.http.get("/fhir/metadata")).content)
    assert [issue for issue in validate(statement) if issue.severity in {"error", "fatal"}] == []
    assert statement["fhirVersion"] == "4.0.1"
    by_type = {resource["type"]: resource for resource in statement["rest"][0]["resource"]}
    assert set(by_type) >= {"Patient", "Observation", "Goal", "Flag", "Organization"}
    assert "Encounter" not in by_type
    assert by_type["Goal"]["operation"][0]["name"] == "complete"
    for type_ in ("Patient", "Observation", "Goal", "Flag", "Organization"):
        resource = by_type[type_]
        for parameter in (one for one in resource["searchParam"] if one["type"] != "composite"):
            answer = await fhir.http.get(f"/fhir/{type_}", params={f"{parameter['name']}:missing": "true"})
            assert answer.status_code == 200 or parameter["name"].startswith("_"), parameter


async def test_a_reference_under_our_own_base_is_the_same_as_a_relative_one(fhir):
    patient = await fhir.create({"resourceType": "Patient"})
    about = f"http://kap.example/fhir/Patient/{patient['id']}"
    made = await fhir.create(
        {
            "resourceType": "Observation",
            "status": "final",
            "code": {"text": "x"},
            "subject": {"reference": about},
            "performer": [{"reference": "http://elsewhere.example/fhir/Practitioner/1"}],
        }
    )
    assert made["subject"] == {"reference": f"Patient/{patient['id']}"}
    assert made["performer"] == [{"reference": "http://elsewhere.example/fhir/Practitioner/1"}]
    for asked in (about, f"Patient/{patient['id']}", patient["id"]):
        found = (await fhir.http.get("/fhir/Observation", params={"patient": asked})).json()
        assert [entry["resource"]["id"] for entry in found["entry"]] == [made["id"]]


@pytest.fixture
async def open_to_ids(store):
    service = replace(SERVICE, fixed_ids=True)
    app = create_fhir_app(service, LocalBackend(service, store), make_settings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kap.example") as http:
        yield http


async def test_a_client_chooses_an_id_where_the_setting_lets_it(open_to_ids, fhir, issues):
    chosen = {"resourceType": "Patient", "id": "from-the-old-system.17", "active": True}
    issues(await fhir.http.put("/fhir/Patient/from-the-old-system.17", json=chosen), 404)
    made = await open_to_ids.put("/fhir/Patient/from-the-old-system.17", json=chosen)
    assert made.status_code == 201, made.text
    assert made.headers["location"].endswith("/Patient/from-the-old-system.17/_history/1")
    again = await open_to_ids.put("/fhir/Patient/from-the-old-system.17", json={**chosen, "active": False})
    assert (again.status_code, again.json()["meta"]["versionId"]) == (200, "2")
    by_condition = {"resourceType": "Patient", "id": "by-condition", "identifier": [{"system": "urn:c", "value": "9"}]}
    made = await open_to_ids.put("/fhir/Patient?identifier=urn:c|9", json=by_condition)
    assert (made.status_code, made.json()["id"]) == (201, "by-condition")
    for http, offered in ((open_to_ids, True), (fhir.http, False)):
        rest = (await http.get("/fhir/metadata")).json()["rest"][0]
        assert {one["updateCreate"] for one in rest["resource"] if one["type"] == "Patient"} == {offered}
