"""HL7's operations that every service offers: $meta and its changes, $lastn, $docref."""

from __future__ import annotations

import pytest

from shared.fhir.validation import validate

LABEL = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "ETH"}
TAG = {"system": "urn:tag", "code": "seen", "display": "seen by Ann"}
PROFILE = "http://example.org/StructureDefinition/mine"


def metas(**sets):
    return {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": sets}]}


def meta_of(answer):
    assert answer.status_code == 200, answer.text
    (parameter,) = answer.json()["parameter"]
    assert parameter["name"] == "return"
    return parameter["valueMeta"]


def observed(patient, code, when, *, text=None):
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": text} if text else {"coding": [{"system": "urn:code", "code": one} for one in code.split()]},
        "subject": {"reference": f"Patient/{patient['id']}"},
        "effectiveDateTime": when,
    }


def entries(answer):
    assert answer.status_code == 200, answer.text
    bundle = answer.json()
    assert [issue for issue in validate(bundle) if issue.severity in {"error", "fatal"}] == []
    assert bundle["type"] == "searchset"
    assert bundle["total"] == len(bundle.get("entry", ()))
    return [entry["resource"] for entry in bundle.get("entry", ())]


async def test_tags_labels_and_profiles_are_added_once_and_taken_away(fhir):
    patient = await fhir.create({"resourceType": "Patient", "active": True})
    place = f"/fhir/Patient/{patient['id']}"
    added = await fhir.http.post(f"{place}/$meta-add", json=metas(tag=[TAG], security=[LABEL], profile=[PROFILE]))
    meta = meta_of(added)
    assert (meta["versionId"], meta["tag"], meta["security"], meta["profile"]) == ("2", [TAG], [LABEL], [PROFILE])
    assert "x-kap-position" in added.headers
    again = meta_of(await fhir.http.post(f"{place}/$meta-add", json=metas(tag=[{**TAG, "display": "other"}])))
    assert again == meta == meta_of(await fhir.http.get(f"{place}/$meta"))
    assert (await fhir.http.get(place)).json() == {**patient, "meta": meta}
    found = (await fhir.http.get("/fhir/Patient?_tag=urn:tag|seen")).json()
    assert len(found["entry"]) == 1
    left = meta_of(await fhir.http.post(f"{place}/$meta-delete", json=metas(tag=[TAG], profile=["urn:another"])))
    assert left["versionId"] == "3"
    assert "tag" not in left
    assert left["profile"] == [PROFILE]


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("$meta-add", metas(tag="seen"), 400),
        ("$meta-add", {"resourceType": "Parameters", "parameter": [{"name": "tag", "valueCoding": TAG}]}, 400),
        ("$meta-delete", {"resourceType": "Parameters"}, 400),
        ("$meta-subtract", metas(tag=[TAG]), 404),
    ],
)
async def test_a_change_of_meta_that_is_none_changes_nothing(fhir, issues, name, body, status):
    patient = await fhir.create({"resourceType": "Patient", "active": True})
    place = f"/fhir/Patient/{patient['id']}"
    issues(await fhir.http.post(f"{place}/{name}", json=body), status)
    assert (await fhir.http.get(place)).json() == patient
    issues(await fhir.http.get(f"{place}/$meta-add"), 405)
    issues(await fhir.http.post("/fhir/Patient/nobody/$meta-add", json=metas(tag=[TAG])), 404)
    issues(await fhir.http.get("/fhir/Patient/nobody/$meta"), 404)


async def test_a_guard_judges_a_change_of_meta_as_an_update(fhir, issues, monkeypatch):
    monkeypatch.setattr("shared.http.local.AWAIT_SECONDS", 0.05)
    patient = await fhir.create({"resourceType": "Patient", "active": True})
    goal = {"resourceType": "Goal", "lifecycleStatus": "planned", "description": {"text": "sleep"}}
    goal = await fhir.create({**goal, "subject": {"reference": f"Patient/{patient['id']}"}})
    headers = {"X-Kap-Await": "sessions Patient/x 5"}
    answer = await fhir.http.post(f"/fhir/Goal/{goal['id']}/$meta-add", json=metas(tag=[TAG]), headers=headers)
    issues(answer, 503)


async def test_lastn_gives_the_newest_of_each_code(fhir):
    ann, bob = [await fhir.create({"resourceType": "Patient", "active": True}) for _ in range(2)]
    for patient, code, when in (
        (ann, "pulse", "2026-01-01"),
        (ann, "weight", "2026-01-02"),
        (ann, "pulse", "2026-01-03"),
        (ann, "pulse hr", "2026-01-04"),
        (ann, "hr", "2026-01-05"),
        (bob, "pulse", "2026-02-01"),
    ):
        await fhir.create(observed(patient, code, when))
    await fhir.create(observed(ann, "", "2025-12-01", text="mood"))
    await fhir.create(observed(ann, "", "2025-12-02", text="mood"))
    ask = f"/fhir/Observation/$lastn?patient={ann['id']}"

    def days(found):
        return [one["effectiveDateTime"][5:] for one in found]

    assert days(entries(await fhir.http.get(ask))) == ["01-05", "01-02", "12-02"]
    assert days(entries(await fhir.http.get(f"{ask}&max=2"))) == ["01-05", "01-04", "01-02", "12-02", "12-01"]
    assert days(entries(await fhir.http.get(f"{ask}&code=weight"))) == ["01-02"]
    body = [{"name": "max", "valuePositiveInt": 9}, {"name": "patient", "valueString": f"Patient/{ann['id']}"}]
    posted = await fhir.http.post("/fhir/Observation/$lastn", json={"resourceType": "Parameters", "parameter": [*body]})
    assert len(entries(posted)) == 7


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("code=x", "patient"),
        ("patient=x&max=0", "max"),
        ("patient=x&_sort=code", "_sort"),
        ("patient=x&shoe=1", "shoe"),
    ],
)
async def test_lastn_refuses_what_it_does_not_know_and_never_reads_everybody(fhir, issues, query, place):
    (issue,) = issues(await fhir.http.get(f"/fhir/Observation/$lastn?{query}"), 400)
    assert issue["expression"] == [f"http.{place}"]
