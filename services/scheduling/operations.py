"""Scheduling's operations: what each is called, and what it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Literal, TypeAlias

from services.scheduling import calendars, changing, course, offering
from services.scheduling.appointments import answered
from services.scheduling.parameters import Given
from services.scheduling.setting import Setting
from services.scheduling.slots import generate
from shared.fhir.json import Resource
from shared.runtime.asking import not_held, wrongly_asked
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

Work: TypeAlias = Callable[[OperationCall, Record, Setting], Awaitable[Resource]]


def operations(setting: Setting) -> tuple[Operation, ...]:
    """Return scheduling's operations under a policy."""

    def one(
        name: str,
        level: Literal["instance", "type"],
        work: Work,
        documentation: str,
        *,
        type_: str = "Appointment",
        reads: bool = False,
    ) -> Operation:
        async def run(call: OperationCall, record: Record) -> Resource:
            return await work(call, record, setting)

        return Operation(name, type_, level, run, affects_state=not reads, documentation=documentation)

    return (
        one("find", "type", offering.find, FIND, reads=True),
        one("hold", "type", offering.hold, HOLD),
        one("book", "type", offering.book, BOOK),
        one("book-series", "type", course.book_series, BOOK_SERIES),
        one("prerequisites", "type", course.of_kind, PREREQUISITES_OF_KIND, reads=True),
        one("prerequisites", "instance", course.of_visit, PREREQUISITES, reads=True),
        one("reschedule", "instance", changing.reschedule, RESCHEDULE),
        one("cancel", "instance", changing.cancel, CANCEL),
        one("check-in", "instance", changing.check_in, "Records that the patient is there: checked-in."),
        one("no-show", "instance", changing.no_show, "Records that the patient did not come: noshow."),
        one("calendar-link", "type", calendars.make, CALENDAR),
        one("revoke-calendar-links", "type", calendars.revoke, REVOKE),
        one("generate", "instance", _generate, GENERATE, type_="Schedule"),
    )


FIND = (
    "Finds times at which everybody and everything that a kind of visit needs is free together, best first: a "
    "searchset of Appointments that are proposed. Parameters: start, end (dateTime), visit-type or service-type "
    "(kap-dosing ...), patient, order, practitioner or provider, location (references), virtual (boolean), minutes, "
    "max."
)
HOLD = (
    "Keeps a proposed time for some minutes: Appointment pending. Parameters: appointment-resource (Appointment), "
    "patient (Reference). What is taken, or not met, is refused."
)
BOOK = (
    "Books a held time (appointment-reference) or a proposed one (appointment-resource). Parameters, too: patient, "
    "comment. All that is taken, or not met, is refused at once."
)
BOOK_SERIES = (
    "Lays and books a whole course by the route of the order, as the policy says: preparation, dosing, integration, "
    "follow-up. All or nothing, with what has no place and why; with partial (boolean) what has a place. Parameters: "
    "patient, order (references), start (dateTime), sessions (number), practitioner, location, virtual, dry-run."
)
PREREQUISITES = "Says of all that the visit stands on whether it is met, and what to do where it is not."
PREREQUISITES_OF_KIND = (
    "As on an Appointment, before there is one. Parameters: visit-type, patient, order, start, location."
)
RESCHEDULE = (
    "Moves a visit; the old time is free in the moment in which the new one is taken. Parameters: start, end, "
    "practitioner, location, comment."
)
CANCEL = "Cancels a visit. Parameters: reason (code of appointment-cancellation-reason), comment."
CALENDAR = (
    "Makes a secret link to the iCalendar feed of an actor (Practitioner, Location, Patient, Device). Parameter: actor."
)
REVOKE = "Makes all links to the iCalendar feed of an actor worthless. Parameter: actor."
GENERATE = (
    "Makes the free Slots of a Schedule from its available-time, for clients that read Slots; those that are there are "
    "left as they are. Parameters: start, end (dateTime), minutes."
)


async def _generate(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Make the Slots of a Schedule."""
    given = Given("generate", call.parameters, {"start": "time", "end": "time", "minutes": "number"})
    schedule = await record.get("Schedule", str(call.id))
    if schedule is None:
        raise not_held(f"Schedule/{call.id}")
    low, high = given.needed_time("start"), given.needed_time("end")
    most = timedelta(hours=setting.policy.most_found.hours)
    if not low < high <= low + most:
        raise wrongly_asked(
            f"$generate makes Slots for at most {most.days} days at a time: give a start and a later end within that."
        )
    length = timedelta(minutes=given.number("minutes", 60, most.days * 24 * 60))
    return answered(await generate(record, schedule, low, high, length, setting))
