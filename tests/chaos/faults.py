"""What goes wrong, when, and for how long: a schedule made of a seed, and what each fault does to the fleet."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tests.chaos.fleet import Fleet

Kind: TypeAlias = Literal["kill", "pause", "cut-postgres", "cut-kafka", "outlive-lock"]

SERVICES = ("intake-api", "gateway-api", "scheduling", "sessions", "outcomes", "delivery", "hospital")
RELAYS = ("intake-worker-1", "intake-worker-2", "sessions", "outcomes", "scheduling")
WORKERS = ("gateway-worker-1", "gateway-worker-2", "witness-1", "witness-2")

DECK: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("kill", SERVICES),
    ("kill", RELAYS),
    ("kill", WORKERS),
    ("kill", ("kafka",)),
    ("kill", ("postgres",)),
    ("pause", SERVICES),
    ("pause", RELAYS),
    ("pause", WORKERS),
    ("pause", ("kafka",)),
    ("pause", ("postgres",)),
    ("outlive-lock", RELAYS),
    ("cut-kafka", RELAYS),
    ("cut-kafka", WORKERS),
    ("cut-postgres", ("intake-api", "gateway-api")),
    ("cut-postgres", RELAYS),
    ("cut-postgres", WORKERS),
)
"""Each kind of fault of each kind of process; a schedule deals the whole deck before it begins again."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, `after` seconds after the one before has begun, for `seconds`; `silent`: nobody is told of the cut."""

    number: int
    kind: Kind
    target: str
    after: float
    seconds: float
    silent: bool

    def __str__(self) -> str:
        how = (" silently" if self.silent else " openly") if self.kind.startswith("cut") else ""
        return f"{self.number:3} {self.kind}{how} {self.target} for {self.seconds:.1f} s"


def schedule(seed: int, count: int) -> list[Fault]:
    """Return the faults of a seed: the same for the same seed, and a shorter schedule is the beginning of a longer."""
    dice = random.Random(f"{seed} faults")
    dealt = _deals(dice)
    faults = []
    for number in range(1, count + 1):
        kind, targets = next(dealt)
        long = dice.random() < 0.15  # longer than a consumer's session and a producer's patience
        faults.append(
            Fault(
                number=number,
                kind=kind,
                target=dice.choice(targets),
                after=dice.uniform(2.0, 8.0),
                seconds=dice.uniform(11.0, 16.0) if long else dice.uniform(0.5, 5.0),
                silent=dice.random() < 0.5,
            )
        )
    return faults


def _deals(dice: random.Random) -> Iterator[tuple[Kind, tuple[str, ...]]]:
    while True:
        deck = list(DECK)
        dice.shuffle(deck)
        yield from deck


class Trouble:
    """Brings faults about, one process at most once at a time; they overlap otherwise."""

    def __init__(self, fleet: Fleet, report: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._report = report
        self._free: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self, faults: list[Fault]) -> None:
        """Bring all of them about, and return when the last has ended."""
        running: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        for fault in faults:
            await asyncio.sleep(fault.after)
            await self._free[fault.target].acquire()
            await asyncio.to_thread(self._fleet.heal)
            self._report(f"{time.monotonic() - began:6.1f} s {fault}")
            running.add(asyncio.create_task(self._bring_about(fault)))
        await asyncio.gather(*running)

    async def _bring_about(self, fault: Fault) -> None:
        try:
            if fault.target == "kafka":
                await self._to_kafka(fault)
            elif fault.target == "postgres":
                await self._to_postgres(fault)
            else:
                await self._to_process(fault)
        finally:
            self._free[fault.target].release()

    async def _to_kafka(self, fault: Fault) -> None:
        if fault.kind == "kill":
            await asyncio.to_thread(self._fleet.kafka.kill)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(self._fleet.kafka.start)
        else:
            paused = self._fleet.pause_kafka()
            await asyncio.sleep(fault.seconds)
            self._fleet.resume(paused)

    async def _to_postgres(self, fault: Fault) -> None:
        if fault.kind == "kill":
            await asyncio.to_thread(self._fleet.postgres.kill)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(self._fleet.postgres.start)
        else:
            paused = self._fleet.pause_postgres()
            await asyncio.sleep(fault.seconds)
            self._fleet.resume(paused)

    async def _to_process(self, fault: Fault) -> None:
        process = self._fleet.processes[fault.target]
        if fault.kind == "kill":
            await asyncio.to_thread(process.kill)
            await asyncio.sleep(fault.seconds)
            process.start()
        elif fault.kind == "pause":
            process.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            process.signal(signal.SIGCONT)
        elif fault.kind == "outlive-lock":
            # Stopped between reading and publishing; meanwhile its lock goes, and another relay publishes in its place.
            process.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds / 2)
            await asyncio.to_thread(self._fleet.take_locks, process)
            await asyncio.sleep(fault.seconds / 2)
            process.signal(signal.SIGCONT)
        else:
            door = process.postgres if fault.kind == "cut-postgres" else process.kafka
            if door is None:
                raise AssertionError(f"{fault.target} has no door to cut")
            self._fleet.doors.shut(door, "silent" if fault.silent else "closed")
            await asyncio.sleep(fault.seconds)
            self._fleet.doors.unshut(door)
