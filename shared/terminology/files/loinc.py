"""LOINC as it is published: the table ``Loinc.csv`` and ``ComponentHierarchyBySystem.csv``, in an archive or a folder.

Source: https://loinc.org/kb/users-guide/loinc-database-structure/
"""

from __future__ import annotations

import csv
import re
from typing import Final

from shared.terminology.files.source import Source
from shared.terminology.release import CannotRead, CodeSystemRelease, LoadedCode

URL: Final = "http://loinc.org"
_TABLE: Final = r"Loinc\.csv"
_HIERARCHY: Final = r"(ComponentHierarchyBySystem|MultiAxialHierarchy)\.csv"
_GONE: Final = frozenset(("DEPRECATED", "DISCOURAGED"))


def is_release(source: Source) -> bool:
    """Tell whether a source is a release of LOINC."""
    return source.find(_TABLE) is not None


def read(source: Source) -> CodeSystemRelease:
    """Return the release; without the hierarchy's file no code is above another.

    Raises:
        CannotRead: the table is missing or not what it is named.

    """
    table = source.need(_TABLE, "terms (Loinc.csv)")
    concepts: dict[str, LoadedCode] = {}
    for row in source.rows(table, ",", csv.QUOTE_MINIMAL):
        try:
            name = row["LONG_COMMON_NAME"] or row["COMPONENT"]
            concepts[row["LOINC_NUM"]] = LoadedCode(name, row["STATUS"] not in _GONE)
        except KeyError as error:
            raise CannotRead(f"{table} has no column {error}.") from error
    if not concepts:
        raise CannotRead(f"{table} has no terms.")
    hierarchy = source.find(_HIERARCHY)
    parents = set()
    if hierarchy is not None:
        for row in source.rows(hierarchy, ",", csv.QUOTE_MINIMAL):
            code, parent = row.get("CODE"), row.get("IMMEDIATE_PARENT")
            if code is None or parent is None:
                raise CannotRead(f"{hierarchy} has no columns CODE and IMMEDIATE_PARENT.")
            concepts.setdefault(code, LoadedCode(row.get("CODE_TEXT") or code))
            if parent:
                parents.add((code, parent))
    files = [name for name in (table, hierarchy) if name is not None]
    return CodeSystemRelease(URL, _version(source), "LOINC", source.digest(*files), concepts, frozenset(parents))


def _version(source: Source) -> str:
    found = re.search(r"(?<!\d)(\d\.\d\d)(?!\d)", " ".join([source.path.name, *source.names()]))
    return found[1] if found else ""
