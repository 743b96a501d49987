"""Which run of the demo goes on, and which begins."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from cli.demo.journal import Journal

TODAY = date(2026, 11, 22)
TOMORROW = date(2026, 11, 23)


def test_the_first_run_has_seed_1_and_a_patient_of_each_story(tmp_path: Path) -> None:
    run, again = Journal(tmp_path).begin(None, None, TODAY)

    assert (run.seed, run.patients, run.day, again) == (1, 7, TODAY, False)


def test_a_run_that_was_cut_off_goes_on_as_of_its_day(tmp_path: Path) -> None:
    first, _ = Journal(tmp_path).begin(3, None, TODAY)

    run, again = Journal(tmp_path).begin(None, None, TOMORROW)

    assert again
    assert run == first


def test_a_finished_run_is_followed_by_new_patients(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first, _ = journal.begin(3, None, TODAY)
    journal.finish(first)

    run, again = journal.begin(3, None, TODAY)

    assert (run.seed, again) == (2, False)


def test_another_number_of_patients_begins_a_run_of_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin(3, None, TODAY)

    run, again = journal.begin(4, None, TODAY)

    assert (run.seed, run.patients, again) == (2, 4, False)


def test_a_seed_names_a_run_and_keeps_its_day(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first, _ = journal.begin(2, 7, TODAY)
    journal.finish(first)

    run, again = journal.begin(6, 7, TOMORROW)

    assert (run.seed, run.patients, run.day, again) == (7, 6, TODAY, True)
    assert [one.seed for one in journal.runs()] == [7]


def test_a_broken_file_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{")

    assert Journal(tmp_path).begin(None, None, TODAY)[0].seed == 1
