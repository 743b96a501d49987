"""The campaign's checker finds each planted fault in whatever a campaign has seen, and nothing where all is well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.chaos.checker import check
from tests.chaos.evidence import Answer, Applied, Commit, Evidence, Told

patiently = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Evidence is large to make up, and the machine may be busy."""

SOURCES = ("intake", "sessions")
HOLDS = frozenset(("Condition", "Patient"))


@st.composite
def campaigns(draw, keys: int = 3, most: int = 25) -> Evidence:
    """What a campaign sees where nothing goes wrong: writes one after the other, each arriving at its own pace."""
    commits: list[Commit] = []
    answers: list[Answer] = []
    versions: dict[str, int] = {}
    for number in range(1, draw(st.integers(2, most)) + 1):
        key = f"Patient/p{draw(st.integers(1, keys))}"
        source = SOURCES[draw(st.integers(0, 1))]
        resource = f"Condition/{source}-{key.removeprefix('Patient/')}-{draw(st.integers(1, 2))}"
        versions[resource] = versions.get(resource, 0) + 1
        event = f"{resource}/{versions[resource]}"
        commits.append(Commit(source, event, f"content of {source} {event}", key, number))
        if draw(st.booleans()):
            answers.append(Answer(source, event, commits[-1].content, number, number + draw(st.floats(0, 3))))
    told = []
    for source in SOURCES:
        offset = 0
        for one in commits:
            if one.source == source:
                for _ in range(draw(st.integers(1, 2))):  # a relay that died in between tells it again
                    told.append(Told(source, one.event, one.content, one.key, 0, offset))
                    offset += 1
    order = draw(st.permutations([(source, f"Patient/p{n}") for source in SOURCES for n in range(1, keys + 1)]))
    applied = [
        Applied(one.source, one.event, one.content)
        for place in order
        for one in commits
        if (one.source, one.key) == place
    ]
    held = {
        ("gateway", source): {one.event: one.content for one in commits if one.source == source} for source in SOURCES
    }
    return Evidence(answers, commits, told, applied, held, dict.fromkeys(held, HOLDS))


def kinds(seen: Evidence, where: str) -> set[str]:
    return {fault.kind for fault in check(seen) if where in fault.where}


@patiently
@given(campaigns())
def test_nothing_is_found_where_nothing_is_wrong(seen):
    assert check(seen) == []


@patiently
@given(campaigns(), st.data())
def test_a_lost_commit_is_found_where_it_was_answered(seen, data):
    answered = {(one.source, one.event) for one in seen.answers}
    gone = data.draw(st.sampled_from(seen.commits))
    left = replace(seen, commits=[one for one in seen.commits if one is not gone])
    assert ("lost" in kinds(left, "between answer and history")) == ((gone.source, gone.event) in answered)
    assert "ghost" in kinds(left, "on the topic")


@patiently
@given(campaigns(), st.data())
def test_an_event_that_never_came_to_the_topic_is_found(seen, data):
    gone = data.draw(st.sampled_from(seen.told)).event
    assert "lost" in kinds(replace(seen, told=[one for one in seen.told if one.event != gone]), "on the topic")


@patiently
@given(campaigns(), st.data())
def test_a_dropped_event_is_found(seen, data):
    gone = data.draw(st.sampled_from(seen.applied))
    assert kinds(replace(seen, applied=[one for one in seen.applied if one is not gone]), "applied") == {"lost"}


@patiently
@given(campaigns(), st.data())
def test_a_doubled_event_is_found(seen, data):
    again = data.draw(st.sampled_from(seen.applied))
    place = data.draw(st.integers(0, len(seen.applied)))
    doubled = [*seen.applied[:place], again, *seen.applied[place:]]
    assert "doubled" in kinds(replace(seen, applied=doubled), "applied")


@patiently
@given(campaigns(), st.data())
def test_two_events_of_one_record_applied_the_other_way_round_are_found(seen, data):
    key = {(one.source, one.event): one.key for one in seen.commits}
    pairs = [
        (i, j)
        for i, one in enumerate(seen.applied)
        for j, other in enumerate(seen.applied)
        if i < j and one.source == other.source and key[one.source, one.event] == key[other.source, other.event]
    ]
    if not pairs:
        return
    i, j = data.draw(st.sampled_from(pairs))
    swapped = list(seen.applied)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    assert "reordered" in kinds(replace(seen, applied=swapped), "applied")


@patiently
@given(campaigns(), st.data())
def test_a_record_told_out_of_order_is_found_although_it_was_told_again(seen, data):
    first = {}
    for one in seen.told:
        first.setdefault((one.source, one.event), one)
    told = list(first.values())
    pairs = [(a, b) for a in told for b in told if a.source == b.source and a.key == b.key and a.offset < b.offset]
    if not pairs:
        return
    a, b = data.draw(st.sampled_from(pairs))
    early = replace(b, offset=a.offset - 0.5)
    assert "reordered" in kinds(replace(seen, told=[*seen.told, early]), "on the topic")


