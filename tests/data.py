"""Where the tests find HL7's packages and real FHIR data: a folder beside the repository, never in it."""

from __future__ import annotations

import gzip
import os
from functools import cache
from pathlib import Path

import pytest

from shared.fhir.json import Resource, parse

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared_data(name: str) -> Path:
    """Return the folder `name` of the data beside the repository.

    Where it is not there, or empty, the test is skipped, and says why; in CI it fails.
    """
    folder = FOLDER / name
    if not folder.is_dir() or not any(folder.iterdir()):
        reason = f"needs the data in ../shared/data/{name}, beside the repository"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


BREAK_R4 = {
    "Questionnaire-qs1.json": "items without linkId",
    "Observation-clinical-gender.json": "an Encounter as performer",
    "Questionnaire-zika-virus-exposure-assessment.json": "a narrative without content (rule txt-2)",
}
"""Examples of HL7 that break R4 themselves, and how."""


@cache
def examples() -> dict[str, Resource]:
    """Return HL7's R4 examples and US Core's, by file name, those that break R4 left out. Do not change them."""
    files = [
        file
        for name in ("hl7-r4-examples", "us-core-6.1.0-examples")
        for file in sorted(shared_data(name).glob("*.json"))
    ]
    return {file.name: parse(file.read_bytes()) for file in files if file.name not in BREAK_R4}


@cache
def synthea_bundles() -> dict[str, Resource]:
    """Return Synthea's transaction Bundles by file name. Do not change them."""
    files = sorted(shared_data("synthea-r4").glob("*.json.gz"))
    return {file.name: parse(gzip.decompress(file.read_bytes())) for file in files}
