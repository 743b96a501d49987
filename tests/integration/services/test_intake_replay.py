"""A decision is made again under the policy of its time, and is the same."""

from __future__ import annotations

import pytest

from services.intake.service import intake as intake_service
from shared.fhir import codes
from shared.fhir.outcome import NotFound, Unprocessable
from shared.runtime.policy import load_policy
from tests.integration.services.at_intake import (
    condition,
    latest,
    outcome,
    replayed,
    taking,
)
from tests.integration.services.course import (
    Opened,
    about,
    patient,
    planned,
    screening,
)


async def test_a_decision_made_again_under_its_policy_on_what_it_saw_is_the_same(bench, intake, clock, tmp_path):
    who, _, _ = await planned(intake, clock)
    first = await latest(intake, who)
    clock.forward(days=1)
    found = await intake.create(condition(who, "67362008"))
    second = await latest(intake, who)
    clock.forward(days=1)
    await intake.delete(found)
    await intake.update({**who, "birthDate": "2010-01-01"})
    third = await latest(intake, who)
    for assessment, expected in ((first, "eligible"), (second, "not-eligible"), (third, "not-eligible")):
        again = await replayed(intake, assessment)
        assert (again["same"], again["outcome"]) == (True, expected), again
    assert first["basis"] != second["basis"]


async def test_a_decision_is_made_again_under_the_policy_of_its_time_not_todays(bench, intake, clock, tmp_path):
    who = await intake.create(patient())
    await intake.create(screening(who, clock.now, E08=True))
    assessment = await intake.call("screen", who)
    assert outcome(assessment) == "needs-decision"
    file = tmp_path / "own.yaml"
    file.write_text(
        'version: "1"\nclinic: example\nsections: {eligibility: {rules: {E08: {severity: I}}}}\n', encoding="utf-8"
    )
    newer = intake_service(load_policy(file), clock)
    changed = Opened(newer, intake.store)
    again = await replayed(changed, assessment)
    assert (again["same"], again["outcome"], again["version"]) == (True, "needs-decision", "2026.11.1")
    today = await changed.call("screen", who)
    assert outcome(today) == "eligible"
    again = await replayed(intake, today)
    assert (again["same"], again["outcome"]) == (True, "eligible")
    assert again["version"].startswith("2026.11.1+example.1.")


async def test_a_weakened_rule_stands_on_every_decision(bench, intake, clock, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        'version: "1"\nclinic: example\nsections: {eligibility: {rules: {E12: {severity: R}}}}\n'
        'acknowledged: {eligibility.rules.E12: "A. Lee, 2026-10-01: study"}\n',
        encoding="utf-8",
    )
    weaker = Opened(intake_service(load_policy(file), clock), intake.store)
    who = await weaker.create(patient())
    await weaker.create(screening(who, clock.now, E12=True))
    assessment = await weaker.call("screen", who)
    assert outcome(assessment) == "needs-decision"
    said = {"url": codes.EXT_ACKNOWLEDGED, "valueString": "eligibility.rules.E12: A. Lee, 2026-10-01: study"}
    assert said in assessment["extension"]


async def test_what_is_no_decision_is_not_made_again(intake):
    with pytest.raises(NotFound):
        await intake.call("replay", {"resourceType": "RiskAssessment", "id": "none", "subject": {}})
    who = await intake.create(patient())
    other = await intake.create({"resourceType": "RiskAssessment", "status": "final", "subject": about(who)})
    with pytest.raises(Unprocessable, match="not recorded"):
        await intake.call("replay", other)


async def test_a_decision_on_several_interactions_is_the_same_when_it_is_made_again(intake, clock):
    who = await intake.create(patient())
    for code in ("6470", "10438", "28439"):
        await intake.create(taking(who, code))
    await intake.create(screening(who))
    made = await intake.call("screen", who)
    again = await replayed(intake, made)
    assert (again["same"], again["outcome"]) == (True, "not-eligible"), again
