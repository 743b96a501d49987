"""Transactions on PostgreSQL: all or nothing, references between entries, order, refusals with places."""

from __future__ import annotations

import pytest

from shared.fhir.json import parse
from shared.http.backend import parse_positions
from tests.integration.http.bundles import ANN, PATIENT, PULSE, bundle, entry, goal, observation, places, sent, statuses


async def test_what_entries_say_of_each_other_becomes_what_the_server_calls_them(fhir):
    narrative = f'<div xmlns="http://www.w3.org/1999/xhtml"><a href="{ANN}">Ann</a></div>'
    reading = observation(ANN, text={"status": "generated", "div": narrative}, hasMember=[{"reference": PULSE}])
    made = await sent(
        fhir,
        entry("POST", "Observation", reading),
        entry("POST", "Observation", observation(ANN), PULSE),
        entry("POST", "Patient", PATIENT, ANN),
    )
    assert statuses(made) == ["201"] * 3
    patient, pulse = made[2]["resource"]["id"], made[1]["resource"]["id"]
    stored = (await fhir.http.get(f"/fhir/{made[0]['response']['location']}")).json()
    assert stored == made[0]["resource"]
    assert stored["subject"] == {"reference": f"Patient/{patient}"}
    assert stored["hasMember"] == [{"reference": f"Observation/{pulse}"}]
    assert f'<a href="Patient/{patient}">' in stored["text"]["div"]
    assert made[0]["response"]["etag"] == 'W/"1"'
    assert made[0]["response"]["lastModified"] == stored["meta"]["lastUpdated"]
    found = (await fhir.http.get(f"/fhir/Observation?patient=Patient/{patient}")).json()
    assert len(found["entry"]) == 2


async def test_references_may_be_relative_absolute_and_versioned_and_go_in_circles(fhir):
    base = "http://elsewhere.example/fhir"
    made = await sent(
        fhir,
        entry("POST", "Patient", PATIENT, f"{base}/Patient/1"),
        entry("POST", "Observation", observation("Patient/1"), f"{base}/Observation/1"),
        entry("POST", "Observation", observation(f"{base}/Patient/1/_history/4"), f"{base}/Observation/2"),
        entry(
            "POST",
            "Patient",
            {**PATIENT, "link": [{"other": {"reference": "Patient/9"}, "type": "seealso"}]},
            "Patient/8",
        ),
        entry(
            "POST",
            "Patient",
            {**PATIENT, "link": [{"other": {"reference": "Patient/8"}, "type": "seealso"}]},
            "Patient/9",
        ),
    )
    ids = [one["resource"]["id"] for one in made]
    assert {one["resource"]["subject"]["reference"] for one in made[1:3]} == {f"Patient/{ids[0]}"}
    assert made[3]["resource"]["link"][0]["other"]["reference"] == f"Patient/{ids[4]}"
    assert made[4]["resource"]["link"][0]["other"]["reference"] == f"Patient/{ids[3]}"


async def test_under_the_servers_own_base_a_reference_is_a_local_one_whatever_the_full_urls_are(fhir):
    """Else what is about a patient would be in nobody's record: not found by him, and asked no consent of his."""
    base = "http://kap.example/fhir"
    ann = (await fhir.http.post("/fhir/Patient", json=PATIENT)).json()["id"]
    made = await sent(
        fhir,
        entry("POST", "Observation", observation(f"{base}/Patient/{ann}"), f"{base}/Observation/1"),
        entry("POST", "Observation", observation(f"{base}/Patient/new/_history/1"), f"{base}/Observation/2"),
        entry("POST", "Patient", PATIENT, f"{base}/Patient/new"),
        entry("DELETE", "Goal?identifier=urn:mrn%7Cnone", None, f"{base}/Patient/{ann}"),
    )
    new = made[2]["resource"]["id"]
    assert [one["resource"]["subject"]["reference"] for one in made[:2]] == [f"Patient/{ann}", f"Patient/{new}"]
    found = (await fhir.http.get(f"/fhir/Observation?patient=Patient/{ann}")).json()
    assert [one["resource"]["id"] for one in found["entry"]] == [made[0]["resource"]["id"]]


async def test_one_refusal_undoes_all_and_every_failing_entry_is_named(fhir, issues):
    patient = await fhir.create(PATIENT)
    subject = f"Patient/{patient['id']}"
    before = await fhir.held()
    answer = await fhir.http.post(
        "/fhir",
        json=bundle(
            entry("POST", "Goal", goal(subject)),
            entry("POST", "Goal", goal(subject, "nothing")),
            entry("DELETE", f"Patient/{patient['id']}"),
            entry("POST", "Goal", goal(subject, "nothing")),
        ),
    )
    found = issues(answer, 422)
    assert places(found) == ["Bundle.entry[1].resource.description", "Bundle.entry[3].resource.description"]
    assert {issue["details"]["coding"][0]["code"] for issue in found} == {"T1"}
    assert await fhir.held() == before


