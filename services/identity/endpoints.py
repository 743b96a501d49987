"""What the issuer is asked over HTTP: OAuth 2.0 as SMART Backend Services has it. Refusals are RFC 6749's JSON.

GET    /.well-known/openid-configuration   where everything is (RFC 8414)
GET    /auth/jwks                          the keys that tokens are signed by
POST   /auth/token                         client_credentials with private_key_jwt
POST   /auth/introspect                    whether a token is good, and what it says (RFC 7662)
POST   /auth/revoke                        takes a token back (RFC 7009)
GET    /auth/revoked                       the ids of tokens that were taken back, for services
POST   /auth/register                      registers a client (RFC 7591); a token with kap/clients
GET    /auth/clients                       the clients; a token with kap/clients
DELETE /auth/clients/{id}                  disables one, and takes its tokens back; a token with kap/clients
POST   /auth/keys                          turns the signing keys; a token with kap/clients
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.identity.rules import (
    LONGEST_ASSERTION,
    MOST_TOKEN_SECONDS,
    USUAL_TOKEN_SECONDS,
    Asked,
    OAuthRefusal,
    Registered,
    grant,
    require_registrable,
)
from services.identity.signing import Signing
from shared.fhir.ids import new_id
from shared.fhir.json import parse
from shared.fhir.outcome import BadRequest, Unavailable
from shared.security.bearer import OF_CLINIC, REVOKED
from shared.security.keys import Fetched, Keys, KeysRefused, at_url, key_set, known
from shared.security.roles import Roles
from shared.security.scopes import MANAGE_CLIENTS, OTHERS
from shared.security.tokens import ALGORITHMS, LEEWAY, TokenRefused, header_of, unverified, verified
from shared.store.identity import Client, Identities

BY_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
EVERYTHING: Final = tuple(
    f"{context}/*.{what}" for context in ("patient", "user", "system") for what in ("cruds", "$*")
)
"""What the operator's client may ask for, of resources."""

OPERATOR: Final = "operator"
"""The id of the client of who runs the installation."""

