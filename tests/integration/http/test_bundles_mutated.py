"""Bundles with anything anywhere: each is refused or carried out, and none is a fault of the program."""

from __future__ import annotations

import json
import random
from collections import Counter
from copy import deepcopy

from tests.integration.http.bundles import ANN, PATIENT, bundle, entry, goal, observation

BUNDLES = 150
JUNK = [
    *(None, 5, -1, True, "x", "", [], {}, [[]], {"a": {}}, "\ud800", "\x00", "a" * 300),
    *("Patient?x", "urn:uuid:1", "Patient/1/_history/2", "$x", "%00", "?"),
]
NAMES = ["x", "reference", "resource", "request", "_id", "extension"]


def mutated(value, rng):
    """Return a copy with one to three members left out, added or replaced, at any depth."""
    value = deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        at = value
        while isinstance(at, dict | list) and at:
            key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
            if isinstance(at[key], dict | list) and rng.random() > 0.25:
                at = at[key]
                continue
            roll = rng.random()
            if roll < 0.2:
                del at[key]
            elif roll < 0.3 and isinstance(at, dict):
                at[rng.choice(NAMES)] = rng.choice(JUNK)
            else:
                at[key] = rng.choice(JUNK)
            break
    return value


async def test_no_mutated_bundle_is_a_fault(fhir):
    there = await fhir.create(PATIENT)
    place = f"Patient/{there['id']}"
    data = "W3sib3AiOiJyZXBsYWNlIiwicGF0aCI6Ii9hY3RpdmUiLCJ2YWx1ZSI6ZmFsc2V9XQ=="
    entries = [
        entry("POST", "Patient", PATIENT, ANN, ifNoneExist="identifier=urn:mrn|9"),
        entry("POST", "Observation", observation(ANN)),
        entry("POST", "Goal", goal("Patient?identifier=urn:mrn|7")),
        entry("PUT", place, there, ifMatch='W/"1"'),
        entry("PATCH", place, {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": data}),
        entry("GET", "Patient?identifier=urn:mrn|7", ifNoneMatch='W/"1"', ifModifiedSince="2026-01-01T00:00:00Z"),
        entry("DELETE", "Goal?lifecycle-status=active"),
    ]
    rng = random.Random(3)
    seen = Counter()
    for _ in range(BUNDLES):
        kind = rng.choice(["batch", "transaction"])
        raw = json.dumps(mutated(bundle(*rng.sample(entries, rng.randint(1, 4)), kind=kind), rng))
        answer = await fhir.http.post("/fhir", content=raw, headers={"Content-Type": "application/fhir+json"})
        assert answer.status_code < 500, (raw, answer.text)
        seen[answer.status_code] += 1
        said = answer.json().get("entry", []) if answer.status_code == 200 else []
        assert all(one["response"]["status"] < "5" for one in said), raw
    assert seen[400] > 50
    assert seen[200] > 5
