"""Visits: what a booking plans, the history of their states, and what is recorded of the psychotherapy in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.sessions.rules.psychotherapy import check_in_times, code_of, lacking, technique_concept
from services.sessions.rules.visits import planned_visit, with_history
from services.sessions.setting import Setting
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import codes_of
from shared.runtime.policy import load_policy

POLICY = Setting.of(load_policy()).psychotherapy
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


def appointment(*people, kind=codes.VISIT_DOSING, virtual=False, **more):
    return {
        "resourceType": "Appointment",
        "id": "a",
        "serviceType": [kind.concept(*([codes.VIRTUAL] if virtual else []))],
        "participant": [
            {"actor": {"reference": who}, "status": "accepted", **({"type": [part.concept()]} if part else {})}
            for who, part in people
        ],
        **more,
    }


def planned(*people, **more):
    return planned_visit(appointment(*people, **more), "p", None, {"system": "s", "value": "a"})


@pytest.mark.parametrize("kind", sorted(codes.VISITS))
def test_every_kind_of_visit_is_planned_from_its_booking(kind):
    visit = planned(("Practitioner/one", None), kind=codes.VISITS[kind][0])
    assert codes_of(visit["type"], codes.KAP) == [kind]
    assert visit["status"] == "planned"


@pytest.mark.parametrize(
    ("booked", "part"),
    [
        (codes.PRESCRIBER, "ATND"),
        (codes.THERAPIST, "PPRF"),
        (codes.MONITOR, "SPRF"),
        (codes.ESCORT, "ESC"),
        (codes.WITNESS, "WIT"),
        (None, "PPRF"),
    ],
)
def test_each_takes_part_in_the_part_he_is_booked_for(booked, part):
    (person,) = planned(("Practitioner/one", booked))["participant"]
    assert codes_of(person["type"], codes.PARTICIPATION) == [part]
    if booked is not None and booked.system == codes.KAP:
        assert codes_of(person["type"], codes.KAP) == [booked.code]


def test_at_home_by_video_the_escort_is_the_chaperone():
    (person,) = planned(("RelatedPerson/brother", codes.ESCORT), virtual=True)["participant"]
    assert codes_of(person["type"], codes.KAP) == ["chaperone"]
    (there,) = planned(("RelatedPerson/brother", codes.ESCORT))["participant"]
    assert codes_of(there["type"], codes.KAP) == []


def test_the_link_of_a_visit_by_video_is_the_bookings():
    link = {"url": codes.EXT_TELEHEALTH, "valueUrl": "https://video.example.org/room/7"}
    assert planned(("Practitioner/one", None), virtual=True, extension=[link])["extension"] == [link]
    assert "extension" not in planned(("Practitioner/one", None), virtual=True)


def at(minutes):
    return zulu(NOW + timedelta(minutes=minutes))


def moved(before, status, now=0, **more):
    after = {**before, "status": status, **more}
    return with_history(before, after, NOW + timedelta(minutes=now)) or after


def test_each_status_that_a_visit_had_stays_with_its_time_whatever_later_versions_leave_out():
    visit = {"status": "planned", "class": {"code": "AMB"}}
    assert with_history(None, visit, NOW) is None
    assert with_history(visit, dict(visit), NOW) is None
    visit = moved(visit, "arrived")
    visit = moved(visit, "in-progress", 5, period={"start": at(3)})
    forgot = {key: value for key, value in visit.items() if key != "statusHistory"}
    kept = with_history(visit, forgot, NOW)
    assert kept["statusHistory"] == visit["statusHistory"]
    visit = moved(visit, "finished", 200, period={"start": at(3), "end": at(190)})
    assert [(one["status"], one["period"]) for one in visit["statusHistory"]] == [
        ("planned", {"end": at(0)}),
        ("arrived", {"start": at(0), "end": at(3)}),
        ("in-progress", {"start": at(3), "end": at(190)}),
    ]


def test_a_visit_that_is_charted_afterwards_has_no_state_that_ends_before_it_began():
    visit = moved({"status": "planned", "class": {"code": "AMB"}}, "arrived", 500)
    visit = moved(visit, "in-progress", 501, period={"start": at(3)})
    visit = moved(visit, "finished", 502, period={"start": at(3), "end": at(190)})
    assert [(one["status"], one["period"]) for one in visit["statusHistory"]] == [
        ("planned", {"end": at(3)}),
        ("arrived", {"start": at(3), "end": at(3)}),
        ("in-progress", {"start": at(3), "end": at(190)}),
    ]


def test_a_visit_that_goes_from_clinic_to_video_keeps_that_it_was_in_the_clinic():
    before = {"status": "planned", "class": {"code": "AMB"}}
    after = with_history(before, {**before, "class": {"code": "VR"}}, NOW)
    assert [one["class"]["code"] for one in after["classHistory"]] == ["AMB"]


# -- psychotherapy ----------------------------------------------------------------------------------------------------


def said(name, **more):
    return {"resourceType": "Observation", "code": code_of(name, POLICY).concept(), **more}


TALK = {"resourceType": "Procedure", "code": technique_concept("talk", POLICY)}


@pytest.mark.parametrize(
    ("kind", "recorded", "missing"),
    [
        ("kap-dosing", [], ["Room", "Technique"]),
        ("kap-dosing", [said("room"), TALK], []),
        ("kap-dosing", [said("room", status="entered-in-error"), TALK], ["Room"]),
        ("kap-prep", [said("intention"), said("expectation")], ["Supportive touch agreed"]),
        ("kap-integration", [said("discussed"), said("strategy")], []),
        ("kap-integration", [said("theme")], ["What was discussed, in summary", "Strategy"]),
        ("kap-screen", [], []),
    ],
)
def test_what_a_visit_is_to_say_at_its_end_is_named(kind, recorded, missing):
    assert lacking(kind, recorded, POLICY) == missing


@pytest.mark.parametrize("name", sorted(POLICY.techniques))
def test_each_technique_has_a_code_of_the_projects_and_a_name(name):
    concept = technique_concept(name, POLICY)
    assert codes_of(concept, codes.KAP) == [f"technique-{name}"]
    assert concept["text"]


@pytest.mark.parametrize(("ago", "asked"), [(0, 2), (36, 2), (36.1, 1), (84, 1), (84.1, 0)])
def test_after_a_session_the_patient_is_asked_at_the_policys_hours_and_not_about_what_is_past(ago, asked):
    assert len(check_in_times(NOW - timedelta(hours=ago), NOW, POLICY.check_ins)) == asked
