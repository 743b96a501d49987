"""How KAP's facts are written in FHIR, and how they are read back: pure functions on resources.

* **Referral**: ServiceRequest whose `code` or `category` has ``kap-referral``.
* **Eligibility**: RiskAssessment, `code` ``kap-eligibility``; the verdict is `prediction[0].outcome`.
* **Course**: EpisodeOfCare, `type` ``kap-course``; its stages are extensions `kap-stage`, the open one is current.
* **Treatment consent**: Consent, `scope` treatment, `category` with ``kap-treatment-consent``; each further category
  that is a SNOMED CT route is a route consented to.
* **Visit**: Appointment.serviceType and Encounter.type have a code ``kap-...``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from shared.fhir.cited import ValueSet
from shared.fhir.codes import (
    BASE,
    COURSE,
    ELIGIBILITY,
    EXT_PLANNED_DOSE,
    EXT_SCREENED_FOR,
    EXT_STAGE,
    KAP,
    PLAN,
    REFERRAL,
    ROUTES,
    SNOMED,
    TREATMENT_CONSENT,
    UCUM,
    VISIT_DOSING,
    VISITS,
    Code,
)
from shared.fhir.dates import MAX_INSTANT, interval, period_interval, zulu
from shared.fhir.json import Resource

Drug: TypeAlias = Literal["ketamine", "esketamine"]

STAGES: Final = (
    "referred",
    "screening",
    "eligible",
    "not-eligible",
    "consented",
    "planned",
    "preparing",
    "dosing",
    "integrating",
    "follow-up",
    "finished",
    "stopped",
)
UNDECIDED: Final = frozenset(("referred", "screening"))
"""Stages of a course in which nobody has decided yet that there will be one."""
OPEN_EPISODE: Final = frozenset(("planned", "active", "onhold", "waitlist"))
RUNNING_EPISODE: Final = frozenset(("planned", "active"))


def concepts(value: Any) -> list[Mapping[str, Any]]:
    """Return the CodeableConcepts of an element that may be missing, one or several."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def has_code(value: Any, code: Code) -> bool:
    """Tell whether a CodeableConcept, or one of several, has `code`."""
    return any(
        coding.get("system") == code.system and coding.get("code") == code.code
        for concept in concepts(value)
        for coding in concept.get("coding", [])
    )


def codes_of(value: Any, system: str) -> list[str]:
    """Return the codes of one system in a CodeableConcept, or in several."""
    return [
        str(coding["code"])
        for concept in concepts(value)
        for coding in concept.get("coding", [])
        if coding.get("system") == system and "code" in coding
    ]


def id_in(reference: Mapping[str, Any] | None, type_: str) -> str | None:
    """Return the logical id in a Reference to a `type_`, relative or absolute, with a version or without; else None."""
    parts = str((reference or {}).get("reference", "")).partition("/_history/")[0].rsplit("/", 2)[-2:]
    return parts[1] if len(parts) > 1 and parts[0] == type_ else None


def patient_of(resource: Resource) -> str | None:
    """Return the logical id of the patient a resource is about."""
    for element in ("subject", "patient", "for"):
        found = id_in(resource.get(element), "Patient")
        if found is not None:
            return found
    return next((id_ for id_ in actors(resource, "Patient")), None)


def actors(appointment: Resource, type_: str) -> list[str]:
    """Return the logical ids of an Appointment's actors of one type."""
    found = (id_in(participant.get("actor"), type_) for participant in appointment.get("participant", []))
    return [id_ for id_ in found if id_ is not None]


def reference(type_: str, id_: str) -> dict[str, str]:
    """Return a Reference to a resource of this record."""
    return {"reference": f"{type_}/{id_}"}


def visit_of(resource: Resource) -> str | None:
    """Return the kind of visit (``kap-dosing``) an Appointment or Encounter is, None if it is not one of KAP's.

    Of several kinds a dosing session is the one that counts, whatever else is done in it: it has the gate.
    """
    element = resource.get("serviceType" if resource.get("resourceType") == "Appointment" else "type")
    found = [code for code in codes_of(element, KAP) if code in VISITS]
    return VISIT_DOSING.code if VISIT_DOSING.code in found else next(iter(found), None)


