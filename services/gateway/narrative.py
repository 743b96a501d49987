"""What a section of a document says to a person: a list in XHTML, made of the resources of the section.

Source: https://hl7.org/fhir/R4/narrative.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from shared.fhir.json import Resource

_ABOUT: Final = ("code", "medicationCodeableConcept", "vaccineCode", "category")
_TIMES: Final = (
    *("effectiveDateTime", "performedDateTime", "occurrenceDateTime", "onsetDateTime", "authoredOn", "date"),
    *("effectivePeriod", "performedPeriod", "onsetPeriod", "period", "effectiveInstant", "performedString"),
    *("occurrenceString", "onsetString", "recordedDate", "dateAsserted", "issued"),
)
_STATUS: Final = ("clinicalStatus", "status")


def narrative(resources: Sequence[Resource], beside: Mapping[str, Resource], *, otherwise: str = "") -> Resource:
    """Return a Narrative with a line for each resource; of none it says `otherwise`."""
    lines = "".join(f"<li>{escape(_printable(line_of(one, beside)), quote=False)}</li>" for one in resources)
    inside = f"<ul>{lines}</ul>" if lines else f"<p>{escape(_printable(otherwise), quote=False)}</p>"
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{inside}</div>'}


def _printable(text: str) -> str:
    """Return text without what XML 1.0 cannot hold."""
    return "".join(
        one if one in "\t\n" or (ord(one) >= 0x20 and ord(one) not in (0xFFFE, 0xFFFF)) else " " for one in text
    )


def line_of(resource: Resource, beside: Mapping[str, Resource]) -> str:
    """Return what a resource says, in a line: what it is about, its values, its status, its time."""
    parts = [_about(resource, beside), *_values(resource)]
    line = ": ".join((parts[0], "; ".join(parts[1:]))) if parts[1:] else parts[0]
    details = [text for text in (_status(resource), _time(resource)) if text]
    return f"{line} ({', '.join(details)})" if details else line


def _about(resource: Resource, beside: Mapping[str, Resource]) -> str:
    for element in _ABOUT:
        value = resource.get(element)
        said = text_of(value[0] if isinstance(value, list) and value else value)
        if said:
            return said
    reference = resource.get("medicationReference") or {}
    medication = beside.get(str(reference.get("reference", "")), {})
    return (
        str(reference.get("display") or "")
        or text_of(medication.get("code"))
        or str(resource.get("title") or resource.get("description") or resource["resourceType"])
    )


def text_of(concept: Any) -> str:
    """Return the words of a CodeableConcept: its text, else a display, else a code; empty where it has none."""
    if not isinstance(concept, dict):
        return ""
    codings = concept.get("coding") or []
    for said in (concept.get("text"), *(one.get("display") for one in codings), *(one.get("code") for one in codings)):
        if said:
            return str(said)
    return ""


def _values(resource: Resource) -> Iterator[str]:
    if said := _value(resource):
        yield said
    for component in resource.get("component") or []:
        if said := _value(component):
            yield f"{text_of(component.get('code'))} {said}".strip()
    if resource.get("resourceType") in ("MedicationStatement", "MedicationRequest"):
        for dosage in resource.get("dosage") or resource.get("dosageInstruction") or []:
            if dosage.get("text"):
                yield str(dosage["text"])
    dose = (resource.get("dosage") or {}).get("dose") if isinstance(resource.get("dosage"), dict) else None
    if dose:
        yield _quantity(dose)
    if resource.get("criticality"):
        yield f"criticality {resource['criticality']}"
    for reaction in resource.get("reaction") or []:
        for manifestation in reaction.get("manifestation") or []:
            if said := text_of(manifestation):
                yield said


def _value(element: Resource) -> str:
    if "valueQuantity" in element:
        return _quantity(element["valueQuantity"])
    if "valueCodeableConcept" in element:
        return text_of(element["valueCodeableConcept"])
    for name in ("valueString", "valueInteger", "valueDateTime", "valueTime"):
        if name in element:
            return str(element[name])
    if "valueBoolean" in element:
        return "yes" if element["valueBoolean"] else "no"
    return text_of(element.get("dataAbsentReason"))


def _quantity(quantity: Resource) -> str:
    parts = (quantity.get("comparator"), quantity.get("value"), quantity.get("unit") or quantity.get("code"))
    return " ".join(str(part) for part in parts if part not in (None, ""))


def _status(resource: Resource) -> str:
    for element in _STATUS:
        value = resource.get(element)
        if said := str(value) if isinstance(value, str) else text_of(value):
            return said
    return ""


def _time(resource: Resource) -> str:
    for element in _TIMES:
        value = resource.get(element)
        said = str(value.get("start") or value.get("end") or "") if isinstance(value, dict) else str(value or "")
        if said:
            return said
    return ""
