"""One FHIR server before several owners."""

from __future__ import annotations

import asyncio
import base64
from decimal import Decimal

import pytest

from shared.events.topics import MAX_EVENT_BODY_BYTES
from shared.fhir.json import dump, parse

PATIENT = {"resourceType": "Patient", "active": True, "name": [{"family": "Kerr", "given": ["Ann"]}]}


def visit(patient, **more):
    return {
        "resourceType": "Encounter",
        "status": "planned",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{patient['id']}"},
        "episodeOfCare": [{"reference": "EpisodeOfCare/x"}],
        **more,
    }


def reading(patient, encounter, value="72.0"):
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": f"Patient/{patient['id']}"},
        "encounter": {"reference": f"Encounter/{encounter['id']}"},
        "effectiveDateTime": "2026-11-22T10:00:00Z",
        "valueQuantity": {"value": Decimal(value), "unit": "/min"},
    }


async def found(stack, query):
    answer = await stack.http.get(f"/fhir/{query}")
    assert answer.status_code == 200, answer.text
    return [entry["resource"] for entry in parse(answer.content).get("entry", [])]


async def test_a_write_can_be_read_and_found_at_once_without_any_event(stack):
    ann = await stack.create(PATIENT)
    assert (await stack.http.get(f"/fhir/Patient/{ann['id']}")).json() == ann
    assert [one["id"] for one in await found(stack, "Patient?family=kerr")] == [ann["id"]]
    changed = await stack.http.put(f"/fhir/Patient/{ann['id']}", content=dump({**ann, "active": False}))
    assert changed.status_code == 200, changed.text
    assert (await stack.http.get(f"/fhir/Patient/{ann['id']}")).json()["active"] is False
    assert await found(stack, "Patient?active=true") == []
    gone = await stack.http.delete(f"/fhir/Patient/{ann['id']}")
    assert gone.status_code == 204
    assert (await stack.http.get(f"/fhir/Patient/{ann['id']}")).status_code == 410
    assert await found(stack, "Patient?family=kerr") == []
    history = (await stack.http.get(f"/fhir/Patient/{ann['id']}/_history")).json()
    assert [entry["request"]["method"] for entry in history["entry"]] == ["DELETE", "PUT", "POST"]


async def test_what_the_gateway_holds_is_to_the_byte_what_the_owners_committed(stack):
    ann = await stack.create(PATIENT)
    await stack.carry(to="sessions")
    encounter = await stack.create(visit(ann))
    pulse = await stack.create(reading(ann, encounter, "72.00"))
    await stack.http.put(f"/fhir/Observation/{pulse['id']}", content=dump({**pulse, "status": "amended"}))
    await stack.http.delete(f"/fhir/Observation/{pulse['id']}")
    await stack.carry()
    committed, held = await stack.digests()
    assert committed == held
    assert await stack.carry(since_start=True) > 0
    committed, held = await stack.digests()
    assert committed == held


async def test_each_write_goes_to_its_owner_and_stays_there(stack):
    ann = await stack.create(PATIENT)
    await stack.carry(to="sessions")
    encounter = await stack.create(visit(ann))
    pulse = await stack.create(reading(ann, encounter))
    owners = {(request.method, request.url.host, request.url.path) for request in stack.switch.requests}
    assert ("POST", "intake", "/fhir/Patient") in owners
    assert ("POST", "sessions", "/fhir/Encounter") in owners
    assert ("POST", "sessions", "/fhir/Observation") in owners
    await stack.http.put(f"/fhir/Observation/{pulse['id']}", content=dump({**pulse, "status": "amended"}))
    assert stack.switch.requests[-1].url.host == "sessions"


async def test_what_followed_in_the_owners_transaction_arrives_by_its_event(stack):
    ann = await stack.create(PATIENT)
    await stack.carry(to="sessions")
    await stack.create(visit(ann))
    assert await found(stack, f"DetectedIssue?patient={ann['id']}") == []
    await stack.carry()
    assert len(await found(stack, f"DetectedIssue?patient={ann['id']}")) == 1


