"""Batches on PostgreSQL: each entry for itself; and Bundles that are neither batch nor transaction."""

from __future__ import annotations

from tests.integration.http.bundles import ANN, PATIENT, bundle, entry, goal, observation, sent, statuses


async def test_each_entry_of_a_batch_stands_alone(fhir):
    there = await fhir.create(PATIENT)
    made = await sent(
        fhir,
        entry("GET", f"Patient/{there['id']}"),
        entry("POST", "Patient", {**PATIENT, "gender": "?"}),
        entry("POST", "Goal", goal(f"Patient/{there['id']}", "nothing")),
        entry("POST", "Patient", PATIENT, ifNoneExist="identifier=urn:mrn|7"),
        entry("PUT", f"Patient/{there['id']}", {**there, "active": False}, ifMatch='W/"1"'),
        entry("GET", f"Patient/{there['id']}", ifNoneMatch='W/"2"'),
        entry("GET", "Patient?identifier=urn:mrn|7&_summary=count"),
        entry("DELETE", "Patient?identifier=urn:mrn|unknown"),
        entry("GET", "Patient/unknown"),
        "text",
        entry("JUMP", "Patient"),
        entry("POST", "Patient", {"resourceType": "Patient", "active": True}, ANN),
        entry("POST", "Observation", observation(ANN)),
        entry("POST", "Goal/unknown/$complete", {"resourceType": "Parameters"}),
        entry("POST", "", bundle(kind="batch")),
        entry("POST", "Observation", {"resourceType": "Observation", "_status": {"extension": 5}, "subject": [7]}),
        kind="batch",
    )
    assert statuses(made) == [
        *("200", "400", "422", "200", "200", "304", "200", "204", "404", "400", "400", "201", "400", "404", "400"),
        "400",
    ]
    assert made[0]["resource"]["active"] is False
    assert made[3]["resource"]["id"] == there["id"]
    assert made[3]["response"]["location"].startswith(f"Patient/{there['id']}/_history/")
    assert made[6]["resource"]["total"] == 1
    outcome = made[1]["response"]["outcome"]
    assert [issue["expression"] for issue in outcome["issue"]] == [["Bundle.entry[1].resource.gender"]]
    assert made[2]["response"]["outcome"]["issue"][0]["details"]["coding"][0]["code"] == "T1"
    assert "transaction" in made[12]["response"]["outcome"]["issue"][0]["diagnostics"]
    assert all("resource" not in one for one in made if one["response"]["status"] >= "400")


async def test_a_fault_in_one_entry_of_a_batch_leaves_the_others(fhir):
    made = await sent(
        fhir,
        entry("POST", "Patient/$fail", {"resourceType": "Parameters"}),
        entry("POST", "Patient", PATIENT),
        kind="batch",
    )
    assert statuses(made) == ["500", "201"]
    assert made[0]["response"]["outcome"]["issue"][0]["code"] == "exception"
    assert await fhir.held() == 1


async def test_a_bundle_that_is_neither_batch_nor_transaction_or_too_long_is_refused(fhir, issues):
    assert issues(await fhir.http.post("/fhir", json=bundle(kind="collection")), 400)
    assert issues(await fhir.http.post("/fhir", json=PATIENT), 400)
    assert issues(await fhir.http.post("/fhir", json={**bundle(), "entry": {}}), 400)
    assert issues(await fhir.http.post("/fhir", json={**bundle(), "x": 1}), 400)
    many = [entry("GET", "Patient/1")] * 2001
    for kind in ("batch", "transaction"):
        (issue,) = issues(await fhir.http.post("/fhir", json=bundle(*many, kind=kind)), 413)
        assert "2000" in issue["diagnostics"]
    empty = await fhir.http.post("/fhir/", json={"resourceType": "Bundle", "type": "transaction"})
    assert empty.status_code == 200
    assert "entry" not in empty.json()
