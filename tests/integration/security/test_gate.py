"""At the gateway and at a service: who may do what with a token, and what a refusal tells."""

from __future__ import annotations

import pytest

from shared.fhir.json import parse
from shared.store.access import Access
from tests.integration.security.clinic import BASE, key_of

ADA = {"resourceType": "Patient", "name": [{"family": "Lovelace"}], "gender": "female", "birthDate": "1990-01-01"}
BOB = {"resourceType": "Patient", "name": [{"family": "Babbage"}], "gender": "male", "birthDate": "1990-01-01"}


def reading(patient, value=80, **more):
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "heart rate"},
        "subject": {"reference": f"Patient/{patient}"},
        "valueQuantity": {"value": value, "unit": "/min"},
        "extension": [{"url": "https://kap-exchange.org/fhir/StructureDefinition/intake-measurement",
                       "valueBoolean": True}],
        **more,
    }  # fmt: skip


@pytest.fixture
async def two(clinic):
    """Ada and Bob, and an allergy of each."""
    ids = {}
    for name, patient in (("ada", ADA), ("bob", BOB)):
        ids[name] = (await clinic.made(patient))["id"]
        ids[f"of {name}"] = (await clinic.made(allergy(ids[name])))["id"]
    return ids


def allergy(patient):
    return {
        "resourceType": "AllergyIntolerance",
        "clinicalStatus": {
            "coding": [
                {"system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active"}
            ]
        },
        "code": {"text": "latex"},
        "patient": {"reference": f"Patient/{patient}"},
    }


def total(answer):
    assert answer.status_code == 200, answer.text
    return len(parse(answer.content).get("entry", []))


async def test_without_a_token_the_server_tells_of_itself_and_of_nothing_else(clinic):
    assert (await clinic.send(None, "GET", "metadata")).status_code == 200
    for method, path in (
        ("GET", "Patient"),
        ("GET", "Patient/1"),
        ("GET", "Patient/1/_history"),
        ("GET", "_history"),
        ("GET", "?_type=Patient"),
        ("GET", "Patient/1/$everything"),
        ("GET", "Patient/1/$summary"),
        ("POST", "Patient/$match"),
        ("POST", "Patient"),
        ("PUT", "Patient/1"),
        ("DELETE", "Patient/1"),
    ):
        body = None if method in ("GET", "DELETE") else {"resourceType": "Patient", "id": "1"}
        answer = await clinic.send(None, method, path, body)
        assert answer.status_code == 401, f"{method} {path}: {answer.text}"
        assert answer.headers["www-authenticate"] == 'Bearer realm="kap"'
        assert parse(answer.content)["issue"][0]["code"] == "login"


async def test_a_token_that_is_not_believed_is_refused_even_where_none_is_needed(clinic):
    answer = await clinic.send("a.b.c", "GET", "metadata")
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_a_refusal_names_the_scope_that_is_missing_and_nothing_of_the_record(clinic, two):
    token = await clinic.token(scope="system/Patient.rs")
    for path in (f"AllergyIntolerance/{two['of ada']}", "AllergyIntolerance/nobody", "AllergyIntolerance"):
        answer = await clinic.send(token, "GET", path)
        letter = "r" if "/" in path else "s"
        assert answer.status_code == 403
        assert answer.headers["www-authenticate"] == (
            f'Bearer realm="kap", error="insufficient_scope", scope="system/AllergyIntolerance.{letter}"'
        )
        assert parse(answer.content)["issue"][0]["code"] == "forbidden"


async def test_each_permission_is_of_its_own_letter(clinic, two):
    ada = two["ada"]
    body = {**ADA, "id": ada}
    asked = {
        "c": ("POST", "Patient", ADA),
        "r": ("GET", f"Patient/{ada}", None),
        "u": ("PUT", f"Patient/{ada}", body),
        "s": ("GET", "Patient?name=lovelace", None),
    }
    for having in asked:
        token = await clinic.token(scope=f"system/Patient.{having}")
        for letter, (method, path, resource) in asked.items():
            answer = await clinic.send(token, method, path, resource)
            expected = {200, 201} if letter == having else {403}
            assert answer.status_code in expected, f"{having} asked for {letter}: {answer.text}"


