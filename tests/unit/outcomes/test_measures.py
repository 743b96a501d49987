"""The clinic's measures: counted right, broken down, and never telling of a few."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.outcomes.rules.measures import Case, broken_down, cell_of, report, rows
from services.outcomes.setting import Setting
from shared.fhir.validation import validate
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
MEASURE = SETTING.measures.measures["phq-9-response"]
PERIOD = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
BELOW = 11


def cases(counts, other, route="IV", start=0):
    made = [(number < counts) for number in range(counts + other)]
    return [
        Case(f"p{start + number}", counted, (f"Observation/o{start + number}",), {"route": (route,)})
        for number, counted in enumerate(made)
    ]


@pytest.mark.parametrize(
    ("counts", "other", "shown"),
    [
        (11, 11, True),
        (10, 11, False),
        (11, 10, False),
        (0, 11, True),
        (11, 0, True),
        (0, 0, True),
        (0, 1, False),
        (5, 5, False),
    ],
)
def test_a_count_of_one_to_ten_is_not_shown_on_either_side(counts, other, shown):
    cell = cell_of("", cases(counts, other), BELOW)
    assert (cell.numerator, cell.denominator) == ((counts, counts + other) if shown else (None, None))


@pytest.mark.parametrize(("patients", "each", "shown"), [(1, 12, False), (10, 30, False), (11, 2, True), (11, 1, True)])
def test_visits_or_questionnaires_of_few_patients_are_few_however_many_they_are(patients, each, shown):
    some = [Case(f"p{number % patients}", counts=True) for number in range(patients * each)]
    cell = cell_of("", some, BELOW)
    assert (cell.denominator is not None) is shown


def test_the_share_is_of_the_denominator():
    assert cell_of("", cases(11, 22), BELOW).share == Decimal("0.333")
    assert cell_of("", [], BELOW).share is None


def test_where_one_stratum_is_not_shown_another_is_not_lest_it_be_the_rest():
    some = [*cases(20, 20, "IV"), *cases(30, 30, "IM", 100), *cases(1, 2, "nasal", 200)]
    shown = {cell.name: cell.denominator for cell in broken_down(some, "route", BELOW)}
    assert shown == {"IM": 60, "IV": None, "nasal": None}


def test_a_report_is_valid_hides_small_cells_and_names_nobody():
    some = [*cases(20, 20), *cases(1, 2, "nasal", 200)]
    made = report("phq-9-response", MEASURE, some, PERIOD, BELOW, now=PERIOD[0])
    assert validate(made) == []
    (group,) = made["group"]
    assert [one["count"] for one in group["population"]] == [43, 21]
    assert group["measureScore"]["value"] == Decimal("0.488")
    assert all("_count" in one for stratum in group["stratifier"][0]["stratum"] for one in stratum["population"])
    assert "Patient/" not in str(made)
    assert "evaluatedResource" not in made


def test_a_list_of_patients_leads_from_each_number_to_them_and_to_the_evidence():
    made = report("phq-9-response", MEASURE, cases(1, 2), PERIOD, BELOW, now=PERIOD[0], kind="subject-list")
    assert validate(made) == []
    lists = {one["id"]: [entry["item"]["reference"] for entry in one["entry"]] for one in made["contained"]}
    assert lists == {"numerator": ["Patient/p0"], "denominator": ["Patient/p0", "Patient/p1", "Patient/p2"]}
    population = made["group"][0]["population"]
    assert [(one["count"], one["subjectResults"]["reference"]) for one in population] == [
        (3, "#denominator"),
        (1, "#numerator"),
    ]
    assert len(made["evaluatedResource"]) == 3


def test_a_table_has_a_row_for_the_whole_and_each_stratum():
    assert rows("phq-9-response", MEASURE, cases(11, 11), BELOW) == [
        ["phq-9-response", "", "", "11", "22", "0.500"],
        ["phq-9-response", "route", "IV", "11", "22", "0.500"],
    ]
    assert rows("x", MEASURE, cases(1, 1), BELOW)[0] == ["x", "", "", "", "", ""]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["IV", "IM", "SL", "nasal"]), st.booleans(), st.integers(0, 40)), max_size=120)
)
def test_no_shown_cell_tells_of_a_few_nor_lets_a_hidden_one_be_reckoned(drawn):
    some = [Case(f"p{who}", counts, (), {"route": (route,)}) for route, counts, who in drawn]
    cells = broken_down(some, "route", BELOW)
    for cell in cells:
        if cell.denominator is not None:
            of_it = [(counts, who) for route, counts, who in drawn if route == cell.name]
            behind = [{who for counts, who in of_it if counts is wanted} for wanted in (True, False)]
            assert all(not who or len(who) >= BELOW for who in (*behind, behind[0] | behind[1]))
    hidden = sum(cell.denominator is None for cell in cells)
    assert hidden != 1 or len(cells) == 1
