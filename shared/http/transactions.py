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

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from shared.fhir.json import parse
from shared.fhir.links import links_of
from shared.fhir.outcome import BadRequest, FhirError, Gone, NotFound, PreconditionFailed, Unprocessable
from shared.http.conditions import claim_of, may_find
from shared.http.entries import Change, Done
from shared.http.linking import find_all, no_target, targets_of
from shared.http.planning import ORDER, ChangesRefused, Ground, Moved, Plan, Planner, Step, links_of_steps
from shared.store.connection import Contended, retry_conflicts

if TYPE_CHECKING:
    from shared.fhir.search import SearchQuery
    from shared.runtime.record import Prepared, Record

_ATTEMPTS: Final = 8
"""How often a plan is made anew because what its conditions find has changed."""


@dataclass(slots=True)
class _Progress:
    """What became of the steps so far, why some were refused, and what was written for them."""

    done: dict[int, Done] = field(default_factory=dict)
    errors: dict[int, FhirError] = field(default_factory=dict)
    made: list[Prepared] = field(default_factory=list)


After: TypeAlias = Callable[["Record", Mapping[int, Done]], Awaitable[None]]
"""Called with what became of each change when everything is written, before the commit; what it raises undoes all."""


class Changes:
    """Several changes that are made together, or not at all."""

    def __init__(self, ground: Ground, changes: Sequence[Change]) -> None:
        self._ground = ground
        self._access = ground.context.access
        self._planner = Planner(ground, changes)
        self._changes = self._planner.changes
        self._references = self._planner.references

    async def make(self, after: After) -> tuple[dict[int, Done], Record]:
        """Make the changes; return what became of each, and the record they were made through.

        Raises:
            ChangesRefused: with the refusal of every change that failed, as far as they can be told.
            Contended: what the conditions find changed too often meanwhile.
            Unavailable: not now.

        """
        for _ in range(_ATTEMPTS):
            try:
                plan = None if self._planner.conditions else await self._planner.plan(self._ground.store)
                return await retry_conflicts(lambda: self._carry_out(plan, after))  # noqa: B023 - called at once
            except Moved:
                continue
        raise Contended("What the conditions find is being changed all the time. Try again.")

    async def _stands(self, record: Record, plan: Plan) -> bool:
        """Whether what was found is still what is found, now that it is locked."""
        some = {claim: ids for claim, ids in plan.found.items() if ids}
        return await self._planner.all_found(record.transaction, among=some) == some

    # Under the locks

    async def _carry_out(self, plan: Plan | None, after: After) -> tuple[dict[int, Done], Record]:
        """Carry out a plan; where none is given make it here, when nobody else decides on the same conditions.

        Claims come before keys, for everybody.
        """
        async with self._ground.record(() if plan is None else plan.keys) as record:
            if plan is None:
                await record.transaction.claim(self._access.tenant, *self._planner.conditions)
                plan = await self._planner.plan(record.transaction)
                await record.lock(*plan.keys)
            if not await self._stands(record, plan):
                raise Moved
            done = await self._steps(record, plan)
            await self._require_plain_references(record)
            await after(record, done)
        return done, record

    async def _steps(self, record: Record, plan: Plan) -> dict[int, Done]:
        progress = _Progress()
        waiting: list[Step] = []
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

    async def _try(self, record: Record, step: Step, progress: _Progress) -> None:
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

    async def _make(self, record: Record, step: Step, made: list[Prepared]) -> Done:
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

    async def _patched(self, record: Record, step: Step) -> Done:
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

    async def _settled(self, record: Record, step: Step, plan: Plan) -> bool:
        """Whether the conditional references of a step find what was written meanwhile; then it is ready."""
        resource = step.change.resource or {}
        wanted = {text: self._references[text] for _, text in links_of(resource) if text in self._references}
        found = await find_all(record.transaction, self._access.tenant, wanted.values())
        targets = await targets_of(
            record.transaction, self._access, wanted, found, makes={one.type for one in wanted.values()}
        )
        if None in targets.values():
            return False
        problem = self._planner.relink(step, links_of_steps(plan.steps), targets)
        errors = {step.change.index: problem} if problem is not None else self._planner.prepared((step,))
        if errors:
            raise ChangesRefused(errors)
        return True

    def _unfound(self, step: Step) -> FhirError:
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


def _in_order(steps: Sequence[Step]) -> list[Step]:
    """Return the steps so that what others of the same turn refer to comes first: a guard looks for it."""
    by_index = {step.change.index: step for step in steps}
    ordered: dict[int, Step] = {}
    begun: set[int] = set()
    for first in steps:
        stack = [first]
        while stack:
            step = stack[-1]
            index, turn = step.change.index, ORDER[step.change.method]
            before = [] if index in begun else [by_index[need] for need in sorted(step.needs, reverse=True)]
            begun.add(index)
            before = [one for one in before if one.change.index not in begun and ORDER[one.change.method] == turn]
            if before:
                stack.extend(before)
            else:
                ordered.setdefault(index, stack.pop())
    return list(ordered.values())
