"""A FHIR client that finishes what it began: creates are conditional, requests are tried again while it may help.

A process of the stack may be killed at any moment. So a request that found nobody (connection refused, cut off, timed
out) or was told "not now" (429, 502, 503, 504) is sent again, with growing pauses, for `patience` seconds. A create
that is sent twice makes one resource: its `If-None-Exist` names what it would be
(https://hl7.org/fhir/R4/http.html#ccreate).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_any,
)
from tenacity.wait import wait_random_exponential

from cli.stack.operator import OperatorAuth, Wanted
from cli.stack.problem import StackProblem
from shared.fhir.json import Resource, dump, parse
from shared.fhir.outcome import EXT_EVIDENCE, BadRequest

FHIR_JSON = "application/fhir+json"
NOT_NOW = frozenset({429, 502, 503, 504})
FIRST_ERROR = 400
FOREVER = 1_000_000


class DemoError(StackProblem):
    """What ends a command: one plain sentence for the person at the terminal."""


class Unreachable(DemoError):
    """Nobody answered for as long as we were willing to wait."""


class _NotNow(Exception):
    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class _Lost(Exception):
    """No answer, or not now, in the attempts that were allowed."""


class Refused(DemoError):
    """The server understood and refused; `outcome` is its OperationOutcome."""

    def __init__(self, request: str, status: int, outcome: Resource) -> None:
        self.request = request
        self.status = status
        self.outcome = outcome
        super().__init__(f"{request} was refused ({status}): {self.diagnostics}")

    @property
    def issues(self) -> list[dict[str, Any]]:
        """The issues of the OperationOutcome."""
        return [issue for issue in self.outcome.get("issue", []) if isinstance(issue, dict)]

    @property
    def diagnostics(self) -> str:
        """What the issues say, in one line."""
        said = [str(issue.get("diagnostics") or issue.get("code")) for issue in self.issues]
        return " ".join(said) or "no reason given"

    @property
    def first(self) -> str:
        """What the first issue says."""
        return str(next((issue.get("diagnostics") for issue in self.issues), None) or "no reason given")

    @property
    def evidence(self) -> tuple[str, ...]:
        """What is on record that the first issue refused by: references."""
        shown: list[Any] = next((issue.get("extension", []) for issue in self.issues), [])
        return tuple(one["valueReference"]["reference"] for one in shown if one.get("url") == EXT_EVIDENCE)

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules of the house that refused (``E01``), in the order they are named."""
        codes = (
            coding.get("code") for issue in self.issues for coding in (issue.get("details") or {}).get("coding", [])
        )
        return tuple(dict.fromkeys(str(code) for code in codes if code))


@dataclass(frozen=True, slots=True)
class Held:
    """A resource as the server holds it. `created` is False where an earlier run had made it."""

    type: str
    id: str
    created: bool
    body: Resource | None = None

    @property
    def reference(self) -> str:
        """``Type/id``."""
        return f"{self.type}/{self.id}"


