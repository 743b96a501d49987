from __future__ import annotations

from decimal import Decimal

import pytest

from shared.fhir.history import HistoryQuery
from shared.fhir.json import parse
from shared.fhir.outcome import Conflict, Forbidden, Gone, NotFound, PreconditionFailed
from shared.store.access import Access
from shared.store.store import Store
from shared.testing.writes import write_of

ALL = Access.unrestricted()


def patient(id_: str = "p1", **more):
    return {"resourceType": "Patient", "id": id_, **more}


def weight(id_: str, patient_id: str, value: str = "80.50", **more):
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
        "subject": {"reference": f"Patient/{patient_id}"},
        "valueQuantity": {"value": Decimal(value), "system": "http://unitsofmeasure.org", "code": "kg"},
        **more,
    }


async def test_what_is_written_is_read_back_to_the_digit(store: Store):
    written = await store.write(ALL, write_of(weight("o1", "p1", "80.50", meta={"source": "urn:a"})))
    read = await store.read(ALL, "Observation", "o1")
    assert read == written.stored
    assert (written.created, written.key, written.sequence) == (True, "Patient/p1", 1)
    assert read.body.startswith(b'{"resourceType":"Observation","id":"o1","meta":{"versionId":"1","lastUpdated":"')
    assert b'"source":"urn:a"},"status"' in read.body
    assert b'"value":80.50' in read.body


async def test_the_version_and_time_of_a_client_are_replaced_by_the_servers(store: Store):
    meta = {"versionId": "77", "lastUpdated": "2001-01-01T00:00:00Z"}
    written = await store.write(ALL, write_of(patient(meta=meta)))
    body = parse(written.stored.body)
    assert body["meta"]["versionId"] == "1"
    assert body["meta"]["lastUpdated"] > "2026"
    assert body["meta"]["lastUpdated"].endswith("Z")


async def test_each_version_has_a_later_time_and_stays_readable(store: Store):
    versions = [await store.write(ALL, write_of(patient(), "create"))]
    versions += [await store.write(ALL, write_of(patient(active=n % 2 == 0), "update")) for n in range(4)]
    times = [written.stored.last_updated for written in versions]
    assert times == sorted(set(times))
    assert [written.stored.version for written in versions] == [1, 2, 3, 4, 5]
    assert [written.created for written in versions] == [True, False, False, False, False]
    for written in versions:
        assert await store.read_version(ALL, "Patient", "p1", written.stored.version) == written.stored
    with pytest.raises(NotFound):
        await store.read_version(ALL, "Patient", "p1", 6)
    with pytest.raises(NotFound):
        await store.read_version(ALL, "Patient", "p1", 10**12)


async def test_a_deleted_resource_is_gone_but_its_history_stays(store: Store):
    await store.write(ALL, write_of(patient()))
    deleted = await store.write(ALL, write_of(patient(), "delete"))
    with pytest.raises(Gone):
        await store.read(ALL, "Patient", "p1")
    with pytest.raises(Gone):
        await store.read_version(ALL, "Patient", "p1", 2)
    found = await store.find(ALL, "Patient", "p1")
    assert found == deleted.stored
    assert set(parse(deleted.stored.body)) == {"resourceType", "id", "meta"}
    page = await store.history(ALL, HistoryQuery("Patient", "p1"))
    assert [(entry.version, entry.interaction) for entry in page.entries] == [(2, "delete"), (1, "create")]
    with pytest.raises(Gone):
        await store.write(ALL, write_of(patient(), "delete"))
    back = await store.write(ALL, write_of(patient(), "update"))
    assert back.stored.version == 3
    assert (await store.read(ALL, "Patient", "p1")).version == 3


async def test_history_is_paged_newest_first(store: Store):
    await store.write(ALL, write_of(patient()))
    for _ in range(6):
        await store.write(ALL, write_of(patient(), "update"))
    seen, cursor = [], None
    while True:
        page = await store.history(ALL, HistoryQuery("Patient", "p1", count=3), cursor=cursor)
        seen.append([entry.version for entry in page.entries])
        cursor = page.next
        if cursor is None:
            break
    assert seen == [[7, 6, 5], [4, 3, 2], [1]]


async def test_what_was_never_there_is_not_found(store: Store):
    for call in (
        store.read(ALL, "Patient", "nobody"),
        store.history(ALL, HistoryQuery("Patient", "nobody")),
        store.read(Access.unrestricted("another clinic"), "Patient", "nobody"),
        store.read(ALL, "Nonsense", "x"),
        store.write(ALL, write_of(patient("nobody"), "delete")),
    ):
        with pytest.raises(NotFound):
            await call
    assert await store.find(ALL, "Patient", "nobody") is None


