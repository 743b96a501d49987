"""What a medication resource is about: the CodeableConcept it carries, holds inside or refers to; its ingredients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from shared.fhir.cited import ValueSet
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
    medication = await _named(record, named, resource.get("contained", []))
    if medication is not None:
        return medication.get("code")
    return {"text": named["display"]} if "display" in named else None


async def substances_of(record: Reader, resource: Resource) -> list[Resource]:
    """Return every CodeableConcept that says what a resource's medication is: its own, and those of its ingredients.

    A preparation of several drugs is each of them: what is mixed into it counts as if it were given alone. An
    ingredient of which nothing is known is an empty concept, never left out.
    """
    own = await medication_of(record, resource)
    inside = resource.get("contained", [])
    medication = await _named(record, resource.get("medicationReference", {}), inside)
    return [*([] if own is None else [own]), *await _ingredients(record, medication, inside, MOST_DEEP)]


MOST_DEEP: Final = 4
"""How deep preparations are looked into that are made of preparations; what is below is not known."""


async def _ingredients(
    record: Reader, medication: Resource | None, inside: Iterable[Resource], deep: int
) -> list[Resource]:
    found: list[Resource] = []
    held = [*inside, *(medication or {}).get("contained", [])]
    for part in (medication or {}).get("ingredient", []):
        if "itemCodeableConcept" in part:
            found.append(part["itemCodeableConcept"])
            continue
        reference = part.get("itemReference", {})
        item = await _named(record, reference, held) if deep else None
        named = [one for one in ((item or {}).get("code"), _display(reference)) if one is not None]
        further = await _ingredients(record, item, held, deep - 1) if item else []
        found.extend([*named, *further] or [{}])
    return found


def is_named(substances: Sequence[Resource], sets: Mapping[str, ValueSet]) -> bool:
    """Tell whether a medication says what it is: in words, or by a code that the clinic's value sets know."""
    said = [one.get("text") or any(coding.get("display") for coding in one.get("coding", [])) for one in substances]
    return any(said) or any(known.holds(one) for known in sets.values() for one in substances)


def _display(reference: Resource | None) -> Resource | None:
    return {"text": reference["display"]} if reference is not None and "display" in reference else None


async def _named(record: Reader, reference: Resource, contained: Iterable[Resource]) -> Resource | None:
    """Return what a Reference names: inside the resource, or a Medication that is held."""
    literal = str(reference.get("reference", ""))
    if literal.startswith("#"):
        return next((one for one in contained if one.get("id") == literal.removeprefix("#")), None)
    parts = literal.partition("/_history/")[0].split("/")
    return await record.get("Medication", parts[-1]) if parts[-2:-1] == ["Medication"] else None
