"""Alarms that last: a pressure repeated beyond its limit, what ends it, sedation, values in odd forms and statuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules.alarms import alarms_of, is_not_understood, is_sustained, rules_within
from services.sessions.setting import Setting
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.runtime.policy import load_policy

POLICY = Setting.of(load_policy()).alarms
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


def part(code, value, unit, **more):
    return {"code": code.concept(), "valueQuantity": {"value": value, "system": codes.UCUM, "code": unit, **more}}


def pressure(minute, systolic=185, diastolic=80, **more):
    return {
        "resourceType": "Observation",
        "id": f"at{minute}",
        "status": "final",
        "code": codes.BLOOD_PRESSURE.concept(),
        "effectiveDateTime": zulu(NOW + timedelta(minutes=minute)),
        "component": [part(codes.SYSTOLIC, systolic, "mm[Hg]"), part(codes.DIASTOLIC, diastolic, "mm[Hg]")],
        **more,
    }


@pytest.mark.parametrize(
    ("others", "sustained"),
    [
        ([], False),
        ([pressure(-5)], True),
        ([pressure(-5, 179)], False),
        ([pressure(-5, 120, 110)], True),
        ([pressure(-30)], True),
        ([pressure(-31)], False),
        ([pressure(-10), pressure(-5, 150)], False),
        ([pressure(-10, 150), pressure(-5)], True),
        ([pressure(5)], True),
        ([pressure(-5, status="entered-in-error")], False),
        ([pressure(-5, status="registered")], True),
        ([pressure(0)], False),
        ([pressure(0.5)], False),
        ([pressure(-10), pressure(-5, component=[])], True),
    ],
)
def test_a_pressure_is_sustained_by_the_reading_next_to_it_and_ended_by_one_within_the_limits(others, sustained):
    assert is_sustained(pressure(0), others, POLICY) is sustained


def test_a_pressure_within_its_limits_sustains_nothing():
    assert not is_sustained(pressure(0, 179, 109), [pressure(-5)], POLICY)


@given(st.lists(st.tuples(st.integers(-60, 60), st.integers(100, 220)), max_size=6), st.randoms())
def test_in_whatever_order_readings_are_charted_the_second_beyond_the_limit_in_a_row_is_found(points, random):
    readings = [pressure(minute, value, id=f"{number}") for number, (minute, value) in enumerate(points)]
    shuffled = random.sample(readings, len(readings))
    here = pressure(0, id="here")
    assert is_sustained(here, readings, POLICY) is is_sustained(here, shuffled, POLICY)


@pytest.mark.parametrize(
    ("score", "alarms"), [({"valueInteger": 5}, 0), ({"valueInteger": 2}, 0), ({"valueInteger": 1}, 1)]
)
def test_who_does_not_answer_to_voice_or_touch_alarms(score, alarms):
    rated = {**pressure(0), "code": codes.MOAA_S.concept(), **score}
    del rated["component"]
    assert len(alarms_of(rated, POLICY)) == alarms


@pytest.mark.parametrize("status", ["registered", "preliminary", "final", "amended", "corrected", "unknown"])
def test_a_value_beyond_its_limit_alarms_whatever_its_status_says(status):
    assert [alarm.rule for alarm, _ in alarms_of(pressure(0, status=status), POLICY)] == ["A-BP"]


@pytest.mark.parametrize(
    ("value", "comparator", "alarms", "asks"),
    [
        (70, "<", 1, False),
        (90, "<", 1, False),
        (92, "<", 0, True),
        (90, "<=", 0, True),
        (70, ">", 0, True),
        (90, ">=", 0, False),
        (97, ">", 0, False),
    ],
)
def test_no_value_with_a_comparator_passes_an_alarm_in_silence(value, comparator, alarms, asks):
    reading = {**pressure(0), "component": [part(codes.OXYGEN_SATURATION, value, "%", comparator=comparator)]}
    assert (len(alarms_of(reading, POLICY)), is_not_understood(reading, POLICY)) == (alarms, asks)


@given(
    st.decimals(0, 300, places=1), st.sampled_from([None, "<", "<=", ">", ">="]), st.sampled_from(["%", "1", "mm[Hg]"])
)
def test_a_saturation_is_within_its_limit_or_alarms_or_is_asked_about(value, comparator, unit):
    more = {} if comparator is None else {"comparator": comparator}
    reading = {**pressure(0), "component": [part(codes.OXYGEN_SATURATION, value, unit, **more)]}
    said = [bool(alarms_of(reading, POLICY)), is_not_understood(reading, POLICY)]
    if not any(said):
        assert unit == "%"
        assert comparator in (None, ">", ">=")
        assert value >= Decimal(90)


@pytest.mark.parametrize(
    ("systolic", "diastolic", "status", "fine"),
    [
        (179, 109, "final", True),
        (180, 80, "final", False),
        (120, 110, "final", False),
        (120, 80, "registered", False),
        (120, 80, "entered-in-error", False),
    ],
)
def test_only_a_reading_that_counts_and_is_within_every_limit_ends_an_alarm(systolic, diastolic, status, fine):
    assert ("A-BP" in rules_within(pressure(0, systolic, diastolic, status=status), POLICY)) is fine


def test_half_a_pressure_ends_no_alarm():
    half = {**pressure(0), "component": [part(codes.SYSTOLIC, 120, "mm[Hg]")]}
    assert "A-BP" not in rules_within(half, POLICY)
