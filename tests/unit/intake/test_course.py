"""The course: every change of its stage and status is legal, whatever happens to it in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.rules.course import (
    BEFORE_PLAN,
    ENDED,
    FOLLOWS,
    RUNNING,
    STAGE_OF_VISIT,
    Ground,
    course_after,
    may_move,
    stage_after_visit,
    statuses_of,
)
from shared.fhir.kap import STAGES, UNDECIDED

outcomes = st.sampled_from(["eligible", "not-eligible", "needs-answers", "needs-decision", None])
grounds = st.builds(
    Ground,
    outcome=outcomes,
    consented=st.booleans(),
    planned=st.booleans(),
    screening=st.booleans(),
    referred=st.booleans(),
)
steps = st.lists(
    st.one_of(
        grounds,
        st.sampled_from(sorted(STAGE_OF_VISIT)),
        st.sampled_from(STAGES).map(lambda one: ("hand", one)),
        st.just("lift"),
    ),
    max_size=16,
)
BINDING = {
    **{stage: {"planned", "onhold"} for stage in BEFORE_PLAN},
    **{stage: {"active", "onhold"} for stage in RUNNING},
    "not-eligible": {"cancelled"},
    "stopped": {"cancelled", "finished"},
    "finished": {"cancelled", "finished"},
}
"""By stage, the values of EpisodeOfCare.status (FHIR R4, required binding) that it may have."""


def test_every_stage_says_what_may_follow_it_and_which_status_it_has():
    assert set(FOLLOWS) == set(STAGES) == set(BINDING)
    assert {stage for stage, after in FOLLOWS.items() if not after} == set(ENDED)
    assert all(after <= set(STAGES) - {stage} for stage, after in FOLLOWS.items())


@given(steps)
def test_whatever_happens_every_change_of_stage_is_legal_and_its_status_fits(happened):
    stage, status, stages = "referred", "planned", ["referred"]
    for step in happened:
        before, held = stage, status
        if isinstance(step, Ground):
            stage, status = course_after(stage, status, step)
            assert not (held == "onhold" and status != held), "a hold is lifted by a person"
        elif step == "lift":
            status = min(statuses_of(stages, stage))
        elif isinstance(step, str):
            stage = stage_after_visit(stage, step)
        elif may_move(stage, step[1]):
            stage = step[1]
            allowed = statuses_of([*stages, stage], stage)
            status = status if status in allowed else min(allowed)
        stages.append(stage)
        assert before == stage or stage in FOLLOWS[before]
        assert status in statuses_of(stages, stage)
        assert status in BINDING[stage]
        if {"finished", "stopped"} & {stage}:
            dosed = {"dosing", "integrating", "follow-up"} & set(stages)
            assert status == ("finished" if dosed else "cancelled")


@given(grounds)
def test_nobody_comes_past_consent_and_plan_without_them(ground):
    for stage in BEFORE_PLAN:
        after, status = course_after(stage, "planned", ground)
        if after == "planned":
            assert ground.eligible
            assert ground.consented
            assert ground.planned
        if after == "eligible" and stage in UNDECIDED:
            assert ground.eligible
        if stage == "consented" and not (ground.eligible and ground.consented):
            assert status == "onhold"


@given(st.sampled_from(STAGES), st.sampled_from(STAGES))
def test_by_hand_a_course_goes_on_between_its_visits_or_ends_and_nothing_else(before, after):
    assert may_move(before, after) <= (before == after or after in FOLLOWS[before])
    if before in ENDED:
        assert may_move(before, after) == (before == after)


def test_what_ends_before_its_first_dosing_session_is_cancelled():
    assert statuses_of(["eligible", "planned", "stopped"], "stopped") == {"cancelled"}
    assert statuses_of(["planned", "dosing", "stopped"], "stopped") == {"finished"}
    assert statuses_of(["referred", "not-eligible"], "not-eligible") == {"cancelled"}


@pytest.mark.parametrize(
    ("stage", "ground", "expected"),
    [
        ("eligible", Ground(outcome="eligible", consented=False, planned=False), ("eligible", "planned")),
        ("eligible", Ground(outcome="eligible", consented=False, planned=True), ("eligible", "planned")),
        ("eligible", Ground(outcome="eligible", consented=True, planned=False), ("consented", "planned")),
        ("eligible", Ground(outcome="eligible", consented=True, planned=True), ("planned", "active")),
        ("consented", Ground(outcome="eligible", consented=False, planned=True), ("consented", "onhold")),
        ("dosing", Ground(outcome="eligible", consented=True, planned=False), ("dosing", "active")),
        ("dosing", Ground(outcome="not-eligible", consented=True, planned=True), ("dosing", "onhold")),
    ],
)
def test_a_course_follows_its_ground(stage, ground, expected):
    assert course_after(stage, "active" if stage in RUNNING else "planned", ground) == expected


@given(st.sampled_from(STAGES), st.sampled_from(["planned", "active", "onhold", "finished", "cancelled"]), grounds)
def test_no_course_runs_without_its_ground_and_a_settled_one_stays(stage, status, ground):
    after = course_after(stage, status, ground)
    if status not in ("planned", "active"):
        assert after == (stage, status)
        return
    if stage not in ENDED:
        assert course_after(*after, ground) == after, "a repeat changes nothing"
    if after[0] in RUNNING and after[1] == "active":
        assert ground.eligible
        assert ground.consented


@pytest.mark.parametrize(
    ("stage", "visit", "after"),
    [
        ("planned", "kap-prep", "preparing"),
        ("preparing", "kap-dosing", "dosing"),
        ("dosing", "kap-integration", "integrating"),
        ("integrating", "kap-dosing", "dosing"),
        ("integrating", "kap-followup", "follow-up"),
        ("eligible", "kap-prep", "eligible"),
        ("finished", "kap-dosing", "finished"),
        ("planned", "kap-consult", "planned"),
        ("planned", None, "planned"),
    ],
)
def test_a_visit_moves_the_course(stage, visit, after):
    assert stage_after_visit(stage, visit) == after