def comes_from_elsewhere(resource: Resource) -> bool:
    """Tell whether `meta.source` names a system that is not this clinic's: how history is marked."""
    source = str((resource.get("meta") or {}).get("source", ""))
    return bool(source) and not source.startswith(BASE.removesuffix("/fhir"))


def replaced_by(patient: Resource) -> str | None:
    """Return the logical id of the Patient that stands for one that was merged; None for one that stands itself."""
    links = patient.get("link", [])
    return next((id_in(one.get("other"), "Patient") for one in links if one.get("type") == "replaced-by"), None)


def replaces(patient: Resource) -> list[str]:
    """Return the logical ids of the Patients that one stands for."""
    named = [id_in(one.get("other"), "Patient") for one in patient.get("link", []) if one.get("type") == "replaces"]
    return [one for one in named if one is not None]


def is_referral(resource: Resource) -> bool:
    """Tell whether a ServiceRequest is a referral for KAP."""
    return has_code(resource.get("code"), REFERRAL) or has_code(resource.get("category"), REFERRAL)


def is_course(episode: Resource) -> bool:
    """Tell whether an EpisodeOfCare is a course of KAP."""
    return has_code(episode.get("type"), COURSE)


def is_treatment_consent(consent: Resource) -> bool:
    """Tell whether a Consent is one to KAP."""
    return has_code(consent.get("category"), TREATMENT_CONSENT)


def consent_routes(consent: Resource) -> frozenset[str]:
    """Return the SNOMED CT route codes that a treatment consent names."""
    return frozenset(code for code in codes_of(consent.get("category"), SNOMED) if code in ROUTES)


def consents_to(consent: Resource, route: str, when: datetime) -> bool:
    """Tell whether a Consent is in force for `route` at `when`."""
    return _provides(consent, route, when, "permit")


def denies(consent: Resource, route: str, when: datetime) -> bool:
    """Tell whether a Consent in force at `when` says no to `route`."""
    return _provides(consent, route, when, "deny")


def _provides(consent: Resource, route: str, when: datetime, type_: str) -> bool:
    provision = consent.get("provision", {})
    period = period_interval(provision.get("period", {}))
    return (
        is_treatment_consent(consent)
        and consent.get("status") == "active"
        and provision.get("type", "permit") == type_
        and route in consent_routes(consent)
        and (period is None or period[0] <= when < period[1])
    )


def routes_consented(consents: Iterable[Resource], when: datetime) -> frozenset[str]:
    """Return the routes consented to at `when`: each as the newest treatment consent in force that names it says.

    A consent that denies its routes counts before one of the same time that permits them; said of a day, it may have
    been the last word of that day. One that was signed after `when` did not permit then.
    """
    says: dict[str, tuple[datetime, bool]] = {}
    for consent in consents:
        given = moment(consent.get("dateTime"))
        for route in consent_routes(consent):
            permits = given <= when and consents_to(consent, route, when)
            if permits or denies(consent, route, when):
                said = (given if permits or given == MAX_INSTANT else interval(consent["dateTime"])[1], permits)
                says[route] = max(says.get(route, said), said, key=lambda one: (one[0], not one[1]))
    return frozenset(route for route, (_, permits) in says.items() if permits)


def routes_of_order(request: Resource) -> list[str]:
    """Return the SNOMED CT routes of a MedicationRequest's dosage instructions."""
    return [code for dosage in request.get("dosageInstruction", []) for code in codes_of(dosage.get("route"), SNOMED)]


class PlannedDose(NamedTuple):
    """A dose that a CarePlan plans: of which drug, by which route, from which session on, for how many, how far apart.

    `quantity` is a Quantity in mg or mg/kg, `days` between two sessions (None: not said).
    """

    drug: str
    route: str
    session: int
    sessions: int
    quantity: Mapping[str, Any]
    days: Decimal | None


