"""A destination is told what the patient's consents permit it, as they are known when each request leaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest_asyncio
import structlog

from services.delivery.mapping import MASKED
from services.delivery.service import SERVICE, say_what_lacks
from shared.fhir.codes import ACT_CODE
from shared.fhir.dates import zulu
from shared.runtime.record import open_record
from shared.security.notice import DISPLAY, NOTICE, RELATED
from shared.store.access import Access
from shared.store.disclosures import Disclosures
from shared.testing.events import eventually
from tests.integration.delivery.conftest import (
    QUICK,
    SERVER,
    condition,
    consent,
    delivery_at,
    encounter,
    hospital_at,
    observation,
    patient,
)
from tests.integration.security.consents import TPO, provision


@pytest_asyncio.fixture
async def delivery(make_database, hospital):
    """Delivery, to which no patient has signed anything."""
    async with delivery_at(make_database("delivery"), hospital.base, signing=False) as one:
        yield one


def bearing(resource, *labels):
    return {**resource, "meta": {"security": [{"system": ACT_CODE, "code": one} for one in labels]}}


async def disclosed(delivery, of):
    async with delivery.parts.store.transaction(keys=(), tenant="default") as transaction:
        return await Disclosures(transaction).of_patient("default", f"Patient/{of['id']}")


async def audited(delivery, does):
    """Return what the audit says of pushes (``push``) or of what was held (``hold``): reference and authorisation."""
    async with delivery.parts.store.transaction(keys=(), tenant="default") as transaction:
        rows = await transaction.connection.fetch(
            "SELECT convert_from(body, 'UTF8')::jsonb ->> 'authorisation' AS by, convert_from(body, 'UTF8')::jsonb "
            "-> 'what' ->> 0 AS what FROM (SELECT body FROM audit_pending UNION ALL SELECT body FROM audit) a "
            "WHERE convert_from(body, 'UTF8')::jsonb ->> 'does' = $1",
            does,
        )
    return {(row["what"], row["by"]) for row in rows}


async def states(delivery, *resources):
    entries = await delivery.settled()
    return [entries[one["id"]].state for one in resources]


async def ours_of(hospital, type_):
    system = f"https://kap-exchange.org/fhir/id/{type_}"
    return {
        name["value"]: one
        for one in await hospital.all(type_)
        for name in one["identifier"]
        if name["system"] == system
    }


async def test_without_a_consent_nothing_is_told_and_a_person_sees_why_until_there_is_one(delivery, hospital):
    ann = patient()
    pulse = observation(ann)
    delivery.start()
    await delivery.hear(ann, pulse)
    assert await states(delivery, ann, pulse) == ["held", "held"]
    [shown] = await delivery.tasks(focus=f"Observation/{pulse['id']}")
    assert (shown["status"], shown["statusReason"]["text"].partition(":")[0]) == ("on-hold", "Held for want of consent")
    assert await hospital.all("Patient") == []
    assert await disclosed(delivery, ann) == []
    signed = consent(ann)
    await delivery.hear(signed, source="intake")
    assert await states(delivery, ann, pulse) == ["accepted", "accepted"]
    told = await disclosed(delivery, ann)
    assert {(one.type, one.request, one.ended) for one in told} == {
        ("Patient", "create", "accepted"),
        ("Observation", "create", "accepted"),
    }
    assert {one.consents for one in told} == {(f"Consent/{signed['id']}/_history/1",)}
    names = [f"Patient/{ann['id']}/_history/1", f"Observation/{pulse['id']}/_history/1"]
    assert await audited(delivery, "push") == {(name, f"Consent/{signed['id']}/_history/1") for name in names}
    assert (names[0], None) in await audited(delivery, "hold")


async def test_what_came_before_its_patient_is_held_with_the_patient(delivery):
    """News of a reading and of its patient come from two services, in any order."""
    ann = patient()
    pulse = observation(ann)
    delivery.start()
    await delivery.hear(pulse)
    assert await states(delivery, pulse) == ["waiting"]
    await delivery.hear(ann)
    assert await states(delivery, ann, pulse) == ["held", "held"]
    await delivery.hear(consent(ann), source="intake")
    assert await states(delivery, ann, pulse) == ["accepted", "accepted"]


async def test_a_withdrawal_counts_before_the_next_request_leaves_and_takes_nothing_back(delivery, hospital):
    ann = patient()
    pulses = [observation(ann) for _ in range(20)]
    signed = consent(ann)
    await delivery.hear(signed, source="intake")
    await delivery.hear(ann, *pulses)
    await hospital.fault(latency_ms=80, times=100)
    delivery.start()
    await eventually(lambda: _some(hospital, 3), seconds=15)
    await delivery.hear({**signed, "status": "inactive"}, source="intake")
    there = len(await hospital.all("Observation"))
    entries = await delivery.settled()
    await hospital.no_faults()
    after = await ours_of(hospital, "Observation")
    assert len(after) <= there + 1, "one may be under way; no other leaves"
    assert {id_ for id_, one in entries.items() if one.state == "accepted"} == {ann["id"], *after}
    assert {one.state for id_, one in entries.items() if id_ not in after and id_ != ann["id"]} == {"held"}
    assert {one.resource for one in await disclosed(delivery, ann)} == {ann["id"], *after}
    assert {one["status"] for one in after.values()} == {"final"}, "what was told stays as it was"
    [first, *_] = after
    await delivery.hear({**next(one for one in pulses if one["id"] == first), "status": "amended"})
    assert (await delivery.settled())[first].state == "held"
    assert (await ours_of(hospital, "Observation"))[first]["status"] == "final"


async def _some(hospital, count):
    return len(await hospital.all("Observation")) >= count


async def test_that_something_was_wrong_is_told_to_who_has_it_whatever_consents_say(delivery, hospital):
    ann = patient()
    pulse = observation(ann)
    signed = consent(ann)
    delivery.start()
    await delivery.hear(signed, source="intake")
    await delivery.hear(ann, pulse)
    await delivery.settled()
    await delivery.hear({**signed, "status": "inactive"}, source="intake")
    await delivery.hear(pulse, delete=True)
    assert await states(delivery, pulse) == ["withdrawn"]
    [there] = await hospital.all("Observation")
    assert there["status"] == "entered-in-error"


async def test_a_consent_that_leaves_something_out_leaves_it_out_and_what_names_it_goes_redacted(delivery, hospital):
    ann = patient()
    drinking, mood = bearing(condition(ann), "SUD"), condition(ann)
    visit = encounter(
        ann,
        text={"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">Alcohol</div>'},
        reasonReference=[{"reference": f"Condition/{one['id']}"} for one in (drinking, mood)],
    )
    delivery.start()
    signed = consent(ann, "P3")
    await delivery.hear(signed, source="intake")
    await delivery.hear(ann, drinking, mood, visit)
    assert await states(delivery, drinking, mood, visit) == ["held", "accepted", "accepted"]
    [there] = await hospital.all("Encounter")
    [mood_there] = await hospital.all("Condition")
    assert there["reasonReference"] == [MASKED, {"reference": f"Condition/{mood_there['id']}"}]
    assert "REDACTED" in {one["code"] for one in there["meta"]["security"]}
    assert "Alcohol" not in there["text"]["div"] if "text" in there else True
    assert drinking["id"] not in str(there)
    assert [one.redacted for one in await disclosed(delivery, ann) if one.type == "Encounter"] == [True]
    whole = consent(ann)
    await delivery.hear({**whole, "id": signed["id"]}, source="intake")
    await eventually(lambda: _whole(hospital), seconds=15)
    await delivery.settled()
    [there] = await hospital.all("Encounter")
    assert "Alcohol" in there["text"]["div"]


async def _whole(hospital):
    [there] = await hospital.all("Encounter")
    return all("reference" in one for one in there["reasonReference"])


async def test_a_consent_that_names_a_hospital_is_for_that_one(delivery, hospital):
    ann = patient()
    delivery.start()
    await delivery.hear(consent(ann, "P2"), source="intake")
    await delivery.hear(ann)
    assert await states(delivery, ann) == ["held"]
    [destination] = await delivery.destinations()
    held = (await delivery.http.get(f"/fhir/Endpoint/{destination.id}")).json()
    await delivery.http.put(
        f"/fhir/Endpoint/{destination.id}", json={**held, "managingOrganization": {"reference": "Organization/h1"}}
    )
    await eventually(lambda: _is(delivery, ann, "accepted"), seconds=15)
    [one] = await disclosed(delivery, ann)
    assert (one.recipient, one.purpose) == ("Organization/h1", "TREAT")


async def _is(delivery, resource, state):
    return await states(delivery, resource) == [state]


async def test_what_goes_to_a_participant_through_an_intermediary_needs_the_intermediary_on_the_consent(
    delivery, hospital
):
    """And is kept as told through it: 42 CFR 2.24, 2.31(a)(4)(ii)."""
    ann = bearing(patient(), "42CFRPart2")
    [destination] = await delivery.destinations()
    path, url = f"/fhir/Endpoint/{destination.id}", "https://kap-exchange.org/fhir/StructureDefinition/"
    held = (await delivery.http.get(path)).json()
    by = {"url": f"{url}destination-intermediary", "valueReference": {"reference": "Organization/hie"}}
    through = {**held, "extension": [*held["extension"], by]}
    refused = await delivery.http.put(path, json=through)
    assert refused.status_code == 422
    assert "managingOrganization" in refused.json()["issue"][0]["diagnostics"]
    through["managingOrganization"] = {"reference": "Organization/h1"}
    assert (await delivery.http.put(path, json=through)).status_code == 200
    delivery.start()
    named = provision("permit", why=TPO, to=["Organization/h1"])
    direct = consent(ann, "P5", provision=named)
    await delivery.hear(direct, source="intake")
    await delivery.hear(ann)
    assert await states(delivery, ann) == ["held"]
    general = {**direct, "provision": provision("permit", why=TPO, through=["Organization/hie"])}
    await delivery.hear(general, source="intake")
    await eventually(lambda: _is(delivery, ann, "accepted"), seconds=15)
    [one] = await disclosed(delivery, ann)
    assert (one.recipient, one.through, one.part_2) == ("Organization/h1", "Organization/hie", True)


async def test_a_database_that_has_heard_no_consent_says_at_its_start_what_to_run(delivery):
    """As one from before delivery kept them has not, though its patients' resources are there."""
    assert await say_what_lacks(delivery.parts) == []  # it knows of nobody
    ann = patient()
    await delivery.hear(ann, source="intake")
    with structlog.testing.capture_logs() as said:
        assert await say_what_lacks(delivery.parts) == ["default"]
    assert [one["run"] for one in said if one["event"] == "no_consents_known"] == ["./kap replay intake --to delivery"]
    await delivery.hear(consent(ann), source="intake")
    assert await say_what_lacks(delivery.parts) == []


