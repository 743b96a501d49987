"""What an order of ketamine or esketamine is judged by: gathered once from what intake holds, judged as of any time.

The other records of the same person count with his own (`Patient/$merge`): what was ordered there was ordered for him.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from services.intake.rules.amounts import Aged, Ordered, doses_of
from services.intake.rules.eligibility import is_aged
from services.intake.rules.findings import counted, is_active
from services.intake.rules.home import HomeFacts, numbers_of
from services.intake.rules.orders import Weight
from services.intake.rules.prescribers import Prescriber
from services.intake.rules.trials import Entry
from services.intake.setting import Setting
from shared.fhir.codes import ID_PRESCRIPTION, NEED_REEVALUATED, PDMP_QUERY, WEIGHT
from shared.fhir.dates import interval
from shared.fhir.doses import sessions_of
from shared.fhir.json import Resource
from shared.fhir.kap import (
    Drug,
    comes_from_elsewhere,
    drug_of,
    effective_start,
    id_in,
    is_order_in_force,
    kilograms_in,
    moment,
    patient_of,
    routes_of_order,
)
from shared.fhir.series import Planned, plan_for, sessions_for
from shared.fhir.values import escape
from shared.runtime.joined import joined_with
from shared.runtime.medications import substances_of
from shared.runtime.record import Record

COUNTED: Final = ("final", "amended", "corrected")
PLANS: Final = ("active", "on-hold", "completed", "revoked", "unknown")
"""Statuses of a CarePlan that was in force at some time."""
WERE_IN_FORCE: Final = ("active", "on-hold", "completed", "stopped")
UNSENT: Final = ("draft", "entered-in-error")
"""Statuses of an order whose prescription is not issued: the number on it is nobody's yet."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order of ketamine or esketamine: its drug, when it was written, and the plan whose sessions it is for.

    `plan`: None where it says its sessions itself, or nothing is planned.
    """

    resource: Resource
    drug: Drug
    written: datetime
    plan: Planned | None = None

    @property
    def routes(self) -> list[str]:
        """The routes (SNOMED CT), each once."""
        return list(dict.fromkeys(routes_of_order(self.resource)))

    @property
    def dosages(self) -> list[dict[str, Any]]:
        """The dosage instructions."""
        return list(self.resource.get("dosageInstruction", []))

    def ordered(self, kilograms: Decimal | None) -> Ordered:
        """Return what it orders, as the rules take it, by the patient's weight."""
        named = None if self.plan is None else str(self.plan.plan["id"])
        sessions = sessions_for(self.dosages, self.plan)
        return Ordered(self.resource["id"], self.written, doses_of(self.dosages, kilograms), sessions, named)


@dataclass(frozen=True, slots=True)
class Around:
    """What is held around an order, whatever the time as of which it is judged.

    Attributes:
        plans: the patient's CarePlans.
        before: the person's other orders of the drug that were in force at some time.
        weights: Observations of body weight.
        looked: who looked, and when, whether the drug is still needed: the Observation's performers.
        asked: when the prescription monitoring programme was asked.
        visits: Encounters, whoever's.
        alike: other orders, whoever's, whose prescription has the number of this one.

    """

    plans: Sequence[Resource]
    before: Sequence[Order]
    weights: Sequence[tuple[datetime, Resource]]
    looked: Sequence[tuple[datetime, Resource]]
    asked: Sequence[datetime]
    visits: Sequence[Resource]
    alike: Sequence[Resource]


async def around(order: Resource, drug: Drug, patient: str, record: Record, setting: Setting) -> Around:
    """Return what is held around an order; the number of its prescription is held against another that gives it now."""
    about = {"patient": f"Patient/{patient}"}
    of_person = {"patient": ",".join(f"Patient/{one}" for one in [patient, *await joined_with(record, patient)])}
    plans = await record.search("CarePlan", of_person)
    return Around(
        plans=[one for one in plans if patient_of(one) == patient],
        before=[
            one for one in await _ordered(record, of_person, drug, plans, setting) if one.resource["id"] != order["id"]
        ],
        weights=await _observed(record, about, WEIGHT.token()),
        looked=await _observed(record, about, NEED_REEVALUATED.token()),
        asked=[when for when, _ in await _observed(record, about, PDMP_QUERY.token())],
        visits=await record.search("Encounter", about),
        alike=await _numbered_alike(order, record),
    )


def order_of(resource: Resource, drug: Drug, plans: Iterable[Resource], written: datetime) -> Order:
    """Return an order that was written then; one that says no sessions is for those of the newest plan of that day."""
    order = Order(resource, drug, written)
    if sessions_of(order.dosages):
        return order
    day = interval(resource["authoredOn"])[1] if "authoredOn" in resource else written
    own = [one for one in plans if patient_of(one) == patient_of(resource)]
    return Order(resource, drug, written, plan_for(own, drug, order.routes, max(day, written), statuses=PLANS))


