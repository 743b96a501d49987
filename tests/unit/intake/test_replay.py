"""A decision is the same whenever it is made again on what it saw, under the policy it was made under."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from services.intake.rules.eligibility import screen
from services.intake.screening import assessment_of
from services.intake.setting import Setting
from shared.fhir.codes import RXNORM
from shared.runtime.policy import Policy, load_policy
from tests.unit.intake.charts import CHART, HEALTHY, NOW, SETTING, condition, entry, medication, pregnancy

SHIPPED = load_policy()
CODES = sorted({(one.system, one.code) for set_ in SETTING.sets.values() for one in set_.codes if one.code})

conditions = st.lists(
    st.builds(
        lambda code, status: condition(code[1], code[0], status=status),
        st.sampled_from(CODES),
        st.sampled_from(["active", "resolved", "remission"]),
    ),
    max_size=4,
)
charts = st.builds(
    lambda answers, found, taken, allergic, age, pregnant, drug, route: replace(
        CHART,
        answers=answers,
        conditions=tuple(found),
        medications=tuple(medication(code) for code in taken),
        allergies=tuple(entry("AllergyIntolerance", code, RXNORM) for code in allergic),
        observations=tuple(pregnancy(code, "2026-11-01") for code in pregnant),
        answered=NOW - timedelta(days=age),
        drug=drug,
        route=route,
    ),
    st.fixed_dictionaries({}, optional={link: st.sampled_from([True, False, None]) for link in HEALTHY}),
    conditions,
    st.lists(st.sampled_from(["6470", "10438", "36437", "7243", "0"]), max_size=3),
    st.lists(st.sampled_from(["6130", "7980"]), max_size=1),
    st.integers(0, 400),
    st.lists(st.sampled_from(["77386006", "60001007"]), max_size=1),
    st.sampled_from(["ketamine", "esketamine", None]),
    st.sampled_from(["47625008", "37839007", None]),
)


severities = st.dictionaries(
    st.sampled_from(sorted(SHIPPED.sections["eligibility"]["rules"])), st.sampled_from("ARI"), max_size=4
)


def clinics(graver, days):
    """Return the policy of a clinic that sees some things otherwise."""
    eligibility = SHIPPED.sections["eligibility"]
    rules = {
        name: {**rule, "severity": graver[name]} if name in graver else rule
        for name, rule in eligibility["rules"].items()
    }
    changed = {**eligibility, "rules": rules, "answers_age": {**eligibility["answers_age"], "days": days}}
    return Policy("2026.11+clinic", {**SHIPPED.sections, "eligibility": changed})


@settings(max_examples=settings.default.max_examples * 2 // 5, deadline=None)
@given(chart=charts, graver=severities, days=st.integers(1, 400))
def test_a_decision_made_again_under_its_policy_is_the_same(chart, graver, days):
    policy = clinics(graver, days)
    decided = assessment_of(screen(chart, Setting.of(policy).rules), chart, policy)
    kept = Policy.of_content(policy.content)
    assert kept.digest == policy.digest
    again = assessment_of(screen(chart, Setting.of(kept).rules), chart, kept)
    assert again == decided


def test_under_another_policy_it_is_another_and_that_shows():
    policy = clinics({"E01": "I"}, 180)
    chart = replace(CHART, conditions=(condition("67362008"),))
    then, today = screen(chart, Setting.of(policy).rules), screen(chart, SETTING.rules)
    assert (then.outcome, today.outcome) == ("eligible", "needs-decision")
