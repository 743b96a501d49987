"""What delivery decides, as pure functions: what to do with an entry, what an answer means, who goes first.

Three promises stand on these rules: nothing is skipped for good, nothing is there twice, and along one patient and one
destination things arrive in an order in which references can be resolved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from services.delivery.capability import PUSHED_TYPES, Accepted
from services.delivery.mapping import Target
from shared.fhir.json import Resource

MOST_ATTEMPTS = 10
"""So often is a resource sent that the destination fails on (500, 409, 412, 423), before it counts as refused."""


# --- What is never pushed -------------------------------------------------------------------------------------------


def is_withheld(resource: Resource) -> bool:
    """Tell whether a resource stays here: the feed of a device (SampledData), a minute of a signal each.

    A hospital gets what a person charted; the feed is read here, and alarmed on here.
    """
    parts = (resource, *resource.get("component", ())) if resource.get("resourceType") == "Observation" else ()
    return any("valueSampledData" in part for part in parts)


# --- What to do with an entry ---------------------------------------------------------------------------------------


class Wanted(Protocol):
    """What is known of a resource and a destination: an entry of the ledger."""

    @property
    def type(self) -> str:
        """The FHIR type."""
        ...

    @property
    def deleted(self) -> bool:
        """Whether the newest version is a deletion."""
        ...

    @property
    def uncertain(self) -> bool:
        """Whether an attempt may have reached the destination although no answer came back."""
        ...

    @property
    def server_id(self) -> str | None:
        """Its id at the destination, None where it is not known to be there."""
        ...

    @property
    def content_hash(self) -> str | None:
        """Of what the destination holds."""
        ...


Action: TypeAlias = Literal["find", "create", "compare", "update", "mark", "delete", "rest"]
"""find: ask by identifier whether it is there already. compare: ask whether the last attempt arrived. mark: update to
entered-in-error. rest: nothing is to be sent; the entry goes to the state beside it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What comes next for an entry; `state` where it then is if that goes well."""

    action: Action
    state: Literal["sending", "accepted", "withdrawn", "superseded", "not-accepted"]


def next_step(entry: Wanted, accepted: Accepted, new_hash: str | None) -> Step:
    """Return what to do with `entry`; `new_hash` is the content hash of what would be sent, None for a deletion.

    Called again after "find" and "compare" answered, with `uncertain` cleared and what they found filled in.
    """
    if entry.server_id is None:
        return _first_step(entry, accepted)
    if entry.uncertain:
        return Step("compare", "sending")
    if entry.deleted:
        if accepted.can("update", entry.type):
            return Step("mark", "withdrawn")
        return Step("delete", "withdrawn") if accepted.can("delete", entry.type) else Step("rest", "superseded")
    if entry.content_hash == new_hash:
        return Step("rest", "accepted")
    return Step("update", "accepted") if accepted.can("update", entry.type) else Step("rest", "superseded")


def _first_step(entry: Wanted, accepted: Accepted) -> Step:
    if entry.uncertain:
        return Step("find", "sending")
    if entry.deleted:
        return Step("rest", "withdrawn")
    return Step("create", "accepted") if accepted.can("create", entry.type) else Step("rest", "not-accepted")


# --- What an answer means -------------------------------------------------------------------------------------------

Meaning: TypeAlias = Literal["accepted", "refused", "again", "outage"]
"""again: this resource may be accepted later. outage: nothing of this destination can be sent now."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means; `uncertain`: the destination may have stored it all the same."""

    meaning: Meaning
    uncertain: bool = False


def judge(status: int) -> Verdict:
    """Return what an HTTP status of the destination means for the resource that was sent."""
    if 200 <= status < 300:
        return Verdict("accepted")
    match status:
        case 401 | 429:
            return Verdict("outage")
        case 502 | 503 | 504:
            return Verdict("outage", uncertain=True)
        case 408 | 500:
            return Verdict("again", uncertain=True)
        case 409 | 412 | 423 | 425:
            return Verdict("again")
        case _:
            return Verdict("refused")


