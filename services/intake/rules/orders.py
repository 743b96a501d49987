"""What an order of ketamine and a consent to it must say. The numbers come from `policies/orders.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import msgspec

from services.intake.rules.amounts import Titration, amounts_of
from services.intake.rules.findings import Finding, Screening
from services.intake.rules.home import HomePolicy
from services.intake.rules.prescribers import PrescriberPolicy
from shared.fhir.cited import Cited
from shared.fhir.codes import PROCEDURE_CONSENT, SNOMED
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, codes_of, consent_routes, has_code
from shared.fhir.outcome import Issue
from shared.fhir.series import Series


class ByWeight(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a dose that is ordered by weight may be, in mg/kg."""

    low: Decimal
    high: Decimal


class DoseRange(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a single dose may be, in `unit` (``mg`` or ``mg/kg``), for a drug by a route (SNOMED CT).

    `by_weight`: what one that is ordered in mg/kg may be, where `unit` is mg; it is not above `high` all the same.
    """

    drug: Drug
    route: str
    unit: Literal["mg", "mg/kg"]
    low: Decimal
    high: Decimal
    by_weight: ByWeight | None = None


class Share(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A share, 0 to 1."""

    share: Decimal


class Days(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of days."""

    days: int


class OrderPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `orders`; `entered_late`: of an older one all is judged as of now, too."""

    doses: dict[str, DoseRange]
    titration: dict[str, Titration]
    series: dict[str, Series]
    rounding: Share
    weight_age: Days
    entered_late: Days
    prescriber: PrescriberPolicy
    licence: Cited
    rems: Cited
    planned: Cited
    screened: Cited
    consent: Cited
    at_home: HomePolicy


@dataclass(frozen=True, slots=True)
class Weight:
    """A body weight in kg (None: its value or unit is not understood), the days between it and the order, and where."""

    kilograms: Decimal | None
    days: int
    reference: str = ""


def check_order(request: Resource, drug: Drug, weights: Sequence[Weight], policy: OrderPolicy) -> list[Issue]:
    """Return what forbids the dose of an active order of ketamine or esketamine; nothing when it may stand."""
    issues = []
    dosages = request.get("dosageInstruction", [])
    if not dosages:
        issues.append(_no_route(policy, "MedicationRequest.dosageInstruction"))
    for number, dosage in enumerate(dosages):
        issues.extend(check_dosage(dosage, f"MedicationRequest.dosageInstruction[{number}]", drug, weights, policy))
    return issues


def check_screened(result: Screening | None, planned: str, policy: OrderPolicy, patient: str) -> list[Issue]:
    """Return what a screening for drug and route of an order says against it; `result` None: never screened.

    `planned` names drug and route, for people; `patient` is the reference of the Patient, whose record lacks what no
    resource shows.
    """
    if result is None:
        return [
            Issue(
                "The patient was not screened. Have the screening questions answered and screen "
                "(POST Patient/[id]/$screen), then order.",
                code="business-rule",
                expression=("MedicationRequest.subject",),
                rule="RX-SCREEN",
                source=policy.screened.source,
                evidence=(patient,),
            )
        ]
    if result.outcome == "eligible":
        return []
    says = {"hit": "applies", "not-known": "is not known"}
    return [
        Issue(
            f"{finding.rule} {finding.title} {says[finding.verdict]} for {planned}. {finding.why} "
            f"{_evidence(finding)}{finding.advice}",
            code="business-rule",
            expression=("MedicationRequest.medication",),
            rule=finding.rule,
            source=finding.source,
            evidence=finding.evidence or (patient,),
        )
        for finding in result.findings
        if finding.verdict == "not-known" or (finding.verdict == "hit" and finding.severity != "I")
    ]


def _evidence(finding: Finding) -> str:
    return f"Evidence: {', '.join(finding.evidence)}. " if finding.evidence else ""


def _no_route(policy: OrderPolicy, where: str) -> Issue:
    return Issue(
        "An order of ketamine needs its route as a SNOMED CT code that the clinic's policy knows "
        f"({', '.join(sorted({dose.route for dose in policy.doses.values()}))}). Give dosageInstruction.route.",
        code="business-rule",
        expression=(where,),
        rule="RX-ROUTE",
        source=policy.consent.source,
    )


def check_dosage(
    dosage: Mapping[str, Any], where: str, drug: Drug, weights: Sequence[Weight], policy: OrderPolicy
) -> Iterator[Issue]:
    """Yield what is wrong with a dosage instruction: its route, its dose, or that no weight lets it be judged."""
    routes = codes_of(dosage.get("route"), SNOMED)
    ranges = [dose for dose in policy.doses.values() if dose.drug == drug and dose.route in routes]
    if not ranges:
        yield _no_route(policy, f"{where}.route")
        return
    allowed = ranges[0]
    amounts = list(amounts_of(dosage))
    if not amounts:
        yield Issue(
            f"An order of {drug} needs its dose as doseAndRate.doseQuantity in mg or mg/kg (UCUM). Give it.",
            code="business-rule",
            expression=(f"{where}.doseAndRate",),
            rule="RX-DOSE",
            source=allowed.source,
        )
    for value, unit in amounts:
        share = policy.rounding.share
        low, high = allowed.low * (1 - share), allowed.high * (1 + share)
        if unit == "mg/kg" and allowed.by_weight is not None:
            weighed = allowed.by_weight
            low = Decimal()
            if not weighed.low * (1 - share) <= value <= weighed.high * (1 + share):
                yield Issue(
                    f"{value:.2f} mg/kg of {drug} is outside the clinic's range by weight for this route, "
                    f"{weighed.low:f} to {weighed.high:f} mg/kg. Correct the dose.",
                    code="business-rule",
                    expression=(f"{where}.doseAndRate",),
                    rule="RX-DOSE",
                    source=weighed.source,
                )
                continue
        if unit != allowed.unit:
            kilograms = kilograms_of(weights, policy)
            if isinstance(kilograms, str):
                yield Issue(
                    f"The dose can only be judged with a body weight. {kilograms}",
                    code="business-rule",
                    expression=(f"{where}.doseAndRate",),
                    rule="RX-WEIGHT",
                    source=policy.weight_age.source,
                    evidence=_weighed(weights, policy),
                )
                continue
            value = value / kilograms if allowed.unit == "mg/kg" else value * kilograms  # noqa: PLW2901 - the value in the unit of the limit
        if not low <= value <= high:
            by_weight = unit != allowed.unit
            yield Issue(
                f"{value:.2f} {allowed.unit} of {drug} is outside the clinic's range for this route, "
                f"{allowed.low:f} to {allowed.high:f} {allowed.unit}. Correct the dose.",
                code="business-rule",
                expression=(f"{where}.doseAndRate",),
                rule="RX-DOSE",
                source=allowed.source,
                evidence=_weighed(weights, policy) if by_weight else (),
            )


def kilograms_of(weights: Sequence[Weight], policy: OrderPolicy) -> Decimal | str:
    """Return the newest weight that is not too old, or what to do where there is none or it is not understood."""
    newest = _newest(weights, policy)
    if newest is None:
        return (
            f"There is none of the last {policy.weight_age.days} days before the order. Record one (Observation "
            "29463-7) and order again."
        )
    if newest.kilograms is None or newest.kilograms <= 0:
        return (
            f"The newest one, {newest.reference}, is not understood: give it in kg, g or [lb_av] (UCUM), "
            "and order again."
        )
    return newest.kilograms


def _newest(weights: Sequence[Weight], policy: OrderPolicy) -> Weight | None:
    usable = [weight for weight in weights if 0 <= weight.days <= policy.weight_age.days]
    return min(reversed(usable), key=lambda weight: weight.days, default=None)


def _weighed(weights: Sequence[Weight], policy: OrderPolicy) -> tuple[str, ...]:
    """Return the reference of the weight that a dose is judged by."""
    newest = _newest(weights, policy)
    return () if newest is None else (newest.reference,)


def check_consent(consent: Resource, policy: OrderPolicy) -> list[Issue]:
    """Return what a treatment consent that is to be active lacks."""
    lacking = []
    if not consent.get("dateTime"):
        lacking.append(("when it was given", "Consent.dateTime"))
    if not consent.get("performer"):
        lacking.append(("who gave it", "Consent.performer"))
    if not consent.get("patient"):
        lacking.append(("the patient", "Consent.patient"))
    if not consent_routes(consent):
        lacking.append(("the route, as a category with its SNOMED CT code", "Consent.category"))
    if not has_code(consent.get("category"), PROCEDURE_CONSENT):
        lacking.append(("the category LOINC 64293-4 (procedure consent)", "Consent.category"))
    return [
        Issue(
            f"A consent to treatment needs {what}. Add it, or leave the consent a draft.",
            code="business-rule",
            expression=(where,),
            rule="C-CONSENT",
            source=policy.consent.source,
        )
        for what, where in lacking
    ]
