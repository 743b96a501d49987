"""The plan of a course: from a template by drug, route and condition, then personal (`policies/plans.yaml`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

import msgspec

from services.intake.rules.amounts import Aged, check_count, check_titration, doses_of, of_route
from services.intake.rules.orders import OrderPolicy, Weight, check_dosage, kilograms_of
from shared.fhir.cited import Cited
from shared.fhir.codes import ROUTES, UCUM
from shared.fhir.kap import Drug, PlannedDose
from shared.fhir.outcome import Issue
from shared.fhir.series import Series


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dose from a session on."""

    session: int
    value: Decimal
    unit: Literal["mg", "mg/kg"]


class Template(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan for a drug by a route (SNOMED CT), for conditions of these value sets (none: any), from an age on.

    `integration`: sessions after each dose. `team`: the roles that the plan needs.
    """

    title: str
    drug: Drug
    route: str
    doses: tuple[Step, ...]
    sessions: int
    days_between: int
    preparation: int
    integration: int
    followup: int
    conditions: tuple[str, ...] = ()
    from_years: int = 0
    therapies: tuple[str, ...] = ()
    team: tuple[str, ...] = ()


class PlanPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `plans`."""

    templates: dict[str, Template]
    agreed: Cited


@dataclass(frozen=True, slots=True)
class Wish:
    """What makes a template personal; None or empty: as the template says."""

    doses: tuple[Step, ...] = ()
    sessions: int | None = None
    days_between: int | None = None
    preparation: int | None = None
    integration: int | None = None
    followup: int | None = None
    therapies: tuple[str, ...] = ()


def choose(
    policy: PlanPolicy,
    name: str | None,
    drug: Drug | None,
    route: str | None,
    met: Collection[str],
    aged: Aged = lambda _: None,
) -> tuple[str, Template] | Issue:
    """Return the template that is named, or the first that fits drug, route, age and the value sets that are met."""
    for key, one in policy.templates.items():
        if name is not None and key != name:
            continue
        if (drug is not None and one.drug != drug) or (route is not None and one.route != route):
            continue
        old_enough = not one.from_years or aged(one.from_years) is not False
        fits = (drug or route) and old_enough and (not one.conditions or set(one.conditions) & set(met))
        if name is not None or fits:
            return key, one
    known = "; ".join(
        f"{key}: {one.title} ({one.drug}, {ROUTES[one.route].display})" for key, one in policy.templates.items()
    )
    return Issue(
        f"No template fits what is asked for. Name one that does (parameter template), or give drug and route. There "
        f"are: {known}.",
        code="business-rule",
        expression=("Parameters.parameter",),
        rule="P-TEMPLATE",
        source=policy.agreed.source,
    )


def personal(template: Template, wish: Wish) -> Template:
    """Return a template as somebody wishes it for a patient."""
    numbers = ("sessions", "days_between", "preparation", "integration", "followup")
    given: dict[str, Any] = {name: value for name in numbers if (value := getattr(wish, name)) is not None}
    if wish.doses:
        given["doses"] = wish.doses
    elif "sessions" in given:
        given["doses"] = tuple(one for one in template.doses if one.session <= given["sessions"])
    given["therapies"] = tuple(dict.fromkeys((*template.therapies, *wish.therapies)))
    return msgspec.structs.replace(template, **given)


def planned(template: Template) -> list[PlannedDose]:
    """Return the doses of a plan, each with for how many sessions it is."""
    steps = sorted(template.doses, key=lambda one: one.session)
    ends = [*(one.session for one in steps[1:]), template.sessions + 1]
    return [
        PlannedDose(
            template.drug,
            template.route,
            step.session,
            end - step.session,
            {"value": step.value, "unit": step.unit, "system": UCUM, "code": step.unit},
            Decimal(template.days_between),
        )
        for step, end in zip(steps, ends, strict=True)
    ]


def check_plan(
    doses: Sequence[PlannedDose],
    weights: Sequence[Weight],
    orders: OrderPolicy,
    where: str,
    met: Collection[str] = (),
    aged: Aged = lambda _: None,
) -> list[Issue]:
    """Return what is wrong with the doses that a plan plans: their steps, amounts, rise, number and spacing.

    `met`: the value sets that the patient has a condition of.
    """
    if not doses:
        return []
    drug: Drug = "esketamine" if doses[0].drug == "esketamine" else "ketamine"
    route = doses[0].route
    series = of_route(orders.series, drug, [route])
    issues = [*_steps(doses, series, orders, where), *check_count(sum(one.sessions for one in doses), series, where)]
    kilograms = kilograms_of(weights, orders)
    known = kilograms if isinstance(kilograms, Decimal) else None
    titration = of_route(orders.titration, drug, [route])
    before: list[Mapping[str, Decimal]] = []
    for one in doses:
        dosage = {"route": ROUTES[route].concept() if route in ROUTES else {}, "doseAndRate": [_rate(one)]}
        issues.extend(
            replace(issue, expression=(where,)) for issue in check_dosage(dosage, where, drug, weights, orders)
        )
        amounts = doses_of([dosage], known)
        issues.extend(check_titration(amounts, before, titration, orders.rounding.share, where, met=met, aged=aged))
        before.append(amounts)
    return list(dict.fromkeys(issues))


def _rate(dose: PlannedDose) -> dict[str, Any]:
    return {"doseQuantity": dict(dose.quantity)}


def _steps(doses: Sequence[PlannedDose], series: Series | None, orders: OrderPolicy, where: str) -> Iterator[Issue]:
    """Yield what is wrong with the order of a plan's doses: one drug and route, from the first session on, no gap."""

    def wrong(said: str, source: str = orders.planned.source) -> Issue:
        return Issue(said, code="business-rule", expression=(where,), rule="P-STEPS", source=source)

    if len({(one.drug, one.route) for one in doses}) > 1:
        yield wrong("A plan has one drug by one route. Make a plan for each, the later one when the first is over.")
    at = 1
    for one in doses:
        if one.session != at or one.sessions < 1:
            yield wrong(
                f"The doses of a plan follow each other from session 1 on; one is from session {one.session} for "
                f"{one.sessions} sessions, and session {at} is next. Correct session and sessions."
            )
            return
        at += one.sessions
    if series is not None:
        near = [one.days for one in doses if one.days is not None and one.days < series.least_days]
        if near:
            yield wrong(
                f"Sessions {min(near):f} days apart are nearer than {series.least_days} days, the least by this route. "
                "Plan them further apart.",
                series.source,
            )


def check_agreed(goals: Collection[str], team: Collection[str], template: Template, policy: PlanPolicy) -> list[Issue]:
    """Return what a plan lacks to be agreed: a goal in the patient's words, and somebody in each role it needs."""
    issues = []
    if not any(goal.strip() for goal in goals):
        issues.append(_lacks("a goal in the patient's own words (parameter goal)", policy))
    lacking = [role for role in template.team if role not in team]
    if lacking:
        issues.append(_lacks(f"who is {', '.join(lacking)} (parameter member: role and reference)", policy))
    return issues


def _lacks(what: str, policy: PlanPolicy) -> Issue:
    return Issue(
        f"An agreed plan needs {what}. Give it, or make a draft first (status draft).",
        code="business-rule",
        expression=("Parameters.parameter",),
        rule="P-GOAL",
        source=policy.agreed.source,
    )
