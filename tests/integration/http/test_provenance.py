"""`X-Provenance`: what a caller says of who made a resource is kept with it, or neither is."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest

from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from tests.integration.http.conftest import SERVICE, make_settings

ANN = {"resourceType": "Patient", "active": True}
TYPES = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
SAID = {
    "resourceType": "Provenance",
    "recorded": "2026-03-04T05:06:07.8900+05:30",
    "agent": [
        {
            "type": {"coding": [{"system": TYPES, "code": "author"}]},
            "who": {"display": "Zoë Ångström 💊"},
            "onBehalfOf": {"reference": "Organization/1"},
        }
    ],
}


def header(said=SAID):
    return {"X-Provenance": json.dumps(said)}


@pytest.fixture
def kept(fhir):
    """Return the Provenance that an answer names, as it is held, without what the server adds."""

    async def of(answer):
        read = await fhir.http.get(f"/fhir/{answer.headers['x-kap-provenance']}")
        assert read.status_code == 200, read.text
        return {name: value for name, value in read.json().items() if name not in ("id", "meta")}

    return of


async def test_a_create_keeps_who_made_it_and_names_the_version(fhir, kept):
    made = await fhir.http.post("/fhir/Patient", json=ANN, headers=header())
    assert made.status_code == 201, made.text
    place = f"Patient/{made.json()['id']}"
    assert await kept(made) == {**SAID, "target": [{"reference": f"{place}/_history/1"}]}
    found = (await fhir.http.get(f"/fhir/Patient?_id={made.json()['id']}&_revinclude=Provenance:target")).json()
    assert [one["search"]["mode"] for one in found["entry"]] == ["match", "include"]
    about = (await fhir.http.get("/fhir/Provenance", params={"target": place})).json()
    assert len(about["entry"]) == 1


async def test_each_later_change_has_its_own(fhir, kept):
    ann = await fhir.create(ANN)
    place = f"/fhir/Patient/{ann['id']}"
    updated = await fhir.http.put(place, json={**ann, "gender": "other"}, headers={**header(), "If-Match": 'W/"1"'})
    patched = await fhir.http.patch(
        place,
        json=[{"op": "remove", "path": "/gender"}],
        headers={**header(), "Content-Type": "application/json-patch+json"},
    )
    deleted = await fhir.http.delete(place, headers=header())
    assert [one.status_code for one in (updated, patched, deleted)] == [200, 200, 204]
    for version, answer in ((2, updated), (3, patched), (4, deleted)):
        assert (await kept(answer))["target"] == [{"reference": f"Patient/{ann['id']}/_history/{version}"}]
    again = await fhir.http.delete(place, headers=header())
    assert again.status_code == 204
    assert "x-kap-provenance" not in again.headers


async def test_what_a_rule_makes_of_a_write_is_not_said_to_be_the_callers(fhir, kept):
    ann = await fhir.create(ANN)
    goal = {
        "resourceType": "Goal",
        "lifecycleStatus": "active",
        "description": {"text": "sleep"},
        "subject": {"reference": f"Patient/{ann['id']}"},
    }
    made = await fhir.http.post("/fhir/Goal", json=goal, headers=header())
    assert made.status_code == 201, made.text
    assert (await fhir.http.get("/fhir/Flag?_summary=count")).json()["total"] == 1
    assert [one["reference"].split("/")[0] for one in (await kept(made))["target"]] == ["Goal"]


async def test_a_conditional_create_that_finds_its_resource_made_nothing(fhir, kept):
    ann = {**ANN, "identifier": [{"system": "urn:c", "value": "1"}]}
    condition = {"If-None-Exist": "identifier=urn:c|1"}
    first = await fhir.http.post("/fhir/Patient", json=ann, headers=header() | condition)
    second = await fhir.http.post("/fhir/Patient", json=ann, headers=header() | condition)
    assert (first.status_code, second.status_code) == (201, 200)
    assert (await kept(first))["target"] == [{"reference": f"Patient/{first.json()['id']}/_history/1"}]
    assert "x-kap-provenance" not in second.headers
    updated = await fhir.http.put("/fhir/Patient?identifier=urn:c|1", json=ann, headers=header())
    assert (await kept(updated))["target"] == [{"reference": f"Patient/{first.json()['id']}/_history/2"}]


async def test_one_provenance_covers_a_transaction_and_each_entry_of_a_batch_has_its_own(fhir, kept):
    entries = [{"request": {"method": "POST", "url": "Patient"}, "resource": ANN} for _ in range(3)]
    for kind, count in (("transaction", 1), ("batch", 3)):
        before = (await fhir.http.get("/fhir/Provenance?_summary=count")).json()["total"]
        bundle = {"resourceType": "Bundle", "type": kind, "entry": entries}
        answer = await fhir.http.post("/fhir", json=bundle, headers=header())
        assert answer.status_code == 200, answer.text
        made = [one["response"]["location"] for one in answer.json()["entry"]]
        assert len(made) == 3
        if kind == "transaction":
            assert (await kept(answer))["target"] == [{"reference": one} for one in made]
        assert (await fhir.http.get("/fhir/Provenance?_summary=count")).json()["total"] == before + count


async def test_an_operation_that_writes_keeps_it(fhir, kept):
    ann = await fhir.create(ANN)
    label = {"name": "meta", "valueMeta": {"tag": [{"system": "urn:t", "code": "x"}]}}
    body = {"resourceType": "Parameters", "parameter": [label]}
    done = await fhir.http.post(f"/fhir/Patient/{ann['id']}/$meta-add", json=body, headers=header())
    assert done.status_code == 200, done.text
    assert (await kept(done))["target"] == [{"reference": f"Patient/{ann['id']}/_history/2"}]


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "[]",
        '{"resourceType":"Patient"}',
        json.dumps({**SAID, "target": [{"reference": "Patient/1"}]}),
        json.dumps({**SAID, "id": "mine"}),
        json.dumps({"resourceType": "Provenance", "recorded": "2026-03-04T05:06:07Z"}),
        json.dumps({**SAID, "recorded": "yesterday"}),
        json.dumps({**SAID, "colour": "red"}),
    ],
)
async def test_one_that_is_not_right_refuses_the_write(fhir, issues, said):
    found = issues(await fhir.http.post("/fhir/Patient", json=ANN, headers={"X-Provenance": said}), 400)
    assert all("http.x-provenance" in issue["expression"] for issue in found)
    assert await fhir.held() == 0


async def test_a_write_that_is_refused_leaves_no_provenance(fhir, issues):
    issues(await fhir.http.post("/fhir/Patient", json={**ANN, "gender": "nope"}, headers=header()), 400)
    issues(await fhir.http.delete("/fhir/Patient/nobody", headers=header()), 404)
    assert await fhir.held() == 0


async def test_a_service_that_keeps_no_provenance_says_so(store, issues):
    service = replace(SERVICE, types=SERVICE.types - {"Provenance"})
    app = create_fhir_app(service, LocalBackend(service, store), make_settings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kap.example") as http:
        issues(await http.post("/fhir/Patient", json=ANN, headers=header()), 400)
        assert (await http.get("/fhir/Patient", headers=header())).status_code == 200
