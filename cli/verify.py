"""`./kap verify`: what each service committed, what the gateway holds and what the hospital accepted, hop by hop.

Equal means equal by content: every version's bytes, from the owner to the gateway and to the services that keep a copy;
and what was sent, against what the hospital shows over its own FHIR API. As long as anything is on its way it waits and
compares again.

A record that has grown large is compared by windows of time: `--new` looks only at what was committed since the last
comparison that found nothing, `--since` from a time on. Both leave out the hospital, which is read as a whole.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Annotated

import httpx
import typer
from pydantic import SecretStr
from rich.markup import escape
from rich.table import Table

from cli.compare import (
    Difference,
    Digest,
    Permission,
    compare_hospital,
    compare_ledger,
    compare_versions,
    unequal_types,
)
from cli.demo.client import FhirClient, Refused, Unreachable
from cli.ops import DELIVERY, SOURCES, Destination, Flow, Ops, versions_of
from cli.options import DATA, DataOption
from cli.running import running
from cli.stack.ports import GATEWAY, OWNERS
from cli.stack.problem import StackProblem
from cli.stack.stack import Stack
from cli.terminal import err, out, problem, telling
from cli.times import time_of
from services.delivery.capability import PUSHED_TYPES
from shared.fhir.json import Resource
from shared.runtime.app import App
from shared.runtime.service import Service
from shared.runtime.settings import Settings

STILL = 20.0
"""Seconds without any movement after which what differs is taken to differ for good."""
OVERLAP = timedelta(minutes=10)
"""How far `--new` looks back behind the last comparison: a transaction that was open then has committed since."""
_CLEAN = "verified.json"
_POLL = 0.5
_EVERYONE = (GATEWAY, *OWNERS, DELIVERY)
_SHOWN = 20


@dataclass(slots=True)
class Hop:
    """One hop: how much was compared, what is still on its way, what differs, what else is to be said."""

    name: str
    compared: int
    unit: str
    on_its_way: int = 0
    differences: list[Difference] = field(default_factory=list)
    note: str = ""
    unread: str = ""
    """Why what is there could not be compared although it should have been."""


@dataclass(slots=True)
class Finding:
    """The comparison of one moment. `parked` are events that could not be applied, by service."""

    hops: list[Hop]
    parked: Mapping[str, int]

    @property
    def on_its_way(self) -> int:
        """Events and deliveries that have not ended."""
        return sum(hop.on_its_way for hop in self.hops)

    @property
    def differences(self) -> list[Difference]:
        """What differs, over all hops."""
        return [difference for hop in self.hops for difference in hop.differences]

    @property
    def clean(self) -> bool:
        """Whether all is equal, and nothing waits, is parked or could not be read."""
        unread = any(hop.unread for hop in self.hops)
        return not self.differences and not self.on_its_way and not any(self.parked.values()) and not unread


def verify(
    *,
    data: DataOption = DATA,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long nothing may move before what differs is a fault.")
    ] = STILL,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only what was committed from then on: 2026-11-22T10:30 (UTC where no zone is said); without the "
            "hospital.",
        ),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Only what was committed since the last comparison that found nothing.")
    ] = False,
) -> None:
    """Compare, hop by hop, what was committed with what the gateway holds and what the hospital accepted.

    Exit code 1 when anything is missing, doubled or different.
    """
    if since is not None and new:
        raise StackProblem("--since and --new exclude each other.")
    begin = None if since is None else time_of(since, "--since")
    stack = running(data)
    began = datetime.now(UTC)
    if new:
        begin = last_clean(stack.data)
    with telling(err) as tell:
        found = asyncio.run(_verify(stack, wait, tell, begin))
    show(found, begin)
    if not found.clean:
        raise typer.Exit(1)
    if since is None:
        note_clean(stack.data, began)


def last_clean(data: Path) -> datetime | None:
    """Return from when on a comparison has to look, after the last one that found nothing; None: at everything."""
    try:
        told = json.loads((data / _CLEAN).read_text(encoding="utf-8"))["until"]
        return datetime.fromisoformat(told) - OVERLAP
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def note_clean(data: Path, until: datetime) -> None:
    """Note that all that was committed before a time was found equal."""
    (data / _CLEAN).write_text(json.dumps({"until": until.isoformat()}), encoding="utf-8")


async def _verify(stack: Stack, wait: float, tell: Callable[[str], None], since: datetime | None) -> Finding:
    """Compare until all is equal, or until nothing has moved for `wait` seconds."""
    async with Ops(stack.ports(), auth=stack.auth()) as ops:
        moved = time.monotonic()
        before: object = None
        while True:
            asked = time.monotonic()
            held = await ask(ops, since)
            took = time.monotonic() - asked
            if held.settled or time.monotonic() - moved >= wait:
                tell("Comparing contents, and reading the hospital over its FHIR API.")
                found = await compare(ops, held, _servers(ops, stack.auth()))
                if found.clean or time.monotonic() - moved >= wait:
                    return found
            if held.movement != before:
                before, moved = held.movement, time.monotonic()
                tell(held.sentence)
            await asyncio.sleep(max(_POLL, 3 * took))  # asking costs the services time that the events need


@dataclass(frozen=True, slots=True)
class Held:
    """What everyone says he holds, at about one moment; of what was committed from `since` on."""

    digests: Mapping[str, Sequence[Digest]]
    flows: Mapping[str, Flow]
    destinations: Sequence[Destination]
    since: datetime | None = None

    @property
    def settled(self) -> bool:
        """Whether counts are equal and nothing is known to be on its way."""
        here = self.digests[GATEWAY]
        arrived = all(versions_of(self.digests[owner], owner) == versions_of(here, owner) for owner in SOURCES)
        known = all(flow.lag is not None for flow in self.flows.values())
        waiting = self.lag + self.pending
        return arrived and known and not waiting

    @property
    def pending(self) -> int:
        """Resources on their way to a destination: what waits for one that is off or deleted is on none."""
        return sum(one.pending for one in self.destinations if one.active)

    @property
    def lag(self) -> int:
        """Events that are known to be on their way."""
        return sum(flow.lag or 0 for flow in self.flows.values())

    @property
    def movement(self) -> object:
        """What changes as long as anything moves."""
        return (
            {name: list(digests) for name, digests in self.digests.items()},
            {name: (flow.outbox.pending, flow.lag) for name, flow in self.flows.items()},
            [one.by_type for one in self.destinations],
        )

    @property
    def sentence(self) -> str:
        """What is on its way, for the person who waits."""
        here = self.digests[GATEWAY]
        missing = sum(versions_of(self.digests[owner], owner) - versions_of(here, owner) for owner in SOURCES)
        return (
            f"{missing} versions are not at the gateway yet, {self.lag} events are on their way, "
            f"{self.pending} resources on their way to the hospital."
        )


async def ask(ops: Ops, since: datetime | None = None) -> Held:
    """Ask everyone what he holds, of what was committed from a time on."""
    digests = await asyncio.gather(*(ops.digest(name, since=since) for name in _EVERYONE))
    flows = await asyncio.gather(*(ops.flow(name) for name in _EVERYONE))
    return Held(
        dict(zip(_EVERYONE, digests, strict=True)),
        dict(zip(_EVERYONE, flows, strict=True)),
        [] if since is not None else await ops.deliveries(lines=True),
        since,
    )


def _server(base: str, name: str) -> FhirClient:
    return FhirClient(base, patience=20, name=name)


def _servers(ops: Ops, auth: httpx.Auth | None) -> Callable[[str, str], FhirClient]:
    """Return what makes a client of a FHIR base URL; a token is sent to delivery only, never to a hospital."""

    def server(base: str, name: str) -> FhirClient:
        ours = base == ops.ports.fhir(DELIVERY)
        return FhirClient(base, patience=20, name=name, auth=auth if ours else None)

    return server


async def compare(ops: Ops, held: Held, server: Callable[[str, str], FhirClient] = _server) -> Finding:
    """Compare every hop by content; `server` makes a client of a FHIR base URL."""
    hops = [await _to(ops, held, owner, GATEWAY) for owner in SOURCES]
    hops += [await _copies(ops, held, holder) for holder in (*OWNERS, DELIVERY)]
    for destination in held.destinations:
        hops += await _to_destination(ops, destination, server)
    parked = {name: sum(one.count for one in flow.parked) for name, flow in held.flows.items()}
    return Finding(hops, parked)


async def _to(ops: Ops, held: Held, owner: str, holder: str) -> Hop:
    """Compare what an owner committed with what the gateway holds of it."""
    differences: list[Difference] = []
    name = f"{owner} → {holder}"
    for type_ in unequal_types(owner, held.digests[owner], held.digests[holder]):
        differences += await _named(ops, held, name, type_, owner, holder)
    pending = held.flows[owner].outbox.pending
    return Hop(name, versions_of(held.digests[owner], owner), "versions", pending, differences)


async def _copies(ops: Ops, held: Held, holder: str) -> Hop:
    """Compare the copies that a service keeps of others' resources with what their owners committed."""
    service = service_of(holder)
    differences: list[Difference] = []
    compared = 0
    for owner in service.consumes:
        committed = [digest for digest in held.digests[owner] if digest.type in service.holds]
        copies = [digest for digest in held.digests[holder] if digest.origin == owner]
        compared += versions_of(copies)
        for type_ in unequal_types(owner, committed, copies):
            some = type_ in service.leaves
            differences += await _named(ops, held, f"{owner} → {holder}", type_, owner, holder, some=some)
    flow = held.flows[holder]
    idle = [one.source for one in flow.sources if one.state != "taken in"]
    note = f"takes in nothing, or not all, of {', '.join(idle)} now" if idle else ""
    return Hop(f"copies at {holder}", compared, "versions", flow.to_take_in or 0, differences, note)


