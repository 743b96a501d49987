"""Links in a resource are found by type, wherever they stand, and rewritten without touching the rest."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from shared.fhir.extraction import references_of
from shared.fhir.links import links_of, relinked
from tests.data import examples

URN = "urn:uuid:05efabf0-4be2-4561-91ce-51548425acb9"


def to_patient(_kind, text):
    return "Patient/1" if text == URN else text


def test_a_reference_is_rewritten_wherever_it_stands():
    observation = {
        "resourceType": "Observation",
        "subject": {"reference": URN, "display": "Ann"},
        "performer": [{"reference": "Practitioner/2"}, {"reference": URN}],
        "component": [{"extension": [{"url": "http://x.example", "valueReference": {"reference": URN}}]}],
        "contained": [{"resourceType": "Device", "id": "d", "patient": {"reference": URN}}],
        "_status": {"extension": [{"url": "http://x.example", "valueReference": {"reference": URN}}]},
    }
    after = relinked(observation, to_patient)
    assert after["subject"] == {"reference": "Patient/1", "display": "Ann"}
    assert after["performer"] == [{"reference": "Practitioner/2"}, {"reference": "Patient/1"}]
    assert after["component"][0]["extension"][0]["valueReference"] == {"reference": "Patient/1"}
    assert after["contained"][0]["patient"] == {"reference": "Patient/1"}
    assert after["_status"]["extension"][0]["valueReference"] == {"reference": "Patient/1"}


def test_uris_urls_and_the_narratives_links_are_rewritten_and_canonicals_are_not():
    document = {
        "resourceType": "DocumentReference",
        "text": {
            "status": "generated",
            "div": f'<div xmlns=\'http://www.w3.org/1999/xhtml\'><a title="{URN}" href="{URN}">Ann</a>'
            f"<img src='{URN}' alt=\"{URN}\"/><a href='http://x.example/?a=1&amp;b=2'>x</a>{URN}</div>",
        },
        "content": [{"attachment": {"url": URN}}],
        "extension": [{"url": "http://x.example", "valueUri": URN}, {"url": "http://y.example", "valueCanonical": URN}],
        "description": URN,
    }
    after = relinked(document, to_patient)
    assert after["text"]["div"] == (
        f'<div xmlns=\'http://www.w3.org/1999/xhtml\'><a title="{URN}" href="Patient/1">Ann</a>'
        f'<img src="Patient/1" alt="{URN}"/><a href=\'http://x.example/?a=1&amp;b=2\'>x</a>{URN}</div>'
    )
    assert after["content"] == [{"attachment": {"url": "Patient/1"}}]
    assert [*after["extension"][0].values()] == ["http://x.example", "Patient/1"]
    assert [*after["extension"][1].values()] == ["http://y.example", URN]
    assert after["description"] == URN


def test_where_a_resource_came_from_stays():
    patient = {"resourceType": "Patient", "meta": {"source": URN}, "implicitRules": URN}
    assert relinked(patient, to_patient) == {**patient, "implicitRules": "Patient/1"}


def test_the_resource_given_is_left_as_it_is():
    patient = {"resourceType": "Patient", "managingOrganization": {"reference": URN}}
    before = deepcopy(patient)
    assert relinked(patient, to_patient) != before
    assert patient == before


def test_every_reference_of_the_examples_is_a_link():
    looked_at = 0
    for resource in examples().values():
        said = [reference["reference"] for _, reference in references_of(resource) if "reference" in reference]
        found = [text for kind, text in links_of(resource) if kind == "reference"]
        assert sorted(found) == sorted(said), resource.get("id")
        assert relinked(resource, lambda _kind, text: text) is resource
        looked_at += len(said)
    assert looked_at > 500


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["subject", "reference", "_status", "extension", "text", "div", "contained", "valueUri", "code"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(ANY)
def test_what_is_not_fhir_is_left_as_it_is(value):
    resource = {"resourceType": "Observation", "subject": value, "text": value, "_status": value, "contained": value}
    assert relinked(resource, lambda _kind, text: text) is resource
