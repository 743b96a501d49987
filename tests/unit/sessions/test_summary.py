"""The summary of a visit as tables and text, and its states; integration in its time; products and inventory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules.leaving import integration_booked
from services.sessions.rules.substances import is_inventory_near, product_of
from services.sessions.rules.summary import Section, as_text, same_content, status_of
from services.sessions.setting import Setting
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
CELL = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Co")), max_size=12)


@given(st.lists(st.tuples(CELL, CELL), max_size=5))
def test_whatever_people_write_the_narrative_is_well_formed_and_says_it(rows):
    section = Section("Vital signs", ("Minute", "BP"), rows)
    table = ET.fromstring(section.div)
    cells = [cell.text or "" for cell in table.iter("{http://www.w3.org/1999/xhtml}td")]
    assert cells == [cell for row in rows for cell in row]


def test_the_text_has_its_columns_one_under_the_other_and_an_empty_section_says_so():
    section = Section("Vital signs", ("Minute", "BP"), [("+5", "120"), ("+120", "118")])
    text = as_text("Summary", ["Patient: Ada Moss"], [section, Section("Alarms", ("What",), [])])
    assert text.splitlines() == [
        "Summary",
        "Patient: Ada Moss",
        "",
        "Vital signs",
        "  Minute  BP",
        "  +5      120",
        "  +120    118",
        "",
        "Alarms",
        "  Nothing is recorded.",
    ]


@pytest.mark.parametrize(
    ("held", "signed", "changed", "status"),
    [
        (None, False, True, "preliminary"),
        (None, True, True, "final"),
        ("preliminary", False, True, "preliminary"),
        ("preliminary", True, False, "final"),
        ("final", True, False, "final"),
        ("final", True, True, "amended"),
        ("amended", True, True, "amended"),
        ("amended", True, False, "amended"),
        ("entered-in-error", True, True, "final"),
    ],
)
def test_a_summary_is_preliminary_until_it_is_signed_and_amended_when_it_then_says_something_else(
    held, signed, changed, status
):
    assert status_of(None if held is None else {"status": held}, signed=signed, changed=changed) == status


def test_who_signed_and_when_is_no_change_of_what_is_said():
    one = {"section": [1], "type": {}, "subject": {}, "title": "x", "date": "2026-01-01", "attester": [1]}
    assert same_content(one, {**one, "date": "2026-02-01", "attester": []})
    assert not same_content(one, {**one, "section": [2]})
    assert not same_content(None, one)


@pytest.mark.parametrize(
    ("hours", "booked"), [(23.9, False), (24, True), (48, True), (72, True), (72.1, False), (-48, False)]
)
def test_integration_is_booked_when_it_begins_one_to_three_days_after_leaving(hours, booked):
    starts = [NOW + timedelta(hours=hours)]
    assert integration_booked(NOW, starts, SETTING.discharge.integration) is booked
    assert not integration_booked(NOW, [], SETTING.discharge.integration)


@pytest.mark.parametrize(
    ("ndc", "strength"),
    [
        ("0409-2051-05", "100 mg/mL"),
        ("0409-2051", "100 mg/mL"),
        ("50458-028-02", "28 mg per device"),
        ("0409-20515-1", None),
        ("9999-1111-01", None),
    ],
)
def test_a_product_is_known_by_its_ndc_whatever_its_package(ndc, strength):
    product = product_of(ndc, SETTING.substances)
    assert (None if product is None else product.strength) == strength


@pytest.mark.parametrize(("days", "near"), [(0, False), (699, False), (700, True), (731, True)])
def test_the_next_inventory_is_asked_for_a_month_before_two_years_are_over(days, near):
    assert is_inventory_near(NOW - timedelta(days=days), NOW, SETTING.substances.inventory) is near
    assert is_inventory_near(None, NOW, SETTING.substances.inventory)
