"""The FHIR interactions as thin Starlette routes: media type, parameters, headers; no rule and no SQL here.

Source: https://hl7.org/fhir/R4/http.html. A request's way: route, who asks (`Access`), what is asked, the `Backend`,
and the answer from the bytes it holds. A write is committed before its answer exists.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import parse_qsl, urlencode

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Route

from shared.fhir.definitions import RESOURCE_TYPES
from shared.fhir.json import Resource, dump
from shared.fhir.outcome import BadRequest, Issue, MethodNotAllowed, NotFound, operation_outcome
from shared.fhir.query import parse_search
from shared.http import bundle
from shared.http.backend import ALL_INTERACTIONS, RequestContext, parse_awaits
from shared.http.body import parse_body, read_body
from shared.http.negotiation import (
    Presentation,
    etag,
    http_date,
    not_modified,
    preferences,
    require_form,
    require_json,
    take_presentation,
    version_of_etag,
)
from shared.http.paging import PAGE_PARAMETER, PageLinks, PageToken
from shared.runtime.service import Operation, OperationCall

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from shared.http.backend import Backend, Position, TypeInteraction, WriteResult
    from shared.http.capability import Offered
    from shared.runtime.service import Service
    from shared.runtime.settings import Settings
    from shared.security.caller import Authenticate
    from shared.store.types import Page, Stored

Pairs: TypeAlias = list[tuple[str, str]]

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_HISTORY_COUNT = 50
_MOST = 1000
_MOST_PARAMETERS = 500
_PRESENTATION = frozenset(("_format", "_pretty"))


class NotOffered(MethodNotAllowed):
    """405 with the methods that are allowed there."""

    def __init__(self, what: str, allowed: frozenset[str]) -> None:
        super().__init__(what)
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        """`Allow`, which a 405 must carry (RFC 9110, section 15.5.6)."""
        return {"Allow": ", ".join(sorted(self.allowed))}


class Call:
    """One request, as a handler sees it."""

    def __init__(self, fhir: FhirRoutes, scope: Scope, receive: Receive) -> None:
        self.headers = Headers(scope=scope)
        self.place: Mapping[str, Any] = scope["path_params"]
        self.method: str = scope["method"]
        self._receive = receive
        self._limit = fhir.settings.max_body_bytes
        query = scope["query_string"]
        pairs: Pairs = _pairs(query) if query else []
        self.presentation, self.summary, self.pairs = take_presentation(pairs, self.headers.get("accept"))
        self.kept = [pair for pair in pairs if pair[0] in _PRESENTATION]
        returns, lenient = preferences(self.headers.get("prefer"))
        access = fhir.authenticate(self.headers)
        awaits = self.headers.get("x-kap-await")
        self.context = RequestContext(
            access=access,
            request_id=scope["state"]["request_id"],
            base_url=fhir.base_url,
            links=fhir.links,
            traceparent=self.headers.get("traceparent"),
            returns=returns,
            lenient=lenient,
            awaits=() if awaits is None else parse_awaits(awaits, access.tenant),
        )

    async def body(self) -> bytes:
        """Return the request's body, at most as long as the settings say."""
        return await read_body(self._receive, self.headers, self._limit)

    async def resource(self, type_: str | None = None) -> Resource:
        """Return the resource in the body.

        Raises:
            UnsupportedMediaType: not JSON by its Content-Type.
            TooLarge: above the limit.
            BadRequest: not a JSON object, or not a resource of the URL's type.

        """
        require_json(self.headers.get("content-type"))
        raw = await self.body()
        self.context = replace(self.context, body_bytes=len(raw))
        value = await parse_body(raw)
        if not isinstance(value, dict):
            raise BadRequest("The body is JSON, but not an object; a resource is expected.", expression=["http.body"])
        if type_ is not None and value.get("resourceType") != type_:
            said = value.get("resourceType")
            what = "has no resourceType" if said is None else f"is of type {said!r}"
            raise BadRequest(f"The body {what}, the URL says {type_}.", expression=[type_])
        return value

    def expected(self) -> int | None:
        """Return the version `If-Match` names, None where there is no such header."""
        header = self.headers.get("if-match")
        return None if header is None or header.strip() == "*" else version_of_etag(header)


