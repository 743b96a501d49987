"""Keycloak in the issuer's place. No image can be run by this test: a second issuer, made here, stands in for it.

It gives tokens by the realm file as Keycloak's documentation says that it reads it: the claims of its mappers, the
client scopes of a person's roles. That Keycloak does so is Keycloak's to prove.
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

from shared.runtime.policy import load_policy
from shared.runtime.settings import Settings
from shared.security.bearer import bearer
from shared.security.roles import USER, AccessPolicy
from shared.security.scopes import OTHERS, parse_scopes
from shared.security.tokens import TokenRefused
from tools.keycloak_realm import REALM, text

ROOT = Path(__file__).resolve().parents[2]
BASE = "http://127.0.0.1:8000/fhir"
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
