"""Looking for time: who works, who is taken, and what is free together, from the Schedules and bookings held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.scheduling.rules.availability import Grid, Working, working_bits, working_of
from services.scheduling.rules.booking import booked_actors, name_of
from services.scheduling.rules.finding import Candidate, Wanted
from services.scheduling.rules.policy import Need, Visit
from services.scheduling.setting import Setting
from shared.fhir.codes import KAP, ROLES
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of
from shared.fhir.outcome import Unprocessable
from shared.runtime.record import Record
from shared.store.bookings import Busy, busy


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked for.

    Attributes:
        visit: the kind.
        low, high: the visit is in [low, high).
        patient: ``Patient/<id>``, whose time counts, too.
        only: names of actors; of a role that one of them can have, no other is offered.
        by_video: whether it is by video.
        minutes: how long; None: as policy says.

    """

    visit: str
    low: datetime
    high: datetime
    patient: str | None = None
    only: frozenset[str] = frozenset()
    by_video: bool = False
    minutes: int | None = None


@dataclass(slots=True)
class Board:
    """Who and what there is in a span of time, with what is taken of it.

    Attributes:
        grid: the time.
        people: by name, all who have a role.
        roles: names by role.
        patient: whose time it takes, too.
        offered: by name, the kinds of visits that somebody's Schedule is for; none: all.

    """

    grid: Grid
    people: dict[str, Candidate]
    roles: dict[str, list[str]]
    patient: Candidate
    offered: dict[str, frozenset[str]]

    def wanted(self, visit: str, kind: Visit, asked: Asked) -> Wanted:
        """Return a visit to be placed on this board."""
        needs = [need for need in kind.needs if need.by_video or not asked.by_video]
        return Wanted(
            timedelta(minutes=asked.minutes or kind.minutes),
            needs,
            {need.role: self._candidates(need, visit, asked.only) for need in needs},
            self.patient,
        )

    def _candidates(self, need: Need, visit: str, only: frozenset[str]) -> list[Candidate]:
        named = [name for name in self.roles.get(need.role, ()) if name.startswith(f"{need.kind}/")]
        able = [name for name in named if not self.offered[name] or visit in self.offered[name]]
        chosen = [name for name in able if name in only] or able
        return [self.people[name] for name in chosen]


def visit_asked(name: str, setting: Setting) -> Visit:
    """Return what policy says of a kind of visit.

    Raises:
        Unprocessable: it knows no such kind.

    """
    kind = setting.policy.visits.get(name)
    if kind is None:
        known = ", ".join(sorted(setting.policy.visits))
        raise Unprocessable(
            f"There is no kind of visit '{name}'. There are: {known}. Ask for one of them.",
            code="code-invalid",
            expression=["Parameters.parameter"],
            rule="S-KIND",
            source="KAP Exchange",
        )
    return kind


def unreadable_hours(schedule: Resource, error: ValueError) -> Unprocessable:
    """Return the refusal to use a Schedule whose hours cannot be read."""
    return Unprocessable(
        f"The hours of Schedule/{schedule['id']} cannot be used: {error}. Correct its extensions available-time and "
        "timezone.",
        expression=["Schedule.extension"],
        rule="S-HOURS",
        source="KAP Exchange",
        evidence=[f"Schedule/{schedule['id']}"],
    )


async def board_of(record: Record, asked: Asked, setting: Setting) -> Board:
    """Return the board of a span of time: all Schedules' hours, and what is taken of them.

    Raises:
        Unprocessable: a Schedule's hours cannot be read; or the span is too long.

    """
    most = timedelta(hours=setting.policy.most_found.hours)
    if not asked.low < asked.high <= asked.low + most:
        raise Unprocessable(
            f"The time that is looked at ends after its start, and is not longer than {most.days} days. Correct start "
            "and end.",
            expression=["Parameters.parameter"],
            rule="S-WINDOW",
            source=setting.policy.most_found.source,
        )
    grid = Grid.over(asked.low, asked.high, timedelta(minutes=setting.policy.grid.minutes))
    works, roles, offered = _actors(await record.search("Schedule", {"active": "true"}), setting)
    names = [*works, *([asked.patient] if asked.patient else [])]
    taken = await busy(record.transaction, names, grid.at(0), grid.at(grid.count))
    known = await _known(record, asked.patient)
    bits: dict[tuple[Working, ...], int] = {}
    people = {}
    for name, working in works.items():
        key = tuple(working)
        if key not in bits:
            bits[key] = working_bits(grid, key)
        people[name] = Candidate(name, bits[key], known=name in known)
    patient = Candidate(asked.patient or "", grid.everything)
    _take(grid, people, patient, taken)
    return Board(grid, people, roles, patient, offered)


def _actors(
    schedules: Iterable[Resource], setting: Setting
) -> tuple[dict[str, list[Working]], dict[str, list[str]], dict[str, frozenset[str]]]:
    works: dict[str, list[Working]] = {}
    roles: dict[str, list[str]] = {}
    offered: dict[str, frozenset[str]] = {}
    for schedule in schedules:
        try:
            working = working_of(schedule, setting.policy.zone.name)
        except ValueError as error:
            raise unreadable_hours(schedule, error) from None
        visits = frozenset(codes_of(schedule.get("serviceType"), KAP))
        for actor in schedule.get("actor", []):
            name = name_of(actor)
            if name is None:
                continue
            works.setdefault(name, []).append(working)
            offered[name] = offered[name] | visits if offered.get(name) and visits else visits
            for role in codes_of(schedule.get("specialty"), KAP):
                if role in ROLES and name not in roles.setdefault(role, []):
                    roles[role].append(name)
    return works, roles, offered


def _take(grid: Grid, people: dict[str, Candidate], patient: Candidate, taken: Sequence[Busy]) -> None:
    for one in taken:
        bits = grid.touching(one.start, one.end)
        candidate = people.get(one.resource, patient)
        if one.lane is None:
            candidate.taken |= bits
        else:
            candidate.lanes[one.lane] = candidate.lanes.get(one.lane, 0) | bits
        candidate.load += bits.bit_count()


async def _known(record: Record, patient: str | None) -> set[str]:
    """Return the clinicians whom a patient has met, or is to meet."""
    if patient is None:
        return set()
    met = await record.search("Appointment", {"patient": patient})
    return {name for one in met for name in booked_actors(one) if name.startswith("Practitioner/")}
