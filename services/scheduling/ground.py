"""Gathering what a visit stands on, from what scheduling holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from services.scheduling.memory import got, held, memory
from services.scheduling.rules.booking import COUNTING, span_of
from services.scheduling.rules.ground import Ground, Near
from services.scheduling.setting import Setting
from shared.fhir.codes import (
    ESCORT,
    ID_REMS_PATIENT,
    ID_REMS_SITE,
    MEDICATION_INPATIENT,
    PLAN,
    VISIT_DOSING,
    VISIT_PREP,
    WEIGHT,
)
from shared.fhir.dates import interval, period_interval
from shared.fhir.json import Resource
from shared.fhir.kap import (
    actors,
    comes_from_elsewhere,
    consent_routes,
    course_status,
    denies,
    drug_of,
    effective_start,
    eligibility_outcome,
    has_code,
    id_in,
    is_course,
    is_order_in_force,
    is_plan,
    latest_eligibility,
    moment,
    patient_of,
    planned_doses,
    routes_consented,
    routes_of_order,
    screened_for,
    visit_of,
)
from shared.fhir.series import plan_for, sessions_for
from shared.runtime.joined import denied_elsewhere
from shared.runtime.medications import substances_of
from shared.runtime.record import Record


async def lock_patients(record: Record, appointment: Resource) -> None:
    """Hold the records of an appointment's patients, so that no news of them passes by between judging and booking."""
    if memory() is None:
        await record.lock(*(f"Patient/{id_}" for id_ in actors(appointment, "Patient")))


GIVEN = ("in-progress", "on-hold", "completed", "stopped", "unknown")


async def ground_of(record: Record, appointment: Resource, setting: Setting) -> Ground:
    """Return what is held about the patient of a visit.

    What comes from elsewhere (`meta.source`) is history: no ground, but a weight.
    """
    patients = actors(appointment, "Patient")
    if not patients:
        return Ground()
    patient, now = patients[0], setting.clock()
    span = span_of(appointment)
    when = now if span is None else span[0]
    about = {"patient": f"Patient/{patient}"}
    newest = latest_eligibility(_own(await held(record, "RiskAssessment", about)))
    courses = [one for one in _own(await held(record, "EpisodeOfCare", about)) if is_course(one)]
    consents = [one for one in _own(await held(record, "Consent", about)) if _counts(one, min(when, now), when)]
    consents.extend(await denied_elsewhere(record, patient, when))
    plans = _own(await held(record, "CarePlan", about))
    order, others = await _orders(record, appointment, setting)
    appointments = await held(record, "Appointment", about)
    preparing = [
        one
        for one in appointments
        if visit_of(one) == VISIT_PREP.code and "start" in one and moment(one["start"]) < when
    ]
    stands = order is not None and is_order_in_force(order) and patient_of(order) == patient
    drug, route = (None, None) if newest is None else screened_for(newest)
    weighed, weight = await _weighed(record, about, min(when, now))
    ordered = None if order is None else drug_of(await substances_of(record, order), setting.sets)
    routes = () if order is None else tuple(dict.fromkeys(routes_of_order(order)))
    apart = _apart(plans, ordered, routes)
    dosages = [] if order is None else order.get("dosageInstruction", [])
    return Ground(
        patient=about["patient"],
        outcome=None if newest is None else eligibility_outcome(newest, now),
        outcome_then=None if newest is None else eligibility_outcome(newest, max(when, now)),
        assessment=None if newest is None else f"RiskAssessment/{newest['id']}",
        assessed=None if newest is None else moment(newest.get("occurrenceDateTime")),
        screened_drug=drug,
        screened_route=route,
        episode_status=course_status(courses, when),
        courses=_references(courses),
        consents=_references(one for one in consents if consent_routes(one)),
        plans=_references(one for one in plans if has_code(one.get("category"), PLAN)),
        order=next(iter(_orders_named(appointment)), None) if order is None else f"MedicationRequest/{order['id']}",
        other_orders=others,
        order_active=stands and order is not None and not comes_from_elsewhere(order),
        order_sessions=sessions_for(dosages, plan_for(plans, ordered, routes, when)),
        order_used=() if order is None else await _used(record, appointment, appointments, order, about, setting),
        drug=ordered,
        routes=routes,
        consented=routes_consented(consents, when),
        planned=any(_is_plan(one, when) for one in plans),
        site_certified=await _any_identified(record, appointment, "Location", ID_REMS_SITE, when),
        sites=tuple(f"Location/{one}" for one in actors(appointment, "Location")),
        patient_enrolled=await _any_identified(record, appointment, "Patient", ID_REMS_PATIENT, when),
        inpatient=order is not None and has_code(order.get("category"), MEDICATION_INPATIENT),
        preparations=sum(one["status"] == "fulfilled" and moment(one["start"]) <= now for one in preparing),
        preparing=sum(one["status"] in COUNTING and one["status"] != "fulfilled" for one in preparing),
        prepared=_references(one for one in preparing if one["status"] in COUNTING),
        escort=any(
            has_code(one.get("type"), ESCORT) and one.get("actor") and one.get("status") != "declined"
            for one in appointment.get("participant", [])
        ),
        weighed=weighed,
        weight=weight,
        near=tuple(await _near(record, appointment, appointments, about, setting)),
        days_apart=max(apart.values(), default=0),
        planned_by=tuple(apart),
        zone=setting.zone,
    )


