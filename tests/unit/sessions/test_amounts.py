"""A dose's amount against its order and the maxima: hand-worked examples, boundaries, and what is not known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules.amounts import Amounts, Dose, amount_checks, ordered_of
from services.sessions.setting import Setting
from shared.fhir import codes
from shared.runtime.policy import load_policy

POLICY = Setting.of(load_policy()).dosing
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
IM, IV, SUBLINGUAL, NASAL = (
    one.code for one in (codes.ROUTE_IM, codes.ROUTE_IV, codes.ROUTE_SUBLINGUAL, codes.ROUTE_NASAL)
)


def quantity(value, unit="mg"):
    return {"value": Decimal(str(value)), "system": codes.UCUM, "code": unit}


def instruction(*doses, route=IM, **more):
    coded = {"coding": [{"system": codes.SNOMED, "code": route}]}
    return {"route": coded, "doseAndRate": [{"doseQuantity": one} for one in doses], **more}


def order(*instructions):
    return {"id": "o", "dosageInstruction": list(instructions)}


def dose(milligrams, minutes=10, *, order="o", visit="v"):
    amount = None if milligrams is None else Decimal(str(milligrams))
    return Dose(f"MedicationAdministration/{minutes}", NOW - timedelta(minutes=minutes), order, visit, amount)


SAME = "the same"


def closing(
    amount, *, ordered=None, others=(), kilograms=70, drug="ketamine", route=IM, kilograms_ordered=SAME, decisions=()
):
    then = kilograms if kilograms_ordered == SAME else kilograms_ordered
    amounts = Amounts(
        dose=amount if isinstance(amount, dict) or amount is None else quantity(amount),
        start=NOW,
        drug=drug,
        route=route,
        visit="v",
        order=order(instruction(quantity(70), route=route)) if ordered is None else ordered,
        others=others,
        kilograms=None if kilograms is None else Decimal(kilograms),
        kilograms_ordered=None if then is None else Decimal(then),
        decisions=decisions,
    )
    return sorted({check.rule for check in amount_checks(amounts, POLICY) if check.closes})


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (70, []),
        (73.5, []),  # 70 mg and the 5 % of rounding
        (73.6, ["G-DOSE-ORDER"]),
        (5000, ["G-DOSE-MAX", "G-DOSE-ORDER"]),
        (0, ["G-DOSE"]),
        (-70, ["G-DOSE"]),
        (None, ["G-DOSE"]),
        (quantity(0.07, "g"), []),
        (quantity(70000, "ug"), []),
        (quantity(0.07, "mL"), ["G-DOSE"]),
        (quantity(1, "mg/kg"), []),  # 70 kg
        (quantity(1.1, "mg/kg"), ["G-DOSE-ORDER"]),
    ],
)
def test_a_dose_is_held_against_its_order(amount, expected):
    assert closing(amount) == expected


def test_what_was_given_in_this_session_counts_and_other_sessions_and_orders_do_not():
    assert closing(30, others=[dose(40)]) == []
    assert closing(40, others=[dose(40)]) == ["G-DOSE-ORDER"]
    assert closing(40, others=[dose(40, order=None)]) == ["G-DOSE-ORDER"]
    assert closing(40, others=[dose(40, order="other")]) == []
    assert closing(70, others=[dose(70, minutes=3 * 24 * 60, visit="before")]) == []
    assert closing(30, others=[dose(None)]) == ["G-DOSE"]


def test_the_most_of_a_session_and_of_a_day_hold_whatever_is_ordered():
    ordered = order(instruction(quantity(200)))
    assert closing(140, ordered=ordered) == []  # 2 mg/kg at 70 kg
    assert closing(150, ordered=ordered) == ["G-DOSE-MAX"]
    assert closing(80, ordered=ordered, others=[dose(80, order="other")]) == ["G-DOSE-MAX"]
    yesterday = dose(80, minutes=23 * 60, visit="before")
    assert closing(80, ordered=ordered, others=[yesterday]) == ["G-DOSE-MAX"]
    assert closing(80, ordered=ordered, others=[dose(80, minutes=24 * 60, visit="before")]) == []
    assert closing(80, ordered=ordered, others=[dose(None, minutes=60, visit="before")]) == ["G-DOSE"]


def test_esketamine_is_at_most_84_mg_a_session_and_twice_that_in_a_week():
    ordered = order(instruction(quantity(84), route=NASAL))
    common = {"ordered": ordered, "drug": "esketamine", "route": NASAL, "kilograms": None}
    assert closing(84, **common) == []
    assert closing(112, **common) == ["G-DOSE-MAX", "G-DOSE-ORDER"]
    twice = [dose(84, minutes=days * 24 * 60, visit=f"v{days}") for days in (2, 5)]
    assert closing(28, **common, others=twice[:1]) == []
    assert closing(28, **common, others=twice) == ["G-DOSE-MAX"]


def test_without_weight_a_limit_per_kg_is_not_known():
    assert closing(70, kilograms=None) == ["G-WEIGHT"]
    assert closing(quantity(1, "mg/kg"), kilograms=None) == ["G-DOSE"]
    assert (
        closing(100, kilograms=None, route=SUBLINGUAL, ordered=order(instruction(quantity(100), route=SUBLINGUAL)))
        == []
    )


def test_without_an_order_or_its_amount_it_is_not_known_how_much():
    assert closing(70, ordered=order()) == ["G-DOSE"]
    assert closing(70, ordered=order(instruction(quantity(70), route=IV))) == ["G-DOSE"]
    assert closing(70, ordered=order(instruction(quantity(1, "mL")))) == ["G-DOSE"]


@pytest.mark.parametrize(
    ("instructions", "total", "at_once"),
    [
        ([instruction(quantity(70))], 70, None),
        ([instruction(quantity(70)), instruction(quantity(35), asNeededBoolean=True)], 105, None),
        ([instruction(quantity(80), quantity(1, "mg/kg"))], 70, None),
        ([instruction(quantity(100), maxDosePerAdministration=quantity(50))], 100, 50),
        ([{**instruction(), "doseAndRate": [{"doseRange": {"low": quantity(35), "high": quantity(70)}}]}], 70, None),
        ([instruction()], None, None),
        ([instruction(quantity(70), maxDosePerAdministration=quantity(1, "mL"))], None, None),
    ],
)
def test_the_instructions_of_an_order_add_up(instructions, total, at_once):
    assert ordered_of(order(*instructions), IM, Decimal(70)) == (total, at_once)


def test_a_dose_above_what_may_be_given_at_once_is_refused():
    divided = order(instruction(quantity(100), maxDosePerAdministration=quantity(50)))
    assert closing(50, ordered=divided) == []
    assert closing(60, ordered=divided) == ["G-DOSE-ORDER"]


parts = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@given(parts)
def test_doses_that_all_start_never_add_up_to_more_than_the_order_with_its_rounding(amounts):
    given_so_far: list[Dose] = []
    for number, amount in enumerate(amounts):
        if closing(amount, others=given_so_far) == []:
            given_so_far.append(dose(amount, minutes=number))
    total = sum(one.milligrams for one in given_so_far)
    assert total <= Decimal("73.5")
