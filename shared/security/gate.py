"""The gate before a `Backend`: what a token's scopes do not allow is refused, and what they narrow is narrowed.

Every interaction comes through here: requests, the entries of a batch or a transaction, what an operation reads. It is
given the `Access` of its own kind of permission, which the store compiles into its statements; until then a caller's
context sees nothing. Deny by default: what cannot be narrowed in the database (conditional writes, transactions, most
operations) is refused to a caller whose token is narrowed there.

A refusal names the scope that is missing, which the caller's own token tells him already, and nothing of the record.

Source: https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html, RFC 6750
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from shared.fhir.definitions import RESOURCE_TYPES
from shared.fhir.extraction import labels_of
from shared.fhir.json import Resource, dump, parse
from shared.fhir.links import links_of
from shared.fhir.outcome import Forbidden, Gone, Issue, NotFound, Unavailable, Unprocessable
from shared.fhir.references import parse_literal
from shared.fhir.search import Chain, Condition, Has
from shared.http.conditions import conditional_reference
from shared.http.entries import placed
from shared.runtime.everywhere import VALIDATE
from shared.security import glass, intermediaries
from shared.security.audit import say
from shared.security.caller import OWNED
from shared.security.notice import with_notice
from shared.security.scopes import OPERATE
from shared.security.tokens import TokenRefused
from shared.store.access import EVERYTHING, NO_ONES, Access
from shared.store.behind import through
from shared.store.visibility import PART_2

if TYPE_CHECKING:
    from uuid import UUID

    from shared.fhir.history import HistoryQuery
    from shared.fhir.patch.apply import Patch
    from shared.fhir.search import SearchQuery
    from shared.http.backend import Backend, OperationResult, Read, RequestContext, Transacted, WriteResult
    from shared.http.entries import Answer, Change, Request
    from shared.runtime.service import Operation, OperationCall, Service
    from shared.security.caller import Caller
    from shared.security.scopes import Letter
    from shared.store.behind import Behind
    from shared.store.terminology import Loaded
    from shared.store.types import Page, Stored

Known: TypeAlias = "Callable[[str], Awaitable[frozenset[UUID]]]"
"""Passes where what is known of a tenant's consents is new enough, and returns the patients of whom it is not known, as
rows know them; raises Unavailable."""

READ_BY_ACCESS: Final = frozenset(("everything", "status", "events"))
"""Operations of a backend that read with the caller's own access."""

OF_TERMINOLOGY: Final = frozenset(("expand", "lookup", "validate-code", "subsumes"))
"""Operations on code systems and value sets, which are nobody's."""

OF_META: Final = frozenset(("meta-add", "meta-delete"))

_LETTER_OF: Final[dict[str, Letter]] = {"POST": "c", "PUT": "u", "PATCH": "u", "DELETE": "d"}


_LONGEST_REASON: Final = 500
"""Characters of a reason in the audit; the Task has all of it."""


class ScopeMissing(Forbidden):
    """403 with the scope that would do, in words and in `WWW-Authenticate` (RFC 6750, section 3.1)."""

    def __init__(self, why: str, scope: str) -> None:
        super().__init__(f"{why} A token with the scope {scope}, or a wider one, may.")
        self.scope = scope

    @property
    def headers(self) -> dict[str, str]:
        """`WWW-Authenticate`."""
        return {"WWW-Authenticate": f'Bearer realm="kap", error="insufficient_scope", scope="{self.scope}"'}


