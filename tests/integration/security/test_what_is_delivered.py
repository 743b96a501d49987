"""What a hospital is sent, and what it then holds, is what a record without what it may not be told would have it hold.

The naive model is Python over a full copy (`worlds.py`), asked at each request that leaves: whether the consents as
they are then let this version be told to this destination, and which of its references they leave out. When nothing
moves any more, what the model lets be told is there in its newest version, and of nothing else a new one came; the
list of disclosures says what was sent and nothing more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from services.delivery import courier as couriers
from services.delivery.capability import PUSHED_TYPES
from services.delivery.courier import Courier, Patience
from services.delivery.destination import DestinationServer
from services.delivery.mapping import IDENTIFIER_SYSTEM, MASKED
from services.delivery.service import SERVICE
from shared.events.envelope import Event
from shared.events.handler import Position
from shared.events.shards import shard_of
from shared.fhir.codes import ACT_CODE
from shared.fhir.extraction import compartment_key, labels_of
from shared.fhir.freshness import KnowledgePolicy
from shared.fhir.json import dump, parse
from shared.runtime.consume import ServiceEvents
from shared.runtime.policy import load_policy
from shared.security.notice import NOTICE
from shared.store import disclosures as decisions
from shared.store import visibility
from shared.store.access import EVERYTHING, Access, Disclosure
from shared.store.disclosures import Disclosures
from shared.store.ledger import Ledger
from shared.store.ledger_types import Destination
from shared.store.store import Store
from shared.store.visibility import PART_2
from shared.testing.knowledge import all_is_heard
from tests.integration.security.consents import PATTERNS, TPO, consent, provision
from tests.integration.security.test_nothing_leaks import Leak, same
from tests.integration.security.worlds import (
    PATIENTS,
    TYPES,
    Caller,
    Gone,
    Resource,
    World,
    add_documents,
    aside,
    record,
)

WORLDS, WORLDS_IN_FULL, WORLDS_WITH_A_LEAK = 16, 1000, 16
TOLD: dict[str, Disclosure] = {
    "first": Disclosure(frozenset(("Organization/h1",)), frozenset(("TREAT",))),
    "second": Disclosure(frozenset(("Organization/h2",)), frozenset(("TREAT",))),
    "unnamed": Disclosure(frozenset(), frozenset(("TREAT",))),
    "payer": Disclosure(frozenset(("Organization/h1",)), frozenset(("HPAYMT",))),
    "exchange": Disclosure(
        frozenset(("Organization/h1",)), frozenset(("TREAT",)), through=frozenset(("Organization/h2",))
    ),
}
"""By the name of a destination, to whom, for what and through whom it is told: five cases of each world."""

NEWS = load_policy().section("knowledge", KnowledgePolicy).disclosure
AT_ONCE = Patience(reference=0.0)
OFFERED = ("create", "update", "read", "search-type")
METADATA = {
    "resourceType": "CapabilityStatement",
    "fhirVersion": "4.0.1",
    "rest": [
        {
            "mode": "server",
            "resource": [{"type": one, "interaction": [{"code": code} for code in OFFERED]} for one in PUSHED_TYPES],
        }
    ],
}
ROUNDS = 40
DOT = "dot"
"""Who is of a programme under 42 CFR Part 2."""


@dataclass
class Hospital:
    """One destination, and what it holds: it judges each request as it comes by what the world is then."""

    name: str
    world: World
    who: Caller
    told: str
    held: dict[str, Resource] = field(default_factory=dict)
    """What is there, by its id there."""

    ids: dict[tuple[str, str], str] = field(default_factory=dict)
    """By what it is here, its id there."""

    sent: list[tuple[str, str, int]] = field(default_factory=list)
    """What it was sent to hold: type, id and version here."""

    leaks: list[str] = field(default_factory=list)

    def answer(self, request: httpx.Request) -> httpx.Response:
        *_, id_ = request.url.path.split("/")
        if request.method == "GET" and id_ == "metadata":
            return httpx.Response(200, json=METADATA)
        if request.method == "GET":
            found = self.held.get(id_)
            return httpx.Response(404) if found is None else httpx.Response(200, content=dump(found))
        sent = parse(request.content)
        new = request.method == "POST"
        id_ = f"{self.name}-{len(self.held) + 1}" if new else id_
        try:
            self.judge(sent, None if new else self.held[id_])
        except Leak as leak:
            self.leaks.append(str(leak))
        self.held[id_] = {**sent, "id": id_}
        place = self.place(sent)
        if new and place in self.ids:
            self.leaks.append(f"{self.told}: {place} is there twice")
        self.ids[place] = id_
        base = str(request.url).split(sent["resourceType"])[0]
        return httpx.Response(201 if new else 200, headers={"Location": f"{base}{sent['resourceType']}/{id_}"})

    def place(self, sent: Resource) -> tuple[str, str]:
        """Return what a resource that was sent is here."""
        type_ = sent["resourceType"]
        [id_] = [one["value"] for one in sent["identifier"] if one.get("system") == IDENTIFIER_SYSTEM + type_]
        return type_, id_

    def judge(self, sent: Resource, there: Resource | None) -> None:
        """Compare what is sent with what may be told now.

        Raises:
            Leak: it is not that.

        """
        place = self.place(sent)
        told, now = f"{self.told}: {'/'.join(place)}", self.world.latest[place]
        if isinstance(now, Gone):  # that it was wrong is told to who has it, and nothing new with it
            kept = {name: value for name, value in (there or {}).items() if name not in MARKED}
            same(kept, {name: value for name, value in sent.items() if name not in MARKED}, f"{told}, withdrawn")
            return
        same(self.who.sees(self.world, now), True, f"{told} is told")
        self.sent.append((*place, _version(self.world, place)))
        same(shape(sent), shape(now, self.hidden), f"{told}, content")
        labels, bears = set(labels_of(now)), set(labels_of(sent))
        redacted = any(self.hidden(one) for one in references(now))
        same(("REDACTED" in codes(sent), labels <= bears), (redacted, True), f"{told}, labels")
        same(NOTICE in str(sent["meta"]) if "meta" in sent else False, PART_2 in labels, f"{told}, notice")

    def hidden(self, target: str) -> bool:
        """Tell whether what a reference names is held here and may not be told."""
        type_, _, id_ = target.partition("/")
        if type_ not in SERVICE.holds or (type_, id_) not in self.world.latest:
            return False
        return not self.who.sees(self.world, self.world.latest[type_, id_])

    def lacks(self) -> set[tuple[str, str]]:
        """Return what should be there in its newest version when nothing moves, and is not."""
        there = {one for one in self.ids if one[0] == "Patient"}
        found = set()
        for place, one in self.world.current.items():
            patient = ("Patient", compartment_key(one, *place).removeprefix("Patient/"))
            if place[0] in PUSHED_TYPES and self.who.sees(self.world, one) and patient in {*there, place}:
                held = self.held.get(self.ids.get(place, ""), {})
                if shape(held, lambda _: True) != shape(one, lambda _: True):
                    found.add(place)
        return found


MARKED = frozenset(("status", "active", "verificationStatus", "clinicalStatus", "id"))
"""Of what is withdrawn, what says so."""


def codes(resource: Resource) -> set[str]:
    return {str(one.get("code")) for one in resource.get("meta", {}).get("security", ())}


def references(node: Any) -> Iterator[str]:
    """Yield what a resource refers to, in order."""
    if isinstance(node, dict):
        if isinstance(node.get("reference"), str):
            yield node["reference"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def shape(node: Any, hidden: Callable[[str], bool] | None = None, *, top: bool = True) -> Any:
    """Return what is comparable of a resource: no ids, and of a reference whether it is masked.

    `hidden`: of what is here, which references have to be; None: of what was sent.
    """
    if isinstance(node, list):
        return [shape(one, hidden, top=False) for one in node]
    if not isinstance(node, dict):
        return node
    if node == MASKED:
        return "masked"
    logical = set(node) == {"type", "identifier"}
    if logical or isinstance(node.get("reference"), str):
        return "masked" if hidden is not None and hidden(node.get("reference", "")) else "named"
    left = ("id", "meta", "identifier", "text") if top else ()
    return {name: shape(value, hidden, top=False) for name, value in node.items() if name not in left}


def event_of(tenant: str, sequence: int, version: int, one: Resource, *, source: str = "sessions") -> Event:
    type_, id_ = one["resourceType"], one["id"]
    now = datetime.now(UTC).replace(microsecond=0)
    gone = isinstance(one, Gone)
    meta = {**one.get("meta", {}), "versionId": str(version), "lastUpdated": now.strftime("%Y-%m-%dT%H:%M:%S.000Z")}
    key = compartment_key(one, type_, id_)
    return Event(
        id=f"{type_}/{id_}/{version}", source=source, type=type_, resource_id=id_, version=version, time=now,
        interaction="delete" if gone else "create" if version == 1 else "update", tenant=tenant, key=key,
        shard=shard_of(tenant, key), sequence=sequence, labels=labels_of(one),
        body=dump({"resourceType": type_, "id": id_, "meta": meta} if gone else {**one, "meta": meta}),
    )  # fmt: skip


async def compare(store: Store, seed: int) -> int:
    """Make a world, tell delivery of it in two parts, and let it deliver after each; return how much it told.

    Raises:
        Leak: a hospital is sent, or holds, or the list of disclosures says, something else.

    """
    chance = random.Random(seed)
    whole, tenant = record(chance), f"delivered{seed}"
    await all_is_heard(store, SERVICE)
    add_documents(whole, aside(chance))
    add_programme(whole, aside(chance))
    world, events, told = World(), ServiceEvents(SERVICE, store), 0
    hospitals = {name: Hospital(name, world, _who(one), f"seed {seed}, {name}") for name, one in TOLD.items()}

    def answer(request: httpx.Request) -> httpx.Response:
        return hospitals[request.url.host.partition(".")[0]].answer(request)

    cut = chance.randrange(len(PATIENTS), len(whole.log))
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        lanes = [await _courier(store, client, name, tenant) for name in TOLD]
        for part in (whole.log[:cut], whole.log[cut:]):
            for version, one in part:
                world.latest[one["resourceType"], one["id"]] = one
                world.log.append((version, one))
                if one["resourceType"] in SERVICE.holds:
                    event = event_of(tenant, len(world.log), version, one)
                    await events.handle(event, Position("kap.sessions.v1", 0, len(world.log)))
            for lane in lanes:
                await _until_nothing_moves(lane, tenant)
            for one in hospitals.values():
                if one.leaks:
                    raise Leak(one.leaks[0])
                same(one.lacks(), set(), f"{one.told}: what is not there in its newest version")
    for name, one in hospitals.items():
        same(await _listed(store, tenant, name), sorted(set(one.sent)), f"{one.told}: the list of disclosures")
        told += len(one.sent)
    return told


def add_programme(world: World, chance: random.Random) -> None:
    """Add somebody of a programme under 42 CFR Part 2, with a consent of his that is one for it, or is none."""
    under = {"meta": {"security": [{"system": ACT_CODE, "code": PART_2}]}}
    world.keep({"resourceType": "Patient", "id": DOT, "name": [{"family": "Dot"}], **under})
    for number in range(2):
        one = {"resourceType": "Condition", "id": f"{DOT}{number}", "code": {"text": "Seen"}}
        world.keep({**one, "subject": {"reference": f"Patient/{DOT}"}, **under})
    rule = chance.choice([provision("permit", why=TPO), provision("permit", why=["TREAT"]), PATTERNS["P2"]])
    world.keep({**consent(DOT, rule, part_2=chance.random() < 0.7), "id": DOT})


def _who(told: Disclosure) -> Caller:
    access = Access("whole", None, None, frozenset(), dict.fromkeys(TYPES, EVERYTHING), told)
    return Caller(access, {type_: [(None, None)] for type_ in TYPES})


def _version(world: World, place: tuple[str, str]) -> int:
    return sum((one["resourceType"], one["id"]) == place for _, one in world.log)


async def _courier(store: Store, client: httpx.AsyncClient, name: str, tenant: str) -> Courier:
    one = TOLD[name]
    destination = Destination(
        id=name, tenant=tenant, name=name, address=f"https://{name}.example/fhir", active=True,
        types=frozenset(PUSHED_TYPES), creates_patients=True, filled=True, recipient=next(iter(one.recipients), None),
        purpose=next(iter(one.purposes)), through=next(iter(one.through), None),
    )  # fmt: skip
    async with store.transaction(keys=(), tenant=tenant) as transaction:
        await Ledger(transaction).put_destination(destination)
    server = DestinationServer(client, destination.address)
    made = Courier(SERVICE, store, destination, server, "http://gateway/fhir", NEWS, AT_ONCE)
    made.accepted = await server.capabilities()
    return made


async def _until_nothing_moves(lane: Courier, tenant: str) -> None:
    for _ in range(ROUNDS):
        async with lane.store.transaction(keys=(), tenant=tenant) as transaction:
            keys = await Ledger(transaction).keys(lane.destination.id, busy=(), limit=100)
        if not keys:
            return
        for key in keys:
            await lane.turn(key)
    raise AssertionError(f"{lane.destination.id} goes on and on with {keys}.")


async def _listed(store: Store, tenant: str, destination: str) -> list[tuple[str, str, int]]:
    """Return what the list of disclosures says was told to a destination."""
    one = TOLD[destination]
    found = set()
    async with store.transaction(keys=(), tenant=tenant) as transaction:
        for patient in (*PATIENTS, DOT):
            for each in await Disclosures(transaction).of_patient(tenant, f"Patient/{patient}"):
                whom = (each.recipient, each.purpose, each.through)
                if whom == (next(iter(one.recipients), None), next(iter(one.purposes)), next(iter(one.through), None)):
                    found.add((each.type, each.resource, each.version))
    return sorted(found)


async def compare_all(store: Store, worlds: range) -> None:
    assert sum([await compare(store, seed) for seed in worlds]) > len(worlds)


@pytest.fixture
async def store(make_database):
    opened = await Store.connect(make_database("delivery"), service="delivery", max_size=4)
    yield opened
    await opened.close()


@pytest.mark.timeout(300)
async def test_a_hospital_is_sent_and_holds_what_a_record_without_what_it_may_not_be_told_would_give(store) -> None:
    await compare_all(store, range(WORLDS))


@pytest.mark.slow
@pytest.mark.timeout(6000)
async def test_a_hospital_is_sent_what_it_may_be_told_in_many_more_worlds(store) -> None:
    await compare_all(store, range(WORLDS, WORLDS_IN_FULL))


def of_all_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consents are not asked."""
    monkeypatch.setattr(decisions, "consented", lambda *_: ["true"])


