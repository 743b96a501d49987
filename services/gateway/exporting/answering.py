"""The HTTP of exports: kick-off, status, manifest, files, deletion.

GET, POST [base]/$export, [base]/Patient/$export, [base]/Group/[id]/$export    202, Content-Location: the status
GET       [base]/$export/[export]                  202 while it waits; the manifest; what became of it
DELETE    [base]/$export/[export]                  202: it is forgotten
GET       [base]/$export/[export]/[file]           NDJSON: what of it may still be told, or nothing

A file's name is looked for among the export's own and leads nowhere else. Whoever asks has to be who asked first.

Source: https://hl7.org/fhir/uv/bulkdata/STU2/export.html
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Match

from services.gateway.exporting.asked import NDJSON, Asked, Level, asked_by, given_in
from services.gateway.exporting.caller import (
    Who,
    accesses,
    members,
    require_as_wide,
    require_same,
    types_of,
    who_asks,
)
from services.gateway.exporting.working import Kept, read
from shared.fhir.extraction import labels_of
from shared.fhir.freshness import Freshness, KnowledgePolicy
from shared.fhir.ids import subject_uuid
from shared.fhir.json import dump, parse
from shared.fhir.outcome import (
    BadRequest,
    Gone,
    Issue,
    NotFound,
    Unavailable,
    Unprocessable,
    operation_outcome,
)
from shared.fhir.subset import View, subset
from shared.http.body import parse_body, read_body
from shared.http.bundle import instant
from shared.http.call import NotOffered, pairs_of
from shared.http.negotiation import accepted, http_date, preferences, require_json
from shared.runtime.knowledge import require_news_of_consents
from shared.runtime.policy import load_policy
from shared.security.audit import Auditing, known, record, sent
from shared.security.limits import TooManyRequests
from shared.security.notice import with_notice
from shared.security.tokens import TokenRefused
from shared.store.behind import Behind, Place, through
from shared.store.exports import Withdrawn
from shared.store.visibility import PART_2

if TYPE_CHECKING:
    from uuid import UUID

    from starlette.types import Receive, Scope, Send

    from shared.runtime.app import Parts
    from shared.runtime.service import Service
    from shared.runtime.settings import Settings
    from shared.security.caller import Authenticate, Caller
    from shared.store.access import Access
    from shared.store.exports import File, Job
    from shared.store.store import Store

_PLACE: Final = re.compile(
    r"/fhir/(?:(?P<type>Patient|Group)/(?:(?P<id>[^/$]{1,64})/)?)?\$export"
    r"(?:/(?P<job>[A-Za-z0-9_-]{1,64})(?:/(?P<file>[A-Za-z0-9.-]{1,64}))?)?"
)
_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")

_ERRORS: Final = "messages"
_RESPOND_ASYNC: Final = re.compile(r"(?:^|[,;])\s*respond-async\s*(?:$|[,;])", re.IGNORECASE)
_SHOWN: Final = 8
"""Characters of an export's id that the audit names it by."""

_GONE: Final = (
    "What may be told has changed since this export was made: a consent was withdrawn, or what a token may see. It was "
    "deleted. Ask for another."
)


