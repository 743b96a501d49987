"""Two databases that differ only in what a caller may not see answer him alike over HTTP, byte for byte.

Status, headers, body and links: apart from the request's id, times, and what is sealed in a page link, of which the
length has to be the same. The one exception (interop.md section 2 row 3) is `If-None-Exist` on Patient: uniqueness
counts what is hidden; here nobody asks it who may not know.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, replace

import httpx
import pytest
from pydantic import SecretStr

from services.gateway.forward import GatewayBackend
from services.gateway.owners import Owners
from services.gateway.service import SERVICE as GATEWAY
from shared.http.app import create_fhir_app
from shared.http.backend import Backend
from shared.http.local import LocalBackend
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.security import caller as security
from shared.store import includes, queries
from shared.store.access import Access
from shared.store.store import Store
from tests.integration.security.test_nothing_leaks import QUESTIONS, write_all
from tests.integration.security.worlds import PATIENTS, TYPES, Caller, World, bearer, caller, record

WORLDS, WORLDS_IN_FULL = 25, 500
FOUND = (52,)
"""Worlds that found something once: two patients of one row, where a statement took for granted that there is one."""

ASKED = 8
BASE = "http://paired/fhir"
SERVICE = Service("paired", "Paired", frozenset(TYPES), publishes=False)


@dataclass(frozen=True, slots=True)
class Asking(security.Caller):
    """A caller who may what `allowed` says, by every letter."""

    allowed: Access | None = None

    def __post_init__(self) -> None:
        """Work nothing out: the grants are given."""

    def access(self, letter: security.Letter) -> Access:
        assert self.allowed is not None
        return replace(self.allowed, disclosure=None) if letter == "c" else self.allowed


def without(chance: random.Random, world: World, who: Caller) -> World:
    """Return a world that lacks some of what the caller may not see, and says others of what it keeps."""
    other = World(dict(world.current), list(world.log))
    for place in chance.sample(sorted(world.current), len(world.current)):
        if place[0] == "Consent" or any(who.sees(world, one) for one in versions_of(world, place)):
            continue  # what the consents say is what he may see
        if place[0] == "Patient" and any(
            bearer(one) == place[1] and who.sees(world, one) for one in world.current.values()
        ):
            continue  # whose what he sees is: ids are no UUIDs here, and only the Patient says which one his stands for
        fewer = World(
            {key: one for key, one in other.current.items() if key != place},
            [(number, one) for number, one in other.log if (one["resourceType"], one["id"]) != place],
        )
        if all(who.sees(fewer, one) == who.sees(world, one) for one in fewer.current.values()):
            other = fewer
    return other


def versions_of(world: World, place: tuple[str, str]) -> list[dict]:
    return [one for _, one in world.log if (one["resourceType"], one["id"]) == place]


def asking(store: Store, who: Caller, *, gateway: bool = False) -> httpx.AsyncClient:
    """Return the client of a caller before a service of its own, or before the gateway, which holds all as copies."""
    given = replace(who.access, tenant="default")
    settings = Settings(
        service="paired",
        database_url=SecretStr("postgresql://the-fixture-connects"),
        public_base=BASE,
        no_auth=True,
        link_secret=SecretStr("the same in both worlds"),
        requests_per_second=100_000,
    )

    async def authenticate(_headers: object) -> security.Caller:
        return Asking("default", client="somebody", disclosure=given.disclosure, allowed=given)

    if gateway:
        backend: Backend = GatewayBackend(GATEWAY, store, Owners(httpx.AsyncClient(), {}))
        app = create_fhir_app(GATEWAY, backend, settings, authenticate=authenticate)
    else:
        app = create_fhir_app(SERVICE, LocalBackend(SERVICE, store), settings, authenticate=authenticate)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)


UNLIKE = frozenset(("date", "last-modified", "x-request-id", "traceparent", "x-kap-position"))
"""Headers that may differ; the last is an owner's to the gateway: a write's place among all of the clinic's events."""

