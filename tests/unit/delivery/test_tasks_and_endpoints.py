"""What people see of a delivery, and what they say about a destination, as FHIR."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import pytest

from services.delivery.capability import PUSHED_TYPES
from services.delivery.endpoints import destination_of, endpoint
from services.delivery.tasks import OPEN, status_of, task_of
from shared.fhir.outcome import Issue, Unprocessable, operation_outcome
from shared.fhir.validation import require_valid
from shared.store.ledger_types import Entry, State

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
ENTRY = Entry(
    destination="d1",
    tenant="default",
    type="Observation",
    id="o1",
    key="Patient/p1",
    place=1,
    wanted_version=3,
    wanted_at=NOW,
    deleted=False,
    state="queued",
    attempts=0,
    uncertain=False,
    queued_at=NOW,
    next_attempt_at=NOW,
)
TOLD = {"server_id": "77", "delivered_version": 2, "accepted_at": NOW, "outcome": operation_outcome([Issue("No.")])}


@pytest.mark.parametrize("state", get_args(State))
@pytest.mark.parametrize("told", [{}, TOLD], ids=["first", "told"])
def test_every_state_of_a_delivery_is_a_valid_task(state, told):
    task = task_of(replace(ENTRY, state=state, **told), address="http://hospital/fhir", now=NOW)
    require_valid({**task, "id": "t1"})
    assert task["focus"]["reference"] == "Observation/o1"
    assert task["for"]["reference"] == "Patient/p1"


def test_what_still_moves_is_an_open_task_and_what_does_not_is_none():
    moving = {"queued", "sending", "waiting", "held"}
    assert {state for state in get_args(State) if status_of(state, 1) in OPEN} == moving
    assert status_of("queued", 0) == "requested"
    assert status_of("queued", 2) == "in-progress"
    assert status_of("refused", 1) == "failed"


def test_the_endpoint_of_the_settings_is_valid_and_gets_everything():
    made = endpoint("hospital", "http://127.0.0.1:8007/fhir", creates_patients=True)
    require_valid({**made, "id": "e1"})
    destination = destination_of(made, id_="e1", tenant="default")
    assert destination.types == frozenset(PUSHED_TYPES)
    assert destination.active
    assert destination.creates_patients
    assert destination.address == "http://127.0.0.1:8007/fhir"


def test_a_destination_that_nothing_can_be_sent_to_is_refused():
    made = endpoint("x", "http://host/fhir/", creates_patients=False)
    assert destination_of(made, id_="e", tenant="t").address == "http://host/fhir"
    for wrong in (
        {"address": "mllp://host:2575"},
        {"address": "http://host/fhir?x=1"},
        {"connectionType": {"system": "x", "code": "hl7v2-mllp"}},
        {"payloadType": [{"coding": [{"system": "http://hl7.org/fhir/resource-types", "code": "Claim"}]}]},
    ):
        with pytest.raises(Unprocessable):
            destination_of({**made, **wrong}, id_="e", tenant="t")


def test_a_destination_gets_only_the_types_it_names_and_nothing_while_it_is_off():
    made = endpoint("x", "https://host/fhir", creates_patients=False)
    named = [{"coding": [{"system": "http://hl7.org/fhir/resource-types", "code": "Patient"}]}]
    destination = destination_of({**made, "payloadType": named, "status": "off"}, id_="e", tenant="t")
    assert destination.types == {"Patient"}
    assert not destination.active
