"""RxNorm in Rich Release Format: ``RXNCONSO.RRF`` and ``RXNREL.RRF``, in an archive or a folder.

FHIR gives RxNorm no hierarchy. Rules of a clinic ask whether a drug holds an ingredient, so the codes above a drug are
here what RxNorm's own relations lead to: its clinical drug, components, forms and ingredients.
Source: https://www.nlm.nih.gov/research/umls/rxnorm/docs/techdoc.html, sections 12.4 and 12.7
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from shared.terminology.files.source import Source
from shared.terminology.release import CannotRead, CodeSystemRelease, LoadedCode

URL: Final = "http://www.nlm.nih.gov/research/umls/rxnorm"
_CONCEPTS: Final = r"RXNCONSO\.RRF(\.gz)?"
_RELATIONS: Final = r"RXNREL\.RRF(\.gz)?"
_UP: Final = frozenset(
    ("isa", "has_ingredient", "has_ingredients", "has_precise_ingredient", "consists_of", "tradename_of", "form_of",
     "contains", "has_part")
)  # fmt: skip
"""Relations from a drug to what it is a kind of or holds."""
_RXNORM: Final = "RXNORM"
_NAMES: Final = ("SCD", "SBD", "GPCK", "BPCK", "IN", "PIN", "MIN", "BN", "SCDC", "SBDC", "SCDF", "SBDF", "SCDG", "SBDG",
                 "DF", "DFG", "SY", "TMSY", "PSN", "ET")  # fmt: skip
"""Term types, the one that names a concept first."""
_CONSO_FIELDS: Final = 18
_REL_FIELDS: Final = 16


def is_release(source: Source) -> bool:
    """Tell whether a source is a release of RxNorm."""
    return source.find(_CONCEPTS) is not None


def read(source: Source) -> CodeSystemRelease:
    """Return the release: concepts of RxNorm itself, not those of the vocabularies it was made from.

    Raises:
        CannotRead: a file of the release is missing or not what it is named.

    """
    concepts_file = source.need(_CONCEPTS, "concepts (RXNCONSO.RRF)")
    relations_file = source.need(_RELATIONS, "relations (RXNREL.RRF)")
    named: dict[str, tuple[int, str, bool]] = {}
    for row in _rows(source, concepts_file, _CONSO_FIELDS):
        code, vocabulary, kind, name, suppressed = row[0], row[11], row[12], row[14], row[16]
        if vocabulary != _RXNORM:
            continue
        rank = _NAMES.index(kind) if kind in _NAMES else len(_NAMES)
        if code not in named or rank < named[code][0]:
            named[code] = (rank, name, suppressed not in {"O", "E"})
    if not named:
        raise CannotRead(f"{concepts_file} has no concepts of RxNorm.")
    parents = frozenset(
        (row[4], row[0])
        for row in _rows(source, relations_file, _REL_FIELDS)
        if row[7] in _UP and row[10] == _RXNORM and row[0] in named and row[4] in named
    )
    return CodeSystemRelease(
        URL,
        _version(source),
        "RxNorm",
        source.digest(concepts_file, relations_file),
        {code: LoadedCode(name, active) for code, (_, name, active) in named.items()},
        parents,
    )


def _rows(source: Source, name: str, fields: int) -> Iterator[list[str]]:
    with source.text(name) as file:
        for number, line in enumerate(file, 1):
            row = line.rstrip("\r\n").split("|")
            if len(row) < fields:
                raise CannotRead(f"{name} is not in Rich Release Format: line {number} has {len(row)} fields.")
            yield row


def _version(source: Source) -> str:
    found = re.search(r"(?<!\d)(\d{8})(?!\d)", source.path.name)
    return found[1] if found else ""
