"""Two clinics in one installation: neither learns of the other by anything it asks, at the gateway or at a service."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
import pytest

from shared.fhir.json import parse
from shared.http.app import create_fhir_app
from shared.http.audit_ops import audit_routes
from shared.http.local import LocalBackend
from shared.security.audit import Auditing
from shared.security.bearer import bearer
from tests.integration.security.clinic import BASE, INTAKE, ISSUER, ROLES, key_of, settings
from tests.integration.security.consents import PATTERNS, consent
from tests.integration.security.test_gate import allergy

MRN = {"system": "urn:mrn", "value": "0815"}


def person(family: str):
    return {
        "resourceType": "Patient",
        "identifier": [MRN],
        "name": [{"family": family}],
        "gender": "female",
        "birthDate": "1990-01-01",
    }


def of(patient: str, text: str):
    return {**allergy(patient), "code": {"text": text}}


def asked(own: str, others: str, others_allergy: str) -> list[str]:
    """Return what one clinic may ask, about its own patient and about what is of the other one."""
    return [
        "Patient",
        "Patient?_total=accurate&_count=0",
        "Patient?_summary=count",
        "Patient?family=Northern",
        "Patient?family=Lovelace",
        f"Patient?identifier={quote('urn:mrn|0815')}",
        "Patient?birthdate=1990&_sort=-_lastUpdated",
        f"Patient?_id={own},{others}",
        "Patient?_has:AllergyIntolerance:patient:clinical-status=active",
        "Patient?_revinclude=AllergyIntolerance:patient",
        "AllergyIntolerance?patient.family=Northern",
        "AllergyIntolerance?patient.identifier=0815&_include=AllergyIntolerance:patient",
        f"AllergyIntolerance?patient=Patient/{others}",
        "AllergyIntolerance?clinical-status=active",
        "?_type=Patient,AllergyIntolerance",
        "Patient/_history",
        "_history",
        *(f"Patient/{id_}{of_it}" for id_ in (own, others) for of_it in ("", "/_history", "/_history/1")),
        f"AllergyIntolerance/{others_allergy}",
    ]


@pytest.fixture
async def two(clinic):
    """Return the tokens of the administrators of the north and of the south."""
    return [await clinic.token("clinic-admin", kap_tenant=name) for name in ("north", "south")]


@pytest.fixture
async def north(clinic, two):
    """What would be found by each question, were it not another clinic's: a Patient and his allergy, by their ids."""
    [token, _] = two
    patient = (await clinic.made(person("Northern"), token))["id"]
    return patient, (await clinic.made(of(patient, "rubber"), token))["id"]


async def answers(clinic, token, host, questions, people):
    """Return what each question is answered; ids and times of the Bundles themselves apart."""
    told = {}
    for path in (*questions, *([f"Patient/{one}/$everything" for one in people] if host == "gateway" else ())):
        answer = await clinic.send(token, "GET", path, host=host)
        body = parse(answer.content)
        if body["resourceType"] == "Bundle":
            body = {name: value for name, value in body.items() if name not in ("id", "meta")}
        told[path] = (answer.status_code, body, answer.headers.get("etag"), answer.headers.get("last-modified"))
    return told


@pytest.mark.parametrize("host", ["gateway", "intake"])
async def test_what_a_clinic_is_answered_does_not_change_by_what_another_one_holds(clinic, two, host):
    of_north, of_south = two
    own = (await clinic.made(person("Lovelace"), of_south))["id"]
    await clinic.made(of(own, "latex"), of_south)
    others = "01990d2c-7d1e-7c3a-9b1f-6a54e0b6d2c1"
    before = await answers(clinic, of_south, host, asked(own, others, others), (own, others))
    patient = (await clinic.made(person("Northern"), of_north))["id"]
    theirs = (await clinic.made(of(patient, "rubber"), of_north))["id"]
    after = await answers(clinic, of_south, host, asked(own, patient, theirs), (own, patient))
    for (question, now), then in zip(after.items(), before.values(), strict=True):
        said = msgspec.json.encode(now[1]).decode().replace(patient, others).replace(theirs, others)
        assert (now[0], said, *now[2:]) == (then[0], msgspec.json.encode(then[1]).decode(), *then[2:]), question
    for token, ids in ((of_north, (patient, own)), (of_south, (own, patient))):
        found = [await clinic.send(token, "GET", f"Patient/{one}", host=host) for one in ids]
        assert [one.status_code for one in found] == [200, 404]
        assert parse((await clinic.send(token, "GET", "Patient?_summary=count", host=host)).content)["total"] == 1


