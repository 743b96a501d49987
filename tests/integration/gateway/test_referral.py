"""A partner physician refers through the gateway: first he asks who is known, then all goes in by one transaction."""

from __future__ import annotations

from base64 import b64encode
from contextlib import AsyncExitStack

import httpx
import pytest_asyncio

from services.gateway.forward import GatewayBackend
from services.gateway.owners import Owners
from services.gateway.service import SERVICE
from services.intake.service import intake
from shared.events.handler import Position
from shared.fhir import codes
from shared.fhir.json import dump, parse
from shared.fhir.kap import stage_of
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.consume import ServiceEvents
from shared.runtime.policy import load_policy
from shared.security.caller import everybody
from shared.store.store import Store
from shared.testing.knowledge import all_is_heard
from tests.integration.gateway.conftest import settings

ADA = {
    "resourceType": "Patient",
    "identifier": [{"system": "urn:partner:mrn", "value": "7"}],
    "name": [{"family": "Moss", "given": ["Ada"]}],
    "gender": "female",
    "birthDate": "1980-02-03",
    "telecom": [{"system": "phone", "value": "+1 555 0100"}],
    "address": [{"city": "Ithaca", "postalCode": "14850"}],
}
BASE = "http://gateway.example/fhir"
FAMILY = "http://terminology.hl7.org/CodeSystem/v3-RoleCode"
LETTER = b"Ada has been depressed for two years. Sertraline and venlafaxine did not help."


@pytest_asyncio.fixture
async def partner(make_database):
    """The gateway as a partner sees it, and what carries intake's events to it."""
    async with AsyncExitStack() as opened:
        service = intake(load_policy())
        stores = {}
        for name in ("intake", "gateway"):
            stores[name] = await Store.connect(make_database(name), service=name)
            opened.push_async_callback(stores[name].close)
        await all_is_heard(stores["intake"], service)
        owner = create_fhir_app(service, LocalBackend(service, stores["intake"]), settings("intake"))
        client = await opened.enter_async_context(httpx.AsyncClient(transport=httpx.ASGITransport(owner)))
        urls = {name: f"http://{name}/fhir" for name in ("intake", "scheduling", "sessions", "outcomes", "delivery")}
        backend = GatewayBackend(SERVICE, stores["gateway"], Owners(client, urls))
        app = create_fhir_app(SERVICE, backend, settings("gateway"), authenticate=everybody(origin=None))
        http = await opened.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url=BASE,
                headers={"Content-Type": "application/fhir+json"},
            )
        )
        handler = ServiceEvents(SERVICE, stores["gateway"])

        async def carry():
            async for event in stores["intake"].replay.events_since():
                await handler.handle(event, Position("kap.intake.v1", 0, event.sequence))

        yield http, carry


async def post(http, path, body):
    answer = await http.post(path, content=dump(body))
    assert answer.status_code in (200, 201), answer.text
    return parse(answer.content)


async def matched(http, patient):
    body = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": patient}]}
    return (await post(http, "/Patient/$match", body)).get("entry", [])


def referral(requester, subject):
    """Return the transaction of a referral, with attachments; `subject` is a Patient who is known, or a new one."""
    new = isinstance(subject, dict)
    ada = {"reference": "urn:uuid:00000000-0000-4000-8000-000000000001" if new else subject}

    def entry(number, resource, **request):
        url = f"urn:uuid:00000000-0000-4000-8000-{number:012}"
        made = {"method": "POST", "url": resource["resourceType"], **request}
        return {"fullUrl": url, "resource": resource, "request": made}

    active = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}
    taken = {"coding": [{"system": codes.RXNORM, "code": "36437", "display": "sertraline"}]}
    rash = {"coding": [{"system": codes.RXNORM, "code": "7980", "display": "penicillin G"}]}
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            *([entry(1, subject, ifNoneExist="identifier=urn:partner:mrn|7")] if new else []),
            entry(2, {"resourceType": "Condition", "clinicalStatus": active, "subject": ada,
                      "code": {"coding": [{"system": codes.ICD10CM, "code": "F33.2"}]}}),
            entry(3, {"resourceType": "MedicationStatement", "status": "active", "subject": ada,
                      "medicationCodeableConcept": taken}),
            entry(4, {"resourceType": "AllergyIntolerance",
                "clinicalStatus": {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical",
                            "code": "active",
                        }
                    ]
                }, "patient": ada, "code": rash}),
            entry(5, {"resourceType": "DocumentReference", "status": "current", "subject": ada,
                      "content": [{"attachment": {"contentType": "text/plain", "title": "Referral letter",
                                                  "data": b64encode(LETTER).decode()}}]}),
            entry(7, {"resourceType": "FamilyMemberHistory", "status": "completed", "patient": ada,
                      "relationship": {"coding": [{"system": FAMILY, "code": "MTH"}]},
                      "condition": [{"code": {"coding": [{"system": codes.ICD10CM, "code": "F20.9"}]}}]}),
            entry(6, {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": ada,
                      "identifier": [{"system": "urn:partner", "value": "R-7"}], "authoredOn": "2026-11-20",
                      "code": codes.REFERRAL.concept(), "requester": requester,
                      "supportingInfo": [{"reference": "urn:uuid:00000000-0000-4000-8000-000000000005"}]}),
        ],
    }  # fmt: skip


