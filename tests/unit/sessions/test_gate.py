"""The gate before a dose: its ground, its readings and holds; what is not known keeps it closed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules.checks import Decision, issues_of
from services.sessions.rules.gate import Situation, gate
from services.sessions.rules.readings import Reading
from services.sessions.rules.visits import is_under_way
from shared.fhir import codes
from shared.fhir.dates import zulu
from tests.unit.sessions.situations import NOW, OPEN, OTHERS, POLICY, VISIT, pressures, reading, rules


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        (pressures(), []),
        (pressures(159, 99), []),
        (pressures(160, 80), ["G-BP-HOLD"]),
        (pressures(120, 100), ["G-BP-HOLD"]),
        (pressures(179, 109), ["G-BP-HOLD"]),
        (pressures(180, 80), ["G-BP-HOLD", "G-BP-STOP"]),
        (pressures(120, 110), ["G-BP-HOLD", "G-BP-STOP"]),
        ((), ["G-BP"]),
        (pressures()[:1], ["G-BP"]),
        (pressures()[1:], ["G-BP"]),
        (pressures(minutes=30), []),
        (pressures(minutes=31), ["G-BP"]),
        (pressures(minutes=-1), ["G-BP"]),
        (pressures(16, 10, unit="kPa"), ["G-BP"]),
        ((*pressures(170, minutes=20), *pressures(120, minutes=2)), []),
        ((*pressures(120, minutes=20), *pressures(170, minutes=2)), ["G-BP-HOLD"]),
        ((*pressures(), reading("59408-5", 94, "%")), []),
        ((*pressures(), reading("59408-5", Decimal("93.9"), "%")), ["G-SPO2"]),
        ((*pressures(), reading("2708-6", 90, "%")), ["G-SPO2"]),
        ((*pressures(), reading("2708-6", 89, "%")), ["G-SPO2", "G-SPO2-STOP"]),
        ((*pressures(), reading("59408-5", 90, "%", minutes=40)), ["G-SPO2"]),
        ((*pressures(), reading("8867-4", 50, "/min")), []),
        ((*pressures(), reading("8867-4", 49, "/min")), ["G-HR"]),
        ((*pressures(), reading("8867-4", 110, "/min")), []),
        ((*pressures(), reading("8867-4", 111, "{beats}/min")), ["G-HR"]),
        ((*pressures(), reading("8867-4", 70, "Hz")), ["G-HR"]),
    ],
)
def test_the_gate_holds_every_limit_and_stays_closed_on_what_is_not_known(readings, expected):
    measured = {code for one in readings for code in one.codes}
    others = [one for one in OTHERS if not measured.intersection({*one.codes, "2708-6" if one is OTHERS[1] else ""})]
    assert rules(readings=(*readings, *others)) == expected


@pytest.mark.parametrize(
    ("visit", "opens"),
    [
        (VISIT, True),
        (None, False),
        ({**VISIT, "type": [codes.VISIT_PREP.concept()]}, False),
        ({**VISIT, "status": "planned"}, False),
        ({**VISIT, "status": "arrived"}, False),
        ({**VISIT, "status": "onleave"}, False),
        ({**VISIT, "status": "finished"}, False),
        ({**VISIT, "period": {"start": zulu(NOW)}}, True),
        ({**VISIT, "period": {"start": zulu(NOW + timedelta(minutes=1))}}, False),
        ({**VISIT, "status": "finished", "period": {"start": "2026-11-22", "end": "2026-11-22"}}, True),
        ({**VISIT, "status": "finished", "period": {"start": "2026-11-21", "end": "2026-11-21"}}, False),
    ],
)
def test_a_dose_begins_in_a_dosing_session_that_is_under_way(visit, opens):
    assert rules(visit=visit) == ([] if opens else ["G-VISIT"])


def test_a_cancelled_visit_is_not_under_way():
    assert not is_under_way({"status": "cancelled", "period": {"start": "2026-11-22"}}, NOW)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"consented": frozenset()}, ["G-CONSENT"]),
        ({"consented": frozenset({codes.ROUTE_IV.code})}, ["G-CONSENT"]),
        ({"route": None}, ["G-CONSENT"]),
        ({"ordered": False}, ["G-ORDER"]),
    ],
)
def test_without_consent_for_the_route_or_an_order_the_gate_is_closed(change, expected):
    assert rules(**change) == expected


def test_everything_that_keeps_it_closed_is_told_at_once_with_its_source():
    ground = {"G-VISIT", "G-COURSE", "G-BP", "G-SPO2", "G-HR", "G-CONSENT", "G-ORDER"}
    nothing = Situation(None, NOW, "ketamine", None, frozenset(), ordered=False, readings=())
    issues = issues_of(gate(nothing, POLICY))
    assert {issue.rule for issue in issues} == ground | {"E11", "E12", "E25", "G-SUICIDE"}
    assert all(issue.source for issue in issues)


values = st.integers(40, 260)


@given(values, values, st.integers(-10, 60))
def test_no_open_gate_without_a_recent_pressure_within_the_hold(systolic, diastolic, minutes):
    opened = rules(readings=(*pressures(systolic, diastolic, minutes), *OTHERS)) == []
    assert opened is (90 <= systolic < 160 and 50 <= diastolic < 100 and 0 <= minutes <= 30)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Reading("Observation/2", ("8480-6",), {"value": 190, "code": "mm[Hg]"}, NOW, timed=False), True),
        (Reading("Observation/2", ("8480-6",), {"value": 120, "code": "mm[Hg]"}, NOW, timed=False), False),
        (Reading("Observation/2", ("8480-6",), {"value": 190, "code": "mm[Hg]"}, NOW, trusted=False), True),
        (Reading("Observation/2", ("8480-6",), {"value": 190, "code": "mm[Hg]"}, NOW + timedelta(minutes=1)), True),
        (Reading("Observation/2", ("8480-6",), {"value": 190, "code": "mm[Hg]"}, NOW + timedelta(minutes=2)), False),
        (Reading("Observation/2", ("8480-6",), None, None, timed=False), False),
    ],
)
def test_a_reading_that_cannot_open_the_gate_can_close_it(other, expected):
    assert ("G-BP-STOP" in rules(readings=(*pressures(), *OTHERS, other))) is expected


def test_readings_that_cannot_open_the_gate_alone_leave_it_closed():
    untimed = [replace(one, timed=False) for one in pressures()]
    assert rules(readings=(*untimed, *OTHERS)) == ["G-BP"]


def held(minutes, systolic=165):
    return pressures(systolic, 80, minutes)


@pytest.mark.parametrize(
    ("readings", "decided_minutes_ago", "expected"),
    [
        ((*held(25), *held(12), *held(1)), 0, []),
        ((*held(25), *held(12), *held(1)), 2, ["G-BP-HOLD"]),
        ((*held(12), *held(1)), 0, ["G-BP-HOLD"]),
        ((*held(25), *held(12), *held(1)), None, ["G-BP-HOLD"]),
        ((*held(25), *held(8), *held(1)), 0, ["G-BP-HOLD"]),
        ((*held(25), *held(12, 120), *held(1)), 0, ["G-BP-HOLD"]),
        ((*held(25), *held(12), *held(1, 185)), 0, ["G-BP-STOP"]),
    ],
)
def test_a_hold_opens_after_two_repeats_and_a_decision_made_on_the_newest_reading(
    readings, decided_minutes_ago, expected
):
    decisions = ()
    if decided_minutes_ago is not None:
        when = NOW - timedelta(minutes=decided_minutes_ago)
        decisions = (Decision("G-BP-HOLD", when, "DetectedIssue/1"),)
    assert rules(readings=(*readings, *OTHERS), decisions=decisions) == expected


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ((*held(2), *held(1, 120)), ["G-BP-HOLD"]),
        ((*held(11), *held(1.1, 120)), ["G-BP-HOLD"]),
        ((*held(11), *held(1, 120)), []),
        ((*held(20, 190), *held(15, 120)), ["G-BP-HOLD"]),
        ((*held(25), *held(24, 120), *held(1, 120)), []),
        ((*held(25), *held(9), *held(1, 120)), ["G-BP-HOLD"]),
        ((*held(9, 150), *held(1, 120)), []),
        ((*(replace(one, trusted=False) for one in held(9)), *held(1, 120)), ["G-BP-HOLD"]),
    ],
)
def test_a_repeat_counts_only_as_long_after_a_held_pressure_as_the_policy_says(readings, expected):
    assert rules(readings=(*readings, *OTHERS)) == expected


def test_a_repeat_that_came_too_early_says_from_when_on_the_next_one_counts():
    checks = gate(replace(OPEN, readings=(*held(2), *held(1, 120), *OTHERS)), POLICY)
    (closing,) = [one for one in checks if one.closes]
    assert "from 2026-11-22T09:08:00.000Z on" in closing.text
    assert (closing.value, closing.decidable) == ("165 mm[Hg]", False)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_readings_of_one_time_the_worse_counts(order):
    twice = [*pressures(120, 80), *pressures(185, 80)][::order]
    assert rules(readings=(*twice, *OTHERS)) == ["G-BP-HOLD", "G-BP-STOP"]
    low = [reading("59408-5", 98, "%"), reading("59408-5", 91, "%")][::order]
    assert rules(readings=(*pressures(), OTHERS[0], *low)) == ["G-SPO2"]
    unread = [reading("8480-6", 16, "kPa"), *pressures(120, 80)][::order]
    assert rules(readings=(*unread, *OTHERS)) == ["G-BP"]


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from([120, 159, 160, 175])), min_size=1, max_size=6))
def test_no_order_of_readings_opens_the_gate_within_the_time_of_a_repeat(taken):
    readings = [one for minutes, systolic in taken for one in pressures(systolic, 80, minutes)]
    newest = min(minutes for minutes, _ in taken)
    beyond = [minutes for minutes, systolic in taken if systolic >= 160 and minutes < newest + 10]
    assert (rules(readings=(*readings, *OTHERS)) == []) is (not beyond)


def test_esketamine_above_140_over_90_and_a_lozenge_at_home_at_150_over_90_have_limits_of_their_own():
    at = (*pressures(141, 90), *OTHERS)
    assert rules(readings=at) == []
    assert rules(readings=at, drug="esketamine") == ["G-BP-RISK"]
    assert rules(readings=(*pressures(140, 90), *OTHERS), drug="esketamine") == []
    decided = (Decision("G-BP-RISK", NOW, "DetectedIssue/1"),)
    assert rules(readings=at, drug="esketamine", decisions=decided) == []
    chaperone = {"type": [codes.CHAPERONE.concept()], "individual": {"display": "Her brother"}}
    home = {**VISIT, "class": {"code": "VR"}, "participant": [chaperone]}
    assert rules(readings=pressures(149, 89), visit=home) == []
    assert rules(readings=pressures(150, 80), visit=home) == ["G-BP-HOME"]
    assert rules(readings=pressures(120, 90), visit=home) == ["G-BP-HOME"]
    alone = {**home, "participant": [{"type": [codes.CHAPERONE.concept()]}]}
    assert rules(readings=pressures(149, 89), visit=alone) == ["G-CHAPERONE"]


def test_every_check_says_what_it_found_with_its_source():
    for check in gate(OPEN, POLICY):
        assert check.title
        assert check.source
        assert check.text
    limits = {check.rule: (check.value, check.limit) for check in gate(OPEN, POLICY) if check.limit}
    assert limits["G-BP-STOP"] == ("80 mm[Hg]", "below 110 mm[Hg]")
    assert limits["G-HR"] == ("72 /min", "at least 50 and at most 110 /min")
