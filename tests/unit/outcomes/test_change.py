"""Response, remission, reliable change, sustained response, worsening: against the baseline before the first dose."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.outcomes.rules.change import (
    Changed,
    Judging,
    Point,
    Series,
    baseline_of,
    changed,
    is_worsening,
    point_of,
    with_change,
)
from services.outcomes.setting import Setting
from shared.fhir.codes import KAP
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
ALL = SETTING.instruments
PHQ9 = ALL["phq-9"]
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SERIES = Series(FIRST, FIRST + timedelta(days=20))
JUDGING = Judging(timedelta(days=60), timedelta(days=28))


def point(day, value):
    return Point(f"d{day}", FIRST + timedelta(days=day), Decimal(value))


def says(value, *others, day=30, courses=(SERIES,), instrument=PHQ9, down=True):
    one = point(day, value)
    return {code.code for code in changed(one, [*others, one], courses, instrument.change, JUDGING, down=down).codes}


BASE = point(-3, 20)


@pytest.mark.parametrize(
    ("value", "codes"),
    [
        # from 20: half is 10; reliable change 6, that is 14 or 26; remission at or below 4
        (10, {"response", "reliable-improvement"}),
        (11, {"reliable-improvement"}),
        (14, {"reliable-improvement"}),
        (15, set()),
        (4, {"response", "remission", "reliable-improvement"}),
        (5, {"response", "reliable-improvement"}),
        (25, set()),
        (26, {"reliable-deterioration"}),
    ],
)
def test_a_score_is_judged_against_the_baseline(value, codes):
    assert says(value, BASE) == codes


def test_the_baseline_is_the_last_before_the_first_dose_and_none_after_it():
    earlier, after = point(-30, 27), point(1, 5)
    assert baseline_of([earlier, BASE, after], SERIES, JUDGING.baseline_within) == BASE
    assert baseline_of([after], SERIES, JUDGING.baseline_within) is None


def test_a_score_that_is_too_old_at_the_first_dose_is_no_baseline():
    assert "response" in says(10, point(-60, 20))
    assert says(10, point(-61, 20)) == set()
    assert SETTING.judging == JUDGING


def test_a_score_of_the_day_of_the_first_dose_without_the_hour_is_neither_before_nor_after_it():
    def of(day):
        held = {"status": "final", "valueQuantity": {"value": 20}, "effectiveDateTime": day}
        return point_of({"id": day, **held})

    first = Series(FIRST + timedelta(hours=15), FIRST + timedelta(hours=17))
    assert says(10, of("2026-01-01"), courses=(first,)) == set()
    assert says(10, of("2025-12-31"), courses=(first,)) == {"response", "reliable-improvement"}
    assert says(10, of("2026-01-01T14:59:00Z"), courses=(first,)) == {"response", "reliable-improvement"}
    same_day = of("2026-01-01")
    assert changed(same_day, [BASE, same_day], [first], PHQ9.change, JUDGING, down=True).codes == ()


def test_without_a_baseline_or_a_dose_there_is_no_response_but_a_remission_is_one():
    assert says(4) == {"remission"}
    assert says(4, BASE, courses=()) == set()
    assert says(4, BASE, day=-1) == set()


def test_a_baseline_of_nought_is_not_responded_to():
    assert "response" not in says(0, point(-3, 0))


@pytest.mark.parametrize(
    "observation",
    [
        {"status": "final", "valueQuantity": {"value": 4}},
        {"status": "cancelled", "valueQuantity": {"value": 4}, "effectiveDateTime": "2026-01-01"},
        {"status": "entered-in-error", "valueQuantity": {"value": 4}, "effectiveDateTime": "2026-01-01"},
        {"status": "final", "effectiveDateTime": "2026-01-01"},
    ],
)
def test_a_score_of_an_unknown_time_or_value_or_that_is_not_true_counts_for_nothing(observation):
    assert point_of({"id": "o", **observation}) is None
    whole = {"status": "final", "valueQuantity": {"value": 4}, "effectiveDateTime": "2026-01-01"}
    assert point_of({"id": "o", **whole}).value == 4


def test_a_second_course_has_its_own_baseline():
    second = Series(FIRST + timedelta(days=200), FIRST + timedelta(days=210))
    relapse = point(190, 18)
    assert "response" in says(9, BASE, relapse, day=215, courses=(SERIES, second))
    assert "response" not in says(10, BASE, relapse, day=215, courses=(SERIES, second))
    assert "response" in says(10, BASE, day=100, courses=(SERIES, second))


@pytest.mark.parametrize(
    ("between", "day", "sustained"),
    [
        ([(22, 8)], 48, True),
        ([(22, 8)], 47, False),
        ([(22, 11)], 48, False),
        ([(22, 8), (30, 12)], 48, False),
        ([], 48, False),
    ],
)
def test_a_response_is_sustained_at_the_end_of_the_series_and_four_weeks_on_and_all_between(between, day, sustained):
    others = [point(at, value) for at, value in between]
    assert ("sustained-response" in says(9, BASE, *others, day=day)) is sustained


def test_where_no_reliable_change_is_known_none_is_claimed():
    assert says(0, point(-3, 40), instrument=ALL["madrs"]) == {"response", "remission"}


def test_where_higher_is_better_a_rise_is_a_gain():
    from services.outcomes.rules.instruments import Responding

    better = Responding(reliable_points=Decimal(5), source="s", verified=False)
    one, base = point(30, 50), point(-3, 40)
    found = changed(one, [base, one], [SERIES], better, JUDGING, down=False)
    assert [code.code for code in found.codes] == ["reliable-improvement"]
    assert found.difference == 10


def test_what_was_said_before_gives_way_and_severity_stays():
    band = {"coding": [{"system": "https://kap-exchange.org/fhir/CodeSystem/kap", "code": "phq-9-moderate"}]}
    plain = {"id": "o", "interpretation": [band], "derivedFrom": [{"reference": "QuestionnaireResponse/r"}]}
    one = point(30, 10)
    judged = with_change(plain, changed(one, [BASE, one], [SERIES], PHQ9.change, JUDGING, down=True))
    assert [each["coding"][0]["code"] for each in judged["interpretation"]] == [
        "phq-9-moderate",
        "response",
        "reliable-improvement",
    ]
    assert judged["component"][0]["valueQuantity"]["value"] == -10
    assert judged["derivedFrom"] == [{"reference": "QuestionnaireResponse/r"}, {"reference": "Observation/d-3"}]
    again = with_change(judged, changed(one, [one], [SERIES], PHQ9.change, JUDGING, down=True))
    assert again == plain


@pytest.mark.parametrize(
    ("values", "worse"),
    [
        ([(5, 10), (10, 15)], True),
        ([(5, 10), (10, 14)], False),
        ([(5, 10)], False),
        # both 6 above the baseline of 10, though only 1 apart
        ([(5, 16), (10, 17)], True),
        ([(5, 15), (10, 16)], False),
    ],
)
def test_worse_by_five_points_or_deteriorated_twice_in_a_row_calls_for_a_prescriber(values, worse):
    points = [point(-3, 10), *(point(day, value) for day, value in values)]
    assert (is_worsening(points[-1], points, [SERIES], PHQ9, JUDGING) is not None) is worse


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(-30, 90), st.integers(0, 27)), min_size=1, max_size=8, unique_by=lambda one: one[0])
)
def test_nothing_is_both_better_and_worse_and_nobody_responds_who_is_not_better(values):
    points = [point(day, value) for day, value in values]
    for one in points:
        found = changed(one, points, [SERIES], PHQ9.change, JUDGING, down=True)
        codes = {code.code for code in found.codes}
        assert not {"reliable-improvement", "reliable-deterioration"} <= codes
        if codes & {"response", "sustained-response"}:
            assert found.baseline.at < FIRST <= one.at
            assert found.difference < 0
        if "sustained-response" in codes:
            assert "response" in codes


def promis(id_, t_score):
    """A score of the PROMIS with a T-score of physical health."""
    part = ALL["promis-global-10"].parts["physical"]
    return {
        "id": id_,
        "status": "final",
        "effectiveDateTime": "2026-01-01T09:00:00Z",
        "derivedFrom": [{"reference": f"QuestionnaireResponse/{id_}"}],
        "component": [
            {"code": part.of().concept(), "valueQuantity": {"value": 9}},
            {
                "code": {"coding": [{"system": KAP, "code": part.compared}]},
                "valueQuantity": {"value": Decimal(t_score)},
            },
        ],
    }


@pytest.mark.parametrize(
    ("before", "after", "codes"),
    [
        # five points of T or more is another; higher is better
        ("32.4", "37.4", {"reliable-improvement"}),
        ("32.4", "37.3", set()),
        ("37.4", "32.4", {"reliable-deterioration"}),
    ],
)
def test_a_part_is_held_against_its_baseline_by_its_t_score_and_says_so_in_its_component(before, after, codes):
    part = ALL["promis-global-10"].parts["physical"]
    base, now = promis("base", before), promis("now", after)
    points = [
        replace(point_of(base, part.compared), at=FIRST - timedelta(days=3)),
        replace(point_of(now, part.compared), at=FIRST + timedelta(days=30)),
    ]
    found = changed(points[1], points, [SERIES], part.change, JUDGING, down=part.better == "lower")
    assert {code.code for code in found.codes} == codes
    said = with_change(now, Changed((), None, None), {part.compared: found})
    raw, t_score, change = said["component"]
    assert raw == now["component"][0]
    assert {one["coding"][0]["code"] for one in t_score.get("interpretation", [])} == codes
    assert change["valueQuantity"]["value"] == Decimal(after) - Decimal(before)
    assert said["derivedFrom"][-1] == {"reference": "Observation/base"}
    assert "interpretation" not in said
    assert with_change(said, Changed((), None, None), {part.compared: found}) == said
    assert with_change(said, Changed((), None, None)) == now