@dataclass(frozen=True, slots=True)
class Exports:
    """What the answers need. `news`: how new what is known of consents has to be to tell somebody outside."""

    store: Store
    service: Service
    settings: Settings
    authenticate: Authenticate
    auditing: Auditing
    news: Freshness

    # Kick-off

    async def kick_off(self, request: Request, caller: Caller, level: Level) -> Response:
        """Put an export in line.

        Raises:
            BadRequest: the parameters, or not asynchronous.
            ScopeMissing: the token is not for that.
            NotFound: there is no such group.
            TooManyRequests: the client has enough, or too many wait.

        """
        headers, group = request.headers, request.place["id"]
        accepted(headers.get("accept"), None)
        if _RESPOND_ASYNC.search(headers.get("prefer", "")) is None:
            raise BadRequest(
                "$export is answered later: send 'Prefer: respond-async'.", code="required", expression=["http.prefer"]
            )
        pairs, form = pairs_of(request.query), await request.parameters(self.settings.max_body_bytes)
        query = request.query.decode("latin-1")
        url = f"{self.settings.base_url}{request.path.removeprefix('/fhir')}{'?' + query if query else ''}"
        lenient = preferences(headers.get("prefer"))[1]
        asked = asked_by(level, [*pairs, *form], request=url, group=group, lenient=lenient)
        who = who_asks(caller, level)
        as_kept = who.caller(caller.tenant)
        types_of(as_kept, asked)
        await self._may_tell(caller)
        if level == "group":
            await members(self.store, as_kept, group)
        exports = self.store.exports
        most = self.settings.exports_per_client
        if await exports.in_line(caller.tenant) >= self.settings.exports_waiting:
            raise TooManyRequests("As many exports wait as may. Ask again in a while.", retry_after=60)
        kept = msgspec.json.encode(Kept(asked, who)).decode()
        keep = timedelta(hours=self.settings.export_hours)
        job = await exports.ask(secrets.token_urlsafe(24), caller.tenant, who.client, kept, kept=keep, most=most)
        if job is None:
            said = f"This client has {most} exports already. DELETE one whose files are fetched."
            raise TooManyRequests(said, retry_after=60)
        what = {"system": (), "patient": ("Patient",), "group": (f"Group/{group}",)}[level]
        record("rest", "$export", "E", what=what, query=sent(request.path[6:], [*pairs, *form]))
        return Response(status_code=202, headers={"Content-Location": self._url(job)})

    async def _may_tell(self, caller: Caller) -> frozenset[UUID]:
        if caller.disclosure is None:
            return frozenset()
        return await require_news_of_consents(self.service, self.store, self.news, caller.tenant)

    # Status, deletion

    async def status(self, request: Request, caller: Caller) -> Response:
        """Tell how far an export is: its manifest, where it is complete.

        Raises:
            NotFound: there is none of this id for the caller.
            Gone: it may not be told any more.
            Unprocessable: it could not be made.

        """
        job, asked, _ = await self._mine(request, caller)
        if job.state == "waiting":
            before = await self.store.exports.in_line(caller.tenant, before=job)
            said = f"waiting, {before} of this client before it" if before else "in line or gathering"
            age = (datetime.now(UTC) - job.asked_at).total_seconds()
            return Response(status_code=202, headers={"X-Progress": said, "Retry-After": "1" if age < 10 else "5"})
        self._require_complete(job)
        manifest = await self._manifest(job, asked, caller)
        return Response(dump(manifest), 200, {"Expires": http_date(job.expires_at)}, "application/json")

    async def delete(self, request: Request, caller: Caller) -> Response:
        """Forget an export; raises as `status`."""
        job, _, _ = await self._mine(request, caller)
        await self.store.exports.delete(job)
        record("rest", "$export", "D", query=f"$export/{job.id[:_SHOWN]}")
        said = operation_outcome([Issue("The export is deleted.", code="informational", severity="information")])
        return Response(dump(said), 202, {}, "application/fhir+json")

    async def _mine(self, request: Request, caller: Caller) -> tuple[Job, Asked, Who]:
        job = await self.store.exports.find(request.place["job"], caller.tenant)
        kept = None if job is None else read(job)
        require_same(job, None if kept is None else kept[1], caller)
        assert job is not None  # noqa: S101 - require_same let it pass
        assert kept is not None  # noqa: S101 - as above
        if kept[1].told != caller.disclosure and not caller.everything:  # his role is another kind of role now
            await self._withdraw(job)
            raise Gone(_GONE)
        return job, *kept

    def _require_complete(self, job: Job) -> None:
        if job.state == "withdrawn":
            raise Gone(_GONE)
        if job.state == "failed":
            raise Unprocessable(f"This export could not be made. {' '.join(job.said)}", code="incomplete")
        if job.state != "complete":
            raise NotFound("This export is not complete yet; ask for its status.")

    async def _manifest(self, job: Job, asked: Asked, caller: Caller) -> dict[str, Any]:
        files = await self.store.exports.files(job)
        listed = [
            (one.deleted, {"type": "Bundle" if one.deleted else one.type, "url": f"{self._url(job)}/{_name(one)}",
                           "count": one.lines})
            for one in files
        ]  # fmt: skip
        messages = {"type": "OperationOutcome", "url": f"{self._url(job)}/{_ERRORS}.ndjson", "count": len(job.said)}
        return {
            "transactionTime": instant(job.known_until or job.asked_at),
            "request": asked.request,
            "requiresAccessToken": not caller.everything,
            "output": [entry for deleted, entry in listed if not deleted],
            "deleted": [entry for deleted, entry in listed if deleted],
            "error": [messages] if job.said else [],
        }

    def _url(self, job: Job) -> str:
        return f"{self.settings.base_url}/$export/{job.id}"

    # Files

    async def file(self, request: Request, caller: Caller) -> Response:
        """Answer with a file, all of which may still be told.

        Raises:
            NotFound: there is no such file, or export, for the caller.
            Forbidden: the token allows less than the export was made by.
            Gone: something of it may not be told any more; then none of the export is.
            Unavailable: it is not known whether it may, of some patient in it.

        """
        job, asked, who = await self._mine(request, caller)
        self._require_complete(job)
        require_as_wide(who, caller)
        name = request.place["file"]
        shown = f"$export/{job.id[:_SHOWN]}/{name}"
        if name == f"{_ERRORS}.ndjson" and job.said:
            record("rest", "$export", "R", query=shown)
            return Response(_messages(job), media_type=NDJSON)
        file = await self._file(job, name)
        doubted = await self._may_tell(caller)
        may = accesses(who.caller(caller.tenant), file.type)
        try:
            patients, behind = await self.store.exports.look(job, file, may)
            if not doubted.isdisjoint(subject_uuid(one) for one in patients):
                raise Unavailable("What is known of a patient's consents may be too old. Try again.")
        except Withdrawn:
            await self._withdraw(job)
            raise Gone(_GONE) from None
        every = [one for several in behind.values() for one in several]
        allowed, by = ", ".join(dict.fromkeys(one.consent for one in every)), {}
        if allowed:
            by = {"authorisation": allowed, "through": through(every)}
        record("rest", "$export", "R", what=(file.type,), query=shown, patients=tuple(patients), **by)
        if request.method == "HEAD":
            return Response(media_type=NDJSON)
        line = Line(asked.view(file.type), None if caller.disclosure is None else behind, self.settings.base_url)
        return StreamingResponse(self._lines(job, file, may, line), media_type=NDJSON)

    async def _file(self, job: Job, name: str) -> File:
        found = next((one for one in await self.store.exports.files(job) if _name(one) == name), None)
        if found is None:
            raise NotFound("There is no such file in this export; its manifest lists them.")
        return found

    async def _lines(self, job: Job, file: File, may: tuple[Access, ...], line: Line) -> AsyncIterator[bytes]:
        """Yield a file; one that may be told no more is cut off there, so that nobody takes it for all."""
        try:
            async for batch in self.store.exports.bodies(job, file, may):
                if file.deleted:
                    yield b"".join([dump(_deletion(name)) + b"\n" for name, _ in batch])
                else:
                    yield await asyncio.to_thread(line.of_all, batch)
        except Withdrawn:
            await self._withdraw(job)
            raise

    async def _withdraw(self, job: Job) -> None:
        await self.store.exports.end(job, "withdrawn")


