"""`./kap up`: start the stack, find it again, heal it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from cli.options import DATA, DataOption
from cli.stack.ports import GATEWAY, HOSPITAL
from cli.stack.stack import Brought, Stack
from cli.stack.state import Options
from cli.table import table
from cli.terminal import err, out, telling


def up(
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Come back when all is ready, and leave it running.")
    ] = False,
    single: Annotated[
        bool | None,
        typer.Option("--single/--separate", help="All services in one process, or one process each (default)."),
    ] = None,
    port_base: Annotated[
        int | None, typer.Option(metavar="PORT", help="The gateway's port (default 8000); the others follow it.")
    ] = None,
    data: DataOption = DATA,
    kafka: Annotated[
        str | None,
        typer.Option(
            metavar="apache|memory|HOST:PORT",
            help="Real Apache Kafka (default), an in-memory stand-in that promises nothing, or a Kafka of your own.",
        ),
    ] = None,
    postgres: Annotated[
        str | None,
        typer.Option(metavar="embedded|DSN", help="A PostgreSQL of the stack's own (default), or yours."),
    ] = None,
    auth: Annotated[
        bool | None,
        typer.Option(
            "--auth/--no-auth",
            help="Every request needs a token (./kap token; default), or everybody who reaches the ports may do "
            "everything. They are open to this machine only (127.0.0.1).",
        ),
    ] = None,
) -> None:
    """Start PostgreSQL, Apache Kafka and every service; wait until all is ready; tell what runs where.

    Runs in the foreground until Ctrl-C stops all of it, unless --detach is given. What is not said is as it was the
    last time. Where the stack is up already, dead processes are started again and living ones left alone.
    """
    with _interruptible():
        begun = time.monotonic()
        with telling() as report:
            brought = Stack(data, report=report).up(
                Options(port_base=port_base, kafka=kafka, postgres=postgres, single=single, auth=auth),
                foreground=not detach,
            )
        stack = Stack(data, report=lambda sentence: err.print(sentence, markup=False, soft_wrap=True))
        out.print(table(stack.status()))
        out.print()
        out.print(_summary(brought, time.monotonic() - begun, stack), soft_wrap=True)
        if detach or brought.healed:
            out.print("./kap status tells how it is; ./kap down stops it.")
            return
        out.print("Ctrl-C stops everything.")
        try:
            out.print(stack.watch())
        except KeyboardInterrupt:
            with _deaf():
                err.print()
                stack.down()
                out.print("Stopped. The data stays; ./kap up finds it again.")


def _summary(brought: Brought, seconds: float, stack: Stack) -> str:
    ports = stack.ports()
    if not brought.healed:
        head = f"Everything is ready ({seconds:.0f} s)."
    elif brought.started:
        reasons = ", ".join(f"{name} ({why})" for name, why in brought.started.items())
        head = f"It was up; started anew: {reasons}."
    else:
        head = "It was up already, and every service is ready."
    return (
        f"{head}\nThe record, as one FHIR server: {ports.fhir(GATEWAY)}   a hospital's EHR: {ports.fhir(HOSPITAL)}\n"
        + (
            "Every request needs a token: ./kap token ROLE prints one."
            if stack.state().options.auth
            else "It runs without tokens: everybody who reaches these ports may do everything (./kap up --auth)."
        )
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a closed terminal or a `kill` end the command as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _deaf() -> Iterator[None]:
    """Stop in good order though Ctrl-C is pressed again."""
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