async def test_a_condition_of_a_write_sees_the_writers_clinic_only(clinic, two, north):
    of_north, of_south = two
    once = {"If-None-Exist": f"identifier={quote('urn:mrn|0815')}"}
    made = await clinic.send(of_south, "POST", "Patient", person("Lovelace"), **once)
    assert made.status_code == 201
    again = await clinic.send(of_south, "POST", "Patient", person("Lovelace"), **once)
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    changed = of(made.json()["id"], "latex")
    answer = await clinic.send(of_south, "PUT", "AllergyIntolerance?clinical-status=active", changed)
    assert answer.status_code == 201, answer.text  # nothing of the south's matched: it is made
    assert answer.json()["id"] != north[1]
    assert (await clinic.send(of_north, "GET", f"AllergyIntolerance/{north[1]}")).json()["meta"]["versionId"] == "1"


async def test_another_clinics_resource_is_as_one_that_never_was(clinic, two, north):
    of_north, of_south = two
    patient, theirs = north
    never = "01990d2c-7d1e-7c3a-9b1f-6a54e0b6d2c1"
    patch = [{"op": "add", "path": "/active", "value": False}]
    for method, path, body, kind in (
        ("DELETE", "AllergyIntolerance/{}", None, "fhir"),
        ("PATCH", "Patient/{}", patch, "json-patch"),
        ("PUT", "Patient/{}", person("Lovelace"), "fhir"),
        ("POST", "AllergyIntolerance", "refers", "fhir"),
    ):
        told = []
        for id_, patient_ in ((theirs if "Allergy" in path else patient, patient), (never, never)):
            sent = allergy(patient_) if body == "refers" else body
            if method == "PUT":
                sent = {**person("Lovelace"), "id": id_}
            headers = {"Content-Type": f"application/{kind}+json"}
            answer = await clinic.send(of_south, method, path.format(id_), sent, **headers)
            told.append((answer.status_code, answer.text.replace(id_, never).replace(patient_, never)))
        if method == "POST":  # a reference is kept as it was written, and leads nowhere
            told = [one[:1] for one in told]
        assert told[0] == told[1], (method, path)
    kept = (await clinic.send(of_north, "GET", f"Patient/{patient}")).json()
    assert (kept["meta"]["versionId"], "active" in kept) == ("1", False)
    assert (await clinic.send(of_north, "GET", f"AllergyIntolerance/{theirs}")).status_code == 200


async def test_a_link_to_the_next_page_is_of_no_use_to_another_clinic(clinic, two, north):
    of_north, of_south = two
    await clinic.made(person("Northern"), of_north)
    page = (await clinic.send(of_north, "GET", "Patient?_count=1")).json()
    [link] = [one["url"] for one in page["link"] if one["relation"] == "next"]
    path = link.partition("/fhir/")[2]
    assert (await clinic.send(of_north, "GET", path)).status_code == 200
    stolen = await clinic.send(of_south, "GET", path)
    assert stolen.status_code in (400, 404, 410)
    assert "Northern" not in stolen.text


async def test_a_batch_reaches_the_writers_clinic_only(clinic, two, north):
    of_north, of_south = two
    patient, theirs = north
    urls = (f"Patient/{patient}", "Patient?family=Northern", f"AllergyIntolerance/{theirs}")
    entry = [
        {"request": {"method": method, "url": url}} for method, url in zip(("GET", "GET", "DELETE"), urls, strict=True)
    ]
    answer = await clinic.send(of_south, "POST", "", {"resourceType": "Bundle", "type": "batch", "entry": entry})
    assert answer.status_code == 200, answer.text
    read, found, deleted = answer.json()["entry"]
    assert read["response"]["status"].startswith("404")
    assert not found["resource"].get("entry")
    assert not deleted["response"]["status"].startswith("5")
    assert (await clinic.send(of_north, "GET", f"AllergyIntolerance/{theirs}")).status_code == 200


