"""The summary of a visit: its sections as tables, their narrative, and what the record does not say. Pure functions.

Source: https://hl7.org/fhir/R4/composition.html; the contents are those of a KAP dosing note (drug, times, vital signs,
alarms, adverse events, discharge). What was said in the session is no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from shared.fhir.codes import ID_SUMMARY, LOINC, Code
from shared.fhir.json import Resource

PROCEDURE_NOTE: Final = Code(LOINC, "78472-8", "Mental health Procedure note")
PROGRESS_NOTE: Final = Code(LOINC, "34904-3", "Mental health Progress note")
CONSULT_NOTE: Final = Code(LOINC, "34788-0", "Psychiatry Consult note")
TYPES: Final = {"kap-dosing": PROCEDURE_NOTE, "kap-consult": CONSULT_NOTE, "kap-screen": CONSULT_NOTE}
"""The type of document by the kind of visit; of every other a progress note."""
MEDICATIONS: Final = Code(LOINC, "29549-3", "Medication administered Narrative")
VITALS: Final = Code(LOINC, "8716-3", "Vital signs")
XHTML: Final = "http://www.w3.org/1999/xhtml"


SIGNED: Final = ("final", "amended")


def is_signed(resource: Resource) -> bool:
    """Tell whether a Composition or DocumentReference is a summary of a visit that was signed."""
    names = resource.get("identifier", [])
    own = any(one.get("system") == ID_SUMMARY for one in (names if isinstance(names, list) else [names]))
    return own and (resource.get("docStatus") or resource.get("status")) in SIGNED


def is_tampered_with(before: Resource | None, after: Resource | None) -> bool:
    """Tell whether a change by hand is of a signed summary, and more than that it is said to be an error."""
    return before is not None and is_signed(before) and (after or {}).get("status") != "entered-in-error"


@dataclass(frozen=True, slots=True)
class Section:
    """A section: its title, code, a table (head and rows), and the references it stands on."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    entries: Sequence[str] = ()
    code: Code | None = None

    @property
    def div(self) -> str:
        """The table as XHTML."""
        if not self.rows:
            return f'<div xmlns="{XHTML}"><p>Nothing is recorded.</p></div>'
        head = "".join(f"<th>{escape(one)}</th>" for one in self.head)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        return f'<div xmlns="{XHTML}"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'

    @property
    def lines(self) -> list[str]:
        """The table as lines of text, its columns one under the other."""
        if not self.rows:
            return ["  Nothing is recorded."]
        table = [self.head, *self.rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(self.head))]
        padded = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        return [f"  {line.rstrip()}" for line in padded]

    def as_fhir(self) -> dict[str, Any]:
        """Return `Composition.section`."""
        said: dict[str, Any] = {
            "title": self.title,
            "code": None if self.code is None else self.code.concept(),
            "text": {"status": "generated", "div": self.div},
            "entry": [{"reference": one} for one in self.entries] or None,
        }
        return {key: value for key, value in said.items() if value is not None}


def as_text(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the whole summary as plain text, for readers that show no FHIR."""
    lines = [title, *about]
    for section in sections:
        lines += ["", section.title, *section.lines]
    return "\n".join(lines) + "\n"


def same_content(one: Resource | None, other: Resource) -> bool:
    """Tell whether two Compositions say the same, whenever they were written, and whoever attested them."""
    return one is not None and all(one.get(name) == other.get(name) for name in ("section", "type", "subject", "title"))


def status_of(held: Resource | None, *, signed: bool, changed: bool) -> str:
    """Return the status of a summary: preliminary until it is signed, amended when a signed one says something else."""
    before = None if held is None else held["status"]
    if before in ("final", "amended"):
        return "amended" if changed else str(before)
    return "final" if signed else "preliminary"
