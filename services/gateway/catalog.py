"""What the services behind the gateway offer, as configuration: `metadata` is made of it without asking anybody.

Which types there are, and whose, is `shared.runtime.ownership`; here are their operations. A test compares both with
what the services really register.
"""

from __future__ import annotations

from typing import NoReturn

from shared.fhir.outcome import MethodNotAllowed
from shared.runtime.ownership import (
    CLINICAL,
    DELIVERY,
    GATEWAY,
    INTAKE,
    SESSIONS,
    types_of,
)
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

OWNERS = (*CLINICAL, DELIVERY)
"""The services that writes are forwarded to, and whose events are taken in."""

TYPES = frozenset().union(*(types_of(owner) for owner in (*OWNERS, GATEWAY)))
"""Every type of the record."""

OWN_TYPES = types_of(GATEWAY)
"""The types that the gateway itself owns."""


async def _answered_by_its_owner(call: OperationCall, _record: Record) -> NoReturn:
    """Refuse: the gateway forwards these, so nothing calls this."""
    raise MethodNotAllowed(f"{call.type}/${call.name} is answered by the service that owns it.")


def _forwarded(name: str, type_: str, documentation: str) -> Operation:
    return Operation(name, type_, "instance", _answered_by_its_owner, documentation=documentation)


FORWARDED: dict[str, tuple[Operation, ...]] = {
    INTAKE: (
        _forwarded(
            "screen",
            "Patient",
            "Judges from the record and the newest screening questionnaire whether the patient may be treated.",
        ),
    ),
    SESSIONS: (
        _forwarded(
            "start-dose",
            "Encounter",
            "Opens a dose of ketamine or esketamine in a dosing session that is in progress, when the gate is open.",
        ),
    ),
    DELIVERY: (
        _forwarded("retry", "Task", "Delivers once more what was refused, superseded or cancelled."),
        _forwarded("cancel", "Task", "Takes a delivery out of its queue for good."),
    ),
}
"""By service, its operations."""


def owner_of_operation(operation: Operation) -> str | None:
    """Return the service that answers an operation; None: the gateway itself."""
    for owner, operations in FORWARDED.items():
        if any(
            (one.type, one.level, one.name) == (operation.type, operation.level, operation.name) for one in operations
        ):
            return owner
    return None
