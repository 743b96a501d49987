"""The form of an instrument: `policies/instruments/*.yaml`. How it is scored is said there, not coded here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final, Literal

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.codes import KAP, LOINC, Code
from shared.fhir.raised import Priority

_SYSTEMS = {"loinc": LOINC, "kap": KAP}
T_SCORE: Final = "t-score"
"""What the code of a part's T-score ends with."""


class Coded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A code of LOINC where one was verified, else of the project's CodeSystem."""

    code: str
    display: str
    system: Literal["loinc", "kap"] = "loinc"

    def of(self) -> Code:
        """Return the Code."""
        return Code(_SYSTEMS[self.system], self.code, self.display)


class Band(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A severity: values up to and including `up_to` that no band before it holds."""

    up_to: Decimal
    code: str
    display: str


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Items of which only the highest counts."""

    highest_of: tuple[str, ...]


class Responding(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a score is a response, a remission, a reliable change, against the baseline; shares are of the baseline."""

    response_share: Decimal | None = None
    remission_at_most: Decimal | None = None
    reliable_points: Decimal | None = None


class Score(Coded, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number made of items.

    Attributes:
        method: how; `highest` adds the highest of each group, `count` tells how many items have `at_least`.
        items: all of the instrument's where none are given.
        groups: for `highest`.
        low, high: what it can be.
        may_miss: how many items may be without an answer; the others are then averaged over all.
        places: decimals of the value.
        bands: severities; empty where none are published.
        t_scores: by raw value, where the publisher's table was entered: the T-score is a further number.
        better: which way is better.
        change: of a part, when it is reliably another than at the baseline, in T-scores where it has them. What holds
            of the total stands at the instrument.

    """

    method: Literal["sum", "mean", "highest", "count"] = "sum"
    at_least: int = 1
    items: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    low: Decimal
    high: Decimal
    may_miss: int = 0
    places: int = 0
    bands: tuple[Band, ...] = ()
    t_scores: dict[int, Decimal] = msgspec.field(default_factory=dict)
    better: Literal["lower", "higher"] = "lower"
    change: Responding | None = None

    @property
    def compared(self) -> str:
        """The code of the number that is held against the baseline: the T-score where there is one."""
        return f"{self.code}-{T_SCORE}" if self.t_scores else self.code


class Criterion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many of the items have at least this score."""

    items: tuple[str, ...]
    at_least: int
    count: int


class Finding(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds where every criterion does, and each of the parts reaches its share of what it can be."""

    code: str
    display: str
    criteria: tuple[Criterion, ...] = ()
    parts: tuple[str, ...] = ()
    share: Decimal | None = None


class Cut(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The total from which on a screening is positive; by administrative gender where that matters.

    `default` also serves where the gender is not known: the lower cut, which overlooks nobody.
    """

    default: Decimal
    code: str
    display: str
    by_gender: dict[str, Decimal] = msgspec.field(default_factory=dict)


class Sign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item with at least this score; with `unless`, only where that item was not clearly answered by zero."""

    item: str
    at_least: int
    unless: str | None = None


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A level of risk: any of its signs makes it, and it has a person do something.

    Attributes:
        name: in identifiers.
        signs: any of them.
        task: code of the Task that is raised; one with a ladder climbs it (`policies/escalation.yaml`).
        title: the Task's code in words.
        within_hours: when the Task is due.
        advice: what to do; the Task's description.
        safety_plan: whether a safety plan is made or offered.
        answer: the coded level, where the instrument has one.

    """

    name: str
    signs: tuple[Sign, ...]
    task: str
    title: str = ""
    priority: Priority
    within_hours: int
    advice: str
    safety_plan: bool = False
    answer: Coded | None = None


class Risk(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The items that call for a person, and how loudly: levels, the gravest first.

    An answer that is not understood counts as a sign of the level `not_understood`. `ends_task`: code of the Task that
    asks for this instrument, where a clinician who runs it has done what the Task asks.
    """

    levels: tuple[Level, ...]
    not_understood: str
    ends_task: str | None = None
    code: Coded | None = None
    none: Coded | None = None

    @property
    def items(self) -> frozenset[str]:
        """The items that say something about it."""
        return frozenset(sign.item for level in self.levels for sign in level.signs)


class Worsening(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When scores that get worse call for a prescriber."""

    points: Decimal
    in_a_row: int
    within_hours: int


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item as it is asked; `text` is a slot for the clinic's licensed text where the project may not ship it."""

    text: str
    licensed: bool = False


class Instrument(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A questionnaire and how it is scored.

    Attributes:
        canonicals: the questionnaires it is asked by.
        items: linkIds of the items that are scored; LOINC codes where they were verified.
        also: linkIds of items that are asked and not scored.
        answers: each answer code's score; `item_answers`: where an item has answers of its own.
        low, high: of a single answer given as a number; nothing between whole numbers.
        recode: by item, the score of each answer, where it differs from the number given.
        reversed: items that count backwards: low + high - answer.
        needed_if: an item that is only asked where the other has at least 1; else it counts 0.
        alternatives: of these, one answer suffices.
        several: whether an item may have more than one answer; then the highest counts.
        total: the score that stands for the instrument; None where it has parts only.
        parts: subscales, clusters, factors, domains.
        entries: what of it has another source than the rest, or was not verified as the rest was, by a name for it.
        within_days: answers younger than this are not asked for again (the burden limit).

    """

    title: str
    copyright: str
    canonicals: tuple[str, ...]
    panel: Coded | None = None
    items: tuple[str, ...]
    also: tuple[str, ...] = ()
    answers: dict[str, int] = msgspec.field(default_factory=dict)
    item_answers: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    low: int
    high: int
    item_low: dict[str, int] = msgspec.field(default_factory=dict)
    item_high: dict[str, int] = msgspec.field(default_factory=dict)
    recode: dict[str, dict[int, int]] = msgspec.field(default_factory=dict)
    reversed: tuple[str, ...] = ()
    needed_if: dict[str, str] = msgspec.field(default_factory=dict)
    alternatives: tuple[tuple[str, ...], ...] = ()
    several: bool = False
    total: Score | None = None
    parts: dict[str, Score] = msgspec.field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    cut: Cut | None = None
    risk: Risk | None = None
    change: Responding | None = None
    worsening: Worsening | None = None
    entries: dict[str, Cited] = msgspec.field(default_factory=dict)
    within_days: int = 0
    instruction: str = ""
    questions: dict[str, Question] = msgspec.field(default_factory=dict)
    displays: dict[str, str] = msgspec.field(default_factory=dict)

    def scores(self) -> Iterator[tuple[str, Score]]:
        """Yield name and form of each number: the parts, and the total under an empty name."""
        yield from self.parts.items()
        if self.total is not None:
            yield "", self.total

    def answers_of(self, item: str) -> Mapping[str, int]:
        """Return the scores of an item's answers, by code."""
        return self.item_answers.get(item, self.answers)

    def highest(self, item: str) -> int:
        """Return the highest number an item can be answered by."""
        return self.item_high.get(item, self.high)

    def lowest(self, item: str) -> int:
        """Return the lowest number an item can be answered by."""
        return self.item_low.get(item, self.low)

    def problems(self) -> Iterator[str]:
        """Yield what does not fit together."""
        known = set(self.items)
        for name, one in self.scores():
            used = [*one.items, *(item for group in one.groups for item in group.highest_of)]
            if not set(used) <= known:
                yield f"the score '{name}' uses items that are not asked"
            if one.method == "count" and one.may_miss:
                yield f"the score '{name}' counts, and what is missing cannot be averaged"
            if one.method == "highest" and not one.groups:
                yield f"the score '{name}' has no groups"
            if one.bands and one.bands[-1].up_to < one.high:
                yield f"the bands of '{name}' end below what it can be"
        if self.risk is not None:
            if not self.risk.items <= known:
                yield "the risk looks at items that are not asked"
            if self.risk.not_understood not in {level.name for level in self.risk.levels}:
                yield f"there is no level '{self.risk.not_understood}'"
        if not {part for finding in self.findings for part in finding.parts} <= set(self.parts):
            yield "a finding looks at parts that are not scored"
        if self.questions and set(self.questions) != known | set(self.also):
            yield "the questions are not the items"
