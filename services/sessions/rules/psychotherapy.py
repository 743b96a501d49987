"""What is recorded of the psychotherapy in each kind of visit: `policies/psychotherapy.yaml`. Pure functions.

It is the shareable record: that it was done, how, and a summary; what was said stays in the process notes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.codes import KAP, OBSERVATION_CATEGORY, SNOMED, Code
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, moment

THERAPY: Final = Code(OBSERVATION_CATEGORY, "therapy", "Therapy")


class Item(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that is recorded: in which visits it may be, and at the end of which it is asked for."""

    title: str
    value: Literal["text", "boolean", "technique"]
    visits: tuple[str, ...]
    required: tuple[str, ...] = ()
    many: bool = False


class Technique(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A technique of psychotherapy, with SNOMED CT's code where there is one."""

    title: str
    snomed: str | None = None
    display: str = ""


class CheckIns(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a patient is asked how he is after a dosing session, in hours from its end, and within how many."""

    hours: tuple[int, ...]
    within: int


class PsychotherapyPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `psychotherapy`."""

    items: dict[str, Item]
    techniques: dict[str, Technique]
    check_ins: CheckIns


def code_of(name: str, policy: PsychotherapyPolicy) -> Code:
    """Return the code of an item's Observation."""
    return Code(KAP, f"session-{name}", policy.items[name].title)


def technique_code(name: str) -> Code:
    """Return the project's code of a technique."""
    return Code(KAP, f"technique-{name}")


def technique_concept(name: str, policy: PsychotherapyPolicy) -> dict[str, Any]:
    """Return a technique as `Procedure.code`: SNOMED CT's code first where there is one."""
    said = policy.techniques[name]
    own = Code(KAP, technique_code(name).code, said.title)
    if said.snomed is None:
        return own.concept(text=said.title)
    return Code(SNOMED, said.snomed, said.display).concept(own, text=said.title)


def has_begun(visit: Resource) -> bool:
    """Tell whether there is something to record of a visit: it has begun, or is over."""
    return visit.get("status") not in (None, "planned", "cancelled", "entered-in-error")


def is_unmade(due: Resource, now: datetime) -> bool:
    """Tell whether the time of an open check-in (a Task) is over, and nobody was told of it yet."""
    return now > moment(due["restriction"]["period"]["end"]) and "businessStatus" not in due


def lacking(kind: str, recorded: Iterable[Resource], policy: PsychotherapyPolicy) -> list[str]:
    """Return the titles of what a visit of a kind does not say at its end, of what it is to say."""
    said = {
        code for one in recorded for code in codes_of(one.get("code"), KAP) if one.get("status") != "entered-in-error"
    }
    techniques = {technique_code(name).code for name in policy.techniques}
    return [
        item.title
        for name, item in policy.items.items()
        if kind in item.required
        and not said.intersection(techniques if item.value == "technique" else {code_of(name, policy).code})
    ]


def check_in_times(end: datetime, now: datetime, policy: CheckIns) -> list[datetime]:
    """Return when a patient is to be asked after a session that ended; what is past is not asked any more."""
    times = [end + timedelta(hours=hours) for hours in policy.hours]
    return [one for one in times if now <= one + timedelta(hours=policy.within)]
