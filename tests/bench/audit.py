"""What the audit costs a read, a search and a create, alone and 16 at once: `python -m tests.bench.audit [REQUESTS]`.

One service over HTTP in this process, on a PostgreSQL of its own that is durable (an fsync a commit): with its audit,
and without. A read waits for its row's commit, which those that run at once share; a create takes its row in the
statement that it commits with. Prints milliseconds a request and the ratio, rounds of both by turns; judges nothing.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
from pydantic import SecretStr

from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.local.postgres import PostgresCluster
from shared.runtime.logging import set_up_logging
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.security.audit import Auditing
from shared.store.migrate import migrate
from shared.store.store import Store

ROUNDS = 5
AT_ONCE = 16
PATIENT = {"resourceType": "Patient", "name": [{"family": "Lovelace"}], "birthDate": "1990-01-01"}
NO_ROWS_OF_CHANGES = """
CREATE FUNCTION no_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER no_row BEFORE INSERT ON audit_pending FOR EACH ROW EXECUTE FUNCTION no_row();
"""
"""Without the audit: what a change adds to it is dropped before it is written."""

Ask = Callable[[httpx.AsyncClient, str], Awaitable[httpx.Response]]


async def read(http: httpx.AsyncClient, id_: str) -> httpx.Response:
    """Read a Patient."""
    return await http.get(f"/fhir/Patient/{id_}")


async def search(http: httpx.AsyncClient, _id: str) -> httpx.Response:
    """Search for Patients: twenty of them."""
    return await http.get("/fhir/Patient?birthdate=1990-01-01&_count=20")


async def create(http: httpx.AsyncClient, _id: str) -> httpx.Response:
    """Create a Patient."""
    return await http.post("/fhir/Patient", json=PATIENT)


async def took(ask: Ask, http: httpx.AsyncClient, id_: str, count: int, at_once: int) -> float:
    """Return the milliseconds of one request, of `count` by `at_once` callers."""

    async def caller() -> None:
        for _ in range(max(1, count // at_once)):
            (await ask(http, id_)).raise_for_status()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return (time.perf_counter() - began) / (max(1, count // at_once) * at_once) * 1000


async def opened(stack: AsyncExitStack, dsn: str, *, audited: bool) -> tuple[httpx.AsyncClient, str]:
    """Return a client of a service with its audit or without, and a Patient's id there."""
    store = await Store.connect(dsn, service="intake", max_size=8)
    stack.push_async_callback(store.close)
    if not audited:
        async with store._clinics.acquire() as connection:
            await connection.execute(NO_ROWS_OF_CHANGES)
    service = Service("intake", "Intake", frozenset(("Patient",)))
    settings = Settings(service="intake", database_url=SecretStr("postgresql://x"), no_auth=True)
    auditing = Auditing(store.audit, "intake", "1") if audited else None
    app = create_fhir_app(service, LocalBackend(service, store), settings, auditing=auditing)
    transport = httpx.ASGITransport(app)
    http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://kap.example"))
    for _ in range(100):
        made = (await create(http, "")).raise_for_status().json()
    return http, made["id"]


async def measure(plain: str, audited: str, count: int) -> None:
    """Print a line for each way of asking."""
    async with AsyncExitStack() as stack:
        without = await opened(stack, plain, audited=False)
        with_ = await opened(stack, audited, audited=True)
        for ask in (read, search, create):
            for at_once in (1, AT_ONCE):
                found: dict[bool, list[float]] = {False: [], True: []}
                for _ in range(ROUNDS):
                    for is_audited, (http, id_) in ((False, without), (True, with_)):
                        found[is_audited].append(await took(ask, http, id_, count, at_once))
                least, most = statistics.median(found[False]), statistics.median(found[True])
                print(f"{ask.__name__}, {at_once:2} at once: without {least:.3f} ms, with the audit {most:.3f} ms "
                      f"({most / least:.2f}x, {most - least:+.3f} ms)")  # fmt: skip


def main() -> None:
    """Start a PostgreSQL, measure, and stop it."""
    set_up_logging("ERROR")
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory(prefix="kap-bench-", ignore_cleanup_errors=True) as folder:
        cluster = PostgresCluster(Path(folder) / "postgres", durable=True)
        cluster.start()
        try:
            plain, audited = (cluster.create_database(name) for name in ("plain", "audited"))
            for dsn in (plain, audited):
                asyncio.run(migrate(dsn))
            asyncio.run(measure(plain, audited, count))
        finally:
            cluster.stop(immediate=True)


if __name__ == "__main__":
    main()
