"""Eligibility rules: each positive by record and by answer, negative, at its boundary, and not known."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.intake.rules.eligibility import is_aged
from services.intake.rules.findings import Decision, Relative
from services.intake.rules.forms import deciders, severity_for
from shared.fhir.codes import ICD10CM, RXNORM, SNOMED
from tests.unit.intake.charts import (
    ASKED,
    HEALTHY,
    NOW,
    ON_THE_DAY,
    RULES,
    SETTING,
    VERIFICATION,
    condition,
    daily,
    entry,
    finding,
    judge,
    medication,
    pregnancy,
    trial,
)


def test_who_answered_everything_and_has_nothing_on_record_is_eligible():
    result = judge()
    assert result.outcome == "eligible"
    assert {one.verdict for one in result.findings} == {"clear"}


@pytest.mark.parametrize("rule", sorted(ASKED))
def test_each_rule_is_hit_by_its_answer(rule):
    result = judge(answers={**HEALTHY, ASKED[rule].link: ASKED[rule].hit})
    found = finding(result, rule)
    assert (found.verdict, found.evidence) == ("hit", ("QuestionnaireResponse/q",))
    expected = {"A": "not-eligible", "R": "needs-decision", "I": "eligible"}
    assert result.outcome == expected[found.severity]
    assert found.source
    assert found.advice


@pytest.mark.parametrize("rule", sorted(ASKED))
def test_each_rule_without_an_answer_is_not_known_and_never_eligible(rule):
    answers = {link: value for link, value in HEALTHY.items() if link != ASKED[rule].link}
    result = judge(answers=answers)
    assert finding(result, rule).verdict == "not-known"
    assert result.outcome == "needs-answers"


@pytest.mark.parametrize("answer", ["no", 0, 1, None])
def test_an_answer_that_is_no_yes_or_no_is_not_known(answer):
    assert finding(judge(answers={**HEALTHY, "E01": answer}), "E01").verdict == "not-known"


def coded():
    for name, rule in RULES.items():
        for set_ in (*rule.conditions, *rule.history):
            for term in SETTING.sets[set_].codes:
                yield name, set_, term.system, term.code or f"{term.prefix}.9"


@pytest.mark.parametrize(("rule", "set_", "system", "code"), list(coded()))
def test_each_rule_is_hit_by_every_code_of_its_sets_though_the_answer_was_no(rule, set_, system, code):
    found = finding(judge(conditions=(condition(code, system),)), rule)
    assert found.verdict == "hit"
    assert found.evidence == (f"Condition/{code}",)


@pytest.mark.parametrize("status", ["resolved", "inactive", "remission"])
def test_a_condition_that_is_over_counts_where_history_does_only(status):
    past = (condition("67362008", status=status), condition("231494001", status=status))
    result = judge(conditions=past)
    assert finding(result, "E01").verdict == "hit"
    assert finding(result, "E09").verdict == "clear"


def test_a_condition_without_a_status_counts_as_active():
    assert finding(judge(conditions=(entry("Condition", "231494001"),)), "E09").verdict == "hit"


@pytest.mark.parametrize("doubt", ["refuted", "entered-in-error"])
def test_a_refuted_or_erroneous_entry_does_not_count(doubt):
    refuted = condition("67362008", verificationStatus={"coding": [{"system": VERIFICATION, "code": doubt}]})
    assert judge(conditions=(refuted,)).outcome == "eligible"


@pytest.mark.parametrize("rule", ["E01", "E02", "E03"])
@pytest.mark.parametrize(
    ("drug", "route", "severity"),
    [
        ("esketamine", "46713006", "A"),
        ("esketamine", None, "A"),
        ("ketamine", "47625008", "A"),
        ("ketamine", "78421000", "A"),
        ("ketamine", "37839007", "R"),
        ("ketamine", "26643006", "R"),
        ("ketamine", None, "A"),
        (None, None, "A"),
        (None, "37839007", "A"),
    ],
)
def test_a_vessel_at_risk_is_as_grave_as_drug_and_route_make_it_the_gravest_when_it_is_not_said(
    rule, drug, route, severity
):
    answers = {**HEALTHY, rule: True}
    assert finding(judge(drug=drug, route=route, answers=answers), rule).severity == severity


def test_a_severity_that_does_not_depend_on_the_drug_stays():
    assert severity_for("R", None) == "R"
    assert severity_for({"ketamine": "I"}, "esketamine") == "I"


def test_how_many_prescribers_decide_past_an_absolute_finding_is_policy_and_nobody_where_it_says_nothing():
    assert deciders({}, "ketamine", None) == 0
    assert deciders({"ketamine": 2}, "ketamine", "47625008") == 2
    assert deciders({"ketamine": 2}, "esketamine", None) == 0
    assert deciders({"ketamine": 2}, None, None) == 0
    assert deciders({"ketamine": 2, "ketamine/47625008": 3}, "ketamine", None) == 3


def test_e04_is_hit_by_an_allergy_on_record():
    allergy = entry("AllergyIntolerance", "6130", RXNORM)
    assert finding(judge(allergies=(allergy,)), "E04").verdict == "hit"
    assert finding(judge(allergies=(entry("AllergyIntolerance", "7980", RXNORM),)), "E04").verdict == "clear"


@pytest.mark.parametrize(("days", "verdict"), [(0, "hit"), (41, "hit"), (43, "clear"), (400, "clear")])
def test_e05_counts_an_infarction_of_the_last_six_weeks(days, verdict):
    onset = (NOW - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert finding(judge(conditions=(condition("22298006", onsetDateTime=onset),)), "E05").verdict == verdict


@pytest.mark.parametrize(("onset", "verdict"), [("2026", "hit"), ("2026-10", "hit"), ("2025", "clear")])
def test_e05_takes_a_rough_date_at_its_latest(onset, verdict):
    assert finding(judge(conditions=(condition("22298006", onsetDateTime=onset),)), "E05").verdict == verdict


def test_e05_does_not_know_an_infarction_without_a_date():
    found = finding(judge(conditions=(condition("22298006"),)), "E05")
    assert (found.verdict, found.evidence) == ("not-known", ("Condition/22298006",))


def test_e05_lets_a_controlled_hypertension_pass_but_shows_it():
    found = finding(judge(conditions=(condition("38341003"),)), "E05")
    assert (found.verdict, found.evidence) == ("clear", ("Condition/38341003",))


@pytest.mark.parametrize(("code", "severity"), [("66590003", "R"), ("724715004", "A")])
def test_e10_is_graver_for_ketamine_itself(code, severity):
    found = finding(judge(conditions=(condition(code),)), "E10")
    assert (found.verdict, found.severity) == ("hit", severity)


def test_e12_believes_the_newest_pregnancy_status():
    pregnant, not_pregnant = pregnancy("77386006", "2026-10-01"), pregnancy("60001007", "2026-11-01")
    assert finding(judge(observations=(pregnant,)), "E12").verdict == "hit"
    assert finding(judge(observations=(not_pregnant, pregnant)), "E12").verdict == "clear"
    wrong = pregnancy("77386006", "2026-11-20", status="entered-in-error")
    assert finding(judge(observations=(not_pregnant, wrong)), "E12").verdict == "clear"


@pytest.mark.parametrize(
    ("born", "verdict"),
    [
        ("2008-11-22", "clear"),
        ("2008-11-23", "hit"),
        ("2008-11", "not-known"),
        ("2008", "not-known"),
        ("2007", "clear"),
        ("2009", "hit"),
        (None, "not-known"),
    ],
)
def test_e13_counts_years_to_the_day_and_does_not_guess(born, verdict):
    patient = {"id": "ada"} if born is None else {"id": "ada", "birthDate": born}
    result = judge(patient=patient)
    assert finding(result, "E13").verdict == verdict
    assert (result.outcome == "eligible") is (verdict == "clear")


def test_who_was_born_on_29_february_is_of_age_on_1_march():
    born = "2008-02-29"
    assert is_aged(born, 18, datetime(2026, 2, 28, tzinfo=UTC).date()) is False
    assert is_aged(born, 18, datetime(2026, 3, 1, tzinfo=UTC).date()) is True


TRD = condition("1153570009", onsetDateTime="2025-01-01")


SERTRALINE, VENLAFAXINE = trial(), trial("39786", 150, "2025-06-01", "2025-09-01")


@pytest.mark.parametrize(
    ("past", "said", "verdict"),
    [
        ((SERTRALINE, VENLAFAXINE), None, "clear"),
        ((SERTRALINE, VENLAFAXINE), 0, "clear"),
        ((SERTRALINE,), 1, "hit"),
        ((SERTRALINE,), 2, "not-known"),
        ((), 2, "not-known"),
        ((), 1, "hit"),
        ((), None, "not-known"),
        ((SERTRALINE,), None, "not-known"),
        ((SERTRALINE, trial()), 1, "hit"),  # twice the same medicine is one
        ((SERTRALINE, trial("39786", 149)), 1, "hit"),
        ((SERTRALINE, trial("39786", 150, "2025-06-01", "2025-07-14")), 1, "clear"),  # 42 days after the day it began
        ((SERTRALINE, trial("39786", 150, "2025-06-01", "2025-07-13")), 1, "hit"),
        ((SERTRALINE, trial("39786", None)), 1, "not-known"),
        ((SERTRALINE, trial("39786", 150, None, None)), 1, "not-known"),
        ((SERTRALINE, trial("39786", 150, "2024-02-01", "2024-12-01")), 1, "hit"),  # before this episode
        ((SERTRALINE, trial("39786", 150, status="not-taken")), 1, "hit"),
        ((SERTRALINE, trial("39786", 150, "2026-11-01", None, status="active")), 1, "hit"),  # three weeks so far
        ((SERTRALINE, trial("39786", 150, "2026-09-01", None, status="active")), 1, "clear"),
        ((trial(None, 10, text="Escitalopram 10 mg"),), 1, "hit"),  # is not citalopram, too
    ],
)
def test_e24_counts_the_adequate_trials_on_record(past, said, verdict):
    answers = HEALTHY if said is None else {**HEALTHY, "E24": said}
    result = judge(drug="esketamine", conditions=(TRD,), past_medications=past, answers=answers)
    found = finding(result, "E24")
    assert found.verdict == verdict, found.why
    assert {one.reference for one in past if one.resource["status"] != "not-taken"} <= {*found.evidence}
    expected = {"clear": "eligible", "hit": "not-eligible", "not-known": "needs-answers"}
    assert result.outcome == expected[verdict]


@pytest.mark.parametrize(
    ("ordered", "verdict"),
    [
        ({"intent": "order"}, "clear"),
        ({"intent": "proposal"}, "hit"),
        ({"intent": "plan"}, "hit"),
        ({"intent": "order", "doNotPerform": True}, "hit"),
    ],
)
def test_e24_counts_no_order_that_was_never_meant(ordered, verdict):
    requested = replace(VENLAFAXINE, resource={**VENLAFAXINE.resource, "resourceType": "MedicationRequest", **ordered})
    result = judge(conditions=(TRD,), past_medications=(SERTRALINE, requested), answers={**HEALTHY, "E24": 1})
    assert finding(result, "E24").verdict == verdict


def test_e24_shows_its_working():
    past = (SERTRALINE, trial("39786", 75), trial("72625", None))
    why = finding(judge(conditions=(TRD,), past_medications=past), "E24").why
    assert "1 adequate on record, 2 needed" in why
    assert "sertraline 100 mg/day for 12.6 weeks: adequate" in why
    assert "venlafaxine 75 mg/day: too low; at least 150 mg/day for 6 weeks" in why
    assert "duloxetine dose not recorded" in why


@pytest.mark.parametrize("drug", ["ketamine", "esketamine"])
def test_e24_is_required_for_esketamine_and_a_decision_for_ketamine(drug):
    result = judge(drug=drug, conditions=(TRD,), answers={**HEALTHY, "E24": 1})
    assert result.outcome == ("not-eligible" if drug == "esketamine" else "needs-decision")


@pytest.mark.parametrize("rule", sorted(ON_THE_DAY))
def test_what_belongs_to_the_day_of_the_dose_is_asked_on_that_day_only(rule):
    question = ON_THE_DAY[rule]
    assert finding(judge(), rule) is None
    assert finding(judge(answers={**HEALTHY, "DAY": True}), rule).verdict == "not-known"
    fine = {**HEALTHY, "DAY": True, "E11": False, "E25": True}
    assert judge(answers=fine).outcome == "eligible"
    hit = judge(answers={**fine, question.link: question.hit})
    assert (finding(hit, rule).verdict, hit.outcome) == ("hit", "not-eligible")
    earlier = judge(answers={**fine, question.link: question.hit}, answered=NOW - timedelta(days=1))
    assert finding(earlier, rule) is None


@pytest.mark.parametrize(("days", "outcome"), [(0, "eligible"), (179, "eligible"), (180, "needs-answers")])
def test_answers_grow_too_old(days, outcome):
    result = judge(answered=NOW - timedelta(days=days))
    assert result.outcome == outcome
    assert result.valid_until == NOW + timedelta(days=180 - days)


def test_an_old_yes_still_counts():
    result = judge(answers={**HEALTHY, "E12": True}, answered=NOW - timedelta(days=999))
    assert result.outcome == "not-eligible"


def test_e24_is_only_asked_for_its_indication():
    assert finding(judge(), "E24") is None
    reason = {"text": "Treatment-resistant depression"}
    assert finding(judge(reasons=(reason,)), "E24").verdict == "not-known"


def test_text_that_no_rule_can_read_asks_a_person():
    result = judge(conditions=(condition(text="some heart trouble"),))
    assert finding(result, "UNCODED").evidence == ("Condition/some heart trouble",)
    assert result.outcome == "needs-decision"
    local = judge(medications=(entry("MedicationStatement", "x1", "urn:local"),))
    assert local.outcome == "needs-decision"


def test_text_with_a_known_word_is_a_hit():
    assert finding(judge(conditions=(condition(text="Aortic ANEURYSM 4 cm"),)), "E01").verdict == "hit"


def interacting():
    for name, rule in SETTING.rules.interactions.items():
        for set_ in rule.medications:
            for term in SETTING.sets[set_].codes:
                yield name, medication(term.code)
            for word in SETTING.sets[set_].words:
                yield name, medication(text=f"{word.title()} 10 mg")


@pytest.mark.parametrize(("rule", "taken"), list(interacting()))
def test_each_interaction_is_found_by_code_and_by_word(rule, taken):
    found = finding(judge(medications=(taken,)), rule)
    assert (found.verdict, found.evidence) == ("hit", (taken.reference,))


def test_theophylline_blocks():
    assert judge(medications=(medication("10438"),)).outcome == "not-eligible"


@pytest.mark.parametrize(
    ("taken", "severity"),
    [
        ((daily("6470", 1, 3),), "I"),
        ((daily("6470", 1.01, 3),), "R"),
        ((daily("3322", 30),), "I"),
        ((daily("3322", 31),), "R"),
        ((daily("596", 0.5, 3),), "I"),
        ((daily("6470", 2), daily("3322", 20)), "R"),
        ((daily("6470", 2, asNeededBoolean=True), daily("3322", 20)), "R"),
        ((medication("6470"),), "R"),
    ],
)
def test_a_benzodiazepine_informs_up_to_its_daily_limit_and_beyond_or_unknown_a_prescriber_decides(taken, severity):
    result = judge(medications=taken)
    assert finding(result, "I-BENZODIAZEPINE").severity == severity
    assert result.outcome == ("eligible" if severity == "I" else "needs-decision")


def test_the_drug_itself_is_no_interaction():
    own = (medication(text="Esketamine nasal spray"), medication("6130"))
    assert finding(judge(medications=own), "I-NASAL") is None


def test_another_medicine_is_no_interaction():
    result = judge(medications=(medication("36437"),))
    assert {one.verdict for one in result.findings} == {"clear"}


@pytest.mark.parametrize("answer", [False, None])
def test_an_incomplete_list_of_medicines_is_not_known(answer):
    result = judge(answers={**HEALTHY, "MED": answer})
    assert finding(result, "MEDICATION-LIST").verdict == "not-known"
    assert result.outcome == "needs-answers"


def decided(*references, by=("Practitioner/a",)):
    return {"E01": Decision(frozenset(references), frozenset(by))}


def test_a_decision_counts_for_the_evidence_that_was_seen():
    aneurysm = condition("67362008")
    seen = decided(aneurysm.reference)
    assert judge(conditions=(aneurysm,), decisions=seen).outcome == "eligible"
    assert judge(conditions=(aneurysm, condition("432119003")), decisions=seen).outcome == "needs-decision"


@pytest.mark.parametrize(
    ("by", "outcome"),
    [
        (("Practitioner/a", "Practitioner/b"), "eligible"),
        (("Practitioner/a",), "not-eligible"),
        ((), "not-eligible"),
    ],
)
def test_past_some_absolute_findings_two_prescribers_decide_together(by, outcome):
    aneurysm = condition("67362008")
    result = judge(route="47625008", conditions=(aneurysm,), decisions=decided(aneurysm.reference, by=by))
    assert result.outcome == outcome


def test_what_blocks_cannot_be_decided_away():
    aneurysm = condition("67362008")
    seen = decided(aneurysm.reference, by=("Practitioner/a", "Practitioner/b", "Practitioner/c"))
    assert judge(drug="esketamine", conditions=(aneurysm,), decisions=seen).outcome == "not-eligible"


codes = st.sampled_from([(code, system) for _, _, system, code in coded()])
answers = st.fixed_dictionaries({}, optional={link: st.sampled_from([True, False, None]) for link in HEALTHY})


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(answers=answers, found=st.lists(codes, max_size=3), drug=st.sampled_from(["ketamine", "esketamine", None]))
def test_eligible_means_that_everything_was_answered_and_nothing_stands_against_it(answers, found, drug):
    result = judge(answers=answers, conditions=tuple(condition(*one) for one in found), drug=drug)
    verdicts = {(one.verdict, one.severity) for one in result.findings}
    if result.outcome == "eligible":
        assert all(answers.get(link) is not None for link in HEALTHY)
        assert ("hit", "A") not in verdicts
        assert ("hit", "R") not in verdicts
        assert "not-known" not in {verdict for verdict, _ in verdicts}
    else:
        assert verdicts - {("clear", severity) for severity in "ARI"}


@settings(max_examples=100)
@given(found=st.lists(codes, max_size=3), more=codes)
def test_another_finding_never_makes_anybody_more_eligible(found, more):
    order = ["eligible", "needs-decision", "needs-answers", "not-eligible"]
    before = judge(conditions=tuple(condition(*one) for one in found))
    after = judge(conditions=tuple(condition(*one) for one in [*found, more]))
    assert order.index(after.outcome) >= order.index(before.outcome)


def test_icd_prefixes_hold_their_children_only():
    assert SETTING.sets["aneurysm"].holds({"coding": [{"system": ICD10CM, "code": "I71.4"}]})
    assert not SETTING.sets["aneurysm"].holds({"coding": [{"system": ICD10CM, "code": "I70.0"}]})
    assert not SETTING.sets["aneurysm"].holds({"coding": [{"system": SNOMED, "code": "I71.4"}]})


def test_the_questionnaire_asks_what_the_rules_need():
    import json

    from shared.runtime.policy import FOLDER

    items = json.loads((FOLDER / "questionnaires" / "kap-screening.json").read_text(encoding="utf-8"))["item"]
    needed = {rule.needed.link for rule in RULES.values() if rule.needed is not None}
    asked = {item["linkId"]: item for item in items}
    assert {link for link, item in asked.items() if item["type"] != "text"} == {
        *HEALTHY,
        *needed,
        *(question.link for question in ON_THE_DAY.values()),
        "DAY",
        "TRD",
    }
    only_when = {
        link: [one["question"] for one in item["enableWhen"]] for link, item in asked.items() if "enableWhen" in item
    }
    assert only_when.pop("E24") == ["TRD"]
    assert [only_when.pop(link) for link in ("E11", "E25")] == [["DAY"], ["DAY"]]
    assert only_when == {f"{one[0]}-DETAIL": one for one in only_when.values()}, "what a yes is about"
    assert not any(item["required"] for link, item in asked.items() if link.endswith("-DETAIL"))
    assert not any(item["text"].isupper() or len(item["text"]) > 200 for item in items)


ROLE = "http://terminology.hl7.org/CodeSystem/v3-RoleCode"


def relative(who, *conditions):
    """Return a relative with conditions; `who` as the terminology gives it, with the codes above it."""
    codings = [{"system": ROLE, "code": one} for one in who.split()]
    return Relative(
        f"FamilyMemberHistory/{who}", {"coding": codings} if codings else {"text": "a relative"}, conditions
    )


def icd(code):
    return {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": code}]}


@pytest.mark.parametrize(
    ("one", "psychosis", "unread"),
    [
        (relative("MTH PRN", icd("F20.9")), "hit", False),
        (relative("NBRO BRO SIB", icd("I71.4"), icd("F25.0")), "hit", False),
        (relative("", icd("F20.9")), "hit", False),  # nobody reads who it is: it may be the mother
        (relative("", {"text": "schizophrenia"}), "hit", True),
        (relative("STPFTH FTH PRN", icd("F20.9")), "clear", False),
        (relative("AUNT EXT", {"text": "some illness"}), "clear", False),
        (relative("MTH PRN", {"text": "some illness"}), "clear", True),
        (relative("MTH PRN", icd("Z99.9")), "clear", True),
        (relative("MTH PRN"), "clear", False),
    ],
)
def test_what_is_recorded_of_a_relative_counts_by_code_and_what_nobody_reads_asks_a_person(one, psychosis, unread):
    found = judge(family=[one])
    assert finding(found, "E08").verdict == psychosis
    assert (finding(found, "UNCODED") is not None) is unread
    assert psychosis == "clear" or finding(found, "E08").evidence == (one.reference,)


@pytest.mark.parametrize("family", [[], [relative("MTH PRN")]])
def test_a_family_of_which_nothing_is_recorded_is_no_answer(family):
    assert finding(judge(family=family, answers={**HEALTHY, "E08": None}), "E08").verdict == "not-known"