@dataclass(frozen=True, slots=True)
class Line:
    """What becomes of a body on its way into a file.

    Attributes:
        view: the part of it that is wanted; None: all.
        behind: the Consents by which somebody outside is told, by resource; None: who asks is of the clinic.
        base_url: of links.

    """

    view: View | None
    behind: Mapping[Place, tuple[Behind, ...]] | None
    base_url: str

    def of_all(self, batch: Sequence[tuple[str, bytes]]) -> bytes:
        """Return lines of resources; what comes of a programme under 42 CFR Part 2 has the notice, as in any reading.

        Raises:
            Withdrawn: no Consent is behind such a one any more.

        """
        return b"".join([self._of(name, body) + b"\n" for name, body in batch])

    def _of(self, name: str, body: bytes) -> bytes:
        marked = self.behind is not None and PART_2.encode() in body
        if self.view is None and not marked:
            return body
        resource = parse(body)
        if marked and PART_2 in labels_of(resource):
            type_, _, id_ = name.partition("/")
            of = (self.behind or {}).get((type_, id_))
            if not of:
                raise Withdrawn
            resource = with_notice(resource, of, own_base=self.base_url)
        return dump(resource if self.view is None else subset(resource, self.view))


def _name(file: File) -> str:
    return f"{'Deleted' if file.deleted else ''}{file.type}-{file.number}.ndjson"