def _references(resources: Iterable[Resource]) -> tuple[str, ...]:
    return tuple(f"{one['resourceType']}/{one['id']}" for one in resources)


def _own(resources: Iterable[Resource]) -> list[Resource]:
    return [one for one in resources if not comes_from_elsewhere(one)]


def _counts(consent: Resource, now: datetime, when: datetime) -> bool:
    """Tell whether a consent counts: one that is dated ahead permits nothing yet, and what it denies is denied."""
    if moment(consent.get("dateTime")) <= now:
        return True
    return any(denies(consent, route, when) for route in consent_routes(consent))


def _is_plan(plan: Resource, when: datetime) -> bool:
    period = period_interval(plan.get("period", {}))
    return (
        plan.get("status") == "active"
        and has_code(plan.get("category"), PLAN)
        and (period is None or period[0] <= when < period[1])
    )


def _apart(plans: Iterable[Resource], drug: str | None, routes: Sequence[str]) -> dict[str, int]:
    """Return how many days from session to session each plan in force has for a drug by one of the routes."""
    found = {}
    for plan in plans:
        doses = [one for one in planned_doses(plan) if one.drug == drug and one.route in routes]
        days = [int(one.days) for one in doses if one.days is not None]
        if days and is_plan(plan):
            found[f"CarePlan/{plan['id']}"] = max(days)
    return found


def _orders_named(appointment: Resource) -> list[str]:
    found = (id_in(one, "MedicationRequest") for one in appointment.get("supportingInformation", []))
    return [f"MedicationRequest/{id_}" for id_ in found if id_]


async def _orders(record: Record, appointment: Resource, setting: Setting) -> tuple[Resource | None, tuple[str, ...]]:
    """Return the order that an appointment is booked on, and what it names besides of the two drugs.

    Of what it names it is the first that orders one of them; where none does, the first that is held.
    """
    named = [await got(record, "MedicationRequest", one.partition("/")[2]) for one in _orders_named(appointment)]
    known = [one for one in named if one is not None]
    drugged = [one for one in known if drug_of(await substances_of(record, one), setting.sets) is not None]
    others = tuple(f"MedicationRequest/{one['id']}" for one in drugged[1:])
    return next(iter([*drugged, *known]), None), others


