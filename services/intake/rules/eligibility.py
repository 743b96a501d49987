"""Who may be treated: every rule of screening, judged on values.

The numbers and codes come from the policy (`policies/eligibility.yaml`, `interactions.yaml`, `value-sets.yaml`). What
is not known is never taken for a no.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from services.intake.rules.forms import (
    GRAVEST,
    EligibilityPolicy,
    Interaction,
    Link,
    Recent,
    ScreeningRule,
    Sets,
    Severity,
    TrialPolicy,
    deciders,
    severity_for,
)
from services.intake.rules.trials import Entry, Trial, episode_began, trials
from shared.fhir.cited import ValueSet, is_coded
from shared.fhir.dates import MIN_INSTANT, interval
from shared.fhir.doses import most_daily_milligrams
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, codes_of, effective_start, replaced_by

Verdict: TypeAlias = Literal["hit", "decided", "not-known", "clear"]
Outcome: TypeAlias = Literal["eligible", "not-eligible", "needs-answers", "needs-decision"]


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision to proceed past a finding: the evidence that was seen, and the prescribers who decided."""

    evidence: frozenset[str]
    prescribers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rules:
    """All that a screening judges by: the policy's sections in their forms."""

    eligibility: EligibilityPolicy
    interactions: Mapping[str, Interaction]
    antidepressants: TrialPolicy
    sets: Sets


@dataclass(frozen=True, slots=True)
class Chart:
    """What a screening judges on.

    Attributes:
        patient: the Patient.
        conditions, allergies, observations: of the record; the functions here leave out errors.
        medications: what is taken now, or ordered.
        past_medications: what was taken, whatever its status now; shows antidepressant trials.
        reasons: CodeableConcepts for which the patient was referred.
        answers: by linkId, what the newest finished screening questionnaire says.
        answers_reference: that response; None where there is none.
        answered: when; None where there is none.
        drug, route: planned (route a SNOMED CT code); None: not said, then the graver severity counts.
        decisions: by rule, who decided to proceed, and on which evidence.
        known: codes (system, code) that the terminology that was loaded has.
        now: the time of the screening.
        relative_deciders: how many prescribers decide past a relative finding; `screen` takes it from the policy.

    """

    patient: Resource
    conditions: Sequence[Entry]
    allergies: Sequence[Entry]
    medications: Sequence[Entry]
    observations: Sequence[Entry]
    reasons: Sequence[Mapping[str, Any]]
    answers: Mapping[str, Any]
    answers_reference: str | None
    drug: Drug | None
    decisions: Mapping[str, Decision]
    now: datetime
    route: str | None = None
    answered: datetime | None = None
    past_medications: Sequence[Entry] = ()
    known: Collection[tuple[str, str]] = frozenset()
    relative_deciders: int = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says. `evidence` are references, `why` a sentence."""

    rule: str
    title: str
    verdict: Verdict
    severity: Severity
    evidence: tuple[str, ...]
    why: str
    advice: str
    source: str


@dataclass(frozen=True, slots=True)
class Screening:
    """The result: the outcome, every rule's finding in the order of the policy, and until when its answers count."""

    outcome: Outcome
    findings: tuple[Finding, ...]
    valid_until: datetime | None = None


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
    if rule.indication is not None and not _is_indicated(rules.sets[rule.indication], chart):
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
    if rule.age_below is not None:
        return _by_age(name, rule, severity, chart)
    if rule.needed is not None:
        return _by_trials(name, rule, severity, chart, rules)
    return _by_signs(name, rule, severity, chart, rules.sets)


def _by_signs(name: str, rule: ScreeningRule, severity: Severity, chart: Chart, sets: Sets) -> Finding:
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
        return finding_of(name, rule, "not-known", severity, unclear, "It is not known when it began.", chart)
    if not isinstance(answer, bool):
        asked = "" if rule.question is None else f"Question {rule.question.link} is not answered."
        return finding_of(name, rule, "not-known", severity, _suggested(rule, chart, sets), asked, chart)
    return finding_of(name, rule, "clear", severity, _suggested(rule, chart, sets), "Answered.", chart)


