"""The gate before a dose: what is asked, flags for suicidality, the REMS."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from services.sessions.rules.checks import Decision
from services.sessions.rules.gate import gate
from shared.fhir import codes
from tests.unit.sessions.situations import ENROLLED, NOW, OPEN, POLICY, VISIT, asked, rules


@pytest.mark.parametrize(
    ("answers", "ketamine", "esketamine"),
    [
        ({}, [], []),
        ({"escort": False}, ["E25"], ["E25"]),
        ({"escort": None}, ["E25"], ["E25"]),
        ({"escort_name": " "}, ["E25"], ["E25"]),
        ({"escort_name": None}, ["E25"], ["E25"]),
        ({"intoxicated": True}, ["E11"], ["E11"]),
        ({"intoxicated": None}, ["E11"], ["E11"]),
        ({"pregnant": True}, ["E12"], ["E12"]),
        ({"pregnant": None}, ["E12"], ["E12"]),
        ({"breastfeeding": True}, ["E12"], ["E12"]),
        ({"suicidality": True}, ["G-SUICIDE"], ["G-SUICIDE"]),
        ({"suicidality": None}, ["G-SUICIDE"], ["G-SUICIDE"]),
        ({"food_hours": Decimal(2), "drink_minutes": 30}, [], []),
        ({"food_hours": Decimal("1.9")}, [], ["G-FAST"]),
        ({"food_hours": None}, [], ["G-FAST"]),
        ({"drink_minutes": 29}, [], ["G-FAST"]),
        ({"nasal": True, "nasal_minutes": 60}, [], []),
        ({"nasal": True, "nasal_minutes": 59}, [], ["G-FAST"]),
        ({"nasal": True}, [], ["G-FAST"]),
        ({"nasal": None}, [], ["G-FAST"]),
        ({"substances": True, "benzodiazepine": True}, [], []),
        ({"substances": None, "benzodiazepine": None}, [], []),
        ({"intoxicated": "no"}, ["E11"], ["E11"]),
    ],
)
def test_what_is_asked_before_a_dose_opens_or_closes_the_gate(answers, ketamine, esketamine):
    assert rules(asked=asked(**answers)) == ketamine
    assert rules(asked=asked(**answers), drug="esketamine") == esketamine


def test_pregnancy_is_not_asked_of_a_man_and_nothing_is_known_without_answers():
    assert rules(asked=asked(pregnant=None, breastfeeding=None), gender="male") == []
    assert rules(asked=None) == ["E11", "E12", "E25", "G-SUICIDE"]


def test_substances_are_told_and_close_nothing():
    found = gate(replace(OPEN, asked=asked(substances=True)), POLICY)
    (told,) = [check for check in found if check.rule == "G-SUBSTANCE"]
    assert (told.verdict, told.closes, told.value) == ("warned", False, "True")
    found = gate(replace(OPEN, asked=asked(benzodiazepine=True)), POLICY)
    (told,) = [check for check in found if check.rule == "G-BENZODIAZEPINE"]
    assert (told.verdict, told.closes) == ("warned", False)


@pytest.mark.parametrize(("minutes", "expected"), [(0, []), (-1, []), (1, ["G-SUICIDE"])])
def test_suicidality_opens_only_by_a_decision_made_after_it_was_known(minutes, expected):
    decisions = (Decision("G-SUICIDE", NOW - timedelta(minutes=minutes), "DetectedIssue/1"),)
    assert rules(asked=asked(suicidality=True), decisions=decisions) == expected
    assert rules(flags=[("Flag/1", NOW)], decisions=decisions) == expected
    assert rules(flags=[("Flag/1", NOW)]) == ["G-SUICIDE"]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("site", ["G-REMS-SITE"]), ("patient", ["G-REMS-PATIENT"]), ("witness", ["G-REMS-WITNESS"])],
)
def test_esketamine_needs_a_certified_setting_an_enrolled_patient_and_a_witness(missing, expected):
    enrolment = replace(ENROLLED, **{missing: False})
    assert rules(enrolment=enrolment) == []
    assert rules(enrolment=enrolment, drug="esketamine") == expected


def test_an_inpatient_is_not_enrolled_and_esketamine_is_never_given_at_home():
    inpatient = {**VISIT, "class": {"code": "IMP"}}
    assert rules(enrolment=replace(ENROLLED, patient=False), drug="esketamine", visit=inpatient) == []
    chaperone = {"type": [codes.CHAPERONE.concept()], "individual": {"display": "Her brother"}}
    home = {**VISIT, "class": {"code": "VR"}, "participant": [chaperone]}
    assert "G-REMS-WITNESS" in rules(drug="esketamine", visit=home)
