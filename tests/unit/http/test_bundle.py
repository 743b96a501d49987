from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from shared.fhir.json import parse
from shared.fhir.outcome import Issue, operation_outcome
from shared.http.batch import _bundle
from shared.http.bundle import document, history, instant, placed, searchset
from shared.store.types import Stored

BASE = "http://kap.example/fhir"
WHEN = datetime(2026, 11, 22, 10, 30, 15, 7_000, tzinfo=UTC)


def stored(number: int, interaction="create", *, deleted=False) -> Stored:
    body = b'{"resourceType":"Observation","id":"o%d","valueQuantity":{"value":1.00}}' % number
    return Stored("Observation", f"o{number}", number, WHEN, deleted, body, "sessions", interaction)


def test_a_searchset_holds_the_stored_bytes_unchanged():
    body = searchset(BASE, [stored(1), stored(2)], links=[("self", f"{BASE}/Observation")], total=2)
    assert stored(1).body in body
    bundle = parse(body)
    assert bundle["type"] == "searchset"
    assert bundle["total"] == 2
    assert bundle["link"] == [{"relation": "self", "url": f"{BASE}/Observation"}]
    assert [entry["fullUrl"] for entry in bundle["entry"]] == [f"{BASE}/Observation/o1", f"{BASE}/Observation/o2"]
    assert bundle["entry"][0]["resource"]["valueQuantity"]["value"].as_tuple() == Decimal("1.00").as_tuple()
    assert {entry["search"]["mode"] for entry in bundle["entry"]} == {"match"}


def test_a_searchset_without_matches_has_no_entry():
    bundle = parse(searchset(BASE, [], links=[("self", BASE)]))
    assert "entry" not in bundle
    assert "total" not in bundle


def test_what_was_included_and_what_was_ignored_is_said():
    outcome = operation_outcome([Issue("Ignored: colour", severity="warning")])
    bundle = parse(searchset(BASE, [stored(1)], links=[("self", BASE)], outcome=outcome, included=[stored(2)]))
    assert [entry["search"]["mode"] for entry in bundle["entry"]] == ["match", "include", "outcome"]
    assert bundle["entry"][2]["resource"] == outcome


def test_a_history_tells_how_each_version_came_and_a_deletion_has_no_resource():
    versions = [stored(3, "delete", deleted=True), stored(2, "update"), stored(1)]
    bundle = parse(history(BASE, versions, links=[("self", BASE)]))
    assert bundle["type"] == "history"
    assert [entry["request"]["method"] for entry in bundle["entry"]] == ["DELETE", "PUT", "POST"]
    assert [entry["request"]["url"] for entry in bundle["entry"]] == [
        "Observation/o3", "Observation/o2", "Observation",
    ]  # fmt: skip
    assert [entry["response"]["etag"] for entry in bundle["entry"]] == ['W/"3"', 'W/"2"', 'W/"1"']
    assert "resource" not in bundle["entry"][0]
    assert bundle["entry"][1]["resource"]["id"] == "o2"


def test_an_instant_has_milliseconds_and_is_utc():
    assert instant(WHEN) == "2026-11-22T10:30:15.007Z"


def test_what_an_operation_found_is_known_by_its_url_on_the_base_that_was_asked():
    kept = b'{"resourceType":"Appointment","id":"a","meta":{"versionId":"1"},"priority":1.0}'
    offered = b'{"resourceType":"Appointment","id":"b"}'
    entries = b'[{"fullUrl":"http://owner/fhir/Appointment/a","resource":%b},{"fullUrl":"urn:uuid:b","resource":%b}]'
    body = b'{"resourceType":"Bundle","type":"searchset","entry":%b}' % (entries % (kept, offered))
    answered = placed(body, BASE)
    assert [entry["fullUrl"] for entry in parse(answered)["entry"]] == [f"{BASE}/Appointment/a", "urn:uuid:b"]
    assert kept in answered
    assert placed(answered, BASE) is answered
    for other in (b'{"resourceType":"Patient"}', b'{"resourceType":"Bundle","type":"document"}'):
        assert placed(other, BASE) is other


def labelled(level):
    coding = b'{"system":"http://terminology.hl7.org/CodeSystem/v3-Confidentiality","code":"%s"}' % level
    body = b'{"resourceType":"Observation","id":"o","meta":{"security":[{"code":"SUD"},%s]},"valueString":"V"}' % coding
    return replace(stored(1), body=body)


def test_a_bundle_is_as_confidential_as_the_most_confidential_that_is_in_it():
    def level(bundle):
        return [one["code"] for one in parse(bundle)["meta"].get("security", ())]

    links = [("self", BASE)]
    assert level(searchset(BASE, [labelled(b"R"), stored(2)], links=links)) == ["R"]
    assert level(searchset(BASE, [stored(2)], links=links)) == ["N"]
    assert level(searchset(BASE, [labelled(b"R")], links=links, included=[labelled(b"V")])) == ["V"]
    assert level(searchset(BASE, [], links=links)) == []
    gone = replace(stored(3, "delete", deleted=True), body=labelled(b"V").body)
    assert level(history(BASE, [gone, labelled(b"R")], links=links)) == ["R"]
    whole = document("urn:uuid:1", "http://profile", WHEN, [("urn:a", stored(1).body), ("urn:b", labelled(b"V").body)])
    assert level(whole) == ["V"]
    entry = b'{"resource":%s,"response":{"status":"200"}}'
    refused = b'{"response":{"status":"404"}}'
    assert level(_bundle("batch-response", [entry % labelled(b"R").body, refused])) == ["R"]
    found = searchset(BASE, [labelled(b"V")], links=links)
    assert level(_bundle("batch-response", [entry % stored(1).body, entry % found])) == ["V"]
    assert level(_bundle("transaction-response", [refused])) == []
