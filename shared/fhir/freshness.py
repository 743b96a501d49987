"""How old a service's knowledge of others may be where it decides on it: the policy's section `knowledge`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from shared.fhir.cited import Cited


class Freshness(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many seconds old knowledge may be, and `of` which services; of others it may be as old as it is."""

    seconds: int
    of: tuple[str, ...]

    def too_old(self, ages: Mapping[str, float | None]) -> list[Unheard]:
        """Return the sources of which the news, so many seconds old (None: never heard), is too old."""
        return [
            Unheard(source, None if seconds is None else timedelta(seconds=seconds))
            for source, seconds in ages.items()
            if source in self.of and (seconds is None or seconds > self.seconds)
        ]


class Confirmation(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how many minutes a person's confirmation stands in for news."""

    minutes: int


class KnowledgePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `knowledge`."""

    booking: Freshness
    dose: Freshness
    confirmation: Confirmation
    disclosure: Freshness


@dataclass(frozen=True, slots=True)
class Unheard:
    """A service whose newest news may be missing here.

    Attributes:
        source: its name.
        age: how long ago everything of it was known; None: never.
        seen: whether the caller has seen something of it that has not come here yet.

    """

    source: str
    age: timedelta | None
    seen: bool = False

    def __str__(self) -> str:
        if self.seen:
            return f"{self.source}: what you have seen of it has not come here yet"
        if self.age is None:
            return f"{self.source}: never heard of"
        return f"{self.source}: last heard of {self.age.total_seconds():.0f} s ago"


def as_words(unheard: Sequence[Unheard]) -> str:
    """Return who was not heard of, for people."""
    return "; ".join(str(one) for one in unheard)
