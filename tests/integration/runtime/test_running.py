"""A service's life: it starts without Kafka, says how it is, stops when told, refuses to start in plain sentences."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from services.run import main
from shared.local.postgres import binaries
from shared.runtime.app import App, Background
from shared.runtime.running import bring_up_to_date, opened, serve, tasks_running
from shared.runtime.service import Service
from shared.runtime.settings import Settings

ROOT = Path(__file__).parents[3]
NOBODY = "127.0.0.1:1"
PATIENT = {"resourceType": "Patient", "active": True}
SERVICE = Service(name="intake", title="Plain", types=frozenset(("Patient",)), consumes=("sessions",))


def app_on(database: str, **more) -> App:
    settings = Settings(
        service="intake",
        database_url=SecretStr(database),
        kafka_bootstrap=NOBODY,
        port=0,
        no_auth=True,
        stop_seconds=5,
        **more,
    )
    return App(SERVICE, settings)


@asynccontextmanager
async def client_of(app: App):
    async with (
        opened(app) as service,
        tasks_running(service),
        httpx.AsyncClient(transport=httpx.ASGITransport(service.asgi), base_url="http://kap.example") as http,
    ):
        yield http


def grow_old(database: str) -> None:
    subprocess.run(
        [
            binaries() / "psql",
            "-X",
            "-q",
            "-d",
            database,
            "-c",
            "UPDATE consumer_lag SET measured_at = now() - '2min'::interval",
        ],
        check=True,
    )


async def test_without_kafka_a_service_is_ready_alive_and_takes_writes(database):
    async with client_of(app_on(database)) as http:
        assert (await http.post("/fhir/Patient", json=PATIENT)).status_code == 201
        assert (await http.get("/readyz")).json() == {"service": "intake", "status": "ok"}
        alive = (await http.get("/livez")).json()
        tasks = {"relay", "replay", "consumer", "parked", "housekeeping", "knowledge", "labelling", "audit"}
        assert set(alive["tasks"]) == tasks
        flow = (await http.get("/ops/flow")).json()
        assert flow["outbox"]["written"] == flow["outbox"]["pending"] == 1
        metrics = (await http.get("/metrics")).text
    assert 'kap_http_requests_total{method="POST",route="/fhir/{type}",service="intake",status="201"}' in metrics


async def test_a_service_whose_partitions_nobody_takes_in_says_so_instead_of_a_lag_of_nothing(database):
    app = app_on(database)
    async with client_of(app) as http:
        flow = (await http.get("/ops/flow")).json()
    assert flow["lag"] is None
    assert [(one["source"], one["state"], one["events"]) for one in flow["sources"]] == [
        ("sessions", "not assigned", None)
    ]
    async with opened(app) as service:
        knowledge = service.parts.store.knowledge
        await knowledge.measured("intake", {("kap.sessions.v1", number): 2 for number in range(16)})
        transport = httpx.ASGITransport(service.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://kap.example") as http:
            flow = (await http.get("/ops/flow")).json()
            assert (flow["lag"], flow["sources"][0]["state"]) == (32, "taken in")
            await asyncio.to_thread(grow_old, database)
            flow = (await http.get("/ops/flow")).json()
    assert (flow["lag"], flow["sources"][0]["state"]) == (None, "not assigned")
    assert flow["sources"][0]["measured_seconds"] > 60


async def test_a_service_is_not_ready_without_its_database(database):
    app = app_on(database, roles=frozenset(("api",)))
    async with opened(app) as service:
        transport = httpx.ASGITransport(service.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://kap.example") as http:
            await service.parts.store.close()
            answer = await http.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["status"] == "failing"
            assert (await http.get("/livez")).status_code == 200
            refused = await http.get("/fhir/Patient/1")
            assert refused.status_code == 503
            assert refused.json()["issue"][0]["code"] == "transient"


async def test_a_task_that_makes_no_progress_makes_the_process_not_alive_and_one_that_fails_starts_again(database):
    starts, again = [], asyncio.Event()

    async def stuck(parts, beat):
        await asyncio.Event().wait()

    async def failing(parts, beat):
        starts.append(parts.service.name)
        if len(starts) == 1:
            raise RuntimeError("once")
        again.set()
        while True:
            beat()
            await asyncio.sleep(0.01)

    tasks = (Background("stuck", stuck, stalled_after=0.05), Background("failing", failing))
    async with client_of(replace(app_on(database), background=tasks)) as http:
        async with asyncio.timeout(5):
            await again.wait()
        await asyncio.sleep(0.1)
        answer = await http.get("/livez")
    assert answer.status_code == 503
    assert answer.json()["tasks"]["stuck"]["stalled"] is True
    assert answer.json()["tasks"]["failing"]["stalled"] is False


async def test_a_service_may_bring_its_own_backend_routes_and_what_must_be_closed(database):
    closed = []

    def backend(parts):  # gives none, so there are no FHIR routes
        parts.closing.callback(closed.append, "backend")

    def routes(parts):
        return [Route("/of-its-own", lambda request: PlainTextResponse(parts.service.name))]

    async with client_of(replace(app_on(database), backend=backend, routes=routes)) as http:
        assert (await http.get("/of-its-own")).text == "intake"
        assert (await http.get("/fhir/Patient")).status_code == 404
        assert closed == []
    assert closed == ["backend"]


async def test_a_worker_serves_no_fhir_and_an_api_runs_no_tasks(database):
    async with client_of(app_on(database, roles=frozenset(("worker",)))) as http:
        assert (await http.get("/fhir/Patient")).status_code == 404
        assert (await http.get("/livez")).json()["tasks"] != {}
    async with client_of(app_on(database, roles=frozenset(("api",)))) as http:
        assert (await http.get("/fhir/Patient")).status_code == 200
        assert (await http.get("/livez")).json()["tasks"].keys() == {"audit"}  # who answers, says whom


async def test_the_operators_routes_tell_what_is_held_and_what_is_parked(database):
    async with client_of(app_on(database)) as http:
        made = (await http.post("/fhir/Patient", json=PATIENT)).json()
        await http.put(f"/fhir/Patient/{made['id']}", json={**made, "active": False})
        (digest,) = (await http.get("/ops/digest")).json()["digest"]
        assert (digest["type"], digest["origin"], digest["versions"], digest["current"]) == ("Patient", "intake", 2, 1)
        versions = (await http.get("/ops/versions?type=Patient")).json()["versions"]
        assert [(one["id"], one["version"], len(one["content"])) for one in versions] == [
            (made["id"], 1, 64),
            (made["id"], 2, 64),
        ]
        assert (await http.get("/ops/versions?type=Goal")).json()["versions"] == []
        assert (await http.get("/ops/versions?type=Nonsense")).status_code == 400
        assert (await http.get("/ops/digest?since=2999-01-01T00:00:00Z")).json()["digest"] == []
        assert (await http.get("/ops/digest?since=soon")).status_code == 400
        assert (await http.get("/ops/parked")).json()["parked"] == []
        assert (await http.post("/ops/parked/1/retry")).status_code == 404
        assert (await http.post("/ops/parked/x/drop")).status_code == 404
        assert (await http.get("/ops/parked/1/drop")).status_code == 405


async def test_several_services_run_in_one_process_until_they_are_told_to_stop(make_database):
    apps = [app_on(make_database("one")), app_on(make_database("two"))]
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(apps, stop))
    await asyncio.sleep(1)
    assert not serving.done()
    stop.set()
    async with asyncio.timeout(10):
        await serving


async def test_an_empty_database_is_migrated_by_the_role_for_it(postgres):
    url = postgres.cluster.create_database(f"empty_{os.getpid()}")
    await bring_up_to_date(app_on(url))
    async with client_of(app_on(url)) as http:
        assert (await http.post("/fhir/Patient", json=PATIENT)).status_code == 201


# The process


def start(names: str, *, database: str, **more: str) -> subprocess.Popen:
    code = (
        "import sys; from services import run; "
        "run.MODULES = dict.fromkeys(run.MODULES, 'plain_service'); sys.exit(run.main(sys.argv[1:]))"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith("KAP_")}
    told = {
        "KAP_NO_AUTH": "true",
        "KAP_DATABASE_URL": database,
        "KAP_KAFKA_BOOTSTRAP": NOBODY,
        "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
        **more,
    }
    return subprocess.Popen([sys.executable, "-c", code, names], env=own | told, stderr=subprocess.PIPE, text=True)


def test_a_process_serves_until_sigterm_and_logs_no_patient(database, unused_port):
    process = start("intake", database=database, KAP_PORT=str(unused_port))
    base = f"http://127.0.0.1:{unused_port}"
    try:
        with httpx.Client(base_url=base, trust_env=False) as http:
            for _ in range(300):
                with suppress(httpx.TransportError):
                    if http.get("/readyz").status_code == 200:
                        break
                time.sleep(0.1)
            answer = http.post("/fhir/Patient", json={**PATIENT, "name": [{"family": "Featherstonehaugh"}]})
            assert answer.status_code == 201
            assert answer.headers["location"].startswith(f"{base}/fhir/Patient/")
            assert http.get("/fhir/Patient?family=Featherstonehaugh").json()["entry"]
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    entries = [json.loads(line) for line in said.splitlines()]
    events = [entry["event"] for entry in entries]
    assert "started" in events
    assert "stopping" in events
    assert "Featherstonehaugh" not in said
    assert answer.json()["id"] not in said


@pytest.mark.parametrize(
    ("names", "told", "sentence"),
    [
        ("intake", {"KAP_NO_AUTH": "false"}, "Set KAP_NO_AUTH=true"),
        ("intake,kitchen", {}, "There is no service 'kitchen'"),
        ("", {}, "There is no service ''"),
        ("intake", {"KAP_PORT": "high"}, "KAP_PORT"),
    ],
)
def test_a_process_refuses_to_start_in_a_sentence(monkeypatch, capsys, names, told, sentence):
    monkeypatch.setattr("services.run.MODULES", {"intake": "plain_service"})
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    own = {"KAP_NO_AUTH": "true", "KAP_DATABASE_URL": "postgresql://127.0.0.1:1/none", "KAP_SERVICE": ""}
    for name, value in (own | told).items():
        monkeypatch.setenv(name, value)
    assert main([names]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_a_migrating_process_ends_when_it_is_done_and_the_others_want_it_first(postgres):
    url = postgres.cluster.create_database(f"migrate_{os.getpid()}")
    for roles, code in (("api", 1), ("migrate", 0)):
        with start("intake", database=url, KAP_ROLES=roles) as process:
            _, said = process.communicate(timeout=60)
        assert process.returncode == code, said
        assert "Traceback" not in said
        assert ("lacks the migration" in said) is (roles == "api")


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]
