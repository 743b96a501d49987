"""Who may be treated: every rule of screening, judged on values.

The numbers and codes come from the policy (`policies/eligibility.yaml`, `interactions.yaml`, `value-sets.yaml`). What
is not known is never taken for a no.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal, TypeAlias

import msgspec

from shared.fhir.cited import Cited, ValueSet, is_coded
from shared.fhir.dates import MIN_INSTANT, interval
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, codes_of, effective_start

Severity: TypeAlias = Literal["A", "R", "I"]
Verdict: TypeAlias = Literal["hit", "decided", "not-known", "clear"]
Outcome: TypeAlias = Literal["eligible", "not-eligible", "needs-answers", "needs-decision"]
Sets: TypeAlias = Mapping[str, ValueSet]

GRAVEST: tuple[Severity, ...] = ("A", "R", "I")


# -- the form of the policy -------------------------------------------------------------------------------------------


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item of the screening questionnaire, and the answer that is a hit."""

    link: str
    hit: bool


class Recent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Conditions that count when they began within so many days."""

    sets: tuple[str, ...]
    days: int


class ObservationSign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A LOINC code whose newest coded value counts when it is in a value set."""

    code: str
    set: str


class Needed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An integer answer that must be at least `count`."""

    link: str
    count: int


class ScreeningRule(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule of eligibility. Sets are named as in `value-sets.yaml`.

    `conditions` count while active, `history` also later, `suggests` are shown as evidence but decide nothing.
    `graver` raises the severity when one of its sets is met. `indication`: asked only for that indication.
    """

    title: str
    severity: Severity | dict[Drug, Severity]
    advice: str
    question: Question | None = None
    conditions: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    suggests: tuple[str, ...] = ()
    recent: Recent | None = None
    allergies: tuple[str, ...] = ()
    observations: tuple[ObservationSign, ...] = ()
    graver: dict[str, Severity] = msgspec.field(default_factory=dict)
    age_below: int | None = None
    indication: str | None = None
    needed: Needed | None = None
    uncoded: bool = False


