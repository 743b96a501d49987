"""A real Keycloak in the issuer's place: the realm as compose imports it, people and programs with its tokens.

    KAP_KEYCLOAK=/opt/keycloak-26.4.0 ./kap test --full tests/deploy/test_keycloak_runs.py

`KAP_KEYCLOAK` is the folder of a distribution (Maven Central: `org.keycloak:keycloak-quarkus-dist`, the zip), which is
copied and run in its development mode with Java; the first start takes minutes. What can be known without one is in
`test_keycloak.py`.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit
from uuid import uuid4

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from pydantic import SecretStr

from services.intake.service import create as intake
from shared.runtime.running import opened
from shared.runtime.settings import Settings
from tests.integration.security.people import pkce
from tools.keycloak_realm import REALM

ROOT = Path(__file__).resolve().parents[2]
BASE = "http://127.0.0.1:8000/fhir"
BACK = "http://127.0.0.1:9000/back"
ADMIN = {"KC_BOOTSTRAP_ADMIN_USERNAME": "admin", "KC_BOOTSTRAP_ADMIN_PASSWORD": "for-this-test"}
START_SECONDS = 400.0
PASSWORD = "tulips over the viaduct"
PATIENT = {"resourceType": "Patient", "name": [{"family": "Own"}]}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Keycloak:
    """The server that runs, and its administrator."""

    url: str

    @property
    def issuer(self) -> str:
        return f"{self.url}/realms/kap"

    def admin(self, method: str, path: str, body: Any = None) -> httpx.Response:
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin"}
        form["password"] = ADMIN["KC_BOOTSTRAP_ADMIN_PASSWORD"]
        with httpx.Client(trust_env=False, timeout=60) as http:
            token = http.post(f"{self.url}/realms/master/protocol/openid-connect/token", data=form).json()
            headers = {"Authorization": f"Bearer {token['access_token']}"}
            answer = http.request(method, f"{self.url}/admin/realms/kap/{path}", json=body, headers=headers)
        assert answer.is_success, (path, answer.status_code, answer.text)
        return answer

    def person(self, role: str, **attributes: str) -> str:
        """Add somebody who logs in; return his name."""
        name = f"{role}-{uuid4().hex[:8]}"
        self.admin(
            "POST",
            "users",
            {
                "username": name,
                "enabled": True,
                "email": f"{name}@clinic.example",
                "emailVerified": True,
                "firstName": "A",
                "lastName": "Person",
                "attributes": {key: [value] for key, value in attributes.items()},
                "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
            },
        )
        [found] = self.admin("GET", f"users?exact=true&username={name}").json()
        self.give(found["id"], role)
        return name

    def give(self, user: str, role: str) -> None:
        self.admin("POST", f"users/{user}/role-mappings/realm", [self.admin("GET", f"roles/{role}").json()])

    def program(self, key: ECKey, role: str, scopes: list[str], **attributes: str) -> str:
        """Register a program that shows who it is by a key, as docs/operations.md says; return its client id."""
        id_ = f"{role}-{uuid4().hex[:8]}"
        self.admin(
            "POST",
            "clients",
            {
                "clientId": id_,
                "publicClient": False,
                "standardFlowEnabled": False,
                "serviceAccountsEnabled": True,
                "clientAuthenticatorType": "client-jwt",
                "attributes": {
                    "use.jwks.string": "true",
                    "jwks.string": json.dumps({"keys": [key.as_dict(private=False)]}),
                    "token.endpoint.auth.signing.alg": "ES384",
                },
                "fullScopeAllowed": True,
                "defaultClientScopes": ["kap"],
                "optionalClientScopes": scopes,
            },
        )
        [client] = self.admin("GET", f"clients?clientId={id_}").json()
        account = self.admin("GET", f"clients/{client['id']}/service-account-user").json()
        said = {**account, "attributes": {key: [value] for key, value in attributes.items()}}
        self.admin("PUT", f"users/{account['id']}", said)
        self.give(account["id"], role)
        return id_


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    given = os.environ.get("KAP_KEYCLOAK")
    if not given:
        pytest.skip("no Keycloak: KAP_KEYCLOAK does not name the folder of a distribution")
    home = tmp_path_factory.mktemp("keycloak") / "keycloak"
    shutil.copytree(given, home, ignore=shutil.ignore_patterns("data"))
    (home / "data" / "import").mkdir(parents=True)
    shutil.copy(REALM, home / "data" / "import" / REALM.name)
    found = Keycloak(f"http://127.0.0.1:{_free_port()}")
    told = [f"--http-port={urlsplit(found.url).port}", "--http-host=127.0.0.1", f"--hostname={found.url}"]
    log = home / "log.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [home / "bin" / "kc.sh", "start-dev", "--import-realm", *told],
            env={**os.environ, **ADMIN, "KAP_PUBLIC_BASE": BASE},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx.get(f"{found.issuer}/.well-known/openid-configuration", trust_env=False).is_success:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@asynccontextmanager
async def owner(database: str, keycloak: Keycloak) -> AsyncIterator[httpx.AsyncClient]:
    """Intake, which is told by settings alone whose tokens to believe."""
    lines = (ROOT / "deploy/keycloak/keycloak.env").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    settings = Settings(
        service="intake",
        database_url=SecretStr(database),
        issuer=keycloak.issuer,
        claims=told["KAP_CLAIMS"],
        audience=BASE,
        roles=frozenset({"api"}),
    )
    async with (
        opened(intake(settings)) as one,
        httpx.AsyncClient(transport=httpx.ASGITransport(one.asgi), base_url="http://intake") as http,
    ):
        yield http


def form(page: httpx.Response) -> str:
    """Return where a page of Keycloak's sends its form."""
    found = re.search(r'<form[^>]*action="([^"]+)"', page.text)
    assert found is not None, (page.status_code, page.text[:2000])
    return urljoin(str(page.url), html.unescape(found[1]))