async def test_an_owner_is_told_how_far_the_caller_may_have_seen_the_others(stack):
    ann = await stack.create(PATIENT)
    refused = asyncio.create_task(
        stack.http.post("/fhir/Encounter", content=dump(visit(ann)), headers={"X-Request-Id": "one"})
    )
    await asyncio.sleep(0.3)
    assert not refused.done()
    await stack.carry(to="sessions")
    answer = await refused
    assert answer.status_code == 201, answer.text
    sent = stack.switch.requests[-1]
    assert sent.headers["x-request-id"] == "one"
    service, key, sequence = sent.headers["x-kap-await"].split()
    assert (service, key) == ("intake", f"Patient/{ann['id']}")
    assert int(sequence) > 0


async def test_an_owner_that_does_not_catch_up_refuses_for_now(stack):
    ann = await stack.create(PATIENT)
    answer = await stack.http.post("/fhir/Encounter", content=dump(visit(ann)))
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


async def test_a_vital_sign_is_stored_at_once_while_its_owner_has_heard_nothing_of_the_others(stack, monkeypatch):
    async def waited(*_):
        pytest.fail("it waited for news")

    ann = await stack.create(PATIENT)
    await stack.carry(to="sessions")
    encounter = await stack.create(visit(ann))
    changed = await stack.http.put(f"/fhir/Patient/{ann['id']}", content=dump({**ann, "active": False}))
    assert changed.status_code == 200
    monkeypatch.setattr("shared.store.inbox.Inbox.await_position", waited)
    answer = await stack.http.post("/fhir/Observation", content=dump(reading(ann, encounter)))
    assert answer.status_code == 201, answer.text
    assert stack.switch.requests[-1].headers["x-kap-await"].startswith("intake ")


async def test_a_refusal_of_the_owner_is_the_gateways(stack):
    ann = await stack.create(PATIENT)
    await stack.carry(to="sessions")
    answer = await stack.http.post("/fhir/Encounter", content=dump(visit(ann, status="entered-in-error")))
    assert answer.status_code == 422
    [issue] = answer.json()["issue"]
    assert issue["details"]["coding"][0]["code"] == "T1"
    assert issue["expression"] == ["Encounter.status"]
    stale = await stack.http.put(f"/fhir/Patient/{ann['id']}", content=dump(ann), headers={"If-Match": 'W/"7"'})
    assert stale.status_code == 412
    assert (
        await stack.http.post("/fhir/Patient", content=b'{"resourceType":"Patient","gender":"x"}')
    ).status_code == 400
    assert (
        await stack.http.put("/fhir/Patient/unknown", content=dump({**PATIENT, "id": "unknown"}))
    ).status_code == 404


async def test_an_owner_that_is_down_is_said_so_and_everything_can_still_be_read(stack):
    ann = await stack.create(PATIENT)
    stack.switch.down.add("intake")
    answer = await stack.http.post("/fhir/Patient", content=dump(PATIENT))
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "Nothing was changed" in answer.json()["issue"][0]["diagnostics"]
    assert (await stack.http.get(f"/fhir/Patient/{ann['id']}")).status_code == 200
    stack.switch.down.clear()
    await stack.create(PATIENT)


async def test_who_gets_no_answer_learns_that_the_outcome_is_not_known_and_it_is_not_lost(stack):
    stack.switch.deaf.add("intake")
    answer = await stack.http.post("/fhir/Patient", content=dump(PATIENT))
    assert answer.status_code == 504
    assert "not known" in answer.json()["issue"][0]["diagnostics"]
    assert answer.json()["issue"][0]["code"] == "timeout"
    await stack.carry()
    assert len(await found(stack, "Patient?family=kerr")) == 1


async def test_a_conditional_create_is_the_owners_to_decide(stack):
    known = {**PATIENT, "identifier": [{"system": "urn:mrn", "value": "7|8"}]}
    header = {"If-None-Exist": r"identifier=urn%3Amrn%7C7%5C%7C8"}
    first = await stack.http.post("/fhir/Patient", content=dump(known), headers=header)
    second = await stack.http.post("/fhir/Patient", content=dump(known), headers=header)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()


async def test_an_operation_is_answered_by_the_owner_of_its_instance_and_what_it_made_can_be_read(stack):
    ann = await stack.create(PATIENT)
    await stack.carry(to="sessions")
    encounter = await stack.create(visit(ann))
    call = asyncio.create_task(stack.http.post(f"/fhir/Encounter/{encounter['id']}/$start-dose"))
    await asyncio.sleep(0.2)
    await stack.carry()
    answer = await call
    assert answer.status_code == 200, answer.text
    dose = answer.json()
    assert (await stack.http.get(f"/fhir/MedicationAdministration/{dose['id']}")).json() == dose


