"""Scheduling's guards: an Appointment that is about to be booked, and the Slots that close or group time.

Double booking is prevented by the database (`shared/store/bookings.py`): what an appointment takes is written with it.
What has happened is recorded although it cannot have been: then a Task says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.scheduling.booking import (
    actors_of_schedule,
    group_of,
    held_for,
    hold,
    is_group,
    is_of_group,
    let_go,
    occupies,
    places_of,
    refusals,
    shut,
)
from services.scheduling.ground import ground_of, lock_patients, patient_in, start_of
from services.scheduling.memory import got, memory
from services.scheduling.rules.booking import (
    HERE,
    INTENDED,
    Span,
    is_coming,
    is_new_intent,
    no_time,
    says_there,
    span_of,
    too_early,
    watched_over,
)
from services.scheduling.rules.ground import not_living, not_one_patient, unmet
from services.scheduling.setting import Setting
from services.scheduling.slots import follow_bookings
from services.scheduling.telling import call_who_is_not_told, tell_of_change
from shared.fhir.codes import CLOSED_AND_BOOKED, DOUBLE_BOOKED, ID_FLAG, ID_TASK
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import actors, comes_from_elsewhere, has_died, visit_of
from shared.fhir.outcome import Issue, Unprocessable
from shared.fhir.raised import identifier, task
from shared.notify.telling import withdraw_when_stopped
from shared.runtime.raising import close_flag, close_task, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change, Guard
from shared.store.bookings import Taken


def guards(setting: Setting) -> Mapping[str, Sequence[Guard]]:
    """Return scheduling's guards by type, under a policy."""

    async def booking(change: Change, record: Record) -> None:
        await _booking(change, record, setting)

    async def slot(change: Change, record: Record) -> None:
        await _slot(change, record, setting)

    async def untold(change: Change, record: Record) -> None:
        await call_who_is_not_told(change, record, setting)

    return {"Appointment": (booking,), "Slot": (slot,), "Communication": (withdraw_when_stopped, untold)}


async def _booking(change: Change, record: Record, setting: Setting) -> None:
    owner, after, kept = f"Appointment/{change.id}", change.after, memory()
    now, policy = setting.clock(), setting.policy
    was = (change.before or {}).get("status")
    if was in (*INTENDED, *HERE) and was != (after or {}).get("status") and not is_coming(after, now, policy):
        await _settle(change.id, record, setting)
    if was in INTENDED and change.before is not None:
        await tell_of_change(change.id, change.before, after, record, setting)
    if after is not None and says_there(change.before, after):
        early = too_early({**after, "id": "" if change.before is None else change.id}, now, policy)
        if early is not None and not comes_from_elsewhere(after):
            raise Unprocessable([early])
    if after is None or not occupies(after):
        if occupies(change.before):
            await let_go(record, owner)
            await follow_bookings(record, [change.before], setting)
        return
    intent = is_new_intent(change.before, after)
    if not intent and change.before is not None and not _moved(change.before, after):
        return
    issues: list[Issue] = []
    if intent:
        patients = [f"Patient/{one}" for one in actors(after, "Patient")]
        if kept is None:  # else the operation has done both for all its visits
            stands_on_news = visit_of(after) in setting.policy.prerequisites
            await record.require_current(setting.news if stands_on_news else None, *patients)
            await lock_patients(record, after)
        issues = [
            *await _of_the_dead(after, record, setting),
            *await _of_its_group(after, record, setting),
            *await _judged(change.id, after, record, setting),
        ]
    found = await held_for(record, owner, after, setting)
    about_to_be = (start := start_of(after)) is not None and start >= setting.clock()
    standing = [one for one in found if about_to_be or not one.closed]
    if intent:
        issues.extend(refusals(standing))
        if issues:
            raise Unprocessable(issues)
    if found:
        await held_twice(change.id, after, standing, record, setting)
    if kept is not None:
        kept.booked.append(after)  # whose operation brings the Slots of all of them up to date
        return
    await follow_bookings(record, [change.before, after], setting)


async def _settle(id_: str, record: Record, setting: Setting) -> None:
    """Close what was raised about a visit that is not about to be any more."""
    now, why = setting.clock(), "The visit has begun, or is off."
    await close_flag(record, identifier(ID_FLAG, "ground", id_), now)
    for name in ("ground", "closed", "came"):
        await close_task(record, identifier(ID_TASK, name, id_), now, why=why)


def _moved(before: Resource, after: Resource) -> bool:
    names = ("start", "end", "participant", "serviceType", "slot")
    return not occupies(before) or any(before.get(name) != after.get(name) for name in names)


async def _of_the_dead(after: Resource, record: Record, setting: Setting) -> list[Issue]:
    """Return that nothing is booked ahead for who has died; what was before is recorded."""
    start = start_of(after)
    if start is not None and start < setting.clock():
        return []
    held = [await got(record, "Patient", one) for one in dict.fromkeys(actors(after, "Patient"))]
    dead = [one["id"] for one in held if one is not None and has_died(one)]
    return [not_living(dead, setting.policy)] if dead else []


