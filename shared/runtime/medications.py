"""What a medication resource is about: the CodeableConcept it carries, holds inside, or refers to."""

from __future__ import annotations

from typing import Protocol

from shared.fhir.json import Resource


class Reader(Protocol):
    """Whatever resources can be read from: a `Record`, or the versions that a decision was made on."""

    async def get(self, type_: str, id_: str) -> Resource | None:
        """Return the resource, None where there is none."""
        ...


async def medication_of(record: Reader, resource: Resource) -> Resource | None:
    """Return the CodeableConcept of the medication a resource is about, None where it is not known."""
    if "medicationCodeableConcept" in resource:
        concept: Resource = resource["medicationCodeableConcept"]
        return concept
    named = resource.get("medicationReference", {})
    literal = str(named.get("reference", ""))
    if literal.startswith("#"):
        inside = [one for one in resource.get("contained", []) if one.get("id") == literal.removeprefix("#")]
        return inside[0].get("code") if inside else None
    parts = literal.partition("/_history/")[0].rsplit("/", 1)
    medication = await record.get("Medication", parts[-1]) if literal else None
    if medication is not None:
        return medication.get("code")
    return {"text": named["display"]} if "display" in named else None
