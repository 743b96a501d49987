"""Subscriptions, R5 Backport in R4: who asked is told, in order, once and again, and nothing that he may not know."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx
import pytest

from services.gateway.notifying import Notifying
from services.gateway.service import SERVICE
from services.gateway.subscribing import Subscribing
from shared.fhir.freshness import KnowledgePolicy
from shared.fhir.json import parse
from shared.fhir.validation import require_valid
from shared.http.outbound import Outbound, Outside
from shared.runtime.policy import load_policy
from shared.testing.knowledge import all_is_heard
from tests.integration.security.clinic import BASE, clinic, settings
from tests.integration.security.consents import PATTERNS, consent
from tests.integration.security.test_gate import ADA, BOB, total

__all__ = ["clinic"]

TOPIC = "https://kap-exchange.org/fhir/SubscriptionTopic/course-stage-changed"
BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
NEWS = load_policy().section("knowledge", KnowledgePolicy).disclosure
H1 = "Organization/h1"


def subscription(*, filters=(), content="id-only", endpoint="https://ehr.example/hook", **channel):
    extra = [{"url": f"{BACKPORT}{name}", **value} for name, value in channel.pop("extension", {}).items()]
    criteria = [{"url": f"{BACKPORT}backport-filter-criteria", "valueString": one} for one in filters]
    return {
        "resourceType": "Subscription",
        "meta": {"profile": [f"{BACKPORT}backport-subscription"]},
        "status": "requested",
        "reason": "to keep our record up to date",
        "criteria": TOPIC,
        **({"_criteria": {"extension": criteria}} if criteria else {}),
        "channel": {
            "type": "rest-hook",
            "endpoint": endpoint,
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": f"{BACKPORT}backport-payload-content", "valueCode": content}]},
            **({"extension": extra} if extra else {}),
            **channel,
        },
    }


def episode(of, status="planned"):
    return {"resourceType": "EpisodeOfCare", "status": status, "patient": {"reference": f"Patient/{of}"}}


class Subscriber:
    """A subscriber's server, and the gateway's worker, one step at a time."""

    def __init__(self, clinic):
        self.clinic = clinic
        self.requests: list[httpx.Request] = []
        self.answers = []
        store = clinic.stores["gateway"]
        self.parts = SimpleNamespace(service=SERVICE, settings=settings("gateway"), store=store)
        self.notifying = Notifying(clinic.subscribing, NEWS)
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))

    def answer(self, request):
        self.requests.append(request)
        given = self.answers.pop(0) if self.answers else 200
        if isinstance(given, Exception):
            raise given
        return httpx.Response(given)

    async def work(self):
        """Let the worker do all that is due now; return the notifications that came meanwhile."""
        before = len(self.requests)
        quiet = 0
        while quiet < 2:
            done = await self.notifying.once(self.parts, self.client)
            await asyncio.gather(*self.notifying._running.values())
            quiet = 0 if done else quiet + 1
        return [Told(parse(one.content)) for one in self.requests[before:]]

    async def now(self, clinic="default"):
        """Have what waits for its next attempt be due."""
        async with self.parts.store.transaction(keys=(), tenant=clinic) as transaction:
            await transaction.connection.execute("UPDATE subscription SET next_attempt_at = clock_timestamp()")


class Told:
    """A notification."""

    def __init__(self, bundle):
        require_valid(bundle)
        self.bundle = bundle
        first = bundle["entry"][0]["resource"]
        assert bundle["type"] == "history"
        assert first["resourceType"] == "Parameters"
        assert first["meta"]["profile"] == [f"{BACKPORT}backport-subscription-status-r4"]
        said = {one["name"]: next(iter(one[key] for key in one if key.startswith("value")), None)
                for one in first["parameter"] if one["name"] != "notification-event"}  # fmt: skip
        self.kind, self.status, self.count = said["type"], said["status"], int(said["events-since-subscription-start"])
        self.events = []
        for one in first["parameter"]:
            if one["name"] == "notification-event":
                parts = {part["name"]: part for part in one["part"]}
                focus = parts.get("focus", {}).get("valueReference", {}).get("reference")
                self.events.append((int(parts["event-number"]["valueString"]), focus))

    @property
    def numbers(self):
        return [number for number, _ in self.events]


@pytest.fixture
async def hook(clinic):
    store = clinic.stores["gateway"]
    await all_is_heard(store, SERVICE)
    found = Subscriber(clinic)
    yield found
    await found.client.aclose()


@pytest.fixture
async def ada(clinic):
    return (await clinic.made(ADA))["id"]


async def asked(clinic, token, **how):
    return await clinic.made(subscription(**how), token)


async def read(clinic, token, one):
    return parse((await clinic.send(token, "GET", f"Subscription/{one['id']}")).content)


async def test_a_subscriber_is_greeted_then_told_of_each_change_in_order_and_numbered_without_gaps(clinic, hook, ada):
    admin = await clinic.token("clinic-admin")
    made = await asked(clinic, admin, header=["Authorization: Bearer very-secret", "X-Tag: a"])
    assert made["status"] == "requested"
    assert "very-secret" not in str(made)
    [hello] = await hook.work()
    assert (hello.kind, hello.count, hello.events) == ("handshake", 0, [])
    assert hook.requests[-1].headers["authorization"] == "Bearer very-secret"
    assert (await read(clinic, admin, made))["status"] == "active"
    held = await clinic.made(episode(ada))
    for status in ("active", "active", "finished"):  # one of them changes nothing of the topic
        held = parse(
            (await clinic.send(admin, "PUT", f"EpisodeOfCare/{held['id']}", {**held, "status": status})).content
        )
    told = await hook.work()
    focus = f"{BASE}/EpisodeOfCare/{held['id']}"
    assert [one.events for one in told] == [[(1, focus)], [(2, focus)], [(3, focus)]]
    assert [one.count for one in told] == [1, 2, 3]
    assert all("resource" not in entry for one in told for entry in one.bundle["entry"][1:])
    assert await hook.work() == []


async def test_what_is_not_taken_is_sent_again_under_its_number_before_anything_else(clinic, hook, ada):
    admin = await clinic.token("clinic-admin")
    await asked(clinic, admin)
    await hook.work()
    for _ in range(2):
        await clinic.made(episode(ada))
    hook.answers = [500]
    assert [one.numbers for one in await hook.work()] == [[1]]
    hook.answers = [httpx.ReadTimeout("lost")]
    await hook.now()
    assert [one.numbers for one in await hook.work()] == [[1]]
    await hook.now()
    assert [one.numbers for one in await hook.work()] == [[1], [2]]


async def test_a_subscriber_is_told_what_patients_consents_let_him_be_told_at_that_moment_and_counts_nothing_else(
    clinic, hook, ada
):
    admin = await clinic.token("clinic-admin")
    bob = (await clinic.made(BOB))["id"]
    hospital = await clinic.token("hospital-system", kap_user=H1)
    made = await asked(clinic, hospital)
    await hook.work()
    await clinic.made(episode(ada))
    await clinic.made(episode(bob))
    assert await hook.work() == []  # nobody consented to anything
    given = await clinic.made(consent(ada, PATTERNS["P2"]), admin)
    first = await clinic.made(episode(ada))
    await clinic.made(episode(bob))
    [told] = await hook.work()
    assert told.events == [(1, f"{BASE}/EpisodeOfCare/{first['id']}")]
    # Withdrawn while it waits: the endpoint was not reached, and it is as if it had never been.
    await clinic.made(episode(ada))
    hook.answers = [httpx.ConnectError("refused")]
    assert len(await hook.work()) == 1
    off = {**given, "status": "inactive"}
    assert (await clinic.send(admin, "PUT", f"Consent/{given['id']}", off)).status_code == 200
    await hook.now()
    assert await hook.work() == []
    status = parse((await clinic.send(hospital, "GET", f"Subscription/{made['id']}/$status")).content)
    said = {one["name"]: one for one in status["entry"][0]["resource"]["parameter"]}
    assert said["events-since-subscription-start"]["valueString"] == "1"
    assert (await clinic.send(admin, "PUT", f"Consent/{given['id']}", given)).status_code == 200
    await clinic.made(episode(ada))
    assert [one.numbers for one in await hook.work()] == [[2]]


async def test_a_leak_that_is_planted_is_found(clinic, hook, ada, monkeypatch):
    """Planted: whoever asked is told with everybody's eyes."""
    monkeypatch.setattr(
        Subscribing, "caller", lambda *_: SimpleNamespace(access=lambda _: whole, disclosure=None, tenant="default",
                                                          owner="")
    )  # fmt: skip
    from shared.store.access import Access

    whole = Access.unrestricted("default")
    await asked(clinic, await clinic.token("hospital-system", kap_user=H1))
    await hook.work()
    await clinic.made(episode(ada))
    assert await hook.work() != []


