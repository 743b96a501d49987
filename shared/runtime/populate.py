"""`Questionnaire/$populate`: a QuestionnaireResponse to begin with, for any SDC client. It stores nothing.

A service that knows something of its own Questionnaires gives a `Source`; for all others only `initial` is filled in.
Source: https://hl7.org/fhir/uv/sdc/OperationDefinition-Questionnaire-populate.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from shared.fhir.json import Resource
from shared.fhir.kap import id_in
from shared.fhir.populating import Known, populated
from shared.runtime.asking import PARAMETERS, not_held, wrongly_asked
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

DEFINITION: Final = "http://hl7.org/fhir/uv/sdc/OperationDefinition/Questionnaire-populate"
_DOCUMENTATION: Final = (
    "Returns Parameters with `response`, a QuestionnaireResponse in progress for `subject` (a Reference to a Patient). "
    "Optional `author` and `encounter`, References. What a patient rates is never filled in."
)

Source: TypeAlias = Callable[[Resource, str, Record], Awaitable[Known]]
"""Given a Questionnaire and the id of a Patient: the answers that are known."""


async def nothing_known(questionnaire: Resource, patient: str, record: Record) -> Known:
    """Know nothing of a patient's answers."""
    return {}


def populate_operations(
    known: Source = nothing_known, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> tuple[Operation, ...]:
    """Return the operation on an instance, and on the type by `canonical` or with the `questionnaire` itself."""

    async def populate(call: OperationCall, record: Record) -> Resource:
        questionnaire = await _questionnaire(call, record)
        subject = _reference(call, "subject")
        patient = id_in(subject, "Patient")
        if subject is None or patient is None or await record.get("Patient", patient) is None:
            raise wrongly_asked("It is not said about whom: give subject, a Reference to a Patient of this record.")
        answers = await known(questionnaire, patient, record)
        author, encounter = _reference(call, "author"), _reference(call, "encounter")
        made = populated(questionnaire, subject, answers, clock(), author=author, encounter=encounter)
        return {"resourceType": "Parameters", "parameter": [{"name": "response", "resource": made}]}

    return tuple(
        Operation(
            "populate",
            "Questionnaire",
            level,
            populate,
            affects_state=False,
            definition=DEFINITION,
            documentation=_DOCUMENTATION,
        )
        for level in ("instance", "type")
    )


async def _questionnaire(call: OperationCall, record: Record) -> Resource:
    if call.id is not None:
        held = await record.get("Questionnaire", call.id)
        if held is None:
            raise not_held(f"Questionnaire/{call.id}")
        return held
    for one in call.parameters.get("parameter", []):
        if one.get("name") in ("questionnaire", "resource") and isinstance(one.get("resource"), dict):
            given: Resource = one["resource"]
            if given.get("resourceType") != "Questionnaire":
                raise wrongly_asked("What is given as questionnaire is none: give a Questionnaire.")
            return given
    canonical = _value(call, "canonical")
    if canonical is None:
        raise wrongly_asked("It is not said which: give `canonical`, or the `questionnaire` itself.", code="required")
    url, _, version = str(canonical).partition("|")
    found = await record.search("Questionnaire", {"url": url, **({"version": version} if version else {})})
    if not found:
        raise not_held(f"Questionnaire {canonical}", where=PARAMETERS)
    return found[-1]


def _value(call: OperationCall, name: str) -> Any:
    for one in call.parameters.get("parameter", []):
        if one.get("name") == name:
            return next((value for key, value in one.items() if key.startswith("value")), None)
    return None


def _reference(call: OperationCall, name: str) -> Mapping[str, Any] | None:
    """Return a Reference, also one given as text in the URL."""
    value = _value(call, name)
    return {"reference": value} if isinstance(value, str) else value
