"""What is recommended to have been measured before the first dose, and what of it is still to do. It blocks nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from services.intake.rules.eligibility import is_aged
from services.intake.rules.findings import counted, is_active
from services.intake.rules.forms import Sets
from services.intake.rules.trials import Entry
from shared.fhir.cited import Cited
from shared.fhir.codes import LOINC
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, effective_start

COUNTED = ("final", "amended", "corrected")


class Recommended(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that is recommended to have been measured; `policies/workup.yaml` says what each member means."""

    title: str
    codes: tuple[str, ...]
    days: int
    advice: str
    count: int = 1
    genders: tuple[str, ...] = ()
    from_years: int | None = None
    below_years: int | None = None
    beside: tuple[str, ...] = ()


class WorkupPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `workup`."""

    tests: dict[str, Recommended]


@dataclass(frozen=True, slots=True)
class ToDo:
    """What is recommended and lacks: how many results of it count, of how many, and their references."""

    name: str
    test: Recommended
    found: int
    evidence: tuple[str, ...]

    @property
    def text(self) -> str:
        """What to do, for people."""
        had = f" {self.found} of {self.test.count} on record." if self.found else ""
        return f"{self.test.title}: not on record of the last {self.test.days} days.{had} {self.test.advice}"


def to_do(
    patient: Resource,
    conditions: Iterable[Entry],
    results: Sequence[Resource],
    now: datetime,
    policy: WorkupPolicy,
    sets: Sets,
) -> Iterator[ToDo]:
    """Yield what of the recommended is still to do for a patient; `results` are Observations and DiagnosticReports."""
    active = [one.concept for one in counted(conditions) if is_active(one.resource)]
    for name, test in policy.tests.items():
        if not _is_for(patient, active, test, now, sets):
            continue
        had = [one for one in results if _is_result(one, test.codes) and _is_recent(one, now, test.days)]
        if len(had) < test.count:
            yield ToDo(name, test, len(had), tuple(f"{one['resourceType']}/{one['id']}" for one in had))


def _is_for(
    patient: Resource, active: Iterable[Mapping[str, Any] | None], test: Recommended, now: datetime, sets: Sets
) -> bool:
    """Tell whether something is recommended for a patient; what is not known of him speaks for it."""
    gender, born = patient.get("gender"), patient.get("birthDate")
    if test.genders and gender is not None and gender not in test.genders:
        return False
    if test.from_years is not None and is_aged(born, test.from_years, now.date()) is False:
        return False
    if test.below_years is not None and is_aged(born, test.below_years, now.date()) is True:
        return False
    return not test.beside or any(sets[set_].holds(one) for one in active for set_ in test.beside)


def _is_result(result: Resource, codes: Collection[str]) -> bool:
    return result.get("status") in COUNTED and not set(codes_of(result.get("code"), LOINC)).isdisjoint(codes)


def _is_recent(result: Resource, now: datetime, days: int) -> bool:
    start = effective_start(result)
    return start is not None and now - timedelta(days=days) <= start <= now
