"""On a real socket: large bodies, and what happens to requests in flight when the service stops."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from shared.http.app import create_fhir_app
from shared.http.server import CannotListen, listening
from shared.runtime.settings import MEBIBYTE

BODY = 60 * MEBIBYTE
CHUNK = b"x" * 65536
HEAD = "POST /fhir/Observation HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\n"


async def send(port: int, head: str, frame) -> tuple[bytes, int]:
    """Send 60 MB, framed, however the server takes it; return its answer's first line and how much was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}\r\n".encode())
    sent = 0
    while sent < BODY:
        writer.write(frame(CHUNK))
        await writer.drain()
        sent += len(CHUNK)
    writer.write(frame(b""))
    answer = await reader.readuntil(b"\r\n")
    rest = await reader.readuntil(b"]}")
    assert b'"OperationOutcome"' in rest
    writer.close()
    await writer.wait_closed()
    return answer, sent


@pytest.mark.parametrize(
    ("head", "frame", "held"),
    [
        (f"{HEAD}Content-Length: {BODY}\r\n", lambda chunk: chunk, 2 * MEBIBYTE),
        (f"{HEAD}Transfer-Encoding: chunked\r\n", lambda chunk: b"%x\r\n%s\r\n" % (len(chunk), chunk), 4 * MEBIBYTE),
    ],
    ids=["announced", "chunked"],
)
async def test_a_body_of_60_mb_is_refused_and_never_held(fhir, settings, head, frame, held):
    app = create_fhir_app(fhir.backend.service, fhir.backend, settings)
    async with listening(app, settings) as port:
        async with httpx.AsyncClient() as http:  # what is loaded at the first request is not what is measured
            await http.get(f"http://127.0.0.1:{port}/fhir/metadata")
        tracemalloc.start()
        try:
            answer, sent = await send(port, head, frame)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent == BODY
    assert peak < held, f"{peak / MEBIBYTE:.1f} MB held"
    assert await fhir.held() == 0


async def test_a_request_in_flight_is_finished_when_the_service_stops(fhir, settings):
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request):
        began.set()
        await go_on.wait()
        return PlainTextResponse("done")

    app = create_fhir_app(fhir.backend.service, fhir.backend, settings, routes=[Route("/slow", slow)])
    async with httpx.AsyncClient() as http:
        serving = listening(app, settings)
        port = await serving.__aenter__()
        request = asyncio.create_task(http.get(f"http://127.0.0.1:{port}/slow"))
        await began.wait()
        stopping = asyncio.create_task(serving.__aexit__(None, None, None))
        await asyncio.sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            await http.get(f"http://127.0.0.1:{port}/fhir/metadata")
        assert not stopping.done()
        go_on.set()
        assert (await request).text == "done"
        await stopping


async def test_a_port_that_is_taken_is_told_in_a_sentence(fhir, settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = create_fhir_app(fhir.backend.service, fhir.backend, settings)
        with pytest.raises(CannotListen, match=f"intake cannot listen on 127.0.0.1:{port}"):
            async with listening(app, settings.model_copy(update={"port": port})):
                pass