def planned_doses(plan: Resource) -> list[PlannedDose]:
    """Return the doses that a CarePlan plans, in the order of its sessions; none where it says nothing of doses."""
    found = []
    for detail in (one.get("detail", {}) for one in plan.get("activity", [])):
        for extension in detail.get("extension", []):
            if extension.get("url") == EXT_PLANNED_DOSE:
                parts = {one.get("url"): one for one in extension.get("extension", [])}
                repeat = detail.get("scheduledTiming", {}).get("repeat", {})
                days = repeat.get("period") if repeat.get("periodUnit") == "d" else None
                found.append(
                    PlannedDose(
                        str(parts["drug"]["valueCode"]),
                        str(parts["route"]["valueCoding"].get("code")),
                        int(parts["session"]["valuePositiveInt"]),
                        int(parts["sessions"]["valuePositiveInt"]),
                        detail.get("quantity", {}),
                        None if days is None else Decimal(days),
                    )
                )
    return sorted(found, key=lambda one: one.session)


def is_plan(plan: Resource) -> bool:
    """Tell whether a CarePlan is an active plan of a course."""
    return plan.get("status") == "active" and has_code(plan.get("category"), PLAN)


ORDERS: Final = frozenset(("order", "original-order", "reflex-order", "filler-order", "instance-order"))


def is_order_in_force(request: Resource) -> bool:
    """Tell whether a MedicationRequest is an active order of this clinic to give: no proposal, report or prohibition.

    An order from elsewhere is history: it was not judged here, and nothing is given on it.
    """
    return (
        request.get("status") == "active"
        and not comes_from_elsewhere(request)
        and request.get("intent") in ORDERS
        and request.get("reportedBoolean") is not True
        and request.get("doNotPerform") is not True
    )


def drug_of(said: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None, sets: Mapping[str, ValueSet]) -> Drug | None:
    """Return which of the two drugs a medication is by the CodeableConcepts that say what it is; None: neither."""
    for name in ("esketamine", "ketamine"):
        if any(sets[name].holds(one) for one in concepts(said)):
            return "esketamine" if name == "esketamine" else "ketamine"
    return None


def course_status(courses: Iterable[Resource], when: datetime) -> str | None:
    """Return the status at `when` of the course that counts: one that runs, else one that is held; None where none is.

    A course that is over says nothing about what is done after it; one that is only referred is none yet.
    """
    decided = [course for course in courses if stage_of(course) not in UNDECIDED]
    found = [status for course in decided if (status := _status_at(course, when)) in OPEN_EPISODE]
    return next((one for one in found if one in RUNNING_EPISODE), found[0] if found else None)


def _status_at(course: Resource, when: datetime) -> str:
    for past in course.get("statusHistory", []):
        period = period_interval(past.get("period", {}))
        if period is not None and "end" in past["period"] and period[0] <= when < interval(past["period"]["end"])[0]:
            return str(past["status"])
    return str(course["status"])


def eligibility_outcome(assessment: Resource, when: datetime | None = None) -> str | None:
    """Return the coded outcome of an eligibility RiskAssessment that counts, else None.

    With `when`: ``needs-answers`` for an eligible one whose answers are too old by then (`prediction[0].whenPeriod`).
    """
    if not has_code(assessment.get("code"), ELIGIBILITY) or assessment.get("status") not in ("final", "amended"):
        return None
    predictions = assessment.get("prediction", [])
    found = codes_of(predictions[0].get("outcome"), KAP) if predictions else []
    if not found:
        return None
    valid = predictions[0].get("whenPeriod", {}).get("end")
    aged = when is not None and valid is not None and interval(valid)[0] <= when
    return "needs-answers" if aged and found[0] == "eligible" else found[0]


def has_died(patient: Resource) -> bool:
    """Tell whether a Patient is said to have died (`deceased[x]`)."""
    return patient.get("deceasedBoolean") is True or "deceasedDateTime" in patient


def latest_eligibility(assessments: Iterable[Resource]) -> Resource | None:
    """Return the newest eligibility RiskAssessment that counts; of two of one moment the later one in order."""
    counted = [one for one in assessments if eligibility_outcome(one) is not None]
    return max(reversed(counted), key=lambda one: moment(one.get("occurrenceDateTime")), default=None)


def screened_for(assessment: Resource) -> tuple[Drug | None, str | None]:
    """Return the drug and the route (SNOMED CT) that an assessment was made for; None where it was for any."""
    for one in assessment.get("extension", []):
        if one.get("url") == EXT_SCREENED_FOR:
            said = {part.get("url"): part.get("valueCode") for part in one.get("extension", [])}
            drug: Drug | None = next((known for known in get_args(Drug) if known == said.get("drug")), None)
            return drug, said.get("route")
    return None, None


