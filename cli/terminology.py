"""`./kap terminology`: code systems and value sets from the clinic's own files into each service's database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cli.options import DATA, DataOption
from cli.stack.databases import databases
from cli.stack.ports import GATEWAY, OWNERS
from cli.stack.problem import StackProblem
from cli.stack.stack import Stack
from cli.stack.state import EMBEDDED
from cli.terminal import err, out, telling
from shared.fhir.outcome import FhirError
from shared.store.terminology import Loaded, Loading
from shared.terminology.load import Release, load, releases
from shared.terminology.release import CannotRead

SERVICES = (*OWNERS, GATEWAY)
"""Whose databases hold terminology: each service answers from its own."""

terminology = typer.Typer(
    name="terminology",
    no_args_is_help=True,
    help="Code systems and value sets that you have licences for: load them from your files, list what is loaded.",
)

DatabaseOption = Annotated[
    list[str] | None,
    typer.Option(
        "--database",
        metavar="DSN",
        help="A service's database, once for each service (default: those of the stack in --data).",
    ),
]


@terminology.command("load")
def load_files(
    files: Annotated[
        list[Path], typer.Argument(help="Archives, folders or files, value sets after what they draw on.")
    ],
    *,
    data: DataOption = DATA,
    database: DatabaseOption = None,
) -> None:
    """Load SNOMED CT (RF2), LOINC, RxNorm (RRF), or CodeSystems and ValueSets as FHIR JSON or NDJSON (CPT, VSAC).

    Each is told by the names of its files. What was loaded of the same code system or value set before is replaced.
    """
    addresses = _addresses(data, database)
    with telling() as report:
        for file in files:
            report(f"Reading {file}.")
            try:
                found = releases(file)
                for name, address in addresses.items():
                    report(f"Writing it for {name}.")
                    said = asyncio.run(_load(address, found))
            except CannotRead as error:
                raise StackProblem(str(error)) from error
            except FhirError as error:
                raise StackProblem(f"{error} Is the stack up, and has it run before?") from error
            for sentence in said:
                out.print(f"{sentence}.", markup=False, soft_wrap=True)
    out.print(
        f"Loaded for {', '.join(addresses)}. Within the hour intake judges everybody who has a course by it, and "
        "tells of whom it changes (Flag, Task); POST Patient/[id]/$screen judges one at once.",
        markup=False,
        soft_wrap=True,
    )


@terminology.command("list")
def list_loaded(*, data: DataOption = DATA, database: DatabaseOption = None) -> None:
    """List what is loaded, by service. Exit code 1 where the services differ."""
    held: dict[str, list[Loaded]] = {}
    for name, address in _addresses(data, database).items():
        try:
            held[name] = asyncio.run(_list(address))
        except FhirError as error:
            raise StackProblem(f"{error} Is the stack up, and has it run before?") from error
    table = Table(box=None)
    for column in ("canonical", "version", "codes", "services"):
        table.add_column(column)
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name, listed in held.items():
        for one in listed:
            rows.setdefault((one.url, one.version, f"{one.concepts:,}" if one.concepts else ""), []).append(name)
    for row, names in sorted(rows.items()):
        table.add_row(*row, "all" if len(names) == len(held) else ", ".join(names))
    out.print(table if rows else "Nothing is loaded. What is shipped: HL7's own codes, and this project's.")
    if any(len(names) != len(held) for names in rows.values()):
        err.print("The services differ: load the files again.")
        raise typer.Exit(1)


def _addresses(data: Path, given: Sequence[str] | None) -> Mapping[str, str]:
    if given:
        return {f"database {number}": address for number, address in enumerate(given, 1)}
    stack = Stack(data)
    server = databases(stack.state().options.postgres or EMBEDDED, stack.data, stack.ports().of("postgres"))
    if server.own and server.pid() is None:
        raise StackProblem("PostgreSQL does not run. ./kap up starts it; or name databases by --database.")
    found = server.provide([f"kap_{name}" for name in SERVICES])
    return {name: found[f"kap_{name}"] for name in SERVICES}


async def _load(address: str, found: Sequence[Release]) -> list[str]:
    said: list[str] = []
    loading = await Loading.open(address)
    try:
        await load(found, loading, said.append)
    finally:
        await loading.close()
    return said


async def _list(address: str) -> list[Loaded]:
    loading = await Loading.open(address)
    try:
        return [*await loading.terminology.systems(), *await loading.terminology.value_sets()]
    finally:
        await loading.close()
