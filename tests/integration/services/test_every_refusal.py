"""Every refusal of intake and scheduling, whatever its status, says its rule, its evidence, its source and what to do.

The table is `refusal_cases.py` and `asked_cases.py`. It is complete by construction: a rule that the source of the two
services can refuse by, or a sentence in which it refuses, fails here as long as no case meets it. What screening finds
refuses by the rules of the policy: `tests/unit/intake/test_every_rule.py` has those.
"""

from __future__ import annotations

import asyncio
import re

import pytest

from services.intake.service import intake as intake_service
from services.scheduling.service import scheduling as scheduling_service
from shared.fhir.codes import RULE
from shared.fhir.outcome import EXT_EVIDENCE, FhirError
from shared.runtime.policy import load_policy
from shared.testing.knowledge import all_is_heard
from shared.testing.refusals import tells_what_to_do
from tests.integration.services.asked_cases import CASES
from tests.integration.services.course import START, Bench, Clock
from tests.integration.services.refusal_cases import At, Sent
from tests.unit.test_refusals import ALL, given_sentences, rules_in_source

STATUS = {"Q-PARAMETER": 400, "Q-HELD": 404, "N-NEWS": 503}
"""Of all others it is 422."""


@pytest.fixture(scope="module")
def met(postgres):
    """What each case was refused with, and the evidence it expects: all of them, on one database a service."""
    return asyncio.run(_met(postgres.make_database))


async def _met(make_database):
    clock = Clock(START)
    bench = Bench(make_database, clock, load_policy())
    found = {}
    try:
        at = At(bench, clock, await bench.open(intake_service), await bench.open(scheduling_service))
        for name, case in CASES.items():
            clock.now = START
            await all_is_heard(at.scheduling.store, at.scheduling.service)
            evidence = Sent("")
            try:
                work, evidence = await case.run(at)
                await work()
            except (Exception, pytest.fail.Exception) as refused:  # noqa: BLE001 - shown by the test of its case
                found[name] = refused, evidence
    finally:
        await bench.close()
    return found


@pytest.mark.parametrize("name", CASES)
def test_each_refusal_names_its_rule_its_evidence_its_source_and_what_to_do(met, name):
    assert name in met, "it was not refused"
    refused, evidence = met[name]
    if not isinstance(refused, FhirError):
        raise refused
    assert refused.status == STATUS.get(CASES[name].rule, 422)
    own = [one for one in refused.as_fhir()["issue"] if coded(one) == CASES[name].rule]
    assert own, [coded(one) for one in refused.as_fhir()["issue"]]
    sent = evidence.words if isinstance(evidence, Sent) else ""
    assert any(sent in one["diagnostics"] for one in own)
    told = [shown for one in own if (shown := evidence_in(one)) or sent]
    assert told, "no evidence"
    assert any(sorted(shown) == sorted([] if sent else evidence) for shown in told), told
    for one in own:
        assert one["severity"] == "error"
        assert one["details"]["text"].startswith("Source: ")
        assert one["expression"]
        assert tells_what_to_do(one["diagnostics"]), one["diagnostics"]


def coded(issue):
    return next((one["code"] for one in issue.get("details", {}).get("coding", []) if one["system"] == RULE), None)


def evidence_in(issue):
    return [one["valueReference"]["reference"] for one in issue.get("extension", []) if one["url"] == EXT_EVIDENCE]


def test_every_rule_that_can_refuse_is_in_the_table():
    assert rules_in_source() - {case.rule for case in CASES.values()} == set()
    assert len(CASES) > 60


def test_every_sentence_in_which_something_is_refused_was_met(met):
    said = [issue.diagnostics for refused, _ in met.values() for issue in getattr(refused, "issues", ())]
    sentences = {(one.where, one.said) for one in ALL if one.literal} | set(given_sentences())
    unmet = {
        where: sentence
        for where, sentence in sentences
        if not any(re.search(pattern_of(sentence), one, re.DOTALL) for one in said)
    }
    assert unmet == {}


def pattern_of(sentence):
    return ".*".join(re.escape(part) for part in sentence.split("·"))
