"""Two databases that differ only in what a caller may not see answer him alike over HTTP, byte for byte.

Status, headers, body and links: apart from the request's id, times, and what is sealed in a page link, of which the
length has to be the same. The one exception (interop.md section 2 row 3) is `If-None-Exist` on Patient: uniqueness
counts what is hidden; here nobody asks it who may not know.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from services.gateway.exporting.answering import export_route
from services.gateway.forward import GatewayBackend
from services.gateway.owners import Owners
from services.gateway.service import SERVICE as GATEWAY
from services.gateway.topics import CANONICAL
from shared.http.app import create_fhir_app
from shared.runtime.app import Parts
from shared.security import caller as security
from shared.store import exports, includes, queries, subscriptions
from shared.store.access import Access
from shared.store.store import Store
from shared.testing.knowledge import all_is_heard
from tests.integration.security.asking import BASE, SETTINGS, asking
from tests.integration.security.exports import heard, worked
from tests.integration.security.test_nothing_leaks import QUESTIONS, Leak, same, write_all
from tests.integration.security.test_what_is_notified import SUBSCRIBING, TOPICS
from tests.integration.security.worlds import (
    PATIENTS,
    TYPES,
    Caller,
    World,
    add_documents,
    aside,
    bearer,
    bearing,
    caller,
    record,
)
from tests.subscriber import Subscriber, subscription

WORLDS, WORLDS_IN_FULL, FED = 25, 500, 15
FOUND = (52,)
"""Worlds that found something once: two patients of one row, where a statement took for granted that there is one."""

ASKED = 8


def without(chance: random.Random, world: World, who: Caller, *earlier: World) -> World:
    """Return a world that lacks some of what the caller may not see, nor could in `earlier` states of it."""
    other, states = World(dict(world.latest), list(world.log)), [world, *earlier]
    fewer = list(states)
    for place in chance.sample(sorted(world.latest), len(world.latest)):
        if place[0] == "Consent" or any(who.sees(one, held) for one in states for held in versions_of(one, place)):
            continue  # what the consents say is what he may see
        if place[0] == "Patient" and any(
            bearer(held) == place[1] and who.sees(one, held) for one in states for held in one.latest.values()
        ):
            continue  # whose what he sees is: ids are no UUIDs here, and only the Patient says which one his stands for
        less = [_less(one, place) for one in fewer]
        if all(
            who.sees(one, held) == who.sees(state, held)
            for one, state in zip(less, states, strict=True)
            for held in one.latest.values()
        ):
            fewer, other = less, less[0]
    return other


def _less(world: World, place: tuple[str, str]) -> World:
    return World(
        {key: one for key, one in world.latest.items() if key != place},
        [(number, one) for number, one in world.log if (one["resourceType"], one["id"]) != place],
    )


def versions_of(world: World, place: tuple[str, str]) -> list[dict]:
    return [one for _, one in world.log if (one["resourceType"], one["id"]) == place]


def of_a_token(store: Store, token: security.Caller) -> httpx.AsyncClient:
    """Return the client of the bearer of a token before the gateway, exports included."""
    backend = GatewayBackend(GATEWAY, store, Owners(httpx.AsyncClient(), {}), subscribing=SUBSCRIBING)

    async def authenticate(_headers: object) -> security.Caller:
        return token

    parts = Parts(GATEWAY, SETTINGS, store, authenticate, AsyncExitStack())
    app = create_fhir_app(GATEWAY, backend, SETTINGS, authenticate=authenticate, before=[export_route(parts)])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)


UNLIKE = frozenset(("date", "last-modified", "expires", "x-request-id", "traceparent", "x-kap-position"))
"""Headers that may differ; the last is an owner's to the gateway: a write's place among all of the clinic's events."""

