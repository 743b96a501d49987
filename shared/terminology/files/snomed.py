"""SNOMED CT in Release Format 2: a snapshot as it is published, a zip archive or the folder of it.

Read are concepts, descriptions, the language reference set where there is one, and the inferred "is a" relationships.
Source: https://confluence.ihtsdotools.org/display/DOCRELFMT, 5 Component Release Files
"""

from __future__ import annotations

import csv
import re
from typing import Final

from shared.terminology.files.source import Source
from shared.terminology.release import CannotRead, CodeSystemRelease, LoadedCode

URL: Final = "http://snomed.info/sct"
_IS_A: Final = "116680003"
_FULL_NAME: Final = "900000000000003001"
_SYNONYM: Final = "900000000000013009"
_PREFERRED: Final = "900000000000548007"
_CONCEPTS: Final = r"x?sct2_Concept_Snapshot_.*\.txt"


def is_release(source: Source) -> bool:
    """Tell whether a source is a release of SNOMED CT."""
    return source.find(_CONCEPTS) is not None


def read(source: Source) -> CodeSystemRelease:
    """Return the release: every concept with its preferred term where that is told, else its fully specified name.

    Raises:
        CannotRead: a file of the release is missing or not what it is named.

    """
    concepts_file = source.need(_CONCEPTS, "concepts (sct2_Concept_Snapshot_...)")
    names_file = source.need(r"x?sct2_Description_Snapshot-en.*\.txt", "English descriptions (sct2_Description_...)")
    edges_file = source.need(r"x?sct2_Relationship_Snapshot_.*\.txt", "relationships (sct2_Relationship_Snapshot_...)")
    language_file = source.find(r"x?der2_cRefset_LanguageSnapshot-en.*\.txt")
    preferred = set()
    if language_file is not None:
        preferred = {
            row["referencedComponentId"]
            for row in _active(source, language_file)
            if row["acceptabilityId"] == _PREFERRED
        }
    names: dict[str, str] = {}
    terms: dict[str, str] = {}
    for row in _active(source, names_file):
        if row["typeId"] == _FULL_NAME:
            names[row["conceptId"]] = row["term"]
        elif row["typeId"] == _SYNONYM and row["id"] in preferred:
            terms[row["conceptId"]] = row["term"]
    concepts = {
        row["id"]: LoadedCode(terms.get(row["id"]) or names.get(row["id"], row["id"]), row["active"] == "1")
        for row in _rows(source, concepts_file)
    }
    parents = frozenset(
        (row["sourceId"], row["destinationId"]) for row in _active(source, edges_file) if row["typeId"] == _IS_A
    )
    if not concepts:
        raise CannotRead(f"{concepts_file} has no concepts.")
    files = [name for name in (concepts_file, names_file, language_file, edges_file) if name is not None]
    return CodeSystemRelease(URL, _version(concepts_file), "SNOMED CT", source.digest(*files), concepts, parents)


def _version(name: str) -> str:
    found = re.search(r"_(\d{8})\.txt$", name)
    return found[1] if found else ""


def _rows(source: Source, name: str) -> list[dict[str, str]]:
    rows = list(source.rows(name, "\t", csv.QUOTE_NONE))
    if rows and "active" not in rows[0]:
        raise CannotRead(f"{name} is no file of Release Format 2: it has no column 'active'.")
    return rows


def _active(source: Source, name: str) -> list[dict[str, str]]:
    return [row for row in _rows(source, name) if row["active"] == "1"]
