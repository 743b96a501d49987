"""`./kap demo`: the main job, from nothing to a record in the hospital."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.demo import access, feeds, report
from cli.demo.app import app_of, audited
from cli.demo.client import FhirClient
from cli.demo.journal import Journal
from cli.demo.play import load, play
from cli.demo.progress import Bars
from cli.demo.watch import missing, picture, until_quiet
from cli.ops import Ops
from cli.options import DATA, DataOption
from cli.stack.ports import GATEWAY
from cli.stack.stack import Stack
from cli.stack.state import Options
from cli.terminal import out, problem, telling

INTERRUPTED = 130
"""The exit code of what Ctrl-C ended, as a shell has it: 128 and the signal's number."""


def demo(
    *,
    patients: Annotated[
        int | None,
        typer.Option("--patients", "-n", min=1, max=500, help="How many patients (7 unless told otherwise)."),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Load a folder's FHIR Bundles (.json, .json.gz) instead."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Which patients: the same seed makes the same (new ones unless told otherwise)."),
    ] = None,
    auth: Annotated[
        bool | None, typer.Option("--auth/--no-auth", help="Start the stack with tokens (default), or without.")
    ] = None,
    port_base: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Start the stack with the gateway at this port; the others follow it."),
    ] = None,
    data: DataOption = DATA,
) -> None:
    """Take patients through a whole KAP course by the FHIR API; watch their record flow into the hospital.

    Starts the stack if it is not up. A demo that was cut off is finished by running it again.
    """
    stack = Stack(data)
    begun = time.monotonic()
    try:
        if not stack.is_up() or auth is not None or port_base is not None:
            with telling() as tell:
                Stack(data, report=tell).up(Options(auth=auth, port_base=port_base))
        begun = time.monotonic()
        whole = asyncio.run(_demo(stack, patients, from_, seed))
    except KeyboardInterrupt:
        runs = ", and the stack is still running (./kap down stops it)" if stack.any_lives() else ""
        problem(f"Stopped. What was done stays done{runs}. The same ./kap demo goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
    if not whole:
        problem("The demo did not come to its end. What was done stays done; the same ./kap demo goes on from there.")
        raise typer.Exit(1)
    seconds = time.monotonic() - begun
    out.print(f"\n[green]Done in {seconds:.0f} s.[/] ./kap verify compares every hop. ./kap down stops the stack.")


async def _demo(stack: Stack, patients: int | None, folder: Path | None, seed: int | None) -> bool:
    ports = stack.ports()
    since = datetime.now(UTC)
    auth = stack.auth()
    async with (
        FhirClient(ports.fhir(GATEWAY), auth=auth) as gateway,
        Ops(ports, auth=auth) as ops,
        AsyncExitStack() as opened,
    ):
        systems: list[feeds.PartnersSystem] = []

        async def partner(physician: str) -> None:
            systems.append(await opened.enter_async_context(feeds.partners_system(ports, physician, stack.auth)))

        if folder:
            played = await load(gateway, folder)
        else:
            told_to = None if auth is None else partner
            played = await play(gateway, Journal(stack.data), patients, seed, partner=told_to)
        if not played.whole:
            return False
        out.print()
        with Bars(out) as bars:
            counted = await until_quiet(ops, bars, since)
        told = [await system.end() for system in systems]
        exported = (
            [await feeds.exported(ports, gateway, str(played.seed), played.patients, stack.auth)] if systems else []
        )
        taken = await picture(ops, since)
    for show in (report.services, report.hospital, report.hops):
        out.print()
        show(out, taken)
    if played.patient:
        out.print()
        report.urls(out, taken, played.patient, played.given, played.named)
        if auth is not None:
            out.print(
                '  Those of the gateway need a token: curl -H "Authorization: Bearer $(./kap token prescriber)" URL\n'
            )
            report.seen(out, played.given, await access.seen(ports, played.patient, played.therapist, stack.auth))
            out.print()
            saw = await app_of(stack, played.patient, stack.auth)
            report.app(out, played.given, saw, await audited(stack, played.patient))
        for one, other in zip(told, exported, strict=True):
            report.feeds(out, one, other)
    for sentence in missing(counted, taken.destinations):
        problem(sentence)
    return counted.complete
