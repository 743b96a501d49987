"""A dose against its order and the clinic's maxima: how much is ordered, given already, and left. Pure functions.

Every dose of the session counts: divided and booster doses share one order. What cannot be counted is not known, and
what is not known is not given. Maxima: `policies/dosing.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from services.sessions.rules.checks import Check, Decision, Verdict, simple
from shared.fhir.cited import Cited
from shared.fhir.codes import SNOMED, UCUM
from shared.fhir.dates import MIN_INSTANT, Interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, codes_of, effective_start, id_in, milligrams_in, moment, quantity_in
from shared.fhir.zones import day_at

AMOUNT_RULES: Final = frozenset(("G-DOSE", "G-DOSE-ORDER", "G-DOSE-MAX", "G-WEIGHT", "G-DEVICE"))
"""The rules of `amount_checks`."""


class Share(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A share, 0 to 1."""

    share: Decimal


class Days(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of days."""

    days: int


class Pace(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fewest minutes in which the whole of a dose that says how fast it goes is given."""

    minutes: int


class Maximum(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that may be given of a drug by a route: in one session, or with `hours` in that time."""

    drug: Drug
    route: str
    unit: Literal["mg", "mg/kg"]
    high: Decimal
    hours: int | None = None


class Apart(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long doses of a drug by a route are apart, and within how long of the first: the devices of a nasal spray."""

    drug: Drug
    route: str
    minutes: int
    within: int


class DosingPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `dosing`."""

    amount: Cited
    rounding: Share
    weight_age: Days
    weight_change: Share
    pace: Pace
    maxima: dict[str, Maximum]
    apart: dict[str, Apart]


@dataclass(frozen=True, slots=True)
class Dose:
    """A dose as recorded: where, when, on which order, in which visit, and how much (None: not known).

    `latest`: when it began at the latest, where no more than the day, month or year is said. `known`: since when it is
    on record as it stands.
    """

    reference: str
    when: datetime | None
    order: str | None
    visit: str | None
    milligrams: Decimal | None
    latest: datetime | None = None
    known: datetime = MIN_INSTANT


@dataclass(frozen=True, slots=True)
class Amounts:
    """What is known about the amount of a dose.

    Attributes:
        dose: the Quantity that is to be given, None: it is not said.
        start: when.
        drug, route: what, and SNOMED CT how.
        visit: logical id.
        order: the order it is given on, None: none is held.
        others: the patient's other doses of these drugs, in this visit and before it.
        kilograms: body weight of the last days, None: not known.
        kilograms_ordered: body weight when the order was written, None: not known.
        decisions: of prescribers, in this visit; on the weight those on what he weighs now.

    """

    dose: Mapping[str, Any] | None
    start: datetime
    drug: Drug
    route: str | None
    visit: str | None
    order: Resource | None
    others: Sequence[Dose]
    kilograms: Decimal | None
    kilograms_ordered: Decimal | None = None
    decisions: Sequence[Decision] = ()

    @property
    def milligrams(self) -> Decimal | None:
        """How much is to be given."""
        return milligrams_in(self.dose, self.kilograms)

    def in_this_session(self) -> list[Dose]:
        """Return the other doses of the visit."""
        return [one for one in self.others if one.visit is not None and one.visit == self.visit]


@dataclass(frozen=True, slots=True)
class Weighed:
    """A body weight: when it was taken, from and to, and the kilograms; None: such as can hardly be.

    `known`: since when it is on record as it stands.
    """

    when: Interval
    kilograms: Decimal | None
    known: datetime = MIN_INSTANT


def newest_weight(weights: Iterable[Weighed], until: datetime, days: int, zone: tzinfo) -> Decimal | None:
    """Return the newest weight in kg that was taken up to a moment, within so many days of the place before it.

    Of several of one time the lowest counts: it allows the least. None: there is none, or the newest can hardly be.
    """
    earliest = day_at(until - timedelta(days=days), zone)
    found = [one for one in weights if one.when[0] <= until and day_at(one.when[0], zone) >= earliest]
    newest = max((one.when[0] for one in found), default=None)
    taken = [one.kilograms for one in found if one.when[0] == newest]
    return None if None in taken else min((one for one in taken if one is not None), default=None)


def decided_on(
    decisions: Iterable[Decision], kilograms: Decimal | None, weights: Sequence[Weighed], days: int, zone: tzinfo
) -> list[Decision]:
    """Return the decisions but those on another weight: it covers what the patient weighed, as it was known then."""

    def weighed(when: datetime) -> Decimal | None:
        return newest_weight([one for one in weights if one.known <= when], when, days, zone)

    return [one for one in decisions if one.rule != "G-WEIGHT" or weighed(one.when) == kilograms]


def quantity_of(administration: Resource) -> Mapping[str, Any] | None:
    """Return the Quantity of a dose; a volume as its mass where the product inside says its strength (mg per mL)."""
    dose: Mapping[str, Any] | None = administration.get("dosage", {}).get("dose")
    volume = quantity_in(dose, ("mL",))
    named = str(administration.get("medicationReference", {}).get("reference", ""))
    inside = [one for one in administration.get("contained", []) if named == f"#{one.get('id')}"]
    strength = strength_of(inside[0]) if len(inside) == 1 else None
    if volume is None or strength is None:
        return dose
    return {"value": Decimal(volume) * strength, "system": UCUM, "code": "mg", "unit": "mg"}


def strength_of(product: Resource | None) -> Decimal | None:
    """Return the strength of a Medication of one ingredient in mg per mL; None: it does not say."""
    strengths = [part["strength"] for part in (product or {}).get("ingredient", []) if "strength" in part]
    if len(strengths) != 1:
        return None
    mass = milligrams_in(strengths[0].get("numerator"))
    per = quantity_in(strengths[0].get("denominator"), ("mL",))
    return None if mass is None or not per else mass / Decimal(per)


def as_dose(administration: Resource, kilograms: Decimal | None) -> Dose:
    """Return a MedicationAdministration as a dose."""
    return Dose(
        f"MedicationAdministration/{administration['id']}",
        effective_start(administration),
        id_in(administration.get("request"), "MedicationRequest"),
        id_in(administration.get("context"), "Encounter"),
        milligrams_in(quantity_of(administration), kilograms),
    )


def ordered_of(order: Resource, route: str | None, kilograms: Decimal | None) -> tuple[Decimal | None, Decimal | None]:
    """Return the mg that an order allows in a session by a route, and at once (`maxDosePerAdministration`).

    Several dosage instructions add up (a first dose and its booster); of alternatives in one the smallest counts where
    they are said in different forms, the high end of a range otherwise. None: it is not said, or not known.
    """
    total: Decimal | None = None
    most: Decimal | None = None
    for dosage in order.get("dosageInstruction", []):
        if route not in codes_of(dosage.get("route"), SNOMED):
            continue
        said = [_rate(rate, kilograms) for rate in dosage.get("doseAndRate", [])]
        if not said or any(one is None for one in said):
            return None, None
        total = (total or Decimal(0)) + min(one for one in said if one is not None)
        if "maxDosePerAdministration" in dosage:
            cap = milligrams_in(dosage["maxDosePerAdministration"], kilograms)
            if cap is None:
                return None, None
            most = cap if most is None else max(most, cap)
    return total, most


def _rate(rate: Mapping[str, Any], kilograms: Decimal | None) -> Decimal | None:
    return milligrams_in(rate.get("doseQuantity") or rate.get("doseRange", {}).get("high"), kilograms)


def amount_checks(amounts: Amounts, policy: DosingPolicy) -> Iterator[Check]:
    """Yield the checks of a dose's amount: readable and above nothing, within what is left of the order, the maxima."""
    milligrams = amounts.milligrams
    if milligrams is None or milligrams <= 0:
        said = amounts.dose or {}
        unit = said.get("code", said.get("unit", ""))
        yield _not_known(
            "Amount of the dose",
            f"the amount of the dose is {said.get('value', 'not said')} {unit}; it must be known, above 0, in mg "
            "(UCUM; per kg only with a body weight of the last days). Say what is to be given (dosage.dose).",
            policy.amount.source,
        )
        return
    if amounts.order is not None:  # without one, the check of the order says so
        yield _against_order(amounts, amounts.order, milligrams, policy)
        yield from _since_the_order(amounts, amounts.order, policy)
    for spacing in policy.apart.values():
        if (spacing.drug, spacing.route) == (amounts.drug, amounts.route):
            yield _apart(amounts, spacing)
    maxima = [one for one in policy.maxima.values() if (one.drug, one.route) == (amounts.drug, amounts.route)]
    for maximum in maxima:
        yield _against_maximum(amounts, milligrams, maximum, policy)
    if not maxima:
        text = f"the policy has no maximum for {amounts.drug} by this route. Give it by another, or have one set."
        yield _not_known("Most in a session", text, policy.amount.source, "G-DOSE-MAX")


def _not_known(title: str, text: str, source: str, rule: str = "G-DOSE") -> Check:
    return Check(rule, title, "not-known", text, source, closes=True)


def _against_order(amounts: Amounts, order: Resource, milligrams: Decimal, policy: DosingPolicy) -> Check:
    title = "Amount within the order"
    total, most = ordered_of(order, amounts.route, amounts.kilograms)
    order_id = str(order["id"])
    before = [one for one in amounts.in_this_session() if one.order in (None, order_id)]
    given = _sum(before)
    if total is None or given is None:
        what = "the order does not say how much, or says it per kg without a body weight of the last days"
        if total is not None:
            what = f"of {', '.join(one.reference for one in before if one.milligrams is None)} it is not known how much"
        return _not_known(title, f"what may still be given in this session is not known: {what}.", policy.amount.source)
    tolerance = 1 + policy.rounding.share
    left = max(total - given, Decimal(0))
    at_once = most is None or milligrams <= most * tolerance
    opens = given + milligrams <= total * tolerance and at_once
    cap = "" if at_once else f" At once at most {_plain(most or Decimal(0))} mg are ordered."
    check = simple(
        "G-DOSE-ORDER",
        title,
        opens=opens,
        text=f"{_plain(milligrams)} mg are more than the order leaves in this session: {_plain(total)} mg are ordered, "
        f"{_plain(given)} mg given, {_plain(left)} mg left.{cap} Give less, or have the prescriber order it.",
        source=policy.amount.source,
        evidence=(f"MedicationRequest/{order_id}", *(one.reference for one in before)),
    )
    return replace(check, value=f"{_plain(milligrams)} mg", limit=f"at most {_plain(left)} mg")


def _since_the_order(amounts: Amounts, order: Resource, policy: DosingPolicy) -> Iterator[Check]:
    """Yield whether the patient weighs what he did when a dose by weight was ordered; a prescriber may decide."""
    by_weight = any(
        one.unit == "mg/kg" for one in policy.maxima.values() if (one.drug, one.route) == (amounts.drug, amounts.route)
    )
    if amounts.kilograms is None or not (by_weight or _is_per_kilogram(order)):
        return
    title, limit = "Weight since the order", f"at most {policy.weight_change.share:.0%} from the order's"
    then, now = amounts.kilograms_ordered, amounts.kilograms
    verdict: Verdict = "open"
    text = "In order."
    if then is None:
        verdict = "not-known"
        text = "what the patient weighed when the order was written is not known. Have the prescriber order it again."
    elif abs(now - then) > then * policy.weight_change.share:
        verdict = "closed"
        text = (
            f"the patient weighs {_plain(now)} kg, and weighed {_plain(then)} kg when it was ordered. Weigh him again; "
            "have the prescriber order it for this weight, or decide."
        )
    written = moment(order["authoredOn"]) if "authoredOn" in order else MIN_INSTANT
    decided = [one.reference for one in amounts.decisions if one.rule == "G-WEIGHT" and one.when >= written]
    if verdict == "closed" and decided:
        verdict = "decided"
    yield Check(
        "G-WEIGHT",
        title,
        verdict,
        text,
        policy.weight_change.source,
        closes=verdict in ("closed", "not-known"),
        value=f"{_plain(now)} kg",
        limit=limit,
        evidence=(f"MedicationRequest/{order['id']}", *(decided[-1:] if verdict == "decided" else ())),
        decidable=verdict == "closed",
    )


def _is_per_kilogram(order: Resource) -> bool:
    return any(
        quantity_in(said, ("mg/kg",)) is not None
        for dosage in order.get("dosageInstruction", [])
        for rate in dosage.get("doseAndRate", [])
        for said in (rate.get("doseQuantity"), rate.get("doseRange", {}).get("high"))
    )


def _apart(amounts: Amounts, spacing: Apart) -> Check:
    """Return whether a device comes long enough after the last; long after the first a prescriber decides."""
    near, here = timedelta(minutes=spacing.minutes), amounts.in_this_session()
    close = [one.reference for one in here if one.when is None or abs(amounts.start - one.when) < near]
    before = sorted(one.when for one in here if one.when is not None and one.when <= amounts.start)
    if not close and before and amounts.start - before[0] > timedelta(minutes=spacing.within):
        decided = [one.reference for one in amounts.decisions if one.rule == "G-DEVICE" and one.when >= before[-1]]
        text = (
            f"the first device was at {zulu(before[0])}, and all of a treatment are given within {spacing.within} "
            "minutes of it. Give the rest in another session, or have a prescriber decide: then the stay begins anew."
        )
        return Check(
            "G-DEVICE",
            "Time between devices",
            "decided" if decided else "closed",
            text,
            spacing.source,
            closes=not decided,
            evidence=(*(one.reference for one in here), *decided[-1:]),
            decidable=True,
        )
    return simple(
        "G-DEVICE",
        "Time between devices",
        opens=not close,
        text=f"devices are {spacing.minutes} minutes apart. Wait.",
        source=spacing.source,
        evidence=close,
    )


def _against_maximum(amounts: Amounts, milligrams: Decimal, maximum: Maximum, policy: DosingPolicy) -> Check:
    if maximum.hours is None:
        title, counted = "Most in a session", amounts.in_this_session()
    else:
        title = f"Most in {maximum.hours} hours"
        since = amounts.start - timedelta(hours=maximum.hours)
        here = amounts.in_this_session()
        counted = [
            one
            for one in amounts.others
            if one in here or one.when is None or (since < (one.latest or one.when) and one.when <= amounts.start)
        ]
    before = _sum(counted)
    high = maximum.high
    if maximum.unit == "mg/kg":
        if amounts.kilograms is None:
            return _not_known(
                title,
                f"{title.lower()} is {_plain(maximum.high)} mg/kg, and no body weight of the last "
                f"{policy.weight_age.days} days is known, or the newest can hardly be. Weigh the patient, "
                "and record it (Observation 29463-7).",
                policy.weight_age.source,
                "G-WEIGHT",
            )
        high = maximum.high * amounts.kilograms
    if before is None:
        unread = ", ".join(one.reference for one in counted if one.milligrams is None)
        return _not_known(title, f"of {unread} it is not known how much was given.", policy.amount.source)
    total = before + milligrams
    check = simple(
        "G-DOSE-MAX",
        title,
        opens=total <= high * (1 + policy.rounding.share),
        text=f"with it {_plain(total)} mg would be given, and {title.lower()} is {_plain(high)} mg "
        f"({_plain(maximum.high)} {maximum.unit}).",
        source=maximum.source,
        evidence=[one.reference for one in counted],
    )
    return replace(check, value=f"{_plain(total)} mg", limit=f"at most {_plain(high)} mg")


def _sum(doses: Iterable[Dose]) -> Decimal | None:
    total = Decimal(0)
    for one in doses:
        if one.milligrams is None:
            return None
        total += one.milligrams
    return total


def _plain(number: Decimal) -> str:
    whole = number.quantize(Decimal("0.1")) if number != number.to_integral_value() else number.to_integral_value()
    return f"{whole.normalize():f}"
