"""``POST [base]``: a batch, each entry a request of its own, or a transaction, all of it or nothing.

An entry of a batch, and a GET of a transaction, is answered by the same routes as if it had come alone.

Source: https://hl7.org/fhir/R4/http.html#transaction
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.routing import Match

from shared.fhir.ids import new_id
from shared.fhir.json import Resource, dump, parse
from shared.fhir.links import links_of
from shared.fhir.outcome import BadRequest, FhirError, Issue, NotFound, operation_outcome
from shared.http.answering import answer, told_of
from shared.http.backend import parse_positions
from shared.http.bundle import confidential_of, instant
from shared.http.entries import (
    READS,
    Answer,
    Change,
    Done,
    Request,
    change_of,
    patch_of,
    placed,
    refused,
    requests_of,
)
from shared.http.errors import unexpected
from shared.http.negotiation import FHIR_JSON, etag, http_date

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import Message, Scope

    from shared.http.backend import Backend, Position, Returns
    from shared.http.call import Call
    from shared.http.interactions import FhirRoutes

AT_ONCE: Final = 4
"""Entries of a batch that are worked on at the same time."""

MOST_POSITIONS: Final = 200
"""Positions told in a header: those of patients first. Who waits for more waits for their events."""

_OF_THE_BUNDLE: Final = re.compile(
    r"content-.*|transfer-encoding|accept|accept-encoding|if-.*|expect|connection|x-http-method-override"
)
"""Headers of the request that say nothing of its entries."""

_ORDER: Final = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2, "GET": 3, "HEAD": 3}


class Bundles:
    """Answers ``POST [base]``."""

    def __init__(self, fhir: FhirRoutes) -> None:
        self._fhir = fhir

    async def post(self, call: Call) -> Response:
        """Answer a batch or a transaction."""
        bundle = await call.resource("Bundle")
        kind = bundle.get("type")
        if kind not in ("batch", "transaction"):  # it may be anything, also what has no hash
            raise BadRequest(
                "A Bundle sent to the base is a batch or a transaction. To keep a Bundle, create it: POST Bundle.",
                code="value",
                expression=["Bundle.type"],
            )
        most = self._fhir.served.settings.max_bundle_entries
        requests = requests_of(bundle, base_url=call.context.base_url, most=most)
        if kind == "batch":
            return await self._batch(call, requests)
        return await self._transaction(call, requests)

    # A batch

    async def _batch(self, call: Call, requests: Sequence[Request | FhirError]) -> Response:
        urls = {one.full_url for one in requests if isinstance(one, Request) and one.full_url is not None}
        routes = self._fhir.routes()
        answers: dict[int, Answer] = {}
        positions: list[Position] = []
        turns = asyncio.Semaphore(AT_ONCE)

        async def answered(index: int, request: Request | FhirError) -> None:
            async with turns:
                answers[index], position = await self._alone(call, routes, index, request, urls)
                positions.extend(position)

        for turn in sorted({_turn(one) for one in requests}):
            await asyncio.gather(*(answered(index, one) for index, one in enumerate(requests) if _turn(one) == turn))
        entries = [_entry(answers[index]) for index in range(len(requests))]
        return await answer(_bundle("batch-response", entries), call.presentation, headers=_header(positions))

    async def _alone(
        self, call: Call, routes: Sequence[Route], index: int, request: Request | FhirError, urls: set[str]
    ) -> tuple[Answer, tuple[Position, ...]]:
        """Answer one entry of a batch, whatever comes of it."""
        type_ = None
        try:
            if isinstance(request, FhirError):
                raise request
            if request.resource is not None:
                type_ = str(request.resource.get("resourceType"))
                _require_independent(request, urls)
            return await _ask(call, routes, request)
        except FhirError as error:
            issues = [placed(issue, index, type_) for issue in error.issues]
            return Answer(error.status, dump(operation_outcome(issues))), ()
        except Exception as error:  # noqa: BLE001 - a fault in one entry is that entry's answer
            fault = unexpected(
                error, service=self._fhir.served.service.name, route="batch", request_id=call.context.request_id
            )
            return Answer(fault.status_code, bytes(fault.body)), ()

    # A transaction

    async def _transaction(self, call: Call, read: Sequence[Request | FhirError]) -> Response:
        errors: dict[int, FhirError] = {index: one for index, one in enumerate(read) if isinstance(one, FhirError)}
        requests = [one for one in read if isinstance(one, Request)]
        changes: list[Change] = []
        for request in requests:
            if request.method in READS:
                continue
            try:
                changes.append(change_of(request, self._fhir.served.require_offered))
            except FhirError as error:
                errors[request.index] = error
        if errors:
            raise refused(errors, {request.index: _type_of(request) for request in requests})

        async def answered(backend: Backend, request: Request) -> Answer:
            one, _ = await _ask(call, self._fhir.over(backend).routes(), request)
            return one

        done = await self._fhir.served.backend.transact(call.context, requests, changes, answered)
        entries = []
        for request in requests:
            if request.index in done.answers:
                entries.append(_entry(done.answers[request.index]))
            else:
                entries.append(_changed(request, done.done[request.index], call.context.returns, call.context.base_url))
        body = _bundle("transaction-response", entries)
        return await answer(body, call.presentation, headers=told_of(done) | _header(done.positions))


def _turn(request: Request | FhirError) -> int:
    return _ORDER[request.method] if isinstance(request, Request) else 0


def _type_of(request: Request) -> str | None:
    return None if request.resource is None else str(request.resource.get("resourceType"))


def _require_independent(request: Request, urls: set[str]) -> None:
    """Refuse an entry of a batch that refers to another, which has no id before all is done.

    Raises:
        BadRequest: it does.

    """
    named = {
        text
        for kind, text in links_of(request.resource or {})
        if kind == "reference" and text.startswith("urn:") and text in urls
    }
    if named:
        raise BadRequest(
            f"{', '.join(sorted(named))} is another entry, and the entries of a batch do not know of each other. Send "
            "a transaction, or what is referred to first.",
            code="not-found",
        )


async def _ask(call: Call, routes: Sequence[Route], request: Request) -> tuple[Answer, tuple[Position, ...]]:
    """Send one entry through the routes as a request of its own, by the same caller.

    Raises:
        FhirError: it was refused.

    """
    path, _, query = request.url.partition("?")
    if not path.strip("/"):
        raise BadRequest("The url of an entry names what it is about: a type, at least.", expression=["http.url"])
    media_type, body = _body_of(request)
    headers = [(name, value) for name, value in call.headers.raw if not _OF_THE_BUNDLE.fullmatch(name.decode().lower())]
    given = {
        "content-type": media_type if body else None,
        "if-match": request.said.get("ifMatch"),
        "if-none-match": request.said.get("ifNoneMatch"),
        "if-none-exist": request.said.get("ifNoneExist"),
        "if-modified-since": _http_date(request.said.get("ifModifiedSince")),
    }
    headers += [(name.encode(), value.encode()) for name, value in given.items() if value]
    scope: Scope = {
        "type": "http",
        "method": request.method,
        "path": f"/fhir/{unquote(path)}",
        "root_path": "",
        "query_string": query.encode(),
        "headers": headers,
        "state": {"request_id": call.context.request_id, "traceparent": call.context.traceparent},
    }
    for route in routes:
        match, more = route.matches(scope)
        if match is Match.FULL:
            break
    else:
        raise NotFound("There is nothing at this url.", expression=["http.url"])
    scope.update(more)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await route.app(scope, receive, send)
    answer_headers = Headers(raw=sent[0].get("headers", []))
    positions = answer_headers.get("x-kap-position")
    location = answer_headers.get("location")
    modified = answer_headers.get("last-modified")
    return (
        Answer(
            int(sent[0]["status"]),
            b"".join(message.get("body", b"") for message in sent[1:]),
            None if location is None else location.removeprefix(f"{call.context.base_url}/"),
            answer_headers.get("etag"),
            None if modified is None else parsedate_to_datetime(modified),
        ),
        () if positions is None else parse_positions(positions),
    )


def _body_of(request: Request) -> tuple[str, bytes]:
    """Return media type and body of an entry's request. The Binary of a PATCH holds a patch of another type."""
    resource = request.resource
    if resource is None:
        return FHIR_JSON, b""
    if request.method == "PATCH" and resource.get("resourceType") == "Binary":
        patch = patch_of(resource)
        return patch.media_type, dump(patch.body)
    return FHIR_JSON, dump(resource)


