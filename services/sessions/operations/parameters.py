"""What an operation is given: its Parameters by name, each in its own form, refused with what there is instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from services.sessions.times import is_possible
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.outcome import BadRequest
from shared.fhir.validation import require_valid
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall


def given_in(call: OperationCall, forms: Mapping[str, str], needed: Sequence[str] = ()) -> dict[str, Any]:
    """Return the parameters of a call by name, None where one is not given; `forms` says the form of each.

    Raises:
        BadRequest: a parameter is not known or has another form, or one that is needed is missing.

    """
    given: dict[str, Any] = dict.fromkeys(forms)
    for parameter in call.parameters.get("parameter", []):
        name = parameter.get("name")
        if name not in forms or forms[name] not in parameter:
            said = ", ".join(f"{one} ({form})" for one, form in forms.items())
            raise BadRequest(
                f"${call.name} does not understand the parameter '{name}'. It has: {said}.",
                expression=["Parameters.parameter"],
            )
        given[name] = parameter[forms[name]]
    missing = [name for name in needed if given[name] is None]
    if missing:
        raise BadRequest(
            f"${call.name} needs {', '.join(missing)}.", code="required", expression=["Parameters.parameter"]
        )
    return given


def moment_in(name: str, value: str | None, default: datetime) -> datetime:
    """Return the moment that a parameter says, `default`, which is now, where it is not given.

    Raises:
        BadRequest: it is no dateTime, or further from now than a lifetime.

    """
    if value is None:
        return default
    try:
        when = interval(value)[0]
    except (TypeError, ValueError):
        raise BadRequest(
            f"The parameter {name} is not a date or dateTime.", expression=["Parameters.parameter"]
        ) from None
    if not is_possible(when, default):
        raise BadRequest(
            f"{value} is no time that the parameter {name} can have: look at the year.",
            code="value",
            expression=["Parameters.parameter"],
        )
    return when


def validated(operation: Operation) -> Operation:
    """Return an operation that refuses Parameters which are no FHIR R4, before it looks at them: 400, with each issue.

    A resource in a parameter is for the operation to judge.
    """

    async def handler(call: OperationCall, record: Record) -> Resource:
        given = [_without_resource(one) for one in call.parameters.get("parameter", [])]
        if given:
            require_valid({"resourceType": "Parameters", "parameter": given})
        return await operation.handler(call, record)

    return replace(operation, handler=handler)


def _without_resource(parameter: Any) -> Any:
    if not isinstance(parameter, dict) or "resource" not in parameter:
        return parameter
    return {key: one for key, one in parameter.items() if key != "resource"}