MADE_NOW = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The id of a Bundle, or of what was created: ids of the worlds are none of this form."""

TIMES = (
    (re.compile(r'"lastUpdated":"[^"]*"'), '"lastUpdated":"-"'),
    (re.compile(r'"lastModified":"[^"]*"'), '"lastModified":"-"'),
    (re.compile(r'"timestamp":"[^"]*"'), '"timestamp":"-"'),
    (re.compile(r'"valueInstant":"[^"]*"'), '"valueInstant":"-"'),
    (re.compile(r'"transactionTime":"[^"]*"'), '"transactionTime":"-"'),
    (re.compile(r"\$export/[A-Za-z0-9_-]{32}"), "$export/-"),
    (re.compile(r'"date":"[^"]*T[^"]*"'), '"date":"-"'),
    (MADE_NOW, "-"),
)
ITS_OWN = "(its own)"
"""Stands for the id of what was made last in each world: no two have the same."""

SEALED = re.compile(r"_page=([A-Za-z0-9_-]+)")
NEXT = re.compile(r'"relation":"next","url":"([^"]*)"')


def alike(answer: httpx.Response) -> tuple[int, dict[str, str], str]:
    """Return an answer without its times and request id; what is sealed as its length."""
    headers = {name: comparable(value) for name, value in answer.headers.items() if name not in UNLIKE}
    request = answer.headers.get("x-request-id", "no request id")
    return answer.status_code, headers, comparable(answer.text.replace(request, "-"))


def comparable(text: str) -> str:
    """Return what was answered or sent without its times; what is sealed as its length."""
    for pattern, with_ in TIMES:
        text = pattern.sub(with_, text)
    return SEALED.sub(lambda found: f"_page=({len(found[1])})", text)


class Pair:
    """One caller before two worlds."""

    def __init__(self, one: httpx.AsyncClient, other: httpx.AsyncClient, told: str) -> None:
        self._both = (one, other)
        self.told = told
        self._own = ["", ""]

    async def began(self, method: str, path: str, body: object = None, **headers: str) -> str | None:
        """Have both worlds make something; return where it is, by a name that means each's own; None: refused.

        Raises:
            Leak: they answer differently.

        """
        sent = {"Content-Type": "application/fhir+json", **headers}
        answers = [
            await client.request(
                method, f"{BASE}/{path}", content=None if body is None else json.dumps(body), headers=sent
            )
            for client in self._both
        ]
        same(alike(answers[0]), alike(answers[1]), f"{self.told}: {path}")
        if not answers[0].is_success:
            return None
        places = [one.headers.get("content-location") or one.headers["location"] for one in answers]
        self._own = [place.removeprefix(f"{BASE}/").split("/")[1] for place in places]
        return f"{places[0].removeprefix(f'{BASE}/').split('/')[0]}/{ITS_OWN}"

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> str:
        """Ask both worlds the same; follow the links of their pages; return what the first answered at last.

        Raises:
            Leak: they answer differently.

        """
        sent = {"Content-Type": "application/fhir+json", "Accept-Encoding": "identity", **headers}
        content = None if body is None else json.dumps(body)
        paths: list[str] | None = [path.replace(ITS_OWN, own) for own in self._own]
        pages, told = 0, ""
        while paths is not None and pages < 6:
            answers = [
                await client.request(method, f"{BASE}/{each}", content=content, headers=sent)
                for client, each in zip(self._both, paths, strict=True)
            ]
            one, other = map(alike, answers)
            if one != other:
                raise Leak(f"{self.told}: {method} {path}, page {pages}: {one} is not {other}"[:4000])
            told = answers[0].text
            following = [NEXT.search(answer.text) for answer in answers]
            paths = [found[1].removeprefix(f"{BASE}/") for found in following if found is not None] or None
            pages += 1
        return told


async def compare(one: Store, other: Store, seed: int) -> None:
    """Make a pair of worlds and a caller, and have him ask in both.

    Raises:
        Leak: they answer differently.

    """
    chance = random.Random(seed)
    world, who = record(chance), caller(chance)
    fewer = without(chance, world, who)
    for store, held in ((one, world), (other, fewer)):
        await clear(store)
        # No two in one millisecond: histories go by time, and times are what may differ.
        await write_all(store, Access.unrestricted(), held.log, apart=0.0015)
    given = replace(who.access, tenant="default")
    async with asking(one, given) as first, asking(other, given) as second:
        pair = Pair(first, second, f"seed {seed}")
        for question in chance.sample(QUESTIONS, ASKED):
            await pair.ask("GET", question)
        form = chance.choice([each for each in QUESTIONS if not each.startswith("?")])
        type_, _, rest = form.partition("?")
        await pair.ask("GET", f"{type_}?{rest}&_sort=-_lastUpdated&_count=1")
        gone = sorted(world.latest.keys() - fewer.latest.keys())
        kept = chance.sample(sorted(fewer.latest), 2)
        deleted = sorted(world.latest.keys() - world.current.keys())
        for type_, id_ in [*chance.sample(gone, min(3, len(gone))), *kept, *deleted]:
            await by_id(pair, world, type_, id_)
        for path in ("_history?_count=3", "Observation/_history?_count=2", "Condition/_history"):
            await pair.ask("GET", path)
        gets = [{"request": {"method": "GET", "url": f"{type_}/{id_}"}} for type_, id_ in [*gone[:2], *kept]]
        await pair.ask("POST", "", {"resourceType": "Bundle", "type": "batch", "entry": gets})
        patient = chance.choice(PATIENTS)
        naming = {"resourceType": "Condition", "subject": {"reference": f"Patient/{patient}"}}
        if gone:  # a reference used as a question
            naming["evidence"] = [{"detail": [{"reference": "/".join(gone[0])}]}]
        await pair.ask("POST", "Condition", naming, Prefer="return=minimal")
        await pair.ask("PUT", f"Condition?subject=Patient/{patient}", naming)
        await pair.ask("DELETE", f"Condition?subject=Patient/{patient}&code=a")
    async with asking(one, given, gateway=True) as first, asking(other, given, gateway=True) as second:
        await at_the_gateway(Pair(first, second, f"seed {seed}, gateway"), chance)


async def compare_feeds(one: Store, other: Store, seed: int) -> None:
    """Make a pair of worlds, and have who subscribes to them and exports them told of both while they are written.

    He is the bearer of a token, whose scopes and role the gateway works out itself; so he asks what others ask, too.

    Raises:
        Leak: he is sent something else, at another time, or answered differently.

    """
    chance = random.Random(seed)
    world = record(chance)
    add_documents(world, aside(chance))
    token, who = bearing(chance, of_one=False)
    topics = [name for name, (about, _, _) in TOPICS.items() if token.may(about.resource, "r")]
    if not topics:
        return
    cut = chance.randrange(1, len(world.log))
    first_state = World({(one["resourceType"], one["id"]): one for _, one in world.log[:cut]}, world.log[:cut])
    fewer = without(chance, world, who, first_state)
    early = [place for _, place in places_of(world.log[:cut])]
    asked = subscription(
        topic=f"{CANONICAL}{chance.choice(topics)}",
        content=chance.choice(["empty", "id-only", *(["full-resource"] if token.disclosure is not None else [])]),
        extension={"backport-heartbeat-period": {"valueUnsignedInt": 60}},
    )
    hooks = [Subscriber(store, SUBSCRIBING) for store in (one, other)]
    async with of_a_token(one, token) as first, of_a_token(other, token) as second:
        pair = Pair(first, second, f"seed {seed}, feeds")
        for store in (one, other):
            await clear(store)
            await all_is_heard(store, GATEWAY)
        where = await pair.began("POST", "Subscription", asked)
        assert where is not None
        await notified(hooks, pair)
        for first_part in (True, False):
            for store, held in ((one, world), (other, fewer)):
                part = [entry for entry, place in places_of(held.log) if (place in early) == first_part]
                await write_all(store, Access.unrestricted(), part, apart=0.0015)
            await notified(hooks, pair, quiet=chance.random() < 0.5)
            for path in (f"{where}/$status", "Subscription/$status", f"{where}/$events", where):
                await pair.ask("GET", path)
        await exported(pair, (one, other), chance)
        for question in chance.sample(QUESTIONS, 3):
            await pair.ask("GET", question)
        await at_the_gateway(pair, chance)
    for hook in hooks:
        await hook.client.aclose()


def places_of(log: list[tuple[int, dict]]) -> list[tuple[tuple[int, dict], tuple[str, str, int]]]:
    """Return each version with its place: the same in both worlds."""
    return [((number, one), (one["resourceType"], one["id"], number)) for number, one in log]


async def notified(hooks: list[Subscriber], pair: Pair, *, quiet: bool = False) -> None:
    """Have both workers do what is due, step by step; in each step both have to send the same.

    `quiet`: the subscriber has heard nothing for so long that a heartbeat is due.

    Raises:
        Leak: they do not.

    """
    for hook in hooks:
        hook.requests.clear()
        if quiet:
            async with hook.parts.store.transaction(keys=(), tenant="default") as transaction:
                await transaction.connection.execute("UPDATE subscription SET told_at = told_at - interval '1 hour'")
    for step in range(100):
        for hook in hooks:
            await hook.notifying.once(hook.parts, hook.client)
            await asyncio.gather(*hook.notifying._running.values())
        sent = [[comparable(request.content.decode()) for request in hook.requests] for hook in hooks]
        if sent[0] != sent[1]:
            raise Leak(f"{pair.told}: notifications in step {step}: {sent[0]} is not {sent[1]}"[:4000])
        if step > 3 and not any(hook.requests for hook in hooks):
            return
        for hook in hooks:
            hook.requests.clear()


async def exported(pair: Pair, stores: tuple[Store, ...], chance: random.Random) -> None:
    """Export both worlds: kick off, ask for the status before and after the worker, fetch each file, delete."""
    path = chance.choice(["$export", "Patient/$export", "$export?_type=Observation,Condition,Patient"])
    where = await pair.began("GET", path, Prefer="respond-async")
    if where is None:
        return
    await pair.ask("GET", where)
    for store in stores:
        await heard(store)
        await worked(store)
    files = await pair.ask("GET", where)
    for name in sorted(set(re.findall(r"/([A-Za-z]+-\d+\.ndjson|messages\.ndjson)", files))):
        await pair.ask("GET", f"{where}/{name}", Accept="application/fhir+ndjson")
    await pair.ask("GET", f"{where}/Practitioner-99.ndjson")
    await pair.ask("DELETE", where)
    await pair.ask("GET", where)


async def at_the_gateway(pair: Pair, chance: random.Random) -> None:
    """Ask what the gateway alone answers, or answers in a way of its own: whole records, documents, histories."""
    patient, another = chance.sample(PATIENTS, 2)
    await pair.ask("GET", f"Patient/{patient}/$everything?_count=2")
    await pair.ask("GET", f"Patient/{another}/$everything?_type=Observation,Practitioner&start=2026-11-10")
    await pair.ask("GET", f"Patient/{patient}/$summary")
    await pair.ask("GET", f"Observation/$lastn?patient=Patient/{another}&max=2")
    await pair.ask("GET", f"DocumentReference/$docref?patient=Patient/{another}")
    for path in (f"Patient/{patient}/_history", "_history?_count=5", f"{chance.choice(TYPES)}/_history?_count=2"):
        await pair.ask("GET", path)
    await pair.ask("GET", chance.choice(QUESTIONS))


async def by_id(pair: Pair, world: World, type_: str, id_: str) -> None:
    held = world.latest[type_, id_]
    await pair.ask("GET", f"{type_}/{id_}")
    await pair.ask("GET", f"{type_}/{id_}", **{"If-None-Match": 'W/"1"'})
    await pair.ask("GET", f"{type_}/{id_}/_history/1")
    await pair.ask("GET", f"{type_}/{id_}/_history/2")
    await pair.ask("GET", f"{type_}/{id_}/_history/3")
    await pair.ask("GET", f"{type_}/{id_}/_history")
    await pair.ask("GET", f"{type_}?_id={id_}")
    await pair.ask("PUT", f"{type_}/{id_}", held, **{"If-Match": 'W/"9"'})
    patch = [{"op": "test", "path": "/resourceType", "value": type_}]
    await pair.ask("PATCH", f"{type_}/{id_}", patch, **{"Content-Type": "application/json-patch+json"})
    await pair.ask("DELETE", f"{type_}/{id_}", **{"If-Match": 'W/"9"'})


APART = ("consent_rule", "subscription", "subscription_change", "subscription_event", "export_job", "export_file",
         "export_line")  # fmt: skip
"""Tables that hold something of the record, or of who asks for it, by other numbers than its rows'."""


