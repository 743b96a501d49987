"""What people and places are called in the record, and how they are reached: for what is read without it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from shared.fhir.dates import period_interval
from shared.fhir.json import Resource
from shared.runtime.record import Record

HELD: Final = ("Practitioner", "Patient")
USES: Final = ("official", "usual", None, "temp", "nickname", "anonymous", "maiden", "old")
"""Uses of a HumanName, the one that somebody is called by first; None: it says none."""


async def name_of(record: Record, reference: Mapping[str, Any] | None) -> str:
    """Return what a Reference calls a person: his display, his name in the record, or the reference itself."""
    if reference is None:
        return ""
    if "display" in reference:
        return str(reference["display"])
    type_, _, id_ = str(reference.get("reference", "")).partition("/")
    held = await record.get(type_, id_) if type_ in HELD and id_ else None
    return called(held) or str(reference.get("reference", ""))


def called(who: Resource | None, when: datetime | None = None) -> str:
    """Return the name of a person by its use: the official one first, one that is no longer in force last of all."""
    names = sorted((who or {}).get("name") or [{}], key=lambda one: (not _in_force(one, when), _place(one)))
    parts = [*names[0].get("given", []), names[0].get("family", ""), *names[0].get("suffix", [])]
    return str(names[0].get("text") or " ".join(one for one in parts if one))


def _place(name: Mapping[str, Any]) -> int:
    return USES.index(name.get("use")) if name.get("use") in USES else len(USES)


def _in_force(said: Mapping[str, Any], when: datetime | None) -> bool:
    period = period_interval(said.get("period", {}))
    return when is None or period is None or period[0] <= when < period[1]


async def address_of(record: Record, patient: str) -> str:
    """Return the first address of a patient (``Patient/id``) on one line; empty where none is held."""
    return address_in(await record.get("Patient", patient.rpartition("/")[2]))


def address_in(who: Resource | None) -> str:
    """Return the first address of a person or a place on one line; empty where it has none."""
    said = (who or {}).get("address") or {}
    first = said[0] if isinstance(said, list) else said
    parts = [*first.get("line", []), first.get("city"), first.get("state"), first.get("postalCode")]
    return str(first.get("text") or ", ".join(one for one in parts if one))


def reached_by(who: Iterable[Resource | None], system: str, when: datetime) -> str | None:
    """Return the first telephone number or e-mail address (`system`) in force of these, by its rank; no old one."""
    for one in who:
        points = [
            point
            for point in (one or {}).get("telecom", [])
            if point.get("system") == system and point.get("use") != "old" and _in_force(point, when)
        ]
        ranked = sorted(points, key=lambda point: int(point.get("rank", len(points) + 1)))
        values = [str(point["value"]).strip() for point in ranked if str(point.get("value", "")).strip()]
        if values:
            return values[0]
    return None
