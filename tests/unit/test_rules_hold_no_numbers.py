"""Clinical numbers are policy: clinical `rules` hold no number but -1, 0 and 1, await nothing and do no I/O."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SERVICES = Path(__file__).resolve().parents[2] / "services"
CLINICAL = ("intake", "scheduling", "sessions", "outcomes")
RULES = [
    path
    for name in CLINICAL
    for path in sorted((SERVICES / name).rglob("*.py"))
    if "rules" in path.relative_to(SERVICES).with_suffix("").parts
]


def numbers(tree: ast.AST) -> list[tuple[int, object]]:
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, int | float | complex)
        and not isinstance(node.value, bool)
        and node.value not in (0, 1)
    ]


def test_every_clinical_service_has_rules():
    assert {path.relative_to(SERVICES).parts[0] for path in RULES} == set(CLINICAL)


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.relative_to(SERVICES).as_posix())
def test_rules_hold_no_number_of_their_own(path):
    assert numbers(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.relative_to(SERVICES).as_posix())
def test_rules_await_nothing_and_open_nothing(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    waiting = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    assert [node for node in ast.walk(tree) if isinstance(node, waiting)] == []
    calls = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert "open" not in calls


def test_the_check_sees_a_number():
    assert numbers(ast.parse("if pressure >= 160: pass")) == [(1, 160)]
    assert numbers(ast.parse("x = [-1, 0, 1, True]")) == []
