"""Searches: what a URL's parameters mean, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.fhir.definitions import TYPES
from shared.fhir.outcome import BadRequest
from shared.fhir.query import parse_search
from shared.fhir.search import (
    Chain,
    Criterion,
    DateValue,
    Has,
    Include,
    MissingValue,
    NumberValue,
    QuantityValue,
    ReferenceValue,
    SortKey,
    StringValue,
    TokenValue,
    UriValue,
)
from shared.fhir.values import split_escaped, unescape


def one(type_: str, name: str, value: str) -> Criterion:
    query = parse_search(type_, [(name, value)], strict=True)
    assert query.given == ((name, value),)
    return query.criteria[0]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("final", (TokenValue(None, "final"),)),
        ("http://l|1", (TokenValue("http://l", "1"),)),
        ("|1", (TokenValue("", "1"),)),
        ("http://l|", (TokenValue("http://l", None),)),
        ("a,b,a", (TokenValue(None, "a"), TokenValue(None, "b"))),
        (r"a\,b,c\|d", (TokenValue(None, "a,b"), TokenValue(None, "c|d"))),
        (r"a\\,b", (TokenValue(None, "a\\"), TokenValue(None, "b"))),
    ],
)
def test_a_token_is_code_or_system_and_code(text: str, values: tuple[TokenValue, ...]) -> None:
    assert one("Observation", "code", text) == Criterion("code", "token", values)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("patient", "p1", ReferenceValue(("Patient",), "p1")),
        ("patient", "Patient/p1", ReferenceValue(("Patient",), "p1")),
        ("subject:Patient", "p1", ReferenceValue(("Patient",), "p1")),
        ("subject", "Group/g", ReferenceValue(("Group",), "g")),
        ("subject", "g", ReferenceValue(("Device", "Group", "Location", "Patient"), "g")),
        ("subject", "Patient/p1/_history/2", ReferenceValue(("Patient",), "p1")),
        ("subject", "https://x.example/Patient/1", ReferenceValue((), "", "https://x.example/Patient/1")),
        ("subject", "urn:uuid:1", ReferenceValue((), "", "urn:uuid:1")),
    ],
)
def test_a_reference_is_an_id_a_type_and_id_or_a_url(name: str, text: str, value: ReferenceValue) -> None:
    assert one("Observation", name, text) == Criterion(name.partition(":")[0], "reference", (value,))


def test_a_date_has_a_prefix_and_the_period_its_precision_implies() -> None:
    january = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    assert one("Observation", "date", "ge2026-01").values == (DateValue("ge", *january),)
    assert one("Observation", "date", "2026-01").values == (DateValue("eq", *january),)


def test_a_plus_that_arrived_as_a_space_is_a_plus() -> None:
    assert one("Observation", "date", "2026-01-01T10:00:00 02:00") == one(
        "Observation", "date", "2026-01-01T10:00:00+02:00"
    )


def test_numbers_and_quantities_keep_their_digits() -> None:
    number = NumberValue("gt", Decimal("5.40"), Decimal("5.395"), Decimal("5.405"))
    assert one("RiskAssessment", "probability", "gt5.40").values == (number,)
    assert one("Observation", "value-quantity", "gt5.40").values == (QuantityValue(number, None, None),)
    assert one("Observation", "value-quantity", "gt5.40||mg").values == (QuantityValue(number, None, "mg"),)
    assert one("Observation", "value-quantity", "gt5.40|http://u|mg").values == (
        QuantityValue(number, "http://u", "mg"),
    )


def test_strings_are_folded_and_kept() -> None:
    assert one("Patient", "name", "MÜLler").values == (StringValue("muller", "MÜLler"),)
    assert one("Patient", "name:exact", "MÜLler").modifier == "exact"
    assert one("Patient", "name:contains", "ll").modifier == "contains"


def test_missing_and_not_are_known() -> None:
    assert one("Patient", "name:missing", "true") == Criterion("name", "string", (MissingValue(True),), "missing")
    assert one("Observation", "status:not", "final").modifier == "not"


def test_a_modifier_that_has_rows_of_its_own_is_asked_of_them() -> None:
    assert one("Observation", "code:text", "Blood").parameter == "code:text"
    assert one("Observation", "subject:identifier", "s|1") == Criterion(
        "subject:identifier", "token", (TokenValue("s", "1"),)
    )
    assert one("Patient", "identifier:of-type", "http://t|MR|12") == Criterion(
        "identifier:of-type", "token", (TokenValue("http://t|MR", "12"),)
    )


def test_a_chain_leads_to_every_type_that_has_the_parameter() -> None:
    ada = Criterion("name", "string", (StringValue("ada", "Ada"),))
    assert one("Observation", "subject:Patient.name", "Ada") == Chain("subject", (("Patient", ada),))
    assert one("Observation", "patient.name", "Ada") == Chain("patient", (("Patient", ada),))
    (types,) = [[type_ for type_, _ in chain.targets] for chain in [one("Observation", "subject.identifier", "1")]]
    assert types == ["Device", "Group", "Location", "Patient"]
    clinic = Chain("organization", (("Organization", ada),))
    assert one("Observation", "patient.organization.name", "Ada") == Chain("patient", (("Patient", clinic),))


def test_has_goes_the_other_way_and_on() -> None:
    code = Criterion("code", "token", (TokenValue(None, "x"),))
    assert one("Patient", "_has:Observation:patient:code", "x") == Has("Observation", "patient", code)
    nested = one("Patient", "_has:Observation:patient:_has:Provenance:target:agent.name", "Ada")
    assert isinstance(nested, Has)
    assert isinstance(nested.condition, Has)
    assert isinstance(nested.condition.condition, Chain)
    assert one("Patient", "_list", "42") == Has("List", "item", Criterion("_id", "token", (TokenValue(None, "42"),)))


def test_includes_name_a_reference_or_all() -> None:
    pairs = [
        ("_include", "Observation:subject"),
        ("_include", "Observation:subject:Patient"),
        ("_include:iterate", "Patient:general-practitioner"),
        ("_include", "*"),
        ("_revinclude", "Provenance:target"),
        ("_include", "Observation:*"),
    ]
    query = parse_search("Observation", pairs, strict=True)
    assert query.given == tuple(pairs)
    assert query.includes == (
        Include("Observation", "subject", None),
        Include("Observation", "subject", "Patient"),
        Include("Patient", "general-practitioner", None, iterate=True),
        Include(None, None, None),
        Include("Provenance", "target", None, reverse=True),
        Include("Observation", None, None),
    )


def test_a_search_of_the_system_is_about_the_types_it_names() -> None:
    query = parse_search(None, [("_type", "Patient,Observation"), ("identifier", "1")], strict=True)
    assert query.searched == ("Patient", "Observation")
    assert parse_search(None, [("_lastUpdated", "gt2026")], strict=True, served={"Patient"}).searched == ("Patient",)
    for pairs in ([("_type", "Patient,Nonsense")], [("_type", "Patient,Observation"), ("code", "x")]):
        with pytest.raises(BadRequest):
            parse_search(None, pairs, strict=True)


def test_a_url_under_the_systems_own_base_is_a_relative_reference() -> None:
    base = "https://clinic.example/fhir"
    for text, value in (
        (f"{base}/Patient/1", ReferenceValue(("Patient",), "1")),
        (f"{base}2/Patient/1", ReferenceValue((), "", f"{base}2/Patient/1")),
        (f"{base}/Nonsense/1", ReferenceValue((), "", f"{base}/Nonsense/1")),
    ):
        query = parse_search("Observation", [("subject", text)], strict=True, base=base)
        assert query.criteria == (Criterion("subject", "reference", (value,)),)


def test_the_common_parameters_are_known_for_every_type() -> None:
    for type_ in sorted(TYPES):
        assert one(type_, "_id", "a,b").values == (TokenValue(None, "a"), TokenValue(None, "b"))
        assert one(type_, "_lastUpdated", "gt2026").kind == "date"
        assert one(type_, "_profile", "http://p").values == (UriValue("http://p"),)


def test_the_result_is_sorted_counted_and_paged_as_asked() -> None:
    pairs = [
        ("_sort", "-date,code"),
        ("_count", "7"),
        ("_total", "accurate"),
        ("status", "final"),
        ("status", "amended"),
    ]
    query = parse_search("Observation", pairs, strict=True)
    assert query.sort == (SortKey("date", "date", descending=True), SortKey("code", "token"))
    assert (query.count, query.total, len(query.criteria), query.given) == (7, "accurate", 2, tuple(pairs))
    assert parse_search("Observation", [], strict=True).count == 50
    assert parse_search("Observation", [("_count", "99999")], strict=True).count == 1000
    assert parse_search("Observation", [("_count", "0")], strict=True).count == 0


UNKNOWN = [
    ("nonsense", "1"),
    ("Code", "1"),
    ("status.name", "x"),
    ("subject.nonsense", "x"),
    ("subject:Patient.nonsense", "x"),
    ("subject:Medication.code", "x"),
    ("subject:missing.name", "x"),
    ("_has:Observation:patient:code", "x"),
    ("_has:Nonsense:patient:code", "x"),
    ("_has:Provenance:target:nonsense", "x"),
    ("_has:Provenance:target", "x"),
    ("_include", "Observation:status"),
    ("_include", "Observation:nonsense"),
    ("_include", "Observation:subject:Medication"),
    ("_include", "Patient:general-practitioner"),
    ("_include:recurse", "Observation:subject"),
    ("_revinclude", "Patient:general-practitioner"),
    ("_text", "x"),
    ("_contained", "true"),
    ("_type", "Patient"),
    ("code:nonsense", "x"),
    ("code:of-type", "s|c|v"),
    ("date:exact", "2026"),
    ("subject:Medication", "1"),
    ("_id:text", "x"),
    ("_sort", "nonsense"),
    ("_format", "json"),
]


@pytest.mark.parametrize(("name", "value"), UNKNOWN)
def test_what_is_unknown_or_not_offered_is_refused_by_name_or_ignored_by_name(name: str, value: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_search("Observation", [(name, value), ("status", "final")], strict=True)
    (issue,) = refused.value.issues
    assert issue.code == "not-supported"
    assert issue.expression == (f"http.{name}",)
    lenient = parse_search("Observation", [(name, value), ("status", "final")], strict=False)
    assert lenient.ignored == (name,)
    assert lenient.given == (("status", "final"),)


UNREADABLE = [
    ("date", "yesterday"),
    ("date", "xx2026"),
    ("date", "2026-02-30"),
    ("date", "ge"),
    ("value-quantity", "five"),
    ("value-quantity", "5|mg"),
    ("value-quantity", "1e99999"),
    ("code", "|"),
    ("code", "a|b|c"),
    ("code", ""),
    ("code", "a,,b"),
    ("code:missing", "maybe"),
    ("subject", "Medication/1"),
    ("subject", "a b"),
    ("subject", "#p"),
    ("identifier:of-type", "s|v"),
    ("subject:Patient.birthdate", "x"),
    ("subject.organization.name:contains", ""),
    (".".join(["has-member:Observation"] * 6 + ["code"]), "x"),
    ("_include", "Nonsense:subject"),
    ("_include", "Observation"),
    ("_include", "Observation:subject:Nonsense"),
    ("_explain", "maybe"),
    ("_count", "-1"),
    ("_count", "many"),
    ("_total", "some"),
    ("_sort", ""),
    ("_sort", "date,,code"),
]


@pytest.mark.parametrize(("name", "value"), UNREADABLE)
def test_a_value_that_cannot_be_read_is_refused_strict_or_not(name: str, value: str) -> None:
    for strict in (True, False):
        with pytest.raises(BadRequest) as refused:
            parse_search("Observation", [(name, value)], strict=strict)
        assert [issue.code for issue in refused.value.issues] == ["value"]
        assert f"'{name}'" in refused.value.issues[0].diagnostics


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(BadRequest) as refused:
        parse_search("Observation", [*UNKNOWN, *UNREADABLE, ("_count", "1"), ("_count", "2")], strict=True)
    assert len(refused.value.issues) == len(UNKNOWN) + len(UNREADABLE) + 1


def test_a_type_that_is_not_held_cannot_be_searched() -> None:
    with pytest.raises(BadRequest):
        parse_search("Claim", [], strict=True)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_escaping_is_undone_exactly(parts: list[str]) -> None:
    escaped = ",".join("".join(f"\\{c}" if c in "\\,|$" else c for c in part) for part in parts)
    assert [unescape(part) for part in split_escaped(escaped, ",")] == parts


@settings(deadline=None)
@given(
    st.sampled_from(sorted(TYPES)),
    st.sampled_from(
        ["_id", "_lastUpdated", "date", "code", "patient", "name", "value-quantity", "_sort", "_count", "url"]
    ),
    st.sampled_from(["", ":exact", ":missing", ":not", ":Patient", ":x"]),
    st.text(max_size=12) | st.from_regex(r"(ge|lt)?[0-9]{4}(-[0-9]{2}){0,2}", fullmatch=True),
)
def test_a_search_is_understood_or_refused_and_nothing_else(type_: str, name: str, modifier: str, value: str) -> None:
    try:
        query = parse_search(type_, [(name + modifier, value)], strict=True)
    except BadRequest as refused:
        assert refused.issues  # noqa: PT017 - either outcome is right, a third is not
    else:
        assert query.given == ((name + modifier, value),)
