"""The stored body: what was sent, with the `meta.versionId` and `meta.lastUpdated` that the store sets.

The version and the time are known only inside the transaction, so the write function puts them between two parts that
are made here; the same join gives the caller the stored bytes without reading them back.
"""

from __future__ import annotations

from datetime import UTC, datetime

from shared.fhir.json import Resource, dump


def parts(type_: str, id_: str, resource: Resource | None) -> tuple[bytes, bytes]:
    """Return what stands before the version's number and after the time's closing quote.

    `resource` None: the tombstone of a delete, which holds `resourceType`, `id` and `meta` only.
    """
    head = b'{"resourceType":' + dump(type_) + b',"id":' + dump(id_) + b',"meta":{"versionId":"'
    if resource is None:
        return head, b"}}"
    meta = {key: value for key, value in resource.get("meta", {}).items() if key not in ("versionId", "lastUpdated")}
    rest = {key: value for key, value in resource.items() if key not in ("resourceType", "id", "meta")}
    return head, _members(meta) + b"}" + _members(rest) + b"}"


def join(head: bytes, version: int, last_updated: datetime, tail: bytes) -> bytes:
    """Return the body as `kap_write` stores it."""
    return head + f'{version}","lastUpdated":"{instant(last_updated)}"'.encode() + tail


def instant(moment: datetime) -> str:
    """Return a FHIR instant in UTC with milliseconds: ``2026-11-22T10:00:00.000Z``."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _members(value: Resource) -> bytes:
    """Return the object's members, each led by a comma."""
    return b"," + dump(value)[1:-1] if value else b""
