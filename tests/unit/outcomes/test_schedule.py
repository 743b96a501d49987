"""What is expected when: burden, fulfilment, overdue, reminders, completion, and the checks of long-term use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.outcomes.rules.schedule import (
    MISSED,
    OVERDUE,
    Watch,
    completion,
    due_watches,
    is_burden,
    reminders_due,
    standing_of,
    task_for,
)
from services.outcomes.setting import Setting
from shared.fhir.dates import zulu
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
PHQ9, GAD7 = SETTING.instruments["phq-9"], SETTING.instruments["gad-7"]
REMINDING = SETTING.policy.reminders
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
WEEK = timedelta(days=7)


def expecting(
    number="a", *, status="requested", visit="v1", days=14, canonical=PHQ9.canonicals[0], done_by=None, **more
):
    made = {
        "id": number,
        "status": status,
        "encounter": {"reference": f"Encounter/{visit}"},
        "input": [{"valueCanonical": canonical}],
        "authoredOn": zulu(NOW - timedelta(days=30)),
        "restriction": {"period": {"end": zulu(NOW + timedelta(days=days))}},
        **more,
    }
    return made if done_by is None else {**made, "output": [{"valueReference": {"reference": done_by}}]}


def missed(number="a", **more):
    return expecting(number, status="failed", businessStatus=MISSED.concept(), **more)


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
        ([missed("a", days=-20)], None, "a"),
        ([expecting("a", status="failed")], None, None),
        ([expecting("a", status="cancelled")], None, None),
    ],
)
def test_answers_fulfil_the_task_of_their_visit_else_the_first_due_and_one_only(tasks, encounter, chosen):
    answered = {"id": "r"} if encounter is None else {"id": "r", "encounter": {"reference": f"Encounter/{encounter}"}}
    found = task_for(tasks, answered, PHQ9.canonicals)
    assert (None if found is None else found["id"]) == chosen


def answered(days, canonical=PHQ9.canonicals[0], status="completed"):
    return {"status": status, "questionnaire": f"{canonical}|1", "authored": zulu(NOW + timedelta(days=days))}


@pytest.mark.parametrize(
    ("responses", "tasks", "burden"),
    [
        ([], [], False),
        ([answered(-6)], [], True),
        ([answered(-7)], [], False),
        ([answered(-3, GAD7.canonicals[0])], [], False),
        ([answered(-3, status="in-progress")], [], False),
        ([answered(-3, "http://loinc.org/q/44249-1")], [], True),
        ([], [expecting(days=6)], True),
        ([], [expecting(days=7)], False),
        ([], [expecting(days=-6)], True),
        ([], [expecting(days=2, status="cancelled")], False),
        ([], [missed(days=-2)], False),
        ([], [expecting(days=2, canonical=GAD7.canonicals[0])], False),
    ],
)
def test_a_phq9_is_never_asked_twice_within_seven_days(responses, tasks, burden):
    assert PHQ9.within_days == 7
    assert is_burden(NOW, WEEK, PHQ9, responses, tasks) is burden


@settings(max_examples=40)
@given(st.lists(st.integers(0, 60), max_size=12))
def test_however_dense_the_visits_no_two_phq9_are_due_within_seven_days(days):
    asked = []
    for day in days:
        due = NOW + timedelta(days=day)
        if not is_burden(due, WEEK, PHQ9, [], asked):
            asked.append(expecting(days=day))
    kept = sorted(one["restriction"]["period"]["end"] for one in asked)
    ends = [datetime.fromisoformat(one) for one in kept]
    assert all(later - earlier >= WEEK for earlier, later in pairwise(ends))


@pytest.mark.parametrize(
    ("late", "standing"),
    [
        (timedelta(0), None),
        (timedelta(minutes=1), OVERDUE),
        (timedelta(days=7), OVERDUE),
        (timedelta(days=7, minutes=1), MISSED),
    ],
)
def test_what_is_late_is_overdue_and_after_its_time_missed(late, standing):
    one = expecting()
    one["restriction"]["period"]["end"] = zulu(NOW - late)
    assert standing_of(one, NOW, REMINDING) == standing


def test_what_has_no_due_time_is_never_overdue():
    assert standing_of({"status": "requested"}, NOW, REMINDING) is None


@pytest.mark.parametrize(
    ("hours_late", "made_hours_ago", "reminders"),
    [(0.9, 500, []), (1, 500, [1]), (47, 500, [1]), (48, 500, [1, 48]), (48, 20, [48]), (60, 1, [])],
)
def test_a_patient_is_reminded_at_its_hours_and_not_of_what_was_charted_after_the_fact(
    hours_late, made_hours_ago, reminders
):
    one = expecting(authoredOn=zulu(NOW - timedelta(hours=made_hours_ago)))
    one["restriction"]["period"]["end"] = zulu(NOW - timedelta(hours=hours_late))
    assert reminders_due(one, NOW, REMINDING) == reminders


def test_completion_counts_what_was_answered_of_what_was_due():
    overdue = expecting(businessStatus=OVERDUE.concept())
    done = {"status": "completed", "done_by": "QuestionnaireResponse/r"}
    late = expecting(**done, businessStatus=OVERDUE.concept())
    tasks = [expecting(**done), late, overdue, missed(), expecting(), expecting(status="cancelled")]
    assert completion(tasks) == (2, 4)
    assert completion([*tasks, expecting(status="completed")]) == (2, 5), "ticked off without answers"
    assert completion([]) == (0, 0)


def weeks(count, every=7):
    return [NOW - timedelta(days=every * number) for number in range(count, 0, -1)]


@pytest.mark.parametrize(
    ("sessions", "checked", "due"),
    [
        ([], {}, set()),
        (weeks(2), {}, set()),
        (weeks(3), {}, {"craving"}),
        (weeks(6), {}, {"craving", "bladder", "cognition"}),
        (weeks(6), {"bladder": NOW - timedelta(days=1)}, {"craving", "cognition"}),
        (weeks(6), {name: NOW - timedelta(days=1) for name in ("bladder", "cognition", "craving")}, set()),
        (weeks(12), dict.fromkeys(("bladder", "cognition", "craving"), NOW), set()),
        (weeks(13), dict.fromkeys(("bladder", "cognition", "craving"), NOW), {"number-of-sessions"}),
        ([NOW - timedelta(hours=60), NOW - timedelta(hours=12)], {}, set()),
        ([NOW - timedelta(hours=59), NOW - timedelta(hours=12)], {}, {"spacing-of-sessions"}),
        # thirteen, a month apart: not within six months
        (weeks(13, every=30), dict.fromkeys(("bladder", "cognition", "craving"), NOW), set()),
    ],
)
def test_the_checks_of_long_term_use_are_due_as_sessions_add_up(sessions, checked, due):
    assert set(due_watches(SETTING.policy.surveillance, sessions, checked, NOW)) == due


def test_a_check_may_be_due_by_days_and_by_sessions_too_close_to_each_other():
    base = {"title": "t", "task": "t", "advice": "a", "within_hours": 1, "source": "s", "verified": False}
    yearly, close = Watch(**base, every_days=365), Watch(**base, closer_than_hours=48)
    assert due_watches({"x": yearly}, [NOW - timedelta(days=364)], {}, NOW) == {}
    assert due_watches({"x": yearly}, [NOW - timedelta(days=365)], {}, NOW) == {"x": "365 days since the last check"}
    two = [NOW - timedelta(hours=60), NOW - timedelta(hours=12)]
    assert due_watches({"x": close}, two, {}, NOW) == {}
    assert due_watches({"x": close}, [*two, NOW], {}, NOW) == {"x": "sessions less than 48 h apart"}
