"""Every rule of eligibility and every interaction: a positive, a negative, a boundary and a "not known" case.

The cases stand in tables, one row a case; a rule of the policy that lacks one of the four fails the first test.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from services.intake.rules.orders import check_screened
from services.intake.rules.trials import Entry
from shared.fhir.codes import ICD10CM, KAP, LOINC, RXNORM, SNOMED, UCUM
from shared.testing.refusals import tells_what_to_do
from tests.unit.intake.charts import (
    HEALTHY,
    NOW,
    RULES,
    SETTING,
    condition,
    daily,
    entry,
    finding,
    judge,
    medication,
    pregnancy,
    trial,
)

KINDS = ("positive", "negative", "boundary", "not known")


class Case(NamedTuple):
    """One case: what is on the chart, and the verdict it leads to (None: the rule is not asked)."""

    kind: str
    what: str
    chart: dict[str, Any]
    verdict: str | None


def said(**answers):
    return {"answers": {**HEALTHY, **answers}}


def unsaid(link):
    return {"answers": {key: value for key, value in HEALTHY.items() if key != link}}


def held(*conditions):
    return {"conditions": conditions}


def old(days, **answers):
    return {**said(**answers), "answered": NOW - timedelta(days=days)}


def on_the_day(**answers):
    return (
        said(DAY=True, E11=False, E25=True, **answers)
        if not answers
        else {**said(**{"DAY": True, "E11": False, "E25": True, **answers})}
    )


def onset(days):
    return (NOW - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def spray_for(*code, **more):
    return {"drug": "esketamine", "conditions": (condition(*code, **more),)}


def undated(code):
    made = pregnancy(code, "2026-10-01")
    return replace(made, resource={name: value for name, value in made.resource.items() if name != "effectiveDateTime"})


def raised(code, system=KAP, status="active"):
    concept = {"coding": [{"system": system, "code": code}]}
    return {"flags": (Entry("Flag/risk", concept, {"resourceType": "Flag", "status": status, "code": concept}),)}


def urine(code, when):
    made = pregnancy(code, when)
    return replace(made, concept={"coding": [{"system": LOINC, "code": "2106-3"}]})


PTSD = {"coding": [{"system": SNOMED, "code": "47505003"}]}


def mass_index(value, unit="kg/m2", when="2026-11-20", **more):
    """Return a body mass index; `unit` None: as people write it, without a code."""
    coded = {"system": UCUM, "code": unit} if unit else {}
    quantity = {"value": Decimal(str(value)), "unit": unit or "kg/m\u00b2", **coded, **more}
    resource = {"resourceType": "Observation", "status": "final", **({"effectiveDateTime": when} if when else {})}
    concept = {"coding": [{"system": LOINC, "code": "39156-5"}]}
    return {"observations": (Entry("Observation/bmi", concept, {**resource, "valueQuantity": quantity}),)}


TRD = condition("1153570009", onsetDateTime="2025-01-01")
SERTRALINE = trial()


def second(**more):
    return {"conditions": (TRD,), "past_medications": (SERTRALINE, trial("39786", 150, **more)), **said(E24=1)}


def by_answer(rule, *, hit=True):
    """Return the cases that every question has: yes, no, not answered; and how long an answer counts."""
    link = RULES[rule].question.link
    return [
        Case("positive", "answered so that it applies", said(**{link: hit}), "hit"),
        Case("negative", "answered so that it does not", said(**{link: not hit}), "clear"),
        Case("boundary", "an old answer that it applies counts for ever", old(10_000, **{link: hit}), "hit"),
        Case("not known", "not answered", unsaid(link), "not-known"),
        Case("not known", "answered with neither yes nor no", said(**{link: "no"}), "not-known"),
    ]


CASES: dict[str, list[Case]] = {
    "E01": [
        Case("boundary", "I71.9 is one", held(condition("I71.9", ICD10CM)), "hit"),
        Case("boundary", "I70.0 is none", held(condition("I70.0", ICD10CM)), "clear"),
        Case("boundary", "one that is resolved counts", held(condition("67362008", status="resolved")), "hit"),
    ],
    "E02": [Case("boundary", "one that is resolved counts", held(condition("234142008", status="resolved")), "hit")],
    "E03": [
        Case("boundary", "I61 is one", held(condition("I61.1", ICD10CM)), "hit"),
        Case("boundary", "I63 is none", held(condition("I63.9", ICD10CM)), "clear"),
    ],
    "E04": [
        Case("boundary", "to the drug", {"allergies": (entry("AllergyIntolerance", "6130", RXNORM),)}, "hit"),
        Case("boundary", "to penicillin", {"allergies": (entry("AllergyIntolerance", "7980", RXNORM),)}, "clear"),
    ],
    "E05": [
        Case("boundary", "41 days ago", held(condition("22298006", onsetDateTime=onset(41))), "hit"),
        Case("boundary", "43 days ago", held(condition("22298006", onsetDateTime=onset(43))), "clear"),
        Case("not known", "an infarction without a date", held(condition("22298006")), "not-known"),
    ],
    "E06": [
        Case("boundary", "active", held(condition("271719001")), "hit"),
        Case("boundary", "resolved", held(condition("271719001", status="resolved")), "clear"),
    ],
    "E07": [
        Case("boundary", "schizophrenia in remission counts", held(condition("58214004", status="remission")), "hit"),
        Case(
            "boundary",
            "a refuted one does not",
            held(
                condition(
                    "58214004",
                    verificationStatus={
                        "coding": [
                            {"system": "http://terminology.hl7.org/CodeSystem/condition-ver-status", "code": "refuted"}
                        ]
                    },
                )
            ),
            "clear",
        ),
    ],
    "E08": [Case("boundary", "psychosis of his own is another rule", held(condition("58214004")), "clear")],
    "E09": [
        Case("boundary", "mania now", held(condition("231494001")), "hit"),
        Case("boundary", "mania in remission", held(condition("231494001", status="remission")), "clear"),
        Case("boundary", "bipolar, depressed, with psychotic features", held(condition("F31.5", ICD10CM)), "hit"),
        Case("boundary", "bipolar, depressed, without them", held(condition("F31.4", ICD10CM)), "clear"),
    ],
    "E10": [
        Case("boundary", "alcohol dependence, active", held(condition("66590003")), "hit"),
        Case("boundary", "alcohol dependence, in remission", held(condition("66590003", status="remission")), "clear"),
        Case("boundary", "tobacco does not count", held(condition("F17.210", ICD10CM)), "clear"),
        *(
            Case("boundary", f"dependence {code}", held(condition(f"{code}0", ICD10CM)), "hit")
            for code in ("F10.2", "F11.2", "F12.2", "F13.2", "F14.2", "F15.2", "F16.2", "F18.2", "F19.2")
        ),
    ],
    "E11": [
        Case("positive", "intoxicated today", on_the_day(E11=True), "hit"),
        Case("negative", "sober today", on_the_day(), "clear"),
        Case(
            "boundary",
            "answered yesterday it is not asked",
            {**on_the_day(E11=True), "answered": NOW - timedelta(days=1)},
            None,
        ),
        Case("boundary", "before the day it is not asked", said(E11=True), None),
        Case("not known", "not answered on the day", said(DAY=True, E25=True), "not-known"),
    ],
    "E12": [
        Case(
            "boundary",
            "the newest status is pregnant",
            {"observations": (pregnancy("60001007", "2026-10-01"), pregnancy("77386006", "2026-10-02"))},
            "hit",
        ),
        Case(
            "boundary",
            "the newest status is not",
            {"observations": (pregnancy("77386006", "2026-10-01"), pregnancy("60001007", "2026-10-02"))},
            "clear",
        ),
        *(
            Case(
                "not known",
                f"a status that nothing reads, {code}",
                {"observations": (older, pregnancy(code, "2026-10-03"))},
                "not-known",
            )
            for older in (pregnancy("60001007", "2026-10-01"), pregnancy("77386006", "2026-10-02"))
            for code in ("LA15173-0", "UNK", "146799005")
        ),
        Case(
            "not known",
            "a urine test of another word",
            {"observations": (urine("419984006", "2026-11-20"),)},
            "not-known",
        ),
        Case("boundary", "a positive urine test", {"observations": (urine("10828004", "2026-11-20"),)}, "hit"),
        Case(
            "boundary",
            "a negative one after it",
            {"observations": (urine("10828004", "2026-11-20"), urine("260385009", "2026-11-21"))},
            "clear",
        ),
        Case("boundary", "a positive urine test as a finding", held(condition("167252002")), "hit"),
        Case("positive", "a positive status of no date", {"observations": (undated("77386006"),)}, "hit"),
        Case("not known", "a negative status of no date", {"observations": (undated("60001007"),)}, "not-known"),
        Case("boundary", "breastfeeding", held(condition("Z39.1", ICD10CM)), "hit"),
    ],
    "E13": [
        Case("positive", "a child", {"patient": {"id": "ada", "birthDate": "2015-01-01"}}, "hit"),
        Case("negative", "an adult", {"patient": {"id": "ada", "birthDate": "1980-01-01"}}, "clear"),
        Case("boundary", "18 today", {"patient": {"id": "ada", "birthDate": "2008-11-22"}}, "clear"),
        Case("boundary", "18 tomorrow", {"patient": {"id": "ada", "birthDate": "2008-11-23"}}, "hit"),
        Case("not known", "the year alone", {"patient": {"id": "ada", "birthDate": "2008"}}, "not-known"),
        Case("not known", "no date of birth", {"patient": {"id": "ada"}}, "not-known"),
    ],
    "E14": [Case("boundary", "one that is treated passes, and is shown", held(condition("34486009")), "clear")],
    "E15": [
        Case("boundary", "active", held(condition("392291006")), "hit"),
        Case("boundary", "resolved", held(condition("392291006", status="resolved")), "clear"),
    ],
    "E16": [],
    "E17": [
        Case(
            "boundary",
            "one that is not severe passes, and is shown",
            {**held(condition("78275009")), **mass_index(22)},
            "clear",
        ),
        Case("not known", "and no body mass index on record", held(condition("78275009")), "not-known"),
        Case("boundary", "more than 35", {**held(condition("78275009")), **mass_index(35, comparator=">")}, "hit"),
        Case(
            "not known", "more than 30", {**held(condition("78275009")), **mass_index(30, comparator=">")}, "not-known"
        ),
        Case("boundary", "less than 35", {**held(condition("78275009")), **mass_index(35, comparator="<")}, "clear"),
        Case(
            "boundary", "in the unit as people write it", {**held(condition("78275009")), **mass_index(35, None)}, "hit"
        ),
        Case("boundary", "beside a body mass index of 35", {**held(condition("78275009")), **mass_index(35)}, "hit"),
        Case("boundary", "beside one below", {**held(condition("78275009")), **mass_index("34.9")}, "clear"),
        Case("boundary", "a body mass index of 40 alone", mass_index(40), "clear"),
        Case("not known", "in another unit", {**held(condition("78275009")), **mass_index(35, "1")}, "not-known"),
        Case("boundary", "in another unit, without sleep apnoea", mass_index(35, "1"), "clear"),
        Case("boundary", "lung disease that is there", held(condition("J44.9", ICD10CM)), "hit"),
    ],
    "E18": [Case("boundary", "one that is over counts", held(condition("38822007", status="resolved")), "hit")],
    "E19": [Case("boundary", "one under control passes, and is shown", held(condition("128613002")), "clear")],
    "E20": [Case("boundary", "inactive counts", held(condition("418470004", status="inactive")), "hit")],
    "E21": [Case("boundary", "one who cooperates passes, and is shown", held(condition("20010003")), "clear")],
    "E22": [
        Case("positive", "a C-SSRS of high risk, though the answer was no", raised("suicide-risk-high"), "hit"),
        Case("positive", "suicide precautions of another system", raised("10029008", SNOMED), "hit"),
        Case("boundary", "a C-SSRS of moderate risk", raised("suicide-risk-moderate"), "clear"),
        Case("boundary", "a Flag that came down", raised("suicide-risk-high", status="inactive"), "clear"),
        Case("boundary", "the same code of another system", raised("suicide-risk-high", SNOMED + "x"), "clear"),
        Case("negative", "another Flag", raised("eligibility-lost"), "clear"),
    ],
    "E23": [],
    "E24": [
        Case(
            "positive",
            "one trial, and the patient says one",
            {"conditions": (TRD,), "past_medications": (SERTRALINE,), **said(E24=1)},
            "hit",
        ),
        Case("negative", "two adequate trials", second(start="2025-06-01", end="2025-09-01"), "clear"),
        Case("boundary", "six weeks to the day", second(start="2025-06-01", end="2025-07-14"), "clear"),
        Case("boundary", "six weeks less a day", second(start="2025-06-01", end="2025-07-13"), "hit"),
        Case("boundary", "not asked without its indication", {}, None),
        Case("not known", "esketamine, for what nobody says", {"drug": "esketamine"}, "not-known"),
        Case("not known", "esketamine, in words nothing reads", spray_for(text="TRD, failed 3"), "not-known"),
        Case("boundary", "esketamine for acute suicidality", spray_for("R45.851", ICD10CM), None),
        Case("not known", "for esketamine nothing on record says what for", {"drug": "esketamine"}, "not-known"),
        Case(
            "not known",
            "nor does a depression say that it is another",
            {"drug": "esketamine", **held(condition("F33.2", ICD10CM))},
            "not-known",
        ),
        Case(
            "boundary",
            "esketamine for another indication",
            {"drug": "esketamine", **held(condition("R45.851", ICD10CM))},
            None,
        ),
        Case(
            "not known",
            "a reason in words",
            {"reasons": ({"text": "TRD, failed 3 SSRIs"},), **said(E24=1)},
            "not-known",
        ),
        Case(
            "not known",
            "a reason that nothing here knows, beside another that is read",
            {"reasons": ({"coding": [{"system": SNOMED, "code": "999999991"}]}, PTSD)},
            "not-known",
        ),
        Case("boundary", "a reason that is read as another", {"reasons": (PTSD,)}, None),
        Case("not known", "nothing recorded, nothing said", held(TRD), "not-known"),
    ],
    "E25": [
        Case("positive", "nobody takes him home", on_the_day(E25=False), "hit"),
        Case("negative", "somebody does", on_the_day(), "clear"),
        Case(
            "boundary",
            "answered yesterday it is not asked",
            {**on_the_day(E25=False), "answered": NOW - timedelta(days=1)},
            None,
        ),
        Case("boundary", "before the day it is not asked", said(E25=False), None),
        Case("not known", "not answered on the day", said(DAY=True, E11=False), "not-known"),
    ],
    "E26": [
        Case("boundary", "dementia", held(condition("52448006")), "hit"),
        Case("boundary", "a delirium that is over", held(condition("2776000", status="resolved")), "clear"),
    ],
    "UNCODED": [
        Case("positive", "text alone", held(condition(text="some heart trouble")), "hit"),
        Case(
            "positive",
            "a code of a system that no rule reads",
            {"medications": (entry("MedicationStatement", "x1", "urn:local"),)},
            "hit",
        ),
        Case("negative", "a code that speaks for no rule", held(condition("21897009")), None),
        Case("boundary", "a code of a known system that nothing here knows", held(condition("999999991")), "hit"),
        Case(
            "boundary",
            "the same, in the terminology that was loaded",
            {**held(condition("999999991")), "known": {(SNOMED, "999999991")}},
            None,
        ),
        Case("boundary", "one that is over", held(condition("999999991", status="resolved")), "hit"),
        Case(
            "positive", "text of something that is over", held(condition(text="brain bleed", status="resolved")), "hit"
        ),
        Case(
            "not known",
            "a medicine that nothing here knows asks a person",
            {"medications": (medication("999999992"),)},
            "hit",
        ),
    ],
    "R-LT": [
        Case("positive", "a complaint that nobody has reviewed", raised("pause-for-review"), "hit"),
        Case("negative", "no complaint", {}, None),
        Case("negative", "another Flag", raised("eligibility-lost"), None),
        Case("boundary", "one that was reviewed", raised("pause-for-review", status="inactive"), None),
        Case("not known", "a Flag in error says nothing", raised("pause-for-review", status="entered-in-error"), None),
    ],
    "M-DECEASED": [
        Case(
            "positive", "said so", {"patient": {"id": "ada", "birthDate": "1980-01-01", "deceasedBoolean": True}}, "hit"
        ),
        Case("negative", "nothing said", {}, None),
        Case("boundary", "on a day", {"patient": {"id": "a", "birthDate": "1980", "deceasedDateTime": "2026"}}, "hit"),
        Case("not known", "said not to have", {"patient": {"id": "ada", "deceasedBoolean": False}}, None),
    ],
    "M-REPLACED": [
        Case(
            "positive",
            "replaced",
            {
                "patient": {
                    "id": "ada",
                    "birthDate": "1980-01-01",
                    "link": [{"type": "replaced-by", "other": {"reference": "Patient/b"}}],
                }
            },
            "hit",
        ),
        Case("negative", "not linked", {}, None),
        Case(
            "boundary",
            "the one that replaces",
            {
                "patient": {
                    "id": "ada",
                    "birthDate": "1980-01-01",
                    "link": [{"type": "replaces", "other": {"reference": "Patient/b"}}],
                }
            },
            None,
        ),
        Case(
            "not known",
            "a link to somebody else does not say so",
            {
                "patient": {
                    "id": "ada",
                    "birthDate": "1980-01-01",
                    "link": [{"type": "seealso", "other": {"reference": "Patient/b"}}],
                }
            },
            None,
        ),
    ],
}
for _name, _rule in RULES.items():
    if _rule.question is not None and _rule.asked == "screening":
        CASES[_name] = [*by_answer(_name, hit=_rule.question.hit), *CASES[_name]]


def test_every_rule_of_the_policy_has_all_four_kinds_of_cases():
    assert {f"E{number:02}" for number in range(1, 27)} <= set(CASES)
    assert set(CASES) == set(RULES)
    for rule, cases in CASES.items():
        assert {case.kind for case in cases} == set(KINDS), rule


@pytest.mark.parametrize(
    ("rule", "case"), [(rule, case) for rule, cases in CASES.items() for case in cases], ids=lambda one: str(one)[:60]
)
def test_each_rule_judges_each_of_its_cases(rule, case):
    result = judge(**case.chart)
    found = finding(result, rule)
    assert (None if found is None else found.verdict) == case.verdict, case.what
    if case.verdict in ("hit", "not-known"):
        assert found.source
        assert found.advice
        blocked = found.verdict == "not-known" or found.severity != "I"
        assert (result.outcome == "eligible") is not blocked
    if found is not None and case.verdict == "hit":
        assert found.evidence


ORDERED = "ketamine by a route"


def refusal_of(result, rule):
    """Return the refusal of an order by what a screening found; None where this rule refuses nothing."""
    found = [one for one in check_screened(result, ORDERED, SETTING.orders, "Patient/ada") if one.rule == rule]
    assert len(found) <= 1
    return found[0] if found else None


def assert_is_told(result, rule):
    """Assert that an order is refused by a rule that stands against it, with evidence, source and what to do."""
    found, refused = finding(result, rule), refusal_of(result, rule)
    stands = found is not None and (found.verdict == "not-known" or (found.verdict == "hit" and found.severity != "I"))
    assert (refused is not None) is stands
    if refused is not None:
        assert refused.evidence == (found.evidence or ("Patient/ada",))
        assert [one["valueReference"]["reference"] for one in refused.as_fhir()["extension"]] == list(refused.evidence)
        assert refused.source == found.source
        assert tells_what_to_do(refused.diagnostics), refused.diagnostics


@pytest.mark.parametrize(
    ("rule", "case"), [(rule, case) for rule, cases in CASES.items() for case in cases], ids=lambda one: str(one)[:60]
)
def test_an_order_that_a_rule_refuses_names_its_evidence_its_source_and_what_to_do(rule, case):
    assert_is_told(judge(**case.chart), rule)


@pytest.mark.parametrize(("rule", "chart"), [("MEDICATION-LIST", unsaid("MED")), ("ANSWERS-AGE", old(9999))])
def test_what_every_screening_asks_refuses_with_the_same(rule, chart):
    assert refusal_of(judge(**chart), rule) is not None
    assert_is_told(judge(**chart), rule)


INTERACTIONS = SETTING.rules.interactions
SETS = SETTING.sets


def word(rule):
    """Return the longest word by which a medicine of an interaction is found."""
    return max((one for set_ in INTERACTIONS[rule].medications for one in SETS[set_].words), key=len)


def interaction_cases(rule):
    name = word(rule)
    codes = [one.code for set_ in INTERACTIONS[rule].medications for one in SETS[set_].codes]
    taken = [medication(text=f"{name.upper()} 10 mg"), *(medication(code) for code in codes)]
    cases = [Case("positive", one.reference, {"medications": (one,)}, "hit") for one in taken]
    cases.append(Case("negative", "sertraline", {"medications": (medication("36437"),)}, None))
    cases.append(
        Case("boundary", "in the middle of a text", {"medications": (medication(text=f"old {name}, daily"),)}, "hit")
    )
    cases.append(Case("boundary", "a letter short asks a person", {"medications": (medication(text=name[:-1]),)}, None))
    cases.append(Case("not known", "an unknown code asks a person", {"medications": (medication("999999992"),)}, None))
    cases.append(Case("not known", "the list is not confirmed", {**unsaid("MED"), "medications": ()}, None))
    return cases


INTERACTION_CASES = {rule: interaction_cases(rule) for rule in INTERACTIONS}


def test_every_interaction_of_the_policy_has_all_four_kinds_of_cases():
    for rule, cases in INTERACTION_CASES.items():
        assert {case.kind for case in cases} == set(KINDS), rule


@pytest.mark.parametrize(
    ("rule", "case"),
    [(rule, case) for rule, cases in INTERACTION_CASES.items() for case in cases],
    ids=lambda one: str(one)[:60],
)
def test_each_interaction_judges_each_of_its_cases(rule, case):
    result = judge(**case.chart)
    found = finding(result, rule)
    assert (None if found is None else found.verdict) == case.verdict, case.what
    assert_is_told(result, rule)
    if case.verdict == "hit":
        assert found.evidence == tuple(one.reference for one in case.chart["medications"])
        assert found.source
    if case.kind == "not known" or "asks a person" in case.what:
        assert result.outcome != "eligible"


@pytest.mark.parametrize(("milligrams", "severity"), [(Decimal(3), "I"), (Decimal("3.01"), "R")])
def test_a_benzodiazepine_is_graver_above_its_daily_limit(milligrams, severity):
    assert finding(judge(medications=(daily("6470", milligrams),)), "I-BENZODIAZEPINE").severity == severity


def test_pregnancy_is_read_by_its_code_only():
    other = pregnancy("77386006", "2026-10-02")
    other = replace(other, concept={"coding": [{"system": LOINC, "code": "1234-5"}]})
    assert finding(judge(observations=(other,)), "E12").verdict == "clear"
