"""What answers say about suicide: every rule positive, negative, at its bound, not known; and nothing odd is a no."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.outcomes.risks import risk_in
from services.outcomes.rules.risk import is_graver, is_settled
from services.outcomes.setting import Setting
from shared.fhir.codes import LOINC
from shared.runtime.policy import load_policy

ALL = Setting.of(load_policy()).instruments
CSSRS, PHQ9 = ALL["c-ssrs-screener"], ALL["phq-9"]
ITEM9 = "44260-8"
NAMES = {
    "1": "93246-7",
    "2": "93247-5",
    "3": "93248-3",
    "4": "93249-1",
    "5": "93250-9",
    "6": "93267-3",
    "6b": "93269-9",
}
YES = {"valueCoding": {"system": LOINC, "code": "LA33-6"}}
NO = {"valueCoding": {"system": LOINC, "code": "LA32-8"}}


def response(items, status="completed"):
    return {"status": status, "item": [{"linkId": link, "answer": answers} for link, answers in items.items()]}


def cssrs(*positive, negative=(), status="completed", **other):
    answers = {NAMES[one]: [YES] for one in positive} | {NAMES[one]: [NO] for one in negative}
    return response(answers | {NAMES[one.removeprefix("q")]: [answer] for one, answer in other.items()}, status)


@pytest.mark.parametrize(
    ("answers", "level"),
    [
        (cssrs(negative=NAMES), None),
        (cssrs("1", negative=("2", "6")), "low"),
        (cssrs("2", negative=("1", "3", "4", "5", "6")), "low"),
        (cssrs("1", "2", negative=("3", "4", "5", "6")), "low"),
        (cssrs("1", "2", "3", negative=("4", "5", "6")), "moderate"),
        (cssrs("1", "2", "3", "4", negative=("5", "6")), "high"),
        (cssrs("1", "2", "5", negative=("3", "4", "6")), "high"),
        (cssrs("6", "6b", negative=("1", "2")), "high"),
        (cssrs("6", negative=("1", "2", "6b")), "moderate"),
        # behaviour, and whether it was in the last three months is not known: not a no
        (cssrs("6", negative=("1", "2")), "high"),
        (cssrs("6", negative=("1", "2"), q6b={"valueString": "?"}), "high"),
        # nothing answered is not known, and nobody is at risk by it: what is missing is asked for
        (response({}), None),
        # partial answers count at once
        (cssrs("4", status="in-progress"), "high"),
        (cssrs("3", status="stopped"), "moderate"),
        (cssrs("4", status="entered-in-error"), None),
    ],
)
def test_each_level_of_the_screener_has_its_signs(answers, level):
    found = risk_in(answers, CSSRS)
    assert (None if found is None else found.level.name) == level


@pytest.mark.parametrize(
    ("positive", "level"),
    [((), None), ((1,), "low"), ((2,), "low"), ((2, 3), "moderate"), ((2, 4), "high"), ((5,), "high"), ((6,), "high")],
)
def test_each_level_of_the_screener_since_last_contact_has_its_signs(positive, level):
    items = {f"cssrs-slc-{number}": [YES if number in positive else NO] for number in range(1, 7)}
    found = risk_in(response(items), ALL["c-ssrs-since-last-contact"])
    assert (None if found is None else found.level.name) == level
    assert (
        risk_in(response({**items, "cssrs-slc-6": [{"valueString": "?"}]}), ALL["c-ssrs-since-last-contact"])
        is not None
    )


@pytest.mark.parametrize(
    ("positive", "level"),
    [
        ((), None),
        (("month-1",), "low"),
        (("life-3", "life-2"), "low"),
        (("month-2", "month-3"), "moderate"),
        (("life-2", "life-4"), "moderate"),
        (("attempt",), "moderate"),
        (("preparatory",), "moderate"),
        (("month-2", "month-4"), "high"),
        (("month-5",), "high"),
        *(((one, f"{one}-recent"), "high") for one in ("attempt", "interrupted", "aborted", "preparatory")),
    ],
)
def test_each_level_of_the_full_version_has_its_signs(positive, level):
    full = ALL["c-ssrs-full"]
    items = {one: [YES if one.removeprefix("cssrs-full-") in positive else NO] for one in full.items}
    found = risk_in(response(items), full)
    assert (None if found is None else found.level.name) == level
    for odd in ("cssrs-full-month-1", "cssrs-full-attempt"):
        assert risk_in(response({**items, odd: [{"valueString": "?"}]}), full).level.name == "high"


def test_behaviour_of_which_it_is_not_known_when_it_was_is_high_and_intensity_alone_is_no_sign():
    full = ALL["c-ssrs-full"]
    items = {one: [NO] for one in full.items if one != "cssrs-full-attempt-recent"}
    assert risk_in(response({**items, "cssrs-full-attempt": [YES]}), full).level.name == "high"
    asked = {"cssrs-full-frequency": [{"valueInteger": 5}], "cssrs-full-lethality": [{"valueInteger": 0}]}
    assert risk_in(response({one: [NO] for one in full.items} | asked), full) is None


ODD = [
    {"valueString": "Nearly every day"},
    {"valueString": ""},
    {"valueInteger": 4},
    {"valueInteger": -1},
    {"valueDecimal": Decimal("0.5")},
    {"valueBoolean": True},
    {"valueCoding": {"system": "urn:clinic", "code": "3"}},
    {"valueCoding": {"system": LOINC, "code": "LA33-6"}},
    {"valueCoding": {"display": "Several days"}},
    {"valueDate": "2026-11-22"},
    {},
]


@pytest.mark.parametrize("answer", ODD)
@pytest.mark.parametrize("status", ["completed", "in-progress", "amended"])
def test_an_answer_to_item_9_that_is_not_understood_calls_for_a_person(answer, status):
    found = risk_in(response({ITEM9: [answer]}, status), PHQ9)
    assert found.not_understood == (ITEM9,)
    assert (found.level.task, found.level.priority) == ("run-c-ssrs", "stat")


@pytest.mark.parametrize(
    ("answer", "positive"),
    [
        ({"valueInteger": 0}, False),
        ({"valueInteger": 1}, True),
        ({"valueInteger": 3}, True),
        ({"valueDecimal": Decimal("1.0")}, True),
        ({"valueDecimal": Decimal(0)}, False),
        ({"valueCoding": {"system": LOINC, "code": "LA6568-5"}}, False),
        ({"valueCoding": {"system": LOINC, "code": "LA6569-3"}}, True),
        ({"valueCoding": {"code": "LA6571-9"}}, True),
    ],
)
def test_item_9_is_positive_from_one_on(answer, positive):
    assert (risk_in(response({ITEM9: [answer]}), PHQ9) is not None) is positive


def test_an_item_in_a_group_under_an_answer_or_with_a_path_for_a_link_is_found():
    item = {"linkId": f"/mood/{ITEM9}", "answer": [{"valueInteger": 2}]}
    assert risk_in({"status": "completed", "item": [{"linkId": "g", "item": [{"linkId": "h", "item": [item]}]}]}, PHQ9)
    assert risk_in(
        {"status": "completed", "item": [{"linkId": "q", "answer": [{"valueInteger": 1, "item": [item]}]}]}, PHQ9
    )


def test_of_two_answers_the_graver_counts():
    assert risk_in(response({ITEM9: [{"valueInteger": 0}, {"valueInteger": 2}]}), PHQ9) is not None
    assert risk_in(response({NAMES["4"]: [NO, YES]}), CSSRS).level.name == "high"


def test_where_item_9_is_missing_beside_items_of_another_name_it_may_be_among_them():
    odd = response({**{link: [{"valueInteger": 0}] for link in PHQ9.items[:8]}, "question-nine": [{"valueInteger": 3}]})
    assert risk_in(odd, PHQ9).not_understood == (ITEM9,)
    assert risk_in({**odd, "status": "in-progress"}, PHQ9) is None


def test_every_level_says_in_words_what_is_to_be_done():
    levels = [level for one in ALL.values() if one.risk is not None for level in one.risk.levels]
    assert [level.name for level in levels if not level.title or not level.advice] == []


def test_an_item_9_without_an_answer_is_missing_and_nothing_more():
    assert risk_in(response({link: [{"valueInteger": 0}] for link in PHQ9.items[:8]}), PHQ9) is None


@pytest.mark.parametrize(
    ("name", "item", "low"), [("phq-9m", "phq9m-9", 1), ("qids-sr16", "qids-12", 1), ("madrs", "madrs-10", 2)]
)
def test_the_items_about_suicide_of_other_instruments_call_for_a_person_too(name, item, low):
    assert risk_in(response({item: [{"valueInteger": low}]}), ALL[name]) is not None
    assert risk_in(response({item: [{"valueInteger": low - 1}]}), ALL[name]) is None


@pytest.mark.parametrize("name", ["gad-7", "pcl-5", "mood", "audit-c"])
def test_an_instrument_without_such_an_item_calls_for_nobody(name):
    instrument = ALL[name]
    assert risk_in(response({link: [{"valueString": "?"}] for link in instrument.items}), instrument) is None


def test_another_answer_that_is_no_less_grave_opens_what_was_closed():
    def of(*yes):
        return risk_in(cssrs(*yes, negative=[name for name in NAMES if name not in yes]), CSSRS)

    assert is_graver(of("4"), None, CSSRS.risk)
    assert is_graver(of("4"), of("3"), CSSRS.risk)
    assert is_graver(of("4", "5"), of("4"), CSSRS.risk)
    assert not is_graver(of("4"), of("4"), CSSRS.risk)
    assert not is_graver(of("1"), of("4"), CSSRS.risk)


@pytest.mark.parametrize(
    ("answers", "missing", "settled"),
    [
        (("1",), (), True),
        (("1", "2"), ("4",), False),
        (("1", "2"), ("6",), False),
        # Question 1 or 2 could not make it graver than low
        (("2",), ("1",), True),
        (("3",), ("5",), False),
        (("3",), ("2",), True),
        (("4",), ("3", "5", "6"), True),
        ((), ("1",), False),
        ((), (), True),
    ],
)
def test_a_level_is_known_where_no_missing_answer_can_make_it_graver(answers, missing, settled):
    found = risk_in(cssrs(*answers), CSSRS)
    assert is_settled(found, [NAMES[one] for one in missing], CSSRS.risk) is settled


any_answer = st.sampled_from([YES, NO, *ODD, {"valueInteger": 0}, {"valueInteger": 1}])


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(list(NAMES.values())), st.lists(any_answer, min_size=1, max_size=2)), any_answer)
def test_no_further_answer_ever_makes_the_risk_smaller_than_a_plain_yes_to_question_4(others, more):
    others[NAMES["4"]] = [YES, more]
    assert risk_in(response(others), CSSRS).level.name == "high"
