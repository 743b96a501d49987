"""AuditEvents of several services in one answer: who asks the gateway is told what every service's audit says.

Each service has its own chain, and its rows come newest first; the next of the whole is the newest of their next ones.
A page's link holds how far each of them was told.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from shared.store.types import Page, Stored

if TYPE_CHECKING:
    from shared.http.backend import RequestContext

BEFORE: Final = "X-Kap-Before"
"""Of a search of AuditEvents among services: only what comes before this sequence."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one service's audit says: the newest first, whether there is more, and how many there are in all."""

    entries: Sequence[Stored]
    more: bool
    total: int


class AuditsBeside(Protocol):
    """The audits of other services, each asked in the caller's name: it judges for itself what he is told."""

    async def search(
        self, context: RequestContext, given: Sequence[tuple[str, str]], before: Mapping[str, int]
    ) -> Mapping[str, Part]:
        """Return what each says to a search, of what comes `before` a sequence where one is named.

        Raises:
            FhirError: one refused, or is not there: an audit with a hole in it is none.

        """
        ...

    async def read(self, context: RequestContext, service: str, id_: str) -> Stored | None:
        """Return one AuditEvent of another service; None: there is no such service.

        Raises:
            FhirError: there is none of this id, not for who asks, or the service is not there.

        """
        ...


def sequence_of(id_: str) -> tuple[str, int]:
    """Return service and sequence of an AuditEvent's id, ``intake-55``; an empty name for what is none."""
    service, _, sequence = id_.rpartition("-")
    return (service, int(sequence)) if sequence.isdecimal() and len(sequence) < 19 else ("", 0)


def told_before(cursor: str | None) -> dict[str, int]:
    """Return how far each service was told by the page before."""
    return dict(sequence_of(one) for one in (cursor or "").split(",") if one)


def together(parts: Mapping[str, Part], before: Mapping[str, int], count: int) -> Page:
    """Return the newest `count` of all parts, and the cursor of what follows."""
    left = {service: list(reversed(part.entries)) for service, part in parts.items()}
    heads = [(-part.entries[0].last_updated.timestamp(), service) for service, part in parts.items() if part.entries]
    heapq.heapify(heads)
    shown: list[Stored] = []
    told = dict(before)
    while heads and len(shown) < count:
        _, service = heapq.heappop(heads)
        stored = left[service].pop()
        shown.append(stored)
        told[service] = sequence_of(stored.id)[1]
        if left[service]:
            heapq.heappush(heads, (-left[service][-1].last_updated.timestamp(), service))
    more = count > 0 and (any(left.values()) or any(part.more for part in parts.values()))
    return Page(
        entries=shown,
        total=sum(part.total for part in parts.values()),
        next=",".join(f"{service}-{sequence}" for service, sequence in sorted(told.items())) if more else None,
    )
