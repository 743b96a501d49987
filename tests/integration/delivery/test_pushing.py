"""From a committed event to a resource in the hospital, through faults, in order, once."""

from __future__ import annotations

import asyncio

from shared.fhir.content import content_hash
from shared.fhir.json import dump, parse
from tests.integration.delivery.conftest import (
    condition,
    consent,
    delivery_at,
    encounter,
    hospital_at,
    observation,
    patient,
)


async def test_a_patients_record_arrives_with_its_references_and_our_identifiers(delivery, hospital):
    ann = patient()
    visit = encounter(ann)
    pulse = observation(
        ann, encounter={"reference": f"Encounter/{visit['id']}"}, performer=[{"reference": "Practitioner/d"}]
    )
    delivery.start()
    await delivery.hear(ann, visit, pulse)
    entries = await delivery.settled()
    assert {entry.state for entry in entries.values()} == {"accepted"}
    [there] = await hospital.all("Patient")
    [visit_there] = await hospital.all("Encounter")
    [pulse_there] = await hospital.all("Observation")
    assert pulse_there["subject"]["reference"] == f"Patient/{there['id']}"
    assert pulse_there["encounter"]["reference"] == f"Encounter/{visit_there['id']}"
    assert pulse_there["performer"][0]["identifier"]["value"] == "d"
    assert pulse_there["identifier"] == [
        {"system": "https://kap-exchange.org/fhir/id/Observation", "value": pulse["id"]}
    ]
    entry = entries[pulse["id"]]
    assert (entry.server_id, entry.delivered_version) == (pulse_there["id"], 1)
    assert entry.content_hash == content_hash(pulse_there)


async def test_what_arrives_in_the_wrong_order_is_sent_in_the_right_one(delivery, hospital):
    ann = patient()
    visit = encounter(ann)
    pulse = observation(ann, encounter={"reference": f"Encounter/{visit['id']}"})
    delivery.start()
    await delivery.hear(pulse)
    await delivery.hear(visit)
    await asyncio.sleep(0.2)
    assert await hospital.all("Observation") == []
    await delivery.hear(ann)
    entries = await delivery.settled()
    assert {entry.state for entry in entries.values()} == {"accepted"}
    [pulse_there] = await hospital.all("Observation")
    assert pulse_there["encounter"]["reference"].startswith("Encounter/")
    assert pulse_there["meta"]["versionId"] == "1"


async def test_a_reference_that_comes_late_is_made_good_by_an_update(delivery, hospital):
    ann = patient()
    visit = encounter(ann)
    pulse = observation(ann, encounter={"reference": f"Encounter/{visit['id']}"})
    delivery.start()
    await delivery.hear(ann, pulse)
    await delivery.settled()
    [before] = await hospital.all("Observation")
    assert before["encounter"]["identifier"]["value"] == visit["id"]
    await delivery.hear(visit)
    await asyncio.sleep(0.3)
    await delivery.settled()
    [after] = await hospital.all("Observation")
    assert after["encounter"]["reference"].startswith("Encounter/")
    assert after["id"] == before["id"]


async def test_a_ring_of_references_arrives_whole(delivery, hospital):
    ann = patient()
    visit = encounter(ann)
    illness = condition(ann, encounter={"reference": f"Encounter/{visit['id']}"})
    visit["reasonReference"] = [{"reference": f"Condition/{illness['id']}"}]
    await delivery.hear(ann, visit, illness)
    delivery.start()
    await delivery.settled()
    await asyncio.sleep(0.3)
    await delivery.settled()
    [visit_there] = await hospital.all("Encounter")
    [illness_there] = await hospital.all("Condition")
    assert visit_there["reasonReference"][0]["reference"] == f"Condition/{illness_there['id']}"
    assert illness_there["encounter"]["reference"] == f"Encounter/{visit_there['id']}"


async def test_only_the_newest_version_has_to_arrive_and_it_does(delivery, hospital):
    ann = patient()
    pulse = observation(ann)
    await delivery.hear(ann, pulse)
    for status in ("amended", "corrected", "final", "amended"):
        await delivery.hear({**pulse, "status": status})
    delivery.start()
    await delivery.settled()
    await delivery.hear({**pulse, "status": "corrected"})
    entries = await delivery.settled()
    [there] = await hospital.all("Observation")
    assert there["status"] == "corrected"
    assert there["meta"]["versionId"] == "2"
    assert entries[pulse["id"]].delivered_version == 6


async def test_an_event_that_comes_twice_or_late_sends_nothing_again(delivery, hospital):
    ann = patient()
    first = delivery.clinic.commit(ann)
    second = delivery.clinic.commit({**ann, "active": False})
    await delivery.hear(consent(ann), source="intake")
    delivery.start()
    await delivery.take(second)
    await delivery.take(first)
    await delivery.take(second)
    await delivery.settled()
    [there] = await hospital.all("Patient")
    assert there["active"] is False
    assert there["meta"]["versionId"] == "1"


