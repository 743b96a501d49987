"""Public keys: a JWKS by value or by URL, kept no longer than is said here.

Source: RFC 7517. A key that is not known is asked for again at its publisher's, at most every `ASK_AGAIN` seconds.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, Final

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from shared.fhir.outcome import Unavailable

FRESH: Final = 300.0
"""Seconds after which keys are asked for anew: so long a key lives on that was taken back at its publisher's."""

STALE: Final = 3600.0
"""Seconds for which keys are believed while their publisher does not answer."""

ASK_AGAIN: Final = 10.0
MOST_BYTES: Final = 256 * 1024
LEAST_RSA_BITS: Final = 2048

Fetch = Callable[[], Awaitable[Any]]
"""Returns JSON; raises Unavailable."""


class KeysRefused(ValueError):
    """Not a JWKS that can be used; the message is for the person who registers it."""


def key_set(jwks: object) -> KeySet:
    """Return the signing keys of a JWKS: public ones, RSA of 2048 bits or more, or EC. Others are left out.

    Raises:
        KeysRefused: not a JWKS, one with a secret in it, or one without a usable key.

    """
    if not isinstance(jwks, Mapping) or not isinstance(jwks.get("keys"), list):
        raise KeysRefused("A JWKS is a JSON object with a list 'keys' (RFC 7517).")
    keys: list[OctKey | RSAKey | ECKey | OKPKey] = []  # as KeySet has it; only RSA and EC are put in
    for one in jwks["keys"]:
        if not isinstance(one, Mapping):
            raise KeysRefused("A key of a JWKS is a JSON object (RFC 7517).")
        if {"d", "k", "p", "q"} & one.keys():
            raise KeysRefused("The JWKS has a private or a shared key in it. Give the public ones only.")
        if one.get("use", "sig") != "sig" or one.get("kty") not in ("RSA", "EC"):
            continue
        try:
            if one["kty"] == "RSA" and (bits := _bits(one["n"])) < LEAST_RSA_BITS:
                raise KeysRefused(f"An RSA key of the JWKS has {bits} bits; {LEAST_RSA_BITS} are the least.")
            key = RSAKey.import_key(dict(one)) if one["kty"] == "RSA" else ECKey.import_key(dict(one))
            _ = key.public_key  # made when it is first asked for: a point that is on no curve is refused here
        except KeysRefused:
            raise
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise KeysRefused(f"A key of the JWKS cannot be read: {type(error).__name__}.") from None
        keys.append(key)
    if not keys:
        raise KeysRefused("The JWKS has no RSA or EC key for signatures.")
    return KeySet(keys)


def _bits(modulus: str) -> int:
    return int.from_bytes(urlsafe_b64decode(modulus + "=" * (-len(modulus) % 4))).bit_length()


def known(keys: KeySet, kid: str | None) -> bool:
    """Tell whether a set has the key that a token names."""
    return any(key.kid == kid for key in keys.keys)


class Fetched:
    """A JSON document at a URL, kept for a while: fresh for `fresh` seconds, believed for `stale` without an answer."""

    def __init__(self, fetch: Fetch, *, fresh: float = FRESH, stale: float = STALE) -> None:
        self._fetch = fetch
        self._fresh, self._stale = fresh, stale
        self._value: Any = None
        self._at = self._tried = float("-inf")
        self._lock = asyncio.Lock()

    async def get(self, *, newer_than: float = float("-inf")) -> Any:
        """Return the document, at most so old; `newer_than`: asked for since that monotonic time, if it may be.

        Raises:
            Unavailable: there is none that may still be believed.

        """
        if self._good(newer_than):
            return self._value
        async with self._lock:
            if not self._good(newer_than):
                self._tried = monotonic()
                try:
                    self._value = await self._fetch()
                    self._at = monotonic()
                except Unavailable:
                    if monotonic() - self._at > self._stale:
                        raise
            return self._value

    def _good(self, newer_than: float) -> bool:
        now = monotonic()
        if now - self._at > self._stale:
            return False
        waits = now - self._tried < min(ASK_AGAIN, self._fresh)
        return waits or (now - self._at < self._fresh and self._at >= newer_than)


def at_url(client: httpx.AsyncClient, url: str) -> Fetch:
    """Return what asks for the JSON at a URL."""

    async def fetch() -> Any:
        try:
            async with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
                body = b""
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > MOST_BYTES:
                        raise Unavailable(f"{url} answers with more than {MOST_BYTES} bytes.")
            if answer.status_code != httpx.codes.OK:
                raise Unavailable(f"{url} answers {answer.status_code}.")
            return httpx.Response(200, content=body).json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"{url} does not answer with JSON ({type(error).__name__}).") from None

    return fetch


class Keys:
    """The keys of a JWKS that is asked for."""

    def __init__(self, fetched: Fetched) -> None:
        self._fetched = fetched
        self._of: tuple[Any, KeySet] | None = None

    async def holding(self, kid: str | None) -> KeySet:
        """Return the keys, asked for anew where the one that a token names is not among them.

        Raises:
            Unavailable: the publisher does not answer, or not with keys.

        """
        keys = self._read(await self._fetched.get())
        if not known(keys, kid):
            keys = self._read(await self._fetched.get(newer_than=monotonic()))
        return keys

    def _read(self, document: Any) -> KeySet:
        if self._of is None or self._of[0] is not document:
            try:
                self._of = document, key_set(document)
            except KeysRefused as error:
                raise Unavailable(f"The issuer's keys cannot be used. {error}") from None
        return self._of[1]
