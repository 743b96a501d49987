"""The gate before a dose: a concentrated product is diluted first; what was to be held before the dose was held."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules.checks import Decision
from services.sessions.rules.gate import Batch, gate
from services.sessions.setting import Setting
from shared.fhir import codes
from shared.fhir.kap import drug_of
from shared.runtime.policy import load_policy
from tests.unit.sessions.situations import NOW, OPEN, POLICY, asked

VEIN = replace(OPEN, route=codes.ROUTE_IV.code, consented=frozenset({codes.ROUTE_IV.code}))
MUSCLE = OPEN
STRONG = POLICY.dilution.codes[0]


def check(situation, rule):
    found = [one for one in gate(situation, POLICY) if one.rule == rule]
    return (found[0].verdict, found[0].closes) if found else None


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (Batch(strength=Decimal(100)), ("closed", True)),
        (Batch(strength=Decimal("99.9")), ("open", False)),
        (Batch(strength=Decimal(1)), ("open", False)),
        (Batch(strength=Decimal(150)), ("closed", True)),
        (Batch(codes=(STRONG,)), ("closed", True)),
        (Batch(strength=Decimal(10), codes=(STRONG,)), ("open", False)),
        (Batch(codes=("238082",)), ("not-known", True)),
        (Batch(), ("not-known", True)),
    ],
)
def test_a_concentrated_product_goes_into_a_vein_only_when_it_was_diluted(batch, expected):
    assert check(replace(VEIN, batch=batch), "G-DILUTED") == expected


def test_into_a_muscle_it_goes_as_it_is():
    assert check(replace(MUSCLE, batch=Batch(strength=Decimal(100), codes=(STRONG,))), "G-DILUTED") is None


@given(st.decimals(min_value=POLICY.dilution.at_least, max_value=10**6, places=1))
def test_no_strength_at_or_above_the_limit_opens_the_gate_to_a_vein(strength):
    assert check(replace(VEIN, batch=Batch(strength=strength)), "G-DILUTED") == ("closed", True)


HOLDS = ("DetectedIssue/1",)


def decided(minutes):
    return (Decision("G-HOLD", NOW + timedelta(minutes=minutes), "DetectedIssue/2"),)


@pytest.mark.parametrize(
    ("holds", "answer", "decisions", "expected"),
    [
        ((), None, (), ("open", False)),
        ((), False, (), ("open", False)),
        (HOLDS, True, (), ("open", False)),
        (HOLDS, None, (), ("not-known", True)),
        (HOLDS, "yes", (), ("not-known", True)),
        (HOLDS, None, decided(0), ("not-known", True)),
        (HOLDS, False, (), ("closed", True)),
        (HOLDS, False, decided(0), ("decided", False)),
        (HOLDS, False, decided(-1), ("closed", True)),
    ],
)
def test_what_is_to_be_held_before_a_dose_was_held_or_a_prescriber_decided(holds, answer, decisions, expected):
    situation = replace(OPEN, holds=holds, decisions=decisions, asked=asked(held=answer))
    assert check(situation, "G-HOLD") == expected


@pytest.mark.parametrize(
    ("text", "drug"),
    [
        ("ketamin 50 mg", "ketamine"),
        ("Ketamina", "ketamine"),
        ("Kétamine", "ketamine"),
        ("Ketaset", "ketamine"),
        ("Ketanest S 25 mg/mL", "esketamine"),
        ("S-Ketamin", "esketamine"),
        ("Esketamine", "esketamine"),
        ("ketorolac 30 mg", None),
    ],
)
def test_the_two_drugs_are_known_by_the_names_they_have_elsewhere(text, drug):
    assert drug_of({"text": text}, Setting.of(load_policy()).sets) == drug
