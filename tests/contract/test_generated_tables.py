"""The tables of definitions and profiles, and the guide, are what their generators make."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

from shared.fhir.definitions import FOLDER
from tests.data import shared_data

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_definitions_are_what_their_generator_makes_of_the_packages() -> None:
    known = json.loads((FOLDER / "ids.json").read_text("utf-8"))
    made = tool("generate_definitions").generate(shared_data("packages"), known)
    assert set(made) == {file.name for file in FOLDER.glob("*.json")}
    for name, text in made.items():
        assert text == (FOLDER / name).read_text("utf-8"), f"{name} differs: run tools/generate_definitions.py"


def test_the_profiles_are_what_their_generator_makes_of_the_packages() -> None:
    for name, text in tool("generate_profiles").generate(shared_data("packages")).items():
        assert text == (ROOT / name).read_text("utf-8"), f"{name} differs: run tools/generate_profiles.py"


def test_the_implementation_guide_is_what_is_published() -> None:
    text = (ROOT / "docs" / "implementation-guide.md").read_text("utf-8")
    assert tool("render_guide").rendered() == text, "run tools/render_guide.py"
    assert text.count("\n### ") >= 7


def test_numbers_once_given_stay_and_new_names_follow() -> None:
    numbered = tool("generate_definitions").numbered
    assert numbered(["a", "b", "c"], {"z": 7, "b": 2}) == {"z": 7, "b": 2, "a": 8, "c": 9}
