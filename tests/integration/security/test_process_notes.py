"""Process notes: for their author and whom the patient authorised; nobody else learns of one, from anywhere."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from services.sessions.process_notes import PLACE, ProcessNotes
from services.sessions.sealing import Sealing
from services.sessions.service import sessions
from services.sessions.setting import Setting
from shared.events.envelope import Event
from shared.events.handler import Position
from shared.events.shards import SHARDS, shard_of
from shared.events.watermark import Watermark
from shared.fhir.dates import zulu
from shared.fhir.json import dump, parse
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.consume import ServiceEvents
from shared.runtime.policy import load_policy
from shared.security.bearer import bearer
from shared.security.caller import everybody
from shared.security.envelope import Keyring, new_key
from shared.store.access import DEFAULT_TENANT
from shared.store.migrate import migrate
from shared.store.notes import SCHEMA, NoteStore
from shared.store.store import Store
from tests.integration.security import consents as privacy
from tests.integration.security.clinic import BASE, ISSUER, ROLES, settings
from tests.unit.sessions.test_process_notes import consent, provision

POLICY = load_policy()
CANARY = "the-secret-of-the-canary"
NUMBERS = itertools.count(1)
THERAPIST, SUPERVISOR = "Practitioner/therapist", "Practitioner/supervisor"


def note(patient="ann", text=CANARY, **more):
    data = base64.b64encode(text.encode()).decode()
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"reference": f"Patient/{patient}"},
        "content": [{"attachment": {"contentType": "text/plain", "data": data}}],
        **more,
    }


@dataclass
class Bench:
    clinic: object
    store: Store
    notes: NoteStore
    dsn: str
    events: ServiceEvents
    sequence: int = 0

    async def hear(self, resource, *, version=1):
        """Take in what intake says."""
        type_, id_ = resource["resourceType"], resource["id"]
        key = f"Patient/{id_}" if type_ == "Patient" else resource["patient"]["reference"]
        now = datetime.now(UTC)
        self.sequence += 1
        kept = {**resource, "meta": {**resource.get("meta", {}), "versionId": str(version), "lastUpdated": zulu(now)}}
        event = Event(
            id=f"{type_}/{id_}/{version}",
            source="intake",
            interaction="create" if version == 1 else "update",
            type=type_,
            resource_id=id_,
            version=version,
            time=now,
            tenant=DEFAULT_TENANT,
            key=key,
            shard=shard_of(DEFAULT_TENANT, key),
            sequence=self.sequence,
            body=dump(kept),
        )
        await self.events.handle(event, Position("kap.intake.v1", event.shard, self.sequence))

    async def is_up_to(self, moment):
        await self.store.knowledge.hear("sessions", [Watermark("intake", shard, moment) for shard in range(SHARDS)])

    async def by(self, user, method, path, body=None, *, role="therapist", **headers):
        token = None if user is None else await self.clinic.token(role, kap_user=user)
        sent = {"Content-Type": "application/fhir+json", **headers}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        url = f"http://sessions{PLACE}/DocumentReference{path}"
        return await self.clinic.http.request(method, url, json=body, headers=sent)

    async def write(self, *, user=THERAPIST, **more):
        answer = await self.by(user, "POST", "", note(**more))
        assert answer.status_code == 201, answer.text
        return parse(answer.content)


@pytest_asyncio.fixture
async def bench(clinic, make_database, postgres):
    service = sessions(POLICY)
    store = await Store.connect(make_database("sessions"), service="sessions", max_size=4)
    name = f"notes_{next(NUMBERS)}"
    dsn = postgres.cluster.create_database(name, owner="kap_notes")
    await migrate(dsn, SCHEMA)
    notes = NoteStore(dsn)
    who, _ = bearer(ISSUER, [BASE], clinic.http, origin="sessions", roles=ROLES)
    key = new_key()
    vault = Sealing(notes, Keyring("one", {"one": key}))
    endpoint = ProcessNotes(service, store, vault, who, Setting.of(POLICY), f"http://sessions{PLACE}")
    clinic.wire.apps["sessions"] = create_fhir_app(
        service, LocalBackend(service, store), settings("sessions"), authenticate=who, before=[endpoint.routes()]
    )
    made = Bench(clinic, store, notes, dsn, ServiceEvents(service, store))
    for patient in ("ann", "bea"):
        await made.hear({"resourceType": "Patient", "id": patient})
    await made.is_up_to(datetime.now(UTC))
    yield made
    await notes.close()
    await store.close()
    postgres.cluster.drop_database(name)


def authorisation(*, patient="ann", **more):
    return consent(
        provision(who=(SUPERVISOR,)),
        id_=f"of-{patient}",
        patient={"reference": f"Patient/{patient}"},
        performer=[{"reference": f"Patient/{patient}"}],
        **more,
    )


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [one["resource"]["id"] for one in parse(answer.content).get("entry", []) if one["search"]["mode"] == "match"]


async def test_an_author_keeps_reads_and_amends_his_notes_and_no_version_is_lost(bench):
    made = await bench.write()
    assert made["author"] == [{"reference": THERAPIST}]
    assert [one["code"] for one in made["meta"]["security"]] == ["PSYTHPN", "R"]
    read = await bench.by(THERAPIST, "GET", f"/{made['id']}")
    assert (parse(read.content), read.headers["etag"], read.headers["cache-control"]) == (made, 'W/"1"', "no-store")
    changed = {**made, **note(text="no more than that"), "id": made["id"]}
    assert (await bench.by(THERAPIST, "PUT", f"/{made['id']}", changed)).status_code == 400
    assert (await bench.by(THERAPIST, "PUT", f"/{made['id']}", changed, **{"If-Match": 'W/"2"'})).status_code == 412
    answer = await bench.by(THERAPIST, "PUT", f"/{made['id']}", changed, **{"If-Match": 'W/"1"'})
    assert (answer.status_code, answer.headers["etag"]) == (200, 'W/"2"')
    history = parse((await bench.by(THERAPIST, "GET", f"/{made['id']}/_history")).content)
    assert [one["resource"]["meta"]["versionId"] for one in history["entry"]] == ["2", "1"]
    assert history["entry"][1]["resource"] == made


async def test_of_two_who_amend_at_once_one_is_told_to_read_again(bench):
    made = await bench.write()
    changes = [note(text=str(number), id=made["id"]) for number in range(8)]
    answers = await asyncio.gather(
        *(bench.by(THERAPIST, "PUT", f"/{made['id']}", one, **{"If-Match": 'W/"1"'}) for one in changes)
    )
    assert sorted(one.status_code for one in answers) == [200, *[412] * 7]


async def test_a_note_is_not_there_for_others_whether_it_is_there_or_not(bench):
    made = await bench.write()
    nowhere = "01a203d5-9dcb-75aa-9324-3a3d22239d05"
    for role in ("therapist", "prescriber", "clinic-admin"):
        there = await bench.by(SUPERVISOR, "GET", f"/{made['id']}", role=role)
        gone = await bench.by(SUPERVISOR, "GET", f"/{nowhere}", role=role)
        assert (there.status_code, there.content) == (gone.status_code, gone.content)
        assert there.status_code == (404 if role == "therapist" else 403)
    assert ids(await bench.by(SUPERVISOR, "GET", "?patient=ann")) == []
    for method, body in (("PUT", note(id=made["id"])), ("GET", None)):
        path = f"/{made['id']}" if method == "PUT" else f"/{made['id']}/_history"
        answer = await bench.by(SUPERVISOR, method, path, body, **{"If-Match": 'W/"1"'})
        assert answer.status_code == 404, answer.text
    assert CANARY not in str(await bench.notes.accesses(DEFAULT_TENANT, "ann"))


async def test_without_a_token_or_of_nobody_there_are_none(bench):
    made = await bench.write()
    assert (await bench.by(None, "GET", f"/{made['id']}")).status_code == 401
    assert (await bench.by(None, "POST", "", note())).status_code == 401
    assert (await bench.by("Patient/ann", "GET", f"/{made['id']}")).status_code == 403, "an access right of its own"
    service = sessions(POLICY)
    vault = Sealing(bench.notes, Keyring("one", {"one": new_key()}))
    endpoint = ProcessNotes(service, bench.store, vault, everybody(origin="sessions"), Setting.of(POLICY), "http://x")
    bench.clinic.wire.apps["sessions"] = create_fhir_app(
        service, LocalBackend(service, bench.store), settings("sessions"), before=[endpoint.routes()]
    )
    answer = await bench.by(None, "GET", f"/{made['id']}")
    assert answer.status_code == 403
    assert "cannot tell who asks" in answer.text


async def test_whom_the_patient_authorised_reads_until_she_withdraws_it(bench):
    made, other = await bench.write(), await bench.write(patient="bea")
    await bench.hear(authorisation())
    assert parse((await bench.by(SUPERVISOR, "GET", f"/{made['id']}")).content) == made
    assert ids(await bench.by(SUPERVISOR, "GET", "?patient=ann")) == [made["id"]]
    assert (await bench.by(SUPERVISOR, "GET", f"/{other['id']}")).status_code == 404, "of another patient"
    amended = await bench.by(SUPERVISOR, "PUT", f"/{made['id']}", note(id=made["id"]), **{"If-Match": 'W/"1"'})
    assert amended.status_code == 404, "to read is not to write"
    told = await bench.notes.accesses(DEFAULT_TENANT, "ann")
    assert [(one.reader, one.action, one.consent) for one in told] == [
        (THERAPIST, "create", None),
        (SUPERVISOR, "read", "Consent/of-ann"),
        (SUPERVISOR, "search", "Consent/of-ann"),
    ]
    await bench.hear(authorisation(status="inactive"), version=2)
    assert (await bench.by(SUPERVISOR, "GET", f"/{made['id']}")).status_code == 404
    assert ids(await bench.by(SUPERVISOR, "GET", "?patient=ann")) == []


async def test_on_old_news_of_consents_only_the_author_reads(bench):
    made = await bench.write()
    await bench.hear(authorisation())
    async with bench.store._clinics.acquire() as connection:
        await connection.execute("UPDATE known_until SET until = $1", datetime.now(UTC) - timedelta(hours=1))
    assert (await bench.by(THERAPIST, "GET", f"/{made['id']}")).status_code == 200
    late = await bench.by(SUPERVISOR, "GET", f"/{made['id']}")
    assert late.status_code == 503
    assert "retry-after" in late.headers
    for user, expected in ((THERAPIST, [made["id"]]), (SUPERVISOR, [])):
        answer = await bench.by(user, "GET", "?patient=ann")
        assert ids(answer) == expected
        assert parse(answer.content)["entry"][-1]["search"]["mode"] == "outcome", "that others' have to wait is told"


async def test_nothing_of_a_note_is_anywhere_but_sealed_in_its_own_database(bench, capfd):
    made = await bench.write()
    changed = await bench.by(THERAPIST, "PUT", f"/{made['id']}", note(id=made["id"]), **{"If-Match": 'W/"1"'})
    assert changed.status_code == 200
    refused = await bench.by(THERAPIST, "POST", "", note(status="superseded"))
    assert refused.status_code == 422
    words = (CANARY, base64.b64encode(CANARY.encode()).decode())
    dumps = {name: await everything_in(store._clinics) for name, store in bench.clinic.stores.items()}
    dumps["sessions"] = await everything_in(bench.store._clinics)
    dumps["notes"] = await everything_in(await bench.notes._pool())
    assert made["id"] in dumps["notes"], "the dump sees what is there"
    assert made["id"] not in dumps["sessions"], "no outbox, no index, no copy"
    said = refused.text + "".join(capfd.readouterr())
    assert "/process-notes/DocumentReference" in said, "requests are logged, by route"
    for place, text in {**dumps, "logs": said}.items():
        assert not any(word in text for word in words), place
    assert made["id"] not in said
    for path in (f"DocumentReference/{made['id']}", "DocumentReference", "_history", "Patient/ann/$everything"):
        answer = await bench.clinic.send(await bench.clinic.token("clinic-admin"), "GET", path, host="sessions")
        assert not any(word in answer.text for word in words)
        assert answer.status_code in (200, 404)


async def everything_in(pool):
    """Return all rows of all tables as text."""
    async with pool.acquire() as connection:
        tables = await connection.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        found = []
        for table in tables:
            rows = await connection.fetch(f"SELECT * FROM {table['name']}")
            found.extend(str(tuple(row.values())) for row in rows)
        return "\n".join(found)


async def test_a_row_that_was_moved_to_another_patient_does_not_open(bench):
    made = await bench.write()
    await bench.write(patient="bea")
    async with (await bench.notes._pool()).acquire() as connection:
        with pytest.raises(Exception, match="only added"):
            await connection.execute("UPDATE process_note SET patient = 'bea'")
        await connection.execute("ALTER TABLE process_note DISABLE TRIGGER kept")
        await connection.execute("UPDATE process_note SET patient = 'bea' WHERE patient = 'ann'")
    answer = await bench.by(THERAPIST, "GET", f"/{made['id']}")
    assert answer.status_code == 500, "a fault of the store, logged, and no text of anybody"
    assert not any(word in answer.text for word in ("content", CANARY))


async def test_a_new_key_of_the_installation_wraps_the_patients_anew_and_all_stays_readable(bench):
    made = await bench.write()
    old, new = new_key(), new_key()
    first = Sealing(bench.notes, Keyring("old", {"old": old}))
    sealed = await first.sealed(
        {"id": made["id"]}, tenant="t", version=1, patient="p", author=THERAPIST, now=datetime.now(UTC)
    )
    rotated = Sealing(bench.notes, Keyring("new", {"new": new, "old": old}))
    assert parse(await rotated.opened(sealed)) == {"id": made["id"]}
    alone = Sealing(bench.notes, Keyring("new", {"new": new}))
    assert parse(await alone.opened(sealed)) == {"id": made["id"]}, "wrapped anew when it was used"


@pytest.mark.parametrize(
    ("changes", "status", "place"),
    [
        ({"subject": {"reference": "Patient/nobody"}}, 422, "DocumentReference.subject"),
        ({"status": "final"}, 400, "DocumentReference.status"),
        ({"content": []}, 400, "DocumentReference.content"),
        ({"author": [{"reference": SUPERVISOR}]}, 422, "DocumentReference.author"),
        ({"resourceType": "Observation"}, 400, "http.body"),
    ],
)
async def test_what_is_no_process_note_is_refused_with_its_place(bench, changes, status, place):
    answer = await bench.by(THERAPIST, "POST", "", {**note(), **changes})
    assert answer.status_code == status, answer.text
    assert place in json.dumps(parse(answer.content)["issue"][0]["expression"])


async def test_a_search_takes_the_patient_and_nothing_else_and_pages_through_all(bench):
    for path in ("", "?patient=ann&date=2026", "?patient=ann&_before=x"):
        assert (await bench.by(THERAPIST, "GET", path)).status_code == 400
    made = [(await bench.write(text=str(number)))["id"] for number in range(53)]
    found, path = [], "?patient=ann"
    while path:
        answer = await bench.by(THERAPIST, "GET", path)
        found += ids(answer)
        links = {link["relation"]: link["url"] for link in parse(answer.content).get("link", [])}
        path = links.get("next", "").rpartition("DocumentReference")[2]
    assert found == made[::-1]


async def test_nobody_gives_himself_the_consent_to_read_another_ones_notes(clinic):
    """By create, by update, by a patch, and through the gateway: who writes it is who the token says."""
    admin = await clinic.token("clinic-admin")
    ann = (await clinic.made({"resourceType": "Patient"}, admin))["id"]

    def notes_to(reader):
        return privacy.provision("permit", why=privacy.TPO, to=[reader], labels=["PSYTHPN"])

    given = privacy.consent(ann, notes_to(SUPERVISOR))
    himself = await clinic.token("therapist", kap_user=SUPERVISOR)
    refused = await clinic.send(himself, "POST", "Consent", given)
    assert refused.status_code == 422, refused.text
    assert "somebody else has to write it" in refused.text
    draft = await clinic.made(privacy.consent(ann, notes_to("Practitioner/other")), himself)
    changed = {**draft, "provision": notes_to(SUPERVISOR)}
    assert (await clinic.send(himself, "PUT", f"Consent/{draft['id']}", changed)).status_code == 422
    patch = [{"op": "replace", "path": "/provision/actor/0/reference/reference", "value": SUPERVISOR}]
    sent_as = {"Content-Type": "application/json-patch+json"}
    assert (await clinic.send(himself, "PATCH", f"Consent/{draft['id']}", patch, **sent_as)).status_code == 422
    somebody = await clinic.token("therapist", kap_user=THERAPIST)
    assert (await clinic.send(somebody, "POST", "Consent", given)).status_code == 201
