"""A campaign's schedule: the same for a seed, of every kind in its short form, at processes that there are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.stack.ports import HOSPITAL
from tests.chaos.faults import DECK, RELAYS, schedule
from tests.chaos.fleet import LAYOUT

SEEDS = st.integers(0, 10**6)
PROCESSES = {name: (service, roles) for name, service, roles in LAYOUT}


@settings(deadline=None)
@given(SEEDS, st.integers(1, 200), st.integers(1, 200))
def test_a_seed_brings_the_same_schedule_and_a_shorter_one_is_its_beginning(seed, count, other):
    assert schedule(seed, count) == schedule(seed, count)
    few, many = sorted((count, other))
    assert schedule(seed, many)[:few] == schedule(seed, few)


@settings(deadline=None)
@given(SEEDS)
def test_the_short_form_has_each_kind_of_fault_at_each_kind_of_process(seed):
    faults = schedule(seed, 20)
    for kind, targets in DECK:
        assert any(fault.kind == kind and fault.target in targets for fault in faults)
    assert all(0.5 <= fault.seconds <= 16 and 2 <= fault.after <= 8 for fault in faults)


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in DECK}))
def test_a_fault_is_of_a_process_that_can_have_it(kind):
    for fault_kind, targets in DECK:
        if fault_kind != kind:
            continue
        for target in targets:
            if target in {"kafka", "postgres"}:
                assert kind in {"kill", "pause"}
                continue
            service, roles = PROCESSES[target]
            if kind == "cut-kafka":
                assert "worker" in roles
            if kind.startswith("cut"):
                assert service != HOSPITAL
            if kind == "outlive-lock":
                assert target in RELAYS
                assert "worker" in roles
