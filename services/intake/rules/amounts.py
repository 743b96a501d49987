"""What a dose may be: in range for drug, route and weight, not above what comes next, and not too many of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.kap import Drug, PlannedDose, quantity_in
from shared.fhir.outcome import Issue
from shared.fhir.series import ByRoute, Series

Aged: TypeAlias = Callable[[int], bool | None]
"""Tells whether the patient is at least so many years old; None: the record does not tell."""


class Titration(ByRoute, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first dose is at most `first`, a later one at most `rise` above the highest before, in `unit`.

    `first_for`: the most that the first dose may be for who has a condition of a value set, where that is more;
    `first_from`: the most for who is at least so many years old, whatever else he has.
    """

    unit: Literal["mg", "mg/kg"]
    first: Decimal
    rise: Decimal
    first_for: dict[str, Decimal] = msgspec.field(default_factory=dict)
    first_from: dict[int, Decimal] = msgspec.field(default_factory=dict)

    def most_first(self, met: Collection[str], aged: Aged) -> Decimal:
        """Return the most that the first dose may be for who has conditions of the value sets `met`, at that age."""
        most = max([self.first, *(most for set_, most in self.first_for.items() if set_ in met)])
        return min([most, *(self.first_from[years] for years in self.reached(aged))])

    def reached(self, aged: Aged) -> list[int]:
        """Return the ages of `first_from` that the patient has, or may have where his is not known."""
        return [years for years in self.first_from if aged(years) is not False]


@dataclass(frozen=True, slots=True)
class Ordered:
    """An earlier order: when it was written, its highest dose in each unit as far as it is known, and its sessions.

    `plan`: the plan (logical id) whose sessions they are; None: the order says them itself, or there is none.
    """

    id: str
    at: datetime
    doses: Mapping[str, Decimal]
    sessions: int
    plan: str | None = None


def of_route(table: Mapping[str, Any], drug: Drug, routes: Sequence[str]) -> Any | None:
    """Return the entry of a policy's table for a drug by one of `routes`; None where there is none."""
    return next((one for one in table.values() if one.drug == drug and one.route in routes), None)


def doses_of(dosages: Sequence[Mapping[str, Any]], kilograms: Decimal | None) -> dict[str, Decimal]:
    """Return the highest single dose of dosage instructions, in mg and in mg/kg as far as the weight tells it."""
    found: dict[str, list[Decimal]] = {"mg": [], "mg/kg": []}
    for value, unit in (one for dosage in dosages for one in amounts_of(dosage)):
        found[unit].append(value)
        if kilograms is not None:
            other, factor = ("mg/kg", 1 / kilograms) if unit == "mg" else ("mg", kilograms)
            found[other].append(value * factor)
    return {unit: max(values) for unit, values in found.items() if values}


def amounts_of(dosage: Mapping[str, Any]) -> Iterator[tuple[Decimal, str]]:
    """Yield every amount of a dosage instruction with its unit, mg or mg/kg; of a range both ends."""
    for rate in dosage.get("doseAndRate", []):
        given = [rate.get("doseQuantity"), *(rate.get("doseRange", {}).get(end) for end in ("low", "high"))]
        for quantity in given:
            for unit in ("mg", "mg/kg"):
                value = quantity_in(quantity, (unit,))
                if value is not None:
                    yield Decimal(value), unit


def check_titration(
    doses: Mapping[str, Decimal],
    before: Sequence[Mapping[str, Decimal]],
    titration: Titration | None,
    share: Decimal,
    where: str,
    evidence: tuple[str, ...] = (),
    met: Collection[str] = (),
    aged: Aged = lambda _: None,
) -> list[Issue]:
    """Return what forbids a dose after those `before`: it begins low, and rises by steps; all by unit.

    `evidence`: references of the orders before; `met`: the value sets that the patient has a condition of.
    """
    dose = None if titration is None else doses.get(titration.unit)
    if titration is None or dose is None:
        return []
    known = [one[titration.unit] for one in before if titration.unit in one]
    most = max(known) + titration.rise if known else titration.most_first(met, aged)
    if dose <= most * (1 + share):
        return []
    ages = [] if known else titration.reached(aged)
    older = f", and from {min(ages)} years on, or where the age is not known, it begins lower" if ages else ""
    began = f"the highest before is {max(known):.2f}" if known else f"there is none before{older}"
    return [
        Issue(
            f"{dose:.2f} {titration.unit} of {titration.drug} is more than {most:.2f} {titration.unit}, the most that "
            f"comes next by this route ({began}). Give less, and raise it by steps of {titration.rise:f} "
            f"{titration.unit} at most.",
            code="business-rule",
            expression=(where,),
            rule="RX-TITRATION",
            source=titration.source,
            evidence=evidence,
        )
    ]


