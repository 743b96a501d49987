"""What a change of a MedicationAdministration claims: a dose to be started, one that was given, or nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules.claims import begins_ahead, claim_of
from shared.fhir.dates import zulu
from tests.unit.sessions.situations import NOW, POLICY


def dose(status, minutes=0.0):
    return {"status": status, "effectivePeriod": {"start": zulu(NOW - timedelta(minutes=minutes))}}


def claim(before, after, *, was=True, gated=True):
    return claim_of(before, after, was_gated=was, is_gated=gated, now=NOW, policy=POLICY)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, dose("in-progress"), "start"),
        (None, dose("in-progress", 5), "start"),
        (None, dose("in-progress", 5.1), "given"),
        (None, dose("in-progress", -30), "start"),
        (None, dose("on-hold"), "start"),
        (None, dose("completed"), "given"),
        (None, dose("stopped"), "given"),
        (None, dose("not-done"), "nothing"),
        (None, dose("entered-in-error"), "nothing"),
        (None, dose("unknown"), "given"),
        (dose("unknown"), dose("in-progress"), "start"),
        (dose("in-progress"), dose("completed"), "nothing"),
        (dose("in-progress"), dose("in-progress"), "nothing"),
        (dose("in-progress"), dose("on-hold"), "nothing"),
        (dose("on-hold"), dose("in-progress"), "start"),
        (dose("on-hold"), dose("stopped"), "nothing"),
        (dose("not-done"), dose("in-progress"), "start"),
        (dose("entered-in-error"), dose("completed"), "given"),
        (dose("completed"), dose("completed", 60), "given"),
        (dose("in-progress"), None, "nothing"),
    ],
)
def test_a_dose_claims_to_be_started_or_to_have_been_given(before, after, expected):
    assert claim(before, after) == expected


def test_a_rescue_drug_claims_nothing_and_a_change_to_ketamine_does():
    assert claim(None, dose("in-progress"), gated=False) == "nothing"
    assert claim(dose("in-progress"), dose("in-progress"), was=False) == "start"


statuses = st.sampled_from(
    ["in-progress", "on-hold", "completed", "stopped", "not-done", "entered-in-error", "unknown"]
)


@given(st.none() | statuses, statuses, st.integers(-60, 600))
def test_no_gated_dose_is_live_now_without_having_been_judged(before, after, minutes):
    earlier = None if before is None else dose(before, minutes)
    claimed = claim(earlier, dose(after, minutes))
    judged_before = before in ("in-progress", "on-hold", "completed", "stopped", "unknown")
    if after in ("in-progress", "on-hold") and not judged_before:
        assert claimed == ("given" if minutes > 5 else "start")
    if after in ("completed", "stopped") and not judged_before:
        assert claimed == "given"


@pytest.mark.parametrize(("minutes", "refused"), [(0, False), (1, False), (1.1, True), (-600, False)])
def test_a_dose_in_progress_does_not_begin_in_the_future(minutes, refused):
    assert bool(begins_ahead(NOW + timedelta(minutes=minutes), NOW, POLICY)) is refused