async def test_only_who_runs_the_installation_names_the_clinic_of_a_token(clinic):
    key = key_of("ES384")
    client = (await clinic.register(key=key, scope="system/Patient.rs")).json()["client_id"]
    assert (await clinic.asked("token", client, key, kap_tenant="default")).status_code == 200
    for name in ("north", "*", ""):
        answer = await clinic.asked("token", client, key, kap_tenant=name)
        assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client"), name
    for name in ("*", " north", "n" * 65, "north/south"):
        answer = await clinic.asked("token", "operator", clinic.operator, kap_role="auditor", kap_tenant=name)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), name


async def test_clients_and_people_are_of_the_clinic_that_registered_them(clinic, two):
    manager = [await clinic.token(scope="kap/clients kap/users", kap_tenant=name) for name in ("north", "south")]
    key = key_of("ES384")
    said = {"client_name": "north's", "jwks": {"keys": [key.as_dict(private=False)]}, "scope": "system/Patient.rs"}
    headers = [{"Authorization": f"Bearer {one}"} for one in manager]
    made = await clinic.http.post(f"{ISSUER}/auth/register", json=said, headers=headers[0])
    assert made.status_code == 201, made.text
    listed = [(await clinic.http.get(f"{ISSUER}/auth/clients", headers=one)).json()["clients"] for one in headers]
    assert [[one["client_name"] for one in each] for each in listed] == [["north's"], []]
    path = f"{ISSUER}/auth/clients/{made.json()['client_id']}"
    assert (await clinic.http.delete(path, headers=headers[1])).status_code == 404
    read = {"client_name": "reads", "jwks": said["jwks"], "kap_role": "clinic-admin"}
    [of_north, of_south] = [
        (await clinic.http.post(f"{ISSUER}/auth/register", json=read, headers=one)).json()["client_id"]
        for one in headers
    ]
    await clinic.made(person("Northern"), two[0])
    for client, count in ((of_north, 1), (of_south, 0)):
        token = (await clinic.asked("token", client, key)).json()["access_token"]
        assert (await clinic.send(token, "GET", "Patient?_summary=count")).json()["total"] == count


async def test_the_accounting_of_disclosures_is_of_the_clinic_that_is_asked_about(clinic):
    north = await clinic.token("clinic-admin", kap_tenant="north")
    patient = (await clinic.made(person("Northern"), north))["id"]
    await clinic.made(consent(patient, PATTERNS["P1"]), north)
    hospital = await clinic.token("hospital-system", kap_user="Organization/h1", kap_tenant="north")
    assert (await clinic.send(hospital, "GET", f"Patient/{patient}")).status_code == 200
    audit = clinic.stores["gateway"].audit
    who, _ = bearer(ISSUER, [BASE], clinic.http, origin="intake", roles=ROLES)
    clinic.wire.apps["ops"] = create_fhir_app(
        INTAKE, LocalBackend(INTAKE, clinic.stores["intake"]), settings("intake"), authenticate=who,
        routes=audit_routes(audit, BASE), auditing=Auditing(audit, "gateway", "1"),
    )  # fmt: skip
    operator = {"Authorization": f"Bearer {await clinic.token(scope='kap/operate')}"}

    async def disclosed(query):
        url = f"http://ops/ops/audit/disclosures?patient={patient}{query}"
        answer = await clinic.http.get(url, headers=operator)
        assert answer.status_code == 200, answer.text
        return len(parse(answer.content)["disclosures"])

    assert [await disclosed(query) for query in ("&clinic=north", "&clinic=south", "")] == [1, 0, 0]
    auditor = await clinic.token("auditor", kap_tenant="north")
    found = await clinic.send(auditor, "GET", f"AuditEvent?patient={patient}&subtype=disclose")
    assert parse(found.content)["total"] == 1, "the clinic's auditor asks for the same by FHIR"
    found = await clinic.send(auditor, "GET", f"AuditEvent?patient={patient}&subtype=/ops/audit/disclosures")
    assert parse(found.content)["total"] == 1, "and sees that the operator asked"
    answer = await clinic.http.get("http://ops/ops/audit", headers={"Authorization": f"Bearer {auditor}"})
    assert answer.status_code == 403, "the rows of all clinics are the operator's"
    answer = parse((await clinic.http.get("http://ops/ops/audit", headers=operator)).content)
    assert (answer["more"], len(answer["rows"]) > 3) == (False, True)
