"""The guard of orders: a MedicationRequest of ketamine or esketamine that is about to be in force."""

from __future__ import annotations

from datetime import datetime

from services.intake.chart import View, chart_of
from services.intake.course import bring_up_to_date
from services.intake.rules.eligibility import Screening, screen
from services.intake.rules.home import HomeFacts, check_home, is_for_home
from services.intake.rules.orders import Weight, check_order, check_screened
from services.intake.screening import screened_for
from services.intake.setting import Setting
from shared.fhir.codes import PDMP_QUERY, ROUTES, WEIGHT
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import (
    Drug,
    drug_of,
    effective_start,
    id_in,
    is_order_in_force,
    kilograms_in,
    latest_eligibility,
    patient_of,
    routes_of_order,
)
from shared.fhir.outcome import Issue, Unprocessable
from shared.runtime.medications import medication_of
from shared.runtime.record import Record
from shared.runtime.service import Change

COUNTED = ("final", "amended", "corrected")


async def guard_order(change: Change, record: Record, setting: Setting) -> None:
    """Refuse an order that is not for an eligible patient, in range, and, for home, within the law.

    Raises:
        Unprocessable: with everything that stands against it.

    """
    resource = change.after or change.before or {}
    drug = drug_of(await medication_of(record, resource), setting.sets)
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
    requester = order.get("requester")
    prescribers = [id_ for type_ in ("Practitioner", "PractitionerRole") if (id_ := id_in(requester, type_))]
    weights = await _weights(record, patient, order, setting)
    issues = check_order(order, drug, weights, setting.orders, prescribers)
    routes = list(dict.fromkeys(routes_of_order(order)))
    known = [route for route in routes if route in ROUTES]
    asked: list[str | None] = [*known] or [None]
    for route in asked:
        planned = f"{drug}, {ROUTES[route].display}" if route else drug
        result = await _screened(View(record, patient, change), drug, route, setting)
        issues.extend(check_screened(result, planned, setting.orders))
        if result is None:
            break
    if is_for_home(order):
        facts = await _home_facts(order, patient, record, setting)
        issues.extend(check_home(order, drug, routes, facts, setting.orders.at_home))
    return issues


async def _screened(view: View, drug: Drug, route: str | None, setting: Setting) -> Screening | None:
    """Return what a screening for the order finds now; None where the patient was never screened."""
    newest = latest_eligibility(await view.record.search("RiskAssessment", {"patient": f"Patient/{view.patient}"}))
    patient = await view.the_patient()
    if newest is None or patient is None:
        return None
    by = route or screened_for(newest)[1]
    return screen(await chart_of(view, patient, setting, drug=drug, route=by, now=setting.clock()), setting.rules)


async def _weights(record: Record, patient: str, order: Resource, setting: Setting) -> list[Weight]:
    ordered = _written(order, setting)
    found = []
    for one in await record.search("Observation", {"patient": f"Patient/{patient}", "code": WEIGHT.token()}):
        when = effective_start(one)
        if when is not None and one["status"] in COUNTED:
            days = (ordered.date() - when.date()).days
            found.append(Weight(kilograms_in(one.get("valueQuantity")), days, f"Observation/{one['id']}"))
    return found


async def _home_facts(order: Resource, patient: str, record: Record, setting: Setting) -> HomeFacts:
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
        prescriber=None if practitioner is None else await record.get("Practitioner", practitioner),
        site=await _site(order, role, record),
        at=_written(order, setting),
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
