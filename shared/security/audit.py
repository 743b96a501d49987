"""Who asked for what, and what became of it: rows for the audit, made where each interaction comes by.

`Auditing.request` goes around one request: whatever is recorded in it is durable before its answer leaves. `Audited`,
around the gate, records each interaction: requests, the entries of a batch or a transaction, refusals. What is written
is recorded by the store, with the change; here only what wrote nothing itself. Work without a request (a push, a timer)
makes its rows by `row_of` and keeps them by `Transaction.note` or `Audit.append`.

A row names resources and patients by their ids, and holds a search as it was sent; never a resource's content, never
what could open anything.

Source: IHE ITI Basic Audit Log Patterns 1.1, https://profiles.ihe.net/ITI/BALP/; 45 CFR 164.312(b)
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlencode

from shared.fhir.definitions import RESOURCE_TYPES
from shared.fhir.outcome import FhirError, Unavailable
from shared.runtime.tracing import trace_of
from shared.store.access import DEFAULT_TENANT
from shared.store.audit import BY, By, Row, now

if TYPE_CHECKING:
    from starlette.types import Scope

    from shared.fhir.history import HistoryQuery
    from shared.fhir.json import Resource
    from shared.fhir.patch.apply import Patch
    from shared.fhir.search import SearchQuery
    from shared.http.audits_beside import AuditsBeside
    from shared.http.backend import Backend, OperationResult, Read, RequestContext, Transacted, WriteResult
    from shared.http.entries import Answer, Change, Request
    from shared.runtime.service import Operation, OperationCall
    from shared.security.caller import Caller
    from shared.store.audit import Action, Audit, Kind
    from shared.store.behind import Behind
    from shared.store.terminology import Loaded
    from shared.store.types import Page, Stored

T = TypeVar("T")

DONE: Final = 0
REFUSED: Final = 4
FAILED: Final = 8
"""Codes of https://hl7.org/fhir/R4/valueset-audit-event-outcome.html."""

_PATIENT: Final = re.compile(rb"\bPatient/([A-Za-z0-9\-.]{1,64})")
_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_SECRET: Final = re.compile(r"token|secret|password|assertion|authorization|verifier|signature|_page", re.IGNORECASE)
_TOKEN: Final = re.compile(r"eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*")
_LONGEST_QUERY: Final = 4000
_LONGEST_REASON: Final = 500
_OF_METHOD: Final[dict[str, tuple[str, Action]]] = {
    "GET": ("read", "R"),
    "HEAD": ("read", "R"),
    "POST": ("create", "C"),
    "PUT": ("update", "U"),
    "PATCH": ("patch", "U"),
    "DELETE": ("delete", "D"),
}


@dataclass(slots=True)
class Trail:
    """What is recorded in one request."""

    service: str
    by: By
    rows: list[Row] = field(default_factory=list)
    refusals: list[BaseException] = field(default_factory=list)


_TRAIL: ContextVar[Trail | None] = ContextVar("audit_trail", default=None)


def say(**parts: object) -> None:
    """Have all rows of the present request say something more from now on: ``say(purpose=("BTG",), reason="...")``."""
    by = BY.get()
    if by is not None:
        by.said = {**by.said, **parts}


def row_of(service: str, kind: Kind, does: str, action: Action, **parts: Any) -> Row:
    """Return a row of now, by whom the present request is; `parts` are attributes of `Row`."""
    by = BY.get()
    said = {} if by is None else by.said
    start = {"tenant": DEFAULT_TENANT, "outcome": DONE, **said}
    return Row(**{**start, **parts, "at": now(), "service": service, "kind": kind, "does": does, "action": action})


def record(kind: Kind, does: str, action: Action, **parts: Any) -> None:
    """Record something in the present request; it is durable before the answer leaves. Without a request: nothing."""
    trail = _TRAIL.get()
    if trail is not None:
        trail.rows.append(row_of(trail.service, kind, does, action, **parts))


def record_refusal(kind: Kind, does: str, action: Action, error: BaseException, **parts: Any) -> None:
    """Record in the present request that something was refused, with more than its URL tells."""
    trail = _TRAIL.get()
    if trail is not None:
        trail.refusals.append(error)
        record(kind, does, action, **parts, **refused(error))


def refused(error: BaseException) -> dict[str, Any]:
    """Return what a row says of a refusal (`FhirError`) or a fault. Its words may hold data, and stay out."""
    if not isinstance(error, FhirError):
        return {"outcome": FAILED, "status": 500}
    code = error.issues[0].code if error.issues else "exception"
    outcome = FAILED if error.status >= 500 else REFUSED
    rules = [issue.rule for issue in error.issues if issue.rule is not None]
    return {"outcome": outcome, "status": error.status, "reason": " ".join((code, *rules))[:_LONGEST_REASON]}


