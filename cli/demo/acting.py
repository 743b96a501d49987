"""What every step of a course is made of: create once, wait for an event's effect, be refused, tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from cli.demo.client import DemoError, FhirClient, Held, Refused, condition
from cli.demo.patients import Person
from cli.demo.progress import Bar
from cli.demo.resources import Calendar, Team, identifier
from shared.fhir.json import Resource

PATIENCE = 180.0
"""Seconds that an event may take to show its effect: long enough for a person to start a killed process again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal by rule that belongs to the course: what was tried, the rules, the server's own words, its evidence."""

    tried: str
    rules: tuple[str, ...]
    said: str
    evidence: tuple[str, ...] = ()


@dataclass(slots=True)
class Told:
    """What happened to one patient, in the order in which it happened."""

    person: Person
    steps: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    scores: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    patient: str = ""


async def create(gateway: FhirClient, resource: Resource) -> Held:
    """Create a resource under its business identifier; an order is written by its prescriber."""
    by = resource["requester"]["reference"] if resource["resourceType"] == "MedicationRequest" else None
    return await gateway.create(resource, unless=once(resource), by=by)


def once(resource: Resource) -> str:
    """Return the `If-None-Exist` search of a resource: its business identifier, or what tells an AdverseEvent apart.

    R4 has no search of AdverseEvents by identifier.
    """
    if resource["resourceType"] == "AdverseEvent":
        return condition(subject=resource["subject"]["reference"], date=resource["date"])
    named = resource["identifier"]
    first = named[0] if isinstance(named, list) else named
    return condition(identifier=f"{first['system']}|{first['value']}")


class Acting:
    """Somebody who does a patient's course by the FHIR API.

    Args:
        person: the patient.
        gateway: the FHIR server.
        team: who treats him.
        calendar: when.
        bar: shows how far it is.

    """

    def __init__(self, person: Person, gateway: FhirClient, team: Team, calendar: Calendar, bar: Bar) -> None:
        self.person = person
        self.gateway = gateway
        self.team = team
        self.calendar = calendar
        self.told = Told(person)
        self.bar = bar
        self.subject = ""
        self.escort = ""

    async def transact(self, *created: Resource) -> None:
        """Create resources that name each other by nothing but what is there, all in one transaction."""
        await self.gateway.transact([(f"urn:uuid:{uuid4()}", one, once(one)) for one in created])
        self.bar.advance(len(created))

    async def create(self, resource: Resource) -> Held:
        """Create a resource under its business identifier, and count it."""
        held = await create(self.gateway, resource)
        self.bar.advance()
        return held

    async def all(self, *created: Resource) -> None:
        """Create several resources side by side."""
        await asyncio.gather(*(self.create(resource) for resource in created))

    async def is_there(self, resource: Resource) -> bool:
        """Tell whether a resource of this business identifier is there."""
        named = identifier(resource["identifier"][0]["value"])
        query = {"identifier": f"{named['system']}|{named['value']}"}
        return bool(await self.gateway.search(resource["resourceType"], query))

    async def first(self, type_: str, query: dict[str, str]) -> Resource | None:
        """Return the first resource that matches, None where there is none."""
        found = await self.gateway.search(type_, query)
        return found[0] if found else None

    async def until(self, what: str, look: Callable[[], Awaitable[Resource | None]]) -> Resource:
        """Look again and again until an event has had its effect."""
        deadline = time.monotonic() + PATIENCE
        pause = 0.02
        while True:
            found = await look()
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{what[0].upper()}{what[1:]} did not come within {PATIENCE:.0f} s: events do not flow. "
                    "./kap status shows what is down, ./kap up starts it again, then the same ./kap demo goes on."
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)

    async def refused(self, tried: str, rule: str, attempt: Awaitable[Any]) -> None:
        """Do what must be refused, and keep the refusal to show it."""
        try:
            await attempt
        except Refused as refusal:
            if refusal.status != 422:
                raise
            self.told.refusals.append(Refusal(tried, refusal.rules, refusal.first, refusal.evidence))
            self.step(f"{tried} refused ({', '.join(refusal.rules)})")
            if rule not in refusal.rules:
                self.told.faults.append(f"{tried} was refused by {', '.join(refusal.rules)}, expected {rule}")
        else:
            self.told.faults.append(f"{tried} was not refused, expected {rule}")

    def step(self, what: str) -> None:
        """Tell what has just happened."""
        self.told.steps.append(what)
        self.bar.show(self.bar.done, note=what)
