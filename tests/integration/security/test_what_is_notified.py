"""What a subscriber is notified of is what a record without what he may not see would have him notified of.

The naive model is Python over a full copy (`worlds.py`): after each part of the writing it says which versions he may
know of, which of them are events against the one before that he may know of, and how they are numbered. The gateway's
worker has to send just that, in that order, then: nothing more, nothing later, no number left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from services.gateway import telling
from services.gateway.service import SERVICE
from services.gateway.subscribing import Subscribing
from services.gateway.topics import CANONICAL, Days, Delivery, Hours, SubscriptionPolicy, Topic
from shared.fhir.json import parse
from shared.security import caller as security
from shared.security.envelope import seal
from shared.security.notice import NOTICE
from shared.store import subscriptions as rows
from shared.store import visibility
from shared.store.access import Access
from shared.store.store import Store
from shared.store.visibility import PART_2
from shared.testing.knowledge import all_is_heard
from tests.integration.security.test_nothing_leaks import Leak, same, write_all
from tests.integration.security.worlds import ROLES, Caller, Gone, Resource, World, bearing, labels_of, record
from tests.subscriber import Subscriber, Told

WORLDS, WORLDS_IN_FULL, WORLDS_WITH_A_LEAK = 100, 1000, 60
SUBSCRIBERS, PARTS = 5, (1, 2, 3)
"""Of each world: 500 cases at each merge, 5,000 in full; and in how many parts its record is written."""

CITED: dict[str, Any] = {"source": "a test", "verified": True}
FILTERS = ("patient", "code", "status", "category")


def topic(resource: str, **more: Any) -> Topic:
    return Topic(version="1", title=resource, resource=resource, filters=FILTERS, **more, **CITED)


TOPICS: dict[str, tuple[Topic, Callable[[Resource], bool], str]] = {
    "score": (topic("Observation", current="status=final"), lambda one: one["status"] == "final", ""),
    "survey": (
        topic("Observation", current="category=survey"),
        lambda one: one["category"][0]["coding"][0]["code"] == "survey",
        "",
    ),
    "stage": (topic("Encounter", changed=("status",)), lambda _: True, "status"),
    "diagnosis": (topic("Condition", changed=("code",)), lambda _: True, "code"),
    "visit": (topic("Appointment", current="status=booked"), lambda one: one["status"] == "booked", ""),
    "ended": (topic("Condition", changed=("code",), deletes=True), lambda _: True, "code"),
}
"""By name: the topic, and in Python what holds of an event and which element it is about, if it is of any change."""

POLICY = SubscriptionPolicy(
    delivery=Delivery(error_after=Hours(hours=72, **CITED), kept=Days(days=30, **CITED), unasked=Days(days=7, **CITED)),
    topics={name: one for name, (one, _, _) in TOPICS.items()},
)
SUBSCRIBING = Subscribing(POLICY, ROLES)


@dataclass
class Expecting:
    """One subscriber, and what he ought to be told."""

    id: str
    caller: security.Caller
    who: Caller
    topic: str
    code: str | None
    content: str
    most: int
    waiting: list[tuple[int, Resource]] = field(default_factory=list)
    told: int = 0

    def takes(self, world: World, *, reached: bool) -> list[tuple[int, str, Resource | None]]:
        """Return number, resource and content of what he is told now; of nothing, where he is not reached."""
        shown: list[tuple[int, Resource]] = []
        left: list[tuple[int, Resource]] = []
        for version, one in self.waiting:
            if not reached and len(shown) == self.most:
                left.append((version, one))
            elif self.is_told(world, version, one):
                shown.append((version, one))
        if not reached:
            self.waiting = [*shown, *left]
            return []
        self.waiting = []
        found = []
        for _, one in shown:
            self.told += 1
            now = world.latest[one["resourceType"], one["id"]]
            body = None if isinstance(now, Gone) else one if self.who.sees(world, one, now=one is now) else now
            found.append((self.told, f"{one['resourceType']}/{one['id']}", body if self.whole else None))
        return found

    @property
    def whole(self) -> bool:
        """Whether resources go out: never by a Subscription of the clinic's own, behind which no Consent stands."""
        return self.content == "full-resource" and self.caller.disclosure is not None

    def is_told(self, world: World, version: int, one: Resource) -> bool:
        place = (one["resourceType"], one["id"])
        about, holds, changed = TOPICS[self.topic]
        if isinstance(one, Gone) and not about.deletes:
            return False
        if not self.who.sees(world, world.latest[place]) or not self.who.saw(world, one) or not holds(one):
            return False
        if self.code is not None and one["code"]["coding"][0]["code"] != self.code:
            return False
        known = [
            (number, held)
            for number, held in world.log
            if (held["resourceType"], held["id"]) == place and number < version and self.who.saw(world, held)
        ]
        before = known[-1][1] if known else None
        if before is None or isinstance(before, Gone):  # the first he may know of, or it lives again
            return not isinstance(one, Gone)
        if isinstance(one, Gone):
            return True
        return bool(one[changed] != before[changed]) if changed else not holds(before)


