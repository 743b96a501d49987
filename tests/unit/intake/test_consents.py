"""Informed consent by element, and privacy consents by PCF: each element, each constraint, each pattern."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.intake.rules.consents import check_elements, needed_elements, outdated
from services.intake.rules.privacy import check_notes, check_privacy, patterns
from services.intake.setting import Setting
from shared.fhir import codes
from shared.fhir.kap import routes_consented
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
POLICY = SETTING.consent
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
SIGNER = {"reference": "Patient/ada"}


def element(name, **parts):
    said = {
        "element": {"valueCode": name},
        "at": {"valueDateTime": "2026-11-20"},
        "version": {"valueString": "1"},
        "language": {"valueCode": "en"},
        "signer": {"valueReference": SIGNER},
        **parts,
    }
    inner = [{"url": url, **value} for url, value in said.items() if value is not None]
    return {"url": codes.EXT_CONSENT_ELEMENT, "extension": inner}


def consent(elements, *routes):
    return {
        "resourceType": "Consent",
        "extension": elements,
        "category": [
            codes.PROCEDURE_CONSENT.concept(codes.TREATMENT_CONSENT),
            *(route.concept() for route in routes or (codes.ROUTE_IM,)),
        ],
        "performer": [SIGNER],
    }


NEEDED = needed_elements(frozenset({codes.ROUTE_IM.code}), None, POLICY)
ALL = [element(name) for name in NEEDED]


def said(elements, drug=None, policy=POLICY):
    issues = check_elements(consent(elements), drug, NOW, policy)
    assert {issue.rule for issue in issues} <= {"C-ELEMENT"}
    assert all(issue.source for issue in issues)
    return [issue.diagnostics for issue in issues]


def test_a_consent_with_every_element_may_be_in_force():
    assert said(ALL) == []


@pytest.mark.parametrize("name", NEEDED)
def test_each_element_is_needed_and_named_when_it_is_missing(name):
    (one,) = said([element(other) for other in NEEDED if other != name])
    assert f"'{name}' is missing: {POLICY.elements[name].text}" in one


@pytest.mark.parametrize(
    ("parts", "lack"),
    [
        ({"at": None}, "lacks at"),
        ({"version": None}, "lacks version"),
        ({"language": None}, "lacks language"),
        ({"signer": None}, "not signed"),
        ({"signer": {"valueReference": {"reference": "Practitioner/x"}}}, "not signed"),
        ({"at": {"valueDateTime": "2026-11-23"}}, "in the future"),
        ({"witness": {"valueReference": SIGNER}}, "witnessed by the signer"),
        ({"agreed": {"valueBoolean": False}}, "not agreed"),
    ],
)
def test_an_element_says_when_which_text_which_language_and_who(parts, lack):
    (one,) = said([element("procedure", **parts), *(element(name) for name in NEEDED if name != "procedure")])
    assert lack in one


@pytest.mark.parametrize("name", ["touch", "recording"])
def test_touch_and_recording_may_be_declined(name):
    no = element(name, agreed={"valueBoolean": False})
    assert said([no, *(element(other) for other in NEEDED if other != name)]) == []


def test_esketamine_needs_its_programme_and_is_not_off_label():
    routes = frozenset({codes.ROUTE_NASAL.code})
    assert set(needed_elements(routes, "esketamine", POLICY)) ^ set(NEEDED) == {"rems", "off-label"}


def test_an_element_nobody_knows_is_named():
    (one,) = said([*ALL, element("moon")])
    assert "'moon'" in one


def test_a_clinic_may_ask_for_a_witness():
    strict = replace_witness(required=True)
    assert len(said(ALL, policy=strict)) == len(NEEDED)
    witnessed = [element(name, witness={"valueReference": {"reference": "Practitioner/x"}}) for name in NEEDED]
    assert said(witnessed, policy=strict) == []


def replace_witness(*, required):
    import msgspec

    return msgspec.structs.replace(POLICY, witness=msgspec.structs.replace(POLICY.witness, required=required))


def test_a_changed_text_makes_what_was_signed_outdated():
    assert outdated(consent(ALL), None, POLICY) == []
    old = [element("cost", version={"valueString": "0"}), *(element(name) for name in NEEDED if name != "cost")]
    assert outdated(consent(old), None, POLICY) == ["cost"]


def test_a_denial_of_a_day_is_the_last_word_of_that_day():
    """Else who withdrew in the afternoon would be dosed: a form that says only the day is read as the day's end."""
    when = datetime(2026, 11, 22, 15, tzinfo=UTC)
    scope = codes.CONSENT_TREATMENT.concept()
    permit = {**consent(ALL), "status": "active", "scope": scope, "dateTime": "2026-11-22T09:30:00Z"}
    denial = {**permit, "dateTime": "2026-11-22", "provision": {"type": "deny"}}
    assert routes_consented([permit], when)
    assert not routes_consented([permit, denial], when)
    assert routes_consented([{**denial, "dateTime": "2026-11-21"}, permit], when)


# -- privacy -----------------------------------------------------------------------------------------------------------


def purposes(*codes_):
    return [{"system": codes.ACT_REASON, "code": code} for code in codes_]


