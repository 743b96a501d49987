"""A client of Bulk Data Access 2.0 for tests, written from the specification, and the worker that it waits for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from services.gateway.catalog import OWNERS
from services.gateway.exporting.working import Exporting
from shared.events.shards import SHARDS
from shared.events.watermark import Watermark
from shared.fhir.freshness import KnowledgePolicy
from shared.runtime.policy import load_policy

NEWS = load_policy().section("knowledge", KnowledgePolicy).disclosure

ASYNC = {"Accept": "application/fhir+json", "Prefer": "respond-async"}


async def heard(store, *, ago=timedelta(), but=()):
    """Have the gateway heard of all owners so long ago; of those in `but` nothing."""
    until = datetime.now(UTC) - ago
    sources = [one for one in OWNERS if one not in but]
    await store.knowledge.hear("gateway", [Watermark(one, shard, until) for one in sources for shard in range(SHARDS)])


async def worked(store, *, fresh=timedelta(seconds=60), place=""):
    """Have the worker look once at each export in line, or at one (`place`); return which of them it ended."""
    work = Exporting(store, "gateway", msgspec.structs.replace(NEWS, seconds=int(fresh.total_seconds())))
    return [await work.attempt(job) for job in await store.exports.waiting() if place in ("", f"$export/{job.id}")]


@dataclass
class Exported:
    """What a client has at the end: the manifest, and the resources, by kind of file."""

    status: str
    manifest: dict
    files: dict = field(default_factory=dict)

    @property
    def names(self):
        """``Type/id`` of every resource."""
        return {f"{one['resourceType']}/{one['id']}" for one in self.files["output"]}

    @property
    def deleted(self):
        return {entry["request"]["url"] for bundle in self.files["deleted"] for entry in bundle["entry"]}

    @property
    def said(self):
        return " ".join(issue["diagnostics"] for one in self.files["error"] for issue in one["issue"])


def place(url):
    """Return an address below the FHIR base."""
    return url.split("/fhir/", 1)[1]


async def kicked(clinic, token, path="$export", method="GET", body=None, **headers):
    return await clinic.send(token, method, path, body, **{**ASYNC, **headers})


async def exported(clinic, token, path="$export", **how):
    """Kick off, wait, take the manifest, fetch every file, and hold it to what it says of itself."""
    store = clinic.stores["gateway"]
    await heard(store)
    begun = await kicked(clinic, token, path, **how)
    assert begun.status_code == 202, begun.text
    status = place(begun.headers["content-location"])
    waits = await clinic.send(token, "GET", status)
    assert (waits.status_code, waits.headers["retry-after"].isdecimal()) == (202, True)
    assert waits.headers["x-progress"]
    assert await worked(store, place=status) == [True]  # it was ended there and then, complete or not
    answer = await clinic.send(token, "GET", status)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    found = Exported(status, answer.json())
    for kind in ("output", "deleted", "error"):
        found.files[kind] = []
        for entry in found.manifest[kind]:
            file = await clinic.send(token, "GET", place(entry["url"]), Accept="application/fhir+ndjson")
            assert file.status_code == 200, file.text
            assert file.headers["content-type"].startswith("application/fhir+ndjson")
            lines = [json.loads(line) for line in file.text.splitlines()]
            assert (len(lines), {one["resourceType"] for one in lines}) == (entry["count"], {entry["type"]})
            found.files[kind] += lines
    return found


async def searched(clinic, token, types):
    """Return ``Type/id`` of all that the bearer finds by search."""
    found = set()
    for type_ in types:
        answer = await clinic.send(token, "GET", f"{type_}?_count=500")
        if answer.status_code == 200:
            found |= {f"{type_}/{one['resource']['id']}" for one in answer.json().get("entry", ())}
    return found
