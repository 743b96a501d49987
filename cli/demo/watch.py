"""Watch the events flow: until the gateway holds what the owners committed, and the hospital what is pushed to it.

Bounded by progress, not by time: it goes on as long as anything moves, and gives up when nothing has for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cli.compare import Digest
from cli.demo.progress import Bar, Bars
from cli.ops import PENDING, SOURCES, Destination, Flow, Ops, Silent, versions_of
from cli.stack.ports import GATEWAY, Ports

STILL = 45.0
"""Seconds without any movement after which the flow has stopped."""
_POLL = 0.3
_SHARE = 5
"""Asking costs the services time that the events need: the pause is so many times what the last asking took."""


@dataclass(frozen=True, slots=True)
class Counted:
    """How far the events are.

    Attributes:
        committed: versions that each owner committed since the time asked for.
        arrived: of these, those that the gateway holds, by owner.
        deliveries: entries of delivery's ledger.
        pending: of these, those that are on their way.

    """

    committed: dict[str, int]
    arrived: dict[str, int]
    deliveries: int
    pending: int

    @property
    def complete(self) -> bool:
        """Whether nothing is on its way."""
        return self.committed == self.arrived and self.pending == 0


async def count(ops: Ops, since: datetime | None) -> Counted:
    """Ask everyone how far they are."""
    owned = await asyncio.gather(*(ops.digest(service, since=since) for service in SOURCES))
    held, destinations = await asyncio.gather(ops.digest(GATEWAY, since=since), ops.deliveries(lines=False))
    committed = {service: versions_of(digests, service) for service, digests in zip(SOURCES, owned, strict=True)}
    arrived = {service: versions_of(held, service) for service in SOURCES}
    deliveries, pending = sum(one.total for one in destinations), sum(one.pending for one in destinations)
    return Counted(committed, arrived, deliveries, pending)


async def until_quiet(ops: Ops, bars: Bars, since: datetime | None) -> Counted:
    """Show the events flow until nothing is on its way any more, or nothing has moved for `STILL` seconds."""
    gateway = bars.bar("Events at the gateway", 0)
    hospital = bars.bar("Resources in the hospital", 0)
    moved = time.monotonic()
    last: Counted | None = None
    quiet = 0
    while True:
        asked = time.monotonic()
        try:
            counted = await count(ops, since)
        except Silent:
            if time.monotonic() - moved > STILL:
                raise
            await asyncio.sleep(_POLL)
            continue
        pause = max(_POLL, _SHARE * (time.monotonic() - asked))
        _show(gateway, hospital, counted)
        if counted != last:
            moved, last, quiet = time.monotonic(), counted, 0
        # Twice the same and complete: what the last event makes others write has been seen too.
        quiet += counted.complete
        if quiet > 1 or time.monotonic() - moved > STILL:
            gateway.end()
            hospital.end()
            return counted
        await asyncio.sleep(_POLL if counted.complete else pause)


def _show(gateway: Bar, hospital: Bar, counted: Counted) -> None:
    gateway.show(sum(counted.arrived.values()), total=sum(counted.committed.values()))
    hospital.show(counted.deliveries - counted.pending, total=counted.deliveries)


@dataclass(frozen=True, slots=True)
class Picture:
    """What everyone says at the end: digests by service (of everything, and since a time), flows, destinations."""

    ports: Ports
    all: Mapping[str, Sequence[Digest]]
    since: Mapping[str, Sequence[Digest]]
    flows: Mapping[str, Flow]
    destinations: Sequence[Destination]


async def picture(ops: Ops, since: datetime) -> Picture:
    """Ask everyone what he holds and how events flow."""
    names = (*SOURCES, GATEWAY)
    everything = await asyncio.gather(*(ops.digest(name) for name in names))
    lately = await asyncio.gather(*(ops.digest(name, since=since) for name in names))
    flows = await asyncio.gather(*(ops.flow(name) for name in names))
    return Picture(
        ops.ports,
        dict(zip(names, everything, strict=True)),
        dict(zip(names, lately, strict=True)),
        dict(zip(names, flows, strict=True)),
        await ops.deliveries(lines=True),
    )


def missing(counted: Counted, destinations: Iterable[Destination]) -> list[str]:
    """Say, in sentences, what has not arrived."""
    said = [
        f"{counted.committed[owner] - counted.arrived[owner]} of {counted.committed[owner]} events of {owner} "
        "are not at the gateway."
        for owner in SOURCES
        if counted.committed[owner] != counted.arrived[owner]
    ]
    for destination in destinations:
        waiting = [line for line in destination.deliveries if line.state in PENDING]
        if waiting:
            named = ", ".join(f"{line.type}/{line.id} ({line.state})" for line in waiting[:3])
            why = f" {destination.problem}" if destination.problem else ""
            said.append(f"{len(waiting)} resources have not reached {destination.name}, such as {named}.{why}")
    return said