MADE_NOW = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The id of a Bundle, or of what was created: ids of the worlds are none of this form."""

TIMES = (
    (re.compile(r'"lastUpdated":"[^"]*"'), '"lastUpdated":"-"'),
    (re.compile(r'"lastModified":"[^"]*"'), '"lastModified":"-"'),
    (re.compile(r'"timestamp":"[^"]*"'), '"timestamp":"-"'),
    (re.compile(r'"date":"[^"]*T[^"]*"'), '"date":"-"'),
    (MADE_NOW, "-"),
)
SEALED = re.compile(r"_page=([A-Za-z0-9_-]+)")
NEXT = re.compile(r'"relation":"next","url":"([^"]*)"')


def alike(answer: httpx.Response) -> tuple[int, dict[str, str], str]:
    """Return an answer without its times and request id; what is sealed as its length."""
    headers = {name: MADE_NOW.sub("-", value) for name, value in answer.headers.items() if name not in UNLIKE}
    request = answer.headers.get("x-request-id", "no request id")
    text = answer.text.replace(request, "-")
    for pattern, with_ in TIMES:
        text = pattern.sub(with_, text)
    text = SEALED.sub(lambda found: f"_page=({len(found[1])})", text)
    return answer.status_code, headers, text


class Leak(Exception):
    """The two worlds answer differently."""


class Pair:
    """One caller before two worlds."""

    def __init__(self, one: httpx.AsyncClient, other: httpx.AsyncClient, told: str) -> None:
        self._both = (one, other)
        self._told = told

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> None:
        """Ask both worlds the same; follow the links of their pages.

        Raises:
            Leak: they answer differently.

        """
        sent = {"Content-Type": "application/fhir+json", "Accept-Encoding": "identity", **headers}
        content = None if body is None else json.dumps(body)
        paths: list[str] | None = [path, path]
        pages = 0
        while paths is not None and pages < 6:
            answers = [
                await client.request(method, f"{BASE}/{each}", content=content, headers=sent)
                for client, each in zip(self._both, paths, strict=True)
            ]
            one, other = map(alike, answers)
            if one != other:
                raise Leak(f"{self._told}: {method} {path}, page {pages}: {one} is not {other}"[:4000])
            following = [NEXT.search(answer.text) for answer in answers]
            paths = [found[1].removeprefix(f"{BASE}/") for found in following if found is not None] or None
            pages += 1


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
    async with asking(one, who) as first, asking(other, who) as second:
        pair = Pair(first, second, f"seed {seed}")
        for question in chance.sample(QUESTIONS, ASKED):
            await pair.ask("GET", question)
        form = chance.choice([each for each in QUESTIONS if not each.startswith("?")])
        type_, _, rest = form.partition("?")
        await pair.ask("GET", f"{type_}?{rest}&_sort=-_lastUpdated&_count=1")
        gone = sorted(world.current.keys() - fewer.current.keys())
        kept = chance.sample(sorted(fewer.current), 2)
        for type_, id_ in [*chance.sample(gone, min(3, len(gone))), *kept]:
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
    async with asking(one, who, gateway=True) as first, asking(other, who, gateway=True) as second:
        await at_the_gateway(Pair(first, second, f"seed {seed}, gateway"), chance)


async def at_the_gateway(pair: Pair, chance: random.Random) -> None:
    """Ask what the gateway alone answers, or answers in a way of its own: whole records, documents, histories."""
    patient, another = chance.sample(PATIENTS, 2)
    await pair.ask("GET", f"Patient/{patient}/$everything?_count=2")
    await pair.ask("GET", f"Patient/{another}/$everything?_type=Observation,Practitioner&start=2026-11-10")
    await pair.ask("GET", f"Patient/{patient}/$summary")
    await pair.ask("GET", f"Observation/$lastn?patient=Patient/{another}&max=2")
    for path in (f"Patient/{patient}/_history", "_history?_count=5", f"{chance.choice(TYPES)}/_history?_count=2"):
        await pair.ask("GET", path)
    await pair.ask("GET", chance.choice(QUESTIONS))


async def by_id(pair: Pair, world: World, type_: str, id_: str) -> None:
    held = world.current[type_, id_]
    await pair.ask("GET", f"{type_}/{id_}")
    await pair.ask("GET", f"{type_}/{id_}", **{"If-None-Match": 'W/"1"'})
    await pair.ask("GET", f"{type_}/{id_}/_history/1")
    await pair.ask("GET", f"{type_}/{id_}/_history/2")
    await pair.ask("GET", f"{type_}/{id_}/_history")
    await pair.ask("GET", f"{type_}?_id={id_}")
    await pair.ask("PUT", f"{type_}/{id_}", held, **{"If-Match": 'W/"9"'})
    patch = [{"op": "test", "path": "/resourceType", "value": type_}]
    await pair.ask("PATCH", f"{type_}/{id_}", patch, **{"Content-Type": "application/json-patch+json"})
    await pair.ask("DELETE", f"{type_}/{id_}", **{"If-Match": 'W/"9"'})


async def clear(store: Store) -> None:
    """Forget everything, and begin to count rows somewhere else: row numbers differ from world to world."""
    async with store.transaction(keys=(), tenant="default") as transaction:
        tables = await transaction.connection.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'rid' "
            "WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace"
        )
        names = sorted({*(row["relname"] for row in tables), "consent_rule"})
        await transaction.connection.execute(f"TRUNCATE {', '.join(names)}")


@pytest.fixture
async def stores(make_database):
    one = await Store.connect(make_database("one"), service="paired", max_size=4)
    other = await Store.connect(make_database("other"), service="paired", max_size=4)
    yield one, other
    await one.close()
    await other.close()


@pytest.mark.timeout(300)
async def test_worlds_that_differ_only_in_what_is_hidden_answer_alike_over_http(stores) -> None:
    for seed in (*range(WORLDS), *FOUND):
        await compare(*stores, seed)


@pytest.mark.slow
@pytest.mark.timeout(6000)
async def test_worlds_that_differ_only_in_what_is_hidden_answer_alike_over_http_many_more(stores) -> None:
    for seed in range(WORLDS, WORLDS_IN_FULL):
        await compare(*stores, seed)


@pytest.mark.parametrize("module", [includes, queries])
@pytest.mark.timeout(300)
async def test_a_leak_that_is_planted_is_found_over_http(stores, monkeypatch, module) -> None:
    monkeypatch.setattr(module, "visible", lambda *_, **__: [])

    async def compare_all() -> None:
        for seed in range(WORLDS):
            await compare(*stores, seed)

    with pytest.raises(Leak):
        await compare_all()
