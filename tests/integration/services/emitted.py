"""What sessions and outcomes of the tests in this folder wrote by themselves: one resource of each kind, to be held to
HL7's validator. What a test posts as a careless client would is not theirs: clients answer for their codes.
"""

from __future__ import annotations

from typing import Any

from shared.fhir.codes import ID_REMS_FORM
from shared.fhir.json import Resource, parse
from tests.integration.services.course import Opened

Kind = tuple[str, tuple[str, ...], frozenset[str]]


SERVICES = ("sessions", "outcomes")
RAISED = frozenset(
    {
        *("Communication", "Composition", "DetectedIssue", "DocumentReference", "Flag", "Measure", "MeasureReport"),
        *("Procedure", "Provenance", "Task"),
    }
)
"""Types that services write by themselves; of others those that claim a profile of the project, and the REMS form."""


class Emitted:
    """One resource of each kind: of its type, what it is about (codes), and which elements it has."""

    def __init__(self) -> None:
        self.kinds: dict[Kind, str] = {}

    async def gather(self, opened: Opened) -> None:
        """Keep what a service has committed, of kinds that are not there yet."""
        async for event in opened.store.replay.events_since():
            if event.interaction != "delete" and opened.service.name in SERVICES:
                body = bytes(event.body)
                resource = parse(body)
                if is_their_own(resource):
                    self.kinds.setdefault(kind_of(resource), body.decode())


def is_their_own(resource: Resource) -> bool:
    """Tell whether a service wrote it, and no client."""
    form = resource.get("identifier")
    is_form = isinstance(form, dict) and form.get("system") == ID_REMS_FORM
    return resource["resourceType"] in RAISED or is_form or "profile" in resource.get("meta", {})


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