class Browser:
    """Keeps cookies for TLS alone on this machine, too: browsers trust it, Python's cookie jar does not."""

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}

    def send(self, method: str, url: str, data: dict[str, str] | None = None) -> httpx.Response:
        """Send a request, and follow redirects but that to the app."""
        while True:
            sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
            answer = httpx.request(method, url, data=data, headers=sent, trust_env=False, timeout=60)
            for one in answer.headers.get_list("set-cookie"):
                name, _, value = one.split(";")[0].partition("=")
                self.cookies[name] = value
            if not answer.is_redirect or answer.headers["location"].startswith(BACK):
                return answer
            method, url, data = "GET", urljoin(url, answer.headers["location"]), None


def let_in(said: dict[str, Any], name: str, scope: str, **more: str) -> tuple[dict[str, str], str]:
    """Log somebody in for an app, and let it in; return what the app is told, and its verifier."""
    verifier, challenge = pkce()
    asked = {
        "response_type": "code", "client_id": "clinic-app", "redirect_uri": BACK, "scope": scope, "state": "s" * 22,
        "aud": BASE, "code_challenge": challenge, "code_challenge_method": "S256", **more,
    }  # fmt: skip
    browser = Browser()
    query = httpx.QueryParams({name: value for name, value in asked.items() if value})
    page = browser.send("GET", f"{said['authorization_endpoint']}?{query}")
    for data in ({"username": name, "password": PASSWORD}, {"accept": "Yes"}):
        if not page.is_redirect:
            page = browser.send("POST", form(page), data)
    assert page.is_redirect, (page.status_code, page.text[:3000])
    return dict(parse_qsl(urlsplit(page.headers["location"]).query)), verifier


def told_by(keycloak: Keycloak) -> dict[str, Any]:
    """Return Keycloak's own metadata."""
    found = httpx.get(f"{keycloak.issuer}/.well-known/openid-configuration", trust_env=False, timeout=60).json()
    return dict(found)


def token(said: dict[str, Any], **form: str) -> httpx.Response:
    """Ask for a token."""
    return httpx.post(said["token_endpoint"], data=form, trust_env=False, timeout=60)


def redeemed(said: dict[str, Any], code: str, verifier: str) -> httpx.Response:
    asked = {"code": code, "redirect_uri": BACK, "code_verifier": verifier}
    return token(said, grant_type="authorization_code", client_id="clinic-app", **asked)


def claims(token: str) -> dict[str, Any]:
    """Return what a token says."""
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}


async def test_a_person_lets_an_app_in_and_it_may_what_his_role_may_and_he_was_asked(keycloak, make_database):
    name = keycloak.person("prescriber", kap_tenant="default", fhirUser="Practitioner/7")
    async with owner(make_database("intake"), keycloak) as http:
        said = (await http.get("/fhir/.well-known/smart-configuration")).json()
        assert "S256" in said["code_challenge_methods_supported"]
        told, verifier = let_in(said, name, "openid fhirUser user/*.rs user/Patient.cu user/*.cruds")
        assert redeemed(said, told["code"], "x" * 43).status_code == 400, "a code without its verifier"
        told, verifier = let_in(said, name, "openid fhirUser offline_access user/*.rs user/Patient.cu user/*.cruds")
        given = redeemed(said, told["code"], verifier).json()
        scopes = given["scope"].split()
        assert {"user/*.rs", "user/Patient.cu"} <= set(scopes)
        assert "user/*.cruds" not in scopes, "that is the administrator's"
        assert claims(given["id_token"])["fhirUser"] == "Practitioner/7"
        bearer = bearing(given["access_token"])
        made = await http.post("/fhir/Patient", json=PATIENT, headers=bearer)
        assert made.status_code == 201, made.text
        assert len((await http.get("/fhir/Patient", headers=bearer)).json()["entry"]) == 1
        gone = await http.delete(f"/fhir/Patient/{made.json()['id']}", headers=bearer)
        assert gone.status_code == 403, gone.text
        assert (await http.get("/fhir/Patient", headers=bearing(given["id_token"]))).status_code == 401
        kept = {"client_id": "clinic-app", "refresh_token": given["refresh_token"]}
        again = token(said, grant_type="refresh_token", **kept).json()
        assert (await http.get("/fhir/Patient", headers=bearing(again["access_token"]))).status_code == 200


