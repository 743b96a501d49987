"""One request, as a handler sees it; and what all handlers of a service share."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.responses import Response

from shared.fhir.definitions import RESOURCE_TYPES
from shared.fhir.json import Json, Resource
from shared.fhir.outcome import BadRequest, MethodNotAllowed, NotFound
from shared.fhir.references import relative_references
from shared.http.backend import RequestContext, parse_awaits
from shared.http.body import parse_body, read_body
from shared.http.conformance import Conformance
from shared.http.negotiation import GENERAL, preferences, require_json, take_presentation, version_of_etag
from shared.http.paging import PageLinks
from shared.http.provenance import HEADER, provenance_in
from shared.security import glass, intermediaries
from shared.store.access import Access

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from shared.http.backend import Backend, TypeInteraction
    from shared.http.capability import Offered
    from shared.runtime.service import Service
    from shared.runtime.settings import Settings
    from shared.security.audit import Auditing
    from shared.security.caller import Authenticate, Caller

Pairs: TypeAlias = list[tuple[str, str]]

_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_MOST_PARAMETERS: Final = 500


_METHODS: Final[Mapping[TypeInteraction, str]] = {
    "read": "GET",
    "search-type": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
}


class NotOffered(MethodNotAllowed):
    """405 with the methods that are allowed there."""

    def __init__(self, what: str, allowed: frozenset[str]) -> None:
        super().__init__(what)
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        """`Allow`, which a 405 must carry (RFC 9110, section 15.5.6)."""
        return {"Allow": ", ".join(sorted(self.allowed))}


class Served:
    """What the handlers of one service share.

    Attributes:
        service, backend, settings: what is served, from what, and how.
        authenticate: tells who sent a request.
        offered: by type, the interactions that are offered.
        base_url: the public base of every link.
        links: seals and opens paging links.
        conformance: the resources that describe the server.
        auditing: how requests are audited; None: they are not.

    """

    def __init__(
        self,
        service: Service,
        backend: Backend,
        settings: Settings,
        *,
        authenticate: Authenticate,
        offered: Offered,
        auditing: Auditing | None = None,
    ) -> None:
        self.service = service
        self.backend = backend
        self.settings = settings
        self.authenticate = authenticate
        self.offered = offered
        self.auditing = auditing
        self.base_url = settings.base_url
        self.links = PageLinks(settings.link_key)
        self.conformance = Conformance(offered, service.operations, service.name)

    def over(self, backend: Backend) -> Served:
        """Return the same over another backend."""
        return Served(
            self.service,
            backend,
            self.settings,
            authenticate=self.authenticate,
            offered=self.offered,
            auditing=self.auditing,
        )

    def type_of(self, call: Call, interaction: TypeInteraction | None = None) -> str:
        """Return the type that the URL names; raises as `require_offered`."""
        type_: str = call.place["type"]
        self.require_offered(type_, interaction)
        return type_

    def require_offered(self, type_: str, interaction: str | None = None) -> None:
        """Pass a type that is served, and (if given) an interaction that is offered for it.

        Raises:
            NotFound: the type is not served here.
            NotOffered: `interaction` is not offered for it.

        """
        offered = self.offered.get(type_)
        if offered is None:
            what = (
                f"{self.service.title} does not serve {type_}"
                if type_ in RESOURCE_TYPES
                else f"'{type_[:64]}' is not a FHIR R4 resource type"
            )
            served = ", ".join(sorted(self.offered))
            raise NotFound(f"{what}. Served here: {served}.", code="not-supported", expression=["http.url"])
        if interaction is not None and interaction not in offered:
            allowed = frozenset(method for code, method in _METHODS.items() if code in offered)
            raise NotOffered(f"{interaction} is not offered for {type_}; see metadata.", allowed)


class Call:
    """One request, as a handler sees it.

    Attributes:
        headers, method: as they came.
        place: what stands in the URL's path: type, id, version, operation.
        pairs: the URL's parameters without those of the presentation.
        kept: those of the presentation, which links repeat.
        presentation: how the answer is to be written.
        context: who asks, and how.

    """

    def __init__(self, served: Served, scope: Scope, receive: Receive, caller: Caller) -> None:
        self.headers = Headers(scope=scope)
        self.place: Mapping[str, Any] = scope["path_params"]
        self.method: str = scope["method"]
        self._receive = receive
        self._limit = served.settings.max_body_bytes
        query = scope["query_string"]
        pairs: Pairs = pairs_of(query) if query else []
        self.presentation, self.pairs = take_presentation(pairs, self.headers.get("accept"))
        self.kept = [pair for pair in pairs if pair[0] in GENERAL]
        returns, lenient = preferences(self.headers.get("prefer"))
        awaits = self.headers.get("x-kap-await")
        self.context = RequestContext(
            caller=caller,
            access=caller.access("r") if caller.everything else Access.nothing(caller.tenant),
            request_id=scope["state"]["request_id"],
            base_url=served.base_url,
            links=served.links,
            traceparent=scope["state"]["traceparent"],
            returns=returns,
            lenient=lenient,
            awaits=() if awaits is None else parse_awaits(awaits, caller.tenant),
            provenance=self._provenance(served),
            glass=self.headers.get(glass.HEADER),
            behalf=self.headers.get(intermediaries.HEADER),
        )

    def _provenance(self, served: Served) -> Resource | None:
        """Return the Provenance that comes with a write.

        Raises:
            BadRequest: it is not valid, or there is none kept here.

        """
        said = self.headers.get(HEADER)
        if said is None or self.method in {"GET", "HEAD"}:
            return None
        if "create" not in served.offered.get("Provenance", frozenset()):
            raise BadRequest(
                f"{served.service.title} keeps no Provenance. Leave {HEADER} out.",
                code="not-supported",
                expression=["http.x-provenance"],
            )
        return provenance_in(said)

    @property
    def id(self) -> str:
        """The id in the URL.

        Raises:
            NotFound: not of the form of an id, so there is no such resource.

        """
        id_: str = self.place["id"]
        if _ID.fullmatch(id_) is None:
            raise NotFound(
                "There is no resource with such an id: not of the form of a FHIR id.", expression=["http.url"]
            )
        return id_

    def take_form(self, form: bytes) -> None:
        """Take the parameters of a form (of a POST `_search`) to those of the URL."""
        given = pairs_of(form)
        self.presentation, rest = take_presentation([*self.kept, *given], self.headers.get("accept"))
        self.kept = [*self.kept, *(pair for pair in given if pair[0] in GENERAL)]
        self.pairs = [*self.pairs, *rest]

    async def body(self) -> bytes:
        """Return the request's body, unpacked, at most as long as the settings say."""
        return await read_body(self._receive, self.headers, self._limit)

    async def json(self) -> Json:
        """Return the JSON value in the body.

        Raises:
            TooLarge: above the limit.
            BadRequest: not JSON.

        """
        raw = await self.body()
        self.context = replace(self.context, body_bytes=len(raw))
        return await parse_body(relative_references(raw, self.context.base_url))

    async def resource(self, type_: str | None = None) -> Resource:
        """Return the resource in the body.

        Raises:
            UnsupportedMediaType: not JSON by its Content-Type.
            TooLarge: above the limit.
            BadRequest: not a JSON object, or not a resource of the URL's type.

        """
        require_json(self.headers.get("content-type"))
        value = await self.json()
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


def pairs_of(query: bytes) -> Pairs:
    """Return the names and values of a query or a form.

    Raises:
        BadRequest: not UTF-8, or too many.

    """
    try:
        return parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise BadRequest(
            f"The parameters cannot be read: they are not UTF-8, or more than {_MOST_PARAMETERS}.",
            expression=["http.url"],
        ) from None
