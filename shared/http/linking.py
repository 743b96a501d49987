"""How the entries of a transaction refer to each other, and to what is held, before they have ids.

A link to another entry is its `fullUrl`, whatever that is, also on the base of the `fullUrl` of the entry it stands in;
one to what is held may be a condition: ``Patient?identifier=system|value``.

Source: https://hl7.org/fhir/R4/http.html#trules, https://hl7.org/fhir/R4/bundle.html#references
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from shared.fhir.json import Resource
from shared.fhir.links import LinkKind, links_of, relinked
from shared.fhir.outcome import BadRequest, FhirError, PreconditionFailed
from shared.fhir.references import parse_literal, relative
from shared.http.conditions import claim_of, conditional_reference, parse_condition
from shared.store.access import Access

if TYPE_CHECKING:
    from shared.fhir.search import SearchQuery
    from shared.http.entries import Change
    from shared.store.store import Store, Transaction

Identity: TypeAlias = tuple[str, str]
"""Type and id."""

Found: TypeAlias = Mapping[str, tuple[str, ...]]
"""By claim, the ids of what its condition finds; as many as are needed to know whether it is one."""

Links: TypeAlias = Mapping[str, tuple[int, str]]
"""By `fullUrl`, the entry that has it, and the ``Type/id`` it will be known by."""

Targets: TypeAlias = Mapping[str, "str | FhirError | None"]
"""By conditional reference what it means: ``Type/id``; None: nothing yet; or why it is refused."""


def links_between(aimed: Mapping[int, tuple[Change, str | None]]) -> Links:
    """Return the links to changes, given for each the id it is about."""
    return {
        change.full_url: (index, f"{change.type}/{id_}")
        for index, (change, id_) in aimed.items()
        if change.full_url is not None and id_ is not None and change.method != "DELETE"
    }


@dataclass(slots=True)
class Linked:
    """A resource with its links rewritten.

    Attributes:
        content: the resource.
        needs: the entries that it refers to.
        waits: whether a conditional reference of it finds nothing yet.
        problems: why it is refused.

    """

    content: Resource
    needs: set[int] = field(default_factory=set)
    waits: bool = False
    problems: list[FhirError] = field(default_factory=list)

    @property
    def refusal(self) -> FhirError | None:
        """All problems as one."""
        if not self.problems:
            return None
        return type(self.problems[0])([issue for problem in self.problems for issue in problem.issues])


def link(change: Change, resource: Resource, links: Links, targets: Targets, *, base_url: str) -> Linked:
    """Return the resource of a change with each link rewritten to what it means.

    A reference to what is under `base_url`, this system's own base, and to no entry is a relative one: it is stored as
    every other (`relative_references`).
    """
    base = parse_literal(change.full_url or "").base
    linked = Linked(resource)

    def relink(kind: LinkKind, said: str) -> str:
        text = relative(said, base_url)
        for form in _forms(text, base if kind == "reference" else ""):
            if form in links:
                index, literal = links[form]
                if index != change.index:
                    linked.needs.add(index)
                return literal
        if kind != "reference":
            return said
        if text in targets:
            target = targets[text]
            if isinstance(target, str):
                return target
            if target is None:
                linked.waits = True
            else:
                linked.problems.append(target)
        elif text.startswith(("urn:uuid:", "urn:oid:")):
            linked.problems.append(
                BadRequest(
                    f"{text} is the fullUrl of no entry that is created or updated here: nobody could ever follow it.",
                    code="not-found",
                    expression=[change.type],
                )
            )
        return text

    linked.content = relinked(resource, relink)
    return linked


def _forms(text: str, base: str) -> Iterable[str]:
    """Yield the fullUrls that a link may mean: itself, and without its version, on the base of its entry, too."""
    yield text
    parsed = parse_literal(text) if "/" in text else None
    if parsed is None or not parsed.type:
        return
    plain = f"{parsed.type}/{parsed.id}"
    if parsed.base:
        yield parsed.base + plain
        return
    yield plain
    if base:
        yield base + plain


def conditional_references(changes: Iterable[Change]) -> tuple[dict[str, SearchQuery], dict[int, FhirError]]:
    """Return the conditional references of all changes with what they ask for; by entry, why one cannot be read."""
    references: dict[str, SearchQuery] = {}
    errors: dict[int, FhirError] = {}
    for change in changes:
        for kind, text in () if change.resource is None else links_of(change.resource):
            asked = conditional_reference(text) if kind == "reference" else None
            if asked is None or text in references:
                continue
            try:
                references[text] = parse_condition(*asked, where=change.type)
            except BadRequest as error:
                errors[change.index] = error
    return references, errors


async def find_all(
    source: Store | Transaction, tenant: str, conditions: Iterable[SearchQuery], *, most: int = 2
) -> Found:
    """Look for what each condition finds among all of the tenant's data, up to `most` resources."""
    everything = Access.unrestricted(tenant)
    found = {}
    for condition in conditions:
        page = await source.search(everything, replace(condition, count=most))
        found[claim_of(condition)] = tuple(sorted(entry.id for entry in page.entries))
    return found


async def targets_of(
    source: Store | Transaction,
    access: Access,
    references: Mapping[str, SearchQuery],
    found: Found,
    *,
    gone: Collection[Identity] = (),
    makes: Collection[str] = (),
) -> dict[str, str | FhirError | None]:
    """Return what each conditional reference means.

    Args:
        source: where to look.
        access: who asks; what he may not see he cannot refer to by a condition. Copies count.
        references: what is asked for.
        found: what was found.
        gone: what is deleted before.
        makes: the types of which something may still be made that is meant.

    """
    visible = replace(access, origin=None)
    targets: dict[str, str | FhirError | None] = {}
    for text, condition in references.items():
        ids = [id_ for id_ in found[claim_of(condition)] if (condition.type, id_) not in gone]
        held = await source.find(visible, condition.type, ids[0]) if len(ids) == 1 else None
        if held is not None and not held.deleted:
            targets[text] = f"{held.type}/{held.id}"
        elif not ids and condition.type in makes:
            targets[text] = None
        else:
            targets[text] = no_target(text, ids)
    return targets


def no_target(text: str, ids: Sequence[str]) -> FhirError:
    """Return why a conditional reference cannot be followed; `ids` are those it finds."""
    found = "does not find exactly one resource" if ids else "finds nothing"
    return PreconditionFailed(
        f"The conditional reference {text} {found}. Nothing was changed.",
        code="multiple-matches" if ids else "not-found",
    )