async def _of_its_group(after: Resource, record: Record, setting: Setting) -> list[Issue]:
    """Return that a place in a group session is of another kind, or at another time."""
    group = await group_of(record, after) if "slot" in after else None
    if group is None or is_of_group(after, group):
        return []
    kind = visit_of_slot(group)
    visit = setting.policy.visits.get(kind or "")
    return [
        Issue(
            f"Slot/{group['id']} is a group session of the kind {kind} from {group['start']} to {group['end']}: a "
            "place in it is of that kind, and in that time. Correct them, or leave the Slot out.",
            code="business-rule",
            expression=("Appointment.slot",),
            rule="S-GROUP",
            source="KAP Exchange" if visit is None else visit.source,
            evidence=(f"Slot/{group['id']}",),
        )
    ]


async def _judged(id_: str, after: Resource, record: Record, setting: Setting) -> list[Issue]:
    visit = visit_of(after)
    issues = [] if span_of(after) is not None else [no_time()]
    if visit is None or visit not in setting.policy.prerequisites:
        return issues
    ground = await ground_of(record, {**after, "id": id_}, setting)
    issues.extend(unmet(visit, ground, start_of(after), setting.policy))
    if len(set(actors(after, "Patient"))) > 1:
        issues.append(not_one_patient(actors(after, "Patient"), setting.policy))
    return issues


async def held_twice(id_: str, after: Resource, found: Sequence[Taken], record: Record, setting: Setting) -> None:
    """Record a visit that is under way although somebody in it is in another: a person has to look."""
    await let_go(record, f"Appointment/{id_}")
    patient = patient_in(after)
    if not found or patient is None:
        return
    who = ", ".join(dict.fromkeys(one.resource for one in found))
    await raise_once(
        record,
        task(
            ("double", id_),
            patient=patient,
            code=DOUBLE_BOOKED,
            description=f"{who}: in this visit and in another at the same time. Correct the one that is wrong.",
            now=setting.clock(),
            priority="urgent",
            focus=f"Appointment/{id_}",
        ),
        reopen=True,
    )


async def _slot(change: Change, record: Record, setting: Setting) -> None:
    """A Slot that is busy-unavailable closes its Schedule's time; a group's takes its room and people."""
    owner, after = f"Slot/{change.id}", change.after
    if change.before is not None and is_group(change.before):
        await _of_the_group(change.before, after, record, setting)
    before_counts = change.before is not None and (is_group(change.before) or _closes(change.before))
    if after is None or after.get("status") == "entered-in-error" or not (is_group(after) or _closes(after)):
        if before_counts:
            await let_go(record, owner)
        return
    start, end = interval(after["start"])[0], interval(after["end"])[0]
    if end <= start:
        raise Unprocessable([no_time()])
    if is_group(after):
        if change.before is not None and all(change.before.get(one) == after.get(one) for one in _OF_A_GROUP):
            return
        names = await actors_of_schedule(record, after)
        _require_places(after, names, setting)
        wanted = [Span(name, start, end) for name in names]
        issues = refusals(await hold(record, owner, wanted))
        if issues:
            raise Unprocessable(issues)
        return
    for booked in await shut(record, after, change.id):
        await _closed_over(booked, record, setting)


async def _of_the_group(before: Resource, after: Resource | None, record: Record, setting: Setting) -> None:
    """Tell of each place in a group session that is off, closed, or of another time, kind or people now."""
    goes_on = after is not None and is_group(after) and not _closes(after) and after["status"] != "entered-in-error"
    if goes_on and after is not None and all(before.get(name) == after.get(name) for name in _OF_A_GROUP[:-1]):
        return
    taking = {"slot": f"Slot/{before['id']}", "status": ",".join(sorted(INTENDED))}
    for member in await record.search("Appointment", taking):
        await _closed_over(f"Appointment/{member['id']}", record, setting)


_OF_A_GROUP = ("start", "end", "schedule", "serviceType", "extension")


def _closes(slot: Resource) -> bool:
    return slot.get("status") == "busy-unavailable"


def _require_places(slot: Resource, names: Sequence[str], setting: Setting) -> None:
    visit = setting.policy.visits.get(visit_of_slot(slot) or "")
    staff = sum(name.startswith("Practitioner/") for name in names)
    most = 0 if visit is None else watched_over(names, visit)
    if not 0 < places_of(slot) <= most:
        raise Unprocessable(
            f"A group session of this kind with {staff} of the staff in its Schedule has from 1 to {most} places, and "
            "the extension group-places says how many. Add a monitor to the Schedule, or offer fewer places.",
            expression=["Slot.extension"],
            rule="S-GROUP",
            source="KAP Exchange" if visit is None else visit.source,
            evidence=[slot["schedule"]["reference"]],
        )


def visit_of_slot(slot: Resource) -> str | None:
    """Return the kind of visit a Slot is for."""
    return visit_of({"resourceType": "Appointment", "serviceType": slot.get("serviceType", [])})


async def _closed_over(owner: str, record: Record, setting: Setting) -> None:
    """Tell of a visit that is booked in a time that is closed now."""
    type_, _, id_ = owner.partition("/")
    appointment = await record.get(type_, id_)
    patient = None if appointment is None or type_ != "Appointment" else patient_in(appointment)
    if appointment is None or patient is None:
        return
    await raise_once(
        record,
        task(
            ("closed", id_),
            patient=patient,
            code=CLOSED_AND_BOOKED,
            description=f"The visit at {appointment.get('start')} is booked in a time that was closed. Move it by "
            f"Appointment/{id_}/$reschedule, or cancel it and tell the patient.",
            now=setting.clock(),
            priority="urgent",
            focus=owner,
        ),
        reopen=True,
    )