def check_count(sessions: int, series: Series | None, where: str) -> list[Issue]:
    """Return what forbids so many sessions in one order or plan."""
    if series is None or sessions <= series.sessions:
        return []
    return [
        _series(
            f"{sessions} sessions of {series.drug} are more than one order or plan has by this route, "
            f"{series.sessions}. Make it fewer, and see how they worked.",
            series,
            where,
        )
    ]


def check_total(
    sessions: int,
    before: Sequence[Ordered],
    looked_at: datetime | None,
    at: datetime,
    series: Series | None,
    *,
    plan: str | None = None,
) -> list[Issue]:
    """Return what forbids so many sessions after those `before`, since somebody looked whether they are needed.

    Orders that are for the sessions of a plan (`plan`: this one) share them: they count once.
    """
    if series is None:
        return []
    since = at - timedelta(days=series.days)
    since = since if looked_at is None else max(since, looked_at)
    counted = [one for one in before if since < one.at <= at]
    by_plan = {one.plan: one.sessions for one in counted if one.plan is not None}
    had = sum(one.sessions for one in counted if one.plan is None) + sum(by_plan.values())
    sessions = 0 if plan in by_plan else sessions
    if had + sessions <= series.total:
        return []
    return [
        _series(
            f"{had} sessions of {series.drug} by this route were ordered since {since.date()}; {sessions} more "
            f"are above {series.total} in {series.days} days. Look first whether the drug is still needed, and record "
            "that (Observation, code kap|need-reevaluated, with its performer).",
            series,
            "MedicationRequest.dosageInstruction",
            tuple(f"MedicationRequest/{one.id}" for one in counted),
        )
    ]


def _series(said: str, series: Series, where: str, evidence: tuple[str, ...] = ()) -> Issue:
    return Issue(
        said, code="business-rule", expression=(where,), rule="RX-SERIES", source=series.source, evidence=evidence
    )


def check_planned(
    doses: Mapping[str, Decimal],
    drug: Drug,
    routes: Sequence[str],
    planned: Sequence[PlannedDose],
    kilograms: Decimal | None,
    share: Decimal,
    cited: Cited,
    evidence: tuple[str, ...] = (),
) -> list[Issue]:
    """Return what an order has that the plan of the course has not: its drug and route, and no higher dose.

    `evidence`: references of the plans.
    """
    if not planned:
        return []

    def refused(said: str) -> Issue:
        return Issue(
            said,
            code="business-rule",
            expression=("MedicationRequest.dosageInstruction",),
            rule="RX-PLAN",
            source=cited.source,
            evidence=evidence,
        )

    meant = [one for one in planned if one.drug == drug and one.route in routes]
    if not meant:
        what = ", ".join(dict.fromkeys(f"{one.drug} by route {one.route}" for one in planned))
        return [refused(f"The plan of the course is for {what}, not for what is ordered. Change the plan first.")]
    plans = [doses_of([{"doseAndRate": [{"doseQuantity": one.quantity}]}], kilograms) for one in meant]
    alike = {unit: dose for unit, dose in doses.items() if all(unit in one for one in plans)}
    if doses and not alike:
        return [
            refused(
                "One of order and plan of the course says mg and the other mg/kg, and no weight tells which is more. "
                "Weigh the patient, then order."
            )
        ]
    for unit, dose in alike.items():
        most = max(one[unit] for one in plans)
        if dose > most * (1 + share):
            return [
                refused(
                    f"{dose:.2f} {unit} is above the highest dose of the plan of the course, {most:.2f} {unit}. "
                    "Order what is planned, or change the plan first."
                )
            ]
    return []
