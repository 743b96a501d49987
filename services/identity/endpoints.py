"""What the issuer is asked over HTTP, in one table; and what it says of itself (RFC 8414, OpenID Connect Discovery).

GET /.well-known/openid-configuration   where everything is
GET /auth/jwks                          the keys that tokens are signed by
GET /auth/revoked                       the ids of tokens that were taken back, for services
POST /auth/ended                        which clients, permissions and tokens are worth nothing any more, for services

The rest: `tokens` (programs), `authorize` and `account` (people), `administration` (administrators and EHRs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.identity.account import Account
from services.identity.administration import GRANTS, METHODS, Administration
from services.identity.asking import NO_STORE, Answers, json_object, refusing
from services.identity.authentication import OPERATOR, Authentication
from services.identity.authorize import Authorize
from services.identity.context import Clock, Context
from services.identity.door import Door
from services.identity.passwords import Passwords
from services.identity.rules.clients import MOST_TOKEN_SECONDS
from services.identity.rules.launch import OF_LAUNCH
from services.identity.rules.refusal import OAuthRefusal
from services.identity.signing import OF_ID_TOKENS, Signing
from services.identity.tokens import Tokens
from shared.http.outbound import Outside
from shared.security.bearer import ASKED_AT_ONCE, AUDIT, ENDED, REVOKED
from shared.security.roles import Roles
from shared.security.scopes import MANAGE_CLIENTS, MANAGE_USERS, OPERATE, OTHERS
from shared.security.tokens import ALGORITHMS
from shared.store.identity import Client, Identities
from shared.store.logins import Logins

EVERYTHING: Final = tuple(
    f"{context}/*.{what}" for context in ("patient", "user", "system") for what in ("cruds", "$*")
)
"""What the operator's client may ask for, of resources, where it acts for others."""

OF_OPERATOR: Final = (OPERATE, MANAGE_CLIENTS, MANAGE_USERS)
"""What it may ask for everywhere: nothing of anybody's record."""

