"""Which service owns a resource: a pure function of its content, fixed when it is created.

    type                                                       owner
    Schedule, Slot, Appointment, AppointmentResponse           scheduling
    SupplyDelivery                                             sessions
    Measure, MeasureReport                                     outcomes
    Subscription, Group, Bundle                                gateway
    Endpoint                                                   delivery
    Encounter with `appointment` or `episodeOfCare`            sessions, else intake
    MedicationAdministration, a vital sign in a visit          sessions, where gate and alarms are, whatever the visit
    what else names an Encounter (BY_ENCOUNTER)                the Encounter's owner, else intake
    a score: Observation derived from outcomes' answers        outcomes
    QuestionnaireResponse                                      by its questionnaire (QUESTIONNAIRES); another that
                                                               answers about suicide: outcomes, else intake
    what is raised (RAISED)                                    who holds it; new: owner of what it is about, if that
                                                               keeps such, else intake
    every other type                                           intake

What comes from elsewhere (a hospital's or a partner's client, history in a Bundle) is intake's, except the types that
one other service owns alone, and a reading or dose that names a visit of sessions' (WATCHED): that is no history, and
must not pass by alarm and gate. The category of an Observation decides nothing: it is the caller's, may change, and has
several values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from shared.fhir.codes import (
    BASE,
    DISCHARGE_QUESTIONNAIRE,
    INTAKE_MEASUREMENT,
    LOINC,
    PRE_DOSE_QUESTIONNAIRE,
    REMS_QUESTIONNAIRE,
    SCREENING_QUESTIONNAIRE,
    VITAL_SIGNS,
)
from shared.fhir.json import Resource
from shared.fhir.outcome import Unprocessable

OriginOf: TypeAlias = Callable[[str, str], str | None]
"""Given a type and a logical id: the service that owns that resource, None where it is not known."""

INTAKE: Final = "intake"
SCHEDULING: Final = "scheduling"
SESSIONS: Final = "sessions"
OUTCOMES: Final = "outcomes"
GATEWAY: Final = "gateway"
DELIVERY: Final = "delivery"
CLINICAL: Final = (INTAKE, SCHEDULING, SESSIONS, OUTCOMES)

ALONE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("Schedule", "Slot", "Appointment", "AppointmentResponse"), SCHEDULING),
    "SupplyDelivery": SESSIONS,
    **dict.fromkeys(("Measure", "MeasureReport"), OUTCOMES),
    **dict.fromkeys(("Subscription", "Group", "Bundle"), GATEWAY),
    "Endpoint": DELIVERY,
    **dict.fromkeys(
        (
            "Patient",
            "RelatedPerson",
            "Practitioner",
            "PractitionerRole",
            "Organization",
            "Location",
            "Coverage",
            "ServiceRequest",
            "Condition",
            "AllergyIntolerance",
            "MedicationStatement",
            "RiskAssessment",
            "Consent",
            "EpisodeOfCare",
            "CarePlan",
            "CareTeam",
            "Goal",
            "MedicationRequest",
            "Medication",
            "Device",
            "Specimen",
            "FamilyMemberHistory",
            "Immunization",
            "DiagnosticReport",
            "Questionnaire",
            "List",
            "Binary",
        ),
        INTAKE,
    ),
}
"""Types that one service owns, whatever they say."""

BY_ENCOUNTER: Final[Mapping[str, tuple[str, ...]]] = {
    "Observation": ("encounter",),
    "Procedure": ("encounter",),
    "MedicationAdministration": ("context",),
    "MedicationDispense": ("context",),
    "AdverseEvent": ("encounter",),
    "ClinicalImpression": ("encounter",),
    "Composition": ("encounter",),
    "DocumentReference": ("context", "encounter"),
}
"""Types that go with the Encounter they name, and where they name it."""

RAISED: Final[Mapping[str, tuple[str, ...]]] = {
    "Task": ("focus", "encounter"),
    "Flag": ("encounter",),
    "DetectedIssue": ("implicated",),
    "Communication": ("about", "encounter"),
    "Provenance": ("target",),
}
"""Types that belong to whoever raises them, and where a caller's own says what it is about."""

