"""Orders for home: each thing that Schedule III asks for, there, missing, and at its boundary."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.rules.home import HomeFacts, check_home, is_for_home
from services.intake.setting import Setting
from shared.fhir import codes
from shared.fhir.registrations import is_dea, is_npi
from shared.runtime.policy import load_policy

POLICY = Setting.of(load_policy()).orders.at_home
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


def registered(number="AB1234563", **period):
    dea = {"identifier": [{"system": codes.DEA, "value": number, **({"period": period} if period else {})}]}
    return {"resourceType": "Practitioner", "id": "p", **dea}


def visit(days=10, class_="AMB", status="finished"):
    start = (NOW - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "resourceType": "Encounter",
        "id": "v",
        "status": status,
        "class": {"code": class_},
        "period": {"start": start},
    }


FACTS = HomeFacts((visit(),), (NOW - timedelta(days=1),), registered(), registered(), NOW, "Patient/ada")
ORDER = {
    "category": [codes.MEDICATION_COMMUNITY.concept()],
    "identifier": [{"system": codes.ID_PRESCRIPTION, "value": "RX-1"}],
    "dispenseRequest": {
        "quantity": {"value": 12},
        "expectedSupplyDuration": {"value": 30, "code": "d", "system": codes.UCUM},
        "numberOfRepeatsAllowed": 0,
    },
}


def rules(order=ORDER, drug="ketamine", route="37839007", **facts):
    issues = check_home(order, drug, [route], replace(FACTS, **facts), POLICY)
    assert all(issue.source and issue.expression for issue in issues)
    return [issue.rule for issue in issues]


def test_an_order_for_home_with_everything_may_stand():
    assert rules() == []


@pytest.mark.parametrize(
    ("drug", "route", "expected"),
    [
        ("ketamine", "26643006", []),
        ("ketamine", "47625008", ["RX-HOME"]),
        ("ketamine", "46713006", ["RX-HOME"]),
        ("esketamine", "46713006", ["RX-HOME"]),
    ],
)
def test_esketamine_and_injections_are_never_for_home(drug, route, expected):
    assert rules(drug=drug, route=route) == expected


AFTER = datetime(2027, 1, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "visits", "expected"),
    [
        (NOW, (), []),
        (datetime(2026, 12, 31, 23, tzinfo=UTC), (), []),
        (AFTER, (), ["RX-SEEN"]),
        (AFTER, (visit(),), []),
        (AFTER, (visit(689),), []),
        (AFTER, (visit(691),), ["RX-SEEN"]),
        (AFTER, (visit(class_="VR"),), ["RX-SEEN"]),
        (AFTER, (visit(status="cancelled"),), ["RX-SEEN"]),
        (AFTER, ({"status": "finished", "class": {"code": "AMB"}},), ["RX-SEEN"]),
    ],
)
def test_after_the_telemedicine_exception_the_patient_was_seen_in_person(at, visits, expected):
    held = [{**one, "id": str(number)} for number, one in enumerate(visits)]
    assert rules(at=at, visits=held, pdmp_queries=(at,)) == expected


@pytest.mark.parametrize(
    ("days", "expected"), [(0, []), (7, []), (7.01, ["RX-PDMP"]), (-1, ["RX-PDMP"]), (None, ["RX-PDMP"])]
)
def test_the_monitoring_programme_was_asked_shortly_before(days, expected):
    assert rules(pdmp_queries=() if days is None else (NOW - timedelta(days=days),)) == expected


@pytest.mark.parametrize("who", ["prescriber", "site"])
@pytest.mark.parametrize(
    ("resource", "valid"),
    [
        (None, False),
        ({}, False),
        (registered("AB1234564"), False),
        (registered(end="2026-11-21"), False),
        (registered(end="2026-11-22"), True),
        (registered(start="2026-11-23"), False),
        (registered(start="2026-11-22"), True),
    ],
)
def test_prescriber_and_site_are_registered_on_that_day(who, resource, valid):
    held = None if resource is None else {"resourceType": "Practitioner", "id": "p", **resource}
    assert rules(**{who: held}) == ([] if valid else ["RX-DEA"])


@pytest.mark.parametrize(
    "dispense",
    [
        {"quantity": {"value": 13}},
        {"quantity": {}},
        {"expectedSupplyDuration": {"value": 31, "code": "d"}},
        {"expectedSupplyDuration": {"value": 4, "code": "wk"}},
        {"expectedSupplyDuration": {}},
        {"numberOfRepeatsAllowed": 1},
    ],
)
def test_quantity_days_and_refills_are_limited_and_must_be_said(dispense):
    assert rules({**ORDER, "dispenseRequest": {**ORDER["dispenseRequest"], **dispense}}) == ["RX-LIMIT"]


def test_the_number_of_the_prescription_is_recorded():
    assert rules({**ORDER, "identifier": [{"system": "urn:other", "value": "1"}]}) == ["RX-NUMBER"]


def test_everything_that_is_missing_is_said_at_once():
    found = rules(
        {}, drug="esketamine", route="46713006", pdmp_queries=(), prescriber=None, site=None, visits=(), at=AFTER
    )
    assert found == ["RX-HOME", "RX-SEEN", "RX-PDMP", "RX-DEA", "RX-DEA", "RX-LIMIT", "RX-NUMBER"]


def test_what_is_dispensed_is_for_home():
    assert is_for_home(ORDER)
    assert is_for_home({"dispenseRequest": {"quantity": {"value": 1}}})
    assert not is_for_home({"category": [{"text": "outpatient"}]})


@pytest.mark.parametrize("number", ["AB1234563", "F91234563", "BB1388568"])
def test_a_dea_number_has_its_check_digit(number):
    assert is_dea(number)
    wrong = str((int(number[-1]) + 1) % 10)
    assert not is_dea(number[:-1] + wrong)


@pytest.mark.parametrize("number", ["", "A", "1234567", "AB123456", "AB12345633", "9B1234563", "AB12345٣3"])
def test_what_is_no_dea_number_is_none(number):
    assert not is_dea(number)


def test_an_npi_has_its_check_digit():
    assert is_npi("1234567893")
    assert not is_npi("1234567890")
    assert not is_npi("3234567893")
    assert not is_npi("123456789")


@given(st.integers(min_value=100_000_000, max_value=299_999_999))
def test_of_ten_numbers_that_differ_in_the_last_digit_one_is_an_npi(head):
    assert sum(is_npi(f"{head}{last}") for last in range(10)) == 1
