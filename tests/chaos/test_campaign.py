"""The crash campaign: every acknowledged write survives whatever dies, stops or is cut off; nothing is invented.

    ./kap test -m chaos                       20 faults, a few minutes
    ./kap test --full tests/chaos             and 200
    KAP_CHAOS_SEED=7 ./kap test -m chaos      the schedule of a seed again

The faults and each client's choices come from the seed; what the machine makes of them in time does not.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.checker import check
from tests.chaos.collect import collect, created_twice
from tests.chaos.evidence import Applied, Evidence, Told
from tests.chaos.faults import Trouble, schedule
from tests.chaos.fleet import Fleet
from tests.chaos.workload import Workload
from tests.e2e.kap import free_base

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.kafka]

SEED = int(os.environ.get("KAP_CHAOS_SEED") or secrets.randbelow(10**6))
_SHOWN = 25


def say(words: str) -> None:
    """Tell at once, past pytest's capture: a campaign is watched."""
    sys.__stderr__.write(f"chaos: {words}\n")
    sys.__stderr__.flush()


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder: Path = tmp_path_factory.mktemp("chaos")
    made = Fleet(folder, free_base())
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("faults", "longest"),
    [
        pytest.param(20, 180, marks=pytest.mark.timeout(900)),
        pytest.param(200, 600, marks=[pytest.mark.timeout(3600), pytest.mark.slow]),
    ],
)
async def test_nothing_acknowledged_is_lost_doubled_invented_or_out_of_order(
    fleet: Fleet, faults: int, longest: float
) -> None:
    say(f"seed {SEED} (KAP_CHAOS_SEED={SEED} brings the same schedule), {faults} faults")
    began = time.monotonic()
    work = Workload(fleet.ports, SEED)
    charting = asyncio.create_task(work.run())
    await Trouble(fleet, say).run(schedule(SEED, faults))
    work.stopping.set()
    await charting
    say(
        f"{time.monotonic() - began:.0f} s of faults; {len(work.log.answers)} writes acknowledged, "
        f"{work.log.unanswered} not answered, {len(work.log.repeated)} creates sent again"
    )
    say(f"answers: {dict(work.log.statuses)}")
    await asyncio.to_thread(fleet.unshut_all)
    await asyncio.to_thread(fleet.await_ready)
    seen = await collect(fleet, work.log, say, patience=60, longest=longest)
    ended = {process.name: process.ends for process in fleet.processes.values() if process.ends}
    say(
        f"{time.monotonic() - began:.0f} s: {len(seen.commits)} versions committed, {len(seen.told)} records, "
        f"{len(seen.applied)} applied, {sum(map(len, seen.held.values()))} copies; ended by themselves: {ended}"
    )
    for words, count in work.log.refusals.most_common(8):
        say(f"refused {count} times: {words}")
    found = check(seen)
    assert not found, f"seed {SEED}: {Counter(str(one.kind) for one in found)}\n" + "\n".join(map(str, found[:_SHOWN]))
    assert not work.log.broken, "\n".join(work.log.broken[:_SHOWN])
    assert await created_twice(fleet, work.log) == []
    assert {one.source for one in seen.answers} >= {"intake", "scheduling", "sessions", "outcomes"}
    assert len(seen.answers) > 5 * faults
    assert seen.signed
    assert seen.pushed
    assert seen.there
    plant(seen)


def plant(seen: Evidence) -> None:
    """The checker finds each kind of fault in this very evidence, too: so its silence says something."""

    def kinds(planted: Evidence) -> set[str]:
        return {one.kind for one in check(planted)}

    applied, told = list(seen.applied), list(seen.told)
    middle = len(applied) // 2
    key_of = {(one.source, one.event): (one.source, one.key) for one in seen.commits}
    first = next(
        (i, j)
        for i, one in enumerate(applied)
        for j, other in enumerate(applied[i + 1 : i + 2000], i + 1)
        if key_of[one.source, one.event] == key_of[other.source, other.event]
    )
    swapped = list(applied)
    swapped[first[0]], swapped[first[1]] = swapped[first[1]], swapped[first[0]]
    one = told[0]
    assert kinds(replace(seen, applied=applied[:middle] + applied[middle + 1 :])) == {"lost"}
    assert kinds(replace(seen, applied=[*applied[:middle], applied[middle], *applied[middle:]])) == {"doubled"}
    assert kinds(replace(seen, applied=swapped)) == {"reordered"}
    ghost = Told(one.source, "Condition/never/1", one.content, one.key, one.partition, 10**9)
    assert kinds(replace(seen, told=[*told, ghost])) == {"ghost"}
    changed = Applied(applied[middle].source, applied[middle].event, "another body")
    assert kinds(replace(seen, applied=[*applied[:middle], changed, *applied[middle + 1 :]])) == {"changed"}
    acknowledged = {(answer.source, answer.event) for answer in seen.answers}
    forgotten = [commit for commit in seen.commits if (commit.source, commit.event) not in acknowledged]
    assert "lost" in kinds(replace(seen, commits=forgotten))