async def test_everything_of_a_patient_comes_page_by_page_and_nobody_elses(stack):
    ann, bob = await stack.create(PATIENT), await stack.create(PATIENT)
    await stack.carry(to="sessions")
    encounter = await stack.create(visit(ann))
    readings = [await stack.create(reading(ann, encounter)) for _ in range(5)]
    await stack.create(visit(bob))
    await stack.carry()
    ids, url = [], f"/fhir/Patient/{ann['id']}/$everything?_count=3"
    while url:
        answer = await stack.http.get(url)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["type"] == "searchset"
        ids += [entry["resource"]["id"] for entry in page["entry"]]
        links = {link["relation"]: link["url"] for link in page["link"]}
        url = links.get("next", "").removeprefix("http://gateway.example")
        assert ann["id"] not in url.partition("?")[2]
    issue = (await found(stack, f"DetectedIssue?patient={ann['id']}"))[0]
    assert sorted(ids) == sorted([ann["id"], encounter["id"], issue["id"], *(one["id"] for one in readings)])
    only = await found(stack, f"Patient/{ann['id']}/$everything?_type=Observation")
    assert {one["resourceType"] for one in only} == {"Observation"}
    last = readings[-1]["meta"]["lastUpdated"]
    assert readings[-1]["id"] in {
        one["id"] for one in await found(stack, f"Patient/{ann['id']}/$everything?_since={last}")
    }
    assert (await stack.http.get("/fhir/Patient/nobody/$everything")).status_code == 404
    assert (await stack.http.get(f"/fhir/Patient/{ann['id']}/$everything?start=soon")).status_code == 400


async def test_everything_brings_with_each_page_who_and_what_its_resources_refer_to(stack):
    clinic = await stack.create({"resourceType": "Organization", "name": "Clinic"})
    doctor = await stack.create({"resourceType": "Practitioner", "name": [{"family": "Hopper"}]})
    role = await stack.create(
        {
            "resourceType": "PractitionerRole",
            "practitioner": {"reference": f"Practitioner/{doctor['id']}"},
            "organization": {"reference": f"Organization/{clinic['id']}"},
        }
    )
    await stack.create({"resourceType": "Practitioner", "name": [{"family": "Nobody's"}]})
    ann = await stack.create({**PATIENT, "generalPractitioner": [{"reference": f"PractitionerRole/{role['id']}"}]})
    condition = await stack.create(
        {
            "resourceType": "Condition",
            "code": {"text": "x"},
            "subject": {"reference": f"Patient/{ann['id']}"},
            "recorder": {"reference": f"http://gateway.example/fhir/Practitioner/{doctor['id']}"},
        }
    )
    beside = {doctor["id"], role["id"], clinic["id"]}

    async def told(query):
        page = (await stack.http.get(f"/fhir/Patient/{ann['id']}/$everything?{query}")).json()
        next_ = [link["url"].partition("?")[2] for link in page["link"] if link["relation"] == "next"]
        return [(one["search"]["mode"], one["resource"]["id"]) for one in page.get("entry", [])], next_

    whole, _ = await told("")
    assert sorted(whole) == sorted(
        [("match", ann["id"]), ("match", condition["id"]), *(("include", id_) for id_ in beside)]
    )
    first, [more] = await told("_count=1")
    assert sorted(first) == sorted([("match", ann["id"]), *(("include", id_) for id_ in beside)])
    second, _ = await told(more)
    assert second == [("match", condition["id"]), ("include", doctor["id"])]
    assert await told("_type=Condition") == ([("match", condition["id"])], [])
    assert sorted((await told("_type=Condition,Practitioner"))[0]) == sorted(
        [("match", condition["id"]), ("include", doctor["id"])]
    )


