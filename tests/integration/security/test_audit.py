"""The audit: who did, read, was told or was refused what, before the answer left."""

from __future__ import annotations

from shared.fhir.outcome import Unavailable
from shared.store.access import Access
from shared.store.audit import Audit, Row, now
from shared.store.types import Write
from tests.integration.security.test_gate import ADA, BOB, allergy, reading, total, two

__all__ = ["two"]


def unrestricted():
    return Access.unrestricted(origin=None)


def a_write(type_, id_):
    return Write("create", type_, id_, {"resourceType": type_, "id": id_}, f"{type_}/{id_}", None)


def a_row(does, **said):
    parts = {"tenant": "default", "service": "intake", "kind": "rest", "action": "R", "outcome": 0, **said}
    return Row(at=now(), does=does, **parts)


async def rows(clinic, service="gateway", after=0):
    return [held.row for held in await clinic.stores[service].audit.rows(after)]


async def last(clinic, service="gateway"):
    await clinic.stores[service].audit.seal()
    return (await rows(clinic, service))[-1]


async def test_each_reading_is_in_the_audit_when_its_answer_arrives(clinic, two):
    nurse = await clinic.token("monitor-nurse", kap_user="Practitioner/n1")
    answer = await clinic.send(nurse, "GET", f"Patient/{two['ada']}", **{"X-Request-Id": "r-1"})
    assert answer.status_code == 200
    row = (await rows(clinic))[-1]
    assert (row.does, row.action, row.outcome, row.request) == ("read", "R", 0, "r-1")
    assert row.what == (f"Patient/{two['ada']}/_history/1",)
    assert row.patients == (two["ada"],)
    assert (row.role, row.user, row.policy) == ("monitor-nurse", "Practitioner/n1", "1")
    answer = await clinic.send(nurse, "GET", "AllergyIntolerance?code:text=latex&_sort=_id")
    assert total(answer) == 2
    row = (await rows(clinic))[-1]
    assert (row.does, row.action, set(row.patients)) == ("search-type", "E", {two["ada"], two["bob"]})
    assert row.query == "AllergyIntolerance?code:text=latex&_sort=_id"


async def test_a_change_and_its_row_are_committed_together(clinic, two):
    nurse = await clinic.token("monitor-nurse", kap_user="Practitioner/n1")
    answer = await clinic.send(nurse, "POST", "Observation", reading(two["ada"]), **{"X-Request-Id": "r-2"})
    assert answer.status_code == 201
    made = answer.json()["id"]
    for service in ("intake", "gateway"):  # who committed it, and what it came through
        row = await last(clinic, service)
        assert (row.does, row.action, row.outcome, row.request) == ("create", "C", 0, "r-2")
        assert row.what == (f"Observation/{made}/_history/1",)
        assert (row.patients, row.role) == ((two["ada"],), "monitor-nurse")
    store = clinic.stores["intake"]
    before = len(await rows(clinic, "intake"))
    try:
        async with store.transaction(keys=(), tenant="default") as transaction:
            await transaction.write(unrestricted(), a_write("Flag", "f1"))
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    await store.audit.seal()
    assert len(await rows(clinic, "intake")) == before  # nothing happened, and nothing says that it did
    await store.write(unrestricted(), a_write("Flag", "f1"))  # and then the process is gone: nothing seals it
    assert len(await rows(clinic, "intake")) == before
    reader = Audit(store.audit._pool, "intake")
    await reader.append(a_row("read"))
    found = await rows(clinic, "intake", before)
    assert [row.does for row in found] == ["create", "read"]
    assert (found[0].client, found[0].what) == (None, ("Flag/f1/_history/1",))  # the service, of itself


