"""`Appointment/$book-series`: all visits of a course in one call, and `$prerequisites`: what a visit needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from services.scheduling.appointments import answered, appointment_of, booked, proposal
from services.scheduling.booking import hold_all, needed
from services.scheduling.finding import Asked, board_of, visit_asked
from services.scheduling.ground import ground_of
from services.scheduling.memory import Memory, held, remembering
from services.scheduling.parameters import Given
from services.scheduling.rules.ground import Found, Ground, prerequisites, too_close, unmet
from services.scheduling.rules.policy import Course
from services.scheduling.rules.series import Laying, summary
from services.scheduling.setting import Setting
from services.scheduling.slots import follow_bookings
from shared.fhir.codes import RULE, VISIT_DOSING, VISITS
from shared.fhir.dates import interval, zulu
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, parse
from shared.fhir.kap import id_in, is_plan, planned_doses, routes_of_order, visit_of
from shared.fhir.outcome import Issue, Unprocessable
from shared.runtime.asking import PARAMETERS, not_held, wrongly_asked
from shared.runtime.record import Record, prepare
from shared.runtime.service import OperationCall

SERIES: Final[Mapping[str, str]] = {
    "patient": "reference",
    "order": "reference",
    "start": "time",
    "sessions": "number",
    "practitioner": "reference",
    "location": "reference",
    "virtual": "boolean",
    "partial": "boolean",
    "dry-run": "boolean",
}
WANTED: Final[Mapping[str, str]] = {
    "visit-type": "code",
    "patient": "reference",
    "order": "reference",
    "start": "time",
    "location": "reference",
}
ALIASES: Final[Mapping[str, str]] = {
    "patient-reference": "patient",
    "patient-id": "patient",
    "provider": "practitioner",
    "service-type": "visit-type",
}
MOST_SESSIONS: Final = 60


async def book_series(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Lay a whole course and book it: all of it or, unless `partial` is asked for, nothing, with what had no place."""
    with remembering() as kept:
        made = await _book_series(call, record, setting, kept)
        await follow_bookings(record, kept.booked, setting)
        return made


async def _book_series(call: OperationCall, record: Record, setting: Setting, kept: Memory) -> Resource:
    given = Given("book-series", call.parameters, SERIES, ALIASES)
    patient, order = given.needed_reference("patient"), given.needed_reference("order")
    await record.lock(patient)
    course, least, route = await _course(record, order, setting)
    sessions, apart = await _planned(record, patient, route, course)
    begin = max(given.time("start") or setting.clock(), setting.clock())
    by_video = given.flag("virtual")
    only = frozenset((*given.references("practitioner"), *given.references("location")))
    most = timedelta(hours=setting.policy.most_found.hours)
    asked = Asked(VISIT_DOSING.code, begin, begin + most, patient, only, by_video)
    ground = await _require_ground(record, patient, order, begin, setting)
    board = await board_of(record, asked, setting)
    laying = Laying(
        course,
        lambda visit: board.wanted(visit, visit_asked(visit, setting), asked),
        board.grid,
        begin,
        sessions=given.number("sessions", sessions, MOST_SESSIONS),
        least=max(least, apart),
        continuity=timedelta(hours=setting.policy.continuity.hours),
        is_far=lambda start: not too_close(start, ground, (route,), setting.policy),
    )
    laying.lay()
    missing = [one.as_issue(order) for one in laying.missing]
    if missing and not given.flag("partial"):
        nothing = Issue(
            f"The course by route {route} was not booked: not every visit has a place. What has one: "
            f"{summary(laying.placed) or 'nothing'}. Ask for another time, or give partial=true: then that is booked.",
            code="business-rule",
            expression=("Parameters.parameter",),
            rule="S-SERIES",
            source=course.source,
            evidence=(order,),
        )
        raise Unprocessable([nothing, *missing])
    made = [
        proposal(
            one.visit,
            one.option,
            patient=patient,
            order=order if one.visit == VISIT_DOSING.code else None,
            by_video=by_video,
        )
        for one in laying.placed
    ]
    if not given.flag("dry-run"):
        made = await _book(record, made, setting, kept)
    return answered(made, [_as_warning(one) for one in missing])


async def _book(record: Record, proposed: Sequence[Resource], setting: Setting, kept: Memory) -> list[Resource]:
    """Book visits: what they all take is held in one call, then each is judged and written."""
    ready = [prepare(booked(one), new_id()) for one in proposed]
    kept.taken = await hold_all(
        record,
        {f"Appointment/{one.id}": await needed(record, one.resource, setting) for one in ready if one.resource},
    )
    made = []
    for one in ready:
        made.append(parse((await record.create(one)).stored.body))
        kept.add(made[-1])
    return made


