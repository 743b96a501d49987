"""The generator of plausible KAP patients."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.demo.patients import STORIES, answers, generate


def test_the_same_seed_makes_the_same_patients() -> None:
    assert generate(7, 5) == generate(7, 5)


def test_another_seed_makes_other_patients() -> None:
    assert generate(1, 5) != generate(2, 5)


def test_a_patient_does_not_depend_on_how_many_there_are() -> None:
    assert generate(1, 9)[:3] == generate(1, 3)


def test_keys_name_each_patient_once_over_all_seeds() -> None:
    keys = [person.key for seed in (1, 11) for person in generate(seed, 20)]

    assert len(set(keys)) == len(keys)


def test_seven_patients_show_every_story() -> None:
    assert {person.story for person in generate(3, 7)} == set(STORIES)


@given(st.integers(min_value=0, max_value=10_000), st.integers(min_value=1, max_value=12))
def test_every_patient_is_plausible(seed: int, count: int) -> None:
    for person in generate(seed, count):
        assert 1957 <= person.birth_date.year <= 2004
        assert 140 <= person.height_cm <= 205
        assert 18 <= person.weight_kg / (person.height_cm / 100) ** 2 <= 33.5
        assert not set(person.failed) & set(person.current)
        assert len(person.phq9) == len(person.sessions) + 1
        for session in person.sessions:
            assert 20 <= session.dose_mg <= 300
            for reading in (session.baseline, *session.readings):
                assert reading.systolic > reading.diastolic > 40
                assert 90 <= reading.saturation <= 100


def test_only_the_first_session_past_the_gate_starts_above_180_over_110() -> None:
    person = next(person for person in generate(1, 5) if person.story == "im")

    pressures = [(session.baseline.systolic, session.baseline.diastolic) for session in person.sessions]

    assert pressures[0][0] >= 180
    assert pressures[0][1] >= 110
    assert all(systolic < 140 and diastolic < 90 for systolic, diastolic in pressures[1:])


def test_each_story_has_the_route_and_the_trouble_it_is_told_for() -> None:
    by_story = {person.story: person for person in generate(4, 7)}

    assert by_story["iv"].sessions[0].held[0].systolic >= 160
    assert by_story["iv"].sessions[0].late in {reading.minute for reading in by_story["iv"].sessions[0].readings}
    assert [session.nauseous for session in by_story["im"].sessions] == [False, True]
    assert by_story["home"].phq9[0][8] == 1
    assert all(sum(session.devices) == session.dose_mg for session in by_story["esketamine"].sessions)
    assert by_story["esketamine"].drug == by_story["aneurysm"].drug == "esketamine"
    assert by_story["pregnancy"].gender == "female"


def test_who_responds_falls_by_half_and_who_is_slow_does_not() -> None:
    by_story = {person.story: person for person in generate(1, 7)}

    def share(story: str) -> float:
        totals = [sum(given_answers) for given_answers in by_story[story].phq9]  # type: ignore[index]
        return totals[-1] / totals[0]

    assert share("iv") <= 0.5
    assert share("esketamine") > 0.75


@given(st.integers(min_value=0, max_value=27), st.integers())
def test_phq9_answers_add_up_to_the_total(total: int, seed: int) -> None:
    given_answers = answers(total, Random(seed))

    assert sum(given_answers) == total
    assert len(given_answers) == 9
    assert all(0 <= answer <= 3 for answer in given_answers)


def test_the_suicide_item_is_the_last_to_rise() -> None:
    assert answers(24, Random(1))[8] == 0
    assert answers(25, Random(1))[8] == 1


@pytest.mark.parametrize("total", [-1, 28])
def test_a_total_outside_the_scale_is_an_error(total: int) -> None:
    with pytest.raises(ValueError, match="0 to 27"):
        answers(total, Random(1))
