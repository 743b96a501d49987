"""Scheduling's rules: what a dosing session stands on, how far apart two are, and who is booked already. Pure.

The numbers come from `policies/scheduling.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.outcome import Issue

INTENDED: Final = frozenset(("booked", "pending"))
"""Statuses that say that a visit is about to be."""

OCCUPYING: Final = frozenset(("booked", "pending", "arrived", "checked-in"))
"""Statuses in which an appointment takes the time of its actors."""

COUNTING: Final = frozenset((*OCCUPYING, "fulfilled"))
"""Statuses in which a dosing session counts for the spacing of others."""

EXCLUSIVE: Final = ("Patient", "Practitioner", "PractitionerRole", "Location", "Device")
"""Kinds of actors that can only be in one appointment at a time."""


class Hours(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of hours."""

    hours: int


class SchedulingPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `scheduling`; `spacing` by route (SNOMED CT)."""

    spacing: dict[str, Hours]
    longest_visit: Hours
    ground: Cited


@dataclass(frozen=True, slots=True)
class Ground:
    """What is held about the patient of a dosing session.

    Attributes:
        outcome: of the newest eligibility decision; None: there is none.
        assessment: its reference.
        episode_status: of the patient's course; None: there is none.
        order: reference of the order the appointment names; None: it names none.
        order_active: whether that order is held, active and this patient's.
        routes: of the order.
        consented: routes consented to at the start.
        planned: whether there is an active CarePlan.

    """

    outcome: str | None
    assessment: str | None
    episode_status: str | None
    order: str | None
    order_active: bool
    routes: tuple[str, ...]
    consented: frozenset[str]
    planned: bool


def unmet(ground: Ground, policy: SchedulingPolicy) -> list[Issue]:
    """Return what a dosing session lacks; nothing when it may be booked."""
    found: list[tuple[str, str, str]] = []
    if ground.outcome is None:
        found.append(("S-ELIGIBLE", "there is no eligibility decision", "Screen the patient (Patient/<id>/$screen)."))
    elif ground.outcome != "eligible":
        what = f"the newest eligibility decision is {ground.outcome} ({ground.assessment})"
        found.append(("S-ELIGIBLE", what, "See its findings, settle them and screen again."))
    if ground.episode_status not in ("planned", "active"):
        what = "there is no course" if ground.episode_status is None else f"the course is {ground.episode_status}"
        found.append(("S-EPISODE", what, "A referral and an eligible screening open it; a hold is lifted by a person."))
    if ground.order is None:
        found.append(
            ("S-ORDER", "no order is named", "Name the MedicationRequest in Appointment.supportingInformation.")
        )
    elif not ground.order_active or not ground.routes:
        what = f"{ground.order} is not known here as an active order of this patient with a route"
        found.append(("S-ORDER", what, "Order the drug first, or book again in a moment."))
    lacking = [route for route in ground.routes if route not in ground.consented]
    if lacking or (not ground.routes and not ground.consented):
        what = f"no consent is in force at that time for route {', '.join(lacking) or 'of the order'}"
        found.append(("S-CONSENT", what, "Obtain the patient's consent for the route."))
    if not ground.planned:
        found.append(("S-PLAN", "there is no active CarePlan", "Make the treatment plan first."))
    return [
        Issue(
            f"The dosing session cannot be booked: {what}. {advice}",
            code="business-rule",
            expression=("Appointment",),
            rule=rule,
            source=policy.ground.source,
        )
        for rule, what, advice in found
    ]


def not_one_patient(policy: SchedulingPolicy) -> Issue:
    """Return the refusal of a dosing session for several patients: only one's ground could be looked at."""
    return Issue(
        "A dosing session is booked for one patient. Make an appointment for each.",
        code="business-rule",
        expression=("Appointment.participant",),
        rule="S-PATIENT",
        source=policy.ground.source,
    )


def too_close(
    start: datetime, others: Iterable[Resource], routes: Sequence[str], policy: SchedulingPolicy
) -> list[Issue]:
    """Return which other dosing sessions of the patient are nearer than the route's minimum spacing."""
    limits = [policy.spacing[route] for route in routes if route in policy.spacing]
    if not limits:
        return []
    limit = max(limits, key=lambda one: one.hours)
    near = [other for other in others if abs(start - interval(other["start"])[0]) < timedelta(hours=limit.hours)]
    return [
        Issue(
            f"Appointment/{other['id']} is a dosing session at {other['start']}; by this route they are at least "
            f"{limit.hours} hours apart. Choose another time.",
            code="business-rule",
            expression=("Appointment.start",),
            rule="S-SPACING",
            source=limit.source,
        )
        for other in near
    ]


def span_of(appointment: Resource) -> tuple[datetime, datetime] | None:
    """Return start and end of an appointment; None where one is missing or the end is not after the start."""
    if "start" not in appointment or "end" not in appointment:
        return None
    start, end = interval(appointment["start"])[0], interval(appointment["end"])[0]
    return (start, end) if start < end else None


def overlapping(span: tuple[datetime, datetime], others: Iterable[Resource]) -> list[Resource]:
    """Return the appointments that take a part of [start, end)."""
    start, end = span
    found = []
    for other in others:
        theirs = span_of(other)
        if theirs is not None and theirs[0] < end and start < theirs[1]:
            found.append(other)
    return found


def exclusive_actors(appointment: Resource) -> list[str]:
    """Return the references of the actors who can be in one appointment only, sorted, each once; not who declined."""
    found = set()
    for participant in appointment.get("participant", []):
        literal = str(participant.get("actor", {}).get("reference", "")).partition("/_history/")[0]
        type_, _, id_ = literal.partition("/")
        if type_ in EXCLUSIVE and id_ and participant.get("status") != "declined":
            found.add(literal)
    return sorted(found)


def double_booked(actor: str, others: Iterable[Resource]) -> list[Issue]:
    """Return the refusal for each appointment that already has `actor`."""
    return [
        Issue(
            f"{actor} is in Appointment/{other['id']} from {zulu(interval(other['start'])[0])} to "
            f"{zulu(interval(other['end'])[0])}. Choose another time or another participant.",
            code="conflict",
            expression=("Appointment.participant",),
            rule="S-DOUBLE",
            source="KAP Exchange",
        )
        for other in others
    ]


def no_time() -> Issue:
    """Return the refusal of a booking without a start before its end."""
    return Issue(
        "A booked visit needs its start and a later end.",
        code="required",
        expression=("Appointment.start", "Appointment.end"),
        rule="S-TIME",
        source="KAP Exchange",
    )


def is_new_intent(before: Resource | None, after: Resource | None) -> bool:
    """Tell whether a change books: it makes a booking, or changes when, who or what of one.

    Anything else about a booking is a fact or a remark, and is recorded whatever its ground has become.
    """
    if after is None or after.get("status") not in INTENDED:
        return False
    if before is None or before.get("status") not in INTENDED:
        return True
    return any(
        before.get(element) != after.get(element)
        for element in ("start", "end", "participant", "serviceType", "supportingInformation")
    )
