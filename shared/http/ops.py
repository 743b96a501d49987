"""What operators and the `kap` command ask a service: what it holds, how events flow, what is parked. JSON, no FHIR.

GET  /ops/digest[?since=&until=]           per type and owner: versions, current, order-free content hash
GET  /ops/versions?type=[&since=&until=]   every version of a type with the SHA-256 of its body, to find a difference
GET  /ops/disclosable?type=[&recipient=&through=&purpose=&clinic=]
                                           of every resource of a type in a clinic (of 'default', where none is named)
                                           whether its patient's consents let it be told to
                                           somebody (Organization/1, v3-ActReason), and when these last changed
GET  /ops/flow                             outbox, inbox, lag by source, and how long the hops of the last hour took
GET  /ops/parked                           events that could not be applied
POST /ops/parked/{number}/retry            apply it and those behind it again
POST /ops/parked/{number}/drop             give it up for good
POST /ops/replay[?from=&patient=&to=]      tell what was committed again: from a time or an outbox sequence on, of one
                                           patient, to one consumer
GET  /ops/replay/{number}                  how far that is
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from shared.events.topics import topic_of
from shared.fhir.definitions import TYPE_IDS
from shared.fhir.outcome import BadRequest, NotFound
from shared.security.scopes import CLINIC_NAME
from shared.store.access import DEFAULT_TENANT, Disclosure

if TYPE_CHECKING:
    from shared.runtime.service import Service
    from shared.store.store import Store

_LOOKED_AT: Final = timedelta(hours=1)
_JSON: Final = "application/json"
_LINES: Final = 500
_REFERENCE: Final = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}")
_CONSUMER: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_TAKEN_IN: Final = "taken in"
_PARTLY_ASSIGNED: Final = "partly assigned"
_NOT_ASSIGNED: Final = "not assigned"


def ops_routes(service: Service, store: Store, *, partitions: int) -> list[Route]:
    """Return the routes. `partitions` is how many each topic has."""
    name, told = service.name, service.publishes

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
        sources = await _sources(service, store, partitions)
        known = all(source["state"] == _TAKEN_IN for source in sources)
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
                # Unknown, not nothing, where nobody takes a source in.
                "lag": outbox.pending + sum(source["events"] for source in sources) if known else None,
                "sources": sources,
                "latencies": latencies,
            }
        )

    async def parked(request: Request) -> Response:
        return _json({"service": name, "parked": await store.parking.list()})

    async def retry(request: Request) -> Response:
        return _json({"service": name, "due": await store.parking.retry(_number(request))})

    async def drop(request: Request) -> Response:
        return _json({"service": name, "dropped": await store.parking.drop(_number(request))})

    async def replay(request: Request) -> Response:
        time, sequence = _from(request)
        asked = await store.replay.ask(
            consumer=_consumer(request), sequence=sequence, time=time, key=_patient(request), tenant=None
        )
        return _json({"service": name, **msgspec.to_builtins(await store.replay.state(asked))})

    async def replayed(request: Request) -> Response:
        return _json({"service": name, **msgspec.to_builtins(await store.replay.state(_number(request)))})

    return [
        _route("/ops/digest", digest, "GET"),
        _route("/ops/versions", versions, "GET"),
        _route("/ops/disclosable", _disclosable(name, store), "GET"),
        _route("/ops/flow", flow, "GET"),
        _route("/ops/parked", parked, "GET"),
        _route("/ops/parked/{number}/retry", retry, "POST"),
        _route("/ops/parked/{number}/drop", drop, "POST"),
        *((_route("/ops/replay", replay, "POST"), _route("/ops/replay/{number}", replayed, "GET")) if told else ()),
    ]


def clinic_in(request: Request) -> str:
    """Return the clinic that an operator asks about by ``clinic``; the installation's own where he names none.

    Raises:
        BadRequest: that is no name of a clinic.

    """
    name = request.query_params.get("clinic", DEFAULT_TENANT)
    if not CLINIC_NAME.fullmatch(name):
        raise BadRequest("clinic is the name of a clinic, such as north.", expression=["http.clinic"])
    return name


def _disclosable(name: str, store: Store) -> Callable[[Request], Awaitable[Response]]:
    async def disclosable(request: Request) -> Response:
        type_ = request.query_params.get("type", "")
        if type_ not in TYPE_IDS:
            raise BadRequest("type must be an R4 resource type.", code="value", expression=["http.type"])
        recipient, purpose = request.query_params.get("recipient"), request.query_params.get("purpose", "TREAT")
        by = frozenset(filter(None, (request.query_params.get("through"),)))
        told = Disclosure(frozenset(filter(None, (recipient,))), frozenset((purpose,)), through=by)
        found = [one async for one in store.verify.disclosable(clinic_in(request), type_, told)]
        return _json({"service": name, "type": type_, "resources": found})

    return disclosable


async def _sources(service: Service, store: Store, partitions: int) -> list[dict[str, Any]]:
    """Return how far the service is behind each source it takes in: events that wait, and seconds its news is old."""
    lags = await store.knowledge.lag(service.name)
    found = []
    for age in await store.knowledge.by_source(service.name, service.consumes):
        lag = lags.get(topic_of(age.source))
        taken = 0 if lag is None else lag.partitions
        state = _NOT_ASSIGNED if not taken else _TAKEN_IN if taken >= partitions else _PARTLY_ASSIGNED
        found.append(
            {
                "source": age.source,
                "state": state,
                "events": lag.events if lag is not None and taken else None,
                "seconds": age.seconds,
                "partitions": taken,
                "of": partitions,
                "measured_seconds": None if lag is None else lag.seconds,
            }
        )
    return found


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


def _from(request: Request) -> tuple[datetime | None, int]:
    """Return from when on, and after which sequence of the outbox, by the parameter ``from``."""
    text = request.query_params.get("from", "0")
    if text.isdecimal():
        return None, max(int(text[:18]) - 1, 0)
    return _time(request, "from"), 0


def _patient(request: Request) -> str | None:
    text = request.query_params.get("patient")
    if text is not None and not _REFERENCE.fullmatch(text):
        raise BadRequest("patient is a reference such as Patient/0198c0de.", expression=["http.patient"])
    return text


def _consumer(request: Request) -> str | None:
    text = request.query_params.get("to")
    if text is not None and not _CONSUMER.fullmatch(text):
        raise BadRequest("to is the name of a service, such as gateway.", expression=["http.to"])
    return text


def _time(request: Request, name: str) -> datetime | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{name} is a time such as 2026-11-22T10:30:00Z.", expression=[f"http.{name}"]) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
