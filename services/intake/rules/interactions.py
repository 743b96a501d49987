"""What the medicines of a chart do beside the drug, judged on values (`policies/interactions.yaml`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

from services.intake.rules.findings import Chart, Finding, Rules, finding_of
from services.intake.rules.forms import GRAVEST, Interaction, Link, Sets, severity_for
from services.intake.rules.trials import Entry
from shared.fhir.doses import most_daily_milligrams


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
