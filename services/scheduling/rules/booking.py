"""What a booking takes of whom and for how long, and when a change is one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from services.scheduling.rules.policy import Need, SchedulingPolicy, Visit
from shared.fhir.codes import KAP, VIRTUAL
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, has_code, visit_of
from shared.fhir.outcome import Issue

INTENDED: Final = frozenset(("booked", "pending"))
"""Statuses that say that a visit is about to be."""

OCCUPYING: Final = frozenset(("booked", "pending", "arrived", "checked-in"))
"""Statuses in which an appointment takes the time of its actors."""

HERE: Final = frozenset(("arrived", "checked-in"))
"""Statuses that say that the patient is there."""

COUNTING: Final = frozenset((*OCCUPYING, "fulfilled"))
"""Statuses in which a dosing session counts for the spacing of others."""

REASONS_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason"
"""Of the codes that say why a visit was cancelled."""

EXCLUSIVE: Final = ("Patient", "Practitioner", "PractitionerRole", "Location", "Device")
"""Kinds of actors that can only be in one appointment at a time, unless policy says that they may be shared."""

JUDGED: Final = ("start", "end", "participant", "serviceType", "supportingInformation", "slot")
"""Elements that make another booking of one."""


@dataclass(frozen=True, slots=True)
class Span:
    """What a booking takes: a resource in [start, end); `shared`: by how many it may be shared, 0: by none."""

    resource: str
    start: datetime
    end: datetime
    shared: int = 0


def span_of(appointment: Resource) -> tuple[datetime, datetime] | None:
    """Return start and end of an appointment; None where one is missing or the end is not after the start."""
    if "start" not in appointment or "end" not in appointment:
        return None
    start, end = interval(appointment["start"])[0], interval(appointment["end"])[0]
    return (start, end) if start < end else None


def name_of(actor: dict[str, Any]) -> str | None:
    """Return the name under which a participant's actor is booked, None where nobody is named who can be.

    A reference counts as ``Type/id`` however it is written: relative, absolute, with a version. One by identifier only
    counts as ``Type?identifier=system|value``.
    """
    parts = str(actor.get("reference", "")).partition("/_history/")[0].rsplit("/", 1)
    type_ = parts[0].split("/")[-1]
    if type_ in EXCLUSIVE and parts[-1]:
        return f"{type_}/{parts[-1]}"
    value = actor.get("identifier", {}).get("value")
    if actor.get("type") in EXCLUSIVE and value:
        return f"{actor['type']}?identifier={actor['identifier'].get('system', '')}|{value}"
    return None


def roles_of(participant: Resource) -> list[str]:
    """Return the roles of the house (``therapist``) that a participant has."""
    return codes_of(participant.get("type"), KAP)


def booked_actors(appointment: Resource) -> dict[str, list[str]]:
    """Return the actors of an appointment, by the name they are booked under, with their roles; not who declined."""
    found: dict[str, list[str]] = {}
    for participant in appointment.get("participant", []):
        name = name_of(participant.get("actor", {}))
        if name is not None and participant.get("status") != "declined":
            found.setdefault(name, []).extend(roles_of(participant))
    return dict(sorted(found.items()))


def says_there(before: Resource | None, after: Resource) -> bool:
    """Tell whether a change says anew of a visit that somebody is there, or that it is over, or when it was."""
    if after.get("status") not in (*HERE, "fulfilled"):
        return False
    return before is None or any(before.get(name) != after.get(name) for name in ("status", "start"))


def is_by_video(appointment: Resource) -> bool:
    """Tell whether a visit is by video."""
    return has_code(appointment.get("serviceType"), VIRTUAL)


def spans(appointment: Resource, policy: SchedulingPolicy) -> list[Span]:
    """Return what an appointment takes of each of its actors; nothing where it has no time.

    What follows the visit (cleaning, recovery) is taken with it. A member of a group session takes a place in it, and
    not the room and people, which the group's Slot has taken.
    """
    span = span_of(appointment)
    if span is None:
        return []
    start, end = span
    visit = policy.visits.get(visit_of(appointment) or "")
    needs = visit.needs if visit else ()
    return [
        Span(name, start, end + timedelta(minutes=_after(name, roles, needs)), _shared(name, roles, needs))
        for name, roles in booked_actors(appointment).items()
    ]


def _need(name: str, roles: Sequence[str], needs: Iterable[Need]) -> list[Need]:
    kind = name.partition("/")[0]
    return [
        need for need in needs if need.kind == kind and (need.role in roles or (not roles and kind != "Practitioner"))
    ]


def _after(name: str, roles: Sequence[str], needs: Iterable[Need]) -> int:
    return max((need.after for need in _need(name, roles, needs)), default=0)


def _shared(name: str, roles: Sequence[str], needs: Iterable[Need]) -> int:
    """Return by how many an actor may be shared: only where each role he has here is one that may."""
    found = _need(name, roles, needs)
    named = {need.role for need in found}
    if not roles or not named.issuperset(roles):
        return 0
    return min((need.shared for need in found), default=0)


def taken(resource: str, start: datetime, end: datetime, *, closed: bool) -> Issue:
    """Return the refusal where somebody or something is not free; it does not tell for whom."""
    what = "is closed" if closed else "is taken"
    return Issue(
        f"{resource} {what} from {zulu(start)} to {zulu(end)}. Choose another time or another participant; "
        "Appointment/$find shows what is free.",
        code="conflict",
        expression=("Appointment.participant",),
        rule="S-CLOSED" if closed else "S-DOUBLE",
        source="KAP Exchange",
        evidence=(resource,),
    )


def no_time() -> Issue:
    """Return the refusal of a booking without a start before its end."""
    return Issue(
        "A booked visit needs its start and a later end. Give both.",
        code="required",
        expression=("Appointment.start", "Appointment.end"),
        rule="S-TIME",
        source="KAP Exchange",
    )


def is_coming(appointment: Resource | None, now: datetime, policy: SchedulingPolicy) -> bool:
    """Tell whether a visit is about to be: booked or held, or so far ahead that nobody can be there."""
    if appointment is None or appointment.get("status") in INTENDED:
        return appointment is not None
    span = span_of(appointment)
    early = span is not None and span[0] - now > timedelta(hours=policy.check_in.hours)
    return early and appointment.get("status") in HERE


def too_early(appointment: Resource, now: datetime, policy: SchedulingPolicy) -> Issue | None:
    """Return the refusal of saying of a visit that is far ahead that somebody is there, or that it is over."""
    span = span_of(appointment)
    if span is None or span[0] - now <= timedelta(hours=policy.check_in.hours):
        return None
    return Issue(
        f"The visit begins at {zulu(span[0])}: that the patient is there is said {policy.check_in.hours} hours before "
        "at the earliest. Wait until then, or move the visit by $reschedule.",
        code="business-rule",
        expression=("Appointment.status",),
        rule="S-STATUS",
        source=policy.check_in.source,
        evidence=(f"Appointment/{appointment['id']}",) if appointment.get("id") else tuple(booked_actors(appointment)),
    )


def is_new_intent(before: Resource | None, after: Resource | None) -> bool:
    """Tell whether a change books: it makes a booking, or changes when, who or what of one.

    Anything else about a booking is a fact or a remark, and is recorded whatever its ground has become. A held time
    is judged once more when it is booked.
    """
    if after is None or after.get("status") not in INTENDED:
        return False
    if before is None or before.get("status") not in INTENDED or before["status"] != after["status"]:
        return True
    return any(before.get(element) != after.get(element) for element in JUDGED)


def watched_over(names: Iterable[str], visit: Visit) -> int:
    """Return how many patients a group session of a kind has at the most, with these people and this room."""
    staff = sum(name.startswith("Practitioner/") for name in names)
    return min(visit.group, staff * visit.patients_per_monitor)


def no_groups(name: str, visit: Visit) -> Issue:
    """Return the refusal of a group session of a kind that is not held in groups."""
    return Issue(
        f"Visits of the kind {name} are not held in groups. Leave out the parameter group.",
        code="business-rule",
        expression=("Parameters.parameter",),
        rule="S-GROUP",
        source=visit.source,
    )