async def test_news_of_consents_that_are_too_old_hold_what_is_for_somebody_outside(clinic, hook, ada):
    from datetime import timedelta

    await clinic.made(consent(ada, PATTERNS["P2"]))
    await asked(clinic, await clinic.token("hospital-system", kap_user=H1))
    await hook.work()
    await clinic.made(episode(ada))
    store = clinic.stores["gateway"]
    async with store.transaction(keys=(), tenant="default") as transaction:
        await transaction.connection.execute("DELETE FROM known_until")
    await all_is_heard(store, SERVICE, ago=timedelta(hours=1))
    assert await hook.work() == []
    await all_is_heard(store, SERVICE)
    await hook.now()
    assert [one.numbers for one in await hook.work()] == [[1]]


async def test_a_subscription_is_its_clients_and_nobody_else_knows_of_it(clinic, hook):
    admin = await clinic.token("clinic-admin")
    h1, h2 = [await clinic.token("hospital-system", kap_user=f"Organization/{one}") for one in ("h1", "h2")]
    doctor = await clinic.token("partner-physician", kap_user="Practitioner/gp")
    nurse = await clinic.token("monitor-nurse")
    made = await asked(clinic, h1)
    where = f"Subscription/{made['id']}"
    for token, status in ((h1, 200), (h2, 404), (admin, 404), (doctor, 404), (nurse, 404)):
        assert (await clinic.send(token, "GET", where)).status_code == status
        assert total(await clinic.send(token, "GET", "Subscription")) == int(status == 200)
        asked_status = await clinic.send(token, "GET", f"{where}/$status")
        assert asked_status.status_code == status, asked_status.text
    for path in (where, f"{where}/_history", f"{where}/$events"):
        assert (await clinic.send(doctor, "GET", path)).status_code == 404
    body = {**subscription(), "id": made["id"]}
    assert (await clinic.send(doctor, "PUT", where, body)).status_code == 404
    assert (await clinic.send(doctor, "DELETE", where)).status_code == 404
    assert (await clinic.send(h1, "PUT", where, body)).status_code == 200
    assert (await clinic.send(h1, "DELETE", where)).status_code == 204
    assert (await clinic.send(h1, "GET", where)).status_code in (404, 410)
    assert await hook.work() == []