@patiently
@given(campaigns(), st.sampled_from(["topic", "witness", "copy"]))
def test_a_ghost_is_found(seen, hop):
    one = Commit("intake", "Condition/never/1", "nothing", "Patient/p1", 99)
    if hop == "topic":
        planted = replace(seen, told=[*seen.told, Told(one.source, one.event, one.content, one.key, 0, 1000)])
        assert "ghost" in kinds(planted, "on the topic")
    elif hop == "witness":
        planted = replace(seen, applied=[*seen.applied, Applied(one.source, one.event, one.content)])
        assert "ghost" in kinds(planted, "applied")
    else:
        held = {**seen.held, ("gateway", "intake"): {**seen.held["gateway", "intake"], one.event: one.content}}
        assert kinds(replace(seen, held=held), "at gateway") == {"ghost"}


@patiently
@given(campaigns(), st.data(), st.sampled_from(["answer", "topic", "witness", "copy"]))
def test_a_changed_body_is_found_at_each_hop(seen, data, hop):
    if hop == "answer":
        if not seen.answers:
            return
        one = data.draw(st.sampled_from(seen.answers))
        others = [answer for answer in seen.answers if answer is not one]
        assert "changed" in kinds(replace(seen, answers=[*others, replace(one, content="other")]), "between answer")
    elif hop == "topic":
        one = data.draw(st.sampled_from(seen.told))
        told = [replace(record, content="other") if record is one else record for record in seen.told]
        assert kinds(replace(seen, told=told), "on the topic") == {"changed"}
    elif hop == "witness":
        one = data.draw(st.sampled_from(seen.applied))
        applied = [replace(line, content="other") if line is one else line for line in seen.applied]
        assert kinds(replace(seen, applied=applied), "applied") == {"changed"}
    else:
        one = data.draw(st.sampled_from(seen.commits))
        held = {place: dict(versions) for place, versions in seen.held.items()}
        held["gateway", one.source][one.event] = "other"
        assert kinds(replace(seen, held=held), "at gateway") == {"changed"}


@patiently
@given(campaigns(), st.data())
def test_a_version_missing_from_the_gateways_history_is_found(seen, data):
    one = data.draw(st.sampled_from(seen.commits))
    held = {place: dict(versions) for place, versions in seen.held.items()}
    del held["gateway", one.source][one.event]
    assert kinds(replace(seen, held=held), "at gateway") == {"lost"}


def test_a_write_answered_before_another_was_sent_comes_before_it():
    commits = [
        Commit("intake", "Condition/b/1", "b", "Patient/p", 1),
        Commit("intake", "Condition/a/1", "a", "Patient/p", 2),
    ]
    answers = [Answer("intake", "Condition/a/1", "a", 0.0, 1.0), Answer("intake", "Condition/b/1", "b", 2.0, 3.0)]
    assert kinds(Evidence(answers, commits, [], []), "between answer and history") == {"reordered"}
    overlapping = [answers[0], replace(answers[1], sent=0.5)]
    assert kinds(Evidence(overlapping, commits, [], []), "between answer and history") == set()


def test_versions_with_a_gap_or_out_of_outbox_order_are_found():
    gap = [Commit("intake", f"Condition/a/{n}", "a", "Patient/p", n) for n in (1, 3)]
    assert kinds(Evidence([], gap, [], []), "history") == {"lost"}
    swapped = [Commit("intake", f"Condition/a/{n}", "a", "Patient/p", 5 - n) for n in (1, 2)]
    assert kinds(Evidence([], swapped, [], []), "history") == {"reordered"}


@pytest.mark.parametrize(("hospital", "parked"), [(["1 Condition missing"], {}), ([], {"gateway": 2})])
def test_a_difference_at_the_hospital_or_a_parked_event_is_found(hospital, parked):
    assert len(check(Evidence([], [], [], [], hospital=hospital, parked=parked))) == 1


def test_a_hospital_that_lacks_what_was_permitted_or_has_what_never_was_is_found():
    pushed = {
        "Condition/a": "Patient/p",
        "Condition/b": "Patient/p",
        "Condition/c": "Patient/q",
        "Condition/d": "Patient/r",
    }
    signed = {"Patient/p": True, "Patient/q": False}
    there = frozenset(("Condition/a", "Condition/c", "Condition/d"))
    found = check(Evidence([], [], [], [], signed=signed, pushed=pushed, there=there))
    assert [(one.kind, one.what.partition(",")[0]) for one in found] == [
        ("lost", "Condition/b"),
        ("ghost", "Condition/d"),
    ]
