"""Uvicorn in this process: several listeners in one event loop, stopped together, with requests in flight finished."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import uvicorn

from shared.http.heads import BoundedHeads

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from shared.runtime.settings import Settings


class CannotListen(Exception):
    """The port is taken or not ours to take; the message is for the person who starts the service."""


class _Server(uvicorn.Server):
    """A server that leaves the process's signals to the process, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listening(
    asgi: ASGIApp, settings: Settings, *, port: int | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Listen as the settings say while the block runs, at their port unless `port` says another; yield the port.

    At its end nothing new is accepted, requests in flight are finished (at most `stop_seconds`), connections closed.

    Raises:
        CannotListen: the address is not to be had.

    """
    wanted = settings.port if port is None else port
    config = uvicorn.Config(
        asgi,
        host=settings.host,
        port=wanted,
        loop="none",
        http=BoundedHeads,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.stop_seconds,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        bound = socket.create_server((settings.host, wanted), family=family, backlog=config.backlog)
    except OSError as error:
        place = f"{settings.host}:{wanted}"
        raise CannotListen(f"{settings.service} cannot listen on {place}: {error.strerror}.") from None
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[bound]), name=f"http {settings.service}")
    try:
        await server.up.wait()
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
        bound.close()