async def test_nothing_is_delivered_for_legal_proceedings(delivery):
    [destination] = await delivery.destinations()
    held = (await delivery.http.get(f"/fhir/Endpoint/{destination.id}")).json()
    url = "https://kap-exchange.org/fhir/StructureDefinition/destination-purpose"
    wrong = {**held, "extension": [{"url": url, "valueCode": "HLEGAL"}]}
    answer = await delivery.http.put(f"/fhir/Endpoint/{destination.id}", json=wrong)
    assert answer.status_code == 422
    assert "legal proceedings" in answer.json()["issue"][0]["diagnostics"]


async def test_a_consent_counts_from_its_day_to_its_end(delivery, hospital):
    ann = patient()
    begins = datetime.now(UTC) + timedelta(seconds=4)
    period = {"start": zulu(begins), "end": zulu(begins + timedelta(days=1))}
    delivery.start(patience=replace(QUICK, consents=0.2))
    await delivery.hear(consent(ann, provision=provision("permit", why=TPO, period=period)), source="intake")
    await delivery.hear(ann)
    assert await states(delivery, ann) == ["held"]
    await eventually(lambda: _is(delivery, ann, "accepted"), seconds=20)
    assert datetime.now(UTC) >= begins
    await delivery.hear(consent(ann, provision=provision("deny")), source="intake")
    await delivery.hear({**ann, "active": False})
    assert await states(delivery, ann) == ["held"]


