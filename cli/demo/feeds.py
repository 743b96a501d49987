"""Two who are told without asking for each thing: a partner physician's system by Subscription, a hospital by $export.

The partner's system subscribes to the doses of his patients before they are treated, and counts what it is told. The
hospital exports the Group of its patients when all is over; what it gets is what it finds by searching.

Source: https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/, https://hl7.org/fhir/uv/bulkdata/STU2/export.html
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx

from cli.demo import resources
from cli.demo.access import Token
from cli.demo.acting import create
from cli.demo.client import FHIR_JSON, NOT_NOW, DemoError, FhirClient
from cli.stack.operator import Wanted
from cli.stack.ports import GATEWAY, HOST, PARTNER, Ports
from shared.fhir.codes import BASE
from shared.fhir.json import Resource

TOPIC: Final = f"{BASE}/SubscriptionTopic/dose-given"
DOSES: Final = {"status": "completed"}
EXPORTED: Final = ("Patient", "Encounter", "MedicationAdministration", "Observation")
WITHIN_SECONDS: Final = 60.0
_CONTENT: Final = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"


@dataclass(frozen=True, slots=True)
class PartnerTold:
    """Of how many doses the partner's system was told, and how many there were to be told of."""

    told: int
    given: int


@dataclass(frozen=True, slots=True)
class Exported:
    """By type, how many resources the hospital's export holds, and how many it finds by searching."""

    files: dict[str, int]
    found: dict[str, int]


@dataclass(slots=True)
class PartnersSystem:
    """The system of a partner physician: his token, and by number what he was told of."""

    http: httpx.AsyncClient
    subscription: str = ""
    before: int = 0
    told: dict[int, str] = field(default_factory=dict)

    async def subscribe(self, port: int) -> None:
        """Ask to be told of each dose, and wait until the handshake is done."""
        for one in await _entries(self.http, "Subscription", {}):  # a demo that was cut off left its own
            await _asked(self.http, "DELETE", f"Subscription/{one['id']}", 204)
        self.before = await _count(self.http, "MedicationAdministration", DOSES)
        asked: Resource = {
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "to know of our patients' doses",
            "criteria": TOPIC,
            "channel": {
                "type": "rest-hook",
                "endpoint": f"http://{HOST}:{port}/doses",
                "payload": FHIR_JSON,
                "_payload": {"extension": [{"url": _CONTENT, "valueCode": "id-only"}]},
            },
        }
        self.subscription = (await _asked(self.http, "POST", "Subscription", 201, json=asked)).json()["id"]

        async def active() -> bool:
            held = await _asked(self.http, "GET", f"Subscription/{self.subscription}", 200)
            return bool(held.json()["status"] == "active")

        await _until("the handshake with the partner's system", active)

    async def end(self) -> PartnerTold:
        """Wait until what was given was told, end the Subscription, and say how many there were of both."""
        given = await _count(self.http, "MedicationAdministration", DOSES) - self.before

        async def all_told() -> bool:
            return len(set(self.told.values())) >= given

        with suppress(DemoError):  # how many there were of both is what is reported
            await _until("the doses that the partner's system is told of", all_told)
        await _asked(self.http, "DELETE", f"Subscription/{self.subscription}", 204)
        return PartnerTold(len(set(self.told.values())), given)

    def take(self, body: bytes) -> None:
        """Take a notification in: what it says of its events."""
        for one in json.loads(body)["entry"][0]["resource"]["parameter"]:
            if one["name"] == "notification-event":
                said = {part["name"]: part for part in one["part"]}
                self.told[int(said["event-number"]["valueString"])] = said["focus"]["valueReference"]["reference"]


@asynccontextmanager
async def partners_system(ports: Ports, physician: str, token: Token) -> AsyncIterator[PartnersSystem]:
    """Run the system of a partner physician (``Practitioner/<id>``), who is told of his patients."""
    auth = token(Wanted(role="partner-physician", user=physician))
    async with httpx.AsyncClient(
        base_url=ports.fhir(GATEWAY), auth=auth, headers={"Accept": FHIR_JSON}, trust_env=False, timeout=30
    ) as http:
        system = PartnersSystem(http)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                system.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        port = ports.of(PARTNER)
        try:
            server = ThreadingHTTPServer((HOST, port), Handler)
        except OSError as error:
            raise DemoError(f"The partner's system cannot listen at port {port} ({error.strerror}).") from None
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            await system.subscribe(port)
            yield system
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


async def exported(ports: Ports, gateway: FhirClient, name: str, patients: Sequence[str], token: Token) -> Exported:
    """Have a hospital export the Group of its patients (``Patient/<id>``), and search for the same.

    Raises:
        DemoError: it was refused, or did not come to its end.

    """
    hospital = (await create(gateway, resources.hospital())).reference
    held = await create(gateway, resources.patients_of(name, hospital, patients))
    auth = token(Wanted(role="hospital-system", user=hospital))
    async with httpx.AsyncClient(
        base_url=ports.fhir(GATEWAY), auth=auth, headers={"Accept": FHIR_JSON}, trust_env=False, timeout=30
    ) as http:
        members = {one["entity"]["reference"] for one in (await gateway.read(held.reference))["member"]}
        path = f"{held.reference}/$export?_type={','.join(EXPORTED)}"
        begun = await _asked(http, "GET", path, 202, headers={"Prefer": "respond-async"})
        status, files = begun.headers["content-location"], Counter(dict.fromkeys(EXPORTED, 0))

        async def made() -> bool:
            return (await http.get(status)).status_code != httpx.codes.ACCEPTED

        await _until("the hospital's export", made)
        for entry in (await _asked(http, "GET", status, 200)).json()["output"]:
            files[entry["type"]] += len((await _asked(http, "GET", entry["url"], 200)).text.splitlines())
        await _asked(http, "DELETE", status, 202)
        ids = ",".join(sorted(one.removeprefix("Patient/") for one in members))
        by = {type_: {"_id" if type_ == "Patient" else "patient": ids} for type_ in EXPORTED}
        found = {type_: await _count(http, type_, criteria) for type_, criteria in by.items()}
    return Exported(dict(files), found)


async def _count(http: httpx.AsyncClient, type_: str, criteria: dict[str, str]) -> int:
    return int((await _asked(http, "GET", type_, 200, params={**criteria, "_summary": "count"})).json()["total"])


async def _entries(http: httpx.AsyncClient, type_: str, criteria: dict[str, str]) -> list[dict[str, Any]]:
    found = (await _asked(http, "GET", type_, 200, params=criteria)).json()
    return [one["resource"] for one in found.get("entry", ())]


async def _until(what: str, done: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + WITHIN_SECONDS
    while not await done():
        if time.monotonic() > deadline:
            raise DemoError(f"It took longer than {WITHIN_SECONDS:.0f} s: {what}.")
        await asyncio.sleep(0.2)


async def _asked(http: httpx.AsyncClient, method: str, path: str, status: int, **more: Any) -> httpx.Response:
    """Ask until there is another answer than "not now": who is outside waits for news of consents, say.

    Raises:
        DemoError: it is not the answer that is wanted.

    """
    deadline = time.monotonic() + WITHIN_SECONDS
    while True:
        try:
            answer = await http.request(method, path, **more)
            if answer.status_code == status:
                return answer
            said = f"was answered {answer.status_code}"
            if answer.status_code not in NOT_NOW:
                deadline = 0.0
        except httpx.TransportError as error:
            said = f"found nobody ({type(error).__name__})"
        if time.monotonic() > deadline:
            raise DemoError(f"{method} {path.partition('?')[0]} {said}.")
        await asyncio.sleep(0.5)