def service_of(name: str) -> Service:
    """Return what a service is: here, whose events it takes in and of which types it keeps copies."""
    settings = Settings(  # reaches for nothing
        service=name, database_url=SecretStr("postgresql://"), no_auth=True, roles=frozenset(("worker",))
    )
    app: App = import_module(f"services.{name}.service").create(settings)
    return app.service


async def _named(
    ops: Ops, held: Held, hop: str, type_: str, owner: str, holder: str, *, some: bool = False
) -> list[Difference]:
    """Compare versions by name; `some`: of resources that the holder has any version of, since it leaves others."""
    committed, there = await asyncio.gather(
        ops.versions(owner, type_, owner, since=held.since), ops.versions(holder, type_, owner, since=held.since)
    )
    if some:
        kept = {one.id for one in there}
        committed = [one for one in committed if one.id in kept]
    return compare_versions(hop, type_, committed, there)


async def _to_destination(ops: Ops, destination: Destination, server: Callable[[str, str], FhirClient]) -> list[Hop]:
    """Compare the gateway with delivery's ledger, and the ledger with what the destination shows.

    One that was deleted is no destination any more. One that is off has what was sent there before; what waits is not
    on its way.
    """
    names = f"gateway → delivery ({destination.name})", f"delivery → {destination.name}"
    async with server(ops.ports.fhir(DELIVERY), "delivery") as delivery:
        try:
            pushed = pushed_to(await delivery.read(f"Endpoint/{destination.id}"))
        except Refused as refusal:
            if refusal.status not in {httpx.codes.NOT_FOUND, httpx.codes.GONE}:
                raise
            gone = f"Endpoint/{destination.id} was deleted: nothing is sent there any more, nothing was compared"
            return [Hop(name, 0, "resources", note=gone) for name in names]
    off = "" if destination.active else f"is off; {destination.pending} resources wait until it is active again"
    current: dict[str, int] = {}
    permissions: dict[str, Permission] = {}
    for type_ in sorted(pushed | {"Patient"}):
        permissions |= await ops.disclosable(GATEWAY, type_, destination)
    for type_ in sorted(pushed):
        for owner in SOURCES:
            for version in await ops.versions(GATEWAY, type_, owner):
                name = f"{type_}/{version.id}"
                current[name] = max(version.version, current.get(name, 0))
    ledger = [line.compared() for line in destination.deliveries]
    queued = Hop(
        names[0],
        len(current),
        "resources",
        destination.pending if destination.active else 0,
        compare_ledger(current, ledger, pushed, permissions),
        "; ".join(filter(None, (off, held_back(destination)))),
    )
    try:
        async with server(destination.address, f"The {destination.name}") as there:
            resources, unread = await _everything(there, sorted(pushed - set(destination.not_accepted)))
    except (Unreachable, Refused) as error:
        if destination.active:
            return [queued, Hop(names[1], 0, "resources", unread=str(error))]
        return [
            queued,
            Hop(names[1], 0, "resources", note=f"is off and cannot be read: nothing was compared ({error})"),
        ]
    shown = compare_hospital(ledger, resources)
    note = f"{shown.foreign} resources there are not ours" if shown.foreign else ""
    if unread:
        note = "; ".join(filter(None, (note, f"not readable there: {', '.join(unread)}")))
    arrived = Hop(
        names[1],
        sum(shown.ours.values()),
        "resources",
        0,
        [one for one in shown.differences if one.type not in unread],
        note,
    )
    return [queued, arrived]