async def test_news_that_grows_too_old_under_way_stops_what_is_left(delivery, hospital):
    ann = patient()
    pulses = [observation(ann) for _ in range(12)]
    await delivery.hear(consent(ann), source="intake")
    await delivery.hear(ann, *pulses)
    await hospital.fault(latency_ms=80, times=100)
    lanes = delivery.start()
    await eventually(lambda: _some(hospital, 2), seconds=15)
    async with delivery.parts.store.transaction(keys=(), tenant="default") as transaction:
        await transaction.connection.execute(
            "UPDATE known_until SET until = now() - interval '5 minutes' WHERE consumer = $1", SERVICE.name
        )
    there = len(await hospital.all("Observation"))
    await asyncio.sleep(1.0)
    assert len(await hospital.all("Observation")) <= there + 1
    assert {one.state for one in await delivery.entries()} == {"accepted", "queued"}
    await eventually(lambda: _late(delivery, lanes), seconds=10)


async def _late(delivery, lanes):
    [described] = await delivery.describe(lanes)
    return "consent may be too old" in (described["problem"] or "")


async def moved(delivery, address):
    """Change the address of the only Endpoint, as a person does by FHIR."""
    async with open_record(SERVICE, delivery.parts.store, Access.unrestricted(), keys=()) as record:
        [end] = await record.search("Endpoint", {})
        await record.update({**end, "address": address})


