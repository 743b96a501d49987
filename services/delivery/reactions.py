"""What delivery does when something was committed elsewhere: it puts it into each destination's queue.

A Consent is pushed nowhere. Its copy is what delivery knows of consents: the store turns it into rows that are asked.
"""

from __future__ import annotations

from services.delivery.rules import is_withheld
from shared.events.envelope import Event
from shared.fhir.json import Resource
from shared.runtime.record import Record
from shared.store.ledger import Ledger


async def queue(event: Event, resource: Resource, record: Record) -> None:
    """Queue this version, in the transaction that takes the event in. The newest version alone has to arrive.

    What is never pushed has its line in the ledger too, and is sent nowhere.
    """
    ledger = Ledger(record.transaction)
    await ledger.want(
        tenant=event.tenant,
        type_=event.type,
        id_=event.resource_id,
        key=event.key,
        version=event.version,
        committed_at=event.time,
        deleted=event.interaction == "delete",
    )
    if event.interaction != "delete" and is_withheld(resource):
        await ledger.withhold(tenant=event.tenant, type_=event.type, id_=event.resource_id, version=event.version)


async def ask_anew(event: Event, _resource: Resource, record: Record) -> None:
    """Queue what was held for want of consent, in the transaction that takes the news in: its turn asks again.

    The news is a Consent, or a Patient, who may be joined with another record of his no more.
    """
    await Ledger(record.transaction).ask_anew(tenant=event.tenant, key=event.key)
