"""Paging stays true while others write: random searches, each read forth and back beside writers that never rest.

What exists throughout, unchanged, comes once on the way forth and once on the way back, in the same order. In the order
of creation nothing at all comes twice, not even what changes meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from shared.fhir.query import parse_search
from shared.fhir.search import SearchQuery
from shared.store.access import Access
from shared.store.store import Store
from shared.store.types import Page
from shared.testing.writes import write_of

ALL = Access.unrestricted()
STABLE, VOLATILE = 40, 25
SORTS = (
    None,
    "date",
    "-date",
    "status,-date",
    "-_lastUpdated",
    "_id",
    "-value-quantity,_id",
    "-patient",
    "code,-status",
)
FILTERS = (
    (),
    (("code", "a"),),
    (("status", "final,amended"),),
    (("patient.name", "ada"),),
    (("date", "ge2026-11-05"),),
)


def observation(id_: str, chance: random.Random) -> dict:
    day = {"effectiveDateTime": f"2026-11-{chance.randint(1, 20):02}"} if chance.random() < 0.8 else {}
    value = {"valueQuantity": {"value": chance.randint(1, 9)}} if chance.random() < 0.6 else {}
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": chance.choice(["final", "amended", "preliminary"]),
        "code": {"coding": [{"system": "s", "code": chance.choice("ab")}]},
        "subject": {"reference": f"Patient/{chance.choice(['ada', 'bob'])}"},
        **day,
        **value,
    }


class Writers:
    """Create, change and delete without end; what is stable is never touched."""

    def __init__(self, store: Store, chance: random.Random) -> None:
        self.store = store
        self.chance = chance
        self.alive = {f"v{number}" for number in range(VOLATILE)}
        self.number = VOLATILE
        self.writes = 0

    async def step(self) -> None:
        kind = self.chance.choice(("create", "update", "update", "delete")) if len(self.alive) > 10 else "create"
        if kind == "create":
            id_ = f"v{self.number}"
            self.number += 1
            self.alive.add(id_)
        else:
            id_ = self.chance.choice(sorted(self.alive))
        if kind == "delete":
            self.alive.remove(id_)
        await self.store.write(ALL, write_of(observation(id_, self.chance), kind))
        self.writes += 1

    async def run(self) -> None:
        while True:
            await self.step()


@pytest.fixture
async def busy(database: str) -> AsyncIterator[tuple[Store, set[str], Writers, random.Random]]:
    chance = random.Random(20261122)
    store = await Store.connect(database, service="intake")
    for id_ in ("ada", "bob"):
        await store.write(ALL, write_of({"resourceType": "Patient", "id": id_, "name": [{"family": id_}]}))
    names = [f"s{number}" for number in range(STABLE)] + [f"v{number}" for number in range(VOLATILE)]
    chance.shuffle(names)
    for name in names:
        await store.write(ALL, write_of(observation(name, chance)))
    yield store, {name for name in names if name[0] == "s"}, Writers(store, chance), chance
    await store.close()


async def walked(store: Store, query: SearchQuery, page: Page, step: str) -> tuple[list[str], Page]:
    """Follow the links of one direction from `page` to the end; return the ids in the order of the search."""
    ids = [entry.id for entry in page.entries]
    last = page
    while (cursor := getattr(page, step)) is not None:
        page = await store.search(ALL, query, cursor=cursor)
        part = [entry.id for entry in page.entries]
        ids = ids + part if step == "next" else part + ids
        last = page if part else last
    return ids, last


async def run(store: Store, stable: set[str], chance: random.Random) -> None:
    sort = chance.choice(SORTS)
    pairs = [*chance.choice(FILTERS), ("_count", str(chance.randint(1, 15)))]
    query = parse_search("Observation", pairs + ([("_sort", sort)] if sort else []), strict=True)
    complete = parse_search("Observation", [*pairs[:-1], ("_count", "1000")], strict=True)
    expected = {entry.id for entry in (await store.search(ALL, complete)).entries} & stable
    forth, last = await walked(store, query, await store.search(ALL, query), "next")
    seen = [id_ for id_ in forth if id_ in stable]
    assert len(seen) == len(set(seen)), (pairs, sort)
    assert set(seen) == expected, (pairs, sort)
    if sort is None:
        assert len(forth) == len(set(forth)), pairs
    back, _ = await walked(store, query, last, "previous")
    assert [id_ for id_ in back if id_ in stable] == seen, (pairs, sort)


async def runs(busy: tuple[Store, set[str], Writers, random.Random], number: int) -> None:
    store, stable, writers, chance = busy
    writing = asyncio.create_task(writers.run())
    try:
        for _ in range(number):
            await run(store, stable, chance)
            assert not writing.done() or writing.result()
    finally:
        writing.cancel()
    assert writers.writes > number, "the writers must have been at work"


async def test_a_few_random_runs_repeat_and_skip_nothing(busy):
    await runs(busy, 25)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_thousand_random_runs_repeat_and_skip_nothing(busy):
    await runs(busy, 1000)
