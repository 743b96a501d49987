"""Changes of what a search finds: one, none, several, and fifty at once."""

from __future__ import annotations

import asyncio

PATIENT = {"resourceType": "Patient", "active": True, "identifier": [{"system": "urn:mrn", "value": "7"}]}
BY_MRN = "/fhir/Patient?identifier=urn:mrn|7"


async def count(fhir, query="Patient"):
    return (await fhir.http.get(f"/fhir/{query}", params={"_summary": "count"})).json()["total"]


async def test_an_update_creates_what_is_not_found_and_then_updates_it(fhir):
    first = await fhir.http.put(BY_MRN, json=PATIENT)
    assert first.status_code == 201, first.text
    second = await fhir.http.put(BY_MRN, json={**PATIENT, "active": False})
    assert second.status_code == 200, second.text
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["etag"] == 'W/"2"'
    assert second.headers["location"].endswith(f"/Patient/{first.json()['id']}/_history/2")
    assert (await fhir.http.get(f"/fhir/Patient/{first.json()['id']}")).json()["active"] is False
    assert await count(fhir) == 1


async def test_an_update_that_finds_several_is_refused(fhir, issues):
    for _ in range(2):
        await fhir.create(PATIENT)
    before = await fhir.held()
    assert issues(await fhir.http.put(BY_MRN, json=PATIENT), 412)[0]["code"] == "multiple-matches"
    assert issues(await fhir.http.delete(BY_MRN), 412)[0]["code"] == "multiple-matches"
    assert await fhir.held() == before


async def test_the_id_of_an_update_is_the_found_ones_or_left_out(fhir, issues):
    assert issues(await fhir.http.put(BY_MRN, json={**PATIENT, "id": "mine"}), 404)
    made = await fhir.create(PATIENT)
    assert (await fhir.http.put(BY_MRN, json={**PATIENT, "id": made["id"]})).status_code == 200
    (issue,) = issues(await fhir.http.put(BY_MRN, json={**PATIENT, "id": "other"}), 400)
    assert issue["expression"] == ["Patient.id"]


async def test_an_update_of_a_version_is_one_of_that_version_only(fhir, issues):
    assert issues(await fhir.http.put(BY_MRN, json=PATIENT, headers={"If-Match": 'W/"1"'}), 412)
    assert await fhir.held() == 0
    await fhir.create(PATIENT)
    assert (await fhir.http.put(BY_MRN, json=PATIENT, headers={"If-Match": 'W/"1"'})).status_code == 200
    assert issues(await fhir.http.put(BY_MRN, json=PATIENT, headers={"If-Match": 'W/"1"'}), 412)
    assert await fhir.held() == 2


async def test_a_delete_removes_the_one_that_is_found_and_nothing_else(fhir):
    kept = await fhir.create({**PATIENT, "identifier": [{"system": "urn:mrn", "value": "8"}]})
    made = await fhir.create(PATIENT)
    gone = await fhir.http.delete(BY_MRN)
    assert gone.status_code == 204, gone.text
    assert gone.headers["location"].endswith(f"/Patient/{made['id']}/_history/2")
    assert (await fhir.http.get(f"/fhir/Patient/{made['id']}")).status_code == 410
    assert (await fhir.http.get(f"/fhir/Patient/{kept['id']}")).status_code == 200
    again = await fhir.http.delete(BY_MRN)
    assert again.status_code == 204
    assert "location" not in again.headers


async def test_a_condition_that_means_everything_or_looks_beyond_the_resource_is_refused(fhir, issues):
    await fhir.create(PATIENT)
    for query in (
        "",
        "_sort=family",
        "organization.name=x",
        "_has:Observation:patient:code=x",
        "nonsense=1",
        "_count=1",
    ):
        assert issues(await fhir.http.delete(f"/fhir/Patient?{query}"), 400), query
        assert issues(await fhir.http.put(f"/fhir/Patient?{query}", json=PATIENT), 400), query
        assert issues(await fhir.http.post("/fhir/Patient", json=PATIENT, headers={"If-None-Exist": query}), 400), query
    assert await fhir.held() == 1


async def test_fifty_updates_at_once_of_what_is_not_there_make_one(fhir):
    answers = await asyncio.gather(*(fhir.http.put(BY_MRN, json=PATIENT) for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await count(fhir) == 1
    assert await fhir.held() == 50


async def test_creates_updates_and_deletes_by_one_condition_at_once_leave_one_or_none(fhir):
    async def one(number):
        match number % 3:
            case 0:
                return await fhir.http.put(BY_MRN, json=PATIENT)
            case 1:
                return await fhir.http.post(
                    "/fhir/Patient", json=PATIENT, headers={"If-None-Exist": "identifier=urn:mrn|7"}
                )
            case _:
                return await fhir.http.delete(BY_MRN)

    answers = await asyncio.gather(*(one(number) for number in range(45)))
    assert {answer.status_code for answer in answers} <= {200, 201, 204}
    assert await count(fhir) <= 1


async def test_in_each_round_of_fifty_updates_one_gets_through(fhir):
    patient = await fhir.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    for version in range(1, 4):
        answers = await asyncio.gather(
            *(fhir.http.put(place, json=patient, headers={"If-Match": f'W/"{version}"'}) for _ in range(50))
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 49
    assert (await fhir.http.get(place)).headers["etag"] == 'W/"4"'