async def test_a_partner_asks_who_is_known_refers_in_one_transaction_and_follows_what_becomes_of_it(partner):
    http, carry = partner
    doctor = await post(http, "/Practitioner", {
        "resourceType": "Practitioner", "name": [{"family": "Partner"}],
        "telecom": [{"system": "email", "value": "partner@example.org"}]})  # fmt: skip
    by = {"reference": f"Practitioner/{doctor['id']}"}
    assert await matched(http, ADA) == [], "nobody is entered twice: first it is asked"
    done = await post(http, BASE, referral(by, ADA))
    assert [one["response"]["status"][:3] for one in done["entry"]] == ["201"] * 7
    await carry()
    asked = parse((await http.get("/ServiceRequest?identifier=urn:partner|R-7")).content)["entry"][0]["resource"]
    subject = asked["subject"]["reference"]
    letter = parse((await http.get("/" + asked["supportingInfo"][0]["reference"])).content)
    assert letter["content"][0]["attachment"]["data"] == b64encode(LETTER).decode()
    (course,) = parse((await http.get(f"/EpisodeOfCare?patient={subject}")).content)["entry"]
    assert stage_of(course["resource"]) == "referred"
    (found,) = await matched(http, {**ADA, "identifier": [{"system": "urn:other", "value": "1"}]})
    assert found["resource"]["id"] == subject.rpartition("/")[2]
    assert {"certain", "probable", "possible"} & {one.get("valueCode") for one in found["search"]["extension"]}

    async def report():
        tasks = parse((await http.get(f"/Task?focus=ServiceRequest/{asked['id']}")).content)["entry"]
        return tasks[0]["resource"]["status"], tasks[0]["resource"]["businessStatus"]["text"]

    assert await report() == ("received", "referred")
    answers = {
        "resourceType": "QuestionnaireResponse", "questionnaire": codes.SCREENING_QUESTIONNAIRE, "status": "completed",
        "subject": {"reference": subject}, "item": [{"linkId": "E12", "answer": [{"valueBoolean": True}]}],
    }  # fmt: skip
    await post(http, "/QuestionnaireResponse", answers)
    await post(http, f"/{subject}/$screen", {"resourceType": "Parameters"})
    await carry()
    assert await report() == ("rejected", "not-eligible")
    told = parse((await http.get(f"/Communication?recipient=Practitioner/{doctor['id']}")).content)["entry"]
    said = [one["resource"]["payload"][0]["contentString"] for one in told]
    assert len(said) > 1
    assert {one.partition(" of your referral")[0] for one in said} == {"There is news"}, "no consent permits more"


async def test_a_second_referral_is_written_for_the_patient_who_is_known(partner):
    http, carry = partner
    known = await post(http, "/Patient", ADA)
    (found,) = await matched(http, {**ADA, "identifier": [{"system": "urn:other", "value": "1"}]})
    doctor = await post(http, "/Practitioner", {"resourceType": "Practitioner", "name": [{"family": "Partner"}]})
    subject = f"Patient/{found['resource']['id']}"
    assert subject == f"Patient/{known['id']}"
    await post(http, BASE, referral({"reference": f"Practitioner/{doctor['id']}"}, subject))
    await carry()
    assert len(parse((await http.get("/Patient")).content)["entry"]) == 1


async def test_a_referral_in_which_something_is_wrong_enters_nothing_and_names_it(partner):
    http, carry = partner
    bundle = referral({"reference": "Practitioner/x"}, ADA)
    bundle["entry"][2]["resource"]["status"] = "perhaps"
    answer = await http.post(BASE, content=dump(bundle))
    assert answer.status_code in (400, 422)
    assert "entry[2]" in answer.text
    await carry()
    assert "entry" not in parse((await http.get("/Patient")).content)
