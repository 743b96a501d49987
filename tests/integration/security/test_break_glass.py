"""Breaking the glass: in an emergency somebody outside reads of one patient what no consent lets him be told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.intake.service import intake
from shared.fhir.json import parse
from shared.fhir.query import parse_search
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.labelling import labels_of_policy
from shared.runtime.policy import load_policy
from shared.security.audit import Auditing
from shared.security.bearer import bearer
from shared.security.glass import HEADER
from shared.store.access import Access, Disclosure
from shared.testing.writes import write_of
from tests.integration.security.clinic import BASE, ISSUER, ROLES, key_of, settings
from tests.integration.security.consents import PATTERNS, consent
from tests.integration.security.test_consent import condition as labelled
from tests.integration.security.test_gate import ADA, BOB, allergy, total
from tests.integration.security.test_labels import condition

H1, H2 = "Organization/h1", "Organization/h2"
OFFICER = {
    "resourceType": "PractitionerRole",
    "active": True,
    "code": [{"coding": [{"system": "https://kap-exchange.org/fhir/CodeSystem/kap", "code": "privacy-officer"}]}],
    "telecom": [{"system": "email", "value": "privacy@clinic.example"}],
}
SAID = {
    "reason": "Found unconscious, no history at hand",
    "emergency": "Respiratory depression",
    "personnel": "Dr. A. Okafor",
    "facility": "St. Anna, emergency department",
}


def declared(**said):
    given = [{"name": name, "valueString": value} for name, value in {**SAID, **said}.items() if value is not None]
    return {"resourceType": "Parameters", "parameter": given}


@pytest.fixture
async def er(clinic, monkeypatch):
    """Ada and Bob, who opted out; intake with its own rules, by a clock that the test sets."""
    monkeypatch.setattr("services.gateway.copies.EVENT_SECONDS", 0.02)  # no events come here
    clinic.intake_late = timedelta()
    service = intake(load_policy(), lambda: datetime.now(UTC) + clinic.intake_late)
    service = replace(service, labels=labels_of_policy(None))
    who, _ = bearer(ISSUER, [BASE], clinic.http, origin="intake", roles=ROLES)
    clinic.wire.apps["intake"] = create_fhir_app(
        service,
        LocalBackend(service, clinic.stores["intake"]),
        settings("intake"),
        authenticate=who,
        auditing=Auditing(clinic.stores["intake"].audit, "intake", "1"),
    )
    admin = await clinic.token("clinic-admin")
    clinic.admin = admin
    clinic.ada, clinic.bob = [(await clinic.made(one, admin))["id"] for one in (ADA, BOB)]
    for one in (clinic.ada, clinic.bob):
        for made in (allergy(one), condition(one, "F11.2"), consent(one, PATTERNS["P7"], category=OPT_OUT)):
            await clinic.made(made, admin)
    await clinic.made(OFFICER, admin)
    return clinic


OPT_OUT = [
    {"coding": [{"system": "http://loinc.org", "code": "59284-0"}]},
    {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTOUT"}]},
]


async def broke(er, token, patient=None, **said):
    answer = await er.send(token, "POST", f"Patient/{patient or er.ada}/$break-the-glass", declared(**said))
    assert answer.status_code == 200, answer.text
    return parse(answer.content)


async def counted(er, token, task=None, host="gateway"):
    headers = {} if task is None else {HEADER: f"Task/{task['id']}"}
    asked = ("Patient", "AllergyIntolerance", "Condition?_total=accurate")
    return [total(await er.send(token, "GET", one, host=host, **headers)) for one in asked]


async def test_in_an_emergency_one_record_is_open_to_who_says_why_and_to_his_reads_that_say_so(er):
    hospital = await er.token("hospital-system", kap_user=H1)
    assert await counted(er, hospital) == [0, 0, 0]
    task = await broke(er, hospital)
    for host in ("gateway", "intake"):
        assert await counted(er, hospital, task, host) == [1, 1, 1], host
    assert await counted(er, hospital) == [0, 0, 0]  # what is not said is not opened
    named = {HEADER: f"Task/{task['id']}"}
    everything = parse((await er.send(hospital, "GET", f"Patient/{er.ada}/$everything", **named)).content)
    assert er.bob not in str(everything)
    assert {one["resource"]["resourceType"] for one in everything["entry"]} >= {"Patient", "Condition"}
    for path in (f"Patient/{er.bob}", f"Patient/{er.bob}/_history", f"Patient/{er.bob}/$everything"):
        assert (await er.send(hospital, "GET", path, **named)).status_code == 404, path
    gets = [{"request": {"method": "GET", "url": f"Patient/{one}"}} for one in (er.ada, er.bob)]
    batch = await er.send(hospital, "POST", "", {"resourceType": "Bundle", "type": "batch", "entry": gets}, **named)
    assert [one["response"]["status"][:3] for one in parse(batch.content)["entry"]] == ["200", "404"]


async def test_the_task_says_what_42_cfr_2_51_asks_and_the_privacy_officer_is_told(er):
    hospital = await er.token("hospital-system", kap_user=H1)
    task = await broke(er, hospital)
    held = parse((await er.send(er.admin, "GET", f"Task/{task['id']}", host="intake")).content)
    assert held["requester"]["reference"] == H1
    assert held["for"]["reference"] == f"Patient/{er.ada}"
    assert held["reasonCode"]["text"] == SAID["reason"]
    assert {one["valueString"] for one in held["input"]} == {SAID["emergency"], SAID["personnel"], SAID["facility"]}
    assert held["executionPeriod"]["start"] < held["executionPeriod"]["end"] < held["restriction"]["period"]["end"]
    told = parse((await er.send(er.admin, "GET", "Communication?_count=10", host="intake")).content)["entry"]
    assert [one["resource"]["about"] for one in told] == [[{"reference": f"Task/{task['id']}"}]]


async def test_each_read_is_in_the_audit_as_breaking_the_glass_and_the_patient_sees_it(er):
    hospital = await er.token("hospital-system", kap_user=H1)
    task = await broke(er, hospital)
    await er.send(hospital, "GET", f"Patient/{er.ada}", **{HEADER: f"Task/{task['id']}"})
    patient = await er.token("patient", kap_user=f"Patient/{er.ada}")
    for host in ("gateway", "intake"):
        found = parse((await er.send(patient, "GET", "AuditEvent?subtype=disclose", host=host)).content)["entry"]
        for one in (entry["resource"] for entry in found):
            purposes = {coding["code"] for purpose in one["purposeOfEvent"] for coding in purpose["coding"]}
            assert purposes == {"BTG", "ETREAT"}, host
        marked = [one["resource"] for one in found if one["resource"].get("outcomeDesc") == SAID["reason"]]
        assert {"reference": f"Task/{task['id']}"} in [one["what"] for one in marked[0]["entity"]], host


async def test_process_notes_stay_closed(er):
    """A resource that bears PSYTHPN, which came here by another way than the API, which refuses it."""
    store = er.stores["gateway"]
    whole = Access.unrestricted("notes")
    for one in ({"resourceType": "Patient", "id": "ada"}, labelled("c1", []), labelled("c2", ["PSYTHPN"])):
        await store.write(whole, write_of(one))
    told = Disclosure(frozenset((H1,)), frozenset(("TREAT",)), opened="ada")
    page = await store.search(Access.outside("notes", told), parse_search("Condition", [], strict=True))
    assert [one.id for one in page.entries] == ["c1"]


async def test_it_is_of_who_broke_it_for_its_time_and_ends_when_the_clinic_ends_it(er):
    hospital, other = [await er.token("hospital-system", kap_user=one) for one in (H1, H2)]
    task = await broke(er, hospital)
    named = {HEADER: f"Task/{task['id']}"}
    assert (await er.send(other, "GET", "Patient", **named)).status_code == 403
    unknown = await er.send(other, "GET", "Patient", **{HEADER: "Task/none"})
    assert parse(unknown.content) == parse((await er.send(other, "GET", "Patient", **named)).content)
    assert (await er.send(hospital, "GET", "Patient", **{HEADER: "yes"})).status_code == 400
    er.intake_late = -timedelta(hours=2)
    over = await broke(er, hospital)
    refused = await er.send(hospital, "GET", "Patient", **{HEADER: f"Task/{over['id']}"})
    assert refused.status_code == 403
    assert "$break-the-glass" in refused.text
    er.intake_late = timedelta()
    person = (await er.made({"resourceType": "Practitioner", "name": [{"family": "Ito"}]}, er.admin))["id"]
    ended = {**task, "status": "cancelled", "owner": {"reference": f"Practitioner/{person}"}}
    changed = await er.send(er.admin, "PUT", f"Task/{task['id']}", ended)
    assert changed.status_code == 200, changed.text
    assert (await er.send(hospital, "GET", "Patient", **named)).status_code == 403
    assert (await er.send(er.admin, "DELETE", f"Task/{task['id']}")).status_code == 422


async def test_who_may_not_break_it_is_told_what_to_do(er):
    path = f"Patient/{er.ada}/$break-the-glass"
    hospital, nobody = await er.token("hospital-system", kap_user=H1), await er.token("hospital-system")
    key = key_of("ES384")
    scope = "system/Patient.rs system/Patient.$* system/Patient.$break-the-glass"
    made = await er.register(key=key, scope=scope, kap_user=H1)
    without_role = (await er.asked("token", made.json()["client_id"], key)).json()["access_token"]
    for token in (er.admin, await er.token("prescriber"), await er.token("front-desk"), nobody, without_role):
        refused = await er.send(token, "POST", path, declared())
        assert refused.status_code == 403, refused.text
        assert parse(refused.content)["issue"][0]["diagnostics"]
    task = await broke(er, hospital)
    for token in (er.admin, nobody, without_role):
        answer = await er.send(token, "GET", "Patient", **{HEADER: f"Task/{task['id']}"})
        assert answer.status_code == 403
    for said in ({"reason": None}, {"emergency": "?"}, {"personnel": ""}, {"other": "thing"}):
        assert (await er.send(hospital, "POST", path, declared(**said))).status_code == 400, said
    assert (await er.send(hospital, "POST", "Patient/none/$break-the-glass", declared())).status_code == 404


async def test_nobody_makes_or_widens_what_opens_a_record_by_hand(er):
    hospital = await er.token("hospital-system", kap_user=H1)
    task = await broke(er, hospital)
    forged = {name: value for name, value in task.items() if name not in {"id", "meta"}}
    for token in (er.admin, await er.token("prescriber")):
        assert (await er.send(token, "POST", "Task", forged)).status_code in (403, 422)
    longer = {**task, "executionPeriod": {**task["executionPeriod"], "end": "2099-01-01T00:00:00Z"}}
    another = {**task, "for": {"reference": f"Patient/{er.bob}"}}
    for changed in (longer, another):
        assert (await er.send(er.admin, "PUT", f"Task/{task['id']}", changed)).status_code == 422


async def test_a_partner_physician_breaks_it_for_his_own_patients_only(er):
    doctor = (await er.made({"resourceType": "Practitioner", "name": [{"family": "Okafor"}]}, er.admin))["id"]
    own = {**BOB, "generalPractitioner": [{"reference": f"Practitioner/{doctor}"}]}
    his = (await er.made(own, er.admin))["id"]
    await er.made(consent(his, PATTERNS["P7"], category=OPT_OUT), er.admin)
    token = await er.token("partner-physician", kap_user=f"Practitioner/{doctor}")
    refused = await er.send(token, "POST", f"Patient/{er.ada}/$break-the-glass", declared())
    assert refused.status_code == 404
    assert await counted(er, token) == [0, 0, 0]
    assert (await counted(er, token, await broke(er, token, his)))[0] == 1
