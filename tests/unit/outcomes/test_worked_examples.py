"""Each instrument by an example worked by hand: answers, item by item, then each number with its working, then what it
means. The working is reckoned by Python's own arithmetic; a new instrument without an example fails the first test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from services.outcomes.risks import risk_in
from services.outcomes.rules.scoring import band_of, findings_of, is_positive, score
from services.outcomes.setting import Setting
from shared.runtime.policy import load_policy

ALL = Setting.of(load_policy()).instruments
ROUNDED = Decimal("0.005")


@dataclass(frozen=True)
class Worked:
    """Answers in the order of the items, None where there is none; and by number ("" is the total) its working."""

    name: str
    answers: tuple[int | None, ...]
    working: dict[str, str] = field(default_factory=dict)
    severity: dict[str, str] = field(default_factory=dict)
    t_scores: dict[str, str] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    positive: bool | None = None
    level: str | None = None
    missing: tuple[int, ...] = ()

    def response(self):
        items = zip(ALL[self.name].items, self.answers, strict=True)
        said = [{"linkId": link, "answer": [{"valueInteger": value}]} for link, value in items if value is not None]
        return {"status": "completed", "item": said}


EXAMPLES = [
    Worked("phq-9", (3, 2, 2, 3, 1, 2, 1, 0, 1), {"": "3+2+2+3+1+2+1+0+1 = 15"},
           {"": "phq-9-moderately-severe"}, level="positive"),
    Worked("phq-9", (3, 2, 2, 3, 1, 2, 1, None, 0), missing=(8,)),
    Worked("phq-9m", (1, 2, 1, 2, 0, 1, 1, 0, 0), {"": "1+2+1+2+0+1+1+0+0 = 8"}, {"": "phq-9m-mild"}),
    Worked("phq-9m", (1, 2, 1, 2, 0, 1, 1, None, 0), missing=(8,)),
    Worked("phq-2", (2, 1), {"": "2+1 = 3"}, positive=True),
    Worked("phq-2", (2, 0), {"": "2+0 = 2"}, positive=False),
    Worked("phq-2", (2, None), missing=(2,)),
    Worked("gad-7", (2, 2, 3, 1, 1, 2, 1), {"": "2+2+3+1+1+2+1 = 12"}, {"": "gad-7-moderate"}),
    Worked("gad-7", (2, 2, None, 1, 1, 2, 1), missing=(3,)),
    # B 1-5, C 6-7, D 8-14, E 15-20; of 2 or more: B 5 of 1, C 2 of 1, D 6 of 2, E 4 of 2
    Worked("pcl-5", (3, 2, 2, 3, 2, 3, 2, 2, 1, 3, 2, 2, 2, 2, 1, 0, 3, 2, 2, 3),
           {"b": "3+2+2+3+2 = 12", "c": "3+2 = 5", "d": "2+1+3+2+2+2+2 = 14", "e": "1+0+3+2+2+3 = 11",
            "": "12+5+14+11 = 42"},
           found=("pcl-5-provisional-ptsd",), positive=True),
    # above the cut by E alone: no item of C is 2, so the symptom rule is not met
    Worked("pcl-5", (3, 3, 1, 1, 1, 1, 1, 2, 2, 0, 0, 0, 0, 0, 4, 4, 4, 4, 0, 0),
           {"b": "3+3+1+1+1 = 9", "c": "1+1 = 2", "d": "2+2 = 4", "e": "4+4+4+4 = 16", "": "9+2+4+16 = 31"},
           positive=True),
    Worked("pcl-5", (3,) * 5 + (2, None) + (1,) * 13,
           {"b": "3*5 = 15", "d": "1*7 = 7", "e": "1*6 = 6"}, missing=(7,)),
    Worked("madrs", (4, 4, 3, 4, 2, 3, 3, 3, 3, 1), {"": "4+4+3+4+2+3+3+3+3+1 = 30"}, {"": "madrs-moderate"}),
    Worked("madrs", (4, 4, 3, 4, 2, 3, 3, 3, None, 1), missing=(9,)),
    # sleep 1-4, sad 5, appetite and weight 6-9, 10 to 14, slow or restless 15-16
    Worked("qids-sr16", (2, 1, 3, 0, 2, None, 2, 1, None, 1, 2, 0, 2, 1, 1, 2),
           {"": "max(2,1,3,0) + 2 + max(2,1) + 1+2+0+2+1 + max(1,2) = 15"}, {"": "qids-moderate"}),
    Worked("qids-sr16", (2, 1, 3, 0, 2, None, None, 1, None, 1, 2, 0, 2, 1, 1, 2), missing=(6, 7)),
    Worked("cadss", (1, 2, 0, 0, 1, 3, 2, 0, 0, 1, 0, 0, 2, 0, 1, 0, 0, 1, 0, 0, 0, 3, 1),
           {"": "1+2+1+3+2+1+2+1+1+3+1 = 18"}, positive=True),
    Worked("cadss", (1, 2, 0, 0, None, 3, 2, 0, 0, 1, 0, 0, 2, 0, 1, 0, 0, 1, 0, 0, 0, 3, 1), missing=(5,)),
    # items 1, 2, 6, 7, 15, 22 of the one above
    Worked("cadss-6", (1, 2, 3, 2, 1, 3), {"": "1+2+3+2+1+3 = 12"}),
    Worked("cadss-6", (1, 2, None, 2, 1, 3), missing=(3,)),
    # mystical 4, 5, 6, 9, 14, 15, 16, 18, 20, 21, 23, 24, 25, 26, 28: 14 times 4 and once (28) 1
    # mood 2, 8, 12, 17, 27, 30: 3 each, 30 is 5; time and space 1, 7, 11, 13, 19, 22: 2 each; ineffable 3, 10: 4, 29: 3
    Worked("meq-30", (2, 3, 4, 4, 4, 4, 2, 3, 4, 4, 2, 3, 2, 4, 4, 4, 3, 4, 2, 4, 4, 2, 4, 4, 4, 4, 3, 1, 3, 5),
           {"mystical": "(14*4 + 1) / 15 = 3.80", "positive-mood": "(5*3 + 5) / 6 = 3.33",
            "time-space": "6*2 / 6 = 2.00", "ineffability": "(4 + 4 + 3) / 3 = 3.67",
            "": "(57 + 20 + 12 + 11) / 30 = 3.33"}),
    # as before, and time and space 3 each: all four reach 3 of 5
    Worked("meq-30", (3, 3, 4, 4, 4, 4, 3, 3, 4, 4, 3, 3, 3, 4, 4, 4, 3, 4, 3, 4, 4, 3, 4, 4, 4, 4, 3, 1, 3, 5),
           {"mystical": "(14*4 + 1) / 15 = 3.80", "positive-mood": "(5*3 + 5) / 6 = 3.33",
            "time-space": "6*3 / 6 = 3.00", "ineffability": "(4 + 4 + 3) / 3 = 3.67",
            "": "(57 + 20 + 18 + 11) / 30 = 3.53"},
           found=("meq-30-complete",)),
    Worked("meq-30", (3,) * 28 + (None, 3), {"mystical": "15*3 / 15 = 3", "positive-mood": "6*3 / 6 = 3",
                                             "time-space": "6*3 / 6 = 3"}, missing=(29,)),
    Worked("audit-c", (3, 2, 2), {"": "3+2+2 = 7"}, positive=True),
    Worked("audit-c", (0, None, None), {"": "0 = 0"}, positive=False),
    Worked("audit-c", (1, None, 0), missing=(2,)),
    # item 3 is turned round: yes counts 0, no counts 1
    Worked("dast-10", (1, 0, 1, 1, 0, 1, 0, 0, 0, 0), {"": "1+0+(1-1)+1+0+1+0+0+0+0 = 3"},
           {"": "dast-10-moderate"}, positive=True),
    Worked("dast-10", (1, 0, 0, 0, 0, 0, 0, 0, 0, 0), {"": "1+0+(1-0)+0+0+0+0+0+0+0 = 2"},
           {"": "dast-10-low"}, positive=False),
    Worked("dast-10", (1, 0, None, 1, 0, 1, 0, 0, 0, 0), missing=(3,)),
    # items 2, 4 and 6 are turned round: 1 to 5 becomes 6 less the answer
    Worked("brs", (4, 2, 3, 2, 5, 1), {"": "(4 + (6-2) + 3 + (6-2) + 5 + (6-1)) / 6 = 4.17"}, {"": "brs-normal"}),
    Worked("brs", (4, 2, 3, None, 5, 1), missing=(4,)),
    # physical 3, 6, 7 (pain 6 of 10 counts 3), 8; mental 2, 4, 5, 10; T-scores from Hays' tables of raw scores
    Worked("promis-global-10", (3, 4, 3, 3, 2, 4, 6, 2, 1, 5),
           {"physical": "3+4+3+2 = 12", "mental": "4+3+2+5 = 14"},
           {"physical": "promis-poor", "mental": "promis-not-poor"}, {"physical": "39.8", "mental": "48.3"}),
    Worked("promis-global-10", (3, 4, 3, 3, 2, 4, None, 2, 1, 5), {"mental": "4+3+2+5 = 14"},
           {"mental": "promis-not-poor"}, {"mental": "48.3"}, missing=(7,)),
    # 2: it happened; 1: seen, heard of, part of the work; two happened, three more were met in another way
    Worked("lec-5", (0, 2, 1, 0, 0, 2, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0), {"happened": "1+1 = 2", "exposed": "2+3 = 5"}),
    Worked("lec-5", (None, 2, 1, 0, 0, 2, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0), missing=(1,)),
    Worked("mood", (7,), {"": "7 = 7"}),
    Worked("mood", (None,), missing=(1,)),
    # 1 wish 2 thoughts 3 method 4 intent 5 plan 6 behaviour 7 in the last three months
    Worked("c-ssrs-screener", (1, 1, 1, 0, 0, 0, None), level="moderate"),
    Worked("c-ssrs-screener", (1, 1, 1, 1, 0, 0, None), level="high"),
    Worked("c-ssrs-screener", (1, 0, None, None, None, 0, None), level="low"),
    Worked("c-ssrs-screener", (0, 0, None, None, None, 1, None), level="high", missing=(7,)),
    Worked("c-ssrs-screener", (0, 0, None, None, None, 1, 0), level="moderate"),
    Worked("c-ssrs-since-last-contact", (0, 1, 1, 0, 0, 0), level="moderate"),
    Worked("c-ssrs-since-last-contact", (0, 0, None, None, None, 1), level="high"),
    Worked("c-ssrs-since-last-contact", (1, None, 0, 0, 0, 0), level="low", missing=(2,)),
    # past month 1-5, lifetime 1-5, then attempt, interrupted, aborted, preparatory, each with its last three months
    Worked("c-ssrs-full", (1, 0, None, None, None, 1, 1, 1, 0, 0, 0, None, 0, None, 0, None, 0, None), level="low"),
    Worked("c-ssrs-full", (0, 0, None, None, None, 1, 1, 0, 1, 0, 1, 0, 0, None, 0, None, 0, None), level="moderate"),
    Worked("c-ssrs-full", (0, 0, None, None, None, 1, 1, 0, 1, 0, 1, None, 0, None, 0, None, 0, None),
           level="high", missing=(12,)),
]  # fmt: skip


def test_every_instrument_has_an_example_of_each_of_its_numbers_and_one_with_an_answer_missing():
    assert {one.name for one in EXAMPLES} == set(ALL)
    for name, instrument in ALL.items():
        ours = [one for one in EXAMPLES if one.name == name]
        assert {part for one in ours for part in one.working} == {part for part, _ in instrument.scores()}, name
        assert any(one.missing for one in ours), name
        assert (instrument.cut is None) == all(one.positive is None for one in ours), name
        assert {code for one in ours for code in one.found} == {one.code for one in instrument.findings}, name
        for part, form in instrument.scores():
            assert not form.bands or any(part in one.severity for one in ours), (name, part)


def test_every_item_that_counts_otherwise_than_it_is_answered_does_so_in_an_example():
    for name, instrument in ALL.items():
        turned = {*instrument.reversed, *instrument.recode}
        shown = set()
        for one in EXAMPLES:
            if one.name == name:
                scored = score(one.response(), instrument).scores
                shown |= {
                    link
                    for link, given in zip(instrument.items, one.answers, strict=True)
                    if given is not None and scored[link] != given
                }
        assert shown == turned, name


@pytest.mark.parametrize("one", EXAMPLES, ids=[f"{number} {one.name}" for number, one in enumerate(EXAMPLES)])
def test_an_instrument_says_what_was_worked_by_hand(one):
    instrument = ALL[one.name]
    scored = score(one.response(), instrument)

    assert {part: number.value for part, number in scored.numbers.items() if number.value is not None} == {
        part: Decimal(working.rpartition("=")[2].strip()) for part, working in one.working.items()
    }
    for working in one.working.values():
        shown, _, result = working.rpartition("=")
        assert abs(Decimal(eval(shown, {"max": max})) - Decimal(result.strip())) <= ROUNDED, working
    assert scored.missing == tuple(instrument.items[number - 1] for number in one.missing)
    severities = {}
    for part, form in instrument.scores():
        number = scored.numbers[part]
        value = number.value if number.t_score is None else number.t_score
        if form.bands and value is not None:
            severities[part] = band_of(value, form).code
    assert severities == one.severity
    assert {part: str(n.t_score) for part, n in scored.numbers.items() if n.t_score is not None} == one.t_scores
    assert tuple(code for code, _ in findings_of(scored, instrument)) == one.found
    if one.positive is not None:
        assert is_positive(scored.total, instrument.cut, "female") is one.positive
    at_risk = risk_in(one.response(), instrument)
    assert (None if at_risk is None else at_risk.level.name) == one.level
