"""The operations that the gateway offers: its own `$everything` and `$summary`, and those of the owners behind it."""

from __future__ import annotations

from services.gateway.catalog import FORWARDED
from services.gateway.summary import SUMMARY
from shared.fhir.json import Resource
from shared.fhir.outcome import MethodNotAllowed
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall


async def _paged(call: OperationCall, _record: Record) -> Resource:
    """Refuse: `services.gateway.everything` answers it from stored bytes, page by page, without a transaction."""
    raise MethodNotAllowed(f"{call.type}/${call.name} is asked over FHIR only.")


EVERYTHING = Operation(
    "everything",
    "Patient",
    "instance",
    _paged,
    affects_state=False,
    documentation="The patient's compartment, page by page. Parameters: _type, _since, start, end, _count.",
    definition="http://hl7.org/fhir/OperationDefinition/Patient-everything",
)

OPERATIONS = (EVERYTHING, *SUMMARY, *(operation for operations in FORWARDED.values() for operation in operations))
