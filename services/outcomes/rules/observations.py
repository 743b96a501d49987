"""A score as an Observation (US Core screening assessment): total, parts, severity, its answers and its policy."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from services.outcomes.rules.instruments import T_SCORE, Coded, Instrument, Score
from services.outcomes.rules.risk import AtRisk
from services.outcomes.rules.scoring import Number, Scored, band_of, findings_of, is_positive
from shared.fhir.codes import ID_SCORE, KAP, SURVEY, UCUM, Code
from shared.fhir.json import Resource
from shared.fhir.kap import id_in
from shared.fhir.profiles import own
from shared.fhir.raised import identifier, policy_extension

ABSENT: Final = Code("http://terminology.hl7.org/CodeSystem/data-absent-reason", "unknown")
AVERAGED: Final = Code(KAP, "averaged-over-missing-answers", "Some answers are missing; the others were averaged")
_AUTHORS: Final = ("Practitioner", "PractitionerRole", "Patient", "RelatedPerson", "Organization")


def score_observation(
    response: Resource, name: str, instrument: Instrument, scored: Scored, version: str, *, gender: str | None = None
) -> Resource:
    """Return the Observation of a response's scores, `status` final; cancelled where nothing can be said any more.

    Args:
        response: with its `id`.
        name: of the instrument.
        instrument: as in the policy.
        scored: its answers.
        version: of the policy.
        gender: administrative, None where it is not known.

    """
    code, found = code_of(name, instrument), []
    total = scored.numbers.get("")
    if total is not None and total.value is not None and instrument.total is not None:
        found = _interpretation(total, instrument.total)
        if instrument.cut is not None and is_positive(total.value, instrument.cut, gender):
            found.append(Code(KAP, instrument.cut.code, instrument.cut.display).concept())
    found.extend(Code(KAP, code_, display).concept() for code_, display in findings_of(scored, instrument))
    made = {
        **_about(response, name, code, version),
        "status": "final" if scored.is_known else "cancelled",
        **_value(total),
        "interpretation": found or None,
        "component": [
            component
            for part, one in instrument.parts.items()
            for component in _components(part, one, scored.numbers[part])
        ]
        or None,
    }
    return {key: value for key, value in made.items() if value is not None}


def risk_observation(
    response: Resource, name: str, instrument: Instrument, risk: AtRisk | None, version: str
) -> Resource:
    """Return the Observation of a level of risk: its code is `Risk.code`, its value the coded level.

    Raises:
        ValueError: the instrument has no coded levels.

    """
    said = instrument.risk
    level = None if said is None else said.none if risk is None else risk.level.answer
    if said is None or said.code is None or level is None:
        raise ValueError(f"{name} has no coded levels of risk")
    return {
        **_about(response, name, said.code, version),
        "status": "final",
        "valueCodeableConcept": level.of().concept(),
    }


def _about(response: Resource, name: str, code: Coded, version: str) -> dict[str, Any]:
    author = response.get("author")
    made: dict[str, Any] = {
        "resourceType": "Observation",
        "meta": own.claiming(own.SCORE),
        "extension": [policy_extension(version)],
        "identifier": [identifier(ID_SCORE, response["id"], name)],
        "status": "final",
        "category": [SURVEY.concept()],
        "code": code.of().concept(),
        "subject": response["subject"],
        "encounter": response.get("encounter"),
        "effectiveDateTime": response.get("authored"),
        "performer": [author] if any(id_in(author, type_) for type_ in _AUTHORS) else None,
        "derivedFrom": [{"reference": f"QuestionnaireResponse/{response['id']}"}],
    }
    return {key: value for key, value in made.items() if value is not None}


def code_of(name: str, instrument: Instrument) -> Coded:
    """Return the code of an instrument's score: its total's, else that of its panel, else its name."""
    if instrument.total is not None:
        return instrument.total
    return instrument.panel or Coded(code=name, display=instrument.title, system="kap")


def _value(number: Number | None) -> dict[str, Any]:
    if number is None:
        return {}
    if number.value is None:
        return {"dataAbsentReason": ABSENT.concept()}
    return {"valueQuantity": quantity(number.value)}


def quantity(value: Decimal) -> Mapping[str, Any]:
    """Return a score as a Quantity."""
    whole = value == value.to_integral_value()
    return {"value": int(value) if whole else value, "unit": "{score}", "system": UCUM, "code": "{score}"}


def _interpretation(number: Number, one: Score) -> list[dict[str, Any]]:
    band = None if number.value is None else band_of(number.t_score or number.value, one)
    found = [] if band is None else [Code(KAP, band.code, band.display).concept()]
    return [*found, AVERAGED.concept()] if number.averaged else found


def _components(part: str, one: Score, number: Number) -> list[dict[str, Any]]:
    found: dict[str, Any] = {"code": one.of().concept(text=one.display), **_value(number)}
    says = _interpretation(number, one)
    components = [{**found, "interpretation": says} if says else found]
    if number.t_score is not None:
        code = Code(KAP, f"{one.code}-{T_SCORE}", f"{one.display}, T-score")
        components.append({"code": code.concept(), "valueQuantity": quantity(number.t_score)})
    return components
