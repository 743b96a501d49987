"""A dose as one of a series: how many sessions its order and plan are for, how long after the last, and where. Pure.

How many and how far apart: the order (`timing.repeat.count`, else as the plan), the plan of the course, and `series` of
`policies/orders.yaml`. Days are those of the place of the visit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

import msgspec

from services.sessions.rules.amounts import Dose
from services.sessions.rules.checks import Check, Decision, Verdict
from shared.fhir.cited import Cited
from shared.fhir.dates import MIN_INSTANT
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, moment
from shared.fhir.series import Planned, Series, created, plan_for, sessions_for
from shared.fhir.zones import day_at

SERIES_RULES: Final = frozenset(("G-SERIES", "G-SPACING"))
"""The rules of `series_checks` on which a prescriber may decide."""


class Prescribing(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The roles (CodeSystem kap) whose holder prescribes."""

    roles: tuple[str, ...]


class Allowed(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is taken at home: drugs, and routes (SNOMED CT)."""

    drugs: tuple[Drug, ...]
    routes: tuple[str, ...]


class AtHome(msgspec.Struct, frozen=True):
    """What `orders.at_home` says of drug and route; the rest of it is intake's."""

    allowed: Allowed


class SeriesPolicy(msgspec.Struct, frozen=True):
    """What the section `orders` says of series, of who prescribes, and of home; the rest of it is intake's."""

    series: dict[str, Series]
    planned: Cited
    prescriber: Prescribing
    at_home: AtHome

    def of(self, drug: Drug, route: str | None) -> Series:
        """Return the entry of a drug by a route; of a route that has none, the one with the longest spacing."""
        found = [one for one in self.series.values() if one.drug == drug and one.route == route]
        others = (one for one in self.series.values() if one.drug == drug)
        return found[0] if found else max(others, key=lambda one: one.least_days)


@dataclass(frozen=True, slots=True)
class Before:
    """What went before a dose.

    Attributes:
        start: when this dose begins; zone: whose days count: that of the place of the visit.
        drug, route: what, and SNOMED CT how.
        doses: the patient's other doses of the two drugs.
        visit: of this dose, logical id.
        order: the order it is given on, None: none is held.
        plans: CarePlans of the patient.
        at_home: whether the visit is by video.

    """

    start: datetime
    drug: Drug
    route: str | None
    zone: tzinfo = UTC
    doses: Sequence[Dose] = ()
    visit: str | None = None
    order: Resource | None = None
    plans: Sequence[Resource] = ()
    at_home: bool = False

    def elsewhere(self) -> list[Dose]:
        """Return the doses of other sessions; one that names no visit is of another."""
        return [one for one in self.doses if one.visit is None or one.visit != self.visit]

    def plan(self) -> Planned | None:
        """Return the newest plan in force that plans doses of the drug by the route; None: none does."""
        return plan_for(self.plans, self.drug, [self.route], self.start)


def series_checks(before: Before, policy: SeriesPolicy, decisions: Sequence[Decision]) -> Iterator[Check]:
    """Yield the checks of the number of sessions, by order and by plan, and of the time since the last."""
    plan, series = before.plan(), policy.of(before.drug, before.route)
    if before.at_home:
        yield _home(before, policy.at_home.allowed)
    if before.order is not None:  # without one, the check of the order says so
        yield _ordered(before, before.order, plan, series)
    if plan is not None:
        yield _planned(before, plan, policy.planned, decisions)
    planned = 0 if plan is None else max((int(one.days) for one in plan.doses if one.days is not None), default=0)
    yield _spaced(before, series, planned, decisions)


def _home(before: Before, allowed: Allowed) -> Check:
    return _check(
        "G-HOME",
        "Drug and route for home",
        opens=before.drug in allowed.drugs and before.route in allowed.routes,
        text=f"{before.drug} by this route is not given by video: have the patient come to the clinic.",
        source=allowed.source,
        said=(before.route, ", ".join(allowed.routes)),
        evidence=(),
    )


def _sessions(doses: Sequence[Dose]) -> int:
    return len({one.reference if one.visit is None else one.visit for one in doses})


def _ordered(before: Before, order: Resource, planned: Planned | None, series: Series) -> Check:
    """Return the check of the sessions of the order: as many as it says, else as the plan has by route, else one."""
    reference, written = f"MedicationRequest/{order['id']}", moment(order.get("authoredOn"))
    given = [
        one
        for one in before.elsewhere()
        if one.order == order["id"]
        or (one.order is None and one.visit is not None and (one.when is None or one.when >= written))
    ]
    ordered, had = sessions_for(order.get("dosageInstruction", []), planned), _sessions(given)
    return _check(
        "G-SERIES",
        "Sessions of the order",
        opens=had < ordered,
        text=f"{reference} is for {ordered} sessions (timing.repeat.count, else the plan, else one), and {had} were "
        "held on it. Have the prescriber order the next.",
        source=series.source,
        said=(f"{had} held", f"{ordered} ordered"),
        evidence=(reference, *(one.reference for one in given)),
    )


def _planned(before: Before, planned: Planned, cited: Cited, decisions: Sequence[Decision]) -> Check:
    plan, made = planned.plan, created(planned.plan)
    given = [one for one in before.elsewhere() if one.when is None or one.when >= made]
    sessions, had = max(one.session + one.sessions - 1 for one in planned.doses), _sessions(given)
    return _check(
        "G-SERIES",
        "Sessions of the plan",
        opens=had < sessions,
        text=f"CarePlan/{plan['id']} is for {sessions} sessions, and {had} were held since it was made. Have the plan "
        "changed, or have a prescriber decide.",
        source=cited.source,
        said=(f"{had} held", f"{sessions} planned"),
        evidence=(f"CarePlan/{plan['id']}",),
        decisions=_since(decisions, given, before.start),
        decidable=True,
    )


def _spaced(before: Before, series: Series, planned: int, decisions: Sequence[Decision]) -> Check:
    """Return the check of the days between sessions: as many as the policy has, or the plan where that has more."""
    others = before.elsewhere()
    apart, today = max(series.least_days, planned), day_at(before.start, before.zone)
    days = [
        (abs((today - day_at(one.latest or one.when, before.zone)).days), one) for one in others if one.when is not None
    ]
    near = min(days, key=lambda one: one[0], default=None)
    unknown = tuple(one.reference for one in others if one.when is None)
    close = [one for many, one in days if many < apart] + [one for one in others if one.when is None]
    text = f"when {', '.join(unknown)} was given is not known. Record it, or have a prescriber decide."
    if near is not None and near[0] < apart:
        whose = "the plan has" if planned > series.least_days else "by this route there are"
        text = (
            f"{near[1].reference} was given {near[0]} days from it, and {whose} at least {apart} days from session to "
            "session. Wait, or have a prescriber decide."
        )
    return _check(
        "G-SPACING",
        "Days since the last session",
        opens=not unknown and (near is None or near[0] >= apart),
        text=text,
        source=series.source,
        said=(None if near is None else f"{near[0]} d", f"at least {apart} d"),
        evidence=unknown if near is None or near[0] >= apart else (near[1].reference,),
        decisions=_since(decisions, close, before.start),
        decidable=True,
    )


def _since(decisions: Sequence[Decision], doses: Iterable[Dose], start: datetime) -> list[Decision]:
    """Return the decisions that were made when all the doses before this one were on record that they are about."""
    known = max((one.known for one in doses if one.when is None or one.when <= start), default=MIN_INSTANT)
    return [one for one in decisions if one.written >= known]


def _check(
    rule: str,
    title: str,
    *,
    opens: bool,
    text: str,
    source: str,
    said: tuple[str | None, str],
    evidence: Sequence[str],
    decisions: Sequence[Decision] = (),
    decidable: bool = False,
) -> Check:
    """Return a check; `said`: value and limit; one that is closed passes where a prescriber decided on its rule."""
    decided = [one.reference for one in decisions if decidable and one.rule == rule]
    verdict: Verdict = "open" if opens else "decided" if decided else "closed"
    return Check(
        rule,
        title,
        verdict,
        "In order." if opens else text,
        source,
        closes=verdict == "closed",
        value=said[0],
        limit=said[1],
        evidence=(*evidence, *(decided[-1:] if verdict == "decided" else ())),
        decidable=decidable and not opens,
    )
