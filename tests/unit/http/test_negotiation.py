from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shared.fhir.outcome import BadRequest, NotAcceptable, UnsupportedMediaType
from shared.fhir.patch.apply import FHIRPATH_PATCH, JSON_PATCH, MERGE_PATCH, PATCH_FORMATS
from shared.fhir.subset import View
from shared.http.negotiation import (
    FHIR_JSON,
    PLAIN_JSON,
    Presentation,
    accepted,
    http_date,
    not_modified,
    patch_format,
    preferences,
    require_form,
    require_json,
    take_presentation,
    version_of_etag,
)

BIRTH = frozenset(("name", "birthDate", "value"))
CHANGED = datetime(2026, 11, 22, 10, 30, 15, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("accept", "format_", "answer"),
    [
        (None, None, FHIR_JSON),
        ("*/*", None, FHIR_JSON),
        ("application/fhir+json", None, FHIR_JSON),
        ("application/fhir+json; fhirVersion=4.0", None, FHIR_JSON),
        ("application/json", None, PLAIN_JSON),
        ("application/json;q=0.5, application/fhir+json", None, FHIR_JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", None, FHIR_JSON),
        ("application/fhir+xml", "json", FHIR_JSON),
        ("text/html", "application/fhir json", FHIR_JSON),  # a '+' that a URL turned into a blank
        ("text/html", "application/json", PLAIN_JSON),
    ],
)
def test_the_answer_is_in_the_form_that_was_asked_for(accept, format_, answer):
    assert accepted(accept, format_) == answer


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        ("application/fhir+xml", None),
        ("text/html", None),
        ("*/*", "xml"),
        ("application/fhir+json; fhirVersion=3.0", None),
        ("application/fhir+json;q=0", None),
        ("application/fhir+json;q=high", None),
    ],
)
def test_what_is_not_spoken_is_not_acceptable(accept, format_):
    with pytest.raises(NotAcceptable):
        accepted(accept, format_)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/fhir+json",
        "application/json",
        "application/fhir+json; fhirVersion=4.0",
        'application/fhir+json; charset="UTF-8"',
    ],
)
def test_json_is_read(content_type):
    require_json(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/fhir+xml",
        "application/fhir+json; fhirVersion=5.0",
        "application/json; charset=latin-1",
        "application/x-www-form-urlencoded",
    ],
)
def test_another_media_type_is_unsupported(content_type):
    with pytest.raises(UnsupportedMediaType):
        require_json(content_type)


def test_a_search_by_post_is_a_form():
    require_form("application/x-www-form-urlencoded; charset=utf-8")
    with pytest.raises(UnsupportedMediaType):
        require_form("application/json")


def test_general_parameters_are_taken_from_the_search_parameters():
    presentation, rest = take_presentation(
        [("_pretty", "true"), ("code", "x"), ("_format", "json"), ("_summary", "count")], None
    )
    assert presentation == Presentation(FHIR_JSON, pretty=True, counting=True)
    assert rest == [("code", "x")]


@pytest.mark.parametrize(
    ("pairs", "view"),
    [
        ([], None),
        ([("_summary", "false")], None),
        ([("_summary", "data")], View("data")),
        ([("_elements", "name, Patient.birthDate"), ("_elements", "value[x]")], View(elements=BIRTH)),
        ([("_elements", "")], None),
    ],
)
def test_what_of_a_resource_is_wanted_is_understood(pairs, view):
    assert take_presentation(pairs, None)[0].view == view


@pytest.mark.parametrize(
    "pairs", [[("_summary", "most")], [("_pretty", "yes")], [("_summary", "text"), ("_elements", "id")]]
)
def test_a_view_that_cannot_be_understood_is_refused_and_not_silently_the_whole(pairs):
    with pytest.raises(BadRequest) as refused:
        take_presentation(pairs, None)
    assert refused.value.issues[0].expression == (f"http.{pairs[-1][0]}",)


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("application/json-patch+json", JSON_PATCH),
        ("application/merge-patch+json; charset=utf-8", MERGE_PATCH),
        ("application/fhir+json", FHIRPATH_PATCH),
        ("application/json", FHIRPATH_PATCH),
    ],
)
def test_the_form_of_a_patch_is_told_by_its_media_type(content_type, form):
    assert patch_format(content_type) == form


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/xml-patch+xml", "application/fhir+xml"])
def test_another_form_of_patch_is_refused_with_those_that_are_read(content_type):
    with pytest.raises(UnsupportedMediaType) as refused:
        patch_format(content_type)
    assert refused.value.headers["Accept-Patch"] == ", ".join(PATCH_FORMATS)


@pytest.mark.parametrize(
    ("prefer", "understood"),
    [
        (None, ("representation", False)),
        ("return=minimal", ("minimal", False)),
        ("return=OperationOutcome; handling=lenient", ("OperationOutcome", True)),
        ("respond-async, handling=strict", ("representation", False)),
        ('return="minimal"', ("minimal", False)),
        ("return=everything", ("representation", False)),
    ],
)
def test_preferences_are_understood_and_unknown_ones_ignored(prefer, understood):
    assert preferences(prefer) == understood


@pytest.mark.parametrize(("header", "version"), [('W/"3"', 3), ('"12"', 12), ("7", 7), (' W/"1" ', 1)])
def test_an_etag_names_a_version(header, version):
    assert version_of_etag(header) == version


@pytest.mark.parametrize("header", ["", "abc", 'W/"0"', 'W/"1", W/"2"', 'W/"-1"', '"1' + "0" * 20 + '"'])
def test_what_is_no_etag_is_refused(header):
    with pytest.raises(BadRequest):
        version_of_etag(header)


@pytest.mark.parametrize(
    ("headers", "unchanged"),
    [
        ({}, False),
        ({"if-none-match": 'W/"3"'}, True),
        ({"if-none-match": 'W/"2", W/"3"'}, True),
        ({"if-none-match": "*"}, True),
        ({"if-none-match": 'W/"2"'}, False),
        ({"if-none-match": 'W/"2"', "if-modified-since": http_date(CHANGED)}, False),
        ({"if-modified-since": http_date(CHANGED)}, True),
        ({"if-modified-since": "Sun, 22 Nov 2026 10:30:14 GMT"}, False),
        ({"if-modified-since": "yesterday"}, False),
    ],
)
def test_a_conditional_read_knows_whether_something_is_new(headers, unchanged):
    assert not_modified(headers, 3, CHANGED) is unchanged