async def test_a_lost_answer_makes_no_second_resource(delivery, hospital):
    ann = patient()
    pulses = [observation(ann) for _ in range(4)]
    await hospital.fault(drop_response=4)
    await delivery.hear(ann, *pulses)
    delivery.start()
    entries = await delivery.settled(seconds=20)
    assert {entry.state for entry in entries.values()} == {"accepted"}
    assert len(await hospital.all("Patient")) == 1
    assert len(await hospital.all("Observation")) == 4
    await hospital.fault(drop_response=1)
    await delivery.hear({**pulses[0], "status": "amended"})
    entries = await delivery.settled()
    held = {one["identifier"][0]["value"]: one for one in await hospital.all("Observation")}
    assert held[pulses[0]["id"]]["status"] == "amended"
    assert held[pulses[0]["id"]]["meta"]["versionId"] == "2"


async def test_a_process_that_dies_while_sending_leaves_nothing_lost_and_nothing_twice(delivery, hospital):
    ann = patient()
    pulses = [observation(ann) for _ in range(30)]
    await delivery.hear(ann, *pulses)
    await hospital.fault(latency_ms=30, times=100)
    delivery.start()
    for _ in range(500):
        if len(await hospital.all("Observation")) >= 3:
            break
        await asyncio.sleep(0.02)
    await delivery.kill()
    assert any(entry.state == "sending" for entry in await delivery.entries())
    await hospital.no_faults()
    delivery.start()
    entries = await delivery.settled(seconds=15)
    assert {entry.state for entry in entries.values()} == {"accepted"}
    assert len(await hospital.all("Patient")) == 1
    assert len(await hospital.all("Observation")) == 30


async def test_a_destination_that_is_down_loses_nothing_and_says_so(delivery, hospital):
    ann = patient()
    await hospital.fault(status=503, times=3)
    await delivery.hear(ann, observation(ann))
    delivery.start()
    await asyncio.sleep(0.8)
    entries = await delivery.settled(seconds=20)
    assert {entry.state for entry in entries.values()} == {"accepted"}
    assert len(await hospital.all("Observation")) == 1
    [task] = await delivery.tasks(focus=f"Patient/{ann['id']}")
    assert task["status"] == "completed"


async def test_one_destination_that_is_away_delays_no_other(delivery, hospital):
    nowhere = {
        "resourceType": "Endpoint",
        "status": "active",
        "connectionType": {
            "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
            "code": "hl7-fhir-rest",
        },
        "payloadType": [{"text": "everything"}],
        "address": "http://127.0.0.1:9/fhir",
    }
    answer = await delivery.http.post("/fhir/Endpoint", json=nowhere)
    assert answer.status_code == 201, answer.text
    [other] = [one.id for one in await delivery.destinations() if one.id != answer.json()["id"]]
    ann = patient()
    lanes = delivery.start()
    await delivery.hear(ann, observation(ann))
    entries = await delivery.settled(destination=other)
    assert {entry.state for entry in entries.values()} == {"accepted"}
    waiting = await delivery.entries(answer.json()["id"])
    assert {entry.state for entry in waiting} == {"queued"}
    assert lanes.state_of(next(one for one in await delivery.destinations() if one.id == answer.json()["id"])).problem
    await asyncio.sleep(1.0)
    [shown] = await delivery.tasks(focus=f"Patient/{ann['id']}", status="requested")
    assert shown["for"]["reference"] == f"Patient/{ann['id']}"


async def test_a_destination_that_is_added_later_gets_what_was_held_before(delivery, hospital):
    [first] = await delivery.destinations()
    ann = patient()
    await delivery.hear(ann, observation(ann))
    delivery.start()
    await delivery.settled()
    answer = await delivery.http.get(f"/fhir/Endpoint/{first.id}")
    second = {name: value for name, value in answer.json().items() if name not in {"id", "meta", "identifier"}}
    answer = await delivery.http.post("/fhir/Endpoint", json=second)
    assert answer.status_code == 201, answer.text
    for _ in range(100):
        entries = await delivery.entries(answer.json()["id"])
        if entries and {entry.state for entry in entries} == {"accepted"}:
            break
        await asyncio.sleep(0.05)
    assert len(entries) == 2
    assert len(await hospital.all("Observation")) == 2


async def test_a_refusal_is_kept_and_shown_and_a_corrected_version_goes_through(delivery, hospital):
    ann = patient()
    pulse = observation(ann)
    await hospital.fault(status=422, times=1, methods=["PUT"])
    delivery.start()
    await delivery.hear(ann, pulse)
    await delivery.settled()
    await delivery.hear({**pulse, "status": "amended"})
    entries = await delivery.settled()
    assert entries[pulse["id"]].state == "refused"
    [task] = await delivery.tasks(focus=f"Observation/{pulse['id']}")
    assert task["status"] == "failed"
    assert "422" in task["contained"][0]["issue"][0]["diagnostics"]
    await delivery.hear({**pulse, "status": "corrected"})
    entries = await delivery.settled()
    assert entries[pulse["id"]].state == "accepted"
    [task] = await delivery.tasks(focus=f"Observation/{pulse['id']}")
    assert task["status"] == "completed"