# --- Who goes first -------------------------------------------------------------------------------------------------

Standing: TypeAlias = Literal["there", "coming", "never", "unknown"]
"""Of a target at the destination. coming: its entry is pending. never: it was refused, or its type is not taken."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry that could be sent: what it is, its place in the queue, its targets, and whether it waited long enough.

    `patient` is the resource's own patient, which the destination must have first; None for a Patient.
    """

    own: Target
    place: int
    targets: frozenset[Target]
    patient: Target | None = None
    impatient: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate to send now, and of its targets those that are not there yet but may still come."""

    candidate: Candidate
    unresolved: frozenset[Target]


@dataclass(frozen=True, slots=True)
class Nobody:
    """No candidate can be sent: `without_patient` as long as the destination lacks their patient, others for now."""

    without_patient: tuple[Candidate, ...]
    for_now: tuple[Candidate, ...]


def choose(candidates: Sequence[Candidate], standing: Callable[[Target], Standing]) -> Choice | Nobody:
    """Return who is sent next of one patient's queue.

    In the order of the queue, the first whose targets are all there. A target that may still come holds a candidate
    back, until it is impatient: then the reference goes as a logical one. Where candidates wait only for each other,
    the ring is opened at the type that is usually pointed to.
    """
    queue = sorted(candidates, key=lambda one: one.place)
    here = {one.own for one in queue}
    lacking = {one.own: _lacking(one, here, standing) for one in queue}
    for one in queue:
        if not lacking[one.own].anything:
            return Choice(one, _may_come(one, standing))
    ring = _in_rings(queue, lacking)
    if ring:
        first = min(ring, key=lambda one: (_rank(one.own.type), one.place))
        return Choice(first, _may_come(first, standing))
    orphans = tuple(one for one in queue if lacking[one.own].patient)
    return Nobody(orphans, tuple(one for one in queue if one not in orphans))


@dataclass(frozen=True, slots=True)
class _Lacking:
    patient: bool
    coming: frozenset[Target]
    unknown: frozenset[Target]

    @property
    def anything(self) -> bool:
        return self.patient or bool(self.coming) or bool(self.unknown)


def _lacking(one: Candidate, here: Collection[Target], standing: Callable[[Target], Standing]) -> _Lacking:
    coming: set[Target] = set()
    unknown: set[Target] = set()
    for target in one.targets:
        if target.type not in PUSHED_TYPES or target == one.patient:
            continue
        match standing(target):
            case "coming" if target in here:
                coming.add(target)
            case "coming" | "unknown" if not one.impatient:
                unknown.add(target)
    no_patient = False
    if one.patient is not None and standing(one.patient) != "there":
        if one.patient in here:
            coming.add(one.patient)
        else:
            no_patient = True
    return _Lacking(no_patient, frozenset(coming), frozenset(unknown))


def _may_come(one: Candidate, standing: Callable[[Target], Standing]) -> frozenset[Target]:
    return frozenset(
        target for target in one.targets if target.type in PUSHED_TYPES and standing(target) in {"coming", "unknown"}
    )


def _in_rings(queue: Iterable[Candidate], lacking: dict[Target, _Lacking]) -> list[Candidate]:
    """Return the candidates that wait for each other and, at the end of every chain, for nothing else.

    The patient is never left out of a reference: who waits for it waits, ring or not.
    """
    rest = list(queue)
    while True:
        held = {one.own for one in queue} - {one.own for one in rest}
        free = [
            one
            for one in rest
            if not lacking[one.own].patient
            and not lacking[one.own].unknown
            and one.patient not in lacking[one.own].coming
            and not lacking[one.own].coming & held
        ]
        if len(free) == len(rest):
            return free
        rest = free


def _rank(type_: str) -> int:
    return PUSHED_TYPES.index(type_) if type_ in PUSHED_TYPES else len(PUSHED_TYPES)
