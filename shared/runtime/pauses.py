"""How long to wait before a server that did not take something is asked again; pure."""

from __future__ import annotations

from typing import Final

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 60.0
LONGEST_REQUESTED_PAUSE: Final = 300.0
"""Seconds between attempts: doubling from the first to the longest; what `Retry-After` asks for, up to the last."""


def pause(attempts: int, chance: float, *, asked: float = 0.0) -> float:
    """Return the seconds until the next attempt, after `attempts` that failed (from 1).

    `chance` in [0, 1) spreads it by a quarter to either side, so that queues do not march in step; `asked` is what
    `Retry-After` says.
    """
    grown = min(FIRST_PAUSE * 2.0 ** min(attempts - 1, 20), LONGEST_PAUSE)
    return max(grown * (0.75 + chance / 2), min(asked, LONGEST_REQUESTED_PAUSE))
