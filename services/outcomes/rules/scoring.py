"""From answers to numbers. A number is made of all the answers its instrument needs; one not understood is missing.

Answers are read in whatever order and depth the items stand, as a coding, a whole number or a yes or no.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from services.outcomes.rules.instruments import Band, Cut, Instrument, Score
from shared.fhir.at_risk import items_of
from shared.fhir.codes import KAP, LOINC
from shared.fhir.json import Resource

COUNTED: Final = frozenset(("completed", "amended"))
"""Statuses of a QuestionnaireResponse whose answers are final."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a response says about an instrument's items.

    Attributes:
        given: by item, the score of each answer to it as given, None for one that is not understood.
        unknown: whether there are answers to items that the instrument does not have.
        several: whether an item may have more than one.

    """

    given: Mapping[str, tuple[int | None, ...]]
    unknown: bool
    several: bool = False

    def of(self, item: str) -> int | None:
        """Return the score of an item that was answered as often as it may be, and understood: the highest."""
        values = self.given.get(item, ())
        known = [value for value in values if value is not None]
        return max(known) if values and len(known) == len(values) and (self.several or len(values) == 1) else None


@dataclass(frozen=True, slots=True)
class Number:
    """One score of an instrument: None where too many answers are missing. `averaged`: some were."""

    value: Decimal | None
    t_score: Decimal | None = None
    averaged: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """What the answers add up to.

    Attributes:
        scores: each item's score as it counts: recoded, turned round.
        missing: the items that are needed and have no answer that is understood.
        numbers: by the name of the part; the total under an empty name.

    """

    scores: Mapping[str, int]
    missing: tuple[str, ...]
    numbers: Mapping[str, Number]

    @property
    def total(self) -> Decimal | None:
        """The total, None where there is none."""
        number = self.numbers.get("")
        return None if number is None else number.value

    @property
    def is_known(self) -> bool:
        """Whether there is any number."""
        return any(number.value is not None for number in self.numbers.values())


def instrument_of(response: Resource, instruments: Mapping[str, Instrument]) -> tuple[str, Instrument] | None:
    """Return name and instrument of a QuestionnaireResponse, None where it is not one that is scored here.

    A response to a questionnaire that nobody knows is taken for the instrument whose items about risk it answers.
    """
    canonical = str(response.get("questionnaire", "")).partition("|")[0]
    for name, one in instruments.items():
        if canonical in one.canonicals:
            return name, one
    links = {link for link, _ in items_of(response)}
    for name, one in instruments.items():
        if one.risk is not None and links & one.risk.items:
            return name, one
    return None


def answers_of(response: Resource, instrument: Instrument) -> Answers:
    """Read the answers to an instrument's items."""
    given: dict[str, tuple[int | None, ...]] = {}
    unknown = False
    for link, answers in items_of(response):
        if not answers:
            continue
        if link in instrument.items:
            given[link] = (*given.get(link, ()), *(_value(one, link, instrument) for one in answers))
        elif link not in instrument.also:
            unknown = True
    return Answers(given, unknown, instrument.several)


def score(response: Resource, instrument: Instrument) -> Scored:
    """Score a response."""
    answers = answers_of(response, instrument)
    scores = {
        item: _counts(item, value, instrument) for item in instrument.items if (value := answers.of(item)) is not None
    }
    for item, other in instrument.needed_if.items():
        if item not in answers.given and answers.of(other) == 0:
            scores[item] = 0
    missing = tuple(
        item
        for item in instrument.items
        if item not in scores and (item in answers.given or not _has_alternative(item, scores, instrument))
    )
    numbers = {name: _number(one, scores, set(missing), instrument) for name, one in instrument.scores()}
    return Scored(scores, missing, numbers)


def _value(answer: Mapping[str, Any], item: str, instrument: Instrument) -> int | None:
    """Return the score of an answer as given, None where it is given in a way the instrument does not know."""
    if "valueCoding" in answer:
        coding = answer["valueCoding"]
        known = coding.get("system", LOINC) in (LOINC, KAP)
        return instrument.answers_of(item).get(str(coding.get("code"))) if known else None
    if isinstance(answer.get("valueBoolean"), bool):
        yes_or_no = instrument.low == 0 and instrument.highest(item) == 1
        return int(answer["valueBoolean"]) if yes_or_no else None
    for name in ("valueInteger", "valueDecimal"):
        if name in answer:
            number = answer[name]
            known = instrument.lowest(item) <= number <= instrument.highest(item)
            return int(number) if known and number == int(number) else None
    return None


def _counts(item: str, value: int, instrument: Instrument) -> int:
    value = instrument.recode.get(item, {}).get(value, value)
    return instrument.lowest(item) + instrument.highest(item) - value if item in instrument.reversed else value


def _has_alternative(item: str, scores: Mapping[str, int], instrument: Instrument) -> bool:
    return any(item in group and any(other in scores for other in group) for group in instrument.alternatives)


def _number(one: Score, scores: Mapping[str, int], missing: set[str], instrument: Instrument) -> Number:
    items = one.items or instrument.items
    if one.method == "highest":
        used = {item for group in one.groups for item in group.highest_of}
        if used & missing:
            return Number(None)
        highest = [max(scores[item] for item in group.highest_of if item in scores) for group in one.groups]
        return _rounded(Decimal(sum(highest)), one)
    values = [scores[item] for item in items if item in scores]
    without = len(items) - len(values)
    if without > one.may_miss or not values:
        return Number(None)
    if one.method == "count":
        return _rounded(Decimal(sum(value >= one.at_least for value in values)), one)
    mean = Decimal(sum(values)) / len(values)
    value = mean if one.method == "mean" else mean * len(items) if without else Decimal(sum(values))
    return _rounded(value, one, averaged=without > 0)


def _rounded(value: Decimal, one: Score, *, averaged: bool = False) -> Number:
    rounded = value.quantize(Decimal(1).scaleb(-one.places), rounding=ROUND_HALF_UP)
    return Number(rounded, one.t_scores.get(int(rounded)), averaged)


def band_of(value: Decimal, one: Score) -> Band | None:
    """Return the severity of a value."""
    return next((band for band in one.bands if value <= band.up_to), None)


def is_positive(value: Decimal, cut: Cut, gender: str | None) -> bool:
    """Tell whether a screening is positive for a patient of this administrative gender, None where it is not known."""
    return value >= cut.by_gender.get(gender or "", cut.default)


def findings_of(scored: Scored, instrument: Instrument) -> list[tuple[str, str]]:
    """Return code and display of what the answers amount to beyond their sum (provisional PTSD by DSM-5 criteria)."""
    found = []
    for finding in instrument.findings:
        met = all(
            sum(scored.scores.get(item, instrument.low) >= criterion.at_least for item in criterion.items)
            >= criterion.count
            for criterion in finding.criteria
        )
        full = finding.share is None or all(
            (value := scored.numbers[part].value) is not None and value >= finding.share * instrument.parts[part].high
            for part in finding.parts
        )
        if met and full and not scored.missing:
            found.append((finding.code, finding.display))
    return found
