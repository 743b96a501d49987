"""How far the gateway has seen each owner's outbox along each key: by events, and by answers to forwarded writes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

from shared.http.backend import Position

MOST: Final = 50_000
"""Keys remembered; of older ones the events have long been taken in."""


class Seen:
    """The positions that answers told, of this process; those of events are in the inbox."""

    def __init__(self) -> None:
        self._positions: OrderedDict[tuple[str, str], dict[str, int]] = OrderedDict()

    def note(self, positions: Iterable[Position]) -> None:
        """Remember what an owner's answer said."""
        for position in positions:
            place = (position.tenant, position.key)
            known = self._positions.setdefault(place, {})
            known[position.service] = max(position.sequence, known.get(position.service, 0))
            self._positions.move_to_end(place)
        while len(self._positions) > MOST:
            self._positions.popitem(last=False)

    def of(self, tenant: str, key: str) -> Mapping[str, int]:
        """Return, by service, the highest position told along a key."""
        return self._positions.get((tenant, key), {})