TPO = purposes("TREAT", "HPAYMT", "HOPERAT")
RECIPIENT = {
    "role": {"coding": [{"system": codes.PARTICIPATION, "code": "IRCP"}]},
    "reference": {"reference": "Organization/hospital"},
}


def privacy(provision, *categories, policy="http://terminology.hl7.org/CodeSystem/consentpolicycodes#hipaa-auth"):
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": codes.CONSENT_PRIVACY.concept(),
        "category": [codes.Code(codes.LOINC, "59284-0").concept()]
        + [codes.Code(codes.ACT_CODE, code).concept() for code in categories],
        "patient": SIGNER,
        "dateTime": "2026-11-20",
        "performer": [SIGNER],
        "organization": [{"reference": "Organization/clinic"}],
        "sourceReference": {"reference": "DocumentReference/signed"},
        "policy": [{"uri": policy}],
        "provision": provision,
    }


def deny(**what):
    return {"type": "deny", **what}


def label(code):
    return [{"system": codes.ACT_CODE, "code": code}]


P1 = {"type": "permit", "purpose": TPO}


@pytest.mark.parametrize(
    ("consent_", "expected"),
    [
        (privacy(P1), {"P1"}),
        (privacy({**P1, "actor": [RECIPIENT]}), {"P2"}),
        (privacy({**P1, "provision": [deny(securityLabel=label("SUD"))]}), {"P1", "P3"}),
        (privacy({**P1, "provision": [deny(securityLabel=label("PSYTHPN"))]}), {"P1", "P4"}),
        (privacy(P1, "42CFRPart2CD"), {"P1", "P5"}),
        (privacy(deny(provision=[{"type": "permit", "purpose": purposes("ETREAT")}])), {"P6"}),
        (privacy(deny(), "OPTOUT"), {"P7"}),
        (
            privacy({**P1, "provision": [deny(purpose=purposes("HPAYMT"))]}, policy="urn:x#hipaa-self-pay"),
            {"P1", "P8"},
        ),
        (privacy({"type": "permit", "purpose": purposes("HRESCH")}), {"P9"}),
    ],
    ids=[f"P{number}" for number in range(1, 10)],
)
def test_each_pattern_is_known_and_accepted(consent_, expected):
    assert patterns(consent_) == expected
    assert check_privacy(consent_) == []


@pytest.mark.parametrize(
    "consent_", [privacy({"type": "permit"}), privacy(deny()), privacy({**P1, "purpose": purposes("HMARKT")})]
)
def test_what_is_no_pattern_is_refused(consent_):
    (issue,) = check_privacy(consent_)
    assert issue.rule == "P-PATTERN"


def without(name):
    return {key: value for key, value in privacy(P1).items() if key != name}


@pytest.mark.parametrize(
    ("consent_", "where"),
    [
        *(
            (without(name), name)
            for name in ("patient", "dateTime", "performer", "organization", "policy", "provision")
        ),
        (without("sourceReference"), "source[x]"),
        ({**privacy(P1), "category": []}, "category"),
        ({**privacy(P1), "verification": [{"verified": True}]}, "verification"),
        (privacy({**P1, "action": [{"text": "read"}]}), "provision.action"),
        (privacy({**P1, "class": [{"code": "Observation"}]}), "provision.class"),
        (privacy({**P1, "code": [{"text": "x"}]}), "provision.code"),
        (privacy({**P1, "actor": [{**RECIPIENT, "role": {"text": "friend"}}]}), "provision.actor[0].role"),
        (privacy({**P1, "provision": [deny(provision=[deny()])]}), "provision.provision[0]"),
        (privacy({**P1, "provision": [{"securityLabel": label("SUD")}]}), "provision.provision[0]"),
    ],
)
def test_each_constraint_of_pcf_is_held(consent_, where):
    assert [(issue.rule, issue.expression) for issue in check_privacy(consent_)] == [("P-PCF", (f"Consent.{where}",))]


# -- process notes -----------------------------------------------------------------------------------------------------

COLLEAGUE = "Practitioner/colleague"


def notes_to(reader=COLLEAGUE, **more):
    actor = {**RECIPIENT, "reference": {"reference": reader}}
    provision = {"type": "permit", "purpose": TPO, "actor": [actor], "securityLabel": label("PSYTHPN")}
    return {**privacy({"type": "permit", "purpose": TPO, "actor": [actor], "provision": [provision]}), **more}


@pytest.mark.parametrize("writer", [None, "Practitioner/desk"])
def test_a_patient_lets_somebody_read_process_notes(writer):
    assert check_notes(notes_to(), writer) == []
    assert check_notes(notes_to(performer=[{"reference": "RelatedPerson/mother"}]), writer) == []
    assert check_notes(privacy(P1), writer) == []


@pytest.mark.parametrize(
    ("consent_", "writer", "where"),
    [
        (notes_to(), COLLEAGUE, "provision"),
        (notes_to(performer=[{"reference": COLLEAGUE}]), None, "performer"),
        (notes_to(performer=[]), None, "performer"),
    ],
)
def test_nobody_lets_himself_read_process_notes(consent_, writer, where):
    (issue,) = check_notes(consent_, writer)
    assert (issue.rule, issue.expression) == ("P-PCF", (f"Consent.{where}",))
