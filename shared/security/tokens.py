"""JSON Web Tokens: what is checked before anything in one is believed. Thin over joserfc.

A token is refused with a reason that says what is wrong with it, and nothing of what it would have led to.
Source: RFC 7519, RFC 8725 (algorithms by the key's own kind, never by what the token says), RFC 9068.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from binascii import Error as NotBase64
from collections.abc import Collection, Mapping
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from shared.fhir.outcome import Unauthorized
from shared.security.keys import known

ALGORITHMS: Final = ("ES256", "ES384", "RS256", "RS384", "PS256", "PS384")
"""Signatures by a private key only: a shared secret (HS256) could be made of a public key, `none` of nothing."""

LEEWAY: Final = 5
"""Seconds that two clocks may be apart."""

LONGEST: Final = 8192
"""Bytes of a token."""


class TokenRefused(Unauthorized):
    """401 with a `WWW-Authenticate` that says what is wrong with the token (RFC 6750, section 3)."""

    def __init__(self, why: str, *, error: str | None = "invalid_token") -> None:
        super().__init__(why)
        self.why = why
        self.error = error

    @property
    def headers(self) -> dict[str, str]:
        """`WWW-Authenticate`."""
        told = "" if self.error is None else f', error="{self.error}", error_description="{_quoted(self.why)}"'
        return {"WWW-Authenticate": f'Bearer realm="kap"{told}'}


def _quoted(text: str) -> str:
    return "".join(one for one in text if " " <= one <= "~" and one not in '"\\')


def header_of(token: str) -> Mapping[str, Any]:
    """Return a token's header, which nobody vouches for yet: to find the key it says it was signed by.

    Raises:
        TokenRefused: not a signed token at all.

    """
    parts = token.split(".")
    if len(token) > LONGEST or len(parts) != 3 or not all(parts):
        raise TokenRefused("This is not a signed JSON Web Token of at most 8192 bytes.")
    try:
        header = json.loads(urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4)))
    except (NotBase64, ValueError, RecursionError):
        raise TokenRefused("The token's header cannot be read.") from None
    if not isinstance(header, dict) or header.get("alg") not in ALGORITHMS:
        raise TokenRefused(f"The token has to be signed by one of {', '.join(ALGORITHMS)}.")
    if "crit" in header or not isinstance(header.get("kid"), str):
        raise TokenRefused("The token's header has to name its key (kid), and may ask for nothing critical.")
    return header


def verified(
    token: str,
    keys: KeySet,
    *,
    issuer: str,
    audience: Collection[str],
    now: float,
    algorithms: Collection[str] = ALGORITHMS,
) -> Mapping[str, Any]:
    """Return the claims of a token that one of `keys` signed, for one of `audience`, and that is good at `now`.

    Args:
        token: as it came.
        keys: the issuer's.
        issuer: who must have issued it.
        audience: our names; one of them must be in `aud`.
        now: seconds since 1970.
        algorithms: the signatures that are taken.

    Raises:
        TokenRefused: anything else.

    """
    header = header_of(token)
    kid = header["kid"]
    if not known(keys, kid):
        raise TokenRefused("The token was signed by a key that its issuer does not publish.")
    key = next(one for one in keys.keys if one.kid == kid)
    said = key.get("alg")
    if header["alg"] not in algorithms or (said is not None and said != header["alg"]):
        raise TokenRefused("The token was signed in another way than its key is for.")
    try:
        claims = jwt.decode(token, key, algorithms=list(algorithms)).claims
    except (JoseError, ValueError, TypeError):
        raise TokenRefused("The token's signature is not right.") from None
    _check(claims, issuer, audience, now)
    return claims


def _check(claims: Mapping[str, Any], issuer: str, audience: Collection[str], now: float) -> None:
    times = {name: _time(claims[name]) for name in ("exp", "nbf", "iat") if name in claims}
    said = claims.get("iss")
    if not isinstance(said, str) or said.rstrip("/") != issuer.rstrip("/"):  # Auth0's names end with a slash
        raise TokenRefused("The token is of another issuer.")
    given = claims.get("aud")
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not any(name in audience for name in names if isinstance(name, str)):
        raise TokenRefused("The token is for another audience.")
    if "exp" not in times:
        raise TokenRefused("The token does not say when it ends.")
    if times["exp"] <= now - LEEWAY:
        raise TokenRefused("The token has expired. Ask for a new one.")
    if any(times[name] > now + LEEWAY for name in ("nbf", "iat") if name in times):
        raise TokenRefused("The token is not good yet: it is dated in the future.")


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRefused("The token's times are not numbers.")
    return value


def unverified(token: str) -> Mapping[str, Any]:
    """Return what a token says, which nobody vouches for: to find whose keys it is to be checked by.

    Raises:
        TokenRefused: it cannot be read.

    """
    part = token.split(".")[1]
    try:
        claims = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (NotBase64, ValueError, RecursionError):
        raise TokenRefused("The token's claims cannot be read.") from None
    if not isinstance(claims, dict):
        raise TokenRefused("The token's claims are not a JSON object.")
    return claims
