"""`/livez`, `/readyz` and `/metrics`: what Kubernetes, `kap up` and Prometheus ask.

Alive means that every task of the process makes progress; a task that does not for too long (a consumer that lives on
after a rebalance and never moves again) makes `/livez` fail, so that the process is started anew. One that goes on and
fails (a timer) is named there with its trouble: a new process would fail as well. Ready means that the
database answers and has this version's schema; Kafka is not asked, for the outbox exists so that a session can be
documented while Kafka is down.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.fhir.outcome import Unavailable

_READY_FOR = 1.0
"""Seconds that one look at the database answers for."""


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Knows how long ago a task last made progress.

    Attributes:
        name: of the task.
        stalled_after: seconds without progress after which the task counts as stalled.
        age: returns the seconds since the last progress.
        trouble: returns what is wrong although it makes progress, None where nothing is.

    """

    name: str
    stalled_after: float
    age: Callable[[], float]
    trouble: Callable[[], str | None] = lambda: None

    @property
    def stalled(self) -> bool:
        """Whether the task has made no progress for too long."""
        return self.age() > self.stalled_after


class Progress:
    """When a task last made progress, on the monotonic clock."""

    def __init__(self) -> None:
        self._last = monotonic()

    def beat(self) -> None:
        """Tell of progress."""
        self._last = monotonic()

    def age(self) -> float:
        """Return the seconds since the last progress."""
        return monotonic() - self._last


def health_routes(
    service: str, watchdogs: Callable[[], Sequence[Watchdog]], ready: Callable[[], Awaitable[None]]
) -> list[Route]:
    """Return the three routes. `ready` raises Unavailable while the database does not answer."""
    seen: dict[str, float] = {}

    async def livez(request: Request) -> Response:
        request.scope["state"]["route"] = "/livez"
        dogs = watchdogs()
        tasks = {dog.name: _told(dog) for dog in dogs}
        alive = not any(dog.stalled for dog in dogs)
        return _status(service, good=alive, more={"tasks": tasks})

    async def readyz(request: Request) -> Response:
        request.scope["state"]["route"] = "/readyz"
        if monotonic() - seen.get("ready", -_READY_FOR) >= _READY_FOR:
            try:
                await ready()
            except Unavailable as error:
                return _status(service, good=False, more={"why": str(error)})
            seen["ready"] = monotonic()
        return _status(service, good=True, more={})

    async def metrics(request: Request) -> Response:
        request.scope["state"]["route"] = "/metrics"
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]


def _told(dog: Watchdog) -> dict[str, object]:
    told: dict[str, object] = {"idle_seconds": round(dog.age(), 1), "stalled": dog.stalled}
    trouble = dog.trouble()
    return told if trouble is None else {**told, "trouble": trouble}


def _status(service: str, *, good: bool, more: Mapping[str, object]) -> Response:
    return JSONResponse({"service": service, "status": "ok" if good else "failing", **more}, 200 if good else 503)
