"""The issuer's own keys: made, kept sealed, turned, published; and tokens signed by them.

A new key is published before it signs anything (`PUBLISHED_FIRST`), so that who keeps keys for a while knows it in
time; an old one is published until the last token it signed has ended.
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
from joserfc.jwk import ECKey

from services.identity.rules import MOST_TOKEN_SECONDS
from shared.fhir.ids import new_id
from shared.security.keys import ASK_AGAIN
from shared.store.identity import Identities, SigningKey

ALGORITHM: Final = "ES256"
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
        """Return a token with these claims."""
        able = [key for key in await self._keys(now) if key.retired_at is None]
        tried = [key for key in able if key.created_at <= now - PUBLISHED_FIRST] or able[-1:]
        key = ECKey.import_key(self._opened(tried[0]))
        return jwt.encode({"alg": ALGORITHM, "typ": "at+jwt", "kid": tried[0].kid}, dict(claims), key)

    async def turn(self, now: datetime, *, compromised: bool = False) -> str:
        """Make a new key and retire the others; return the id of the new one.

        `compromised`: the others are published no more. Who has them believes in them for a few minutes yet
        (`shared.security.keys.FRESH`).
        """
        key = self._made(now - PUBLISHED_FIRST if compromised else now)
        await self.held.add_key(key)
        if compromised:
            await self.held.retire_keys(key.kid, now, now)
        return key.kid

    async def retire_old(self, now: datetime) -> None:
        """Retire what a newer key that signs already has taken over from."""
        signing = [key for key in await self.held.keys(now) if key.retired_at is None]
        able = [key for key in signing if key.created_at <= now - PUBLISHED_FIRST]
        if len(signing) > 1 and able and able[0] is signing[0]:
            await self.held.retire_keys(able[0].kid, now, now + KEPT)

    async def _keys(self, now: datetime) -> list[SigningKey]:
        keys = await self.held.keys(now)
        if not any(key.retired_at is None for key in keys):
            await self.held.add_key(self._made(now), only_if_none=True)
            keys = await self.held.keys(now)
        return keys

    def _made(self, now: datetime) -> SigningKey:
        kid = new_id()
        key = ECKey.generate_key(parameters={"kid": kid, "use": "sig", "alg": ALGORITHM})
        nonce = token_bytes(_NONCE)
        private = json.dumps(key.as_dict(private=True)).encode()
        sealed = nonce + AESGCM(self.secret).encrypt(nonce, private, kid.encode())
        return SigningKey(kid, key.as_dict(private=False), sealed, now, None)

    def _opened(self, key: SigningKey) -> dict[str, Any]:
        nonce, sealed = key.sealed[:_NONCE], key.sealed[_NONCE:]
        opened: dict[str, Any] = json.loads(AESGCM(self.secret).decrypt(nonce, sealed, key.kid.encode()))
        return opened