async def test_everything_that_is_not_fhir_is_told_at_once_and_with_its_place(fhir, issues):
    answer = await fhir.http.post(
        "/fhir",
        json=bundle(
            entry("POST", "Patient", {**PATIENT, "gender": "?"}),
            entry("POST", "Patient", PATIENT),
            entry(
                "POST", "Observation", {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "x": 1}
            ),
            entry("POST", "Observation", observation("urn:uuid:00000000-0000-4000-8000-000000000000")),
        ),
    )
    assert places(issues(answer, 400)) == [
        "Bundle.entry[0].resource.gender",
        "Bundle.entry[2].resource.x",
        "Bundle.entry[3].resource",
    ]
    assert await fhir.held() == 0


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (entry("POST", "Patient"), ""),
        (entry("DELETE", "Patient/1", PATIENT), ""),
        (entry("POST", "Patient/1", PATIENT), ".request.url"),
        (entry("POST", "Observation", PATIENT), ".resource"),
        (entry("POST", "Claim", {"resourceType": "Claim"}), ".request.url"),
        (entry("POST", "Nothing", {"resourceType": "Nothing"}), ".request.url"),
        (entry("PUT", "Patient/1", {**PATIENT, "id": "2"}), ".resource.id"),
        (entry("PUT", "Patient", PATIENT), ".request.url"),
        (entry("PUT", "Patient?_sort=family", PATIENT), ".request.url"),
        (entry("PATCH", "Patient/1", PATIENT), ""),
        (entry("POST", "Goal/1/$complete", {"resourceType": "Parameters"}), ".request.url"),
        (entry("POST", "Patient", PATIENT, ifMatch='W/"1"'), ".request.ifMatch"),
        (entry("PUT", "Patient/1", {**PATIENT, "id": "1"}, ifNoneExist="identifier=x"), ".request.ifNoneExist"),
        (entry("JUMP", "Patient"), ".request.method"),
        ({"resource": PATIENT}, ""),
        (entry("GET", "Patient/unknown"), ""),
        (entry("GET", "Patient?nonsense=1"), ""),
        ("text", ""),
    ],
)
async def test_an_entry_that_cannot_be_understood_is_named(fhir, issues, wrong, place):
    answer = await fhir.http.post("/fhir", json=bundle(entry("POST", "Patient", PATIENT), wrong))
    assert set(places(issues(answer, 400))) == {f"Bundle.entry[1]{place}"}
    assert await fhir.held() == 0


async def test_entries_are_carried_out_in_the_order_of_the_specification_and_answered_in_their_own(fhir):
    old = await fhir.create({**PATIENT, "active": False})
    changed = await fhir.create({**PATIENT, "identifier": [{"system": "urn:mrn", "value": "8"}]})
    made = await sent(
        fhir,
        entry("GET", "Patient?identifier=urn:mrn|7"),
        entry("PUT", f"Patient/{changed['id']}", {**changed, "active": False}),
        entry("POST", "Patient", PATIENT, ANN, ifNoneExist="identifier=urn:mrn|7"),
        entry("DELETE", f"Patient/{old['id']}"),
        entry("GET", f"Patient/{changed['id']}"),
    )
    assert statuses(made) == ["200", "200", "201", "204", "200"]
    assert [one["resource"]["id"] for one in made[0]["resource"]["entry"]] == [made[2]["resource"]["id"]]
    assert made[4]["resource"] == made[1]["resource"]
    assert made[4]["resource"]["active"] is False
    assert made[4]["response"]["etag"] == made[1]["response"]["etag"] == 'W/"2"'
    assert "resource" not in made[3]
    assert made[3]["response"]["etag"] == 'W/"2"'


async def test_a_guard_sees_what_earlier_entries_wrote_and_what_it_writes_is_part_of_it(fhir):
    made = await sent(fhir, entry("POST", "Goal", goal(ANN)), entry("POST", "Patient", PATIENT, ANN))
    subject = made[0]["resource"]["subject"]["reference"]
    assert (await fhir.http.get("/fhir/Flag", params={"subject": subject, "_summary": "count"})).json()["total"] == 1


