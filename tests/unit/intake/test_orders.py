"""Orders, consents and the stages of a course: each rule at its boundaries."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.rules.amounts import (
    Ordered,
    check_planned,
    check_titration,
    check_total,
    doses_of,
    of_route,
)
from services.intake.rules.orders import Weight, check_consent, check_order
from services.intake.rules.prescribers import Prescriber, check_prescriber
from services.intake.setting import Setting
from shared.fhir import codes
from shared.fhir.kap import PlannedDose, drug_of, kilograms_in
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
POLICY = SETTING.orders


NEWLY_WEIGHED = (Weight(Decimal(70), 2),)


def order(value, unit="mg", route=codes.ROUTE_IM, key="doseQuantity"):
    quantity = {"value": value, "system": codes.UCUM, "code": unit}
    return {"dosageInstruction": [{"route": route.concept(), "doseAndRate": [{key: quantity}]}]}


def rules(request, *, drug="ketamine", weights=NEWLY_WEIGHED):
    return [issue.rule for issue in check_order(request, drug, weights, POLICY)]


@pytest.mark.parametrize(
    ("request_", "drug", "expected"),
    [
        (order(Decimal("0.5"), "mg/kg", codes.ROUTE_IV), "ketamine", []),
        (order(Decimal("1.0"), "mg/kg", codes.ROUTE_IV), "ketamine", []),
        (order(Decimal("1.06"), "mg/kg", codes.ROUTE_IV), "ketamine", ["RX-DOSE"]),
        (order(Decimal("0.47"), "mg/kg", codes.ROUTE_IV), "ketamine", ["RX-DOSE"]),
        (order(35, "mg", codes.ROUTE_IV), "ketamine", []),
        (order(140), "ketamine", []),
        (order(150), "ketamine", ["RX-DOSE"]),
        (order(400, route=codes.ROUTE_SUBLINGUAL), "ketamine", []),
        (order(421, route=codes.ROUTE_SUBLINGUAL), "ketamine", ["RX-DOSE"]),
        (order(300, route=codes.ROUTE_ORAL), "ketamine", []),
        (order(84, route=codes.ROUTE_NASAL), "esketamine", []),
        (order(112, route=codes.ROUTE_NASAL), "esketamine", ["RX-DOSE"]),
        (order(70), "esketamine", ["RX-ROUTE"]),
        (order(1, "mL"), "ketamine", ["RX-DOSE"]),
        ({"dosageInstruction": [{"text": "as needed"}]}, "ketamine", ["RX-ROUTE"]),
        ({}, "ketamine", ["RX-ROUTE"]),
    ],
)
def test_a_dose_is_judged_by_drug_route_and_weight(request_, drug, expected):
    assert rules(request_, drug=drug) == expected


@pytest.mark.parametrize(("days", "expected"), [(0, []), (30, []), (31, ["RX-WEIGHT"]), (-1, ["RX-WEIGHT"])])
def test_a_weight_counts_for_so_many_days_before_the_order(days, expected):
    assert rules(order(70), weights=(Weight(Decimal(70), days),)) == expected


def test_without_a_weight_a_dose_per_kilogram_still_counts():
    assert rules(order(Decimal(1), "mg/kg"), weights=()) == []
    assert rules(order(70), weights=()) == ["RX-WEIGHT"]


def test_the_newest_weight_decides():
    assert rules(order(70), weights=(Weight(Decimal(30), 20), Weight(Decimal(70), 1))) == []


def test_both_ends_of_a_range_are_judged():
    quantity = {"system": codes.UCUM, "code": "mg"}
    wide = {"low": {**quantity, "value": 70}, "high": {**quantity, "value": 300}}
    request = order(70)
    request["dosageInstruction"][0]["doseAndRate"] = [{"doseRange": wide}]
    assert rules(request) == ["RX-DOSE"]


@given(st.decimals(min_value=1, max_value=500, places=1), st.decimals(min_value=30, max_value=200, places=1))
def test_an_allowed_dose_is_within_the_range_whatever_the_weight(milligrams, kilograms):
    allowed = rules(order(milligrams), weights=(Weight(kilograms, 0),)) == []
    dose = next(one for one in POLICY.doses.values() if one.route == codes.ROUTE_IM.code)
    share = POLICY.rounding.share
    assert allowed is (dose.low * (1 - share) <= milligrams / kilograms <= dose.high * (1 + share))


CONSENT = {
    "category": [codes.PROCEDURE_CONSENT.concept(codes.TREATMENT_CONSENT), codes.ROUTE_IM.concept()],
    "patient": {"reference": "Patient/ada"},
    "dateTime": "2026-11-20",
    "performer": [{"reference": "Patient/ada"}],
}


@pytest.mark.parametrize("missing", ["dateTime", "performer", "patient"])
def test_a_consent_lacks_what_it_does_not_say(missing):
    assert check_consent(CONSENT, POLICY) == []
    (issue,) = check_consent({key: value for key, value in CONSENT.items() if key != missing}, POLICY)
    assert issue.expression == (f"Consent.{missing}",)


def test_a_consent_names_its_route_and_its_kind():
    assert len(check_consent({**CONSENT, "category": CONSENT["category"][:1]}, POLICY)) == 1
    assert len(check_consent({**CONSENT, "category": [codes.TREATMENT_CONSENT.concept()]}, POLICY)) == 2


@pytest.mark.parametrize(
    ("concept", "drug"),
    [
        (codes.KETAMINE.concept(), "ketamine"),
        ({"text": "Spravato 56 mg"}, "esketamine"),
        ({"text": "S-ketamine"}, "esketamine"),
        (codes.Code(codes.RXNORM, "2201623").concept(), "esketamine"),
        (codes.Code(codes.RXNORM, "26225", "ondansetron").concept(), None),
        (None, None),
    ],
)
def test_the_two_drugs_are_told_from_others(concept, drug):
    assert drug_of(concept, SETTING.sets) == drug


def test_the_newest_weight_counts_though_it_is_not_understood():
    strange = (Weight(Decimal(70), 9, "Observation/old"), Weight(None, 1, "Observation/stone"))
    (issue,) = check_order(order(70), "ketamine", strange, POLICY)
    assert issue.rule == "RX-WEIGHT"
    assert "Observation/stone" in issue.diagnostics


@pytest.mark.parametrize(
    ("quantity", "kilograms"),
    [
        ({"value": Decimal(150), "system": codes.UCUM, "code": "[lb_av]"}, Decimal("68.0388555")),
        ({"value": Decimal(150), "unit": "lbs"}, Decimal("68.0388555")),
        ({"value": Decimal(68), "system": codes.UCUM, "code": "kg"}, Decimal(68)),
        ({"value": Decimal(68000), "system": codes.UCUM, "code": "g"}, Decimal(68)),
        ({"value": Decimal(11), "unit": "stone"}, None),
        ({"value": Decimal(11), "system": "urn:local", "code": "kg"}, None),
        (None, None),
    ],
)
def test_a_weight_is_read_in_pounds_too(quantity, kilograms):
    assert kilograms_in(quantity) == kilograms


PRESCRIBER = Prescriber((), None, (), (), datetime(2026, 11, 21, tzinfo=UTC))


def test_an_order_that_names_nobody_or_somebody_who_is_not_known_is_refused():
    for named, practitioner in ((), None), (("Practitioner/p",), None), (("Practitioner/p",), {"active": False}):
        who = replace(PRESCRIBER, named=named, practitioner=practitioner)
        assert [one.rule for one in check_prescriber(who, POLICY.prescriber, POLICY.licence)] == ["RX-PRESCRIBER"]


amounts = st.decimals(min_value="0.01", max_value="3", places=2)


@given(st.lists(amounts, max_size=6), amounts)
def test_whatever_was_ordered_before_no_dose_is_more_than_one_step_above(before, dose):
    titration = of_route(POLICY.titration, "ketamine", [codes.ROUTE_IM.code])
    found = check_titration(
        {"mg/kg": dose}, [{"mg/kg": one} for one in before], titration, POLICY.rounding.share, "here"
    )
    most = max(before) + titration.rise if before else titration.first
    assert bool(found) is (dose > most * (1 + POLICY.rounding.share))
    assert all(one.rule == "RX-TITRATION" and one.source for one in found)


@pytest.mark.parametrize(
    ("had", "days", "sessions", "looked", "refused"),
    [
        (11, 1, 1, None, False),
        (12, 1, 1, None, True),
        (12, 182, 1, None, False),
        (12, 181, 1, None, True),
        (12, 30, 1, 10, False),
        (12, 10, 1, 30, True),
    ],
)
def test_sessions_are_counted_over_half_a_year_or_since_somebody_looked(had, days, sessions, looked, refused):
    now = datetime(2026, 11, 22, tzinfo=UTC)
    before = [Ordered("o", now - timedelta(days=days), {}, had)]
    series = of_route(POLICY.series, "ketamine", [codes.ROUTE_IV.code])
    seen = None if looked is None else now - timedelta(days=looked)
    assert bool(check_total(sessions, before, seen, now, series)) is refused


def test_an_order_for_another_route_or_a_higher_dose_than_planned_is_refused():
    def planned(value, unit="mg/kg"):
        return PlannedDose("ketamine", codes.ROUTE_IM.code, 1, 3, milligrams(value, unit), None)

    low = (planned(Decimal("0.5")),)

    def judged(dose, route=codes.ROUTE_IM.code, *, weighs=Decimal(70), plan=low):
        doses = doses_of([{"doseAndRate": [{"doseQuantity": milligrams(dose)}]}], weighs)
        found = check_planned(doses, "ketamine", [route], plan, weighs, POLICY.rounding.share, POLICY.planned)
        return [one.rule for one in found]

    assert judged(35) == []
    assert judged(40) == ["RX-PLAN"]
    assert judged(20) == []
    assert judged(40, plan=(*low, planned(Decimal("0.75")))) == []
    assert judged(35, codes.ROUTE_IV.code) == ["RX-PLAN"]
    assert judged(4000, plan=()) == []
    assert judged(40, weighs=None, plan=(planned(35, "mg"),)) == ["RX-PLAN"]


def milligrams(value, unit="mg"):
    return {"value": value, "unit": unit, "system": codes.UCUM, "code": unit}
