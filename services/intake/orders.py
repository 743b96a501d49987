"""The guard of orders: a MedicationRequest of ketamine or esketamine that is about to be in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from services.intake.chart import View, chart_of, prescriber_of
from services.intake.course import bring_up_to_date
from services.intake.order_facts import (
    Around,
    Order,
    aged,
    around,
    home_facts,
    order_of,
    prescriber_named,
    sets_met,
    weights_at,
)
from services.intake.rules.amounts import check_count, check_planned, check_titration, check_total, of_route
from services.intake.rules.eligibility import screen
from services.intake.rules.home import check_home, is_for_home
from services.intake.rules.orders import Weight, check_order, check_screened, kilograms_of
from services.intake.rules.prescribers import check_decider, check_prescriber, check_site, not_his_own
from services.intake.setting import Setting
from shared.fhir.codes import ROUTES
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import (
    Drug,
    drug_of,
    is_order_in_force,
    is_plan,
    latest_eligibility,
    patient_of,
    planned_doses,
    routes_of_order,
    screened_for,
)
from shared.fhir.outcome import Issue, Unprocessable
from shared.runtime.medications import substances_of
from shared.runtime.record import Record
from shared.runtime.service import Change

SIGNED: Final = (
    "medicationCodeableConcept",
    "medicationReference",
    "dosageInstruction",
    "dispenseRequest",
    "requester",
    "performer",
    "category",
    "authoredOn",
)
"""What a prescriber signs of an order; what else is written on it is anybody's."""
OF_THE_WRITING: Final = frozenset(("RX-ROUTE", "RX-DOSE", "RX-WEIGHT", "RX-TITRATION", "RX-PLAN", "RX-PDMP"))
"""What is asked of the time of writing; of an order that is entered late, as policy says how late, as of now, too."""


async def guard_order(change: Change, record: Record, setting: Setting) -> None:
    """Refuse an order that is not for an eligible patient, in range, and, for home, within the law.

    Raises:
        Unprocessable: with everything that stands against it.

    """
    resource = change.after or change.before or {}
    drug = drug_of(await substances_of(record, resource), setting.sets)
    patient = patient_of(resource)
    if drug is None or patient is None:
        return
    if change.after is not None and is_order_in_force(change.after):
        issues = await _Judging(drug, patient, change, record, setting).issues(change.after)
        if issues:
            raise Unprocessable(issues)
    await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)