async def clear(store: Store) -> None:
    """Forget everything, and begin to count rows somewhere else: row numbers differ from world to world."""
    async with store.transaction(keys=(), tenant="default") as transaction:
        tables = await transaction.connection.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'rid' "
            "WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace"
        )
        names = sorted({*(row["relname"] for row in tables), *APART})
        await transaction.connection.execute(f"TRUNCATE {', '.join(names)}")


@pytest.fixture
async def stores(make_database):
    async with opened(make_database, "paired") as both:
        yield both


@pytest.fixture
async def gateways(make_database):
    async with opened(make_database, "gateway") as both:
        yield both


@asynccontextmanager
async def opened(make_database, service):
    one, other = [await Store.connect(make_database(name), service=service, max_size=4) for name in ("one", "other")]
    yield one, other
    await one.close()
    await other.close()


@pytest.mark.timeout(300)
async def test_worlds_that_differ_only_in_what_is_hidden_answer_alike_over_http(stores) -> None:
    for seed in (*range(WORLDS), *FOUND):
        await compare(*stores, seed)


@pytest.mark.timeout(300)
async def test_who_subscribes_and_exports_is_told_alike_of_worlds_that_differ_only_in_what_is_hidden(gateways) -> None:
    for seed in range(FED):
        await compare_feeds(*gateways, seed)


