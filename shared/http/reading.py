"""Reading: one resource or version, histories of three levels, searches; from bytes as they are held.

Source: https://hl7.org/fhir/R4/http.html#read, #vread, #history, #search
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from shared.fhir.history import parse_history
from shared.fhir.outcome import BadRequest, Issue, NotFound, operation_outcome
from shared.fhir.query import parse_search
from shared.fhir.subset import unknown_elements
from shared.http import audit_events, audits_beside, bundle, conformance
from shared.http.answering import answer, answer_version
from shared.http.negotiation import require_form
from shared.http.paging import PAGE_PARAMETER, PageToken
from shared.security.audit import record, sent
from shared.security.gate import require_known

if TYPE_CHECKING:
    from starlette.responses import Response

    from shared.http.audits_beside import AuditsBeside
    from shared.http.call import Call, Pairs, Served
    from shared.store.types import Page


class Reading:
    """The handlers of what only reads."""

    def __init__(self, served: Served, metadata: Callable[[], Awaitable[bytes]]) -> None:
        """Serve `served`; `metadata` makes the CapabilityStatement."""
        self._served = served
        self._metadata = metadata

    async def capabilities(self, call: Call) -> Response:
        """GET metadata."""
        _require_a_resource(call)
        return await answer(await self._metadata(), call.presentation)

    async def read(self, call: Call) -> Response:
        """GET Type/id."""
        type_ = self._served.type_of(call, "read")
        _require_a_resource(call, type_)
        if type_ == audit_events.TYPE:
            return await self._audit_event(call)
        if type_ in conformance.TYPES_OF:
            loaded = await self._served.backend.loaded(call.context, type_)
            return await answer_version(self._served.conformance.read(type_, call.id, loaded), call)
        return await answer_version(await self._served.backend.read(call.context, type_, call.id), call)

    async def vread(self, call: Call) -> Response:
        """GET Type/id/_history/version."""
        type_ = self._served.type_of(call, "vread")
        _require_a_resource(call, type_)
        version: str = call.place["version"]
        if not version.isdecimal() or len(version) > 18:  # the digits that 64 bits surely hold
            raise NotFound("There is no such version: versions are numbers from 1.", expression=["http.url"])
        return await answer_version(await self._served.backend.vread(call.context, type_, call.id, int(version)), call)

    async def history_of_instance(self, call: Call) -> Response:
        """GET Type/id/_history."""
        type_ = self._served.type_of(call, "history-instance")
        return await self._history(call, type_, call.id)

    async def history_of_type(self, call: Call) -> Response:
        """GET Type/_history."""
        return await self._history(call, self._served.type_of(call, "history-type"), None)

    async def history_of_system(self, call: Call) -> Response:
        """GET _history."""
        return await self._history(call, None, None)

    async def _history(self, call: Call, type_: str | None, id_: str | None) -> Response:
        _require_a_resource(call, type_)
        path = "/".join(part for part in (type_, id_, "_history") if part is not None)
        given, cursor = self._place_of(call, path)
        query = parse_history(type_, id_, given, strict=not call.context.lenient)
        page = await self._served.backend.history(call.context, query, cursor=cursor)
        body = bundle.history(
            self._served.base_url, page.entries, links=self._links(call, path, query.given, page), total=page.total
        )
        return await answer(body, call.presentation)

    async def search(self, call: Call) -> Response:
        """GET Type?..."""
        type_ = self._served.type_of(call, "search-type")
        if type_ == audit_events.TYPE:
            return await self._searched_audit(call)
        if type_ in conformance.TYPES_OF:
            return await self._searched_conformance(call, type_)
        return await self._searched(call, type_, type_)

    async def _searched_conformance(self, call: Call, type_: str) -> Response:
        given, cursor = self._place_of(call, type_)
        loaded = await self._served.backend.loaded(call.context, type_)
        page = self._served.conformance.search(type_, given, cursor, strict=not call.context.lenient, loaded=loaded)
        if call.presentation.counting:
            page = replace(page, entries=(), next=None, previous=None)
        body = bundle.searchset(
            self._served.base_url,
            page.entries,
            links=self._links(call, type_, tuple(given), page),
            total=page.total,
        )
        return await answer(body, call.presentation)

    async def _audit_event(self, call: Call) -> Response:
        """Return one row of the audit; that it was looked at is in the audit, too."""
        caller = require_known(call.context).caller
        patients = audit_events.reach(caller, "r")
        record("audit", "read", "R", what=(f"{audit_events.TYPE}/{call.id}",), patients=patients or ())
        events, beside = self._audit_events()
        service = audits_beside.sequence_of(call.id)[0]
        if beside is not None and service:
            found = await beside.read(call.context, service, call.id)
            if found is not None:
                return await answer_version(found, call)
        return await answer_version(await events.read(caller.tenant, call.id, patients), call)

    async def _searched_audit(self, call: Call) -> Response:
        type_ = audit_events.TYPE
        caller = require_known(call.context).caller
        patients = audit_events.reach(caller, "s")
        given, cursor = self._place_of(call, type_)
        record("audit", "search-type", "E", query=sent(type_, given), patients=patients or ())
        strict = not call.context.lenient
        events, beside = self._audit_events()
        if beside is None:
            cursor = cursor or call.headers.get(audits_beside.BEFORE)
            page = await events.search(caller.tenant, given, cursor, patients, strict=strict)
        else:
            before = audits_beside.told_before(cursor)
            page = await events.search_with(beside, call.context, given, before, patients, strict=strict)
        if call.presentation.counting:
            page = replace(page, entries=(), next=None)
        links = self._links(call, type_, tuple(given), page)
        body = bundle.searchset(self._served.base_url, page.entries, links=links, total=page.total)
        return await answer(body, call.presentation)

    def _audit_events(self) -> tuple[audit_events.AuditEvents, AuditsBeside | None]:
        auditing = self._served.auditing
        if auditing is None:
            raise NotFound("Nothing is audited here.")
        return audit_events.AuditEvents(auditing.kept, self._served.base_url), auditing.beside

    async def search_system(self, call: Call) -> Response:
        """GET ?_type=..."""
        return await self._searched(call, None, "")

    async def search_by_form(self, call: Call) -> Response:
        """POST Type/_search, POST _search."""
        require_form(call.headers.get("content-type"))
        call.take_form(await call.body())
        return await (self.search(call) if "type" in call.place else self.search_system(call))

    async def _searched(self, call: Call, type_: str | None, path: str) -> Response:
        """Search one type, or (None) those that `_type` names."""
        given, cursor = self._place_of(call, path)
        offered = self._served.offered.items()
        query = parse_search(
            type_,
            given,
            strict=not call.context.lenient,
            base=self._served.base_url,
            served=frozenset(
                name
                for name, interactions in offered
                if "search-type" in interactions and name not in conformance.TYPES_OF | {audit_events.TYPE}
            ),
        )
        if not query.includes:
            _require_known_elements(call, type_)
        if call.presentation.counting or query.count == 0:
            query = replace(query, count=0, total="accurate")
        page = await self._served.backend.search(call.context, query, cursor=cursor)
        if query.count == 0:
            page = replace(page, entries=(), next=None, previous=None)
        notes = [
            Issue(f"Ignored, since it is not known here: {name}", code="not-supported", severity="warning")
            for name in query.ignored
        ]
        if page.partial:
            said = "More is included than one answer holds: ask for fewer matches by _count, or for less by _include."
            notes.append(Issue(said, code="too-costly", severity="warning"))
        if page.explained is not None:
            notes.append(Issue(page.explained, code="informational", severity="information"))
        body = bundle.searchset(
            self._served.base_url,
            page.entries,
            links=self._links(call, path, query.given, page),
            total=page.total,
            outcome=operation_outcome(notes) if notes else None,
            included=page.included,
        )
        return await answer(body, call.presentation)

    def _place_of(self, call: Call, path: str) -> tuple[Pairs, str | None]:
        """Return the parameters and the cursor of a search or history: as given, or out of a page's link."""
        token = next((value for name, value in call.pairs if name == PAGE_PARAMETER), None)
        if token is None:
            return call.pairs, None
        opened = self._served.links.open(token, tenant=call.context.access.tenant, path=path)
        return list(opened.given), opened.cursor

    def _links(self, call: Call, path: str, given: tuple[tuple[str, str], ...], page: Page) -> list[bundle.Link]:
        def url(pairs: Pairs) -> str:
            query = urlencode([*pairs, *call.kept], safe=",:/$*")
            return f"{self._served.base_url}/{path}".rstrip("/") + (f"?{query}" if query else "")

        def page_url(cursor: str) -> str:
            sealed = self._served.links.seal(PageToken(given, cursor), tenant=call.context.access.tenant, path=path)
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


def _require_a_resource(call: Call, type_: str | None = None) -> None:
    """Refuse what only a search can be asked for, and elements the type does not have."""
    if call.presentation.counting:
        raise BadRequest(
            "_summary=count is for searches: it tells how many match.", code="value", expression=["http._summary"]
        )
    _require_known_elements(call, type_)


def _require_known_elements(call: Call, type_: str | None) -> None:
    view = call.presentation.view
    if view is None or type_ is None or call.context.lenient:
        return
    if unknown := unknown_elements(view, type_):
        raise BadRequest(
            f"_elements names what {type_} does not have: {', '.join(unknown)[:200]}.",
            code="value",
            expression=["http._elements"],
        )