async def test_everything_of_a_time_is_the_care_of_then_and_what_is_of_every_time(stack):
    ann = await stack.create(PATIENT)
    await stack.carry(to="sessions")
    encounter = await stack.create({**visit(ann), "period": {"start": "2026-03-01", "end": "2026-03-02"}})
    readings = {
        when: await stack.create({**reading(ann, encounter), "effectiveDateTime": when})
        for when in ("2026-02-01", "2026-03-01", "2026-03-02T10:00:00Z")
    }
    for asked, days in (
        ("start=2026-03-02", ["2026-03-02T10:00:00Z"]),
        ("end=2026-03-01", ["2026-02-01", "2026-03-01"]),
        ("start=2026-02&end=2026-02-28", ["2026-02-01"]),
        ("start=2027", []),
    ):
        url, ids = f"/fhir/Patient/{ann['id']}/$everything?_count=1&{asked}", []
        while url:
            page = (await stack.http.get(url)).json()
            ids += [entry["resource"]["id"] for entry in page.get("entry", ())]
            url = next((one["url"] for one in page["link"] if one["relation"] == "next"), "")
            url = url.removeprefix("http://gateway.example")
        assert ann["id"] in ids
        assert [when for when, one in readings.items() if one["id"] in ids] == days, asked
        assert (encounter["id"] in ids) is (asked not in {"start=2026-02&end=2026-02-28", "start=2027"}), asked


async def test_a_burst_of_writes_and_events_at_once_ends_with_equal_contents(stack):
    ann = await stack.create(PATIENT)

    async def change(number):
        name = [{"family": f"Kerr{number}"}]
        return await stack.http.put(f"/fhir/Patient/{ann['id']}", content=dump({**ann, "name": name}))

    answers, _ = await asyncio.gather(asyncio.gather(*(change(number) for number in range(30))), _carry_often(stack))
    assert {answer.status_code for answer in answers} == {200}
    await stack.carry()
    committed, held = await stack.digests()
    assert committed == held
    [there] = await found(stack, f"Patient?_id={ann['id']}")
    owner = await stack.http.get(f"/fhir/Patient/{ann['id']}")
    assert there == owner.json()
    assert there["meta"]["versionId"] == "31"


async def _carry_often(stack):
    for _ in range(20):
        await stack.carry()
        await asyncio.sleep(0.01)


async def test_metadata_names_every_type_and_the_owners_operations(stack):
    statement = (await stack.http.get("/fhir/metadata")).json()
    resources = {one["type"]: one for one in statement["rest"][0]["resource"]}
    assert {"Patient", "Appointment", "Observation", "MeasureReport", "Endpoint", "Subscription"} <= resources.keys()
    assert {one["name"] for one in resources["Patient"]["operation"]} >= {"everything", "screen", "validate"}
    assert "start-dose" in {one["name"] for one in resources["Encounter"]["operation"]}


async def test_what_the_gateway_owns_itself_is_written_here(stack):
    group = {"resourceType": "Group", "type": "person", "actual": True, "name": "all"}
    made = await stack.create(group)
    assert (await stack.http.get(f"/fhir/Group/{made['id']}")).json() == made
    assert stack.switch.requests == []


async def test_the_gateway_validates_and_answers_for_codes_itself(stack):
    body = {"resourceType": "Patient", "gender": "nope"}
    outcome = (await stack.http.post("/fhir/Patient/$validate", json=body)).json()
    assert [issue["expression"] for issue in outcome["issue"]] == [["Patient.gender"]]
    code = {"system": "https://kap-exchange.org/fhir/CodeSystem/kap", "code": "kap-course"}
    assert (await stack.http.get("/fhir/CodeSystem/$lookup", params=code)).status_code == 200
    group = await stack.create({"resourceType": "Group", "type": "person", "actual": True})
    outcome = (await stack.http.get(f"/fhir/Group/{group['id']}/$validate")).json()
    assert [issue["severity"] for issue in outcome["issue"]] == ["information"]
    assert stack.switch.requests == []


async def test_a_resource_above_the_brokers_limit_is_taken_and_read(stack):
    data = base64.b64encode(bytes(7 * 1024 * 1024)).decode()
    photo = {"resourceType": "Patient", "active": True, "photo": [{"contentType": "image/png", "data": data}]}
    made = await stack.create(photo)
    assert len(dump(made)) > MAX_EVENT_BODY_BYTES
    assert parse((await stack.http.get(f"/fhir/Patient/{made['id']}")).content) == made
    await stack.carry()
    committed, held = await stack.digests()
    assert committed == held
