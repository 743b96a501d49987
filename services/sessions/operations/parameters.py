"""What an operation is given: its Parameters by name, each in its own form, refused with what there is instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from shared.fhir.dates import interval
from shared.fhir.outcome import BadRequest
from shared.runtime.service import OperationCall


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
    """Return the moment that a parameter says, `default` where it is not given.

    Raises:
        BadRequest: it is no dateTime.

    """
    if value is None:
        return default
    try:
        return interval(value)[0]
    except (TypeError, ValueError):
        raise BadRequest(
            f"The parameter {name} is not a date or dateTime.", expression=["Parameters.parameter"]
        ) from None
