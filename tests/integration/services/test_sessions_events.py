"""Adverse events: a serious one calls a person at once and once; one that says too little is asked about."""

from __future__ import annotations

import pytest

from services.intake.service import intake as intake_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from tests.integration.services.course import about

SERIOUSNESS = "http://terminology.hl7.org/CodeSystem/adverse-event-seriousness"
SEVERITY = "http://terminology.hl7.org/CodeSystem/adverse-event-severity"
OUTCOME = "http://terminology.hl7.org/CodeSystem/adverse-event-outcome"
CAUSALITY = "http://terminology.hl7.org/CodeSystem/adverse-event-causality-assess"


def event(bedside, seriousness="serious", **more):
    cause = {"assessment": codes.Code(CAUSALITY, "probably-likely").concept()}
    return {
        "resourceType": "AdverseEvent",
        "extension": [{"url": codes.EXT_EVENT_PERIOD, "valuePeriod": {"end": zulu(bedside.clock.now)}}],
        "actuality": "actual",
        "event": codes.Code(codes.SNOMED, "389087006", "Hypoxemia").concept(),
        "subject": about(bedside.who),
        "encounter": about(bedside.visit),
        "date": zulu(bedside.clock.now),
        "seriousness": codes.Code(SERIOUSNESS, seriousness).concept(),
        "severity": codes.Code(SEVERITY, "severe").concept(),
        "outcome": codes.Code(OUTCOME, "resolved").concept(),
        "suspectEntity": [{"instance": {"reference": "Medication/m"}, "causality": [cause]}],
        **more,
    }


@pytest.mark.parametrize("as_written", ["serious", "Serious"])
async def test_a_serious_event_calls_a_person_once(bedside, as_written):
    kept = await bedside.sessions.create(event(bedside, as_written))
    assert await bedside.raised() == [1, 1, 1]
    assert await bedside.rules() == {"A-EVENT"}
    await bedside.sessions.update({**kept, "date": zulu(bedside.clock.now)})
    assert await bedside.raised() == [1, 1, 1]


async def test_an_event_that_becomes_serious_calls_then(bedside):
    kept = await bedside.sessions.create(event(bedside, "non-serious"))
    assert await bedside.raised() == [0, 0, 0]
    await bedside.sessions.update({**event(bedside), "id": kept["id"]})
    assert await bedside.raised() == [1, 1, 1]


@pytest.mark.parametrize("mended", [{"seriousness": "non-serious"}, {"actuality": "potential"}])
async def test_an_event_that_is_not_serious_after_all_calls_nobody_and_calls_anew_where_it_is(bedside, mended):
    async def standing():
        found = [
            await bedside.sessions.search("Task", code=one.token()) for one in (codes.SERIOUS_EVENT, codes.REPORT_EVENT)
        ]
        return [one["status"] in ("requested", "accepted") for tasks in found for one in tasks]

    kept = await bedside.sessions.create(event(bedside))
    assert await standing() == [True, True]
    await bedside.sessions.update({**event(bedside, **mended), "id": kept["id"]})
    assert await standing() == [False, False]
    assert {one["status"] for one in await bedside.sessions.search("Flag", patient=bedside.who["id"])} == {"inactive"}
    await bedside.sessions.update({**event(bedside), "id": kept["id"]})
    assert await standing() == [True, True]


@pytest.mark.parametrize("left_out", ["severity", "outcome", "suspectEntity", "extension", "date"])
async def test_an_event_that_says_too_little_is_kept_and_asked_about(bedside, left_out):
    said = event(bedside, "non-serious")
    del said[left_out]
    await bedside.sessions.create(said)
    (task,) = await bedside.sessions.search("Task", patient=bedside.who["id"])
    named = {"suspectEntity": "causality", "extension": "end", "date": "start"}
    assert named.get(left_out, left_out) in task["description"]


async def test_who_completes_an_event_ends_what_asked_for_it(bedside):
    said = event(bedside, "non-serious")
    kept = await bedside.sessions.create({key: one for key, one in said.items() if key not in ("severity", "outcome")})
    half = await bedside.sessions.update({**kept, "severity": said["severity"]})
    (task,) = await bedside.sessions.search("Task", patient=bedside.who["id"])
    assert (task["status"], "severity" in task["description"]) == ("requested", False)
    await bedside.sessions.update({**half, "outcome": said["outcome"]})
    (task,) = await bedside.sessions.search("Task", patient=bedside.who["id"])
    assert task["status"] == "completed"


async def test_an_event_that_goes_on_has_no_end(bedside):
    ongoing = event(bedside, "non-serious", outcome=codes.Code(OUTCOME, "ongoing").concept())
    del ongoing["extension"]
    await bedside.sessions.create(ongoing)
    assert await bedside.raised() == [0, 0, 0]


async def test_what_did_not_happen_calls_nobody(bedside):
    await bedside.sessions.create(event(bedside, actuality="potential"))
    assert await bedside.raised() == [0, 0, 0]


@pytest.mark.parametrize(
    ("when", "raised"),
    [("now", [1, 1, 1]), ("2026", [1, 1, 1]), (None, [1, 1, 2]), ("long ago", [0, 0, 0])],
    ids=["now", "this year", "nobody knows when, which is asked", "long ago"],
)
async def test_a_serious_event_outside_of_a_visit_calls_somebody_too_and_history_does_not(bench, bedside, when, raised):
    """A seizure at home is intake's to keep: the news of it calls."""
    intake = await bench.open(intake_service)
    happened = event(bedside)
    del happened["encounter"], happened["date"]
    if when is not None:
        happened["date"] = {"now": zulu(bedside.clock.now), "long ago": "2025-01-01", "2026": "2026"}[when]
    await intake.create(happened)
    await bench.deliver(intake, bedside.sessions)
    await bench.react_again(intake, bedside.sessions)
    assert await bedside.raised() == raised


async def test_an_event_outside_of_a_visit_that_is_not_serious_after_all_calls_nobody_and_anew_where_it_is(
    bench, bedside
):
    async def standing():
        found = [
            await bedside.sessions.search("Task", code=one.token()) for one in (codes.SERIOUS_EVENT, codes.REPORT_EVENT)
        ]
        return [one["status"] in ("requested", "accepted") for tasks in found for one in tasks]

    async def told(interaction, resource):
        await interaction(resource)
        await bench.deliver(intake, bedside.sessions)
        return await standing()

    intake = await bench.open(intake_service)
    happened = event(bedside)
    del happened["encounter"]
    kept = await intake.create(happened)
    await bench.deliver(intake, bedside.sessions)
    assert await standing() == [True, True]
    mended = {"seriousness": codes.Code(SERIOUSNESS, "non-serious").concept()}
    assert await told(intake.update, {**kept, **mended}) == [False, False]
    assert await told(intake.update, kept) == [True, True]
    assert await told(intake.delete, kept) == [False, False]
