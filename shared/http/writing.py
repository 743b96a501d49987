"""Writing: create, update, patch, delete. A write is committed before its answer exists.

Source: https://hl7.org/fhir/R4/http.html#create, #update, #patch, #delete
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.fhir.outcome import BadRequest
from shared.fhir.patch.apply import FHIRPATH_PATCH, MERGE_PATCH, Patch
from shared.http.answering import answer_deleted, answer_written
from shared.http.conditions import parse_condition
from shared.http.negotiation import is_plain_json, patch_format

if TYPE_CHECKING:
    from starlette.responses import Response

    from shared.http.call import Call, Served


class Writing:
    """The handlers of what changes one resource."""

    def __init__(self, served: Served) -> None:
        """Serve `served`."""
        self._served = served

    async def create(self, call: Call) -> Response:
        """POST Type, with `If-None-Exist` only where nothing matches."""
        type_ = self._served.type_of(call, "create")
        condition = call.headers.get("if-none-exist")
        query = None
        if condition is not None:
            query = parse_condition(type_, condition.encode("latin-1"), where="http.if-none-exist")
        resource = await call.resource(type_)
        result = await self._served.backend.create(call.context, resource, if_none_exist=query)
        return await answer_written(call, result, self._served.base_url)

    async def update(self, call: Call) -> Response:
        """PUT Type/id."""
        type_, id_ = self._served.type_of(call, "update"), call.id
        expected = call.expected()
        resource = await call.resource(type_)
        if resource.get("id") != id_:
            raise BadRequest("The id in the body is not the id in the URL.", expression=[f"{type_}.id"])
        result = await self._served.backend.update(call.context, resource, expected=expected)
        return await answer_written(call, result, self._served.base_url)

    async def patch(self, call: Call) -> Response:
        """PATCH Type/id."""
        type_, id_ = self._served.type_of(call, "patch"), call.id
        expected = call.expected()
        patch = await read_patch(call)
        result = await self._served.backend.patch(call.context, type_, id_, patch, expected=expected)
        return await answer_written(call, result, self._served.base_url)

    async def delete(self, call: Call) -> Response:
        """DELETE Type/id."""
        type_, id_ = self._served.type_of(call, "delete"), call.id
        result = await self._served.backend.delete(call.context, type_, id_, expected=call.expected())
        return await answer_deleted(call, f"{type_}/{id_}", result)


async def read_patch(call: Call) -> Patch:
    """Return the patch in the body. Plain ``application/json`` is a merge patch, except of a Parameters resource.

    R4 gives plain JSON no meaning here; clients that send the members to be changed mean a merge patch (fhirpy does).

    Raises:
        UnsupportedMediaType: not a form of patch that is read here; `Accept-Patch` lists those.
        BadRequest: not JSON.

    """
    content_type = call.headers.get("content-type")
    media_type = patch_format(content_type)
    body = await call.json()
    plain = media_type == FHIRPATH_PATCH and is_plain_json(content_type)
    if plain and isinstance(body, dict) and body.get("resourceType") != "Parameters":
        return Patch(body, MERGE_PATCH)
    return Patch(body, media_type)
