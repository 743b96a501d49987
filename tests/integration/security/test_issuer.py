"""SMART Backend Services with the built-in issuer: who gets a token, what is in it, and how it ends."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from services.identity.service import create as identity
from shared.http.outbound import NotOutside, Outbound, Outside
from shared.runtime.app import Parts
from shared.runtime.running import opened
from shared.runtime.settings import Settings, SettingsError
from shared.security.bearer import bearer
from shared.security.discovery import CAPABILITIES, capabilities, oauth_uris
from tests.integration.security.clinic import ASSERTION, BASE, ISSUER, ROLES, key_of
from tests.integration.security.people import app, person

SCOPE = "system/Patient.rs system/Observation.rs?category=vital-signs"


async def registered(clinic, key, **said):
    answer = await clinic.register(key=key, **{"scope": SCOPE, **said})
    assert answer.status_code == 201, answer.text
    return answer.json()["client_id"]


@pytest.mark.parametrize("alg", ["RS384", "ES384"])
async def test_a_client_gets_a_token_by_its_own_key_and_the_gateway_believes_it(clinic, alg):
    key = key_of(alg)
    client = await registered(clinic, key)
    answer = await clinic.asked("token", client, key)
    told = answer.json()
    assert (answer.status_code, told["token_type"], told["scope"]) == (200, "bearer", SCOPE)
    assert answer.headers["cache-control"] == "no-store"
    assert (await clinic.send(told["access_token"], "GET", "Patient")).status_code == 200


async def test_keys_are_found_at_the_clients_url_and_a_new_one_is_found_there_when_it_is_turned(clinic, monkeypatch):
    first, second, url = key_of("ES384"), key_of("ES384"), "https://hospital.example/jwks"
    clinic.wire.files[url] = KeySet([first]).as_dict(private=False)
    client = await registered(clinic, None, jwks_uri=url)
    assert (await clinic.asked("token", client, first)).status_code == 200
    clinic.wire.files[url] = KeySet([second]).as_dict(private=False)
    passed = time.monotonic() + 11
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: passed)
    assert (await clinic.asked("token", client, second)).status_code == 200
    assert (await clinic.asked("token", client, first)).status_code == 401


async def test_an_assertion_counts_once(clinic):
    key = key_of("ES384")
    client = await registered(clinic, key)
    assertion = clinic.assertion(client, key)
    assert (await clinic.asked("token", client, key, assertion=assertion)).status_code == 200
    again = await clinic.asked("token", client, key, assertion=assertion)
    assert (again.status_code, again.json()["error"]) == (401, "invalid_client")
    assert "used before" in again.json()["error_description"]


def by_shared_secret(key):
    """Sign by the public key, which everybody may have, as if it were a secret."""

    def part(raw):
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    head = f"{part(json.dumps({'alg': 'HS256', 'kid': key.kid}).encode())}.{part(b'{}')}"
    return f"{head}.{part(hashlib.sha256(key.as_pem(private=False) + head.encode()).digest())}"


async def test_assertions_that_are_not_the_clients_own_for_this_issuer_now_are_refused(clinic):
    key, now = key_of("ES384"), int(time.time())
    client = await registered(clinic, key)
    other = await registered(clinic, key_of("ES384"))
    stolen = key_of("ES384", kid=key.kid)
    hmac = by_shared_secret(key)
    refused = {
        "another's key": clinic.assertion(client, stolen),
        "another client": clinic.assertion(other, key),
        "another audience": clinic.assertion(client, key, aud="https://other.example/token"),
        "expired": clinic.assertion(client, key, exp=now - 60),
        "lives too long": clinic.assertion(client, key, exp=now + 900),
        "not yet good": clinic.assertion(client, key, nbf=now + 60),
        "subject is another": clinic.assertion(client, key, sub=other),
        "without jti": clinic.assertion(client, key, jti=None),
        "nobody": clinic.assertion("nobody", key),
        "issuer is no text": clinic.assertion(client, key, iss=[client]),
        "shared secret": hmac,
        "nothing": "x",
    }
    for kind, assertion in refused.items():
        answer = await clinic.asked("token", client, key, assertion=assertion)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), kind


async def test_the_same_words_answer_for_no_such_client_a_disabled_one_and_a_key_that_is_not_its_own(clinic):
    key = key_of("ES384")
    client, off = await registered(clinic, key), await registered(clinic, key)
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/clients')}"}
    assert (await clinic.http.delete(f"{ISSUER}/auth/clients/{off}", headers=manager)).status_code == 204
    said = {
        (await clinic.asked("token", name, one)).text
        for name, one in ((client, key_of("ES384")), (off, key), ("nobody", key))
    }
    assert len(said) == 1


@pytest.mark.parametrize(
    "scope", ["system/Patient.cruds", "system/*.rs", "system/Observation.rs", "user/Patient.rs", "kap/operate", "x/y"]
)
async def test_wider_than_registered_is_refused_whole(clinic, scope):
    key = key_of("ES384")
    client = await registered(clinic, key)
    answer = await clinic.asked("token", client, key, scope=f"system/Patient.r {scope}")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


async def test_narrower_than_registered_is_what_the_token_has(clinic):
    key = key_of("ES384")
    client = await registered(clinic, key)
    told = (await clinic.asked("token", client, key, scope="system/Patient.r")).json()
    assert told["scope"] == "system/Patient.r"
    assert (await clinic.send(told["access_token"], "GET", "Patient")).status_code == 403


@pytest.mark.parametrize("form", [{"kap_role": "clinic-admin"}, {"kap_user": "Practitioner/1"}, {"kap_patient": "1"}])
async def test_no_client_but_the_operators_acts_for_others(clinic, form):
    key = key_of("ES384")
    client = await registered(clinic, key)
    answer = await clinic.asked("token", client, key, **form)
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


@pytest.mark.parametrize(
    "said",
    [
        {"scope": ""},
        {"scope": "system/Nothing.rs"},
        {"kap_role": "king"},
        {"acts_for_others": True},
        {"token_endpoint_auth_method": "client_secret_basic"},
        {"grant_types": ["password"]},
        {"kap_token_seconds": 86400},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "http://169.254.169.254/latest"},
        {"jwks_uri": "https://user:secret@hospital.example/jwks"},
        {"jwks_uri": "http://127.0.0.1:5432/x"},
        {"jwks_uri": "https://localhost:8443/x"},
        {"jwks_uri": "https://10.0.0.5/internal"},
        {"jwks_uri": "https://[::ffff:10.0.0.5]/internal"},
        {"jwks": {"keys": [key_of("ES384").as_dict(private=True)]}},
    ],
)
async def test_what_cannot_be_registered_is_refused_and_named(clinic, said):
    key, asked = key_of("ES384"), len(clinic.wire.requests)
    answer = await clinic.register(key=key, **{"scope": SCOPE, **said})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_metadata")
    if {"jwks", "jwks_uri"} & said.keys():  # nor are these another client's keys from now on
        client = await registered(clinic, key)
        manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/clients')}"}
        rotated = await clinic.http.post(f"{ISSUER}/auth/clients/{client}/rotate", json=said, headers=manager)
        assert (rotated.status_code, rotated.json()["error"]) == (400, "invalid_client_metadata")
        assert (await clinic.asked("token", client, key)).status_code == 200
        assert {one.url.host for one in clinic.wire.requests[asked:]} == {"identity"}, "the address was asked"


async def test_only_a_token_for_that_registers_clients_and_turns_keys(clinic):
    token = await clinic.token("prescriber")
    for method, path in (("POST", "register"), ("GET", "clients"), ("DELETE", "clients/x"), ("POST", "keys")):
        url = f"{ISSUER}/auth/{path}"
        assert (await clinic.http.request(method, url, json={})).status_code == 401
        refused = await clinic.http.request(method, url, json={}, headers={"Authorization": f"Bearer {token}"})
        assert refused.status_code == 403


async def test_a_token_that_was_taken_back_is_refused_within_seconds(clinic, monkeypatch):
    key = key_of("ES384")
    client = await registered(clinic, key)
    token = (await clinic.asked("token", client, key)).json()["access_token"]
    assert (await clinic.asked("introspect", client, key, token=token)).json()["active"] is True
    assert (await clinic.send(token, "GET", "Patient")).status_code == 200
    assert (await clinic.asked("revoke", client, key, token=token)).status_code == 200
    assert (await clinic.asked("introspect", client, key, token=token)).json() == {"active": False}
    passed = time.monotonic() + 6
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: passed)
    assert (await clinic.send(token, "GET", "Patient")).status_code == 401


async def test_a_disabled_client_loses_the_tokens_it_has(clinic, monkeypatch):
    key = key_of("ES384")
    client = await registered(clinic, key)
    token = (await clinic.asked("token", client, key)).json()["access_token"]
    for host in ("gateway", "intake"):
        assert (await clinic.send(token, "GET", "Patient", host=host)).status_code == 200
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/clients')}"}
    assert (await clinic.http.delete(f"{ISSUER}/auth/clients/{client}", headers=manager)).status_code == 204
    assert (await clinic.asked("token", client, key)).status_code == 401
    looks, looking = key_of("ES384"), key_of("ES384")
    other = await registered(clinic, looking)
    assert (await clinic.asked("introspect", other, looking, token=token)).json() == {"active": False}
    passed = time.monotonic() + 6
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: passed)
    for host in ("gateway", "intake"):
        assert (await clinic.send(token, "GET", "Patient", host=host)).status_code == 401
    again = await clinic.http.post(
        f"{ISSUER}/auth/clients/{client}/rotate",
        json={"jwks": {"keys": [looks.as_dict(private=False)]}},
        headers=manager,
    )
    assert again.status_code == 404, "other keys let it in again"


async def test_nobody_learns_of_anothers_token_by_introspection_or_takes_it_back(clinic):
    mine, theirs = key_of("ES384"), key_of("ES384")
    me, them = await registered(clinic, mine), await registered(clinic, theirs)
    token = (await clinic.asked("token", them, theirs)).json()["access_token"]
    assert (await clinic.asked("introspect", me, mine, token=token)).json() == {"active": False}
    await clinic.asked("revoke", me, mine, token=token)
    assert (await clinic.asked("introspect", them, theirs, token=token)).json()["active"] is True


async def test_keys_are_turned_without_a_token_that_ends_before_its_time(clinic, monkeypatch):
    token = await clinic.token("clinic-admin")
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/clients')}"}
    turned = await clinic.http.post(f"{ISSUER}/auth/keys", headers=manager)
    assert turned.status_code == 201
    clinic.late = timedelta(seconds=30)
    published = (await clinic.http.get(f"{ISSUER}/auth/jwks")).json()["keys"]
    assert sorted(one["alg"] for one in published) == ["ES256", "ES256", "RS256", "RS256"]
    assert all("d" not in one for one in published)
    clinic.late = timedelta()
    passed = time.monotonic() + 11
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: passed)
    assert (await clinic.send(token, "GET", "Patient")).status_code == 200


async def test_a_compromised_key_is_published_no_more_and_what_it_signed_ends(clinic, monkeypatch):
    token = await clinic.token("clinic-admin")
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/clients')}"}
    await clinic.http.post(f"{ISSUER}/auth/keys?compromised=true", headers=manager)
    published = (await clinic.http.get(f"{ISSUER}/auth/jwks")).json()["keys"]
    assert sorted(one["alg"] for one in published) == ["ES256", "RS256"]
    passed = time.monotonic() + 301
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: passed)
    assert (await clinic.send(token, "GET", "Patient")).status_code == 401
    other = await clinic.token("clinic-admin")
    assert (await clinic.send(other, "GET", "Patient")).status_code == 200


async def test_no_clinics_administrator_turns_the_keys_of_all_clinics(clinic, monkeypatch):
    north, south = [await clinic.token("clinic-admin", kap_tenant=name) for name in ("north", "south")]
    for query in ("", "?compromised=true"):
        answer = await clinic.http.post(f"{ISSUER}/auth/keys{query}", headers={"Authorization": f"Bearer {north}"})
        assert (answer.status_code, "./kap clients turn-keys" in answer.text) == (403, True)
    passed = time.monotonic() + 301
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: passed)
    assert (await clinic.send(south, "GET", "Patient")).status_code == 200


async def test_a_program_without_a_user_has_no_users_scopes(clinic):
    answer = await clinic.register(key=key_of("ES384"), scope="user/Condition.rs")
    assert (answer.status_code, "system/" in answer.text) == (400, True)
    made = await clinic.register(key=key_of("ES384"), scope="user/Condition.rs", kap_user="Practitioner/robot")
    assert made.status_code == 201


async def test_private_keys_are_sealed_in_the_database(clinic):
    await clinic.token("clinic-admin")
    keys = await clinic.stores["identity"].identities.keys(datetime.now(UTC))
    assert {key.public["alg"] for key in keys} == {"ES256", "RS256"}
    for key in keys:
        assert b'"d"' not in key.sealed
        assert "d" not in key.public


async def test_discovery_leads_to_everything_without_a_token(clinic):
    told = (await clinic.http.get(f"{BASE}/.well-known/smart-configuration")).json()
    assert told["token_endpoint"] == f"{ISSUER}/auth/token"
    assert {"RS384", "ES384"} <= set(told["token_endpoint_auth_signing_alg_values_supported"])
    assert {"client-confidential-asymmetric", "permission-v1", "permission-v2"} <= set(told["capabilities"])
    assert {"launch-standalone", "launch-ehr", "client-public", "sso-openid-connect"} <= set(told["capabilities"])
    assert told["code_challenge_methods_supported"] == ["S256"]
    assert (await clinic.http.get(told["jwks_uri"])).json()["keys"]
    said = (await clinic.http.get(f"{BASE}/metadata")).json()["rest"][0]["security"]
    [uris] = said["extension"]
    assert {one["url"]: one["valueUri"] for one in uris["extension"]} == {
        "authorize": told["authorization_endpoint"],
        "token": told["token_endpoint"],
        "register": told["registration_endpoint"],
        "introspect": told["introspection_endpoint"],
        "revoke": told["revocation_endpoint"],
    }


async def test_an_app_in_a_browser_may_ask_from_its_own_origin_and_no_cookie_goes_with_it(clinic):
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    wanted = {**asked, "Access-Control-Request-Headers": "authorization"}
    allowed = await clinic.http.options(f"{BASE}/Patient", headers=wanted)
    assert allowed.status_code == 200
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    answer = await clinic.http.get(f"{BASE}/Patient", headers={"Origin": "https://app.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, "*")
    assert "access-control-allow-credentials" not in answer.headers


async def test_tokens_of_another_issuer_are_understood_by_what_it_calls_its_claims(clinic):
    key, url, other = key_of("ES256"), "https://sso.example", "https://sso.example/realms/clinic"
    clinic.wire.files[f"{other}/.well-known/openid-configuration"] = {"issuer": other, "jwks_uri": f"{url}/keys"}
    clinic.wire.files[f"{url}/keys"] = KeySet([key]).as_dict(private=False)
    names = Settings(
        service="x",
        database_url="postgresql://x",
        claims="kap_role=realm_access.roles,fhirUser=https://clinic.example/user,patient=launch.patient,scope=scp",
    ).claim_names
    who, issuer = bearer(other, [BASE], clinic.http, origin=None, roles=ROLES, names=names)
    now = int(time.time())
    claims = {
        "iss": other,
        "aud": BASE,
        "exp": now + 60,
        "azp": "portal",
        "kap_tenant": "default",
        "scp": ["user/Patient.read", "user/Observation.rs"],
        "realm_access": {"roles": ["offline", "front-desk", "clinic-admin"]},
        "https://clinic.example/user": f"{BASE}/Practitioner/7",
        "launch": {"patient": "p1"},
        "kap_role": "clinic-admin",
    }
    signed = jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key, algorithms=["ES256"])
    caller = await who({"authorization": f"Bearer {signed}"})
    assert (caller.role, caller.user, caller.patient, caller.client) == (
        "front-desk",
        "Practitioner/7",
        "p1",
        "portal",
    )
    assert caller.may("Patient", "s")
    assert not caller.may("Patient", "c")
    assert capabilities(await issuer.metadata()) == sorted({*CAPABILITIES, "client-confidential-symmetric"})
    assert await oauth_uris(issuer) == []


async def test_an_operators_key_is_nobodys_token_where_others_reach_the_issuer(clinic, make_database):
    own = KeySet([clinic.operator]).as_dict(private=False)
    told = {"service": "identity", "database_url": make_database("other"), "operator_jwks": json.dumps(own)}
    here, there = "http://127.0.0.1:8008", "https://issuer.clinic.example"
    with pytest.raises(SettingsError, match="KAP_OPERATOR_ACTS_FOR_OTHERS"):
        identity(Settings(**told, issuer=there, operator_acts_for_others=True))
    identity(Settings(**told, issuer=here, operator_acts_for_others=True))
    async with opened(identity(Settings(**told, issuer=there, roles={"api"}))) as one:
        transport = httpx.ASGITransport(one.asgi)
        async with httpx.AsyncClient(transport=transport, base_url=there) as http:

            async def asked(**said):
                form = {
                    "grant_type": "client_credentials",
                    "client_assertion_type": ASSERTION,
                    "client_assertion": clinic.assertion("operator", clinic.operator, aud=f"{there}/auth/token"),
                }
                return await http.post("/auth/token", data={**form, **said})

            for said in (
                {"kap_role": "therapist", "kap_user": "Practitioner/1"},
                {"kap_role": "patient", "kap_patient": "1"},
                {"scope": "system/*.rs"},
                {"scope": "kap/process-notes"},
            ):
                answer = await asked(**said)
                assert answer.status_code == 400, said
            for scope in ("kap/operate", "kap/clients", "kap/users"):
                answer = await asked(scope=scope, kap_tenant="north")
                assert (answer.status_code, answer.json()["scope"]) == (200, scope)


async def test_keys_are_asked_for_outside_only_and_what_is_at_their_address_is_told_to_nobody(clinic, monkeypatch):
    inside = "https://keys.hospital.example/jwks"
    key, said = key_of("ES384"), {}
    client = await registered(clinic, None, jwks_uri=inside)
    clinic.wire.files[inside] = {"this is": "no JWKS"}
    said["no keys"] = (await clinic.asked("token", client, key)).json()["error_description"]
    other = await registered(clinic, None, jwks_uri="https://away.hospital.example/jwks")
    said["nobody there"] = (await clinic.asked("token", other, key)).json()["error_description"]
    assert len(set(said.values())) == 1, said

    async def means(_host, _port):
        return ["10.0.0.5"]

    outbound = Outbound(Outside(), resolve=means)
    async with httpx.AsyncClient(transport=outbound) as http:
        with pytest.raises(NotOutside):
            await http.get(inside)
    issuer = identity(Settings(service="identity", database_url="postgresql://x", issuer=ISSUER))
    made = []
    monkeypatch.setattr("services.identity.service.Outbound", lambda outside: made.append(outside) or outbound)
    async with AsyncExitStack() as closing:
        store = clinic.stores["identity"]
        issuer.routes(Parts(issuer.service, issuer.settings, store, None, closing))
    assert made == [Outside()], "the issuer asks for keys by the transport that looks where a name leads"


@pytest.mark.parametrize("method", ["private_key_jwt", "client_secret_basic"])
async def test_what_a_client_got_by_keys_that_were_changed_is_taken_back(clinic, monkeypatch, method):
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/clients')}"}
    if method == "private_key_jwt":
        key, new = key_of("ES384"), key_of("ES384")
        client = await registered(clinic, key, scope="system/Patient.rs")
        token = (await clinic.asked("token", client, key)).json()["access_token"]
        body = {"jwks": {"keys": [new.as_dict(private=False)]}}
    else:
        await person(clinic, "ada", "Patient/1")
        heart = await app(clinic, token_endpoint_auth_method=method)
        client, token, body = heart.id, (await heart.launched("ada"))["access_token"], {}
    assert (await clinic.send(token, "GET", "Patient")).status_code == 200
    path = f"{ISSUER}/auth/clients/{client}/rotate"
    assert (await clinic.http.post(path, json=body, headers=manager)).status_code == 200
    passed = time.monotonic() + 6
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: passed)
    assert (await clinic.send(token, "GET", "Patient")).status_code == 401


async def test_what_a_client_is_registered_for_is_told_to_nobody_who_has_had_no_token_of_its(clinic):
    """Its id is no secret: an app's is in every browser."""
    key = key_of("ES384")
    client = await registered(clinic, key, scope="system/Patient.rs", kap_user="Organization/h1")
    whole = {"scope": "system/Patient.rs", "client": client, "user": "Organization/h1", "role": None, "patient": None}
    guesses = [whole, {**whole, "scope": "system/Observation.rs"}, {**whole, "user": "Organization/h2"}]

    async def told(**said):
        answer = await clinic.http.post(f"{ISSUER}/auth/ended", json={"held": guesses, **said})
        assert answer.status_code == 200, answer.text
        return answer.json()

    nobody = await told(clients=[client])
    assert nobody == {"clients": [], "grants": [], "tokens": [], "narrowed": []}
    another = await registered(clinic, key, scope="system/Patient.rs")
    id_of = [
        claims_in((await clinic.asked("token", one, key)).json()["access_token"])["jti"] for one in (client, another)
    ]
    assert (await told(tokens=["no such token", id_of[1]]))["narrowed"] == []
    assert (await told(tokens=[id_of[0]]))["narrowed"] == [1, 2]


def claims_in(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


async def test_a_token_by_which_something_goes_on_is_remembered_as_long_as_that_is_asked_about(clinic):
    """A Subscription that the thief of a key asked for ends when the keys are changed, however long ago that was."""
    held, key = clinic.stores["identity"].identities, key_of("ES384")
    client = await registered(clinic, key)
    asked_about, forgotten = [
        claims_in((await clinic.asked("token", client, key)).json()["access_token"])["jti"] for _ in range(2)
    ]
    for days in (1, 21, 42):
        now = datetime.now(UTC) + timedelta(days=days)
        assert (await held.ended([], [], [asked_about], now))["tokens"] == []
        clinic.late = timedelta(days=days, hours=12)
        assert (await clinic.asked("token", client, key)).status_code == 200  # what ended long ago is forgotten now
    await held.take_back(client, datetime.now(UTC))
    assert (await held.ended([], [], [asked_about, forgotten], datetime.now(UTC)))["tokens"] == [asked_about]
