"""Scheduling's rules: ground, spacing, overlap; each at its boundaries."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduling.rules.booking import booked_actors, is_new_intent, name_of, span_of, spans
from services.scheduling.rules.ground import Ground, Near, lost, prerequisites, too_close, unmet
from services.scheduling.setting import Setting
from shared.fhir import codes
from shared.fhir.codes import ROUTE_IM, ROUTE_IV, ROUTE_SUBLINGUAL
from shared.fhir.dates import zulu
from shared.runtime.policy import PolicyError, load_policy

POLICY = Setting.of(load_policy()).policy
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
FIRM = Ground(
    outcome="eligible",
    assessment="RiskAssessment/1",
    assessed=NOW - timedelta(days=3),
    episode_status="active",
    order="MedicationRequest/1",
    order_active=True,
    drug="ketamine",
    routes=(ROUTE_IM.code,),
    consented=frozenset({ROUTE_IM.code}),
    planned=True,
    preparations=1,
    escort=True,
    weighed=NOW - timedelta(days=3),
)


def rules(**more):
    return [issue.rule for issue in unmet("kap-dosing", replace(FIRM, **more), NOW, POLICY)]


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
        ({"assessed": NOW - timedelta(days=180)}, []),
        ({"assessed": NOW - timedelta(days=180, seconds=1)}, ["S-ELIGIBLE"]),
        ({"drug": "esketamine", "site_certified": True, "patient_enrolled": True}, []),
        ({"drug": "esketamine", "patient_enrolled": True}, ["S-REMS"]),
        ({"drug": "esketamine", "site_certified": True}, ["S-REMS"]),
        ({"near": (Near("Appointment/2", NOW + timedelta(hours=47)),)}, ["S-SPACING"]),
        ({"preparations": 0}, []),
        ({"escort": False}, []),
        ({"weighed": None}, []),
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
    drug=st.sampled_from([None, "ketamine"]),
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
        and ground.drug is not None
        and bool(ground.routes)
        and set(ground.routes) <= ground.consented
        and ground.planned
    )
    assert (unmet("kap-dosing", ground, NOW, POLICY) == []) is complete


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"preparations": 0}, "S-PREPARED"),
        ({"escort": False}, "S-ESCORT"),
        ({"weighed": None}, "S-WEIGHT"),
        ({"weighed": NOW - timedelta(days=30, seconds=1)}, "S-WEIGHT"),
    ],
)
def test_what_is_needed_by_the_visit_is_missed_two_days_before_and_not_earlier(change, rule):
    def missing(before):
        return [one.rule for one in lost("kap-dosing", replace(FIRM, **change), NOW, NOW - before, POLICY)]

    assert missing(timedelta(hours=48)) == [rule]
    assert missing(timedelta(hours=48, seconds=1)) == []


def test_a_weight_is_needed_only_where_the_dose_goes_by_it():
    lozenge = replace(FIRM, routes=(ROUTE_SUBLINGUAL.code,), consented=frozenset({ROUTE_SUBLINGUAL.code}), weighed=None)
    assert "weight" not in [one.name for one in prerequisites("kap-dosing", lozenge, NOW, POLICY)]


def test_each_prerequisite_says_what_was_found_what_to_do_and_where_it_comes_from():
    for found in prerequisites("kap-dosing", Ground(routes=(ROUTE_IM.code,), drug="esketamine"), NOW, POLICY):
        assert found.source
        assert found.what
        assert bool(found.advice) is not found.met


def test_another_kind_of_visit_has_the_prerequisites_that_policy_gives_it():
    assert prerequisites("kap-consult", Ground(), NOW, POLICY) == []


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
    other = Near("Appointment/1", NOW + timedelta(hours=hours))
    assert bool(too_close(NOW, Ground(near=(other,)), [route], POLICY)) is near


@pytest.mark.parametrize(
    ("ordered", "given"),
    [((ROUTE_IM.code, ROUTE_SUBLINGUAL.code), ()), ((ROUTE_IM.code,), (ROUTE_SUBLINGUAL.code,))],
)
def test_of_two_routes_the_longer_spacing_counts(ordered, given):
    other = Near("MedicationAdministration/1", NOW + timedelta(hours=60), given)
    assert too_close(NOW, Ground(near=(other,)), ordered, POLICY)


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
    assert list(booked_actors({"participant": participants})) == ["Patient/a", "Practitioner/b"]


@pytest.mark.parametrize(
    ("actor", "name"),
    [
        ({"reference": "Practitioner/b"}, "Practitioner/b"),
        ({"reference": "Practitioner/b/_history/3"}, "Practitioner/b"),
        ({"reference": "http://127.0.0.1:8000/fhir/Practitioner/b"}, "Practitioner/b"),
        ({"reference": "https://clinic.example/fhir/Practitioner/b/_history/1"}, "Practitioner/b"),
        (
            {"type": "Practitioner", "identifier": {"system": "urn:npi", "value": "1"}},
            "Practitioner?identifier=urn:npi|1",
        ),
        ({"reference": "#b"}, None),
        ({"reference": "Organization/b"}, None),
    ],
)
def test_an_actor_is_booked_under_one_name_however_he_is_referred_to(actor, name):
    assert name_of(actor) == name


def booked(*participants, visit=codes.VISIT_DOSING):
    return appointment(
        NOW,
        resourceType="Appointment",
        serviceType=[visit.concept()],
        participant=[
            {"actor": {"reference": reference}, "type": [role.concept()] if role else [], "status": "accepted"}
            for reference, role in participants
        ],
    )


def test_a_room_is_taken_until_it_is_clean_and_a_monitor_may_be_shared():
    made = booked(("Location/r", None), ("Practitioner/m", codes.MONITOR), ("Practitioner/t", codes.THERAPIST))
    taken = {span.resource: span for span in spans(made, POLICY)}
    assert taken["Location/r"].end - taken["Practitioner/t"].end == timedelta(minutes=30)
    assert {name: span.shared for name, span in taken.items()} == {
        "Location/r": 0,
        "Practitioner/m": 2,
        "Practitioner/t": 0,
    }


def test_a_monitor_who_is_the_therapist_too_is_not_shared():
    made = booked(("Practitioner/m", codes.MONITOR), ("Practitioner/m", codes.THERAPIST))
    assert [span.shared for span in spans(made, POLICY)] == [0]


def test_a_preparation_that_is_also_a_dosing_session_needs_what_a_dosing_session_needs():
    made = booked(("Location/r", None))
    both = {**made, "serviceType": [codes.VISIT_PREP.concept(), codes.VISIT_DOSING.concept()]}
    assert spans(both, POLICY) == spans(made, POLICY)


def test_a_policy_that_names_no_time_zone_is_refused_at_start(tmp_path):
    clinic = tmp_path / "clinic.yaml"
    clinic.write_text("clinic: x\nversion: 1\nsections: {scheduling: {zone: {name: Mars/North}}}")
    with pytest.raises(PolicyError, match="Mars/North"):
        Setting.of(load_policy(clinic))


@pytest.mark.parametrize(
    ("before", "after", "intent"),
    [
        (None, {"status": "booked"}, True),
        (None, {"status": "pending"}, True),
        (None, {"status": "proposed"}, False),
        (None, {"status": "fulfilled"}, False),
        ({"status": "pending"}, {"status": "booked"}, True),
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
