"""A bench for the clinical services, and the resources of a course as a client would post them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from time import monotonic
from typing import Any

import pytest

from shared.events.handler import Outcome, Position
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.extraction import compartment_key
from shared.fhir.json import Resource, parse
from shared.fhir.kap import stage_extension
from shared.fhir.outcome import Unprocessable
from shared.runtime.consume import ServiceEvents
from shared.runtime.labelling import labels_of_policy
from shared.runtime.policy import Policy, load_policy
from shared.runtime.record import Record, open_record
from shared.runtime.service import OperationCall, Service
from shared.store.access import Access
from shared.store.store import Store
from shared.testing.knowledge import all_is_heard
from shared.testing.refusals import lacking

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
ACCESS = Access.unrestricted()
TOLD_IN_FULL = ("intake", "scheduling")
"""Services of which every refusal by rule is looked at: rule, source, place, and what to do."""
HEARD_EVERY = 10.0
"""Seconds after which a service hears again, where tests are slower than the age that policy allows for news."""
CORE_CATEGORY = "http://hl7.org/fhir/us/core/CodeSystem/careplan-category"


@dataclass
class Clock:
    """A clock that tests set."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Opened:
    """A service on its own database."""

    service: Service
    store: Store
    taken: dict[str, int] = field(default_factory=dict)
    hears: bool = False
    """Whether the others go on telling it everything, however long a test takes."""
    heard_at: float = field(default_factory=monotonic)
    answers: list[Resource] = field(default_factory=list)
    """What its operations answered."""
    names: dict[str, str] = field(default_factory=dict)
    """What tests call somebody of the directory, and what the service does."""

    async def create(self, resource: Resource, *, user: str | None = None, client: str | None = None) -> Resource:
        """Write a resource; `user`: the reference of who is logged in, `client`: by whose token."""
        if resource.get("requester") == PRESCRIBER and resource["resourceType"] == "MedicationRequest":
            resource = {**resource, "requester": {"reference": await self.prescriber()}}
        key = compartment_key(resource, resource["resourceType"], "new")
        async with self.record(key, user, client) as record:
            written = await record.create(resource)
        return parse(written.stored.body)

    async def prescriber(self, name: str = "prescriber") -> str:
        """Return a prescriber of the directory: licensed, with his role, at a certified site."""
        if name not in self.names:
            who = await self.create(practitioner())
            where = await self.create(site())
            await self.create(role_of(who, location=[about(where)]))
            self.names.update({name: f"Practitioner/{who['id']}", "site": f"Location/{where['id']}"})
        return self.names[name]

    async def update(self, resource: Resource, *, user: str | None = None, client: str | None = None) -> Resource:
        """Write a new version; `user`: the reference of who is logged in, `client`: by whose token.

        Who takes a Task is logged in, where it is not said who is.
        """
        if resource["resourceType"] == "Task":
            user = user or resource.get("owner", {}).get("reference")
        key = compartment_key(resource, resource["resourceType"], resource["id"])
        async with self.record(key, user, client) as record:
            written = await record.update(resource)
        return parse(written.stored.body)

    async def delete(self, resource: Resource) -> None:
        key = compartment_key(resource, resource["resourceType"], resource["id"])
        async with self.record(key) as record:
            await record.delete(resource["resourceType"], resource["id"])

    async def call(self, name: str, on: Resource, *parameters: dict[str, Any]) -> Resource:
        type_ = on["resourceType"]
        operation = next(
            one for one in self.service.operations if (one.name, one.type, one.level) == (name, type_, "instance")
        )
        body = {"resourceType": "Parameters", **({"parameter": list(parameters)} if parameters else {})}
        async with self.record(compartment_key(on, type_, on["id"])) as record:
            return self.answered(await operation.handler(OperationCall(name, type_, on["id"], body), record))

    async def ask(self, name: str, type_: str, *parameters: dict[str, Any]) -> Resource:
        """Call an operation at type level."""
        operation = next(
            one for one in self.service.operations if (one.name, one.type, one.level) == (name, type_, "type")
        )
        body = {"resourceType": "Parameters", **({"parameter": list(parameters)} if parameters else {})}
        async with self.record("none") as record:
            return self.answered(await operation.handler(OperationCall(name, type_, None, body), record))

    def answered(self, resource: Resource) -> Resource:
        self.answers.append(resource)
        return resource

    async def search(self, type_: str, **criteria: str) -> list[Resource]:
        async with self.record("none") as record:
            return await record.search(type_, {name.replace("_", "-"): value for name, value in criteria.items()})

    async def get(self, type_: str, id_: str) -> Resource:
        async with self.record("none") as record:
            found = await record.get(type_, id_)
        assert found is not None
        return found

    @asynccontextmanager
    async def record(
        self, key: str, user: str | None = None, client: str | None = None, reads: Access | None = None
    ) -> AsyncIterator[Record]:
        """Open a transaction; a refusal by rule of intake or scheduling says all that it has to."""
        try:
            who = {"user": user, "client": client, "reads": reads}
            async with open_record(self.service, self.store, ACCESS, keys=[key], **who) as record:
                yield record
        except Unprocessable as refused:
            if self.service.name in TOLD_IN_FULL and lacking(refused):
                pytest.fail(f"A refusal does not say {lacking(refused)}.")
            raise

    async def count(self) -> int:
        """Return how many events the service has committed."""
        return len([event async for event in self.store.replay.events_since()])


