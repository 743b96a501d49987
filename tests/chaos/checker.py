"""Whether what a campaign has seen can be: pure functions over the evidence.

Five kinds of fault, whatever the hop: ``lost``, ``doubled``, ``reordered``, ``ghost`` (there, and never committed) and
``changed``. What was committed and never answered is no fault: the client could not know.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tests.chaos.evidence import Commit, Evidence

Kind = Literal["lost", "doubled", "reordered", "ghost", "changed"]
Name = tuple[str, str]
"""Of an event: its source and its id."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that must never be: where, and which event."""

    kind: Kind
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} {self.where}: {self.what}"


def check(seen: Evidence) -> list[Fault]:
    """Return every fault, hop by hop."""
    commits = {(one.source, one.event): one for one in seen.commits}
    hops: tuple[Callable[[Evidence, Mapping[Name, Commit]], Iterable[Fault]], ...] = (
        _in_history,
        _answers,
        _topics,
        _witness,
        _copies,
        _filtered,
        _rest,
    )
    return [fault for hop in hops for fault in hop(seen, commits)]


def _in_history(seen: Evidence, commits: Mapping[Name, Commit]) -> Iterator[Fault]:
    """Each version once; the versions of a resource without a gap, their outbox places in the same order."""
    where = "in the owner's history"
    yield from _twice(((one.source, one.event) for one in seen.commits), where)
    versions: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for one in commits.values():
        resource, _, version = one.event.rpartition("/")
        versions[one.source, resource].append((int(version), one.sequence))
    for (source, resource), held in versions.items():
        held.sort()
        numbers = [number for number, _ in held]
        for number in set(range(1, numbers[-1] + 1)) - set(numbers):
            yield Fault("lost", where, f"{source} {resource}/{number}")
        places = [place for _, place in held]
        if places != sorted(places):
            yield Fault("reordered", where, f"{source} {resource}: {places}")


def _answers(seen: Evidence, commits: Mapping[Name, Commit]) -> Iterator[Fault]:
    """What was answered is committed, as it was answered; of one record, what was answered first comes first."""
    where = "between answer and history"
    yield from _twice(((one.source, one.event) for one in seen.answers), "among the answers")
    by_key: defaultdict[Name, list[tuple[float, float, int, str]]] = defaultdict(list)
    for one in seen.answers:
        commit = commits.get((one.source, one.event))
        if commit is None:
            yield Fault("lost", where, f"{one.source} {one.event}, answered through {one.through}")
            continue
        if one.content is not None and one.content != commit.content:
            yield Fault("changed", where, f"{one.source} {one.event}, answered through {one.through}")
        by_key[one.source, commit.key].append((one.sent, one.answered, commit.sequence, one.event))
    for (source, key), several in by_key.items():
        yield from _happened_before(source, key, several)


def _happened_before(source: str, key: str, several: list[tuple[float, float, int, str]]) -> Iterator[Fault]:
    """Say where a write that was answered before another was sent stands behind it in the outbox."""
    ends = sorted(several, key=lambda one: one[1])
    highest, place, latest = 0, 0, ""
    for sent, _, sequence, event in sorted(several):
        while place < len(ends) and ends[place][1] < sent:
            if ends[place][2] > highest:
                highest, latest = ends[place][2], ends[place][3]
            place += 1
        if sequence < highest:
            yield Fault("reordered", "between answer and history", f"{source} {key}: {event} before {latest}")


def _topics(seen: Evidence, commits: Mapping[Name, Commit]) -> Iterator[Fault]:
    """All is told, nothing else is, and of one record what comes first is told first. Repeats are allowed there."""
    where = "on the topic"
    told: set[Name] = set()
    highest: dict[Name, tuple[int, str]] = {}
    for one in sorted(seen.told, key=lambda record: (record.source, record.partition, record.offset)):
        name = (one.source, one.event)
        commit = commits.get(name)
        if commit is None:
            yield Fault("ghost", where, f"{one.source} {one.event}")
            continue
        if (one.content, one.key) != (commit.content, commit.key):
            yield Fault("changed", where, f"{one.source} {one.event}")
        if name in told:
            continue
        told.add(name)
        before, latest = highest.get((one.source, one.key), (0, ""))
        if commit.sequence < before:
            yield Fault("reordered", where, f"{one.source} {one.key}: {latest} before {one.event}")
        else:
            highest[one.source, one.key] = (commit.sequence, one.event)
    for source, event in commits.keys() - told:
        yield Fault("lost", where, f"{source} {event}")


def _witness(seen: Evidence, commits: Mapping[Name, Commit]) -> Iterator[Fault]:
    """Everything was applied once, as it was committed, and in its order along each record."""
    where = "where it is applied"
    yield from _twice(((one.source, one.event) for one in seen.applied), where)
    applied: set[Name] = set()
    highest: dict[Name, tuple[int, str]] = {}
    for one in seen.applied:
        name = (one.source, one.event)
        commit = commits.get(name)
        if commit is None:
            yield Fault("ghost", where, f"{one.source} {one.event}")
            continue
        if one.content != commit.content:
            yield Fault("changed", where, f"{one.source} {one.event}")
        before, latest = highest.get((one.source, commit.key), (0, ""))
        if commit.sequence < before and name not in applied:
            yield Fault("reordered", where, f"{one.source} {commit.key}: {latest} before {one.event}")
        highest[one.source, commit.key] = max((before, latest), (commit.sequence, one.event))
        applied.add(name)
    for source, event in commits.keys() - applied:
        yield Fault("lost", where, f"{source} {event}")


def _copies(seen: Evidence, commits: Mapping[Name, Commit]) -> Iterator[Fault]:
    """Whoever keeps copies keeps all versions of what he keeps, as they were committed, and no others."""
    for (holder, source), held in seen.held.items():
        where = f"at {holder}"
        types = seen.expected[holder, source]
        owed = {
            one.event: one.content
            for one in commits.values()
            if one.source == source and one.event.partition("/")[0] in types
        }
        for event in owed.keys() - held.keys() - set(seen.left.get((holder, source), ())):
            yield Fault("lost", where, f"{source} {event}")
        for event in held.keys() - owed.keys():
            yield Fault("ghost", where, f"{source} {event}")
        for event in held.keys() & owed.keys():
            if held[event] != owed[event]:
                yield Fault("changed", where, f"{source} {event}")


def _filtered(seen: Evidence, _commits: Mapping[Name, Commit]) -> Iterator[Fault]:
    """The hospital is equal to its filter: all of who permits it, nothing of who never did.

    Judged on nothing but the owners' rows and the hospital's own API. Every Consent of the workload permits all or,
    once taken back, says nothing; of who took it back what was told before stays.
    """
    where = "at the hospital"
    for name, patient in seen.pushed.items():
        if seen.signed.get(patient) and name not in seen.there:
            yield Fault("lost", where, f"{name}, though {patient} permits it")
        if patient not in seen.signed and name in seen.there:
            yield Fault("ghost", where, f"{name}, though {patient} never permitted it")


def _rest(seen: Evidence, commits: Mapping[Name, Commit]) -> Iterator[Fault]:
    """The hospital differs in nothing, and nothing is set aside."""
    for difference in seen.hospital:
        yield Fault("changed", "at the hospital", difference)
    for service, count in seen.parked.items():
        if count:
            yield Fault("lost", f"at {service}", f"{count} events are parked")


def _twice(names: Iterable[Name], where: str) -> Iterator[Fault]:
    for (source, event), count in Counter(names).items():
        if count > 1:
            yield Fault("doubled", where, f"{source} {event}, {count} times")
