"""Sessions' rules: the gate with every limit at its boundary and not known, claims, states, alarms, planned visits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules.alarms import alarms_of, is_late, is_not_understood
from services.sessions.rules.answers import Asked, Enrolment
from services.sessions.rules.checks import Decision, issues_of
from services.sessions.rules.claims import begins_ahead, claim_of
from services.sessions.rules.gate import Situation, gate
from services.sessions.rules.readings import Reading, Value, readings_of
from services.sessions.rules.visits import MOVES, is_under_way, may_become, planned_visit
from services.sessions.setting import Setting
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
POLICY = SETTING.gate
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
VISIT = {"id": "v", "status": "in-progress", "type": [codes.VISIT_DOSING.concept()]}


def reading(code, value, unit, minutes=5, reference="Observation/1"):
    quantity = {"value": value, "system": codes.UCUM, "code": unit}
    return Reading(reference, (code,), quantity, NOW - timedelta(minutes=minutes))


def pressures(systolic=120, diastolic=80, minutes=5, unit="mm[Hg]"):
    return (
        reading(codes.SYSTOLIC.code, systolic, unit, minutes),
        reading(codes.DIASTOLIC.code, diastolic, unit, minutes),
    )


OTHERS = (reading("8867-4", 72, "/min"), reading("59408-5", 98, "%"))
IN_ORDER = {
    "escort": True,
    "escort-name": "Her brother",
    "intoxicated": False,
    "pregnant": False,
    "breastfeeding": False,
    "suicidality": False,
    "food-hours": Decimal(3),
    "drink-minutes": 45,
    "nasal": False,
    "substances": False,
    "benzodiazepine": False,
}
ENROLLED = Enrolment(site=True, patient=True, witness=True)
OPEN = Situation(
    visit=VISIT,
    start=NOW,
    drug="ketamine",
    route=codes.ROUTE_IM.code,
    consented=frozenset({codes.ROUTE_IM.code}),
    ordered=True,
    readings=(*pressures(), *OTHERS),
    asked=Asked("QuestionnaireResponse/1", NOW, IN_ORDER),
    enrolment=ENROLLED,
)


def rules(**more):
    return sorted({str(issue.rule) for issue in issues_of(gate(replace(OPEN, **more), POLICY))})


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
    ground = {"G-VISIT", "G-BP", "G-SPO2", "G-HR", "G-CONSENT", "G-ORDER"}
    nothing = Situation(None, NOW, "ketamine", None, frozenset(), ordered=False, readings=())
    issues = issues_of(gate(nothing, POLICY))
    assert {issue.rule for issue in issues} == ground | {"E11", "E12", "E25", "G-SUICIDE"}
    assert all(issue.source for issue in issues)


values = st.integers(40, 260)


@given(values, values, st.integers(-10, 60))
def test_no_open_gate_without_a_recent_pressure_below_the_hold(systolic, diastolic, minutes):
    opened = rules(readings=(*pressures(systolic, diastolic, minutes), *OTHERS)) == []
    assert opened is (systolic < 160 and diastolic < 100 and 0 <= minutes <= 30)


def dose(status, minutes=0.0):
    return {"status": status, "effectivePeriod": {"start": zulu(NOW - timedelta(minutes=minutes))}}


def claim(before, after, *, was=True, gated=True):
    return claim_of(before, after, was_gated=was, is_gated=gated, now=NOW, policy=POLICY)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, dose("in-progress"), "start"),
        (None, dose("in-progress", 5), "start"),
        (None, dose("in-progress", 5.1), "given"),
        (None, dose("in-progress", -30), "start"),
        (None, dose("on-hold"), "start"),
        (None, dose("completed"), "given"),
        (None, dose("stopped"), "given"),
        (None, dose("not-done"), "nothing"),
        (None, dose("entered-in-error"), "nothing"),
        (None, dose("unknown"), "nothing"),
        (dose("in-progress"), dose("completed"), "nothing"),
        (dose("in-progress"), dose("in-progress"), "nothing"),
        (dose("in-progress"), dose("on-hold"), "nothing"),
        (dose("on-hold"), dose("in-progress"), "start"),
        (dose("on-hold"), dose("stopped"), "nothing"),
        (dose("not-done"), dose("in-progress"), "start"),
        (dose("entered-in-error"), dose("completed"), "given"),
        (dose("completed"), dose("completed", 60), "given"),
        (dose("in-progress"), None, "nothing"),
    ],
)
def test_a_dose_claims_to_be_started_or_to_have_been_given(before, after, expected):
    assert claim(before, after) == expected


def test_a_rescue_drug_claims_nothing_and_a_change_to_ketamine_does():
    assert claim(None, dose("in-progress"), gated=False) == "nothing"
    assert claim(dose("in-progress"), dose("in-progress"), was=False) == "start"


statuses = st.sampled_from(
    ["in-progress", "on-hold", "completed", "stopped", "not-done", "entered-in-error", "unknown"]
)


@given(st.none() | statuses, statuses, st.integers(-60, 600))
def test_no_gated_dose_is_live_now_without_having_been_judged(before, after, minutes):
    earlier = None if before is None else dose(before, minutes)
    claimed = claim(earlier, dose(after, minutes))
    judged_before = before in ("in-progress", "on-hold", "completed", "stopped")
    if after in ("in-progress", "on-hold") and not judged_before:
        assert claimed == ("given" if minutes > 5 else "start")
    if after in ("completed", "stopped") and not judged_before:
        assert claimed == "given"


@pytest.mark.parametrize(("minutes", "refused"), [(0, False), (1, False), (1.1, True), (-600, False)])
def test_a_dose_in_progress_does_not_begin_in_the_future(minutes, refused):
    assert bool(begins_ahead(NOW + timedelta(minutes=minutes), NOW, POLICY)) is refused


@pytest.mark.parametrize("status", sorted(MOVES))
def test_from_every_state_a_visit_can_be_said_to_be_an_error_and_can_stay(status):
    assert may_become(status, "entered-in-error")
    assert may_become(status, status)


@pytest.mark.parametrize("status", ["arrived", "triaged", "in-progress", "onleave"])
def test_who_came_may_always_leave(status):
    assert may_become(status, "finished")


@given(st.sampled_from(["finished", "cancelled", "entered-in-error"]), st.sampled_from(sorted(MOVES)))
def test_what_has_ended_does_not_begin_again(ended, after):
    assert may_become(ended, after) is (after in (ended, "entered-in-error"))


def test_a_visit_does_not_end_before_it_began():
    assert not may_become("planned", "finished")
    assert may_become("planned", "cancelled")
    assert not may_become("in-progress", "planned")


def vital(code, value, unit, **more):
    quantity = {"value": value, "system": codes.UCUM, "code": unit}
    return {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "code": {"coding": [{"system": codes.LOINC, "code": code}]},
        "effectiveDateTime": zulu(NOW),
        "valueQuantity": quantity,
        **more,
    }


@pytest.mark.parametrize(
    ("code", "value", "unit", "rule"),
    [
        ("8480-6", 179, "mm[Hg]", None),
        ("8480-6", 180, "mm[Hg]", "A-BP"),
        ("8462-4", 109, "mm[Hg]", None),
        ("8462-4", 110, "mm[Hg]", "A-BP"),
        ("59408-5", 90, "%", None),
        ("59408-5", Decimal("89.9"), "%", "A-SPO2"),
        ("8867-4", 130, "/min", None),
        ("8867-4", 131, "/min", "A-HR"),
        ("8867-4", 45, "/min", None),
        ("8867-4", 44, "/min", "A-HR"),
        ("9279-1", 8, "/min", None),
        ("9279-1", 7, "/min", "A-RR"),
        ("29463-7", 300, "kg", None),
    ],
)
def test_an_alarm_sounds_beyond_its_limit(code, value, unit, rule):
    found = [alarm.rule for alarm, _ in alarms_of(vital(code, value, unit), SETTING.alarms)]
    assert found == ([] if rule is None else [rule])


def test_what_was_not_measured_or_is_an_error_alarms_nobody_and_what_is_not_understood_is_told():
    alarms = SETTING.alarms
    absent = vital("8480-6", 0, "mm[Hg]")
    del absent["valueQuantity"]
    assert readings_of(absent) == []
    assert alarms_of(vital("8480-6", 250, "mm[Hg]", status="entered-in-error"), alarms) == []
    assert not is_not_understood(absent, alarms)
    assert not is_not_understood(vital("8480-6", 250, "mm[Hg]"), alarms)
    assert is_not_understood(vital("8480-6", 33, "kPa"), alarms)
    text = vital("8480-6", 1, "mm[Hg]", valueString="high")
    del text["valueQuantity"]
    assert is_not_understood(text, alarms)


def test_a_video_visit_is_virtual_and_a_visit_has_who_did_not_decline():
    appointment = {
        "resourceType": "Appointment",
        "id": "a",
        "serviceType": [codes.VISIT_INTEGRATION.concept(codes.VIRTUAL)],
        "participant": [
            {"actor": {"reference": "Practitioner/one"}, "status": "accepted"},
            {"actor": {"reference": "Practitioner/two"}, "status": "declined"},
            {"actor": {"reference": "Patient/p"}, "status": "accepted"},
        ],
    }
    visit = planned_visit(appointment, "p", None, {"system": "s", "value": "a"})
    assert visit["class"]["code"] == "VR"
    assert [one["individual"]["reference"] for one in visit["participant"]] == ["Practitioner/one"]
    assert "episodeOfCare" not in visit
    assert "location" not in visit


@pytest.mark.parametrize(
    ("value", "beyond", "perhaps"),
    [
        (Value(Decimal(90)), False, False),
        (Value(Decimal(89)), True, True),
        (Value(Decimal(70), "<"), True, True),
        (Value(Decimal(90), "<"), True, True),
        (Value(Decimal(90), "<="), False, True),
        (Value(Decimal(95), "<"), False, True),
        (Value(Decimal(90), ">="), False, False),
        (Value(Decimal(80), ">"), False, True),
    ],
)
def test_a_comparator_makes_a_range_that_is_beyond_a_low_limit_within_it_or_perhaps(value, beyond, perhaps):
    low = SETTING.alarms.limits["saturation"]
    assert (low.is_beyond(value), low.may_be_beyond(value)) == (beyond, perhaps)


@pytest.mark.parametrize(
    ("value", "beyond", "perhaps"),
    [
        (Value(Decimal(180), ">"), True, True),
        (Value(Decimal(180), ">="), True, True),
        (Value(Decimal(170), ">"), False, True),
        (Value(Decimal(180), "<"), False, False),
        (Value(Decimal(180), "<="), False, True),
        (Value(Decimal(190), "<"), False, True),
    ],
)
def test_a_comparator_makes_a_range_for_a_high_limit_too(value, beyond, perhaps):
    high = SETTING.alarms.limits["systolic"]
    assert (high.is_beyond(value), high.may_be_beyond(value)) == (beyond, perhaps)


comparators = st.sampled_from([None, "<", "<=", ">", ">="])


@given(st.sampled_from(sorted(SETTING.alarms.limits)), st.integers(1, 260), comparators)
def test_what_is_certainly_beyond_a_limit_is_never_said_to_be_within_it(name, number, comparator):
    limit, value = SETTING.alarms.limits[name], Value(Decimal(number), comparator)
    assert not limit.is_beyond(value) or limit.may_be_beyond(value)


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


@pytest.mark.parametrize(("minutes", "late"), [(0, False), (15, False), (16, True), (-5, False)])
def test_a_reading_is_charted_late_after_some_minutes(minutes, late):
    taken = vital("8480-6", 200, "mm[Hg]", effectiveDateTime=zulu(NOW - timedelta(minutes=minutes)))
    assert is_late(taken, NOW, SETTING.alarms) is late
    assert not is_late({**taken, "effectiveDateTime": "2026-11-01"}, NOW, SETTING.alarms)


def asked(**answers):
    given = {**IN_ORDER, **{name.replace("_", "-"): value for name, value in answers.items()}}
    return Asked("QuestionnaireResponse/1", NOW, {link: value for link, value in given.items() if value is not None})


@pytest.mark.parametrize(
    ("answers", "ketamine", "esketamine"),
    [
        ({}, [], []),
        ({"escort": False}, ["E25"], ["E25"]),
        ({"escort": None}, ["E25"], ["E25"]),
        ({"escort_name": " "}, ["E25"], ["E25"]),
        ({"escort_name": None}, ["E25"], ["E25"]),
        ({"intoxicated": True}, ["E11"], ["E11"]),
        ({"intoxicated": None}, ["E11"], ["E11"]),
        ({"pregnant": True}, ["E12"], ["E12"]),
        ({"pregnant": None}, ["E12"], ["E12"]),
        ({"breastfeeding": True}, ["E12"], ["E12"]),
        ({"suicidality": True}, ["G-SUICIDE"], ["G-SUICIDE"]),
        ({"suicidality": None}, ["G-SUICIDE"], ["G-SUICIDE"]),
        ({"food_hours": Decimal(2), "drink_minutes": 30}, [], []),
        ({"food_hours": Decimal("1.9")}, [], ["G-FAST"]),
        ({"food_hours": None}, [], ["G-FAST"]),
        ({"drink_minutes": 29}, [], ["G-FAST"]),
        ({"nasal": True, "nasal_minutes": 60}, [], []),
        ({"nasal": True, "nasal_minutes": 59}, [], ["G-FAST"]),
        ({"nasal": True}, [], ["G-FAST"]),
        ({"nasal": None}, [], ["G-FAST"]),
        ({"substances": True, "benzodiazepine": True}, [], []),
        ({"substances": None, "benzodiazepine": None}, [], []),
        ({"intoxicated": "no"}, ["E11"], ["E11"]),
    ],
)
def test_what_is_asked_before_a_dose_opens_or_closes_the_gate(answers, ketamine, esketamine):
    assert rules(asked=asked(**answers)) == ketamine
    assert rules(asked=asked(**answers), drug="esketamine") == esketamine


def test_pregnancy_is_not_asked_of_a_man_and_nothing_is_known_without_answers():
    assert rules(asked=asked(pregnant=None, breastfeeding=None), gender="male") == []
    assert rules(asked=None) == ["E11", "E12", "E25", "G-SUICIDE"]


def test_substances_are_told_and_close_nothing():
    found = gate(replace(OPEN, asked=asked(substances=True)), POLICY)
    (told,) = [check for check in found if check.rule == "G-SUBSTANCE"]
    assert (told.verdict, told.closes, told.value) == ("warned", False, "True")
    found = gate(replace(OPEN, asked=asked(benzodiazepine=True)), POLICY)
    (told,) = [check for check in found if check.rule == "G-BENZODIAZEPINE"]
    assert (told.verdict, told.closes) == ("warned", False)


@pytest.mark.parametrize(("minutes", "expected"), [(0, []), (-1, []), (1, ["G-SUICIDE"])])
def test_suicidality_opens_only_by_a_decision_made_after_it_was_known(minutes, expected):
    decisions = (Decision("G-SUICIDE", NOW - timedelta(minutes=minutes), "DetectedIssue/1"),)
    assert rules(asked=asked(suicidality=True), decisions=decisions) == expected
    assert rules(flags=[("Flag/1", NOW)], decisions=decisions) == expected
    assert rules(flags=[("Flag/1", NOW)]) == ["G-SUICIDE"]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("site", ["G-REMS-SITE"]), ("patient", ["G-REMS-PATIENT"]), ("witness", ["G-REMS-WITNESS"])],
)
def test_esketamine_needs_a_certified_setting_an_enrolled_patient_and_a_witness(missing, expected):
    enrolment = replace(ENROLLED, **{missing: False})
    assert rules(enrolment=enrolment) == []
    assert rules(enrolment=enrolment, drug="esketamine") == expected


def test_an_inpatient_is_not_enrolled_and_esketamine_is_never_given_at_home():
    inpatient = {**VISIT, "class": {"code": "IMP"}}
    assert rules(enrolment=replace(ENROLLED, patient=False), drug="esketamine", visit=inpatient) == []
    chaperone = {"type": [codes.CHAPERONE.concept()], "individual": {"display": "Her brother"}}
    home = {**VISIT, "class": {"code": "VR"}, "participant": [chaperone]}
    assert "G-REMS-WITNESS" in rules(drug="esketamine", visit=home)


def test_every_check_says_what_it_found_with_its_source():
    for check in gate(OPEN, POLICY):
        assert check.title
        assert check.source
        assert check.text
    limits = {check.rule: (check.value, check.limit) for check in gate(OPEN, POLICY) if check.limit}
    assert limits["G-BP-STOP"] == ("80 mm[Hg]", "below 110 mm[Hg]")
    assert limits["G-HR"] == ("72 /min", "at least 50 and at most 110 /min")
