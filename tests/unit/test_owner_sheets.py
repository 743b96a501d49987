"""Each clinical service's README says what the code is: types, events taken in, operations and rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.intake.service import intake
from services.outcomes.service import outcomes
from services.scheduling.service import scheduling
from services.sessions.service import sessions
from shared.runtime.policy import load_policy

SERVICES = Path(__file__).resolve().parents[2] / "services"
POLICY = load_policy()
BUILT = [factory(POLICY) for factory in (intake, scheduling, sessions, outcomes)]
SHEETS = {service.name: (SERVICES / service.name / "README.md").read_text(encoding="utf-8") for service in BUILT}
RULE = re.compile(r'"([A-Z]{1,2}-[A-Z0-9-]+)"')
NAMED = re.compile(r"\b[A-Z][A-Za-z]+\b")


def part(service, title):
    return SHEETS[service.name].split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("service", BUILT, ids=lambda service: service.name)
def test_the_sheet_names_the_types_the_service_owns_and_no_other(service):
    known = {type_ for other in BUILT for type_ in other.types}
    assert set(NAMED.findall(part(service, "Owns"))) & known == service.types


@pytest.mark.parametrize("service", BUILT, ids=lambda service: service.name)
def test_the_sheet_names_what_the_service_takes_in_and_from_whom(service):
    rows = [line.split("|") for line in part(service, "Takes in").splitlines() if line.startswith("| ")][1:]
    assert {row[1].strip() for row in rows} == set(service.consumes)
    assert {type_.strip() for row in rows for type_ in row[2].split(",")} == service.holds
    assert set(service.reactions) <= service.holds


@pytest.mark.parametrize("service", BUILT, ids=lambda service: service.name)
def test_the_sheet_names_the_operations(service):
    assert set(re.findall(r"/\$([a-z-]+)", part(service, "Operations"))) == {one.name for one in service.operations}


@pytest.mark.parametrize("service", BUILT, ids=lambda service: service.name)
def test_the_sheet_names_every_rule_that_the_code_can_refuse_by(service):
    found = {
        rule
        for path in (SERVICES / service.name).rglob("*.py")
        for rule in RULE.findall(path.read_text(encoding="utf-8"))
    }
    sheet = part(service, "Promises")
    assert found
    assert {rule for rule in found if rule not in sheet} == set()


@pytest.mark.parametrize("service", BUILT, ids=lambda service: service.name)
def test_every_type_that_is_guarded_or_operated_on_is_offered(service):
    assert set(service.guards) <= service.types
    assert {operation.type for operation in service.operations} <= service.types
