"""A real mail server, a real HTTP receiver, and a store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import pytest_asyncio
from aiosmtpd import smtp

from shared.runtime.ownership import SCHEDULING
from shared.runtime.record import open_record
from shared.store.access import Access
from shared.store.store import Store
from tests.integration.notify.receivers import SERVICE, Gateway, MailServer


@pytest_asyncio.fixture
async def mail_server():
    keeper = MailServer()
    server = await asyncio.get_running_loop().create_server(lambda: smtp.SMTP(keeper), host="127.0.0.1", port=0)
    keeper.port = server.sockets[0].getsockname()[1]
    try:
        yield keeper
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    kept = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.calls.append((dict(self.headers.items()), body))
            self.send_response(kept.statuses.pop(0) if kept.statuses else 202)
            self.end_headers()
            self.wfile.write(b"accepted 77")

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_port}/messages"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest_asyncio.fixture
async def own_store(make_database):
    opened = await Store.connect(make_database(SCHEDULING), service=SCHEDULING)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def record(own_store):
    return lambda: open_record(SERVICE, own_store, Access.unrestricted(), keys=("Patient/p",))
