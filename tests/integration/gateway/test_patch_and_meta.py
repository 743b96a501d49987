"""PATCH and changes of meta through the gateway: done by the owner, and read at once in the copy."""

from __future__ import annotations

import pytest

from shared.fhir.json import dump, parse

PATIENT = {"resourceType": "Patient", "active": True, "name": [{"family": "Kerr"}]}
FORMS = {
    "application/json-patch+json": [{"op": "replace", "path": "/active", "value": False}],
    "application/merge-patch+json": {"active": False},
    "application/fhir+json": {
        "resourceType": "Parameters",
        "parameter": [
            {
                "name": "operation",
                "part": [
                    {"name": "type", "valueCode": "replace"},
                    {"name": "path", "valueString": "Patient.active"},
                    {"name": "value", "valueBoolean": False},
                ],
            }
        ],
    },
}


def visit_of(patient):
    return {
        "resourceType": "Encounter",
        "status": "in-progress",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{patient['id']}"},
        "episodeOfCare": [{"reference": "EpisodeOfCare/e1"}],
    }


@pytest.mark.parametrize("form", FORMS)
async def test_a_patch_is_the_owners_and_is_read_at_once(stack, form):
    patient = await stack.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    answer = await stack.http.patch(place, content=dump(FORMS[form]), headers={"Content-Type": form})
    assert answer.status_code == 200, answer.text
    sent = stack.switch.requests[-1]
    assert (sent.method, sent.url.host, sent.headers["content-type"]) == ("PATCH", "intake", form)
    held = await stack.http.get(place)
    assert held.content == answer.content
    assert held.headers["etag"] == 'W/"2"'
    assert parse(held.content)["active"] is False
    await stack.carry()
    committed, copied = await stack.digests()
    assert committed == copied


async def test_an_owners_refusal_of_a_patch_comes_through(stack):
    patient = await stack.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    for patch, headers, status in (
        ([{"op": "test", "path": "/active", "value": False}], {}, 422),
        ([{"op": "drop", "path": "/active"}], {}, 400),
        ([{"op": "remove", "path": "/active"}], {"If-Match": 'W/"5"'}, 412),
    ):
        answer = await stack.http.patch(
            place, content=dump(patch), headers={"Content-Type": "application/json-patch+json", **headers}
        )
        assert answer.status_code == status, answer.text
        assert answer.json()["resourceType"] == "OperationOutcome"
    assert (await stack.http.get(place)).headers["etag"] == 'W/"1"'
    stack.switch.down.add("intake")
    merge = {"Content-Type": "application/merge-patch+json"}
    assert (await stack.http.patch(place, content=b"{}", headers=merge)).status_code == 503
    assert (await stack.http.patch("/fhir/Observation/nowhere", content=b"{}", headers=merge)).status_code == 404


async def test_a_patch_goes_with_what_was_seen_of_other_owners(stack):
    patient = await stack.create(PATIENT)
    await stack.carry(to="sessions")
    visit = await stack.create(visit_of(patient))
    merge = {"Content-Type": "application/merge-patch+json"}
    answer = await stack.http.patch(f"/fhir/Encounter/{visit['id']}", content=b'{"status":"finished"}', headers=merge)
    assert answer.status_code == 200, answer.text
    sent = stack.switch.requests[-1]
    assert sent.url.host == "sessions"
    assert sent.headers["x-kap-await"].startswith(f"intake Patient/{patient['id']} ")


async def test_a_tag_that_is_added_is_read_at_once(stack):
    patient = await stack.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    meta = {"tag": [{"system": "urn:tag", "code": "seen"}]}
    body = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": meta}]}
    answer = await stack.http.post(f"{place}/$meta-add", content=dump(body))
    assert answer.status_code == 200, answer.text
    read = (await stack.http.get(place)).json()
    assert read["meta"] == answer.json()["parameter"][0]["valueMeta"]
    asked = len(stack.switch.requests)
    assert (await stack.http.get(f"{place}/$meta")).json()["parameter"][0]["valueMeta"] == read["meta"]
    assert len(stack.switch.requests) == asked


async def test_the_gateway_tells_the_history_of_all_owners_and_finds_documents(stack):
    patient = await stack.create(PATIENT)
    await stack.carry(to="sessions")
    visit = await stack.create(visit_of(patient))
    document = await stack.create(
        {
            "resourceType": "DocumentReference",
            "status": "current",
            "subject": {"reference": f"Patient/{patient['id']}"},
            "content": [{"attachment": {"url": "http://example.org/1"}}],
            "context": {"period": {"start": "2026-01-01", "end": "2026-01-31"}},
        }
    )
    everything = (await stack.http.get("/fhir/_history")).json()
    assert [entry["resource"]["id"] for entry in everything["entry"]] == [document["id"], visit["id"], patient["id"]]
    for asked, count in (("", 1), ("&start=2026-01-15", 1), ("&end=2025-12-31", 0), ("&on-demand=true", 0)):
        found = (await stack.http.get(f"/fhir/DocumentReference/$docref?patient={patient['id']}{asked}")).json()
        assert found["total"] == count, asked
