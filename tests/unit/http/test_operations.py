"""What `$lastn` keeps and `$docref` finds, and how parameters are read, as pure functions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shared.fhir.json import dump
from shared.fhir.outcome import BadRequest
from shared.http.operations.docref import span_of, within
from shared.http.operations.kinds import texts
from shared.http.operations.lastn import Newest
from shared.http.operations.standard import standard_operations
from shared.runtime.service import OperationCall
from shared.store.types import Stored

WHEN = datetime(2026, 11, 22, tzinfo=UTC)


def stored(id_, **content):
    return Stored("Observation", id_, 1, WHEN, False, dump(content), "intake", "create")


def coded(id_, *codes):
    return stored(id_, code={"coding": [{"system": "urn:c", "code": code} for code in codes]})


def test_observations_with_a_common_coding_are_of_one_code():
    newest = Newest(2)
    newest.take([coded("1", "a"), coded("2", "b", "a"), coded("3", "b")])
    newest.take([coded("4", "c"), stored("5", code={"text": "c"}), stored("6", code={"text": "c"})])
    assert [one.id for one in newest.entries()] == ["1", "2", "4", "5", "6"]


def document(id_, **content):
    return stored(id_, resourceType="DocumentReference", **content)


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (None, None, "abcde"),
        ("2026-02-01", None, "bcde"),
        (None, "2026-01-31", "abe"),
        ("2026-02-10", "2026-02-20", "be"),
        ("2026-03-01", "2026-03-01", "bce"),
        ("2030", None, "e"),
    ],
)
def test_documents_are_found_by_the_time_of_care(start, end, found):
    documents = [
        document("a", context={"period": {"start": "2026-01-01", "end": "2026-01-31"}}, date="2030-01-01T00:00:00Z"),
        document("b", context={"period": {"start": "2026-01-15", "end": "2026-03-15"}}),
        document("c", date="2026-03-01T10:00:00Z"),
        document("d", context={}, date="2026-05-01T10:00:00Z"),
        document("e", context={"encounter": []}),
    ]
    assert "".join(one.id for one in within(documents, span_of(start, end))) == found


def test_a_time_that_is_none_is_refused():
    with pytest.raises(BadRequest):
        span_of("soon", None)


def test_parameters_are_read_as_a_search_has_them():
    parameter = [
        {"name": "type", "valueCodeableConcept": {"coding": [{"system": "http://loinc.org", "code": "34133-9"}]}},
        {"name": "type", "valueCoding": {"code": "x"}},
        {"name": "on-demand", "valueBoolean": False},
        {"name": "patient", "valueId": "p1"},
    ]
    call = OperationCall("docref", "DocumentReference", None, {"parameter": parameter})
    assert texts(call) == [
        ("type", "http://loinc.org|34133-9"),
        ("type", "x"),
        ("on-demand", "false"),
        ("patient", "p1"),
    ]
    with pytest.raises(BadRequest):
        texts(call, ("patient",))


def test_only_what_the_interactions_allow_is_offered():
    offered = {"Patient": frozenset(("read",)), "Observation": frozenset(("search-type",))}
    found = {(one.type, one.name) for one in standard_operations(offered, offered)}
    assert found == {("Patient", "meta"), ("Observation", "lastn")}
