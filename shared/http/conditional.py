"""PUT, PATCH and DELETE on a type: of what a search finds, as one change that nothing comes in between.

Source: https://hl7.org/fhir/R4/http.html#cond-update, https://hl7.org/fhir/R4/http.html#3.1.0.7.1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.http.answering import answer_deleted, answer_written
from shared.http.conditions import condition_of
from shared.http.entries import Change
from shared.http.writing import read_patch

if TYPE_CHECKING:
    from starlette.responses import Response

    from shared.http.backend import WriteResult
    from shared.http.call import Call, Served


class Conditional:
    """The handlers of ``PUT [base]/Type?search`` and its like."""

    def __init__(self, served: Served) -> None:
        """Serve `served`."""
        self._served = served

    async def update(self, call: Call) -> Response:
        """Update the one that is found; create where none is; 412 where several are."""
        type_ = self._served.type_of(call, "update")
        condition, expected = condition_of(type_, call.pairs, where="http.url"), call.expected()
        resource = await call.resource(type_)
        change = Change(0, "PUT", type_, None, condition, expected, resource)
        return await answer_written(call, await self._made(call, change), self._served.base_url)

    async def patch(self, call: Call) -> Response:
        """Patch the one that is found; 404 where none is, 412 where several are."""
        type_ = self._served.type_of(call, "patch")
        condition, expected = condition_of(type_, call.pairs, where="http.url"), call.expected()
        change = Change(0, "PATCH", type_, None, condition, expected, patch=await read_patch(call))
        return await answer_written(call, await self._made(call, change), self._served.base_url)

    async def delete(self, call: Call) -> Response:
        """Delete the one that is found; nothing where none is; 412 where several are."""
        type_ = self._served.type_of(call, "delete")
        condition = condition_of(type_, call.pairs, where="http.url")
        change = Change(0, "DELETE", type_, None, condition, call.expected())
        result = await self._served.backend.change(call.context, change)
        answer = await answer_deleted(call, f"What was found of {type_}", result)
        if result is not None:
            place = f"{result.stored.type}/{result.stored.id}/_history/{result.stored.version}"
            answer.headers["Location"] = f"{call.context.base_url}/{place}"
        return answer

    async def _made(self, call: Call, change: Change) -> WriteResult:
        result = await self._served.backend.change(call.context, change)
        if result is None:
            raise AssertionError("only a delete leaves nothing")
        return result
