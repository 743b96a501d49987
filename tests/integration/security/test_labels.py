"""Labels that are put on when a resource is written: by every way it can be written, and not to be taken off."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from shared.fhir.codes import ACT_CODE, CONFIDENTIALITY
from shared.fhir.extraction import labels_of
from shared.fhir.json import parse
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.labelling import labels_of_policy
from shared.security.bearer import bearer
from tests.integration.security.clinic import BASE, INTAKE, ISSUER, ROLES, settings
from tests.integration.security.test_gate import ADA

ICD = "http://hl7.org/fhir/sid/icd-10-cm"
VERIFIED = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
SUD = {"MH", "BH", "R", "SUD", "OPIOIDUD"}


def condition(patient, code="F11.20", **more):
    return {
        "resourceType": "Condition",
        "verificationStatus": {"coding": [{"system": VERIFIED, "code": "confirmed"}]},
        "code": {"coding": [{"system": ICD, "code": code}]},
        "subject": {"reference": f"Patient/{patient}"},
        **more,
    }


def label(code):
    return {"security": [{"system": ACT_CODE, "code": code}]}


def meta(code):
    return {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": label(code)}]}


def labels(answer):
    assert answer.status_code in (200, 201), answer.text
    return set(labels_of(parse(answer.content)))


@pytest.fixture
async def admin(clinic):
    return await clinic.token("clinic-admin")


@pytest.fixture
async def ada(clinic, admin):
    return (await clinic.made(ADA, admin))["id"]


async def test_what_is_written_is_labelled_by_every_way_of_writing(clinic, admin, ada):
    created = await clinic.send(admin, "POST", "Condition", condition(ada))
    assert labels(created) == SUD
    id_ = parse(created.content)["id"]
    updated = await clinic.send(admin, "PUT", f"Condition/{id_}", {**condition(ada, "F33.1"), "id": id_})
    assert labels(updated) == SUD  # what it was labelled with stays
    depression = await clinic.made(condition(ada, "F33.1"), admin)
    assert set(labels_of(depression)) == {"MH", "BH", "R"}
    patch = [{"op": "replace", "path": "/code/coding/0/code", "value": "F11.21"}]
    where = f"Condition/{depression['id']}"
    patched = await clinic.send(admin, "PATCH", where, patch, **{"Content-Type": "application/json-patch+json"})
    assert labels(patched) == SUD
    entry = {"resource": condition(ada), "request": {"method": "POST", "url": "Condition"}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    for kind in ("transaction", "batch"):
        done = await clinic.send(admin, "POST", "", {**bundle, "type": kind})
        assert done.status_code == 200, done.text
        location = parse(done.content)["entry"][0]["response"]["location"]
        assert labels(await clinic.send(admin, "GET", location.rpartition("/fhir/")[2].partition("/_")[0])) == SUD
    conditional = await clinic.send(
        admin, "PUT", f"Condition?subject=Patient/{ada}&code=F33.9", condition(ada, "F33.9")
    )
    assert labels(conditional) == {"MH", "BH", "R"}
    alarm = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "heart rate"},
        "subject": {"reference": f"Patient/{ada}"},
        "valueQuantity": {"value": 140, "unit": "/min"},
    }
    assert (await clinic.send(admin, "POST", "Observation", alarm, host="intake")).status_code == 201
    flags = parse((await clinic.send(admin, "GET", "Flag", host="intake")).content)["entry"]
    assert set(labels_of(flags[0]["resource"])) == {"MH", "BH", "R"}  # what a guard raises is labelled, too


async def test_no_client_takes_a_label_off(clinic, admin, ada):
    made = await clinic.made(condition(ada), admin)
    where = f"Condition/{made['id']}"
    bare = {**made, "meta": {"security": [{"system": CONFIDENTIALITY, "code": "N"}]}}
    assert labels(await clinic.send(admin, "PUT", where, bare)) == SUD
    patch = json.loads('[{"op": "remove", "path": "/meta/security"}]')
    patched = await clinic.send(admin, "PATCH", where, patch, **{"Content-Type": "application/json-patch+json"})
    assert labels(patched) == SUD
    merge = {"meta": {"security": None}, "code": {"coding": [{"system": ICD, "code": "F33.1"}]}}
    merged = await clinic.send(admin, "PATCH", where, merge, **{"Content-Type": "application/merge-patch+json"})
    assert labels(merged) == SUD
    added = await clinic.send(admin, "POST", f"{where}/$meta-add", meta("SDV"))
    assert added.status_code == 200, added.text
    assert labels(await clinic.send(admin, "PUT", where, bare)) == SUD | {"SDV"}


async def test_meta_delete_takes_off_what_a_person_put_on_and_not_what_a_rule_did(clinic, admin, ada):
    where = f"Condition/{(await clinic.made(condition(ada), admin))['id']}"
    await clinic.send(admin, "POST", f"{where}/$meta-add", meta("SDV"))
    for code in ("SDV", "SUD"):
        done = await clinic.send(admin, "POST", f"{where}/$meta-delete", meta(code))
        assert done.status_code == 200, done.text
    assert labels(await clinic.send(admin, "GET", where)) == SUD


async def test_labels_can_be_searched_for(clinic, admin, ada):
    made = await clinic.made(condition(ada), admin)
    await clinic.made(condition(ada, "F33.1"), admin)
    for host in ("gateway", "intake"):
        for asked in ("SUD", f"{ACT_CODE}|SUD"):
            found = parse(
                (await clinic.send(admin, "GET", f"Condition?_security={asked}&_total=accurate", host=host)).content
            )
            assert (found["total"], found["entry"][0]["resource"]["id"]) == (1, made["id"])


@pytest.mark.parametrize("host", ["gateway", "intake"])
async def test_a_process_note_is_refused_wherever_it_is_sent(clinic, admin, ada, host):
    """422 names the place it belongs to, and nothing of it is kept."""
    note = condition(ada, "F33.1", meta=label("PSYTHPN"))
    made = await clinic.made(condition(ada, "F33.1"), admin)
    where = f"Condition/{made['id']}"
    entry = {"resource": note, "request": {"method": "POST", "url": "Condition"}}
    asked = (
        ("POST", "Condition", note, {}),
        ("PUT", where, {**note, "id": made["id"]}, {}),
        (
            "PATCH",
            where,
            [{"op": "add", "path": "/meta/security/0", "value": label("PSYTHPN")["security"][0]}],
            {"Content-Type": "application/json-patch+json"},
        ),
        ("POST", f"{where}/$meta-add", meta("PSYTHPN"), {}),
        ("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}, {}),
    )
    for method, path, body, headers in asked:
        refused = await clinic.send(admin, method, path, body, host=host, **headers)
        assert refused.status_code == 422, (method, path, refused.text)
        assert "/process-notes/DocumentReference" in refused.text
    found = parse((await clinic.send(admin, "GET", "Condition?_security=PSYTHPN&_total=accurate", host=host)).content)
    assert found["total"] == 0


async def test_a_clinic_and_its_units_are_programmes_by_their_own_marks_alone(clinic):
    rules = labels_of_policy(None)
    marks = msgspec.structs.replace(
        rules.policy.part_2, clinics=("north",), units=("south@Organization/sud", "Organization/both")
    )
    marked = replace(rules, policy=msgspec.structs.replace(rules.policy, part_2=marks))
    service = replace(INTAKE, labels=marked)
    who, _ = bearer(ISSUER, [BASE], clinic.http, origin="intake", roles=ROLES)
    backend = LocalBackend(service, clinic.stores["intake"])
    clinic.wire.apps["intake"] = create_fhir_app(service, backend, settings("intake"), authenticate=who)
    for name, of in (("north", (True, True)), ("south", (True, False)), ("default", (False, False))):
        admin = await clinic.token("clinic-admin", kap_tenant=name)
        patient = await clinic.made(ADA, admin)
        told = [patient]
        for unit in ("sud", "kap", "both"):
            named = {"url": "https://example.org/unit", "valueReference": {"reference": f"Organization/{unit}"}}
            told.append(await clinic.made(condition(patient["id"], "F33.1", extension=[named]), admin))
        marked_as = ["42CFRPart2" in labels_of(one) for one in told]
        assert marked_as == [name == "north", *of, True], name
