"""An OpenAPI description of the FHIR interactions, for people who start there; `metadata` is the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.fhir.definitions import search_parameters
from shared.version import VERSION

if TYPE_CHECKING:
    from shared.http.capability import Offered
    from shared.runtime.service import Service

_JSON = "application/fhir+json"
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": r"^[A-Za-z0-9\-.]{1,64}$"}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}
_IF_MATCH = {"name": "If-Match", "in": "header", "schema": {"type": "string"}, "example": 'W/"1"'}
_IF_NONE_EXIST = {"name": "If-None-Exist", "in": "header", "schema": {"type": "string"}}
_RESULT_PARAMETERS = ("_count", "_sort", "_total", "_format", "_pretty", "_summary")


def openapi_of(service: Service, offered: Offered, base_url: str) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document of what `offered` says, per type."""
    paths: dict[str, Any] = {
        "/metadata": {"get": _does("capabilities", "CapabilityStatement", [], "CapabilityStatement")}
    }
    for type_ in sorted(offered):
        interactions = offered[type_]
        on_type, on_instance = {}, {}
        if "search-type" in interactions:
            on_type["get"] = _does(f"Search {type_}", type_, _search_parameters(type_), "Bundle")
        if "create" in interactions:
            on_type["post"] = _does(f"Create a {type_}", type_, [_IF_NONE_EXIST], type_, body=type_, status="201")
        if "read" in interactions:
            on_instance["get"] = _does(f"Read a {type_}", type_, [_ID], type_)
        if "update" in interactions:
            on_instance["put"] = _does(f"Update a {type_}", type_, [_ID, _IF_MATCH], type_, body=type_)
        if "delete" in interactions:
            on_instance["delete"] = _does(f"Delete a {type_}", type_, [_ID, _IF_MATCH], None, status="204")
        paths[f"/{type_}"], paths[f"/{type_}/{{id}}"] = on_type, on_instance
        if "history-instance" in interactions:
            versions = _does(f"All versions of a {type_}", type_, [_ID], "Bundle")
            paths[f"/{type_}/{{id}}/_history"] = {"get": versions}
        if "vread" in interactions:
            one = _does(f"One version of a {type_}", type_, [_ID, _VERSION], type_)
            paths[f"/{type_}/{{id}}/_history/{{version}}"] = {"get": one}
    for operation in service.operations:
        place = f"/{operation.type}/{{id}}" if operation.level == "instance" else f"/{operation.type}"
        about = _does(
            operation.documentation or f"${operation.name}",
            operation.type,
            [_ID] if operation.level == "instance" else [],
            "Resource",
            body="Parameters",
        )
        paths[f"{place}/${operation.name}"] = {"post": about}
    return {
        "openapi": "3.1.0",
        "info": {"title": service.title, "version": VERSION},
        "servers": [{"url": base_url}],
        "paths": {path: item for path, item in paths.items() if item},
    }


def _search_parameters(type_: str) -> list[dict[str, Any]]:
    known = search_parameters(type_)
    return [
        {
            "name": code,
            "in": "query",
            "schema": {"type": "string"},
            "description": known[code].kind if code in known else "",
        }
        for code in (*sorted(known), *_RESULT_PARAMETERS)
    ]


def _does(
    summary: str,
    tag: str,
    parameters: list[dict[str, Any]],
    returns: str | None,
    *,
    body: str | None = None,
    status: str = "200",
) -> dict[str, Any]:
    success: dict[str, Any] = {"description": returns or "Done"}
    if returns is not None:
        success["content"] = {_JSON: {"schema": _resource(returns)}}
    described: dict[str, Any] = {
        "summary": summary,
        "tags": [tag],
        "parameters": parameters,
        "responses": {
            status: success,
            "default": {
                "description": "OperationOutcome",
                "content": {_JSON: {"schema": _resource("OperationOutcome")}},
            },
        },
    }
    if body is not None:
        described["requestBody"] = {"content": {_JSON: {"schema": _resource(body)}}}
    return described


def _resource(type_: str) -> dict[str, Any]:
    if type_ == "Resource":
        return {"type": "object", "required": ["resourceType"]}
    return {"type": "object", "required": ["resourceType"], "properties": {"resourceType": {"const": type_}}}