async def test_a_search_may_not_lead_through_what_may_not_be_searched(clinic, two):
    token = await clinic.token(scope="system/Patient.rs")
    for query in (
        "Patient?_has:AllergyIntolerance:patient:code=x",
        "Patient?_revinclude=AllergyIntolerance:patient",
        "Patient?general-practitioner:Practitioner.family=x",
        "?_type=Patient,AllergyIntolerance",
    ):
        assert (await clinic.send(token, "GET", query)).status_code == 403, query
    assert total(await clinic.send(token, "GET", "Patient?_revinclude=*")) == 2
    assert total(await clinic.send(token, "GET", "_history")) == 2


async def test_how_a_search_was_answered_is_told_to_operators_only(clinic, two):
    token = await clinic.token("patient", kap_patient=two["ada"])
    answer = await clinic.send(token, "GET", "Patient?_explain=true")
    assert answer.status_code == 403
    assert "kap/operate" in answer.headers["www-authenticate"]
    operator = await clinic.token(scope="user/*.rs kap/operate")
    assert (await clinic.send(operator, "GET", "Patient?_explain=true")).status_code == 200


async def test_what_the_gateway_sends_on_is_judged_by_the_owner_itself(clinic):
    token = await clinic.token(scope="system/Patient.cr")
    made = parse((await clinic.send(token, "POST", "Patient", ADA)).content)
    assert (await clinic.send(token, "GET", f"Patient/{made['id']}")).status_code == 200
    assert (await clinic.send(token, "GET", f"Patient/{made['id']}", host="intake")).status_code == 200
    for host in ("gateway", "intake"):
        assert (await clinic.send(None, "POST", "Patient", ADA, host=host)).status_code == 401
        assert (await clinic.send(token, "GET", "Patient", host=host)).status_code == 403


async def test_a_patient_sees_what_is_his_own_and_of_others_not_that_it_is_there(clinic, two):
    token = await clinic.token("patient", kap_patient=two["ada"])
    assert total(await clinic.send(token, "GET", "Patient")) == 1
    assert total(await clinic.send(token, "GET", "AllergyIntolerance?_total=accurate")) == 1
    assert total(await clinic.send(token, "GET", f"Patient/{two['ada']}/$everything")) == 2
    for path in (f"Patient/{two['bob']}", f"AllergyIntolerance/{two['of bob']}", f"Patient/{two['bob']}/$everything"):
        hidden = await clinic.send(token, "GET", path)
        nothing = await clinic.send(token, "GET", path.replace(two["bob"], "nobody").replace(two["of bob"], "nothing"))
        assert hidden.status_code == nothing.status_code == 404
        assert hidden.text.replace(two["bob"], "nobody").replace(two["of bob"], "nothing") == nothing.text
    assert total(await clinic.send(token, "GET", f"AllergyIntolerance?patient={two['bob']}")) == 0


async def test_a_patients_page_link_does_not_open_more_to_him_than_he_may_see(clinic, two):
    whole = await clinic.token("clinic-admin")
    page = parse((await clinic.send(whole, "GET", "AllergyIntolerance?_count=1")).content)
    link = next(one["url"] for one in page["link"] if one["relation"] == "next")
    mine = await clinic.token("patient", kap_patient=two["ada"])
    answer = await clinic.http.get(link, headers={"Authorization": f"Bearer {mine}"})
    assert total(answer) == 0


