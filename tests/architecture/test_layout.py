"""Who knows one service knows them all; what the documents say is there is there."""

from __future__ import annotations

import ast
import re

import pytest
import source

SERVICES = ("intake", "scheduling", "sessions", "outcomes", "gateway", "delivery", "identity")
FILES = ("README.md", "__init__.py", "service.py", "rules.py", "operations.py", "reactions.py")
RECORDS = sorted((source.ROOT / "docs" / "adr").glob("[0-9]*.md"))
HEADINGS = ("Context", "Decision", "Consequences", "Instead of", "Check")


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("file", FILES)
def test_every_service_has_the_same_files(service: str, file: str) -> None:
    """`rules` may have grown into a package of its own."""
    there = source.ROOT / "services" / service / file
    assert there.is_file() or (there.with_suffix("") / "__init__.py").is_file()


def test_there_is_no_service_that_nobody_knows_of() -> None:
    there = {path.parent.name for path in (source.ROOT / "services").glob("*/service.py")}
    assert there == set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_made_in_one_place_from_its_settings(service: str) -> None:
    text = (source.ROOT / "services" / service / "service.py").read_text(encoding="utf-8")
    assert re.search(r"^def create\(settings: Settings\) -> App:", text, re.MULTILINE)


@pytest.mark.parametrize("service", SERVICES)
def test_the_owner_sheet_fits_on_a_page_and_names_what_it_owns(service: str) -> None:
    text = (source.ROOT / "services" / service / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert "owns" in text.lower()


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_every_decision_names_the_check_that_holds_it(record) -> None:
    text = record.read_text(encoding="utf-8")
    missing = [heading for heading in HEADINGS if f"**{heading}.**" not in text]
    assert not missing
    assert len(text.splitlines()) <= 60, "a decision record is a page"
    check = text.split("**Check.**", 1)[1]
    named = re.findall(r"`([\w./-]+)`", check)
    assert named, "no file is named"
    gone = [path for path in named if "/" in path and not (source.ROOT / path.split("::")[0]).exists()]
    assert not gone


def test_the_list_of_decisions_is_complete() -> None:
    listed = (source.ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    assert [record.name for record in RECORDS if record.name not in listed] == []


@pytest.mark.parametrize("path", source.modules("cli", "services", "shared", "tools"), ids=source.name)
def test_every_module_says_what_it_is_for(path) -> None:
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(source.tree(path))


@pytest.mark.parametrize("path", source.modules("cli", "services", "shared", "tools"), ids=source.name)
def test_every_ignored_warning_has_a_reason_beside_it(path) -> None:
    bare = [
        number
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"#\s*noqa(?!: [A-Z]+\d+(, ?[A-Z]+\d+)* +- \w)", line)
    ]
    assert not bare, f"lines {bare}"