Handler: TypeAlias = Callable[[Call], Awaitable[Response]]


class _Endpoint:
    """Plain ASGI: knows its route template and one handler per method."""

    def __init__(self, fhir: FhirRoutes, template: str, handlers: Mapping[str, Handler]) -> None:
        self._fhir = fhir
        self._template = template
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["route"] = self._template
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        handler = self._handlers.get(method)
        if handler is None:
            raise NotOffered(f"{method} is not offered at {self._template}.", frozenset(self._handlers))
        response = await handler(Call(self._fhir, scope, receive))
        await response(scope, receive, send)


class FhirRoutes:
    """The FHIR routes of one service over one backend."""

    def __init__(
        self,
        service: Service,
        backend: Backend,
        settings: Settings,
        *,
        authenticate: Authenticate,
        offered: Offered,
        metadata: Callable[[], bytes],
    ) -> None:
        self.service = service
        self.backend = backend
        self.settings = settings
        self.authenticate = authenticate
        self.base_url = settings.base_url
        self.links = PageLinks(settings.link_key)
        self._offered = offered
        self._metadata = metadata
        self._operations = {(one.type, one.level, one.name): one for one in service.operations}

    def routes(self) -> list[Route]:
        """Return the routes, hottest first; what begins with ``_`` or ``$`` is told from an id in `_instance`."""
        table: list[tuple[str, Mapping[str, Handler]]] = [
            ("/fhir/{type}/{id}", {"GET": self._get, "PUT": self._update, "DELETE": self._delete, "POST": self._post}),
            ("/fhir/metadata", {"GET": self._capabilities}),
            ("/fhir/{type}", {"GET": self._search, "POST": self._create}),
            ("/fhir/{type}/{id}/_history", {"GET": self._history}),
            ("/fhir/{type}/{id}/_history/{version}", {"GET": self._vread}),
            ("/fhir/{type}/{id}/{operation}", {"GET": self._on_instance, "POST": self._on_instance}),
            ("/fhir", {}),
            ("/fhir/", {}),
        ]
        return [Route(path, _Endpoint(self, path, handlers), methods=None) for path, handlers in table]

    # What is asked for

    def _type(self, call: Call, interaction: TypeInteraction | None = None) -> str:
        type_: str = call.place["type"]
        offered = self._offered.get(type_)
        if offered is None:
            what = (
                f"{self.service.title} does not serve {type_}"
                if type_ in RESOURCE_TYPES
                else f"'{type_[:64]}' is not a FHIR R4 resource type"
            )
            served = ", ".join(sorted(self._offered))
            raise NotFound(f"{what}. Served here: {served}.", code="not-supported", expression=["http.url"])
        if interaction is not None and interaction not in offered:
            raise NotOffered(f"{interaction} is not offered for {type_}; see metadata.", _methods(offered))
        return type_

    def _id(self, call: Call) -> str:
        id_: str = call.place["id"]
        if _ID.fullmatch(id_) is None:
            raise NotFound(
                "There is no resource with such an id: not of the form of a FHIR id.", expression=["http.url"]
            )
        return id_

    # Reading

    async def _capabilities(self, call: Call) -> Response:
        return _answer(self._metadata(), call.presentation)

    async def _get(self, call: Call) -> Response:
        if call.place["id"].startswith("$"):
            return await self._on_type(call)
        type_ = self._type(call, "read")
        stored = await self.backend.read(call.context, type_, self._id(call))
        return _resource_answer(stored, call)

    async def _vread(self, call: Call) -> Response:
        type_ = self._type(call, "vread")
        version: str = call.place["version"]
        if not version.isdecimal() or len(version) > 18:  # the digits that 64 bits surely hold
            raise NotFound("There is no such version: versions are numbers from 1.", expression=["http.url"])
        stored = await self.backend.vread(call.context, type_, self._id(call), int(version))
        return _resource_answer(stored, call)

    async def _history(self, call: Call) -> Response:
        type_, id_ = self._type(call, "history-instance"), self._id(call)
        path = f"{type_}/{id_}/_history"
        given, cursor = self._place_of(call, path)
        count = _HISTORY_COUNT
        for name, value in given:
            if name == "_count":
                count = _count(value)
            elif not call.context.lenient:
                raise BadRequest(
                    f"A history of one resource knows _count only, not {name}.",
                    code="not-supported",
                    expression=[f"http.{name}"],
                )
        page = await self.backend.history(call.context, type_, id_, count=count, cursor=cursor)
        links = self._links(call, path, tuple(given), page)
        return _answer(bundle.history(self.base_url, page.entries, links=links, total=page.total), call.presentation)

    async def _search(self, call: Call) -> Response:
        type_ = self._type(call, "search-type")
        given, cursor = self._place_of(call, type_)
        query = parse_search(type_, given, strict=not call.context.lenient)
        counting = call.summary == "count" or query.count == 0
        if counting:
            query = replace(query, count=1, total="accurate")
        page = await self.backend.search(call.context, query, cursor=cursor)
        ignored = None
        if query.ignored:
            ignored = operation_outcome(
                Issue(f"Ignored, since it is not known here: {name}", code="not-supported", severity="warning")
                for name in query.ignored
            )
        body = bundle.searchset(
            self.base_url,
            () if counting else page.entries,
            links=self._links(call, type_, query.given, replace(page, next=None, previous=None) if counting else page),
            total=page.total,
            outcome=ignored,
        )
        return _answer(body, call.presentation)

    def _place_of(self, call: Call, path: str) -> tuple[Pairs, str | None]:
        """Return the parameters and the cursor of a search or history: as given, or out of a page's link."""
        token = next((value for name, value in call.pairs if name == PAGE_PARAMETER), None)
        if token is None:
            return call.pairs, None
        opened = self.links.open(token, tenant=call.context.access.tenant, path=path)
        return list(opened.given), opened.cursor

    def _links(self, call: Call, path: str, given: tuple[tuple[str, str], ...], page: Page) -> list[bundle.Link]:
        def url(pairs: Pairs) -> str:
            query = urlencode([*pairs, *call.kept])
            return f"{self.base_url}/{path}" + (f"?{query}" if query else "")

        def page_url(cursor: str) -> str:
            sealed = self.links.seal(PageToken(given, cursor), tenant=call.context.access.tenant, path=path)
            return url([(PAGE_PARAMETER, sealed)])

        here = [pair for pair in call.pairs if pair[0] == PAGE_PARAMETER]
        links = [("self", url(here or list(given)))]
        if here:
            links.append(("first", url(list(given))))
        if page.previous is not None:
            links.append(("previous", page_url(page.previous)))
        if page.next is not None:
            links.append(("next", page_url(page.next)))
        return links

    # Writing

    async def _create(self, call: Call) -> Response:
        type_ = self._type(call, "create")
        condition = call.headers.get("if-none-exist")
        query = None
        if condition is not None:
            pairs = _pairs(condition.rpartition("?")[2].encode("latin-1"))
            query = parse_search(type_, pairs, strict=True)
            if not query.criteria:
                raise BadRequest("If-None-Exist has no search parameter.", expression=["http.if-none-exist"])
        resource = await call.resource(type_)
        return self._written(call, await self.backend.create(call.context, resource, if_none_exist=query))

    async def _update(self, call: Call) -> Response:
        type_, id_ = self._type(call, "update"), self._id(call)
        expected = call.expected()
        resource = await call.resource(type_)
        if resource.get("id") != id_:
            raise BadRequest("The id in the body is not the id in the URL.", expression=[f"{type_}.id"])
        return self._written(call, await self.backend.update(call.context, resource, expected=expected))

    async def _delete(self, call: Call) -> Response:
        type_, id_ = self._type(call, "delete"), self._id(call)
        result = await self.backend.delete(call.context, type_, id_, expected=call.expected())
        headers = {}
        if result is not None:
            headers = {"ETag": etag(result.stored.version), **_positions(result.positions)}
        if call.context.returns == "OperationOutcome":
            done = operation_outcome(
                [Issue(f"{type_}/{id_} is deleted.", code="informational", severity="information")]
            )
            return _answer(dump(done), call.presentation, headers=headers)
        return Response(status_code=204, headers=headers)

    def _written(self, call: Call, result: WriteResult) -> Response:
        stored = result.stored
        place = f"{stored.type}/{stored.id}"
        headers = {
            "ETag": etag(stored.version),
            "Last-Modified": http_date(stored.last_updated),
            "Location": f"{self.base_url}/{place}/_history/{stored.version}",
            **_positions(result.positions),
        }
        status = 201 if result.created else 200
        match call.context.returns:
            case "minimal":
                return Response(status_code=status, headers=headers)
            case "OperationOutcome":
                said = f"{place} is version {stored.version}."
                done = operation_outcome([Issue(said, code="informational", severity="information")])
                return _answer(dump(done), call.presentation, status, headers)
            case "representation":
                return _answer(stored.body, call.presentation, status, headers)

    # POST Type/_search, POST Type/$operation

    async def _post(self, call: Call) -> Response:
        if call.place["id"] == "_search":
            require_form(call.headers.get("content-type"))
            pairs = _pairs(await call.body())
            presentation, summary, rest = take_presentation([*call.kept, *pairs], call.headers.get("accept"))
            call.presentation, call.pairs = presentation, [*call.pairs, *rest]
            call.summary = summary if summary != "false" else call.summary
            return await self._search(call)
        if call.place["id"].startswith("$"):
            return await self._on_type(call)
        self._type(call)
        raise NotOffered(
            "POST is not offered on a resource; create by POST on its type.", frozenset(("GET", "PUT", "DELETE"))
        )

    async def _on_type(self, call: Call) -> Response:
        return await self._operate(call, "type", call.place["id"], None)

    async def _on_instance(self, call: Call) -> Response:
        return await self._operate(call, "instance", call.place["operation"], self._id(call))

    async def _operate(self, call: Call, level: Literal["instance", "type"], name: str, id_: str | None) -> Response:
        type_ = self._type(call)
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
        result = await self.backend.operation(
            call.context, operation, OperationCall(operation.name, type_, id_, parameters)
        )
        return _answer(
            result.body, call.presentation, result.status, {**result.headers, **_positions(result.positions)}
        )

    async def _parameters(self, call: Call, operation: Operation) -> Resource:
        """Return the operation's Parameters: those of the body, and those of the URL as strings.

        A body that is another resource is the parameter ``resource`` (https://hl7.org/fhir/R4/operations.html#request).
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
        parameter = body.get("parameter", [])
        if not isinstance(parameter, list) or not all(isinstance(one, dict) for one in parameter):
            raise BadRequest(
                f"The parameters of ${operation.name} are not a list of objects.", expression=["Parameters.parameter"]
            )
        return {"resourceType": "Parameters", **body, "parameter": [*parameter, *given]}


def _pairs(query: bytes) -> Pairs:
    try:
        return parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise BadRequest(
            f"The parameters cannot be read: they are not UTF-8, or more than {_MOST_PARAMETERS}.",
            expression=["http.url"],
        ) from None


def _methods(offered: frozenset[TypeInteraction]) -> frozenset[str]:
    by_interaction = {"read": "GET", "search-type": "GET", "create": "POST", "update": "PUT", "delete": "DELETE"}
    return frozenset(method for code, method in by_interaction.items() if code in offered)


def _count(value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value[:9]) <= _MOST:
        raise BadRequest(f"_count is a number from 1 to {_MOST}.", code="value", expression=["http._count"])
    return int(value)


def _positions(positions: tuple[Position, ...]) -> dict[str, str]:
    return {"X-Kap-Position": ", ".join(str(one) for one in positions)} if positions else {}


def _answer(
    body: bytes, presentation: Presentation, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    if presentation.pretty:
        body = msgspec.json.format(body, indent=2)
    return Response(body, status, headers, presentation.media_type)


def _resource_answer(stored: Stored, call: Call) -> Response:
    headers = {"ETag": etag(stored.version), "Last-Modified": http_date(stored.last_updated)}
    if not_modified(call.headers, stored.version, stored.last_updated):
        return Response(status_code=304, headers=headers)
    return _answer(stored.body, call.presentation, headers=headers)


def offered_by(service: Service, interactions: Offered | None) -> dict[str, frozenset[TypeInteraction]]:
    """Return what a service offers: every type of it with all interactions, unless `interactions` says otherwise."""
    restricted = interactions or {}
    return {type_: restricted.get(type_, ALL_INTERACTIONS) for type_ in service.types}