@dataclass
class Bench:
    """Opens services and carries their events."""

    make_database: Callable[[str], str]
    clock: Clock
    policy: Policy
    opened: list[Opened] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    async def open(self, factory: Callable[[Policy, Clock], Service], *, heard: timedelta | None = None) -> Opened:
        """Open a service to which the others tell everything; with `heard` they have, up to so long ago."""
        service = factory(self.policy, self.clock)
        self.addresses.append(self.make_database(service.name))
        store = await Store.connect(self.addresses[-1], service=service.name)
        await all_is_heard(store, service, ago=heard or -timedelta(days=1))
        service = replace(service, labels=labels_of_policy(None))  # as its App has it
        self.opened.append(Opened(service, store, hears=heard is None))
        return self.opened[-1]

    async def deliver(self, source: Opened, target: Opened, *, again: bool = False) -> list[Outcome]:
        """Carry the events that `target` has not seen; `again`: all of them, once more, as a replay does."""
        if target.hears and monotonic() - target.heard_at > HEARD_EVERY:
            await all_is_heard(target.store, target.service)
            target.heard_at = monotonic()
        since = 0 if again else target.taken.get(source.service.name, 0)
        handler = ServiceEvents(target.service, target.store)
        outcomes = []
        async for event in source.store.replay.events_since(sequence=since):
            position = Position(topic=f"kap.{event.source}.v1", partition=event.shard, offset=event.sequence)
            outcomes.append(await handler.handle(event, position))
            target.taken[event.source] = event.sequence
        return outcomes

    async def react_again(self, source: Opened, target: Opened) -> None:
        """Run the reactions to every event once more, past the inbox: each must be idempotent by itself."""
        async for event in source.store.replay.events_since():
            if event.type not in target.service.holds:
                continue
            async with target.store.transaction(keys=(event.key,), tenant=event.tenant) as transaction:
                record = Record(target.service, transaction, ACCESS)
                for react in target.service.reactions.get(event.type, ()):
                    await react(event, parse(event.body), record)

    async def close(self) -> None:
        for one in self.opened:
            await one.store.close()


# -- resources --------------------------------------------------------------------------------------------------------


def patient(**more: Any) -> Resource:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:clinic", "value": "1"}],
        "name": [{"family": "Moss", "given": ["Ada"]}],
        "gender": "female",
        "birthDate": "1980-02-03",
        **more,
    }


def about(of: Resource) -> dict[str, str]:
    return {"reference": f"{of['resourceType']}/{of['id']}"}


_PEOPLE = count(1)
PRESCRIBER = {"reference": "Practitioner/prescriber"}


def practitioner(**more: Any) -> Resource:
    licence = {
        "extension": [{"url": codes.EXT_JURISDICTION, "valueCode": "US-NY"}],
        "code": {"text": "MD"},
        "period": {"start": "2020-01-01", "end": "2035-12-31"},
    }
    return {
        "resourceType": "Practitioner",
        "active": True,
        "name": [{"family": "Prescriber"}],
        "qualification": [licence],
        **more,
    }


def role_of(of: Resource, code: str = "prescriber", **more: Any) -> Resource:
    return {
        "resourceType": "PractitionerRole",
        "active": True,
        "period": {"start": "2020-01-01"},
        "practitioner": about(of),
        "code": [codes.Code(codes.KAP, code).concept()],
        **more,
    }


def site(**more: Any) -> Resource:
    return {
        "resourceType": "Location",
        "status": "active",
        "name": "Clinic",
        "identifier": [{"system": codes.ID_REMS_SITE, "value": "REMS-1", "period": {"start": "2025-01-01"}}],
        "address": {"state": "NY", "country": "US"},
        **more,
    }


def referral(of: Resource, **more: Any) -> Resource:
    return {
        "resourceType": "ServiceRequest",
        "status": "active",
        "intent": "order",
        "code": codes.REFERRAL.concept(),
        "subject": about(of),
        **more,
    }


