"""The stand-in gateway for text messages refuses what a real one would."""

from __future__ import annotations

import time

import httpx
import msgspec
import pytest
from starlette.applications import Starlette

from shared.notify.port import NotDelivered, Outgoing
from shared.notify.webhook import Webhook, signature
from shared.testing.messages import SECONDS, Messages

OUT = Outgoing("scheduling:reminder|1", "sms", "+15550100", "Your visit", "Your visit is tomorrow.", False)


def speaking_to(messages):
    app = Starlette(routes=[messages.route()])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test")


async def test_a_message_is_taken_once_and_its_number_is_the_receipt():
    messages = Messages(b"shared")
    async with speaking_to(messages) as client:
        webhook = Webhook(client, "http://gateway.test/messages", b"shared")
        first, again = await webhook.send(OUT), await webhook.send(OUT)
        told = (await client.get("/messages")).json()
    assert first == again == '202 {"accepted":1}'
    assert told == {"sms": 1}


async def test_a_message_of_another_secret_is_refused_for_good():
    async with speaking_to(Messages(b"shared")) as client:
        with pytest.raises(NotDelivered, match="401") as refused:
            await Webhook(client, "http://gateway.test/messages", b"another").send(OUT)
    assert refused.value.for_good


async def test_a_signature_that_is_too_old_is_refused():
    body, then = msgspec.json.encode({"id": "1", "channel": "sms", "to": "+1", "text": "x"}), time.time() - SECONDS - 5
    sent = {"webhook-id": "1", "webhook-timestamp": str(int(then))}
    sent["webhook-signature"] = signature(b"shared", "1", sent["webhook-timestamp"], body)
    async with speaking_to(Messages(b"shared")) as client:
        assert (await client.post("/messages", content=body, headers=sent)).status_code == 401
