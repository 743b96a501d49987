"""Each shape of search is led by the index that was made for it: a loaded table, and PostgreSQL's word on its plan."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from shared.fhir.definitions import parameter_id, type_id
from shared.fhir.query import parse_search
from shared.fhir.search import Include
from shared.store.access import Access, Disclosure
from shared.store.connection import Connection, open_connection
from shared.store.includes import _step
from shared.store.search import count, page

ALL = Access.unrestricted()
HOSPITAL = replace(ALL, disclosure=Disclosure(frozenset(("Organization/h1",)), frozenset(("TREAT",))))
"""Somebody outside, who is told what patients' consents permit."""

PATIENT = "00000000-0000-7000-8000-000000000042"
PATIENTS = 200
OF = f"('00000000-0000-7000-8000-' || lpad((n % {PATIENTS})::text, 12, '0'))"

LOAD = f"""
INSERT INTO tenant (name) VALUES ('default');
INSERT INTO resource (tenant, type, id, version, last_updated, deleted, origin, patient, labels)
SELECT 1, {type_id("Patient")}, {OF}, 1, '2026-01-01Z', false, 'intake', {OF}::uuid, '{{}}'
FROM generate_series(0, {PATIENTS - 1}) n;
INSERT INTO resource (tenant, type, id, version, last_updated, deleted, origin, patient, labels)
SELECT 1, {type_id("Observation")}, 'o' || n, 1, '2026-01-01Z'::timestamptz + n * interval '1 second', false, 'intake',
       {OF}::uuid, '{{}}'
FROM generate_series(1, $ROWS) n;
INSERT INTO resource (tenant, type, id, version, last_updated, deleted, origin, patient, labels)
SELECT 1, {type_id("Provenance")}, 'p' || n, 1, '2026-01-01Z', false, 'intake', NULL, '{{}}'
FROM generate_series(1, $ROWS / 10) n;
INSERT INTO history (rid, version, last_updated, interaction, origin, key, labels, body)
SELECT rid, 1, last_updated, 'create', origin, 'key', '{{}}', '\\x7b7d' FROM resource;
INSERT INTO idx_token (tenant, type, param, edge, patient, rid, system, code)
SELECT 1, type, {parameter_id("code")}, 3, patient, rid, 'http://loinc.org',
       'c' || CASE WHEN rid % 10 < 3 THEN 0 ELSE rid % 100 END FROM resource WHERE type = {type_id("Observation")};
INSERT INTO idx_token (tenant, type, param, edge, patient, rid, system, code)
SELECT 1, type, {parameter_id("category")}, 3, patient, rid, 'c',
       CASE WHEN rid % 3 = 0 THEN 'vital-signs' ELSE 'survey' END FROM resource WHERE type = {type_id("Observation")};
INSERT INTO idx_token (tenant, type, param, edge, patient, rid, system, code)
SELECT 1, type, {parameter_id("status")}, 3, patient, rid, '', CASE WHEN rid % 500 = 7 THEN 'cancelled' ELSE 'final' END
FROM resource WHERE type = {type_id("Observation")};
INSERT INTO idx_token (tenant, type, param, edge, patient, rid, system, code)
SELECT 1, type, {parameter_id("gender")}, 3, patient, rid, '', CASE WHEN rid % 2 = 0 THEN 'female' ELSE 'male' END
FROM resource WHERE type = {type_id("Patient")};
INSERT INTO idx_string (tenant, type, param, edge, patient, rid, value, exact)
SELECT 1, type, {parameter_id("family")}, 3, patient, rid, 'name' || rid, 'Name' || rid
FROM resource WHERE type = {type_id("Patient")};
INSERT INTO idx_reference (tenant, type, param, edge, patient, rid, target)
SELECT 1, type, p, 3, patient, rid, 'Patient/' || patient
FROM resource, (VALUES ({parameter_id("patient")}), ({parameter_id("subject")})) v(p)
WHERE type = {type_id("Observation")};
INSERT INTO idx_reference (tenant, type, param, edge, patient, rid, target)
SELECT 1, type, {parameter_id("target")}, 3, NULL, rid, 'Observation/o' || substr(id, 2)
FROM resource WHERE type = {type_id("Provenance")};
INSERT INTO idx_reference (tenant, type, param, edge, patient, rid, target)
SELECT 1, type, {parameter_id("encounter")}, 3, patient, rid, 'Encounter/e' || rid / 20
FROM resource WHERE type = {type_id("Observation")};
INSERT INTO idx_token (tenant, type, param, edge, patient, rid, system, code)
SELECT 1, type, {parameter_id("identifier")}, 3, patient, rid, 'urn:s', id
FROM resource WHERE type = {type_id("Observation")};
INSERT INTO idx_date (tenant, type, param, edge, patient, rid, low, high)
SELECT 1, type, {parameter_id("date")}, 3, patient, rid, low, low + interval '1 second'
FROM (SELECT *, '2020-01-01Z'::timestamptz + (rid * 7919 % $ROWS) * interval '2 hours' AS low
      FROM resource WHERE type = {type_id("Observation")}) r;
INSERT INTO consent_rule (tenant, patient, consent, weight, part_2, purposes)
SELECT 1, CASE WHEN n <= {PATIENTS} THEN {OF}::uuid ELSE gen_random_uuid() END, n, 2, false, '{{TREAT}}'
FROM generate_series(1, {PATIENTS} + $ROWS / 10) n;
VACUUM ANALYZE
"""
"""What the write functions would leave of that many observations of 200 patients, and of provenances of some."""


