"""Writes docs/implementation-guide.md from what the server publishes: ``.venv/bin/python tools/render_guide.py``.

A test renders it again and compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shared.fhir.json import parse  # noqa: E402 - after the path that it needs
from shared.fhir.profiles import own  # noqa: E402 - after the path that it needs
from shared.http.conformance import Conformance  # noqa: E402 - after the path that it needs

TARGET = ROOT / "docs" / "implementation-guide.md"
ANY = ("Element", "DomainResource")

BEGIN = """\
# Implementation guide

What this project adds to FHIR R4 and US Core: its profiles, extensions, code systems and value sets. Rendered by
`tools/render_guide.py` from what every service publishes (`GET [base]/StructureDefinition/[name]`, `CodeSystem`,
`ValueSet`); change `shared/fhir/profiles/project.yaml` and `shared/terminology/*.yaml`. How to talk to the server is in
[fhir-api.md](fhir-api.md).

A resource that claims one of the profiles in `meta.profile` is held to it, whoever sends it; what an extension holds is
held to its definition wherever it stands. An extension only adds: without it a resource is read as R4 reads it.
"""


def rendered() -> str:
    """Return the page as Markdown."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    made = own.definitions().values()
    yield BEGIN
    yield "## Profiles"
    for one in made:
        if one["kind"] == "resource":
            yield from _profile(one)
    yield "\n## Extensions\n"
    yield "| extension | on | holds | says |"
    yield "|---|---|---|---|"
    for one in made:
        if one["kind"] != "resource":
            yield _extension(one)
    for type_, title in (("CodeSystem", "Code systems"), ("ValueSet", "Value sets")):
        yield f"\n## {title}\n"
        yield "| canonical | |"
        yield "|---|---|"
        for one in _published(type_):
            yield f"| `{one['url']}` | {one.get('title', one['name'])} |"


def _published(type_: str) -> list[dict[str, Any]]:
    """Return the project's own conformance resources of a type, by canonical."""
    found = Conformance((), (), "project").search(type_, [("_count", "1000")], None, strict=True).entries
    ours = [one for one in (parse(entry.body) for entry in found) if one["url"].startswith(own.BASE)]
    return sorted(ours, key=lambda one: str(one["url"]))


def _profile(one: dict[str, Any]) -> Iterator[str]:
    yield f"\n### {one['id']}: {one['title']}\n"
    yield f"{one['description']} `{one['url']}`, a profile of {_short(one['baseDefinition'])}.\n"
    yield "| element | how often | holds |"
    yield "|---|---|---|"
    for element in one["differential"]["element"][1:]:
        if what := _holds(element):
            yield f"| `{element['id']}` | {_often(element)} | {what} |"
        elif "slicing" not in element:
            yield f"| `{element['id']}` | {_often(element)} | |"


def _often(element: dict[str, Any]) -> str:
    return f"{element['min']}..{element['max']}" if "min" in element else ""


def _holds(element: dict[str, Any]) -> str:
    said = []
    for type_ in element.get("type", ()):
        targets = [_short(one) for one in (*type_.get("profile", ()), *type_.get("targetProfile", ()))]
        said.append(f"{type_['code']} ({', '.join(targets)})" if targets else type_["code"])
    for name, value in element.items():
        if name.startswith(("pattern", "fixed")):
            said.append(f"`{_value(value)}`")
    if "binding" in element:
        said.append(f"a code of `{element['binding']['valueSet']}`")
    return "; ".join(said)


def _value(value: Any) -> str:
    """Return a pattern as a token: ``system|code`` of what is coded, the bar as a table of Markdown wants it."""
    if isinstance(value, dict) and "coding" in value:
        return ", ".join(f"{one['system']}\\|{one['code']}" for one in value["coding"])
    return str(value)


def _extension(one: dict[str, Any]) -> str:
    names = ("anything" if each["expression"] in ANY else each["expression"] for each in one["context"])
    contexts = ", ".join(dict.fromkeys(names))
    elements = one["differential"]["element"]
    parts = [f"`{each['sliceName']}` {each['min']}..{each['max']}" for each in elements if "sliceName" in each]
    values = [
        type_["code"] for each in elements if each["id"] == "Extension.value[x]" for type_ in each.get("type", ())
    ]
    return f"| `{one['id']}` | {contexts} | {', '.join(parts or values)} | {one['description']} |"


def _short(canonical: str) -> str:
    """Return the last part of a canonical: the name by which people know it."""
    return canonical.rpartition("/")[2]


if __name__ == "__main__":
    TARGET.write_text(rendered(), "utf-8")
