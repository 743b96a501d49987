"""A resource on its way to a hospital: references, identifiers, and what is left out."""

from __future__ import annotations

from decimal import Decimal

from services.delivery.mapping import Target, outbound, target_of, targets_of, withdrawn
from shared.fhir.content import content_hash
from shared.fhir.json import dump, parse

BASE = "http://127.0.0.1:8000/fhir"


def observation(**more):
    return {
        "resourceType": "Observation",
        "id": "o1",
        "meta": {"versionId": "3", "lastUpdated": "2026-11-22T10:00:00.000Z", "profile": ["http://example.org/p"]},
        "status": "final",
        "code": {"text": "Heart rate"},
        "subject": {"reference": "Patient/p1", "display": "Ada"},
        "encounter": {"reference": "Encounter/e1/_history/2"},
        "performer": [{"reference": "Practitioner/d1", "display": "Dr. Ng"}],
        **more,
    }


def there(known):
    return lambda target: known.get(str(target))


def test_our_id_goes_along_as_a_business_identifier_and_our_version_does_not():
    sent = outbound(observation(), there({}), own_base=BASE)
    assert sent["identifier"] == [{"system": "https://kap-exchange.org/fhir/id/Observation", "value": "o1"}]
    assert "id" not in sent
    assert sent["meta"] == {"profile": ["http://example.org/p"]}
    assert sent["resourceType"] == "Observation"


def test_identifiers_it_had_stay_and_ours_is_not_doubled():
    mine = {"system": "https://kap-exchange.org/fhir/id/Observation", "value": "o1"}
    other = {"system": "urn:oid:1.2.3", "value": "77"}
    sent = outbound(observation(identifier=[mine, other]), there({}), own_base=BASE)
    assert sent["identifier"] == [other, mine]


def test_a_reference_to_what_the_hospital_has_gets_the_id_it_has_there():
    sent = outbound(observation(), there({"Patient/p1": "77", "Encounter/e1": "88"}), own_base=BASE)
    assert sent["subject"] == {"reference": "Patient/77", "display": "Ada"}
    assert sent["encounter"] == {"reference": "Encounter/88"}


def test_a_reference_to_what_the_hospital_has_not_becomes_a_logical_one():
    sent = outbound(observation(), there({}), own_base=BASE)
    assert sent["performer"] == [
        {
            "type": "Practitioner",
            "identifier": {"system": "https://kap-exchange.org/fhir/id/Practitioner", "value": "d1"},
            "display": "Dr. Ng",
        }
    ]


def test_a_reference_keeps_an_identifier_of_its_own():
    npi = {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}
    sent = outbound(
        observation(performer=[{"reference": "Practitioner/d1", "identifier": npi}]), there({}), own_base=BASE
    )
    assert sent["performer"] == [{"type": "Practitioner", "identifier": npi}]


def test_contained_absolute_and_urn_references_stay_as_they_are():
    for reference in ("#doc", "http://other.example/fhir/Patient/9", "urn:uuid:0198e0c0-0000-7000-8000-000000000000"):
        sent = outbound(observation(focus=[{"reference": reference}]), there({}), own_base=BASE)
        assert sent["focus"] == [{"reference": reference}]
        assert target_of(reference) is None


def test_references_inside_extensions_and_contained_resources_are_rewritten_too():
    sent = outbound(
        observation(
            extension=[{"url": "http://example.org/x", "valueReference": {"reference": "Condition/c1"}}],
            contained=[{"resourceType": "Specimen", "id": "s", "subject": {"reference": "Patient/p1"}}],
        ),
        there({"Patient/p1": "77", "Condition/c1": "5"}),
        own_base=BASE,
    )
    assert sent["extension"][0]["valueReference"] == {"reference": "Condition/5"}
    assert sent["contained"][0]["subject"] == {"reference": "Patient/77"}


def test_an_attachment_that_is_kept_here_gets_its_whole_address():
    document = {
        "resourceType": "DocumentReference",
        "id": "d1",
        "status": "current",
        "content": [{"attachment": {"url": "Binary/b1"}}, {"attachment": {"url": "http://elsewhere/x"}}],
    }
    sent = outbound(document, there({}), own_base=BASE)
    assert sent["content"][0]["attachment"]["url"] == f"{BASE}/Binary/b1"
    assert sent["content"][1]["attachment"]["url"] == "http://elsewhere/x"


def test_what_was_held_is_not_changed_by_mapping_it():
    held = observation()
    before = dump(held)
    outbound(held, there({"Patient/p1": "77"}), own_base=BASE)
    assert dump(held) == before


def test_the_targets_of_a_resource_are_all_it_refers_to_but_itself():
    resource = observation(hasMember=[{"reference": "Observation/o1"}, {"reference": "Observation/o2"}])
    assert targets_of(resource) == {
        Target("Patient", "p1"),
        Target("Encounter", "e1"),
        Target("Practitioner", "d1"),
        Target("Observation", "o2"),
    }


def test_the_content_hash_is_the_same_wherever_the_content_is_the_same():
    sent = outbound(observation(valueQuantity={"value": Decimal("1.00")}), there({}), own_base=BASE)
    held_there = parse(
        dump({**sent, "id": "99", "meta": {"versionId": "1", "lastUpdated": "2026-11-22T10:00:01Z", **sent["meta"]}})
    )
    assert content_hash(held_there) == content_hash(dict(reversed(sent.items())))
    assert content_hash({**held_there, "status": "amended"}) != content_hash(sent)
    assert content_hash({**sent, "valueQuantity": {"value": Decimal("1.0")}}) != content_hash(sent)


def test_a_withdrawn_resource_says_so_in_the_way_of_its_type():
    assert withdrawn({"resourceType": "Observation", "status": "final"})["status"] == "entered-in-error"
    assert withdrawn({"resourceType": "Patient", "active": True})["active"] is False
    condition = withdrawn({"resourceType": "Condition", "clinicalStatus": {"text": "x"}, "subject": {}})
    assert condition["verificationStatus"]["coding"][0]["code"] == "entered-in-error"
    assert "clinicalStatus" not in condition
