"""A transaction at the owner: all entries of a Bundle, or one conditional change, in one PostgreSQL transaction.

    claims      on the conditions, in one order for everybody: who else decides on one of them waits
    plan        what each condition and conditional reference finds; new ids; links rewritten; all of it validated
    locks       the keys of what will be written, in one order for everybody
    look again  whether what was found still is what is found; if not, begin anew
    carry out   DELETE, POST, PUT and PATCH, each after those it refers to; then what refers by a condition to what was
                just written; then GET
    commit

Where there is no condition, the plan is made before any lock. Guards see what earlier entries wrote. Every refusal that
can be found without a guard is found before anything is written, and all of them are told at once.

Source: https://hl7.org/fhir/R4/http.html#trules
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from shared.fhir.extraction import compartment_key
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, parse
from shared.fhir.links import links_of
from shared.fhir.outcome import BadRequest, FhirError, Gone, NotFound, PreconditionFailed, Unprocessable
from shared.http.body import LARGE
from shared.http.conditions import ambiguous, claim_of, may_find
from shared.http.entries import Change, Done
from shared.http.linking import (
    Found,
    Identity,
    Links,
    Targets,
    conditional_references,
    find_all,
    link,
    links_between,
    no_target,
    targets_of,
)
from shared.store.connection import Contended, retry_conflicts

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from shared.fhir.search import SearchQuery
    from shared.http.backend import RequestContext
    from shared.runtime.record import Prepared, Record
    from shared.store.store import Store, Transaction
    from shared.store.types import Stored

_ATTEMPTS: Final = 8
"""How often a plan is made anew because what its conditions find has changed."""

_ORDER: Final = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2}


class ChangesRefused(Exception):
    """Some changes were refused, so none was made. Never leaves this layer: it becomes one refusal of all."""

    def __init__(self, errors: Mapping[int, FhirError]) -> None:
        super().__init__(", ".join(str(index) for index in errors))
        self.errors = dict(errors)


class _Moved(Exception):
    """What a condition finds has changed between the plan and its locks."""


@dataclass(slots=True)
class _Step:
    """What is to be done for one change.

    Attributes:
        id: what is written or deleted; None: the condition of a delete finds nothing.
        exists: whether it was there when the plan was made, as far as that matters.
        key: the record it belongs to, where that is held already.
        content: of a create and an update, with its links rewritten; None while a conditional reference finds nothing.
        ready: `content`, validated.
        needs: the changes whose results it refers to.

    """

    change: Change
    id: str | None
    exists: bool
    key: str | None = None
    content: Resource | None = None
    ready: Prepared | None = None
    needs: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Plan:
    steps: Mapping[int, _Step]
    found: Found
    keys: frozenset[str]


@dataclass(slots=True)
class _Progress:
    """What became of the steps so far, why some were refused, and what was written for them."""

    done: dict[int, Done] = field(default_factory=dict)
    errors: dict[int, FhirError] = field(default_factory=dict)
    made: list[Prepared] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ground:
    """What a transaction stands on.

    Attributes:
        store: what is held.
        context: who asks.
        fixed_ids: whether a client may choose the id of a new resource.
        judged: the types whose guards judge what is about to happen.
        record: opens the transaction, with the keys it is given locked.
        prepare: validates a resource and computes what the store must know of it.

    """

    store: Store
    context: RequestContext
    fixed_ids: bool
    judged: frozenset[str]
    record: Callable[[Iterable[str]], AbstractAsyncContextManager[Record]]
    prepare: Callable[[Resource, str], Prepared]


After: TypeAlias = Callable[["Record"], Awaitable[None]]
"""Called when everything is written and before the commit; what it raises undoes all."""


class Changes:
    """Several changes that are made together, or not at all."""

    def __init__(self, ground: Ground, changes: Sequence[Change]) -> None:
        self._ground = ground
        self._access = ground.context.access
        # What is about to happen is judged on all that the same transaction tells.
        self._changes = sorted(
            changes, key=lambda change: (_ORDER[change.method], change.type in ground.judged, change.index)
        )
        self._new_ids = {change.index: new_id() for change in changes if change.method in {"POST", "PUT"}}
        self._deletes = sum(change.method == "DELETE" for change in changes)
        self._references, self._errors = conditional_references(changes)
        self._conditions = {
            claim_of(change.condition): change.condition for change in changes if change.condition is not None
        }

    async def make(self, after: After) -> tuple[dict[int, Done], Record]:
        """Make the changes; return what became of each, and the record they were made through.

        Raises:
            ChangesRefused: with the refusal of every change that failed, as far as they can be told.
            Contended: what the conditions find changed too often meanwhile.
            Unavailable: not now.

        """
        for _ in range(_ATTEMPTS):
            try:
                plan = None if self._conditions else await self._plan(self._ground.store)
                return await retry_conflicts(lambda: self._carry_out(plan, after))  # noqa: B023 - called at once
            except _Moved:
                continue
        raise Contended("What the conditions find is being changed all the time. Try again.")

    async def _all_found(self, source: Store | Transaction, *, among: Collection[str] | None = None) -> Found:
        """Look for what the conditions find, of changes and of references: all, or those with a claim `among` some."""
        conditions = {claim_of(one): one for one in (*self._conditions.values(), *self._references.values())}
        asked = [one for claim, one in conditions.items() if among is None or claim in among]
        return await find_all(source, self._access.tenant, asked, most=2 + self._deletes)

    async def _stands(self, record: Record, plan: _Plan) -> bool:
        """Whether what was found is still what is found, now that it is locked."""
        some = {claim: ids for claim, ids in plan.found.items() if ids}
        return await self._all_found(record.transaction, among=some) == some

    # The plan

    async def _plan(self, source: Store | Transaction) -> _Plan:
        errors = dict(self._errors)
        found = await self._all_found(source)
        steps: dict[int, _Step] = {}
        gone: set[Identity] = set()
        for change in self._changes:
            try:
                steps[change.index] = step = await self._aimed(source, change, found, gone)
            except FhirError as error:
                errors[change.index] = error
                continue
            if change.method == "DELETE" and step.id is not None:
                gone.add((change.type, step.id))
        errors.update(_doubled(steps))
        makes = {change.type for change in self._changes if change.method != "DELETE"}
        targets = await targets_of(source, self._access, self._references, found, gone=gone, makes=makes)
        links = _links(steps)
        for index, step in steps.items():
            if index not in errors and (problem := self._relink(step, links, targets)) is not None:
                errors[index] = problem
        ready = [step for index, step in steps.items() if index not in errors and step.content is not None]
        if self._ground.context.body_bytes < LARGE:
            errors.update(self._prepared(ready))
        else:
            errors.update(await asyncio.to_thread(self._prepared, ready))
        if errors:
            raise ChangesRefused(errors)
        return _Plan(steps, found, _keys(steps.values()))

    async def _aimed(self, source: Store | Transaction, change: Change, found: Found, gone: set[Identity]) -> _Step:
        """Return the step of a change: what it is about."""
        if change.condition is None:
            if change.method == "POST":
                return _Step(change, self._new_ids[change.index], exists=False)
            if change.method == "PUT":
                return _Step(change, change.id, exists=True)
            held = await source.find(self._access, change.type, str(change.id))
            if held is None:
                raise NotFound(f"There is no {change.type}/{change.id} here.", expression=["http.url"])
            return _Step(change, change.id, exists=True, key=_key_of(held))
        where = "http.if-none-exist" if change.method == "POST" else "http.url"
        ids = list(found[claim_of(change.condition)])
        if change.method != "DELETE":  # deletes come first; two of the same are refused
            ids = [id_ for id_ in ids if (change.type, id_) not in gone]
        if not ids:
            return self._aimed_at_nothing(change)
        held = await source.find(self._access, change.type, ids[0]) if len(ids) == 1 else None
        if held is None:
            raise ambiguous(change.condition, where=where)
        if held.deleted:
            raise _Moved
        said = change.resource.get("id") if change.method == "PUT" and change.resource is not None else None
        if said is not None and said != held.id:
            raise BadRequest(
                f"The condition finds {change.type}/{held.id}, and the resource has another id. Leave its id out, or "
                "send the one that is meant.",
                code="value",
                expression=[f"{change.type}.id"],
            )
        return _Step(change, held.id, exists=True, key=_key_of(held))

    def _aimed_at_nothing(self, change: Change) -> _Step:
        """Return the step of a change whose condition finds nothing: a create, or for a delete nothing."""
        if change.expected is not None:
            raise PreconditionFailed(
                "If-Match names a version, and the condition finds nothing.", expression=["http.if-match"]
            )
        if change.method == "DELETE":
            return _Step(change, None, exists=False)
        if change.method == "PATCH":
            raise NotFound(f"The condition finds no {change.type}.", expression=["http.url"])
        said = change.resource.get("id") if change.method == "PUT" and change.resource is not None else None
        if said is None:
            return _Step(change, self._new_ids[change.index], exists=False)
        if not self._ground.fixed_ids:
            raise NotFound(
                f"The condition finds no {change.type}, and the id of a new one is the server's to give. Send it "
                "without an id.",
                expression=[f"{change.type}.id"],
            )
        return _Step(change, str(said), exists=True)

    def _relink(self, step: _Step, links: Links, targets: Targets) -> FhirError | None:
        """Rewrite the links of a step's content; return why it is refused, if it is."""
        change = step.change
        if change.patch is not None and isinstance(change.patch.body, dict):
            linked = link(change, change.patch.body, links, targets)
            step.change = replace(change, patch=replace(change.patch, body=linked.content))
        elif change.resource is not None and not (change.method == "POST" and step.exists):
            linked = link(change, change.resource, links, targets)
            step.content = None if linked.waits else linked.content
        else:
            return None
        step.needs |= linked.needs
        return linked.refusal

    def _prepared(self, steps: Iterable[_Step]) -> dict[int, FhirError]:
        """Validate and index; return what was refused."""
        errors: dict[int, FhirError] = {}
        for step in steps:
            try:
                step.ready = self._ground.prepare(step.content or {}, str(step.id))
            except FhirError as error:
                errors[step.change.index] = error
        return errors

    # Under the locks

    async def _carry_out(self, plan: _Plan | None, after: After) -> tuple[dict[int, Done], Record]:
        """Carry out a plan; where none is given make it here, when nobody else decides on the same conditions.

        Claims come before keys, for everybody.
        """
        async with self._ground.record(() if plan is None else plan.keys) as record:
            if plan is None:
                await record.transaction.claim(self._access.tenant, *self._conditions)
                plan = await self._plan(record.transaction)
                await record.transaction.lock(*plan.keys)
            if not await self._stands(record, plan):
                raise _Moved
            done = await self._steps(record, plan)
            await self._require_plain_references(record)
            await after(record)
        return done, record

    async def _steps(self, record: Record, plan: _Plan) -> dict[int, Done]:
        progress = _Progress()
        waiting: list[_Step] = []
        for step in _in_order([plan.steps[change.index] for change in self._changes]):
            change = step.change
            if step.ready is None and change.resource is not None and not (change.method == "POST" and step.exists):
                waiting.append(step)
            else:
                await self._try(record, step, progress)
        while waiting:
            left = []
            for step in waiting:
                if await self._settled(record, step, plan):
                    await self._try(record, step, progress)
                else:
                    left.append(step)
            if len(left) == len(waiting):
                for step in left:
                    progress.errors.setdefault(step.change.index, self._unfound(step))
                break
            waiting = left
        if progress.errors:
            raise ChangesRefused(progress.errors)
        return progress.done

    async def _try(self, record: Record, step: _Step, progress: _Progress) -> None:
        """Make one change. What a rule refuses is noted, and the others are tried too, to tell all that is refused."""
        index = step.change.index
        if step.needs & progress.errors.keys():
            return
        try:
            progress.done[index] = await self._make(record, step, progress.made)
        except Unprocessable as error:  # by a rule, before anything was sent to the database for it
            progress.errors[index] = error
        except FhirError as error:
            raise ChangesRefused({**progress.errors, index: error}) from error

    async def _make(self, record: Record, step: _Step, made: list[Prepared]) -> Done:
        change = step.change
        if change.method == "DELETE":
            if step.id is None:
                return Done(None, created=False)
            deleted = await record.delete(change.type, step.id, expected=change.expected)
            return Done(None if deleted is None else deleted.stored, created=False)
        if change.method == "PATCH":
            return await self._patched(record, step)
        if change.method == "POST" and step.exists:
            return Done(await record.transaction.read(self._access, change.type, str(step.id)), created=False)
        if step.ready is None:
            raise AssertionError("a step is carried out when its content is known")
        if step.exists:
            written = await record.update(step.ready, expected=change.expected)
        else:
            if change.condition is not None:
                await self._require_none(record, change.condition, made)
            written = await record.create(step.ready)
        made.append(step.ready)
        return Done(written.stored, created=written.created)

    async def _patched(self, record: Record, step: _Step) -> Done:
        change = step.change
        held = await record.transaction.find(self._access, change.type, str(step.id), lock=True)
        if held is None:
            raise NotFound(f"There is no {change.type}/{step.id} here.", expression=["http.url"])
        if held.deleted:
            raise Gone(f"{change.type}/{step.id} was deleted.", expression=["http.url"])
        if change.expected is not None and change.expected != held.version:
            raise PreconditionFailed(
                f"The version does not match: the current version is {held.version}. Read it and try again.",
                expression=["http.if-match"],
            )
        if change.patch is None:
            raise AssertionError("a PATCH has a patch")
        patched = change.patch.apply(parse(held.body))
        written = await record.update(self._ground.prepare(patched, held.id), expected=held.version)
        return Done(written.stored, created=False)

    async def _require_none(self, record: Record, condition: SearchQuery, made: Sequence[Prepared]) -> None:
        """Refuse to create what an earlier entry of this transaction has just made.

        Raises:
            BadRequest: its condition finds something now.

        """
        written = sum(one.stored.type == condition.type for one in record.written)
        alike = [one for one in made if one.type == condition.type]
        if written == len(alike) and not any(may_find(condition, one.index) for one in alike):
            return
        found = await find_all(record.transaction, self._access.tenant, (condition,))
        if found[claim_of(condition)]:
            raise BadRequest(
                f"Another entry of this transaction makes a {condition.type} that this entry's condition finds. Send "
                "it once.",
                code="duplicate",
                expression=["http.url"],
            )

    async def _settled(self, record: Record, step: _Step, plan: _Plan) -> bool:
        """Whether the conditional references of a step find what was written meanwhile; then it is ready."""
        resource = step.change.resource or {}
        wanted = {text: self._references[text] for _, text in links_of(resource) if text in self._references}
        found = await find_all(record.transaction, self._access.tenant, wanted.values())
        targets = await targets_of(
            record.transaction, self._access, wanted, found, makes={one.type for one in wanted.values()}
        )
        if None in targets.values():
            return False
        problem = self._relink(step, _links(plan.steps), targets)
        errors = {step.change.index: problem} if problem is not None else self._prepared((step,))
        if errors:
            raise ChangesRefused(errors)
        return True

    def _unfound(self, step: _Step) -> FhirError:
        resource = step.change.resource or {}
        first = next((text for _, text in links_of(resource) if text in self._references), "")
        return no_target(first, ())

    async def _require_plain_references(self, record: Record) -> None:
        """Refuse where a conditional reference, which counts when all is written, finds several by now."""
        written = {one.stored.type for one in record.written}
        doubtful = [condition for condition in self._references.values() if condition.type in written]
        found = await find_all(record.transaction, self._access.tenant, doubtful)
        several = {claim: ids for claim, ids in found.items() if len(ids) > 1}
        errors: dict[int, FhirError] = {}
        for change in self._changes:
            for _, text in () if change.resource is None else links_of(change.resource):
                claim = claim_of(self._references[text]) if text in self._references else ""
                if claim in several:
                    errors[change.index] = no_target(text, several[claim])
        if errors:
            raise ChangesRefused(errors)