def stage_of(episode: Resource) -> str | None:
    """Return the current stage of a course."""
    current: str | None = None
    for stage, period in _stages(episode):
        if "end" not in period:
            current = stage
    return current


def stages_of(episode: Resource) -> list[str]:
    """Return every stage that a course is or was in, in its order."""
    return [stage for stage, _ in _stages(episode)]


def with_stage(episode: Resource, stage: str, now: datetime, why: str | None = None) -> Resource:
    """Return `episode` with its open stage ended and `stage` begun at `now`; the same episode where it is in it.

    `why`: the reason of the new stage, for people.
    """
    if stage_of(episode) == stage:
        return episode
    when = zulu(now)
    others = [one for one in episode.get("extension", []) if one.get("url") != EXT_STAGE]
    ended = [_ended(one, when) for one in episode.get("extension", []) if one.get("url") == EXT_STAGE]
    return {**episode, "extension": [*others, *ended, stage_extension(stage, when, why)]}


def stage_reason(episode: Resource) -> str | None:
    """Return why a course is in its current stage, None where it does not say."""
    for one in reversed(episode.get("extension", [])):
        parts = {inner.get("url"): inner for inner in one.get("extension", [])}
        period = parts.get("period", {}).get("valuePeriod", {})
        if one.get("url") == EXT_STAGE and "end" not in period:
            concept = parts.get("reason", {}).get("valueCodeableConcept", {})
            said = [concept.get("text"), *(coding.get("display") for coding in concept.get("coding", []))]
            return next((str(text) for text in said if text and str(text).strip()), None)
    return None


def with_status(episode: Resource, status: str, now: datetime) -> Resource:
    """Return `episode` with another status, the one before kept in `statusHistory`."""
    if episode.get("status") == status:
        return episode
    history: list[Any] = list(episode.get("statusHistory", []))
    since = history[-1]["period"].get("end") if history else episode.get("period", {}).get("start")
    when = zulu(now)
    past = {"status": episode["status"], "period": {**({"start": since} if since else {}), "end": when}}
    return {**episode, "status": status, "statusHistory": [*history, past]}


def moment(value: str | None) -> datetime:
    """Return the beginning of a date or dateTime; the end of time where there is none."""
    return MAX_INSTANT if value is None else interval(value)[0]


def effective_start(resource: Resource) -> datetime | None:
    """Return when an Observation or MedicationAdministration began to be true: `effective[x]`."""
    for name in ("effectiveDateTime", "effectiveInstant"):
        if name in resource:
            return interval(resource[name])[0]
    start = resource.get("effectivePeriod", {}).get("start")
    return None if start is None else interval(start)[0]


IN_WORDS: Final[Mapping[str, str]] = {
    "mmHg": "mm[Hg]",
    "mm Hg": "mm[Hg]",
    "bpm": "/min",
    "beats/min": "/min",
    "breaths/min": "/min",
    "kg/m\u00b2": "kg/m2",
    "kg/m^2": "kg/m2",
}
"""Units (UCUM) by how people and devices write them where they give no code, as far as only one can be meant."""


def quantity_in(element: Mapping[str, Any] | None, units: Sequence[str]) -> Any | None:
    """Return the number of a Quantity in one of the UCUM `units`; None where there is none or it is in another unit.

    One whose `unit` is the name of another unit than its `code` (mcg and mg, lb and kg) says two things, and so none.
    """
    if element is None or element.get("system", UCUM) != UCUM or "value" not in element or "comparator" in element:
        return None
    unit = element.get("unit")
    code, said = element.get("code", IN_WORDS.get(str(unit), unit)), _unit(unit)
    if code not in units or (said in _UNITS and said != _unit(code)):
        return None
    return element["value"]


