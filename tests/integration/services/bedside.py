"""A bedside: sessions alone on its database, told by events what intake and scheduling would have told it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from shared.events.envelope import Event
from shared.events.handler import Position
from shared.events.shards import shard_of
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.extraction import compartment_key
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, dump
from shared.runtime.consume import ServiceEvents
from tests.integration.services.course import (
    Clock,
    Opened,
    about,
    appointment,
    consent,
    course,
    milligrams,
    order,
    patient,
    weight,
)


def vital(code: codes.Code, value: float | str, unit: str) -> dict[str, Any]:
    """Return a value or a component; a value as text may have a comparator (``<70``)."""
    quantity: dict[str, Any] = {"unit": unit, "system": codes.UCUM, "code": unit}
    if isinstance(value, str):
        number = value.lstrip("<>=")
        quantity |= {"comparator": value.removesuffix(number), "value": float(number)}
    else:
        quantity["value"] = value
    return {"code": code.concept(), "valueQuantity": quantity}


IN_ORDER = {
    "escort": True,
    "escort-name": "Her brother",
    "intoxicated": False,
    "pregnant": False,
    "breastfeeding": False,
    "suicidality": False,
    "food-hours": 3,
    "drink-minutes": 45,
    "nasal": False,
    "substances": False,
    "benzodiazepine": False,
}


TO_DO = (
    *codes.DUE_AT_BEDSIDE,
    codes.BOOK_SUBSTANCE,
    codes.REPORT_EVENT,
    codes.BOOK_INTEGRATION,
    codes.CHECK_IN,
    codes.COMPLETE_VISIT,
)
"""Codes of Tasks that are the work of a session, and no alarm."""

PRODUCT = {"lot": "valueString", "expires": "valueDate"}


def pre_dose(who: Resource, visit: Resource, authored: str, **answers: Any) -> Resource:
    """Return what is asked before a dose, all in order but for `answers` (``food_hours=1``; None: left out)."""
    given = {**IN_ORDER, **{name.replace("_", "-"): value for name, value in answers.items()}}
    kinds = {bool: "valueBoolean", int: "valueInteger", float: "valueDecimal", str: "valueString"}
    return {
        "resourceType": "QuestionnaireResponse",
        "questionnaire": codes.PRE_DOSE_QUESTIONNAIRE,
        "status": "completed",
        "subject": about(who),
        "encounter": about(visit),
        "authored": authored,
        "item": [
            {"linkId": link, "answer": [{"valueDecimal" if link == "food-hours" else kinds[type(value)]: value}]}
            for link, value in given.items()
            if value is not None
        ],
    }


@dataclass
class Bedside:
    """A patient with consent, order and weight, and a dosing visit in progress since ten minutes."""

    sessions: Opened
    clock: Clock
    who: Resource = field(default_factory=dict)
    ordered: Resource = field(default_factory=dict)
    visit: Resource = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    versions: dict[str, int] = field(default_factory=dict)

    async def tell(self, source: str, resource: Resource) -> Resource:
        """Have sessions take in an event of another service; return the resource with its id."""
        told = {**resource, "id": resource.get("id", new_id())}
        name = f"{told['resourceType']}/{told['id']}"
        version = self.versions[name] = self.versions.get(name, 0) + 1
        meta = {**told.get("meta", {}), "versionId": str(version), "lastUpdated": zulu(self.clock.now)}
        told["meta"] = meta
        number = next(self.numbers)
        key = compartment_key(told, told["resourceType"], told["id"])
        event = Event(
            id=f"{name}/{version}",
            source=source,
            interaction="create" if version == 1 else "update",
            type=told["resourceType"],
            resource_id=told["id"],
            version=version,
            time=self.clock.now,
            tenant="default",
            key=key,
            shard=shard_of("default", key),
            sequence=number,
            body=dump(told),
        )
        position = Position(topic=f"kap.{source}.v1", partition=event.shard, offset=number)
        await ServiceEvents(self.sessions.service, self.sessions.store).handle(event, position)
        return told

    async def begin(
        self, route: codes.Code = codes.ROUTE_IM, dose: float = 70, *, virtual: bool = False, **more: Any
    ) -> None:
        """Admit a patient and begin a dosing visit; `more` goes into the order."""
        self.who = await self.tell("intake", patient())
        await self.tell("intake", course(self.who))
        await self.tell("intake", consent(self.who, route))
        await self.tell("intake", weight(self.who))
        self.ordered = await self.tell("intake", order(self.who, dose, route, **more))
        kinds = [codes.VISIT_DOSING.concept(*([codes.VIRTUAL] if virtual else []))]
        booked = appointment(self.who, self.ordered, self.clock.now, serviceType=kinds)
        made = await self.tell("scheduling", booked)
        (visit,) = await self.sessions.search("Encounter", appointment=f"Appointment/{made['id']}")
        visit = await self.sessions.update({**visit, "status": "arrived"})
        start = {"start": zulu(self.clock.now)}
        self.visit = await self.sessions.update({**visit, "status": "in-progress", "period": start})
        self.clock.forward(minutes=10)
        await self.ask()

    async def ask(self, **answers: Any) -> Resource:
        """Record what is asked before a dose; an answer of None is left out."""
        return await self.sessions.create(pre_dose(self.who, self.visit, zulu(self.clock.now), **answers))

    def reading(self, *parts: dict[str, Any], minutes: float = 0, **more: Any) -> Resource:
        """Return an Observation of this visit, taken `minutes` ago."""
        return {
            "resourceType": "Observation",
            "status": "final",
            "category": [codes.Code(codes.OBSERVATION_CATEGORY, "vital-signs").concept()],
            "code": codes.BLOOD_PRESSURE.concept(),
            "subject": about(self.who),
            "encounter": about(self.visit),
            "effectiveDateTime": zulu(self.clock.now - timedelta(minutes=minutes)),
            "component": list(parts),
            **more,
        }

    def vitals(self, systolic: float = 120, diastolic: float = 80, *, minutes: float = 0, **more: Any) -> Resource:
        """Return a full set of vital signs as one Observation."""
        return self.reading(
            vital(codes.SYSTOLIC, systolic, "mm[Hg]"),
            vital(codes.DIASTOLIC, diastolic, "mm[Hg]"),
            vital(codes.HEART_RATE, 72, "/min"),
            vital(codes.OXYGEN_SATURATION, 98, "%"),
            minutes=minutes,
            **more,
        )

    async def chart(self, *more: Any, **given: Any) -> Resource:
        """Record a full set of vital signs."""
        return await self.sessions.create(self.vitals(*more, **given))

    def dose(self, amount: float = 70, status: str = "in-progress", minutes: float = 0, **more: Any) -> Resource:
        """Return a dose of the ordered drug, begun `minutes` ago."""
        dosage = {"route": self.ordered["dosageInstruction"][0]["route"]}
        return {
            "resourceType": "MedicationAdministration",
            "status": status,
            "medicationCodeableConcept": codes.KETAMINE.concept(),
            "subject": about(self.who),
            "context": about(self.visit),
            "effectivePeriod": {"start": zulu(self.clock.now - timedelta(minutes=minutes))},
            "dosage": {**dosage, "dose": milligrams(amount)},
            **more,
        }

    async def start(self, amount: float = 70, **more: Any) -> Resource:
        """Start a dose by the operation."""
        given: list[dict[str, Any]] = [
            {"name": "medicationRequest", "valueReference": about(more.get("order", self.ordered))},
            {"name": "dose", "valueQuantity": milligrams(amount, more.get("unit", "mg"))},
            {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
            *({"name": name, "valueReference": {"reference": more[name]}} for name in ("witness",) if name in more),
            *({"name": name, form: more[name]} for name, form in PRODUCT.items() if name in more),
        ]
        return await self.sessions.call("start-dose", self.visit, *given)

    async def raised(self) -> list[int]:
        """Return how many DetectedIssues, Flags and Tasks stand for the patient; not what is due, or to be booked."""
        who = self.who["id"]
        found = [await self.sessions.search(type_, patient=who) for type_ in ("DetectedIssue", "Flag", "Task")]
        due = {code.code for code in TO_DO}
        return [len([one for one in each if one["code"]["coding"][0]["code"] not in due]) for each in found]

    async def rules(self) -> set[str]:
        """Return the rules that DetectedIssues about the patient name."""
        found = await self.sessions.search("DetectedIssue", patient=self.who["id"])
        return {coding["code"] for one in found for coding in one["code"]["coding"] if coding["system"] == codes.RULE}


def rules_of(error: Any) -> set[str]:
    """Return the rules a refusal names."""
    return {issue.rule for issue in error.value.issues}
