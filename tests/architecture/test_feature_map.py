"""The feature map: every capability, rule, interaction and instrument has its row, and every named test exists."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from shared.fhir.codes import RULE
from shared.runtime.policy import load_policy
from shared.terminology import shipped
from tests.feature_map import ATTACKS, MAP, NODE, ROOT, MapInRun, functions, named, rows

TEXT = MAP.read_text(encoding="utf-8")
ROWS = rows(TEXT)
NAMED = named(TEXT)
POLICY = load_policy()
NO_SOFTWARE = frozenset(("1", "45", "46", "47", "48"))
"""Capabilities that are education or context: nothing to call."""
RULES = frozenset(f"E{number:02}" for number in range(1, 27))


@pytest.mark.parametrize("number", [str(number) for number in range(1, 50)])
def test_every_capability_of_the_clinics_has_its_row(number):
    row = ROWS[number]
    if number in NO_SOFTWARE:
        assert "education" in row or "context" in row
    else:
        assert NODE.search(row)


@pytest.mark.parametrize("rule", sorted(RULES | set(POLICY.sections["eligibility"]["rules"])))
def test_every_rule_of_eligibility_has_its_row_and_test(rule):
    assert NODE.search(ROWS[rule])


@pytest.mark.parametrize("rule", sorted(POLICY.sections["interactions"]))
def test_every_interaction_has_its_row_and_test(rule):
    assert NODE.search(ROWS[rule])


@pytest.mark.parametrize(
    "instrument", sorted(name.split("/")[1] for name in POLICY.sections if name.startswith("instruments/"))
)
def test_every_instrument_has_its_row_and_test(instrument):
    assert NODE.search(ROWS[instrument])


PROVED = " ".join(row for row in ROWS.values() if NODE.search(row))
"""All rows that name a test."""
CODES = sorted(shipped.systems()[RULE].concepts)
LISTS = {
    "cadence": POLICY.sections["monitoring"]["cadences"],
    "alarm": POLICY.sections["alarms"]["limits"],
    "most": POLICY.sections["dosing"]["maxima"],
    "leaving": POLICY.sections["discharge"]["answers"],
    "consent": POLICY.sections["consent"]["elements"],
    "ladder": POLICY.sections["escalation"]["ladders"],
    "climbs": POLICY.sections["escalation"]["tasks"],
    "moment": [one["after"] for one in POLICY.sections["outcomes"]["schedule"].values()],
    "surveillance": [one["task"] for one in POLICY.sections["outcomes"]["surveillance"].values()],
    "measure": POLICY.sections["measures"]["measures"],
}
"""What else the policies list by name."""
SECTIONS = ("2.2", "2.3", "2.4", "2.5", "2.6", "2.8", "2.9", "3.2", "6.1", "6.3")
"""Sections of the domain's tables that have rows of their own; 2.1 and 2.7 are eligibility and interactions."""


def is_told(name: str, text: str = PROVED) -> bool:
    """Tell whether a code stands in a row that names a test, as a word of its own."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_a_rule_has_its_row_and_test(code):
    assert is_told(code)


@pytest.mark.parametrize(("of", "name"), sorted({(of, name) for of, names in LISTS.items() for name in names}))
def test_whatever_a_policy_lists_has_its_row_and_test(of, name):
    assert is_told(name), of


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_of_the_rules_has_its_rows(section):
    assert f"({section})" in PROVED


def test_a_code_is_told_by_its_own_name_and_not_by_a_longer_one():
    assert not is_told("G-BP", "| G-BP-STOP | `tests/a.py::test_b` |")
    assert is_told("G-BP", "| G-BP, G-BP-STOP | `tests/a.py::test_b` |")


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_every_named_test_exists(path):
    assert {name for file, name in NAMED if file == path} - functions(ROOT / path) == set()


def test_a_row_names_its_tests_in_full():
    mentions = [part for row in ROWS.values() for part in row.split("`") if part.startswith("tests/")]
    assert [part for part in mentions if not NODE.fullmatch(f"`{part}`")] == []


def test_a_run_is_complete_only_when_nothing_was_left_out():
    option = SimpleNamespace(markexpr="not slow", keyword="", collectonly=False)
    config = SimpleNamespace(option=option, args_source=pytest.Config.ArgsSource.TESTPATHS)
    session = SimpleNamespace(shouldstop=False, shouldfail=False)
    assert MapInRun(config).is_complete(session)
    option.keyword = "dose"
    assert not MapInRun(config).is_complete(session)
    option.keyword = ""
    session.shouldfail = "stopping after 1 failure"
    assert not MapInRun(config).is_complete(session)
    session.shouldfail = False
    config.args_source = pytest.Config.ArgsSource.ARGS
    assert not MapInRun(config).is_complete(session)


def test_a_complete_run_in_which_a_named_test_did_not_run_fails():
    option = SimpleNamespace(markexpr="", keyword="", collectonly=False)
    said = []
    reporter = SimpleNamespace(write_line=lambda line, **_: said.append(line))
    plugins = SimpleNamespace(get_plugin=lambda _: reporter)
    config = SimpleNamespace(option=option, args_source=pytest.Config.ArgsSource.TESTPATHS, pluginmanager=plugins)
    run = MapInRun(config)
    everything = sorted(NAMED | named(ATTACKS.read_text(encoding="utf-8")))
    for path, name in everything[1:]:
        run.pytest_runtest_logreport(SimpleNamespace(when="call", passed=True, nodeid=f"{path}::{name}[case]"))
    session = SimpleNamespace(shouldstop=False, shouldfail=False, exitstatus=pytest.ExitCode.OK)
    run.pytest_sessionfinish(session)
    assert session.exitstatus == pytest.ExitCode.TESTS_FAILED
    assert "::".join(everything[0]) in said[0]
    path, name = everything[0]
    run.pytest_runtest_logreport(SimpleNamespace(when="call", passed=True, nodeid=f"{path}::{name}"))
    session.exitstatus = pytest.ExitCode.OK
    run.pytest_sessionfinish(session)
    assert session.exitstatus == pytest.ExitCode.OK
