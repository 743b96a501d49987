"""How many sessions an order is for, by itself or by the plan of the course; what a policy says of their number.

One rule for whoever orders, books and gives: an order says its sessions (`timing.repeat.count`); one that does not is
for those of the plan that was the newest then. Without a plan it is for one, where it is ordered and where it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from shared.fhir.cited import Cited
from shared.fhir.codes import PLAN
from shared.fhir.dates import MIN_INSTANT
from shared.fhir.doses import sessions_of
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, PlannedDose, has_code, moment, planned_doses


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


class Planned(NamedTuple):
    """A plan, and the doses of a drug by a route that it plans."""

    plan: Resource
    doses: list[PlannedDose]

    @property
    def sessions(self) -> int:
        """For how many sessions it plans them."""
        return sum(one.sessions for one in self.doses)


def created(plan: Resource) -> datetime:
    """Return when a plan was made; the beginning of time where it does not say."""
    return moment(plan["created"]) if "created" in plan else MIN_INSTANT


def plan_for(
    plans: Iterable[Resource],
    drug: Drug | None,
    routes: Sequence[str | None],
    at: datetime,
    *,
    statuses: Sequence[str] = ("active",),
) -> Planned | None:
    """Return the newest plan at a moment that plans doses of a drug by one of `routes`; None: none does.

    `drug`: None where nobody knows it. `statuses`: of the plans that count; for what was ordered long ago also those of
    plans that have ended.
    """
    found = []
    for plan in plans:
        doses = [one for one in planned_doses(plan) if drug in (one.drug, None) and one.route in routes]
        if doses and plan.get("status") in statuses and has_code(plan.get("category"), PLAN) and created(plan) <= at:
            found.append(Planned(plan, doses))
    return max(found, key=lambda one: created(one.plan), default=None)


def sessions_for(dosages: Iterable[Mapping[str, Any]], planned: Planned | None) -> int:
    """Return for how many sessions an order is: as it says, else as the plan has; one where neither says it."""
    return sessions_of(dosages) or (planned.sessions if planned is not None else 0) or 1
