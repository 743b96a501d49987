"""`$export`: exactly what its caller may search, for him alone, until he may no more."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from services.gateway.catalog import TYPES
from services.gateway.exporting import working
from services.gateway.exporting.asked import Asked
from services.gateway.exporting.caller import Who
from services.gateway.exporting.working import Exporting, Kept
from services.gateway.service import SERVICE as GATEWAY
from shared.fhir.dates import interval
from shared.fhir.json import parse
from shared.security.notice import NOTICE
from shared.store import exports as store_exports
from shared.store.access import DEFAULT_TENANT, Access
from shared.store.audit import Wanted
from shared.store.store import Store
from shared.testing.knowledge import not_applied
from shared.testing.writes import write_of
from tests.integration.security.clinic import BASE, ROLES, key_of
from tests.integration.security.consents import PATTERNS, consent, provision
from tests.integration.security.exports import NEWS, exported, heard, kicked, place, searched, worked
from tests.integration.security.test_gate import ADA, BOB, allergy
from tests.integration.security.test_labels import condition

H1, H2 = "Organization/h1", "Organization/h2"
CODES = ("F11.2", "F33.1")
SCOPES = "system/Patient.rs system/Condition.rs system/AllergyIntolerance.rs system/Observation.rs"


@pytest.fixture
async def people(clinic):
    """Ada and Bob, each with an allergy and two conditions; Ada lets hospital h1 be told all but of substance use."""
    admin = await clinic.token("clinic-admin")
    ada, bob = [(await clinic.made(one, admin))["id"] for one in (ADA, BOB)]
    for one in (ada, bob):
        for made in (allergy(one), condition(one, "F33.1"), condition(one, "F11.2")):
            await clinic.made(made, admin)
    given = await clinic.made(consent(ada, PATTERNS["P3"]), admin)
    return admin, ada, bob, given


async def backend_client(clinic, scope=SCOPES, user=H1):
    """Register a Backend Services client and return it with its key; its tokens are asked for as the standard says."""
    key = key_of("ES384")
    made = await clinic.register(key=key, scope=scope, kap_user=user)
    assert made.status_code == 201, made.text
    return made.json()["client_id"], key


async def token_of(clinic, client, key, **form):
    answer = await clinic.asked("token", client, key, **form)
    assert answer.status_code == 200, answer.text
    return answer.json()["access_token"]


# What is in it


async def test_a_backend_services_client_exports_what_it_may_search_and_no_more(clinic, people):
    """From discovery by a signed assertion to the deletion; of Bob, who consented to nothing, not a trace."""
    _, ada, bob, _ = people
    told = (await clinic.http.get(f"{BASE}/.well-known/smart-configuration")).json()
    assert "private_key_jwt" in told["token_endpoint_auth_methods_supported"]
    client, key = await backend_client(clinic)
    token = await token_of(clinic, client, key)
    began = datetime.now(UTC)
    found = await exported(clinic, token)
    assert found.names == await searched(clinic, token, ("Patient", "Condition", "AllergyIntolerance", "Observation"))
    assert len(found.names) == 3
    assert f"Patient/{ada}" in found.names
    assert bob not in str(found.files)
    manifest = found.manifest
    assert manifest["request"] == f"{BASE}/$export"
    assert manifest["requiresAccessToken"] is True
    assert interval(manifest["transactionTime"])[0] <= began
    gone = await clinic.send(token, "DELETE", found.status)
    assert gone.status_code == 202
    for path in (found.status, place(manifest["output"][0]["url"])):
        assert (await clinic.send(token, "GET", path)).status_code == 404


async def test_of_the_whole_of_patients_and_of_a_group_is_exported_what_there_is(clinic, people):
    admin, ada, bob, _ = people
    doctor = await clinic.made({"resourceType": "Practitioner", "name": [{"family": "Okafor"}]}, admin)
    whole = await exported(clinic, admin)
    everything = await searched(clinic, admin, sorted(TYPES))
    assert whole.names == everything > {f"Practitioner/{doctor['id']}"}
    for name in sorted(whole.names):
        held = await clinic.send(admin, "GET", name)
        assert parse(held.content) == next(
            one for one in whole.files["output"] if f"{one['resourceType']}/{one['id']}" == name
        )
    of_patients = await exported(clinic, admin, "Patient/$export")
    assert of_patients.names == {one for one in everything if not one.startswith(("Practitioner/", "Group/"))}
    group = await clinic.made(
        {"resourceType": "Group", "type": "person", "actual": True, "managingEntity": {"reference": H1},
         "member": [{"entity": {"reference": f"Patient/{ada}"}},
                    {"entity": {"reference": f"Patient/{bob}"}, "inactive": True}]},
        admin,
    )  # fmt: skip
    of_group = await exported(clinic, admin, f"Group/{group['id']}/$export?_type=Patient,Condition")
    assert {one.partition("/")[0] for one in of_group.names} == {"Patient", "Condition"}
    assert f"Patient/{ada}" in of_group.names
    assert len(of_group.names) == 3
    await clinic.send(admin, "DELETE", of_group.status)
    hospital, other = [await clinic.token("hospital-system", kap_user=one) for one in (H1, H2)]
    of_hospital = await exported(clinic, hospital, f"Group/{group['id']}/$export")
    assert of_hospital.names == {one for one in of_group.names if one in of_hospital.names} | {
        one for one in of_hospital.names if one.startswith("AllergyIntolerance/")
    }
    assert bob not in str(of_hospital.files)
    assert (await clinic.send(hospital, "GET", f"Group/{group['id']}")).status_code in (403, 404)
    assert (await kicked(clinic, other, f"Group/{group['id']}/$export")).status_code == 404


async def test_since_type_filters_and_elements_narrow_it_and_what_was_deleted_is_told(clinic, people):
    admin, ada, bob, _ = people
    first = await exported(clinic, admin, "$export?_type=Condition,Patient")
    since = (await clinic.send(admin, "GET", f"Patient/{ada}")).json()["meta"]["lastUpdated"]
    later = (datetime.fromisoformat(since) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    assert (await exported(clinic, admin, f"$export?_since={later}")).names == set()
    of_bob = [one for one in first.files["output"] if one.get("subject") == {"reference": f"Patient/{bob}"}]
    victim = f"Condition/{of_bob[0]['id']}"
    assert (await clinic.send(admin, "DELETE", victim)).status_code == 204
    changed = await exported(clinic, admin, f"$export?_since={since}&_type=Condition")
    assert changed.deleted == {victim}
    assert victim not in changed.names
    body = {"resourceType": "Parameters", "parameter": [
        {"name": "_typeFilter", "valueString": ",".join(f"Condition?code={one}&patient={ada}" for one in CODES)},
        {"name": "_type", "valueString": "Condition"},
        {"name": "_elements", "valueString": "Condition.code"},
    ]}  # fmt: skip
    narrowed = await exported(clinic, admin, method="POST", body=body)
    assert {one["code"]["coding"][0]["code"] for one in narrowed.files["output"]} == set(CODES)
    assert {one["subject"]["reference"] for one in narrowed.files["output"]} == {f"Patient/{ada}"}
    assert all(
        one["meta"]["tag"][0]["code"] == "SUBSETTED" and "category" not in one for one in narrowed.files["output"]
    )


async def test_many_resources_come_in_many_files_each_with_its_count(clinic, people, monkeypatch):
    monkeypatch.setattr(store_exports, "LINES", 2)
    monkeypatch.setattr(store_exports, "_BATCH_LINES", 1)
    found = await exported(clinic, people[0], "Patient/$export?_type=Condition")
    assert [one["count"] for one in found.manifest["output"]] == [2, 2]
    assert len(found.names) == 4


# Who may


REFUSED = (
    ("$export", {"Prefer": "return=minimal"}, 400, "respond-async"),
    ("$export", {"Accept": "application/xml"}, 406, "json"),
    ("$export?_outputFormat=text/csv", {}, 400, "_outputFormat"),
    ("$export?_since=yesterday", {}, 400, "_since"),
    ("$export?_type=Claim", {}, 400, "Claim"),
    ("Patient/$export?_type=Practitioner", {}, 400, "Practitioner"),
    ("$export?_typeFilter=Condition", {}, 400, "Type?search"),
    ("$export?_typeFilter=Condition%3Fcolour=red", {}, 400, "colour"),
    ("$export?_typeFilter=Condition%3F_count=1", {}, 400, "_count"),
    ("$export?_elements=Patient.colour", {}, 400, "colour"),
    ("$export?includeAssociatedData=x&patient=Patient/1", {}, 400, "includeAssociatedData"),
    ("Group/none/$export", {}, 404, "Group/none"),
    ("Group/%20/$export", {}, 404, "group"),
)


async def test_what_cannot_be_exported_is_refused_with_what_to_do(clinic):
    admin = await clinic.token("clinic-admin")
    for path, headers, status, said in REFUSED:
        answer = await kicked(clinic, admin, path, **headers)
        assert (answer.status_code, answer.json()["resourceType"]) == (status, "OperationOutcome"), (path, answer.text)
        assert said in answer.text, path
    assert await clinic.stores["gateway"].exports.waiting() == []


async def test_what_is_not_known_is_left_out_and_told_where_the_caller_is_lenient(clinic, people):
    found = await exported(clinic, people[0], "$export?_type=Patient&includeAssociatedData=x",
                           Prefer="respond-async, handling=lenient")  # fmt: skip
    assert "includeAssociatedData" in found.said


async def test_an_export_is_not_for_a_patients_token_nor_for_types_out_of_scope_nor_without_the_operation(
    clinic, people
):
    _, ada, _, _ = people
    patient = await clinic.token("patient", kap_patient=ada)
    therapist = await clinic.token("therapist", kap_user="Practitioner/t")
    client, key = await backend_client(clinic, "system/Patient.rs")
    narrow = await token_of(clinic, client, key)
    for token, path in (
        (patient, "$export"), (patient, "Patient/$export"), (therapist, "$export"), (therapist, "Patient/$export"),
        (narrow, "$export?_type=Condition"), (narrow, "$export?_typeFilter=Patient%3F_has:Condition:patient:code=a"),
        (narrow, "$export?_typeFilter=Condition%3Fcode=F11.2"),
    ):  # fmt: skip
        answer = await kicked(clinic, token, path)
        assert answer.status_code == 403, (path, answer.text)
        assert "insufficient_scope" in answer.headers["www-authenticate"]
    assert (await kicked(clinic, None)).status_code == 401


async def test_an_export_of_another_client_role_user_or_clinic_is_not_there(clinic, people):
    client, key = await backend_client(clinic)
    token = await token_of(clinic, client, key)
    found = await exported(clinic, token)
    file = place(found.manifest["output"][0]["url"])
    second = await token_of(clinic, *(await backend_client(clinic)))
    others = [
        people[0],
        second,
        await clinic.token("hospital-system", kap_user=H1),
        await clinic.token("clinic-admin", kap_tenant="south"),
    ]
    for other in others:
        for method, path in (("GET", found.status), ("GET", file), ("DELETE", found.status)):
            answer = await clinic.send(other, method, path)
            assert answer.status_code == 404, (method, path)
            assert answer.text == (await clinic.send(other, method, path.replace(found.status[8:16], "A" * 8))).text
    assert (await clinic.send(None, "GET", file)).status_code == 401
    narrower = await token_of(clinic, client, key, scope="system/Patient.rs")
    assert (await clinic.send(narrower, "GET", file)).status_code == 403
    assert (await clinic.send(token, "GET", file)).status_code == 200


LEADING_OUT = (
    "..", "../1", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "Condition-0.ndjson%00",
    "Condition-99.ndjson", "Condition-0", "Patient-0.ndjson", "messages.ndjson", "'--",
)  # fmt: skip


async def test_no_name_of_a_file_leads_out_of_the_export(clinic, people):
    found = await exported(clinic, people[0], "$export?_type=Condition")
    headers = {"Authorization": f"Bearer {people[0]}"}
    for name in LEADING_OUT:
        answer = await clinic.http.get(f"{BASE}/{found.status}/{name}", headers=headers)
        assert answer.status_code in (400, 404), (name, answer.status_code)
        assert answer.json()["resourceType"] == "OperationOutcome"


async def test_ids_of_exports_cannot_be_guessed(clinic):
    admin = await clinic.token("clinic-admin")
    ids = [place((await kicked(clinic, admin)).headers["content-location"]).split("/")[1] for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(len(one) == 32 for one in ids)


# Until he may no more


@pytest.mark.parametrize("how", ["withdrawn", "denied", "labelled"])
async def test_a_withdrawal_stops_the_download_and_ends_the_export(clinic, people, how):
    admin, ada, _, given = people
    token = await clinic.token("hospital-system", kap_user=H1)
    found = await exported(clinic, token)
    url = {one["type"]: place(one["url"]) for one in found.manifest["output"]}
    assert (await clinic.send(token, "GET", url["Condition"])).status_code == 200
    if how == "withdrawn":
        assert (
            await clinic.send(admin, "PUT", f"Consent/{given['id']}", {**given, "status": "inactive"})
        ).status_code == 200
    elif how == "denied":
        await clinic.made(consent(ada, provision("deny", to=[H1])), admin)
    else:
        held = next(one for one in found.files["output"] if one["resourceType"] == "Condition")
        label = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "SUD"}
        body = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"security": [label]}}]}
        labelled = await clinic.send(admin, "POST", f"Condition/{held['id']}/$meta-add", body)
        assert labelled.status_code == 200, labelled.text
    for path in (url["Condition"], found.status, url["Patient"]):
        answer = await clinic.send(token, "GET", path)
        assert answer.status_code == 410, (path, answer.text)
        assert "Ask for another" in answer.text
    async with clinic.stores["gateway"]._clinics.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM export_line") == 0


async def test_a_withdrawal_cuts_off_a_download_that_is_under_way(clinic, people, monkeypatch):
    monkeypatch.setattr(store_exports, "_BATCH_LINES", 1)
    admin, ada, _, given = people
    for _ in range(2):
        await clinic.made(condition(ada, "F33.1"), admin)
    token = await clinic.token("hospital-system", kap_user=H1)
    found = await exported(clinic, token, "$export?_type=Condition")
    assert len(found.names) == 3
    exports = clinic.stores["gateway"].exports
    job = await exports.find(found.status.split("/")[1], "default")
    [file] = await exports.files(job)
    who = working.read(job)[1].caller("default")
    lines = exports.bodies(job, file, (who.access("s"),))
    assert len(await anext(lines)) == 1
    withdrawn = await clinic.send(admin, "PUT", f"Consent/{given['id']}", {**given, "status": "inactive"})
    assert withdrawn.status_code == 200
    with pytest.raises(store_exports.Withdrawn):
        await anext(lines)


async def test_who_was_let_in_no_more_downloads_nothing(clinic, people):
    client, key = await backend_client(clinic)
    token = await token_of(clinic, client, key)
    found = await exported(clinic, token)
    answer = await clinic.asked("revoke", client, key, token=token)
    assert answer.status_code == 200, answer.text
    for _ in range(30):  # what was taken back is asked for every five seconds
        if (await clinic.send(token, "GET", place(found.manifest["output"][0]["url"]))).status_code == 401:
            break
        await asyncio.sleep(0.5)
    assert (await clinic.send(token, "GET", found.status)).status_code == 401


async def test_where_news_of_consents_is_too_old_no_file_is_told(clinic, people):
    token = await clinic.token("hospital-system", kap_user=H1)
    found = await exported(clinic, token)
    async with clinic.stores["gateway"]._clinics.acquire() as connection:
        await connection.execute("UPDATE known_until SET until = until - interval '5 minutes'")
    file = place(found.manifest["output"][0]["url"])
    assert (await clinic.send(token, "GET", file)).status_code == 503
    assert (await kicked(clinic, token)).status_code == 503
    await heard(clinic.stores["gateway"])
    assert (await clinic.send(token, "GET", file)).status_code == 200


async def test_what_is_not_known_of_one_patients_consent_keeps_that_patient_out_of_a_hospitals_export(clinic, people):
    """A file that tells of her waits; a new export leaves her out; the others are told, whatever else is parked."""
    admin, ada, bob = people[:3]
    await clinic.made(consent(bob, PATTERNS["P1"]), admin)
    token, store = await clinic.token("hospital-system", kap_user=H1), clinic.stores["gateway"]
    found = await exported(clinic, token)
    [patients] = [place(one["url"]) for one in found.manifest["output"] if one["type"] == "Patient"]
    await not_applied(store, GATEWAY, "Consent/1", f"Patient/{ada}")
    await not_applied(store, GATEWAY, "AllergyIntolerance/1", f"Patient/{bob}")
    assert (await clinic.send(token, "GET", patients)).status_code == 503
    again = await exported(clinic, token)
    assert f"Patient/{bob}" in again.names
    assert f"Patient/{ada}" not in again.names
    for one in await store.parking.list():
        await store.parking.drop(one.number)
    assert (await clinic.send(token, "GET", patients)).status_code == 200


# How old, how many, how long


async def test_its_time_is_true_and_what_may_be_missing_is_said(clinic, people, monkeypatch):
    """An export waits for news; without it, it says from when on what may be missing, or is not made at all."""
    admin, store = people[0], clinic.stores["gateway"]
    await kicked(clinic, admin)
    await heard(store, but=("sessions",))
    assert await worked(store) == [False]
    await heard(store, ago=timedelta(minutes=5))
    assert await worked(store) == [False]
    monkeypatch.setattr(working, "PATIENCE", timedelta())
    [job] = await store.exports.waiting()
    assert await worked(store) == [True]
    ended = await store.exports.find(job.id, "default")
    assert "sessions" in " ".join(ended.said)
    assert ended.known_until <= datetime.now(UTC) - timedelta(minutes=5)
    await kicked(clinic, await clinic.token("hospital-system", kap_user=H1))
    async with store._clinics.acquire() as connection:
        await connection.execute("DELETE FROM known_until")
    monkeypatch.setattr(working, "MOST_PATIENCE", timedelta())


async def test_a_list_is_of_one_moment_whatever_is_written_meanwhile(clinic, people):
    admin, ada, _, _ = people
    store = clinic.stores["gateway"]
    await kicked(clinic, admin, "$export?_type=Condition,Patient")
    [job] = await store.exports.waiting()
    await heard(store)
    async with store_exports.snapshot(store, "default") as transaction:
        listing = store_exports.Listing(transaction, job)
        assert await listing.begin()
        made = await clinic.made(condition(ada, "F33.1"), admin)
        assert await worked(store) == [False], "somebody else makes it"
        assert await listing.add(store_exports.Wanted("Condition", (Access.unrestricted(),))) == 4
    assert made["id"] not in str(await store.exports.files(job))


async def test_a_client_has_so_many_exports_and_each_clinics_line_is_so_long(clinic, monkeypatch):
    admin = await clinic.token("clinic-admin")
    places = [(await kicked(clinic, admin)).headers["content-location"] for _ in range(5)]
    full = await kicked(clinic, admin)
    assert (full.status_code, full.headers["retry-after"]) == (429, "60")
    assert (await clinic.send(admin, "DELETE", place(places[0]))).status_code == 202
    assert (await kicked(clinic, admin)).status_code == 202
    await heard(clinic.stores["gateway"])
    async with clinic.stores["gateway"]._clinics.acquire() as connection:
        await connection.execute(
            "INSERT INTO export_job (id, tenant, client, asked, expires_at) SELECT n::text, 'default', 'another' || n, "
            "'{}', now() + interval '1 hour' FROM generate_series(1, 45) n"
        )
    hospital = await clinic.token("hospital-system", kap_user=H1)
    waits = await kicked(clinic, hospital)
    assert (waits.status_code, waits.headers["retry-after"]) == (429, "60")
    assert "50" not in waits.text
    assert (await kicked(clinic, await clinic.token("clinic-admin", kap_tenant="north"))).status_code == 202


async def test_the_line_takes_of_each_client_one_in_turn_and_tells_him_of_his_own_alone(clinic):
    store = clinic.stores["gateway"]
    asked = msgspec.json.encode(Kept(Asked("system", "x"), Who("anybody", everything=True))).decode()
    for number, (tenant, client) in enumerate(
        [("south", "a"), ("south", "a"), ("south", "a"), ("south", "b"), ("north", "c"), ("north", "c")]
    ):
        await store.exports.ask(f"{client}{number}", tenant, client, asked, kept=timedelta(hours=1), most=9)
    assert [job.id for job in await store.exports.waiting()] == ["a0", "c4", "b3", "a1", "c5", "a2"]
    admin = await clinic.token("clinic-admin")
    said = []
    for _ in range(2):
        begun = await kicked(clinic, admin)
        answer = await clinic.send(admin, "GET", place(begun.headers["content-location"]))
        said.append(answer.headers["x-progress"])
    assert said == ["in line or gathering", "waiting, 1 of this client before it"]


async def test_an_export_of_a_role_that_is_another_kind_of_role_now_is_over(clinic, people, monkeypatch):
    """The policy makes a role of the clinic one of somebody outside: what he exported before is not his any more."""
    admin, _, bob, _ = people
    found = await exported(clinic, admin)
    assert f"Patient/{bob}" in found.names
    monkeypatch.setitem(ROLES, "clinic-admin", msgspec.structs.replace(ROLES["clinic-admin"], disclosure="by-consent"))
    again = await clinic.token("clinic-admin")
    for path in (place(found.manifest["output"][0]["url"]), found.status):
        answer = await clinic.send(again, "GET", path)
        assert (answer.status_code, "Ask for another" in answer.text) == (410, True)
    assert f"Patient/{bob}" not in (await exported(clinic, again)).names


async def test_an_export_whose_time_is_over_is_gone_with_all_of_its_lines(clinic, people):
    store = clinic.stores["gateway"]
    found = await exported(clinic, people[0])
    async with store._clinics.acquire() as connection:
        await connection.execute("UPDATE export_job SET expires_at = now()")
    assert (await clinic.send(people[0], "GET", found.status)).status_code == 404
    assert await store.exports.expire() == 1
    async with store._clinics.acquire() as connection:
        for table in ("export_job", "export_file", "export_line"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_what_was_miscounted_is_never_said_to_be_complete(clinic, people, monkeypatch):
    store = clinic.stores["gateway"]
    begun = await kicked(clinic, people[0], "$export?_type=Condition")
    await heard(store)

    async def one_more(_self, _wanted):
        return 5

    monkeypatch.setattr(store_exports.Listing, "_found", one_more)
    assert await worked(store) == [True]
    answer = await clinic.send(people[0], "GET", place(begun.headers["content-location"]))
    assert answer.status_code == 422
    assert "could not be made" in answer.text


# What is told of it


async def test_kick_off_files_deletion_and_refusals_are_audited_and_files_are_disclosures(clinic, people):
    _, ada, bob, _ = people
    token = await clinic.token("hospital-system", kap_user=H1)
    found = await exported(clinic, token)
    await clinic.send(token, "GET", f"{found.status}x")
    await clinic.send(token, "DELETE", found.status)
    operator = await clinic.token(scope="kap/operate")
    store = clinic.stores["gateway"]
    rows = [one.row for one in await store.audit.rows() if one.row.does == "$export"]
    assert [(one.action, one.outcome, one.recipient) for one in rows] == [
        ("E", 0, H1), *[("R", 0, H1)] * len(found.manifest["output"]), ("D", 0, H1),
    ]  # fmt: skip
    assert {patient for one in rows for patient in one.patients} == {ada}
    refused = [one.row for one in await store.audit.rows() if one.row.outcome == 4]
    assert refused[-1].status == 404
    told = await store.audit.find(Wanted(DEFAULT_TENANT, (ada,), disclosed=True))
    assert len([one for one in told if one.row.does == "$export"]) == len(found.manifest["output"])
    assert await store.audit.find(Wanted(DEFAULT_TENANT, (bob,), disclosed=True)) == []
    assert operator
    assert token not in str(rows)


async def test_the_notice_of_42_cfr_part_2_goes_with_what_comes_of_a_programme(clinic, people):
    admin, ada, _, given = people
    token = await clinic.token("hospital-system", kap_user=H1)
    assert NOTICE not in (await exported(clinic, token)).said
    conditions = (await exported(clinic, admin, "$export?_type=Condition")).files["output"]
    of_ada = [one for one in conditions if one["subject"]["reference"] == f"Patient/{ada}"]
    made = next(one for one in of_ada if one["code"]["coding"][0]["code"] == "F33.1")
    label = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "42CFRPart2"}
    body = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"security": [label]}}]}
    assert (await clinic.send(admin, "POST", f"Condition/{made['id']}/$meta-add", body)).status_code == 200
    assert f"Condition/{made['id']}" not in (await exported(clinic, token)).names
    assert (await clinic.send(admin, "DELETE", f"Consent/{given['id']}")).status_code == 204
    await clinic.made(consent(ada, PATTERNS["P5"], part_2=True), admin)
    found = await exported(clinic, token)
    assert f"Condition/{made['id']}" in found.names
    assert NOTICE in found.said
    line = next(one for one in found.files["output"] if one["id"] == made["id"])
    assert line == (await clinic.send(token, "GET", f"Condition/{made['id']}")).json()
    assert NOTICE in str(line["meta"])


# A crash


WORKER = """
import asyncio, sys
from services.gateway.exporting.working import Exporting
from shared.store.store import Store
from tests.integration.security.exports import NEWS
async def main():
    store = await Store.connect(sys.argv[1], service="gateway")
    print("works", flush=True)
    await Exporting(store, "gateway", NEWS).run(lambda: None)