async def test_a_get_sees_what_its_transaction_wrote_also_by_an_operation_on_the_same_record(fhir):
    there = await fhir.create(PATIENT)
    subject = f"Patient/{there['id']}"
    made = await sent(
        fhir,
        entry("GET", f"{subject}/$goals"),
        entry("PUT", subject, there),
        entry("POST", "Goal", goal(subject)),
        entry("GET", f"{subject}/_history"),
    )
    assert made[0]["resource"]["parameter"] == [{"name": "count", "valueInteger": 1}]
    assert len(made[3]["resource"]["entry"]) == 2


async def test_a_conditional_create_in_a_transaction_is_what_is_there_already(fhir):
    there = await fhir.create(PATIENT)
    made = await sent(
        fhir,
        entry("POST", "Patient", PATIENT, ANN, ifNoneExist="identifier=urn:mrn|7"),
        entry("POST", "Observation", observation(ANN)),
    )
    assert statuses(made) == ["200", "201"]
    assert made[0]["resource"] == there
    assert made[1]["resource"]["subject"]["reference"] == f"Patient/{there['id']}"


async def test_conditional_updates_and_deletes_in_a_transaction_find_what_they_mean(fhir):
    there = await fhir.create(PATIENT)
    other = await fhir.create({**PATIENT, "identifier": [{"system": "urn:mrn", "value": "8"}]})
    made = await sent(
        fhir,
        entry("PUT", "Patient?identifier=urn:mrn|7", {**PATIENT, "active": False}, ANN),
        entry("DELETE", "Patient?identifier=urn:mrn|8"),
        entry("DELETE", "Patient?identifier=urn:mrn|9"),
        entry(
            "PUT", "Patient?identifier=urn:mrn|10", {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "10"}]}
        ),
        entry("POST", "Observation", observation(ANN)),
    )
    assert statuses(made) == ["200", "204", "204", "201", "201"]
    assert made[4]["resource"]["subject"]["reference"] == f"Patient/{there['id']}"
    assert (await fhir.http.get(f"/fhir/Patient/{other['id']}")).status_code == 410
    assert "location" not in made[2]["response"]


async def test_a_conditional_reference_means_what_is_there_or_what_the_transaction_makes(fhir):
    there = await fhir.create(PATIENT)
    new = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "8"}]}
    made = await sent(
        fhir,
        entry("POST", "Observation", observation("Patient?identifier=urn:mrn|7")),
        entry("POST", "Observation", observation("Patient?identifier=urn:mrn|8")),
        entry("POST", "Patient", new),
    )
    assert made[0]["resource"]["subject"]["reference"] == f"Patient/{there['id']}"
    assert made[1]["resource"]["subject"]["reference"] == f"Patient/{made[2]['resource']['id']}"


async def test_a_conditional_reference_that_means_none_or_several_is_refused(fhir, issues):
    for _ in range(2):
        await fhir.create(PATIENT)
    before = await fhir.held()
    answer = await fhir.http.post(
        "/fhir",
        json=bundle(
            entry("POST", "Observation", observation("Patient?identifier=urn:mrn|7")),
            entry("POST", "Observation", observation("Patient?identifier=urn:mrn|none")),
        ),
    )
    found = issues(answer, 412)
    assert places(found) == ["Bundle.entry[0]", "Bundle.entry[1]"]
    late = await fhir.http.post(
        "/fhir",
        json=bundle(
            entry("POST", "Observation", observation("Patient?identifier=urn:mrn|none")),
            entry("POST", "Patient", PATIENT),
        ),
    )
    assert places(issues(late, 412)) == ["Bundle.entry[0]"]
    more = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "9"}]}
    await fhir.create(more)
    doubled = await fhir.http.post(
        "/fhir",
        json=bundle(
            entry("POST", "Observation", observation("Patient?identifier=urn:mrn|9")), entry("POST", "Patient", more)
        ),
    )
    assert places(issues(doubled, 412)) == ["Bundle.entry[0]"]
    assert await fhir.held() == before + 1


async def test_what_is_named_twice_is_refused(fhir, issues):
    there = await fhir.create(PATIENT)
    by_id, by_mrn = f"Patient/{there['id']}", "Patient?identifier=urn:mrn|7"
    new = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "8"}]}
    for several in (
        [entry("PUT", by_id, there), entry("DELETE", by_id)],
        [entry("PUT", by_id, there), entry("PUT", by_mrn, PATIENT)],
        [entry("DELETE", by_id), entry("DELETE", by_mrn)],
        [entry("POST", "Patient", new, ANN), entry("POST", "Patient", new, ANN)],
        [
            entry("POST", "Patient", new, ifNoneExist="identifier=urn:mrn|8"),
            entry("POST", "Patient", new, ifNoneExist="identifier=urn:mrn|8"),
        ],
        [entry("POST", "Patient", new), entry("PUT", "Patient?identifier=urn:mrn|8", new)],
    ):
        found = issues(await fhir.http.post("/fhir", json=bundle(*several)), 400)
        assert {issue["code"] for issue in found} == {"duplicate"}, several
        assert {place.partition(".request")[0] for place in places(found)} <= {"Bundle.entry[0]", "Bundle.entry[1]"}
    assert await fhir.held() == 1


