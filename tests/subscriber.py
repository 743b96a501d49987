"""A subscriber for tests: the Subscription he asks for, his server, the notifications that come, and the worker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import httpx

from services.gateway.notifying import Notifying
from services.gateway.service import SERVICE
from shared.fhir.freshness import KnowledgePolicy
from shared.fhir.json import parse
from shared.fhir.validation import require_valid
from shared.runtime.policy import load_policy
from tests.integration.security.clinic import settings

TOPIC = "https://kap-exchange.org/fhir/SubscriptionTopic/course-stage-changed"
BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
NEWS = load_policy().section("knowledge", KnowledgePolicy).disclosure


def subscription(*, filters=(), content="id-only", endpoint="https://ehr.example/hook", topic=TOPIC, **channel):
    """Return one as a client sends it; what is not named is of its channel."""
    extra = [{"url": f"{BACKPORT}{name}", **value} for name, value in channel.pop("extension", {}).items()]
    criteria = [{"url": f"{BACKPORT}backport-filter-criteria", "valueString": one} for one in filters]
    return {
        "resourceType": "Subscription",
        "meta": {"profile": [f"{BACKPORT}backport-subscription"]},
        "status": "requested",
        "reason": "to keep our record up to date",
        "criteria": topic,
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


class Subscriber:
    """A subscriber's server, and the gateway's worker, one step at a time."""

    def __init__(self, store, subscribing, issuer=None):
        self.requests: list[httpx.Request] = []
        self.answers = []
        self.parts = SimpleNamespace(service=SERVICE, settings=settings("gateway"), store=store, issuer=issuer)
        self.notifying = Notifying(subscribing, NEWS)
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
        await self.run()
        return [Told(parse(one.content)) for one in self.requests[before:]]

    async def run(self):
        """Let the worker do all that is due now."""
        quiet = 0
        while quiet < 2:
            done = await self.notifying.once(self.parts, self.client)
            await asyncio.gather(*self.notifying._running.values())
            quiet = 0 if done else quiet + 1

    async def now(self, clinic="default"):
        """Have what waits for its next attempt be due."""
        async with self.parts.store.transaction(keys=(), tenant=clinic) as transaction:
            await transaction.connection.execute("UPDATE subscription SET next_attempt_at = clock_timestamp()")


class Told:
    """A notification; `valid`: what it is about is FHIR in every respect, so that the whole of it has to be."""

    def __init__(self, bundle, *, valid=True):
        if valid:
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