async def test_events_that_were_missed_are_had_by_asking(clinic, hook, ada):
    admin = await clinic.token("clinic-admin")
    made = await asked(clinic, admin)
    await hook.work()
    episodes = [await clinic.made(episode(ada)) for _ in range(3)]
    hook.answers = [httpx.ConnectError("refused")]
    await hook.work()
    where = f"Subscription/{made['id']}/$events"
    answer = parse((await clinic.send(admin, "GET", f"{where}?eventsSinceNumber=2")).content)
    told = Told(answer)
    assert (told.kind, told.count) == ("query-event", 3)
    assert told.events == [(number, f"{BASE}/EpisodeOfCare/{episodes[number - 1]['id']}") for number in (2, 3)]
    for wrong in ("eventsSinceNumber=x", "content=full-resource", "what=1"):
        assert (await clinic.send(admin, "GET", f"{where}?{wrong}")).status_code == 400
    hospital = await clinic.token("hospital-system", kap_user=H1)
    assert (await clinic.send(hospital, "GET", where)).status_code == 404


async def test_an_endpoint_whose_name_leads_inside_is_not_asked_and_the_subscriber_told_why(clinic, hook):
    async def inside(_host, _port):
        return ["127.0.0.1"]

    admin = await clinic.token("clinic-admin")
    made = await asked(clinic, admin)
    await hook.client.aclose()
    hook.client = httpx.AsyncClient(transport=Outbound(Outside(), inside))
    assert await hook.work() == []
    answer = parse((await clinic.send(admin, "GET", f"Subscription/{made['id']}/$status")).content)
    said = {one["name"]: one for one in answer["entry"][0]["resource"]["parameter"]}
    assert "inside of the network" in said["error"]["valueCodeableConcept"]["text"]


async def test_a_subscription_comes_by_itself_alone(clinic):
    admin = await clinic.token("clinic-admin")
    entry = {"fullUrl": "urn:uuid:9f7e4a52-6e0f-4b8e-9d39-0d1d6c1f0a11", "resource": subscription(),
             "request": {"method": "POST", "url": "Subscription"}}  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    answer = await clinic.send(admin, "POST", "", bundle)
    assert answer.status_code in (403, 422), answer.text
    answer = await clinic.send(admin, "PUT", "Subscription?status=active", subscription())
    assert answer.status_code in (403, 422), answer.text
