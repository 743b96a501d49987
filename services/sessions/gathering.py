"""What is gathered for the gate besides readings and amounts: answers, decisions, flags for suicidality, the REMS."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo

from services.sessions.rules.answers import Asked, Enrolment, answers_in
from services.sessions.rules.checks import Check, Decision
from services.sessions.rules.decisions import against_deciding
from services.sessions.rules.gate import NEWS
from services.sessions.setting import Setting
from shared.fhir.codes import (
    DECISION_NEEDED,
    EXT_HOLD_BEFORE,
    ID_FINDING,
    ID_REMS_PATIENT,
    ID_REMS_SITE,
    KAP,
    PRE_DOSE_QUESTIONNAIRE,
    PROCEED,
    RULE,
    SNOMED,
)
from shared.fhir.dates import period_interval, zulu
from shared.fhir.freshness import as_words
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, has_code, id_in, moment, patient_of
from shared.fhir.outcome import Issue, Unprocessable
from shared.fhir.raised import detected_issue, identifier
from shared.fhir.zones import interval_in
from shared.runtime.raising import find, is_own_work, keep
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


def decision_name(visit: str, rule: str) -> tuple[str, str, str]:
    """Return what names the DetectedIssue on which a prescriber decides about a rule in a visit."""
    return ("gate", visit, rule)


async def decisions_of(record: Record, visit: str, setting: Setting) -> list[Decision]:
    """Return the documented decisions to proceed in a visit that stand: a prescriber's; of news, a professional's.

    They are on what the gate asked, and on nothing that somebody else wrote. None can be made ahead of time: one that
    is dated later than it was written is as old as that.
    """
    found: list[Decision] = []
    now = setting.clock()
    for issue in await record.search("DetectedIssue", {"implicated": f"Encounter/{visit}"}):
        if issue.get("status") != "final" or not has_code(issue.get("code"), DECISION_NEEDED):
            continue
        for made in issue.get("mitigation", []):
            signed = any(id_in(made.get("author"), type_) for type_ in ("Practitioner", "PractitionerRole"))
            if has_code(made.get("action"), PROCEED) and signed and "date" in made:
                written = (issue.get("meta") or {}).get("lastUpdated")
                when = min(moment(made["date"]), moment(written), now)
                prescribes = await _prescribes(record, made["author"], when, setting)
                found.extend(
                    Decision(rule, when, f"DetectedIssue/{issue['id']}")
                    for rule in codes_of(issue["code"], RULE)
                    if (prescribes or rule == NEWS) and _is_named(issue, decision_name(visit, rule))
                )
    return found


def _is_named(issue: Resource, name: tuple[str, str, str]) -> bool:
    own = identifier(ID_FINDING, *name)
    return any(
        one.get("system") == own["system"] and one.get("value") == own["value"] for one in issue.get("identifier", [])
    )


async def _prescribes(record: Record, author: Resource, when: datetime, setting: Setting) -> bool:
    """Tell whether somebody has a role at a time that prescribes; a Practitioner is told by his PractitionerRoles."""
    named, person = id_in(author, "PractitionerRole"), id_in(author, "Practitioner")
    roles = [] if named is None else [await record.get("PractitionerRole", named)]
    if person is not None:
        roles.extend(await record.search("PractitionerRole", {"practitioner": f"Practitioner/{person}"}))
    return any(
        role is not None
        and role.get("active") is not False
        and set(codes_of(role.get("code"), KAP)).intersection(setting.series.prescriber.roles)
        and ((period := period_interval(role.get("period", {}))) is None or period[0] <= when < period[1])
        for role in roles
    )


async def guard_decision(change: Change, record: Record, setting: Setting) -> None:
    """Guard of DetectedIssue: a decision is a prescriber's own, says why, and is dated when it is made.

    One that were dated ahead would cover what is measured after it. What the gate asks has a name of the gate's own,
    and a client gives it to nothing: only what was asked can be decided.

    Raises:
        Unprocessable: E-OVERRIDE, G-TIME, T-NAME.

    """
    after = change.after or {}
    if is_own_work() or not has_code(after.get("code"), DECISION_NEEDED):
        return
    held = (change.before or {}).get("identifier", [])
    if any(one.get("system") == ID_FINDING and one not in held for one in after.get("identifier", [])):
        raise Unprocessable(
            f"Nothing but what the gate asks has an identifier of {ID_FINDING}: leave it out. What is to be decided, "
            "$pre-dose-gate names (decision).",
            code="business-rule",
            expression=["DetectedIssue.identifier"],
            rule="T-NAME",
            source="KAP Exchange",
        )
    latest = setting.clock() + timedelta(minutes=setting.gate.ahead.minutes)
    issues: list[Issue] = []
    for made in after.get("mitigation", []):
        if "date" in made and moment(made["date"]) > latest:
            issues.append(
                Issue(
                    f"A decision is dated when it is made: {made['date']} is still to come.",
                    code="business-rule",
                    expression=("DetectedIssue.mitigation.date",),
                    rule="G-TIME",
                    source=setting.gate.ahead.source,
                )
            )
        if has_code(made.get("action"), PROCEED) and made not in (change.before or {}).get("mitigation", []):
            author = await _person(record, made.get("author"))
            user = None if record.user is None else await _person(record, {"reference": record.user}) or record.user
            issues.extend(against_deciding(made, author, user, setting.series.prescriber.source))
    if issues:
        raise Unprocessable(issues)


async def _person(record: Record, author: Resource | None) -> str | None:
    """Return the ``Practitioner/id`` of an author, a PractitionerRole's too; None where it is not known whose it is."""
    person, role = id_in(author, "Practitioner"), id_in(author, "PractitionerRole")
    if role is not None:
        person = id_in((await record.get("PractitionerRole", role) or {}).get("practitioner"), "Practitioner")
    return None if person is None else f"Practitioner/{person}"


