"""The guard of orders: a MedicationRequest of ketamine or esketamine that is about to be in force."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from services.intake.chart import View, chart_of, prescriber_of
from services.intake.course import bring_up_to_date
from services.intake.rules.amounts import (
    Aged,
    Ordered,
    check_count,
    check_planned,
    check_titration,
    check_total,
    doses_of,
    of_route,
)
from services.intake.rules.eligibility import is_aged, screen
from services.intake.rules.findings import Screening, counted, is_active
from services.intake.rules.home import HomeFacts, check_home, is_for_home
from services.intake.rules.orders import Weight, check_order, check_screened, kilograms_of
from services.intake.rules.prescribers import Prescriber, check_decider, check_prescriber, check_site, not_his_own
from services.intake.rules.trials import Entry
from services.intake.setting import Setting
from shared.fhir.codes import NEED_REEVALUATED, PDMP_QUERY, ROUTES, WEIGHT
from shared.fhir.dates import interval
from shared.fhir.doses import sessions_of
from shared.fhir.json import Resource
from shared.fhir.kap import (
    Drug,
    drug_of,
    effective_start,
    id_in,
    is_order_in_force,
    is_plan,
    kilograms_in,
    latest_eligibility,
    moment,
    patient_of,
    planned_doses,
    routes_of_order,
    screened_for,
)
from shared.fhir.outcome import Issue, Unprocessable
from shared.fhir.series import Planned, plan_for, sessions_for
from shared.runtime.medications import substances_of
from shared.runtime.record import Record
from shared.runtime.service import Change

SIGNED = (
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
OF_THE_WRITING = frozenset(("RX-ROUTE", "RX-DOSE", "RX-WEIGHT", "RX-TITRATION", "RX-SERIES", "RX-PLAN", "RX-PDMP"))
"""What is asked of the time of writing; of an order that is entered late, as policy says how late, as of now, too."""
COUNTED = ("final", "amended", "corrected")
PLANS = ("active", "on-hold", "completed", "revoked", "unknown")
"""Statuses of a CarePlan that was in force at some time."""
WERE_IN_FORCE = ("active", "on-hold", "completed", "stopped")


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
        issues = await _issues(change.after, drug, patient, change, record, setting)
        if issues:
            raise Unprocessable(issues)
    await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)


async def _issues(
    order: Resource, drug: Drug, patient: str, change: Change, record: Record, setting: Setting
) -> list[Issue]:
    written, now = _written(order, setting), setting.clock()
    before = change.before if change.before is not None and is_order_in_force(change.before) else None
    late = before is None and now - written > timedelta(days=setting.orders.entered_late.days)
    issues = await _issues_at(written, order, drug, patient, change, record, setting)
    if before is None:  # it is in force from now on, however long ago it is said to have been written
        of_now = await _issues_at(now, order, drug, patient, change, record, setting)
        issues.extend(one for one in of_now if late or one.rule not in OF_THE_WRITING)
    if before is None or any(before.get(name) != order.get(name) for name in SIGNED):
        issues.extend(await _unsigned(order, record, setting))
    routes = list(dict.fromkeys(routes_of_order(order)))
    known = [route for route in routes if route in ROUTES]
    asked: list[str | None] = [*known] or [None]
    for route in asked:
        planned = f"{drug}, {ROUTES[route].display}" if route else drug
        result = await _screened(View(record, patient, change), drug, route, setting)
        issues.extend(check_screened(result, planned, setting.orders, f"Patient/{patient}"))
        if result is None:
            break
    return list(dict.fromkeys(lacking_of(patient, one) for one in issues))


async def _unsigned(order: Resource, record: Record, setting: Setting) -> list[Issue]:
    """Return that an order is not written by whose it is: its requester signs it, logged in; others prepare a draft."""
    author = await prescriber_of(record, {"author": order.get("requester")})
    why = not_his_own(author, record.user, record.client)
    if why is None or author is None:
        return []
    return [
        Issue(
            f"An order is its prescriber's own: {why}. Write it with status draft, and let him make it active.",
            code="business-rule",
            expression=("MedicationRequest.requester",),
            rule="RX-PRESCRIBER",
            source=setting.orders.prescriber.source,
            evidence=(author,),
        )
    ]


async def _issues_at(
    at: datetime, order: Resource, drug: Drug, patient: str, change: Change, record: Record, setting: Setting
) -> list[Issue]:
    """Return what forbids the order as of a time: who ordered, the dose, those before it, and, for home, the law."""
    policy = setting.orders
    who = await prescriber_named(order.get("requester"), record, at, place=order.get("performer"))
    weights = await weights_of(record, patient, at)
    routes = list(dict.fromkeys(routes_of_order(order)))
    issues = [
        *check_prescriber(who, policy.prescriber, policy.licence),
        *check_site(drug, who, policy.rems),
        *check_order(order, drug, weights, policy),
        *await _amounts(order, drug, routes, patient, weights, change, record, setting, at),
    ]
    if is_for_home(order):
        facts = await _home_facts(order, patient, record, at)
        issues.extend(check_home(order, drug, routes, facts, policy.at_home))
    return issues


def lacking_of(patient: str, issue: Issue) -> Issue:
    """Return a refusal for want of a weight with the patient, whose record lacks it, as its evidence."""
    is_lack = issue.rule == "RX-WEIGHT" and not issue.evidence
    return replace(issue, evidence=(f"Patient/{patient}",)) if is_lack else issue


async def _screened(view: View, drug: Drug, route: str | None, setting: Setting) -> Screening | None:
    """Return what a screening for the order finds now; None where the patient was never screened."""
    newest = latest_eligibility(await view.record.search("RiskAssessment", {"patient": f"Patient/{view.patient}"}))
    patient = await view.the_patient()
    if newest is None or patient is None:
        return None
    by = route or screened_for(newest)[1]
    return screen(await chart_of(view, patient, setting, drug=drug, route=by, now=setting.clock()), setting.rules)


async def _amounts(
    order: Resource,
    drug: Drug,
    routes: list[str],
    patient: str,
    weights: list[Weight],
    change: Change,
    record: Record,
    setting: Setting,
    at: datetime,
) -> list[Issue]:
    """Return what forbids the order after those before it, and by the plan of the course."""
    policy, about = setting.orders, {"patient": f"Patient/{patient}"}
    found = kilograms_of(weights, policy)
    kilograms = found if isinstance(found, Decimal) else None
    dosages = order.get("dosageInstruction", [])
    doses, share = doses_of(dosages, kilograms), policy.rounding.share
    made = await record.search("CarePlan", about)
    before = [
        one
        for one in await _ordered_before(record, patient, drug, routes, kilograms, setting, made)
        if one.at <= at and one.id != change.id
    ]
    looked = [
        when
        for one in await record.search("Observation", {**about, "code": NEED_REEVALUATED.token()})
        if one["status"] in COUNTED
        and (when := effective_start(one)) is not None
        and when <= at
        and await _by_prescriber(one, record, when, setting)
    ]
    series = of_route(policy.series, drug, routes)
    plans = [one for one in made if is_plan(one)]
    planned = [dose for plan in plans for dose in planned_doses(plan)]
    by_plan = None if sessions_of(dosages) else _plan_of(order, made, drug, routes, at)
    sessions, named = sessions_for(dosages, by_plan) or 1, None if by_plan is None else str(by_plan.plan["id"])
    where = "MedicationRequest.dosageInstruction"
    return [
        *check_titration(
            doses,
            [one.doses for one in before],
            of_route(policy.titration, drug, routes),
            share,
            f"{where}.doseAndRate",
            tuple(f"MedicationRequest/{one.id}" for one in before),
            await sets_met(record, patient, setting),
            await aged(record, patient, at),
        ),
        *check_count(sessions, series, where),
        *check_total(sessions, before, max(looked, default=None), at, series, plan=named),
        *check_planned(
            doses,
            drug,
            routes,
            planned,
            kilograms,
            share,
            policy.planned,
            tuple(f"CarePlan/{plan['id']}" for plan in plans),
        ),
    ]


async def _by_prescriber(observation: Resource, record: Record, at: datetime, setting: Setting) -> bool:
    """Tell whether somebody who observed was a prescriber of the directory then."""
    policy = setting.orders
    for one in observation.get("performer", []):
        who = await prescriber_named(one, record, at)
        if not check_decider(who, policy.prescriber, policy.licence):
            return True
    return False


def _plan_of(
    order: Resource, plans: Iterable[Resource], drug: Drug, routes: Sequence[str], at: datetime
) -> Planned | None:
    """Return the plan whose sessions an order is for that says none of its own: the newest when it was written."""
    written = interval(order["authoredOn"])[1] if "authoredOn" in order else at
    return plan_for(plans, drug, routes, max(written, at), statuses=PLANS)


async def _ordered_before(
    record: Record,
    patient: str,
    drug: Drug,
    routes: list[str],
    kilograms: Decimal | None,
    setting: Setting,
    plans: Sequence[Resource],
) -> list[Ordered]:
    """Return the patient's orders of the drug by one of the routes that were in force."""
    found = []
    for one in await record.search("MedicationRequest", {"patient": f"Patient/{patient}"}):
        if one["status"] not in WERE_IN_FORCE or not is_order_in_force({**one, "status": "active"}):
            continue
        if not set(routes_of_order(one)) & set(routes):
            continue
        if drug_of(await substances_of(record, one), setting.sets) == drug:
            dosages = one.get("dosageInstruction", [])
            said = await record.as_written(one, "authoredOn")
            written = moment(said.get("authoredOn", said["meta"]["lastUpdated"]))
            plan = None if sessions_of(dosages) else _plan_of(one, plans, drug, routes, written)
            sessions, named = sessions_for(dosages, plan) or 1, None if plan is None else str(plan.plan["id"])
            found.append(Ordered(one["id"], written, doses_of(dosages, kilograms), sessions, named))
    return found


