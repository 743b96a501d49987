"""`X-Provenance` through the gateway: kept by the owner of what is written, and to be read at once."""

from __future__ import annotations

import json

from shared.fhir.json import dump

ANN = {"resourceType": "Patient", "active": True}
SAID = {
    "resourceType": "Provenance",
    "recorded": "2026-03-04T05:06:07Z",
    "agent": [{"who": {"display": "Zoë 💊"}}],
}
HEADER = {"X-Provenance": json.dumps(SAID, ensure_ascii=False).encode()}


async def told(stack, query):
    return [one["resource"] for one in (await stack.http.get(f"/fhir/{query}")).json().get("entry", [])]


async def test_it_goes_with_the_write_to_its_owner_and_is_found_at_once(stack):
    made = await stack.http.post("/fhir/Patient", content=dump(ANN), headers=HEADER)
    assert made.status_code == 201, made.text
    place = f"Patient/{made.json()['id']}"
    [provenance] = await told(stack, f"Provenance?target={place}")
    assert made.headers["x-kap-provenance"] == f"Provenance/{provenance['id']}"
    assert (provenance["agent"], provenance["target"]) == (SAID["agent"], [{"reference": f"{place}/_history/1"}])
    changed = await stack.http.put(f"/fhir/{place}", content=dump({**made.json(), "gender": "other"}), headers=HEADER)
    gone = await stack.http.delete(f"/fhir/{place}", headers=HEADER)
    assert (changed.status_code, gone.status_code) == (200, 204)
    assert len(await told(stack, f"Provenance?target={place}")) == 3
    await stack.carry()
    committed, held = await stack.digests()
    assert committed == held


async def test_it_covers_a_transaction(stack):
    entries = [{"request": {"method": "POST", "url": "Patient"}, "resource": ANN} for _ in range(2)]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    answer = await stack.http.post("/fhir", content=dump(bundle), headers=HEADER)
    assert answer.status_code == 200, answer.text
    read = await stack.http.get(f"/fhir/{answer.headers['x-kap-provenance']}")
    made = [one["response"]["location"] for one in answer.json()["entry"]]
    assert [one["reference"] for one in read.json()["target"]] == made


async def test_it_is_refused_with_what_the_gateway_keeps_itself(stack):
    group = {"resourceType": "Group", "type": "person", "actual": True}
    answer = await stack.http.post("/fhir/Group", content=dump(group), headers=HEADER)
    assert answer.status_code == 422, answer.text
    assert "by itself" in answer.json()["issue"][0]["diagnostics"]
    assert await told(stack, "Group") == []


async def test_a_provenance_of_what_the_gateway_keeps_is_intakes(stack):
    made = await stack.create({"resourceType": "Group", "type": "person", "actual": True})
    target = {"target": [{"reference": f"Group/{made['id']}"}]}
    await stack.create({**SAID, **target})
    assert {request.url.host for request in stack.switch.requests} == {"intake"}
    assert len(await told(stack, f"Group?_id={made['id']}&_revinclude=Provenance:target")) == 2
