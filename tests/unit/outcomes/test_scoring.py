"""Scoring by configuration: every instrument by a worked example, at its bounds, with answers missing or odd."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.outcomes.rules.observations import score_observation
from services.outcomes.rules.scoring import answers_of, band_of, findings_of, instrument_of, is_positive, score
from services.outcomes.setting import Setting
from shared.fhir.codes import KAP, LOINC
from shared.fhir.validation import validate
from shared.runtime.ownership import INSTRUMENTS, OUTCOMES, PANELS, QUESTIONNAIRES, RISK_ITEMS
from shared.runtime.policy import FOLDER, Policy, PolicyError, load_policy

POLICY = load_policy()
SETTING = Setting.of(POLICY)
ALL = SETTING.instruments
PHQ9, GAD7 = ALL["phq-9"], ALL["gad-7"]
NAMES = sorted(ALL)
SCORED = [name for name in NAMES if any(True for _ in ALL[name].scores())]


def numbers(instrument, values, form="valueInteger"):
    """A response that gives these numbers to the instrument's items, in their order."""
    items = zip(instrument.items, values, strict=True)
    return {"item": [{"linkId": link, "answer": [{form: value}]} for link, value in items if value is not None]}


def coded(instrument, values):
    """The same by answer codes."""
    items = []
    for link, value in zip(instrument.items, values, strict=True):
        code = next(code for code, scored in instrument.answers_of(link).items() if scored == value)
        items.append({"linkId": link, "answer": [{"valueCoding": {"system": LOINC, "code": code}}]})
    return {"item": items}


def parts(scored):
    return {name: number.value for name, number in scored.numbers.items() if name}


