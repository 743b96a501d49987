"""The Task that shows people one resource on its way to one destination; pure, like `rules.py`.

There is one per destination and resource, and it changes only when something changes for people: what is accepted at
once is written once, as completed. What waits for longer is shown as requested, what is tried again as in-progress.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from shared.fhir.codes import BASE, KAP
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.store.ledger_types import Entry, State, TaskStatus

ID_DELIVERY = f"{BASE}/identifier/delivery"
DELIVER = {"system": KAP, "code": "deliver", "display": "Deliver to a hospital"}

_SAID: dict[State, str] = {
    "queued": "Waits for its turn.",
    "sending": "Is being sent.",
    "waiting": "Waits for its patient: the destination does not hold the patient.",
    "held": "Held for want of consent: none of the patient's lets it be told to this destination. Goes when one does.",
    "accepted": "Accepted by the destination.",
    "withdrawn": "Deleted here or not to be pushed; marked as in error or deleted at the destination if it was there.",
    "superseded": "The destination holds an older version and takes no updates of this type.",
    "refused": "Refused by the destination. Correct the resource, or ask for another try by $retry.",
    "not-accepted": "Not accepted by destination: it takes no resources of this type.",
    "cancelled": "Cancelled by a person.",
}

OPEN: frozenset[TaskStatus] = frozenset(("requested", "in-progress", "on-hold"))


def status_of(state: State, attempts: int) -> TaskStatus:
    """Return the Task.status that shows an entry."""
    match state:
        case "accepted" | "withdrawn":
            return "completed"
        case "refused":
            return "failed"
        case "not-accepted" | "superseded":
            return "rejected"
        case "waiting" | "held":
            return "on-hold"
        case "cancelled":
            return "cancelled"
        case "queued" | "sending":
            return "in-progress" if attempts else "requested"


def task_of(entry: Entry, *, address: str, now: datetime, late: str | None = None) -> Resource:
    """Return the Task that shows `entry`; with an `id` where there is one already.

    `address` is the destination's FHIR base URL, `late` why what is queued is not sent now (None: it has its turn).
    The destination's last OperationOutcome is contained.
    """
    task: dict[str, Any] = {"resourceType": "Task"}
    if entry.task_id is not None:
        task["id"] = entry.task_id
    if entry.outcome is not None:
        task["contained"] = [{**entry.outcome, "id": "outcome"}]
    task |= {
        "identifier": [{"system": ID_DELIVERY, "value": f"{entry.destination}:{entry.type}:{entry.id}"}],
        "status": status_of(entry.state, entry.attempts),
        "businessStatus": {"text": entry.state},
        "statusReason": {"text": late if late is not None and entry.state == "queued" else _SAID[entry.state]},
        "intent": "order",
        "code": {"coding": [DELIVER]},
        "focus": {"reference": f"{entry.type}/{entry.id}"},
    }
    if entry.key.startswith("Patient/"):
        task["for"] = {"reference": entry.key}
    task |= {
        "authoredOn": zulu(entry.queued_at),
        "lastModified": zulu(now),
        "input": [
            {"type": {"text": "destination"}, "valueReference": {"reference": f"Endpoint/{entry.destination}"}},
            {"type": {"text": "version"}, "valueInteger": entry.wanted_version},
        ],
    }
    if output := list(_output(entry, address)):
        task["output"] = output
    return task


def _output(entry: Entry, address: str) -> list[Resource]:
    output: list[Resource] = []
    if entry.server_id is not None:
        place = f"{address}/{entry.type}/{entry.server_id}"
        output.append({"type": {"text": "resource at the destination"}, "valueUrl": place})
    if entry.delivered_version is not None:
        output.append({"type": {"text": "version at the destination"}, "valueInteger": entry.delivered_version})
    if entry.accepted_at is not None:
        output.append({"type": {"text": "accepted at"}, "valueInstant": zulu(entry.accepted_at)})
    if entry.outcome is not None:
        output.append({"type": {"text": "said by the destination"}, "valueReference": {"reference": "#outcome"}})
    return output
