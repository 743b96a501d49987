"""The audit: who did, read, was told or was refused what, before the answer left."""

from __future__ import annotations

from base64 import b64decode

from shared.fhir.json import parse
from shared.fhir.outcome import Unavailable
from shared.fhir.validation import validate
from shared.store.access import Access
from shared.store.audit import Audit, Row, now
from shared.store.types import Write
from tests.integration.security.clinic import BASE
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
    reader = Audit(store.audit._clinics, "intake")
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
    nurse, operator = await clinic.token("monitor-nurse"), await clinic.token(scope="kap/operate")
    for token, status, outcome in ((nurse, 403, 4), (operator, 200, 0)):
        answer = await clinic.http.post(intake, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status, answer.text
        row = (await rows(clinic, "intake"))[-1]
        assert (row.kind, row.does, row.outcome) == ("operate", "/ops/replay", outcome)


async def test_what_an_operator_looks_at_is_in_the_audit_of_the_clinic_he_asks_about(clinic):
    operator = {"Authorization": f"Bearer {await clinic.token(scope='kap/operate')}"}
    before = len(await rows(clinic, "intake"))
    for path in ("versions?type=Patient", "disclosable?type=Patient&clinic=north", "parked", "digest", "flow"):
        answer = await clinic.http.get(f"http://intake/ops/{path}", headers=operator)
        assert answer.status_code == 200, answer.text
    told = [(row.does, row.action, row.tenant) for row in (await rows(clinic, "intake"))[before:]]
    assert told == [
        ("/ops/versions", "R", "default"), ("/ops/disclosable", "R", "north"), ("/ops/parked", "R", "default"),
    ]  # fmt: skip
    answer = await clinic.http.get("http://intake/ops/disclosable?type=Patient&clinic=*", headers=operator)
    assert answer.status_code == 400


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


def events(answer):
    assert answer.status_code == 200, answer.text
    found = parse(answer.content)
    return [entry["resource"] for entry in found.get("entry", [])], found


def named(event, type_):
    return [one["what"]["reference"] for one in event["entity"] if one["type"]["code"] == type_ and "what" in one]


async def test_auditevents_follow_basic_audit_log_patterns_and_are_found_by_patient_agent_date_and_action(clinic, two):
    ada, bob = two["ada"], two["bob"]
    nurse = await clinic.token("monitor-nurse", kap_user="Practitioner/n1")
    await clinic.send(nurse, "GET", f"Patient/{ada}", **{"X-Request-Id": "r-9"})
    await clinic.send(nurse, "GET", f"AllergyIntolerance?patient={ada}")
    await clinic.send(nurse, "GET", "Patient")
    await clinic.send(nurse, "POST", "Observation", reading(ada))
    await clinic.send(nurse, "POST", "Patient", ADA)
    auditor = await clinic.token("auditor", kap_user="Practitioner/a1")
    found, page = events(await clinic.send(auditor, "GET", f"AuditEvent?patient={ada}&agent=Practitioner/n1"))
    assert page["total"] == len(found) == 4
    kinds = [(one["action"], one["subtype"][0]["code"]) for one in found]
    assert kinds == [("C", "create"), ("E", "search-type"), ("E", "search-type"), ("R", "read")]
    for event in found:
        assert validate(event) == []
        assert named(event, "1") == [f"Patient/{ada}"]  # and not Bob, whom the list of patients named, too
    read = found[-1]
    assert read["subtype"][0]["code"] == "read"
    roles = {one["type"]["coding"][0]["code"]: one for one in read["agent"]}
    assert roles["110152"]["who"]["identifier"]["value"] == "operator"  # who receives what is read
    assert roles["110153"]["who"]["identifier"]["value"] == "gateway"
    assert roles["IRCP"]["who"] == {"reference": "Practitioner/n1"}
    assert roles["IRCP"]["role"][0]["coding"][0]["code"] == "monitor-nurse"
    assert read["entity"][-1]["what"]["identifier"]["value"] == "r-9"
    asked = [b64decode(one["query"]).decode() for event in found for one in event["entity"] if "query" in one]
    assert asked == [f"AllergyIntolerance?patient={ada}"]  # the list is not told: it was of others, too
    only, _ = events(await clinic.send(auditor, "GET", f"AuditEvent?patient={ada}&action=R&agent=Practitioner/n1"))
    assert len(only) == 1
    assert not events(await clinic.send(auditor, "GET", "AuditEvent?date=lt2020"))[0]
    refused, _ = events(await clinic.send(auditor, "GET", "AuditEvent?outcome=4"))
    assert [one["outcomeDesc"] for one in refused] == ["forbidden"]
    one = found[0]
    assert parse((await clinic.send(auditor, "GET", f"AuditEvent/{one['id']}")).content)["recorded"] == one["recorded"]
    pages, url = [], f"AuditEvent?patient={bob}&_count=1"
    while url:
        found, page = events(await clinic.send(auditor, "GET", url))
        pages += [event["id"] for event in found]
        url = next((link["url"].removeprefix(BASE + "/") for link in page["link"] if link["relation"] == "next"), None)
    assert len(set(pages)) == len(pages) > 2
    assert [await last(clinic)][0].does == "search-type"  # who looked at the audit is in it
    assert [await last(clinic)][0].kind == "audit"


async def test_the_audit_is_for_auditors_and_for_patients_what_is_their_own_and_nobody_writes_it(clinic, two):
    ada, bob = two["ada"], two["bob"]
    nurse = await clinic.token("monitor-nurse", kap_user="Practitioner/n1")
    await clinic.send(nurse, "GET", f"Patient/{ada}")
    await clinic.send(nurse, "GET", f"Patient/{bob}")
    await clinic.send(nurse, "GET", "Patient?birthdate=1990-01-01")
    hers = await clinic.token("patient", kap_user=f"Patient/{ada}", kap_patient=ada)
    found, _ = events(await clinic.send(hers, "GET", "AuditEvent?action=R,E&agent=Practitioner/n1"))
    assert len(found) == 2
    assert all(named(event, "1") == [f"Patient/{ada}"] for event in found)
    assert bob not in str(found)
    assert not events(await clinic.send(hers, "GET", f"AuditEvent?patient={bob}"))[0]
    of_bob = events(await clinic.send(await clinic.token("auditor"), "GET", f"AuditEvent?patient={bob}&action=R"))[0]
    assert (await clinic.send(hers, "GET", f"AuditEvent/{of_bob[0]['id']}")).status_code == 404
    for role in ("clinic-admin", "prescriber", "monitor-nurse", "front-desk"):
        answer = await clinic.send(await clinic.token(role, kap_user="Practitioner/x"), "GET", "AuditEvent")
        assert answer.status_code == 403, role
    assert (await clinic.send(None, "GET", "AuditEvent")).status_code == 401
    event, some = of_bob[0], of_bob[0]["id"]
    for role in ("clinic-admin", "auditor"):
        token = await clinic.token(role)
        for method, path, body in (
            ("POST", "AuditEvent", event),
            ("PUT", f"AuditEvent/{some}", event),
            ("DELETE", f"AuditEvent/{some}", None),
            ("PATCH", f"AuditEvent/{some}", [{"op": "remove", "path": "/agent"}]),
            ("DELETE", f"AuditEvent?patient={bob}", None),
        ):
            for host in ("gateway", "intake"):
                assert (await clinic.send(token, method, path, body, host=host)).status_code == 405, (method, path)
        entry = {"resource": event, "request": {"method": "POST", "url": "AuditEvent"}}
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
        assert (await clinic.send(token, "POST", "", bundle)).status_code in {400, 403, 405}


async def test_each_token_that_is_given_or_refused_is_in_the_audit_and_none_can_be_read_there(clinic):
    token = await clinic.token("monitor-nurse", kap_user="Practitioner/n1")
    row = (await rows(clinic, "identity"))[-1]
    assert (row.kind, row.does, row.outcome) == ("token", "/auth/token", 0)
    assert (row.client, row.user, row.role) == ("operator", "Practitioner/n1", "monitor-nurse")
    answer = await clinic.asked("token", "operator", clinic.operator, assertion="eyJhbGciOiJub25lIn0.e30.e30")
    assert answer.status_code == 401
    row = (await rows(clinic, "identity"))[-1]
    assert (row.kind, row.outcome, row.reason) == ("token", 4, "invalid_client")
    bodies = b"".join(held.body for held in await clinic.stores["identity"].audit.rows())
    assert token.encode() not in bodies
    assert b"eyJ" not in bodies


async def test_who_asks_the_gateway_is_told_of_what_was_done_at_every_service(clinic, two):
    ada, bob = two["ada"], two["bob"]
    nurse = await clinic.token("monitor-nurse", kap_user="Practitioner/n1")
    assert (await clinic.send(nurse, "POST", "Observation", reading(ada))).status_code == 201  # goes through to intake
    for host in ("gateway", "intake", "gateway", "intake"):  # and around the gateway
        assert (await clinic.send(nurse, "GET", f"Patient/{ada}", host=host)).status_code == 200
        assert (await clinic.send(nurse, "GET", f"Patient/{bob}", host=host)).status_code == 200
    await clinic.stores["intake"].audit.seal()
    await clinic.stores["gateway"].audit.seal()
    hers = await clinic.token("patient", kap_patient=ada)
    auditor = await clinic.token("auditor", kap_user="Practitioner/aud")
    for token in (hers, auditor):
        found, page = events(await clinic.send(token, "GET", f"AuditEvent?patient={ada}&agent=Practitioner/n1"))
        reads = [one["id"].partition("-")[0] for one in found if one["action"] == "R"]
        assert reads == ["intake", "gateway", "intake", "gateway"]  # the newest first, whoever did it
        assert [one["recorded"] for one in found] == sorted((one["recorded"] for one in found), reverse=True)
        assert {one["id"].partition("-")[0] for one in found if one["action"] == "C"} == {"intake", "gateway"}
        assert page["total"] == len(found) == 6
        paged, url = [], f"AuditEvent?patient={ada}&agent=Practitioner/n1&_count=1"
        while url is not None:  # each page adds rows to the audits, of others
            answer = await clinic.send(token, "GET", url)
            entries, page = events(answer)
            paged += entries
            url = next((one["url"].split("/fhir/")[1] for one in page["link"] if one["relation"] == "next"), None)
        assert [one["id"] for one in paged] == [one["id"] for one in found]
        for one in found:
            assert (await clinic.send(token, "GET", f"AuditEvent/{one['id']}")).status_code == 200
    of_bob = events(await clinic.send(auditor, "GET", f"AuditEvent?patient={bob}&agent=Practitioner/n1"))[0]
    for one in of_bob:
        assert (await clinic.send(hers, "GET", f"AuditEvent/{one['id']}")).status_code == 404
    assert not events(await clinic.send(hers, "GET", f"AuditEvent?patient={bob}"))[0]
    nobody = "AuditEvent/nowhere-1"
    assert (await clinic.send(auditor, "GET", nobody)).status_code == 404
    intake = clinic.wire.apps.pop("intake")
    answer = await clinic.send(auditor, "GET", f"AuditEvent?patient={ada}")
    assert answer.status_code == 503  # an audit with a hole in it is none
    assert "intake" in parse(answer.content)["issue"][0]["diagnostics"]
    clinic.wire.apps["intake"] = intake
