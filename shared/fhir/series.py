"""What a policy says of the number and the spacing of sessions, by drug and route."""

from __future__ import annotations

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
