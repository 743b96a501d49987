"""What a resource says, apart from where it is kept: one hash that is equal wherever its content is equal.

Two servers that hold one resource give it ids, versions and times of their own. `content_hash` leaves these out, and
the order of members too, so that what was sent can be compared with what is held.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from shared.fhir.json import Resource

_sorted = msgspec.json.Encoder(decimal_format="number", order="sorted")

_OF_THE_SERVER = ("versionId", "lastUpdated")


def without_server_elements(resource: Resource) -> Resource:
    """Return `resource` without `id`, `meta.versionId` and `meta.lastUpdated`; an empty `meta` goes too."""
    content = {name: value for name, value in resource.items() if name not in {"id", "meta"}}
    meta = {name: value for name, value in resource.get("meta", {}).items() if name not in _OF_THE_SERVER}
    if not meta:
        return content
    return {"resourceType": content.pop("resourceType"), "meta": meta, **content}


def content_hash(resource: Resource) -> str:
    """Return the SHA-256, in hex, of what a resource parsed by `shared.fhir.json` says, decimals digit by digit."""
    return sha256(_sorted.encode(without_server_elements(resource))).hexdigest()


def labelled(sent: Resource, *labels: Resource) -> Resource:
    """Return a resource with these labels besides its own."""
    meta = sent.get("meta") or {}
    security = list(meta.get("security", ()))
    codes = {(one.get("system"), one.get("code")) for one in security}
    security += [one for one in labels if (one["system"], one["code"]) not in codes]
    rest = {name: value for name, value in sent.items() if name not in {"resourceType", "meta"}}
    return {"resourceType": sent["resourceType"], "meta": {**meta, "security": security}, **rest}
