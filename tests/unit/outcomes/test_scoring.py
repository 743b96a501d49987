"""Scoring: hand-worked examples, bands at their limits, missing answers, and that order and depth do not matter."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.outcomes.rules import band_of, due_after, instrument_of, is_alarming, score, task_for
from services.outcomes.setting import Setting
from shared.fhir.codes import LOINC
from shared.fhir.dates import zulu
from shared.runtime.ownership import OUTCOMES, QUESTIONNAIRES
from shared.runtime.policy import FOLDER, Policy, PolicyError, load_policy

SETTING = Setting.of(load_policy())
PHQ9 = SETTING.instruments["phq-9"]
GAD7 = SETTING.instruments["gad-7"]
CODES = {value: code for code, value in PHQ9.answers.items()}
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


def item(link, value, form="valueCoding"):
    answer = {"valueCoding": {"system": LOINC, "code": CODES[value]}} if form == "valueCoding" else {form: value}
    return {"linkId": link, "answer": [answer]}


def response(instrument, *values, form="valueCoding"):
    return {"item": [item(link, value, form) for link, value in zip(instrument.items, values, strict=False)]}


@pytest.mark.parametrize(
    ("instrument", "values", "total", "band"),
    [
        (PHQ9, (0,) * 9, 0, "phq-9-minimal"),
        (PHQ9, (1, 1, 1, 1, 0, 0, 0, 0, 0), 4, "phq-9-minimal"),
        (PHQ9, (1, 1, 1, 1, 1, 0, 0, 0, 0), 5, "phq-9-mild"),
        (PHQ9, (1,) * 9, 9, "phq-9-mild"),
        (PHQ9, (2, 1, 1, 1, 1, 1, 1, 1, 1), 10, "phq-9-moderate"),
        (PHQ9, (2, 2, 2, 2, 2, 2, 2, 0, 0), 14, "phq-9-moderate"),
        (PHQ9, (2, 2, 2, 2, 2, 2, 3, 0, 0), 15, "phq-9-moderately-severe"),
        (PHQ9, (3, 2, 2, 2, 2, 2, 2, 2, 2), 19, "phq-9-moderately-severe"),
        (PHQ9, (3, 3, 2, 2, 2, 2, 2, 2, 2), 20, "phq-9-severe"),
        (PHQ9, (3,) * 9, 27, "phq-9-severe"),
        (GAD7, (0,) * 7, 0, "gad-7-minimal"),
        (GAD7, (1, 1, 1, 1, 1, 0, 0), 5, "gad-7-mild"),
        (GAD7, (2, 2, 2, 2, 2, 0, 0), 10, "gad-7-moderate"),
        (GAD7, (3, 3, 3, 3, 3, 0, 0), 15, "gad-7-severe"),
        (GAD7, (3,) * 7, 21, "gad-7-severe"),
    ],
)
def test_answers_add_up_and_have_their_severity(instrument, values, total, band):
    scored = score(response(instrument, *values), instrument)
    assert (scored.total, scored.missing) == (total, ())
    assert band_of(total, instrument).code == band


@pytest.mark.parametrize("form", ["valueInteger", "valueDecimal"])
def test_numbers_are_understood_as_answers(form):
    assert score(response(PHQ9, *(1,) * 9, form=form), PHQ9).total == 9


@pytest.mark.parametrize(
    "answer",
    [
        {"valueInteger": 4},
        {"valueInteger": -1},
        {"valueDecimal": Decimal("1.5")},
        {"valueString": "often"},
        {"valueCoding": {"system": LOINC, "code": "LA0-0"}},
        {"valueCoding": {"system": "urn:other", "code": "LA6568-5"}},
    ],
)
def test_an_answer_that_is_not_understood_is_a_missing_one(answer):
    given_ = response(PHQ9, *(1,) * 9)
    given_["item"][2]["answer"] = [answer]
    scored = score(given_, PHQ9)
    assert (scored.total, scored.missing) == (None, (PHQ9.items[2],))


def test_an_item_answered_twice_is_not_answered():
    given_ = response(PHQ9, *(1,) * 9)
    given_["item"][0]["answer"] *= 2
    assert score(given_, PHQ9).missing == (PHQ9.items[0],)


def test_without_any_item_everything_is_missing():
    assert score({}, PHQ9).missing == PHQ9.items


def test_the_functioning_item_is_not_scored():
    given_ = response(PHQ9, *(1,) * 9)
    given_["item"].append({"linkId": "69722-7", "answer": [{"valueCoding": {"system": LOINC, "code": "LA6574-3"}}]})
    assert score(given_, PHQ9).total == 9


values9 = st.lists(st.integers(0, 3), min_size=9, max_size=9)


@given(values9, st.integers())
def test_a_total_stays_in_range_and_does_not_depend_on_order_or_depth(values, seed):
    plain = response(PHQ9, *values)
    shuffled = list(plain["item"])
    Random(seed).shuffle(shuffled)
    nested = {
        "item": [
            {"linkId": "group", "item": shuffled[:4]},
            *({**one, "linkId": f"/{one['linkId']}"} for one in shuffled[4:]),
        ]
    }
    total = score(plain, PHQ9).total
    assert total == sum(values) == score(nested, PHQ9).total
    assert 0 <= total <= 27
    assert band_of(total, PHQ9) is not None


@given(st.lists(st.none() | st.integers(0, 3), min_size=9, max_size=9))
def test_there_is_a_total_only_where_nothing_is_missing(values):
    given_ = {"item": [item(link, value) for link, value in zip(PHQ9.items, values, strict=True) if value is not None]}
    scored = score(given_, PHQ9)
    assert (scored.total is None) is (None in values)
    assert is_alarming(scored, PHQ9) is (values[8] is not None and values[8] >= 1)


def test_gad7_has_no_alarming_item():
    assert not is_alarming(score(response(GAD7, *(3,) * 7), GAD7), GAD7)


def test_an_instrument_is_known_by_its_canonical_with_or_without_a_version():
    assert instrument_of({"questionnaire": f"{PHQ9.canonicals[0]}|1"}, SETTING.instruments) == ("phq-9", PHQ9)
    assert instrument_of({"questionnaire": "http://loinc.org/q/69737-5"}, SETTING.instruments) == ("gad-7", GAD7)
    assert instrument_of({"questionnaire": "http://other"}, SETTING.instruments) is None
    assert instrument_of({}, SETTING.instruments) is None


def test_every_instruments_canonicals_are_outcomes_in_the_registry():
    for instrument in SETTING.instruments.values():
        assert {QUESTIONNAIRES[canonical] for canonical in instrument.canonicals} == {OUTCOMES}


@pytest.mark.parametrize("name", ["phq-9", "gad-7"])
def test_the_shipped_questionnaire_asks_the_instruments_items(name):
    asked = json.loads((FOLDER / "questionnaires" / f"{name}.json").read_text(encoding="utf-8"))
    instrument = SETTING.instruments[name]
    links = [one["linkId"] for one in asked["item"]]
    assert links[: len(instrument.items)] == list(instrument.items)
    assert asked["url"] == instrument.canonicals[0]
    options = [one["valueCoding"]["code"] for one in asked["item"][0]["answerOption"]]
    assert options == list(instrument.answers)


def test_a_questionnaire_is_due_so_many_days_after_the_visit_ended():
    expected = SETTING.policy.after_dosing["phq-9"]
    end = NOW - timedelta(days=1)
    assert due_after({"period": {"end": zulu(end)}}, expected, NOW) == end + timedelta(days=14)
    assert due_after({}, expected, NOW) == NOW + timedelta(days=14)


def expecting(number, *, status="requested", visit="v1", days=14, canonical=PHQ9.canonicals[0], done_by=None):
    made = {
        "id": number,
        "status": status,
        "encounter": {"reference": f"Encounter/{visit}"},
        "input": [{"valueCanonical": canonical}],
        "restriction": {"period": {"end": zulu(NOW + timedelta(days=days))}},
    }
    return made if done_by is None else {**made, "output": [{"valueReference": {"reference": done_by}}]}


@pytest.mark.parametrize(
    ("tasks", "encounter", "chosen"),
    [
        ([], None, None),
        ([expecting("a", days=20), expecting("b", days=14)], None, "b"),
        ([expecting("a", days=14), expecting("b", days=20, visit="v2")], "v2", "b"),
        ([expecting("a")], "elsewhere", "a"),
        ([expecting("a", status="completed"), expecting("b")], None, "b"),
        ([expecting("a", canonical=GAD7.canonicals[0])], None, None),
        ([expecting("a", status="completed", done_by="QuestionnaireResponse/r"), expecting("b")], None, None),
    ],
)
def test_answers_fulfil_the_task_of_their_visit_else_the_first_due_and_one_only(tasks, encounter, chosen):
    answered = {"id": "r"} if encounter is None else {"id": "r", "encounter": {"reference": f"Encounter/{encounter}"}}
    found = task_for(tasks, answered, PHQ9.canonicals)
    assert (None if found is None else found["id"]) == chosen


def test_a_schedule_that_expects_an_unknown_instrument_is_refused_at_start():
    shipped = load_policy()
    wrong = {"after_dosing": {"x": {"instrument": "none", "days": 1, "source": "s", "verified": False}}}
    with pytest.raises(PolicyError, match="none"):
        Setting.of(Policy("1", {**shipped.sections, "outcomes": wrong}))
