"""What a screening judges on, and what each of its rules says: the chart, and the findings.

A finding that enough prescribers decided on, having seen its evidence, is decided.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from services.intake.rules.forms import (
    EligibilityPolicy,
    Interaction,
    ScreeningRule,
    Sets,
    Severity,
    TrialPolicy,
    deciders,
)
from services.intake.rules.trials import Entry
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, codes_of, effective_start, moment

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
class Relative:
    """A FamilyMemberHistory: its reference, who it is about (CodeableConcept), and what that one had or has."""

    reference: str
    relationship: Mapping[str, Any]
    conditions: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Chart:
    """What a screening judges on.

    Attributes:
        patient: the Patient.
        conditions, allergies, observations: of the record; the functions here leave out errors.
        medications: what is taken now, or ordered.
        past_medications: what was taken, whatever its status now; shows antidepressant trials.
        reasons: CodeableConcepts for which the patient was referred; empty for one that is only pointed at elsewhere.
        answers: by linkId, what the newest finished screening questionnaire says.
        answers_reference: that response; None where there is none.
        answered: when; None where there is none.
        drug, route: planned (route a SNOMED CT code); None: not said, then the graver severity counts.
        decisions: by rule, who decided to proceed, and on which evidence.
        family: relatives with their conditions; what is said of none is no answer.
        flags: what this clinic's services, or others, warn of; those that are up count.
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
    flags: Sequence[Entry] = ()
    family: Sequence[Relative] = ()
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


def counted(entries: Iterable[Entry]) -> Iterator[Entry]:
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


def newest_of(observations: Iterable[Entry], code: str) -> Entry | None:
    """Return the newest Observation of a code that says something; None where there is none."""
    found = [
        entry
        for entry in observations
        if entry.resource.get("status") in ("final", "amended", "corrected", "preliminary")
        and any(coding.get("code") == code for coding in (entry.concept or {}).get("coding", []))
    ]
    return max(reversed(found), key=lambda entry: said_at(entry.resource), default=None)


def said_at(observation: Resource) -> datetime:
    """Return when an Observation was true; one that does not say so counts from when it was issued, else written."""
    start = effective_start(observation)
    if start is not None:
        return start
    return moment(observation.get("issued") or observation.get("meta", {}).get("lastUpdated"))


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
