"""The states of a visit: which may follow which, and who takes part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules.visits import MOVES, may_become, planned_visit
from shared.fhir import codes


@pytest.mark.parametrize("status", sorted(MOVES))
def test_from_every_state_a_visit_can_be_said_to_be_an_error_and_can_stay(status):
    assert may_become(status, "entered-in-error")
    assert may_become(status, status)


@pytest.mark.parametrize("status", ["arrived", "triaged", "in-progress", "onleave"])
def test_who_came_may_always_leave(status):
    assert may_become(status, "finished")


@given(st.sampled_from(["finished", "cancelled", "entered-in-error"]), st.sampled_from(sorted(MOVES)))
def test_what_has_ended_does_not_begin_again(ended, after):
    assert may_become(ended, after) is (after in (ended, "entered-in-error"))


def test_a_visit_does_not_end_before_it_began():
    assert not may_become("planned", "finished")
    assert may_become("planned", "cancelled")
    assert not may_become("in-progress", "planned")


def test_a_video_visit_is_virtual_and_a_visit_has_who_did_not_decline():
    appointment = {
        "resourceType": "Appointment",
        "id": "a",
        "serviceType": [codes.VISIT_INTEGRATION.concept(codes.VIRTUAL)],
        "participant": [
            {"actor": {"reference": "Practitioner/one"}, "status": "accepted"},
            {"actor": {"reference": "Practitioner/two"}, "status": "declined"},
            {"actor": {"reference": "Patient/p"}, "status": "accepted"},
        ],
    }
    visit = planned_visit(appointment, "p", None, {"system": "s", "value": "a"})
    assert visit["class"]["code"] == "VR"
    assert [one["individual"]["reference"] for one in visit["participant"]] == ["Practitioner/one"]
    assert "episodeOfCare" not in visit
    assert "location" not in visit
