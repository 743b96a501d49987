"""iCalendar feeds (RFC 5545) of a clinician, a room or a patient, behind secret links that can be revoked.

    POST Appointment/$calendar-link          actor -> url; who has it reads the calendar
    POST Appointment/$revoke-calendar-links  actor: all his links are worthless
    GET  /calendar/<secret>.ics

A calendar leaves the record: it says when, what kind of visit and where, and names no patient, drug or diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from icalendar import Calendar, Event
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.scheduling.parameters import Given
from services.scheduling.rules.booking import span_of
from services.scheduling.setting import Setting
from shared.fhir.codes import VISITS
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import actors, visit_of
from shared.fhir.outcome import FhirError
from shared.runtime.app import Parts
from shared.runtime.asking import not_held, wrongly_asked
from shared.runtime.record import Record, open_record
from shared.runtime.service import OperationCall
from shared.security.audit import Auditing, record, say
from shared.store.access import Access
from shared.store.calendars import make_link, revoke_links

BY_LINK: Final = "calendar link"
"""Who reads a calendar, to the audit: whoever has its link."""

SHOWN_BACK: Final = timedelta(days=31)
WHOSE: Final = ("Practitioner", "Location", "Patient", "Device")
STATUS: Final = {
    "booked": "CONFIRMED",
    "arrived": "CONFIRMED",
    "checked-in": "CONFIRMED",
    "fulfilled": "CONFIRMED",
    "pending": "TENTATIVE",
    "cancelled": "CANCELLED",
    "noshow": "CANCELLED",
}
MEDIA_TYPE: Final = "text/calendar; charset=utf-8"


async def make(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Make a secret link to the calendar of a clinician, a room or a patient."""
    actor = _actor(call)
    secret = await make_link(record.transaction, actor, setting.clock())
    url = f"{setting.base}/calendar/{secret}.ics"
    return {"resourceType": "Parameters", "parameter": [{"name": "url", "valueUrl": url}]}


async def revoke(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Make all links to somebody's calendar worthless."""
    count = await revoke_links(record.transaction, _actor(call), setting.clock())
    return {"resourceType": "Parameters", "parameter": [{"name": "revoked", "valueInteger": count}]}


def _actor(call: OperationCall) -> str:
    actor = Given(call.name, call.parameters, {"actor": "reference"}).needed_reference("actor")
    if actor.partition("/")[0] not in WHOSE:
        raise wrongly_asked(f"{actor} has no calendar: name one of {', '.join(WHOSE)}.")
    return actor


def calendar_route(parts: Parts, setting: Setting) -> Route:
    """Return the route of the feeds."""

    async def feed(request: Request) -> Response:
        request.scope["state"]["route"] = "/calendar/{secret}.ics"  # the secret is not logged
        auditing = Auditing(parts.store.audit, parts.service.name)

        async def told() -> bytes:
            say(client=BY_LINK)
            whose = await parts.store.calendars.of(request.path_params["secret"])
            if whose is None:
                raise _ended()
            say(tenant=whose.tenant)
            access, since = Access.unrestricted(whose.tenant), zulu(setting.clock() - SHOWN_BACK)
            async with open_record(parts.service, parts.store, access, keys=()) as held:
                if await _has_left(held, whose.actor):
                    raise _ended()
                shown = await held.search("Appointment", [("actor", whose.actor), ("date", f"ge{since}")])
                body = await calendar_of(held, whose.actor, shown)
            patients = dict.fromkeys(id_ for one in shown for id_ in actors(one, "Patient"))
            record("rest", "calendar", "R", what=(whose.actor,), patients=tuple(patients))
            return body

        body = await auditing.request(request.scope, told)
        return Response(body, media_type=MEDIA_TYPE, headers={"Cache-Control": "private, max-age=300"})

    return Route("/calendar/{secret}.ics", feed, methods=["GET"])


def _ended() -> FhirError:
    why = "It was revoked, or never was, or whose it is has left the clinic: ask the clinic for a new one."
    return not_held("The calendar of this link", why, where="Appointment")


async def _has_left(held: Record, actor: str) -> bool:
    """Tell whether somebody is known here as deleted, or as not active any more: his links end with that."""
    type_, _, id_ = actor.partition("/")
    known = await held.stored(type_, id_)
    return known is not None and (known.deleted or parse(known.body).get("active") is False)


async def calendar_of(held: Record, actor: str, appointments: Sequence[Resource]) -> bytes:
    """Return the calendar of an actor (``Practitioner/<id>``) with these visits of his."""
    calendar = Calendar()
    calendar.add("prodid", "-//KAP Exchange//scheduling//EN")
    calendar.add("version", "2.0")
    calendar.add("x-wr-calname", "Visits")
    own = actor.startswith("Patient/")
    for appointment in appointments:
        event = await _event(held, appointment, own=own)
        if event is not None:
            calendar.add_component(event)
    body: bytes = calendar.to_ical()
    return body


async def _event(record: Record, appointment: Resource, *, own: bool) -> Event | None:
    span, status = span_of(appointment), STATUS.get(appointment["status"])
    if span is None or status is None:
        return None
    kind = VISITS.get(visit_of(appointment) or "")
    event = Event()
    event.add("uid", f"{appointment['id']}@kap-exchange.org")
    event.add("dtstamp", interval(appointment["meta"]["lastUpdated"])[0])
    event.add("last-modified", interval(appointment["meta"]["lastUpdated"])[0])
    event.add("sequence", int(appointment["meta"]["versionId"]) - 1)
    event.add("dtstart", span[0])
    event.add("dtend", span[1])
    event.add("summary", "Your visit" if own or kind is None else kind[0].display)
    event.add("status", status)
    for id_ in actors(appointment, "Location"):
        place = await record.get("Location", id_)
        if place is not None and "name" in place:
            event.add("location", place["name"])
            break
    return event