async def test_if_match_decides_which_of_two_writers_wins(store: Store):
    await store.write(ALL, write_of(patient()))
    await store.write(ALL, write_of(patient(), "update", expected=1))
    with pytest.raises(PreconditionFailed, match="current version is 2"):
        await store.write(ALL, write_of(patient(), "update", expected=1))
    with pytest.raises(PreconditionFailed):
        await store.write(ALL, write_of(patient(), "delete", expected=3))
    with pytest.raises(PreconditionFailed):
        await store.write(ALL, write_of(patient("new"), "update", expected=1))
    assert (await store.read(ALL, "Patient", "p1")).version == 2
    assert (await store.verify.outbox()).written == 2


async def test_a_create_of_a_taken_id_is_refused(store: Store):
    await store.write(ALL, write_of(patient()))
    with pytest.raises(Conflict):
        await store.write(ALL, write_of(patient()))


async def test_another_services_resource_cannot_be_written(make_database):
    address = make_database("two")
    intake = await Store.connect(address, service="intake")
    other = await Store.connect(address, service="sessions")
    try:
        await intake.write(ALL, write_of(patient()))
        with pytest.raises(Conflict, match="belongs to intake"):
            await other.write(ALL, write_of(patient(), "update"))
        with pytest.raises(NotFound):
            await other.read(Access.unrestricted(origin="sessions"), "Patient", "p1")
        assert (await other.read(ALL, "Patient", "p1")).origin == "intake"
    finally:
        await intake.close()
        await other.close()


async def test_one_clinic_never_sees_another(store: Store):
    elsewhere = Access.unrestricted("elsewhere")
    await store.write(ALL, write_of(patient(active=True)))
    await store.write(elsewhere, write_of(patient(active=False)))
    assert parse((await store.read(ALL, "Patient", "p1")).body)["active"] is True
    assert parse((await store.read(elsewhere, "Patient", "p1")).body)["active"] is False
    with pytest.raises(NotFound):
        await store.read(Access.unrestricted("a third"), "Patient", "p1")


