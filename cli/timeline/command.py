"""`./kap timeline PATIENT`: reads one record by the FHIR API at the gateway, and tells it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from cli.demo.client import DemoError, FhirClient
from cli.demo.resources import IDENTIFIER
from cli.options import DATA, DataOption
from cli.running import running
from cli.stack.ports import GATEWAY
from cli.stack.stack import Stack
from cli.timeline.told import timeline as told
from shared.fhir.json import Resource

_NAMED = frozenset(("Practitioner", "Organization", "Location", "RelatedPerson", "PractitionerRole"))


def timeline(
    patient: Annotated[
        str, typer.Argument(help="Patient/ID, ID, SYSTEM|VALUE, or of the demo: 1-3 is patient 3 of seed 1.")
    ],
    data: DataOption = DATA,
) -> None:
    """Tell one patient's record as text: when, what, values with units, who, verdicts, alarms, scores."""
    for line in asyncio.run(_read(running(data), patient)):
        typer.echo(line)


async def _read(stack: Stack, wanted: str) -> list[str]:
    async with FhirClient(stack.ports().fhir(GATEWAY), patience=10.0, auth=stack.auth()) as gateway:
        patient = await find(gateway, wanted)
        record = await gateway.search(f"Patient/{patient['id']}/$everything", {})
        missing = {name for one in record for name in references(one)} - {
            f"{one['resourceType']}/{one['id']}" for one in record
        }
        others = await asyncio.gather(
            *(gateway.read(name) for name in sorted(missing) if name.partition("/")[0] in _NAMED)
        )
    return told([*record, *others])


async def find(gateway: FhirClient, wanted: str) -> Resource:
    """Return the Patient that a person at the terminal names.

    Raises:
        DemoError: there is none, or more than one.

    """
    id_ = wanted.removeprefix("Patient/")
    for query in ({"_id": id_}, {"identifier": wanted if "|" in wanted else f"{IDENTIFIER}|{wanted}"}):
        found = await gateway.search("Patient", query)
        if len(found) == 1:
            return found[0]
    raise DemoError(
        f"There is no one Patient that '{wanted}' names. Give Patient/ID, SYSTEM|VALUE, or of the demo SEED-NUMBER: "
        "1-3 is patient 3 of seed 1."
    )


def references(value: object) -> set[str]:
    """Return the local references that lie in a resource."""
    if isinstance(value, dict):
        named = value.get("reference")
        here = {named} if isinstance(named, str) and named.count("/") == 1 else set()
        return here.union(*(references(member) for member in value.values()))
    return set().union(*(references(member) for member in value)) if isinstance(value, list) else set()
