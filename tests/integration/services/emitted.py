"""What sessions and outcomes of the tests in this folder wrote by themselves: each resource is held to its US Core
profile as it is found, by the project's own tables, and one of each kind is kept, to be held to HL7's validator.

What a test posts as a careless client would is not theirs: clients answer for their codes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from shared.fhir.codes import ID_REMS_FORM
from shared.fhir.json import Resource, dump, parse
from shared.fhir.validation import lacking
from tests.hl7 import us_core_profiles
from tests.integration.services.course import Opened

KEPT_IN = "KAP_EMITTED"
"""Names the folder that what was emitted in a run is kept in: of each process an array of resources as text."""

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

    async def gather(self, opened: Opened) -> list[str]:
        """Keep what a service committed and answered, of kinds that are not there yet; return what US Core misses."""
        if opened.service.name not in SERVICES:
            return []
        bodies = [
            bytes(event.body) async for event in opened.store.replay.events_since() if event.interaction != "delete"
        ]
        written = [body for body in bodies if is_their_own(parse(body))]
        found = []
        for body in [*written, *(dump(answer) for answer in opened.answers)]:
            resource = parse(body)
            self.kinds.setdefault(kind_of(resource), body.decode())
            found.extend(
                f"{where} {what}: {body.decode()}" for where, _, what in lacking(resource, us_core_profiles(resource))
            )
        return found

    def keep(self, folder: Path) -> None:
        """Write what there is of each kind."""
        (folder / f"{os.getpid()}.json").write_text(json.dumps(list(self.kinds.values())), encoding="utf-8")


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
    elements += [f"parameter {one['name']}" for one in resource.get("parameter", [])]
    return resource["resourceType"], tuple(codes), frozenset(elements)


def _codes(said: Any) -> list[str]:
    if isinstance(said, str):
        return [said]
    concept = said if isinstance(said, dict) else {}
    return [str(one.get("code")) for one in concept.get("coding", [])] or list(concept)
