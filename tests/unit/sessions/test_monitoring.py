"""Watching after a dose: due times by route, what is missed, what makes up a time point, what is plausible, feeds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.sessions.rules.alarms import alarms_of
from services.sessions.rules.amounts import DosingPolicy
from services.sessions.rules.monitoring import (
    cadence_of,
    covers,
    implausible,
    is_missed,
    minutes_from,
    next_due,
    planned,
    stays_until,
)
from services.sessions.rules.readings import Reading, readings_of
from services.sessions.setting import Setting
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
POLICY = SETTING.monitoring
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
VITALS = codes.VITALS_DUE.code


def minutes(count):
    return timedelta(minutes=count)


@pytest.mark.parametrize(
    ("drug", "route", "first", "last"),
    [
        ("esketamine", codes.ROUTE_NASAL, 40, 120),
        ("ketamine", codes.ROUTE_NASAL, 15, 120),
        ("ketamine", codes.ROUTE_IV, 10, 115),
        ("ketamine", codes.ROUTE_IM, 15, 120),
        ("ketamine", codes.ROUTE_SUBLINGUAL, 40, 120),
    ],
)
def test_vital_signs_are_due_by_the_route_s_cadence(drug, route, first, last):
    all_due = planned([(NOW, cadence_of(drug, route.code, POLICY))], POLICY)
    due = [one for one in all_due if one.what == VITALS]
    assert (due[0].minute, due[-1].minute) == (first, last)
    assert all(one.when == NOW + minutes(one.minute) for one in all_due)


@pytest.mark.parametrize(
    ("drug", "route", "what", "due"),
    [
        ("esketamine", codes.ROUTE_NASAL, codes.SEDATION_DUE, (40, 80, 120)),
        ("esketamine", codes.ROUTE_NASAL, codes.DISSOCIATION_DUE, (40, 120)),
        ("ketamine", codes.ROUTE_IV, codes.SEDATION_DUE, (15, 30, 45, 60, 75, 90, 105)),
        ("ketamine", codes.ROUTE_IV, codes.DISSOCIATION_DUE, (40,)),
        ("ketamine", codes.ROUTE_IM, codes.SEDATION_DUE, (30, 120)),
        ("ketamine", codes.ROUTE_SUBLINGUAL, codes.DISSOCIATION_DUE, (40, 120)),
        ("ketamine", codes.ROUTE_SUBLINGUAL, codes.CHAPERONE_DUE, None),
        ("ketamine", codes.ROUTE_IV, codes.PAIN_DUE, (40, 100)),
        ("esketamine", codes.ROUTE_NASAL, codes.PAIN_DUE, (40, 120)),
    ],
)
def test_sedation_dissociation_and_pain_are_due_by_the_route(drug, route, what, due):
    assert cadence_of(drug, route.code, POLICY).at.get(what.code) == due


def test_of_the_devices_of_one_treatment_the_first_sets_what_is_due_and_the_stay_and_one_long_after_it_does_as_well():
    cadence = cadence_of("esketamine", codes.ROUTE_NASAL.code, POLICY)
    devices = [(NOW + minutes(one), cadence) for one in (0, 5, 30, 110, 115)]
    found = planned(devices, POLICY)
    assert [one.minute for one in found if one.what == VITALS] == [40, 80, 120, 150, 190, 230]
    for last, stay in ((0, 120), (30, 120), (31, 151), (110, 230)):
        assert stays_until(NOW, [None], cadence, NOW + minutes(last)) == NOW + minutes(stay)


def test_the_gate_and_the_watch_agree_until_when_devices_are_one_treatment():
    spray = load_policy().section("dosing", DosingPolicy).apart["esketamine-nasal"]
    assert spray.within == cadence_of("esketamine", codes.ROUTE_NASAL.code, POLICY).together


QUARTERS = tuple(range(15, 121, 15))


@pytest.mark.parametrize("route", [codes.ROUTE_SUBLINGUAL, codes.ROUTE_ORAL])
def test_at_home_the_chaperone_looks_every_quarter_of_an_hour_and_until_the_patient_is_fit(route):
    home = cadence_of("ketamine", route.code, POLICY, home=True)
    assert home.at[codes.CHAPERONE_DUE.code] == QUARTERS
    assert home.at[VITALS] == (120,)
    assert home.then == {codes.CHAPERONE_DUE.code: 15}


@pytest.mark.parametrize(
    ("drug", "route"),
    [("ketamine", codes.ROUTE_IM.code), ("ketamine", codes.ROUTE_NASAL.code), ("esketamine", codes.ROUTE_NASAL.code)],
)
def test_what_is_given_at_home_by_another_route_is_watched_as_in_the_clinic_and_by_the_chaperone_too(drug, route):
    home, clinic = cadence_of(drug, route, POLICY, home=True), cadence_of(drug, route, POLICY)
    assert home.at[codes.CHAPERONE_DUE.code] == QUARTERS
    assert {what: home.at[what] for what in clinic.at} == clinic.at
    assert (home.stay, home.stay_after_last) == (clinic.stay, clinic.stay_after_last)


@pytest.mark.parametrize(("seconds", "minute"), [(0, 0), (59, 0), (60, 1), (2400, 40), (-1, -1), (-600, -10)])
def test_minutes_from_the_dose_are_whole_and_below_0_before_it(seconds, minute):
    assert minutes_from(NOW, NOW + timedelta(seconds=seconds)) == minute


def test_an_unknown_route_is_watched_as_the_closest():
    closest = max(len(one.at[VITALS]) for one in POLICY.cadences.values())
    assert len(cadence_of("ketamine", None, POLICY).at[VITALS]) == closest


@pytest.mark.parametrize(
    ("drug", "route", "due"),
    [
        ("ketamine", codes.ROUTE_IM, [15, 30, 45, 60, 90, 120, 135, 150, 165, 195, 225]),
        ("esketamine", codes.ROUTE_NASAL, [40, 80, 120, 145, 185, 225]),
    ],
)
def test_each_dose_sets_what_is_due_after_it(drug, route, due):
    cadence = cadence_of(drug, route.code, POLICY)
    assert planned([], POLICY) == []
    found = planned([(NOW + minutes(105), cadence), (NOW, cadence)], POLICY)
    assert [one.minute for one in found if one.what == VITALS] == due


@pytest.mark.parametrize(("now", "next_"), [(0, 15), (-30, 15), (20, 15), (20.1, 30), (600, 600)])
def test_what_is_due_every_quarter_of_an_hour_goes_on_with_the_first_that_is_not_missed(now, next_):
    assert next_due(NOW, 15, NOW + minutes(now), POLICY) == NOW + minutes(next_)


@pytest.mark.parametrize(("after", "missed"), [(0, False), (5, False), (5.1, True)])
def test_a_reading_is_missed_after_its_grace(after, missed):
    assert is_missed(NOW, NOW + minutes(after), POLICY) is missed


def set_of(offset, *left_out):
    named = {"8480-6": 120, "8462-4": 80, "8867-4": 70, "59408-5": 98}
    when = NOW + minutes(offset)
    return [
        Reading(f"Observation/{code}", (code,), {"value": value}, when)
        for code, value in named.items()
        if code not in left_out
    ]


@pytest.mark.parametrize(
    ("readings", "covered"),
    [
        (set_of(0), True),
        (set_of(-5), True),
        (set_of(-6), False),
        (set_of(10), True),
        (set_of(11), False),
        (set_of(0, "59408-5"), False),
        ([*set_of(0, "59408-5"), Reading("Observation/2", ("2708-6",), {"value": 98}, NOW)], True),
        ([Reading("Observation/x", one.codes, one.quantity, one.when, timed=False) for one in set_of(0)], False),
        ([], False),
    ],
)
def test_a_time_point_is_made_up_by_readings_near_it(readings, covered):
    assert (covers(readings, NOW, POLICY, VITALS) is not None) is covered


def test_a_pressure_that_is_repeated_is_taken_after_the_first_and_needs_nothing_else():
    first, again = set_of(0), set_of(3)[:2]
    due = NOW + minutes(5)
    assert covers(first, due, POLICY, codes.PRESSURE_AGAIN.code, after=NOW) is None
    assert covers([*first, *again], due, POLICY, codes.PRESSURE_AGAIN.code, after=NOW) is not None
    assert covers([*first, *again[:1]], due, POLICY, codes.PRESSURE_AGAIN.code, after=NOW) is None


def vitals(**values):
    known = {"systolic": ("8480-6", "mm[Hg]"), "diastolic": ("8462-4", "mm[Hg]"), "saturation": ("59408-5", "%")}
    return {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "effectiveDateTime": zulu(NOW),
        "component": [
            {
                "code": {"coding": [{"system": codes.LOINC, "code": known[name][0]}]},
                "valueQuantity": {"value": value, "code": known[name][1], "system": codes.UCUM},
            }
            for name, value in values.items()
        ],
    }


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ({"systolic": 120, "diastolic": 80}, 0),
        ({"systolic": 1200}, 1),
        ({"systolic": 80, "diastolic": 120}, 1),
        ({"systolic": 80, "diastolic": 80}, 1),
        ({"saturation": 101}, 1),
        ({"saturation": 100}, 0),
        ({"saturation": 9}, 1),
    ],
)
def test_a_value_that_can_hardly_be_is_asked_about(values, asked):
    assert len(implausible(vitals(**values), POLICY)) == asked


def test_the_least_stay_counts_from_the_first_dose_and_after_the_end_of_an_infusion():
    intramuscular = cadence_of("ketamine", codes.ROUTE_IM.code, POLICY)
    assert stays_until(NOW, [None], intramuscular) == NOW + minutes(120)
    assert stays_until(NOW, [None], intramuscular, NOW + minutes(105)) == NOW + minutes(225)
    device = cadence_of("esketamine", codes.ROUTE_NASAL.code, POLICY)
    assert stays_until(NOW, [None], device, NOW + minutes(10)) == NOW + minutes(120)
    infusion = cadence_of("ketamine", codes.ROUTE_IV.code, POLICY)
    assert stays_until(NOW, [None], infusion) is None
    assert stays_until(NOW, [NOW + minutes(40)], infusion) == NOW + minutes(120)
    assert stays_until(NOW, [NOW + minutes(40), NOW + minutes(90)], infusion) == NOW + minutes(150)


def feed(data, **more):
    return {
        "resourceType": "Observation",
        "id": "f",
        "status": "final",
        "code": {"coding": [{"system": codes.LOINC, "code": "59408-5"}]},
        "effectiveDateTime": zulu(NOW),
        "valueSampledData": {
            "origin": {"value": 0, "unit": "%", "system": codes.UCUM, "code": "%"},
            "period": 1000,
            "dimensions": 1,
            "data": data,
            **more,
        },
    }


@pytest.mark.parametrize(
    ("data", "more", "alarms"),
    [
        ("98 97 96", {}, 0),
        ("98 89 96", {}, 1),
        ("98 E E", {}, 0),
        ("E E", {}, 0),
        ("980 890", {"factor": Decimal("0.1")}, 1),
        ("980 910", {"factor": Decimal("0.1")}, 0),
        ("98 L", {"lowerLimit": 70}, 1),
        ("98 U", {"upperLimit": 100}, 0),
    ],
)
def test_a_device_s_feed_alarms_by_its_extremes(data, more, alarms):
    assert len(alarms_of(feed(data, **more), SETTING.alarms)) == alarms
    assert all(one.sampled for one in readings_of(feed(data, **more)))