def _signs(rule: ScreeningRule, chart: Chart, sets: Sets) -> Iterator[tuple[str, str | None]]:
    """Yield the evidence: reference and the set that it is in; None as set where the record cannot tell."""
    for entry in _counted(chart.conditions):
        for set_ in rule.history:
            if sets[set_].holds(entry.concept):
                yield entry.reference, set_
        for set_ in rule.conditions:
            if is_active(entry.resource) and sets[set_].holds(entry.concept):
                yield entry.reference, set_
        yield from _recent_signs(rule.recent, entry, chart.now, sets)
    for entry in _counted(chart.allergies):
        for set_ in rule.allergies:
            if sets[set_].holds(entry.concept):
                yield entry.reference, set_
    for sign in rule.observations:
        newest = _newest(chart.observations, sign.code)
        if newest is not None and sets[sign.set].holds(newest.resource.get("valueCodeableConcept")):
            yield newest.reference, sign.set


def _recent_signs(recent: Recent | None, entry: Entry, now: datetime, sets: Sets) -> Iterator[tuple[str, str | None]]:
    for set_ in () if recent is None else recent.sets:
        began = sets[set_].holds(entry.concept) and recent is not None and _is_recent(entry.resource, now, recent.days)
        if began is not False:
            yield entry.reference, set_ if began else None


def _suggested(rule: ScreeningRule, chart: Chart, sets: Sets) -> tuple[str, ...]:
    return tuple(
        entry.reference
        for entry in _counted(chart.conditions)
        for set_ in rule.suggests
        if sets[set_].holds(entry.concept)
    )