@dataclass(frozen=True, slots=True)
class _Judging:
    """An order of a drug for a patient that a change puts, or leaves, in force."""

    drug: Drug
    patient: str
    change: Change
    record: Record
    setting: Setting

    async def issues(self, order: Resource) -> list[Issue]:
        """Return what forbids it.

        It is judged as of when it was written; and as of now where it comes into force now, however long ago it is said
        to have been written: but for what was right when it was written on paper, if that was not too long ago.
        """
        now = self.setting.clock()
        written = interval(order["authoredOn"])[0] if "authoredOn" in order else now
        before = self.change.before
        stood = before is not None and is_order_in_force(before)
        held = await around(order, self.drug, self.patient, self.record, self.setting)
        found = await self._as_of(written, order, held, now)
        if not stood:
            late = now - written > timedelta(days=self.setting.orders.entered_late.days)
            of_now = await self._as_of(now, order, held, now)
            found.extend(one for one in of_now if late or one.rule not in OF_THE_WRITING)
        if before is None or not stood or any(before.get(name) != order.get(name) for name in SIGNED):
            found.extend(await self._unsigned(order))
        found.extend(await self._screened(order))
        return list(dict.fromkeys(lacking_of(self.patient, one) for one in found))

    async def _as_of(self, at: datetime, resource: Resource, held: Around, now: datetime) -> list[Issue]:
        """Return what forbids it as of a time: who ordered, the dose, those before it, and, for home, the law."""
        policy = self.setting.orders
        order = order_of(resource, self.drug, held.plans, at)
        who = await prescriber_named(resource.get("requester"), self.record, at, place=resource.get("performer"))
        weights = weights_at(held.weights, at)
        issues = [
            *check_prescriber(who, policy.prescriber, policy.licence),
            *check_site(self.drug, who, policy.rems),
            *check_order(resource, self.drug, weights, policy),
            *await self._amounts(order, weights, held),
        ]
        if is_for_home(resource):
            facts = await home_facts(order, self.patient, held, who, self.record, now)
            issues.extend(check_home(resource, self.drug, order.routes, facts, policy.at_home))
        return issues

    async def _amounts(self, order: Order, weights: Sequence[Weight], held: Around) -> list[Issue]:
        """Return what forbids the order after those before it by its route, and by the plan of the course."""
        policy, at, routes = self.setting.orders, order.written, order.routes
        found = kilograms_of(weights, policy)
        kilograms = found if isinstance(found, Decimal) else None
        this = order.ordered(kilograms)
        before = [one.ordered(kilograms) for one in held.before if one.written <= at and set(one.routes) & set(routes)]
        looked = [when for when, one in held.looked if when <= at and await self._by_prescriber(one, when)]
        series, share = of_route(policy.series, self.drug, routes), policy.rounding.share
        plans = [one for one in held.plans if is_plan(one)]
        where = "MedicationRequest.dosageInstruction"
        return [
            *check_titration(
                this.doses,
                [one.doses for one in before],
                of_route(policy.titration, self.drug, routes),
                share,
                f"{where}.doseAndRate",
                tuple(f"MedicationRequest/{one.id}" for one in before),
                await sets_met(self.record, self.patient, self.setting),
                await aged(self.record, self.patient, at),
            ),
            *check_count(this.sessions, series, where),
            *check_total(this.sessions, before, max(looked, default=None), at, series, plan=this.plan),
            *check_planned(
                this.doses,
                self.drug,
                routes,
                [dose for plan in plans for dose in planned_doses(plan)],
                kilograms,
                share,
                policy.planned,
                tuple(f"CarePlan/{plan['id']}" for plan in plans),
            ),
        ]

    async def _by_prescriber(self, observation: Resource, at: datetime) -> bool:
        """Tell whether somebody who observed was a prescriber of the directory then."""
        policy = self.setting.orders
        for one in observation.get("performer", []):
            who = await prescriber_named(one, self.record, at)
            if not check_decider(who, policy.prescriber, policy.licence):
                return True
        return False

    async def _unsigned(self, order: Resource) -> list[Issue]:
        """Return that it is not written by whose it is: its requester signs it, logged in; others prepare a draft."""
        author = await prescriber_of(self.record, {"author": order.get("requester")})
        why = not_his_own(author, self.record.user, self.record.client)
        if why is None or author is None:
            return []
        return [
            Issue(
                f"An order is its prescriber's own: {why}. Write it with status draft, and let him make it active.",
                code="business-rule",
                expression=("MedicationRequest.requester",),
                rule="RX-PRESCRIBER",
                source=self.setting.orders.prescriber.source,
                evidence=(author,),
            )
        ]

    async def _screened(self, order: Resource) -> list[Issue]:
        """Return what a screening for the drug by each of its routes finds now, or that there never was one."""
        about, policy = f"Patient/{self.patient}", self.setting.orders
        view = View(self.record, self.patient, self.change)
        newest = latest_eligibility(await self.record.search("RiskAssessment", {"patient": about}))
        patient = await view.the_patient()
        if newest is None or patient is None:
            return check_screened(None, self.drug, policy, about)
        found = []
        known = [route for route in dict.fromkeys(routes_of_order(order)) if route in ROUTES]
        asked: list[str | None] = [*known] or [screened_for(newest)[1]]
        for route in asked:
            planned = f"{self.drug}, {ROUTES[route].display}" if known and route else self.drug
            chart = await chart_of(view, patient, self.setting, drug=self.drug, route=route, now=self.setting.clock())
            found.extend(check_screened(screen(chart, self.setting.rules), planned, policy, about))
        return found


def lacking_of(patient: str, issue: Issue) -> Issue:
    """Return a refusal for want of a weight with the patient, whose record lacks it, as its evidence."""
    is_lack = issue.rule == "RX-WEIGHT" and not issue.evidence
    return replace(issue, evidence=(f"Patient/{patient}",)) if is_lack else issue
