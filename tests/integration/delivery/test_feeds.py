"""The feed of a device stays here: it is pushed to no hospital, on no way."""

from __future__ import annotations

import asyncio

from tests.integration.delivery.conftest import observation, patient

FEED = {
    "origin": {"value": 0, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%"},
    "period": 1000,
    "dimensions": 1,
    "data": "97 88 96",
}


async def test_a_feed_is_never_pushed_and_waits_for_nobody(delivery, hospital):
    ann = patient()
    whole = observation(ann, valueSampledData=FEED)
    part = observation(ann, component=[{"code": {"text": "SpO2"}, "valueSampledData": FEED}])
    pulse = observation(ann)
    await delivery.hear(whole, part, pulse, ann)
    [destination] = await delivery.destinations()
    states = {one.id: one.state for one in await delivery.entries(destination.id)}
    assert (states[whole["id"]], states[part["id"]], states[pulse["id"]]) == ("withdrawn", "withdrawn", "queued")
    delivery.start()
    entries = await delivery.settled()
    [there] = await hospital.all("Observation")
    assert there["identifier"][0]["value"] == pulse["id"]
    assert entries[whole["id"]].server_id is None
    for feed in (whole, part):
        assert await delivery.tasks(focus=f"Observation/{feed['id']}") == []
    await delivery.hear({**whole, "status": "amended"})
    entries = await delivery.settled()
    assert (entries[whole["id"]].wanted_version, entries[whole["id"]].state) == (2, "withdrawn")
    assert len(await hospital.all("Observation")) == 1


async def test_a_feed_that_was_held_before_a_destination_was_added_is_not_pushed(delivery, hospital):
    ann = patient()
    feed, pulse = observation(ann, valueSampledData=FEED), observation(ann)
    [destination] = await delivery.destinations()
    await delivery.hear(ann, feed, pulse)
    async with delivery.parts.store.transaction(keys=(), tenant=destination.tenant) as transaction:
        await transaction.connection.execute("DELETE FROM delivery")
        await transaction.connection.execute("UPDATE delivery_destination SET filled = false")
    delivery.start()
    async with asyncio.timeout(20):
        while len(entries := await delivery.settled()) < 3:  # noqa: ASYNC110 - the lane fills the queue in its own time
            await asyncio.sleep(0.05)
    assert entries[feed["id"]].state == "withdrawn"
    [there] = await hospital.all("Observation")
    assert there["identifier"][0]["value"] == pulse["id"]


async def test_a_reading_that_becomes_a_feed_is_marked_in_error_there(delivery, hospital):
    ann = patient()
    pulse = observation(ann)
    delivery.start()
    await delivery.hear(ann, pulse)
    await delivery.settled()
    await delivery.hear({**pulse, "valueSampledData": FEED})
    entries = await delivery.settled()
    [there] = await hospital.all("Observation")
    assert there["status"] == "entered-in-error"
    assert "valueSampledData" not in there
    assert entries[pulse["id"]].state == "withdrawn"
    await delivery.hear(pulse)
    await delivery.settled()
    [there] = await hospital.all("Observation")
    assert there["status"] == "final"
