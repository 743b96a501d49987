"""Every line of each CapabilityStatement of a running stack answers, and nothing answers that it does not list.

The checks are those of `tests.integration.http.test_conformance`; here the gateway and every service of the stack is
asked, with its own types, rules and operations.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from cli.stack.ports import SERVICES
from tests.e2e.kap import Kap
from tests.integration.http.test_conformance import (
    rest,
    test_a_search_parameter_that_is_not_listed_is_refused_by_name,
    test_a_type_that_is_not_listed_is_not_served,
    test_every_include_that_is_listed_is_taken_and_others_are_not,
    test_every_interaction_of_every_type_that_is_listed_answers,
    test_every_interaction_of_the_system_that_is_listed_answers,
    test_every_operation_that_is_listed_answers_at_its_levels_and_has_its_definition,
    test_every_profile_of_the_project_that_is_listed_can_be_read,
    test_every_search_parameter_that_is_listed_can_be_searched_by,
    test_openapi_lists_what_the_capability_statement_does,
)

__all__ = [
    "rest",
    "test_a_search_parameter_that_is_not_listed_is_refused_by_name",
    "test_a_type_that_is_not_listed_is_not_served",
    "test_every_include_that_is_listed_is_taken_and_others_are_not",
    "test_every_interaction_of_every_type_that_is_listed_answers",
    "test_every_interaction_of_the_system_that_is_listed_answers",
    "test_every_operation_that_is_listed_answers_at_its_levels_and_has_its_definition",
    "test_every_profile_of_the_project_that_is_listed_can_be_read",
    "test_every_search_parameter_that_is_listed_can_be_searched_by",
    "test_openapi_lists_what_the_capability_statement_does",
]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(params=[name for name in SERVICES if name != "hospital"])
async def http(request: pytest.FixtureRequest, played: Kap) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway or of one service."""
    async with httpx.AsyncClient(base_url=played.ports.url(request.param), trust_env=False, timeout=30) as client:
        yield client
