"""Which messages are due before a visit, and what is said of medicines that are to be held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.scheduling.rules.messages import due_messages
from services.scheduling.setting import Setting
from services.scheduling.timers import hours_held
from shared.fhir.codes import EXT_HOLD_BEFORE
from shared.runtime.policy import load_policy

POLICY = Setting.of(load_policy()).policy
START = datetime(2026, 11, 30, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "hold", "due"),
    [(73, 0, False), (72, 0, True), (73, 24, False), (100, 100, True), (101, 100, False), (0, 24, False)],
)
def test_instructions_are_due_before_a_medicine_is_to_be_held(hours, hold, due):
    found = due_messages("kap-dosing", START, START - timedelta(hours=hours), POLICY, hold)
    assert ("instructions" in [name for name, _ in found]) is due


def issue(hours, status="final", code="h"):
    duration = {"value": hours, "code": code}
    return {"status": status, "extension": [{"url": EXT_HOLD_BEFORE, "valueDuration": duration}]}


@pytest.mark.parametrize(
    ("issues", "hours"),
    [
        ([], 0),
        ([issue(24)], 24),
        ([issue(1), issue(24)], 24),
        ([issue(24, "cancelled")], 0),
        ([issue(1, code="d")], 0),
        ([{"status": "final"}], 0),
    ],
)
def test_the_longest_hold_of_the_interactions_that_stand_counts(issues, hours):
    assert hours_held(issues) == hours
