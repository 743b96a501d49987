"""`./kap replay`: have a service tell again what it committed, out of its history in PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from cli.ops import CONSUMERS, SOURCES, Ops, Replayed
from cli.options import DATA, DataOption
from cli.running import running
from cli.stack.problem import StackProblem
from cli.terminal import err, out, problem, telling
from cli.times import time_of

_POLL = 0.5


def replay(
    service: Annotated[str, typer.Argument(help=f"Whose events: {', '.join(SOURCES)}.")],
    *,
    data: DataOption = DATA,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TIME|SEQUENCE", help="From a time (2026-11-22T10:30Z) or a place in its outbox on."
        ),
    ] = None,
    patient: Annotated[str | None, typer.Option(metavar="Patient/ID", help="Of one patient's record only.")] = None,
    to: Annotated[
        str | None, typer.Option(metavar="GROUP", help=f"To one consumer only: {', '.join(CONSUMERS)}.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Come back when all was told.")] = True,
) -> None:
    """Tell again what a service committed: all of it, or from a time on, of one patient, to one consumer.

    Whoever has applied an event takes it for a repeat and changes nothing; what was dropped or never came is applied.
    """
    if service not in SOURCES:
        raise StackProblem(f"{service} tells no events of its own. Those that do: {', '.join(SOURCES)}.")
    group = None if to is None else to.removeprefix("kap.")
    if group is not None and group not in CONSUMERS:
        raise StackProblem(f"There is no consumer {to}. There are {', '.join(CONSUMERS)}.")
    begin = from_ if from_ is None or from_.isdecimal() else time_of(from_, "--from").isoformat()
    given = {"from": begin, "patient": patient, "to": group}
    what = {name: value for name, value in given.items() if value is not None}

    async def run() -> Replayed:
        stack = running(data)
        async with Ops(stack.ports(), auth=stack.auth()) as ops:
            asked = await ops.replay(service, **what)
            with telling(err) as tell:
                shown = 0
                while wait and not asked.ended:
                    if asked.told != shown:
                        shown = asked.told
                        tell(f"{shown} events told so far.")
                    await asyncio.sleep(_POLL)
                    asked = await ops.replayed(service, asked.number)
            return asked

    asked = asyncio.run(run())
    whom = "everybody" if group is None else group
    if asked.ended and not asked.told and patient is not None:
        problem(f"{service} never told anything of {patient}. Is that the patient you mean? ./kap timeline {patient}")
    if asked.ended:
        out.print(f"{service} told {asked.told} events again, to {whom}. What was applied before is a repeat.")
    else:
        out.print(f"{service} tells its events again, to {whom}; a worker of {service} works it off.")
