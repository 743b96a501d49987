"""`kill -9` of the gateway while a subscriber is told, on Apache Kafka: each event arrives, in order, under its number.

A notification is sent, then what became of it is written down. Killed in between, the gateway knows only that it may
have been taken; it tells it again, under the same number (ADR 31: at least once).
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from cli.stack.operator import Wanted
from cli.stack.ports import GATEWAY
from cli.stack.stack import Stack
from tests.e2e.kap import Kap
from tests.subscriber import Told, subscription

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.kafka, pytest.mark.timeout(600)]

FOCUS = "EpisodeOfCare/"


class Subscribers:
    """The subscriber's server: what it was told, and what it does while it is told something."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []
        """Number and resource of each event, as often as it came."""
        self.while_told: list[Callable[[], None]] = []
        self.after_told: list[Callable[[], None]] = []
        """What is done, once each, while a notification with an event is not answered yet, or just was."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                events = Told(json.loads(body)).events
                outer.told += [(number, str(focus).partition(FOCUS)[2]) for number, focus in events]
                if events and outer.while_told:
                    outer.while_told.pop()()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                self.wfile.flush()
                if events and outer.after_told:
                    outer.after_told.pop()()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # who was killed does not listen
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def subscriber() -> Iterator[Subscribers]:
    found = Subscribers()
    yield found
    found.close()


def eventually(what: str, look: Callable[[], object], within: float = 120) -> None:
    deadline = time.monotonic() + within
    while not look():
        assert time.monotonic() < deadline, f"{what} did not come within {within:.0f} s"
        time.sleep(0.05)


def test_after_a_kill_between_sending_and_writing_it_down_each_event_is_told_and_none_is_lost(
    make_stack: Callable[..., Kap], subscriber: Subscribers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAP_SUBSCRIBER_HOSTS", f"default@127.0.0.1:{subscriber.port}")
    kap = make_stack("--kafka", "apache")
    auth = Stack(kap.data).auth(Wanted(role="clinic-admin"))
    with httpx.Client(auth=auth, trust_env=False, timeout=30) as http:
        written: list[str] = []

        def post(to: str, body: dict[str, object]) -> dict[str, str]:
            answer = http.post(f"{kap.ports.fhir(to)}/{body['resourceType']}", json=body)
            assert answer.status_code == 201, answer.text
            made: dict[str, str] = answer.json()
            return made

        def write(several: int) -> None:
            """Have intake write, and tell of it by Kafka, whether the gateway lives or not."""
            of = {"reference": f"Patient/{patient['id']}"}
            for _ in range(several):
                made = post("intake", {"resourceType": "EpisodeOfCare", "status": "planned", "patient": of})
                written.append(made["id"])

        def killed(*, at_once: bool) -> None:
            """Kill the gateway from the subscriber's own thread, before or right after it answers; then start it."""
            pid, done = kap.pid(GATEWAY), threading.Event()

            def kill() -> None:
                os.kill(pid, signal.SIGKILL)
                done.set()

            (subscriber.while_told if at_once else subscriber.after_told).append(kill)
            write(3)
            assert done.wait(120), "nobody was told of anything"
            write(3)
            kap.must("up", "--detach")
            write(3)

        patient = post(GATEWAY, {"resourceType": "Patient", "active": True})
        hook = subscription(
            endpoint=f"http://127.0.0.1:{subscriber.port}/hook", extension={"backport-timeout": {"valueUnsignedInt": 1}}
        )
        made = post(GATEWAY, hook)
        where = f"{kap.ports.fhir(GATEWAY)}/Subscription/{made['id']}"
        eventually("the handshake", lambda: http.get(where).json()["status"] == "active")

        for at_once in (True, False):
            killed(at_once=at_once)
            eventually("all that was written", lambda: {one for _, one in subscriber.told} >= set(written))

    first_told = list(dict.fromkeys(subscriber.told))
    assert [number for number, _ in first_told] == list(range(1, len(written) + 1))
    assert [one for _, one in first_told] == written  # of one patient, by one owner: in the order they were written in
    again = [one for one in first_told if subscriber.told.count(one) > 1]
    assert first_told[0] in again, "what was not answered was not told again"