class FhirClient:
    """Speaks FHIR R4 to one base URL, as any vendor's client would.

    Args:
        base: ``http://127.0.0.1:8000/fhir``.
        patience: seconds for which one request is sent again and again before the client gives up.
        concurrency: how many requests may be under way at once.
        name: how error sentences call the other side.
        auth: sends a token with each request; None: none is needed.
        transport: instead of the network, for tests.

    """

    def __init__(
        self,
        base: str,
        *,
        patience: float = 120.0,
        concurrency: int = 16,
        name: str = "The gateway",
        auth: httpx.Auth | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base = base.rstrip("/")
        self.name = name
        self.patience = patience
        self.sent: Counter[str] = Counter()
        self.retried = 0
        self._gate = asyncio.Semaphore(concurrency)
        self._auth = auth
        self._prescribers: dict[str, httpx.Auth] = {}
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(30.0, connect=5.0),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            headers={"Accept": FHIR_JSON},
            trust_env=False,
            auth=auth,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    # -- interactions ---------------------------------------------------------------------------------------------

    async def create(self, resource: Resource, *, unless: str, by: str | None = None) -> Held:
        """Create `resource` unless one matches the search `unless` (``identifier=system|value``), which is then taken.

        `by` is the prescriber (``Practitioner/1``) who writes it, logged in; None: whoever this client is.

        Raises:
            Refused: against a rule, or not FHIR.
            Unreachable: see the module's docstring.

        """
        type_ = str(resource["resourceType"])
        answer = await self._send(
            "POST",
            type_,
            body=dump(resource),
            headers={"If-None-Exist": unless, "Prefer": "return=representation"},
            by=by,
        )
        body = self._body(answer)
        id_ = body.get("id") or _id_of(answer.headers.get("Location", ""), type_)
        if not id_:
            raise DemoError(f"{self.name} answered POST {type_} without naming the resource it made.")
        return Held(type_, str(id_), answer.status_code == httpx.codes.CREATED, body or None)

    async def transact(self, entries: Sequence[tuple[str, Resource, str]]) -> list[Held]:
        """Create resources together, all or none, each unless one matches its condition; in the given order.

        Args:
            entries: `fullUrl` (``urn:uuid:...``, by which the others refer to it), resource, `If-None-Exist` search.

        Raises:
            Refused: one of them is against a rule, or not FHIR; then none is there.
            Unreachable: see the module's docstring.

        """
        bundle = {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [
                {
                    "fullUrl": url,
                    "resource": resource,
                    "request": {"method": "POST", "url": resource["resourceType"], "ifNoneExist": unless},
                }
                for url, resource, unless in entries
            ],
        }
        answer = self._body(await self._send("POST", "", body=dump(bundle)))
        made = []
        for (_, resource, _), entry in zip(entries, answer.get("entry", []), strict=True):
            type_, said = str(resource["resourceType"]), entry["response"]
            id_ = _id_of(f"/{said.get('location', '')}", type_)
            if not id_:
                raise DemoError(f"{self.name} answered a transaction without naming the {type_} it made.")
            made.append(Held(type_, id_, str(said["status"]).startswith("201"), entry.get("resource")))
        return made

    async def bring(
        self, reference: str, change: Callable[[Resource], Resource | None], *, by: str | None = None
    ) -> Resource:
        """Bring ``Type/id`` to where `change` wants it, over the version it was told of; None: it is there already.

        When another wrote meanwhile (412), or an answer was lost, it looks again, after growing pauses: the news of
        what another wrote may still be on its way. `by` as of `create`.
        """
        pause = 0.02
        while True:
            current = await self.read(reference)
            wanted = change(current)
            if wanted is None:
                return current
            headers = {"If-Match": f'W/"{current["meta"]["versionId"]}"', "Prefer": "return=representation"}
            try:
                return self._body(await self._send("PUT", reference, body=dump(wanted), headers=headers, by=by))
            except Refused as refusal:
                if refusal.status not in {409, 412}:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)

    async def read(self, reference: str) -> Resource:
        """Return ``Type/id``."""
        return self._body(await self._send("GET", reference))

    async def call(self, operation: str, parameters: Resource | None = None) -> Resource:
        """Call ``Patient/1/$screen`` with a Parameters resource, and return the resource it answers with.

        It may be called twice when an answer is lost: for operations that may.
        """
        body = dump(parameters if parameters is not None else {"resourceType": "Parameters"})
        return self._body(await self._send("POST", operation, body=body))

    async def call_once(
        self, operation: str, parameters: Resource, done: Callable[[], Awaitable[Resource | None]]
    ) -> Resource:
        """Call an operation that must not run twice: `done` finds what it made, and is asked before every attempt."""
        body = dump(parameters)
        deadline = time.monotonic() + self.patience
        while True:
            made = await done()
            if made is not None:
                return made
            try:
                return self._body(await self._send("POST", operation, body=body, attempts=1))
            except _Lost as lost:
                if time.monotonic() > deadline:
                    raise self._unserved(f"POST {operation}", str(lost)) from None
                await asyncio.sleep(0.2)

    async def search(self, type_: str, criteria: Mapping[str, str] | Sequence[tuple[str, str]]) -> list[Resource]:
        """Return all resources that match, over all pages, in the server's order."""
        return [resource async for resource in self.pages(type_, criteria)]

    async def pages(
        self, type_: str, criteria: Mapping[str, str] | Sequence[tuple[str, str]]
    ) -> AsyncIterator[Resource]:
        """Yield all resources that match, a page at a time as they are asked for."""
        url: str | None = f"{type_}?{urlencode(criteria, safe='|,:/')}" if criteria else type_
        while url is not None:
            bundle = self._body(await self._send("GET", url))
            for entry in bundle.get("entry", []):
                if entry.get("search", {}).get("mode", "match") == "match":
                    yield entry["resource"]
            url = next((str(link["url"]) for link in bundle.get("link", []) if link["relation"] == "next"), None)

    async def text(self, url: str) -> str:
        """Return what is behind a link that is no resource."""
        return (await self._send("GET", url)).text

    async def capabilities(self) -> Resource:
        """Return the CapabilityStatement."""
        return self._body(await self._send("GET", "metadata"))

    # -- sending --------------------------------------------------------------------------------------------------

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        attempts: int | None = None,
        by: str | None = None,
    ) -> httpx.Response:
        url = path if path.startswith(("http://", "https://")) else f"{self.base}/{path}".rstrip("/")
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Type"] = FHIR_JSON
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((httpx.TransportError, _NotNow)),
            wait=_pause,
            stop=stop_any(stop_after_delay(self.patience), stop_after_attempt(attempts or FOREVER)),
            reraise=True,
            before_sleep=self._note,
        )
        request = f"{method} {path.partition('?')[0] or 'a transaction'}"
        try:
            async for attempt in retrying:
                with attempt:
                    async with self._gate:
                        answer = await self._http.request(method, url, content=body, headers=sent, auth=self._as(by))
                    self.sent[method] += 1
                    if answer.status_code in NOT_NOW:
                        raise _NotNow(self._said(answer), _seconds(answer.headers.get("Retry-After")))
        except (httpx.TransportError, _NotNow) as error:
            why = _plain(error)
            if attempts is not None:
                self.retried += 1
                raise _Lost(why) from None
            raise self._unserved(request, why) from None
        if answer.status_code >= FIRST_ERROR:
            raise Refused(request, answer.status_code, self._outcome(answer))
        return answer

    def _as(self, prescriber: str | None) -> httpx.Auth | None:
        """Return what sends the token of a prescriber; of whoever this client is where none is named or needed."""
        if prescriber is None or not isinstance(self._auth, OperatorAuth):
            return self._auth
        if prescriber not in self._prescribers:
            self._prescribers[prescriber] = self._auth.of(Wanted(role="prescriber", user=prescriber))
        return self._prescribers[prescriber]

    def _unserved(self, request: str, why: str) -> Unreachable:
        return Unreachable(f"{self.name} at {self.base} has not served {request} for {self.patience:.0f} s ({why}).")

    def _note(self, state: RetryCallState) -> None:
        del state
        self.retried += 1

    def _body(self, answer: httpx.Response) -> Resource:
        if not answer.content:
            return {}
        try:
            body = parse(answer.content)
        except BadRequest as error:
            raise DemoError(f"{self.name} answered {answer.request.url.path} with what is not JSON: {error}") from None
        return body if isinstance(body, dict) else {}

    def _outcome(self, answer: httpx.Response) -> Resource:
        try:
            outcome = self._body(answer)
        except DemoError:
            outcome = {}
        if outcome.get("resourceType") == "OperationOutcome":
            return outcome
        text = answer.text[:200] or answer.reason_phrase
        return {"resourceType": "OperationOutcome", "issue": [{"code": "exception", "diagnostics": text}]}

    def _said(self, answer: httpx.Response) -> str:
        outcome = self._outcome(answer)
        return " ".join(str(issue.get("diagnostics", "")) for issue in outcome["issue"]) or str(answer.status_code)


def condition(**criteria: str) -> str:
    """Return the search of an `If-None-Exist`: ``condition(identifier="urn:x|1")``; a parameter's ``_`` is a ``-``.

    A leading underscore stays: ``condition(_tag="urn:x|1")``.
    """
    names = {name: name if name.startswith("_") else name.replace("_", "-") for name in criteria}
    return "&".join(f"{names[name]}={quote(value, safe='|:/,')}" for name, value in criteria.items())


def _pause(state: RetryCallState) -> float:
    """Growing pauses with jitter, up to 2 s; never less than `Retry-After` asks for."""
    asked = 0.0
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, _NotNow):
        asked = error.retry_after
    return max(asked, wait_random_exponential(multiplier=0.05, max=2.0)(state))


def _seconds(header: str | None) -> float:
    try:
        return min(float(header), 10.0) if header else 0.0
    except ValueError:
        return 0.0


def _plain(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError):
        return "connection refused"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__


def _id_of(location: str, type_: str) -> str | None:
    _, found, rest = location.partition(f"/{type_}/")
    return rest.split("/")[0] if found else None