async def test_what_cannot_be_narrowed_is_refused_to_a_narrowed_token(clinic, two):
    token = await clinic.token(scope="patient/*.cruds", kap_patient=two["ada"])
    own = allergy(two["ada"])
    entry = {"resource": own, "request": {"method": "POST", "url": "AllergyIntolerance"}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    put = {
        "resource": {**own, "id": two["of ada"]},
        "request": {"method": "PUT", "url": f"AllergyIntolerance/{two['of ada']}"},
    }
    asking = {**entry, "request": {**entry["request"], "ifNoneExist": "code=x"}}
    refused = [
        *[await clinic.send(token, "POST", "", {**bundle, "entry": [entry, one]}) for one in (put, asking)],
        await clinic.send(token, "POST", "AllergyIntolerance", own, **{"If-None-Exist": "code=x"}),
        await clinic.send(token, "PUT", "AllergyIntolerance?code=x", own),
        await clinic.send(token, "DELETE", "AllergyIntolerance?code=x"),
        await clinic.send(token, "POST", f"Patient/{two['ada']}/$screen"),
        await clinic.send(token, "POST", "Patient/$match", {"resourceType": "Parameters"}),
        await clinic.send(token, "PATCH", f"Patient/{two['ada']}", {"gender": "male"}),
    ]
    assert [one.status_code for one in refused] == [403] * len(refused)
    batch = {**bundle, "type": "batch", "entry": [
        entry,
        {"request": {"method": "GET", "url": f"Patient/{two['bob']}"}},
        {"request": {"method": "GET", "url": f"Patient/{two['ada']}"}},
    ]}  # fmt: skip
    answer = parse((await clinic.send(token, "POST", "", batch)).content)
    assert [one["response"]["status"][:3] for one in answer["entry"]] == ["201", "404", "200"]


async def test_a_narrowed_token_writes_nothing_outside_and_learns_nothing_by_trying(clinic, two):
    token = await clinic.token(scope="patient/*.cruds", kap_patient=two["ada"])
    for other in (two["bob"], "nobody"):
        answer = await clinic.send(token, "POST", "AllergyIntolerance", allergy(other))
        assert answer.status_code == 403
        assert parse(answer.content)["issue"][0]["diagnostics"] == (
            "The AllergyIntolerance refers to a Patient that is not there for you."
        )
    theirs = {**allergy(two["ada"]), "id": two["of bob"]}
    hidden = await clinic.send(token, "PUT", f"AllergyIntolerance/{two['of bob']}", theirs)
    nothing = await clinic.send(token, "PUT", "AllergyIntolerance/nothing", {**theirs, "id": "nothing"})
    assert hidden.status_code == nothing.status_code == 404
    assert hidden.text.replace(two["of bob"], "nothing") == nothing.text
    assert (await clinic.send(token, "DELETE", f"AllergyIntolerance/{two['of bob']}")).status_code == 404
    held = await clinic.stores["intake"].read(Access.unrestricted(), "AllergyIntolerance", two["of bob"])
    assert held.version == 1


async def test_a_scope_with_a_search_holds_for_reading_and_for_writing(clinic, two):
    scope = "system/Patient.cru?gender=female system/AllergyIntolerance.rs?patient.gender=female"
    token = await clinic.token(scope=scope)
    assert (await clinic.send(token, "GET", f"Patient/{two['ada']}")).status_code == 200
    assert (await clinic.send(token, "GET", f"Patient/{two['bob']}")).status_code == 404
    assert total(await clinic.send(token, "GET", "AllergyIntolerance")) == 1
    assert (await clinic.send(token, "POST", "Patient", ADA)).status_code == 201
    before = await clinic.stores["intake"].verify.digest()
    assert (await clinic.send(token, "POST", "Patient", BOB)).status_code == 403
    changed = {**ADA, "id": two["ada"], "gender": "male"}
    assert (await clinic.send(token, "PUT", f"Patient/{two['ada']}", changed)).status_code == 403
    assert await clinic.stores["intake"].verify.digest() == before


async def test_an_alarm_is_raised_though_its_sender_may_not_write_one(clinic, two):
    token = await clinic.token(scope="patient/Observation.c", kap_patient=two["ada"])
    answer = await clinic.send(token, "POST", "Observation", reading(two["ada"], 180), host="intake")
    assert answer.status_code == 201, answer.text
    flags = await clinic.send(await clinic.token("clinic-admin"), "GET", "Flag", host="intake")
    assert total(flags) == 1
    assert (await clinic.send(token, "GET", "Flag", host="intake")).status_code == 403


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("clinic-admin", ["GET Patient", "POST Patient", "GET AllergyIntolerance"], []),
        ("prescriber", ["GET AllergyIntolerance", "POST Patient"], ["DELETE Patient/x", "POST Organization"]),
        ("therapist", ["GET AllergyIntolerance"], ["POST Patient", "POST MedicationRequest", "POST Patient/$match"]),
        ("monitor-nurse", ["GET AllergyIntolerance"], ["POST Patient", "POST MedicationRequest"]),
        ("front-desk", ["GET Patient", "POST Patient"], ["GET AllergyIntolerance", "GET Observation"]),
        ("outcomes-analyst", ["GET QuestionnaireResponse"], ["GET Patient", "GET AllergyIntolerance", "POST Patient"]),
        ("hospital-system", ["GET Practitioner", "GET Patient"], ["GET Consent", "GET Task", "POST Observation"]),
        ("auditor", ["GET Provenance"], ["GET Patient", "GET Observation", "POST Patient"]),
    ],
)
async def test_each_role_may_what_the_policy_says_and_no_more(clinic, role, may, may_not):
    token = await clinic.token(role)
    for one in may:
        method, path = one.split()
        answer = await clinic.send(token, method, path, ADA if method == "POST" else None)
        assert answer.status_code in (200, 201), f"{one}: {answer.text}"
    for one in may_not:
        method, path = one.split()
        body = {"resourceType": path.split("/")[0]} if method == "POST" and "$" not in path else None
        answer = await clinic.send(token, method, path, body)
        assert answer.status_code == 403, f"{one}: {answer.status_code} {answer.text}"


