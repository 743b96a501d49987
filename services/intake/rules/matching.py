"""How alike two Patients are, and why: `Patient/$match`. The points come from `policies/matching.yaml`.

Source: https://hl7.org/fhir/R4/patient-operation-match.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.json import Resource
from shared.fhir.text import fold

Grade: TypeAlias = Literal["certain", "probable", "possible", "certainly-not"]
Field: TypeAlias = Literal["identifier", "birthDate", "family", "given", "gender", "phone", "email", "address"]
Verdict: TypeAlias = Literal["same", "near", "differ"]

GRADES: Final[tuple[Grade, ...]] = get_args(Grade)
"""From the best to the worst."""


class Points(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it counts that a field is the same or nearly so, what is taken off where it differs, and the grade then."""

    same: int
    near: int
    differ: int
    at_most: Grade


class Alike(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How alike two names are that may be one, 0 to 1."""

    ratio: float


class Least(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The least points of each grade."""

    certain: int
    probable: int
    possible: int


class Merging(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How alike two records are that may be joined; how long nothing may have happened in the one that is given up."""

    least: Grade
    quiet_days: int


class MatchPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `matching`."""

    alike: Alike
    least: Least
    merging: Merging
    fields: dict[Field, Points]


@dataclass(frozen=True, slots=True)
class Match:
    """How alike a Patient is to what was asked for. `score` is from 0 to 1; `why` names each field that counted."""

    grade: Grade
    score: float
    why: str


def match(asked: Resource, held: Resource, policy: MatchPolicy) -> Match:
    """Return how alike two Patients are; the same for `match(held, asked)`."""
    points, best, why = 0, 0, []
    for field, counted in policy.fields.items():
        verdict = _compare(_values(field, asked), _values(field, held), field, policy.alike.ratio)
        if verdict is None:
            continue
        change = {"same": counted.same, "near": counted.near, "differ": -counted.differ}[verdict]
        points += change
        why.append(f"{field} {verdict} ({change:+d})")
        if verdict == "differ":
            best = max(best, GRADES.index(counted.at_most))
    least = policy.least
    reached = (points >= least.certain, points >= least.probable, points >= least.possible, True)
    grade = GRADES[max(best, reached.index(True))]
    return Match(grade, min(max(points, 0) / least.certain, 1.0), ", ".join(why))


def _compare(left: Sequence[str], right: Sequence[str], field: Field, ratio: float) -> Verdict | None:
    """Compare all values of a field with all of another's; None where one of the two says nothing to compare."""
    if field == "identifier":
        return _identified(left, right)
    if not left or not right:
        return None
    if set(left) & set(right):
        return "same"
    near = any(_near(one, other, field, ratio) for one in left for other in right)
    return "near" if near else "differ"


def _identified(left: Iterable[str], right: Iterable[str]) -> Verdict | None:
    ours, theirs = set(left), set(right)
    if ours & theirs:
        return "same"
    systems = {one.partition("|")[0] for one in ours} & {one.partition("|")[0] for one in theirs}
    return "differ" if systems else None


def _near(left: str, right: str, field: Field, ratio: float) -> bool:
    if field == "birthDate":
        exchanged = sorted(left.split("-")) == sorted(right.split("-"))
        return exchanged or left.startswith(right) or right.startswith(left)
    if field == "address":
        return left.rpartition("|")[-1] == right.rpartition("|")[-1] != ""
    if field not in ("family", "given"):
        return False
    short, long = sorted((left, right), key=lambda one: (len(one), one))
    initial = field == "given" and len(short) == 1 and long.startswith(short)
    return initial or SequenceMatcher(None, short, long, autojunk=False).ratio() >= ratio


def _values(field: Field, patient: Resource) -> list[str]:
    """Return the values of a field, made comparable."""
    return [value for value in _raw(field, patient) if value]


def _raw(field: Field, patient: Resource) -> Iterator[str]:
    if field == "identifier":
        yield from identifiers(patient)
    elif field in ("birthDate", "gender"):
        known = str(patient.get(field, ""))
        yield "" if known == "unknown" else known
    elif field == "family":
        yield from (_letters(name.get("family", "")) for name in _names(patient))
    elif field == "given":
        yield from (_letters(name["given"][0] or "") for name in _names(patient) if name.get("given"))
    elif field == "address":
        for one in patient.get("address", []):
            lines = "".join(_letters(line or "") for line in one.get("line", []))
            code = _letters(one.get("postalCode", ""))
            yield f"{lines}|{code}" if lines and code else ""
    else:
        yield from (_letters(value) for value in telecoms(patient, field))


def identifiers(patient: Resource) -> list[str]:
    """Return the identifiers that can be compared, ``system|value``; one that is not in use any more is left out."""
    return [
        f"{one['system']}|{one['value']}"
        for one in patient.get("identifier", [])
        if one.get("system") and one.get("value") and one.get("use") != "old"
    ]


def telecoms(patient: Resource, system: str) -> list[str]:
    """Return the values of a patient's telecom of a system, as they are."""
    kinds = (system, "sms") if system == "phone" else (system,)
    return [str(one["value"]) for one in patient.get("telecom", []) if one.get("system") in kinds and one.get("value")]


def _names(patient: Resource) -> list[Mapping[str, Any]]:
    return [one for one in patient.get("name", []) if one.get("use") not in ("nickname", "anonymous")]


def _letters(text: str) -> str:
    return "".join(one for one in fold(text) if one.isalnum())
