"""A FHIR server that resources are pushed to, over HTTP: every answer as a value, every lost one as an exception."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from services.delivery.capability import Accepted, accepted_by
from shared.fhir.ids import new_id
from shared.fhir.json import Json, Resource, dump, parse
from shared.fhir.outcome import BadRequest, Issue, operation_outcome
from shared.http.outbound import NotOutside
from shared.runtime.tracing import continued

_FHIR_JSON = "application/fhir+json"
_LONGEST_REASON = 2000
_SEVERITIES = ("fatal", "error", "warning", "information")
_ISSUE_CODES = frozenset(
    (
        "invalid",
        "structure",
        "required",
        "value",
        "invariant",
        "security",
        "login",
        "unknown",
        "expired",
        "forbidden",
        "suppressed",
        "processing",
        "not-supported",
        "duplicate",
        "multiple-matches",
        "not-found",
        "deleted",
        "too-long",
        "code-invalid",
        "extension",
        "too-costly",
        "business-rule",
        "conflict",
        "transient",
        "lock-error",
        "no-store",
        "exception",
        "timeout",
        "incomplete",
        "throttled",
        "informational",
    )
)
"""https://hl7.org/fhir/R4/valueset-issue-type.html"""


TRACE: Final[ContextVar[str | None]] = ContextVar("TRACE", default=None)
"""The trace context of the change that is being sent; requests that are about none begin traces of their own."""


