"""What the consumer asks of whoever takes events in: everything one event does, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from shared.events.claims import Piece
from shared.events.envelope import Event
from shared.events.watermark import Watermark


@dataclass(frozen=True, slots=True)
class Position:
    """Where an event was read: topic, partition, and the offset in it."""

    topic: str
    partition: int
    offset: int


class Outcome(Enum):
    """What became of an event.

    Attributes:
        APPLIED: taken in and committed, with all that follows from it.
        DUPLICATE: seen before; nothing was done.
        WAITING: an earlier event of the same key is parked, so this one was parked behind it, in the same transaction
            that found that out.

    """

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    WAITING = "waiting"


class EventHandler(Protocol):
    """Takes events in. The consumer calls it in order within a partition, and for several partitions at once."""

    async def handle(self, event: Event, position: Position) -> Outcome:
        """Take the event in and commit, or change nothing.

        The consumer moves on only after this has returned; after a crash the same event comes again.

        Raises:
            Unavailable: not now (no database); the consumer waits and tries the same event again, without end.
            Exception: anything else is the event's fault or ours; after some attempts the event is parked.

        """
        ...

    async def handle_many(self, events: Sequence[Event], positions: Sequence[Position]) -> list[Outcome]:
        """Take in events of one tenant, read one after the other, and commit them together, or change nothing.

        What becomes of each is the same as if `handle` were called with one after the other. Whatever this raises, the
        consumer then does that instead: so an event that fails fails alone, and what is too much at once goes through.
        """
        ...

    async def deposit(self, piece: Piece) -> None:
        """Keep a piece of a body until the event that has the claim on it comes; a repeat replaces it.

        Raises:
            Unavailable: not now.

        """
        ...

    async def park(self, event: Event, position: Position, error: str) -> None:
        """Store an event that could not be applied, and commit; later events of its key wait behind it.

        Raises:
            Unavailable: not now.

        """
        ...

    async def parked(self) -> Mapping[tuple[str, int], int]:
        """Return how many events of this consumer are parked, waiting ones included, by topic and partition."""
        ...

    async def hear(self, watermarks: Sequence[Watermark]) -> None:
        """Note how far sources have told everything; all before was taken in or parked.

        Raises:
            Unavailable: not now; the consumer gives them again, or later ones.

        """
        ...

    async def measured(self, lags: Mapping[tuple[str, int], int]) -> None:
        """Note how many events wait in the partitions that are taken in here, by topic and partition.

        Raises:
            Unavailable: not now.

        """
        ...
