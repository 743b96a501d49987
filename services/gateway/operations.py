"""The operations that the gateway offers: `$everything`, `$summary`, `$export`, those of Subscription, the owners'."""

from __future__ import annotations

from services.gateway.catalog import FORWARDED
from services.gateway.summary import SUMMARY
from shared.fhir.json import Resource
from shared.fhir.outcome import MethodNotAllowed
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall


async def _of_the_backend(call: OperationCall, _record: Record) -> Resource:
    """Refuse: `services.gateway.forward` answers it, by more than a record in a transaction."""
    raise MethodNotAllowed(f"{call.type}/${call.name} is asked over FHIR only.")


EVERYTHING = Operation(
    "everything",
    "Patient",
    "instance",
    _of_the_backend,
    affects_state=False,
    documentation="The patient's compartment, page by page. Parameters: _type, _since, start, end, _count.",
    definition="http://hl7.org/fhir/OperationDefinition/Patient-everything",
)

_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/backport-subscription-"
STATUS = tuple(
    Operation(
        "status", "Subscription", level, _of_the_backend, affects_state=False, definition=f"{_BACKPORT}status",
        documentation="How subscriptions are. Parameters at type level: id, status.",
    )
    for level in ("instance", "type")
)  # fmt: skip
EVENTS = Operation(
    "events", "Subscription", "instance", _of_the_backend, affects_state=False, definition=f"{_BACKPORT}events",
    documentation="Events that were missed. Parameters: eventsSinceNumber, eventsUntilNumber, content.",
)  # fmt: skip

_BULK = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition"
_EXPORTS = (
    "Asynchronous (Prefer: respond-async), as NDJSON. Parameters: _since, _type, _typeFilter, _elements, _outputFormat."
)


async def _asynchronous(call: OperationCall, _record: Record) -> Resource:
    """Refuse: `services.gateway.exporting` answers it, and no Bundle can hold its answer."""
    raise MethodNotAllowed("$export is asked by a request of its own, with 'Prefer: respond-async'.")


EXPORT = (
    Operation(
        "export", "", "system", _asynchronous, affects_state=False, definition=f"{_BULK}/export",
        documentation=f"All that the caller may see. {_EXPORTS}",
    ),
    Operation(
        "export", "Patient", "type", _asynchronous, affects_state=False, definition=f"{_BULK}/patient-export",
        documentation=f"What is of patients, and the caller may see. {_EXPORTS}",
    ),
    Operation(
        "export", "Group", "instance", _asynchronous, affects_state=False, definition=f"{_BULK}/group-export",
        documentation=f"What is of a group's patients, and the caller may see. {_EXPORTS}",
    ),
)  # fmt: skip

OPERATIONS = (
    EVERYTHING,
    *EXPORT,
    *SUMMARY,
    *STATUS,
    EVENTS,
    *(operation for operations in FORWARDED.values() for operation in operations),
)
