"""Writing what an appointment takes into the database's bookings, with the appointment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from services.scheduling.memory import memory
from services.scheduling.rules.booking import OCCUPYING, Span, name_of, span_of, spans, taken
from services.scheduling.setting import Setting
from shared.fhir.codes import EXT_GROUP_PLACES, GROUP_SESSION
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import comes_from_elsewhere, has_code, id_in, visit_of
from shared.fhir.outcome import Issue, Unprocessable
from shared.fhir.values import escape
from shared.runtime.record import Record
from shared.store.bookings import Claim, Taken, book, book_all, close, unbook

NAMED_BY_NUMBER: Final = ("Patient", "Practitioner", "Location")
"""Types of actors that are held here, and so found by an identifier."""


def is_group(slot: Resource) -> bool:
    """Tell whether a Slot is a group session, whose members each have an appointment in it."""
    return has_code(slot.get("serviceType"), GROUP_SESSION)


def places_of(slot: Resource) -> int:
    """Return how many patients a group session takes."""
    return next(
        (int(one["valuePositiveInt"]) for one in slot.get("extension", []) if one["url"] == EXT_GROUP_PLACES), 0
    )


async def group_of(record: Record, appointment: Resource) -> Resource | None:
    """Return the group session that an appointment is in, None where it is in none.

    Raises:
        Unprocessable: it names a Slot that does not exist.

    """
    for one in appointment.get("slot", []):
        id_ = id_in(one, "Slot")
        slot = None if id_ is None else await record.get("Slot", id_)
        if slot is None:
            raise Unprocessable(
                f"There is no {one.get('reference', 'such Slot')}. Leave it out, or name one that exists.",
                expression=["Appointment.slot"],
                rule="S-SLOT",
                source="FHIR R4 Appointment.slot",
            )
        if is_group(slot):
            return slot
    return None


async def needed(record: Record, appointment: Resource, setting: Setting) -> list[Span]:
    """Return what an appointment takes; a member of a group takes a place in it, and who is not of the group."""
    wanted = await _once_each(record, spans(appointment, setting.policy))
    group = await group_of(record, appointment) if "slot" in appointment else None
    if group is None or not is_of_group(appointment, group):
        return wanted
    staff = await actors_of_schedule(record, group)
    own = [one for one in wanted if one.resource not in staff]
    start, end = interval(group["start"])[0], interval(group["end"])[0]
    return [*own, Span(f"Slot/{group['id']}", start, end, places_of(group))]


def is_of_group(appointment: Resource, group: Resource) -> bool:
    """Tell whether an appointment is a place in a group session: of its kind, and in its time."""
    span = span_of(appointment)
    kind = visit_of({"resourceType": "Appointment", "serviceType": group.get("serviceType", [])})
    within = span is not None and interval(group["start"])[0] <= span[0] < span[1] <= interval(group["end"])[0]
    return within and visit_of(appointment) == kind


async def _once_each(record: Record, wanted: Sequence[Span]) -> list[Span]:
    """Return one Span of each who is booked, however often he is named: the longest, shared where all of them are."""
    found: dict[str, Span] = {}
    for one in wanted:
        name = await one_name(record, one.resource)
        held = found.get(name, one)
        found[name] = Span(name, one.start, max(held.end, one.end), min(held.shared, one.shared))
    return list(found.values())


async def one_name(record: Record, name: str) -> str:
    """Return the one name of who is booked: a role is its Practitioner, an identifier is who is held with it."""
    type_, sign, identifier = name.partition("?identifier=")
    if sign:
        token = "|".join(escape(one) for one in identifier.split("|", 1))
        found = await record.search(type_, {"identifier": token}) if type_ in NAMED_BY_NUMBER else []
        return f"{type_}/{found[0]['id']}" if len(found) == 1 else name
    type_, _, id_ = name.partition("/")
    role = await record.get(type_, id_) if type_ == "PractitionerRole" else None
    practitioner = None if role is None else id_in(role.get("practitioner"), "Practitioner")
    return name if practitioner is None else f"Practitioner/{practitioner}"


async def hold(record: Record, owner: str, wanted: Sequence[Span]) -> list[Taken]:
    """Let `owner` hold what it needs; return what stands in the way."""
    return await book(record.transaction, owner, _claims(wanted))


async def hold_all(record: Record, wanted: Mapping[str, Sequence[Span]]) -> dict[str, list[Taken]]:
    """Let each owner hold what it needs, in one call; return by owner what stands in the way."""
    return await book_all(record.transaction, {owner: _claims(spans) for owner, spans in wanted.items()})


async def held_for(record: Record, owner: str, appointment: Resource, setting: Setting) -> list[Taken]:
    """Let an appointment hold what it takes, unless the operation has done so for all its visits at once."""
    kept = memory()
    if kept is not None and owner in kept.taken:
        return kept.taken[owner]
    return await hold(record, owner, await needed(record, appointment, setting))


def _claims(wanted: Sequence[Span]) -> list[Claim]:
    return [Claim(one.resource, one.start, one.end, one.shared) for one in wanted]


async def let_go(record: Record, owner: str) -> None:
    """Free what `owner` held."""
    await unbook(record.transaction, owner)


def occupies(appointment: Resource | None) -> bool:
    """Tell whether an appointment takes the time of its actors."""
    return appointment is not None and appointment.get("status") in OCCUPYING


def refusals(found: Sequence[Taken]) -> list[Issue]:
    """Return the refusal for each thing that is not free, the first of each resource."""
    first = {one.resource: one for one in reversed(found)}
    return [taken(one.resource, one.start, one.end, closed=one.closed) for one in first.values()]


async def actors_of_schedule(record: Record, slot: Resource) -> list[str]:
    """Return the names of whom and what a Slot's Schedule is of; of a Schedule kept elsewhere, none.

    Raises:
        Unprocessable: there is no such Schedule.

    """
    id_ = id_in(slot.get("schedule"), "Schedule")
    schedule = None if id_ is None else await record.get("Schedule", id_)
    if schedule is None:
        if comes_from_elsewhere(slot):
            return []
        raise Unprocessable(
            "A Slot is of a Schedule that exists. Create the Schedule first.",
            expression=["Slot.schedule"],
            rule="S-SLOT",
            source="FHIR R4 Slot.schedule",
        )
    return await actors_in(record, schedule)


async def actors_in(record: Record, schedule: Resource) -> list[str]:
    """Return the names under which they are booked whom and what a Schedule is of, each once."""
    names = [name for actor in schedule.get("actor", []) if (name := name_of(actor)) is not None]
    return list(dict.fromkeys([await one_name(record, name) for name in names]))


async def shut(record: Record, slot: Resource, id_: str) -> list[str]:
    """Close a Slot's Schedule for its time; return who is booked in it."""
    names = await actors_of_schedule(record, slot)
    return await close(record.transaction, f"Slot/{id_}", names, interval(slot["start"])[0], interval(slot["end"])[0])