@dataclass(frozen=True, slots=True)
class Auditing:
    """How one service audits.

    Attributes:
        kept: where rows are kept.
        service: its name.
        policy: the version of the policy by which it decides.
        beside: the audits of the services behind this one, which its searches of AuditEvents tell, too; None: none.

    """

    kept: Audit
    service: str
    policy: str | None = None
    beside: AuditsBeside | None = None

    async def request(self, scope: Scope, answer: Callable[[], Awaitable[T]]) -> T:
        """Answer a request; what is recorded in it is durable when this returns, or raises.

        An entry of a batch or a transaction is recorded with the whole.

        Raises:
            Unavailable: the audit cannot be written, and so nothing that was read is told.

        """
        outer = _TRAIL.get()
        if outer is not None and outer.service == self.service:
            try:
                return await answer()
            except FhirError as error:
                _refusal(outer, scope, error)
                raise
        state = scope["state"]
        client = scope.get("client")
        said = {
            "request": state["request_id"],
            "trace": trace_of(state["traceparent"]) if state.get("traceparent") else None,
            "address": None if client is None else client[0],
            "policy": self.policy,
        }
        by = By({name: value for name, value in said.items() if value is not None})
        trail = Trail(self.service, by)
        trail_token, by_token = _TRAIL.set(trail), BY.set(by)
        try:
            try:
                answered = await answer()
            except Exception as error:
                _refusal(trail, scope, error)
                try:
                    await self.kept.append(*trail.rows)
                except Unavailable:
                    if any(row.outcome == DONE for row in trail.rows):
                        raise  # something was read
                raise
            if by.changes:  # what was changed is committed with its rows, and is not undone for want of the others
                await self._append_of_change(trail)
            else:
                await self.kept.append(*trail.rows)
            return answered
        finally:
            BY.reset(by_token)
            _TRAIL.reset(trail_token)

    async def _append_of_change(self, trail: Trail) -> None:
        try:
            await self.kept.append(*trail.rows)
        except Unavailable:
            if any(row.action == "R" or row.does.startswith("search") for row in trail.rows):
                raise


def known(caller: Caller) -> None:
    """Say in all rows of the present request who asks."""
    said: dict[str, Any] = {"tenant": caller.tenant}
    if caller.everything:
        said["client"] = "anybody"
    for name in ("client", "user", "role"):
        if getattr(caller, name) is not None:
            said[name] = getattr(caller, name)
    told = caller.disclosure
    if told is not None:
        said["recipient"] = next(iter(sorted(told.recipients)), caller.client)
        said["purpose"] = tuple(sorted(told.purposes))
        said["authorisation"] = "unless-denied" if told.permitted else "by-consent"
    say(**said)


def _refusal(trail: Trail, scope: Scope, error: BaseException) -> None:
    """Record a refusal of what did not come as far as the gate: no token, no such type, not understood."""
    if any(error is one for one in trail.refusals):
        return
    trail.refusals.append(error)
    does, action = _OF_METHOD.get(scope["method"], ("read", "R"))
    place = scope.get("path_params", {})
    type_, id_ = place.get("type"), place.get("id", "")
    what: tuple[str, ...] = ()
    if type_ in RESOURCE_TYPES:
        what = (f"{type_}/{id_}" if _ID.fullmatch(id_) else type_,)
    pairs = parse_qsl(scope.get("query_string", b"").decode("utf-8", "replace"), keep_blank_values=True)
    query = sent(type_ if type_ in RESOURCE_TYPES else "", pairs) if pairs else None
    patients = (id_,) if type_ == "Patient" and _ID.fullmatch(id_) else ()
    parts = {**refused(error), "what": what, "query": query, "patients": patients}
    path = scope.get("path", "")
    if path.startswith("/ops"):
        trail.rows.append(row_of(trail.service, "operate", path[:_LONGEST_REASON], "E", **parts))
    else:
        trail.rows.append(row_of(trail.service, "rest", does, action, **parts))


def sent(path: str, given: Iterable[tuple[str, str]]) -> str:
    """Return a search as it was sent, without what could open anything: tokens, and the seal of a page's link."""
    kept = [(name, "-" if _SECRET.search(name) else _TOKEN.sub("-", value)) for name, value in given]
    return f"{path}?{urlencode(kept, safe=',:/$*|')}"[:_LONGEST_QUERY]


