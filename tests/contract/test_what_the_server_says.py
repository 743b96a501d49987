"""HL7's own validator finds no error in what the server says of itself: its statements and its definitions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cli.stack.ports import SERVICES
from shared.fhir.profiles import own
from shared.testing.hl7_validator import Hl7Validator
from tests.contract.test_hl7_validator import errors
from tests.e2e.kap import Kap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROJECT = "https://kap-exchange.org/"
HOSPITAL = "hospital"
FEW = 20
"""At each merge every so many of HL7's search parameters are asked about; the full run asks about all."""


def published(gateway: httpx.Client, type_: str) -> Iterator[dict[str, Any]]:
    """Yield every conformance resource of a type, as the gateway answers it."""
    url: str | None = f"{type_}?_count=200"
    while url is not None:
        page = gateway.get(url).raise_for_status().json()
        yield from (entry["resource"] for entry in page.get("entry", ()))
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)


@pytest.mark.parametrize("service", [name for name in SERVICES if name != HOSPITAL])
def test_the_capability_statement_of_each_service_is_valid(
    played: Kap, hl7_validator: Hl7Validator, service: str
) -> None:
    statement = httpx.get(f"{played.ports.url(service)}/fhir/metadata", trust_env=False).raise_for_status().json()
    assert statement["resourceType"] == "CapabilityStatement"
    assert errors(hl7_validator, statement) == []


@pytest.mark.parametrize("type_", ["StructureDefinition", "CodeSystem", "ValueSet", "OperationDefinition"])
def test_every_definition_of_the_project_is_valid(
    gateway: httpx.Client, hl7_validator: Hl7Validator, type_: str
) -> None:
    of_the_project = [one for one in published(gateway, type_) if one["url"].startswith(PROJECT)]
    assert {one["url"]: said for one in of_the_project if (said := errors(hl7_validator, one))} == {}
    assert of_the_project


def test_search_parameters_are_valid(gateway: httpx.Client, hl7_validator: Hl7Validator) -> None:
    """Every so many, and those that ask for an extension, which R4 writes in a way that is no FHIRPath."""
    every = list(published(gateway, "SearchParameter"))
    chosen = [one for at, one in enumerate(every) if at % FEW == 0 or ".exists()" in json.dumps(one)]
    assert {one["url"]: said for one in chosen if (said := errors(hl7_validator, one))} == {}
    assert len(every) > 500


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_search_parameter_is_valid(gateway: httpx.Client, hl7_validator: Hl7Validator) -> None:
    every = list(published(gateway, "SearchParameter"))
    assert {one["url"]: said for one in every if (said := errors(hl7_validator, one))} == {}
    assert len(every) > 500


def test_faults_in_definitions_are_found(hl7_validator: Hl7Validator) -> None:
    profile = own.definitions()[own.SCORE]
    assert errors(hl7_validator, dict(profile)) == []
    elements = profile["differential"]["element"]
    unknown = [*elements, {"id": "Observation.mood", "path": "Observation.mood", "min": 1}]
    for fault in ({"kind": "profile"}, {"url": None}, {"differential": {"element": unknown}}):
        planted = {name: value for name, value in {**profile, **fault}.items() if value is not None}
        assert errors(hl7_validator, planted), fault
    parameter = {
        "resourceType": "SearchParameter",
        "url": f"{PROJECT}fhir/SearchParameter/mood",
        "name": "Mood",
        "status": "active",
        "description": "Finds patients by mood.",
        "code": "mood",
        "base": ["Patient"],
        "type": "string",
        "expression": "Patient.name.family",
        "xpathUsage": "normal",
    }
    assert errors(hl7_validator, parameter) == []
    assert errors(hl7_validator, {**parameter, "expression": "Patient.name.where(("})
    assert errors(hl7_validator, {**parameter, "expression": "Patient.name.where(hasMood())"})


def test_a_resource_that_claims_a_profile_of_the_project_is_held_to_it(hl7_validator: Hl7Validator) -> None:
    visit: dict[str, Any] = {
        "resourceType": "Encounter",
        "meta": own.claiming(own.VISIT, own.DOSING_SESSION),
        "status": "planned",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "type": [{"coding": [{"system": f"{PROJECT}fhir/CodeSystem/kap", "code": "kap-dosing"}]}],
        "subject": {"reference": "Patient/1"},
    }
    assert errors(hl7_validator, visit) == []
    visit["type"][0]["coding"].append({"system": "http://snomed.info/sct", "code": "75516001"})
    assert errors(hl7_validator, visit) == [], "another code beside the one that is bound"
    for fault in (
        {"type": [{"coding": [{"system": f"{PROJECT}fhir/CodeSystem/kap", "code": "kap-prep"}]}]},
        {"subject": None},
        {"type": [{"text": "dosing"}]},
        {"type": [{"coding": [{"system": "http://snomed.info/sct", "code": "75516001"}]}]},
    ):
        planted = {name: value for name, value in {**visit, **fault}.items() if value is not None}
        assert errors(hl7_validator, planted), fault