def with_all_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a resource refers to is named, whatever the consents say of it."""

    async def none(*_: object) -> frozenset[tuple[str, str]]:
        return frozenset()

    monkeypatch.setattr(Disclosures, "_hidden", none)


def as_the_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each destination is told what another is: who it is, and for what, is not looked at."""

    async def told(*_: object) -> Disclosure:
        return TOLD["first"]

    monkeypatch.setattr(Disclosures, "_told", told)


def without_the_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of a programme goes without the notice."""
    monkeypatch.setattr(couriers, "with_notice", lambda sent, *_, **__: sent)


def one_exception_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deny of one consent is undone by another's permit."""
    said = visibility.consented

    def misread(*args: Any, **more: Any) -> list[str]:
        return [one.replace("bool_and(s.said = 2)", "bool_or(s.said = 2)") for one in said(*args, **more)]

    monkeypatch.setattr(decisions, "consented", misread)


@pytest.mark.parametrize(
    "plant",
    [of_all_versions, with_all_references, as_the_first_is_told, without_the_notice, one_exception_forgotten],
)
@pytest.mark.timeout(300)
async def test_a_leak_that_is_planted_in_what_is_delivered_is_found(store, monkeypatch, plant) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        await compare_all(store, range(WORLDS_WITH_A_LEAK))