# -- each instrument, worked by hand ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "total", "band"),
    [
        # 2+1+1+1+1+1+1+1+1 = 10: moderate begins at 10 (LL382-3)
        ("phq-9", (2, 1, 1, 1, 1, 1, 1, 1, 1), 10, "phq-9-moderate"),
        ("phq-9", (0,) * 9, 0, "phq-9-minimal"),
        ("phq-9", (1, 1, 1, 1, 0, 0, 0, 0, 0), 4, "phq-9-minimal"),
        ("phq-9", (1, 1, 1, 1, 1, 0, 0, 0, 0), 5, "phq-9-mild"),
        ("phq-9", (1,) * 9, 9, "phq-9-mild"),
        ("phq-9", (2, 2, 2, 2, 2, 2, 2, 0, 0), 14, "phq-9-moderate"),
        ("phq-9", (2, 2, 2, 2, 2, 2, 3, 0, 0), 15, "phq-9-moderately-severe"),
        ("phq-9", (3, 2, 2, 2, 2, 2, 2, 2, 2), 19, "phq-9-moderately-severe"),
        ("phq-9", (3, 3, 2, 2, 2, 2, 2, 2, 2), 20, "phq-9-severe"),
        ("phq-9", (3,) * 9, 27, "phq-9-severe"),
        ("phq-9m", (1, 1, 1, 1, 1, 1, 1, 1, 1), 9, "phq-9m-mild"),
        ("phq-9m", (2, 1, 1, 1, 1, 1, 1, 1, 1), 10, "phq-9m-moderate"),
        ("phq-9m", (3, 3, 2, 2, 2, 2, 2, 2, 2), 20, "phq-9m-severe"),
        ("phq-2", (2, 1), 3, None),
        ("gad-7", (0,) * 7, 0, "gad-7-minimal"),
        ("gad-7", (1, 1, 1, 1, 1, 0, 0), 5, "gad-7-mild"),
        ("gad-7", (2, 2, 2, 2, 2, 0, 0), 10, "gad-7-moderate"),
        ("gad-7", (3, 3, 3, 3, 3, 0, 0), 15, "gad-7-severe"),
        ("gad-7", (3,) * 7, 21, "gad-7-severe"),
        # items 1 to 20 all 2: 40
        ("pcl-5", (2,) * 20, 40, None),
        ("madrs", (0,) * 10, 0, "madrs-none"),
        ("madrs", (6, 1, 0, 0, 0, 0, 0, 0, 0, 0), 7, "madrs-mild"),
        ("madrs", (2,) * 10, 20, "madrs-moderate"),
        ("madrs", (6, 6, 6, 6, 6, 5, 0, 0, 0, 0), 35, "madrs-severe"),
        ("madrs", (6,) * 10, 60, "madrs-severe"),
        # sleep max(1,3,2,0)=3, sad 2, appetite and weight max(1,-,-,0)=1, 2, 1, 0, 2, 1, slow or restless max(1,2)=2
        # 3+2+1+2+1+0+2+1+2 = 14: moderate
        ("qids-sr16", (1, 3, 2, 0, 2, 1, None, None, 0, 2, 1, 0, 2, 1, 1, 2), 14, "qids-moderate"),
        ("qids-sr16", (0,) * 16, 0, "qids-none"),
        ("qids-sr16", (3,) * 16, 27, "qids-very-severe"),
        # sleep 3, sad 3: 6
        ("qids-sr16", (0, 0, 3, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 6, "qids-mild"),
        ("cadss", (4,) * 23, 92, None),
        # 1+0+2+3+0+4 = 10
        ("cadss-6", (1, 0, 2, 3, 0, 4), 10, None),
        # never drinks: the other two are not asked and count 0
        ("audit-c", (0, None, None), 0, None),
        ("audit-c", (2, 1, 1), 4, None),
        # 10 times no: only item 3 (turned round) counts, 1
        ("dast-10", (0,) * 10, 1, "dast-10-low"),
        ("dast-10", (0, 0, 1, 0, 0, 0, 0, 0, 0, 0), 0, "dast-10-none"),
        ("dast-10", (1, 1, 1, 1, 0, 0, 0, 0, 0, 0), 3, "dast-10-moderate"),
        ("dast-10", (1, 1, 0, 1, 1, 1, 0, 0, 0, 0), 6, "dast-10-substantial"),
        ("dast-10", (1, 1, 0, 1, 1, 1, 1, 1, 1, 0), 9, "dast-10-severe"),
        # (5 + (6-1) + 5 + (6-1) + 5 + (6-1)) / 6 = 5
        ("brs", (5, 1, 5, 1, 5, 1), 5, "brs-high"),
        # (3+3+3+3+3+3)/6 = 3: normal begins at 3
        ("brs", (3,) * 6, 3, "brs-normal"),
        # (2 + (6-3) + 3 + (6-3) + 3 + (6-3)) / 6 = 17/6 = 2.83
        ("brs", (2, 3, 3, 3, 3, 3), Decimal("2.83"), "brs-low"),
        ("meq-30", (3,) * 30, 3, None),
        ("mood", (7,), 7, None),
    ],
)
def test_a_total_and_its_severity_are_as_worked_by_hand(name, values, total, band):
    instrument = ALL[name]
    scored = score(numbers(instrument, values), instrument)
    assert scored.total == total
    found = band_of(scored.total, instrument.total)
    assert (None if found is None else found.code) == band


def test_pcl5_clusters_are_its_items_by_dsm5():
    # B 1-5: 1 each = 5, C 6-7: 2 each = 4, D 8-14: 3 each = 21, E 15-20: 4 each = 24; together 54
    values = (1,) * 5 + (2,) * 2 + (3,) * 7 + (4,) * 6
    scored = score(numbers(ALL["pcl-5"], values), ALL["pcl-5"])
    assert parts(scored) == {"b": 5, "c": 4, "d": 21, "e": 24}
    assert scored.total == 54