@pytest.fixture(
    scope="module",
    params=[20_000, pytest.param(200_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
    ids=lambda rows: f"{rows} observations",
)
def rows(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def loaded_address(postgres, rows: int) -> str:
    return postgres.make_database("plans")


@pytest.fixture
async def loaded(loaded_address: str, rows: int):
    connection = await open_connection(loaded_address, application="test", statement_timeout=600)
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM tenant)"):
        for statement in LOAD.replace("$ROWS", str(rows)).split(";"):
            await connection.execute(statement, timeout=600)
    yield connection
    await connection.close()


async def plan_of(
    connection: Connection,
    *pairs: tuple[str, str],
    type_: str = "Observation",
    counted: bool = False,
    access: Access = ALL,
) -> str:
    query = parse_search(type_, pairs, strict=True)
    statement = count(query, access, 1) if counted else page(query, access, 1, None)
    await connection.plan(statement.plan)
    how = "ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF"
    rows = await connection.fetch(f"EXPLAIN ({how}) {statement.sql}", *statement.arguments)
    return "\n".join(row[0] for row in rows)


def rows_read(plan: str) -> float:
    """Return the most rows that any part of a plan put out, over all its rounds."""
    counted = re.findall(r"actual rows=([0-9.]+) loops=([0-9]+)", plan)
    assert counted
    return max(float(number) * int(loops) for number, loops in counted)


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
@pytest.mark.parametrize("access", [ALL, HOSPITAL], ids=["of the clinic", "by consent"])
async def test_a_search_is_led_by_its_index(loaded: Connection, pairs, index, access):
    plan = await plan_of(loaded, *pairs, access=access)
    assert index in plan, plan
    assert not [line for line in plan.splitlines() if "Seq Scan" in line and "never executed" not in line], plan


@pytest.mark.parametrize(
    ("pairs", "index"),
    [
        ([("identifier", "urn:s|o7")], "idx_token_value"),
        ([("encounter", "Encounter/e7"), ("code", "c0,c1,c2"), ("status", "final")], "idx_reference_value"),
        (
            [("encounter", "Encounter/e7"), ("code", "c0"), ("date", "ge2020-01-01"), ("date", "lt2025-01-01")],
            "idx_reference_value",
        ),
    ],
)
async def test_what_finds_few_whatever_its_value_is_planned_once_and_led_by_it(loaded: Connection, pairs, index):
    statement = page(parse_search("Observation", pairs, strict=True), ALL, 1, None)
    assert statement.plan == "force_generic_plan"
    await loaded.plan(statement.plan)
    await loaded.execute(f"PREPARE search AS {statement.sql}")
    nothing = ", ".join(["NULL"] * len(statement.arguments))  # the plan is made without a look at them
    plan = "\n".join(row[0] for row in await loaded.fetch(f"EXPLAIN (COSTS OFF) EXECUTE search({nothing})"))
    await loaded.execute("DEALLOCATE search")
    assert index in plan, plan
    assert "Seq Scan" not in plan, plan


@pytest.mark.parametrize(
    ("type_", "pairs"),
    [
        ("Observation", [("code", "c0"), ("_sort", "-date")]),
        ("Observation", [("patient.gender", "male")]),
        ("Observation", [("patient.gender", "male"), ("code", "c0")]),
        ("Observation", [("patient.gender", "male"), ("_sort", "-date")]),
        ("Observation", [("code", "c0"), ("category", "vital-signs")]),
        ("Observation", [("code", "c0"), ("_sort", "-_lastUpdated")]),
        ("Observation", [("code:not", "c0")]),
        ("Observation", [("code:not", "c0"), ("_sort", "-date")]),
        ("Observation", [("value-quantity:missing", "true")]),
        ("Observation", [("patient.gender:not", "male")]),
        ("Patient", [("_has:Observation:patient:code", "c0")]),
        ("Patient", [("_has:Observation:patient:status", "final")]),
        ("Patient", [("_has:Observation:patient:status:not", "cancelled")]),
    ],
)
async def test_where_much_matches_no_more_is_read_than_a_page_needs(loaded: Connection, rows: int, type_: str, pairs):
    """PostgreSQL walks an index in the order of the page and stops, instead of joining and sorting all that match."""
    plan = await plan_of(loaded, *pairs, ("_count", "20"), type_=type_)
    assert rows_read(plan) < rows / 20, plan


@pytest.mark.parametrize(
    ("type_", "pairs", "index"),
    [
        ("Observation", [("patient.family", "name7")], "idx_string_value"),
        ("Patient", [("_has:Observation:patient:status", "cancelled")], "idx_token"),
        ("Observation", [("_has:Provenance:target:_id", "p7")], "resource_tenant_type_id_key"),
    ],
)
async def test_what_leads_elsewhere_is_led_by_what_is_rare(loaded: Connection, type_: str, pairs, index: str):
    plan = await plan_of(loaded, *pairs, type_=type_)
    assert index in plan, plan


@pytest.mark.parametrize(
    "pairs",
    [
        [("code", "c0")],
        [("code", "c0"), ("category", "vital-signs")],
        [("code", "c0"), ("category", "vital-signs"), ("date", "2021-03")],
        [("code", "c0"), ("category:not", "vital-signs")],
        [("date", "ge2021-03-01"), ("date", "lt2021-03-03")],
        [("date", "ge2021-03-01"), ("date", "lt2021-03-10"), ("category:not", "vital-signs")],
    ],
)
async def test_where_all_is_seen_index_rows_alone_are_counted(loaded: Connection, pairs):
    plan = await plan_of(loaded, *pairs, counted=True)
    assert " resource" not in plan, plan
    assert "Seq Scan" not in plan, plan
    query = parse_search("Observation", pairs, strict=True)
    seen = [count(query, access, 1) for access in (Access.unrestricted(), Access.unrestricted(origin="intake"))]
    counts = [await loaded.fetchval(one.sql, *one.arguments) for one in seen]
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    "pairs", [[("code:not", "c0")], [("value-quantity:missing", "true")], [("patient.gender", "male")]]
)
async def test_what_is_not_or_leads_elsewhere_is_counted_without_a_look_at_each_resource(
    loaded: Connection, rows: int, pairs
):
    """All less what is, and the references to what is found: each by its index, none joined to the resources' rows."""
    plan = await plan_of(loaded, *pairs, type_="Observation", counted=True)
    assert "Join" not in plan or "idx_reference_value" in plan, plan
    assert "SubPlan" not in plan, plan
    query = parse_search("Observation", pairs, strict=True)
    counting = count(query, Access.unrestricted(), 1)
    found = page(replace(query, count=rows), Access.unrestricted(), 1, None)
    everyone = await loaded.fetch(found.sql, *found.arguments)
    assert await loaded.fetchval(counting.sql, *counting.arguments) == len(everyone) > 0


@pytest.mark.parametrize(
    ("include", "index"),
    [
        (Include("Observation", "subject", None), "idx_reference_of"),
        (Include("Provenance", "target", None, reverse=True), "idx_reference_value"),
        (Include(None, None, None, reverse=True), "idx_reference_value"),
    ],
)
async def test_what_comes_along_is_found_by_its_index(loaded: Connection, include: Include, index: str):
    matches = await loaded.fetch(
        "SELECT rid, type, id FROM resource WHERE type = $1 ORDER BY rid LIMIT 50", type_id("Observation")
    )
    sql, arguments = _step(Access.unrestricted(), 1, [include], matches, {row["rid"] for row in matches}, 1001)
    await loaded.plan("force_custom_plan")
    how = "ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF"
    plan = "\n".join(row[0] for row in await loaded.fetch(f"EXPLAIN ({how}) {sql}", *arguments))
    assert index in plan, plan
    assert not [line for line in plan.splitlines() if "Seq Scan" in line and "resource_type" not in line], plan