@dataclass(frozen=True, slots=True)
class Gate:
    """A `Backend` that lets through to `inner` what the caller's token allows."""

    service: Service
    inner: Backend
    consents_known: Known | None = None

    async def _may_tell(self, context: RequestContext) -> RequestContext:
        """Pass a reader of the clinic's own, and one outside as long as it is known what patients consent to.

        For whom the glass is broken, the record of that one patient is open.

        Raises:
            Unavailable: it is not known.
            Forbidden: the glass is not broken for him; he is no intermediary.

        """
        if context.behalf is not None and context.caller.known and not context.caller.everything:
            context = replace(context, caller=intermediaries.on_behalf_of(context.caller, context.behalf), behalf=None)
            told = context.caller.disclosure
            if told is not None and told.through:
                say(recipient=min(told.recipients), through=tuple(told.through))
        caller = context.caller
        if caller.disclosure is not None and self.consents_known is not None:
            doubted = await self.consents_known(caller.tenant)
            if doubted:
                caller = replace(caller, disclosure=replace(caller.disclosure, doubted=doubted))
                context = replace(context, caller=caller)
        if context.glass is None or not caller.known or caller.everything:
            return context
        glass.require_may_break(caller)
        all_of_clinic = replace(context, access=Access.unrestricted(caller.tenant))
        try:
            held = await self.inner.read(all_of_clinic, "Task", glass.task_in(context.glass))
        except (NotFound, Gone):
            held = None
        by = glass.broken(held, caller, datetime.now(UTC))
        say(purpose=glass.PURPOSES, reason=by.reason[:_LONGEST_REASON], authorisation=by.task)
        return replace(context, caller=glass.opened(caller, by))

    # Reading

    async def read(self, context: RequestContext, type_: str, id_: str) -> Stored:
        """Return the current version."""
        context = await self._may_tell(context)
        return await self._one(context, await self.inner.read(_for(context, type_, "r"), type_, id_))

    async def vread(self, context: RequestContext, type_: str, id_: str, version: int) -> Stored:
        """Return one version."""
        context = await self._may_tell(context)
        return await self._one(context, await self.inner.vread(_for(context, type_, "r"), type_, id_, version))

    async def history(self, context: RequestContext, query: HistoryQuery, *, cursor: str | None) -> Page:
        """Return versions: of everything those of the types that may be searched."""
        context = await self._may_tell(context)
        if query.type is None:
            allowed = _with(context, "s")
            if not allowed.access.grants and not allowed.caller.everything:
                raise ScopeMissing("This token does not let its bearer search anything.", "user/*.s")
            return await self._page(context, await self.inner.history(allowed, query, cursor=cursor))
        letter: Letter = "s" if query.id is None else "r"
        page = await self.inner.history(_for(context, query.type, letter), query, cursor=cursor)
        return await self._page(context, page)

    async def search(self, context: RequestContext, query: SearchQuery, *, cursor: str | None) -> Page:
        """Return a page of what matches; every type that the search names must be one that may be searched."""
        context = await self._may_tell(context)
        allowed = _with(context, "s")
        caller = allowed.caller
        if not caller.everything:
            named = not query.types or any(name == "_type" for name, _ in query.given)
            for type_ in query.searched if named else ():
                _require(caller, type_, "s")
            require_conditions(caller, query.criteria)
            if query.explain and not caller.has(OPERATE):
                raise ScopeMissing("_explain tells of rows that a search leaves out.", OPERATE)
            for include in query.includes:
                if include.reverse and include.source is not None:
                    _require(caller, include.source, "s")
                elif include.target is not None and not include.reverse:
                    _require(caller, include.target, "s")
        return await self._page(context, await self.inner.search(allowed, query, cursor=cursor))

    async def behind(
        self, context: RequestContext, places: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], tuple[Behind, ...]]:
        """Return the Consents that let each of these be told to the caller."""
        return await self.inner.behind(context, places)

    async def _one(self, context: RequestContext, stored: Stored) -> Stored:
        return (await self._told(context, (stored,)))[0]

    async def _page(self, context: RequestContext, page: Page) -> Page:
        if context.caller.disclosure is None or not (page.entries or page.included):
            return page
        both = await self._told(context, (*page.entries, *page.included))
        return replace(page, entries=both[: len(page.entries)], included=both[len(page.entries) :])

    async def _told(self, context: RequestContext, several: Sequence[Stored]) -> Sequence[Stored]:
        """Return what is told to somebody outside with the Consents that let it be, and the notice of 42 CFR Part 2.

        Raises:
            Unavailable: the Consent was withdrawn while this was read.

        """
        told = context.caller.disclosure
        if told is None:
            return several
        places = {(one.type, one.id) for one in several if one.type not in NO_ONES}
        if not places:
            return several
        behind = await self.inner.behind(context, sorted(places))
        return [self._with_behind(context, one, behind.get((one.type, one.id), ())) for one in several]

    def _with_behind(self, context: RequestContext, stored: Stored, behind: tuple[Behind, ...]) -> Stored:
        body = self._noticed(context, stored.body, behind) if PART_2.encode() in stored.body else stored.body
        return replace(stored, body=body, behind=tuple(one.consent for one in behind), through=through(behind))

    def _noticed(self, context: RequestContext, body: bytes, behind: tuple[Behind, ...]) -> bytes:
        resource: Resource = parse(body)
        if PART_2 not in labels_of(resource):
            return body
        if behind:
            return dump(with_notice(resource, behind, own_base=context.base_url))
        told = context.caller.disclosure
        if told is not None and told.opened is not None:  # told in an emergency (42 CFR 2.51), not by a consent
            return body
        raise Unavailable("What the patient consents to was changed while this was read. Ask again.", retry_after=1)

    async def _everything(self, context: RequestContext, result: OperationResult) -> OperationResult:
        """Return a searchset that an operation made with what `_told` says."""
        if context.caller.disclosure is None:
            return result
        bundle: Resource = parse(result.body)
        held = [one["resource"] for one in bundle.get("entry", ()) if one["resource"]["resourceType"] not in NO_ONES]
        places = sorted({(one["resourceType"], one["id"]) for one in held if "id" in one})
        behind = await self.inner.behind(context, places)
        for entry in bundle.get("entry", ()):
            of = behind.get((entry["resource"]["resourceType"], entry["resource"].get("id", "")), ())
            if PART_2 in labels_of(entry["resource"]):
                entry["resource"] = parse(self._noticed(context, dump(entry["resource"]), of))
        every = [one for several in behind.values() for one in several]
        named = tuple(dict.fromkeys(one.consent for one in every))
        return replace(result, body=dump(bundle), behind=named, through=through(every))

    async def loaded(self, context: RequestContext, type_: str) -> Sequence[Loaded]:
        """Return what terminology the clinic loaded, to who has a token; nobody's data, and nobody's business else."""
        return await self.inner.loaded(context, type_) if context.caller.known else ()

    # Writing

    async def create(
        self, context: RequestContext, resource: Resource, *, if_none_exist: SearchQuery | None
    ) -> WriteResult:
        """Have a resource created that is what the caller may create and refers to nothing that is hidden from him."""
        type_ = str(resource["resourceType"])
        allowed = _for(context, type_, "c")
        if if_none_exist is not None:
            _require_in_full(allowed.caller, type_, "s", "a conditional create tells whether there is such a resource")
        await self._require_known(allowed, type_, "c", resource)
        return await self.inner.create(allowed, resource, if_none_exist=if_none_exist)

    async def update(self, context: RequestContext, resource: Resource, *, expected: int | None) -> WriteResult:
        """Have a resource changed that is, before and after, what the caller may change."""
        type_ = str(resource["resourceType"])
        allowed = _for(context, type_, "u")
        caller = allowed.caller
        await self._require_known(allowed, type_, "u", resource)
        if self.service.fixed_ids and not (caller.in_full(type_, "u") and caller.in_full(type_, "c")):
            await self.inner.read(allowed, type_, str(resource["id"]))  # an update of his makes nothing new
        return await self.inner.update(allowed, resource, expected=expected)

    async def patch(
        self, context: RequestContext, type_: str, id_: str, patch: Patch, *, expected: int | None
    ) -> WriteResult:
        """Have a resource patched that may be read, too: a patch may test what stands there, and shows it."""
        allowed = _for(context, type_, "u")
        _require(allowed.caller, type_, "r")
        if not allowed.caller.in_full(type_, "r"):
            await self.inner.read(_for(context, type_, "r"), type_, id_)
        if not allowed.caller.in_full(type_, "u"):
            raise ScopeMissing(
                "A patch may bring in references that cannot be looked at before. Send the whole resource by PUT.",
                _scope(allowed.caller, type_, "u"),
            )
        return await self.inner.patch(allowed, type_, id_, patch, expected=expected)

    async def delete(
        self, context: RequestContext, type_: str, id_: str, *, expected: int | None
    ) -> WriteResult | None:
        """Have a resource deleted."""
        return await self.inner.delete(_for(context, type_, "d"), type_, id_, expected=expected)

    async def change(self, context: RequestContext, change: Change) -> WriteResult | None:
        """Have what a condition finds changed, by a caller who may find and change all of the type."""
        letter = _LETTER_OF[change.method]
        allowed = _for(context, change.type, letter)
        self._require_change(allowed.caller, change)
        return await self.inner.change(allowed, change)

    async def transact(
        self, context: RequestContext, requests: Sequence[Request], changes: Sequence[Change], read: Read
    ) -> Transacted:
        """Have all changes made by a caller who may make each of them; GETs come by the gate.

        Each permission is for all of its type; or there are new resources alone, each of which is, with all the others
        there, what he may create: so a partner refers a patient who is new with all that he knows of him.
        """
        caller = _known(context)
        if caller.everything:
            return await self.inner.transact(context, requests, changes, self._gated(read))
        some = any(_creates(change) and not caller.in_full(change.type, "c") for change in changes)
        narrowed = some and all(_creates(change) for change in changes)
        issues: list[Issue] = []
        for change in changes:
            try:
                self._require_change(caller, change, narrowed=narrowed)
                await self._require_there(context, change)
                if narrowed and change.resource is not None:
                    await self._require_known(context, change.type, "c", change.resource)
            except Forbidden as error:
                issues += [placed(issue, change.index, change.type) for issue in error.issues]
        if issues:
            raise Forbidden(issues)
        _require_proof(context)
        if narrowed:
            allowed = _for(context, changes[0].type, "c")
        else:
            allowed = replace(context, access=Access.unrestricted(caller.tenant, origin=caller.origin))
        return await self.inner.transact(allowed, requests, changes, self._gated(read))

    def _gated(self, read: Read) -> Read:
        async def gated(backend: Backend, request: Request) -> Answer:
            return await read(Gate(self.service, backend, self.consents_known), request)

        return gated

    async def _require_there(self, context: RequestContext, change: Change) -> None:
        """Refuse a PUT of a transaction that would make a resource of the id it names, to who may only change some."""
        if change.method != "PUT" or change.id is None or not self.service.fixed_ids:
            return
        if context.caller.in_full(change.type, "c"):
            return
        try:
            await self.inner.read(_for(context, change.type, "u"), change.type, change.id)
        except (NotFound, Gone):
            why = f"There is no {change.type} of this id, and this token does not let its bearer create it."
            raise ScopeMissing(why, _scope(context.caller, change.type, "c")) from None

    def _require_change(self, caller: Caller, change: Change, *, narrowed: bool = False) -> None:
        """Refuse what a transaction, or a condition, would change; `narrowed`: the store judges what is created."""
        letter = _LETTER_OF[change.method]
        _require(caller, change.type, letter)
        if change.type in OWNED:
            raise Unprocessable(
                f"A {change.type} is its client's own: send it by itself, by POST, or by PUT or DELETE of its id, not "
                "in a transaction, nor by a condition.",
                code="not-supported",
                expression=[change.type],
            )
        if change.method == "PUT" and change.condition is not None and not caller.in_full(change.type, "c"):
            why = f"A PUT by a condition creates the {change.type} where none matches, which this token does not allow."
            raise ScopeMissing(why, _scope(caller, change.type, "c"))
        if not narrowed:
            why = "a change of a transaction, or of what a condition finds, is for tokens that are not narrowed"
            _require_in_full(caller, change.type, letter, why)
        if change.method == "PATCH":
            _require_in_full(caller, change.type, "r", "a patch may test what stands there")
        if change.condition is not None:
            _require_in_full(caller, change.type, "s", "a condition tells whether there is such a resource")
            require_conditions(caller, change.condition.criteria)
        for type_ in _asked_by_reference(change.resource):
            _require_in_full(caller, type_, "s", "a conditional reference tells whether there is such a resource")

    async def _require_known(self, context: RequestContext, type_: str, letter: Letter, resource: Resource) -> None:
        """Refuse a reference to what does not exist for the caller, in the same words whether it exists or not."""
        caller = context.caller
        if caller.in_full(type_, letter):
            return
        held = self.service.types | self.service.holds
        for kind, text in links_of(resource):
            literal = parse_literal(text)
            if kind != "reference" or literal.base or literal.type not in RESOURCE_TYPES or literal.type not in held:
                continue
            if literal.type == "Patient" and literal.id in caller.own:
                continue
            reach = replace(context, access=replace(caller.access("r"), origin=None))
            try:
                await self.inner.read(reach, literal.type, literal.id)
            except (NotFound, Gone):
                raise Forbidden(
                    f"The {type_} refers to a {literal.type} that is not there for you.", expression=[type_]
                ) from None

    # Operations

    async def operation(self, context: RequestContext, operation: Operation, call: OperationCall) -> OperationResult:
        """Run an operation that the token names, or that reads with the caller's own access."""
        caller = _known(context)
        call = replace(call, user=caller.user, client=caller.client)
        if caller.everything:
            return await self.inner.operation(context, operation, call)
        if operation.name == glass.OPERATION:
            return await self._break(context, operation, call)
        if operation.name in READ_BY_ACCESS:
            _require(caller, call.type, "r")
            _require(caller, call.type, "s")
            context = await self._may_tell(context)
            result = await self.inner.operation(_with(context, "s"), operation, call)
            # What a subscription tells was made as its subscriber may be told it, with its notice.
            return result if call.type in OWNED else await self._everything(context, result)
        if operation.name in OF_META:
            for letter in ("r", "u"):
                _require_in_full(caller, call.type, letter, f"${operation.name} changes what is labelled")
        elif operation.name == VALIDATE:
            if not (caller.may(call.type, "c") or caller.may(call.type, "u")):
                _require(caller, call.type, "c")
        elif operation.name not in OF_TERMINOLOGY and not caller.operates(call.type, operation.name):
            raise ScopeMissing(
                f"${operation.name} on {call.type} is not among what this token allows.",
                f"user/{call.type}.${operation.name}",
            )
        if caller.disclosure is not None and operation.name not in OF_TERMINOLOGY | {VALIDATE}:
            raise Forbidden(
                f"${operation.name} works with all of a record, of which you are told what patients consent to. Read "
                "and search instead."
            )
        _require_proof(context)
        whole = Access.unrestricted(caller.tenant, origin=caller.origin)
        if not operation.affects_state and not caller.in_full("Patient", "r"):
            whole = replace(whole, patients=frozenset())  # a report may not name patients to who may not read them all
        return await self.inner.operation(replace(context, access=whole), operation, call)

    async def _break(self, context: RequestContext, operation: Operation, call: OperationCall) -> OperationResult:
        """Have the glass broken for one patient, by who may and whose scopes reach the patient, consents aside."""
        caller = context.caller
        glass.require_may_break(caller)
        say(purpose=glass.PURPOSES)
        _require(caller, call.type, "r")
        await self.inner.read(
            replace(context, access=replace(caller.access("r"), disclosure=None)), call.type, str(call.id)
        )
        whole = Access.unrestricted(caller.tenant, origin=caller.origin)
        return await self.inner.operation(replace(context, access=whole, provenance=None), operation, call)


