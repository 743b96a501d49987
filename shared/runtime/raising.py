"""Writing what a service raises or keeps by itself, once: found again by its business identifier, never doubled.

Also the mark that a change is the service's own: what only the service may write (a score, an eligibility decision) is
refused from anybody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

from shared.fhir.codes import ID_COMMUNICATION, ID_FLAG, ID_TASK
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.outcome import Unprocessable
from shared.runtime.record import Record
from shared.runtime.service import Change

_own_work: ContextVar[bool] = ContextVar("own_work", default=False)

OPEN_TASK: Final = frozenset(("draft", "requested", "received", "accepted", "ready", "in-progress", "on-hold"))


_PUT_IN: Final = frozenset(("versionId", "lastUpdated", "security"))
"""Of a meta, what the store and the labels' policy put in with each version."""

OPEN: Final = OPEN_TASK | {"active"}

OWN_NAMES: Final = frozenset((ID_TASK, ID_FLAG, ID_COMMUNICATION))
"""Systems of the identifiers by which what was raised is found again."""


@contextmanager
def own_work() -> Iterator[None]:
    """Mark what is written inside as the service's own doing."""
    token = _own_work.set(True)
    try:
        yield
    finally:
        _own_work.reset(token)


def is_own_work() -> bool:
    """Tell whether the change at hand is the service's own doing, not a client's."""
    return _own_work.get()


async def find(record: Record, type_: str, identifier: dict[str, str]) -> Resource | None:
    """Return the service's own resource with a business identifier, None where there is none."""
    named = {"identifier": f"{identifier['system']}|{identifier['value']}"}
    return next(iter(await record.search_own(type_, named)), None)


async def keep_names(change: Change, record: Record) -> None:
    """Guard: a client gives nothing a name that the service finds its own work again by; it may keep one.

    What has such a name counts as raised: a Task that a client named so would stand in the place of an alarm.

    Raises:
        Unprocessable: the resource has an identifier of the project's that it did not have before.

    """
    if is_own_work() or change.after is None:
        return
    given = {one.get("value") for one in change.after.get("identifier", []) if one.get("system") in OWN_NAMES}
    held = {one.get("value") for one in (change.before or {}).get("identifier", []) if one.get("system") in OWN_NAMES}
    if given - held:
        raise Unprocessable(
            "Identifiers of this system are the service's own, for what it raises: leave it out, or use your own.",
            code="business-rule",
            expression=[f"{change.type}.identifier"],
            rule="T-NAME",
            source="KAP Exchange",
        )


async def raise_once(record: Record, resource: Resource, *, reopen: bool = False) -> None:
    """Create `resource` unless one with its identifier exists; with `reopen`, one that was closed opens again.

    Open is a Flag that is active, a Task that is not ended.
    """
    existing = await find(record, resource["resourceType"], resource["identifier"][0])
    with own_work():
        if existing is None:
            await record.create(resource)
        elif reopen and existing["status"] not in OPEN:
            await record.update({**resource, "id": existing["id"]})


async def keep(record: Record, resource: Resource) -> Resource:
    """Create `resource`, or bring the one with its identifier to what it says; return it as it is now held."""
    existing = await find(record, resource["resourceType"], resource["identifier"][0])
    with own_work():
        if existing is None:
            written = await record.create(resource)
            return {**resource, "id": written.stored.id}
        wanted = {**resource, "id": existing["id"]}
        if content_of(existing) != content_of(wanted):
            await record.update(wanted)
        return wanted


async def close_flag(record: Record, identifier: dict[str, str], now: datetime) -> None:
    """Make the Flag inactive whose ground is gone."""
    flag = await find(record, "Flag", identifier)
    if flag is not None and flag["status"] == "active":
        period = {**flag.get("period", {}), "end": zulu(now)}
        with own_work():
            await record.update(content_of({**flag, "status": "inactive", "period": period}))


async def close_task(
    record: Record, identifier: dict[str, str], now: datetime, *, status: str = "completed", why: str
) -> None:
    """End the open Task with `identifier`."""
    task = await find(record, "Task", identifier)
    if task is not None and task["status"] in OPEN_TASK:
        ended = {**task, "status": status, "statusReason": {"text": why}, "lastModified": zulu(now)}
        with own_work():
            await record.update(content_of(ended))


def content_of(resource: Resource) -> dict[str, Any]:
    """Return a resource without what is put in when it is written: version and time, and the labels, which stay."""
    meta = {key: value for key, value in resource.get("meta", {}).items() if key not in _PUT_IN}
    rest = {key: value for key, value in resource.items() if key != "meta"}
    return {**rest, "meta": meta} if meta else rest