async def test_every_refusal_is_in_the_audit(clinic, two):
    desk = await clinic.token("front-desk", kap_user="Practitioner/d1")
    ada = two["ada"]
    for token, method, path, status, does in (
        (None, "GET", f"Patient/{ada}", 401, "read"),
        ("no.such.token", "GET", f"Patient/{ada}", 401, "read"),
        (desk, "GET", "Observation?patient=" + ada, 403, "search-type"),
        (desk, "GET", f"Condition/{ada}", 403, "read"),
        (desk, "PUT", f"Patient/{ada}", 400, "update"),
        (desk, "GET", "Patient/nobody", 404, "read"),
        (desk, "GET", "Patient?nonsense=1&access_token=eyJhbGciOiJub25lIn0.e30.", 400, "read"),
        (desk, "POST", "Patient/_search?x=1", 415, "create"),
    ):
        answer = await clinic.send(token, method, path)
        assert answer.status_code == status, answer.text
        row = (await rows(clinic))[-1]
        assert (row.does, row.outcome, row.status) == (does, 4, status)
        assert row.role == ("front-desk" if token is desk else None)
        if "Patient/" in path and "nobody" not in path and "_search" not in path:
            assert row.patients == (ada,)
    said = [row.query for row in await rows(clinic) if row.query and "nonsense" in row.query]
    assert said == ["Patient?nonsense=1&access_token=-"]


async def test_each_entry_of_a_batch_or_transaction_is_in_the_audit(clinic, two):
    admin = await clinic.token("clinic-admin")
    for kind in ("batch", "transaction"):
        before = len(await rows(clinic))
        bundle = {
            "resourceType": "Bundle",
            "type": kind,
            "entry": [
                {"request": {"method": "GET", "url": f"Patient/{two['ada']}"}},
                {"request": {"method": "GET", "url": f"AllergyIntolerance?patient={two['bob']}"}},
                {"request": {"method": "POST", "url": "AllergyIntolerance"}, "resource": allergy(two["bob"])},
            ],
        }
        if kind == "batch":
            bundle["entry"].append({"request": {"method": "GET", "url": "Patient/nobody"}})
        answer = await clinic.send(admin, "POST", "", bundle)
        assert answer.status_code == 200, answer.text
        told = [(row.does, row.outcome, row.patients) for row in await rows(clinic, after=before)]
        wanted = [("read", 0, (two["ada"],)), ("search-type", 0, (two["bob"],)), ("create", 0, (two["bob"],))]
        if kind == "batch":
            wanted.append(("read", 4, ("nobody",)))
        assert set(told) == set(wanted)  # the gateway looks twice for a GET of a transaction: before it, and after


async def test_what_an_operator_does_is_in_the_audit_before_it_is_done(clinic):
    intake = "http://intake/ops/replay?from=1"
    nurse, admin = await clinic.token("monitor-nurse"), await clinic.token("clinic-admin")
    for token, status, outcome in ((nurse, 403, 4), (admin, 200, 0)):
        answer = await clinic.http.post(intake, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status, answer.text
        row = (await rows(clinic, "intake"))[-1]
        assert (row.kind, row.does, row.outcome) == ("operate", "/ops/replay", outcome)


async def test_what_cannot_be_audited_is_not_told(clinic, two, monkeypatch):
    nurse = await clinic.token("monitor-nurse")

    async def full(*rows):
        raise Unavailable("The disk is full.")

    monkeypatch.setattr(clinic.stores["gateway"].audit, "append", full)
    for path in (f"Patient/{two['ada']}", "Patient", "_history", f"Patient/{two['ada']}/$everything"):
        answer = await clinic.send(nurse if "every" not in path else await clinic.token("clinic-admin"), "GET", path)
        assert answer.status_code == 503, path
        assert "Lovelace" not in answer.text
    # What happened is always recordable: its row is committed with it, at its owner.
    answer = await clinic.send(nurse, "POST", "Observation", reading(two["ada"]), host="intake")
    assert answer.status_code == 201


async def test_the_audit_holds_no_content_and_no_secret(clinic, two):
    admin = await clinic.token("clinic-admin")
    answer = await clinic.send(admin, "PUT", f"Patient/{two['ada']}", ADA | {"id": two["ada"], "gender": "unknown"})
    assert answer.status_code == 200, answer.text
    for service in ("gateway", "intake"):
        await clinic.stores[service].audit.seal()
        bodies = b"\n".join(held.body for held in await clinic.stores[service].audit.rows())
        assert b"update" in bodies
        for secret in (*ADA["name"][0].values(), BOB["name"][0]["family"], ADA["birthDate"], admin, "eyJ"):
            assert secret.encode() not in bodies, secret
