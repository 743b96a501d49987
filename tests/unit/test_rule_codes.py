"""Every rule that a refusal, a finding or an alarm can name is defined in the published code system of rules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.fhir.codes import RULE
from shared.terminology import shipped

HERE = Path(__file__).resolve().parents[2]
MODULES = [*(HERE / "services").rglob("*.py"), *(HERE / "shared" / "runtime").rglob("*.py")]
CODE = re.compile(r"[A-Z]{1,3}(-[A-Z0-9]+)+|E\d\d|ANSWERS-AGE|MEDICATION-LIST")
NAMES = frozenset(("rule", "unknown"))
"""Members of a policy whose value is a rule's code."""


def written(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module that are codes of rules: by their form, or because they are given as a `rule`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
            yield node.value
        if isinstance(node, ast.Call):
            for one in node.keywords:
                if one.arg == "rule" and isinstance(one.value, ast.Constant) and one.value.value is not None:
                    yield str(one.value.value)
                if one.arg == "rules" and isinstance(one.value, ast.List):
                    yield from (str(each.value) for each in one.value.elts if isinstance(each, ast.Constant))


def named(content: Any) -> Iterator[str]:
    """Yield the codes of rules that a policy names: by `rule`, or as the name of a row."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if key in NAMES and isinstance(value, str):
            yield value
        if isinstance(key, str) and isinstance(value, dict) and CODE.fullmatch(key):
            yield key
        yield from named(value)
    for value in content if isinstance(content, list) else ():
        yield from named(value)


@pytest.fixture(scope="module")
def emitted() -> dict[str, str]:
    """Every rule's code, with a file that writes it."""
    found = {code: str(file) for file in MODULES for code in written(ast.parse(file.read_text("utf-8")))}
    for file in (HERE / "policies").glob("*.yaml"):
        found |= {code: str(file) for code in named(yaml.safe_load(file.read_text("utf-8")))}
    return found


def test_every_rule_that_is_written_is_defined(emitted: dict[str, str]) -> None:
    """A new rule needs a line in shared/terminology/rules.yaml."""
    concepts = shipped.systems()[RULE].concepts
    assert {code: file for code, file in emitted.items() if code not in concepts} == {}
    assert len(emitted) > 100


def test_no_rule_is_defined_that_nobody_writes(emitted: dict[str, str]) -> None:
    assert set(shipped.systems()[RULE].concepts) - set(emitted) == set()


def test_each_rule_says_what_it_asks() -> None:
    for concept in shipped.systems()[RULE].concepts.values():
        assert concept.display != concept.code
        assert (concept.definition or "").endswith(".")