async def test_when_the_address_of_an_endpoint_changes_nothing_more_goes_to_the_old_one(delivery, hospital):
    ann = patient()
    pulses = [observation(ann) for _ in range(12)]
    await delivery.hear(consent(ann), source="intake")
    await delivery.hear(ann, *pulses)
    await hospital.fault(latency_ms=80, times=100)
    delivery.start()
    await eventually(lambda: _some(hospital, 2), seconds=15)
    await moved(delivery, "http://127.0.0.1:9/fhir")
    there = len(await hospital.all("Observation"))
    await asyncio.sleep(1.0)
    assert len(await hospital.all("Observation")) <= there + 1, "what was on its way when it changed"


async def test_an_endpoint_that_is_switched_off_is_sent_nothing_more_of_what_was_taken_up(delivery, hospital):
    ann = patient()
    await delivery.hear(consent(ann), source="intake")
    await delivery.hear(ann, *[observation(ann) for _ in range(12)])
    await hospital.fault(latency_ms=80, times=100)
    delivery.start()
    await eventually(lambda: _some(hospital, 2), seconds=15)
    async with open_record(SERVICE, delivery.parts.store, Access.unrestricted(), keys=()) as record:
        [end] = await record.search("Endpoint", {})
        await record.update({**end, "status": "off"})
    there = len(await hospital.all("Observation"))
    await asyncio.sleep(0.6)
    assert len(await hospital.all("Observation")) <= there + 1, "what was on its way when it was switched off"


