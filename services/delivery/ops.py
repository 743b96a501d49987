"""`GET /ops/deliveries`: the ledger as JSON, for operators and for `./kap verify`.

    {"destinations": [{
        "id", "tenant", "name", "address", "active", "connected", "problem", "software",
        "not_accepted": [types that the destination does not create],
        "counts": {state: entries}, "pending": entries that still move by themselves,
        "by_type": {type: {state: entries}},
        "latency_ms": {"count", "p50", "p95", "max"} from the owner's commit to the destination's acceptance,
        "recipient", "purpose", "through": whom, what for, and by which intermediary it is to the patients' consents,
        "deliveries": [{"type", "id", "key", "state", "wanted_version", "delivered_version", "server_id",
                        "content_hash", "attempts",
                        "uncertain", "queued_at", "next_attempt_at", "committed_at", "accepted_at",
                        "task", "said"}]}]}

`deliveries` is left out with `?digest=only`.

`GET /ops/disclosures?patient=ID[&clinic=NAME]`: what was told of a patient of a clinic (of ``default``, where none is
named) in the last three years, the latest first: to whom, what for, which versions, by which consents; what bears
42CFRPart2 is marked (42 CFR 2.24: list of disclosures).

    {"disclosures": [{"asked_at", "recipient", "through": the intermediary, "purpose", "type", "resource", "version",
                      "labels", "request", "part_2", "redacted", "consents",
                      "ended": "accepted", "refused", or null: nobody knows}]}
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.delivery.lanes import Lanes, LaneState
from shared.fhir.dates import zulu
from shared.fhir.json import Json
from shared.fhir.outcome import BadRequest
from shared.http.ops import clinic_in
from shared.runtime.app import Parts
from shared.store.disclosures import Disclosures
from shared.store.ledger import Ledger
from shared.store.ledger_types import PENDING, Destination, Entry


def deliveries_route(parts: Parts, lanes: Lanes) -> Route:
    """Return the route."""

    async def deliveries(request: Request) -> Response:
        brief = request.query_params.get("digest") == "only"
        described: list[Json] = []
        for tenant in await parts.store.tenants():
            async with parts.store.transaction(keys=(), tenant=tenant) as transaction:
                ledger = Ledger(transaction)
                described.extend(
                    [
                        describe(one, lanes.state_of(one), await ledger.entries(one.id), brief=brief)
                        for one in await ledger.destinations()
                    ]
                )
        return Response(msgspec.json.encode({"destinations": described}), media_type="application/json")

    return Route("/ops/deliveries", deliveries, methods=["GET"])


def disclosures_route(parts: Parts) -> Route:
    """Return the route."""

    async def disclosures(request: Request) -> Response:
        patient = request.query_params.get("patient", "")
        if not patient:
            raise BadRequest("patient must be a patient's id.", code="required", expression=["http.patient"])
        tenant = clinic_in(request)
        async with parts.store.transaction(keys=(), tenant=tenant) as transaction:
            told = await Disclosures(transaction).of_patient(tenant, f"Patient/{patient}")
        return Response(msgspec.json.encode({"disclosures": told}), media_type="application/json")

    return Route("/ops/disclosures", disclosures, methods=["GET"])


def describe(destination: Destination, state: LaneState, entries: Sequence[Entry], *, brief: bool) -> Json:
    """Return what is known of one destination."""
    counts = Counter(entry.state for entry in entries)
    by_type: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        by_type[entry.type][entry.state] += 1
    described = {
        "id": destination.id,
        "tenant": destination.tenant,
        "name": destination.name,
        "address": destination.address,
        "active": destination.active,
        "recipient": destination.recipient,
        "purpose": destination.purpose,
        "through": destination.through,
        "connected": state.connected,
        "problem": state.problem or state.late,
        "software": state.software,
        "not_accepted": list(state.not_accepted),
        "counts": dict(counts),
        "pending": sum(counts[one] for one in PENDING),
        "by_type": {type_: dict(states) for type_, states in sorted(by_type.items())},
        "latency_ms": latencies(entries),
    }
    return described if brief else {**described, "deliveries": [_line(entry) for entry in entries]}


def latencies(entries: Sequence[Entry]) -> Mapping[str, int | None]:
    """Return how many milliseconds lay between the owner's commit and the destination's acceptance."""
    hops = sorted(
        round((entry.accepted_at - entry.committed_at).total_seconds() * 1000)
        for entry in entries
        if entry.accepted_at is not None and entry.committed_at is not None
    )
    if not hops:
        return {"count": 0, "p50": None, "p95": None, "max": None}
    return {
        "count": len(hops),
        "p50": hops[len(hops) // 2],
        "p95": hops[min(len(hops) - 1, len(hops) * 95 // 100)],
        "max": hops[-1],
    }


def _line(entry: Entry) -> Json:
    issues = (entry.outcome or {}).get("issue", [])
    return {
        "type": entry.type,
        "id": entry.id,
        "key": entry.key,
        "state": entry.state,
        "wanted_version": entry.wanted_version,
        "delivered_version": entry.delivered_version,
        "server_id": entry.server_id,
        "content_hash": entry.content_hash,
        "attempts": entry.attempts,
        "uncertain": entry.uncertain,
        "queued_at": zulu(entry.queued_at),
        "next_attempt_at": zulu(entry.next_attempt_at),
        "committed_at": _when(entry.committed_at),
        "accepted_at": _when(entry.accepted_at),
        "task": entry.task_id,
        "said": "; ".join(str(issue.get("diagnostics", "")) for issue in issues),
    }


def _when(moment: datetime | None) -> str | None:
    return None if moment is None else zulu(moment)
