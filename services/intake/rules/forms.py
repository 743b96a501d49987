"""The form of intake's screening policy: `policies/eligibility.yaml`, `interactions.yaml`, `antidepressants.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, TypeAlias, TypeVar

import msgspec

from shared.fhir.cited import Cited, Term, ValueSet
from shared.fhir.kap import Drug

Severity: TypeAlias = Literal["A", "R", "I"]
Sets: TypeAlias = Mapping[str, ValueSet]
ByDrug: TypeAlias = dict[str, Severity]
"""By ``drug`` or ``drug/route`` (route a SNOMED CT code): ``esketamine``, ``ketamine/47625008``."""

ByDrugSets: TypeAlias = dict[str, tuple[str, ...]]

GRAVEST: tuple[Severity, ...] = ("A", "R", "I")

T = TypeVar("T")


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item of the screening questionnaire, and the answer that is a hit."""

    link: str
    hit: bool


class Recent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Conditions that count when they began within so many days."""

    sets: tuple[str, ...]
    days: int


class ObservationSign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A LOINC code whose newest coded value counts when it is in `set`; in neither that nor `clear` it is unread."""

    code: str
    set: str
    clear: str


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A LOINC code whose newest value in `unit` (UCUM) counts from `at_least` on, beside a condition of `beside`."""

    code: str
    unit: str
    at_least: Decimal
    beside: tuple[str, ...]


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Conditions that count of a relative: of those of the set `of` that are not of `but`, or may be."""

    of: str
    but: str
    conditions: tuple[str, ...]


class Needed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many antidepressant trials there must have been; the integer answer `link` is what the patient says."""

    link: str
    count: int


class ScreeningRule(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule of eligibility. Sets are named as in `value-sets.yaml`.

    `conditions` count while active, `history` also later, `suggests` are shown as evidence but decide nothing.
    `family`: conditions of relatives. `flags`: codes (KAP's or SNOMED CT's) of a Flag that counts while it is up.
    `measured`: a value that counts beside a condition. `graver` raises the severity when one of its sets is met.
    `indication`: asked only for that indication; `indicated`: by drug, the sets of which one is on record, else it is
    not known whether it is asked. `override`: how many prescribers together may decide past an absolute
    finding, by drug or drug and route; where it says nothing, nobody may. `asked`: at screening, or on the day of the
    dose only. `replaced`: met by a Patient that was merged into another; `deceased`: by one who died.
    """

    title: str
    severity: Severity | ByDrug
    advice: str
    question: Question | None = None
    conditions: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    suggests: tuple[str, ...] = ()
    recent: Recent | None = None
    allergies: tuple[str, ...] = ()
    family: Family | None = None
    observations: tuple[ObservationSign, ...] = ()
    measured: Measured | None = None
    graver: dict[str, Severity] = msgspec.field(default_factory=dict)
    override: dict[str, int] = msgspec.field(default_factory=dict)
    age_below: int | None = None
    flags: tuple[str, ...] = ()
    indication: str | None = None
    indicated: ByDrugSets = msgspec.field(default_factory=dict)
    needed: Needed | None = None
    uncoded: bool = False
    replaced: bool = False
    deceased: bool = False
    asked: Literal["screening", "dose"] = "screening"


class DailyLimit(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A daily amount above which, or where it is not known, a medicine counts more gravely.

    `equivalents`: mg of `reference` that one mg of a value set's medicine counts for.
    """

    reference: str
    milligrams: Decimal
    severity: Severity
    equivalents: dict[str, Decimal]


class Interaction(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A medicine that matters beside ketamine. `hours_before`: how long before the dose it is held, at least."""

    title: str
    severity: Severity | ByDrug
    medications: tuple[str, ...]
    effect: str
    advice: str
    override: dict[str, int] = msgspec.field(default_factory=dict)
    hours_before: int | None = None
    daily: DailyLimit | None = None


class CodedSystems(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The terminologies a rule can read, by kind of entry."""

    condition: tuple[str, ...]
    allergy: tuple[str, ...]
    medication: tuple[str, ...]


class Link(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item of the screening questionnaire."""

    link: str


class Days(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of days."""

    days: int


class Prescribers(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many prescribers decide past a relative finding."""

    relative: int


class EligibilityPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `eligibility`. `answers_age`: how old the answers may be; `ask_again`: how long before that."""

    coded_systems: CodedSystems
    medication_list: Link
    day_of_dose: Link
    answers_age: Days
    ask_again: Days
    prescribers: Prescribers
    rules: dict[str, ScreeningRule]


class Weeks(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of weeks."""

    weeks: int


class Antidepressant(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An antidepressant: its codes and words, and the least mg a day that is an adequate trial."""

    codes: tuple[Term, ...]
    words: tuple[str, ...]
    milligrams: Decimal


class TrialPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `antidepressants`. `episode`: the value set of conditions whose onset begins the episode."""

    duration: Weeks
    episode: str
    medicines: dict[str, Antidepressant]


def fitting(table: Mapping[str, T], drug: Drug | None, route: str | None) -> list[T]:
    """Return the entries by drug or ``drug/route`` that may be meant; what names drug and route goes before the drug.

    What is not known may be any: then all that fit are returned.
    """
    found = []
    for key, value in table.items():
        named, _, by = key.partition("/")
        if drug is not None and named != drug:
            continue
        if by and route is not None and by != route:
            continue
        if not by and route is not None and f"{named}/{route}" in table:
            continue
        found.append(value)
    return found


def severity_for(severity: Severity | Mapping[str, Severity], drug: Drug | None, route: str | None = None) -> Severity:
    """Return the severity for the planned drug and route, the gravest of those that may be meant."""
    if isinstance(severity, str):
        return severity
    return min(fitting(severity, drug, route) or severity.values(), key=GRAVEST.index)


def deciders(override: Mapping[str, int], drug: Drug | None, route: str | None) -> int:
    """Return how many prescribers may together decide past an absolute finding, 0: none may."""
    names = {key.partition("/")[0] for key in override}
    if drug is None or drug not in names:
        return 0
    return max(fitting(override, drug, route), default=0)
