"""What operators and the `kap` command ask a service: what it holds, how events flow, what is parked. JSON, no FHIR.

GET  /ops/digest[?since=&until=]           per type and owner: versions, current, order-free content hash
GET  /ops/versions?type=[&since=&until=]   every version of a type with the SHA-256 of its body, to find a difference
GET  /ops/flow                             outbox, inbox, lag, and how long the hops of the last hour took
GET  /ops/parked                           events that could not be applied
POST /ops/parked/{number}/retry            apply it and those behind it again
POST /ops/parked/{number}/drop             give it up for good
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from shared.fhir.definitions import TYPE_IDS
from shared.fhir.outcome import BadRequest, NotFound

if TYPE_CHECKING:
    from shared.runtime.service import Service
    from shared.store.store import Store

_LOOKED_AT: Final = timedelta(hours=1)
_JSON: Final = "application/json"
_LINES: Final = 500


def ops_routes(service: Service, store: Store, *, waiting: Callable[[], int]) -> list[Route]:
    """Return the routes. `waiting` tells how many events of others this process knows of and has not applied."""
    name = service.name

    async def digest(request: Request) -> Response:
        since, until = _time(request, "since"), _time(request, "until")
        return _json({"service": name, "digest": await store.verify.digest(since=since, until=until)})

    async def versions(request: Request) -> Response:
        type_ = request.query_params.get("type", "")
        if type_ not in TYPE_IDS:
            raise BadRequest("type must be an R4 resource type.", code="value", expression=["http.type"])
        since, until = _time(request, "since"), _time(request, "until")

        async def text() -> AsyncIterator[bytes]:
            yield (
                b'{"service":' + msgspec.json.encode(name) + b',"type":' + msgspec.json.encode(type_) + b',"versions":['
            )
            first, batch = True, []
            async for one in store.verify.versions(type_, since=since, until=until):
                batch.append({"id": one.id, "version": one.version, "origin": one.origin, "content": one.hash.hex()})
                if len(batch) == _LINES:
                    yield (b"" if first else b",") + msgspec.json.encode(batch)[1:-1]
                    first, batch = False, []
            yield ((b"" if first or not batch else b",") + msgspec.json.encode(batch)[1:-1]) + b"]}"

        return StreamingResponse(text(), media_type=_JSON)

    async def flow(request: Request) -> Response:
        outbox = await store.verify.outbox()
        inbox = await store.verify.inbox()
        parked = await store.parking.counts(name)
        latencies = await store.verify.latencies(datetime.now(UTC) - _LOOKED_AT)
        return _json(
            {
                "service": name,
                "outbox": {
                    "written": outbox.written,
                    "published": outbox.published,
                    "pending": outbox.pending,
                    "oldest_seconds": outbox.oldest_seconds,
                },
                "inbox": inbox,
                "parked": [
                    {"topic": topic, "partition": partition, "count": count}
                    for (topic, partition), count in sorted(parked.items())
                ],
                "lag": outbox.pending + waiting(),
                "latencies": latencies,
            }
        )

    async def parked(request: Request) -> Response:
        return _json({"service": name, "parked": await store.parking.list()})

    async def retry(request: Request) -> Response:
        return _json({"service": name, "due": await store.parking.retry(_number(request))})

    async def drop(request: Request) -> Response:
        return _json({"service": name, "dropped": await store.parking.drop(_number(request))})

    return [
        _route("/ops/digest", digest, "GET"),
        _route("/ops/versions", versions, "GET"),
        _route("/ops/flow", flow, "GET"),
        _route("/ops/parked", parked, "GET"),
        _route("/ops/parked/{number}/retry", retry, "POST"),
        _route("/ops/parked/{number}/drop", drop, "POST"),
    ]


def _route(path: str, handler: Callable[[Request], Awaitable[Response]], method: str) -> Route:
    async def endpoint(request: Request) -> Response:
        request.scope["state"]["route"] = path
        return await handler(request)

    return Route(path, endpoint, methods=[method])


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type=_JSON)


def _number(request: Request) -> int:
    number: str = request.path_params["number"]
    if not number.isdecimal():
        raise NotFound("A parked event has a number.")
    return int(number[:18])


def _time(request: Request, name: str) -> datetime | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{name} is a time such as 2026-11-22T10:30:00Z.", expression=[f"http.{name}"]) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
