"""Write deploy/keycloak/kap-realm.json from the policy's roles: `PYTHONPATH=. python tools/keycloak_realm.py`.

A realm in which a role gives the scopes that it has here and no others: each scope is a client scope that only who has
one of its roles is given (Keycloak's role scope mappings). Claims come of a person's attributes, which administrators
alone may write. Scopes with ``{user}`` cannot be said there and are left out: a partner physician has fewer.

Source: https://www.keycloak.org/docs/latest/server_admin/#_client_scopes, .../server/importExport
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from shared.runtime.policy import load_policy
from shared.security.roles import USER, AccessPolicy

REALM: Final = Path(__file__).resolve().parents[1] / "deploy" / "keycloak" / "kap-realm.json"
CLAIMS: Final = "kap"
"""The client scope that every token has: whose it is, of which role and clinic, and for whom."""

ATTRIBUTES: Final = ("fhirUser", "patient", "kap_tenant")
OF_LAUNCH: Final = {"fhirUser": {"id.token.claim": "true"}}
"""Where an app looks for them (SMART App Launch 2.2). `patient` beside the access token is nothing Keycloak can say."""

OF_APPS: Final = ("launch/patient", "fhirUser")
OFFLINE: Final = "offline_access"
"""Keycloak's own scope, which it makes in every realm: a refresh token that outlives the login."""


def realm() -> dict[str, Any]:
    """Return the realm."""
    roles = load_policy().section("access", AccessPolicy)
    having: dict[str, list[str]] = {}
    for name, role in roles.items():
        for scope in role.scopes:
            if USER not in scope:
                having.setdefault(scope, []).append(name)
    scopes = sorted(having)
    return {
        "realm": "kap",
        "enabled": True,
        "sslRequired": "external",
        "registrationAllowed": False,
        "bruteForceProtected": True,
        "accessTokenLifespan": 300,
        "roles": {"realm": [{"name": name, "description": role.title} for name, role in sorted(roles.items())]},
        "clientScopes": [
            {
                "name": CLAIMS,
                "protocol": "openid-connect",
                "attributes": {"include.in.token.scope": "false", "display.on.consent.screen": "false"},
                "protocolMappers": [*_mappers()],
            },
            *(
                {
                    "name": scope,
                    "protocol": "openid-connect",
                    "attributes": {"include.in.token.scope": "true", "display.on.consent.screen": "true"},
                }
                for scope in (*OF_APPS, *scopes)
            ),
        ],
        "scopeMappings": [{"clientScope": scope, "roles": having[scope]} for scope in scopes],
        "clients": [
            {
                "clientId": "clinic-app",
                "name": "An app of the clinic: change its redirect URI, or register others",
                "publicClient": True,
                "standardFlowEnabled": True,
                "directAccessGrantsEnabled": False,
                "consentRequired": True,
                "fullScopeAllowed": True,
                "redirectUris": ["http://127.0.0.1:9000/back"],
                "attributes": {"pkce.code.challenge.method": "S256"},
                "defaultClientScopes": [CLAIMS],
                "optionalClientScopes": [*OF_APPS, OFFLINE, *scopes],
            }
        ],
        "components": {
            "org.keycloak.userprofile.UserProfileProvider": [
                {
                    "providerId": "declarative-user-profile",
                    "config": {"kc.user.profile.config": [json.dumps(_profile(), separators=(",", ":"))]},
                }
            ]
        },
    }


def _mappers() -> list[dict[str, Any]]:
    into = {"access.token.claim": "true", "id.token.claim": "false", "userinfo.token.claim": "false"}
    text = {**into, "jsonType.label": "String"}
    made = [
        (
            "roles",
            "oidc-usermodel-realm-role-mapper",
            {**text, "claim.name": "realm_access.roles", "multivalued": "true"},
        ),
        ("sub", "oidc-sub-mapper", {"access.token.claim": "true"}),
        # what services are: the FHIR base, filled in from the environment when the realm is imported
        ("audience", "oidc-audience-mapper", {**into, "included.custom.audience": "${KAP_PUBLIC_BASE}"}),
        *(
            (
                name,
                "oidc-usermodel-attribute-mapper",
                {**text, **OF_LAUNCH.get(name, {}), "user.attribute": name, "claim.name": name},
            )
            for name in ATTRIBUTES
        ),
    ]
    return [
        {"name": name, "protocol": "openid-connect", "protocolMapper": kind, "config": config}
        for name, kind, config in made
    ]


def _profile() -> dict[str, Any]:
    """Return what is kept of a person: what he may write himself, and (by administrators alone) who he is here."""
    own = {"view": ["admin", "user"], "edit": ["admin", "user"]}
    given = {"view": ["admin"], "edit": ["admin"]}
    return {
        "attributes": [
            *({"name": name, "permissions": own} for name in ("username", "email", "firstName", "lastName")),
            *({"name": name, "permissions": given} for name in ATTRIBUTES),
        ]
    }


def text() -> str:
    """Return the realm as the file has it."""
    return json.dumps(realm(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    REALM.write_text(text(), encoding="utf-8")
