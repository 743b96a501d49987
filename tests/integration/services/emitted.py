"""What the services of the tests in this folder emitted: one resource of each kind, to be held to HL7's validator."""

from __future__ import annotations

from typing import Any

from shared.fhir.json import Resource, parse
from tests.integration.services.course import Opened

Kind = tuple[str, tuple[str, ...], frozenset[str]]


class Emitted:
    """One resource of each kind: of its type, what it is about (codes), and which elements it has."""

    def __init__(self) -> None:
        self.kinds: dict[Kind, str] = {}

    async def gather(self, opened: Opened) -> None:
        """Keep what a service has committed, of kinds that are not there yet."""
        async for event in opened.store.replay.events_since():
            if event.interaction != "delete":
                body = bytes(event.body)
                self.kinds.setdefault(kind_of(parse(body)), body.decode())


def kind_of(resource: Resource) -> Kind:
    """Return the kind of a resource."""
    said = [resource.get(name) for name in ("code", "questionnaire", "status", "businessStatus", "statusReason")]
    codes = [code for one in said for code in _codes(one)]
    elements = [name for name in resource if name not in ("id", "meta", "text")]
    return resource["resourceType"], tuple(codes), frozenset(elements)


def _codes(said: Any) -> list[str]:
    if isinstance(said, str):
        return [said]
    concept = said if isinstance(said, dict) else {}
    return [str(one.get("code")) for one in concept.get("coding", [])] or list(concept)