def _creates(change: Change) -> bool:
    """Tell whether a change makes something new, whatever is there already."""
    return change.method == "POST" and change.condition is None


def require_known(context: RequestContext) -> RequestContext:
    """Pass a request of which it is known who asks; raises as `_known`."""
    _known(context)
    return context


def _known(context: RequestContext) -> Caller:
    """Return the caller.

    Raises:
        TokenRefused: nobody said who it is.

    """
    if not context.caller.known:
        raise TokenRefused("Send a token: 'Authorization: Bearer ...'.", error=None)
    return context.caller


def _with(context: RequestContext, letter: Letter) -> RequestContext:
    caller = _known(context)
    return context if caller.everything else replace(context, access=caller.access(letter))


def _for(context: RequestContext, type_: str, letter: Letter) -> RequestContext:
    allowed = _with(context, letter)
    _require(allowed.caller, type_, letter)
    if context.provenance is None or letter in "rs" or context.caller.everything:
        return allowed
    _require_proof(context)
    grants = {**(allowed.access.grants or {}), "Provenance": EVERYTHING}
    return replace(allowed, access=replace(allowed.access, grants=grants))


def _require_proof(context: RequestContext) -> None:
    """Pass a request without `X-Provenance`, or of a caller who may create any: it is one, of what is written.

    Raises:
        ScopeMissing: any other.

    """
    if context.provenance is not None:
        why = "what comes as X-Provenance is created as one"
        _require(context.caller, "Provenance", "c")
        _require_in_full(context.caller, "Provenance", "c", why)


