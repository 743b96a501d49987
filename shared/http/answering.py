"""Answers, from the bytes that are held: parsed again only where less than all, or an easier layout, was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from shared.fhir.definitions import TYPES
from shared.fhir.json import Resource, dump, parse
from shared.fhir.outcome import Issue, operation_outcome
from shared.fhir.subset import View, subset
from shared.http.body import LARGE
from shared.http.negotiation import Presentation, etag, http_date, not_modified
from shared.http.provenance import KEPT_AS

if TYPE_CHECKING:
    from shared.http.backend import OperationResult, Position, Transacted, WriteResult
    from shared.http.call import Call
    from shared.store.types import Stored

_PAGES = frozenset(("searchset", "history"))
_WHOLE = frozenset(("OperationOutcome", "Parameters"))
"""Types of answers, not of the record: nobody means them by `_summary`."""


async def answer(
    body: bytes, presentation: Presentation, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a resource as the answer, as it is asked to be presented."""
    if presentation.view is not None or presentation.pretty:
        if len(body) < LARGE:
            body = _presented(body, presentation)
        else:
            body = await asyncio.to_thread(_presented, body, presentation)
    return Response(body, status, headers, presentation.media_type)


def _presented(body: bytes, presentation: Presentation) -> bytes:
    if presentation.view is not None:
        body = dump(_viewed(parse(body), presentation.view))
    return msgspec.json.format(body, indent=2) if presentation.pretty else body


def _viewed(resource: Resource, view: View) -> Resource:
    """Return what a view shows: of a page, of each of its resources."""
    type_ = resource["resourceType"]
    if type_ == "Bundle" and resource["type"] in _PAGES:
        for entry in resource.get("entry", ()):
            if "resource" in entry:
                entry["resource"] = _viewed(entry["resource"], view)
        return resource
    return subset(resource, view) if type_ in TYPES and type_ not in _WHOLE else resource


async def answer_version(stored: Stored, call: Call) -> Response:
    """Return a version that was read, or 304 where the caller has it."""
    headers = {"ETag": etag(stored.version), "Last-Modified": http_date(stored.last_updated)}
    if not_modified(call.headers, stored.version, stored.last_updated):
        return Response(status_code=304, headers=headers)
    return await answer(stored.body, call.presentation, headers=headers)


async def answer_written(call: Call, result: WriteResult, base_url: str) -> Response:
    """Return what a create, update or patch left, as far as `Prefer: return` asks for it."""
    stored = result.stored
    place = f"{stored.type}/{stored.id}"
    headers = {
        "ETag": etag(stored.version),
        "Last-Modified": http_date(stored.last_updated),
        "Location": f"{base_url}/{place}/_history/{stored.version}",
        **told_of(result),
    }
    status = 201 if result.created else 200
    match call.context.returns:
        case "minimal":
            return Response(status_code=status, headers=headers)
        case "OperationOutcome":
            return await answer_done(f"{place} is version {stored.version}.", call.presentation, status, headers)
        case "representation":
            return await answer(stored.body, call.presentation, status, headers)


async def answer_deleted(call: Call, what: str, result: WriteResult | None) -> Response:
    """Return that `what` is deleted; `result` None: there was nothing left to delete."""
    headers = {}
    if result is not None:
        headers = {"ETag": etag(result.stored.version), **told_of(result)}
    if call.context.returns == "OperationOutcome":
        return await answer_done(f"{what} is deleted.", call.presentation, 200, headers)
    return Response(status_code=204, headers=headers)


async def answer_done(said: str, presentation: Presentation, status: int, headers: Mapping[str, str]) -> Response:
    """Return an OperationOutcome that says what was done."""
    done = operation_outcome([Issue(said, code="informational", severity="information")])
    return await answer(dump(done), presentation, status, headers)


def told_of(result: WriteResult | Transacted | OperationResult) -> dict[str, str]:
    """Return the headers that tell where in the outboxes a write stands, and which Provenance was kept with it."""
    provenance = {} if result.provenance is None else {KEPT_AS: result.provenance}
    return positions_header(result.positions) | provenance


def positions_header(positions: tuple[Position, ...]) -> dict[str, str]:
    """Return the header that tells where in the outboxes a write stands."""
    return {"X-Kap-Position": ", ".join(str(one) for one in positions)} if positions else {}
