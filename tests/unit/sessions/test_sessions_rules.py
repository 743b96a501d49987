"""Sessions' rules: the gate with every limit at its boundary and not known, claims, states, alarms, planned visits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules import (
    MOVES,
    Reading,
    Situation,
    alarms_of,
    begins_ahead,
    claim_of,
    gate,
    is_not_understood,
    is_under_way,
    may_become,
    planned_visit,
    readings_of,
)
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


OPEN = Situation(
    visit=VISIT,
    start=NOW,
    route=codes.ROUTE_IM.code,
    consented=frozenset({codes.ROUTE_IM.code}),
    ordered=True,
    readings=pressures(),
)


def rules(**more):
    return sorted({str(issue.rule) for issue in gate(replace(OPEN, **more), POLICY)})


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
        ((*pressures(), reading("59408-5", 90, "%", minutes=40)), []),
        ((*pressures(), reading("8867-4", 50, "/min")), []),
        ((*pressures(), reading("8867-4", 49, "/min")), ["G-HR"]),
        ((*pressures(), reading("8867-4", 110, "/min")), []),
        ((*pressures(), reading("8867-4", 111, "{beats}/min")), ["G-HR"]),
        ((*pressures(), reading("8867-4", 70, "Hz")), ["G-BP"]),
    ],
)
def test_the_gate_holds_every_limit_and_stays_closed_on_what_is_not_known(readings, expected):
    assert rules(readings=readings) == expected


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
    issues = gate(Situation(None, NOW, None, frozenset(), ordered=False, readings=()), POLICY)
    assert {issue.rule for issue in issues} == {"G-VISIT", "G-BP", "G-CONSENT", "G-ORDER"}
    assert all(issue.source for issue in issues)


values = st.integers(40, 260)


@given(values, values, st.integers(-10, 60))
def test_no_open_gate_without_a_recent_pressure_below_the_hold(systolic, diastolic, minutes):
    opened = rules(readings=pressures(systolic, diastolic, minutes)) == []
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
    found = [alarm.rule for alarm, _ in alarms_of(vital(code, value, unit), SETTING.alarms.values())]
    assert found == ([] if rule is None else [rule])


def test_what_was_not_measured_or_is_an_error_alarms_nobody_and_what_is_not_understood_is_told():
    alarms = list(SETTING.alarms.values())
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