CAPABILITIES: Final = (
    "launch-ehr",
    "launch-standalone",
    "authorize-post",
    "client-public",
    "client-confidential-symmetric",
    "client-confidential-asymmetric",
    "sso-openid-connect",
    "context-banner",
    "context-ehr-patient",
    "context-ehr-encounter",
    "context-standalone-patient",
    "permission-offline",
    "permission-online",
)
"""Of SMART App Launch, what the issuer does; the FHIR servers add what they do."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Answers.

    Attributes:
        issuer: its own URL, without a slash at its end.
        audience: what its tokens are for: the FHIR bases of the installation.
        held: clients, keys and tokens.
        logins: people, and what they let apps do.
        signing: the keys.
        roles: of the policy.
        client: asks for keys of clients at their URLs; follows no redirect.
        operator: the client of who runs the installation; None: there is none.
        outside: where keys of clients may be.
        clock: what time it is.

    """

    issuer: str
    audience: tuple[str, ...]
    held: Identities
    logins: Logins
    signing: Signing
    roles: Roles
    client: httpx.AsyncClient
    operator: Client | None = None
    outside: Outside = field(default_factory=Outside)
    clock: Clock = field(default=lambda: datetime.now(UTC))

    @property
    def context(self) -> Context:
        """What all of them know."""
        return Context(self.issuer, self.audience, self.held, self.logins, self.signing, self.roles, self.clock)

    def routes(self) -> list[Route]:
        """Return the routes."""
        context = self.context
        passwords = Passwords(context)
        tokens = self._tokens
        door, office = Door(context, passwords), Administration(context, passwords, self.outside)
        people, own = Authorize(context, door), Account(context, door)
        table: list[tuple[str, str, Answers]] = [
            ("GET", "/.well-known/openid-configuration", self.metadata),
            ("GET", "/.well-known/oauth-authorization-server", self.metadata),
            ("GET", "/auth/jwks", self.jwks),
            ("GET", "/auth/revoked", self.revoked),
            ("POST", "/auth/ended", self.ended),
            ("GET", "/auth/authorize", people.authorize),
            ("POST", "/auth/authorize", people.authorize),
            ("GET", "/auth/login", people.login_page),
            ("POST", "/auth/login", people.login),
            ("GET", "/auth/consent", people.consent_page),
            ("POST", "/auth/consent", people.consent),
            ("GET", "/auth/logout", people.logout_page),
            ("POST", "/auth/logout", people.logout),
            ("GET", "/auth/account", own.page),
            ("POST", "/auth/account", own.login),
            ("POST", "/auth/password", own.password),
            ("POST", "/auth/apps", own.end),
            ("POST", "/auth/token", tokens.token),
            ("POST", "/auth/introspect", tokens.introspect),
            ("POST", "/auth/revoke", tokens.revoke),
            ("POST", "/auth/register", office.register),
            ("GET", "/auth/clients", office.clients),
            ("DELETE", "/auth/clients/{id}", office.disable),
            ("POST", "/auth/clients/{id}/rotate", office.rotate),
            ("POST", "/auth/keys", office.turn),
            ("POST", "/auth/users", office.add_user),
            ("GET", "/auth/users", office.users),
            ("POST", "/auth/users/{name}", office.change_user),
            ("DELETE", "/auth/users/{name}", office.disable_user),
            ("POST", "/auth/launch", office.launch),
        ]
        return [Route(path, refusing(answer), methods=[method]) for method, path, answer in table]

    async def metadata(self, _request: Request) -> Response:
        """Say where everything is."""
        at = f"{self.issuer}/auth"
        return JSONResponse(
            {
                "issuer": self.issuer,
                "jwks_uri": f"{at}/jwks",
                "authorization_endpoint": f"{at}/authorize",
                "token_endpoint": f"{at}/token",
                "introspection_endpoint": f"{at}/introspect",
                "revocation_endpoint": f"{at}/revoke",
                "registration_endpoint": f"{at}/register",
                "kap_launch_endpoint": f"{at}/launch",
                REVOKED: f"{at}/revoked",
                ENDED: f"{at}/ended",
                AUDIT: f"{at}/audit",
                "grant_types_supported": list(GRANTS),
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": True,
                "request_parameter_supported": False,
                "request_uri_parameter_supported": False,
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [OF_ID_TOKENS],
                "claims_supported": ["sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "fhirUser", "profile"],
                "token_endpoint_auth_methods_supported": list(METHODS),
                "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
                "scopes_supported": [
                    *OF_LAUNCH, "patient/*.rs", "user/*.cruds", "system/*.cruds", *sorted(OTHERS),
                ],
                "capabilities": list(CAPABILITIES),
            }
        )  # fmt: skip

    async def jwks(self, _request: Request) -> Response:
        """Publish the keys."""
        await self.signing.retire_old(self.clock())
        return JSONResponse(await self.signing.jwks(self.clock()))

    async def revoked(self, _request: Request) -> Response:
        """Tell which tokens were taken back before their end."""
        return JSONResponse({"revoked": list(await self.held.revoked(self.clock()))}, headers=NO_STORE)

    async def ended(self, request: Request) -> Response:
        """Tell which of the clients, permissions (`kap_grant`) and tokens (`jti`) that are named have ended.

        `held`: what was asked for with tokens, as objects of `_HELD`; `narrowed` names by their places those that would
        not be given now. For what outlives the token it was asked for with. What a client is registered for is told to
        who names a permission or token of that client's, which nobody guesses; else nothing is said of it.
        """
        said = await json_object(request, "invalid_request")
        asked = [said.get(name, []) for name in ("clients", "grants", "tokens")]
        for ids in asked:
            if not isinstance(ids, list) or not all(isinstance(one, str) and "\0" not in one for one in ids):
                raise OAuthRefusal("invalid_request", "clients, grants and tokens are lists of ids.")
        held = said.get("held", [])
        if not isinstance(held, list) or not all(map(_is_held, held)) or len(held) > ASKED_AT_ONCE:
            names = ", ".join(_HELD)
            raise OAuthRefusal("invalid_request", f"held is a list of {ASKED_AT_ONCE} objects at most: {names}, texts.")
        clients, grants, tokens = asked
        told = dict(await self.held.ended(clients, grants, tokens, self.clock()))
        known, gives = frozenset(told.pop("known")), self._tokens.still_gives
        narrowed = [
            place for place, one in enumerate(held) if one.get("client") in known and not await gives(one["scope"], one)
        ]
        return JSONResponse({**told, "narrowed": narrowed}, headers=NO_STORE)

    @property
    def _tokens(self) -> Tokens:
        return Tokens(self.context, Authentication(self.context, self.client, self.operator))


_HELD: Final = ("scope", "client", "grant", "role", "user", "patient")
"""What was asked for with a token: its scopes, to whom it was given, and as whom."""


def _is_held(one: Any) -> bool:
    if not isinstance(one, dict) or one.keys() - set(_HELD) or not isinstance(one.get("scope"), str):
        return False
    return all(text is None or (isinstance(text, str) and "\0" not in text) for text in one.values())


def operator(jwks: Mapping[str, Any], tenant: str, now: datetime, *, acts_for_others: bool) -> Client:
    """Return the client of who runs the installation: for `/ops`, and to register clients and people of each clinic.

    `acts_for_others`: and for `./kap token`, which is given what anybody may.
    """
    return Client(
        id=OPERATOR,
        tenant=tenant,
        name="Who runs the installation",
        jwks=jwks,
        jwks_uri=None,
        scope=" ".join((*EVERYTHING, *sorted(OTHERS)) if acts_for_others else OF_OPERATOR),
        role=None,
        user=None,
        patient=None,
        acts_for_others=acts_for_others,
        token_seconds=MOST_TOKEN_SECONDS,
        created_at=now,
    )