async def test_a_person_can_retry_and_cancel(delivery, hospital):
    ann = patient()
    await hospital.fault(status=403, times=1, methods=["POST"])
    delivery.start()
    pulse = observation(ann)
    await delivery.hear(ann, pulse)
    entries = await delivery.settled()
    assert entries[ann["id"]].state == "refused"
    assert entries[pulse["id"]].state == "waiting"
    [task] = await delivery.tasks(focus=f"Patient/{ann['id']}")
    answer = await delivery.http.post(f"/fhir/Task/{task['id']}/$retry")
    assert answer.status_code == 200, answer.text
    for _ in range(100):
        entries = await delivery.settled()
        if entries[pulse["id"]].state == "accepted":
            break
        await asyncio.sleep(0.05)
    assert entries[ann["id"]].state == "accepted"
    assert entries[pulse["id"]].state == "accepted"
    answer = await delivery.http.post(f"/fhir/Task/{task['id']}/$cancel")
    assert answer.status_code == 409


async def test_nobody_else_writes_the_tasks_of_delivery(delivery):
    task = {"resourceType": "Task", "status": "requested", "intent": "order"}
    answer = await delivery.http.post("/fhir/Task", json=task)
    assert answer.status_code == 422


async def test_what_was_deleted_is_marked_there_as_entered_in_error(delivery, hospital):
    ann = patient()
    pulse = observation(ann)
    never_sent = observation(ann)
    delivery.start()
    await delivery.hear(ann, pulse)
    await delivery.settled()
    await delivery.kill()
    await delivery.hear(never_sent)
    await delivery.hear(pulse, never_sent, delete=True)
    delivery.start()
    entries = await delivery.settled()
    assert {entries[one["id"]].state for one in (pulse, never_sent)} == {"withdrawn"}
    [there] = await hospital.all("Observation")
    assert there["status"] == "entered-in-error"


async def test_what_a_hospital_does_not_accept_is_counted_not_lost(make_database):
    async with (
        hospital_at(make_database("hospital"), "epic") as hospital,
        delivery_at(make_database("delivery"), hospital.base) as delivery,
    ):
        ann = patient()
        visit = encounter(ann)
        illness = condition(ann, encounter={"reference": f"Encounter/{visit['id']}"})
        lanes = delivery.start()
        await delivery.hear(ann, visit, illness)
        entries = await delivery.settled()
        assert entries[visit["id"]].state == "not-accepted"
        assert entries[illness["id"]].state == "accepted"
        [there] = await hospital.all("Condition")
        assert there["encounter"]["identifier"]["value"] == visit["id"]
        await delivery.hear({**illness, "code": {"text": "Severe depression"}})
        entries = await delivery.settled()
        assert entries[illness["id"]].state == "superseded"
        [described] = await delivery.describe(lanes)
        assert described["counts"] == {"accepted": 1, "not-accepted": 1, "superseded": 1}
        assert described["not_accepted"] == ["Encounter", "MedicationAdministration"]
        assert (await delivery.tasks(focus=f"Encounter/{visit['id']}"))[0]["status"] == "rejected"


async def test_a_hospital_that_knows_its_patients_is_given_none(delivery, hospital):
    [default] = await delivery.destinations()
    held = (await delivery.http.get(f"/fhir/Endpoint/{default.id}")).json()
    without = {name: value for name, value in held.items() if name != "extension"}
    changed = await delivery.http.put(f"/fhir/Endpoint/{default.id}", json=without)
    assert changed.status_code == 200, changed.text
    mrn = {"system": "urn:oid:1.2.3", "value": "4711"}
    theirs = {"resourceType": "Patient", "identifier": [mrn], "name": [{"family": "As the hospital spells it"}]}
    there = (await hospital.http.post(f"{hospital.base}/Patient", json=theirs)).json()
    known, stranger = patient(identifier=[mrn]), patient(identifier=[{"system": "urn:oid:1.2.3", "value": "0815"}])
    delivery.start()
    await delivery.hear(known, observation(known), stranger, observation(stranger))
    await asyncio.sleep(0.3)
    entries = await delivery.settled()
    assert entries[known["id"]].server_id == there["id"]
    assert entries[stranger["id"]].state == "refused"
    assert (await hospital.all("Patient")) == [parse(dump(there))]
    [pulse] = await hospital.all("Observation")
    assert pulse["subject"]["reference"] == f"Patient/{there['id']}"
    [task] = await delivery.tasks(focus=f"Patient/{stranger['id']}")
    assert task["status"] == "failed"
    await delivery.hear({**known, "active": False})
    await delivery.settled()
    assert (await hospital.all("Patient")) == [parse(dump(there))]


async def test_the_ledger_is_told_as_json(delivery, hospital):
    ann = patient()
    lanes = delivery.start()
    await delivery.hear(ann)
    await delivery.settled()
    [described] = await delivery.describe(lanes)
    assert described["connected"] is True
    assert described["pending"] == 0
    assert described["latency_ms"]["count"] == 1
    [line] = described["deliveries"]
    [there] = await hospital.all("Patient")
    assert line["content_hash"] == content_hash(there)
    assert (line["type"], line["id"], line["server_id"]) == ("Patient", ann["id"], there["id"])
