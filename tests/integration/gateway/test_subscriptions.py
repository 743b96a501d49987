"""Subscriptions, R5 Backport in R4: who asked is told, in order, once and again, and nothing that he may not know."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from msgspec.structs import replace as replace_struct

from services.gateway.service import SERVICE
from shared.events.handler import Position
from shared.fhir.codes import ACT_CODE, OBSERVATION_CATEGORY
from shared.fhir.json import parse
from shared.http.outbound import Outbound, Outside
from shared.runtime.consume import ServiceEvents
from shared.security.notice import NOTICE
from shared.testing.knowledge import all_is_heard
from tests.integration.security.clinic import BASE, ISSUER, ROLES, clinic, key_of
from tests.integration.security.consents import PATTERNS, consent
from tests.integration.security.people import app, person
from tests.integration.security.test_gate import ADA, BOB, total
from tests.subscriber import Subscriber, Told, subscription

__all__ = ["clinic"]

H1 = "Organization/h1"


def episode(of, status="planned"):
    return {"resourceType": "EpisodeOfCare", "status": status, "patient": {"reference": f"Patient/{of}"}}


def survey(of):
    category = {"coding": [{"system": OBSERVATION_CATEGORY, "code": "survey"}]}
    subject = {"reference": f"Patient/{of}"}
    return {
        "resourceType": "Observation", "status": "final", "code": {"text": "x"}, "category": [category],
        "subject": subject, "valueInteger": 3,
    }  # fmt: skip


@pytest.fixture
async def hook(clinic):
    store = clinic.stores["gateway"]
    await all_is_heard(store, SERVICE)
    found = Subscriber(store, clinic.subscribing, clinic.issuer)
    yield found
    await found.client.aclose()


@pytest.fixture
async def ada(clinic):
    return (await clinic.made(ADA))["id"]


async def asked(clinic, token, **how):
    return await clinic.made(subscription(**how), token)


async def disclosed(clinic):
    """Return the rows of the audit of what was told."""
    audit = clinic.stores["gateway"].audit
    await audit.seal()
    return [one.row for one in await audit.rows() if one.row.kind == "disclose"]


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


async def test_news_of_consents_that_are_too_old_hold_what_is_for_somebody_outside(clinic, hook, ada):
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


async def not_applied(clinic, method, path, body):
    """Write a Consent at intake that the gateway cannot take in, two minutes ago; return what takes up what waits."""
    admin = await clinic.token("clinic-admin")
    assert (await clinic.send(admin, method, path, body, host="intake")).status_code in (200, 201)
    written = [one async for one in clinic.stores["intake"].replay.events_since()][-1]
    store = clinic.stores["gateway"]
    taking_in = ServiceEvents(SERVICE, store)
    early = replace(written, time=datetime.now(UTC) - timedelta(seconds=120))
    await taking_in.park(early, Position("kap.intake.v1", 0, written.sequence), "it could not be applied")

    async def take_up():
        [parked] = await store.parking.list()
        await store.parking.retry(parked.number)
        assert await taking_in.take_up() == 1

    return take_up


async def test_a_withdrawal_that_could_not_be_applied_holds_what_is_of_that_patient_for_somebody_outside(
    clinic, hook, ada
):
    """And what comes behind it, so that it is told in its order; what came before it is told."""
    bob = (await clinic.made(BOB))["id"]
    await clinic.made(consent(bob, PATTERNS["P1"]))
    given = await clinic.made(consent(ada, PATTERNS["P2"]))
    await asked(clinic, await clinic.token("hospital-system", kap_user=H1))
    await hook.work()
    off = {**given, "status": "inactive"}
    take_up = await not_applied(clinic, "PUT", f"Consent/{given['id']}", off)
    await clinic.made(episode(bob))
    assert [one.numbers for one in await hook.work()] == [[1]]
    await clinic.made(episode(ada))
    assert await hook.work() == []
    await take_up()
    await clinic.made(episode(bob))
    await hook.now()
    assert [one.numbers for one in await hook.work()] == [[2]]  # of hers it was withdrawn


async def test_what_is_of_a_patient_whose_permission_could_not_be_applied_waits_for_it(clinic, hook, ada):
    await asked(clinic, await clinic.token("hospital-system", kap_user=H1))
    await hook.work()
    take_up = await not_applied(clinic, "POST", "Consent", consent(ada, PATTERNS["P2"]))
    held = await clinic.made(episode(ada))
    assert await hook.work() == []
    await take_up()
    await hook.now()
    assert [one.events for one in await hook.work()] == [[(1, f"{BASE}/EpisodeOfCare/{held['id']}")]]


async def test_who_asks_for_missed_events_counts_nothing_of_a_patient_whose_consents_are_in_doubt(clinic, hook, ada):
    bob = (await clinic.made(BOB))["id"]
    await clinic.made(consent(bob, PATTERNS["P1"]))
    given = await clinic.made(consent(ada, PATTERNS["P2"]))
    hospital = await clinic.token("hospital-system", kap_user=H1)
    made = await asked(clinic, hospital)
    await hook.work()
    take_up = await not_applied(clinic, "PUT", f"Consent/{given['id']}", {**given, "status": "inactive"})
    await clinic.made(episode(ada))
    answer = Told(parse((await clinic.send(hospital, "GET", f"Subscription/{made['id']}/$events")).content))
    assert (answer.count, answer.events) == (0, [])
    await take_up()
    told = await clinic.made(episode(bob))
    await hook.now()
    assert [one.events for one in await hook.work()] == [[(1, f"{BASE}/EpisodeOfCare/{told['id']}")]]


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


async def test_a_hospital_has_its_missed_events_by_asking_and_the_audit_names_the_consent(clinic, hook, ada):
    given = await clinic.made(consent(ada, PATTERNS["P2"]))
    hospital = await clinic.token("hospital-system", kap_user=H1)
    made = await asked(clinic, hospital)
    await hook.work()
    held = await clinic.made(episode(ada))
    await hook.work()
    answer = await clinic.send(hospital, "GET", f"Subscription/{made['id']}/$events")
    assert Told(parse(answer.content)).events == [(1, f"{BASE}/EpisodeOfCare/{held['id']}")]
    rows = await disclosed(clinic)
    assert {one.does for one in rows} == {"notify", "events"}
    for row in rows:
        assert row.authorisation == f"Consent/{given['id']}/_history/1"
        assert (row.patients, row.recipient) == ((ada,), H1)


@pytest.mark.parametrize("content", ["empty", "id-only", "full-resource"])
async def test_what_is_of_a_programme_under_part_2_goes_with_the_notice_and_its_consent(clinic, hook, ada, content):
    given = await clinic.made(consent(ada, PATTERNS["P5"], part_2=True))
    await asked(clinic, await clinic.token("hospital-system", kap_user=H1), content=content)
    await hook.work()
    label = {"system": ACT_CODE, "code": "42CFRPart2"}
    await clinic.made({**episode(ada), "meta": {"security": [label]}})
    await clinic.made(episode(ada))
    of_programme, plain = await hook.work()
    assert NOTICE in str(of_programme.bundle["meta"])
    assert NOTICE not in str(plain.bundle)
    behind = f"{BASE}/Consent/{given['id']}/_history/1"
    assert (behind in str(of_programme.bundle["meta"])) == (content != "empty")
    assert "The patient's consent for HOPERAT, HPAYMT, TREAT" in str(of_programme.bundle["meta"])
    assert (ada in str(of_programme.bundle)) == (content == "full-resource")
    if content == "full-resource":
        whole = of_programme.bundle["entry"][1]["resource"]
        assert NOTICE in str(whole["meta"])
        assert behind in str(whole["meta"])
    row = next(one for one in await disclosed(clinic) if one.does == "notify")
    assert row.authorisation == f"Consent/{given['id']}/_history/1"


# Whole records, other endpoints, other topics


async def test_whole_resources_of_the_clinics_own_go_only_where_who_runs_the_installation_lets_them(clinic, hook, ada):
    admin = await clinic.token("clinic-admin")
    refused = await clinic.send(admin, "POST", "Subscription", subscription(content="full-resource"))
    assert refused.status_code == 422
    said = parse(refused.content)["issue"][0]
    assert said["diagnostics"].startswith("Whole resources are sent outside only")
    assert said["expression"] == ["Subscription.channel.payload.extension"]
    clinic.subscribing.inside["default"] = frozenset(("ehr.example",))
    await asked(clinic, admin, content="full-resource")
    await hook.work()
    held = await clinic.made(episode(ada))
    [told] = await hook.work()
    assert told.bundle["entry"][1]["resource"]["id"] == held["id"]
    clinic.subscribing.inside.clear()  # listed no more: it is told of by its id
    another = await clinic.made(episode(ada))
    [told] = await hook.work()
    assert told.events == [(2, f"{BASE}/EpisodeOfCare/{another['id']}")]
    assert "resource" not in told.bundle["entry"][1]


async def test_an_endpoint_that_is_put_while_the_old_one_is_greeted_is_greeted_itself(clinic, hook, ada):
    admin = await clinic.token("clinic-admin")
    made = await asked(clinic, admin, endpoint="https://old.example/hook")
    arrived, let_go, greeted = asyncio.Event(), asyncio.Event(), []

    async def slow(request):
        greeted.append(request.url.host)
        if request.url.host == "old.example":
            arrived.set()
            await let_go.wait()
        return httpx.Response(200)

    await hook.client.aclose()
    hook.client = httpx.AsyncClient(transport=httpx.MockTransport(slow))
    await hook.notifying.once(hook.parts, hook.client)
    await arrived.wait()
    body = {**subscription(endpoint="https://new.example/hook"), "id": made["id"]}
    assert (await clinic.send(admin, "PUT", f"Subscription/{made['id']}", body)).status_code == 200
    let_go.set()
    await asyncio.gather(*hook.notifying._running.values())
    assert (await read(clinic, admin, made))["status"] == "requested"
    await hook.run()
    assert greeted == ["old.example", "new.example"]
    assert (await read(clinic, admin, made))["status"] == "active"


async def test_another_topic_begins_with_nothing_of_the_old_one_and_what_was_told_can_still_be_asked_for(
    clinic, hook, ada
):
    admin = await clinic.token("clinic-admin")
    made = await asked(clinic, admin)
    await hook.work()
    first = await clinic.made(episode(ada))
    await hook.work()
    hook.answers = [500] * 50
    await clinic.made(episode(ada))
    await hook.work()  # numbered, and not taken
    store = clinic.stores["gateway"]
    async with store.transaction(keys=(), tenant="default") as transaction:
        await transaction.connection.execute("UPDATE subscription SET next_attempt_at = now() + interval '1 hour'")
    await clinic.made(episode(ada))
    await hook.work()  # noted
    hook.answers = []
    topic = "https://kap-exchange.org/fhir/SubscriptionTopic/outcome-score-recorded"
    body = {**subscription(topic=topic), "id": made["id"]}
    assert (await clinic.send(admin, "PUT", f"Subscription/{made['id']}", body)).status_code == 200
    assert [one.kind for one in await hook.work()] == ["handshake"]
    score = await clinic.made(survey(ada))
    [told] = await hook.work()
    assert told.events == [(3, f"{BASE}/Observation/{score['id']}")]
    where = f"Subscription/{made['id']}/$events"
    events = Told(parse((await clinic.send(admin, "GET", where)).content)).events
    assert [events[0], events[-1]] == [(1, f"{BASE}/EpisodeOfCare/{first['id']}"), *told.events]
    assert len(events) == 3


# How many, and whose turn it is


async def test_a_client_has_so_many_subscriptions_and_ends_one_to_have_another(clinic, hook):
    admin = await clinic.token("clinic-admin")
    made = [await asked(clinic, admin) for _ in range(20)]
    both = [clinic.send(admin, "POST", "Subscription", subscription()) for _ in range(2)]
    answer, _ = await asyncio.gather(*both)
    assert answer.status_code == 422
    assert "This client has 20 Subscriptions already" in answer.text
    again = {**subscription(), "id": made[0]["id"]}
    assert (await clinic.send(admin, "PUT", f"Subscription/{made[0]['id']}", again)).status_code == 200
    assert (await clinic.send(admin, "DELETE", f"Subscription/{made[1]['id']}")).status_code == 204
    one, other = await asyncio.gather(*(clinic.send(admin, "POST", "Subscription", subscription()) for _ in range(2)))
    assert sorted((one.status_code, other.status_code)) == [201, 422]
    await asked(clinic, await clinic.token("clinic-admin", kap_tenant="north"))


async def test_endpoints_that_answer_slowly_hold_up_their_own_client_and_nobody_else(clinic, hook):
    key = key_of("ES384")
    slow, quick = [
        (await clinic.asked("token", (await clinic.register(key=key, **who)).json()["client_id"], key)).json()
        for who in ({"kap_role": "clinic-admin", "kap_user": "Practitioner/p"}, {"kap_role": "hospital-system"})
    ]
    for _ in range(6):
        await asked(clinic, slow["access_token"], endpoint="https://slow.example/hook")
    north = await clinic.token("clinic-admin", kap_tenant="north")
    others = [(token, await asked(clinic, token)) for token in (quick["access_token"], north)]
    let_go, held_up, begun = asyncio.Event(), asyncio.Event(), []

    async def answer(request):
        begun.append(request.url.host)
        if request.url.host == "slow.example":
            if begun.count("slow.example") == 4:
                held_up.set()
            await let_go.wait()
        return httpx.Response(200)

    await hook.client.aclose()
    hook.client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    async with asyncio.timeout(20):
        for token, one in others:
            while (await read(clinic, token, one))["status"] != "active":
                await hook.notifying.once(hook.parts, hook.client)
                await asyncio.sleep(0.05)
        await held_up.wait()
    assert await hook.notifying.once(hook.parts, hook.client) == 0  # two more of the slow client's wait for their turn
    let_go.set()
    await hook.run()
    assert begun.count("slow.example") == 6


# Who may be told no more


async def let_be_asked(hook):
    """Have the issuer be asked at the next step about who may still be told."""
    hook.notifying._asked = float("-inf")


async def status_of(clinic, token, one):
    """Return how a Subscription is and why, as it says itself and by `$status`."""
    held = await read(clinic, token, one)
    answer = parse((await clinic.send(token, "GET", f"Subscription/{one['id']}/$status")).content)
    said = {each["name"]: each for each in answer["entry"][0]["resource"]["parameter"]}
    assert said["status"]["valueCode"] == held["status"]
    assert said.get("error", {}).get("valueCodeableConcept", {}).get("text") == held.get("error")
    return held["status"], held.get("error")


async def test_a_client_that_is_turned_off_is_told_no_more(clinic, hook, ada):
    key, operator = key_of("ES384"), await clinic.token(scope="kap/operate system/Subscription.rs")
    client = (await clinic.register(key=key, kap_role="clinic-admin", kap_user="Practitioner/p")).json()["client_id"]
    token = (await clinic.asked("token", client, key)).json()["access_token"]
    made, other = await asked(clinic, token), await asked(clinic, await clinic.token("clinic-admin"))
    assert len(await hook.work()) == 2
    await clinic.made(episode(ada))
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/clients')}"}
    assert (await clinic.http.delete(f"{ISSUER}/auth/clients/{client}", headers=manager)).status_code == 204
    await let_be_asked(hook)
    assert [one.bundle["entry"][0]["request"]["url"] for one in await hook.work()] == [
        f"{BASE}/Subscription/{other['id']}/$status"
    ]
    assert await status_of(clinic, operator, made) == ("off", "The client was turned off.")
    assert await status_of(clinic, operator, other) == ("active", None)


async def test_what_a_person_let_a_client_do_ends_with_the_permission_or_the_person(clinic, hook, ada):
    operator = await clinic.token(scope="kap/operate system/Subscription.rs")
    scope = "openid fhirUser offline_access user/Subscription.cruds user/EpisodeOfCare.rs"
    heart = await app(clinic, scope=scope)
    asked_for = []
    for name in ("eve", "fay", "gil"):
        await person(clinic, name, f"Practitioner/{name}", "clinic-admin")
        given = await heart.launched(name)
        asked_for.append((given, await asked(clinic, given["access_token"])))
    assert len(await hook.work()) == 3
    revoked = {"token": asked_for[0][0]["refresh_token"], "client_id": heart.id}
    assert (await clinic.http.post(f"{ISSUER}/auth/revoke", data=revoked)).status_code == 200
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/users')}"}
    assert (await clinic.http.delete(f"{ISSUER}/auth/users/fay", headers=manager)).status_code == 204
    await let_be_asked(hook)
    await clinic.made(episode(ada))
    assert len(await hook.work()) == 1
    ended = ("off", "What a person let the client do has ended.")
    assert [await status_of(clinic, operator, one) for _, one in asked_for] == [ended, ended, ("active", None)]


async def test_a_token_that_is_taken_back_ends_what_was_asked_for_with_it_and_another_begins_it_anew(clinic, hook, ada):
    key = key_of("ES384")
    client = (await clinic.register(key=key, kap_role="clinic-admin", kap_user="Practitioner/p")).json()["client_id"]
    token, another = [(await clinic.asked("token", client, key)).json()["access_token"] for _ in range(2)]
    made = await asked(clinic, token)
    await hook.work()
    await clinic.asked("revoke", client, key, token=token)
    await let_be_asked(hook)
    await clinic.made(episode(ada))
    assert await hook.work() == []
    why = "The token that it was asked for with was taken back."
    assert await status_of(clinic, another, made) == ("off", why)
    body = {**subscription(), "id": made["id"]}
    assert (await clinic.send(another, "PUT", f"Subscription/{made['id']}", body)).status_code == 200
    await let_be_asked(hook)
    assert [one.kind for one in await hook.work()] == ["handshake"]
    assert await status_of(clinic, another, made) == ("active", None)


NARROWED = "Its client may do less now than by the token it was asked for with."


async def test_a_client_that_is_registered_for_less_is_told_no_more(clinic, hook, ada):
    operator, key = await clinic.token(scope="kap/operate system/Subscription.rs"), key_of("ES384")
    held = clinic.stores["identity"].identities
    scopes = "system/Subscription.cruds system/Observation.rs system/EpisodeOfCare.rs"
    made = []
    for less in (
        "system/Subscription.cruds system/EpisodeOfCare.rs",
        "system/Subscription.cruds system/Observation.rs",
    ):
        client = (await clinic.register(key=key, scope=scopes, kap_user=H1)).json()["client_id"]
        made.append(await asked(clinic, (await clinic.asked("token", client, key)).json()["access_token"]))
        await hook.work()
        await held.put_client(replace(await held.client(client), scope=less))
    await let_be_asked(hook)
    await hook.work()
    states = [await status_of(clinic, operator, one) for one in made]
    assert states == [("active", None), ("off", NARROWED)]  # what the first is about it may still see


async def test_a_role_that_may_less_by_a_new_policy_is_told_no_more_and_nor_are_the_apps_of_who_has_it(
    clinic, hook, ada, monkeypatch
):
    operator = await clinic.token(scope="kap/operate system/Subscription.rs")
    heart = await app(clinic, scope="openid fhirUser offline_access user/Subscription.cruds user/EpisodeOfCare.rs")
    await person(clinic, "eve", "Practitioner/eve", "clinic-admin")
    of_app = await asked(clinic, (await heart.launched("eve"))["access_token"])
    of_role = await asked(clinic, await clinic.token("clinic-admin"))
    of_nurse = await asked(clinic, await clinic.token("partner-physician", kap_user="Practitioner/gp"))
    await let_be_asked(hook)
    await hook.work()
    fewer = replace_struct(ROLES["clinic-admin"], scopes=("user/Subscription.cruds", "user/EpisodeOfCare.r"))
    monkeypatch.setitem(ROLES, "clinic-admin", fewer)
    await let_be_asked(hook)
    await clinic.made(episode(ada), await clinic.token(scope="user/EpisodeOfCare.c", kap_role="prescriber"))
    assert await hook.work() == []
    states = [await status_of(clinic, operator, one) for one in (of_app, of_role, of_nurse)]
    assert states == [("off", NARROWED), ("off", NARROWED), ("active", None)]


async def test_what_is_on_its_way_to_a_client_is_stopped_when_it_is_turned_off(clinic, hook, ada):
    """Its server holds the request open; the turn that waits for it is ended, not only the next one refused."""
    key = key_of("ES384")
    client = (await clinic.register(key=key, kap_role="clinic-admin", kap_user="Practitioner/p")).json()["client_id"]
    await asked(clinic, (await clinic.asked("token", client, key)).json()["access_token"])
    await hook.work()
    arrived, let_go, stopped = asyncio.Event(), asyncio.Event(), []

    async def held_open(_request):
        arrived.set()
        try:
            await let_go.wait()
        except asyncio.CancelledError:
            stopped.append(True)
            raise
        return httpx.Response(200)

    await hook.client.aclose()
    hook.client = httpx.AsyncClient(transport=httpx.MockTransport(held_open))
    await clinic.made(episode(ada))
    await hook.notifying.once(hook.parts, hook.client)
    await arrived.wait()
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/clients')}"}
    assert (await clinic.http.delete(f"{ISSUER}/auth/clients/{client}", headers=manager)).status_code == 204
    await let_be_asked(hook)
    await hook.notifying.once(hook.parts, hook.client)
    assert (stopped, hook.notifying._running) == ([True], {})


async def test_where_the_issuer_is_not_heard_for_a_minute_nobody_is_told(clinic, hook, ada):
    admin = await clinic.token("clinic-admin")
    made = await asked(clinic, admin)
    await hook.work()
    await clinic.made(episode(ada))
    issuer = clinic.wire.apps.pop("identity")
    hook.notifying._heard -= 61
    await let_be_asked(hook)
    assert await hook.work() == []
    clinic.wire.apps["identity"] = issuer
    await let_be_asked(hook)
    await hook.now()
    assert [one.numbers for one in await hook.work()] == [[1]]
    assert await status_of(clinic, admin, made) == ("active", None)


async def test_where_an_issuer_does_not_tell_who_ended_a_subscription_has_to_be_asked_for_anew(
    clinic, hook, ada, monkeypatch
):
    admin = await clinic.token("clinic-admin")
    made = await asked(clinic, admin)
    monkeypatch.setattr("shared.security.bearer.ENDED", "an endpoint that no other issuer has")
    await hook.work()
    async with clinic.stores["gateway"].transaction(keys=(), tenant="default") as transaction:
        await transaction.connection.execute("UPDATE subscription SET asked_at = asked_at - interval '8 days'")
    await let_be_asked(hook)
    await clinic.made(episode(ada))
    assert await hook.work() == []
    state, why = await status_of(clinic, admin, made)
    assert (state, "Begin it anew by PUT" in why) == ("off", True)


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


async def test_a_host_inside_is_open_to_the_subscribers_of_the_clinic_it_is_listed_for_and_to_no_others(clinic, hook):
    asked_at = []

    async def inside(host, _port):
        asked_at.append(host)
        return ["127.0.0.1"]

    clinic.subscribing.inside["default"] = frozenset(("10.0.0.5:8443",))
    ours, north = await clinic.token("clinic-admin"), await clinic.token("clinic-admin", kap_tenant="north")
    inner = subscription(endpoint="https://10.0.0.5:8443/hook", header=["Authorization: Bearer a"])
    for body, token, status in (
        (inner, ours, 201),
        (inner, north, 422),
        (subscription(endpoint="https://10.0.0.5/hook"), ours, 422),
    ):
        assert (await clinic.send(token, "POST", "Subscription", body)).status_code == status
    # Which clinic's it is decides where it is sent, too: were it another's by its row, nothing would leave.
    await hook.client.aclose()
    hook.client = httpx.AsyncClient(transport=Outbound(Outside(), inside))
    await hook.run()
    assert set(asked_at) == {"10.0.0.5"}
    asked_at.clear()
    clinic.subscribing.inside.clear()
    await hook.now()
    await hook.run()
    assert asked_at == []


async def test_a_subscription_comes_by_itself_alone(clinic):
    admin = await clinic.token("clinic-admin")
    entry = {"fullUrl": "urn:uuid:9f7e4a52-6e0f-4b8e-9d39-0d1d6c1f0a11", "resource": subscription(),
             "request": {"method": "POST", "url": "Subscription"}}  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    answer = await clinic.send(admin, "POST", "", bundle)
    assert (answer.status_code, "by itself" in answer.text) == (422, True), answer.text
    answer = await clinic.send(admin, "PUT", "Subscription?status=active", subscription())
    assert (answer.status_code, "by itself" in answer.text) == (422, True), answer.text
