"""Nothing is disclosed on consent that may be too old: it stays queued, says why, and goes when it is known again."""

from __future__ import annotations

from datetime import timedelta

from services.delivery.service import SERVICE
from shared.testing.events import eventually
from shared.testing.knowledge import all_is_heard
from tests.integration.delivery.conftest import delivery_at


async def test_disclosures_stop_while_consent_may_be_too_old_and_go_on_by_themselves(make_database, hospital, made):
    async with delivery_at(make_database("delivery"), hospital.base, heard=timedelta(minutes=5)) as delivery:
        lanes = delivery.start()
        ann = made["patient"]()
        await delivery.hear(ann, made["observation"](ann))
        [shown] = await shown_of(delivery, ann)
        assert "consent may be too old (intake: last heard of 30" in shown["statusReason"]["text"]
        assert {entry.state for entry in await delivery.entries()} == {"queued"}
        [described] = await delivery.describe(lanes)
        assert "consent may be too old" in described["problem"]
        await all_is_heard(delivery.parts.store, SERVICE)
        entries = await delivery.settled()
        assert {entry.state for entry in entries.values()} == {"accepted"}
        [described] = await delivery.describe(lanes)
        assert described["problem"] is None


async def shown_of(delivery, ann):
    """Wait for the Task that shows what waits of a patient."""
    found = []

    async def shown():
        found[:] = await delivery.tasks(focus=f"Patient/{ann['id']}", status="requested")
        return bool(found)

    await eventually(shown, seconds=15)
    return found
