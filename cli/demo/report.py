"""What the demo shows at its end: for a clinician what happened, for an engineer that nothing was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from statistics import median, quantiles

import httpx
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from cli.demo.access import ASKED, PROCESS_NOTES, Seen
from cli.demo.acting import Told
from cli.demo.app import AppSaw, Audited
from cli.demo.feeds import Exported, PartnerTold
from cli.demo.synthea import Loaded, Screened
from cli.demo.watch import Picture
from cli.ops import SOURCES, versions_of
from cli.stack.ports import GATEWAY, HOSPITAL

_STATES = (
    "accepted",
    "queued",
    "sending",
    "waiting",
    "held",
    "superseded",
    "withdrawn",
    "refused",
    "not-accepted",
    "cancelled",
)
"""States of a delivery, in the order in which they are shown."""


def courses(console: Console, told: Iterable[Told], today: date) -> None:
    """Show what happened to each patient, and under it what was refused and why."""
    refusals: list[str] = []
    for one in sorted(told, key=lambda each: each.person.number):
        person = one.person
        age = int((today - person.birth_date).days // 365.2425)
        scores = f"   PHQ-9 {' → '.join(str(score) for score in one.scores)}" if one.scores else ""
        console.print(
            f"[bold]{person.number:>3}  {escape(person.name)}[/], {age}, {person.gender}, "
            f"{escape(person.indication.icd10.display)} ({person.indication.icd10.code}){scores}",
            soft_wrap=True,
        )
        console.print(Padding(escape(" → ".join(one.steps)), (0, 0, 0, 5), expand=False))
        refusals.extend(
            f"{person.name}, {refusal.tried}: {_rules(refusal.rules)}{refusal.said}{_evidence(refusal.evidence)}"
            for refusal in one.refusals
        )
    if refusals:
        console.print("\n[bold]Refused by rule, as it should be[/]")
        for refusal in refusals:
            console.print(Padding(escape(refusal), (0, 0, 0, 2), expand=False))


def _rules(rules: Sequence[str]) -> str:
    return f"[{', '.join(rules)}] " if rules else ""


def _evidence(references: Sequence[str]) -> str:
    return f" Evidence: {', '.join(references)}." if references else ""


def loading(console: Console, loaded: Loaded, screened: Sequence[Screened]) -> None:
    """Show what became of every entry of the Bundles, and of every patient."""
    table = _table("type", "loaded", "there before", "same entry in another file")
    for type_ in sorted(loaded.created.keys() | loaded.there.keys() | loaded.repeated.keys()):
        table.add_row(type_, *(_number(counter[type_]) for counter in (loaded.created, loaded.there, loaded.repeated)))
    table.add_section()
    table.add_row(
        "all", *(_number(counter.total()) for counter in (loaded.created, loaded.there, loaded.repeated)), style="bold"
    )
    console.print(table)
    if loaded.omitted:
        console.print(f"\n[bold]Left out: {loaded.omitted.total():,} of {loaded.entries:,} entries[/]")
        for (type_, reason), number in sorted(loaded.omitted.items(), key=lambda each: -each[1]):
            console.print(f"  {number:>5,} {type_}: {escape(reason)}")
    console.print(f"\n[bold]Referred and screened as they are: {len(screened)} patients[/]")
    for verdict, number in Counter(one.outcome for one in screened).most_common():
        console.print(f"  {number:>5} {verdict.replace('-', ' ')}")
    rules = Counter(rule for one in screened for rule in one.rules)
    if rules:
        named = ", ".join(f"{rule} ({number})" for rule, number in rules.most_common())
        console.print(f"  [dim]rules that stood in the way, with how many patients: {named}[/]")


def services(console: Console, picture: Picture) -> None:
    """Show per service what it committed and published, and where that has arrived."""
    table = _table(
        "service", "written now", "written ever", "published", "waiting", "at the gateway", "applied", "parked"
    )
    for name in SOURCES:
        flow = picture.flows[name]
        table.add_row(
            name,
            _number(versions_of(picture.since[name], name)),
            _number(versions_of(picture.all[name], name)),
            _number(flow.outbox.published),
            _number(flow.outbox.pending),
            _number(versions_of(picture.all[GATEWAY], name)),
            _number(sum(inbox.applied for inbox in flow.inbox)),
            _number(sum(parked.count for parked in flow.parked)),
        )
    held = picture.all[GATEWAY]
    gateway = picture.flows[GATEWAY]
    table.add_section()
    table.add_row(
        GATEWAY,
        "",
        "",
        "",
        "",
        _number(sum(versions_of(held, name) for name in SOURCES)),
        _number(sum(inbox.applied for inbox in gateway.inbox)),
        _number(sum(parked.count for parked in gateway.parked)),
    )
    console.print(table)
    console.print("[dim]written, at the gateway: versions of resources; published, applied, parked: events[/]")


def hospital(console: Console, picture: Picture) -> None:
    """Show, of each destination, what it has of ours by type, and what became of the rest."""
    for destination in picture.destinations:
        shown = [state for state in _STATES if any(state in states for states in destination.by_type.values())]
        table = _table(f"at the {destination.name}", *(state.replace("-", " ") for state in shown))
        for type_, states in sorted(destination.by_type.items()):
            table.add_row(type_, *(_number(states.get(state, 0)) for state in shown))
        console.print(table)
        if destination.not_accepted:
            console.print(f"[dim]not accepted there at all: {', '.join(destination.not_accepted)}[/]")
        if held := sum(states.get("held", 0) for states in destination.by_type.values()):
            patients = destination.by_type.get("Patient", {}).get("held", 0)
            of = f"; of {_number(patients)} of the patients it knows nothing at all" if patients else ""
            console.print(f"Held for want of consent: {_number(held)} resources{of}.")


def hops(console: Console, picture: Picture) -> None:
    """Show how long each hop took, over the last hour."""
    table = _table("hop", "events", "median", "95 %", "longest")
    for name in SOURCES:
        for latency in picture.flows[name].latencies:
            if latency.hop == "published":
                _hop(table, f"{name} → Kafka", latency.count, latency.median, latency.p95, latency.maximum)
    for latency in picture.flows[GATEWAY].latencies:
        if latency.hop == "applied":
            _hop(table, f"{latency.source} → gateway", latency.count, latency.median, latency.p95, latency.maximum)
    seconds = [
        (line.accepted_at - line.committed_at).total_seconds()
        for destination in picture.destinations
        for line in destination.deliveries
        if line.accepted_at is not None and line.committed_at is not None
    ]
    if seconds:
        _hop(table, "commit → hospital", len(seconds), median(seconds), percentile95(seconds), max(seconds))
    console.print(table)


def _hop(table: Table, name: str, count: int, middle: float, p95: float, longest: float) -> None:
    table.add_row(name, _number(count), *(_milliseconds(value) for value in (middle, p95, longest)))


def urls(console: Console, picture: Picture, patient: str, given: str, named: str) -> None:
    """Show four places to look at; `named` is what `./kap timeline` calls the patient."""
    ports = picture.ports
    id_ = patient.partition("/")[2]
    name = f"{ports.fhir(HOSPITAL)}/Patient?identifier=https://kap-exchange.org/fhir/id/Patient|{id_}"
    console.print("[bold]Look at it[/]")
    places = {
        f"{given}'s record as text": f"./kap timeline {named}",
        f"{given}'s whole record": f"{ports.fhir(GATEWAY)}/{patient}/$everything",
        f"{given} in the hospital": name,
        "every dose that was given": f"{ports.fhir(GATEWAY)}/MedicationAdministration?_sort=-_lastUpdated",
    }
    width = max(len(what) for what in places)
    for what, url in places.items():
        console.print(f"  {escape(what):<{width}}  {url}", soft_wrap=True)


def seen(console: Console, given: str, several: Iterable[Seen]) -> None:
    """Show what each caller sees of a patient's record."""
    console.print(f"[bold]Who sees what of {escape(given)}[/]: how many, or the refusal's status")
    table = _table("who", *ASKED, PROCESS_NOTES)
    for one in several:
        table.add_row(one.who, *one.answers)
    console.print(table)


