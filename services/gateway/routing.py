"""Which owner a write is sent to; pure: the owners of what a resource refers to are given, or asked for."""

from __future__ import annotations

from collections.abc import Mapping

from shared.fhir.json import Resource
from shared.fhir.kap import comes_from_elsewhere
from shared.runtime.ownership import OriginOf, owner_of


class Unresolved(Exception):
    """The owner of a resource has to be known before the question can be answered."""

    def __init__(self, type_: str, id_: str) -> None:
        super().__init__(type_)
        self.resource = (type_, id_)


def knowing(origins: Mapping[tuple[str, str], str | None]) -> OriginOf:
    """Return what tells the owners in `origins`, and raises `Unresolved` for any other resource."""

    def origin_of(type_: str, id_: str) -> str | None:
        if (type_, id_) not in origins:
            raise Unresolved(type_, id_)
        return origins[type_, id_]

    return origin_of


def owner_of_new(resource: Resource, origin_of: OriginOf) -> str:
    """Return the service that a new resource is to be sent to. Its id, if it has one, is the sender's and says nothing.

    Raises:
        Unprocessable: nobody owns it.
        Unresolved: by `origin_of`.

    """
    content = {name: value for name, value in resource.items() if name != "id"}
    return owner_of(content, origin_of=origin_of, from_outside=comes_from_elsewhere(content))
