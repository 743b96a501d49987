"""A database of an older program becomes searchable by what a newer one indexes."""

from __future__ import annotations

from shared.fhir.query import parse_search
from shared.store.access import Access
from shared.store.connection import open_connection
from shared.store.reindex import BATCH, FORM, reindex
from shared.store.store import Store
from shared.testing.writes import write_of

ALL = Access.unrestricted()
KILOGRAM = {"value": 80, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"}
GRAMS = ("value-quantity", "80000|http://unitsofmeasure.org|g")


async def test_what_was_held_before_is_found_by_what_is_indexed_since(database: str, store: Store):
    number = BATCH + 3
    for one in range(number):
        resource = {"resourceType": "Observation", "id": f"o{one}", "status": "final", "valueQuantity": KILOGRAM}
        await store.write(ALL, write_of(resource))
    await store.write(ALL, write_of({"resourceType": "Observation", "id": "o0"}, "delete"))
    query = parse_search("Observation", [GRAMS, ("_total", "accurate")], strict=True)
    connection = await open_connection(database, application="test")
    try:
        rows = "SELECT count(*), sum(hashtext(t::text)) FROM idx_quantity t"
        before = await connection.fetchrow(rows)
        await connection.execute("DELETE FROM idx_quantity WHERE system = ''; UPDATE index_form SET form = 1")
        assert (await store.search(ALL, query)).total == 0
        assert await reindex(database) == number - 1
        assert await connection.fetchrow(rows) == before
        assert await connection.fetchval("SELECT form FROM index_form") == FORM
    finally:
        await connection.close()
    assert (await store.search(ALL, query)).total == number - 1
    assert await reindex(database) == 0