@pytest.mark.parametrize(
    ("values", "provisional"),
    [
        ((2, 0, 0, 0, 0, 2, 0, 2, 2, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0), True),
        ((1, 1, 1, 1, 1, 2, 0, 2, 2, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0), False),
        ((2, 0, 0, 0, 0, 1, 1, 2, 2, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0), False),
        ((2, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0), False),
        ((2, 0, 0, 0, 0, 2, 0, 2, 2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0), False),
        ((4,) * 19 + (None,), False),
    ],
)
def test_ptsd_is_provisional_by_one_one_two_two_items_of_two_or_more(values, provisional):
    scored = score(numbers(ALL["pcl-5"], values), ALL["pcl-5"])
    assert bool(findings_of(scored, ALL["pcl-5"])) is provisional


@pytest.mark.parametrize(("last", "complete"), [(3, True), (2, False)])
def test_a_complete_mystical_experience_has_sixty_percent_on_all_four_factors(last, complete):
    # every item 3 is a mean of 3 of 5, 60 %; one item of the three of ineffability at 2: (3+3+2)/3 = 2.67, below 3
    values = [3] * 30
    values[28] = last
    scored = score(numbers(ALL["meq-30"], values), ALL["meq-30"])
    assert parts(scored)["ineffability"] == (3 if complete else Decimal("2.67"))
    assert bool(findings_of(scored, ALL["meq-30"])) is complete


def test_promis_adds_four_items_each_and_recodes_pain():
    # 01..10; pain (07) of 6 counts 3. physical 03+06+07+08 = 3+4+3+2 = 12; mental 02+04+05+10 = 4+3+2+5 = 14
    values = (3, 4, 3, 3, 2, 4, 6, 2, 1, 5)
    scored = score(numbers(ALL["promis-global-10"], values), ALL["promis-global-10"])
    assert parts(scored) == {"physical": 12, "mental": 14}
    assert scored.total is None
    # Hays 2009: physical 12 is a T-score of 39.8, below 40; mental 14 one of 48.3
    assert {name: str(number.t_score) for name, number in scored.numbers.items()} == {
        "physical": "39.8",
        "mental": "48.3",
    }
    bands = [band_of(scored.numbers[name].t_score, ALL["promis-global-10"].parts[name]) for name in parts(scored)]
    assert [band.code for band in bands] == ["promis-poor", "promis-not-poor"]


def test_every_raw_score_of_promis_has_its_t_score_and_a_higher_one_a_higher():
    for part in ALL["promis-global-10"].parts.values():
        assert list(part.t_scores) == list(range(4, 21))
        assert list(part.t_scores.values()) == sorted(set(part.t_scores.values()))


def test_lec5_counts_kinds_of_events_by_the_nearest_exposure_of_each():
    # fire: happened, and witnessed: counts as happened. combat: part of the job. death: learned of. captivity: not sure
    lec = ALL["lec-5"]
    said = {"lec5-2": ("happened", "witnessed"), "lec5-10": ("job",), "lec5-14": ("learned",), "lec5-11": ("not-sure",)}
    items = [
        {
            "linkId": link,
            "answer": [
                {"valueCoding": {"system": KAP, "code": f"lec-5-{code}"}}
                for code in said.get(link, ("does-not-apply",))
            ],
        }
        for link in lec.items
    ]
    scored = score({"item": items}, lec)
    assert parts(scored) == {"happened": 1, "exposed": 3}
    assert scored.total is None
    assert scored.missing == ()
    without = score({"item": items[1:]}, lec)
    assert (without.missing, parts(without)) == (("lec5-1",), {"happened": None, "exposed": None})
    odd = [{**items[0], "answer": [*items[0]["answer"], {"valueString": "perhaps"}]}, *items[1:]]
    assert score({"item": odd}, lec).missing == ("lec5-1",)


@pytest.mark.parametrize(("pain", "counts"), [(0, 5), (1, 4), (3, 4), (4, 3), (6, 3), (7, 2), (9, 2), (10, 1)])
def test_pain_of_nought_to_ten_counts_five_to_one(pain, counts):
    values = (1, 1, 1, 1, 1, 1, pain, 1, 1, 1)
    assert parts(score(numbers(ALL["promis-global-10"], values), ALL["promis-global-10"]))["physical"] == 3 + counts