WATCHED: Final = frozenset(("MedicationAdministration", "Observation"))
"""Types that have a gate or an alarm in a visit: there they are sessions', whoever sends them."""

UNSTORED: Final = frozenset(("CapabilityStatement", "OperationOutcome", "Parameters"))
"""Types that are messages; nobody keeps them."""

AUDITED: Final = frozenset(("AuditEvent",))
"""Types that are made of the rows of the audit, which every service has of its own: nobody writes them."""

INSTRUMENTS: Final = (
    *("phq-9", "phq-2", "gad-7", "pcl-5", "c-ssrs-screener", "madrs", "qids-sr16", "cadss", "cadss-6"),
    *("meq-30", "audit-c", "dast-10", "brs", "promis-global-10", "mood", "phq-9m", "lec-5"),
    "c-ssrs-since-last-contact",
    "c-ssrs-full",
)
PANELS: Final = ("44249-1", "55757-9", "69737-5", "101697-1", "93373-9", "93245-9", "72109-2", "82666-9", "89206-7")
"""The outcome instruments: names of the project's questionnaires, and LOINC panels where they were verified."""

_FULL: Final = (
    *(f"{when}-{number}" for when in ("month", "life") for number in range(1, 6)),
    *(f"{one}{when}" for one in ("attempt", "interrupted", "aborted", "preparatory") for when in ("", "-recent")),
)
RISK_ITEMS: Final = frozenset(
    ("44260-8", "93246-7", "93247-5", "93248-3", "93249-1", "93250-9", "93267-3", "93269-9", "qids-12", "madrs-10")
) | frozenset(("phq9m-9", *(f"cssrs-slc-{number}" for number in range(1, 7)), *(f"cssrs-full-{one}" for one in _FULL)))
"""linkIds about suicidal thoughts and behaviour: who answers one is outcomes', whatever the questionnaire is called."""

QUESTIONNAIRES: Final[Mapping[str, str]] = {
    SCREENING_QUESTIONNAIRE: INTAKE,
    **{f"{BASE}/Questionnaire/{name}": OUTCOMES for name in INSTRUMENTS},
    **{f"{LOINC}/q/{panel}": OUTCOMES for panel in PANELS},
    REMS_QUESTIONNAIRE: SESSIONS,
    PRE_DOSE_QUESTIONNAIRE: SESSIONS,
    DISCHARGE_QUESTIONNAIRE: SESSIONS,
}
"""The registry: by a questionnaire's canonical, without its version, who owns the answers."""


def types_of(service: str) -> frozenset[str]:
    """Return the FHIR types that `service` owns all or some of."""
    types = {type_ for type_, owner in ALONE.items() if owner == service}
    if service in (INTAKE, SESSIONS):
        types.update(BY_ENCOUNTER, ("Encounter", "QuestionnaireResponse"))
    if service == OUTCOMES:
        types.update(("Observation", "QuestionnaireResponse"))
    if service in CLINICAL:
        types.update(RAISED)
    if service == DELIVERY:
        types.update(("Task", "Provenance"))
    return frozenset(types)


def owner_of(resource: Resource, *, origin_of: OriginOf, from_outside: bool = False) -> str:
    """Return the one service that owns `resource`.

    Args:
        resource: as sent; with an `id` where it exists already.
        origin_of: who owns the resources it refers to, in the same Bundle or held.
        from_outside: whether a hospital's or partner's client sent it, or it is history brought along.

    Raises:
        Unprocessable: nobody owns the type, or a clinic's reading or ketamine dose does not say where it belongs.

    """
    type_ = str(resource.get("resourceType"))
    alone = ALONE.get(type_)
    if alone is not None:
        return alone
    if type_ in RAISED:
        return _of_raised(resource, origin_of)
    if from_outside and (
        type_ in ("Encounter", "QuestionnaireResponse")
        or (type_ in BY_ENCOUNTER and not _is_watched(resource, type_, origin_of))
    ):
        return INTAKE
    if type_ == "Encounter":
        return SESSIONS if resource.get("appointment") or resource.get("episodeOfCare") else INTAKE
    if type_ == "QuestionnaireResponse":
        known = QUESTIONNAIRES.get(str(resource.get("questionnaire", "")).partition("|")[0])
        return known or (OUTCOMES if _asks_about_risk(resource) else INTAKE)
    if type_ == "MedicationAdministration":
        return SESSIONS
    if type_ in BY_ENCOUNTER:
        return _of_what_names_an_encounter(resource, origin_of)
    raise Unprocessable(f"No service of this clinic keeps {type_}.", code="not-supported", expression=[type_])


