"""What people are called in the record: for what is printed and read without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.runtime.record import Record

HELD: Final = ("Practitioner", "Patient")


async def name_of(record: Record, reference: Mapping[str, Any] | None) -> str:
    """Return what a Reference calls a person: his display, his name in the record, or the reference itself."""
    if reference is None:
        return ""
    if "display" in reference:
        return str(reference["display"])
    type_, _, id_ = str(reference.get("reference", "")).partition("/")
    held = await record.get(type_, id_) if type_ in HELD and id_ else None
    if held is None:
        return str(reference.get("reference", ""))
    named = (held.get("name") or [{}])[0]
    parts = [*named.get("given", []), named.get("family", ""), *named.get("suffix", [])]
    return str(named.get("text") or " ".join(one for one in parts if one)) or str(reference["reference"])


async def address_of(record: Record, patient: str) -> str:
    """Return the first address of a patient (``Patient/id``) on one line; empty where none is held."""
    held = await record.get("Patient", patient.rpartition("/")[2]) or {}
    said = (held.get("address") or [{}])[0]
    parts = [*said.get("line", []), said.get("city"), said.get("state"), said.get("postalCode")]
    return str(said.get("text") or ", ".join(one for one in parts if one))
