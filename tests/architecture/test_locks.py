"""The lock files: whole, agreeing with each other and with what pyproject.toml asks for, and bound to no address."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import source
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCKS = {"": "requirements.lock", "local": "requirements-local.lock", "test": "requirements-test.lock"}
OWNERS = packages_distributions()
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def text(lock: str) -> str:
    return (source.ROOT / lock).read_text(encoding="utf-8")


def pins(lock: str) -> dict[str, set[Version]]:
    found: dict[str, set[Version]] = {}
    for name, version in PIN.findall(text(lock)):
        found.setdefault(canonicalize_name(name), set()).add(Version(version))
    return found


@cache
def asked(extra: str) -> list[Requirement]:
    project = tomllib.loads((source.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    extras = {"": (), "local": ("local",), "test": ("local", "test")}[extra]
    for one in extras:
        wanted += project["optional-dependencies"][one]
    return [Requirement(line) for line in wanted]


@pytest.mark.parametrize("extra", LOCKS)
def test_what_is_asked_for_is_pinned(extra: str) -> None:
    pinned = pins(LOCKS[extra])
    for requirement in asked(extra):
        versions = pinned.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement.name} is missing: run tools/lock.sh"
        assert all(requirement.specifier.contains(version) for version in versions), requirement.name


@pytest.mark.parametrize("lock", LOCKS.values())
def test_every_pin_has_hashes_and_no_line_an_address(lock: str) -> None:
    for block in re.split(r"\n(?=[A-Za-z0-9])", text(lock)):
        assert "--hash=sha256:" in block, block[:60]
    assert not re.search(r"://|--index|--find-links|--extra-index", text(lock))


def test_the_larger_locks_hold_the_smaller_ones_in_the_same_versions() -> None:
    runtime, local, test = (pins(lock) for lock in LOCKS.values())
    assert runtime.items() <= local.items() <= test.items()


NEEDS = {
    "services": "",
    "shared": "",
    "shared/local": "local",
    "shared/testing": "test",
    "cli": "local",
}
"""What a part of the source may import, by the extra it is installed with; the longest path counts."""


@pytest.mark.parametrize("path", source.modules(*source.PACKAGES), ids=source.name)
def test_what_is_imported_is_asked_for_where_it_is_needed(path: Path) -> None:
    home = max((part for part in NEEDS if source.name(path).startswith(f"{part}/")), key=len)
    declared = {canonicalize_name(requirement.name) for requirement in asked(NEEDS[home])}
    missing = {}
    for module in {name.split(".")[0] for name in source.imports(path)} - sys.stdlib_module_names - {*source.PACKAGES}:
        providers = {canonicalize_name(name) for name in OWNERS.get(module, [module])}
        if not providers & declared:
            missing[module] = sorted(providers)
    assert not missing, f"add to pyproject.toml, then run tools/lock.sh: {missing}"
