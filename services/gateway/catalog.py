"""What the services behind the gateway offer, as configuration: `metadata` is made of it without asking anybody.

Which types there are, and whose, is `shared.runtime.ownership`; here are their operations. A test compares both with
what the services really register.
"""

from __future__ import annotations

from typing import Literal, NoReturn

from shared.fhir.outcome import MethodNotAllowed
from shared.runtime.ownership import (
    CLINICAL,
    DELIVERY,
    GATEWAY,
    INTAKE,
    OUTCOMES,
    SCHEDULING,
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


def _forwarded(
    name: str,
    type_: str,
    documentation: str,
    *,
    level: Literal["instance", "type"] = "instance",
    reads: bool = False,
    definition: str | None = None,
) -> Operation:
    return Operation(
        name,
        type_,
        level,
        _answered_by_its_owner,
        affects_state=not reads,
        documentation=documentation,
        definition=definition,
    )


LEVELS: tuple[Literal["instance", "type"], ...] = ("instance", "type")

FORWARDED: dict[str, tuple[Operation, ...]] = {
    INTAKE: (
        _forwarded(
            "screen",
            "Patient",
            "Judges from the record and the newest screening questionnaire whether the patient may be treated.",
        ),
        _forwarded(
            "match",
            "Patient",
            "Finds who of those held may be a Patient, best first, with a grade and why. Creates nothing.",
            level="type",
            reads=True,
            definition="http://hl7.org/fhir/OperationDefinition/Patient-match",
        ),
        _forwarded("merge", "Patient", "Joins two records of one person by Patient.link.", level="type"),
        _forwarded(
            "plan",
            "Patient",
            "Makes the plan of a course from a template, personal, with the patient's goals and the team.",
        ),
        _forwarded(
            "break-the-glass",
            "Patient",
            "Opens a patient's record, in an emergency, to somebody outside whom no consent lets read it.",
        ),
        _forwarded("unmerge", "Patient", "Parts two records that were joined.", level="type"),
        _forwarded("replay", "RiskAssessment", "Makes the decision of a screening again.", reads=True),
        *(
            _forwarded("populate", "Questionnaire", "A response to begin with.", level=level, reads=True)
            for level in LEVELS
        ),
    ),
    SCHEDULING: (
        _forwarded(
            "find",
            "Appointment",
            "Finds times at which everybody and everything that a kind of visit needs is free together, best first.",
            level="type",
            reads=True,
        ),
        _forwarded("hold", "Appointment", "Keeps a proposed time for some minutes.", level="type"),
        _forwarded("book", "Appointment", "Books a held or a proposed time.", level="type"),
        _forwarded("book-series", "Appointment", "Lays and books all visits of a course in one call.", level="type"),
        _forwarded(
            "prerequisites",
            "Appointment",
            "Says of all that a visit of a kind would stand on whether it is met, and what to do.",
            level="type",
            reads=True,
        ),
        _forwarded(
            "prerequisites",
            "Appointment",
            "Says of all that the visit stands on whether it is met, and what to do.",
            reads=True,
        ),
        _forwarded("reschedule", "Appointment", "Moves a visit to another time."),
        _forwarded("cancel", "Appointment", "Cancels a visit, with a reason."),
        _forwarded("check-in", "Appointment", "Records that the patient is there."),
        _forwarded("no-show", "Appointment", "Records that the patient did not come."),
        _forwarded("calendar-link", "Appointment", "Makes a secret link to an iCalendar feed.", level="type"),
        _forwarded(
            "revoke-calendar-links", "Appointment", "Makes all links to an iCalendar feed worthless.", level="type"
        ),
        _forwarded("generate", "Schedule", "Makes the free Slots of a Schedule from its hours."),
    ),
    SESSIONS: (
        _forwarded(
            "start-dose",
            "Encounter",
            "Opens a dose of ketamine or esketamine in a dosing session that is in progress, when the gate is open.",
        ),
        _forwarded("pre-dose-gate", "Encounter", "Tells every check before a dose, with value, limit and verdict."),
        _forwarded("feed", "Encounter", "Takes in samples of a device: an Observation of each signal and minute."),
        _forwarded("discharge", "Encounter", "Ends a visit and records how the patient left."),
        _forwarded("resume", "Encounter", "Goes on with a visit that was finished by mistake."),
        _forwarded("rems-form", "Encounter", "Fills the monitoring form of the REMS from the session."),
        _forwarded("rems-submitted", "Encounter", "Records that the monitoring form of the REMS was sent."),
        _forwarded(
            "record-psychotherapy", "Encounter", "Records what is shareable of the psychotherapy in a visit, once."
        ),
        _forwarded("summarize", "Encounter", "Writes, signs and amends the summary of a visit."),
        _forwarded("substance-book", "SupplyDelivery", "Books on the ledger of controlled substances.", level="type"),
        _forwarded(
            "substance-balance", "SupplyDelivery", "What a vial holds, or held at a time.", level="type", reads=True
        ),
        _forwarded(
            "substance-inventory", "SupplyDelivery", "What every vial held at a time.", level="type", reads=True
        ),
        _forwarded(
            "substance-log", "SupplyDelivery", "The dispensing log: every entry of a time.", level="type", reads=True
        ),
    ),
    OUTCOMES: (
        *(
            _forwarded("evaluate-measure", "Measure", "Evaluates a measure for a period.", level=level, reads=True)
            for level in LEVELS
        ),
        _forwarded("csv", "Measure", "Every measure of the clinic as a table.", level="type", reads=True),
        _forwarded("superbill", "MeasureReport", "The visits of a period with their codes.", level="type", reads=True),
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
