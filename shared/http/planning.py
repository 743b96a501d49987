"""The plan of a transaction: which resource each change is about, what its content becomes, what must be locked.

It is made of what is held at the time; whoever carries it out looks again under the locks (`shared.http.transactions`).
Every refusal that can be found without a guard is found here, before anything is written, and all are told at once.

Source: https://hl7.org/fhir/R4/http.html#trules
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from shared.fhir.extraction import compartment_key
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, parse
from shared.fhir.outcome import BadRequest, FhirError, NotFound, PreconditionFailed
from shared.http.body import LARGE
from shared.http.conditions import ambiguous, claim_of
from shared.http.entries import Change
from shared.http.linking import (
    Found,
    Identity,
    Links,
    Targets,
    conditional_references,
    find_all,
    link,
    links_between,
    targets_of,
)

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from shared.http.backend import RequestContext
    from shared.runtime.record import Prepared, Record
    from shared.store.store import Store, Transaction
    from shared.store.types import Stored

ORDER: Final = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2}


class ChangesRefused(Exception):
    """Some changes were refused, so none was made. Never leaves this layer: it becomes one refusal of all."""

    def __init__(self, errors: Mapping[int, FhirError]) -> None:
        super().__init__(", ".join(str(index) for index in errors))
        self.errors = dict(errors)


class Moved(Exception):
    """What a condition finds has changed between the plan and its locks."""


@dataclass(slots=True)
class Step:
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
class Plan:
    """Steps by the index of their change, what their conditions found, and the keys to lock."""

    steps: Mapping[int, Step]
    found: Found
    keys: frozenset[str]


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


class Planner:
    """Makes the plan of several changes.

    Attributes:
        changes: in the order in which they are carried out.
        references: the conditional references in them.
        conditions: by its claim, each condition of a change.

    """

    def __init__(self, ground: Ground, changes: Sequence[Change]) -> None:
        self._ground = ground
        self._access = ground.context.access
        # What is about to happen is judged on all that the same transaction tells.
        self.changes = sorted(
            changes, key=lambda change: (ORDER[change.method], change.type in ground.judged, change.index)
        )
        self._new_ids = {change.index: new_id() for change in changes if change.method in {"POST", "PUT"}}
        self._deletes = sum(change.method == "DELETE" for change in changes)
        self.references, self._errors = conditional_references(changes)
        self.conditions = {
            claim_of(change.condition): change.condition for change in changes if change.condition is not None
        }

    async def plan(self, source: Store | Transaction) -> Plan:
        """Make the plan of what `source` holds.

        Raises:
            ChangesRefused: with every refusal that can be told before anything is written.

        """
        errors = dict(self._errors)
        found = await self.all_found(source)
        steps: dict[int, Step] = {}
        gone: set[Identity] = set()
        for change in self.changes:
            try:
                steps[change.index] = step = await self._aimed(source, change, found, gone)
            except FhirError as error:
                errors[change.index] = error
                continue
            if change.method == "DELETE" and step.id is not None:
                gone.add((change.type, step.id))
        errors.update(_doubled(steps))
        makes = {change.type for change in self.changes if change.method != "DELETE"}
        targets = await targets_of(source, self._access, self.references, found, gone=gone, makes=makes)
        links = links_of_steps(steps)
        for index, step in steps.items():
            if index not in errors and (problem := self.relink(step, links, targets)) is not None:
                errors[index] = problem
        ready = [step for index, step in steps.items() if index not in errors and step.content is not None]
        if self._ground.context.body_bytes < LARGE:
            errors.update(self.prepared(ready))
        else:
            errors.update(await asyncio.to_thread(self.prepared, ready))
        if errors:
            raise ChangesRefused(errors)
        return Plan(steps, found, _keys(steps.values()))

    async def _aimed(self, source: Store | Transaction, change: Change, found: Found, gone: set[Identity]) -> Step:
        """Return the step of a change: what it is about."""
        if change.condition is None:
            if change.method == "POST":
                return Step(change, self._new_ids[change.index], exists=False)
            if change.method == "PUT":
                return Step(change, change.id, exists=True)
            held = await source.find(self._access, change.type, str(change.id))
            if held is None:
                raise NotFound(f"There is no {change.type}/{change.id} here.", expression=["http.url"])
            return Step(change, change.id, exists=True, key=_key_of(held))
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
            raise Moved
        said = change.resource.get("id") if change.method == "PUT" and change.resource is not None else None
        if said is not None and said != held.id:
            raise BadRequest(
                f"The condition finds {change.type}/{held.id}, and the resource has another id. Leave its id out, or "
                "send the one that is meant.",
                code="value",
                expression=[f"{change.type}.id"],
            )
        return Step(change, held.id, exists=True, key=_key_of(held))

    def _aimed_at_nothing(self, change: Change) -> Step:
        """Return the step of a change whose condition finds nothing: a create, or for a delete nothing."""
        if change.expected is not None:
            raise PreconditionFailed(
                "If-Match names a version, and the condition finds nothing.", expression=["http.if-match"]
            )
        if change.method == "DELETE":
            return Step(change, None, exists=False)
        if change.method == "PATCH":
            raise NotFound(f"The condition finds no {change.type}.", expression=["http.url"])
        said = change.resource.get("id") if change.method == "PUT" and change.resource is not None else None
        if said is None:
            return Step(change, self._new_ids[change.index], exists=False)
        if not self._ground.fixed_ids:
            raise NotFound(
                f"The condition finds no {change.type}, and the id of a new one is the server's to give. Send it "
                "without an id.",
                expression=[f"{change.type}.id"],
            )
        return Step(change, str(said), exists=True)

    def relink(self, step: Step, links: Links, targets: Targets) -> FhirError | None:
        """Rewrite the links of a step's content; return why it is refused, if it is."""
        change, base_url = step.change, self._ground.context.base_url
        if change.patch is not None and isinstance(change.patch.body, dict):
            linked = link(change, change.patch.body, links, targets, base_url=base_url)
            step.change = replace(change, patch=replace(change.patch, body=linked.content))
        elif change.resource is not None and not (change.method == "POST" and step.exists):
            linked = link(change, change.resource, links, targets, base_url=base_url)
            step.content = None if linked.waits else linked.content
        else:
            return None
        step.needs |= linked.needs
        return linked.refusal

    def prepared(self, steps: Iterable[Step]) -> dict[int, FhirError]:
        """Validate and index; return what was refused."""
        errors: dict[int, FhirError] = {}
        for step in steps:
            try:
                step.ready = self._ground.prepare(step.content or {}, str(step.id))
            except FhirError as error:
                errors[step.change.index] = error
        return errors

    async def all_found(self, source: Store | Transaction, *, among: Collection[str] | None = None) -> Found:
        """Look for what the conditions find, of changes and of references: all, or those with a claim `among` some."""
        conditions = {claim_of(one): one for one in (*self.conditions.values(), *self.references.values())}
        asked = [one for claim, one in conditions.items() if among is None or claim in among]
        return await find_all(source, self._access.tenant, asked, most=2 + self._deletes)


def _key_of(held: Stored) -> str:
    if held.deleted:
        return f"{held.type}/{held.id}"
    return compartment_key(parse(held.body), held.type, held.id)


def _doubled(steps: Mapping[int, Step]) -> dict[int, FhirError]:
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


def links_of_steps(steps: Mapping[int, Step]) -> Links:
    """Return how the links of other entries are rewritten: to what each step is about."""
    return links_between({index: (step.change, step.id) for index, step in steps.items()})


def _keys(steps: Iterable[Step]) -> frozenset[str]:
    """Return the keys to lock: of records that are there. A record that is only now begun is nobody else's yet."""
    steps = list(steps)
    begun = {f"{step.change.type}/{step.id}" for step in steps if not step.exists}
    keys = {step.key for step in steps if step.key is not None}
    keys.update(step.ready.key for step in steps if step.ready is not None)
    return frozenset(keys - begun)