async def test_a_server_at_another_address_is_not_spoken_to_by_the_first_ones_ids(delivery, hospital, make_database):
    ann, gone = patient(), patient()
    await delivery.hear(consent(ann), consent(gone), source="intake")
    await delivery.hear(ann, gone, observation(ann))
    delivery.start()
    await delivery.settled()
    first = {one["id"] for type_ in ("Patient", "Observation") for one in await hospital.all(type_)}
    async with hospital_at(make_database("second")) as second:
        asked = []

        class Listening(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request):
                asked.append((request.method, str(request.url), (await request.aread()).decode()))
                return await inner.handle_async_request(request)

        async with httpx.AsyncHTTPTransport(limits=SERVER) as inner:
            await delivery.kill()
            delivery.start(transport=Listening)
            await moved(delivery, second.base)
            pulse = observation(ann)
            await delivery.hear(pulse, {**ann, "name": [{"family": "Kerr-Moss"}]})
            await delivery.hear(gone, delete=True)
            await delivery.settled()
            await delivery.kill()
        there = [one for one in asked if one[1].startswith(second.base)]
        assert there
        assert not [one for one in there if any(id_ in one[1] or id_ in one[2] for id_ in first)]
        [hers] = await second.all("Patient")
        assert hers["name"][0]["family"] == "Kerr-Moss"
        subjects = {one["subject"]["reference"] for one in await second.all("Observation")}
        assert (len(await second.all("Observation")), subjects) == (2, {f"Patient/{hers['id']}"})


async def test_the_same_server_at_another_address_is_told_nothing_twice(delivery, hospital):
    ann = patient()
    await delivery.hear(consent(ann), source="intake")
    await delivery.hear(ann, observation(ann), encounter(ann))
    delivery.start()
    await delivery.settled()
    before = {type_: await hospital.all(type_) for type_ in ("Patient", "Observation", "Encounter")}
    await moved(delivery, hospital.base.replace("127.0.0.1", "localhost"))
    await delivery.hear(observation(ann))
    assert {one.state for one in (await delivery.settled()).values()} == {"accepted"}
    assert {type_: len(await hospital.all(type_)) for type_ in before} == {
        "Patient": 1,
        "Observation": 2,
        "Encounter": 1,
    }
    assert await hospital.all("Patient") == before["Patient"]


async def test_what_comes_of_a_programme_goes_with_the_notice_and_its_consent(delivery, hospital):
    ann, bob = patient(), patient()
    delivery.start()
    tpo, treatment = consent(ann, "P5"), consent(bob, "P5", provision=provision("permit", why=["TREAT"]))
    for who, signed in ((ann, tpo), (bob, treatment)):
        drinking = bearing(condition(who), "SUD", "42CFRPart2")
        await delivery.hear(signed, source="intake")
        await delivery.hear(who, drinking, condition(who))
        assert await states(delivery, drinking) == ["accepted"]
    there = await ours_of(hospital, "Patient")
    of_ann, of_bob = [
        {"42CFRPart2" in _codes(one): one for one in held if one["subject"]["reference"] == f"Patient/{id_}"}
        for held in [await hospital.all("Condition")]
        for id_ in (there[ann["id"]]["id"], there[bob["id"]]["id"])
    ]
    for programme, signed in ((of_ann[True], tpo), (of_bob[True], treatment)):
        assert {"url": DISPLAY, "valueString": NOTICE} in programme["meta"]["extension"]
        [label] = [one for one in programme["meta"]["security"] if one["code"] == "42CFRPart2"]
        [artifact] = [one["valueRelatedArtifact"] for one in label["extension"] if one["url"] == RELATED]
        assert artifact["url"].endswith(f"Consent/{signed['id']}/_history/1")
        assert "TREAT" in artifact["display"]
    assert "NORDSCLCD" not in _codes(of_ann[True]), "that consent is for treatment, payment and operations"
    assert "NORDSCLCD" in _codes(of_bob[True])
    for besides in (of_ann[False], of_bob[False]):
        assert "extension" not in besides.get("meta", {}), "the notice is about the programme's records alone"
        assert "NORDSCLCD" not in _codes(besides)


def _codes(resource):
    return {one["code"] for one in resource.get("meta", {}).get("security", [])}


async def test_what_a_programme_wrote_is_not_told_by_a_consent_that_is_not_under_part_2(delivery, hospital):
    ann = patient()
    drinking, mood = bearing(condition(ann), "SUD", "42CFRPart2"), condition(ann)
    delivery.start()
    await delivery.hear(consent(ann), source="intake")
    await delivery.hear(ann, drinking, mood)
    assert await states(delivery, drinking, mood) == ["held", "accepted"]
    assert len(await hospital.all("Condition")) == 1