async def test_a_stale_version_refuses_the_whole(fhir, issues):
    there = await fhir.create(PATIENT)
    await fhir.http.put(f"/fhir/Patient/{there['id']}", json=there)
    answer = await fhir.http.post(
        "/fhir",
        json=bundle(entry("POST", "Patient", PATIENT), entry("PUT", f"Patient/{there['id']}", there, ifMatch='W/"1"')),
    )
    assert places(issues(answer, 412)) == ["Bundle.entry[1]"]
    assert await fhir.held() == 2


async def test_a_patch_is_an_entry_too(fhir):
    there = await fhir.create(PATIENT)
    patch = {
        "resourceType": "Parameters",
        "parameter": [
            {
                "name": "operation",
                "part": [
                    {"name": "type", "valueCode": "add"},
                    {"name": "path", "valueString": "Patient"},
                    {"name": "name", "valueString": "managingOrganization"},
                    {"name": "value", "valueReference": {"reference": ANN}},
                ],
            }
        ],
    }
    made = await sent(
        fhir,
        entry("PATCH", f"Patient/{there['id']}", patch, ifMatch='W/"1"'),
        entry("POST", "Organization", {"resourceType": "Organization", "name": "x"}, ANN),
    )
    assert statuses(made) == ["200", "201"]
    assert made[0]["resource"]["managingOrganization"] == {"reference": f"Organization/{made[1]['resource']['id']}"}
    json_patch = "W3sib3AiOiJyZXBsYWNlIiwicGF0aCI6Ii9hY3RpdmUiLCJ2YWx1ZSI6ZmFsc2V9XQ=="
    binary = {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": json_patch}
    (again,) = await sent(fhir, entry("PATCH", "Patient?identifier=urn:mrn|7", binary))
    assert again["resource"]["active"] is False
    assert again["resource"]["meta"]["versionId"] == "3"


async def test_the_answer_is_as_long_as_the_caller_prefers(fhir):
    (minimal,) = await sent(fhir, entry("POST", "Patient", PATIENT), Prefer="return=minimal")
    assert minimal.keys() == {"response"}
    assert minimal["response"].keys() == {"status", "location", "etag", "lastModified"}
    (outcome,) = await sent(fhir, entry("POST", "Patient", PATIENT), Prefer="return=OperationOutcome")
    assert outcome["response"]["outcome"]["resourceType"] == "OperationOutcome"
    assert "resource" not in outcome


async def test_the_positions_of_all_that_was_committed_are_told(fhir):
    answer = await fhir.http.post(
        "/fhir", json=bundle(entry("POST", "Patient", PATIENT, ANN), entry("POST", "Goal", goal(ANN)))
    )
    patient = answer.json()["entry"][0]["resource"]["id"]
    (position,) = parse_positions(answer.headers["x-kap-position"])
    assert (position.service, position.key) == ("intake", f"Patient/{patient}")


async def test_history_from_elsewhere_stays_marked_by_the_bundles_source(fhir):
    said = bundle(
        entry("POST", "Patient", PATIENT),
        entry("POST", "Patient", {**PATIENT, "meta": {"source": "http://third.example"}}),
    )
    answer = await fhir.http.post("/fhir", json={**said, "meta": {"source": "http://hospital.example"}})
    sources = [one["resource"]["meta"]["source"] for one in answer.json()["entry"]]
    assert sources == ["http://hospital.example", "http://third.example"]


async def test_numbers_keep_their_digits_in_a_transaction(fhir):
    raw = (
        '{"resourceType":"Bundle","type":"transaction","entry":[{"resource":{"resourceType":"Observation",'
        '"status":"final","code":{"text":"x"},"valueQuantity":{"value":1.500}},'
        '"request":{"method":"POST","url":"Observation"}}]}'
    )
    answer = await fhir.http.post("/fhir", content=raw, headers={"Content-Type": "application/fhir+json"})
    assert b'"value":1.500' in answer.content
    assert str(parse(answer.content)["entry"][0]["resource"]["valueQuantity"]["value"]) == "1.500"
