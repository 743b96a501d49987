"""What the gateway decides, as pure functions: what an owner has to have seen, and what its answer means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from shared.fhir.json import Json, Resource
from shared.fhir.outcome import (
    BadRequest,
    Conflict,
    FhirError,
    Forbidden,
    Gone,
    Issue,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    PreconditionFailed,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unprocessable,
    UnsupportedMediaType,
)


class OutcomeUnknown(Unavailable):
    """504: the change was sent to its owner, and the answer did not come: it may have been made, or not."""

    status = 504
    default_code = "timeout"


class OwnerFault(FhirError):
    """502: the owner of the resource met a fault."""

    status = 502
    default_code = "exception"


Awaited: TypeAlias = Mapping[str, int]
"""By service, the highest position in its outbox that was seen along a key."""


def awaits(owner: str, key: str, seen: Iterable[Awaited]) -> str | None:
    """Return the `X-Kap-Await` header of a write to `owner`: of each other service the highest position seen.

    None where nothing was seen.
    """
    highest: dict[str, int] = {}
    for positions in seen:
        for service, sequence in positions.items():
            if service != owner and sequence > highest.get(service, 0):
                highest[service] = sequence
    return ", ".join(f"{service} {key} {sequence}" for service, sequence in sorted(highest.items())) or None


_REFUSALS: Mapping[int, Callable[[list[Issue]], FhirError]] = {
    error.status: error
    for error in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        NotAcceptable,
        Conflict,
        Gone,
        PreconditionFailed,
        TooLarge,
        UnsupportedMediaType,
        Unprocessable,
    )
}


def refusal(owner: str, status: int, said: Json, *, retry_after: int = 1) -> FhirError:
    """Return an owner's refusal as the gateway's own: same status, same issues. A fault of the owner becomes 502."""
    issues = _issues(said)
    if status in _REFUSALS:
        return _REFUSALS[status](issues or [Issue(f"{owner} refused this with {status}.", code="processing")])
    if status in {429, 503}:
        waiting = issues or [Issue(f"{owner} cannot do this now. Try again.", code="transient")]
        return Unavailable(waiting, retry_after=retry_after)
    return OwnerFault(issues or [Issue(f"{owner} answered {status}.", code="exception")])


def _issues(said: Json) -> list[Issue]:
    if not isinstance(said, dict) or said.get("resourceType") != "OperationOutcome":
        return []
    return [_issue(one) for one in said.get("issue", ()) if isinstance(one, dict)]


def _issue(said: Resource) -> Issue:
    details = said.get("details", {})
    rules = [
        coding.get("code") for coding in details.get("coding", ()) if str(coding.get("system", "")).endswith("/rule")
    ]
    source = str(details.get("text", ""))
    return Issue(
        str(said.get("diagnostics", "")),
        code=str(said.get("code", "processing")),
        severity=said.get("severity", "error"),
        expression=tuple(str(place) for place in said.get("expression", ())),
        rule=None if not rules else str(rules[0]),
        source=source.removeprefix("Source: ") or None,
    )
