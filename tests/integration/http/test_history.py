"""Histories of one resource, of a type, of everything: what changed, newest first, page by page."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.fhir.dates import interval

PATIENT = {"resourceType": "Patient", "active": True, "name": [{"family": "Kerr"}]}

BASE = "http://kap.example/fhir/"


def local(url: str) -> str:
    return url.replace("http://kap.example", "")


def versions(bundle) -> list[tuple[str, str]]:
    """Return (type, version) of the entries of a history."""
    return [
        (entry["fullUrl"].split("/")[-2], entry["response"]["etag"].strip('W/"')) for entry in bundle.get("entry", ())
    ]


async def pages(fhir, url: str) -> list[dict]:
    found = []
    while url:
        answer = await fhir.http.get(local(url))
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        url = next((link["url"] for link in found[-1]["link"] if link["relation"] == "next"), None)
    return found


@pytest.fixture
async def changed(fhir):
    """A patient in three versions, the last of which is his deletion, and an organization between them."""
    patient = await fhir.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    await fhir.http.put(place, json={**patient, "active": False})
    await fhir.create({"resourceType": "Organization", "name": "Clinic"})
    assert (await fhir.http.delete(place)).status_code == 204
    return patient["id"]


async def test_a_history_tells_every_change_with_what_was_asked_and_answered(fhir, changed):
    (everything,) = await pages(fhir, "/fhir/_history")
    assert versions(everything) == [("Patient", "3"), ("Organization", "1"), ("Patient", "2"), ("Patient", "1")]
    assert everything["type"] == "history"
    deleted, organization, updated, created = everything["entry"]
    assert "resource" not in deleted
    assert [one["request"]["method"] for one in everything["entry"]] == ["DELETE", "POST", "PUT", "POST"]
    assert deleted["request"]["url"] == updated["request"]["url"] == f"Patient/{changed}"
    assert created["request"]["url"] == "Patient"
    assert created["response"]["status"].startswith("201")
    assert organization["resource"]["name"] == "Clinic"
    for entry in (organization, updated, created):
        assert entry["response"]["etag"] == f'W/"{entry["resource"]["meta"]["versionId"]}"'
        assert entry["response"]["lastModified"] == entry["resource"]["meta"]["lastUpdated"]


async def test_a_history_of_a_type_is_of_that_type_and_one_of_a_resource_of_that_resource(fhir, changed):
    other = await fhir.create(PATIENT)
    (of_type,) = await pages(fhir, "/fhir/Patient/_history")
    assert versions(of_type) == [("Patient", "1"), ("Patient", "3"), ("Patient", "2"), ("Patient", "1")]
    (of_one,) = await pages(fhir, f"/fhir/Patient/{other['id']}/_history")
    assert versions(of_one) == [("Patient", "1")]
    (none,) = await pages(fhir, "/fhir/Observation/_history")
    assert "entry" not in none


@pytest.mark.parametrize("level", ["", "/Patient", "/Patient/{id}"])
async def test_pages_repeat_nothing_and_skip_nothing_though_others_write(fhir, changed, level):
    whole = f"/fhir{level.format(id=changed)}/_history"
    (all_at_once,) = await pages(fhir, whole)
    url, found = f"{whole}?_count=1", []
    while url:
        bundle = (await fhir.http.get(local(url))).json()
        found += versions(bundle)
        await fhir.create(PATIENT)
        url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
    assert found == versions(all_at_once)


async def test_on_no_page_does_a_reference_mean_two_versions(fhir, changed):
    """Ada in three versions, to whom what was made after each refers; Bob, to whom nothing does, in two on one page."""
    ada, bob = await fhir.create(PATIENT), await fhir.create(PATIENT)
    for active in (False, True):
        for one in (ada, bob):
            await fhir.http.put(f"/fhir/Patient/{one['id']}", json={**one, "active": active})
        await fhir.create(
            {
                "resourceType": "Observation",
                "status": "final",
                "code": {"text": "mood"},
                "subject": {"reference": f"Patient/{ada['id']}"},
            }
        )
    found = await pages(fhir, "/fhir/_history")
    assert len(found) > 1
    told = [version for page in found for version in versions(page)]
    assert told.count(("Patient", "3")) == 3
    assert len(told) == 4 + 2 + 4 + 2, "nothing is lost between pages"
    for page in found:
        names = [entry["fullUrl"] for entry in page["entry"]]
        subjects = {entry.get("resource", {}).get("subject", {}).get("reference") for entry in page["entry"]}
        assert not [name for name in names if names.count(name) > 1 and name.removeprefix(BASE) in subjects]
    assert any([entry["fullUrl"] for entry in page["entry"]].count(f"{BASE}Patient/{bob['id']}") > 1 for page in found)


async def test_since_leaves_out_what_is_older(fhir, changed):
    (bundle,) = await pages(fhir, f"/fhir/Patient/{changed}/_history")
    second = bundle["entry"][1]["response"]["lastModified"]
    for level in ("", "/Patient", f"/Patient/{changed}"):
        answer = await fhir.http.get(f"/fhir{level}/_history", params={"_since": second})
        assert [version for type_, version in versions(answer.json()) if type_ == "Patient"] == ["3", "2"], level
    assert "entry" not in (await fhir.http.get("/fhir/_history?_since=2100-01-01")).json()


async def test_at_a_time_are_the_versions_that_were_current_then(fhir, changed):
    (bundle,) = await pages(fhir, f"/fhir/Patient/{changed}/_history")
    deleted, second, first = (interval(one["response"]["lastModified"])[0] for one in bundle["entry"])
    millisecond = timedelta(milliseconds=1)
    for moment, current in (
        (first - millisecond, []),
        (second - millisecond, ["1"]),
        (second, ["2"]),
        (deleted, ["3"]),
    ):
        for level in ("", "/Patient", f"/Patient/{changed}"):
            given = {"_at": moment.isoformat(timespec="milliseconds")}
            found = versions((await fhir.http.get(f"/fhir{level}/_history", params=given)).json())
            assert [version for type_, version in found if type_ == "Patient"] == current, (moment, level)
    tomorrow = (deleted + timedelta(days=1)).isoformat()
    found = (await fhir.http.get("/fhir/Patient/_history", params={"_at": tomorrow})).json()
    assert versions(found) == []


async def test_a_history_of_what_never_was_is_404(fhir, issues):
    for query in ("", "?_since=2100-01-01", "?_count=1"):
        issues(await fhir.http.get(f"/fhir/Patient/nobody/_history{query}"), 404)


async def test_what_a_history_does_not_know_is_refused_or_left_out_of_its_links(fhir, issues, changed):
    for url in ("/fhir/_history", "/fhir/Patient/_history", f"/fhir/Patient/{changed}/_history"):
        (issue,) = issues(await fhir.http.get(f"{url}?status=x"), 400)
        assert issue["expression"] == ["http.status"]
        answer = await fhir.http.get(f"{url}?status=x&_count=2", headers={"Prefer": "handling=lenient"})
        assert answer.json()["link"][0]["url"] == f"http://kap.example{url}?_count=2"
