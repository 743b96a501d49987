"""The plan of a course: every template can stand as it is, and what makes it personal keeps to the policy."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.planning import activities
from services.intake.rules.orders import Weight
from services.intake.rules.plans import Step, Template, Wish, check_agreed, check_plan, choose, personal, planned
from services.intake.setting import Setting
from shared.fhir.codes import ROLES, ROUTES
from shared.fhir.kap import planned_doses
from shared.fhir.outcome import Issue
from shared.runtime.policy import load_policy

POLICY = load_policy()
SETTING = Setting.of(POLICY)
TEMPLATES = SETTING.plans.templates
WEIGHED = (Weight(Decimal(70), 2),)


def young(_):
    return False


def rules(template, *, weights=WEIGHED):
    found = check_plan(planned(template), weights, SETTING.orders, "here", template.conditions, young)
    return [one.rule for one in found]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_template_keeps_to_the_rules_of_orders_and_names_what_there_is(name):
    template = TEMPLATES[name]
    assert rules(template) == []
    assert template.route in ROUTES
    assert set(template.team) <= set(ROLES)
    assert set(template.conditions) <= set(SETTING.sets)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_plan_says_in_fhir_what_its_template_says(name):
    template = TEMPLATES[name]
    plan = {"activity": [{"detail": one} for one in activities(template, planned(template))]}
    assert [tuple(one)[:4] for one in planned_doses(plan)] == [tuple(one)[:4] for one in planned(template)]
    assert sum(one.sessions for one in planned_doses(plan)) == template.sessions


def test_the_higher_first_dose_of_esketamine_is_for_acute_suicidality_alone():
    doses = planned(TEMPLATES["esketamine-suicidality"])
    assert check_plan(doses, WEIGHED, SETTING.orders, "here", ["depression", "acute-suicidality"], young) == []
    refused = check_plan(doses, WEIGHED, SETTING.orders, "here", ["depression"], young)
    assert [one.rule for one in refused] == ["RX-TITRATION"]


def test_a_plan_keeps_doses_no_nearer_than_bookings_are():
    spacing = POLICY.sections["scheduling"]["spacing"]
    for one in SETTING.orders.series.values():
        assert one.least_days * 24 >= spacing[one.route]["hours"]


def test_for_every_drug_and_route_that_may_be_ordered_it_is_said_how_it_rises_and_how_many():
    orders = SETTING.orders
    ordered = {(one.drug, one.route) for one in orders.doses.values()}
    assert {(one.drug, one.route) for one in orders.titration.values()} == ordered
    assert {(one.drug, one.route) for one in orders.series.values()} == ordered


@pytest.mark.parametrize(
    ("name", "drug", "route", "met", "expected"),
    [
        (None, "ketamine", "78421000", ["post-traumatic-stress"], "ketamine-im-trauma"),
        (None, "ketamine", "78421000", [], "ketamine-im"),
        (None, "ketamine", "47625008", ["depression"], "ketamine-iv-depression"),
        (None, "ketamine", "47625008", ["post-traumatic-stress"], "ketamine-iv"),
        (None, "esketamine", None, ["depression"], "esketamine-depression"),
        (None, "esketamine", None, [], None),
        ("ketamine-im-trauma", None, None, [], "ketamine-im-trauma"),
        ("ketamine-im-trauma", "esketamine", None, [], None),
        ("nothing", None, None, [], None),
        (None, None, None, ["depression"], None),
    ],
)
def test_a_template_is_chosen_by_drug_route_and_condition_and_never_guessed(name, drug, route, met, expected):
    chosen = choose(SETTING.plans, name, drug, route, met, young)
    if expected is None:
        assert isinstance(chosen, Issue)
        assert (chosen.rule, bool(chosen.source)) == ("P-TEMPLATE", True)
    else:
        assert chosen[0] == expected


@pytest.mark.parametrize(("aged", "first"), [(False, 56), (True, 28), (None, 28)])
def test_from_65_years_on_or_where_the_age_is_not_known_esketamine_begins_with_28_mg(aged, first):
    chosen = choose(SETTING.plans, None, "esketamine", None, ["depression"], lambda _: aged)
    assert chosen[1].doses[0].value == first
    planned_doses = planned(chosen[1])
    assert check_plan(planned_doses, (), SETTING.orders, "here", aged=lambda _: aged) == []


IM = TEMPLATES["ketamine-im"]


def steps(*given):
    return tuple(Step(session, Decimal(value), unit) for session, value, unit in given)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(doses=steps((1, "0.5", "mg/kg"))), []),
        (Wish(doses=steps((1, "70", "mg"), (2, "105", "mg"))), []),
        (Wish(doses=steps((1, "70", "mg"), (2, "115", "mg"))), ["RX-TITRATION"]),
        (Wish(doses=steps((1, "1.2", "mg/kg"))), ["RX-TITRATION"]),
        (Wish(doses=steps((1, "0.3", "mg/kg"))), ["RX-DOSE"]),
        (Wish(doses=steps((2, "0.5", "mg/kg"))), ["P-STEPS"]),
        (Wish(doses=steps((1, "0.5", "mg/kg"), (1, "0.6", "mg/kg"))), ["P-STEPS"]),
        (Wish(doses=steps((1, "0.5", "mg/kg"), (9, "0.6", "mg/kg"))), ["P-STEPS"]),
        (Wish(sessions=6), []),
        (Wish(sessions=7), ["RX-SERIES"]),
        (Wish(sessions=1), []),
        (Wish(days_between=2), []),
        (Wish(days_between=1), ["P-STEPS"]),
    ],
)
def test_what_makes_a_plan_personal_keeps_to_range_rise_number_and_spacing(wish, expected):
    assert rules(personal(IM, wish)) == expected


def test_without_a_weight_a_plan_in_milligrams_by_a_route_of_weight_is_not_judged_and_refused():
    wish = Wish(doses=steps((1, "70", "mg")))
    assert rules(personal(IM, wish), weights=()) == ["RX-WEIGHT"]


def test_an_agreed_plan_names_a_goal_and_who_does_what():
    team = list(IM.team)
    assert check_agreed(["To sleep again"], team, IM, SETTING.plans) == []
    assert [one.rule for one in check_agreed([" "], team, IM, SETTING.plans)] == ["P-GOAL"]
    (lacking,) = check_agreed(["To sleep again"], team[1:], IM, SETTING.plans)
    assert team[0] in lacking.diagnostics


wishes = st.builds(
    Wish,
    doses=st.lists(
        st.builds(
            Step,
            session=st.integers(1, 8),
            value=st.decimals(min_value="0.1", max_value="3", places=2),
            unit=st.just("mg/kg"),
        ),
        max_size=4,
    ).map(tuple),
    sessions=st.none() | st.integers(1, 10),
    days_between=st.none() | st.integers(1, 30),
)


@given(wishes)
def test_no_plan_that_stands_begins_high_or_rises_fast_or_is_too_long(wish):
    template: Template = personal(IM, wish)
    if rules(template):
        return
    share, orders = SETTING.orders.rounding.share, SETTING.orders
    titration, series = orders.titration["ketamine-im"], orders.series["ketamine-im"]
    doses = [Decimal(one.quantity["value"]) for one in planned(template)]
    assert doses[0] <= titration.first * (1 + share)
    for number, dose in enumerate(doses[1:], 1):
        assert dose <= (max(doses[:number]) + titration.rise) * (1 + share)
    assert template.sessions <= series.sessions
    assert template.days_between >= series.least_days
