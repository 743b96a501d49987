"""What people are told is sent at least once, its receipt is kept, and a failure is seen by who told them."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import hmac
import json
from datetime import timedelta

import httpx
import pytest
import structlog

from shared.fhir.codes import KAP, Code
from shared.fhir.outcome import Unavailable
from shared.notify.port import NotDelivered, Outgoing
from shared.notify.sending import HOLD, Sending, pause
from shared.notify.smtp import Mail
from shared.notify.telling import Letter, take_back, tell, told_of
from shared.notify.webhook import Webhook
from shared.runtime.raising import content_of
from tests.integration.notify.receivers import NOW, SERVICE

TOPIC = Code(KAP, "reminder", "Reminder")
LETTER = Letter(TOPIC, "Your appointment", "Tomorrow at nine.\nBring a companion.", category="reminder")
MAILED = {"resourceType": "Patient", "id": "p", "telecom": [{"system": "email", "value": "ada@example.org"}]}
TEXTED = {
    "resourceType": "Patient",
    "id": "p",
    "telecom": [
        {"system": "phone", "value": "+1 555 0100", "use": "home"},
        {"system": "sms", "value": "+1 555 0101"},
        {"system": "email", "value": "ada@example.org"},
    ],
}
NAME = ("reminder", "1")


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


async def telling(record, to, letter=LETTER, name=NAME):
    async with record() as one:
        return await tell(one, name, letter, to=to, patient="p", now=NOW)


async def state(record, name=NAME):
    async with record() as one:
        return await told_of(one, name)


def mail_of(server):
    return Mail(f"smtp+plain://127.0.0.1:{server.port}", "Clinic <clinic@example.org>")


async def test_a_mail_reaches_the_server_once_and_its_receipt_is_kept(record, own_store, mail_server, clock):
    told = await telling(record, MAILED)
    assert told.state == "queued"
    sending = Sending(SERVICE, own_store, [mail_of(mail_server)], clock)
    assert [await sending.once(), await sending.once()] == [1, 0]

    (envelope,) = mail_server.mails
    assert envelope.rcpt_tos == ["ada@example.org"]
    mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert (mail["Subject"], mail["From"]) == ("Your appointment", "Clinic <clinic@example.org>")
    assert mail.get_content().replace("\r\n", "\n").strip() == LETTER.text

    async with record() as one:
        communication = await one.get("Communication", told.communication)
    assert (communication["status"], communication["sent"]) == ("completed", "2026-11-22T09:00:00.000Z")
    assert "queued as 4ABC" in communication["note"][0]["text"]
    assert (await state(record)).state == "sent"


async def test_telling_again_under_one_name_tells_once(record, own_store, mail_server, clock):
    first, second = await telling(record, MAILED), await telling(record, MAILED)
    assert first == second
    sending = Sending(SERVICE, own_store, [mail_of(mail_server)], clock)
    await sending.once()
    assert (await telling(record, MAILED)).state == "sent"
    await sending.once()
    assert len(mail_server.mails) == 1


async def test_what_is_rolled_back_is_never_told(record, own_store, mail_server, clock):
    async def fail():
        async with record() as one:
            await tell(one, NAME, LETTER, to=MAILED, patient="p", now=NOW)
            raise Unavailable("no")

    with pytest.raises(Unavailable):
        await fail()
    assert await Sending(SERVICE, own_store, [mail_of(mail_server)], clock).once() == 0
    assert mail_server.mails == []


async def test_a_text_message_is_signed_and_carries_its_idempotency_key(record, own_store, gateway, clock):
    await telling(record, TEXTED)
    async with httpx.AsyncClient() as client:
        await Sending(SERVICE, own_store, [Webhook(client, gateway.url, b"secret", clock)], clock).once()
    ((headers, body),) = gateway.calls
    said = json.loads(body)
    assert (said["channel"], said["to"], said["text"]) == ("sms", "+1 555 0101", LETTER.text)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(b"secret", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["webhook-id"] == said["id"] == "scheduling:reminder:1"
    assert int(headers["webhook-timestamp"]) == int(NOW.timestamp())
    assert (await state(record)).state == "sent"


async def test_a_server_that_is_away_is_tried_again_with_growing_pauses_and_then_has_failed(
    record, own_store, gateway, clock
):
    gateway.statuses = [503] * 3
    letter = Letter(TOPIC, "Alarm", "Look.", urgent=True, attempts=3)
    await telling(record, TEXTED, letter)
    async with httpx.AsyncClient() as client:
        sending = Sending(SERVICE, own_store, [Webhook(client, gateway.url, b"secret", clock)], clock)
        assert await sending.once() == 1
        assert await sending.once() == 0, "a pause comes first"
        for attempt in (1, 2):
            assert (await state(record)).state == "queued"
            clock.now += pause(attempt, urgent=True)
            assert await sending.once() == 1
    told = await state(record)
    assert (told.state, told.why) == ("failed", "The message gateway answered 503.")
    assert len(gateway.calls) == 3
    assert len({headers["webhook-id"] for headers, _ in gateway.calls}) == 1


async def test_a_recipient_that_is_refused_for_good_fails_at_once(record, own_store, mail_server, clock):
    mail_server.answers = ["550 5.1.1 No such user"]
    await telling(record, MAILED)
    await Sending(SERVICE, own_store, [mail_of(mail_server)], clock).once()
    told = await state(record)
    assert told.state == "failed"
    assert "550" in told.why


async def test_a_mail_servers_words_are_in_the_record_and_not_in_the_logs(
    record, own_store, mail_server, clock, monkeypatch
):
    mail_server.answers = ["554 5.7.1 <ada.lovelace@example.org>: refused"]
    await telling(record, MAILED)
    with structlog.testing.capture_logs() as logs:
        monkeypatch.setattr("shared.notify.sending._log", structlog.get_logger("notify"))
        await Sending(SERVICE, own_store, [mail_of(mail_server)], clock).once()
    assert "ada.lovelace" in (await state(record)).why
    [said] = [one for one in logs if one["event"] == "notice_not_sent"]
    assert said["error"] == "The mail server answered 554."
    assert "ada.lovelace" not in str(logs)


async def test_a_mail_server_that_says_later_gets_it_later(record, own_store, mail_server, clock):
    mail_server.answers = ["451 4.3.0 Try again later"]
    await telling(record, MAILED)
    sending = Sending(SERVICE, own_store, [mail_of(mail_server)], clock)
    await sending.once()
    assert (await state(record)).state == "queued"
    clock.now += pause(1, urgent=False)
    await sending.once()
    assert (await state(record)).state == "sent"


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ({"resourceType": "Patient", "id": "p"}, "No address"),
        ({**MAILED, "telecom": [{**MAILED["telecom"][0], "use": "old"}]}, "No address"),
        ({**MAILED, "telecom": [{**MAILED["telecom"][0], "period": {"end": "2026-01-01"}}]}, "No address"),
    ],
)
async def test_who_has_no_address_cannot_be_told_and_the_caller_knows_at_once(record, to, why):
    told = await telling(record, to)
    assert told.state == "failed"
    assert why in (await state(record)).why


async def test_a_channel_without_a_server_fails_visibly(record, own_store, clock):
    await telling(record, MAILED)
    await Sending(SERVICE, own_store, [], clock).once()
    told = await state(record)
    assert (told.state, told.why) == ("failed", "No server for the channel email is set up.")


async def test_what_is_over_is_not_sent_any_more(record, own_store, mail_server, clock):
    await telling(record, MAILED, Letter(TOPIC, "Soon", "In an hour.", expires=NOW + timedelta(hours=1)))
    clock.now += timedelta(hours=1)
    await Sending(SERVICE, own_store, [mail_of(mail_server)], clock).once()
    assert (await state(record)).why == "It could not be sent in time."
    assert mail_server.mails == []


@pytest.mark.parametrize("by", ["the service", "a person"])
async def test_what_is_stopped_is_not_sent(record, own_store, mail_server, clock, by):
    told = await telling(record, MAILED)
    async with record() as one:
        if by == "the service":
            assert await take_back(one, NAME, NOW, why="The visit was cancelled.")
        else:
            held = await one.get("Communication", told.communication)
            await one.update(content_of({**held, "status": "stopped"}))
    assert await Sending(SERVICE, own_store, [mail_of(mail_server)], clock).once() == 0
    assert mail_server.mails == []
    assert (await state(record)).state == "withdrawn"


async def test_a_sender_that_dies_after_sending_leaves_the_message_to_the_next_one(record, own_store, gateway, clock):
    await telling(record, TEXTED)
    (taken,) = await own_store.notices.take(NOW, hold=HOLD, limit=5)
    async with httpx.AsyncClient() as client:
        webhook = Webhook(client, gateway.url, b"secret", clock)
        await webhook.send(Outgoing(taken.key, taken.channel, taken.address, taken.subject, taken.text))
        sending = Sending(SERVICE, own_store, [webhook], clock)
        assert await sending.once() == 0, "it is held for the one who took it"
        clock.now += HOLD
        assert await sending.once() == 1
    assert [headers["webhook-id"] for headers, _ in gateway.calls] == [taken.key] * 2, "the receiver knows it by its id"
    assert (await state(record)).state == "sent"


async def test_an_urgent_message_goes_first(record, own_store, gateway, clock):
    for number in range(3):
        await telling(record, TEXTED, name=("routine", str(number)))
    await telling(record, TEXTED, Letter(TOPIC, "Alarm", "Look.", urgent=True), name=("alarm",))
    (first,) = await own_store.notices.take(NOW, hold=HOLD, limit=1)
    assert first.urgent


@pytest.mark.parametrize("address", ["a@example.org\nBcc: x@example.org", "a@example.org, x@example.org"])
async def test_an_address_that_would_forge_a_header_or_is_several_is_refused(mail_server, address):
    with pytest.raises(NotDelivered) as error:
        await mail_of(mail_server).send(Outgoing("k", "email", address, "S", "T"))
    assert error.value.for_good
    assert mail_server.mails == []


def test_pauses_grow_and_an_urgent_message_pauses_less():
    routine = [pause(attempt, urgent=False) for attempt in range(1, 12)]
    assert routine == sorted(routine)
    assert max(routine) == timedelta(minutes=15)
    assert all(pause(attempt, urgent=True) < one for attempt, one in enumerate(routine, 1))
