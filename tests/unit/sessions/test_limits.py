"""How a reading stands to a limit: beyond, within, or perhaps; when it alarms, and when it is late."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules.alarms import alarms_of, is_late, is_not_understood
from services.sessions.rules.readings import Value, readings_of
from shared.fhir import codes
from shared.fhir.dates import zulu
from tests.unit.sessions.situations import NOW, SETTING


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


@pytest.mark.parametrize(("minutes", "late"), [(0, False), (15, False), (16, True), (-5, False)])
def test_a_reading_is_charted_late_after_some_minutes(minutes, late):
    taken = vital("8480-6", 200, "mm[Hg]", effectiveDateTime=zulu(NOW - timedelta(minutes=minutes)))
    assert is_late(taken, NOW, SETTING.alarms) is late
    assert not is_late({**taken, "effectiveDateTime": "2026-11-01"}, NOW, SETTING.alarms)


def test_what_a_device_cannot_measure_any_more_is_one_reading_however_often_it_says_so():
    origin = {"value": 0, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%"}
    feed = {"origin": origin, "period": 1000, "dimensions": 1, "data": "97 L L L 96 L L"}
    code = {"coding": [{"system": "http://loinc.org", "code": "59408-5"}]}
    fed = {"resourceType": "Observation", "id": "fed", "status": "final", "code": code, "valueSampledData": feed}
    assert len(readings_of(fed)) == 3
