"""Load real FHIR transaction Bundles (Synthea's) through the gateway, then refer and screen each patient as he is.

Nothing is invented for anyone: what the service does not support is left out and counted, what it refuses is counted
with its reason, and most patients will be refused at screening, by rule.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from cli.demo import before
from cli.demo.bundles import Entry, identifiers, owners_first, references, translate, unless, waves
from cli.demo.client import FhirClient, Held, Refused, condition
from cli.demo.course import screened, verdict
from shared.fhir.json import Resource

Advance = Callable[[int], None]


@dataclass(slots=True)
class Loaded:
    """What became of every entry: created now, already there, a repeat of another file's, or omitted with a reason.

    `patients` are the loaded patients by file.
    """

    entries: int = 0
    created: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    omitted: Counter[tuple[str, str]] = field(default_factory=Counter)
    patients: dict[str, Held] = field(default_factory=dict)

    @property
    def accounted(self) -> int:
        """Entries whose fate is known; equal to `entries` when the load is done."""
        return self.held + self.repeated.total() + self.omitted.total()

    @property
    def held(self) -> int:
        """Entries that the server holds now."""
        return self.created.total() + self.there.total()


class Loader:
    """Loads one folder."""

    def __init__(self, client: FhirClient, advance: Advance) -> None:
        self.client = client
        self.loaded = Loaded()
        self._advance = advance
        self._known: dict[str, str] = {}

    async def load(self, files: dict[str, list[Entry]]) -> Loaded:
        """Create every supported entry: first those of no patient, then all patients side by side."""
        loaded = self.loaded
        loaded.entries = sum(len(entries) for entries in files.values())
        supported = creatable(await self.client.capabilities())
        shared, of_patients, repeats = owners_first(files)
        loaded.repeated.update(entry.type for entry in repeats)
        self._advance(len(repeats))
        await self._load(self._supported(shared, supported))
        chosen = [self._supported(entries, supported) for entries in of_patients.values()]
        await asyncio.gather(*(self._load(entries) for entries in chosen))
        return loaded

    def _supported(self, entries: Iterable[Entry], supported: frozenset[str]) -> list[Entry]:
        kept: list[Entry] = []
        for entry in entries:
            if entry.type in supported:
                kept.append(entry)
            else:
                self.loaded.omitted[entry.type, "KAP Exchange does not hold this type"] += 1
                self._advance(1)
        return kept

    async def _load(self, entries: list[Entry]) -> None:
        for wave in waves(entries):
            await asyncio.gather(*(self._create(entry) for entry in wave))

    async def _create(self, entry: Entry) -> None:
        await self._look_up(entry)
        try:
            held = await self.client.create(translate(entry, self._known.get), unless=unless(entry))
        except Refused as refusal:
            self.loaded.omitted[entry.type, f"refused ({refusal.status}): {refusal.diagnostics}"] += 1
        else:
            (self.loaded.created if held.created else self.loaded.there)[entry.type] += 1
            self._known[entry.url] = held.reference
            for identifier in identifiers(entry.resource):
                self._known[f"{entry.type}?identifier={identifier}"] = held.reference
            if entry.type == "Patient":
                self.loaded.patients[entry.file] = held
        self._advance(1)

    async def _look_up(self, entry: Entry) -> None:
        """Ask the gateway for what a conditional reference means and no file held."""
        for reference in conditional_references(entry.resource):
            if reference in self._known:
                continue
            type_, _, query = reference.partition("?")
            name, _, value = query.partition("=")
            found = await self.client.search(type_, {name: value})
            if len(found) == 1:
                self._known[reference] = f"{type_}/{found[0]['id']}"


def conditional_references(resource: Resource) -> list[str]:
    """Return the conditional references (``Practitioner?identifier=...``) of a resource."""
    return [element["reference"] for element in references(resource) if "?identifier=" in element["reference"]]


def creatable(capabilities: Resource) -> frozenset[str]:
    """Return the types that a CapabilityStatement offers `create` for."""
    return frozenset(
        str(offered["type"])
        for rest in capabilities.get("rest", [])
        for offered in rest.get("resource", [])
        if any(interaction.get("code") == "create" for interaction in offered.get("interaction", []))
    )


@dataclass(frozen=True, slots=True)
class Screened:
    """A loaded patient, referred and screened: the verdict and the rules that stood in the way."""

    patient: str
    outcome: str
    rules: tuple[str, ...]


async def refer_and_screen(client: FhirClient, patient: Held, on: datetime) -> Screened:
    """Refer a patient for KAP, have him sign who is told, and screen him by what his record says."""
    signed = before.privacy(f"loaded-{patient.id}", patient.reference, on, {"display": "The clinic of the demo"})
    name = signed["identifier"][0]
    await client.create(signed, unless=condition(identifier=f"{name['system']}|{name['value']}"))
    resource = before.referral(f"loaded-{patient.id}", patient.reference, on, [])
    named = resource["identifier"][0]
    await client.create(resource, unless=condition(identifier=f"{named['system']}|{named['value']}"))
    try:
        outcome, rules = verdict(await screened(client, patient.reference))
    except Refused as refusal:
        return Screened(patient.reference, f"not screened: {refusal.diagnostics}", refusal.rules)
    return Screened(patient.reference, outcome, tuple(rules))
