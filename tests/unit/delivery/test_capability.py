"""What a destination says it accepts."""

from __future__ import annotations

import pytest

from services.delivery.capability import PUSHED_TYPES, accepted_by


def statement(resources, **more):
    return {
        "resourceType": "CapabilityStatement",
        "fhirVersion": "4.0.1",
        "rest": [{"mode": "server", "resource": resources}],
        **more,
    }


def test_only_what_the_statement_offers_counts_as_accepted():
    accepted = accepted_by(statement([{"type": "Observation", "interaction": [{"code": "create"}, {"code": "read"}]}]))
    assert accepted.can("create", "Observation")
    assert not accepted.can("update", "Observation")
    assert accepted.not_accepted == tuple(type_ for type_ in PUSHED_TYPES if type_ != "Observation")


def test_what_it_does_as_a_client_is_not_taken_for_what_it_accepts():
    said = statement([])
    said["rest"].append({"mode": "client", "resource": [{"type": "Patient", "interaction": [{"code": "create"}]}]})
    assert not accepted_by(said).can("create", "Patient")


@pytest.mark.parametrize("wrong", [{"resourceType": "OperationOutcome"}, [], statement([], fhirVersion="5.0.0")])
def test_a_server_that_is_not_fhir_r4_is_not_a_destination(wrong):
    with pytest.raises(ValueError, match="destination"):
        accepted_by(wrong)
