"""The issuer's own keys: made, kept sealed, turned, published; and tokens signed by them.

There is one for access tokens (ES256), and one for id_tokens, which OpenID providers sign by RS256 at least. A new key
is published before it signs anything (`PUBLISHED_FIRST`), so that who keeps keys for a while knows it in time; an old
one is published until the last token it signed has ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_bytes
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwt
from joserfc.jwk import ECKey, KeyParameters, RSAKey

from services.identity.rules.clients import MOST_TOKEN_SECONDS
from shared.fhir.ids import new_id
from shared.security.keys import ASK_AGAIN
from shared.store.identity import Identities, SigningKey

ALGORITHM: Final = "ES256"
OF_ID_TOKENS: Final = "RS256"
ALGORITHMS: Final = (ALGORITHM, OF_ID_TOKENS)
RSA_BITS: Final = 2048
PUBLISHED_FIRST: Final = timedelta(seconds=2 * ASK_AGAIN)
KEPT: Final = timedelta(seconds=MOST_TOKEN_SECONDS + 60)
_NONCE: Final = 12


@dataclass(frozen=True, slots=True)
class Signing:
    """Signs with the keys in `held`, whose private halves are sealed under `secret` (32 bytes)."""

    held: Identities
    secret: bytes

    async def jwks(self, now: datetime) -> dict[str, Any]:
        """Return the public keys; makes the first where there is none."""
        return {"keys": [dict(key.public) for key in await self._keys(now)]}

    async def sign(self, claims: Mapping[str, Any], now: datetime) -> str:
        """Return an access token with these claims (RFC 9068)."""
        return await self._sign(claims, now, ALGORITHM, "at+jwt")

    async def sign_id(self, claims: Mapping[str, Any], now: datetime) -> str:
        """Return an id_token with these claims (OpenID Connect Core, section 2)."""
        return await self._sign(claims, now, OF_ID_TOKENS, "JWT")

    async def turn(self, now: datetime, *, compromised: bool = False) -> str:
        """Make new keys and retire the others; return the id of the one for access tokens.

        `compromised`: the others are published no more. Who has them believes in them for a few minutes yet
        (`shared.security.keys.FRESH`).
        """
        made = [_made(one, self.secret, now - PUBLISHED_FIRST if compromised else now) for one in ALGORITHMS]
        for key in made:
            await self.held.add_key(key)
        if compromised:
            await self.held.retire_keys([key.kid for key in made], now, now)
        return made[0].kid

    async def retire_old(self, now: datetime) -> None:
        """Retire what a newer key that signs already has taken over from."""
        able = [key for key in await self.held.keys(now) if key.retired_at is None]
        keep = {key.kid for one in ALGORITHMS for key in _of(able, one)[:1]}
        young = {key.kid for key in able if key.created_at > now - PUBLISHED_FIRST}
        if len(able) > len(keep) and not keep & young:
            await self.held.retire_keys(sorted(keep), now, now + KEPT)

    async def _sign(self, claims: Mapping[str, Any], now: datetime, algorithm: str, type_: str) -> str:
        able = [key for key in _of(await self._keys(now), algorithm) if key.retired_at is None]
        tried = [key for key in able if key.created_at <= now - PUBLISHED_FIRST] or able[-1:]
        opened = self._opened(tried[0])
        key = ECKey.import_key(opened) if algorithm == ALGORITHM else RSAKey.import_key(opened)
        header = {"alg": algorithm, "typ": type_, "kid": tried[0].kid}
        return jwt.encode(header, dict(claims), key, algorithms=[algorithm])

    async def _keys(self, now: datetime) -> list[SigningKey]:
        keys = await self.held.keys(now)
        lacking = [one for one in ALGORITHMS if not any(key.retired_at is None for key in _of(keys, one))]
        for algorithm in lacking:
            await self.held.add_key(_made(algorithm, self.secret, now), only_if_none=True)
        return await self.held.keys(now) if lacking else keys

    def _opened(self, key: SigningKey) -> dict[str, Any]:
        nonce, sealed = key.sealed[:_NONCE], key.sealed[_NONCE:]
        opened: dict[str, Any] = json.loads(AESGCM(self.secret).decrypt(nonce, sealed, key.kid.encode()))
        return opened


def _of(keys: list[SigningKey], algorithm: str) -> list[SigningKey]:
    return [key for key in keys if key.public["alg"] == algorithm]


def _made(algorithm: str, secret: bytes, now: datetime) -> SigningKey:
    kid = new_id()
    parameters: KeyParameters = {"kid": kid, "use": "sig", "alg": algorithm}
    key = (
        ECKey.generate_key(parameters=parameters)
        if algorithm == ALGORITHM
        else RSAKey.generate_key(RSA_BITS, parameters=parameters)
    )
    nonce = token_bytes(_NONCE)
    private = json.dumps(key.as_dict(private=True)).encode()
    sealed = nonce + AESGCM(secret).encrypt(nonce, private, kid.encode())
    return SigningKey(kid, key.as_dict(private=False), sealed, now, None)