class Interaction(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A medicine that matters beside ketamine."""

    title: str
    severity: Severity
    medications: tuple[str, ...]
    effect: str
    advice: str


class CodedSystems(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The terminologies a rule can read, by kind of entry."""

    condition: tuple[str, ...]
    allergy: tuple[str, ...]
    medication: tuple[str, ...]


class MedicationList(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The item that says that the list of medicines is complete."""

    link: str


class EligibilityPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `eligibility`."""

    coded_systems: CodedSystems
    medication_list: MedicationList
    rules: dict[str, ScreeningRule]


# -- screening --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A coded entry of the record: its reference, its code, the resource."""

    reference: str
    concept: Mapping[str, Any] | None
    resource: Resource


@dataclass(frozen=True, slots=True)
class Chart:
    """What a screening judges on.

    Attributes:
        patient: the Patient.
        conditions, allergies, medications, observations: of the record; the functions here leave out errors.
        reasons: CodeableConcepts for which the patient was referred.
        answers: by linkId, what the newest finished screening questionnaire says.
        answers_reference: that response; None where there is none.
        drug: planned; None: not said, then the graver severity counts.
        decisions: by rule, the evidence that a prescriber saw when he decided to proceed.
        now: the time of the screening.

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
    decisions: Mapping[str, frozenset[str]]
    now: datetime


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
    """The result: the outcome, and every rule's finding in the order of the policy."""

    outcome: Outcome
    findings: tuple[Finding, ...]


def screen(
    chart: Chart, eligibility: EligibilityPolicy, interactions: Mapping[str, Interaction], sets: Sets
) -> Screening:
    """Evaluate every rule.

    Not eligible when something blocks; else not known while an answer is missing; else a decision is needed while a
    relative finding is undecided; else eligible.
    """
    findings = [
        finding
        for name, rule in eligibility.rules.items()
        if (finding := _by_rule(name, rule, chart, eligibility, sets)) is not None
    ]
    findings.extend(_interactions(chart, eligibility.medication_list, interactions, sets))
    return Screening(_outcome(findings), tuple(findings))


def _outcome(findings: Iterable[Finding]) -> Outcome:
    seen = {(finding.verdict, finding.severity) for finding in findings}
    if ("hit", "A") in seen:
        return "not-eligible"
    if any(verdict == "not-known" for verdict, _ in seen):
        return "needs-answers"
    return "needs-decision" if ("hit", "R") in seen else "eligible"


def severity_for(severity: Severity | Mapping[Drug, Severity], drug: Drug | None) -> Severity:
    """Return the severity for the planned drug, the gravest where it is not said."""
    if isinstance(severity, str):
        return severity
    if drug is not None and drug in severity:
        return severity[drug]
    return min(severity.values(), key=GRAVEST.index)


def _by_rule(name: str, rule: ScreeningRule, chart: Chart, policy: EligibilityPolicy, sets: Sets) -> Finding | None:
    severity = severity_for(rule.severity, chart.drug)
    if rule.indication is not None and not _is_indicated(sets[rule.indication], chart):
        return None
    if rule.uncoded:
        found = tuple(_uncoded(chart, policy.coded_systems))
        return _finding(name, rule, "hit" if found else "clear", severity, found, "", chart) if found else None
    if rule.age_below is not None:
        return _by_age(name, rule, severity, chart)
    if rule.needed is not None:
        return _by_count(name, rule, severity, chart)
    return _by_signs(name, rule, severity, chart, sets)


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
        return _finding(name, rule, "hit", severity, evidence, "", chart)
    unclear = tuple(sorted(reference for reference, set_ in signs if set_ is None))
    if unclear:
        return _finding(name, rule, "not-known", severity, unclear, "It is not known when it began.", chart)
    if not isinstance(answer, bool):
        asked = "" if rule.question is None else f"Question {rule.question.link} is not answered."
        return _finding(name, rule, "not-known", severity, _suggested(rule, chart, sets), asked, chart)
    return _finding(name, rule, "clear", severity, _suggested(rule, chart, sets), "Answered.", chart)


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


def _uncoded(chart: Chart, systems: CodedSystems) -> Iterator[str]:
    for entry in _counted(chart.conditions):
        if is_active(entry.resource) and not is_coded(entry.concept, systems.condition):
            yield entry.reference
    for entry in _counted(chart.allergies):
        if not is_coded(entry.concept, systems.allergy):
            yield entry.reference
    for entry in chart.medications:
        if not is_coded(entry.concept, systems.medication):
            yield entry.reference


def _by_age(name: str, rule: ScreeningRule, severity: Severity, chart: Chart) -> Finding:
    evidence = (f"Patient/{chart.patient['id']}",)
    adult = (
        None if rule.age_below is None else is_aged(chart.patient.get("birthDate"), rule.age_below, chart.now.date())
    )
    if adult is None:
        return _finding(
            name, rule, "not-known", severity, evidence, "The date of birth is missing or too rough.", chart
        )
    return _finding(name, rule, "clear" if adult else "hit", severity, evidence, "", chart)


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


def _by_count(name: str, rule: ScreeningRule, severity: Severity, chart: Chart) -> Finding:
    needed = rule.needed
    count = None if needed is None else chart.answers.get(needed.link)
    if needed is None or chart.answers_reference is None or isinstance(count, bool) or not isinstance(count, int):
        link = name if needed is None else needed.link
        return _finding(name, rule, "not-known", severity, (), f"Question {link} is not answered.", chart)
    evidence = (chart.answers_reference,)
    if count < needed.count:
        return _finding(name, rule, "hit", severity, evidence, f"{count} on record, {needed.count} needed.", chart)
    return _finding(name, rule, "clear", severity, evidence, f"{count} on record.", chart)


def _interactions(
    chart: Chart, complete: MedicationList, interactions: Mapping[str, Interaction], sets: Sets
) -> Iterator[Finding]:
    for name, rule in interactions.items():
        evidence = tuple(
            sorted(
                {
                    entry.reference
                    for entry in chart.medications
                    for set_ in rule.medications
                    if sets[set_].holds(entry.concept)
                }
            )
        )
        if evidence:
            yield _finding(name, rule, "hit", rule.severity, evidence, rule.effect, chart)
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


def _finding(
    name: str,
    rule: ScreeningRule | Interaction,
    verdict: Verdict,
    severity: Severity,
    evidence: tuple[str, ...],
    why: str,
    chart: Chart,
) -> Finding:
    decided = chart.decisions.get(name)
    if verdict == "hit" and severity == "R" and decided is not None and decided.issuperset(evidence):
        verdict = "decided"
    return Finding(name, rule.title, verdict, severity, evidence, why, rule.advice, rule.source)