@dataclass(slots=True)
class _Seen:
    """What one interaction told."""

    patients: dict[str, None] = field(default_factory=dict)
    what: tuple[str, ...] = ()
    behind: dict[str, None] = field(default_factory=dict)
    through: dict[str, None] = field(default_factory=dict)

    def body(self, body: bytes) -> None:
        for found in _PATIENT.findall(body):
            self.patients[found.decode()] = None

    def stored(self, one: Stored) -> None:
        if one.type == "Patient":
            self.patients[one.id] = None
        self.behind |= dict.fromkeys(one.behind)
        self.through |= dict.fromkeys(one.through)
        self.body(one.body)

    def page(self, page: Page) -> None:
        for one in page.entries:
            self.stored(one)
        for one in page.included:
            self.stored(one)

    def asked(self, type_: str | None, id_: str | None, given: Iterable[tuple[str, str]] = ()) -> None:
        """Note the patients whom a request names, whatever its answer tells."""
        if type_ == "Patient" and id_ is not None:
            self.patients[id_] = None
        for name, value in given:
            if name.partition(":")[0] in {"patient", "subject"} or (type_ == "Patient" and name == "_id"):
                for one in value.split(","):
                    plain = one.removeprefix("Patient/")
                    if _ID.fullmatch(plain):
                        self.patients[plain] = None


@contextmanager
def _noted(does: str, action: Action, *what: str, query: str | None = None) -> Iterator[_Seen]:
    """Record the interaction in this block, whether it ends well or is refused; not what the store has recorded."""
    trail, seen = _TRAIL.get(), _Seen(what=what)
    if trail is None:
        yield seen
        return
    changes = trail.by.changes
    try:
        yield seen
    except Exception as error:
        trail.refusals.append(error)
        said = {**refused(error), "patients": tuple(seen.patients), "what": seen.what, "query": query}
        trail.rows.append(row_of(trail.service, "rest", does, action, **said))
        raise
    if action in {"C", "U", "D"} and trail.by.changes != changes:
        return
    parts: dict[str, Any] = {"patients": tuple(seen.patients), "what": seen.what, "query": query}
    if seen.through:
        parts["through"] = tuple(seen.through)
    if seen.behind:  # these say more than that consents decided; a Task by which the glass is broken stays
        task = str(trail.by.said.get("authorisation", ""))
        parts["authorisation"] = ", ".join((*((task,) if task.startswith("Task/") else ()), *seen.behind))
    trail.rows.append(row_of(trail.service, "rest", does, action, **parts))


_OF_CHANGE: Final[dict[str, tuple[str, Action]]] = {
    "POST": ("create", "C"),
    "PUT": ("update", "U"),
    "PATCH": ("patch", "U"),
    "DELETE": ("delete", "D"),
}


