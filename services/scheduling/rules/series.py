"""The visits of a whole course, laid one after the other in the time that is free; what has no place says why.

A session that something has to follow (integration within three days) is only laid where that can follow, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.scheduling.rules.availability import Grid
from services.scheduling.rules.finding import Kept, Option, Wanted, best_first, give_back
from services.scheduling.rules.policy import Course, Step
from shared.fhir.dates import zulu
from shared.fhir.outcome import Issue


@dataclass(frozen=True, slots=True)
class Place:
    """A visit of the course that has its time: which step, the how manieth, and who."""

    step: str
    visit: str
    number: int
    option: Option


@dataclass(frozen=True, slots=True)
class Missing:
    """A visit that has none: the window that was looked at, and what was lacking."""

    step: str
    visit: str
    number: int
    why: str
    source: str

    def as_issue(self, order: str) -> Issue:
        """Return it as an issue; the course is of this order (``MedicationRequest/<id>``)."""
        return Issue(
            f"{self.step} {self.number} ({self.visit}) has no place: {self.why} Ask for another time, or add hours.",
            code="business-rule",
            expression=("Parameters.parameter",),
            rule="S-SERIES",
            source=self.source,
            evidence=(order,),
        )


class Laying:
    """Lays a course.

    Args:
        course: its steps.
        wanted: returns a visit of a kind to be placed; all share the same people.
        grid: the time.
        begin: nothing is laid before it.
        sessions: how many dosing sessions.
        least: the least time between two of them, by route and by the patient's plan.
        continuity: how much later a visit may be to be with somebody whom the patient knows.
        is_far: tells of a time whether it is far enough from the doses that the patient has, or had, already.

    """

    def __init__(
        self,
        course: Course,
        wanted: Callable[[str], Wanted],
        grid: Grid,
        begin: datetime,
        *,
        sessions: int,
        least: timedelta,
        continuity: timedelta,
        is_far: Callable[[datetime], bool],
    ) -> None:
        self._course = course
        self._wanted = wanted
        self._grid = grid
        self._begin = begin
        self._sessions = sessions
        self._least = least
        self._continuity = continuity
        self._is_far = is_far
        self.placed: list[Place] = []
        self.missing: list[Missing] = []

    def lay(self) -> None:
        """Place every visit that has a place; `placed` and `missing` say what became of each."""
        for name, step in self._course.steps.items():
            if not step.each:
                self._step(name, step)
        self.placed.sort(key=lambda one: one.option.start)

    def _followers(self, name: str) -> Mapping[str, Step]:
        return {other: step for other, step in self._course.steps.items() if step.each and step.after == name}

    def _ends(self, name: str | None) -> list[datetime]:
        return [one.option.end for one in self.placed if one.step == name]

    def _step(self, name: str, step: Step) -> None:
        anchor = self._begin if step.after is None else max(self._ends(step.after), default=None)
        if anchor is None:
            self._lacks(name, step, 1, f"{step.after}, which it follows, has no place.")
            return
        for number in range(1, (self._sessions if step.count is None else step.count) + 1):
            before = max(self._ends(name), default=None)
            if before is None:
                low, high = anchor + _hours(step.earliest_hours), anchor + _hours(step.latest_hours)
            else:
                between = max(_hours(step.between_hours), self._least if step.count is None else timedelta(0))
                low = before + between
                high = low + max(_hours(step.latest_hours) - _hours(step.between_hours), timedelta(0))
            if not self._place(name, step, number, low, high):
                return

    def _place(self, name: str, step: Step, number: int, low: datetime, high: datetime) -> bool:
        wanted, followers = self._wanted(step.visit), self._followers(name)
        why = ""
        for option in self._options(wanted, low, high):
            if step.count is None and not self._is_far(option.start):
                why = why or "each time that is free is too near to a dose that is booked or was given"
                continue
            kept = wanted.take(self._grid, option)
            following, lacking = self._follow(followers, number, option)
            if lacking is None:
                self.placed.extend([Place(name, step.visit, number, option), *following])
                return True
            why = f"after each time that is free there is no place for {lacking}"
            give_back(kept)
        self._lacks(name, step, number, f"{why or self._why(wanted, low, high)}.")
        return False

    def _follow(self, followers: Mapping[str, Step], number: int, option: Option) -> tuple[list[Place], str | None]:
        """Place what follows a session; where one has no place, take all back and say which."""
        placed: list[Place] = []
        undo: list[list[Kept]] = []
        for name, step in followers.items():
            wanted = self._wanted(step.visit)
            low, high = option.end + _hours(step.earliest_hours), option.end + _hours(step.latest_hours)
            chosen = next(self._options(wanted, low, high), None)
            if chosen is None:
                for kept in reversed(undo):
                    give_back(kept)
                return [], f"{name} ({self._why(wanted, low, high)})"
            undo.append(wanted.take(self._grid, chosen))
            placed.append(Place(name, step.visit, number, chosen))
        return placed, None

    def _options(self, wanted: Wanted, low: datetime, high: datetime) -> Iterator[Option]:
        found = wanted.options(self._grid, self._grid.within(low, high))
        return best_first(found, self._continuity, len(wanted.needs))

    def _why(self, wanted: Wanted, low: datetime, high: datetime) -> str:
        lacking = wanted.lacking(self._grid, self._grid.within(low, high))
        return f"no time for {', '.join(lacking)} from {zulu(low)} to {zulu(high)}"

    def _lacks(self, name: str, step: Step, number: int, why: str) -> None:
        self.missing.append(Missing(name, step.visit, number, why, step.source))
        for other, follower in self._followers(name).items():
            self.missing.append(
                Missing(other, follower.visit, number, f"{name} {number}, which it follows, has no place.", step.source)
            )


def _hours(count: int) -> timedelta:
    return timedelta(hours=count)


def summary(placed: Sequence[Place]) -> str:
    """Return the course in a sentence: how many of each step."""
    counted: dict[str, int] = {}
    for one in placed:
        counted[one.step] = counted.get(one.step, 0) + 1
    return ", ".join(f"{count} {step}" for step, count in counted.items())