asyncio.run(main())
"""


STANDS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INTO export_file%'"


async def test_an_export_whose_worker_is_killed_is_made_whole_by_the_next_one(make_database):
    database = make_database("gateway")
    store = await Store.connect(database, service="gateway", max_size=3)
    try:
        for number in range(5):
            await store.write(Access.unrestricted(), write_of({"resourceType": "Patient", "id": f"p{number}"}))
        await heard(store)
        asked = Kept(Asked("system", "x", types=("Patient",)), Who("anybody", everything=True))
        kept = msgspec.json.encode(asked).decode()
        job = await store.exports.ask("one", "default", "anybody", kept, kept=timedelta(hours=1), most=5)
        async with store._clinics.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE export_file IN SHARE MODE")  # it stands still before its files
            worker = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WORKER, database, stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": "."},
            )  # fmt: skip
            try:
                assert await worker.stdout.readline() == b"works\n"
                for _ in range(400):
                    if await store._clinics.fetchval(STANDS):
                        break
                    await asyncio.sleep(0.05)
                assert await store._clinics.fetchval(STANDS)
                assert (await store.exports.find("one", "default")).state == "waiting"
            finally:
                worker.send_signal(signal.SIGKILL)
                await worker.wait()
        next_one = Exporting(store, "gateway", NEWS)
        async with asyncio.timeout(20):
            while (await store.exports.find("one", "default")).state == "waiting":
                await next_one.attempt(job)
                await asyncio.sleep(0.05)
        done = await store.exports.find("one", "default")
        assert done.state == "complete"
        [file] = await store.exports.files(done)
        assert file.lines == 5
        lines = [name async for some in store.exports.bodies(done, file, (Access.unrestricted(),)) for name, _ in some]
        assert lines == [f"Patient/p{number}" for number in range(5)]
    finally:
        await store.close()