LONGEST_BODY: Final = 64 * 1024
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_KNOWN_METADATA: Final = frozenset(
    (
        "client_name",
        "jwks",
        "jwks_uri",
        "scope",
        "grant_types",
        "token_endpoint_auth_method",
        "kap_role",
        "kap_user",
        "kap_patient",
        "kap_token_seconds",
    )
)

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Answers.

    Attributes:
        issuer: its own URL, without a slash at its end.
        audience: what its tokens are for: the FHIR bases of the installation.
        held: clients, keys and tokens.
        signing: the keys.
        roles: of the policy.
        client: asks for keys of clients at their URLs; follows no redirect.
        operator: the client of who runs the installation; None: there is none.
        clock: what time it is.

    """

    issuer: str
    audience: tuple[str, ...]
    held: Identities
    signing: Signing
    roles: Roles
    client: httpx.AsyncClient
    operator: Client | None = None
    clock: Clock = field(default=lambda: datetime.now(UTC))
    _published: dict[str, Keys] = field(default_factory=dict)

    def routes(self) -> list[Route]:
        """Return the routes."""
        table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/.well-known/openid-configuration", self.metadata),
            ("GET", "/.well-known/oauth-authorization-server", self.metadata),
            ("GET", "/auth/jwks", self.jwks),
            ("GET", "/auth/revoked", self.revoked),
            ("POST", "/auth/token", self.token),
            ("POST", "/auth/introspect", self.introspect),
            ("POST", "/auth/revoke", self.revoke),
            ("POST", "/auth/register", self.register),
            ("GET", "/auth/clients", self.clients),
            ("DELETE", "/auth/clients/{id}", self.disable),
            ("POST", "/auth/keys", self.turn),
        ]
        return [Route(path, _refusing(answer), methods=[method]) for method, path, answer in table]

    # What everybody may know

    async def metadata(self, _request: Request) -> Response:
        """Say where everything is."""
        return JSONResponse(
            {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/auth/jwks",
                "token_endpoint": f"{self.issuer}/auth/token",
                "introspection_endpoint": f"{self.issuer}/auth/introspect",
                "revocation_endpoint": f"{self.issuer}/auth/revoke",
                "registration_endpoint": f"{self.issuer}/auth/register",
                REVOKED: f"{self.issuer}/auth/revoked",
                "grant_types_supported": ["client_credentials"],
                "response_types_supported": [],
                "token_endpoint_auth_methods_supported": ["private_key_jwt"],
                "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
                "scopes_supported": ["patient/*.rs", "user/*.cruds", "system/*.cruds", *sorted(OTHERS)],
            }
        )

    async def jwks(self, _request: Request) -> Response:
        """Publish the keys."""
        await self.signing.retire_old(self.clock())
        return JSONResponse(await self.signing.jwks(self.clock()))

    async def revoked(self, _request: Request) -> Response:
        """Tell which tokens were taken back before their end."""
        return JSONResponse({"revoked": list(await self.held.revoked(self.clock()))}, headers=_NO_STORE)

    # What clients ask

    async def token(self, request: Request) -> Response:
        """Give a token for an assertion."""
        form = await _form(request)
        if form.get("grant_type") != "client_credentials":
            raise OAuthRefusal("unsupported_grant_type", "grant_type is client_credentials here.")
        client = await self._authenticated(form)
        asked = Asked(form.get("scope", ""), form.get("kap_role"), form.get("kap_user"), form.get("kap_patient"))
        registered = Registered(client.scope, client.role, client.user, client.patient, client.acts_for_others)
        granted = grant(registered, asked, self.roles)
        now = self.clock()
        ends = now + timedelta(seconds=client.token_seconds)
        jti = new_id()
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": client.id,
            "aud": list(self.audience),
            "client_id": client.id,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int(ends.timestamp()),
            "jti": jti,
            "scope": granted.scope,
            "kap_tenant": client.tenant,
        }
        said = {"kap_role": granted.role, "fhirUser": granted.user, "patient": granted.patient}
        claims.update({name: value for name, value in said.items() if value is not None})
        if client.acts_for_others and granted.role is None:
            claims[OF_CLINIC] = True
        signed = await self.signing.sign(claims, now)
        await self.held.note_token(jti, client.id, now, ends)
        answer = {
            "access_token": signed,
            "token_type": "bearer",
            "expires_in": client.token_seconds,
            "scope": granted.scope,
        }
        if granted.patient is not None:
            answer["patient"] = granted.patient
        return JSONResponse(answer, headers=_NO_STORE)

    async def introspect(self, request: Request) -> Response:
        """Tell a client whether a token of its own is good; one with kap/clients of any in its clinic."""
        form = await _form(request)
        client = await self._authenticated(form)
        try:
            claims = await self._believed(form.get("token", ""))
        except TokenRefused:
            return JSONResponse({"active": False}, headers=_NO_STORE)
        others = MANAGE_CLIENTS in client.scope.split() and claims["kap_tenant"] == client.tenant
        if claims["client_id"] != client.id and not others:
            return JSONResponse({"active": False}, headers=_NO_STORE)
        return JSONResponse({**claims, "active": True, "token_type": "Bearer"}, headers=_NO_STORE)

    async def revoke(self, request: Request) -> Response:
        """Take a token of the client's own back; what is none is as good as taken back (RFC 7009, section 2.2)."""
        form = await _form(request)
        client = await self._authenticated(form)
        try:
            claims = await self._believed(form.get("token", ""))
        except TokenRefused:
            return Response(status_code=200, headers=_NO_STORE)
        await self.held.revoke(str(claims["jti"]), self.clock(), client=client.id)
        return Response(status_code=200, headers=_NO_STORE)

    # What administrators ask

    async def register(self, request: Request) -> Response:
        """Register a client of the administrator's clinic."""
        manager = await self._manager(request)
        said = await _json(request)
        unknown = sorted(said.keys() - _KNOWN_METADATA)
        if unknown:
            raise OAuthRefusal("invalid_client_metadata", f"'{unknown[0][:64]}' is not known here.")
        client = self._registration(said, manager["kap_tenant"])
        await self.held.put_client(client)
        return JSONResponse(_described(client), status_code=201, headers=_NO_STORE)

    def _registration(self, said: Mapping[str, Any], tenant: str) -> Client:
        def text(name: str) -> str | None:
            value = said.get(name)
            if value is not None and (not isinstance(value, str) or len(value) > LONGEST_BODY):
                raise OAuthRefusal("invalid_client_metadata", f"{name} is a text.")
            return value

        if said.get("token_endpoint_auth_method", "private_key_jwt") != "private_key_jwt":
            raise OAuthRefusal("invalid_client_metadata", "token_endpoint_auth_method is private_key_jwt here.")
        if said.get("grant_types", ["client_credentials"]) != ["client_credentials"]:
            raise OAuthRefusal("invalid_client_metadata", "grant_types are client_credentials here.")
        seconds = said.get("kap_token_seconds", USUAL_TOKEN_SECONDS)
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= MOST_TOKEN_SECONDS:
            raise OAuthRefusal("invalid_client_metadata", f"kap_token_seconds is 1 to {MOST_TOKEN_SECONDS}.")
        jwks, uri = said.get("jwks"), text("jwks_uri")
        if (jwks is None) == (uri is None):
            raise OAuthRefusal("invalid_client_metadata", "Give the public keys: jwks, or jwks_uri; one of them.")
        if jwks is not None:
            try:
                key_set(jwks)
            except KeysRefused as error:
                raise OAuthRefusal("invalid_client_metadata", str(error)) from None
        elif not _fetchable(str(uri)):
            raise OAuthRefusal("invalid_client_metadata", "jwks_uri is an https URL (http on this machine only).")
        scope, role = text("scope") or "", text("kap_role")
        require_registrable(scope, role, self.roles)
        return Client(
            id=new_id(),
            tenant=tenant,
            name=text("client_name") or "unnamed",
            jwks=jwks,
            jwks_uri=uri,
            scope=scope,
            role=role,
            user=text("kap_user"),
            patient=text("kap_patient"),
            acts_for_others=False,
            token_seconds=seconds,
            created_at=self.clock(),
        )

    async def clients(self, request: Request) -> Response:
        """List the clinic's clients."""
        manager = await self._manager(request)
        found = await self.held.clients(manager["kap_tenant"])
        return JSONResponse({"clients": [_described(one) for one in found]}, headers=_NO_STORE)

    async def disable(self, request: Request) -> Response:
        """Disable a client and take its tokens back."""
        manager = await self._manager(request)
        if not await self.held.disable_client(manager["kap_tenant"], request.path_params["id"], self.clock()):
            raise OAuthRefusal("invalid_request", "There is no such client.", status=404)
        return Response(status_code=204, headers=_NO_STORE)

    async def turn(self, request: Request) -> Response:
        """Turn the signing keys; ``?compromised=true`` publishes the others no more."""
        await self._manager(request)
        kid = await self.signing.turn(self.clock(), compromised=request.query_params.get("compromised") == "true")
        return JSONResponse({"kid": kid}, status_code=201, headers=_NO_STORE)

    # Who asks

    async def _authenticated(self, form: Mapping[str, str]) -> Client:
        """Return the client whose assertion this is, which counts once.

        Raises:
            OAuthRefusal: it is not one, or was used before. The same words for a client that is not known.

        """
        if form.get("client_assertion_type") != BY_ASSERTION or not form.get("client_assertion"):
            raise OAuthRefusal("invalid_client", f"Send a client_assertion of the type {BY_ASSERTION}.", status=401)
        assertion = form["client_assertion"]
        try:
            kid = header_of(assertion)["kid"]
            named = unverified(assertion).get("iss")
            if named == OPERATOR and self.operator is not None:
                await self.held.put_client(self.operator)
            client = await self.held.client(named) if isinstance(named, str) else None
            if client is None or client.disabled_at is not None:
                raise TokenRefused("There is no such client, or the assertion was not signed by a key of it.")
            keys = key_set(client.jwks) if client.jwks is not None else await self._keys_at(client, kid)
            if not known(keys, kid):
                raise TokenRefused("There is no such client, or the assertion was not signed by a key of it.")
            audience = (f"{self.issuer}/auth/token", self.issuer)
            now = self.clock().timestamp()
            claims = verified(assertion, keys, issuer=client.id, audience=audience, now=now)
        except (TokenRefused, KeysRefused, Unavailable) as error:
            raise OAuthRefusal("invalid_client", f"The assertion is refused. {error}", status=401) from None
        jti = claims.get("jti")
        if claims.get("sub") != client.id or not isinstance(jti, str) or not jti:
            raise OAuthRefusal("invalid_client", "The assertion needs sub, the client's id, and a jti.", status=401)
        if claims["exp"] > now + LONGEST_ASSERTION + LEEWAY:
            raise OAuthRefusal("invalid_client", "The assertion lives longer than five minutes.", status=401)
        if not await self.held.first_use(client.id, jti, datetime.fromtimestamp(claims["exp"] + LEEWAY, UTC)):
            raise OAuthRefusal("invalid_client", "The assertion was used before. Make a new one each time.", status=401)
        return client

    async def _keys_at(self, client: Client, kid: str) -> Any:
        uri = str(client.jwks_uri)
        if uri not in self._published:
            self._published[uri] = Keys(Fetched(at_url(self.client, uri)))
        return await self._published[uri].holding(kid)

    async def _believed(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token that was given here and is good.

        Raises:
            TokenRefused: any other.

        """
        now = self.clock()
        keys = key_set(await self.signing.jwks(now))
        claims = verified(token, keys, issuer=self.issuer, audience=self.audience, now=now.timestamp())
        if not await self.held.is_good(str(claims.get("jti")), now):
            raise TokenRefused("The token was taken back.")
        return claims

    async def _manager(self, request: Request) -> Mapping[str, Any]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise TokenRefused("Send a token: 'Authorization: Bearer ...'.", error=None)
            claims = await self._believed(token.strip())
        except TokenRefused as error:
            raise OAuthRefusal("invalid_token", error.why, status=401) from None
        if MANAGE_CLIENTS not in str(claims["scope"]).split():
            raise OAuthRefusal("insufficient_scope", f"This needs the scope {MANAGE_CLIENTS}.", status=403)
        return claims


def operator(jwks: Mapping[str, Any], tenant: str, now: datetime) -> Client:
    """Return the client of who runs the installation: for `./kap token`, and to register the first others."""
    return Client(
        id=OPERATOR,
        tenant=tenant,
        name="Who runs the installation",
        jwks=jwks,
        jwks_uri=None,
        scope=" ".join((*EVERYTHING, *sorted(OTHERS))),
        role=None,
        user=None,
        patient=None,
        acts_for_others=True,
        token_seconds=MOST_TOKEN_SECONDS,
        created_at=now,
    )


def _described(client: Client) -> dict[str, Any]:
    told = {
        "client_id": client.id,
        "client_name": client.name,
        "jwks": client.jwks,
        "jwks_uri": client.jwks_uri,
        "scope": client.scope,
        "kap_role": client.role,
        "kap_user": client.user,
        "kap_patient": client.patient,
        "kap_token_seconds": client.token_seconds,
        "client_id_issued_at": int(client.created_at.timestamp()),
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "kap_disabled": None if client.disabled_at is None else True,
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _fetchable(url: str) -> bool:
    parts = urlsplit(url)
    here = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}
    return bool(parts.hostname) and (parts.scheme == "https" or here) and "@" not in parts.netloc


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_BODY:
            raise OAuthRefusal("invalid_request", f"More than {LONGEST_BODY} bytes.", status=413)
    return body


async def _form(request: Request) -> dict[str, str]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        raise OAuthRefusal("invalid_request", "Send application/x-www-form-urlencoded.")
    try:
        pairs = parse_qsl((await _body(request)).decode(), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        raise OAuthRefusal("invalid_request", "The form cannot be read.") from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise OAuthRefusal("invalid_request", "A parameter is there twice.")
    return dict(pairs)


async def _json(request: Request) -> dict[str, Any]:
    try:
        value = parse(await _body(request))
    except BadRequest:
        value = None
    if not isinstance(value, dict):
        raise OAuthRefusal("invalid_client_metadata", "Send a JSON object.")
    return value


def _refusing(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint with its refusals as RFC 6749, section 5.2, has them."""

    async def refusing(request: Request) -> Response:
        try:
            return await answer(request)
        except OAuthRefusal as error:
            headers = dict(_NO_STORE)
            if error.status == httpx.codes.UNAUTHORIZED:
                headers["WWW-Authenticate"] = f'Bearer realm="kap", error="{error.error}"'
            told = {"error": error.error, "error_description": error.why}
            return JSONResponse(told, status_code=error.status, headers=headers)

    return refusing
