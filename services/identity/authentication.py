"""Which client asks at the token endpoint: by its assertion, its secret, or (a public one) by its name alone.

Source: https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html,
https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-symmetric.html, RFC 6749 section 2.3.1
"""

from __future__ import annotations

import hmac
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote_plus

import httpx
from joserfc.jwk import KeySet
from starlette.requests import Request

from services.identity.context import Context
from services.identity.rules.clients import LONGEST_ASSERTION
from services.identity.rules.refusal import OAuthRefusal
from shared.fhir.outcome import Unavailable
from shared.security.audit import say
from shared.security.keys import Fetched, Keys, KeysRefused, at_url, key_set, known
from shared.security.tokens import LEEWAY, TokenRefused, header_of, unverified, verified
from shared.store.identity import Client
from shared.store.logins import digest_of

BY_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
OPERATOR: Final = "operator"
"""The id of the client of who runs the installation."""

MOST_PUBLISHED: Final = 1000
"""URLs of clients' keys that are remembered with what is there."""

_NOBODY: Final = "There is no such client, or this is not how it shows who it is."


@dataclass(frozen=True, slots=True)
class Authentication:
    """Tells which client asks.

    Attributes:
        context: of the issuer.
        client: asks for keys of clients at their URLs, outside of the network only; follows no redirect.
        operator: the client of who runs the installation; None: there is none.

    """

    context: Context
    client: httpx.AsyncClient
    operator: Client | None = None
    _published: dict[str, Keys] = field(default_factory=dict)

    async def known(self, request: Request, form: Mapping[str, str], *, public: bool = False) -> Client:
        """Return the client; `public`: one that has nothing to show may ask this, too.

        Raises:
            OAuthRefusal: it is not one. The same words for a client that is not known.

        """
        client = await self._shown(request, form, public=public)
        say(tenant=client.tenant, client=client.id)
        return client

    async def _shown(self, request: Request, form: Mapping[str, str], *, public: bool) -> Client:
        basic = request.headers.get("authorization", "")
        ways = [basic[:6].lower() == "basic ", "client_assertion" in form, "client_secret" in form]
        if sum(ways) > 1 or ways[2]:
            raise OAuthRefusal(
                "invalid_client", "Show who you are in one way: an assertion, or HTTP Basic.", status=401
            )
        if ways[0]:
            return await self._by_secret(basic[6:], form.get("client_id"))
        if ways[1]:
            client = await self._by_assertion(form)
            if form.get("client_id", client.id) != client.id:
                raise OAuthRefusal("invalid_client", _NOBODY, status=401)
            return client
        named = await self.context.held.client(form["client_id"]) if public and "client_id" in form else None
        if named is None or named.disabled_at is not None or named.method != "none":
            said = _NOBODY if "client_id" in form else f"Send a client_assertion of the type {BY_ASSERTION}."
            raise OAuthRefusal("invalid_client", said, status=401)
        return named

    async def _by_secret(self, encoded: str, said: str | None) -> Client:
        try:
            text = b64decode(encoded.strip(), validate=True).decode()
        except (NotBase64, ValueError):
            raise OAuthRefusal("invalid_client", _NOBODY, status=401) from None
        id_, _, secret = text.partition(":")
        client = await self.context.held.client(unquote_plus(id_))
        held = client.secret if client is not None and client.secret is not None else bytes(32)
        same = hmac.compare_digest(digest_of(unquote_plus(secret)), held)
        if client is None or not same or client.disabled_at is not None or client.method != "client_secret_basic":
            raise OAuthRefusal("invalid_client", _NOBODY, status=401)
        if said is not None and said != client.id:
            raise OAuthRefusal("invalid_client", _NOBODY, status=401)
        return client

    async def _by_assertion(self, form: Mapping[str, str]) -> Client:
        """Return the client whose assertion this is, which counts once.

        Raises:
            OAuthRefusal: it is not one, or was used before.

        """
        if form.get("client_assertion_type") != BY_ASSERTION or not form.get("client_assertion"):
            raise OAuthRefusal("invalid_client", f"Send a client_assertion of the type {BY_ASSERTION}.", status=401)
        assertion, held = form["client_assertion"], self.context.held
        try:
            kid = header_of(assertion)["kid"]
            named = unverified(assertion).get("iss")
            if named == OPERATOR and self.operator is not None:
                await held.put_client(self.operator)
            client = await held.client(named) if isinstance(named, str) else None
            if client is not None:  # whose name was taken, whoever took it
                say(tenant=client.tenant, what=(f"client {client.id}",))
            if client is None or client.disabled_at is not None or client.method != "private_key_jwt":
                raise TokenRefused("There is no such client, or the assertion was not signed by a key of it.")
            keys = key_set(client.jwks) if client.jwks is not None else await self._published_by(client, kid)
            if not known(keys, kid):
                raise TokenRefused("There is no such client, or the assertion was not signed by a key of it.")
            audience = (f"{self.context.issuer}/auth/token", self.context.issuer)
            now = self.context.clock().timestamp()
            claims = verified(assertion, keys, issuer=client.id, audience=audience, now=now)
        except (TokenRefused, KeysRefused, Unavailable) as error:
            raise OAuthRefusal("invalid_client", f"The assertion is refused. {error}", status=401) from None
        jti = claims.get("jti")
        if claims.get("sub") != client.id or not isinstance(jti, str) or not jti:
            raise OAuthRefusal("invalid_client", "The assertion needs sub, the client's id, and a jti.", status=401)
        if claims["exp"] > now + LONGEST_ASSERTION + LEEWAY:
            raise OAuthRefusal("invalid_client", "The assertion lives longer than five minutes.", status=401)
        if not await held.first_use(client.id, jti, datetime.fromtimestamp(claims["exp"] + LEEWAY, UTC)):
            raise OAuthRefusal("invalid_client", "The assertion was used before. Make a new one each time.", status=401)
        return client

    async def _published_by(self, client: Client, kid: str) -> KeySet:
        """Return the keys at a client's URL; of what is there nothing is told but that they are not.

        Raises:
            TokenRefused: they are not to be had.

        """
        uri = str(client.jwks_uri)
        if uri not in self._published:
            if len(self._published) >= MOST_PUBLISHED:
                self._published.pop(next(iter(self._published)))
            self._published[uri] = Keys(Fetched(at_url(self.client, uri)))
        try:
            return await self._published[uri].holding(kid)
        except (Unavailable, KeysRefused):
            raise TokenRefused("The client's keys are not to be had at its jwks_uri.") from None
