"""What delivery decides: next steps, verdicts, pauses, and who goes first."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.delivery.capability import Accepted
from services.delivery.mapping import Target
from services.delivery.rules import Candidate, Choice, Nobody, Step, choose, judge, next_step
from shared.runtime.pauses import pause

PATIENT = Target("Patient", "p")
EVERYTHING = frozenset(("create", "update", "delete", "read"))


@dataclass(frozen=True)
class Known:
    type: str = "Observation"
    deleted: bool = False
    uncertain: bool = False
    server_id: str | None = None
    content_hash: str | None = None


def offers(*interactions):
    return Accepted({"Observation": frozenset(interactions)})


@pytest.mark.parametrize(
    ("known", "accepted", "step"),
    [
        (Known(), offers("create"), Step("create", "accepted")),
        (Known(), offers("update"), Step("rest", "not-accepted")),
        (Known(uncertain=True), offers("create"), Step("find", "sending")),
        (Known(deleted=True), offers("create"), Step("rest", "withdrawn")),
        (Known(deleted=True, uncertain=True), offers("create"), Step("find", "sending")),
        (Known(server_id="7", content_hash="old"), offers("create", "update"), Step("update", "accepted")),
        (Known(server_id="7", content_hash="new"), offers("create", "update"), Step("rest", "accepted")),
        (Known(server_id="7", content_hash="old"), offers("create"), Step("rest", "superseded")),
        (Known(server_id="7", uncertain=True), offers("create", "update"), Step("compare", "sending")),
        (Known(server_id="7", deleted=True), offers("update", "delete"), Step("mark", "withdrawn")),
        (Known(server_id="7", deleted=True), offers("delete"), Step("delete", "withdrawn")),
        (Known(server_id="7", deleted=True), offers("create"), Step("rest", "superseded")),
    ],
)
def test_the_next_step_follows_from_what_is_known_and_what_is_accepted(known, accepted, step):
    assert next_step(known, accepted, None if known.deleted else "new") == step


@given(
    st.builds(
        Known,
        deleted=st.booleans(),
        uncertain=st.booleans(),
        server_id=st.sampled_from([None, "7"]),
        content_hash=st.sampled_from([None, "new", "old"]),
    ),
    st.frozensets(st.sampled_from(sorted(EVERYTHING))),
)
def test_nothing_is_created_that_may_be_there_already(known, interactions):
    step = next_step(known, Accepted({"Observation": interactions}), None if known.deleted else "new")
    if step.action == "create":
        assert known.server_id is None
        assert not known.uncertain
    if step.action in {"create", "update", "delete"}:
        assert step.action in interactions


def test_an_answer_that_may_hide_a_commit_is_uncertain():
    for status in (408, 500, 502, 503, 504):
        assert judge(status).uncertain
    for status in (200, 201, 400, 401, 404, 409, 422, 429):
        assert not judge(status).uncertain


def test_answers_about_the_destination_are_told_from_answers_about_the_resource():
    assert {status: judge(status).meaning for status in (201, 401, 429, 503, 500, 409, 400, 403, 405, 422)} == {
        201: "accepted",
        401: "outage",
        429: "outage",
        503: "outage",
        500: "again",
        409: "again",
        400: "refused",
        403: "refused",
        405: "refused",
        422: "refused",
    }


def test_pauses_double_up_to_a_minute_and_heed_what_the_destination_asks():
    assert [pause(n, 0.5) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert pause(1000, 0.5) == 60.0
    assert pause(1, 0.5, asked=30) == 30
    assert pause(1, 0.5, asked=86400) == 300
    assert pause(3, 0.0) < pause(3, 0.999)


def candidate(own, place, *targets, patient=PATIENT, impatient=False):
    type_, id_ = own.split("/")
    all_targets = frozenset(Target(*one.split("/")) for one in targets) | ({patient} if patient else frozenset())
    return Candidate(Target(type_, id_), place, all_targets, patient, impatient)


def standing(known):
    return lambda target: known.get(str(target), "unknown")


def test_the_queue_is_followed_as_long_as_references_can_be_resolved():
    queue = [candidate("Observation/2", 2), candidate("Observation/1", 1)]
    chosen = choose(queue, standing({"Patient/p": "there"}))
    assert isinstance(chosen, Choice)
    assert chosen.candidate.own == Target("Observation", "1")


def test_who_refers_to_a_later_one_lets_it_go_first():
    queue = [candidate("Observation/1", 1, "Encounter/e"), candidate("Encounter/e", 2)]
    chosen = choose(queue, standing({"Patient/p": "there", "Encounter/e": "coming"}))
    assert isinstance(chosen, Choice)
    assert chosen.candidate.own == Target("Encounter", "e")


def test_nothing_goes_before_its_patient():
    patient = candidate("Patient/p", 2, patient=None)
    first = choose([candidate("Observation/1", 1), patient], standing({"Patient/p": "coming"}))
    assert isinstance(first, Choice)
    assert first.candidate is patient
    alone = choose([candidate("Observation/1", 1, impatient=True)], standing({"Patient/p": "never"}))
    assert isinstance(alone, Nobody)
    assert [one.own.id for one in alone.without_patient] == ["1"]


def test_a_reference_that_does_not_come_holds_back_only_for_a_while():
    patiently = choose([candidate("Observation/1", 1, "Encounter/e")], standing({"Patient/p": "there"}))
    assert isinstance(patiently, Nobody)
    assert patiently.for_now
    now = choose([candidate("Observation/1", 1, "Encounter/e", impatient=True)], standing({"Patient/p": "there"}))
    assert isinstance(now, Choice)
    assert now.unresolved == {Target("Encounter", "e")}


def test_a_reference_that_never_comes_or_is_of_a_type_that_is_not_pushed_holds_nobody_back():
    chosen = choose(
        [candidate("Observation/1", 1, "Encounter/e", "Practitioner/d")],
        standing({"Patient/p": "there", "Encounter/e": "never"}),
    )
    assert isinstance(chosen, Choice)
    assert chosen.unresolved == frozenset()


def test_a_ring_of_references_is_opened_at_the_encounter():
    ring = [candidate("Condition/c", 1, "Encounter/e"), candidate("Encounter/e", 2, "Condition/c")]
    state = {"Patient/p": "there", "Encounter/e": "coming", "Condition/c": "coming"}
    chosen = choose(ring, standing(state))
    assert isinstance(chosen, Choice)
    assert chosen.candidate.own == Target("Encounter", "e")
    assert chosen.unresolved == {Target("Condition", "c")}


def test_who_waits_for_a_waiting_one_is_not_taken_for_a_ring():
    queue = [candidate("Observation/1", 1, "Encounter/e"), candidate("Encounter/e", 2, "Condition/not-here-yet")]
    state = {"Patient/p": "there", "Encounter/e": "coming", "Condition/not-here-yet": "unknown"}
    assert isinstance(choose(queue, standing(state)), Nobody)


TYPES = ("Patient", "Encounter", "Condition", "Observation")


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(TYPES[1:]), st.integers(0, 4)),
        st.lists(st.tuples(st.sampled_from(TYPES[1:]), st.integers(0, 4)), max_size=3),
        max_size=8,
    ),
    st.booleans(),
    st.booleans(),
)
def test_a_queue_whose_patient_is_there_is_emptied_whatever_refers_to_what(graph, patient_queued, impatient):
    state = {"Patient/p": "coming" if patient_queued else "there"}
    queue = [
        candidate(f"{type_}/{number}", place, *(f"{t}/{n}" for t, n in targets), impatient=impatient)
        for place, ((type_, number), targets) in enumerate(graph.items())
    ]
    if patient_queued:
        queue.append(candidate("Patient/p", len(queue), patient=None))
    state.update({str(one.own): "coming" for one in queue})
    sent = []
    while queue:
        chosen = choose(queue, standing(state))
        if isinstance(chosen, Nobody):
            break
        assert str(chosen.candidate.own) == "Patient/p" or state["Patient/p"] == "there"
        queue.remove(chosen.candidate)
        state[str(chosen.candidate.own)] = "there"
        sent.append(chosen.candidate.own)
    if impatient:
        assert not queue
    missing = {Target(t, str(n)) for targets in graph.values() for t, n in targets} - {
        Target(t, str(n)) for t, n in graph
    }
    if not missing:
        assert not queue
