"""What the gateway decides: whose a write is, what has to have been seen, what an answer means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.gateway.everything import CARE_DATES, asked_by, given_in
from services.gateway.routing import Unresolved, knowing, owner_of_new
from services.gateway.rules import OwnerFault, awaits, refusal
from services.gateway.seen import MOST, Seen
from shared.fhir.dates import MAX_INSTANT
from shared.fhir.definitions import search_parameters
from shared.fhir.outcome import BadRequest, PreconditionFailed, Unavailable, Unprocessable, operation_outcome
from shared.http.backend import Position

NOTE = {
    "resourceType": "ClinicalImpression",
    "status": "completed",
    "subject": {"reference": "Patient/p"},
    "encounter": {"reference": "Encounter/e"},
}


def test_the_owner_of_what_is_referred_to_is_asked_for_when_the_rule_needs_it():
    with pytest.raises(Unresolved) as needed:
        owner_of_new(NOTE, knowing({}))
    assert needed.value.resource == ("Encounter", "e")
    assert owner_of_new(NOTE, knowing({("Encounter", "e"): "sessions"})) == "sessions"
    assert owner_of_new(NOTE, knowing({("Encounter", "e"): None})) == "intake"


def test_history_from_elsewhere_is_intakes_whatever_it_refers_to():
    history = {**NOTE, "meta": {"source": "https://hospital.example"}}
    assert owner_of_new(history, knowing({("Encounter", "e"): "sessions"})) == "intake"


def test_an_id_that_a_client_made_up_does_not_decide_whose_a_new_resource_is():
    task = {"resourceType": "Task", "id": "made-up", "focus": {"reference": "Encounter/e"}}
    known = {("Task", "made-up"): "delivery", ("Encounter", "e"): "sessions"}
    assert owner_of_new(task, knowing(known)) == "sessions"


def test_an_owner_waits_for_the_furthest_that_was_seen_of_each_other():
    header = awaits("sessions", "Patient/p", ({"intake": 4, "sessions": 9}, {"intake": 7, "scheduling": 2}))
    assert header == "intake Patient/p 7, scheduling Patient/p 2"
    assert awaits("sessions", "Patient/p", ({"sessions": 9},)) is None
    assert awaits("intake", "Patient/p", ()) is None


def test_a_refusal_comes_through_with_its_status_its_issues_and_its_rule():
    said = Unprocessable("Too early.", expression=["Encounter.status"], rule="G1", source="a guideline").as_fhir()
    error = refusal("sessions", 422, said)
    assert isinstance(error, Unprocessable)
    assert error.as_fhir() == said
    assert isinstance(refusal("intake", 412, operation_outcome([])), PreconditionFailed)


def test_an_owner_that_cannot_now_is_told_from_one_that_met_a_fault():
    busy = refusal("intake", 503, None, retry_after=7)
    assert isinstance(busy, Unavailable)
    assert busy.headers == {"Retry-After": "7"}
    broken = refusal("intake", 500, None)
    assert isinstance(broken, OwnerFault)
    assert broken.status == 502
    assert "intake" in str(broken)


def test_positions_are_kept_at_their_highest_and_not_without_end():
    seen = Seen()
    seen.note([Position("intake", "t", "Patient/p", 5), Position("intake", "t", "Patient/p", 3)])
    assert seen.of("t", "Patient/p") == {"intake": 5}
    assert seen.of("other", "Patient/p") == {}
    seen.note([Position("intake", "t", f"Patient/{number}", 1) for number in range(MOST)])
    assert seen.of("t", "Patient/p") == {}


def parameters(**given):
    return {"resourceType": "Parameters", "parameter": [{"name": k, "valueString": v} for k, v in given.items()]}


def test_everything_understands_its_parameters_and_no_others():
    pairs = given_in(parameters(_type="Observation,Encounter", _count="10", _since="2026-11-22"))
    asked = asked_by(pairs)
    assert asked.types == {"Observation", "Encounter"}
    assert asked.count == 10
    assert asked.since is not None
    assert asked.since.isoformat() == "2026-11-22T00:00:00+00:00"
    assert asked_by([]).types is None
    for wrong in (
        {"start": "soon"},
        {"begin": "2026"},
        {"_type": "Nonsense"},
        {"_count": "0"},
        {"_count": "x"},
        {"_since": "soon"},
    ):
        with pytest.raises(BadRequest):
            asked_by(given_in(parameters(**wrong)))


def test_care_is_dated_by_parameters_that_the_types_have():
    for type_, codes in CARE_DATES.items():
        assert {search_parameters(type_)[code].kind for code in codes} == {"date"}, type_


def test_a_time_of_care_is_open_where_no_end_is_given():
    care = asked_by([("start", "2026-03-01")]).care
    assert care is not None
    assert (care.low, care.high) == (datetime(2026, 3, 1, tzinfo=UTC), MAX_INSTANT)
    assert asked_by([("_count", "2")]).care is None