def _counted(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield what was not refuted or entered in error."""
    for entry in entries:
        doubted = codes_of(entry.resource.get("verificationStatus"), _verification(entry.resource))
        if not {"refuted", "entered-in-error"}.intersection(doubted):
            yield entry


def _verification(resource: Resource) -> str:
    kind = "condition-ver-status" if resource.get("resourceType") == "Condition" else "allergyintolerance-verification"
    return f"http://terminology.hl7.org/CodeSystem/{kind}"


def is_active(condition: Resource) -> bool:
    """Tell whether a Condition is active, or does not say that it is over."""
    status = codes_of(condition.get("clinicalStatus"), "http://terminology.hl7.org/CodeSystem/condition-clinical")
    return not {"inactive", "remission", "resolved"}.intersection(status)


def _is_recent(condition: Resource, now: datetime, days: int) -> bool | None:
    """Tell whether a Condition may have begun within `days` before `now`; None where it does not say when."""
    onset = condition.get("onsetDateTime") or condition.get("onsetPeriod", {}).get("start")
    return None if onset is None else interval(onset)[1] > now - timedelta(days=days)


def _newest(observations: Iterable[Entry], code: str) -> Entry | None:
    found = [
        entry
        for entry in observations
        if entry.resource.get("status") in ("final", "amended", "corrected", "preliminary")
        and any(coding.get("code") == code for coding in (entry.concept or {}).get("coding", []))
        and effective_start(entry.resource) is not None
    ]
    return max(reversed(found), key=lambda entry: effective_start(entry.resource) or MIN_INSTANT, default=None)


def _is_indicated(set_: ValueSet, chart: Chart) -> bool:
    if any(set_.holds(reason) for reason in chart.reasons):
        return True
    return any(set_.holds(entry.concept) and is_active(entry.resource) for entry in _counted(chart.conditions))


def _uncoded(chart: Chart, rules: Rules) -> Iterator[str]:
    """Yield what no rule can read: text, and a code that neither the policy nor the loaded terminology knows."""
    systems = rules.eligibility.coded_systems
    active = [entry for entry in _counted(chart.conditions) if is_active(entry.resource)]
    for entries, read in (
        (active, systems.condition),
        (list(_counted(chart.allergies)), systems.allergy),
        (chart.medications, systems.medication),
    ):
        for entry in entries:
            if not is_coded(entry.concept, read) or not _is_known(entry, chart, rules):
                yield entry.reference


def _is_known(entry: Entry, chart: Chart, rules: Rules) -> bool:
    """Tell whether a code of an entry means something here: to a set of the policy, or to the terminology."""
    codings = [(one.get("system", ""), one.get("code", "")) for one in (entry.concept or {}).get("coding", [])]
    if any(coding in chart.known for coding in codings):
        return True
    if any(set_.holds(entry.concept) for set_ in rules.sets.values()):
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
        for entry in _counted(chart.conditions)
        if is_active(entry.resource) and rules.sets[policy.episode].holds(entry.concept)
    ]
    return trials(chart.past_medications, episode_began(depressions), chart.now, policy)


def _medicines(found: Iterable[Trial], verdict: str) -> frozenset[str]:
    return frozenset(trial.medicine for trial in found if trial.verdict == verdict)


def interactions(chart: Chart, rules: Rules) -> Iterator[Finding]:
    """Yield what the medicines of a chart do beside the drug, and whether the list of them is complete."""
    own = ("ketamine", "esketamine")
    others = [one for one in chart.medications if not any(rules.sets[set_].holds(one.concept) for set_ in own)]
    for name, rule in rules.interactions.items():
        evidence = tuple(
            sorted(
                {
                    entry.reference
                    for entry in others
                    for set_ in rule.medications
                    if rules.sets[set_].holds(entry.concept)
                }
            )
        )
        severity = severity_for(rule.severity, chart.drug, chart.route)
        if evidence:
            why = rule.effect
            if rule.daily is not None:
                amount = _equivalent(others, rule, rules.sets)
                limit = f"{rule.daily.milligrams:f} mg {rule.daily.reference} equivalent a day"
                if amount is None:
                    why = f"{why} How much a day is not recorded, or not for every one; the limit is {limit}."
                elif amount > rule.daily.milligrams:
                    why = f"{why} {amount:.2f} mg {rule.daily.reference} equivalent a day, above the limit of {limit}."
                if amount is None or amount > rule.daily.milligrams:
                    severity = min(severity, rule.daily.severity, key=GRAVEST.index)
            yield finding_of(name, rule, "hit", severity, evidence, why, chart)
    complete: Link = rules.eligibility.medication_list
    if chart.answers.get(complete.link) is not True:
        yield Finding(
            rule="MEDICATION-LIST",
            title="The list of medicines is not confirmed as complete",
            verdict="not-known",
            severity="R",
            evidence=(),
            why=f"Question {complete.link} is not answered with yes.",
            advice="Complete the list of medicines (MedicationStatement) and confirm it.",
            source=complete.source,
        )


def _equivalent(entries: Iterable[Entry], rule: Interaction, sets: Sets) -> Decimal | None:
    """Return the daily mg of the limit's reference that all the medicines of a rule come to; None: not known."""
    total = Decimal()
    for entry in entries:
        if rule.daily is None or not any(sets[set_].holds(entry.concept) for set_ in rule.medications):
            continue
        factor = next((one for set_, one in rule.daily.equivalents.items() if sets[set_].holds(entry.concept)), None)
        milligrams = most_daily_milligrams(entry.resource)
        if factor is None or milligrams is None:
            return None
        total += factor * milligrams
    return total


def finding_of(
    name: str,
    rule: ScreeningRule | Interaction,
    verdict: Verdict,
    severity: Severity,
    evidence: tuple[str, ...],
    why: str,
    chart: Chart,
) -> Finding:
    """Return what a rule says; a finding that enough prescribers decided on, having seen its evidence, is decided."""
    decided = chart.decisions.get(name)
    if verdict == "hit" and decided is not None and decided.evidence.issuperset(evidence):
        needed = deciders(rule.override, chart.drug, chart.route) if severity == "A" else chart.relative_deciders
        if needed and len(decided.prescribers) >= needed:
            verdict = "decided"
    return Finding(name, rule.title, verdict, severity, evidence, why, rule.advice, rule.source)
