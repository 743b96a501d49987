"""The course: every change of its stage and status is legal, whatever happens to it in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.intake.rules.course import (
    RUNNING,
    STAGE_OF_VISIT,
    Ground,
    course_after,
    may_move,
    stage_after_visit,
    statuses_of,
)

ORDER = ("referred", "screening", "eligible", "consented", "planned")
ALL = (*ORDER, *RUNNING[1:], "finished", "stopped")
grounds = st.builds(Ground, eligible=st.booleans(), consented=st.booleans(), planned=st.booleans())
steps = st.lists(
    st.one_of(grounds, st.sampled_from(sorted(STAGE_OF_VISIT)), st.sampled_from(ALL).map(lambda one: ("hand", one))),
    max_size=12,
)


def is_legal(before, after):
    if before == after:
        return True
    if after == "stopped":
        return before not in ("finished", "stopped")
    if before in RUNNING:
        return after in (*RUNNING, "finished")
    return before in ORDER and after in ORDER and ORDER.index(after) > ORDER.index(before)


@given(steps)
def test_whatever_happens_every_change_of_stage_is_legal_and_its_status_fits(happened):
    stage, status, stages = "eligible", "planned", ["eligible"]
    for step in happened:
        before = stage
        if isinstance(step, Ground):
            stage, status = course_after(stage, status, step)
        elif isinstance(step, str):
            stage = stage_after_visit(stage, step)
        elif may_move(stage, step[1]):
            stage = step[1]
            allowed = statuses_of([*stages, stage], stage)
            status = status if status in allowed else min(allowed)
        stages.append(stage)
        assert is_legal(before, stage)
        assert status in statuses_of(stages, stage)


@given(st.sampled_from(ALL), st.sampled_from(ALL))
def test_by_hand_a_course_goes_on_between_its_visits_or_ends_and_nothing_else(before, after):
    assert may_move(before, after) <= is_legal(before, after)
    if before in ("finished", "stopped"):
        assert may_move(before, after) == (before == after)


def test_what_ends_before_its_first_dosing_session_is_cancelled():
    assert statuses_of(["eligible", "planned", "stopped"], "stopped") == {"cancelled"}
    assert statuses_of(["planned", "dosing", "stopped"], "stopped") == {"finished"}
