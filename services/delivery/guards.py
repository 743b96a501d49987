"""What delivery checks and does when its own resources are written."""

from __future__ import annotations

from dataclasses import replace

from services.delivery.endpoints import destination_of
from shared.fhir.outcome import Unprocessable
from shared.http.outbound import Outside
from shared.runtime.raising import is_own_work
from shared.runtime.record import Record
from shared.runtime.service import Change, Guard
from shared.store.ledger import Ledger


def leads_outside(outside: Outside) -> Guard:
    """Return the guard that refuses an Endpoint that is to be sent to and leads inside of the network.

    What a name means is looked at whenever it is connected to; what stands in the record already stays.
    """

    async def guard(change: Change, _record: Record) -> None:
        after, before = change.after, change.before
        if after is None or after["status"] != "active":
            return
        if before is not None and (before["status"], before["address"]) == ("active", after["address"]):
            return
        said = outside.problem(str(after["address"]))
        if said is not None:
            raise Unprocessable(
                f"Nothing can be sent to this address. {said}", code="security", expression=["Endpoint.address"]
            )

    return guard


async def keep_destination(change: Change, record: Record) -> None:
    """Make the Endpoint a destination, in the transaction that writes it; a deleted one is sent nothing more."""
    resource = change.after or change.before
    if resource is None:
        return
    destination = destination_of(resource, id_=change.id, tenant=record.access.tenant)
    if change.after is None:
        destination = replace(destination, active=False)
    await Ledger(record.transaction).put_destination(destination)


async def only_by_delivery(change: Change, record: Record) -> None:
    """Refuse a Task that somebody else writes: the Tasks here are what the ledger says.

    Raises:
        Unprocessable: it is not delivery's own doing.

    """
    if not is_own_work():
        raise Unprocessable(
            "The Tasks of delivery are written by delivery alone. Use Task/$retry or Task/$cancel on them.",
            expression=["Task"],
        )