async def test_a_hidden_label_hides_the_resource_its_history_and_its_deletion(store: Store):
    security = {"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "ETH"}]}
    without = Access(tenant="default", origin=None, patients=None, hidden_labels=frozenset({"ETH"}), grants=None)
    await store.write(ALL, write_of(weight("o1", "p1", "1.0", meta=security)))
    with pytest.raises(NotFound):
        await store.read(without, "Observation", "o1")
    with pytest.raises(NotFound):
        await store.history(without, HistoryQuery("Observation", "o1"))
    for whole in (HistoryQuery("Observation"), HistoryQuery()):
        assert (await store.history(without, whole)).entries == []
        assert [entry.id for entry in (await store.history(ALL, whole)).entries] == ["o1"]
    with pytest.raises(NotFound):
        await store.read_version(without, "Observation", "o1", 1)
    with pytest.raises(NotFound):
        await store.write(without, write_of(weight("o1", "p1"), "update"))
    with pytest.raises(Forbidden):
        await store.write(without, write_of(weight("o2", "p1", meta=security)))
    await store.write(ALL, write_of(weight("o1", "p1"), "delete"))
    with pytest.raises(NotFound):
        await store.read(without, "Observation", "o1")
    with pytest.raises(Gone):
        await store.read(ALL, "Observation", "o1")
    [event] = [event async for event in store.replay.events_since() if event.interaction == "delete"]
    assert event.labels == ("ETH",)


async def test_an_earlier_version_with_a_hidden_label_stays_hidden(store: Store):
    security = {"security": [{"code": "ETH"}]}
    without = Access(tenant="default", origin=None, patients=None, hidden_labels=frozenset({"ETH"}), grants=None)
    await store.write(ALL, write_of(weight("o1", "p1", meta=security)))
    await store.write(ALL, write_of(weight("o1", "p1"), "update"))
    assert [entry.version for entry in (await store.history(without, HistoryQuery("Observation", "o1"))).entries] == [2]
    with pytest.raises(NotFound):
        await store.read_version(without, "Observation", "o1", 1)


async def test_who_may_see_one_patient_sees_and_writes_no_other(store: Store):
    mine = Access(tenant="default", origin=None, patients=frozenset({"p1"}), hidden_labels=frozenset(), grants=None)
    await store.write(ALL, write_of(weight("o1", "p1")))
    await store.write(ALL, write_of(weight("o2", "p2")))
    assert (await store.read(mine, "Observation", "o1")).id == "o1"
    with pytest.raises(NotFound):
        await store.read(mine, "Observation", "o2")
    with pytest.raises(NotFound):
        await store.write(mine, write_of(weight("o2", "p2"), "update"))
    with pytest.raises(Forbidden):
        await store.write(mine, write_of(weight("o3", "p2")))
    await store.write(mine, write_of(weight("o4", "p1")))


async def test_a_store_that_does_not_publish_makes_no_events(make_database):
    hospital = await Store.connect(make_database("hospital"), service="hospital", publishes=False)
    try:
        written = await hospital.write(ALL, write_of(patient()))
        assert written.sequence == 0
        assert (await hospital.verify.outbox()).written == 0
        assert [event async for event in hospital.replay.events_since()] == []
    finally:
        await hospital.close()


async def test_what_fails_in_a_transaction_undoes_all_of_it(store: Store):
    async def write_and_fail() -> None:
        async with store.transaction(keys=["Patient/p1"], tenant="default") as transaction:
            await transaction.write(ALL, write_of(patient()))
            assert await transaction.find(ALL, "Patient", "p1") is not None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write_and_fail()
    assert await store.find(ALL, "Patient", "p1") is None
    assert (await store.verify.outbox()).written == 0


async def test_a_transaction_whose_statement_failed_never_passes_for_committed(store: Store):
    async def go_on_after_a_failure() -> None:
        async with store.transaction(keys=[], tenant="default") as transaction:
            with pytest.raises(NotFound):
                await transaction.write(ALL, write_of(patient(), "delete"))

    with pytest.raises(RuntimeError, match="rolled back"):
        await go_on_after_a_failure()


async def test_a_transaction_is_of_one_tenant(store: Store):
    with pytest.raises(ValueError, match="another"):
        async with store.transaction(keys=[], tenant="default") as transaction:
            await transaction.find(Access.unrestricted("elsewhere"), "Patient", "p1")


async def test_texts_too_long_for_an_index_are_stored_and_found(store: Store):
    from shared.fhir.query import parse_search

    long = "x" * 9000
    identifiers = [{"system": "urn:s", "value": long + "1"}, {"system": "urn:s", "value": long + "2"}]
    person = patient(identifier=identifiers, name=[{"family": long}])
    await store.write(ALL, write_of(person))
    await store.write(ALL, write_of({**person, "active": True}, "update"))
    for pairs, count in (
        ([("identifier", f"urn:s|{long}2")], 1),
        ([("identifier", f"urn:s|{long}3")], 0),
        ([("family", long)], 1),
        ([("family", long[:200])], 1),
        ([("family", long + "x")], 0),
        ([("family:exact", long)], 1),
        ([("family:contains", long[5:])], 1),
    ):
        page = await store.search(ALL, parse_search("Patient", pairs, strict=True))
        assert len(page.entries) == count, pairs[0][0]


KINDS = ("token", "string", "reference", "date", "number", "quantity", "uri")


async def rows_of(store: Store, id_: str) -> dict[tuple[str, str], str]:
    """Return every index row of a resource, as its content, with the transaction that wrote it."""
    found: dict[tuple[str, str], str] = {}
    async with store._clinics.acquire() as connection:
        for kind in KINDS:
            rows = await connection.fetch(
                f"SELECT t::text AS content, t.xmin::text AS writer FROM idx_{kind} t JOIN resource r USING (rid) "
                "WHERE r.id = $1",
                id_,
            )
            found |= {(kind, row["content"]): row["writer"] for row in rows}
    return found


async def test_an_update_touches_the_index_rows_that_changed_and_no_other(store: Store):
    first = weight("o1", "p1", "80.5", effectiveDateTime="2026-11-01", meta={"profile": ["urn:profile"]})
    await store.write(ALL, write_of(first))
    before = await rows_of(store, "o1")
    assert {kind for kind, _ in before} == {"token", "reference", "date", "quantity", "uri"}

    await store.write(ALL, write_of({**first, "note": [{"text": "cannot be searched for"}]}, "update"))
    assert await rows_of(store, "o1") == before

    await store.write(ALL, write_of({**first, "status": "amended"}, "update"))
    after = await rows_of(store, "o1")
    assert {kind for kind, _ in after.keys() ^ before.keys()} == {"token"}
    assert len(after.keys() - before.keys()) == len(before.keys() - after.keys()) == 1
    assert {row: after[row] for row in after.keys() & before.keys()} == {
        row: before[row] for row in after.keys() & before.keys()
    }


async def test_the_index_rows_of_a_resource_follow_it_to_another_patient(store: Store):
    await store.write(ALL, write_of(weight("o1", "p1")))
    before = await rows_of(store, "o1")
    await store.write(ALL, write_of(weight("o1", "p2"), "update"))
    after = await rows_of(store, "o1")
    assert not before.keys() & after.keys(), "every row bears the patient"
    assert len(after) == len(before)


async def test_a_change_leaves_the_last_update_out_of_every_index_row(store: Store):
    """ADR 3: what changes with every version stands on the resource's own row only."""
    async with store._clinics.acquire() as connection:
        columns = await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_name LIKE 'idx\\_%'"
        )
    assert {row["table_name"] for row in columns} == {f"idx_{kind}" for kind in KINDS}
    assert all(column in {row["column_name"] for row in columns} for column in ("tenant", "type", "param", "patient"))
    assert not {"last_updated", "version"} & {row["column_name"] for row in columns}