def app(console: Console, given: str, saw: AppSaw, audit: Audited) -> None:
    """Show what an app was told that a patient let in, and what the audit says of who saw the record."""
    name = escape(given)
    refused = "was refused another's" if saw.others == httpx.codes.NOT_FOUND else "WAS TOLD ANOTHER'S"
    console.print(
        f"[bold]An app that {name} let in[/] (SMART App Launch with PKCE): it reads {name}'s own record, "
        f"{_number(saw.observations)} Observations, and {refused} ({saw.others}).",
        soft_wrap=True,
    )
    chains = "each chain is whole" if not audit.broken else f"THE CHAIN IS BROKEN: {', '.join(audit.broken)}"
    console.print(
        f"[bold]Who saw {name}'s record[/]: {_number(saw.rows)} rows in the audit of {', '.join(saw.services)}; "
        f"{_number(audit.disclosed)} disclosures to somebody outside. Of all {_number(audit.checked)} rows {chains}.",
        soft_wrap=True,
    )


def feeds(console: Console, partner: PartnerTold, hospital_: Exported) -> None:
    """Show what a partner physician's system was told by its Subscription, and what a hospital exported."""
    all_told = "" if partner.told == partner.given else f", WHICH ARE NOT THE {_number(partner.given)} THAT WERE GIVEN"
    said = f"was told of {_number(partner.told)} doses as they were given{all_told}" if partner.given else (
        "had nothing new to be told of"
    )  # fmt: skip
    console.print(f"[bold]A partner physician's system[/] that subscribed to his patients {said}.", soft_wrap=True)
    several = ", ".join(f"{_number(count)} {type_}" for type_, count in hospital_.files.items())
    same = "as many of each as it finds by searching" if hospital_.files == hospital_.found else (
        "OF WHICH IT FINDS BY SEARCHING " + ", ".join(f"{_number(n)} {type_}" for type_, n in hospital_.found.items())
    )  # fmt: skip
    console.print(
        f"[bold]A hospital exported[/] (Group/$export) what its patients let it know: {several}; {same}.",
        soft_wrap=True,
    )


def percentile95(values: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


_TEXT = frozenset(("type", "service", "hop", "who"))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        text = column in _TEXT or (column.startswith("at the ") and column != "at the gateway")
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    return table


def _number(value: int) -> str:
    return f"{value:,}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"
