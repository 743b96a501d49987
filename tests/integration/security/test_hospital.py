"""A hospital that reads, by a token: of each patient what the patient's Consent permits it, and no more."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from services.gateway.forward import GatewayBackend
from services.gateway.owners import Owners
from services.gateway.service import SERVICE as GATEWAY
from shared.fhir.codes import ACT_CODE
from shared.fhir.json import parse
from shared.fhir.outcome import NotFound
from shared.http.app import create_fhir_app
from shared.runtime import running
from shared.runtime.app import App
from shared.security.bearer import bearer
from shared.security.notice import DISPLAY, NOTICE, RELATED
from shared.store.access import DEFAULT_TENANT, Access, Disclosure
from shared.store.audit import Wanted
from shared.testing.knowledge import all_is_heard, not_applied, not_read
from shared.testing.writes import write_of
from tests.integration.security.clinic import BASE, ISSUER, ROLES, key_of, settings
from tests.integration.security.consents import PATTERNS, consent, provision
from tests.integration.security.test_gate import ADA, BOB, allergy, total
from tests.integration.security.test_labels import condition

H1, H2 = "Organization/h1", "Organization/h2"


@pytest.fixture
async def ada(clinic):
    """Ada, with an allergy, a depression and a dependence; and Bob, of whom nothing is consented to."""
    admin = await clinic.token("clinic-admin")
    ada, bob = [(await clinic.made(one, admin))["id"] for one in (ADA, BOB)]
    for made in (allergy(ada), allergy(bob), condition(ada, "F33.1"), condition(ada, "F11.2")):
        await clinic.made(made, admin)
    return ada


async def counted(clinic, token, host="gateway"):
    """Return how many Patients, allergies and Conditions there are for the bearer."""
    asked = ("Patient", "AllergyIntolerance", "Condition?_total=accurate")
    return [total(await clinic.send(token, "GET", one, host=host)) for one in asked]


async def test_without_a_consent_a_hospital_learns_nothing_of_anybody(clinic, ada):
    hospital = await clinic.token("hospital-system", kap_user=H1)
    assert await counted(clinic, hospital) == [0, 0, 0]
    for path in (f"Patient/{ada}", f"Patient/{ada}/_history", f"Patient/{ada}/$everything"):
        assert (await clinic.send(hospital, "GET", path)).status_code == 404
    assert total(await clinic.send(hospital, "GET", "_history")) == 0
    found = parse((await clinic.send(hospital, "GET", "Patient?_has:Condition:patient:code=F11.2&_count=0")).content)
    assert found["total"] == 0


async def test_a_consent_and_its_withdrawal_count_from_the_answer_on(clinic, ada):
    admin = await clinic.token("clinic-admin")
    hospital, other = [await clinic.token("hospital-system", kap_user=one) for one in (H1, H2)]
    given = await clinic.made(consent(ada, PATTERNS["P2"]), admin)
    assert (await counted(clinic, hospital), await counted(clinic, other)) == ([1, 1, 2], [0, 0, 0])
    assert await counted(clinic, hospital, host="intake") == [1, 1, 2]
    assert total(await clinic.send(hospital, "GET", f"Patient/{ada}/$everything")) == 4
    where = f"Consent/{given['id']}"
    without = {**given, "provision": {**PATTERNS["P2"], "provision": [provision("deny", labels=["SUD"])]}}
    assert (await clinic.send(admin, "PUT", where, without)).status_code == 200
    assert await counted(clinic, hospital) == [1, 1, 1]
    withdrawn = {**without, "status": "inactive"}
    assert (await clinic.send(admin, "PUT", where, withdrawn)).status_code == 200
    assert (await counted(clinic, hospital), await counted(clinic, hospital, host="intake")) == ([0] * 3, [0] * 3)
    assert (await clinic.send(admin, "PUT", where, given)).status_code == 200
    assert await counted(clinic, hospital) == [1, 1, 2]
    assert (await clinic.send(admin, "DELETE", where)).status_code == 204
    assert await counted(clinic, hospital) == [0, 0, 0]


async def test_who_is_registered_without_a_role_is_told_what_consents_permit(clinic, ada):
    """Default deny outbound: a scope system/ alone opens nothing of a patient."""
    key = key_of("ES384")
    made = await clinic.register(key=key, scope="system/Condition.rs system/Patient.rs", kap_user=H1)
    assert made.status_code == 201, made.text
    answer = await clinic.asked("token", made.json()["client_id"], key)
    token = answer.json()["access_token"]
    assert total(await clinic.send(token, "GET", "Condition")) == 0
    await clinic.made(consent(ada, PATTERNS["P3"]))
    assert total(await clinic.send(token, "GET", "Condition")) == 1


async def test_a_partner_physician_is_told_what_patients_do_not_deny(clinic):
    admin = await clinic.token("clinic-admin")
    doctor = (await clinic.made({"resourceType": "Practitioner", "name": [{"family": "Okafor"}]}, admin))["id"]
    ada = (await clinic.made({**ADA, "generalPractitioner": [{"reference": f"Practitioner/{doctor}"}]}, admin))["id"]
    for made in (allergy(ada), condition(ada, "F11.2")):
        await clinic.made(made, admin)
    token = await clinic.token("partner-physician", kap_user=f"Practitioner/{doctor}")
    assert await counted(clinic, token) == [1, 1, 1]
    denied = await clinic.made(consent(ada, PATTERNS["P3"]), admin)
    assert await counted(clinic, token) == [1, 1, 0]
    assert (await clinic.send(admin, "DELETE", f"Consent/{denied['id']}")).status_code == 204
    await clinic.made(consent(ada, provision("deny", to=[f"Practitioner/{doctor}"])), admin)
    assert await counted(clinic, token) == [0, 0, 0]


async def test_an_operation_that_works_with_the_whole_record_is_not_for_who_is_told_by_consent(clinic, ada):
    scope = "system/Patient.rs system/Patient.$match system/Patient.$screen"
    key = key_of("ES384")
    made = await clinic.register(key=key, scope=scope, kap_user=H1)
    token = (await clinic.asked("token", made.json()["client_id"], key)).json()["access_token"]
    body = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": ADA}]}
    for path in ("Patient/$match", f"Patient/{ada}/$screen"):
        assert (await clinic.send(token, "POST", path, body)).status_code in (403, 404), path


async def as_it_runs(clinic):
    """Have the gateway ask how old its news of consents is, as it does where it runs ("late" is its host)."""
    who, _ = bearer(ISSUER, [BASE], clinic.http, origin=None, roles=ROLES)
    app, store = App(GATEWAY, settings("gateway"), shows_copies=True), clinic.stores["gateway"]
    clinic.wire.apps["late"] = create_fhir_app(
        GATEWAY, GatewayBackend(GATEWAY, store, Owners(clinic.http, {"intake": "http://intake/fhir"})),
        settings("gateway"), authenticate=who, consents_known=partial(running._consents_known, app, store),
    )  # fmt: skip
    return store


async def statuses(clinic, token, ada):
    paths = ("Patient", f"Patient/{ada}", f"Patient/{ada}/_history", "_history", f"Patient/{ada}/_history/1")
    paths += (f"Patient/{ada}/$everything",)
    return {(await clinic.send(token, "GET", path, host="late")).status_code for path in paths}


async def test_where_news_of_consents_is_too_old_nobody_outside_is_told_anything(clinic, ada):
    await clinic.made(consent(ada, PATTERNS["P1"]))
    hospital = await clinic.token("hospital-system", kap_user=H1)
    prescriber = await clinic.token("prescriber")
    store = await as_it_runs(clinic)
    assert await statuses(clinic, hospital, ada) == {503}  # intake was never heard of
    await all_is_heard(store, GATEWAY, ago=timedelta(seconds=120))
    assert await statuses(clinic, hospital, ada) == {503}
    assert await statuses(clinic, prescriber, ada) == {200}
    await all_is_heard(store, GATEWAY, ago=timedelta())
    assert await statuses(clinic, hospital, ada) == {200}


async def test_a_withdrawal_that_could_not_be_applied_is_not_known_however_new_the_other_news_is(clinic, ada):
    """Of the patient whose it is nothing is told, in any answer, by whichever record; others are told of as before."""
    admin, hospital = await clinic.token("clinic-admin"), await clinic.token("hospital-system", kap_user=H1)
    [bob] = [one["id"] for one in await found(clinic, admin, "Patient") if one["id"] != ada]
    same = {**ADA, "link": [{"other": {"reference": f"Patient/{ada}"}, "type": "seealso"}]}
    joined = (await clinic.made(same, admin))["id"]
    await clinic.made(allergy(joined), admin)
    for patient in (ada, bob, joined):
        await clinic.made(consent(patient, PATTERNS["P1"]), admin)
    store = await as_it_runs(clinic)
    await all_is_heard(store, GATEWAY, ago=timedelta())
    await not_applied(store, GATEWAY, "AllergyIntolerance/1", f"Patient/{ada}")
    await not_applied(store, GATEWAY, "Consent/2", f"Patient/{bob}", ago=timedelta(seconds=1))
    assert (await statuses(clinic, hospital, ada), await statuses(clinic, hospital, bob)) == ({200}, {200})
    await not_applied(store, GATEWAY, "Consent/1", f"Patient/{ada}")
    assert await of_whom(clinic, hospital) == {bob}
    assert (await statuses(clinic, hospital, bob), await statuses(clinic, admin, ada)) == ({200}, {200})
    never = (await clinic.send(hospital, "GET", "Patient/never", host="late")).text.replace("never", ada)
    assert (await clinic.send(hospital, "GET", f"Patient/{ada}", host="late")).text == never
    for one in await store.parking.list():
        await store.parking.drop(one.number)
    assert await of_whom(clinic, hospital) == {ada, bob, joined}


async def test_a_record_that_could_not_be_read_may_be_a_withdrawal(clinic, ada):
    """Of the patient whose key it has; of everybody where it says of no patient, or of no clinic."""
    admin, hospital = await clinic.token("clinic-admin"), await clinic.token("hospital-system", kap_user=H1)
    await clinic.made(consent(ada, PATTERNS["P1"]), admin)
    store = await as_it_runs(clinic)
    await all_is_heard(store, GATEWAY, ago=timedelta())
    for key, tenant, seen in (
        (f"Patient/{ada}", "default", set()), (f"Patient/{ada}", None, set()), ("Patient/other", "default", {ada}),
        (f"Patient/{ada}", "north", {ada}), (None, "default", None), (None, None, None), (None, "north", {ada}),
    ):  # fmt: skip
        await not_read(store, GATEWAY, key=key, tenant=tenant)
        if seen is None:
            assert await statuses(clinic, hospital, ada) == {503}, (key, tenant)
        else:
            assert await of_whom(clinic, hospital) == seen, (key, tenant)
        [parked] = await store.parking.list()
        await store.parking.drop(parked.number)
    assert await of_whom(clinic, hospital) == {ada}


async def found(clinic, token, path, host="gateway"):
    answer = await clinic.send(token, "GET", path, host=host)
    assert answer.status_code == 200, answer.text
    return [one["resource"] for one in answer.json().get("entry", ())]


async def of_whom(clinic, token):
    """Return of which patients the bearer is told by any kind of search, at "late"; each kind tells of the same."""
    by_other = "Patient?_has:AllergyIntolerance:patient:clinical-status=active"
    versions = await found(clinic, token, "_history?_count=100", "late")
    several = [
        {one["id"] for one in await found(clinic, token, "Patient", "late")},
        {one["id"] for one in await found(clinic, token, by_other, "late")},
        {one["patient"]["reference"][8:] for one in await found(clinic, token, "AllergyIntolerance", "late")},
        {one["id"] for one in versions if one["resourceType"] == "Patient"},
    ]
    assert [one for one in several if one != several[0]] == []
    return several[0]


async def test_who_reads_what_comes_of_a_programme_is_given_the_notice_and_the_consent_it_is_told_by(clinic, ada):
    """42 CFR 2.32, as with what is pushed: in reading, versions, histories, searches and $everything; and the audit."""
    admin = await clinic.token("clinic-admin")
    programme = condition(ada, "F11.2")
    programme["meta"] = {"security": [{"system": ACT_CODE, "code": "42CFRPart2"}]}
    made = (await clinic.made(programme, admin))["id"]
    hospital = await clinic.token("hospital-system", kap_user=H1)
    await clinic.made(consent(ada, PATTERNS["P1"]), admin)
    assert (await clinic.send(hospital, "GET", f"Condition/{made}")).status_code == 404
    given = await clinic.made(consent(ada, PATTERNS["P5"], part_2=True), admin)
    behind = f"Consent/{given['id']}/_history/1"
    for host in ("gateway", "intake"):
        paths = [f"Condition/{made}", f"Condition/{made}/_history/1", f"Condition/{made}/_history", "Condition"]
        paths += [f"Patient?_id={ada}&_revinclude=Condition:patient"]
        paths += [f"Patient/{ada}/$everything"] if host == "gateway" else []
        for path in paths:
            body = parse((await clinic.send(hospital, "GET", path, host=host)).content)
            told = [one["resource"] for one in body.get("entry", [{"resource": body}])]
            for one in told:
                notices = [each for each in one["meta"].get("extension", ()) if each["url"] == DISPLAY]
                assert notices == ([{"url": DISPLAY, "valueString": NOTICE}] if one["id"] == made else []), path
            [ours] = [one for one in told if one["id"] == made]
            [label] = [one for one in ours["meta"]["security"] if one["code"] == "42CFRPart2"]
            related = {each["valueRelatedArtifact"]["url"] for each in label["extension"] if each["url"] == RELATED}
            assert f"{BASE}/{behind}" in related, path
            row = (await clinic.stores[host].audit.find(Wanted(DEFAULT_TENANT), limit=1))[0].row
            assert behind in row.authorisation.split(", "), path
    plain = parse((await clinic.send(admin, "GET", f"Condition/{made}")).content)
    assert "extension" not in plain["meta"]  # it goes with what is told, and is not kept


async def test_what_goes_through_an_intermediary_is_listed_for_the_patient_by_whom_it_was_for(clinic, ada):
    """42 CFR 2.24: an exchange asks for its participants, each time by name; who it may not ask for is told nothing."""
    admin = await clinic.token("clinic-admin")
    marked = {**condition(ada, "F11.2"), "meta": {"security": [{"system": ACT_CODE, "code": "42CFRPart2"}]}}
    made = (await clinic.made(marked, admin))["id"]
    rule = provision("permit", why=["TREAT"], through=["Organization/hie"], provision=[provision("deny", to=[H2])])
    given = await clinic.made(consent(ada, rule, part_2=True), admin)
    exchange = await clinic.token("hospital-system", kap_user="Organization/hie")
    path = f"Condition/{made}"

    async def asked(token, whom=None, path=path):
        header = {} if whom is None else {"X-Kap-On-Behalf-Of": whom}
        return await clinic.send(token, "GET", path, **header)

    assert [(await asked(exchange, one)).status_code for one in (None, H1, H2)] == [200, 200, 404]
    assert total(await asked(exchange, H1, "Condition?_total=accurate")) == 3
    assert total(await asked(exchange, H2, "Condition?_total=accurate")) == 0
    assert (await asked(exchange, H1, f"Patient/{ada}/$everything")).status_code == 200
    assert [(await asked(exchange, one)).status_code for one in ("h1", "Patient/1", "Organization/h1?")] == [400] * 3
    hospital = await clinic.token("hospital-system", kap_user=H1)
    assert (await asked(hospital)).status_code == 404  # it is let be told through the exchange alone
    assert (await asked(hospital, "Organization/hie")).status_code == 404
    for token in (admin, await clinic.token("partner-physician", kap_user="Practitioner/gp")):
        assert (await asked(token, H1)).status_code == 403

    patient = await clinic.token("patient", kap_patient=ada)
    events = await found(clinic, patient, f"AuditEvent?patient={ada}&subtype=disclose&_count=50")
    said = set()
    for event in events:
        agents = {}
        for one in event["agent"]:
            agents.setdefault(one["type"]["coding"][0]["code"], []).append(one["who"].get("reference"))
        if event["outcome"] == "0" and "intermediary" in agents:
            said.add((*agents["intermediary"], *agents["IRCP"]))
            assert f"Consent/{given['id']}/_history/1" in str(event["entity"])
    assert said == {("Organization/hie", "Organization/hie"), ("Organization/hie", H1)}


async def test_who_could_not_know_of_a_resource_does_not_learn_that_it_was_deleted(clinic, ada):
    """What names a second patient, or was written by whom a Consent excepts: as if it never was, before and after."""
    admin = await clinic.token("clinic-admin")
    bob = (await clinic.made(BOB, admin))["id"]
    doctor = (await clinic.made({"resourceType": "Practitioner", "name": [{"family": "doc"}]}, admin))["id"]
    written = provision("deny", data=[{"meaning": "authoredby", "reference": {"reference": f"Practitioner/{doctor}"}}])
    await clinic.made(consent(ada, {**PATTERNS["P1"], "provision": [written]}), admin)
    tokens = [await clinic.token("hospital-system", kap_user=H1), await clinic.token("patient", kap_patient=ada)]

    def seen(by):
        return {
            "resourceType": "Observation", "status": "final", "code": {"text": "x"},
            "subject": {"reference": f"Patient/{ada}"}, "performer": [{"reference": by}],
        }  # fmt: skip

    group, excepted, plain = [
        await clinic.made(seen(by), admin) for by in (f"Patient/{bob}", f"Practitioner/{doctor}", "Organization/lab")
    ]
    for deleted in (False, True):
        for token, hidden, shown in zip(
            tokens, ((group, excepted), (group,)), ((plain,), (excepted, plain)), strict=True
        ):
            history = parse((await clinic.send(token, "GET", "Observation/_history")).content)
            told = {one["fullUrl"].rpartition("/")[2] for one in history.get("entry", ())}
            assert told == {one["id"] for one in shown}, history
            for one in hidden:
                never = (await clinic.send(token, "GET", "Observation/never")).text.replace("never", "-")
                answer = await clinic.send(token, "GET", f"Observation/{one['id']}")
                assert answer.status_code == 404
                assert answer.json()["issue"][0]["diagnostics"].replace(one["id"], "-") in never
                for path in ("_history", "_history/1", "_history/2"):
                    assert (await clinic.send(token, "GET", f"Observation/{one['id']}/{path}")).status_code == 404
            for one in shown:
                answer = await clinic.send(token, "GET", f"Observation/{one['id']}")
                assert answer.status_code == (410 if deleted else 200)
        if not deleted:
            for one in (group, excepted, plain):
                assert (await clinic.send(admin, "DELETE", f"Observation/{one['id']}")).status_code == 204


@pytest.mark.parametrize(
    "said",
    [
        {"policyRule": {"coding": [{"system": ACT_CODE, "code": "OPTOUT"}]}},
        {"category": [{"coding": [{"system": ACT_CODE, "code": "OPTOUTE"}]}]},
        {"policy": [{"uri": "http://terminology.hl7.org/CodeSystem/v3-ActCode#OPTOUT"}]},
        {"category": [{"coding": [{"system": ACT_CODE, "code": "EMRGONLY"}]}]},
    ],
    ids=["policyRule", "category", "policy.uri", "emergency"],
)
async def test_an_opt_out_counts_by_whichever_element_says_so(clinic, said):
    """One from elsewhere, which nothing asks for a provision: whom nothing but a denial keeps out is told nothing."""
    store = clinic.stores["intake"]
    everything = Access.unrestricted()
    out = {**consent("ada", {}), "id": "out", **said}
    del out["provision"]
    await store.write(everything, write_of({"resourceType": "Patient", "id": "ada"}))
    told = Disclosure(frozenset(("Practitioner/gp",)), frozenset(("TREAT",)), permitted=True)
    outside = Access.outside("default", told)
    assert (await store.read(outside, "Patient", "ada")).version == 1
    await store.write(everything, write_of(out))
    with pytest.raises(NotFound):
        await store.read(outside, "Patient", "ada")
    emergency = Access.outside("default", replace(told, purposes=frozenset(("ETREAT",))))
    if "EMRGONLY" in str(said):
        assert (await store.read(emergency, "Patient", "ada")).version == 1
    else:
        with pytest.raises(NotFound):
            await store.read(emergency, "Patient", "ada")
