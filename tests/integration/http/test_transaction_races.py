"""Transactions at once on PostgreSQL: one is made, none deadlocks, nothing is lost."""

from __future__ import annotations

import asyncio
import random

from tests.integration.http.bundles import ANN, PATIENT, bundle, entry, goal, observation, statuses


async def test_fifty_transactions_at_once_by_one_condition_make_one_patient(fhir):
    async def one():
        return await fhir.http.post(
            "/fhir",
            json=bundle(
                entry("POST", "Patient", PATIENT, ANN, ifNoneExist="identifier=urn:mrn|7"),
                entry("POST", "Observation", observation(ANN)),
            ),
        )

    answers = await asyncio.gather(*(one() for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    made = [answer.json()["entry"] for answer in answers]
    assert sorted(statuses([one[0] for one in made])) == ["200"] * 49 + ["201"]
    assert len({one[1]["resource"]["subject"]["reference"] for one in made}) == 1
    assert await fhir.held() == 51


async def test_a_random_mix_over_the_same_records_ends_without_a_deadlock_and_loses_nothing(fhir):
    patients = [
        await fhir.create({**PATIENT, "identifier": [{"system": "urn:mrn", "value": str(number)}]})
        for number in range(4)
    ]
    rng = random.Random(7)
    updates = dict.fromkeys((one["id"] for one in patients), 0)
    goals = 0

    async def transaction(some):
        nonlocal goals
        entries = []
        for one in some:
            match rng.randrange(3):
                case 0:
                    entries.append(entry("PUT", f"Patient/{one['id']}", one))
                case 1:
                    number = one["identifier"][0]["value"]
                    said = {name: value for name, value in one.items() if name != "id"}
                    entries.append(entry("PUT", f"Patient?identifier=urn:mrn|{number}", said))
                case _:
                    entries.append(entry("POST", "Goal", goal(f"Patient/{one['id']}")))
        answer = await fhir.http.post("/fhir", json=bundle(*entries))
        assert answer.status_code == 200, answer.text
        for one, made in zip(some, entries, strict=True):
            if made["request"]["method"] == "PUT":
                updates[one["id"]] += 1
            else:
                goals += 1

    await asyncio.gather(*(transaction(rng.sample(patients, rng.randint(2, 4))) for _ in range(60)))
    for one in patients:
        version = int((await fhir.http.get(f"/fhir/Patient/{one['id']}")).json()["meta"]["versionId"])
        assert version == 1 + updates[one["id"]]
    total = (await fhir.http.get("/fhir/Goal", params={"_summary": "count"})).json()["total"]
    assert total == goals
    assert goals > 20