_NAMES: Final = {
    "lb": "[lb_av]",
    "lbs": "[lb_av]",
    "mcg": "ug",
    "\u00b5g": "ug",
    "\u03bcg": "ug",
    "ml": "mL",
    "mmhg": "mm[Hg]",
    "kpa": "kPa",
}
_UNITS: Final = frozenset((*_NAMES.values(), "kg", "g", "mg", "mg/kg", "ug/kg", "mg/mL"))
"""UCUM units that are taken for each other by a slip, and what else they are called."""


def _unit(name: object) -> str:
    text = str(name or "").strip()
    return _NAMES.get(text.casefold(), text)


_KILOGRAMS: Final = {
    "kg": Decimal(1),
    "g": Decimal("0.001"),
    "[lb_av]": Decimal("0.45359237"),
    "lb": Decimal("0.45359237"),
    "lbs": Decimal("0.45359237"),
}
"""Kilograms in one unit of mass, by UCUM code, and by the names that clinics write for the pound."""


def kilograms_in(element: Mapping[str, Any] | None) -> Decimal | None:
    """Return the mass of a Quantity in kg; None where there is none or its unit is not understood."""
    for unit, kilograms in _KILOGRAMS.items():
        value = quantity_in(element, (unit,))
        if value is not None:
            return Decimal(value) * kilograms
    return None


_MILLIGRAMS: Final = {"mg": Decimal(1), "g": Decimal(1000), "ug": Decimal("0.001")}
"""Milligrams in one unit of mass, by UCUM code."""


def milligrams_in(element: Mapping[str, Any] | None, kilograms: Decimal | None = None) -> Decimal | None:
    """Return the mass of a dose in mg, one per kg by the body weight; None where it is not said or not understood."""
    for unit, milligrams in _MILLIGRAMS.items():
        value = quantity_in(element, (unit,))
        if value is not None:
            return Decimal(value) * milligrams
    per_kilogram = quantity_in(element, ("mg/kg",))
    return None if per_kilogram is None or kilograms is None else Decimal(per_kilogram) * kilograms


def stage_extension(stage: str, since: str, why: str | None = None) -> dict[str, Any]:
    """Return the extension that says that a course is in a stage since a time."""
    inner: list[dict[str, Any]] = [
        {"url": "stage", "valueCode": stage},
        {"url": "period", "valuePeriod": {"start": since}},
        *([{"url": "reason", "valueCodeableConcept": {"text": why}}] if why else []),
    ]
    return {"url": EXT_STAGE, "extension": inner}


def _ended(stage: Mapping[str, Any], when: str) -> dict[str, Any]:
    """Return the extension of a stage with an end, where it has none yet."""
    parts = [
        {**part, "valuePeriod": {"end": when, **part.get("valuePeriod", {})}} if part.get("url") == "period" else part
        for part in stage.get("extension", [])
    ]
    return {**stage, "extension": parts}


def _stages(episode: Resource) -> Iterator[tuple[str, Mapping[str, str]]]:
    for one in episode.get("extension", []):
        if one.get("url") == EXT_STAGE:
            parts = {inner.get("url"): inner for inner in one.get("extension", [])}
            if "stage" in parts:
                yield str(parts["stage"].get("valueCode")), parts.get("period", {}).get("valuePeriod", {})


def is_given_by_the_patient(consent: Resource) -> bool:
    """Tell whether each performer of a Consent is its patient, or a RelatedPerson who stands in for him.

    Source: https://hl7.org/fhir/R4/consent-definitions.html#Consent.performer
    """
    patient = consent.get("patient", {}).get("reference")
    performers = [one.get("reference") for one in consent.get("performer", [])]
    return bool(performers) and all(
        isinstance(one, str) and (one == patient or one.startswith("RelatedPerson/")) for one in performers
    )


def is_opt_out(consent: Resource) -> bool:
    """Tell whether a privacy Consent says by its policy, or its category, that the patient opts out of being told of.

    By `policyRule`, by `category`, or by the last part of a `policy.uri`: OPTOUT, OPTOUTE of v3-ActCode.
    """
    said = [
        str(coding.get("code", ""))
        for concept in (*concepts(consent.get("policyRule")), *concepts(consent.get("category")))
        for coding in concept.get("coding", [])
    ]
    said += [re.split(r"[#|/]", str(one.get("uri", "")))[-1] for one in consent.get("policy", [])]
    return any(one.startswith("OPTOUT") for one in said)
