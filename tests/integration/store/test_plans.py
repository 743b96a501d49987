"""Each shape of search is led by the index that was made for it: a loaded table, and PostgreSQL's word on its plan."""

from __future__ import annotations

import re

import pytest

from shared.fhir.definitions import parameter_id, type_id
from shared.fhir.query import parse_search
from shared.store.access import Access
from shared.store.connection import Connection, open_connection
from shared.store.search import page

PATIENT = "00000000-0000-7000-8000-000000000042"
ROWS = 20_000
LOAD = f"""
INSERT INTO tenant (name) VALUES ('default');
INSERT INTO resource (tenant, type, id, version, last_updated, deleted, origin, patient, labels)
SELECT 1, {type_id("Observation")}, 'o' || n, 1, '2026-01-01Z'::timestamptz + n * interval '1 second', false, 'intake',
       ('00000000-0000-7000-8000-' || lpad((n % 200)::text, 12, '0'))::uuid, '{{}}'
FROM generate_series(1, {ROWS}) n;
INSERT INTO history (rid, version, last_updated, interaction, origin, key, labels, body)
SELECT rid, 1, last_updated, 'create', origin, 'Patient/' || patient, '{{}}', '\\x7b7d' FROM resource;
INSERT INTO idx_token (tenant, type, param, edge, patient, rid, system, code)
SELECT 1, type, {parameter_id("code")}, 3, patient, rid, 'http://loinc.org',
       'c' || CASE WHEN rid % 10 < 3 THEN 0 ELSE rid % 100 END FROM resource;
INSERT INTO idx_token (tenant, type, param, edge, patient, rid, system, code)
SELECT 1, type, {parameter_id("status")}, 3, patient, rid, '', CASE WHEN rid % 500 = 7 THEN 'cancelled' ELSE 'final' END
FROM resource;
INSERT INTO idx_reference (tenant, type, param, edge, patient, rid, target)
SELECT 1, type, {parameter_id("patient")}, 3, patient, rid, 'Patient/' || patient FROM resource;
INSERT INTO idx_date (tenant, type, param, edge, patient, rid, low, high)
SELECT 1, type, {parameter_id("date")}, 3, patient, rid, low, low + interval '1 second'
FROM (SELECT *, '2020-01-01Z'::timestamptz + (rid * 7919 % {ROWS}) * interval '2 hours' AS low FROM resource) r;
VACUUM ANALYZE
"""


@pytest.fixture(scope="module")
def loaded_address(postgres):
    return postgres.make_database("plans")


@pytest.fixture
async def loaded(loaded_address):
    connection = await open_connection(loaded_address, application="test")
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM tenant)"):
        for statement in LOAD.split(";"):
            await connection.execute(statement, timeout=60)
    yield connection
    await connection.close()


async def plan_of(connection: Connection, *pairs: tuple[str, str]) -> str:
    statement = page(parse_search("Observation", pairs, strict=True), Access.unrestricted(), 1, None)
    await connection.plan(statement.plan)
    how = "ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF"
    rows = await connection.fetch(f"EXPLAIN ({how}) {statement.sql}", *statement.arguments)
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize(
    ("pairs", "index"),
    [
        ([("patient", PATIENT)], "idx_reference_value"),
        ([("patient", PATIENT), ("code", "c0"), ("_sort", "-date")], "_patient on"),
        ([("code", "http://loinc.org|c55")], "idx_token_value"),
        ([("code", "c0"), ("_sort", "-date")], "idx_date_low"),
        ([("_sort", "-date")], "idx_date_low"),
        ([("_sort", "-_lastUpdated")], "resource_by_time"),
        ([("status", "cancelled")], "idx_token_value"),
        ([("date", "ge2021-03-01"), ("date", "lt2021-03-03")], "idx_date_low"),
        ([("date", "2021-03-01")], "idx_date_low"),
        ([("_lastUpdated", "gt2026-01-01T05:33:00Z"), ("_sort", "_lastUpdated")], "resource_by_time"),
        ([("_id", "o5,o7")], "resource_tenant_type_id_key"),
    ],
)
async def test_a_search_is_led_by_its_index(loaded: Connection, pairs, index):
    plan = await plan_of(loaded, *pairs)
    assert index in plan, plan
    assert not [line for line in plan.splitlines() if "Seq Scan" in line and "never executed" not in line], plan


async def test_a_sort_reads_no_more_than_a_page_needs(loaded: Connection):
    """Dense matches, sorted: PostgreSQL walks the sort's index and stops, instead of sorting all that match."""
    plan = await plan_of(loaded, ("code", "c0"), ("_sort", "-date"))
    counted = re.findall(r"actual rows=([0-9.]+) loops=([0-9]+)", plan)
    assert counted
    assert max(float(rows) * int(loops) for rows, loops in counted) < ROWS / 20
