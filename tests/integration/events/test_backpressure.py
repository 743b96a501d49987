"""What happens when something has no room, no time, or is away: writes go on, or are 503 and nothing is kept."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from shared.events.consumer import EventConsumer
from shared.events.kafka import KafkaConnection
from shared.events.producer import EventProducer
from shared.events.relay import Relay
from shared.events.shards import SHARDS
from shared.events.watermark import Watermark
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.local.postgres import PostgresCluster
from shared.runtime.knowledge import watch
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.store.access import Access
from shared.store.migrate import migrate
from shared.store.outbox import open_outbox
from shared.store.store import Store
from shared.testing.brokers import new_service
from shared.testing.events import MemoryInbox, eventually, running
from shared.testing.writes import write_of

ALL = Access.unrestricted()
INTAKE = Service("intake", "Intake", types=frozenset(("Patient",)), publishes=True)


@asynccontextmanager
async def served(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    address = SecretStr("postgresql://the-store-is-open")
    settings = Settings(service="intake", database_url=address, no_auth=True, port=0)
    app = create_fhir_app(INTAKE, LocalBackend(INTAKE, store), settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://intake.example") as http:
        yield http


def count_of_503() -> float:
    samples = [one for metric in REGISTRY.collect() for one in metric.samples if one.name == "kap_http_requests_total"]
    return sum(one.value for one in samples if one.labels["status"] == "503" and one.labels["service"] == "intake")


def assert_not_now(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["issue"][0]["diagnostics"]


# The database


async def opened(cluster: PostgresCluster) -> Store:
    dsn = await asyncio.to_thread(cluster.create_database, "kap_intake")
    await migrate(dsn)
    return await Store.connect(dsn, service="intake")


class Watching:
    """What a process does beside its relay and consumer: keeps the gauges of what it knows."""

    def __init__(self, service, store) -> None:
        self.service, self.store = service, store

    async def run(self) -> None:
        await watch(self.service, self.store, lambda: None)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[PostgresCluster]:
    made = PostgresCluster(tmp_path / "postgres")
    made.start()
    try:
        yield made
    finally:
        made.stop(immediate=True)


async def test_while_postgresql_fails_over_writes_are_503_and_afterwards_go_on_by_themselves(cluster):
    store = await opened(cluster)
    before = count_of_503()
    async with served(store) as http:
        made = (await http.post("/fhir/Patient", json={"resourceType": "Patient", "active": True})).json()
        await asyncio.to_thread(cluster.stop, immediate=True)
        for _ in range(3):
            assert_not_now(await http.post("/fhir/Patient", json={"resourceType": "Patient"}))
        assert_not_now(await http.get(f"/fhir/Patient/{made['id']}"))
        await asyncio.to_thread(cluster.start)
        answers = []
        async with asyncio.timeout(60):
            while not answers or answers[-1] != 201:
                answers.append((await http.post("/fhir/Patient", json={"resourceType": "Patient"})).status_code)
        assert set(answers) <= {201, 503}  # never 500
        found = (await http.get("/fhir/Patient?_summary=count")).json()
        assert found["total"] == 2
    await store.close()
    assert count_of_503() >= before + 4


@pytest.fixture
def small_disk(cluster: PostgresCluster, tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB for the server."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a small file system is mounted")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=0777", "tmpfs", str(disk)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        for folder in (tmp_path, *list(tmp_path.parents)[:2]):
            folder.chmod(folder.stat().st_mode | 0o055)
        (disk / "space").mkdir()
        cluster._give(disk / "space")  # to the user that the server runs as
        yield disk / "space"
    finally:
        cluster.stop(immediate=True)
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_a_full_disk_is_503_and_keeps_nothing_of_the_write_and_reads_go_on(cluster, small_disk):
    store = await opened(cluster)
    cluster.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
    cluster.execute("ALTER TABLE history SET TABLESPACE small", database="kap_intake")
    cluster.execute("ALTER TABLE history ALTER COLUMN body SET STORAGE EXTERNAL", database="kap_intake")
    before, made = count_of_503(), []
    async with served(store) as http:
        body = {"resourceType": "Patient", "photo": [{"contentType": "image/png", "data": "A" * 400_000}]}
        for _ in range(60):
            answer = await http.post("/fhir/Patient", json=body)
            if answer.status_code != 201:
                break
            made.append(answer.json()["id"])
        assert_not_now(answer)
        assert (await http.get(f"/fhir/Patient/{made[0]}")).status_code == 200
        assert (await http.get("/fhir/Patient?_summary=count")).json()["total"] == len(made)
        cluster.execute("ALTER TABLE history SET TABLESPACE pg_default", database="kap_intake")  # there is room again
        assert (await http.post("/fhir/Patient", json=body)).status_code == 201
        assert sum(one.versions for one in await store.verify.digest()) == len(made) + 1
        assert (await store.verify.outbox()).pending == len(made) + 1  # nothing is told that is not there
    await store.close()
    assert count_of_503() > before


# The broker


@pytest.mark.kafka
@pytest.mark.timeout(300)
async def test_a_broker_that_is_away_for_an_hour_stops_no_write_and_all_arrives_in_order(apache_kafka, database):
    apache_kafka.start()
    kafka = KafkaConnection(apache_kafka.bootstrap, "kap-test", request_seconds=3)
    source, inbox = new_service("intake"), MemoryInbox()
    store = await Store.connect(database, service=source)
    service = Service(source, "Intake", types=frozenset(("Patient",)), publishes=True)
    read: list[int] = []

    async def outbox():
        opened = await open_outbox(database, service=source)
        whole = opened.unpublished

        async def unpublished(limit: int, most_bytes: int):
            events = await whole(limit, most_bytes)
            read.append(len(events))
            return events

        opened.unpublished = unpublished
        return opened

    relay = Relay(outbox, EventProducer(kafka, service=source, stuck_after=4), service=source, longest_pause=0.5)
    consumer = EventConsumer(kafka, inbox, service=new_service(), sources=[source])

    def gauge(name: str) -> float:
        return REGISTRY.get_sample_value(name, {"service": source}) or 0

    async with running(relay, consumer, Watching(service, store)):
        await store.write(ALL, write_of({"resourceType": "Patient", "id": "p0"}, "create"))
        await eventually(lambda: len(inbox.applied) == 1, seconds=60)
        await asyncio.to_thread(apache_kafka.stop)
        for number in range(1, 1501):
            version = "create" if number <= 50 else "update"
            body = {"resourceType": "Patient", "id": f"q{number % 50}", "multipleBirthInteger": number}
            await store.write(ALL, write_of(body, version))  # never waits for Kafka
        async with store.transaction(keys=(), tenant="default") as transaction:  # an hour goes by
            await transaction.connection.execute(
                "UPDATE outbox SET created_at = created_at - interval '1 hour' WHERE published_at IS NULL"
            )
        await eventually(lambda: gauge("kap_outbox_oldest_seconds") > 3600, seconds=30)  # KapEventsNotPublished
        assert gauge("kap_outbox_pending_events") == 1500
        assert relay.progress_age_seconds() < 30
        await asyncio.to_thread(apache_kafka.start)
        await eventually(lambda: len(inbox.applied) == 1501, seconds=120)
        await eventually(lambda: gauge("kap_outbox_pending_events") == 0, seconds=30)
    assert max(read) <= relay.batch  # what waits is in the database, not in memory
    for number in range(50):
        sequences = inbox.applied_of(f"Patient/q{number}")
        assert sequences == sorted(sequences)
        assert len(sequences) == 30
    await store.close()


# The clock


async def heard(store: Store, until: datetime) -> float | None:
    await store.knowledge.hear("sessions", [Watermark("intake", shard, until) for shard in range(SHARDS)])
    return await age(store)


async def age(store: Store) -> float | None:
    [found] = await store.knowledge.by_source("sessions", ["intake"])
    return found.seconds


async def test_news_of_a_source_whose_clock_jumped_ahead_grows_old_all_the_same(database):
    store = await Store.connect(database, service="sessions")
    assert await heard(store, datetime.now(UTC) + timedelta(hours=1)) < 5
    await asyncio.sleep(1.2)
    assert 1 < await age(store) < 30  # and not young for an hour to come
    assert await heard(store, datetime.now(UTC)) < 1  # its clock was set right again
    await store.close()


async def test_after_the_clock_here_was_set_back_what_was_known_counts_as_old_until_there_is_other(database):
    store = await Store.connect(database, service="sessions")
    await heard(store, datetime.now(UTC))
    async with store.transaction(keys=(), tenant="default") as transaction:  # as after a jump back by an hour
        await transaction.connection.execute("UPDATE known_until SET until = until + interval '1 hour'")
    assert await age(store) > 3500
    assert await heard(store, datetime.now(UTC)) < 5
    await store.close()


async def test_after_the_clock_here_jumped_ahead_news_is_old_and_young_again_with_the_next(database):
    store = await Store.connect(database, service="sessions")
    await heard(store, datetime.now(UTC) - timedelta(hours=1))
    assert await age(store) > 3500
    assert await heard(store, datetime.now(UTC)) < 5
    await store.close()


def test_how_far_a_source_s_clock_is_ahead_is_shown():
    consumer = EventConsumer(KafkaConnection("127.0.0.1:1", "x"), MemoryInbox(), service="skewed", sources=["intake"])

    def ahead() -> float | None:
        return REGISTRY.get_sample_value("kap_source_clock_ahead_seconds", {"service": "skewed", "source": "intake"})

    consumer._hear(Watermark("intake", 1, datetime.now(UTC) + timedelta(seconds=90)))
    assert 80 < ahead() <= 90
    consumer._hear(Watermark("intake", 1, datetime.now(UTC) - timedelta(seconds=3)))
    assert ahead() == 0