async def _planned(record: Record, patient: str, route: str, course: Course) -> tuple[int, timedelta]:
    """Return how many sessions the patient's plan has by a route, and how far apart; else as policy says."""
    plans = [one for one in await held(record, "CarePlan", {"patient": patient}) if is_plan(one)]
    doses = [dose for plan in plans for dose in planned_doses(plan) if dose.route == route]
    apart = max((dose.days for dose in doses if dose.days is not None), default=None)
    days = timedelta(0) if apart is None else timedelta(days=float(apart))
    return sum(dose.sessions for dose in doses) or course.sessions, days


def _as_warning(issue: Issue) -> Issue:
    return replace(issue, severity="warning")


async def _course(record: Record, order: str, setting: Setting) -> tuple[Course, timedelta, str]:
    """Return how a course by the order's route is laid, and the least time between two doses."""
    id_ = id_in({"reference": order}, "MedicationRequest")
    held = None if id_ is None else await record.get("MedicationRequest", id_)
    if held is None:
        raise not_held(order, "Order the drug first, or book again in a moment.", where=PARAMETERS)
    for route in routes_of_order(held):
        if route in setting.policy.courses:
            spacing = setting.policy.spacing.get(route)
            least = timedelta(hours=0 if spacing is None else spacing.hours)
            return setting.policy.courses[route], least, route
    raise Unprocessable(
        f"The policy says of no route of {order} how a course is laid. Book its visits one by one, or order by one of: "
        f"{', '.join(sorted(setting.policy.courses))}.",
        rule="S-SERIES",
        source="KAP Exchange",
        expression=["Parameters.parameter"],
        evidence=[order],
    )


async def _require_ground(record: Record, patient: str, order: str, begin: datetime, setting: Setting) -> Ground:
    """Return what the dosing sessions of a course stand on.

    Raises:
        Unprocessable: they could not be booked, at whatever time.

    """
    await record.require_current(setting.news, patient)
    sketch = _sketch(VISIT_DOSING.code, patient, order, zulu(begin), None)
    ground = await ground_of(record, sketch, setting)
    issues = [one for one in unmet(VISIT_DOSING.code, ground, None, setting.policy) if one.rule != "S-REMS"]
    if issues:
        raise Unprocessable(issues)
    return ground


def _sketch(visit: str, patient: str, order: str | None, start: str | None, location: str | None) -> Resource:
    made: dict[str, Any] = {
        "resourceType": "Appointment",
        "id": "",
        "status": "proposed",
        "serviceType": [VISITS[visit][0].concept()],
        "supportingInformation": [{"reference": order}] if order else [],
        "participant": [
            {"actor": {"reference": one}, "status": "needs-action"} for one in (patient, location) if one is not None
        ],
    }
    if start is not None:
        begin = interval(start)[0]
        made.update(start=zulu(begin), end=zulu(begin + timedelta(minutes=1)))
    return made


async def of_visit(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Return what a visit needs, each met or not, with what to do."""
    Given("prerequisites", call.parameters, {})
    return await _told(await appointment_of(record, call.id), record, setting)


async def of_kind(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Return what a visit of a kind would need for a patient."""
    given = Given("prerequisites", call.parameters, WANTED, ALIASES)
    visit = given.code("visit-type") or VISIT_DOSING.code
    visit_asked(visit, setting)
    start = given.time("start")
    sketch = _sketch(
        visit,
        given.needed_reference("patient"),
        given.reference("order"),
        zulu(start or setting.clock()),
        given.reference("location"),
    )
    return await _told(sketch, record, setting)


async def _told(appointment: Resource, record: Record, setting: Setting) -> Resource:
    visit = visit_of(appointment)
    if visit is None:
        raise wrongly_asked(
            "The Appointment is none of KAP's visits, and nothing is asked before it. Name its kind in serviceType.",
            where="Appointment.serviceType",
        )
    start = interval(appointment["start"])[0] if "start" in appointment else None
    found = prerequisites(visit, await ground_of(record, appointment, setting), start, setting.policy)
    bookable = all(one.met for one in found if one.by == "booking")
    ready = all(one.met for one in found)
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "bookable", "valueBoolean": bookable},
            {"name": "ready", "valueBoolean": ready},
            {"name": "policy-version", "valueString": setting.version},
            *(_prerequisite(one) for one in found),
        ],
    }


def _prerequisite(found: Found) -> Resource:
    parts: list[Any] = [
        {"name": "rule", "valueCoding": {"system": RULE, "code": found.rule}},
        {"name": "met", "valueBoolean": found.met},
        {"name": "needed-by", "valueCode": found.by},
        {"name": "found", "valueString": found.what},
        *([{"name": "to-do", "valueString": found.advice}] if found.advice else []),
        {"name": "source", "valueString": found.source},
        *({"name": "evidence", "valueReference": {"reference": one}} for one in found.evidence),
    ]
    return {"name": "prerequisite", "part": parts}
