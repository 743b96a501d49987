"""The token endpoint and what follows a token: introspection, revocation.

POST /auth/token        client_credentials; authorization_code with PKCE; refresh_token
POST /auth/introspect   whether a token is good, and what it says (RFC 7662)
POST /auth/revoke       takes a token back (RFC 7009)

A code and a refresh token count once. Where one comes a second time somebody else may have it: all that came of the
same permission is taken back (RFC 6749, section 4.1.2; RFC 9700, sections 2.1.1 and 4.14).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_urlsafe
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.identity.asking import NO_STORE, form
from services.identity.authentication import OPERATOR, Authentication
from services.identity.context import Context
from services.identity.rules.clients import Asked, Registered, clinic_asked_for, grant
from services.identity.rules.launch import (
    FHIR_USER,
    OFFLINE,
    OFFLINE_IDLE_DAYS,
    ONLINE,
    OPENID,
    PROFILE,
    SESSION_SECONDS,
    narrowed,
    offered,
    require_verifier,
)
from services.identity.rules.refusal import OAuthRefusal
from shared.fhir.ids import new_id
from shared.fhir.outcome import BadRequest
from shared.security.audit import say
from shared.security.bearer import GRANT, OF_CLINIC
from shared.security.roles import scopes_of
from shared.security.scopes import MANAGE_CLIENTS, ScopeRefused, wider_than
from shared.security.tokens import TokenRefused
from shared.store.identity import Client
from shared.store.logins import Grant, Person

SECRET_BYTES: Final = 32
"""Of everything that is to be known by one alone: 256 random bits."""

_TOLD: Final = ("encounter", "intent", "need_patient_banner")
"""Of a launch's context, what the app is told in the answer, as it is."""


