"""Outbox, relay, inbox and parking against a model: whatever the order of writes, crashes, repeats and words of people.

Steps of the machine (`flow_machine.py`) are chosen by hypothesis, and by dice that fall alike in each run (`walk`):
hypothesis leaves out kinds of step and keeps examples short, which finds what is simple; a walk takes every kind, so
what needs several soon happens.

The model is held to planted faults: each makes one promise of the parts untrue, and a walk must find each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RULE_MARKER,
    run_state_machine_as_test,
)

from shared.events import claims
from shared.events.envelope import Event
from shared.events.lane import Lane
from shared.events.relay import Relay
from shared.store.claims import Claims
from shared.store.connection import open_connection
from shared.store.outbox import Outbox
from shared.store.parking import Parking
from shared.store.store import Store, Transaction
from tests.integration.events.flow_machine import (
    FATES,
    HOLDER,
    MOST_BYTES,
    PARTITIONS,
    PATIENTS,
    PIECE_BYTES,
    SOURCE,
    Flow,
    Poison,
)

WALK, PLANTED_WALKS = 40, 200
"""Steps of a walk; how many walks may pass before one finds what was planted."""


@pytest.fixture
def stores(make_database, monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(claims, "MAX_EVENT_BODY_BYTES", MOST_BYTES)
    monkeypatch.setattr(claims, "PIECE_BYTES", PIECE_BYTES)
    source, holder = make_database(SOURCE), make_database(HOLDER)
    loop = asyncio.new_event_loop()
    try:
        Flow.loop, Flow.source_dsn, Flow.holder_dsn = loop, source, holder
        Flow.source = loop.run_until_complete(Store.connect(source, service=SOURCE))
        Flow.holder = loop.run_until_complete(Store.connect(holder, service=HOLDER, publishes=False))
        yield
        loop.run_until_complete(Flow.source.close())
        loop.run_until_complete(Flow.holder.close())
    finally:
        loop.close()


def run(examples: int, steps: int, **more: Any) -> None:
    """Try so many sequences of so many steps."""
    run_state_machine_as_test(
        Flow,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


@pytest.mark.parametrize(
    ("examples", "steps"),
    [
        pytest.param(20, 30, marks=pytest.mark.timeout(300)),
        pytest.param(200, 50, marks=[pytest.mark.slow, pytest.mark.timeout(3000)]),
    ],
    ids=["600 steps", "10000 steps"],
)
@pytest.mark.usefixtures("stores")
def test_no_order_of_steps_loses_doubles_invents_or_reorders_an_event(examples: int, steps: int) -> None:
    run(examples, steps, print_blob=True)


STEPS: Sequence[tuple[str, int, Callable[[Random], Any]]] = (
    ("write", 4, lambda dice: {"changes": [_change(dice) for _ in range(dice.randint(1, 4))], "large": _seldom(dice)}),
    ("relay_reads", 2, lambda dice: {"which": dice.randint(0, 1), "limit": dice.randint(1, 10)}),
    (
        "relay_publishes",
        3,
        lambda dice: {
            "which": dice.randint(0, 1),
            "acknowledged": dice.choice((None, None, 0, 1, 2, 3)),
            "dies": _seldom(dice),
        },
    ),
    ("relay_is_killed", 1, lambda dice: {"which": dice.randint(0, 1)}),
    ("relay_outlives_its_lock", 1, lambda dice: {"which": dice.randint(0, 1)}),
    ("consume", 4, lambda dice: {"partition": dice.randint(0, PARTITIONS - 1), "count": dice.randint(1, 30)}),
    ("commit_offset", 1, lambda dice: {"partition": dice.randint(0, PARTITIONS - 1)}),
    (
        "consumer_is_killed",
        2,
        lambda dice: {
            "partition": dice.randint(0, PARTITIONS - 1),
            "count": dice.randint(1, 30),
            "steps": dice.randint(0, 150),
            "commits": not _seldom(dice),
        },
    ),
    ("all_goes_well_for_a_while", 1, lambda dice: {"which": dice.randint(0, 1)}),
    ("retry", 2, lambda dice: {"healed": dice.random() < 0.5, "which": dice.randint(0, 9)}),
    ("take_up", 2, lambda _: {}),
    ("drop", 1, lambda dice: {"which": dice.randint(0, 9)}),
    ("replay", 1, lambda dice: {"patient": dice.choice((None, *PATIENTS))}),
)
"""Every kind of step, how often it is taken, and its arguments."""


def _change(dice: Random) -> tuple[str, str]:
    return dice.choice(PATIENTS), dice.choice(FATES)


def _seldom(dice: Random) -> bool:
    return dice.random() < 0.25


def walk(seed: int, steps: int) -> None:
    """Take so many steps from an empty start, let everything come to rest, and judge."""
    dice = Random(seed)
    names, weights, arguments = zip(*STEPS, strict=True)
    flow = Flow()
    flow.empty()
    try:
        for place in dice.choices(range(len(names)), weights, k=steps):
            getattr(flow, names[place])(**arguments[place](dice))
            flow.nothing_is_applied_twice_or_invented_and_the_order_of_each_record_is_kept()
    finally:
        flow.teardown()


def take_walks(count: int) -> None:
    """Take so many walks, each by dice of its own."""
    for seed in range(count):
        walk(seed, WALK)


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(20, marks=pytest.mark.timeout(300)),
        pytest.param(250, marks=[pytest.mark.slow, pytest.mark.timeout(3000)]),
    ],
    ids=["800 steps", "10000 steps"],
)
@pytest.mark.usefixtures("stores")
def test_no_walk_through_every_kind_of_step_loses_doubles_invents_or_reorders_an_event(count: int) -> None:
    take_walks(count)


def test_a_walk_takes_every_step_that_hypothesis_takes() -> None:
    assert {name for name, *_ in STEPS} == {name for name, one in vars(Flow).items() if hasattr(one, RULE_MARKER)}


# Planted faults


def _marks_what_was_not_acknowledged(plant: pytest.MonkeyPatch) -> None:
    whole = Relay._publish

    async def publish(self: Relay, outbox: Outbox, events: list[Event]) -> bool:
        published = await whole(self, outbox, events)
        await outbox.mark_published(events)
        return published

    plant.setattr(Relay, "_publish", publish)


def _publishes_backwards(plant: pytest.MonkeyPatch) -> None:
    whole = Outbox.unpublished

    async def unpublished(self: Outbox, *limits: int) -> list[Event]:
        return list(reversed(await whole(self, *limits)))

    plant.setattr(Outbox, "unpublished", unpublished)


def _takes_repeats_for_new(plant: pytest.MonkeyPatch) -> None:
    whole, many = Transaction.take_in, Transaction.take_in_many

    async def take_in(self: Transaction, consumer: str, event: Event) -> bool:
        await whole(self, consumer, event)
        return True

    async def take_in_many(self: Transaction, consumer: str, events: Sequence[Event]) -> list[bool]:
        await many(self, consumer, events)
        return [True] * len(events)

    plant.setattr(Transaction, "take_in", take_in)
    plant.setattr(Transaction, "take_in_many", take_in_many)


def _commits_the_inbox_apart(plant: pytest.MonkeyPatch) -> None:
    whole = Transaction.take_in

    async def take_in(self: Transaction, consumer: str, event: Event) -> bool:
        other = await open_connection(Flow.holder_dsn, application="planted")
        try:
            return await whole(Transaction(self._store, other, self.tenant, self.number), consumer, event)
        finally:
            await other.close()

    async def alone(*_: Any) -> list[bool]:
        raise Poison("one by one")

    plant.setattr(Transaction, "take_in", take_in)
    plant.setattr(Transaction, "take_in_many", alone)


def _lets_later_ones_pass(plant: pytest.MonkeyPatch) -> None:
    async def waits_behind(*_: Any) -> bool:
        return False

    async def keys_with_parked(*_: Any) -> set[str]:
        return set()

    plant.setattr(Transaction, "waits_behind", waits_behind)
    plant.setattr(Transaction, "keys_with_parked", keys_with_parked)


def _lets_later_ones_pass_where_several_go_together(plant: pytest.MonkeyPatch) -> None:
    async def keys_with_parked(*_: Any) -> set[str]:
        return set()

    plant.setattr(Transaction, "keys_with_parked", keys_with_parked)


def _takes_up_backwards(plant: pytest.MonkeyPatch) -> None:
    whole = Parking.due

    async def due(self: Parking, consumer: str) -> list[Any]:
        return list(reversed(await whole(self, consumer)))

    plant.setattr(Parking, "due", due)


def _forgets_what_it_cannot_apply(plant: pytest.MonkeyPatch) -> None:
    async def park(*_: Any, **__: Any) -> None:
        return None

    plant.setattr(Transaction, "park", park)


def _forgets_pieces_too_early(plant: pytest.MonkeyPatch) -> None:
    async def redeem(self: Claims, consumer: str, event: Event) -> bytes | None:
        return None if self._clinics is not None and event.claim is not None else event.body

    plant.setattr(Claims, "redeem", redeem)


def _is_done_before_it_is_applied(plant: pytest.MonkeyPatch) -> None:
    alone, together = Lane._take, Lane._take_together

    async def take(self: Lane, record: Any) -> None:
        self.done = record.offset + 1
        await alone(self, record)

    async def take_together(self: Lane) -> int:
        self.done = self._queue[0].offset + 1
        return await together(self)

    plant.setattr(Lane, "_take", take)
    plant.setattr(Lane, "_take_together", take_together)


def _mixes_pieces_up(plant: pytest.MonkeyPatch) -> None:
    plant.setattr("shared.store.claims.redeemed", lambda claim, pieces: b"".join(reversed(pieces)))


@pytest.mark.parametrize(
    "plant",
    [
        _marks_what_was_not_acknowledged,
        _publishes_backwards,
        _takes_repeats_for_new,
        _commits_the_inbox_apart,
        _lets_later_ones_pass,
        _lets_later_ones_pass_where_several_go_together,
        _takes_up_backwards,
        _forgets_what_it_cannot_apply,
        _forgets_pieces_too_early,
        _is_done_before_it_is_applied,
        _mixes_pieces_up,
    ],
    ids=lambda plant: plant.__name__.strip("_"),
)
@pytest.mark.usefixtures("stores")
@pytest.mark.timeout(300)
def test_each_planted_fault_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        take_walks(PLANTED_WALKS)
