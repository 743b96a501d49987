"""Bundles as a client sends them, and what is answered."""

from __future__ import annotations

ANN = "urn:uuid:05efabf0-4be2-4561-91ce-51548425acb9"
PULSE = "urn:uuid:e4aee2a2-9c2d-4d38-8d7f-3f6a9f6f9d11"
PATIENT = {"resourceType": "Patient", "active": True, "identifier": [{"system": "urn:mrn", "value": "7"}]}


def observation(subject, **more):
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": subject},
        "effectiveDateTime": "2026-11-22T10:30:00Z",
        **more,
    }


def goal(subject, text="sleep", status="completed"):
    return {
        "resourceType": "Goal",
        "lifecycleStatus": status,
        "description": {"text": text},
        "subject": {"reference": subject},
    }


def entry(method, url, resource=None, full_url=None, **request):
    made = {"request": {"method": method, "url": url, **request}}
    if resource is not None:
        made["resource"] = resource
    if full_url is not None:
        made["fullUrl"] = full_url
    return made


def bundle(*entries, kind="transaction"):
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


async def sent(fhir, *entries, kind="transaction", **headers):
    answer = await fhir.http.post("/fhir", json=bundle(*entries, kind=kind), headers=headers)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["type"] == f"{kind}-response"
    assert len(said["entry"]) == len(entries)
    return said["entry"]


def statuses(entries):
    return [one["response"]["status"][:3] for one in entries]


def places(issues):
    return sorted(place for issue in issues for place in issue["expression"])