async def sets_met(record: Record, patient: str, setting: Setting) -> list[str]:
    """Return the value sets of the policy that the patient has a condition of now."""
    found = await record.search("Condition", {"patient": f"Patient/{patient}"})
    entries = [Entry(f"Condition/{one['id']}", one.get("code"), one) for one in found if is_active(one)]
    return [name for name, set_ in setting.sets.items() if any(set_.holds(one.concept) for one in counted(entries))]


async def aged(record: Record, patient: str, at: datetime) -> Aged:
    """Return how to tell whether the patient is so many years old on a day; None: his date of birth does not tell."""
    held = await record.get("Patient", patient)
    return lambda years: is_aged((held or {}).get("birthDate"), years, at.date())


async def weights_of(record: Record, patient: str, at: datetime) -> list[Weight]:
    """Return the patient's body weights, with their days before `at`."""
    found = []
    for one in await record.search("Observation", {"patient": f"Patient/{patient}", "code": WEIGHT.token()}):
        when = effective_start(one)
        if when is not None and one["status"] in COUNTED:
            days = (at.date() - when.date()).days
            found.append(Weight(kilograms_in(one.get("valueQuantity")), days, f"Observation/{one['id']}"))
    return found


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


async def _home_facts(order: Resource, patient: str, record: Record, at: datetime) -> HomeFacts:
    about = {"patient": f"Patient/{patient}"}
    asked = [
        when
        for one in await record.search("Observation", {**about, "code": PDMP_QUERY.token()})
        if one["status"] in COUNTED and (when := effective_start(one)) is not None
    ]
    requester = order.get("requester")
    role_id = id_in(requester, "PractitionerRole")
    role = None if role_id is None else await record.get("PractitionerRole", role_id)
    practitioner = id_in(requester if role is None else role.get("practitioner"), "Practitioner")
    return HomeFacts(
        visits=await record.search("Encounter", about),
        pdmp_queries=asked,
        patient=f"Patient/{patient}",
        prescriber=None if practitioner is None else await record.get("Practitioner", practitioner),
        site=await _site(order, role, record),
        at=at,
    )


async def _site(order: Resource, role: Resource | None, record: Record) -> Resource | None:
    """Return where it is prescribed from: what the order's dispenser or performer names, else the role's place."""
    named = [order.get("performer"), *(role or {}).get("location", []), (role or {}).get("organization")]
    for one in named:
        for type_ in ("Location", "Organization"):
            id_ = id_in(one, type_)
            held = None if id_ is None else await record.get(type_, id_)
            if held is not None:
                return held
    return None


def _written(order: Resource, setting: Setting) -> datetime:
    return interval(order["authoredOn"])[0] if "authoredOn" in order else setting.clock()
