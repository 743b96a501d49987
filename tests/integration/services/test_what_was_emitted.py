"""What sessions and outcomes write by themselves holds R4 and US Core, by HL7's own validator: one of each kind.

The tests of both services are run for it, in processes of their own, and what their services committed is looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.fhir.json import Resource, parse
from shared.testing.hl7_validator import Hl7Validator
from tests.feature_map import ROOT
from tests.hl7 import errors, us_core_profiles
from tests.integration.services.emitted import KEPT_IN, RAISED, kind_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FOLDER = Path(__file__).parent
OURS = sorted(path for pattern in ("test_sessions*.py", "test_outcomes*.py") for path in FOLDER.glob(pattern))
APART = ["-n", "2", "-p", "no:cacheprovider", "-m", "not slow and not kafka and not e2e", "-q"]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[object, str]:
    """One resource of each kind, as the tests of sessions and outcomes had them written."""
    folder = tmp_path_factory.mktemp("emitted")
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *APART, *map(str, OURS)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), KEPT_IN: str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    texts = [text for file in folder.glob("*.json") for text in json.loads(file.read_text(encoding="utf-8"))]
    return {kind_of(parse(text.encode())): text for text in texts}


def test_each_kind_of_resource_that_was_emitted_is_valid_by_hl7s_validator(
    kinds: dict[object, str], hl7_validator: Hl7Validator
) -> None:
    resources: list[tuple[str, Resource]] = [(text, parse(text.encode())) for text in kinds.values()]
    assert {resource["resourceType"] for _, resource in resources} >= RAISED
    found = [
        "\n".join((text, *wrong))
        for text, resource in resources
        if (wrong := errors(hl7_validator, text, *us_core_profiles(resource)))
    ]
    if found:
        pytest.fail(f"{len(found)} of {len(kinds)} kinds are not valid:\n\n" + "\n\n".join(found))