def drawn(chance: random.Random, number: int) -> Expecting | None:
    """Return a subscriber of a topic that is about something he may see; None: he may see nothing of any."""
    caller, who = bearing(chance)
    able = [name for name, (one, _, _) in TOPICS.items() if caller.may(one.resource, "r")]
    if not able:
        return None
    name = chance.choice(able)
    code = chance.choice([None, None, "a"]) if name in ("score", "survey", "diagnosis") else None
    content = chance.choice(["empty", "id-only", "full-resource"])
    return Expecting(f"s{number}", caller, who, name, code, content, chance.choice([1, 1, 3]))


def row(one: Expecting, tenant: str) -> rows.Subscribed:
    caller, about = one.caller, TOPICS[one.topic][0].resource
    return rows.Subscribed(
        id=one.id, status="active", topic=f"{CANONICAL}{one.topic}", types=(about,),
        filters=() if one.code is None else (f"{about}?code={one.code}",),
        client=caller.client, fhir_user=caller.user, role=caller.role, patient=caller.patient,
        scopes=" ".join(map(str, caller.scopes)), outside=caller.disclosure is not None, everything=False,
        grant_id=None, token=None, endpoint=f"https://ehr.example/{one.id}",
        headers=seal(SUBSCRIBING.key, b"{}", f"{tenant} {one.id}"),
        content=one.content, heartbeat=None, timeout=5, most=one.most, ends_at=None,
    )  # fmt: skip


async def compare(store: Store, seed: int) -> int:
    """Make a world and its subscribers; write it in parts, and after each compare what each of them is sent.

    Returns how many events were told.

    Raises:
        Leak: he is sent something else.

    """
    chance = random.Random(seed)
    whole, tenant = record(chance), f"told{seed}"
    several = [one for number in range(SUBSCRIBERS) if (one := drawn(chance, number)) is not None]
    cuts = sorted(chance.sample(range(1, len(whole.log)), chance.choice(PARTS) - 1))
    hook = Subscriber(store, SUBSCRIBING)
    await all_is_heard(store, SERVICE)
    async with store.transaction(keys=(), tenant=tenant) as transaction:
        for one in several:
            await rows.put(transaction, row(one, tenant))
    world, count = World(), 0
    for part, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(whole.log)], strict=True)):
        log = whole.log[first:last]
        await write_all(store, Access.unrestricted(tenant), log)
        for version, one in log:
            world.latest[one["resourceType"], one["id"]] = one
            world.log.append((version, one))
            for each in several:
                if one["resourceType"] == TOPICS[each.topic][0].resource:
                    each.waiting.append((version, one))
        unreached = {one.id for one in several if part < len(cuts) and chance.random() < 0.2}

        def answer(request: httpx.Request, out: frozenset[str] = frozenset(unreached)) -> httpx.Response:
            if request.url.path[1:] in out:
                raise httpx.ConnectError("refused")
            hook.requests.append(request)
            return httpx.Response(200)

        hook.requests.clear()
        await hook.client.aclose()
        hook.client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        await hook.now(tenant)
        await hook.run()
        for one in several:
            sent = [Told(parse(each.content), valid=False) for each in hook.requests if each.url.path[1:] == one.id]
            expected = one.takes(world, reached=one.id not in unreached)
            same_told(sent, expected, one, f"seed {seed}, part {part}, {one.id} ({one.topic}, {one.content})")
            count += len(expected)
    async with store.transaction(keys=(), tenant=tenant) as transaction:
        for one in several:
            await rows.remove(transaction, one.id)
    await hook.client.aclose()
    return count


