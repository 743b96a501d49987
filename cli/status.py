"""`./kap status`: how everything is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.options import DATA, DataOption
from cli.stack.stack import Stack
from cli.table import as_json, problems, table
from cli.terminal import out

WELL = frozenset(("ready", "run by others"))


def status(
    *,
    data: DataOption = DATA,
    json_: Annotated[bool, typer.Option("--json", help="For programs: memory in bytes, uptime in seconds.")] = False,
) -> None:
    """Tell of each process its port, pid, health, lag and memory. Exit code 1 when something is not ready.

    Lag: events committed elsewhere that a service has yet to apply, and its own that it has yet to publish.
    """
    stack = Stack(data)
    rows = stack.status()
    well = all(row.health in WELL for row in rows)
    if json_:
        typer.echo(json.dumps({"data": str(stack.data), "ready": well, "processes": as_json(rows)}, indent=2))
    elif not stack.any_lives():
        out.print(f"Nothing runs from {stack.data}. ./kap up starts it.", markup=False, soft_wrap=True)
    else:
        out.print(table(rows))
        for sentence in problems(rows):
            out.print(sentence, markup=False, soft_wrap=True)
        out.print(f"Logs: {stack.logs}", markup=False, soft_wrap=True)
    if not well:
        raise typer.Exit(1)