@pytest.mark.parametrize("module", [exports, subscriptions])
@pytest.mark.timeout(300)
async def test_a_leak_that_is_planted_in_a_feed_is_found(gateways, monkeypatch, module) -> None:
    monkeypatch.setattr(module, "visible", lambda *_, **__: [])

    async def compare_all() -> None:
        for seed in range(FED):
            await compare_feeds(*gateways, seed)

    with pytest.raises(Leak):
        await compare_all()


@pytest.mark.slow
@pytest.mark.timeout(6000)
async def test_worlds_that_differ_only_in_what_is_hidden_answer_alike_over_http_many_more(stores) -> None:
    for seed in range(WORLDS, WORLDS_IN_FULL):
        await compare(*stores, seed)


@pytest.mark.slow
@pytest.mark.timeout(6000)
async def test_who_subscribes_and_exports_is_told_alike_of_many_more_worlds(gateways) -> None:
    for seed in range(FED, WORLDS_IN_FULL):
        await compare_feeds(*gateways, seed)


@pytest.mark.parametrize("module", [includes, queries])
@pytest.mark.timeout(300)
async def test_a_leak_that_is_planted_is_found_over_http(stores, monkeypatch, module) -> None:
    monkeypatch.setattr(module, "visible", lambda *_, **__: [])

    async def compare_all() -> None:
        for seed in range(WORLDS):
            await compare(*stores, seed)

    with pytest.raises(Leak):
        await compare_all()
