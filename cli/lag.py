"""`./kap lag`: how far each service is behind each other one, in events and in seconds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from cli.ops import CONSUMERS, Flow, Ops
from cli.options import DATA, DataOption
from cli.running import running
from cli.terminal import out, problem

OLD = 60.0
"""Seconds from which on what a service knows of another is old: the age the shipped policy allows before a dose."""


def lag(
    *,
    data: DataOption = DATA,
    json_: Annotated[bool, typer.Option("--json", help="For programs: ages in seconds.")] = False,
) -> None:
    """Tell of each service how many events wait: its own to be published, and those of others to be taken in.

    Age: how long ago the service knew all that the other had committed. Exit code 1 when something is not taken in by
    anybody, is older than a minute, or is parked.
    """

    async def ask() -> list[Flow]:
        stack = running(data)
        async with Ops(stack.ports(), auth=stack.auth()) as ops:
            return await asyncio.gather(*(ops.flow(service) for service in CONSUMERS))

    flows = asyncio.run(ask())
    if json_:
        typer.echo(json.dumps([_told(flow) for flow in flows], indent=2))
    else:
        out.print(_table(flows))
    found = problems(flows)
    for sentence in found:
        problem(sentence)
    if found:
        raise typer.Exit(1)


def problems(flows: Sequence[Flow]) -> list[str]:
    """Return what is in the way of events, a sentence each."""
    found = []
    for flow in flows:
        if (flow.outbox.oldest_seconds or 0) > OLD:
            found.append(
                f"{flow.service} has not published {flow.outbox.pending} events, the oldest since "
                f"{_seconds(flow.outbox.oldest_seconds)}: is Kafka up, and a worker of {flow.service}?"
            )
        for one in flow.sources:
            if one.state != "taken in":
                when = "" if one.measured_seconds is None else f" since {_seconds(one.measured_seconds)}"
                found.append(
                    f"{flow.service} takes in {one.partitions} of {one.of} partitions of {one.source}{when}: "
                    f"is Kafka up, and a worker of {flow.service}?"
                )
            elif one.seconds is None or one.seconds > OLD:
                age = "never heard of all of" if one.seconds is None else f"last heard {_seconds(one.seconds)} ago of"
                found.append(f"{flow.service} {age} {one.source}: is a worker of {one.source} up?")
        parked = sum(one.count for one in flow.parked)
        if parked:
            found.append(f"{flow.service} has parked {parked} events. ./kap parked list names them.")
    return found


def _told(flow: Flow) -> dict[str, object]:
    return {
        "service": flow.service,
        "unpublished": flow.outbox.pending,
        "unpublished_seconds": flow.outbox.oldest_seconds,
        "parked": sum(one.count for one in flow.parked),
        "sources": msgspec.to_builtins(flow.sources),
    }


def _table(flows: Sequence[Flow]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("service", "from", "events", "age", ""):
        made.add_column(heading, justify="right" if heading in {"events", "age"} else "left")
    for flow in flows:
        made.add_row(flow.service, "(to publish)", str(flow.outbox.pending), _seconds(flow.outbox.oldest_seconds), "")
        for one in flow.sources:
            waiting = "-" if one.events is None else str(one.events)
            made.add_row("", one.source, waiting, _seconds(one.seconds), "" if one.state == "taken in" else one.state)
    return made


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