def _key_of(held: Stored) -> str:
    if held.deleted:
        return f"{held.type}/{held.id}"
    return compartment_key(parse(held.body), held.type, held.id)


def _doubled(steps: Mapping[int, _Step]) -> dict[int, FhirError]:
    """Return a refusal for every change of what another change of the same transaction is about, too."""
    about: dict[Identity, list[int]] = {}
    urls: dict[str, list[int]] = {}
    for index, step in steps.items():
        if step.id is not None:
            about.setdefault((step.change.type, step.id), []).append(index)
        if step.change.full_url is not None and step.change.method != "DELETE":
            urls.setdefault(step.change.full_url, []).append(index)
    errors: dict[int, FhirError] = {}
    for what, indexes in (
        *((f"{type_}/{id_}", several) for (type_, id_), several in about.items()),
        *((f"the fullUrl {url}", several) for url, several in urls.items()),
    ):
        if len(indexes) > 1:
            named = ", ".join(f"Bundle.entry[{index}]" for index in sorted(indexes))
            for index in indexes:
                errors[index] = BadRequest(
                    f"{named} are all about {what}. In a transaction each resource is changed once.",
                    code="duplicate",
                    expression=["http.url"],
                )
    return errors


def _links(steps: Mapping[int, _Step]) -> Links:
    return links_between({index: (step.change, step.id) for index, step in steps.items()})


def _in_order(steps: Sequence[_Step]) -> list[_Step]:
    """Return the steps so that what others of the same turn refer to comes first: a guard looks for it."""
    by_index = {step.change.index: step for step in steps}
    ordered: dict[int, _Step] = {}
    begun: set[int] = set()
    for first in steps:
        stack = [first]
        while stack:
            step = stack[-1]
            index, turn = step.change.index, _ORDER[step.change.method]
            before = [] if index in begun else [by_index[need] for need in sorted(step.needs, reverse=True)]
            begun.add(index)
            before = [one for one in before if one.change.index not in begun and _ORDER[one.change.method] == turn]
            if before:
                stack.extend(before)
            else:
                ordered.setdefault(index, stack.pop())
    return list(ordered.values())


def _keys(steps: Iterable[_Step]) -> frozenset[str]:
    """Return the keys to lock: of records that are there. A record that is only now begun is nobody else's yet."""
    steps = list(steps)
    begun = {f"{step.change.type}/{step.id}" for step in steps if not step.exists}
    keys = {step.key for step in steps if step.key is not None}
    keys.update(step.ready.key for step in steps if step.ready is not None)
    return frozenset(keys - begun)
