"""`./kap parked`: events that a service could not apply, and what a person decides about them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.table import Table

from cli.ops import CONSUMERS, Ops, ParkedEvent
from cli.options import DATA, DataOption
from cli.running import running
from cli.stack.problem import StackProblem
from cli.terminal import out

Found = TypeVar("Found")

parked = typer.Typer(
    name="parked",
    no_args_is_help=True,
    help="Events that a service could not apply: list, show, retry or drop them. The record waits, nothing is lost.",
)

ServiceArgument = Annotated[str, typer.Argument(help="The service that could not apply it, as `list` names it.")]
NumberArgument = Annotated[int, typer.Argument(min=1, help="The number of the parked event, as `list` names it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


@parked.command("list")
def list_parked(*, data: DataOption = DATA, json_: JsonOption = False) -> None:
    """List what is parked at every service, in the order it was parked in. Exit code 1 when something is."""

    async def ask(ops: Ops) -> list[tuple[str, ParkedEvent]]:
        found = await asyncio.gather(*(ops.parked(service) for service in CONSUMERS))
        return [(service, event) for service, events in zip(CONSUMERS, found, strict=True) for event in events]

    events = _ask(data, ask)
    if json_:
        typer.echo(json.dumps([{"service": service, **msgspec.to_builtins(event)} for service, event in events]))
    elif not events:
        out.print("Nothing is parked.")
    else:
        out.print(_table(events))
        out.print("./kap parked show SERVICE NUMBER tells why. What waits behind is retried with the first of its key.")
    if events:
        raise typer.Exit(1)


@parked.command()
def show(
    service: ServiceArgument, number: NumberArgument, *, data: DataOption = DATA, json_: JsonOption = False
) -> None:
    """Tell all that is known of one parked event, and what waits behind it. Its resource is read at its owner."""
    events = _ask(data, lambda ops: ops.parked(_known(service)))
    event = next((each for each in events if each.number == number), None)
    if event is None:
        raise StackProblem(f"{service} has no parked event {number}. ./kap parked list tells what is parked.")
    if json_:
        typer.echo(msgspec.json.encode(event).decode())
        return
    behind = [each for each in events if (each.tenant, each.key) == (event.tenant, event.key) and each.number > number]
    for name, value in msgspec.to_builtins(event).items():
        out.print(f"{name:10} {value}", markup=False, soft_wrap=True)
    out.print(f"{len(behind)} later events of {event.key} wait behind it.", markup=False)


@parked.command()
def retry(service: ServiceArgument, number: NumberArgument, *, data: DataOption = DATA) -> None:
    """Apply the event again, and then those that wait behind it, in their order."""
    due = _ask(data, lambda ops: ops.retry(_known(service), number))
    out.print(f"{due} events of the same key are applied again, in order. ./kap parked list tells what stays.")


@parked.command()
def drop(
    service: ServiceArgument,
    number: NumberArgument,
    *,
    data: DataOption = DATA,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give the event up for good at this service; those behind it are applied.

    Its owner keeps the resource: ./kap replay brings the event again, and ./kap verify names the difference until then.
    """
    if not yes:
        typer.confirm(f"{service} will never apply event {number}. Drop it?", abort=True)
    gone = _ask(data, lambda ops: ops.drop(_known(service), number))
    out.print(f"Dropped {gone.event_id} of {gone.source}. What waited behind it is applied.", markup=False)


def _known(service: str) -> str:
    if service not in CONSUMERS:
        raise StackProblem(f"There is no service {service}. There are {', '.join(CONSUMERS)}.")
    return service


def _ask(data: DataOption, question: Callable[[Ops], Awaitable[Found]]) -> Found:
    async def run() -> Found:
        stack = running(data)
        async with Ops(stack.ports(), auth=stack.auth()) as ops:
            return await question(ops)

    return asyncio.run(run())


def _table(events: Sequence[tuple[str, ParkedEvent]]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("service", "number", "event", "from", "key", "attempts", "parked", "why"):
        made.add_column(heading, overflow="fold" if heading == "why" else "ellipsis")
    for service, event in events:
        made.add_row(
            service,
            str(event.number),
            event.event_id,
            event.source,
            event.key,
            str(event.attempts),
            f"{event.parked_at:%Y-%m-%d %H:%M:%S}",
            event.error,
        )
    return made
