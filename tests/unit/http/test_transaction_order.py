"""What entries of a transaction refer to comes before them, and phases stay in the order of the specification."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.http.entries import Change
from shared.http.planning import Step
from shared.http.transactions import _in_order

TURN = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2}


def step(index, method, needs=()):
    return Step(Change(index, method, "Patient"), str(index), exists=False, needs=set(needs))


@st.composite
def several(draw):
    count = draw(st.integers(1, 12))
    steps = [
        step(
            index,
            draw(st.sampled_from(sorted(TURN))),
            draw(st.sets(st.integers(0, count - 1).filter(lambda need, index=index: need != index), max_size=3)),
        )
        for index in range(count)
    ]
    return sorted(steps, key=lambda one: (TURN[one.change.method], one.change.index))


@given(several())
def test_every_step_comes_once_and_the_phases_stay_in_order(steps):
    ordered = _in_order(steps)
    assert sorted(one.change.index for one in ordered) == list(range(len(steps)))
    turns = [TURN[one.change.method] for one in ordered]
    assert turns == sorted(turns)


@given(several())
def test_what_is_referred_to_comes_first_where_references_go_in_no_circle(steps):
    for one in steps:  # only to lower numbers: no circle
        one.needs = {need for need in one.needs if need < one.change.index}
    place = {one.change.index: number for number, one in enumerate(_in_order(steps))}
    by_index = {one.change.index: one for one in steps}
    for one in steps:
        for need in one.needs:
            if TURN[by_index[need].change.method] <= TURN[one.change.method]:
                assert place[need] < place[one.change.index]


def test_a_chain_of_thousands_is_put_in_order():
    chain = [step(index, "POST", {index + 1} if index < 4999 else ()) for index in range(5000)]
    assert [one.change.index for one in _in_order(chain)] == list(range(4999, -1, -1))
