"""What is marked as verified: only what was read in a source, entry by entry; the rest is for the clinic to check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from shared.runtime.policy import load_policy

SECTIONS = load_policy().sections
OURS = ("outcomes", "escalation", "measures")

READ = {
    # LOINC panel, total, items, answers and severities (loinc.org LL358-3, LL382-3; US Core; cliot)
    *("instruments/phq-9", "instruments/gad-7", "instruments/phq-2", "instruments/phq-9m"),
    # panel and total, the cut of 31 to 33, clusters and the provisional diagnosis
    *("instruments/pcl-5", "instruments/pcl-5.cut", "instruments/pcl-5.findings.0"),
    # panel, items, yes and no, the code of the level
    "instruments/c-ssrs-screener",
    # domains and severities; the six items of the short form
    *("instruments/qids-sr16", "instruments/cadss-6"),
    # panels, totals, cuts; two of three items of the AUDIT-C, severities of the DAST-10
    *("instruments/audit-c", "instruments/audit-c.cut", "instruments/dast-10", "instruments/dast-10.cut"),
    # six answers of which several may hold, no scoring protocol; raw scores and their T-scores
    *("instruments/lec-5", "instruments/promis-global-10.entries.t-scores"),
    # seven days for the form of the REMS
    "measures.measures.rems-timeliness",
}
KNOWLEDGE = (
    *("instruments/phq-9.change", "instruments/phq-9.risk", "instruments/phq-9.worsening"),
    *("instruments/phq-9.entries.within-days", "instruments/phq-2.cut", "instruments/gad-7.change"),
    *("instruments/phq-9m.risk", "instruments/phq-9m.change", "instruments/phq-9m.entries.items-and-answers"),
    *("instruments/pcl-5.change", "instruments/pcl-5.entries.item-codes"),
    *("instruments/c-ssrs-screener.risk", "instruments/c-ssrs-screener.entries.answers-moderate-high"),
    *("instruments/c-ssrs-full", "instruments/c-ssrs-full.risk", "outcomes.look_back"),
    *("instruments/c-ssrs-since-last-contact", "instruments/c-ssrs-since-last-contact.risk"),
    *("instruments/madrs", "instruments/madrs.change", "instruments/madrs.risk"),
    *("instruments/qids-sr16.change", "instruments/qids-sr16.risk"),
    *("instruments/cadss", "instruments/cadss.cut", "instruments/meq-30", "instruments/meq-30.findings.0"),
    *("instruments/audit-c.entries.item-1-code", "instruments/audit-c.entries.item-1-answers"),
    *("instruments/dast-10.entries.item-3-reversed", "instruments/brs", "instruments/promis-global-10"),
    *("instruments/lec-5.entries.counts", "instruments/promis-global-10.entries.below-40"),
    *("instruments/promis-global-10.parts.physical.change", "outcomes.surveillance.spacing-of-sessions"),
    *("instruments/mood", "outcomes.reminders", "outcomes.sustained", "outcomes.baseline"),
    *("outcomes.surveillance.number-of-sessions", "escalation.ladders.suicidality", "measures.small_cells"),
)


def entries(content: object, path: str) -> Iterator[tuple[str, bool]]:
    """Yield the path of every entry that says whether it was verified, and what it says."""
    if isinstance(content, Mapping):
        if "verified" in content:
            yield path, bool(content["verified"])
        for key, value in content.items():
            yield from entries(value, f"{path}.{key}")
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from entries(value, f"{path}.{number}")


MARKS = {
    path: says
    for name, section in SECTIONS.items()
    if name in OURS or name.startswith("instruments/")
    for path, says in entries(section, name)
}


def test_nothing_is_marked_as_verified_that_was_not_read_in_a_source():
    assert {path for path, says in MARKS.items() if says} == READ


@pytest.mark.parametrize("path", KNOWLEDGE)
def test_what_is_general_knowledge_or_a_default_says_so(path):
    assert MARKS[path] is False
