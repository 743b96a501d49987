"""The form of the policy's section `scheduling`."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.zones import Zone

Prerequisite: TypeAlias = Literal[
    "eligible", "course", "consent", "plan", "order", "rems", "spacing", "preparation", "escort", "weight"
]


class Hours(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of hours."""

    hours: int


class Minutes(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of minutes."""

    minutes: int


class Need(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody or something that a visit needs.

    Attributes:
        role: as `Schedule.specialty` and `Appointment.participant.type` name it.
        kind: Practitioner, Location or Device.
        shared: by how many visits at a time it may be shared; 0: by none.
        after: minutes that it is taken after the visit's end (cleaning, recovery, notes).
        by_video: whether a visit by video needs it, too.

    """

    role: str
    kind: Literal["Practitioner", "Location", "Device"]
    shared: int = 0
    after: int = 0
    by_video: bool = True


class Visit(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of visit: how long, and what it needs."""

    minutes: int
    needs: tuple[Need, ...]
    group: int = 0
    """Patients in a group session of this kind, at most; 0: there are none."""
    patients_per_monitor: int = 0


class Required(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prerequisite of a kind of visit.

    Attributes:
        by: ``booking``: without it the visit is not booked; ``visit``: it is to be met when the visit comes, people are
            told in time.
        days: how old the knowledge may be on the day of the visit.
        count: how many (preparation sessions).
        routes: only where the order has one of these routes (SNOMED CT).

    """

    by: Literal["booking", "visit"]
    days: int | None = None
    count: int | None = None
    routes: tuple[str, ...] | None = None


class Message(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a patient is told before a visit.

    Attributes:
        hours_before: when; earlier where a medicine is to be held for longer.
        hold: said besides to a patient who is to hold a medicine for {hours} hours; empty: nothing.
        visits: of which kinds.
        category: FHIR's.
        subject, text: what; ``{date}``, ``{time}`` and ``{zone}`` are those of the visit.

    """

    hours_before: int
    visits: tuple[str, ...]
    category: Literal["reminder", "instruction"]
    subject: str
    text: str
    hold: str = ""


class Step(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step of a course.

    Attributes:
        visit: its kind.
        count: how often; None: once for each dosing session.
        after: the step it follows; None: the course's beginning.
        each: whether each one follows its own of `after` (an integration session each its dosing session), else the
            last of `after`.
        earliest_hours, latest_hours: the window after the end of what it follows, and after the one before of its own.
        between_hours: the least time from one to the next of the same step.

    """

    visit: str
    count: int | None = None
    after: str | None = None
    each: bool = False
    earliest_hours: int
    latest_hours: int
    between_hours: int = 0


class Course(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a course of one route is laid: its steps, and the dosing sessions in it."""

    sessions: int
    steps: dict[str, Step]


class SchedulingPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `scheduling`.

    Attributes:
        ground: where the rule comes from that a visit stands on something.
        zone: the clinic's time zone, for who names none of his own.
        grid: visits that are offered begin at multiples of it.
        hold: how long a held time is kept.
        confirm: how long a visit that is pending, and was not held by `$hold`, is kept until everybody said yes to it.
        offer: how long a freed time is kept for who was waiting.
        continuity: how much later a visit may be to be with somebody whom the patient knows.
        watch: how long before a visit what it needs by then is looked at.
        check_in: how long before its start it may be said of a visit that the patient is there, at the earliest.
        no_show: how long after its start a visit that nobody came to is asked about.
        most_found: how far ahead, at most, a free time is looked for at once.
        spacing: hours between two doses, by route (SNOMED CT).
        visits: by kind.
        prerequisites: by kind of visit and name.
        messages: by name.
        courses: by route (SNOMED CT).

    """

    ground: Cited
    zone: Zone
    grid: Minutes
    hold: Minutes
    confirm: Hours
    offer: Minutes
    continuity: Hours
    watch: Hours
    check_in: Hours
    no_show: Minutes
    most_found: Hours
    spacing: dict[str, Hours]
    visits: dict[str, Visit]
    prerequisites: dict[str, dict[Prerequisite, Required]]
    messages: dict[str, Message]
    courses: dict[str, Course]
