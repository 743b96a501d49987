"""Scheduling's rules: ground, spacing, overlap; each at its boundaries."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduling.ground import Setting
from services.scheduling.rules import (
    Ground,
    exclusive_actors,
    is_new_intent,
    overlapping,
    span_of,
    too_close,
    unmet,
)
from shared.fhir.codes import ROUTE_IM, ROUTE_IV, ROUTE_SUBLINGUAL
from shared.fhir.dates import zulu
from shared.runtime.policy import load_policy

POLICY = Setting.of(load_policy()).policy
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
FIRM = Ground(
    outcome="eligible",
    assessment="RiskAssessment/1",
    episode_status="active",
    order="MedicationRequest/1",
    order_active=True,
    routes=(ROUTE_IM.code,),
    consented=frozenset({ROUTE_IM.code}),
    planned=True,
)


def rules(**more):
    return [issue.rule for issue in unmet(replace(FIRM, **more), POLICY)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"episode_status": "planned"}, []),
        ({"outcome": None}, ["S-ELIGIBLE"]),
        ({"outcome": "not-eligible"}, ["S-ELIGIBLE"]),
        ({"outcome": "needs-answers"}, ["S-ELIGIBLE"]),
        ({"outcome": "needs-decision"}, ["S-ELIGIBLE"]),
        ({"episode_status": None}, ["S-EPISODE"]),
        ({"episode_status": "onhold"}, ["S-EPISODE"]),
        ({"episode_status": "finished"}, ["S-EPISODE"]),
        ({"order": None, "order_active": False}, ["S-ORDER"]),
        ({"order_active": False}, ["S-ORDER"]),
        ({"routes": ()}, ["S-ORDER"]),
        ({"consented": frozenset()}, ["S-CONSENT"]),
        ({"consented": frozenset({ROUTE_IV.code})}, ["S-CONSENT"]),
        ({"routes": (ROUTE_IM.code, ROUTE_IV.code)}, ["S-CONSENT"]),
        ({"planned": False}, ["S-PLAN"]),
    ],
)
def test_a_dosing_session_lacks_what_is_missing_or_not_known(change, expected):
    assert rules(**change) == expected


grounds = st.builds(
    Ground,
    outcome=st.sampled_from([None, "eligible", "not-eligible", "needs-answers"]),
    assessment=st.just("RiskAssessment/1"),
    episode_status=st.sampled_from([None, "planned", "active", "onhold", "cancelled"]),
    order=st.sampled_from([None, "MedicationRequest/1"]),
    order_active=st.booleans(),
    routes=st.sampled_from([(), (ROUTE_IM.code,), (ROUTE_IM.code, ROUTE_IV.code)]),
    consented=st.sampled_from([frozenset(), frozenset({ROUTE_IM.code}), frozenset({ROUTE_IM.code, ROUTE_IV.code})]),
    planned=st.booleans(),
)


@given(grounds)
def test_nothing_is_lacking_only_where_all_of_it_is_there(ground):
    complete = (
        ground.outcome == "eligible"
        and ground.episode_status in ("planned", "active")
        and ground.order is not None
        and ground.order_active
        and bool(ground.routes)
        and set(ground.routes) <= ground.consented
        and ground.planned
    )
    assert (unmet(ground, POLICY) == []) is complete


def appointment(start, hours=3.0, **more):
    return {"id": "a", "status": "booked", "start": zulu(start), "end": zulu(start + timedelta(hours=hours)), **more}


@pytest.mark.parametrize(
    ("route", "hours", "near"),
    [
        (ROUTE_IM.code, 48, False),
        (ROUTE_IM.code, 47.99, True),
        (ROUTE_IM.code, -47.99, True),
        (ROUTE_SUBLINGUAL.code, 71, True),
        (ROUTE_SUBLINGUAL.code, 72, False),
        ("unknown", 1, False),
    ],
)
def test_spacing_is_kept_both_ways(route, hours, near):
    other = appointment(NOW + timedelta(hours=hours))
    assert bool(too_close(NOW, [other], [route], POLICY)) is near


def test_of_two_routes_the_longer_spacing_counts():
    other = appointment(NOW + timedelta(hours=60))
    assert too_close(NOW, [other], [ROUTE_IM.code, ROUTE_SUBLINGUAL.code], POLICY)


@given(st.integers(-100, 100), st.integers(1, 50), st.integers(-100, 100), st.integers(1, 50))
def test_two_appointments_overlap_exactly_when_some_minute_is_in_both(start, length, other_start, other_length):
    minute = timedelta(minutes=1)
    mine = (NOW + start * minute, NOW + (start + length) * minute)
    other = appointment(NOW + other_start * minute, other_length / 60)
    shared = set(range(start, start + length)) & set(range(other_start, other_start + other_length))
    assert bool(overlapping(mine, [other])) is bool(shared)


def test_a_span_needs_a_start_before_its_end():
    assert span_of({"start": "2026-11-22T09:00:00Z"}) is None
    assert span_of(appointment(NOW, 0)) is None
    assert span_of(appointment(NOW, 1)) == (NOW, NOW + timedelta(hours=1))


def test_who_declined_and_what_is_no_person_or_place_is_not_booked():
    participants = [
        {"actor": {"reference": "Practitioner/b"}, "status": "accepted"},
        {"actor": {"reference": "Patient/a"}, "status": "needs-action"},
        {"actor": {"reference": "Patient/a/_history/2"}, "status": "accepted"},
        {"actor": {"reference": "Practitioner/c"}, "status": "declined"},
        {"actor": {"reference": "HealthcareService/kap"}, "status": "accepted"},
        {"actor": {"display": "somebody"}, "status": "accepted"},
    ]
    assert exclusive_actors({"participant": participants}) == ["Patient/a", "Practitioner/b"]


@pytest.mark.parametrize(
    ("before", "after", "intent"),
    [
        (None, {"status": "booked"}, True),
        (None, {"status": "pending"}, True),
        (None, {"status": "proposed"}, False),
        (None, {"status": "fulfilled"}, False),
        ({"status": "proposed"}, {"status": "booked"}, True),
        ({"status": "cancelled"}, {"status": "booked"}, True),
        ({"status": "arrived"}, {"status": "booked"}, True),
        ({"status": "booked"}, {"status": "booked", "comment": "x"}, False),
        ({"status": "booked"}, {"status": "booked", "start": "x"}, True),
        ({"status": "booked"}, {"status": "booked", "participant": []}, True),
        ({"status": "booked"}, {"status": "arrived"}, False),
        ({"status": "booked"}, {"status": "cancelled"}, False),
        ({"status": "booked"}, None, False),
    ],
)
def test_a_booking_is_judged_when_it_is_made_or_moved(before, after, intent):
    assert is_new_intent(before, after) is intent