@dataclass(frozen=True, slots=True)
class Audited:
    """A `Backend` that records what is asked of `inner`, in the present request."""

    inner: Backend

    async def read(self, context: RequestContext, type_: str, id_: str) -> Stored:
        """Return the current version."""
        with _noted("read", "R", f"{type_}/{id_}") as seen:
            seen.asked(type_, id_)
            stored = await self.inner.read(context, type_, id_)
            seen.what = (_version(stored),)
            seen.stored(stored)
        return stored

    async def vread(self, context: RequestContext, type_: str, id_: str, version: int) -> Stored:
        """Return one version."""
        with _noted("vread", "R", f"{type_}/{id_}/_history/{version}") as seen:
            seen.asked(type_, id_)
            stored = await self.inner.vread(context, type_, id_, version)
            seen.stored(stored)
        return stored

    async def history(self, context: RequestContext, query: HistoryQuery, *, cursor: str | None) -> Page:
        """Return versions."""
        path = "/".join(one for one in (query.type, query.id) if one is not None)
        level = "system" if query.type is None else "type" if query.id is None else "instance"
        what = (path,) if path else ()
        asked = sent(f"{path}/_history".lstrip("/"), query.given)
        with _noted(f"history-{level}", "R", *what, query=asked) as seen:
            seen.asked(query.type, query.id)
            page = await self.inner.history(context, query, cursor=cursor)
            seen.page(page)
        return page

    async def search(self, context: RequestContext, query: SearchQuery, *, cursor: str | None) -> Page:
        """Return a page of what matches."""
        does, one = ("search-system", "") if query.types else ("search-type", query.type)
        with _noted(does, "E", *query.searched, query=sent(one, query.given)) as seen:
            seen.asked(one, None, query.given)
            page = await self.inner.search(context, query, cursor=cursor)
            seen.page(page)
        return page

    async def behind(
        self, context: RequestContext, places: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], tuple[Behind, ...]]:
        """Return the Consents that let each of these be told; they are recorded with what they let be told."""
        return await self.inner.behind(context, places)

    async def loaded(self, context: RequestContext, type_: str) -> Sequence[Loaded]:
        """Return what terminology the clinic loaded: nobody's data."""
        return await self.inner.loaded(context, type_)

    async def create(
        self, context: RequestContext, resource: Resource, *, if_none_exist: SearchQuery | None
    ) -> WriteResult:
        """Have a resource created."""
        type_ = str(resource["resourceType"])
        query = None if if_none_exist is None else sent(type_, if_none_exist.given)
        with _noted("create", "C", type_, query=query) as seen:
            _named(seen, resource)
            result = await self.inner.create(context, resource, if_none_exist=if_none_exist)
            _wrote(seen, result)
        return result

    async def update(self, context: RequestContext, resource: Resource, *, expected: int | None) -> WriteResult:
        """Have a resource changed."""
        with _noted("update", "U", f"{resource['resourceType']}/{resource['id']}") as seen:
            _named(seen, resource)
            result = await self.inner.update(context, resource, expected=expected)
            _wrote(seen, result)
        return result

    async def patch(
        self, context: RequestContext, type_: str, id_: str, patch: Patch, *, expected: int | None
    ) -> WriteResult:
        """Have a resource patched."""
        with _noted("patch", "U", f"{type_}/{id_}") as seen:
            seen.asked(type_, id_)
            result = await self.inner.patch(context, type_, id_, patch, expected=expected)
            _wrote(seen, result)
        return result

    async def delete(
        self, context: RequestContext, type_: str, id_: str, *, expected: int | None
    ) -> WriteResult | None:
        """Have a resource deleted."""
        with _noted("delete", "D", f"{type_}/{id_}") as seen:
            seen.asked(type_, id_)
            result = await self.inner.delete(context, type_, id_, expected=expected)
            _wrote(seen, result)
        return result

    async def change(self, context: RequestContext, change: Change) -> WriteResult | None:
        """Have what a condition finds changed."""
        does, action = _OF_CHANGE[change.method]
        query = None if change.condition is None else sent(change.type, change.condition.given)
        with _noted(does, action, change.type, query=query) as seen:
            result = await self.inner.change(context, change)
            _wrote(seen, result)
        return result

    async def transact(
        self, context: RequestContext, requests: Sequence[Request], changes: Sequence[Change], read: Read
    ) -> Transacted:
        """Have all changes made; each is recorded by itself, and each GET."""

        async def audited(backend: Backend, request: Request) -> Answer:
            return await read(Audited(backend), request)

        trail = _TRAIL.get()
        before = 0 if trail is None else trail.by.changes
        try:
            done = await self.inner.transact(context, requests, changes, audited)
        except Exception as error:
            if trail is not None:
                trail.refusals.append(error)
                for change in changes:
                    does, action = _OF_CHANGE[change.method]
                    what = change.type if change.id is None else f"{change.type}/{change.id}"
                    row = row_of(trail.service, "rest", does, action, **refused(error), what=(what,))
                    trail.rows.append(row)
            raise
        if trail is not None and trail.by.changes == before:
            for change in changes:
                does, action = _OF_CHANGE[change.method]
                stored = done.done[change.index].stored
                seen = _Seen()
                if stored is not None:
                    seen.stored(stored)
                what = change.type if stored is None else _version(stored)
                row = row_of(trail.service, "rest", does, action, what=(what,), patients=tuple(seen.patients))
                trail.rows.append(row)
        return done

    async def operation(self, context: RequestContext, operation: Operation, call: OperationCall) -> OperationResult:
        """Run an operation; whom its answer tells of is recorded."""
        what = call.type if call.id is None else f"{call.type}/{call.id}"
        with _noted(f"${operation.name}", "E", what) as seen:
            seen.asked(call.type, call.id)
            result = await self.inner.operation(context, operation, call)
            seen.body(result.body)
            seen.behind |= dict.fromkeys(result.behind)
            seen.through |= dict.fromkeys(result.through)
        return result


def _version(stored: Stored) -> str:
    return f"{stored.type}/{stored.id}/_history/{stored.version}"


def _wrote(seen: _Seen, result: WriteResult | None) -> None:
    if result is not None:
        seen.what = (_version(result.stored),)
        seen.stored(result.stored)


def _named(seen: _Seen, resource: Resource) -> None:
    """Note whom a resource that is sent is about."""
    if resource.get("resourceType") == "Patient" and _ID.fullmatch(str(resource.get("id", "-"))):
        seen.asked("Patient", resource.get("id"))
    for name in ("subject", "patient"):
        reference = resource.get(name)
        if isinstance(reference, dict) and str(reference.get("reference", "")).startswith("Patient/"):
            seen.asked(None, None, [("patient", str(reference["reference"]))])