async def test_a_patient_sees_what_is_his_own(keycloak, make_database):
    async with owner(make_database("intake"), keycloak) as http:
        said = (await http.get("/fhir/.well-known/smart-configuration")).json()
        admin = keycloak.person("clinic-admin", kap_tenant="default", fhirUser="Practitioner/1")
        told, verifier = let_in(said, admin, "openid user/*.cruds")
        manager = bearing(redeemed(said, told["code"], verifier).json()["access_token"])
        own, other = [(await http.post("/fhir/Patient", json=PATIENT, headers=manager)).json()["id"] for _ in "12"]
        name = keycloak.person("patient", kap_tenant="default", fhirUser=f"Patient/{own}", patient=own)
        told, verifier = let_in(said, name, "openid launch/patient patient/*.rs user/*.cruds")
        given = redeemed(said, told["code"], verifier).json()
        assert claims(given["access_token"])["patient"] == own
        bearer = bearing(given["access_token"])
        assert (await http.get(f"/fhir/Patient/{own}", headers=bearer)).status_code == 200
        assert (await http.get(f"/fhir/Patient/{other}", headers=bearer)).status_code == 404
        assert (await http.post("/fhir/Patient", json=PATIENT, headers=bearer)).status_code == 403


async def test_who_is_of_no_clinic_gets_nothing_and_of_another_one_nothing_of_this(keycloak, make_database):
    async with owner(make_database("intake"), keycloak) as http:
        said = (await http.get("/fhir/.well-known/smart-configuration")).json()
        tokens = []
        for more in ({"kap_tenant": "default"}, {"kap_tenant": "north"}, {}):
            name = keycloak.person("clinic-admin", fhirUser="Practitioner/1", **more)
            told, verifier = let_in(said, name, "openid user/*.cruds")
            tokens.append(bearing(redeemed(said, told["code"], verifier).json()["access_token"]))
        assert (await http.post("/fhir/Patient", json=PATIENT, headers=tokens[0])).status_code == 201
        assert "entry" not in (await http.get("/fhir/Patient", headers=tokens[1])).json()
        refused = await http.get("/fhir/Patient", headers=tokens[2])
        assert (refused.status_code, "kap_tenant" in refused.text) == (401, True)


def test_an_app_without_pkce_or_at_another_address_is_not_let_in(keycloak):
    said = told_by(keycloak)
    name = keycloak.person("prescriber", kap_tenant="default", fhirUser="Practitioner/7")
    told, _ = let_in(said, name, "openid", code_challenge="", code_challenge_method="")
    assert told["error"] == "invalid_request"
    elsewhere = {"response_type": "code", "client_id": "clinic-app", "redirect_uri": f"{BACK}/x", "scope": "openid"}
    assert httpx.get(said["authorization_endpoint"], params=elsewhere, trust_env=False).status_code == 400


async def test_a_program_asks_by_its_key_and_is_told_what_consents_permit(keycloak, make_database):
    key = ECKey.generate_key("P-384", parameters={"kid": str(uuid4()), "use": "sig", "alg": "ES384"})
    scopes = ["system/Patient.crs", "system/ServiceRequest.crs", "system/Observation.rs"]
    client = keycloak.program(key, "hospital-system", scopes, kap_tenant="default", fhirUser="Organization/h1")
    said = told_by(keycloak)

    def asked(scope: str, signer: ECKey) -> httpx.Response:
        now = int(time.time())
        said_of = {
            "iss": client,
            "sub": client,
            "aud": keycloak.issuer,
            "exp": now + 60,
            "iat": now,
            "jti": str(uuid4()),
        }
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.encode({"alg": "ES384", "kid": key.kid}, said_of, signer, algorithms=["ES384"]),
            "scope": scope,
        }
        return token(said, **form)

    stranger = ECKey.generate_key("P-384", parameters={"kid": key.kid, "use": "sig", "alg": "ES384"})
    assert asked("system/Patient.crs", stranger).status_code in {400, 401}
    given = asked(" ".join(scopes), key)
    assert given.status_code == 200, given.text
    assert set(scopes) <= set(given.json()["scope"].split())
    async with owner(make_database("intake"), keycloak) as http:
        bearer = bearing(given.json()["access_token"])
        made = await http.post("/fhir/Patient", json=PATIENT, headers=bearer)
        assert made.status_code == 201, made.text
        assert (await http.get("/fhir/Patient", headers=bearer)).status_code in {200, 503}
        assert (await http.get("/fhir/Condition", headers=bearer)).status_code == 403
