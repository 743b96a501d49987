"""Treatment resistance: which antidepressant trials on record were long enough and at a sufficient dose.

The least dose and duration come from the policy (`policies/antidepressants.yaml`). A trial whose dose or period is not
recorded is not known; it counts neither way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from services.intake.rules.forms import Antidepressant, TrialPolicy
from shared.fhir.cited import ValueSet
from shared.fhir.dates import MAX_INSTANT, MIN_INSTANT, interval
from shared.fhir.doses import daily_milligrams
from shared.fhir.json import Resource
from shared.fhir.kap import ORDERS

NOT_TAKEN = ("entered-in-error", "not-taken", "cancelled", "draft", "intended")


@dataclass(frozen=True, slots=True)
class Trial:
    """One medicine of one entry of the record, judged; `why` is the working, for people."""

    medicine: str
    reference: str
    verdict: Literal["adequate", "inadequate", "not-known"]
    why: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A coded entry of the record: its reference, its code, the resource."""

    reference: str
    concept: Mapping[str, Any] | None
    resource: Resource


def trials(entries: Iterable[Entry], since: datetime | None, now: datetime, policy: TrialPolicy) -> list[Trial]:
    """Return the trials of antidepressants on record that reach into the episode that began at `since`.

    `since` None: the onset is not recorded; then every trial counts.
    """
    found: list[Trial] = []
    for entry in entries:
        if entry.resource.get("status") in NOT_TAKEN or not _was_meant(entry.resource):
            continue
        for name in _named(entry.concept, policy.medicines):
            found.extend(_judge(name, policy.medicines[name], entry, since, now, policy))
    return found


def _was_meant(resource: Resource) -> bool:
    """Tell whether a medicine was to be taken: not by a MedicationRequest that proposes it, or forbids it."""
    if resource.get("resourceType") != "MedicationRequest":
        return True
    return resource.get("intent") in ORDERS and resource.get("doNotPerform") is not True


def _named(concept: Mapping[str, Any] | None, medicines: Mapping[str, Antidepressant]) -> list[str]:
    """Return the medicines that a concept's codes say; where none does, the one with the longest word in its text.

    A word is no more than that: "escitalopram" has "citalopram" in it.
    """
    coded = [name for name, one in medicines.items() if _set(one, words=()).holds(concept)]
    if coded:
        return coded
    written = [
        (len(word), name)
        for name, one in medicines.items()
        for word in one.words
        if _set(one, words=(word,)).holds(concept)
    ]
    return [max(written)[1]] if written else []


def _set(medicine: Antidepressant, words: tuple[str, ...]) -> ValueSet:
    return ValueSet(source=medicine.source, verified=medicine.verified, codes=medicine.codes, words=words)


def _judge(
    name: str, medicine: Antidepressant, entry: Entry, since: datetime | None, now: datetime, policy: TrialPolicy
) -> Iterator[Trial]:
    dose = daily_milligrams(entry.resource)
    start, end = _period(entry.resource, now)
    if since is not None and end is not None and end < since:
        yield Trial(name, entry.reference, "inadequate", f"{name}: ended before this episode began")
        return
    said = f"{name} {'dose not recorded' if dose is None else f'{dose:f} mg/day'}"
    least = f"at least {medicine.milligrams:f} mg/day for {policy.duration.weeks} weeks are needed"
    if dose is not None and dose < medicine.milligrams:
        yield Trial(name, entry.reference, "inadequate", f"{said}: too low; {least}")
        return
    if start is None or end is None:
        yield Trial(name, entry.reference, "not-known", f"{said}, how long is not recorded; {least}")
        return
    weeks = Decimal((end - start) // timedelta(days=1)) / Decimal(timedelta(weeks=1) // timedelta(days=1))
    said = f"{said} for {weeks:.1f} weeks"
    if end - start < timedelta(weeks=policy.duration.weeks):
        yield Trial(name, entry.reference, "inadequate", f"{said}: too short; {least}")
    elif dose is None:
        yield Trial(name, entry.reference, "not-known", f"{said}; {least}")
    else:
        yield Trial(name, entry.reference, "adequate", f"{said}: adequate")


def _period(resource: Resource, now: datetime) -> tuple[datetime | None, datetime | None]:
    """Return from when to when it was taken: a rough beginning at its latest, a rough end at its earliest."""
    repeat: Mapping[str, Any] = next(
        (one.get("timing", {}).get("repeat", {}) for one in resource.get("dosageInstruction", [])), {}
    )
    period = resource.get("effectivePeriod") or repeat.get("boundsPeriod") or {}
    start = interval(period["start"])[1] if "start" in period else None
    if "end" in period:
        return start, min(interval(period["end"])[0], now)
    return start, now if resource.get("status") == "active" and start is not None else None


def episode_began(conditions: Sequence[Resource]) -> datetime | None:
    """Return the onset of the newest of the conditions that are the episode; None where it is not recorded."""
    onsets = [interval(one["onsetDateTime"])[0] for one in conditions if "onsetDateTime" in one]
    newest = max(onsets, default=MIN_INSTANT)
    return None if len(onsets) < len(conditions) or newest in (MIN_INSTANT, MAX_INSTANT) else newest
