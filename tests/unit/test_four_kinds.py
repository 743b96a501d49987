"""Every clinical rule before the dose has a positive, a negative, a boundary and a "not known" case.

Prerequisites of a visit, elements of the informed consent, rules of an order and of one for home, in one table.
Eligibility and interactions have theirs in `tests/unit/intake/test_every_rule.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from services.intake.rules.amounts import Ordered, check_planned, check_titration, check_total, of_route
from services.intake.rules.orders import Weight
from services.intake.rules.prescribers import Prescriber, check_prescriber, check_site
from services.scheduling.rules.ground import RULES, Near, prerequisites
from shared.fhir import codes
from shared.fhir.kap import PlannedDose
from shared.fhir.outcome import Issue
from shared.testing.refusals import tells_what_to_do
from tests.unit.intake.test_consents import NEEDED, element
from tests.unit.intake.test_consents import said as consent_lacks
from tests.unit.intake.test_home import AFTER, ORDER, POLICY, registered
from tests.unit.intake.test_home import NOW as AT_HOME
from tests.unit.intake.test_home import rules as at_home
from tests.unit.intake.test_home import visit as seen
from tests.unit.intake.test_orders import SETTING, milligrams, order
from tests.unit.intake.test_orders import rules as ordered
from tests.unit.scheduling.test_scheduling_rules import FIRM, NOW
from tests.unit.scheduling.test_scheduling_rules import POLICY as VISITS
from tests.unit.test_refusals import rules_in_source

KINDS = {"positive", "negative", "boundary", "not known"}


class Case(NamedTuple):
    """One case: what it is about, the rules that speak against it, and whether this one does."""

    kind: str
    what: str
    judged: Callable[[], list[str]]
    refused: bool


ORDERS = SETTING.orders
IM = codes.ROUTE_IM.code


def visit(**more: Any) -> Callable[[], list[str]]:
    def judged() -> list[str]:
        found = prerequisites("kap-dosing", replace(FIRM, **more), NOW, VISITS)
        assert all(one.source and (one.met or tells_what_to_do(one.advice)) for one in found)
        return [one.rule for one in found if not one.met]

    return judged


def days_ago(days: float, seconds: float = 0) -> datetime:
    return NOW - timedelta(days=days, seconds=seconds)


def other_dose(hours: float, *routes: str) -> dict[str, tuple[Near, ...]]:
    return {"near": (Near("Appointment/2", NOW + timedelta(hours=hours), routes),)}


ESKETAMINE = {"drug": "esketamine", "site_certified": True, "patient_enrolled": True}
INPATIENT = {"drug": "esketamine", "inpatient": True}
PREREQUISITES = {
    "S-ELIGIBLE": [
        Case("positive", "found not eligible", visit(outcome="not-eligible"), True),
        Case("negative", "found eligible", visit(), False),
        Case("boundary", "180 days ago", visit(assessed=days_ago(180)), False),
        Case("boundary", "a second more", visit(assessed=days_ago(180, 1)), True),
        Case("not known", "never screened", visit(outcome=None), True),
        Case("not known", "answers are missing", visit(outcome="needs-answers"), True),
    ],
    "S-EPISODE": [
        Case("positive", "on hold", visit(episode_status="onhold"), True),
        Case("negative", "it runs", visit(episode_status="active"), False),
        Case("boundary", "planned, and not begun", visit(episode_status="planned"), False),
        Case("boundary", "over", visit(episode_status="finished"), True),
        Case("not known", "no course", visit(episode_status=None), True),
    ],
    "S-ORDER": [
        Case("positive", "not in force", visit(order_active=False), True),
        Case("negative", "in force", visit(), False),
        Case("boundary", "in force, without a route", visit(routes=()), True),
        Case("not known", "none is named", visit(order=None, order_active=False), True),
    ],
    "S-CONSENT": [
        Case("positive", "to another route", visit(consented=frozenset({codes.ROUTE_IV.code})), True),
        Case("negative", "to this route", visit(), False),
        Case("boundary", "to one of two", visit(routes=(IM, codes.ROUTE_IV.code)), True),
        Case("boundary", "to more than this", visit(consented=frozenset({IM, codes.ROUTE_IV.code})), False),
        Case("not known", "to none", visit(consented=frozenset()), True),
    ],
    "S-PLAN": [
        Case("positive", "no active plan among those held", visit(planned=False, plans=("CarePlan/1",)), True),
        Case("negative", "an active one", visit(planned=True), False),
        Case(
            "boundary", "an active one beside another", visit(planned=True, plans=("CarePlan/1", "CarePlan/2")), False
        ),
        Case("not known", "no plan is held", visit(planned=False), True),
    ],
    "S-REMS": [
        Case("positive", "neither", visit(drug="esketamine"), True),
        Case("negative", "both", visit(**ESKETAMINE), False),
        Case("boundary", "the site alone", visit(**{**ESKETAMINE, "patient_enrolled": False}), True),
        Case("boundary", "the patient alone", visit(**{**ESKETAMINE, "site_certified": False}), True),
        Case("boundary", "ketamine has none", visit(drug="ketamine"), False),
        Case("boundary", "an inpatient is not enrolled", visit(**{**INPATIENT, "site_certified": True}), False),
        Case("boundary", "an inpatient where nothing is certified", visit(**INPATIENT), True),
        Case("not known", "the drug is not: its order cannot be written", visit(drug=None, order_active=False), False),
    ],
    "S-SPACING": [
        Case("positive", "a day apart", visit(**other_dose(24)), True),
        Case("negative", "a week apart", visit(**other_dose(168)), False),
        Case("boundary", "48 hours", visit(**other_dose(48)), False),
        Case("boundary", "a minute less, before", visit(**other_dose(-48 + 1 / 60)), True),
        Case("not known", "the other's route: this one's counts", visit(**other_dose(47)), True),
        Case("positive", "three days, and the plan says a week", visit(**other_dose(72), days_apart=7), True),
        Case("negative", "a week by plan, an hour earlier in the day", visit(**other_dose(167), days_apart=7), False),
        Case("boundary", "a day less than the plan says", visit(**other_dose(144), days_apart=7), True),
        Case("not known", "the plan says no days", visit(**other_dose(72), days_apart=0), False),
    ],
    "S-PREPARED": [
        Case("positive", "none", visit(preparations=0), True),
        Case("negative", "two", visit(preparations=2), False),
        Case("boundary", "one", visit(preparations=1), False),
        Case("not known", "booked, and it is not known that it was held", visit(preparations=0, preparing=1), True),
    ],
    "S-ESCORT": [
        Case("positive", "nobody", visit(escort=False), True),
        Case("negative", "somebody", visit(escort=True), False),
        Case("boundary", "nobody, though all else is there", visit(escort=False, preparations=9), True),
        Case("not known", "a visit of which nothing is said", visit(escort=False, sites=()), True),
    ],
    "S-WEIGHT": [
        Case("positive", "two months ago", visit(weighed=days_ago(60)), True),
        Case("negative", "yesterday", visit(weighed=days_ago(1)), False),
        Case("boundary", "30 days", visit(weighed=days_ago(30)), False),
        Case("boundary", "a second more", visit(weighed=days_ago(30, 1)), True),
        Case("not known", "never", visit(weighed=None), True),
    ],
}

# -- orders -----------------------------------------------------------------------------------------------------------


def rules_of(issues: list[Issue]) -> list[str]:
    assert all(one.source and one.expression and tells_what_to_do(one.diagnostics) for one in issues)
    return [str(one.rule) for one in issues]


def dose(value: float | str, *, weighs: float | None = 70, days: float = 2, **more: Any) -> Callable[[], list[str]]:
    weights = () if weighs is None else (Weight(Decimal(str(weighs)), days),)
    drug = more.pop("drug", "ketamine")
    return lambda: ordered(order(Decimal(str(value)), **more), drug=drug, weights=weights)


def by_mouth(value: float | str, **more: Any) -> Callable[[], list[str]]:
    return dose(value, unit="mg/kg", route=codes.ROUTE_ORAL, **more)


def rise(to: str, *before: str) -> Callable[[], list[str]]:
    steps = of_route(ORDERS.titration, "ketamine", [IM])
    had = [{"mg/kg": Decimal(one)} for one in before]
    return lambda: rules_of(check_titration({"mg/kg": Decimal(to)}, had, steps, ORDERS.rounding.share, "here"))


def spray_first(to: str, years: int | None, *met: str, before: str | None = None) -> Callable[[], list[str]]:
    steps = of_route(ORDERS.titration, "esketamine", [codes.ROUTE_NASAL.code])
    had = [] if before is None else [{"mg": Decimal(before)}]
    share = ORDERS.rounding.share

    def aged(limit: int) -> bool | None:
        return None if years is None else years >= limit

    return lambda: rules_of(
        check_titration({"mg": Decimal(to)}, had, steps, share, "here", ("Patient/1",), met=met, aged=aged)
    )


def sessions(had: int, days: float = 1) -> Callable[[], list[str]]:
    series = of_route(ORDERS.series, "ketamine", [codes.ROUTE_IV.code])
    before = [Ordered("MedicationRequest/1", days_ago(days), {}, had)]
    return lambda: rules_of(check_total(1, before, None, NOW, series))


def by_plan(
    value: float, *, route: str = IM, weighs: float | None = 70, planned: bool = True
) -> Callable[[], list[str]]:
    kilograms = None if weighs is None else Decimal(str(weighs))
    steps = (PlannedDose("ketamine", IM, 1, 3, milligrams(Decimal("0.5"), "mg/kg"), None),) if planned else ()
    said = {"mg": Decimal(str(value))}
    if kilograms is not None:
        said["mg/kg"] = said["mg"] / kilograms
    return lambda: rules_of(
        check_planned(said, "ketamine", [route], steps, kilograms, ORDERS.rounding.share, ORDERS.planned)
    )


ON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def licence(end: str | None = "2030-01-01", where: str = "US-NY") -> dict[str, Any]:
    told = [{"url": codes.EXT_JURISDICTION, "valueCode": where}]
    period = {} if end is None else {"period": {"start": "2020-01-01", "end": end}}
    return {"extension": told, "code": {"text": "MD"}, **period}


def role(end: str | None = None, code: str = "prescriber") -> dict[str, Any]:
    return {
        "resourceType": "PractitionerRole",
        "id": "r",
        "code": [codes.Code(codes.KAP, code).concept()],
        "period": {"start": "2020-01-01", **({"end": end} if end else {})},
    }


SITE = {"resourceType": "Location", "id": "l", "address": {"state": "NY", "country": "US"}}


def by(*held: dict[str, Any], roles: tuple[dict[str, Any], ...] | None = None, **more: Any) -> Callable[[], list[str]]:
    doctor = {"resourceType": "Practitioner", "id": "p", "qualification": list(held or (licence(),))}
    who = Prescriber(("Practitioner/p",), doctor, (role(),) if roles is None else roles, (SITE,), ON)
    return lambda: rules_of(check_prescriber(replace(who, **more), ORDERS.prescriber, ORDERS.licence))


def at_site(drug: str, *sites: dict[str, Any]) -> Callable[[], list[str]]:
    who = Prescriber(("Practitioner/p",), None, (), sites, ON)
    return lambda: rules_of(check_site(drug, who, ORDERS.rems))


def certified(**period: str) -> dict[str, Any]:
    return {**SITE, "identifier": [{"system": codes.ID_REMS_SITE, "value": "1", "period": period}]}


ORDERED = {
    "RX-ROUTE": [
        Case("positive", "esketamine into a muscle", dose(70, drug="esketamine"), True),
        Case("negative", "ketamine into a muscle", dose(70), False),
        Case("boundary", "ketamine by the route of esketamine", dose(84, route=codes.ROUTE_NASAL), False),
        Case("not known", "no route", lambda: ordered({"dosageInstruction": [{"text": "as told"}]}), True),
    ],
    "RX-DOSE": [
        Case("positive", "twice the most", dose(300), True),
        Case("negative", "in the middle", dose(70), False),
        Case("boundary", "the most", dose(140), False),
        Case("boundary", "more than the most by more than is rounded", dose(148), True),
        Case("not known", "in millilitres", dose(1, unit="mL"), True),
        Case("boundary", "by mouth, the least by weight", by_mouth("0.25"), False),
        Case("boundary", "by mouth, less than that", by_mouth("0.2"), True),
        Case("boundary", "by mouth, the most by weight", by_mouth(7, weighs=40), False),
        Case("boundary", "by mouth, more", by_mouth("7.6", weighs=35), True),
        Case("boundary", "by mouth, above the most in mg", by_mouth(7), True),
        Case("boundary", "by mouth, as little in mg", dose("17.5", route=codes.ROUTE_ORAL), True),
    ],
    "RX-WEIGHT": [
        Case("positive", "weighed two months before", dose(70, days=60), True),
        Case("negative", "weighed two days before", dose(70), False),
        Case("boundary", "30 days", dose(70, days=30), False),
        Case("boundary", "31 days", dose(70, days=31), True),
        Case("not known", "never weighed", dose(70, weighs=None), True),
    ],
    "RX-TITRATION": [
        Case("positive", "two steps at once", rise("2.0", "0.5"), True),
        Case("negative", "the same again", rise("0.5", "0.5"), False),
        Case("boundary", "one step", rise("1.0", "0.5"), False),
        Case("boundary", "more than one, and than is rounded", rise("1.06", "0.5"), True),
        Case("not known", "nothing was ordered before: as a first dose", rise("1.5"), True),
        Case("positive", "56 mg of esketamine first, at 70 years", spray_first("56", 70), True),
        Case("negative", "28 mg at 70 years", spray_first("28", 70), False),
        Case("boundary", "56 mg at 64 years", spray_first("56", 64), False),
        Case("boundary", "56 mg at 65 years", spray_first("56", 65), True),
        Case("boundary", "84 mg at 65 years, acutely suicidal", spray_first("84", 65, "acute-suicidality"), True),
        Case("boundary", "84 mg at 64 years, acutely suicidal", spray_first("84", 64, "acute-suicidality"), False),
        Case("boundary", "56 mg at 70 years after 28 mg", spray_first("56", 70, before="28"), False),
        Case("not known", "56 mg at an age that is not known", spray_first("56", None), True),
    ],
    "RX-SERIES": [
        Case("positive", "far more than a series", sessions(30), True),
        Case("negative", "the second of a series", sessions(1), False),
        Case("boundary", "the twelfth in half a year", sessions(11), False),
        Case("boundary", "the thirteenth", sessions(12), True),
        Case("boundary", "the thirteenth, the others longer ago", sessions(12, 182), False),
        Case("not known", "nobody is known to have looked whether more are needed", sessions(12, 181), True),
    ],
    "RX-PLAN": [
        Case("positive", "another route", by_plan(35, route=codes.ROUTE_IV.code), True),
        Case("negative", "as planned", by_plan(35), False),
        Case("boundary", "rounded up", by_plan(36.7), False),
        Case("boundary", "a little more", by_plan(37), True),
        Case("not known", "by weight, of somebody who was not weighed", by_plan(35, weighs=None), True),
    ],
    "RX-PRESCRIBER": [
        Case("positive", "a therapist", by(roles=(role(code="therapist"),)), True),
        Case("negative", "a prescriber", by(), False),
        Case("boundary", "to the day", by(roles=(role("2026-11-21"),)), False),
        Case("boundary", "to the day before", by(roles=(role("2026-11-20"),)), True),
        Case("not known", "nobody", by(named=()), True),
        Case("not known", "somebody who is not in the directory", by(practitioner=None), True),
    ],
    "RX-LICENCE": [
        Case("positive", "of another state", by(licence(where="US-NJ")), True),
        Case("negative", "of this one", by(licence()), False),
        Case("boundary", "to the day", by(licence("2026-11-21")), False),
        Case("boundary", "to the day before", by(licence("2026-11-20")), True),
        Case("not known", "without its time", by(licence(None)), True),
    ],
    "RX-REMS": [
        Case("positive", "not certified", at_site("esketamine", SITE), True),
        Case("negative", "certified", at_site("esketamine", certified(start="2025-01-01")), False),
        Case("negative", "ketamine needs none", at_site("ketamine", SITE), False),
        Case("boundary", "to the day", at_site("esketamine", certified(end="2026-11-21")), False),
        Case("boundary", "to the day before", at_site("esketamine", certified(end="2026-11-20")), True),
        Case("not known", "no place is named", at_site("esketamine"), True),
    ],
}

# -- orders for home --------------------------------------------------------------------------------------------------


def home(order_: dict[str, Any] = ORDER, **facts: Any) -> Callable[[], list[str]]:
    return lambda: at_home(order_, **facts)


def asked(days: float) -> Callable[[], list[str]]:
    return home(pdmp_queries=(AT_HOME - timedelta(days=days),))


def dispensed(**more: Any) -> Callable[[], list[str]]:
    return home({**ORDER, "dispenseRequest": {**ORDER["dispenseRequest"], **more}})


def later(*visits: dict[str, Any], at: datetime = AFTER) -> Callable[[], list[str]]:
    return home(at=at, visits=visits, pdmp_queries=(at,))


LAST_DAY = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
FOR_HOME = {
    "RX-HOME": [
        Case("positive", "esketamine", home(drug="esketamine", route="46713006"), True),
        Case("negative", "a lozenge", home(), False),
        Case("boundary", "ketamine by mouth", home(route="26643006"), False),
        Case("boundary", "ketamine by nose", home(route="46713006"), True),
        Case("not known", "a route that is none of ours", home(route="1"), True),
    ],
    "RX-SEEN": [
        Case("positive", "seen by video alone", later(seen(class_="VR")), True),
        Case("negative", "seen in person", later(seen()), False),
        Case("boundary", "on the last day of the telemedicine exception", later(at=LAST_DAY), False),
        Case("boundary", "the day after", later(), True),
        Case(
            "not known",
            "a visit without its time",
            later({"id": "v", "status": "finished", "class": {"code": "AMB"}}),
            True,
        ),
    ],
    "RX-PDMP": [
        Case("positive", "asked a month ago", asked(30), True),
        Case("negative", "asked today", asked(0), False),
        Case("boundary", "seven days", asked(7), False),
        Case("boundary", "more than seven", asked(7.01), True),
        Case("not known", "never asked", home(pdmp_queries=()), True),
    ],
    "RX-DEA": [
        Case("positive", "a wrong check digit", home(prescriber=registered("AB1234564")), True),
        Case("negative", "registered", home(), False),
        Case("boundary", "to the day", home(site=registered(end="2026-11-22")), False),
        Case("boundary", "to the day before", home(site=registered(end="2026-11-21")), True),
        Case("not known", "the site is not held", home(site=None), True),
    ],
    "RX-LIMIT": [
        Case("positive", "a hundred", dispensed(quantity={"value": 100}), True),
        Case("negative", "six", dispensed(quantity={"value": 6}), False),
        Case("boundary", "twelve", dispensed(quantity={"value": POLICY.limit.units}), False),
        Case("boundary", "thirteen", dispensed(quantity={"value": POLICY.limit.units + 1}), True),
        Case("not known", "how many is not said", dispensed(quantity={}), True),
    ],
    "RX-NUMBER": [
        Case(
            "positive",
            "a number of something else",
            home({**ORDER, "identifier": [{"system": "urn:x", "value": "1"}]}),
            True,
        ),
        Case("negative", "its number", home(), False),
        Case(
            "boundary",
            "a system without its value",
            home({**ORDER, "identifier": [{"system": codes.ID_PRESCRIPTION}]}),
            True,
        ),
        Case("not known", "none", home({**ORDER, "identifier": []}), True),
    ],
}

# -- consent ----------------------------------------------------------------------------------------------------------


def signed(name: str, **parts: Any) -> Callable[[], list[str]]:
    others = [element(one) for one in NEEDED if one != name]
    return lambda: [name] if any(f"'{name}'" in one for one in consent_lacks([element(name, **parts), *others])) else []


def of_element(name: str) -> list[Case]:
    return [
        Case("positive", "signed tomorrow", signed(name, at={"valueDateTime": "2026-11-23"}), True),
        Case("negative", "signed", signed(name), False),
        Case("boundary", "signed at this moment", signed(name, at={"valueDateTime": "2026-11-22T09:00:00Z"}), False),
        Case("boundary", "a second later", signed(name, at={"valueDateTime": "2026-11-22T09:00:01Z"}), True),
        Case("not known", "when is not said", signed(name, at=None), True),
        Case("not known", "by whom is not said", signed(name, signer=None), True),
    ]


ELEMENTS = {name: of_element(name) for name in NEEDED}
CASES = {**PREREQUISITES, **ORDERED, **FOR_HOME, **ELEMENTS}
ALL = [(rule, case) for rule, cases in CASES.items() for case in cases]

OF_THE_RECORD = {
    "B-GLASS",
    "C-CONSENT",
    "C-ELEMENT",
    "D-NUMBER",
    "E-OVERRIDE",
    "E-REPLAY",
    "E-SCREEN",
    "N-NEWS",
    "RX-SCREEN",
}
"""Rules that judge what is written and by whom, no clinical fact; of C-ELEMENT each element is one, of RX-SCREEN each
finding (`tests/unit/intake/test_every_rule.py`)."""
FAMILIES_OF_THE_RECORD = ("K-", "M-", "P-", "Q-", "G-")
"""Courses, merging, privacy and plans, what is asked, and whose a dose is."""
BOOKINGS = {"S-CLOSED", "S-DOUBLE", "S-GROUP", "S-HOLD", "S-HOURS", "S-KIND", "S-PATIENT", "S-SERIES", "S-SLOT"}
TIMES = {"S-STATUS", "S-TIME", "S-WINDOW"}


def test_every_clinical_rule_by_which_something_is_refused_has_all_four_kinds_of_cases():
    refusing = {rule for rule in rules_in_source() if not rule.startswith(FAMILIES_OF_THE_RECORD)}
    assert (refusing | set(RULES.values())) - OF_THE_RECORD - BOOKINGS - TIMES == set(CASES) - set(ELEMENTS)
    for rule, cases in CASES.items():
        assert {case.kind for case in cases} == KINDS, rule


@pytest.mark.parametrize(("rule", "case"), ALL, ids=[f"{rule}, {case.what}" for rule, case in ALL])
def test_each_rule_before_the_dose_judges_each_of_its_cases(rule, case):
    assert (rule in case.judged()) is case.refused