async def test_a_partner_physician_sees_the_patients_who_name_him(clinic):
    admin = await clinic.token("clinic-admin")
    doctor = (await clinic.made({"resourceType": "Practitioner", "name": [{"family": "Okafor"}]}, admin))["id"]
    mine = {**ADA, "generalPractitioner": [{"reference": f"Practitioner/{doctor}"}]}
    ada, bob = (await clinic.made(mine, admin))["id"], (await clinic.made(BOB, admin))["id"]
    for patient in (ada, bob):
        await clinic.made(allergy(patient), admin)
    token = await clinic.token("partner-physician", kap_user=f"Practitioner/{doctor}")
    assert total(await clinic.send(token, "GET", "Patient")) == 1
    assert total(await clinic.send(token, "GET", "AllergyIntolerance?_total=accurate")) == 1
    assert (await clinic.send(token, "GET", f"Patient/{bob}")).status_code == 404
    assert (await clinic.send(token, "GET", "QuestionnaireResponse")).status_code == 403


def referral(doctor, *more, **of_patient):
    """Return the transaction by which a partner refers a new patient, with what he knows of him."""
    urn = "urn:uuid:00000000-0000-4000-8000-000000000001"
    who = {"reference": urn}
    told = {"contentType": "text/plain", "data": "TGV0dGVy"}
    entries = [
        {**ADA, "generalPractitioner": [doctor], **of_patient},
        {"resourceType": "Condition", "code": {"text": "depression"}, "subject": who},
        {"resourceType": "MedicationStatement", "status": "active", "subject": who,
         "medicationCodeableConcept": {"text": "sertraline"}},
        {**allergy("x"), "patient": who},
        {"resourceType": "DocumentReference", "status": "current", "subject": who, "content": [{"attachment": told}]},
        {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "code": {"text": "KAP"},
         "subject": who, "requester": doctor},
        *more,
    ]  # fmt: skip
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {**({} if number else {"fullUrl": urn}), "resource": one,
             "request": {"method": "POST", "url": one["resourceType"]}}
            for number, one in enumerate(entries)
        ],
    }  # fmt: skip


