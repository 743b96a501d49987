"""Slots: free time shown to clients that read it, kept as bookings come and go; and made from a Schedule's hours."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from services.scheduling.booking import actors_in, is_group, one_name
from services.scheduling.finding import unreadable_hours
from services.scheduling.rules.availability import hours_in, working_of
from services.scheduling.rules.booking import booked_actors, span_of
from services.scheduling.setting import Setting
from shared.fhir.codes import ID_SLOT
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import reference
from shared.fhir.raised import identifier
from shared.runtime.raising import content_of, own_work
from shared.runtime.record import Record
from shared.store.bookings import busy

SHOWN = ("free", "busy", "busy-tentative")


async def follow_bookings(record: Record, visits: Iterable[Resource | None], setting: Setting) -> None:
    """Bring the Slots of everybody in these visits, as they were and are, to what is booked: busy, or free again."""
    names: set[str] = set()
    times: list[datetime] = []
    for one in visits:
        if one is not None and (span := span_of(one)) is not None:
            booked = [name for name in booked_actors(one) if not name.startswith("Patient/")]
            named = [*booked, *[await one_name(record, name) for name in booked]]
            names.update(name for name in named if "?" not in name)  # a number is no reference
            times.extend(span)
    if not names or not times:
        return
    people = [name for name in sorted(names) if name.startswith("Practitioner/")]
    if people:
        roles = await record.search("PractitionerRole", {"practitioner": ",".join(people)})
        names.update(f"PractitionerRole/{one['id']}" for one in roles)
    schedules = await record.search("Schedule", {"actor": ",".join(sorted(names))})
    if not schedules:
        return
    low, high = min(times) - timedelta(days=1), max(times) + timedelta(hours=1)
    criteria = [
        ("schedule", ",".join(f"Schedule/{one['id']}" for one in schedules)),
        ("start", f"ge{zulu(low)}"),
        ("start", f"lt{zulu(high)}"),
    ]
    slots = [one for one in await record.search("Slot", criteria) if one["status"] in SHOWN and not is_group(one)]
    if slots:
        await _bring(record, {f"Schedule/{one['id']}": await actors_in(record, one) for one in schedules}, slots)


async def _bring(record: Record, actors: dict[str, list[str]], slots: list[Resource]) -> None:
    spans = [(interval(one["start"])[0], interval(one["end"])[0]) for one in slots]
    names = sorted({name for those in actors.values() for name in those})
    taken = await busy(record.transaction, names, min(start for start, _ in spans), max(end for _, end in spans))
    for slot, (start, end) in zip(slots, spans, strict=True):
        own = actors.get(slot["schedule"]["reference"], [])
        held = any(one.resource in own and one.start < end and start < one.end for one in taken)
        status = "busy" if held else "free"
        if status != slot["status"]:
            with own_work():
                await record.update(content_of({**slot, "status": status}))


async def generate(
    record: Record, schedule: Resource, low: datetime, high: datetime, length: timedelta, setting: Setting
) -> list[Resource]:
    """Make the Slots of a Schedule in [low, high) that are not there yet; return those that were made.

    Raises:
        Unprocessable: the Schedule's hours cannot be read.

    """
    try:
        working = working_of(schedule, setting.policy.zone.name)
    except ValueError as error:
        raise unreadable_hours(schedule, error) from None
    names = await actors_in(record, schedule)
    taken = await busy(record.transaction, names, low, high)
    held = {
        one["identifier"][0]["value"]
        for one in await record.search("Slot", {"schedule": f"Schedule/{schedule['id']}"})
        if one.get("identifier")
    }
    made = []
    for begin, end in hours_in(working, low, high):
        start = begin
        while start + length <= end:
            named = identifier(ID_SLOT, schedule["id"], zulu(start))
            if named["value"] not in held:
                occupied = any(one.start < start + length and start < one.end for one in taken)
                slot: dict[str, Any] = {
                    "resourceType": "Slot",
                    "identifier": [named],
                    "serviceType": schedule.get("serviceType"),
                    "specialty": schedule.get("specialty"),
                    "schedule": reference("Schedule", schedule["id"]),
                    "status": "busy" if occupied else "free",
                    "start": zulu(start),
                    "end": zulu(start + length),
                }
                with own_work():
                    written = await record.create({name: value for name, value in slot.items() if value})
                made.append({**slot, "id": written.stored.id})
            start += length
    return made