def new_secret() -> str:
    """Return a secret."""
    return token_urlsafe(SECRET_BYTES)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Gives tokens to the clients that `clients` knows."""

    context: Context
    clients: Authentication

    async def token(self, request: Request) -> Response:
        """Give a token."""
        said = await form(request)
        kind = said.get("grant_type", "")
        ways = {
            "client_credentials": self._by_credentials,
            "authorization_code": self._by_code,
            "refresh_token": self._by_refresh,
        }
        if kind not in ways:
            raise OAuthRefusal("unsupported_grant_type", f"grant_type is one of {', '.join(ways)}.")
        if kind == "refresh_token" and "client_id" not in said:
            said = await self._with_client(said)
        client = await self.clients.known(request, said, public=kind != "client_credentials")
        if kind not in client.grants:
            raise OAuthRefusal("unauthorized_client", f"This client is not registered for {kind}.")
        return JSONResponse(await ways[kind](client, said), headers=NO_STORE)

    async def _with_client(self, said: dict[str, str]) -> dict[str, str]:
        """Name the client that a refresh token is of, where it is public: it need not say (RFC 6749, section 6)."""
        found = await self.context.logins.refresh(said.get("refresh_token", ""))
        client = None if found is None else await self.context.held.client(found[0].client)
        return said if client is None or client.method != "none" else {**said, "client_id": client.id}

    async def _by_credentials(self, client: Client, said: Mapping[str, str]) -> dict[str, Any]:
        asked = Asked(said.get("scope", ""), said.get("kap_role"), said.get("kap_user"), said.get("kap_patient"))
        operates = client.id == OPERATOR
        registered = Registered(
            client.scope, client.role, client.user, client.patient, client.acts_for_others, operates
        )
        granted = grant(registered, asked, self.context.roles)
        clinic = clinic_asked_for(client.tenant, said.get("kap_tenant"), operates=operates)
        named = {"kap_tenant": clinic, "kap_role": granted.role, "fhirUser": granted.user, "patient": granted.patient}
        claims: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        if operates and granted.role is None:
            claims[OF_CLINIC] = True
        answer = await self._signed(client, client.id, granted.scope, claims)
        if granted.patient is not None:
            answer["patient"] = granted.patient
        return answer

    async def _by_code(self, client: Client, said: Mapping[str, str]) -> dict[str, Any]:
        logins, now = self.context.logins, self.context.clock()
        text = said.get("code", "")
        code = await logins.code(text)
        if code is None or code.grant.client != client.id or said.get("redirect_uri") != code.redirect_uri:
            raise OAuthRefusal("invalid_grant", "There is no such code for this client and this redirect_uri.")
        say(what=(f"grant {code.grant.id}",))
        require_verifier(said.get("code_verifier", ""), code.challenge)
        if not await logins.use_code(text, now):
            if now < code.expires_at + timedelta(hours=1):
                await logins.end_grant(code.grant.id, now)
            raise OAuthRefusal("invalid_grant", "The code was used, or has ended. What came of it is taken back.")
        return await self._of_person(client, code.grant, code.grant.scope, nonce=code.nonce, with_id=True)

    async def _by_refresh(self, client: Client, said: Mapping[str, str]) -> dict[str, Any]:
        logins, now = self.context.logins, self.context.clock()
        text = said.get("refresh_token", "")
        found = await logins.refresh(text)
        if found is None or found[0].client != client.id:
            raise OAuthRefusal("invalid_grant", "There is no such refresh token for this client.")
        given, _ = found
        say(what=(f"grant {given.id}",))
        scope = narrowed(given.scope, said.get("scope"))
        good = await logins.is_refreshable(text, now)
        if not await logins.use_refresh(text, now) or not good:
            await logins.end_grant(given.id, now)
            raise OAuthRefusal(
                "invalid_grant", "The refresh token was used before, or has ended. What came of it is taken back."
            )
        return await self._of_person(client, given, scope, with_id=False)

    async def _of_person(
        self, client: Client, given: Grant, scope: str, *, with_id: bool, nonce: str | None = None
    ) -> dict[str, Any]:
        person = await self.context.logins.person(given.person)
        if person is None or person.disabled_at is not None:
            raise OAuthRefusal("invalid_grant", "Who gave this permission does not get in any more.")
        scope = self._allowed_now(client, person, scope)
        claims = {"kap_role": person.role, "fhirUser": person.user}
        if given.patient is not None:
            claims["patient"] = given.patient
        answer = await self._signed(client, person.id, scope, claims, given=given.id)
        if given.patient is not None:
            answer["patient"] = given.patient
        answer.update({name: given.context[name] for name in _TOLD if name in given.context})
        if with_id and OPENID in scope.split():
            answer["id_token"] = await self._id_token(client, given, person, nonce)
        if {OFFLINE, ONLINE} & set(given.scope.split()):
            now, refresh = self.context.clock(), new_secret()
            idle = timedelta(days=OFFLINE_IDLE_DAYS) if given.session is None else timedelta(seconds=SESSION_SECONDS)
            await self.context.logins.add_refresh(refresh, given.id, min(now + idle, given.ends_at))
            answer["refresh_token"] = refresh
        return answer

    def _allowed_now(self, client: Client, person: Person, scope: str) -> str:
        """Return what of `scope` the client's registration and the person's role still have.

        Raises:
            OAuthRefusal: nothing.

        """
        try:
            role = scopes_of(self.context.roles, person.role, person.user)
        except BadRequest as error:
            raise OAuthRefusal("invalid_grant", str(error)) from None
        found = offered(scope, client.scope, role, patient=person.user.startswith("Patient/"))
        if not found:
            raise OAuthRefusal("invalid_grant", "Who gave this permission may do nothing of it any more.")
        return " ".join(found)

    async def still_gives(self, scope: str, held: Mapping[str, str | None]) -> bool:
        """Tell whether a token of these scopes would be given now to whom it was.

        A registration, a policy's role or a person's may allow less by now. `held`: `client`, `grant`, and as which
        `role`, `user` and `patient`.
        """
        client = await self.context.held.client(held.get("client") or "")
        if client is None:
            return False
        of_whom = (held.get("role"), held.get("user"), held.get("patient"))
        try:
            given = await self.context.logins.grant(held.get("grant") or "")
            if given is not None:
                person = await self.context.logins.person(given.person)
                if person is None or (person.role, person.user, given.patient) != of_whom:
                    return False
                allowed = self._allowed_now(client, person, scope)
                return not wider_than(scope, [allowed]) and not wider_than(scope, [client.scope])
            registered = Registered(
                client.scope, client.role, client.user, client.patient, client.acts_for_others, client.id == OPERATOR
            )
            asked = Asked(scope, *of_whom) if client.acts_for_others else Asked(scope)
            granted = grant(registered, asked, self.context.roles)
        except (OAuthRefusal, ScopeRefused):
            return False
        return (granted.role, granted.user, granted.patient) == of_whom

    async def _signed(
        self, client: Client, subject: str, scope: str, more: Mapping[str, Any], *, given: str | None = None
    ) -> dict[str, Any]:
        now = self.context.clock()
        ends = now + timedelta(seconds=client.token_seconds)
        jti = new_id()
        claims: dict[str, Any] = {
            "iss": self.context.issuer,
            "sub": subject,
            "aud": list(self.context.audience),
            "client_id": client.id,
            "iat": _seconds(now),
            "nbf": _seconds(now),
            "exp": _seconds(ends),
            "jti": jti,
            "scope": scope,
            "kap_tenant": client.tenant,
            **({} if given is None else {GRANT: given}),
            **more,
        }
        signed = await self.context.signing.sign(claims, now)
        if not await self.context.held.note_token(jti, client.id, now, ends, grant=given):
            raise OAuthRefusal("invalid_grant", "This permission was taken back.")
        return {"access_token": signed, "token_type": "bearer", "expires_in": client.token_seconds, "scope": scope}

    async def _id_token(self, client: Client, given: Grant, person: Person, nonce: str | None) -> str:
        now = self.context.clock()
        claims: dict[str, Any] = {
            "iss": self.context.issuer,
            "sub": person.id,
            "aud": client.id,
            "iat": _seconds(now),
            "exp": _seconds(now + timedelta(seconds=client.token_seconds)),
            "auth_time": _seconds(given.auth_at),
        }
        if nonce is not None:
            claims["nonce"] = nonce
        scopes, user = given.scope.split(), f"{self.context.audience[0]}/{person.user}"
        if FHIR_USER in scopes:
            claims["fhirUser"] = user
        if PROFILE in scopes:
            claims["profile"] = user
        return await self.context.signing.sign_id(claims, now)

    async def introspect(self, request: Request) -> Response:
        """Tell a client whether a token of its own is good; one with kap/clients of any in its clinic."""
        said = await form(request)
        client = await self.clients.known(request, said)
        return JSONResponse(await self._told(client, said.get("token", "")), headers=NO_STORE)

    async def _told(self, client: Client, token: str) -> dict[str, Any]:
        inactive = {"active": False}
        try:
            claims = await self.context.believed(token)
        except TokenRefused:
            return await self._told_of_refresh(client, token) or inactive
        others = MANAGE_CLIENTS in client.scope.split() and claims["kap_tenant"] == client.tenant
        if claims["client_id"] != client.id and not others:
            return inactive
        told = {**claims, "active": True, "token_type": "Bearer"}
        if "fhirUser" in claims:
            told["fhirUser"] = f"{self.context.audience[0]}/{claims['fhirUser']}"
        return told

    async def _told_of_refresh(self, client: Client, token: str) -> dict[str, Any] | None:
        found = await self.context.logins.refresh(token)
        if found is None or found[0].client != client.id:
            return None
        if not await self.context.logins.is_refreshable(token, self.context.clock()):
            return None
        given, ends = found
        return {
            "active": True,
            "client_id": client.id,
            "scope": given.scope,
            "exp": _seconds(ends),
            "sub": given.person,
        }

    async def revoke(self, request: Request) -> Response:
        """Take a token of the client's own back; what is none is as good as taken back (RFC 7009, section 2.2).

        With a refresh token all ends that came of the same permission.
        """
        said = await form(request)
        client = await self.clients.known(request, said, public=True)
        token, now = said.get("token", ""), self.context.clock()
        found = await self.context.logins.refresh(token)
        if found is not None:
            if found[0].client == client.id:
                say(what=(f"grant {found[0].id}",))
                await self.context.logins.end_grant(found[0].id, now)
            return Response(status_code=200, headers=NO_STORE)
        try:
            claims = await self.context.believed(token)
        except TokenRefused:
            return Response(status_code=200, headers=NO_STORE)
        if await self.context.held.revoke(str(claims["jti"]), now, client=client.id):
            say(what=(f"token {claims['jti']}",))
        return Response(status_code=200, headers=NO_STORE)


def _seconds(at: datetime) -> int:
    return int(at.timestamp())
