"""Keycloak in the issuer's place, without one: a second issuer, made here, gives tokens by the realm file.

What a real Keycloak 26.4.0 said with this realm is recorded here (`RECORDED`, `METADATA`); `test_keycloak_runs.py` runs
one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from pydantic import SecretStr
from starlette.applications import Starlette

from shared.runtime.policy import load_policy
from shared.runtime.settings import Settings
from shared.security.bearer import Issuer as Known
from shared.security.bearer import bearer
from shared.security.discovery import smart_configuration
from shared.security.roles import USER, AccessPolicy
from shared.security.scopes import OTHERS, parse_scopes
from shared.security.tokens import TokenRefused
from tools.keycloak_realm import REALM, text

ROOT = Path(__file__).resolve().parents[2]
BASE = "http://127.0.0.1:8000/fhir"
URL = "http://127.0.0.1:8180/realms/kap"
RECORDED = {
    "exp": 1795403848, "iat": 1795403548, "jti": "onrtac:a7646665-d310-d70f-a094-3da2a17b6ee0", "iss": URL, "aud": BASE,
    "sub": "2f55f611-8ea1-4d96-8258-149e7870fd88", "typ": "Bearer", "azp": "clinic-app",
    "sid": "66b04135-3ec3-113d-cec6-b52f72268d27",
    "realm_access": {"roles": ["default-roles-kap", "patient", "offline_access", "uma_authorization"]},
    "scope": "openid patient/*.rs launch/patient", "patient": "p1", "kap_tenant": "default", "fhirUser": "Patient/p1",
}  # fmt: skip
"""The claims of an access token of Keycloak 26.4.0: of a patient, who was asked for ``user/*.cruds``, too."""

METADATA = {
    "issuer": URL,
    "authorization_endpoint": f"{URL}/protocol/openid-connect/auth",
    "token_endpoint": f"{URL}/protocol/openid-connect/token",
    "jwks_uri": f"{URL}/protocol/openid-connect/certs",
    "grant_types_supported": ["authorization_code", "client_credentials", "implicit", "password", "refresh_token"],
    "response_types_supported": ["code", "none", "id_token", "token", "id_token token", "code id_token"],
    "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_basic", "client_secret_post"],
    "code_challenge_methods_supported": ["plain", "S256"],
}
"""Of what Keycloak 26.4.0 says of itself, what is told on or decides something here."""
ROLES = load_policy().section("access", AccessPolicy)


def told() -> dict[str, str]:
    lines = (ROOT / "deploy/keycloak/keycloak.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_the_realm_is_what_the_policy_says() -> None:
    assert REALM.read_text(encoding="utf-8") == text(), "PYTHONPATH=. python tools/keycloak_realm.py"


def test_nobody_but_an_administrator_says_who_a_person_is_in_the_record() -> None:
    [profile] = json.loads(text())["components"]["org.keycloak.userprofile.UserProfileProvider"]
    for one in json.loads(profile["config"]["kc.user.profile.config"][0])["attributes"]:
        if one["name"] in {"fhirUser", "patient", "kap_tenant"}:
            assert one["permissions"]["edit"] == ["admin"]


def test_compose_runs_keycloak_where_it_is_asked_for_only_and_keeps_its_secret_out_of_the_environment() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    one = compose["services"]["keycloak"]
    assert one["profiles"] == ["keycloak"]
    assert not any("keycloak" in service.get("depends_on", ()) for service in compose["services"].values())
    assert [port.split(":")[0] for port in one["ports"]] == ["127.0.0.1"]
    assert not any("PASSWORD" in name for name in one["environment"])
    assert any("kap-realm.json" in volume for volume in one["volumes"])
    assert told()["KAP_ISSUER"] == f"{one['environment']['KC_HOSTNAME']}/realms/{json.loads(text())['realm']}"


class Issuer:
    """Another OpenID provider, which gives tokens by the realm file."""

    def __init__(self) -> None:
        self.url, self.at = told()["KAP_ISSUER"], told()["KAP_ISSUER_AT"]
        self.key = ECKey.generate_key("P-256", parameters={"kid": "k1", "use": "sig", "alg": "ES256"})
        self.realm: dict[str, Any] = json.loads(text().replace("${KAP_PUBLIC_BASE}", BASE))

    def answer(self, request: httpx.Request) -> httpx.Response:
        said = {"issuer": self.url, "jwks_uri": f"{self.url}/protocol/openid-connect/certs"}
        files = {
            f"{self.at}/.well-known/openid-configuration": said,
            f"{self.at}/protocol/openid-connect/certs": KeySet([self.key]).as_dict(private=False),
        }
        found = files.get(str(request.url))
        return httpx.Response(404) if found is None else httpx.Response(200, json=found)

    def token(self, roles: list[str], **attributes: str) -> str:
        """Return the token of a person with these roles and attributes, who asked for everything."""
        now = int(time.time())
        mapped = {one["clientScope"]: one["roles"] for one in self.realm["scopeMappings"]}
        scopes = [
            one["name"]
            for one in self.realm["clientScopes"]
            if one["attributes"]["include.in.token.scope"] == "true"
            and (one["name"] not in mapped or set(mapped[one["name"]]) & set(roles))
        ]
        claims: dict[str, Any] = {
            "iss": self.url,
            "exp": now + 300,
            "iat": now,
            "jti": "j",
            "typ": "Bearer",
            "azp": "clinic-app",
            "sub": "u1",
            "scope": " ".join(["openid", *scopes]),
        }
        for mapper in next(one for one in self.realm["clientScopes"] if one["name"] == "kap")["protocolMappers"]:
            config = mapper["config"]
            match mapper["protocolMapper"]:
                case "oidc-usermodel-realm-role-mapper":
                    name, inner = config["claim.name"].split(".")
                    claims[name] = {inner: ["default-roles-kap", "uma_authorization", *roles]}
                case "oidc-usermodel-attribute-mapper" if config["user.attribute"] in attributes:
                    claims[config["claim.name"]] = attributes[config["user.attribute"]]
                case "oidc-audience-mapper":
                    claims["aud"] = [config["included.custom.audience"], "account"]
        return jwt.encode({"alg": "ES256", "kid": "k1"}, claims, self.key, algorithms=["ES256"])


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_a_token_of_another_issuer_gives_each_role_what_the_policy_gives_it(role: str) -> None:
    issuer = Issuer()
    settings = Settings(service="x", database_url=SecretStr("postgresql://x"), claims=told()["KAP_CLAIMS"])
    async with httpx.AsyncClient(transport=httpx.MockTransport(issuer.answer)) as http:
        who, _ = bearer(issuer.url, [BASE], http, origin=None, roles=ROLES, names=settings.claim_names, at=issuer.at)
        user = "Patient/p1" if role == "patient" else "Practitioner/7"
        more = {"patient": "p1"} if role == "patient" else {}
        token = issuer.token([role], fhirUser=user, kap_tenant="default", **more)
        caller = await who({"authorization": f"Bearer {token}"})
        assert (caller.role, caller.user, caller.tenant, caller.client) == (role, user, "default", "clinic-app")
        given = [scope for scope in ROLES[role].scopes if USER not in scope]
        assert set(caller.scopes) == set(parse_scopes(" ".join(given)))
        assert caller.others == OTHERS.intersection(given)
        with pytest.raises(TokenRefused, match="kap_tenant"):  # whose clinic is not said
            await who({"authorization": f"Bearer {issuer.token([role], fhirUser=user)}"})


async def test_what_a_real_keycloak_gave_a_patient_is_his_own_record_and_no_more():
    issuer = Issuer()
    key = ECKey.generate_key("P-256", parameters={"kid": "k1", "use": "sig", "alg": "ES256"})
    issuer.key = key
    now = int(time.time())
    claims = {**RECORDED, "iat": now, "exp": now + 300}
    token = jwt.encode({"alg": "ES256", "typ": "JWT", "kid": "k1"}, claims, key, algorithms=["ES256"])
    settings = Settings(service="x", database_url=SecretStr("postgresql://x"), claims=told()["KAP_CLAIMS"])
    async with httpx.AsyncClient(transport=httpx.MockTransport(issuer.answer)) as http:
        who, _ = bearer(issuer.url, [BASE], http, origin=None, roles=ROLES, names=settings.claim_names, at=issuer.at)
        caller = await who({"authorization": f"Bearer {token}"})
    assert (caller.role, caller.user, caller.patient, caller.own) == ("patient", "Patient/p1", "p1", {"p1"})
    assert (caller.tenant, caller.client, caller.disclosure) == ("default", "clinic-app", None)
    assert [one.context for one in caller.scopes] == ["patient"]
    assert not caller.others


async def test_what_keycloak_says_of_itself_is_told_as_smart_has_it():
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=METADATA)

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as outside,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(Starlette(routes=[smart_configuration(Known(URL, outside))])),
            base_url="http://gateway",
        ) as http,
    ):
        said = (await http.get("/fhir/.well-known/smart-configuration")).json()
    assert said["code_challenge_methods_supported"] == ["S256"], "SMART App Launch 2.2: plain is not to be among them"
    assert said["token_endpoint"] == METADATA["token_endpoint"]
    assert {"client-confidential-asymmetric", "permission-v2"} <= set(said["capabilities"])