def test_a_t_score_is_read_from_the_table_that_the_clinic_entered():
    sections = copy.deepcopy(dict(POLICY.sections))
    entered = sections["instruments/promis-global-10"]["parts"]["physical"]
    entered.update(t_scores={12: 39.8}, bands=[{"up_to": 39.99, "code": "poor", "display": "Poor"},
                                               {"up_to": 80, "code": "fair", "display": "Fair"}])  # fmt: skip
    instrument = Setting.of(Policy("1", sections)).instruments["promis-global-10"]
    response = {**numbers(instrument, (3, 4, 3, 3, 2, 4, 6, 2, 1, 5)), "id": "r", "subject": {"reference": "Patient/a"}}
    made = score_observation(response, "promis-global-10", instrument, score(response, instrument), "1")
    raw, t_score, mental, _ = made["component"]
    assert raw["valueQuantity"]["value"] == 12
    assert raw["interpretation"][0]["coding"][0]["code"] == "poor"
    assert t_score["valueQuantity"]["value"] == Decimal("39.8")
    assert "T-score" in t_score["code"]["coding"][0]["display"]
    assert mental["valueQuantity"]["value"] == 14


@pytest.mark.parametrize(
    ("name", "total", "gender", "positive"),
    [
        ("audit-c", 3, "female", True),
        ("audit-c", 2, "female", False),
        ("audit-c", 3, "male", False),
        ("audit-c", 4, "male", True),
        ("audit-c", 3, "other", True),
        ("audit-c", 3, None, True),
        ("phq-2", 3, None, True),
        ("phq-2", 2, None, False),
        ("pcl-5", 31, None, True),
        ("pcl-5", 30, None, False),
        ("dast-10", 3, None, True),
        ("dast-10", 2, None, False),
        ("cadss", 5, None, True),
        ("cadss", 4, None, False),
    ],
)
def test_a_screening_is_positive_from_its_cut_on_and_from_the_lower_where_the_gender_is_not_known(
    name, total, gender, positive
):
    assert is_positive(Decimal(total), ALL[name].cut, gender) is positive


# -- missing, odd -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["valueInteger", "valueDecimal"])
def test_numbers_are_understood_as_answers(form):
    assert score(numbers(PHQ9, (1,) * 9, form), PHQ9).total == 9


def test_answers_by_code_and_by_number_score_alike():
    values = (0, 1, 2, 3, 3, 2, 1, 0, 0)
    assert score(coded(PHQ9, values), PHQ9) == score(numbers(PHQ9, values), PHQ9)


def test_yes_and_no_are_understood_where_the_answers_are_yes_and_no():
    assert score(numbers(ALL["dast-10"], (True,) * 10, "valueBoolean"), ALL["dast-10"]).total == 9
    assert score(numbers(PHQ9, (True,) * 9, "valueBoolean"), PHQ9).missing == PHQ9.items


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
    given_ = numbers(PHQ9, (1,) * 9)
    given_["item"][2]["answer"] = [answer]
    scored = score(given_, PHQ9)
    assert (scored.total, scored.missing) == (None, (PHQ9.items[2],))
    assert answers_of(given_, PHQ9).given[PHQ9.items[2]] == (None,)


def test_an_item_answered_twice_is_not_answered():
    given_ = numbers(PHQ9, (1,) * 9)
    given_["item"][0]["answer"] *= 2
    assert score(given_, PHQ9).missing == (PHQ9.items[0],)


def test_without_any_item_everything_is_missing():
    assert score({}, PHQ9).missing == PHQ9.items


def test_the_functioning_item_is_not_scored_and_not_odd():
    given_ = numbers(PHQ9, (1,) * 9)
    given_["item"].append({"linkId": "69722-7", "answer": [{"valueCoding": {"system": LOINC, "code": "LA6574-3"}}]})
    assert score(given_, PHQ9).total == 9
    assert not answers_of(given_, PHQ9).unknown


