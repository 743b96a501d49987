"""Operations: ``Type/$name`` and ``Type/id/$name``.

Source: https://hl7.org/fhir/R4/operations.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from shared.fhir.json import Json, Resource, parse
from shared.fhir.outcome import BadRequest, NotFound
from shared.fhir.validation import require_valid
from shared.http import conformance
from shared.http.answering import answer, told_of
from shared.http.bundle import placed
from shared.http.call import NotOffered
from shared.http.operations.kinds import ReadOperation
from shared.runtime.everywhere import VALIDATE
from shared.runtime.service import Operation, OperationCall

_NOTHING: Final = {"resourceType": "Parameters"}

if TYPE_CHECKING:
    from starlette.responses import Response

    from shared.http.call import Call, Served


class Operating:
    """The handlers of operations."""

    def __init__(self, served: Served) -> None:
        """Serve the operations of the service in `served`."""
        self._served = served
        self._operations = {(one.type, one.level, one.name): one for one in served.service.operations}

    async def on_type(self, call: Call) -> Response:
        """GET or POST Type/$name."""
        return await self._operate(call, "type", call.place["id"], None)

    async def on_instance(self, call: Call) -> Response:
        """GET or POST Type/id/$name."""
        return await self._operate(call, "instance", call.place["operation"], call.id)

    async def _operate(self, call: Call, level: Literal["instance", "type"], name: str, id_: str | None) -> Response:
        type_ = self._served.type_of(call)
        operation = self._operations.get((type_, level, name.removeprefix("$"))) if name.startswith("$") else None
        if operation is None:
            raise NotFound(
                f"There is no such operation on {type_} here; see metadata.",
                code="not-supported",
                expression=["http.url"],
            )
        if call.method != "POST" and operation.affects_state:
            raise NotOffered(f"{name} changes the record, so it is called by POST.", frozenset(("POST",)))
        parameters = await self._parameters(call, operation)
        if id_ is not None and operation.name == VALIDATE:
            operation, parameters, id_ = await self._of_held(call, operation, parameters)
        if id_ is not None and type_ in conformance.TYPES_OF:
            operation, parameters, id_ = await self._of_published(call, operation, parameters)
        asked = OperationCall(operation.name, type_, id_, parameters)
        if isinstance(operation, ReadOperation):
            result = await operation.answer(asked, self._served.backend, call.context)
        else:
            result = await self._served.backend.operation(call.context, operation, asked)
        headers = {**result.headers, **told_of(result)}
        return await answer(placed(result.body, self._served.base_url), call.presentation, result.status, headers)

    async def _of_held(
        self, call: Call, operation: Operation, parameters: Resource
    ) -> tuple[Operation, Resource, None]:
        """Return a validation of an instance as one of its type: of what is given, else of what is held."""
        stored = await self._served.backend.read(call.context, operation.type, call.id)
        given: list[Resource] = parameters["parameter"]
        resource = next((one["resource"] for one in given if one.get("name") == "resource" and "resource" in one), None)
        if resource is None:
            given = [*given, {"name": "resource", "resource": parse(stored.body)}]
        elif isinstance(resource, dict) and resource.get("id") != call.id:
            raise BadRequest("The id in the body is not the id in the URL.", expression=[f"{operation.type}.id"])
        return self._operations[operation.type, "type", operation.name], {**parameters, "parameter": given}, None

    async def _of_published(
        self, call: Call, operation: Operation, parameters: Resource
    ) -> tuple[Operation, Resource, None]:
        """Return an operation on a conformance resource as one of its type, which names it by its canonical."""
        loaded = await self._served.backend.loaded(call.context, operation.type)
        url = self._served.conformance.url_of(operation.type, call.id, loaded)
        given: list[Resource] = parameters["parameter"]
        if any(one.get("name") == "url" for one in given):
            raise BadRequest(
                f"{operation.type}/{call.id} is named by the URL; leave the parameter url out.",
                expression=["Parameters.url"],
            )
        named = [*given, {"name": "url", "valueUri": url}]
        return self._operations[operation.type, "type", operation.name], {**parameters, "parameter": named}, None

    async def _parameters(self, call: Call, operation: Operation) -> Resource:
        """Return the operation's Parameters: those of the body, and those of the URL as strings.

        A body that is another resource is the parameter ``resource`` (https://hl7.org/fhir/R4/operations.html#request).

        Raises:
            BadRequest: the body is no FHIR R4, with each issue and where it is.

        """
        given: list[Resource] = [{"name": name, "valueString": value} for name, value in call.pairs]
        body: Resource = {}
        if call.method == "POST" and call.headers.get("content-length") != "0":
            has_type = "content-type" in call.headers
            if has_type or "transfer-encoding" in call.headers or "content-length" in call.headers:
                body = await call.resource()
        if body and body.get("resourceType") != "Parameters":
            given.append({"name": "resource", "resource": body})
            body = {}
        if body.get("parameter") == []:  # none
            del body["parameter"]
        if body:
            require_valid(_without_resources(body))
        return {"resourceType": "Parameters", **body, "parameter": [*body.get("parameter", []), *given]}


def _without_resources(parameters: Json) -> Json:
    """Return Parameters with nothing in the resources that they hold: those are for the operation to judge."""
    if isinstance(parameters, list):
        return [_without_resources(one) for one in parameters]
    if not isinstance(parameters, dict):
        return parameters
    found: dict[str, Json] = {}
    for name, value in parameters.items():
        if name == "resource" and isinstance(value, dict):
            found[name] = _NOTHING
        else:
            found[name] = _without_resources(value) if name in ("parameter", "part") else value
    return found
