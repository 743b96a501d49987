"""What a person can do about a delivery: try it again, or cancel it."""

from __future__ import annotations

from datetime import UTC, datetime

from services.delivery.tasks import status_of, task_of
from shared.fhir.json import Resource
from shared.fhir.outcome import Conflict, NotFound
from shared.runtime.raising import own_work
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall
from shared.store.ledger import Ledger
from shared.store.ledger_types import PENDING, Entry


async def retry(call: OperationCall, record: Record) -> Resource:
    """Queue a delivery that was refused, not accepted, superseded or cancelled once more; return its Task.

    Raises:
        NotFound: the Task shows no delivery.
        Conflict: there is nothing to try again.

    """
    ledger, entry = await _delivery(call, record)
    if entry.state in PENDING or entry.state in {"accepted", "withdrawn"}:
        raise Conflict(f"The delivery is {entry.state}: there is nothing to try again.")
    return await _shown(record, ledger, await ledger.retry(entry))


async def cancel(call: OperationCall, record: Record) -> Resource:
    """Take a delivery out of its queue for good; return its Task. What is at the destination stays there.

    Raises:
        NotFound: the Task shows no delivery.
        Conflict: it is being sent, or has come to its end.

    """
    ledger, entry = await _delivery(call, record)
    if entry.state not in PENDING or entry.state == "sending":
        raise Conflict(f"The delivery is {entry.state}: it cannot be cancelled.")
    return await _shown(record, ledger, await ledger.cancel(entry))


async def _delivery(call: OperationCall, record: Record) -> tuple[Ledger, Entry]:
    ledger = Ledger(record.transaction)
    entry = None if call.id is None else await ledger.of_task(call.id)
    if entry is None or entry.tenant != record.access.tenant:
        raise NotFound(f"There is no delivery that Task/{call.id} shows.")
    return ledger, entry


async def _shown(record: Record, ledger: Ledger, entry: Entry) -> Resource:
    destinations = {one.id: one for one in await ledger.destinations()}
    task = task_of(entry, address=destinations[entry.destination].address, now=datetime.now(UTC))
    with own_work():
        written = await record.update(task)
    await ledger.show(entry, written.stored.id, status_of(entry.state, entry.attempts))
    return await record.get("Task", written.stored.id) or task


OPERATIONS = (
    Operation(
        "retry",
        "Task",
        "instance",
        retry,
        documentation="Delivers once more what was refused, not accepted, superseded or cancelled.",
    ),
    Operation("cancel", "Task", "instance", cancel, documentation="Takes a delivery out of its queue for good."),
)