def _http_date(moment: str | None) -> str | None:
    """Return the instant of `ifModifiedSince` as the header has it, whose fractions of a second are none."""
    return None if moment is None else http_date(datetime.fromisoformat(moment))


# The answer


def _bundle(kind: str, entries: Sequence[bytes]) -> bytes:
    head = dump(
        {
            "resourceType": "Bundle",
            "id": new_id(),
            "meta": {"lastUpdated": instant(datetime.now(UTC)), **confidential_of(entries)},
            "type": kind,
        }
    )
    return head if not entries else head[:-1] + b',"entry":[' + b",".join(entries) + b"]}"


def _header(positions: Iterable[Position]) -> dict[str, str]:
    """Return `X-Kap-Position`: of each service and key the highest, patients first."""
    highest: dict[tuple[str, str], Position] = {}
    for one in positions:
        known = highest.get((one.service, one.key))
        if known is None or known.sequence < one.sequence:
            highest[one.service, one.key] = one
    told = sorted(highest.values(), key=lambda one: not one.key.startswith("Patient/"))[:MOST_POSITIONS]
    return {"X-Kap-Position": ", ".join(str(one) for one in told)} if told else {}


def _status(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"


def _written(response: Resource, resource: bytes, full_url: str | None) -> bytes:
    """Return an entry of the answer, its resource joined from the bytes it is stored in."""
    parts = []
    if full_url is not None:
        parts.append(b'"fullUrl":' + dump(full_url))
    if resource:
        parts.append(b'"resource":' + resource)
    parts.append(b'"response":' + dump(response))
    return b"{" + b",".join(parts) + b"}"


def _entry(answer: Answer) -> bytes:
    """Return the entry of what was answered as if it had come alone."""
    response: Resource = {"status": _status(answer.status)}
    if answer.location is not None:
        response["location"] = answer.location
    if answer.etag is not None:
        response["etag"] = answer.etag
    if answer.last_modified is not None:
        response["lastModified"] = instant(answer.last_modified)
    body = answer.body
    if body.startswith(_OUTCOME):
        response["outcome"] = parse(body)
        body = b""
    return _written(response, body, None)


_OUTCOME: Final = b'{"resourceType":"OperationOutcome"'


def _changed(request: Request, done: Done, returns: Returns, base_url: str) -> bytes:
    """Return the entry of a change that was made."""
    stored = done.stored
    deletes = request.method == "DELETE"
    response: Resource = {"status": _status(204 if deletes else 201 if done.created else 200)}
    if stored is not None:
        place = f"{stored.type}/{stored.id}"
        response["location"] = f"{place}/_history/{stored.version}"
        response["etag"] = etag(stored.version)
        response["lastModified"] = instant(stored.last_updated)
        if returns == "OperationOutcome":
            said = f"{place} is deleted." if deletes else f"{place} is version {stored.version}."
            response["outcome"] = operation_outcome([Issue(said, code="informational", severity="information")])
        elif returns == "representation" and not deletes:
            return _written(response, stored.body, f"{base_url}/{place}")
    return _written(response, b"", None)
