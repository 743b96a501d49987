"""What a campaign has seen: every answer that a client got, and what each hop holds in the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Answer:
    """An acknowledged write: what the client was told, and when (seconds of a clock that never goes back).

    `event` is ``Condition/0198.../2``; `content` the SHA-256 of the answered body, None where there was none to answer
    with (a deletion).
    """

    source: str
    event: str
    content: str | None
    sent: float
    answered: float
    through: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """A version in its owner's history: `sequence` is its place in the outbox, `key` its patient's record."""

    source: str
    event: str
    content: str
    key: str
    sequence: int
    interaction: str = "update"


@dataclass(frozen=True, slots=True)
class Told:
    """A record on a source's topic."""

    source: str
    event: str
    content: str
    key: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Applied:
    """A line of the witness, in the order of its lines."""

    source: str
    event: str
    content: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it.

    Attributes:
        answers: what clients were told.
        commits: what the owners hold, all versions.
        told: what is on the topics.
        applied: what the witness wrote down, in order.
        held: by holder and source, the content of each version of it that the holder keeps.
        expected: by the same pair, the types that it keeps.
        left: by the same pair, the versions of these types that it need not keep (`Service.leaves`).
        hospital: what `kap verify` finds different between the gateway and the hospital.
        parked: events set aside, by service.
        signed: by patient, whether he permits that others are told, now; who never did is not in it.
        pushed: what is current of the types that go to the hospital, ``Type/id``, and whose it is.
        there: of these, what the hospital shows, and what it shows besides.

    """

    answers: Sequence[Answer]
    commits: Sequence[Commit]
    told: Sequence[Told]
    applied: Sequence[Applied]
    held: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    expected: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    left: Mapping[tuple[str, str], Collection[str]] = field(default_factory=dict)
    hospital: Sequence[str] = ()
    parked: Mapping[str, int] = field(default_factory=dict)
    signed: Mapping[str, bool] = field(default_factory=dict)
    pushed: Mapping[str, str] = field(default_factory=dict)
    there: frozenset[str] = frozenset()
