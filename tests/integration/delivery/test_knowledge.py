"""Nothing is disclosed on consent that may be too old: it stays queued, says why, and goes when it is known again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from services.delivery.service import SERVICE
from shared.events.handler import Position
from shared.store.knowledge import ages_of_consents
from shared.testing.events import eventually
from shared.testing.knowledge import all_is_heard
from tests.integration.delivery.conftest import NEWS, consent, delivery_at


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


async def test_what_is_of_one_record_waits_for_the_consents_of_those_that_are_joined_with_it(
    make_database, hospital, made
):
    """In either direction, and of one that is not held here yet: what was denied there is denied for this one, too."""
    async with delivery_at(make_database("delivery"), hospital.base) as delivery:
        bea, other = made["patient"](), made["patient"]()
        named = [{"other": {"reference": f"Patient/{one}"}, "type": "seealso"} for one in (bea["id"], "never-came")]
        ann = made["patient"](link=named)
        await delivery.hear(ann, bea, other)
        both = {ann["id"], bea["id"]}
        holders = ((bea, both), (ann, both), ({"id": "never-came"}, both), (other, {other["id"]}))
        for holder, waits in holders:
            withdrawal = replace(
                delivery.clinic.commit(consent(holder), source="intake"),
                time=datetime.now(UTC) - timedelta(seconds=120),
            )
            await delivery.events.park(
                withdrawal, Position("kap.intake.v1", 0, withdrawal.sequence), "it could not be applied"
            )
            assert await late(delivery, ann, bea, other) == waits
            [parked] = await delivery.parts.store.parking.list()
            await delivery.parts.store.parking.drop(parked.number)


async def test_nothing_is_sent_of_a_record_while_a_withdrawal_in_a_joined_one_could_not_be_applied(
    make_database, hospital, made
):
    async with delivery_at(make_database("delivery"), hospital.base) as delivery:
        bea = made["patient"]()
        ann = made["patient"](link=[{"other": {"reference": f"Patient/{bea['id']}"}, "type": "seealso"}])
        await delivery.hear(bea, ann)
        withdrawal = delivery.clinic.commit(consent(bea, status="inactive"), source="intake")
        early = replace(withdrawal, time=datetime.now(UTC) - timedelta(seconds=120))
        await delivery.events.park(early, Position("kap.intake.v1", 0, early.sequence), "it could not be applied")
        await delivery.hear(made["observation"](ann))
        delivery.start()
        [shown] = await shown_of(delivery, ann)
        assert "consent may be too old" in shown["statusReason"]["text"]
        assert {entry.state for entry in await delivery.entries()} == {"queued"}
        assert await hospital.all("Observation") == []


async def late(delivery, *patients):
    """Return of which patients nothing may be told now."""
    store, found = delivery.parts.store, set()
    async with store.transaction(keys=(), tenant="default") as transaction:
        for one in patients:
            told = await ages_of_consents(
                transaction.connection, SERVICE.name, NEWS.of, "default", f"Patient/{one['id']}"
            )
            if NEWS.too_old(told):
                found.add(one["id"])
    return found


async def shown_of(delivery, ann):
    """Wait for the Task that shows what waits of a patient."""
    found = []

    async def shown():
        found[:] = await delivery.tasks(focus=f"Patient/{ann['id']}", status="requested")
        return bool(found)

    await eventually(shown, seconds=15)
    return found
