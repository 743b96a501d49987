"""The table of the floor is whole: every cell names proofs that exist, and every row proves a cell."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

import tests.contract.test_headers_and_rules
import tests.contract.test_interactions
import tests.contract.test_search  # noqa: F401 - each registers its rows
from tests.contract.floor import BESIDE, ELSEWHERE, FLOOR
from tests.contract.server import ROWS
from tests.data import FOLDER

ROOT = Path(__file__).resolve().parents[2]
DESIGN = FOLDER.parent / "design" / "interop.md"
PROOFS = {proof for cells in FLOOR.values() for proofs in cells.values() for proof in proofs}


def is_test(proof: str) -> bool:
    return proof.startswith("tests/")


def test_every_row_proves_a_cell_and_every_row_that_is_named_is_there() -> None:
    named = {proof for proof in PROOFS if not is_test(proof)}
    assert named - set(ROWS) == set()
    assert set(ROWS) - named == set(BESIDE)


@pytest.mark.parametrize("proof", sorted(filter(is_test, PROOFS)))
def test_every_test_that_is_named_is_there(proof: str) -> None:
    path, _, name = proof.partition("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    imported = {one.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for one in node.names}
    found = {one for one in there | imported if one.startswith("test_")}
    assert name in found if name else found


def test_every_area_of_the_design_has_its_cells() -> None:
    if not DESIGN.exists() and os.environ.get("CI") != "true":
        pytest.skip("needs the design in ../shared/design, beside the repository")
    section = DESIGN.read_text("utf-8").split("\n## 1.")[1].split("\n## ")[0]
    areas = re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)[1:]
    assert len(areas) > 15
    assert set(areas) - {"---"} == set(FLOOR) | ELSEWHERE