async def ask_for_decisions(
    record: Record, visit: str, patient: str, checks: Iterable[Check], now: datetime, setting: Setting
) -> dict[str, str]:
    """Keep a DetectedIssue for each closed check on which a prescriber may decide; return its reference by rule."""
    asked: dict[str, str] = {}
    for check in checks:
        if not (check.closes and check.decidable) or check.rule in asked:
            continue
        name = decision_name(visit, check.rule)
        held = await find(record, "DetectedIssue", identifier(ID_FINDING, *name))
        if held is None:
            held = await keep(
                record,
                detected_issue(
                    name,
                    patient=patient,
                    code=DECISION_NEEDED,
                    rules=[check.rule],
                    severity="high",
                    detail=f"{check.text} A prescriber may decide: mitigation with action proceed, date and author.",
                    now=now,
                    implicated=[f"Encounter/{visit}", *check.evidence],
                    policy=setting.version,
                ),
            )
        asked[check.rule] = f"DetectedIssue/{held['id']}"
    return asked


async def confirm_news(record: Record, visit: str, patient: str, by: Resource, setting: Setting) -> None:
    """Document that a person confirms what could not be known here: consent and order stand.

    It is kept as the decision on the rule in this visit, and counts for as long as the policy says. Where nothing is
    missing, nothing is kept: nobody was asked.

    Raises:
        Unprocessable: it is not said by a Practitioner.

    """
    unheard = as_words(await record.unheard(setting.knowledge.dose, f"Patient/{patient}"))
    if not unheard:
        return
    if not any(id_in(by, type_) for type_ in ("Practitioner", "PractitionerRole")):
        raise Unprocessable(
            "confirmedBy names the Practitioner or PractitionerRole who confirms that consent and order stand.",
            expression=["Parameters.parameter"],
            rule=NEWS,
            source=setting.knowledge.dose.source,
        )
    now = setting.clock()
    issue = detected_issue(
        decision_name(visit, NEWS),
        patient=patient,
        code=DECISION_NEEDED,
        rules=[NEWS],
        severity="high",
        detail=f"Consent and order were confirmed by a person before a dose. Not heard: {unheard}.",
        now=now,
        implicated=[f"Encounter/{visit}"],
        policy=setting.version,
    )
    issue["mitigation"] = [{"action": PROCEED.concept(), "date": zulu(now), "author": by}]
    await keep(record, issue)


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