_DOES: Final[dict[Letter, str]] = {
    "c": "create",
    "r": "read",
    "u": "change",
    "d": "delete",
    "s": "search",
}


def _scope(caller: Caller, type_: str, letter: Letter) -> str:
    contexts = [one.context for one in caller.scopes] or ["user"]
    return f"{'system' if 'system' in contexts else 'user'}/{type_}.{letter}"


def _require(caller: Caller, type_: str, letter: Letter) -> None:
    if not caller.may(type_, letter):
        scope = _scope(caller, type_, letter)
        raise ScopeMissing(f"This token does not let its bearer {_DOES[letter]} {type_}.", scope)


def _require_in_full(caller: Caller, type_: str, letter: Letter, why: str) -> None:
    if not caller.in_full(type_, letter):
        scope = _scope(caller, type_, letter)
        raise ScopeMissing(f"This token lets its bearer {_DOES[letter]} only some {type_}, and {why}.", scope)


def require_conditions(caller: Caller, conditions: Iterable[Condition]) -> None:
    """Refuse a search that leads through types that may not be searched: its answer would tell of them.

    Of a chain's several possible types those that may be searched are enough: the others are not there.
    """
    for one in conditions:
        if isinstance(one, Chain):
            open_to = [(type_, beyond) for type_, beyond in one.targets if caller.may(type_, "s")]
            if not open_to:
                _require(caller, one.targets[0][0], "s")
            for _, beyond in open_to:
                require_conditions(caller, (beyond,))
        elif isinstance(one, Has):
            _require(caller, one.type, "s")
            require_conditions(caller, (one.condition,))


def _asked_by_reference(resource: Resource | None) -> Iterator[str]:
    for kind, text in () if resource is None else links_of(resource):
        asked = conditional_reference(text) if kind == "reference" else None
        if asked is not None:
            yield asked[0]
