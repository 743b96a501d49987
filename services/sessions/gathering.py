"""What is gathered for the gate besides readings and amounts: answers, holds, flags for suicidality, the REMS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

from services.sessions.rules.answers import Asked, Enrolment, answers_in
from services.sessions.setting import Setting
from shared.fhir.codes import (
    EXT_HOLD_BEFORE,
    ID_REMS_PATIENT,
    ID_REMS_SITE,
    KAP,
    PRE_DOSE_QUESTIONNAIRE,
    PROCEED,
    SNOMED,
)
from shared.fhir.dates import period_interval
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, has_code, id_in, moment, patient_of
from shared.fhir.zones import interval_in
from shared.runtime.record import Record
from shared.runtime.service import Change

WITNESS = "witness"
ANSWERED = frozenset(("completed", "amended"))


async def asked_of(
    record: Record, visit: str, start: datetime, setting: Setting, zone: tzinfo, *, instead: Change | None = None
) -> Asked | None:
    """Return the newest answers to kap-pre-dose in a visit that were given before `start` and are not too old."""
    earliest = start - timedelta(minutes=setting.gate.answers_age.minutes)
    latest = start + timedelta(minutes=setting.gate.ahead.minutes)
    return await answers_of(record, visit, PRE_DOSE_QUESTIONNAIRE, earliest, latest, zone=zone, instead=instead)


async def answers_of(
    record: Record,
    visit: str,
    questionnaire: str,
    earliest: datetime | None,
    latest: datetime,
    *,
    zone: tzinfo = UTC,
    instead: Change | None = None,
    by_staff: bool = False,
) -> Asked | None:
    """Return the newest answers to a questionnaire in a visit that were given in a time; a day is one of the zone.

    `by_staff`: not those that the patient, or who is with him, gave himself.
    `instead`: answers as they are about to be written, in the place of those with their id.
    """
    newest: Asked | None = None
    whose = {patient_of(await record.get("Encounter", visit) or {}), None}
    criteria = {"encounter": f"Encounter/{visit}", "questionnaire": questionnaire}
    held = await record.search("QuestionnaireResponse", criteria)
    if instead is not None:
        new = instead.after or {}
        asks = str(new.get("questionnaire", "")).partition("|")[0]
        there = id_in(new.get("encounter"), "Encounter") == visit and asks == questionnaire
        held = [*(one for one in held if one["id"] != instead.id), *([{**new, "id": instead.id}] if there else [])]
    for one in held:
        if one.get("status") not in ANSWERED or "authored" not in one or patient_of(one) not in whose:
            continue
        if by_staff and any(id_in(one.get("author"), type_) for type_ in ("Patient", "RelatedPerson")):
            continue
        when = interval_in(one["authored"], zone)[0]
        if (earliest is None or earliest <= when) and when <= latest and (newest is None or newest.when <= when):
            newest = Asked(f"QuestionnaireResponse/{one['id']}", when, answers_in(one))
    return newest


async def holds_of(record: Record, patient: str | None) -> list[str]:
    """Return the DetectedIssues that say that a medicine of the patient's is to be held before a dose.

    One on which a prescriber decided to proceed says so no more.
    """
    return [
        f"DetectedIssue/{one['id']}"
        for one in await record.search("DetectedIssue", {"patient": f"Patient/{patient}"})
        if one["status"] == "final"
        and any(said.get("url") == EXT_HOLD_BEFORE for said in one.get("extension", []))
        and not any(has_code(made.get("action"), PROCEED) for made in one.get("mitigation", []))
    ]


async def risk_flags(
    record: Record, patient: str | None, start: datetime, setting: Setting
) -> list[tuple[str, datetime]]:
    """Return the Flags for suicidality of a patient that are up at `start`: reference and since when."""
    return [(name, since) for name, since, _ in await flags_up(record, patient, start, setting)]


async def flags_up(
    record: Record, patient: str | None, start: datetime, setting: Setting
) -> list[tuple[str, datetime, frozenset[str]]]:
    """Return the Flags for suicidality of a patient that are up at `start`: reference, since when, and codes."""
    found = []
    for one in await record.search("Flag", {"patient": f"Patient/{patient}"}):
        codes = frozenset((*codes_of(one.get("code"), KAP), *codes_of(one.get("code"), SNOMED)))
        since = one.get("period", {}).get("start")
        up = one["status"] == "active" and codes.intersection(setting.gate.risk.flags)
        if up and (since is None or moment(since) <= start):
            found.append((f"Flag/{one['id']}", start if since is None else moment(since), codes))
    return found


async def enrolment_of(record: Record, dose: Resource, visit: Resource | None, when: datetime) -> Enrolment:
    """Return what is known of the REMS where a dose is given: by identifiers in force of Patient and place."""
    patient = await record.get("Patient", str(id_in(dose.get("subject"), "Patient")))
    places = await places_of(record, visit)
    functions = [
        one.get("function", {})
        for one in dose.get("performer", [])
        if any(id_in(one.get("actor"), type_) for type_ in ("Practitioner", "PractitionerRole"))
    ]
    return Enrolment(
        site=any(is_identified(place, ID_REMS_SITE, when) for place in places),
        patient=is_identified(patient, ID_REMS_PATIENT, when),
        witness=any(coding.get("code") == WITNESS for one in functions for coding in one.get("coding", [])),
    )


async def places_of(record: Record, visit: Resource | None) -> list[Resource | None]:
    """Return where a visit is: each Location and whose it is, then the Organization that provides it."""
    places: list[Resource | None] = []
    for one in (visit or {}).get("location", []):
        place = await record.get("Location", str(id_in(one.get("location"), "Location")))
        owner = id_in((place or {}).get("managingOrganization"), "Organization")
        places.extend((place, None if owner is None else await record.get("Organization", owner)))
    provider = id_in((visit or {}).get("serviceProvider"), "Organization")
    places.append(None if provider is None else await record.get("Organization", provider))
    return places


def is_identified(resource: Resource | None, system: str, when: datetime) -> bool:
    """Tell whether a resource has an identifier of a system that is in force at a time."""
    for one in (resource or {}).get("identifier", []):
        period = period_interval(one.get("period", {}))
        if one.get("system") == system and one.get("value") and (period is None or period[0] <= when < period[1]):
            return True
    return False