NO = [f"E{number:02}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 26)]


def screening(of: Resource, authored: datetime = START, **answers: bool | int | None) -> Resource:
    given: dict[str, bool | int | None] = {**dict.fromkeys(NO, False), "E23": True, "MED": True, **answers}
    items = []
    for link, value in given.items():
        if value is not None:
            name = "valueBoolean" if isinstance(value, bool) else "valueInteger"
            items.append({"linkId": link, "answer": [{name: value}]})
    return {
        "resourceType": "QuestionnaireResponse",
        "questionnaire": codes.SCREENING_QUESTIONNAIRE,
        "status": "completed",
        "subject": about(of),
        "authored": zulu(authored),
        "item": items,
    }


ELEMENTS = load_policy().sections["consent"]["elements"]


def consent_elements(
    signer: dict[str, str], at: str = "2026-11-20", names: Iterable[str] = tuple(ELEMENTS)
) -> list[dict[str, Any]]:
    """Return the elements of an informed consent, each signed."""
    return [
        {
            "url": codes.EXT_CONSENT_ELEMENT,
            "extension": [
                {"url": "element", "valueCode": name},
                {"url": "at", "valueDateTime": at},
                {"url": "version", "valueString": ELEMENTS[name]["version"]},
                {"url": "language", "valueCode": "en"},
                {"url": "signer", "valueReference": signer},
            ],
        }
        for name in names
    ]


def consent(of: Resource, *routes: codes.Code, **more: Any) -> Resource:
    return {
        "resourceType": "Consent",
        "extension": consent_elements(about(of)),
        "status": "active",
        "scope": codes.CONSENT_TREATMENT.concept(),
        "category": [
            codes.PROCEDURE_CONSENT.concept(codes.TREATMENT_CONSENT),
            *(route.concept() for route in routes or (codes.ROUTE_IM,)),
        ],
        "patient": about(of),
        "dateTime": "2026-11-20",
        "performer": [about(of)],
        "policyRule": {"text": "Consent form of the clinic, version 4"},
        **more,
    }


def weight(of: Resource, kilograms: float = 70, on: str = "2026-11-20") -> Resource:
    return {
        "resourceType": "Observation",
        "meta": {"tag": [codes.INTAKE_MEASUREMENT.coding()]},
        "status": "final",
        "category": [codes.Code(codes.OBSERVATION_CATEGORY, "vital-signs").concept()],
        "code": codes.WEIGHT.concept(),
        "subject": about(of),
        "effectiveDateTime": on,
        "valueQuantity": {"value": kilograms, "unit": "kg", "system": codes.UCUM, "code": "kg"},
    }


def care_plan(of: Resource, **more: Any) -> Resource:
    return {
        "resourceType": "CarePlan",
        "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">KAP</div>'},
        "status": "active",
        "intent": "plan",
        "category": [codes.Code(CORE_CATEGORY, "assess-plan").concept(), codes.PLAN.concept()],
        "subject": about(of),
        **more,
    }


def milligrams(value: float, unit: str = "mg") -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": codes.UCUM, "code": unit}


def for_sessions(ordered: Resource, count: int) -> Resource:
    """Return an order for so many sessions; one that says no number is for one, or as the plan has them."""
    (dosage,) = ordered["dosageInstruction"]
    return {**ordered, "dosageInstruction": [{**dosage, "timing": {"repeat": {"count": count}}}]}


def order(of: Resource, dose: float = 70, route: codes.Code = codes.ROUTE_IM, **more: Any) -> Resource:
    return {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(of),
        "authoredOn": "2026-11-21",
        "requester": PRESCRIBER,
        "dosageInstruction": [
            {"text": "as planned", "route": route.concept(), "doseAndRate": [{"doseQuantity": milligrams(dose)}]}
        ],
        **more,
    }


def course(of: Resource, status: str = "active", **more: Any) -> Resource:
    """Return a course of KAP in its dosing."""
    return {
        "resourceType": "EpisodeOfCare",
        "extension": [stage_extension("dosing", "2026-11-20T09:00:00Z")],
        "status": status,
        "type": [codes.COURSE.concept()],
        "patient": about(of),
        "managingOrganization": {"reference": "Organization/clinic"},
        **more,
    }


def appointment(of: Resource, ordered: Resource | None, start: datetime, **more: Any) -> Resource:
    visit = more.pop("visit", codes.VISIT_DOSING)
    made = {
        "resourceType": "Appointment",
        "status": "booked",
        "serviceType": [visit.concept()],
        "start": zulu(start),
        "end": zulu(start + timedelta(hours=3)),
        "participant": [
            {"actor": about(of), "status": "accepted"},
            {"actor": {"reference": "Practitioner/therapist"}, "status": "accepted"},
            {"actor": {"reference": "Location/room"}, "status": "accepted"},
        ],
        **more,
    }
    return made if ordered is None else {**made, "supportingInformation": [about(ordered)]}


async def eligible(intake: Opened, clock: Clock) -> Resource:
    """Return a patient with a referral and an eligible screening; each call another person."""
    who = await intake.create(patient(identifier=[{"system": "urn:clinic", "value": f"E{next(_PEOPLE)}"}]))
    await intake.create(referral(who))
    await intake.create(screening(who, clock.now))
    result = await intake.call("screen", who)
    assert result["prediction"][0]["outcome"]["coding"][0]["code"] == "eligible", result["note"]
    return who


async def planned(intake: Opened, clock: Clock, sessions: int | None = None) -> tuple[Resource, Resource, Resource]:
    """Return a patient whose course is planned for the intramuscular route, the consent and the order."""
    who = await eligible(intake, clock)
    signed = await intake.create(consent(who))
    await intake.create(weight(who))
    await intake.create(care_plan(who))
    ordered = await intake.create(order(who) if sessions is None else for_sessions(order(who), sessions))
    return who, signed, ordered
