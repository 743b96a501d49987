"""Traces bear nothing of a patient: no span, no header from hop to hop, no trace context that is kept with a record."""

from __future__ import annotations

import re
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import trace

from tests.integration.security.test_gate import ADA, reading

NAME, BORN, NUMBER = "Zorquistle", "1907-02-19", "MRN48151623"
CANARIES = (NAME, BORN, NUMBER)
CONTEXT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Recorded(trace.NonRecordingSpan):
    """A span of which everything that is said is written down."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self._said = said

    def is_recording(self):
        return True

    def set_attribute(self, key, value):
        self._said.append(f"{key}={value}")

    def set_attributes(self, attributes):
        self._said.append(str(dict(attributes)))

    def add_event(self, name, attributes=None, timestamp=None):
        self._said.append(f"{name} {attributes} {timestamp}")

    def record_exception(self, exception, attributes=None, timestamp=None, escaped=False):
        self._said.append(f"{exception} {attributes} {timestamp} {escaped}")

    def update_name(self, name):
        self._said.append(name)


class Collector(trace.TracerProvider):
    """Where spans go where somebody runs the services with OpenTelemetry set up for the whole process."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def get_tracer(self, *_args, **_more):
        collector = self

        class Tracer(trace.NoOpTracer):
            def start_span(self, name, context=None, kind=None, attributes=None, *_args, **_more):
                collector.said.append(f"{name} {context} {kind} {dict(attributes or {})}")
                return Recorded(collector.said)

        return Tracer()


@pytest.fixture
def collector(monkeypatch):
    found = Collector()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: found)
    return found


def told(texts) -> set[str]:
    return {canary for canary in CANARIES for text in texts if canary.casefold() in str(text).casefold()}


async def test_no_span_no_header_between_hops_and_no_kept_trace_context_bears_anything_of_a_patient(clinic, collector):
    common = FastAPI()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(common), base_url="http://common") as client:
        await client.get(f"/{NAME}?birthdate={BORN}")
    assert told(collector.said) == {NAME, BORN}, "a web framework as it comes tells them, and the collector sees it"
    collector.said.clear()
    admin = await clinic.token("clinic-admin")
    person = {
        **ADA,
        "name": [{"family": NAME}],
        "birthDate": BORN,
        "identifier": [{"system": "urn:mrn", "value": NUMBER}],
    }
    traced = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": f"ehr={NAME}", "baggage": f"number={NUMBER}"}
    clinic.wire.requests.clear()
    made = await clinic.send(admin, "POST", "Patient", person, **traced)
    assert made.status_code == 201, made.text
    id_ = made.json()["id"]
    for method, path, body in (
        ("POST", "Observation", reading(id_)),
        ("GET", f"Patient?family={NAME}&birthdate={BORN}&identifier={quote(f'urn:mrn|{NUMBER}')}", None),
        ("GET", f"Patient/{NAME}", None),
        ("GET", f"{NAME}/1", None),
        ("GET", f"Patient?nonsense={NUMBER}", None),
        ("GET", f"Patient/{id_}/$everything?_page={NAME}", None),
        ("POST", "Patient", {**person, NAME: True}),
        ("PUT", f"Patient?identifier=urn:mrn|{NUMBER}", {**person, "id": id_}),
        ("POST", "", {"resourceType": "Bundle", "type": "batch", "entry": [
            {"request": {"method": "GET", "url": f"Patient?family={NAME}"}}]}),
    ):  # fmt: skip
        answer = await clinic.send(admin, method, path, body, **traced)
        assert answer.status_code < 500, answer.text
    assert told(collector.said) == set()
    assert any(one.url.host == "intake" for one in clinic.wire.requests), "the gateway asked an owner"
    hops = [one for one in clinic.wire.requests if one.url.host != "gateway"]
    assert told(one.headers for one in hops) == set()
    kept = []
    for store in clinic.stores.values():
        async with store.transaction(keys=(), tenant="default") as transaction:
            for table in ("history", "outbox"):
                rows = await transaction.connection.fetch(f"SELECT traceparent FROM {table}")
                kept += [row["traceparent"] for row in rows if row["traceparent"] is not None]
    assert kept
    assert all(CONTEXT.fullmatch(one) for one in kept)
