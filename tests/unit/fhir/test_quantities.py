"""A number counts in the unit that it says, and where it says two it says none."""

from __future__ import annotations

import pytest

from shared.fhir.codes import UCUM
from shared.fhir.kap import kilograms_in, quantity_in


def quantity(value, unit=None, code=None):
    return {"value": value, "system": UCUM, **({"unit": unit} if unit else {}), **({"code": code} if code else {})}


@pytest.mark.parametrize(
    ("unit", "code"),
    [("mg", "mg"), ("milligram", "mg"), (None, "mg"), ("mg", None), ("{dose}", "mg"), (" mg ", "mg")],
)
def test_a_unit_in_words_of_its_own_stands_beside_its_code(unit, code):
    assert quantity_in(quantity(70, unit, code), ("mg",)) == 70


@pytest.mark.parametrize(
    ("unit", "code"), [("mcg", "mg"), ("µg", "mg"), ("μg", "mg"), ("g", "mg"), ("mg/kg", "mg"), ("mL", "mg")]
)
def test_a_number_in_two_units_is_in_none(unit, code):
    """Else 70 micrograms would be given as 70 mg."""
    assert quantity_in(quantity(70, unit, code), ("mg",)) is None


def test_pounds_are_not_kilograms_whichever_of_both_says_so():
    assert kilograms_in(quantity(154, "lb", "kg")) is None
    assert kilograms_in(quantity(70, "kg", "[lb_av]")) is None
    assert round(kilograms_in(quantity(154, "lb", "[lb_av]"))) == round(kilograms_in(quantity(154, "lbs"))) == 70
    assert kilograms_in(quantity(70, "kg", "kg")) == 70