def deciding_references(resource: Resource) -> list[tuple[str, str]]:
    """Return type and id of the resources whose owner decides on `resource`'s: what `origin_of` will be asked for."""
    type_ = str(resource.get("resourceType"))
    found = list(_references(resource.get("derivedFrom"))) if type_ == "Observation" else []
    if type_ in BY_ENCOUNTER:
        found.extend(_references(_at(resource, BY_ENCOUNTER[type_])))
    return found


def is_bedside_reading(resource: Resource) -> bool:
    """Tell whether an Observation is a vital sign that is not said to be an intake measurement."""
    parts = (resource, *(resource.get("component") or []))
    codings = [coding for part in parts for coding in (part.get("code") or {}).get("coding", [])]
    if not any(coding.get("system") == LOINC and coding.get("code") in VITAL_SIGNS for coding in codings):
        return False
    tags = (resource.get("meta") or {}).get("tag", [])
    return not any(
        tag.get("system") == INTAKE_MEASUREMENT.system and tag.get("code") == INTAKE_MEASUREMENT.code for tag in tags
    )


def _asks_about_risk(node: Any) -> bool:
    """Tell whether an item, at whatever depth, is one about suicidal thoughts or behaviour."""
    for one in node.get("item") or []:
        if isinstance(one, dict):
            link = str(one.get("linkId", "")).rstrip("/").rpartition("/")[-1]
            answers = [answer for answer in one.get("answer") or [] if isinstance(answer, dict)]
            if link in RISK_ITEMS or _asks_about_risk(one) or any(_asks_about_risk(answer) for answer in answers):
                return True
    return False


def _is_watched(resource: Resource, type_: str, origin_of: OriginOf) -> bool:
    if type_ not in WATCHED:
        return False
    named = _references(_at(resource, BY_ENCOUNTER[type_]))
    return any(target == "Encounter" and origin_of(target, id_) == SESSIONS for target, id_ in named)


def _of_what_names_an_encounter(resource: Resource, origin_of: OriginOf) -> str:
    type_ = str(resource["resourceType"])
    if type_ == "Observation" and any(
        origin_of("QuestionnaireResponse", id_) == OUTCOMES
        for target, id_ in _references(resource.get("derivedFrom"))
        if target == "QuestionnaireResponse"
    ):
        return OUTCOMES
    encounters = [id_ for target, id_ in _references(_at(resource, BY_ENCOUNTER[type_])) if target == "Encounter"]
    if any(origin_of("Encounter", id_) == SESSIONS for id_ in encounters):
        return SESSIONS
    if type_ == "Observation" and not encounters and is_bedside_reading(resource):
        raise Unprocessable(
            "A vital sign needs the Encounter it was taken in, so that its alarms sound. If it was measured at intake, "
            f"outside a visit, say so by meta.tag {INTAKE_MEASUREMENT.token()}.",
            code="required",
            expression=["Observation.encounter"],
        )
    return SESSIONS if type_ == "Observation" and is_bedside_reading(resource) else INTAKE


def _of_raised(resource: Resource, origin_of: OriginOf) -> str:
    type_ = str(resource["resourceType"])
    if "id" in resource:
        held = origin_of(type_, str(resource["id"]))
        if held is not None:
            return held
    for element in RAISED[type_]:
        value = resource.get(element)
        for target, id_ in _references(value):
            held = origin_of(target, id_)
            if held is not None and type_ in types_of(held):
                return held
    return INTAKE


def _at(resource: Resource, path: tuple[str, ...]) -> Any:
    value: Any = resource
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _references(value: Any) -> Iterator[tuple[str, str]]:
    """Yield type and id of each Reference in an element that holds one or several."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            parts = str(one.get("reference", "")).partition("/_history/")[0].rsplit("/", 2)[-2:]
            if len(parts) == 2:
                yield parts[0], parts[1]
