"""`Appointment/$find`, `$hold`, `$book`: a time is found, kept for some minutes, and booked.

The parameters have the names of Argonaut Scheduling and of IHE Scheduling; where those differ both are understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from services.scheduling.appointments import (
    answered,
    appointment_of,
    booked,
    held,
    held_until,
    proposal,
    require_status,
    with_patient,
    written,
)
from services.scheduling.finding import Asked, board_of, visit_asked
from services.scheduling.groups import group_places
from services.scheduling.parameters import Given
from services.scheduling.rules.finding import best
from services.scheduling.setting import Setting
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.outcome import Issue, Unprocessable
from shared.runtime.asking import wrongly_asked
from shared.runtime.record import Record
from shared.runtime.service import OperationCall

MOST: Final = 200
USUAL: Final = 20

ALIASES: Final[Mapping[str, str]] = {
    "service-type": "visit-type",
    "provider": "practitioner",
    "_count": "max",
    "patient-reference": "patient",
    "patient-id": "patient",
    "location-reference": "location",
    "appt-resource": "appointment-resource",
    "appointment": "appointment-resource",
    "resource": "appointment-resource",
    "appt-id": "appointment-reference",
}
FIND: Final[Mapping[str, str]] = {
    "start": "time",
    "end": "time",
    "visit-type": "code",
    "practitioner": "reference",
    "location": "reference",
    "patient": "reference",
    "order": "reference",
    "virtual": "boolean",
    "minutes": "number",
    "group": "boolean",
    "places": "number",
    "max": "number",
}
BOOK: Final[Mapping[str, str]] = {
    "appointment-resource": "resource",
    "appointment-reference": "reference",
    "patient": "reference",
    "comment": "text",
}


async def find(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Return times at which all that a kind of visit needs is free, best first, as proposed Appointments."""
    given = Given("find", call.parameters, FIND, ALIASES)
    visit = given.code("visit-type")
    if visit is None:
        raise wrongly_asked("It is not said for which visit: give the parameter visit-type.", code="required")
    kind = visit_asked(visit, setting)
    patient, order, by_video = given.reference("patient"), given.reference("order"), given.flag("virtual")
    asked = Asked(
        visit,
        max(given.needed_time("start"), setting.clock()),
        given.needed_time("end"),
        patient,
        frozenset((*given.references("practitioner"), *given.references("location"))),
        by_video,
        given.number("minutes", kind.minutes, MOST * kind.minutes),
    )
    if given.flag("group"):
        places = given.number("places", 1, MOST)
        open_ = await group_places(record, asked, order, places, setting)
        return answered(open_[: given.number("max", USUAL, MOST)], [] if open_ else [_no_group(asked, places)])
    board = await board_of(record, asked, setting)
    wanted = board.wanted(visit, kind, asked)
    options = wanted.options(board.grid, board.grid.everything)
    continuity, most = timedelta(hours=setting.policy.continuity.hours), given.number("max", USUAL, MOST)
    chosen = best(options, continuity, len(wanted.needs), most)
    found = [
        proposal(visit, option, patient=patient, order=order, by_video=by_video, rank=rank)
        for rank, option in enumerate(chosen, start=1)
    ]
    if found:
        return answered(found)
    lacking = ", ".join(wanted.lacking(board.grid, board.grid.everything))
    nothing = Issue(
        f"No time from {zulu(asked.low)} to {zulu(asked.high)} is free for {lacking}. Ask for another time, or have a "
        "Schedule with this specialty (role) and its hours.",
        code="not-found",
        severity="information",
    )
    return answered([], [nothing])


def _no_group(asked: Asked, places: int) -> Issue:
    return Issue(
        f"No group session of {asked.visit} from {zulu(asked.low)} to {zulu(asked.high)} has {places} places free, or "
        "the patient is taken. Ask for another time, or have a Slot of type kap-group in a Schedule with its staff.",
        code="not-found",
        severity="information",
    )


async def hold(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Keep a proposed time for some minutes: an Appointment that is pending, and holds everybody in it."""
    given = Given("hold", call.parameters, BOOK, ALIASES)
    asked = with_patient(_asked(given), given.reference("patient"))
    until = setting.clock() + timedelta(minutes=setting.policy.hold.minutes)
    kept = await written(record, held(_new(asked), until))
    said = Issue(f"Held until {zulu(until)}. Then it is free again.", code="informational", severity="information")
    return answered([kept], [said])


async def book(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Book a held time, or a proposed one."""
    given = Given("book", call.parameters, BOOK, ALIASES)
    comment = {"comment": text} if (text := given.text("comment")) else {}
    if given.has("appointment-reference"):
        current = await appointment_of(record, given.reference("appointment-reference"))
        require_status(current, ("pending", "proposed"), "book")
        until = held_until(current)
        if until is not None and setting.clock() >= until:
            raise Unprocessable(
                f"Appointment/{current['id']} was held until {zulu(until)}. Find another time (Appointment/$find).",
                rule="S-HOLD",
                source=setting.policy.hold.source,
                expression=["Appointment"],
                evidence=[f"Appointment/{current['id']}"],
            )
        wanted = with_patient(current, given.reference("patient"))
    else:
        wanted = _new(with_patient(_asked(given), given.reference("patient")))
    return answered([await written(record, {**booked(wanted), **comment})])


def _asked(given: Given) -> Resource:
    found = given.resource("appointment-resource", "Appointment")
    if found is None:
        raise wrongly_asked("Give the proposed Appointment as parameter appointment-resource.", code="required")
    if found.get("status") not in ("proposed", "pending"):
        raise wrongly_asked(
            f"An Appointment that is {found.get('status')} is not booked anew. Give one that is proposed or pending.",
            where="Appointment.status",
        )
    return found


def _new(appointment: Resource) -> Resource:
    return {name: value for name, value in appointment.items() if name not in ("id", "meta")}