def held_back(destination: Destination) -> str:
    """Say how much is held for want of consent; nothing where nothing is."""
    held = sum(states.get("held", 0) for states in destination.by_type.values())
    return f"{held:,} held for want of consent" if held else ""


async def _everything(there: FhirClient, types: Iterable[str]) -> tuple[list[Resource], list[str]]:
    """Return all resources of these types that a FHIR server shows, and the types it lets nobody search."""
    found: list[Resource] = []
    unread: list[str] = []
    for type_ in types:
        try:
            found += await there.search(type_, {"_count": "500"})
        except Refused as refusal:
            if refusal.status not in {403, 404, 405}:
                raise
            unread.append(type_)
    return found, unread


def pushed_to(endpoint: Resource) -> frozenset[str]:
    """Return the types that an Endpoint says are pushed there; all that can be pushed where it does not say."""
    named = {coding["code"] for type_ in endpoint.get("payloadType", []) for coding in type_.get("coding", [])}
    return frozenset(named) or frozenset(PUSHED_TYPES)


def show(found: Finding, since: datetime | None = None) -> None:
    """Show what was compared and what differs."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("", "hop", "compared", "", "on its way", "differing", ""):
        number = heading in {"compared", "on its way", "differing"}
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for hop in found.hops:
        differing = sum(difference.count for difference in hop.differences)
        well = not differing and not hop.on_its_way and not hop.unread
        table.add_row(
            "[green]✓[/]" if well else "[red]✗[/]",
            hop.name,
            f"{hop.compared:,}",
            hop.unit,
            f"{hop.on_its_way:,}",
            f"{differing:,}",
            f"[dim]{escape(hop.note)}[/]",
        )
    out.print(table)
    if since is not None:
        out.print(f"Compared was what was committed from {since:%Y-%m-%d %H:%M:%S} UTC on; the hospital was not.")
    out.print()
    for difference in found.differences[:_SHOWN]:
        problem(str(difference))
    for hop in found.hops:
        if hop.unread:
            problem(f"{hop.name} could not be compared. {hop.unread} Start it, or set its Endpoint's status to off.")
    for name, count in found.parked.items():
        if count:
            problem(f"{name} has parked {count} events that it could not apply. ./kap parked list names them.")
    if found.clean:
        out.print("[green]Nothing is missing, nothing is doubled, nothing differs.[/]")
    elif found.on_its_way:
        problem(f"{found.on_its_way} are on their way and have stopped moving. ./kap status tells what is down.")
    elif found.differences or any(found.parked.values()):
        problem("What was committed and what arrived are not the same.")
    else:
        problem("What could be compared is the same.")