def same_told(sent: list[Told], expected: list[tuple[int, str, Resource | None]], one: Expecting, told: str) -> None:
    """Compare notifications with what the model says: numbers, what they are of, contents, notices."""
    same([len(each.events) for each in sent], batches(len(expected), one.most), f"{told}: notifications")
    same([each.numbers[-1] for each in sent], [each.count for each in sent], f"{told}: counts")
    events = [event for each in sent for event in each.events]
    named = None if one.content == "empty" else "http://gateway/fhir/"
    same(events, [(number, named and f"{named}{of}") for number, of, _ in expected], f"{told}: events")
    if not one.whole:
        same(
            [entry for each in sent for entry in each.bundle["entry"][1:] if "resource" in entry],
            [],
            f"{told}: content",
        )
        return
    bodies = {entry["fullUrl"]: entry.get("resource") for each in sent for entry in each.bundle["entry"][1:]}
    for _, of, body in expected[-1:]:
        shown = bodies[f"{named}{of}"]
        if body is None:  # it is deleted by now
            same(shown, None, f"{told}: content")
            continue
        same({**shown, "meta": 0}, {**body, "meta": 0}, f"{told}: content")
        programme = one.caller.disclosure is not None and PART_2 in labels_of(body)
        same(NOTICE in str(shown["meta"]), programme, f"{told}: notice")


def batches(events: int, most: int) -> list[int]:
    return [min(most, events - first) for first in range(0, events, most)]


async def compare_all(store: Store, worlds: range) -> None:
    assert sum([await compare(store, seed) for seed in worlds]) > len(worlds)


@pytest.fixture
async def store(make_database):
    opened = await Store.connect(make_database("gateway"), service="gateway", publishes=False, max_size=4)
    yield opened
    await opened.close()


@pytest.mark.timeout(550)
async def test_a_subscriber_is_notified_of_what_a_record_without_what_he_may_not_see_would_tell(store: Store) -> None:
    await compare_all(store, range(WORLDS))


@pytest.mark.slow
@pytest.mark.timeout(6000)
async def test_a_subscriber_is_notified_of_what_he_may_see_in_many_more_worlds(store: Store) -> None:
    await compare_all(store, range(WORLDS, WORLDS_IN_FULL))


def everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked is told with everybody's eyes."""
    monkeypatch.setattr(security.Caller, "access", lambda self, _letter: Access.unrestricted(self.tenant))


def as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resource as it is now is looked at, and not the version that is told of."""
    said = rows.visible
    monkeypatch.setattr(rows, "visible", lambda *args, version=None: [] if version else said(*args))


def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is looked at, and not the resource as it is now."""
    said = rows.visible
    monkeypatch.setattr(rows, "visible", lambda *args, version=None: said(*args, version=version) if version else [])


def against_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was before is not looked at: each version that is of the right kind is told."""
    said = telling.Telling._is_event

    def is_event(self: telling.Telling, known: rows.Known) -> bool:
        return said(self, rows.Known(known.version, None, known.programme))

    monkeypatch.setattr(telling.Telling, "_is_event", is_event)


def pushed_without_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole resources go out by a Subscription of the clinic's own, too."""
    monkeypatch.setattr(Subscribing, "content", lambda _self, one, _tenant: one.content)


def numbered_although_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hidden has a number: it shows as a gap."""
    said = rows.Told.drop

    async def drop(self: rows.Told, places: list[int]) -> None:
        for place in places:
            await self.number(place)
        await said(self, places)

    monkeypatch.setattr(rows.Told, "drop", drop)


def one_exception_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deny of one consent is undone by another's permit."""
    said = visibility.consented

    def misread(*args: Any, **more: Any) -> list[str]:
        return [one.replace("bool_and(s.said = 2)", "bool_or(s.said = 2)") for one in said(*args, **more)]

    monkeypatch.setattr(visibility, "consented", misread)


@pytest.mark.parametrize(
    "plant",
    [
        everybodys,
        as_it_is,
        as_it_was,
        against_what_is_hidden,
        numbered_although_hidden,
        one_exception_forgotten,
        pushed_without_consent,
    ],
)
@pytest.mark.timeout(300)
async def test_a_leak_that_is_planted_in_what_is_notified_is_found(store: Store, monkeypatch, plant) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        await compare_all(store, range(WORLDS_WITH_A_LEAK))
