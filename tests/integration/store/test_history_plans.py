"""A page of a history reads a page: PostgreSQL's word on it, on a table of 40,000 versions."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from shared.fhir.definitions import type_id
from shared.fhir.history import HistoryQuery
from shared.store.access import Access
from shared.store.connection import Connection, open_connection
from shared.store.history import compiled, history

RESOURCES = 20_000
LOAD = f"""
INSERT INTO tenant (name) VALUES ('default');
INSERT INTO resource (tenant, type, id, version, last_updated, deleted, origin, patient, labels)
SELECT 1, CASE WHEN n % 1000 = 0 THEN {type_id("Goal")} ELSE {type_id("Observation")} END, 'o' || n, 2,
       '2026-01-01Z'::timestamptz + n * interval '1 minute', false, 'intake', null, '{{}}'
FROM generate_series(1, {RESOURCES}) n;
INSERT INTO history (rid, version, last_updated, interaction, origin, key, labels, body)
SELECT rid, version, last_updated - (2 - version) * interval '30 seconds',
       CASE version WHEN 1 THEN 'create' ELSE 'update' END, origin, 'Patient/x', '{{}}', '\\x7b7d'
FROM (SELECT rid, origin, last_updated, generate_series(1, 2) AS version FROM resource) versions;
VACUUM ANALYZE
"""
ALL = Access.unrestricted()
NOON = datetime(2026, 1, 8, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def loaded_address(postgres):
    return postgres.make_database("history_plans")


@pytest.fixture
async def loaded(loaded_address):
    connection = await open_connection(loaded_address, application="test")
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM tenant)"):
        for statement in LOAD.split(";"):
            await connection.execute(statement, timeout=60)
    yield connection
    await connection.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (HistoryQuery(), "history_by_time"),
        (HistoryQuery("Observation"), "history_by_"),
        (HistoryQuery("Goal", count=10), "history_by_type"),
        (HistoryQuery("Observation", since=NOON), "history_by_"),
        (HistoryQuery(at=(NOON, NOON)), "history_by_time"),
        (HistoryQuery("Observation", "o77"), "history_pkey"),
    ],
)
@pytest.mark.parametrize("later", [False, True], ids=["first page", "later page"])
async def test_a_page_of_a_history_reads_no_more_than_a_page(loaded: Connection, query, index, later):
    cursor = None
    if later and query.id is None:
        page = await history(loaded, ALL, 1, query, cursor=None)
        cursor = page.next
        assert cursor is not None
    sql, arguments = compiled(query, ALL, 1, cursor)
    rows = await loaded.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) {sql}", *arguments)
    plan = "\n".join(row[0] for row in rows)
    assert index in plan, plan
    assert "Seq Scan" not in plan, plan
    read = [float(rows) * int(loops) for rows, loops in re.findall(r"actual rows=([0-9.]+) loops=([0-9]+)", plan)]
    assert max(read) <= 200, plan
