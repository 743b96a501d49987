"""An order that is taken at home: what Schedule III asks before it may stand. The numbers come from the policy.

The prescription itself is issued in certified EPCS software; here its number is recorded, and what the law asks for
around it is held. Sources stand in `policies/orders.yaml`, section `at_home`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.codes import DEA, ID_PRESCRIPTION, IN_PERSON_CLASSES, MEDICATION_COMMUNITY, UCUM
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, has_code, patient_of
from shared.fhir.outcome import Issue
from shared.fhir.registrations import is_dea


class Seen(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How old the in-person evaluation may be."""

    days: int


class Telemedicine(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last day on which the telemedicine exception stands in for an in-person evaluation."""

    until: date


class Limit(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one prescription may be: units, days, refills; so many units are the most of any so many days, too."""

    units: Decimal
    days: int
    refills: int


class Routes(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Drugs and routes (SNOMED CT) that may be taken at home."""

    drugs: tuple[Drug, ...]
    routes: tuple[str, ...]


class HomePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part `at_home` of the section `orders`."""

    allowed: Routes
    seen: Seen
    telemedicine: Telemedicine
    pdmp: Seen
    dea: Cited
    limit: Limit
    number: Cited


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """What is held around an order for home.

    Attributes:
        visits: Encounters of the patient, whoever's.
        pdmp_queries: when the prescription monitoring programme was asked about the patient.
        patient: reference of the Patient, whose record lacks what no resource shows.
        prescriber, site: the Practitioner, and the Location or Organization he prescribes from; None: not known.
        at: when the order was written, or comes into force.
        before: the person's other orders of the drug, of whatever status but drafts and errors, and when each was
            written.
        alike: other orders, whoever's, whose prescription has the number of this one.

    """

    visits: Sequence[Resource]
    pdmp_queries: Sequence[datetime]
    prescriber: Resource | None
    site: Resource | None
    at: datetime
    patient: str
    before: Sequence[tuple[datetime, Resource]] = ()
    alike: Sequence[Resource] = ()


def is_for_home(request: Resource) -> bool:
    """Tell whether a MedicationRequest is taken at home: its category is ``community``, or it is dispensed."""
    return has_code(request.get("category"), MEDICATION_COMMUNITY) or bool(request.get("dispenseRequest"))


def check_home(
    request: Resource, drug: Drug, routes: Sequence[str], facts: HomeFacts, policy: HomePolicy
) -> list[Issue]:
    """Return what forbids an order for home; nothing when it may stand."""
    return [
        *_allowed(drug, routes, policy),
        *_seen(facts, policy),
        *_registered(facts, policy),
        *_limits(request, policy),
        *_total(request, facts, policy),
        *_number(request, facts, policy),
    ]


def _allowed(drug: Drug, routes: Sequence[str], policy: HomePolicy) -> Iterator[Issue]:
    if drug not in policy.allowed.drugs or not set(routes) <= set(policy.allowed.routes):
        yield _issue(
            f"{drug} by this route is not given for home; the clinic's policy allows {', '.join(policy.allowed.drugs)} "
            f"by {', '.join(policy.allowed.routes)}. Order it for the clinic.",
            "RX-HOME",
            policy.allowed,
            "category",
        )


def _seen(facts: HomeFacts, policy: HomePolicy) -> Iterator[Issue]:
    since = facts.at - timedelta(days=policy.seen.days)
    if (
        not any(_is_in_person(one, since, facts.at) for one in facts.visits)
        and facts.at.date() > policy.telemedicine.until
    ):
        yield _issue(
            f"No in-person visit of the last {policy.seen.days} days is on record, and the telemedicine exception "
            f"ended on {policy.telemedicine.until}. See the patient in person (Encounter.class AMB, finished).",
            "RX-SEEN",
            policy.telemedicine,
            "encounter",
            tuple(f"Encounter/{one['id']}" for one in facts.visits) or (facts.patient,),
        )
    asked = [one for one in facts.pdmp_queries if facts.at - timedelta(days=policy.pdmp.days) <= one <= facts.at]
    if not asked:
        yield _issue(
            f"The prescription monitoring programme was not asked in the {policy.pdmp.days} days before the order. Ask "
            "it, and record that (Observation, code kap|pdmp-query).",
            "RX-PDMP",
            policy.pdmp,
            "supportingInformation",
            (facts.patient,),
        )


def _is_in_person(visit: Resource, since: datetime, until: datetime) -> bool:
    period = visit.get("period", {})
    return (
        visit.get("status") == "finished"
        and visit.get("class", {}).get("code") in IN_PERSON_CLASSES
        and "start" in period
        and since <= interval(period["start"])[0] <= until
    )


def _registered(facts: HomeFacts, policy: HomePolicy) -> Iterator[Issue]:
    for who, resource, element in (
        ("the prescriber (Practitioner.identifier)", facts.prescriber, "requester"),
        ("the site (Location or Organization.identifier)", facts.site, "performer"),
    ):
        if resource is None or dea_number(resource, facts.at) is None:
            yield _issue(
                f"No valid DEA registration of {who} is on record for the day of the order. Record it with system "
                f"{DEA} and its period.",
                "RX-DEA",
                policy.dea,
                element,
                () if resource is None else (f"{resource['resourceType']}/{resource['id']}",),
            )


def dea_number(resource: Resource, when: datetime) -> str | None:
    """Return the DEA registration that a resource has at a time, its check digit right; None where it has none."""
    for one in resource.get("identifier", []):
        period = one.get("period", {})
        begun = "start" not in period or interval(period["start"])[0] <= when
        ended = "end" in period and interval(period["end"])[1] <= when
        if one.get("system") == DEA and begun and not ended and is_dea(str(one.get("value", ""))):
            return str(one["value"])
    return None


def _limits(request: Resource, policy: HomePolicy) -> Iterator[Issue]:
    dispense, limit = request.get("dispenseRequest", {}), policy.limit
    quantity = dispense.get("quantity", {}).get("value")
    days = dispense.get("expectedSupplyDuration", {}).get("value")
    refills = dispense.get("numberOfRepeatsAllowed", 0)
    over = [
        f"{what} {'is not given' if value is None else value} (at most {most:f})"
        for what, value, most in (
            ("quantity", quantity, limit.units),
            ("expectedSupplyDuration in days", days, Decimal(limit.days)),
            ("numberOfRepeatsAllowed", refills, Decimal(limit.refills)),
        )
        if value is None or Decimal(value) > most
    ]
    unit = dispense.get("expectedSupplyDuration", {}).get("code", "d")
    if unit != "d":
        over.append("expectedSupplyDuration is not in days (UCUM d)")
    if not _is_count(dispense.get("quantity", {})):
        over.append("quantity is no number of units, but an amount (UCUM 1, or the unit in braces)")
    if over:
        yield _issue(
            f"dispenseRequest is beyond the limit: {'; '.join(over)}. Order less.", "RX-LIMIT", limit, "dispenseRequest"
        )


def _is_count(quantity: Mapping[str, Any]) -> bool:
    """Tell whether a Quantity counts things: lozenges, tablets; of mg nobody could tell how many they are."""
    return quantity.get("system") != UCUM or str(quantity.get("code", "1")).startswith(("1", "{"))


def _total(request: Resource, facts: HomeFacts, policy: HomePolicy) -> Iterator[Issue]:
    """Yield that the orders of so many days are together more than one may be; of how much nobody said is the most."""
    limit = policy.limit
    since = facts.at - timedelta(days=limit.days)
    counted = [one for when, one in facts.before if is_for_home(one) and since < when <= facts.at]
    units, had = _units(request), sum((_units(one) or limit.units for one in counted), Decimal())
    if units is not None and units <= limit.units < had + units:
        yield _issue(
            f"{had:f} units were ordered for home in the {limit.days} days before; {units:f} more are above "
            f"{limit.units:f}. Order less, or later; what was never dispensed has the status cancelled.",
            "RX-LIMIT",
            limit,
            "dispenseRequest.quantity",
            tuple(f"MedicationRequest/{one['id']}" for one in counted),
        )


def _units(request: Resource) -> Decimal | None:
    """Return how many units an order for home is, its refills too; None: it does not say."""
    dispense = request.get("dispenseRequest", {})
    units = dispense.get("quantity", {}).get("value")
    return None if units is None else Decimal(units) * (1 + Decimal(dispense.get("numberOfRepeatsAllowed", 0)))


def _number(request: Resource, facts: HomeFacts, policy: HomePolicy) -> Iterator[Issue]:
    """Yield that an order has no prescription, or that of another order; of whose it is nothing is told."""
    if not numbers_of(request):
        yield _issue(
            "The number of the prescription is not recorded. Issue it in certified EPCS software, and give its number "
            f"as identifier with system {ID_PRESCRIPTION}; until then keep the order a draft.",
            "RX-NUMBER",
            policy.number,
            "identifier",
        )
    if facts.alike:
        own = [one for one in facts.alike if f"Patient/{patient_of(one)}" == facts.patient]
        whose = "another order of the patient" if own else "an order of somebody else"
        yield _issue(
            f"The number of the prescription is that of {whose}: one prescription is one order. Give the number that "
            "the EPCS software gave this one; where the other is wrong, correct that first.",
            "RX-NUMBER",
            policy.number,
            "identifier",
            tuple(f"MedicationRequest/{one['id']}" for one in own) or (facts.patient,),
        )


def numbers_of(request: Resource) -> list[str]:
    """Return the numbers of an order's prescription in the EPCS software."""
    identifiers = request.get("identifier", [])
    return [one["value"] for one in identifiers if one.get("system") == ID_PRESCRIPTION and one.get("value")]


def _issue(said: str, rule: str, cited: Cited, element: str, evidence: tuple[str, ...] = ()) -> Issue:
    return Issue(
        said,
        code="business-rule",
        expression=(f"MedicationRequest.{element}",),
        rule=rule,
        source=cited.source,
        evidence=evidence,
    )
