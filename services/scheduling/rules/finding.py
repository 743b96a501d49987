"""Who and what is free together, best first."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeAlias

from services.scheduling.rules.availability import Grid, bits_of, fits
from services.scheduling.rules.policy import Need


@dataclass(slots=True)
class Candidate:
    """Somebody or something that can have a role.

    Attributes:
        name: ``Practitioner/<id>``.
        working: bits in which it is there at all.
        taken: bits in which all of it is taken.
        lanes: bits in which each lane is taken, for who may be shared.
        known: whether the patient knows it.
        load: how much of it is taken: of two, the one with less is chosen.

    """

    name: str
    working: int
    taken: int = 0
    lanes: dict[int, int] = field(default_factory=dict)
    known: bool = False
    load: int = 0
    _rooms: dict[tuple[int, int], int] = field(default_factory=dict, repr=False, compare=False)

    def room(self, shared: int, steps: int) -> int:
        """Return the bits from which on it is free for `steps` steps in a row: worked out once until it is taken."""
        key = (shared, steps)
        if key not in self._rooms:
            self._rooms[key] = fits(self.free(shared), steps)
        return self._rooms[key]

    def free(self, shared: int) -> int:
        """Return the bits in which it is free for one who shares it with `shared` at most (0: alone)."""
        open_ = self.working & ~self.taken
        if shared == 0:
            for bits in self.lanes.values():
                open_ &= ~bits
            return open_
        full = -1
        for lane in range(shared):
            full &= self.lanes.get(lane, 0)
        return open_ & ~full

    def take(self, bits: int, shared: int) -> None:
        """Note that it is taken: of a shared one the first lane that is free."""
        self._rooms = {}
        if shared == 0:
            self.taken |= bits
            return
        lane = next((one for one in range(shared) if not self.lanes.get(one, 0) & bits), None)
        if lane is None:
            self.taken |= bits
        else:
            self.lanes[lane] = self.lanes.get(lane, 0) | bits

    def kept(self) -> Kept:
        """Return itself with what is taken of it now."""
        return self, self.taken, dict(self.lanes), self.known

    def restore(self, kept: Kept) -> None:
        """Become again what it was."""
        _, self.taken, lanes, self.known = kept
        self.lanes, self._rooms = dict(lanes), {}


Kept: TypeAlias = tuple[Candidate, int, dict[int, int], bool]


@dataclass(frozen=True, slots=True)
class Option:
    """A time at which everybody is free: who has which role, and how many of them the patient knows."""

    start: datetime
    end: datetime
    people: Mapping[str, str]
    known: int


@dataclass(slots=True)
class Wanted:
    """A visit to be placed.

    Attributes:
        length: of the visit.
        needs: whom and what.
        candidates: by role.
        patient: whose time it takes, too.

    """

    length: timedelta
    needs: Sequence[Need]
    candidates: Mapping[str, Sequence[Candidate]]
    patient: Candidate

    def starts(self, grid: Grid) -> int:
        """Return the bits at which the visit can begin."""
        possible = self.patient.room(0, grid.steps(self.length)) & grid.everything
        for need in self.needs:
            possible &= self._role(grid, need)
        return possible

    def lacking(self, grid: Grid, window: int) -> list[str]:
        """Return the roles that nobody is free for in the window; where each has somebody, "everybody together"."""
        alone = [need.role for need in self.needs if not self._role(grid, need) & window]
        if not self.patient.room(0, grid.steps(self.length)) & window:
            alone.append("patient")
        return alone or ["everybody together"]

    def _role(self, grid: Grid, need: Need) -> int:
        steps = self._steps(grid, need)
        found = 0
        for candidate in self.candidates.get(need.role, ()):
            found |= candidate.room(need.shared, steps)
        return found

    def _steps(self, grid: Grid, need: Need) -> int:
        return grid.steps(self.length + timedelta(minutes=need.after))

    def options(self, grid: Grid, window: int) -> Iterator[Option]:
        """Yield a choice of people for every start in the window at which there is one, earliest first."""
        table = [(need, self._ranked(grid, need)) for need in self.needs]
        for bit in bits_of(self.starts(grid) & window):
            chosen = _choose(table, bit)
            if chosen is not None:
                known = sum(one.known for one in chosen.values())
                start = grid.at(bit)
                yield Option(start, start + self.length, {role: one.name for role, one in chosen.items()}, known)

    def _ranked(self, grid: Grid, need: Need) -> list[tuple[Candidate, int]]:
        steps = self._steps(grid, need)
        ranked = sorted(self.candidates.get(need.role, ()), key=lambda one: (not one.known, one.load, one.name))
        return [(one, one.room(need.shared, steps)) for one in ranked]

    def take(self, grid: Grid, option: Option) -> list[Kept]:
        """Note that the people of an option are taken; return what to give to `give_back` to undo it."""
        needed = [(option.people[need.role], need.after, need.shared, need.role) for need in self.needs]
        kept = [self.patient.kept()]
        self.patient.take(grid.touching(option.start, option.end), 0)
        for name, after, shared, role in needed:
            candidate = next(one for one in self.candidates[role] if one.name == name)
            kept.append(candidate.kept())
            candidate.take(grid.touching(option.start, option.end + timedelta(minutes=after)), shared)
            candidate.known = True
        return kept


def give_back(kept: Sequence[Kept]) -> None:
    """Undo what `Wanted.take` noted, the last first."""
    for one in reversed(kept):
        one[0].restore(one)


def _choose(table: Sequence[tuple[Need, Sequence[tuple[Candidate, int]]]], bit: int) -> dict[str, Candidate] | None:
    """Return one candidate for each role, none twice; None where there is no such choice."""
    if not table:
        return {}
    (need, candidates), rest = table[0], table[1:]
    for candidate, free in candidates:
        if not (free >> bit) & 1:
            continue
        others = _choose([(other, _without(ranked, candidate.name)) for other, ranked in rest], bit)
        if others is not None:
            return {need.role: candidate, **others}
    return None


def _without(ranked: Sequence[tuple[Candidate, int]], name: str) -> list[tuple[Candidate, int]]:
    return [one for one in ranked if one[0].name != name]


def best_first(options: Iterable[Option], continuity: timedelta, most_known: int) -> Iterator[Option]:
    """Yield options best first: the earliest, but one with people whom the patient knows may be later by `continuity`.

    Args:
        options: earliest first; read only as far as is needed to know that none is better.
        continuity: for each of the people whom the patient knows.
        most_known: how many of an option's people he may know at the most.

    """
    waiting: list[tuple[datetime, datetime, int, Option]] = []
    for number, option in enumerate(options):
        while waiting and waiting[0][0] <= option.start - most_known * continuity:
            yield heapq.heappop(waiting)[-1]
        heapq.heappush(waiting, (option.start - option.known * continuity, option.start, number, option))
    while waiting:
        yield heapq.heappop(waiting)[-1]


def best(options: Iterable[Option], continuity: timedelta, most_known: int, most: int) -> list[Option]:
    """Return so many options at most, best first."""
    return list(islice(best_first(options, continuity, most_known), most))
