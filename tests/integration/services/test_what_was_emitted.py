"""What sessions and outcomes of this folder's tests wrote by themselves holds R4 and US Core, by HL7's own validator.

It comes last: what it looks at is what the tests before it, as many as were run, have left.
"""

from __future__ import annotations

import pytest

from shared.fhir.json import parse
from shared.testing.hl7_validator import Hl7Validator
from tests.hl7 import errors, us_core_profiles
from tests.integration.services.emitted import Emitted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_each_kind_of_resource_that_was_emitted_is_valid_by_hl7s_validator(
    emitted: Emitted, hl7_validator: Hl7Validator
) -> None:
    if not emitted.kinds:
        pytest.skip("No other test of this folder was run: there is nothing to look at.")
    found = []
    for text in emitted.kinds.values():
        resource = parse(text.encode())
        if wrong := errors(hl7_validator, text, *us_core_profiles(resource)):
            found.append("\n".join((text, *wrong)))
    if found:
        pytest.fail(f"{len(found)} of {len(emitted.kinds)} kinds are not valid:\n\n" + "\n\n".join(found))