class NoAnswer(Exception):
    """The destination gave no answer. `uncertain`: the request may have reached it all the same."""

    def __init__(self, said: str, *, uncertain: bool) -> None:
        super().__init__(said)
        self.uncertain = uncertain

    @property
    def outcome(self) -> Resource:
        """What happened, as an OperationOutcome."""
        return operation_outcome([Issue(str(self), code="transient")])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination answered.

    Attributes:
        status: the HTTP status.
        server_id: the logical id there, from `Location` or the body; None where neither says it.
        outcome: its OperationOutcome; of a refusal without one, one made here.
        retry_after: seconds it asks us to wait; 0 where it does not.

    """

    status: int
    server_id: str | None = None
    outcome: Resource | None = None
    retry_after: float = 0.0


class DestinationServer:
    """The FHIR interactions that are needed of a destination."""

    def __init__(self, client: httpx.AsyncClient, address: str) -> None:
        """Talk to the FHIR base URL `address` by `client`, which sets the time-outs."""
        self._client = client
        self._base = address.rstrip("/")

    async def capabilities(self) -> Accepted:
        """Return what the destination accepts, read anew.

        Raises:
            NoAnswer: it is not there, or it is not a FHIR R4 server now.

        """
        response = await self._send("GET", "metadata")
        if response.status_code != httpx.codes.OK:
            raise NoAnswer(f"/metadata was answered {response.status_code}.", uncertain=False)
        try:
            return accepted_by(_json(response))
        except ValueError as error:
            raise NoAnswer(str(error), uncertain=False) from error

    async def create(self, resource: Resource) -> Answer:
        """POST a resource."""
        return _answer(await self._send("POST", resource["resourceType"], body=resource))

    async def update(self, resource: Resource) -> Answer:
        """PUT a resource that carries its id there."""
        return _answer(await self._send("PUT", f"{resource['resourceType']}/{resource['id']}", body=resource))

    async def delete(self, type_: str, server_id: str) -> Answer:
        """DELETE a resource."""
        return _answer(await self._send("DELETE", f"{type_}/{server_id}"))

    async def read(self, type_: str, server_id: str) -> Resource | None:
        """Return a resource; None where there is none (any more).

        Raises:
            NoAnswer: no usable answer.

        """
        response = await self._send("GET", f"{type_}/{server_id}")
        if response.status_code in {httpx.codes.NOT_FOUND, httpx.codes.GONE}:
            return None
        return _resource(response)

    async def find(self, type_: str, identifier: Resource) -> list[Resource]:
        """Return the resources that have a business identifier, at most a page of them, in the destination's order.

        Raises:
            NoAnswer: no usable answer.

        """
        token = f"{_escaped(str(identifier.get('system', '')))}|{_escaped(str(identifier['value']))}"
        bundle = _resource(await self._send("GET", type_, parameters={"identifier": token}))
        found = [entry.get("resource", {}) for entry in bundle.get("entry", ())]
        return [one for one in found if one.get("resourceType") == type_]

    async def _send(
        self, method: str, path: str, *, body: Resource | None = None, parameters: dict[str, str] | None = None
    ) -> httpx.Response:
        headers = {"Accept": _FHIR_JSON, "X-Request-Id": new_id(), "traceparent": continued(TRACE.get())}
        if body is not None:
            headers |= {"Content-Type": f"{_FHIR_JSON}; fhirVersion=4.0", "Prefer": "return=minimal"}
        try:
            return await self._client.request(
                method,
                f"{self._base}/{path}",
                content=None if body is None else dump(body),
                params=parameters,
                headers=headers,
            )
        except NotOutside as error:
            raise NoAnswer(f"The destination may not be asked. {error}", uncertain=False) from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NoAnswer(f"The destination cannot be reached ({type(error).__name__}).", uncertain=False) from error
        except httpx.HTTPError as error:
            raise NoAnswer(f"The destination's answer was lost ({type(error).__name__}).", uncertain=True) from error


def _answer(response: httpx.Response) -> Answer:
    said = _json(response) if response.content else None
    outcome = None
    if isinstance(said, dict) and said.get("resourceType") == "OperationOutcome":
        outcome = _plain_outcome(said)
    elif not response.is_success:
        outcome = operation_outcome([Issue(f"The destination answered {response.status_code} without saying why.")])
    return Answer(response.status_code, _server_id(response, said), outcome, _retry_after(response))


def _plain_outcome(said: Resource) -> Resource:
    """Return the issues of a destination's OperationOutcome, and nothing else of it: it is kept inside a Task here."""
    issues = []
    listed = said.get("issue")
    for one in listed if isinstance(listed, list) else []:
        if not isinstance(one, dict):
            continue
        details = one.get("details")
        text = one.get("diagnostics") or (details.get("text") if isinstance(details, dict) else None)
        expression = one.get("expression")
        places = [str(place) for place in expression] if isinstance(expression, list) else []
        severity = one.get("severity")
        code = one.get("code")
        issues.append(
            Issue(
                str(text or "The destination gave no reason.").strip()[:_LONGEST_REASON] or "-",
                code=code if isinstance(code, str) and code in _ISSUE_CODES else "processing",
                severity=severity if severity in _SEVERITIES else "error",
                expression=tuple(place for place in places if place.strip()),
            )
        )
    return operation_outcome(issues or [Issue("The destination's OperationOutcome has no issue.")])


def _server_id(response: httpx.Response, said: Json) -> str | None:
    place = [part for part in urlsplit(response.headers.get("location", "")).path.split("/") if part]
    if len(place) > 2 and place[-2] == "_history":
        place = place[:-2]
    if len(place) > 1:
        return str(place[-1])
    if isinstance(said, dict) and said.get("resourceType") != "OperationOutcome" and isinstance(said.get("id"), str):
        return str(said["id"])
    return None


def _retry_after(response: httpx.Response) -> float:
    said = response.headers.get("retry-after", "")
    return float(said) if said.isdecimal() else 0.0


def _resource(response: httpx.Response) -> Resource:
    said = _json(response) if response.is_success else None
    if not isinstance(said, dict):
        raise NoAnswer(f"A question to the destination was answered {response.status_code}.", uncertain=False)
    return said


def _json(response: httpx.Response) -> Json:
    try:
        return parse(response.content)
    except BadRequest:
        return None


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("|", "\\|").replace(",", "\\,").replace("$", "\\$")
