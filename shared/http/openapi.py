"""An OpenAPI description of the FHIR interactions, for people who start there; `metadata` is the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shared.fhir.definitions import search_parameters
from shared.http import conformance
from shared.version import VERSION

if TYPE_CHECKING:
    from shared.http.backend import TypeInteraction
    from shared.http.capability import Offered
    from shared.runtime.service import Operation, Service

_JSON: Final = "application/fhir+json"
_PATCHES: Final = ("application/json-patch+json", "application/merge-patch+json", _JSON)
_ID: Final = {
    "name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": r"^[A-Za-z0-9\-.]{1,64}$"},
}  # fmt: skip
_VERSION: Final = {
    "name": "version", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1},
}  # fmt: skip
_IF_MATCH: Final = {"name": "If-Match", "in": "header", "schema": {"type": "string"}, "example": 'W/"1"'}
_IF_NONE_EXIST: Final = {"name": "If-None-Exist", "in": "header", "schema": {"type": "string"}}
_PREFER: Final = {
    "name": "Prefer", "in": "header", "schema": {"type": "string"}, "example": "return=minimal, handling=strict",
}  # fmt: skip
_CONDITION: Final = "The resource is the one that the search parameters of the URL find."
_RESULT_PARAMETERS: Final = ("_count", "_sort", "_total", "_format", "_pretty", "_summary", "_elements")
_JOINING: Final = ("_include", "_revinclude")
_HISTORY: Final = ("_count", "_since", "_format", "_pretty")


def openapi_of(service: Service, offered: Offered, base_url: str) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document of what `offered` and the service's operations say."""
    paths = _system_paths()
    for type_ in sorted(offered):
        paths.update(_paths_of(type_, offered[type_]))
    for operation in service.operations:
        place = {"instance": f"/{operation.type}/{{id}}", "type": f"/{operation.type}", "system": ""}[operation.level]
        paths[f"{place}/${operation.name}"] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": service.title, "version": VERSION},
        "servers": [{"url": base_url}],
        "paths": {path: item for path, item in paths.items() if item},
    }


def _system_paths() -> dict[str, Any]:
    history = _does("All versions of everything", "System", _queries(_HISTORY), "Bundle")
    search = _does("Search several types, named by _type", "System", _queries(("_type", "_count")), "Bundle")
    bundle = _does("Make the changes of a batch or transaction", "System", [_PREFER], "Bundle", body="Bundle")
    return {
        "/metadata": {"get": _does("capabilities", "CapabilityStatement", [], "CapabilityStatement")},
        "/": {"get": search, "post": bundle},
        "/_search": {"post": _form("Search several types, named by _type", "System")},
        "/_history": {"get": history},
    }


def _paths_of(type_: str, interactions: frozenset[TypeInteraction]) -> dict[str, Any]:
    on_type: dict[str, Any] = {}
    on_instance: dict[str, Any] = {}
    paths: dict[str, Any] = {f"/{type_}": on_type, f"/{type_}/{{id}}": on_instance}
    if "search-type" in interactions:
        on_type["get"] = _does(f"Search {type_}", type_, _search_parameters(type_), "Bundle")
        paths[f"/{type_}/_search"] = {"post": _form(f"Search {type_}", type_)}
    if "create" in interactions:
        headers = [_IF_NONE_EXIST, _PREFER]
        on_type["post"] = _does(f"Create a {type_}", type_, headers, type_, body=type_, status="201")
    if "read" in interactions:
        on_instance["get"] = _does(f"Read a {type_}", type_, [_ID], type_)
    for code, method, verb in (
        ("update", "put", "Update"),
        ("patch", "patch", "Patch"),
        ("delete", "delete", "Delete"),
    ):
        if code not in interactions:
            continue
        returns = None if code == "delete" else type_
        body, status = {"update": type_, "patch": "patch"}.get(code), "204" if code == "delete" else "200"
        headers = [_IF_MATCH, _PREFER]
        on_instance[method] = _does(f"{verb} a {type_}", type_, [_ID, *headers], returns, body=body, status=status)
        on_type[method] = _does(
            f"{verb} a {type_} by condition. {_CONDITION}", type_, headers, returns, body=body, status=status
        )
    if "history-type" in interactions:
        versions = _does(f"All versions of every {type_}", type_, _queries(_HISTORY), "Bundle")
        paths[f"/{type_}/_history"] = {"get": versions}
    if "history-instance" in interactions:
        versions = _does(f"All versions of a {type_}", type_, [_ID, *_queries(_HISTORY)], "Bundle")
        paths[f"/{type_}/{{id}}/_history"] = {"get": versions}
    if "vread" in interactions:
        one = _does(f"One version of a {type_}", type_, [_ID, _VERSION], type_)
        paths[f"/{type_}/{{id}}/_history/{{version}}"] = {"get": one}
    return paths


def _operation(operation: Operation) -> dict[str, Any]:
    said = operation.documentation or f"${operation.name}"
    place = [_ID] if operation.level == "instance" else []
    tag = operation.type or "System"
    methods = {"post": _does(said, tag, place, "Resource", body="Parameters")}
    if not operation.affects_state:
        methods["get"] = _does(said, tag, place, "Resource")
    return methods


def _search_parameters(type_: str) -> list[dict[str, Any]]:
    if type_ in conformance.TYPES_OF:
        return _queries((*conformance.PARAMETERS, *conformance.MORE[type_], "_count", "_format", "_pretty"))
    known = search_parameters(type_)
    described = _queries((*sorted(known), *_RESULT_PARAMETERS, *_JOINING))
    for one in described:
        if one["name"] in known:
            one["description"] = known[one["name"]].kind
    return described


def _queries(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]


def _form(summary: str, tag: str) -> dict[str, Any]:
    described = _does(f"{summary}, by a form", tag, [], "Bundle")
    form = {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}
    described["requestBody"] = {"content": {"application/x-www-form-urlencoded": form}}
    return described


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
    if body == "patch":
        described["requestBody"] = {"content": {form: {"schema": _patch(form)} for form in _PATCHES}}
    elif body is not None:
        described["requestBody"] = {"content": {_JSON: {"schema": _resource(body)}}}
    return described


def _patch(form: str) -> dict[str, Any]:
    if form == _JSON:
        return _resource("Parameters")
    return {"type": "array", "items": {"type": "object"}} if "json-patch" in form else {"type": "object"}


def _resource(type_: str) -> dict[str, Any]:
    if type_ == "Resource":
        return {"type": "object", "required": ["resourceType"]}
    return {"type": "object", "required": ["resourceType"], "properties": {"resourceType": {"const": type_}}}
