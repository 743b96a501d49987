"""Writes as the runtime makes them, without its guards and validation: for tests of what lies below."""

from __future__ import annotations

from shared.events.envelope import Interaction
from shared.fhir.extraction import compartment_key, extract, labels_of
from shared.fhir.ids import subject_uuid
from shared.fhir.index import IndexRows
from shared.fhir.json import Resource
from shared.store.types import Write


def write_of(resource: Resource, interaction: Interaction = "create", *, expected: int | None = None) -> Write:
    """Return the write of a resource that carries its id; a delete takes the resource as it was before."""
    type_, id_ = resource["resourceType"], resource["id"]
    key = compartment_key(resource, type_, id_)
    deletes = interaction == "delete"
    return Write(
        interaction=interaction,
        type=type_,
        id=id_,
        resource=None if deletes else resource,
        key=key,
        patient=subject_uuid(key.removeprefix("Patient/")) if key.startswith("Patient/") else None,
        labels=() if deletes else labels_of(resource),
        index=IndexRows() if deletes else extract(resource),
        expected=expected,
        request_id="test",
    )