def test_of_qids_appetite_and_weight_one_answer_suffices_and_none_does_not():
    qids = ALL["qids-sr16"]
    one = [0] * 16
    one[5] = one[8] = None
    assert score(numbers(qids, one), qids).missing == ()
    one[6] = None
    assert score(numbers(qids, one), qids).missing == ("qids-6", "qids-7")
    assert score(numbers(qids, one), qids).total is None


def test_a_part_is_known_where_its_own_items_are():
    values = (3,) * 5 + (None,) * 2 + (3,) * 13
    scored = score(numbers(ALL["pcl-5"], values), ALL["pcl-5"])
    assert (scored.total, parts(scored)["b"], parts(scored)["c"]) == (None, 15, None)


def test_missing_answers_are_averaged_where_the_instrument_allows_it():
    sections = copy.deepcopy(dict(POLICY.sections))
    sections["instruments/gad-7"]["total"]["may_miss"] = 1
    gad = Setting.of(Policy("1", sections)).instruments["gad-7"]
    # six items of 2 are 12; over seven items 14
    averaged = score(numbers(gad, (2, 2, 2, 2, 2, 2, None)), gad)
    assert (averaged.total, averaged.numbers[""].averaged) == (14, True)
    assert score(numbers(gad, (2, 2, 2, 2, 2, None, None)), gad).total is None


def test_an_instrument_is_known_by_its_canonical_with_or_without_a_version():
    assert instrument_of({"questionnaire": f"{PHQ9.canonicals[0]}|1"}, ALL) == ("phq-9", PHQ9)
    assert instrument_of({"questionnaire": "http://loinc.org/q/69737-5"}, ALL) == ("gad-7", GAD7)
    assert instrument_of({"questionnaire": "http://other"}, ALL) is None
    assert instrument_of({}, ALL) is None


def test_an_item_that_was_answered_in_words_or_twice_is_not_made_up_for_by_its_alternative():
    qids = ALL["qids-sr16"]
    whole = numbers(qids, (1, 3, 2, 0, 2, 1, None, None, 0, 2, 1, 0, 2, 1, 1, 2))
    assert score(whole, qids).total == 14
    for odd in ([{"valueString": "a lot"}], [{"valueInteger": 0}, {"valueInteger": 3}]):
        scored = score({"item": [*whole["item"], {"linkId": "qids-7", "answer": odd}]}, qids)
        assert (scored.total, scored.missing) == (None, ("qids-7",))


def test_a_number_of_a_billion_digits_is_not_reckoned_out():
    answered = {"item": [{"linkId": PHQ9.items[8], "answer": [{"valueDecimal": Decimal("1E+999999999")}]}]}
    assert answers_of(answered, PHQ9).given == {PHQ9.items[8]: (None,)}


# -- every instrument -------------------------------------------------------------------------------------------------


@st.composite
def answered(draw, name):
    instrument = ALL[name]
    values = [draw(st.integers(instrument.lowest(item), instrument.highest(item))) for item in instrument.items]
    return instrument, values, draw(st.integers())


@pytest.mark.parametrize("name", SCORED)
@settings(max_examples=15)
@given(data=st.data())
def test_scores_stay_in_range_and_do_not_depend_on_order_or_depth(name, data):
    instrument, values, seed = data.draw(answered(name))
    plain = numbers(instrument, values)
    shuffled = list(plain["item"])
    Random(seed).shuffle(shuffled)
    half = len(shuffled) // 2
    nested = {
        "item": [
            {"linkId": "group", "item": shuffled[:half]},
            *({**one, "linkId": f"/group/{one['linkId']}"} for one in shuffled[half:]),
        ]
    }
    scored = score(plain, instrument)
    assert scored == score(nested, instrument)
    for part, form in instrument.scores():
        number = scored.numbers[part].value
        assert form.low <= number <= form.high
        assert not form.bands or band_of(number, form) is not None


