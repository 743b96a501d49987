"""`./kap verify` against services that tell what they are told to tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from cli.demo.client import FhirClient
from cli.ops import Ops
from cli.stack.ports import Ports
from cli.verify import OVERLAP, Finding, ask, compare, last_clean, note_clean, pushed_to, show
from shared.fhir.content import content_hash

PORTS = Ports(9000)
NAMES = {PORTS.of(name): name for name in ("gateway", "intake", "scheduling", "sessions", "outcomes", "delivery")}
HOSPITAL = "http://hospital/fhir"


def in_hospital(id_: str, server_id: str) -> dict[str, Any]:
    identifier = [{"system": "https://kap-exchange.org/fhir/id/Patient", "value": id_}]
    return {"resourceType": "Patient", "id": server_id, "identifier": identifier, "active": True}


class World:
    """A stack that holds one patient everywhere."""

    def __init__(self) -> None:
        digest = {"type": "Patient", "origin": "intake", "versions": 1, "current": 1, "content": 7}
        version = {"id": "a", "version": 1, "origin": "intake", "content": "c1"}
        self.digests: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES.values()}
        self.versions: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES.values()}
        for holder in NAMES.values():
            self.digests[holder] = [dict(digest)]
            self.versions[holder] = [dict(version)]
        self.lag: dict[str, int | None] = dict.fromkeys(NAMES.values(), 0)
        self.parked = dict.fromkeys(NAMES.values(), 0)
        self.hospital = [in_hospital("a", "h1")]
        self.hospital_is_down = self.endpoint_is_deleted = False
        self.active = True
        self.line: dict[str, Any] = {
            "type": "Patient",
            "id": "a",
            "state": "accepted",
            "wanted_version": 1,
            "delivered_version": 1,
            "server_id": "h1",
            "content_hash": content_hash(in_hospital("a", "h1")),
            "said": "",
            "committed_at": "2026-11-22T10:00:00Z",
            "accepted_at": "2026-11-22T10:00:01Z",
        }

    def answer(self, request: httpx.Request) -> httpx.Response:
        if str(request.url).startswith(HOSPITAL):
            if self.hospital_is_down:
                raise httpx.ConnectError("refused", request=request)
            return self._hospital(request)
        name = NAMES[request.url.port or 0]
        path = request.url.path
        if path.startswith("/fhir/Endpoint/") and self.endpoint_is_deleted:
            return httpx.Response(410, json={"resourceType": "OperationOutcome", "issue": [{"diagnostics": "gone"}]})
        if path.startswith("/fhir/Endpoint/"):
            payload = [{"coding": [{"system": "http://hl7.org/fhir/resource-types", "code": "Patient"}]}]
            return httpx.Response(200, json={"resourceType": "Endpoint", "id": "e", "payloadType": payload})
        return httpx.Response(200, content=json.dumps(self._ops(name, path)))

    def _ops(self, name: str, path: str) -> dict[str, Any]:
        if path == "/ops/digest":
            return {"service": name, "digest": self.digests[name]}
        if path == "/ops/versions":
            return {"service": name, "type": "Patient", "versions": self.versions[name]}
        if path == "/ops/disclosable":
            told = {"id": "a", "version": 1, "permitted": True, "changed": "2026-11-22T09:00:00Z"}
            return {"service": name, "type": "Patient", "resources": [told]}
        if path == "/ops/flow":
            return {
                "service": name,
                "outbox": {"written": 1, "published": 1, "pending": 0, "oldest_seconds": None},
                "inbox": [],
                "parked": [{"topic": "t", "partition": 0, "count": self.parked[name]}],
                "lag": self.lag[name],
                "latencies": [],
            }
        waiting = int(self.line["state"] == "queued")
        return {
            "destinations": [
                {
                    "id": "e",
                    "name": "hospital",
                    "address": HOSPITAL,
                    "active": self.active,
                    "problem": None,
                    "not_accepted": [],
                    "by_type": {"Patient": {self.line["state"]: 1}},
                    "pending": waiting,
                    "deliveries": [self.line],
                }
            ]
        }

    def _hospital(self, request: httpx.Request) -> httpx.Response:
        """Answers a page of one resource at a time."""
        page = int(parse_qs(request.url.query.decode()).get("page", ["0"])[0])
        entry = [{"resource": resource} for resource in self.hospital[page : page + 1]]
        following = f"{HOSPITAL}/Patient?page={page + 1}"
        link = [{"relation": "next", "url": following}] if page + 1 < len(self.hospital) else []
        return httpx.Response(200, json={"resourceType": "Bundle", "entry": entry, "link": link})

    async def found(self) -> Finding:
        transport = httpx.MockTransport(self.answer)
        async with Ops(PORTS, transport=transport) as ops:
            return await compare(
                ops, await ask(ops), lambda base, name: FhirClient(base, transport=transport, patience=0, name=name)
            )


@pytest.fixture
def world() -> World:
    return World()


def faults(found: Finding) -> Iterator[tuple[str, str]]:
    return ((difference.hop, difference.fault) for difference in found.differences)


async def test_what_is_equal_everywhere_is_clean(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    found = await world.found()

    assert found.clean
    show(found)
    assert "Nothing is missing" in capsys.readouterr().out


async def test_what_the_gateway_lost_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.digests["gateway"] = []
    world.versions["gateway"] = []

    found = await world.found()

    assert ("intake → gateway", "missing") in faults(found)
    show(found)
    assert "Patient/a version 1" in capsys.readouterr().err


async def test_a_version_of_other_bytes_is_named(world: World) -> None:
    world.digests["gateway"][0]["content"] = 8
    world.versions["gateway"][0]["content"] = "c2"

    assert ("intake → gateway", "different") in faults(await world.found())


async def test_a_stale_copy_at_a_service_is_named(world: World) -> None:
    world.digests["scheduling"][0]["content"] = 8
    world.versions["scheduling"][0]["content"] = "c2"

    assert list(faults(await world.found())) == [("intake → scheduling", "different")]


async def test_a_service_that_has_heard_nothing_is_named(world: World) -> None:
    world.digests["sessions"] = []
    world.versions["sessions"] = []

    assert list(faults(await world.found())) == [("intake → sessions", "missing")]


async def test_what_the_hospital_lost_or_has_twice_is_named(world: World) -> None:
    world.hospital = [in_hospital("a", "h1"), in_hospital("a", "h2")]
    assert ("delivery → hospital", "doubled") in [
        (hop.name, difference.fault) for hop in (await world.found()).hops for difference in hop.differences
    ]

    world.hospital = []
    assert "missing" in [fault for _, fault in faults(await world.found())]


async def test_a_resource_that_never_reached_the_ledger_is_named(world: World) -> None:
    world.line["id"] = "b"

    assert ("gateway → delivery", "missing") in faults(await world.found())


async def test_what_is_on_its_way_or_parked_is_not_clean(world: World) -> None:
    world.lag["scheduling"] = 3
    assert not (await world.found()).clean

    world.lag["scheduling"] = 0
    world.parked["sessions"] = 1
    assert not (await world.found()).clean


async def test_counts_that_differ_are_not_settled(world: World) -> None:
    async with Ops(PORTS, transport=httpx.MockTransport(world.answer)) as ops:
        assert (await ask(ops)).settled

        world.digests["gateway"] = []
        held = await ask(ops)

    assert not held.settled
    assert "1 versions are not at the gateway yet" in held.sentence


async def test_a_window_of_time_is_asked_of_everyone_and_leaves_out_the_hospital(world: World) -> None:
    since = datetime(2026, 11, 22, 9, tzinfo=UTC)
    asked: list[tuple[str, str | None]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, request.url.params.get("since")))
        return world.answer(request)

    world.digests["gateway"] = []
    world.versions["gateway"] = []
    async with Ops(PORTS, transport=httpx.MockTransport(answer)) as ops:
        found = await compare(ops, await ask(ops, since))
    assert ("intake → gateway", "missing") in faults(found)
    assert [hop.name for hop in found.hops if "hospital" in hop.name] == []
    windows = {path: when for path, when in asked if path in {"/ops/digest", "/ops/versions"}}
    assert windows == dict.fromkeys(("/ops/digest", "/ops/versions"), since.isoformat())
    assert "/ops/deliveries" not in dict(asked)


def test_what_was_found_equal_is_not_looked_at_again_but_for_what_was_open_then(tmp_path: Path) -> None:
    assert last_clean(tmp_path) is None
    now = datetime.now(UTC)
    note_clean(tmp_path, now)
    assert last_clean(tmp_path) == now - OVERLAP
    (tmp_path / "verified.json").write_text("not ours")
    assert last_clean(tmp_path) is None


async def test_a_destination_that_was_deleted_is_said_and_the_rest_is_compared(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.endpoint_is_deleted, world.active, world.hospital = True, False, []
    world.line["state"] = "queued"

    found = await world.found()

    assert found.clean
    assert [hop.compared for hop in found.hops if "hospital" in hop.name] == [0, 0]
    show(found)
    said = " ".join(capsys.readouterr().out.split())
    assert "was deleted" in said
    world.digests["gateway"] = []
    world.versions["gateway"] = []
    assert ("intake → gateway", "missing") in faults(await world.found())


async def test_what_waits_for_a_destination_that_is_off_is_said_and_not_waited_for(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.active, world.line["state"] = False, "queued"

    async with Ops(PORTS, transport=httpx.MockTransport(world.answer)) as ops:
        assert (await ask(ops)).settled
    found = await world.found()

    assert found.clean
    show(found)
    assert "is off; 1 resources wait" in " ".join(capsys.readouterr().out.split())
    world.hospital_is_down = True
    assert (await world.found()).clean
    world.line["id"] = "b"
    assert ("gateway → delivery", "missing") in faults(await world.found())


async def test_a_destination_that_should_answer_and_does_not_is_named_and_not_clean(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.hospital_is_down = True

    found = await world.found()

    assert not found.clean
    assert not found.differences
    show(found)
    said = capsys.readouterr()
    assert "delivery → hospital could not be compared" in " ".join(said.err.split())
    assert "Nothing is missing" not in said.out


async def test_a_source_that_nobody_takes_in_is_waited_for_and_said(world: World) -> None:
    world.lag["scheduling"] = None
    async with Ops(PORTS, transport=httpx.MockTransport(world.answer)) as ops:
        assert not (await ask(ops)).settled
    assert (await world.found()).clean  # all that there is has arrived


def test_an_endpoint_that_names_no_types_gets_all_that_are_pushed() -> None:
    assert "MedicationAdministration" in pushed_to({"resourceType": "Endpoint"})
