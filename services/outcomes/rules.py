"""Outcomes' rules: how answers become a total, what is missing, what is alarming, and what is expected when. Pure.

Instruments are data: `policies/instruments/*.yaml`. A total is only made of a complete set of answers; an answer that
is not understood is a missing one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.codes import ID_SCORE, ID_TASK, KAP, LOINC, SURVEY, UCUM, Code
from shared.fhir.dates import MAX_INSTANT, interval
from shared.fhir.json import Resource
from shared.fhir.kap import id_in
from shared.fhir.raised import identifier, policy_extension

# -- the form of the policy -------------------------------------------------------------------------------------------


class Total(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The LOINC code of the total score."""

    code: str
    display: str


class Band(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A severity: totals up to and including `up_to` that no band before it holds."""

    up_to: int
    code: str
    display: str


class Risk(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item whose score calls for a person at once."""

    item: str
    at_least: int


class Instrument(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A questionnaire that is scored by adding its items.

    `canonicals` are the questionnaires it is asked by, `items` the linkIds (LOINC), `answers` each code's score.
    """

    title: str
    canonicals: tuple[str, ...]
    total: Total
    items: tuple[str, ...]
    answers: dict[str, int]
    bands: tuple[Band, ...]
    risk: Risk | None = None


class Expected(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An instrument that is due so many days after a dosing session."""

    instrument: str
    days: int


class OutcomesPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `outcomes`."""

    after_dosing: dict[str, Expected]


# -- scoring ----------------------------------------------------------------------------------------------------------

COUNTED: Final = frozenset(("completed", "amended"))


@dataclass(frozen=True, slots=True)
class Scored:
    """What the answers say: each item's score, the items without one, and the total: None while one is missing.

    `risk` is the graver score given to the item that calls for a person, also where it was answered in two ways.
    """

    scores: Mapping[str, int]
    missing: tuple[str, ...]
    total: int | None
    risk: int | None = None


def instrument_of(response: Resource, instruments: Mapping[str, Instrument]) -> tuple[str, Instrument] | None:
    """Return name and instrument of a QuestionnaireResponse, None where it is not one that is scored here."""
    canonical = str(response.get("questionnaire", "")).partition("|")[0]
    return next(((name, one) for name, one in instruments.items() if canonical in one.canonicals), None)


def score(response: Resource, instrument: Instrument) -> Scored:
    """Score the answers, in whatever order and depth the items stand."""
    found: dict[str, list[int | None]] = {}
    for link, answers in _answers(response.get("item", [])):
        if link in instrument.items and answers:
            found.setdefault(link, []).extend(_value(answer, instrument) for answer in answers)
    scores = {link: values[0] for link, values in found.items() if len(values) == 1 and values[0] is not None}
    missing = tuple(item for item in instrument.items if item not in scores)
    at_risk = None if instrument.risk is None else found.get(instrument.risk.item)
    graver = max((value for value in at_risk or () if value is not None), default=None)
    return Scored(scores, missing, None if missing else sum(scores.values()), graver)


def _answers(items: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    for item in items:
        answers = item.get("answer", [])
        yield str(item.get("linkId", "")).removeprefix("/"), answers
        yield from _answers(item.get("item", []))
        for answer in answers:
            yield from _answers(answer.get("item", []))


def _value(answer: Mapping[str, Any], instrument: Instrument) -> int | None:
    """Return the score of an answer that is given in a way the instrument knows."""
    if "valueCoding" in answer:
        coding = answer["valueCoding"]
        return instrument.answers.get(str(coding.get("code"))) if coding.get("system", LOINC) == LOINC else None
    for name in ("valueInteger", "valueDecimal"):
        if name in answer:
            return next((known for known in instrument.answers.values() if known == answer[name]), None)
    return None


def band_of(total: int, instrument: Instrument) -> Band | None:
    """Return the severity of a total."""
    return next((band for band in instrument.bands if total <= band.up_to), None)


def is_alarming(scored: Scored, instrument: Instrument) -> bool:
    """Tell whether an answer calls for a person at once, whether or not the others are there."""
    risk = instrument.risk
    return risk is not None and scored.risk is not None and scored.risk >= risk.at_least


def score_observation(
    response: Resource, name: str, instrument: Instrument, scored: Scored, version: str, *, again: bool
) -> Resource:
    """Return the total-score Observation (US Core screening assessment) of a response.

    Args:
        response: with its `id`.
        name: of the instrument.
        instrument: as in the policy.
        scored: its answers; without a total the Observation says that it is not known.
        version: of the policy.
        again: whether an earlier version of the answers was scored.

    """
    band = None if scored.total is None else band_of(scored.total, instrument)
    made: dict[str, Any] = {
        "resourceType": "Observation",
        "extension": [policy_extension(version)],
        "identifier": [identifier(ID_SCORE, response["id"], name)],
        "status": "cancelled" if scored.total is None else ("amended" if again else "final"),
        "category": [SURVEY.concept()],
        "code": Code(LOINC, instrument.total.code, instrument.total.display).concept(),
        "subject": response["subject"],
        "encounter": response.get("encounter"),
        "effectiveDateTime": response.get("authored"),
        "performer": [response["author"]] if _may_perform(response.get("author")) else None,
        "valueQuantity": None
        if scored.total is None
        else {"value": scored.total, "unit": "{score}", "system": UCUM, "code": "{score}"},
        "dataAbsentReason": Code("http://terminology.hl7.org/CodeSystem/data-absent-reason", "unknown").concept()
        if scored.total is None
        else None,
        "interpretation": None if band is None else [Code(KAP, band.code, band.display).concept()],
        "derivedFrom": [{"reference": f"QuestionnaireResponse/{response['id']}"}],
    }
    return {key: value for key, value in made.items() if value is not None}


def _may_perform(author: Mapping[str, Any] | None) -> bool:
    return any(
        id_in(author, type_)
        for type_ in ("Practitioner", "PractitionerRole", "Patient", "RelatedPerson", "Organization")
    )


# -- expectations -----------------------------------------------------------------------------------------------------


def due_after(visit: Resource, expected: Expected, now: datetime) -> datetime:
    """Return when a questionnaire is due: so many days after the visit's end, or after now where it has none."""
    end = visit.get("period", {}).get("end")
    return (now if end is None else interval(end)[0]) + timedelta(days=expected.days)


def task_for(tasks: Iterable[Resource], response: Resource, canonicals: Sequence[str]) -> Resource | None:
    """Return the open Task that a response fulfils.

    The one of the visit that the response names, else the one that was due first; None where nothing is open for the
    instrument, or where the response fulfilled one already.
    """
    about = f"QuestionnaireResponse/{response['id']}"
    asked = [one for one in tasks if any(_asks(one, canonical) for canonical in canonicals)]
    if any(
        output.get("valueReference", {}).get("reference") == about for one in asked for output in one.get("output", [])
    ):
        return None
    waiting = sorted((one for one in asked if one.get("status") == "requested"), key=_due)
    visit = id_in(response.get("encounter"), "Encounter")
    same_visit = [one for one in waiting if visit is not None and id_in(one.get("encounter"), "Encounter") == visit]
    return next(iter(same_visit or waiting), None)


def _asks(task: Resource, canonical: str) -> bool:
    return any(one.get("valueCanonical") == canonical for one in task.get("input", []))


def _due(task: Resource) -> datetime:
    end = task.get("restriction", {}).get("period", {}).get("end")
    return MAX_INSTANT if end is None else interval(end)[0]


def expectation_name(visit: str, expectation: str) -> dict[str, str]:
    """Return the identifier of the Task for one expectation after one visit."""
    return identifier(ID_TASK, "expect", visit, expectation)
