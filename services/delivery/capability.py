"""What a destination accepts, read from its CapabilityStatement when it is connected to; no I/O here.

Hospital EHRs accept little: of what is pushed, Epic creates neither Encounter nor MedicationAdministration, Oracle
Health no MedicationAdministration. What is not accepted is counted and shown, never dropped without a word.

Source: https://hl7.org/fhir/R4/capabilitystatement.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.fhir.json import Json

PUSHED_TYPES: tuple[str, ...] = (
    "Patient",
    "Encounter",
    "Condition",
    "MedicationAdministration",
    "Observation",
    "DocumentReference",
)
"""The types that are pushed, in the order in which references between them usually point."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The interactions a destination offers, by type: ``{"Observation": {"create", "update", "search-type"}}``."""

    interactions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    software: str = ""

    def can(self, interaction: str, type_: str) -> bool:
        """Return whether `interaction` (``create``, ``update``, ``delete``, ``search-type``) is offered for `type_`."""
        return interaction in self.interactions.get(type_, frozenset())

    @property
    def not_accepted(self) -> tuple[str, ...]:
        """Of the types that are pushed, those that the destination does not let anyone create."""
        return tuple(type_ for type_ in PUSHED_TYPES if not self.can("create", type_))


def accepted_by(statement: Json) -> Accepted:
    """Return what the CapabilityStatement offers as a server.

    Raises:
        ValueError: it is not a CapabilityStatement of a FHIR R4 server.

    """
    if not isinstance(statement, dict) or statement.get("resourceType") != "CapabilityStatement":
        raise ValueError("The destination's /metadata is not a CapabilityStatement.")
    version = str(statement.get("fhirVersion", ""))
    if not version.startswith("4.0"):
        raise ValueError(f"The destination speaks FHIR {version or 'of an unknown version'}, not R4 (4.0.1).")
    offered: dict[str, frozenset[str]] = {}
    for rest in statement.get("rest", ()):
        if rest.get("mode") != "server":
            continue
        for resource in rest.get("resource", ()):
            codes = frozenset(str(one.get("code")) for one in resource.get("interaction", ()))
            offered[resource["type"]] = offered.get(resource["type"], frozenset()) | codes
    software = statement.get("software", {})
    return Accepted(offered, " ".join(str(software[part]) for part in ("name", "version") if part in software))
