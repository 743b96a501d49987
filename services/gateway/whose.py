"""Whose a write is: by what the copy holds, by its content, or by what its condition finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.gateway.routing import Unresolved, knowing, owner_of_new
from shared.fhir.extraction import compartment_key
from shared.fhir.json import Resource, parse
from shared.fhir.outcome import NotFound
from shared.http.conditions import ambiguous
from shared.runtime.ownership import ALONE
from shared.store.access import Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.fhir.search import SearchQuery
    from shared.store.store import Store
    from shared.store.types import Stored


def key_of(held: Stored) -> str:
    """Return the key of the record that a held resource belongs to."""
    return f"{held.type}/{held.id}" if held.deleted else compartment_key(parse(held.body), held.type, held.id)


class Whose:
    """Finds owners in the gateway's copy."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def held_by(self, access: Access, type_: str, id_: str) -> tuple[str, str]:
        """Return the owner of a resource and the key of the record it belongs to.

        Raises:
            NotFound: it is not held, and of a type that several own.

        """
        held = await self._store.find(access, type_, id_)
        owner = ALONE.get(type_) if held is None else held.origin
        if owner is None:
            raise NotFound(f"There is no {type_}/{id_} here.")
        return owner, f"{type_}/{id_}" if held is None else key_of(held)

    async def origin(self, access: Access, type_: str, id_: str) -> str | None:
        """Return the owner of a resource that is held, None where it is not."""
        held = await self._store.find(access, type_, id_)
        return None if held is None else held.origin

    async def of_new(
        self, access: Access, resource: Resource, beside: Callable[[str, str], str | None] = lambda _type, _id: None
    ) -> str:
        """Return the owner by content, looking up the owners of what it refers to as the rule asks for them.

        `beside` tells the owners of what comes with it. Whose a resource is does not depend on what its sender may
        see: what is hidden from him he cannot refer to (`shared.security.gate`).

        Raises:
            Unprocessable: nobody owns it.

        """
        everything = Access.unrestricted(access.tenant)
        origins: dict[tuple[str, str], str | None] = {}
        while True:
            try:
                return owner_of_new(resource, knowing(origins))
            except Unresolved as needed:
                found = beside(*needed.resource)
                origins[needed.resource] = found or await self.origin(everything, *needed.resource)

    async def found(self, tenant: str, condition: SearchQuery, *, where: str) -> tuple[str, str] | None:
        """Return owner and key of what a condition finds in the copy; None where it finds nothing.

        Where it finds several of one owner, that owner is left to refuse it: he knows the latest.

        Raises:
            PreconditionFailed: it finds resources of several owners.

        """
        page = await self._store.search(Access.unrestricted(tenant), condition)
        if len({entry.origin for entry in page.entries}) > 1:
            raise ambiguous(condition, where=where)
        return next(((entry.origin, key_of(entry)) for entry in page.entries), None)
