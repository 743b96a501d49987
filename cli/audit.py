"""`./kap audit`: whether the audit is whole, and what of a patient was told to somebody outside."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from cli.ops import DELIVERY, AuditRows, Ops
from cli.options import DATA, ClinicOption, DataOption
from cli.running import running
from cli.stack.ports import GATEWAY, IDENTITY, OWNERS
from cli.stack.problem import StackProblem
from cli.stack.stack import Stack
from cli.terminal import out, problem
from shared.fhir.codes import INTERMEDIARY
from shared.runtime.anchoring import anchors_in
from shared.runtime.policy import load_policy
from shared.runtime.retention import AuditPolicy
from shared.store.access import DEFAULT_TENANT
from shared.store.audit import Head
from shared.store.audit_chain import Checked, Line, check

AUDITED = (GATEWAY, *OWNERS, DELIVERY, IDENTITY)
"""The services that have an audit of their own."""

_TOLD_OUTSIDE = (GATEWAY, *OWNERS, DELIVERY)
_SHOWN = 20

INTERMEDIARIES: Final = timedelta(days=3 * 366)
"""For how long the recipients of a record are told to the patient: three years (42 CFR 2.24, 2.31(a)(4)(ii)(B))."""

audit = typer.Typer(
    name="audit",
    no_args_is_help=True,
    help="Who did, read or was told what: whether the audit is whole, and the accounting of disclosures.",
)


@audit.command()
def verify(
    service: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(AUDITED)}; all, where none is named.")
    ] = None,
    *,
    data: DataOption = DATA,
) -> None:
    """Find any change, removal, insertion or other order of rows, and rows cut off the end. Exit code 1 where there is.

    Compared is the chain of each service's audit with itself, and with what the services noted of its end outside of
    their databases, every second, in the folder `audit` of the data folder.
    """
    if service is not None and service not in AUDITED:
        raise StackProblem(f"There is no audit of {service}. There are those of {', '.join(AUDITED)}.")
    stack = running(data)
    names = (service,) if service is not None else of_stack(stack)
    found = asyncio.run(checked(stack, names))
    show(found)
    if any(one.broken for one in found.values()):
        raise typer.Exit(1)


@audit.command()
def accounting(
    patient: Annotated[str, typer.Argument(metavar="Patient/ID", help="Whose record it is about.")],
    *,
    clinic: ClinicOption = None,
    data: DataOption = DATA,
    json_: Annotated[bool, typer.Option("--json", help="As a Bundle of AuditEvents.")] = False,
) -> None:
    """Tell what of a patient was told to whom outside of the clinic, when and what for (45 CFR 164.528).

    Read there by a token, or sent there; each with what allowed it.
    """
    stack = running(data)
    found = asyncio.run(disclosures(stack, patient.removeprefix("Patient/"), clinic or DEFAULT_TENANT))
    if json_:
        entries = [{"resource": one} for one in found]
        bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "collection"}
        typer.echo(json.dumps(bundle | ({"entry": entries} if entries else {}), indent=2))
        return
    if not found:
        out.print(
            f"Nothing of this patient of the clinic {clinic or DEFAULT_TENANT} was told to anybody outside of it."
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("when", "to whom", "what", "what for", "by", ""):
        table.add_column(heading, overflow="fold")
    for event in found:
        table.add_row(*(escape(one) for one in line_of(event)))
    out.print(table)
    out.print(f"{len(found)} disclosures.")


@audit.command()
def recipients(
    patient: Annotated[str, typer.Argument(metavar="Patient/ID", help="Whose record it is about.")],
    *,
    clinic: ClinicOption = None,
    data: DataOption = DATA,
) -> None:
    """Tell to whom outside of the clinic this patient's record went within three years: one line a recipient.

    What a patient is given who asks to whom an intermediary passed it on (42 CFR 2.24, 2.31(a)(4)(ii)): the name, the
    dates, what it was, and through which intermediary. It lists every disclosure, not those of substance use alone.
    """
    stack = running(data)
    found = asyncio.run(disclosures(stack, patient.removeprefix("Patient/"), clinic or DEFAULT_TENANT))
    told = recipients_of(found, since=datetime.now(UTC) - INTERMEDIARIES)
    if not told:
        out.print("Within three years nothing of this patient was told to anybody outside of the clinic.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("to whom", "through", "first", "last", "times", "what", "by"):
        table.add_column(heading, overflow="fold")
    for one in told:
        what = ", ".join(f"{count} {type_}" for type_, count in sorted(one.what.items()))
        allowed = ", ".join(sorted(one.allowed))
        when = (one.first[:10], one.last[:10])
        table.add_row(escape(one.whom), escape(one.through), *when, str(one.times), escape(what), escape(allowed))
    out.print(table)
    out.print(f"{len(told)} recipients.")


@dataclass(slots=True)
class Recipient:
    """Somebody outside to whom a record went: when first and last, how often, what by type, what allowed it.

    `through`: the intermediary that a Consent names for it; empty: none.
    """

    whom: str
    through: str
    first: str
    last: str
    times: int = 0
    what: Counter[str] = field(default_factory=Counter)
    allowed: set[str] = field(default_factory=set)


def recipients_of(events: Sequence[dict[str, Any]], *, since: datetime) -> list[Recipient]:
    """Return to whom disclosures (AuditEvents) went since then, by name and intermediary."""
    found: dict[tuple[str, str], Recipient] = {}
    for event in sorted(events, key=lambda one: str(one["recorded"])):
        if datetime.fromisoformat(event["recorded"]) < since:
            continue
        when, whom, _, _, allowed, _ = line_of(event)
        through = intermediary_of(event)
        one = found.setdefault((whom, through), Recipient(whom, through, when, when))
        one.last, one.times = when, one.times + 1
        one.what.update(what.partition("?")[0].partition("/")[0] for what in _things(event, "4", "24"))
        one.allowed.update(part for part in (allowed,) if part)
    return [found[place] for place in sorted(found)]


def intermediary_of(event: dict[str, Any]) -> str:
    """Return the intermediary to or by whom a disclosure went; empty: none."""
    named = [one["who"] for one in event["agent"] if one["type"]["coding"][0]["code"] == INTERMEDIARY.code]
    return ", ".join(str(one.get("reference") or one.get("display", "")) for one in named)


def of_stack(stack: Stack) -> tuple[str, ...]:
    """Return the services of a stack that have an audit: without tokens there is no issuer."""
    return AUDITED if stack.auth() is not None else tuple(name for name in AUDITED if name != IDENTITY)


async def checked(stack: Stack, names: Sequence[str]) -> dict[str, Checked]:
    """Check the audits of services."""
    keeps = load_policy().section("audit", AuditPolicy).retention.period
    found: dict[str, Checked] = {}
    async with Ops(stack.ports(), auth=stack.auth()) as ops:
        for name in names:
            anchors = list(anchors_in(stack.anchors / f"{name}.anchors"))  # before the rows: they are never behind
            part = await ops.audit(name)
            lines = [line async for line in _lines(ops, name, part)]
            found[name] = check(lines, anchors, given_up=Head(part.given_up, part.given_up_hash), keeps=keeps)
    return found


async def _lines(ops: Ops, name: str, part: AuditRows) -> AsyncIterator[Line]:
    for line in part.rows:
        yield line
    while part.more:
        part = await ops.audit(name, part.rows[-1].sequence)
        for line in part.rows:
            yield line


def show(found: dict[str, Checked]) -> None:
    """Show what was found."""
    for name, one in found.items():
        if one.broken:
            for said in one.broken[:_SHOWN]:
                problem(f"{name}: {said}.")
            continue
        end = (
            f"its end is noted elsewhere up to row {one.anchored:,}"
            if one.anchored
            else "nothing notes its end elsewhere, so rows cut off there are not missed"
        )
        out.print(f"{name}: {one.rows:,} rows, the chain is whole; {end}.")


async def disclosures(stack: Stack, patient: str, clinic: str = DEFAULT_TENANT) -> list[dict[str, Any]]:
    """Return the AuditEvents of what of a clinic's patient was told outside, by every service, oldest first."""
    async with Ops(stack.ports(), auth=stack.auth()) as ops:
        parts = await asyncio.gather(*(ops.disclosures(name, patient, clinic) for name in _TOLD_OUTSIDE))
    for name, part in zip(_TOLD_OUTSIDE, parts, strict=True):
        if not part.whole:
            problem(f"{name} told of this patient more often than is shown; ask its AuditEvents by date for the rest.")
    return sorted((event for part in parts for event in part.disclosures), key=lambda event: str(event["recorded"]))


def line_of(event: dict[str, Any]) -> tuple[str, str, str, str, str, str]:
    """Return a disclosure as a line: when, to whom, what, what for, what allowed it, by which service."""
    agents: dict[str, Any] = {one["type"]["coding"][0]["code"]: one for one in event["agent"]}
    who = agents.get("IRCP", agents["110152"])["who"]
    whom = who.get("reference") or who.get("display") or who.get("identifier", {}).get("value", "")
    what = ", ".join(_things(event, "4", "24"))
    allowed = ", ".join(_things(event, "13"))
    purpose = ", ".join(one["coding"][0]["code"] for one in event.get("purposeOfEvent", ()))
    return (
        event["recorded"][:19].replace("T", " "),
        whom,
        what,
        purpose,
        allowed,
        event["source"]["observer"]["display"],
    )


def _things(event: dict[str, Any], *roles: str) -> Iterator[str]:
    for one in event.get("entity", ()):
        if one.get("role", {}).get("code") in roles:
            what = one.get("what", {})
            yield str(what.get("reference") or what.get("display") or one.get("description", ""))
