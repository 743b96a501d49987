"""The store against a model of a few dozen lines: the same changes and searches, the same answers, page by page."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shared.fhir.ids import subject_uuid
from shared.fhir.index import (
    DateRow,
    IndexRows,
    NumberRow,
    QuantityRow,
    ReferenceRow,
    StringRow,
    TokenRow,
    UriRow,
)
from shared.fhir.search import (
    Criterion,
    DateValue,
    MissingValue,
    NumberValue,
    QuantityValue,
    ReferenceValue,
    SearchQuery,
    SortKey,
    StringValue,
    TokenValue,
    UriValue,
)
from shared.store.access import Access
from shared.store.store import Store
from shared.store.types import Write

PARAMETERS = {
    "token": "code",
    "string": "value-string",
    "reference": "encounter",
    "date": "date",
    "number": "probability",
    "quantity": "value-quantity",
    "uri": "_profile",
}
PATIENTS = ("p1", "p2")
SYSTEMS = ("", "s", "t")
CODES = ("a", "b", "B")
WORDS = ("", "a", "ab", "abc", "b", "é", "%", "a_", "\U0010ffff", "a\ud7ff", "a\ue000", "AB")
NUMBERS = tuple(Decimal(text) for text in ("-1", "0", "1", "1.0", "1.00", "10", "1.04", "1.5"))
PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb")
DAY = datetime(2026, 11, 1, tzinfo=UTC)
tenants = count()

systems, codes, words, numbers = (st.sampled_from(values) for values in (SYSTEMS, CODES, WORDS, NUMBERS))
prefixes = st.sampled_from(PREFIXES)
ends = st.integers(0, 8)


def interval_of(number: Decimal) -> tuple[Decimal, Decimal]:
    half = Decimal((0, (5,), number.as_tuple().exponent - 1))
    return number - half, number + half


@st.composite
def spans(draw):
    low, length = draw(ends), draw(st.integers(1, 4))
    return DAY + timedelta(hours=low), DAY + timedelta(hours=low + length)


@st.composite
def ranges(draw):
    """A number as its precision implies it, or a true range."""
    if draw(st.booleans()):
        return interval_of(draw(numbers))
    low = draw(st.integers(-2, 8))
    return Decimal(low), Decimal(low + draw(st.sampled_from([2, 3, 5])))


def rows(parameter, row, *parts):
    return st.lists(st.builds(row, st.just(parameter), *parts), max_size=2, unique=True)


@st.composite
def indexes(draw):
    index = IndexRows(
        token=draw(rows("code", TokenRow, systems, codes)),
        string=[
            StringRow("value-string", word.lower(), word) for word in draw(st.lists(words, max_size=2, unique=True))
        ],
        reference=draw(rows("encounter", ReferenceRow, st.just("Encounter"), codes, st.just(""))),
        uri=draw(rows("_profile", UriRow, codes)),
    )
    index.date = [DateRow("date", *span) for span in draw(st.lists(spans(), max_size=2, unique=True))]
    index.number = [NumberRow("probability", *span) for span in draw(st.lists(ranges(), max_size=2, unique=True))]
    index.quantity = [
        QuantityRow("value-quantity", *span, draw(systems), draw(codes))
        for span in draw(st.lists(ranges(), max_size=2, unique=True))
    ]
    return index


number_values = st.builds(lambda prefix, number: NumberValue(prefix, number, *interval_of(number)), prefixes, numbers)
VALUES = {
    "token": st.builds(TokenValue, st.none() | systems, codes) | st.builds(TokenValue, st.just("s"), st.none()),
    "string": st.builds(lambda word: StringValue(word.lower(), word), words.filter(bool)),
    "reference": st.builds(ReferenceValue, st.just(("Encounter",)), codes),
    "date": st.builds(lambda prefix, span: DateValue(prefix, *span), prefixes, spans()),
    "number": number_values,
    "quantity": st.builds(QuantityValue, number_values, st.none() | systems, st.none() | codes),
    "uri": st.builds(UriValue, codes),
}


@st.composite
def criteria(draw):
    kind = draw(st.sampled_from([*PARAMETERS, "patient", "_id"]))
    if kind == "patient":
        return Criterion("patient", "reference", (ReferenceValue(("Patient",), draw(st.sampled_from(PATIENTS))),))
    if kind == "_id":
        return Criterion("_id", "token", tuple(TokenValue(None, id_) for id_ in draw(st.sets(ids, min_size=1))))
    modifiers = {"token": [None, "not", "missing"], "string": [None, "exact", "contains", "missing"]}
    modifier = draw(st.sampled_from(modifiers.get(kind, [None, None, "missing"])))
    if modifier == "missing":
        return Criterion(PARAMETERS[kind], kind, (MissingValue(draw(st.booleans())),), "missing")
    values = draw(st.lists(VALUES[kind], min_size=1, max_size=2, unique=True))
    return Criterion(PARAMETERS[kind], kind, tuple(values), modifier)


ids = st.sampled_from([f"r{n}" for n in range(6)])
sort_keys = st.builds(
    lambda kind, descending: SortKey(PARAMETERS.get(kind, kind), kind if kind in PARAMETERS else "token", descending),
    st.sampled_from([*PARAMETERS, "_id"]),
    st.booleans(),
)
queries = st.builds(
    lambda criteria, sort, size: SearchQuery("Observation", tuple(criteria), tuple(sort), size, "accurate"),
    st.lists(criteria(), max_size=2),
    st.lists(sort_keys, max_size=2, unique_by=lambda key: key.parameter),
    st.integers(1, 4),
)
changes = st.lists(
    st.tuples(st.sampled_from(["write", "write", "write", "delete"]), ids, st.sampled_from(PATIENTS), indexes()),
    min_size=4,
    max_size=14,
)


def in_time(value, low, high):
    contained = value.low <= low and high <= value.high
    return {
        "eq": contained,
        "ne": not contained,
        "gt": high > value.high,
        "lt": low < value.low,
        "ge": high > value.high or contained,
        "le": low < value.low or contained,
        "sa": low >= value.high,
        "eb": high <= value.low,
    }[value.prefix]


def in_number(value, low, high):
    middle = (low + high) / 2
    exact = any(interval_of(middle.quantize(Decimal(1).scaleb(-digits))) == (low, high) for digits in range(4))
    x = value.value
    if exact:
        equal = value.low <= middle < value.high
        by_prefix = {"gt": middle > x, "lt": middle < x, "ge": middle >= x, "le": middle <= x, "sa": middle > x}
        by_prefix["eb"] = middle < x
    else:
        equal = value.low <= low and high <= value.high
        by_prefix = {"gt": high > x, "lt": low < x, "ge": high > x, "le": low <= x, "sa": low > x, "eb": high <= x}
    return {"eq": equal, "ne": not equal, **by_prefix}[value.prefix]


def matches_row(kind, value, row, modifier):
    if kind == "token":
        return value.system in (None, row.system) and value.code in (None, row.code)
    if kind == "string":
        if modifier == "exact":
            return row.exact == value.exact
        return value.value in row.value if modifier == "contains" else row.value.startswith(value.value)
    if kind == "reference":
        return row.target_id == value.id and row.target_type in value.types
    if kind == "date":
        return in_time(value, row.low, row.high)
    if kind == "number":
        return in_number(value, row.low, row.high)
    if kind == "quantity":
        unit = value.system in (None, row.system) and value.code in (None, row.code)
        return unit and in_number(value.number, row.low, row.high)
    return row.value == value.value


def matches(criterion, id_, patient, index):
    if criterion.parameter == "_id":
        return any(value.code == id_ for value in criterion.values)
    if criterion.parameter == "patient":
        return any(value.id == patient for value in criterion.values)
    held = getattr(index, criterion.kind)
    if criterion.modifier == "missing":
        return criterion.values[0].missing is not bool(held)
    found = any(
        matches_row(criterion.kind, value, row, criterion.modifier) for value in criterion.values for row in held
    )
    return found is not (criterion.modifier == "not")


def sort_value(key, id_, index):
    if key.parameter == "_id":
        return id_
    column = {
        "token": lambda row: row.code,
        "string": lambda row: row.value,
        "reference": lambda row: row.target_id,
        "date": lambda row: row.low,
        "number": low_of,
        "quantity": low_of,
        "uri": lambda row: row.value,
    }[key.kind]
    values = [column(row) for row in getattr(index, key.kind)]
    if not values:
        return None
    return max(values) if key.descending else min(values)


def low_of(row):
    middle = (row.low + row.high) / 2
    exact = any(interval_of(middle.quantize(Decimal(1).scaleb(-n))) == (row.low, row.high) for n in range(4))
    return middle if exact else row.low


def expected(query, held, order):
    found = [id_ for id_ in order if id_ in held and all(matches(c, id_, *held[id_]) for c in query.criteria)]
    for key in reversed(query.sort):  # each sort is stable, so the last key goes first
        values = {id_: sort_value(key, id_, held[id_][1]) for id_ in found}
        known = [id_ for id_ in found if values[id_] is not None]
        unknown = [id_ for id_ in found if values[id_] is None]
        ranks = {value: rank for rank, value in enumerate(sorted({values[id_] for id_ in known}))}
        known.sort(key=lambda id_: -ranks[values[id_]] if key.descending else ranks[values[id_]])
        found = known + unknown
    return found


def write_of(action, id_, patient, index) -> Write:
    deletes = action == "delete"
    return Write(
        interaction="delete" if deletes else "update",
        type="Observation",
        id=id_,
        resource=None if deletes else {"resourceType": "Observation", "id": id_},
        key=f"Patient/{patient}",
        patient=subject_uuid(patient),
        index=IndexRows() if deletes else with_patient(index, patient),
    )


def with_patient(index, patient):
    return IndexRows(
        token=index.token,
        string=index.string,
        reference=[*index.reference, ReferenceRow("patient", "Patient", patient, "")],
        date=index.date,
        number=index.number,
        quantity=index.quantity,
        uri=index.uri,
    )


@pytest.fixture(scope="module")
def address(postgres):
    return postgres.make_database("model")


def every_criterion():
    """Yield one criterion of each kind, prefix, modifier and value of the small world above."""
    spans_ = [
        (DAY + timedelta(hours=low), DAY + timedelta(hours=low + length)) for low in (1, 3, 5) for length in (1, 3)
    ]
    units = [(None, None), (None, "a"), ("s", "a"), ("", "b"), ("t", None)]
    exact = [NumberValue(prefix, number, *interval_of(number)) for prefix in PREFIXES for number in NUMBERS]
    values = {
        "token": [TokenValue(system, code) for system in (None, *SYSTEMS) for code in CODES] + [TokenValue("s", None)],
        "string": [StringValue(word.lower(), word) for word in WORDS if word],
        "reference": [ReferenceValue(("Encounter",), code) for code in CODES],
        "date": [DateValue(prefix, *span) for prefix in PREFIXES for span in spans_],
        "number": exact,
        "quantity": [QuantityValue(value, *unit) for value in exact for unit in units],
        "uri": [UriValue(code) for code in CODES],
    }
    modifiers = {"token": [None, "not"], "string": [None, "exact", "contains"]}
    for kind, parameter in PARAMETERS.items():
        for missing in (True, False):
            yield Criterion(parameter, kind, (MissingValue(missing),), "missing")
        for modifier in modifiers.get(kind, [None]):
            for value in values[kind]:
                yield Criterion(parameter, kind, (value,), modifier)


def some_rows(chance: random.Random) -> IndexRows:
    def few(make):
        return list(dict.fromkeys(make() for _ in range(chance.randrange(3))))

    def span():
        low = chance.randrange(9)
        return DAY + timedelta(hours=low), DAY + timedelta(hours=low + chance.randrange(1, 5))

    def numeric():
        low = chance.randrange(-2, 9)
        true_range = Decimal(low), Decimal(low + chance.choice([2, 3, 5]))
        return chance.choice([interval_of(chance.choice(NUMBERS)), true_range])

    return IndexRows(
        token=few(lambda: TokenRow("code", chance.choice(SYSTEMS), chance.choice(CODES))),
        string=[StringRow("value-string", word.lower(), word) for word in few(lambda: chance.choice(WORDS))],
        reference=few(lambda: ReferenceRow("encounter", "Encounter", chance.choice(CODES), "")),
        date=few(lambda: DateRow("date", *span())),
        number=few(lambda: NumberRow("probability", *numeric())),
        quantity=few(lambda: QuantityRow("value-quantity", *numeric(), chance.choice(SYSTEMS), chance.choice(CODES))),
        uri=few(lambda: UriRow("_profile", chance.choice(CODES))),
    )


async def test_every_single_criterion_finds_what_the_model_finds(store):
    chance = random.Random(7)
    held, order = {}, [f"o{number:02}" for number in range(60)]
    for id_ in order:
        held[id_] = (chance.choice(PATIENTS), some_rows(chance))
        await store.write(Access.unrestricted(), write_of("write", id_, *held[id_]))
    found = 0
    for criterion in every_criterion():
        query = SearchQuery("Observation", (criterion,), count=100)
        page = await store.search(Access.unrestricted(), query)
        assert [entry.id for entry in page.entries] == expected(query, held, order), criterion
        found += 0 < len(page.entries) < len(order)
    assert found > 300


@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a failure is small already, and shrinking it takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(changes=changes, searches=st.lists(queries, min_size=3, max_size=6))
def test_every_search_answers_as_the_model_does(address, changes, searches):
    asyncio.run(compare(address, changes, searches))


async def compare(address, changes, searches):
    store = await Store.connect(address, service="intake", max_size=1)
    access = Access.unrestricted(f"clinic {next(tenants)}")
    held, order = {}, []
    try:
        for action, id_, patient, index in changes:
            if action == "delete" and id_ not in held:
                continue
            await store.write(access, write_of(action, id_, patient, index))
            if id_ not in order:
                order.append(id_)
            if action == "delete":
                del held[id_]
            else:
                held[id_] = (patient, index)
        for query in searches:
            wanted = expected(query, held, order)
            forth, page, cursor = [], None, None
            while page is None or cursor is not None:
                page = await store.search(access, query, cursor=cursor)
                assert page.total == len(wanted)
                forth.append([entry.id for entry in page.entries])
                cursor = page.next
            assert [id_ for ids_ in forth for id_ in ids_] == wanted
            back = [forth[-1]]
            while page.previous is not None:
                page = await store.search(access, query, cursor=page.previous)
                back.append([entry.id for entry in page.entries])
            assert [id_ for ids_ in reversed(back) for id_ in ids_] == wanted
    finally:
        await store.close()