@pytest.mark.parametrize("name", [name for name in SCORED if not ALL[name].alternatives and not ALL[name].needed_if])
@settings(max_examples=15)
@given(data=st.data())
def test_there_is_a_total_only_where_nothing_is_missing(name, data):
    instrument, values, seed = data.draw(answered(name))
    gone = Random(seed).randrange(len(values))
    values[gone] = None
    scored = score(numbers(instrument, values), instrument)
    assert scored.missing == (instrument.items[gone],)
    assert scored.total is None


@pytest.mark.parametrize("name", SCORED)
def test_what_a_score_says_is_valid_fhir(name):
    instrument = ALL[name]
    response = {
        **numbers(instrument, [instrument.highest(item) for item in instrument.items]),
        "id": "r",
        "subject": {"reference": "Patient/a"},
        "authored": "2026-11-22T09:00:00Z",
    }
    assert validate(score_observation(response, name, instrument, score(response, instrument), "1")) == []


def test_every_instrument_and_its_canonicals_are_outcomes_in_the_registry_and_no_other():
    assert set(INSTRUMENTS) == set(ALL)
    for instrument in ALL.values():
        assert {QUESTIONNAIRES[canonical] for canonical in instrument.canonicals} == {OUTCOMES}
    told = {canonical for canonical, owner in QUESTIONNAIRES.items() if owner == OUTCOMES}
    assert told == {canonical for instrument in ALL.values() for canonical in instrument.canonicals}
    assert {canonical.rpartition("/")[-1] for canonical in told if canonical.startswith(LOINC)} == set(PANELS)
    assert {item for one in ALL.values() if one.risk is not None for item in one.risk.items} == RISK_ITEMS


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_questionnaire_asks_the_instruments_items_with_its_answers(name):
    asked = json.loads((FOLDER / "questionnaires" / f"{name}.json").read_text(encoding="utf-8"))
    instrument = ALL[name]
    assert validate(asked) == []
    assert asked["url"] == instrument.canonicals[0]
    items = [one for one in asked["item"] if one["type"] != "display"]
    assert [one["linkId"] for one in items] == [*instrument.items, *instrument.also]
    for one in items:
        if one["linkId"] in instrument.also or one["type"] != "choice":
            continue
        codes = [option["valueCoding"]["code"] for option in one["answerOption"]]
        assert codes == list(instrument.answers_of(one["linkId"]))
        assert one.get("repeats", False) is instrument.several
        if not instrument.several:
            scores = [option["extension"][0]["valueDecimal"] for option in one["answerOption"]]
            assert scores == list(instrument.answers_of(one["linkId"]).values())
        assert {option["valueCoding"]["system"] for option in one["answerOption"]} <= {LOINC, KAP}


@pytest.mark.parametrize(
    ("section", "wrong", "says"),
    [
        ("instruments/phq-9", {"items": ["44250-9"]}, "not asked"),
        ("instruments/qids-sr16", {"risk": {"not_understood": "none"}}, "no level 'none'"),
        ("instruments/madrs", {"total": {"high": 61}}, "end below"),
        ("instruments/phq-9", {"risk": {"levels": [
            {"name": "positive", "signs": [], "task": "unknown", "priority": "stat", "within_hours": 0, "advice": "a"}
        ]}}, "no ladder"),
        ("outcomes", {"schedule": {"x": {"instrument": "none", "after": "dosing", "source": "s", "verified": False}}},
         "'none'"),
    ],
)  # fmt: skip
def test_a_policy_that_does_not_fit_together_is_refused_at_start(section, wrong, says):
    sections = copy.deepcopy(dict(POLICY.sections))
    for name, value in wrong.items():
        held = sections[section].get(name)
        sections[section][name] = {**held, **value} if isinstance(held, dict) else value
    with pytest.raises(PolicyError, match=says):
        Setting.of(Policy("1", sections))
