"""What a prescriber decides past a check of the gate: what he is asked, whose the decision is, and what of it counts.

The gate asks by a DetectedIssue; he decides by a mitigation of it. Of news that may be missing any professional of the
clinic may say that it stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from services.sessions.rules.checks import Check, Decision
from services.sessions.rules.decisions import Decider, against_deciding, lacks_to_decide, refused
from services.sessions.rules.gate import NEWS
from services.sessions.setting import Setting
from shared.fhir.codes import DECISION_NEEDED, ID_FINDING, PROCEED, RULE
from shared.fhir.dates import zulu
from shared.fhir.freshness import Unheard, as_words
from shared.fhir.json import Resource, parse
from shared.fhir.kap import codes_of, has_code, id_in, moment
from shared.fhir.outcome import Gone, Issue, NotFound, Unprocessable
from shared.fhir.raised import detected_issue, identifier
from shared.runtime.ownership import INTAKE
from shared.runtime.raising import find, is_own_work, keep
from shared.runtime.record import Record
from shared.runtime.service import Change
from shared.store.access import Access


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
        rules = [rule for rule in codes_of(issue["code"], RULE) if _is_named(issue, decision_name(visit, rule))]
        for made in issue.get("mitigation", []) if rules else ():
            if not has_code(made.get("action"), PROCEED) or "date" not in made:
                continue
            written = await _written(record, issue, made)
            when = min(moment(made["date"]), written, now)
            who = await _decider(record, made.get("author"))
            prescribes = who is not None and not lacks_to_decide(who, setting.series.prescriber.roles, when)
            found.extend(
                Decision(rule, when, f"DetectedIssue/{issue['id']}", written)
                for rule in rules
                if prescribes or (rule == NEWS and who is not None)
            )
    return found


async def _written(record: Record, issue: Resource, made: Resource) -> datetime:
    """Return when a mitigation was first written into a DetectedIssue; what is written into it later moves nothing."""
    when = moment((issue.get("meta") or {}).get("lastUpdated"))
    for number in range(int(issue["meta"]["versionId"]) - 1, 0, -1):
        whole = Access.unrestricted(record.access.tenant)
        try:
            stored = await record.transaction.read_version(whole, "DetectedIssue", str(issue["id"]), number)
        except (NotFound, Gone):
            break
        held = parse(stored.body)
        if made not in held.get("mitigation", []):
            break
        when = moment(held["meta"]["lastUpdated"])
    return when


def _is_named(issue: Resource, name: tuple[str, str, str]) -> bool:
    own = identifier(ID_FINDING, *name)
    return any(
        one.get("system") == own["system"] and one.get("value") == own["value"] for one in issue.get("identifier", [])
    )


async def _decider(record: Record, author: Resource | None) -> Decider | None:
    """Return who decides as he is known here; None: the author names no Practitioner or PractitionerRole."""
    person, role = id_in(author, "Practitioner"), id_in(author, "PractitionerRole")
    if role is not None:
        held = await record.get("PractitionerRole", role)
        owner = id_in((held or {}).get("practitioner"), "Practitioner")
        known = None if owner is None else await record.get("Practitioner", owner)
        return Decider(f"PractitionerRole/{role}", known, [] if held is None else [held])
    if person is None:
        return None
    roles = await record.search("PractitionerRole", {"practitioner": f"Practitioner/{person}"})
    return Decider(f"Practitioner/{person}", await record.get("Practitioner", person), roles)


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
    of_news = set(codes_of(after["code"], RULE)) == {NEWS}
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
            issues.extend(await _against(made, record, setting, of_news=of_news))
    if issues:
        raise Unprocessable(issues)


async def _against(made: Resource, record: Record, setting: Setting, *, of_news: bool) -> list[Issue]:
    """Return what forbids a decision; `of_news`: that what may be missing stands, which any of the staff may say."""
    source = setting.series.prescriber.source
    author = await _person(record, made.get("author"))
    user = None if record.user is None else await _person(record, {"reference": record.user}) or record.user
    found = list(against_deciding(made, author, user, record.client, source))
    if of_news:
        return found
    who = await _decider(record, made.get("author"))
    when = moment(made["date"]) if "date" in made else setting.clock()
    lacking = (
        ["nobody is named (mitigation.author)"]
        if who is None
        else lacks_to_decide(who, setting.series.prescriber.roles, when)
    )
    if lacking:
        late = Unheard(INTAKE, await record.knowledge_age(INTAKE))
        said = (
            f"is a licensed prescriber's: {'; '.join(lacking)} ({late}). Record person, role and licence, or ask "
            "another; of who was recorded just now, try again."
        )
        found.append(refused(said, "author", source))
    return found


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
