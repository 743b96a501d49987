"""How many sessions an order is for, and what a policy says of their number and spacing, by drug and route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.fhir.cited import Cited
from shared.fhir.kap import Drug


class ByRoute(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something of a drug by a route (SNOMED CT)."""

    drug: Drug
    route: str


class Series(ByRoute, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many: `sessions` in one order or plan, `least_days` apart; `total` in `days` before need is looked at."""

    sessions: int
    least_days: int
    total: int
    days: int


def sessions_of(dosages: Sequence[Mapping[str, Any]]) -> int:
    """Return for how many sessions dosage instructions are: `timing.repeat.count` (the most it may be), else one."""
    counts = [one.get("timing", {}).get("repeat", {}) for one in dosages]
    return max((int(one.get("countMax", one.get("count", 1))) for one in counts), default=1)