async def _ordered(
    record: Record, of_person: dict[str, str], drug: Drug, plans: Sequence[Resource], setting: Setting
) -> list[Order]:
    """Return the person's orders of a drug that were in force."""
    found = []
    for one in await record.search("MedicationRequest", of_person):
        if one["status"] not in WERE_IN_FORCE or not is_order_in_force({**one, "status": "active"}):
            continue
        if drug_of(await substances_of(record, one), setting.sets) == drug:
            said = await record.as_written(one, "authoredOn")
            found.append(order_of(one, drug, plans, moment(said.get("authoredOn", said["meta"]["lastUpdated"]))))
    return found


async def _observed(record: Record, about: dict[str, str], token: str) -> list[tuple[datetime, Resource]]:
    """Return the patient's Observations of a code that count and say when they were made."""
    return [
        (when, one)
        for one in await record.search("Observation", {**about, "code": token})
        if one["status"] in COUNTED and (when := effective_start(one)) is not None
    ]


async def _numbered_alike(order: Resource, record: Record) -> list[Resource]:
    """Return the other orders, whoever's, whose prescription has a number of this one's; nobody else gives it now."""
    tokens = [f"{ID_PRESCRIPTION}|{escape(one)}" for one in dict.fromkeys(numbers_of(order))]
    if not tokens:
        return []
    await record.transaction.claim(record.access.tenant, *(f"the number of a prescription {one}" for one in tokens))
    found = await record.search_own("MedicationRequest", {"identifier": ",".join(tokens)})
    return [
        one
        for one in found
        if one["id"] != order["id"] and one["status"] not in UNSENT and not comes_from_elsewhere(one)
    ]


def weights_at(weights: Iterable[tuple[datetime, Resource]], at: datetime) -> list[Weight]:
    """Return body weights with their days before `at`."""
    return [
        Weight(kilograms_in(one.get("valueQuantity")), (at.date() - when.date()).days, f"Observation/{one['id']}")
        for when, one in weights
    ]


async def weights_of(record: Record, patient: str, at: datetime) -> list[Weight]:
    """Return the patient's body weights, with their days before `at`."""
    return weights_at(await _observed(record, {"patient": f"Patient/{patient}"}, WEIGHT.token()), at)


async def sets_met(record: Record, patient: str, setting: Setting) -> list[str]:
    """Return the value sets of the policy that the patient has a condition of now."""
    found = await record.search("Condition", {"patient": f"Patient/{patient}"})
    entries = [Entry(f"Condition/{one['id']}", one.get("code"), one) for one in found if is_active(one)]
    return [name for name, set_ in setting.sets.items() if any(set_.holds(one.concept) for one in counted(entries))]


async def aged(record: Record, patient: str, at: datetime) -> Aged:
    """Return how to tell whether the patient is so many years old on a day; None: his date of birth does not tell."""
    held = await record.get("Patient", patient)
    return lambda years: is_aged((held or {}).get("birthDate"), years, at.date())


async def prescriber_named(
    who: Resource | None, record: Record, at: datetime, *, place: Resource | None = None
) -> Prescriber:
    """Return who ordered or decided, as the directory knows him, and the places it is for: `place`, else his own."""
    named = [f"{type_}/{id_}" for type_ in ("Practitioner", "PractitionerRole") if (id_ := id_in(who, type_))]
    role_id = id_in(who, "PractitionerRole")
    role = None if role_id is None else await record.get("PractitionerRole", role_id)
    id_ = id_in(who if role_id is None else (role or {}).get("practitioner"), "Practitioner")
    practitioner = None if id_ is None else await record.get("Practitioner", id_)
    if role_id is not None:
        roles = [] if role is None else [role]
    else:
        roles = [] if id_ is None else await record.search("PractitionerRole", {"practitioner": f"Practitioner/{id_}"})
    performer = id_in(place, "Location")
    places = (
        [performer] if performer else [id_in(one, "Location") for each in roles for one in each.get("location", [])]
    )
    held = [await record.get("Location", one) for one in dict.fromkeys(places) if one is not None]
    return Prescriber(named, practitioner, roles, [one for one in held if one is not None], at)


async def home_facts(
    order: Order, patient: str, held: Around, who: Prescriber, record: Record, now: datetime
) -> HomeFacts:
    """Return what an order for home is judged by as of when `who` orders it; what is dated ahead is of `now`."""
    return HomeFacts(
        visits=held.visits,
        pdmp_queries=held.asked,
        patient=f"Patient/{patient}",
        prescriber=who.practitioner,
        site=await _site(order.resource, record),
        at=who.at,
        before=[(min(one.written, now), one.resource) for one in held.before],
        alike=held.alike,
    )


async def _site(order: Resource, record: Record) -> Resource | None:
    """Return where it is prescribed from: what the order's dispenser or performer names, else the role's place."""
    role_id = id_in(order.get("requester"), "PractitionerRole")
    role = (None if role_id is None else await record.get("PractitionerRole", role_id)) or {}
    named = [order.get("performer"), *role.get("location", []), role.get("organization")]
    for one in named:
        for type_ in ("Location", "Organization"):
            id_ = id_in(one, type_)
            held = None if id_ is None else await record.get(type_, id_)
            if held is not None:
                return held
    return None