def _deletion(name: str) -> dict[str, Any]:
    entry = {"request": {"method": "DELETE", "url": name}}
    return {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}


def _messages(job: Job) -> bytes:
    outcomes = [operation_outcome([Issue(one, code="informational", severity="information")]) for one in job.said]
    return b"".join([dump(one) + b"\n" for one in outcomes])


# Routing


class Request:
    """A request to an address of exports: its headers, method, path, query, and what stands in its path."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.headers = Headers(scope=scope)
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.place: Mapping[str, str] = scope["path_params"]
        self._receive = receive

    async def parameters(self, limit: int) -> list[tuple[str, str]]:
        """Return the parameters of a POST's body.

        Raises:
            BadRequest: it is no Parameters resource.

        """
        if self.method != "POST":
            return []
        raw = await read_body(self._receive, self.headers, limit)
        if not raw:
            return []
        require_json(self.headers.get("content-type"))
        value = await parse_body(raw)
        if not isinstance(value, dict):
            raise BadRequest("The body of $export is a Parameters resource.", expression=["http.body"])
        return given_in(value)


class ExportRoute(BaseRoute):
    """All addresses of exports as one route, which costs a request to any other a look at its path."""

    def __init__(self, exports: Exports) -> None:
        self._exports = exports

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match what `_PLACE` does."""
        path = scope.get("path", "")
        found = _PLACE.fullmatch(path) if scope["type"] == "http" and "/$export" in path else None
        if found is None or (found["type"] == "Group") != (found["id"] is not None) or (found["type"] and found["job"]):
            return Match.NONE, {}
        return Match.FULL, {"path_params": {name: value or "" for name, value in found.groupdict().items()}}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        exports, request = self._exports, Request(scope, receive)
        place = request.place
        kind = "[export]/[file]" if place["file"] else "[export]" if place["job"] else ""
        of = {"Patient": "Patient/", "Group": "Group/[id]/"}.get(place["type"], "")
        scope["state"]["route"] = f"/fhir/{of}$export{'/' if kind else ''}{kind}"

        async def answer() -> Response:
            caller = await exports.authenticate(request.headers)
            known(caller)
            if not caller.known:
                raise TokenRefused("Send a token: 'Authorization: Bearer ...'.", error=None)
            return await self._answer(request, caller)

        response = await exports.auditing.request(scope, answer)
        await response(scope, receive, send)

    async def _answer(self, request: Request, caller: Caller) -> Response:
        exports, place, method = self._exports, request.place, request.method
        if place["file"]:
            _require(method, "GET", "HEAD")
            return await exports.file(request, caller)
        if place["job"]:
            _require(method, "GET", "HEAD", "DELETE")
            return await (exports.delete if method == "DELETE" else exports.status)(request, caller)
        _require(method, "GET", "POST")
        if place["id"] and _ID.fullmatch(place["id"]) is None:
            raise NotFound("There is no group with such an id.", expression=["http.url"])
        levels: dict[str, Level] = {"Patient": "patient", "Group": "group"}
        return await exports.kick_off(request, caller, levels.get(place["type"], "system"))


def _require(method: str, *offered: str) -> None:
    if method not in offered:
        raise NotOffered(f"{method} is not offered at an address of $export.", frozenset(offered))


def export_route(parts: Parts) -> ExportRoute:
    """Return the route of a gateway's exports."""
    policy = load_policy(parts.settings.policy)
    news = policy.section("knowledge", KnowledgePolicy).disclosure
    auditing = Auditing(parts.store.audit, parts.service.name, policy.version)
    return ExportRoute(Exports(parts.store, parts.service, parts.settings, parts.authenticate, auditing, news))
