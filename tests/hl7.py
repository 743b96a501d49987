"""The engine of the HL7 validator for every test that asks it, with US Core and the project's definitions, and what of
its words counts: errors, but for those that only say that a licensed code system is not at hand.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.fhir.json import parse
from shared.http.conformance import Conformance
from shared.local.jars import JarsUnavailable, resolve
from shared.testing.hl7_validator import VALIDATOR, Hl7Validator
from tests.contract.ips_guide import GuideUnavailable, ips_package
from tests.data import shared_data

PACKAGE = "hl7.fhir.us.core-7.0.0-no-examples.tgz"
US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
BY_TYPE = {
    "AllergyIntolerance": "allergyintolerance",
    "CarePlan": "careplan",
    "CareTeam": "careteam",
    "Condition": "condition-problems-health-concerns",
    "DocumentReference": "documentreference",
    "Encounter": "encounter",
    "Goal": "goal",
    "MedicationDispense": "medicationdispense",
    "MedicationRequest": "medicationrequest",
    "Organization": "organization",
    "Patient": "patient",
    "Practitioner": "practitioner",
    "Procedure": "procedure",
    "Provenance": "provenance",
    "QuestionnaireResponse": "questionnaireresponse",
    "RelatedPerson": "relatedperson",
    "ServiceRequest": "servicerequest",
}
BY_CODE = {
    "85354-9": "blood-pressure",
    "8867-4": "heart-rate",
    "9279-1": "respiratory-rate",
    "59408-5": "pulse-oximetry",
    "29463-7": "body-weight",
}
SURVEY = "survey"


@dataclass(frozen=True)
class Unknowable:
    """A message that says only that a licensed code system is not at hand."""

    kind: str
    text: re.Pattern[str]
    reason: str


UNKNOWABLE = (
    Unknowable(
        "Terminology_PassThrough_TX_Message",
        re.compile(r"Unable to expand ValueSet because CodeSystem could not be found: http://loinc\.org"),
        "US Core's value sets of LOINC codes cannot be expanded without LOINC, which is licensed and not shipped",
    ),
    Unknowable(
        "Terminology_TX_NoValid_1_CC",
        re.compile(r"us-core-documentreference-type\|7\.0\.0.*http://loinc\.org#"),
        "the same value set, as a required binding: whether a LOINC code is in it cannot be told without LOINC",
    ),
)


def errors(validator: Hl7Validator, resource: Any, *profiles: str) -> list[str]:
    """Return the errors that are not only for want of a licensed code system."""
    text = resource if isinstance(resource, str) else json.dumps(resource)
    return [
        str(message)
        for message in validator.validate(text, *profiles)
        if message.severity in ("ERROR", "FATAL")
        and not any(each.kind == message.kind and each.text.search(message.text) for each in UNKNOWABLE)
    ]


def us_core_profiles(resource: dict[str, Any]) -> list[str]:
    """Return the US Core profiles that a resource of a clinic's record should hold."""
    type_ = resource["resourceType"]
    if type_ == "Observation":
        codes = [coding.get("code") for coding in resource["code"].get("coding", [])]
        categories = [coding.get("code") for one in resource.get("category", []) for coding in one.get("coding", [])]
        assessed = ["observation-screening-assessment"] if SURVEY in categories else []
        return [US_CORE + name for name in [*(BY_CODE[code] for code in codes if code in BY_CODE), *assessed]]
    return [US_CORE + BY_TYPE[type_]] if type_ in BY_TYPE else []


def project_definitions(folder: Path) -> Iterator[Path]:
    """Write the project's own profiles, extensions, code systems and value sets as files, as they are published."""
    conformance = Conformance((), (), "project")
    for type_ in ("StructureDefinition", "CodeSystem", "ValueSet"):
        for one in conformance.search(type_, [("_count", "1000")], None, strict=True).entries:
            if parse(one.body)["url"].startswith("https://kap-exchange.org/"):
                file = folder / f"{type_}-{one.id}.json"
                file.write_bytes(one.body)
                yield file


@pytest.fixture(scope="session")
def hl7_validator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hl7Validator]:
    """The engine with US Core and the project's definitions. Without its jars the test is skipped; in CI it fails."""
    try:
        resolve(VALIDATOR)
    except JarsUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    definitions = project_definitions(tmp_path_factory.mktemp("definitions"))
    packages = [shared_data("packages") / PACKAGE, *definitions]
    with suppress(GuideUnavailable):  # who needs it asks for `ips_validator`, which says so
        packages.append(ips_package())
    validator = Hl7Validator(packages)
    yield validator
    validator.close()