async def _used(
    record: Record,
    appointment: Resource,
    appointments: Iterable[Resource],
    order: Resource,
    about: dict[str, str],
    setting: Setting,
) -> tuple[str, ...]:
    """Return the other dosing sessions on an order, and the visits in which it was given outside of any of them.

    Of sessions that are booked the earlier ones go first: one that is booked already is on it before those after it.
    Doses of one visit are one session; it is that of an Appointment where it began within `check_in` hours of it. A
    visit that is over, and in which nothing was given, took none.
    """
    name = f"MedicationRequest/{order['id']}"
    on_it = [
        (one, span)
        for one in appointments
        if one["status"] in COUNTING
        and visit_of(one) == VISIT_DOSING.code
        and name in _orders_named(one)
        and (span := span_of(one)) is not None
    ]
    own = next(((span[0], one["id"]) for one, span in on_it if one["id"] == appointment.get("id")), None)
    others = [one for one, span in on_it if own is None or (span[0], one["id"]) < own]
    near = timedelta(hours=setting.policy.check_in.hours)
    visits: dict[str, list[Resource]] = {}
    for dose in await held(record, "MedicationAdministration", about):
        request = f"MedicationRequest/{id_in(dose.get('request'), 'MedicationRequest')}"
        if dose["status"] in GIVEN and request == name and "partOf" not in dose:
            visits.setdefault(id_in(dose.get("context"), "Encounter") or dose["id"], []).append(dose)
    begun = {
        key: [start for one in doses if (start := effective_start(one)) is not None] for key, doses in visits.items()
    }
    every = [start for starts in begun.values() for start in starts]
    used = [f"Appointment/{one['id']}" for one in others if not _gave_nothing(one, every, near)]
    for key, starts in begun.items():
        if not any(low - near <= start < high + near for start in starts for _, (low, high) in on_it):
            used.append(f"MedicationAdministration/{visits[key][0]['id']}")
    return tuple(used)


def _gave_nothing(appointment: Resource, doses: Iterable[datetime], near: timedelta) -> bool:
    """Tell whether a visit is over and no dose (they began at these times) was given in it, or near it."""
    span = span_of(appointment)
    if appointment["status"] != "fulfilled" or span is None:
        return False
    return not any(span[0] - near <= start < span[1] + near for start in doses)


async def _any_identified(record: Record, appointment: Resource, type_: str, system: str, when: datetime) -> bool:
    for id_ in actors(appointment, type_):
        found = await got(record, type_, id_)
        for identifier in [] if found is None else found.get("identifier", []):
            period = period_interval(identifier.get("period", {}))
            if (
                identifier.get("system") == system
                and identifier.get("value")
                and (period is None or period[0] <= when < period[1])
            ):
                return True
    return False


async def _weighed(record: Record, about: dict[str, str], when: datetime) -> tuple[datetime | None, str | None]:
    """Return when the patient was last weighed before `when`, and the reference of that."""
    taken = [
        (start, f"Observation/{one['id']}")
        for one in await held(record, "Observation", {**about, "code": WEIGHT.token()})
        if one["status"] in ("final", "amended", "corrected")
        and "valueQuantity" in one
        and (start := effective_start(one)) is not None
        and start <= when
    ]
    return max(taken, default=(None, None))


async def _near(
    record: Record, appointment: Resource, appointments: Iterable[Resource], about: dict[str, str], setting: Setting
) -> list[Near]:
    """Return the patient's other dosing sessions, and the doses that were given outside of any of them."""
    if visit_of(appointment) != VISIT_DOSING.code:
        return []
    doses = []
    for dose in await held(record, "MedicationAdministration", about):
        start = effective_start(dose)
        counts = dose["status"] in GIVEN and start is not None
        if counts and drug_of(await substances_of(record, dose), setting.sets) is not None:
            doses.append((dose, start))
    begun, hours = [start for _, start in doses if start is not None], setting.policy.check_in.hours
    booked = [
        (one, span)
        for one in appointments
        if one["id"] != appointment.get("id")
        and one["status"] in COUNTING
        and visit_of(one) == VISIT_DOSING.code
        and not _gave_nothing(one, begun, timedelta(hours=hours))
        and (span := span_of(one)) is not None
    ]
    found = [Near(f"Appointment/{one['id']}", span[0]) for one, span in booked]
    visits = [span for _, span in booked] + [span for span in (span_of(appointment),) if span is not None]
    for dose, start in doses:
        if start is not None and not any(low <= start < high for low, high in visits):
            routes = tuple(
                coding["code"]
                for coding in dose.get("dosage", {}).get("route", {}).get("coding", [])
                if coding.get("code") in setting.policy.spacing
            )
            found.append(Near(f"MedicationAdministration/{dose['id']}", start, routes))
    return found


def patient_in(appointment: Resource) -> str | None:
    """Return the logical id of an appointment's patient."""
    return next(iter(actors(appointment, "Patient")), None)


def start_of(appointment: Resource) -> datetime | None:
    """Return when an appointment begins."""
    return interval(appointment["start"])[0] if "start" in appointment else None
