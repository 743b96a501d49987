"""Quantities compared whatever their units, and values that must stand in the same element."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fhir import units
from shared.fhir.outcome import BadRequest
from shared.fhir.query import parse_search
from shared.fhir.units import UCUM
from shared.store.access import Access
from shared.store.store import Store
from shared.testing.writes import write_of

ALL = Access.unrestricted()
LOINC = "http://loinc.org"


def quantity(value: str, code: str, **more) -> dict:
    return {"value": Decimal(value), "unit": code, "system": UCUM, "code": code, **more}


def coded(code: str, system: str = LOINC) -> dict:
    return {"coding": [{"system": system, "code": code}]}


def observation(id_: str, **more) -> dict:
    return {"resourceType": "Observation", "id": id_, "status": "final", "code": coded("29463-7"), **more}


def pressure(id_: str, systolic: str, diastolic: str) -> dict:
    components = [
        {"code": coded("8480-6"), "valueQuantity": quantity(systolic, "mm[Hg]")},
        {"code": coded("8462-4"), "valueQuantity": quantity(diastolic, "mm[Hg]")},
    ]
    return {**observation(id_, component=components), "code": coded("85354-9")}


async def found(store: Store, query: str) -> list[str]:
    type_, _, rest = query.partition("?")
    pairs = [tuple(one.split("=", 1)) for one in rest.split("&")]
    page = await store.search(ALL, parse_search(type_, pairs, strict=True))
    return [entry.id for entry in page.entries]


WEIGHTS = [
    observation("kilograms", valueQuantity=quantity("80.0", "kg")),
    observation("grams", valueQuantity=quantity("80000", "g")),
    observation("pounds", valueQuantity=quantity("176.37", "[lb_av]")),
    observation("heavy", valueQuantity=quantity("120", "kg", comparator=">")),
    observation("local", valueQuantity={"value": 80, "unit": "stones"}),
    observation("warm", valueQuantity=quantity("37.0", "Cel")),
    observation("units", valueQuantity=quantity("5", "[iU]/L")),
]


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        (f"80.0|{UCUM}|kg", ["kilograms", "grams", "pounds"]),
        (f"80000.00|{UCUM}|g", ["kilograms", "grams"]),
        (f"ge80|{UCUM}|kg", ["kilograms", "grams", "pounds", "heavy"]),
        (f"gt80|{UCUM}|kg", ["pounds", "heavy"]),
        (f"lt176.369|{UCUM}|[lb_av]", []),
        (f"lt176.371|{UCUM}|[lb_av]", ["kilograms", "grams", "pounds"]),
        (f"gt200000|{UCUM}|g", ["heavy"]),
        (f"98.6|{UCUM}|[degF]", ["warm"]),
        (f"lt40|{UCUM}|Cel", ["warm"]),
        (f"5|{UCUM}|[iU]/L", ["units"]),
        (f"5|{UCUM}|/L", []),
        ("80||stones", ["local"]),
        ("80||kg", ["kilograms"]),
        ("80", ["kilograms", "local"]),
        (f"80|{UCUM}|kg,37|{UCUM}|Cel", ["kilograms", "grams", "pounds", "warm"]),
        (f"80|{UCUM}|kg,80||stones", ["kilograms", "grams", "pounds", "local"]),
    ],
)
async def test_a_quantity_is_found_whatever_its_unit(store: Store, asked: str, ids: list[str]):
    for resource in WEIGHTS:
        await store.write(ALL, write_of(resource))
    assert await found(store, f"Observation?value-quantity={asked}") == ids


@given(
    st.decimals(min_value=Decimal("0.0001"), max_value=10_000, places=4),
    st.sampled_from([("kg", "g", 1000), ("g", "mg", 1000), ("m", "cm", 100), ("h", "min", 60), ("L", "dL", 10)]),
)
def test_the_same_amount_in_two_units_is_the_same(value: Decimal, pair: tuple[str, str, int]):
    large, small, times = pair
    one, other = units.unit(UCUM, large), units.unit(UCUM, small)
    assert one is not None
    assert other is not None
    assert one.base == other.base
    assert one.canonical(value) == other.canonical(value * times)


READINGS = [
    pressure("low", "110", "70"),
    pressure("high", "160", "95"),
    observation("weight", valueQuantity=quantity("95", "kg")),
    observation("colour", valueCodeableConcept=coded("red", "http://c")),
    {
        **observation("panel"),
        "component": [
            {"code": coded("a"), "valueCodeableConcept": coded("x", "http://s")},
            {"code": coded("b", "http://other"), "valueCodeableConcept": coded("y", "http://s")},
        ],
    },
    observation("dated", valueDateTime="2026-11-22"),
    observation("said", valueString="Feeling better"),
]


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ("component-code-value-quantity=8480-6$gt140", ["high"]),
        (f"component-code-value-quantity={LOINC}|8480-6$gt100", ["low", "high"]),
        ("component-code-value-quantity=http://nowhere|8480-6$gt100", []),
        ("component-code-value-quantity=|8480-6$gt100", []),
        # The diastolic of the one is above, its systolic too; but no systolic is below 100.
        ("component-code-value-quantity=8480-6$lt100", []),
        ("component-code-value-quantity=8462-4$lt100", ["low", "high"]),
        (f"component-code-value-quantity=8480-6$160|{UCUM}|mm[Hg]", ["high"]),
        (f"component-code-value-quantity=8480-6$gt20|{UCUM}|kPa", ["high"]),
        ("component-code-value-quantity=8480-6$110,8480-6$160", ["low", "high"]),
        ("code-value-quantity=29463-7$95", ["weight"]),
        (f"code-value-quantity=29463-7$95000|{UCUM}|g", ["weight"]),
        ("code-value-quantity=85354-9$gt1", []),
        ("combo-code-value-quantity=8480-6$gt140,29463-7$gt90", ["high", "weight"]),
        ("combo-code-value-quantity=8462-4$95", ["high"]),
        ("code-value-concept=29463-7$http://c|red", ["colour"]),
        ("code-value-concept=29463-7$blue", []),
        ("component-code-value-concept=a$http://s|x", ["panel"]),
        ("component-code-value-concept=a$y", []),
        ("component-code-value-concept=http://other|b$y", ["panel"]),
        ("combo-code-value-concept=29463-7$red,b$y", ["colour", "panel"]),
        ("code-value-date=29463-7$ge2026-11", ["dated"]),
        ("code-value-date=29463-7$lt2026-11", []),
        ("code-value-string=29463-7$feeling", ["said"]),
        ("status=final&component-code-value-quantity=8480-6$gt100&_sort=-_id", ["low", "high"]),
    ],
)
async def test_the_values_of_a_composite_stand_in_the_same_element(store: Store, asked: str, ids: list[str]):
    for resource in READINGS:
        await store.write(ALL, write_of(resource))
    assert await found(store, f"Observation?{asked}") == ids


async def test_composites_of_other_types(store: Store):
    document = {
        "resourceType": "DocumentReference",
        "id": "second",
        "status": "current",
        "content": [{"attachment": {"title": "x"}}],
        "relatesTo": [
            {"code": "replaces", "target": {"reference": "DocumentReference/first"}},
            {"code": "appends", "target": {"reference": "DocumentReference/zeroth"}},
        ],
    }
    questionnaire = {
        "resourceType": "Questionnaire",
        "id": "adults",
        "status": "active",
        "useContext": [
            {"code": {"system": "u", "code": "age"}, "valueRange": {"low": quantity("18", "a")}},
            {
                "code": {"system": "u", "code": "focus"},
                "valueCodeableConcept": coded("35489007", "http://snomed.info/sct"),
            },
        ],
    }
    group = {
        "resourceType": "Group",
        "id": "herd",
        "type": "person",
        "actual": False,
        "characteristic": [
            {"code": coded("gender"), "valueCodeableConcept": coded("mixed"), "exclude": False},
            {"code": coded("owner"), "valueBoolean": True, "exclude": False},
        ],
    }
    for resource in (document, questionnaire, group):
        await store.write(ALL, write_of(resource))
    assert await found(store, "DocumentReference?relationship=DocumentReference/first$replaces") == ["second"]
    assert await found(store, "DocumentReference?relationship=first$replaces") == ["second"]
    assert await found(store, "DocumentReference?relationship=first$appends") == []
    assert await found(store, f"Questionnaire?context-type-quantity=age$20|{UCUM}|a") == []  # a range is no 20
    assert await found(store, f"Questionnaire?context-type-quantity=age$gt20|{UCUM}|a") == ["adults"]
    assert await found(store, "Questionnaire?context-type-value=focus$35489007") == ["adults"]
    assert await found(store, "Questionnaire?context-type-value=age$35489007") == []
    assert await found(store, "Group?characteristic-value=gender$mixed") == ["herd"]
    assert await found(store, "Group?characteristic-value=owner$true") == ["herd"]
    assert await found(store, "Group?characteristic-value=gender$true") == []


@pytest.mark.parametrize("value", ["8480-6", "8480-6$gt1$2", "$5", f"{LOINC}|$5", "8480-6$five"])
async def test_a_composite_that_cannot_be_read_is_refused(store: Store, value: str):
    with pytest.raises(BadRequest):
        await found(store, f"Observation?component-code-value-quantity={value}")
