"""What the issuer's endpoints have in common: its name, tables, keys and clock; and whose token is believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from services.identity.rules.refusal import OAuthRefusal
from services.identity.signing import Signing
from shared.security.audit import say
from shared.security.keys import key_set
from shared.security.roles import Roles
from shared.security.tokens import TokenRefused, verified
from shared.store.identity import Identities
from shared.store.logins import Logins

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Context:
    """What all of the issuer knows.

    Attributes:
        issuer: its own URL, without a slash at its end.
        audience: what its tokens are for: the FHIR bases of the installation.
        held: clients, keys and tokens.
        logins: people, and what they let apps do.
        signing: the keys.
        roles: of the policy.
        clock: what time it is.

    """

    issuer: str
    audience: tuple[str, ...]
    held: Identities
    logins: Logins
    signing: Signing
    roles: Roles
    clock: Clock = field(default=lambda: datetime.now(UTC))

    async def believed(self, token: str) -> Mapping[str, Any]:
        """Return the claims of an access token that was given here and is good.

        Raises:
            TokenRefused: any other.

        """
        now = self.clock()
        keys = key_set(await self.signing.jwks(now))
        claims = verified(token, keys, issuer=self.issuer, audience=self.audience, now=now.timestamp())
        if not await self.held.is_good(str(claims.get("jti")), now):
            raise TokenRefused("The token was taken back.")
        return claims

    async def bearer(self, request: Request, scope: str) -> Mapping[str, Any]:
        """Return the claims of the token that a request carries.

        Raises:
            OAuthRefusal: it has none, or one without `scope`.

        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise TokenRefused("Send a token: 'Authorization: Bearer ...'.", error=None)
            claims = await self.believed(token.strip())
        except TokenRefused as error:
            raise OAuthRefusal("invalid_token", error.why, status=401) from None
        names = {"client": "client_id", "user": "fhirUser", "role": "kap_role", "tenant": "kap_tenant"}
        say(**{name: claims[claim] for name, claim in names.items() if isinstance(claims.get(claim), str)})
        if scope not in str(claims["scope"]).split():
            raise OAuthRefusal("insufficient_scope", f"This needs the scope {scope}.", status=403)
        return claims
