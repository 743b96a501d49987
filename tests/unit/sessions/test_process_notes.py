"""The rules of process notes: what one must be, and who is authorised to read it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.sessions.rules.process_notes import authorising, check_note, labelled
from shared.fhir.codes import ACT_CODE, ACT_REASON, CONSENT_PRIVACY, PARTICIPATION

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
AUTHOR, OTHER = "Practitioner/t", "Practitioner/s"
TEXT = {"attachment": {"contentType": "text/plain", "data": "c2hhbWU="}}
NOTE = {
    "resourceType": "DocumentReference",
    "status": "current",
    "subject": {"reference": "Patient/ann"},
    "content": [TEXT],
}


def rules(**changes):
    note = {name: value for name, value in {**NOTE, **changes}.items() if value is not None}
    return [(issue.rule, issue.expression[0]) for issue in check_note(note, AUTHOR)]


def test_a_text_of_ones_own_about_one_patient_is_a_process_note():
    assert rules() == []
    assert rules(author=[{"reference": AUTHOR}]) == []


@pytest.mark.parametrize(
    ("changes", "rule", "where"),
    [
        ({"subject": None}, "N-SUBJECT", "DocumentReference.subject"),
        ({"subject": {"reference": "Group/all"}}, "N-SUBJECT", "DocumentReference.subject"),
        ({"status": "superseded"}, "N-STATUS", "DocumentReference.status"),
        ({"author": [{"reference": OTHER}]}, "N-AUTHOR", "DocumentReference.author"),
        ({"author": [{"reference": AUTHOR}, {"reference": OTHER}]}, "N-AUTHOR", "DocumentReference.author"),
        (
            {"content": [TEXT, {"attachment": {"contentType": "text/plain", "url": "http://elsewhere/1"}}]},
            "N-TEXT",
            "DocumentReference.content[1].attachment",
        ),
        (
            {"content": [{"attachment": {"contentType": "image/png", "data": "c2hhbWU="}}]},
            "N-TEXT",
            "DocumentReference.content[0].attachment.contentType",
        ),
    ],
)
def test_anything_else_is_named_with_its_place(changes, rule, where):
    assert rules(**changes) == [(rule, where)]


def test_a_note_bears_its_labels_whatever_it_came_with():
    sent = {
        **NOTE,
        "meta": {"security": [{"system": "urn:x", "code": "mine"}, {"system": ACT_CODE, "code": "PSYTHPN"}]},
    }
    for note in (NOTE, sent):
        kept = labelled(note, author=AUTHOR, version=1, now=NOW)
        codes = [one["code"] for one in kept["meta"]["security"]]
        assert codes[:2] == ["PSYTHPN", "R"]
        assert codes.count("PSYTHPN") == 1
        assert kept["author"] == [{"reference": AUTHOR}]


def provision(kind="permit", who=(OTHER,), labels=("PSYTHPN",), **more):
    return {
        "type": kind,
        "actor": [
            {"role": {"coding": [{"system": PARTICIPATION, "code": "IRCP"}]}, "reference": {"reference": one}}
            for one in who
        ],
        "securityLabel": [{"system": ACT_CODE, "code": one} for one in labels],
        **more,
    }


def consent(given=None, *, id_="c", **more):
    return {
        "resourceType": "Consent",
        "id": id_,
        "status": "active",
        "scope": CONSENT_PRIVACY.concept(),
        "dateTime": "2026-11-01T00:00:00Z",
        "patient": {"reference": "Patient/ada"},
        "performer": [{"reference": "Patient/ada"}],
        "provision": provision() if given is None else given,
        **more,
    }


def opens(*consents, reader=OTHER):
    found = authorising(consents, reader, NOW)
    return None if found is None else found["id"]


def test_who_is_permitted_the_label_by_name_may_read():
    assert opens(consent()) == "c"
    assert opens(consent({"type": "permit", "provision": [provision()]})) == "c"
    assert opens(consent(performer=[{"reference": "RelatedPerson/mother"}])) == "c"


@pytest.mark.parametrize(
    "one",
    [
        consent(status="inactive"),
        consent(status="draft"),
        consent(scope={"coding": [{"code": "treatment"}]}),
        consent(dateTime="2026-11-23T00:00:00Z"),
        consent(provision(who=("Practitioner/x",))),
        consent(provision(labels=("PSYTHPN", "SUD"))),
        consent(provision(labels=())),
        consent(provision("deny")),
        consent(provision(period={"end": "2026-11-20"})),
        consent(provision(period={"start": "2026-12-01"})),
        consent({"type": "permit", "period": {"end": "2026-11-20"}, "provision": [provision()]}),
        consent(meta={"source": "urn:hospital"}),
        consent({**provision(), "actor": [{"role": {"text": "reader"}, "reference": {"reference": OTHER}}]}),
        consent(performer=[]),
        consent(performer=[{"reference": OTHER}]),
        consent(performer=[{"reference": "Patient/ada"}, {"reference": OTHER}]),
    ],
    ids=range(16),
)
def test_nothing_less_opens_a_note(one):
    assert opens(one) is None


def test_a_denial_by_name_goes_before_every_permission():
    denial = consent(provision("deny"), id_="no")
    assert opens(consent(), denial) is None
    assert opens(denial, consent()) is None
    assert opens(consent(), consent(provision("deny", who=("Practitioner/x",)), id_="no")) == "c"


def general(**more):
    return {"type": "deny", **more}


P4 = {"type": "permit", "provision": [general(securityLabel=[{"system": ACT_CODE, "code": "PSYTHPN"}])]}
TPO = [{"system": ACT_REASON, "code": one} for one in ("TREAT", "HPAYMT", "HOPERAT")]


@pytest.mark.parametrize(
    "said",
    [
        {"given": general()},
        {"given": general(securityLabel=[{"system": ACT_CODE, "code": "PSYTHPN"}])},
        {"given": general(securityLabel=[{"system": ACT_CODE, "code": "MH"}])},
        {"given": P4},
        {"given": {**P4, "purpose": TPO}},
        {"given": general(provision=[{"type": "permit", "purpose": [{"system": ACT_REASON, "code": "ETREAT"}]}])},
        {"given": general(actor=[{"role": {"text": "anybody"}, "reference": {"display": "everybody"}}])},
        {"given": general(purpose=[{"system": "http://elsewhere", "code": "ANY"}])},
        {"given": general(data=[{"meaning": "authoredby", "reference": {"reference": AUTHOR}}])},
        {"given": general(), "meta": {"source": "urn:hospital"}},
        {"given": general(), "dateTime": "2026-10-01"},
        {"given": general(), "dateTime": "2026-11-22T12:00:30Z"},  # by a clock that is ahead
        {"provision": None, "policyRule": {"coding": [{"system": ACT_CODE, "code": "OPTOUT"}]}},
        {"provision": None, "category": [{"coding": [{"system": ACT_CODE, "code": "OPTOUTE"}]}]},
        {"provision": None, "policy": [{"uri": "http://terminology.hl7.org/CodeSystem/v3-ActCode#OPTOUT"}]},
    ],
    ids=range(15),
)
def test_a_denial_to_everybody_or_of_everything_closes_the_notes_whoever_was_permitted_by_name(said):
    denial = {name: value for name, value in consent(id_="no", **said).items() if value is not None}
    assert opens(consent(), denial) is None
    assert opens(denial, consent()) is None


@pytest.mark.parametrize(
    "given",
    [
        general(period={"end": "2026-11-20"}),
        general(securityLabel=[{"system": ACT_CODE, "code": "SUD"}]),
        general(purpose=[{"system": ACT_REASON, "code": "HPAYMT"}]),
        general(data=[{"meaning": "instance", "reference": {"reference": "Observation/o"}}]),
        {**P4, "actor": provision(who=("Organization/h1",))["actor"]},
        {"type": "permit", "purpose": TPO, "provision": [general(securityLabel=[{"system": ACT_CODE, "code": "SUD"}])]},
        {"type": "permit", "period": {"end": "2026-11-20"}, "provision": P4["provision"]},
    ],
    ids=range(7),
)
def test_a_denial_of_something_else_closes_no_notes(given):
    assert opens(consent(), consent(given, id_="no")) == "c"


def test_a_permission_by_name_is_an_exception_from_what_its_own_consent_denies():
    assert opens(consent(general(provision=[provision()]))) == "c"
    assert opens(consent(general(provision=[provision(), provision("deny")]))) is None
