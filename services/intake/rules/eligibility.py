"""Who may be treated: every rule of screening, judged on values.

The numbers and codes come from the policy (`policies/eligibility.yaml`, `interactions.yaml`, `value-sets.yaml`). What
is not known is never taken for a no.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

from services.intake.rules.findings import (
    Chart,
    Finding,
    Outcome,
    Relative,
    Rules,
    Screening,
    counted,
    finding_of,
    is_active,
    newest_of,
)
from services.intake.rules.forms import (
    GRAVEST,
    EligibilityPolicy,
    Family,
    Measured,
    Recent,
    ScreeningRule,
    Sets,
    Severity,
    severity_for,
)
from services.intake.rules.interactions import interactions
from services.intake.rules.trials import Entry, Trial, episode_began, trials
from shared.fhir.cited import is_coded
from shared.fhir.codes import KAP, SNOMED
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, effective_start, has_died, quantity_in, replaced_by


def screen(chart: Chart, rules: Rules) -> Screening:
    """Evaluate every rule.

    Not eligible when something blocks; else not known while an answer is missing; else a decision is needed while a
    relative finding is undecided; else eligible.
    """
    policy = rules.eligibility
    chart = replace(chart, relative_deciders=policy.prescribers.relative)
    findings = [
        finding for name, rule in policy.rules.items() if (finding := _by_rule(name, rule, chart, rules)) is not None
    ]
    findings.extend(interactions(chart, rules))
    until = None if chart.answered is None else chart.answered + timedelta(days=policy.answers_age.days)
    if until is not None and until <= chart.now:
        findings.append(
            Finding(
                rule="ANSWERS-AGE",
                title="The answers are too old",
                verdict="not-known",
                severity="R",
                evidence=() if chart.answers_reference is None else (chart.answers_reference,),
                why=f"They are older than {policy.answers_age.days} days.",
                advice="Ask the screening questions again.",
                source=policy.answers_age.source,
            )
        )
    return Screening(_outcome(findings), tuple(findings), until)


def _outcome(findings: Iterable[Finding]) -> Outcome:
    seen = {(finding.verdict, finding.severity) for finding in findings}
    if ("hit", "A") in seen:
        return "not-eligible"
    if any(verdict == "not-known" for verdict, _ in seen):
        return "needs-answers"
    return "needs-decision" if ("hit", "R") in seen else "eligible"


def is_day_of_dose(chart: Chart, policy: EligibilityPolicy) -> bool:
    """Tell whether the answers were given for a dose on the day of the screening."""
    asked = chart.answers.get(policy.day_of_dose.link) is True
    return asked and chart.answered is not None and chart.answered.date() == chart.now.date()


def _by_rule(name: str, rule: ScreeningRule, chart: Chart, rules: Rules) -> Finding | None:
    severity = severity_for(rule.severity, chart.drug, chart.route)
    indicated = is_indicated(rule, chart, rules)
    if indicated is False:
        return None
    if rule.asked == "dose" and not is_day_of_dose(chart, rules.eligibility):
        return None
    if rule.uncoded:
        found = tuple(_uncoded(chart, rules))
        return finding_of(name, rule, "hit", severity, found, "", chart) if found else None
    if rule.replaced:
        other = replaced_by(chart.patient)
        why = f"Patient/{other} stands for this one."
        return None if other is None else finding_of(name, rule, "hit", severity, (f"Patient/{other}",), why, chart)
    if rule.deceased:
        died = has_died(chart.patient)
        return finding_of(name, rule, "hit", severity, (f"Patient/{chart.patient['id']}",), "", chart) if died else None
    if rule.age_below is not None:
        return _by_age(name, rule, severity, chart)
    if rule.needed is not None:
        tried = _by_trials(name, rule, severity, chart, rules)
        return tried if indicated or tried.verdict == "clear" else _not_indicated(tried, chart)
    return _by_signs(name, rule, severity, chart, rules.sets)


def _by_signs(name: str, rule: ScreeningRule, severity: Severity, chart: Chart, sets: Sets) -> Finding | None:
    """Judge by what is on record and what was answered; None for a rule that looks at Flags alone, where none is up."""
    signs = list(_signs(rule, chart, sets))
    met = {reference for reference, set_ in signs if set_ is not None}
    for _, set_ in signs:
        if set_ in rule.graver:
            severity = min(severity, rule.graver[set_], key=GRAVEST.index)
    answer = None if rule.question is None else chart.answers.get(rule.question.link)
    if rule.question is not None and answer is rule.question.hit and chart.answers_reference is not None:
        met.add(chart.answers_reference)
    evidence = tuple(sorted(met))
    if evidence:
        return finding_of(name, rule, "hit", severity, evidence, "", chart)
    unclear = tuple(sorted(reference for reference, set_ in signs if set_ is None))
    if unclear:
        return finding_of(
            name,
            rule,
            "not-known",
            severity,
            unclear,
            "It is not known when it began or was found, or the record says it in a way that nothing here reads.",
            chart,
        )
    if rule.question is None and rule.flags:
        return None
    if not isinstance(answer, bool):
        asked = "" if rule.question is None else f"Question {rule.question.link} is not answered."
        return finding_of(name, rule, "not-known", severity, _suggested(rule, chart, sets), asked, chart)
    return finding_of(name, rule, "clear", severity, _suggested(rule, chart, sets), "Answered.", chart)


def _signs(rule: ScreeningRule, chart: Chart, sets: Sets) -> Iterator[tuple[str, str | None]]:
    """Yield the evidence: reference and the set that it is in; None as set where the record cannot tell."""
    for entry in counted(chart.conditions):
        for set_ in rule.history:
            if sets[set_].holds(entry.concept):
                yield entry.reference, set_
        for set_ in rule.conditions:
            if is_active(entry.resource) and sets[set_].holds(entry.concept):
                yield entry.reference, set_
        yield from _recent_signs(rule.recent, entry, chart.now, sets)
    for entry in counted(chart.allergies):
        for set_ in rule.allergies:
            if sets[set_].holds(entry.concept):
                yield entry.reference, set_
    yield from _family_signs(rule.family, chart, sets)
    for sign in rule.observations:
        newest = newest_of(chart.observations, sign.code)
        value = None if newest is None else newest.resource.get("valueCodeableConcept")
        if newest is None or (sets[sign.clear].holds(value) and effective_start(newest.resource) is not None):
            continue
        yield newest.reference, sign.set if sets[sign.set].holds(value) else None
    yield from _measured_signs(rule.measured, chart, sets)
    for entry in chart.flags:
        raised = flag_codes(entry.resource).intersection(rule.flags)
        if raised and entry.resource.get("status") == "active":
            yield entry.reference, min(raised)


def _family_signs(family: Family | None, chart: Chart, sets: Sets) -> Iterator[tuple[str, str | None]]:
    for relative in () if family is None else chart.family:
        for set_ in () if family is None or is_of(relative, family, sets) is False else family.conditions:
            if any(sets[set_].holds(one) for one in relative.conditions):
                yield relative.reference, set_


def is_of(relative: Relative, family: Family, sets: Sets) -> bool | None:
    """Tell whether a relative is one of those that a rule is about; None where his relationship is not read."""
    if sets[family.but].holds(relative.relationship):
        return False
    return sets[family.of].holds(relative.relationship) or None


def flag_codes(flag: Resource) -> set[str]:
    """Return the codes of a Flag that a rule may name: KAP's and SNOMED CT's."""
    return {*codes_of(flag.get("code"), KAP), *codes_of(flag.get("code"), SNOMED)}


def _measured_signs(measured: Measured | None, chart: Chart, sets: Sets) -> Iterator[tuple[str, str | None]]:
    """Yield a value that is high enough, or that nobody can tell, together with the conditions beside which it counts.

    Beside one of them a value that is not on record is not known to be low.
    """
    if measured is None:
        return
    beside = [
        (entry, set_)
        for entry in counted(chart.conditions)
        for set_ in measured.beside
        if is_active(entry.resource) and sets[set_].holds(entry.concept)
    ]
    newest = newest_of(chart.observations, measured.code)
    reached = None if newest is None else _reaches(newest, measured)
    for entry, set_ in () if reached is False else beside:
        yield entry.reference, set_ if reached else None
        if newest is not None:
            yield newest.reference, set_ if reached else None


def _reaches(entry: Entry, measured: Measured) -> bool | None:
    """Tell whether what was measured is as high as that; None where its unit or its comparator leaves it open."""
    quantity = entry.resource.get("valueQuantity", {})
    comparator = quantity.get("comparator")
    value = quantity_in({key: part for key, part in quantity.items() if key != "comparator"}, (measured.unit,))
    if value is None:
        return None
    if comparator in (">", ">="):
        return True if value >= measured.at_least else None
    if comparator in ("<", "<="):
        below = value < measured.at_least or (comparator == "<" and value == measured.at_least)
        return False if below else None
    return bool(value >= measured.at_least)


def _recent_signs(recent: Recent | None, entry: Entry, now: datetime, sets: Sets) -> Iterator[tuple[str, str | None]]:
    for set_ in () if recent is None else recent.sets:
        began = sets[set_].holds(entry.concept) and recent is not None and _is_recent(entry.resource, now, recent.days)
        if began is not False:
            yield entry.reference, set_ if began else None


def _suggested(rule: ScreeningRule, chart: Chart, sets: Sets) -> tuple[str, ...]:
    return tuple(
        entry.reference
        for entry in counted(chart.conditions)
        for set_ in rule.suggests
        if sets[set_].holds(entry.concept)
    )


def _is_recent(condition: Resource, now: datetime, days: int) -> bool | None:
    """Tell whether a Condition may have begun within `days` before `now`; None where it does not say when."""
    onset = condition.get("onsetDateTime") or condition.get("onsetPeriod", {}).get("start")
    return None if onset is None else interval(onset)[1] > now - timedelta(days=days)


def is_indicated(rule: ScreeningRule, chart: Chart, rules: Rules) -> bool | None:
    """Tell whether a rule's indication is the patient's; None where the record leaves it open.

    It does where he was referred for a reason that nothing reads, and, for a drug whose indication has to be on record,
    where none of those that the policy names is.
    """
    if rule.indication is None:
        return True
    active = [entry.concept for entry in counted(chart.conditions) if is_active(entry.resource)]
    told = [*chart.reasons, *active]
    if any(rules.sets[rule.indication].holds(one) for one in told):
        return True
    if not all(_is_known(reason, chart, rules) for reason in chart.reasons):
        return None
    others = rule.indicated.get(chart.drug or "", ())
    is_other = any(rules.sets[other].holds(one) for other in others for one in told)
    return None if others and not is_other else False


def _not_indicated(found: Finding, chart: Chart) -> Finding:
    """Return what a rule says of who may not have its indication."""
    why = (
        "It cannot be read for what the patient is treated: name it as a coded Condition or in the referral "
        f"(ServiceRequest.reasonCode). {found.why}"
    )
    evidence = found.evidence or (f"Patient/{chart.patient['id']}",)
    return replace(found, verdict="not-known", evidence=evidence, why=why.rstrip())


def _uncoded(chart: Chart, rules: Rules) -> Iterator[str]:
    """Yield what no rule can read: text, and a code that neither the policy nor the loaded terminology knows.

    Conditions that are over, too: some rules ask what somebody ever had; and those of relatives whom a rule asks about.
    """
    systems = rules.eligibility.coded_systems
    for entries, read in (
        (list(counted(chart.conditions)), systems.condition),
        (list(counted(chart.allergies)), systems.allergy),
        (chart.medications, systems.medication),
    ):
        for entry in entries:
            if not is_coded(entry.concept, read) or not _is_known(entry.concept, chart, rules):
                yield entry.reference
    families = [rule.family for rule in rules.eligibility.rules.values() if rule.family is not None]
    for relative in chart.family:
        asked = any(is_of(relative, family, rules.sets) is not False for family in families)
        known = (is_coded(one, systems.condition) and _is_known(one, chart, rules) for one in relative.conditions)
        if asked and not all(known):
            yield relative.reference


def _is_known(concept: Mapping[str, Any] | None, chart: Chart, rules: Rules) -> bool:
    """Tell whether a concept means something here: to a set of the policy, or, by a code, to the terminology."""
    codings = [(one.get("system", ""), one.get("code", "")) for one in (concept or {}).get("coding", [])]
    if any(coding in chart.known for coding in codings):
        return True
    if any(set_.holds(concept) for set_ in rules.sets.values()):
        return True
    terms = [term for one in rules.antidepressants.medicines.values() for term in one.codes]
    return any(term.matches(*coding) for term in terms for coding in codings)


def _by_age(name: str, rule: ScreeningRule, severity: Severity, chart: Chart) -> Finding:
    evidence = (f"Patient/{chart.patient['id']}",)
    adult = (
        None if rule.age_below is None else is_aged(chart.patient.get("birthDate"), rule.age_below, chart.now.date())
    )
    if adult is None:
        return finding_of(
            name, rule, "not-known", severity, evidence, "The date of birth is missing or too rough.", chart
        )
    return finding_of(name, rule, "clear" if adult else "hit", severity, evidence, "", chart)


def is_aged(birth_date: str | None, years: int, today: date) -> bool | None:
    """Tell whether someone is at least `years` old; None where the date of birth is missing or too rough to tell.

    Born on 29 February: a year older on 1 March.
    """
    if birth_date is None:
        return None
    low, high = interval(birth_date)
    earliest, latest = low.date(), (high - timedelta(days=1)).date()
    if not _has_had(earliest, years, today):
        return False
    return True if _has_had(latest, years, today) else None


def _has_had(birthday: date, years: int, today: date) -> bool:
    return (today.year - years, today.month, today.day) >= (birthday.year, birthday.month, birthday.day)


def _by_trials(name: str, rule: ScreeningRule, severity: Severity, chart: Chart, rules: Rules) -> Finding:
    """Count the adequate antidepressant trials on record; what the patient says does not replace them."""
    needed = rule.needed
    assert needed is not None  # noqa: S101 - the caller asked
    found = antidepressant_trials(chart, rules)
    adequate = _medicines(found, "adequate")
    unclear = _medicines(found, "not-known") - adequate
    said = chart.answers.get(needed.link)
    claimed = said if isinstance(said, int) and not isinstance(said, bool) else None
    working = "; ".join(trial.why for trial in found)
    why = f"{len(adequate)} adequate on record, {needed.count} needed. {working}".rstrip()
    evidence = tuple(dict.fromkeys(trial.reference for trial in found))
    if len(adequate) >= needed.count:
        return finding_of(name, rule, "clear", severity, evidence, why, chart)
    if len(adequate | unclear) >= needed.count or claimed is None or claimed >= needed.count:
        if claimed is not None and claimed >= needed.count:
            why = f"{why}. The patient says {claimed}: record each trial with its dose and period"
        elif claimed is None and not found:
            why = f"{why} Question {needed.link} is not answered"
        return finding_of(name, rule, "not-known", severity, evidence, f"{why}.", chart)
    if chart.answers_reference is not None:
        evidence = (*evidence, chart.answers_reference)
    return finding_of(name, rule, "hit", severity, evidence, why, chart)


def known_answers(chart: Chart, rules: Rules) -> dict[str, tuple[bool | int, tuple[str, ...]]]:
    """Return by linkId what the record already answers, each with its evidence.

    Only what speaks for a finding: that nothing is on record is no answer.
    """
    unanswered = replace(chart, answers={}, answers_reference=None, answered=None)
    known: dict[str, tuple[bool | int, tuple[str, ...]]] = {}
    for finding in screen(unanswered, rules).findings:
        rule = rules.eligibility.rules.get(finding.rule)
        if rule is not None and rule.question is not None and finding.verdict in ("hit", "decided"):
            known[rule.question.link] = rule.question.hit, finding.evidence
    for rule in rules.eligibility.rules.values():
        if rule.needed is not None:
            adequate = [trial for trial in antidepressant_trials(chart, rules) if trial.verdict == "adequate"]
            if adequate:
                evidence = tuple(dict.fromkeys(trial.reference for trial in adequate))
                known[rule.needed.link] = len(_medicines(adequate, "adequate")), evidence
    return known


def antidepressant_trials(chart: Chart, rules: Rules) -> list[Trial]:
    """Return the antidepressant trials on record, judged."""
    policy = rules.antidepressants
    depressions = [
        entry.resource
        for entry in counted(chart.conditions)
        if is_active(entry.resource) and rules.sets[policy.episode].holds(entry.concept)
    ]
    return trials(chart.past_medications, episode_began(depressions), chart.now, policy)


def _medicines(found: Iterable[Trial], verdict: str) -> frozenset[str]:
    return frozenset(trial.medicine for trial in found if trial.verdict == verdict)