async def test_a_partner_physician_refers_a_new_patient_of_his_in_one_transaction(clinic, two):
    admin = await clinic.token("clinic-admin")
    doctor = (await clinic.made({"resourceType": "Practitioner", "name": [{"family": "Okafor"}]}, admin))["id"]
    me, another = {"reference": f"Practitioner/{doctor}"}, {"reference": "Practitioner/another"}
    token = await clinic.token("partner-physician", kap_user=me["reference"])
    before = await clinic.stores["intake"].verify.digest()
    of_bob = [{"resourceType": "Condition", "code": {"text": "x"}, "subject": {"reference": f"Patient/{one}"}}
              for one in (two["bob"], "nobody")]  # fmt: skip
    hidden, nothing = [await clinic.send(token, "POST", "", referral(me, one)) for one in of_bob]
    assert (hidden.status_code, hidden.json()["issue"]) == (403, nothing.json()["issue"])
    for refused in (
        referral(me, generalPractitioner=[another]),
        referral(me, generalPractitioner=[]),
        referral(another, generalPractitioner=[me]),
        referral(me, {"resourceType": "Practitioner", "name": [{"family": "Okafor"}]}),
    ):
        assert (await clinic.send(token, "POST", "", refused)).status_code in (400, 403), refused
    assert await clinic.stores["intake"].verify.digest() == before, "all or nothing"
    done = await clinic.send(token, "POST", "", referral(me))
    assert done.status_code == 200, done.text
    assert [one["response"]["status"][:3] for one in done.json()["entry"]] == ["201"] * 6
    for type_ in ("Patient", "Condition", "MedicationStatement", "AllergyIntolerance", "ServiceRequest"):
        assert total(await clinic.send(token, "GET", f"{type_}?_total=accurate")) == 1, type_
    assert (await clinic.send(token, "GET", "DocumentReference")).status_code == 403, "what others wrote is not his"


async def test_who_may_change_and_not_create_makes_nothing_by_a_condition(clinic, two):
    token = await clinic.token(scope="user/AllergyIntolerance.rus user/Patient.rs")
    refused = await clinic.send(token, "PUT", "AllergyIntolerance?identifier=urn:x|none", allergy(two["ada"]))
    assert (refused.status_code, "creates" in refused.text) == (403, True), refused.text
    put = {"method": "PUT", "url": "AllergyIntolerance?identifier=urn:x|none"}
    bundle = {"resourceType": "Bundle", "entry": [{"resource": allergy(two["ada"]), "request": put}]}
    assert (await clinic.send(token, "POST", "", {**bundle, "type": "transaction"})).status_code == 403
    [one] = parse((await clinic.send(token, "POST", "", {**bundle, "type": "batch"})).content)["entry"]
    assert one["response"]["status"].startswith("403")
    assert total(await clinic.send(token, "GET", "AllergyIntolerance?_total=accurate")) == 2
    whole = await clinic.token(scope="user/AllergyIntolerance.crus user/Patient.rs")
    assert (await clinic.send(whole, "POST", "", {**bundle, "type": "transaction"})).status_code == 200


async def test_what_operators_ask_needs_their_scope(clinic):
    async def asked(token):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return (await clinic.http.get("http://intake/ops/flow", headers=headers)).status_code

    assert await asked(None) == 401
    for role in ("prescriber", "auditor", "clinic-admin"):
        assert await asked(await clinic.token(role)) == 403, "they are of a clinic, and it opens what is of all"
    assert await asked(await clinic.token(scope="kap/operate")) == 200
    for said in ({"scope": "kap/operate"}, {"redirect_uris": ["https://app.example/back"], "scope": "kap/operate"}):
        answer = await clinic.register(key=key_of("ES384"), **said)
        assert (answer.status_code, "all clinics" in answer.text) == (400, True), answer.text


async def test_a_token_for_another_installation_is_refused(clinic):
    key = clinic.operator
    answer = await clinic.asked("token", "operator", key, kap_role="clinic-admin")
    token = answer.json()["access_token"]
    assert (await clinic.send(token, "GET", "Patient")).status_code == 200
    [rest] = parse((await clinic.http.get(f"{BASE}/metadata")).content)["rest"]
    assert rest["security"]["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    head, body, signature = token.split(".")
    assert (await clinic.send(f"{head}.{body}.{signature[:-4]}AAAA", "GET", "Patient")).status_code == 401
