"""Paging links that never expire, hold every parameter, reveal nothing, and cannot be made by anyone else.

A link is ``<base>/<Type>?_page=<token>``; the token is the search as it was given and the store's cursor, sealed with
AES-256-GCM (NIST SP 800-38D) under the service's key and bound to the tenant and the path it was made for. What the
caller may see is judged anew at every page.
"""

from __future__ import annotations

import json
import os
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.fhir.outcome import BadRequest

PAGE_PARAMETER = "_page"
_NONCE = 12
_LONGEST = 16 * 1024
_FORM = b"\x01"


@dataclass(frozen=True, slots=True)
class PageToken:
    """A place in a search or a history: the parameters as understood, and the store's cursor."""

    given: tuple[tuple[str, str], ...]
    cursor: str


class PageLinks:
    """Seals and opens page tokens under one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    # A link is as long whatever the store's cursor says: only what the caller gave himself is compressed.

    def seal(self, token: PageToken, *, tenant: str, path: str) -> str:
        """Return `token` as URL-safe text, good for `tenant` and `path` (``Observation``, ``Patient/1/_history``)."""
        given = zlib.compress(json.dumps(token.given).encode())
        plain = _FORM + len(given).to_bytes(4) + given + token.cursor.encode()
        nonce = os.urandom(_NONCE)
        sealed = nonce + self._cipher.encrypt(nonce, plain, _bound_to(tenant, path))
        return urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, text: str, *, tenant: str, path: str) -> PageToken:
        """Return the token that was sealed.

        Raises:
            BadRequest: not a token made here for this tenant and path.

        """
        try:
            if len(text) > _LONGEST:
                raise ValueError(text)
            sealed = urlsafe_b64decode(text + "=" * (-len(text) % 4))
            plain = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound_to(tenant, path))
        except (NotBase64, InvalidTag, ValueError):
            raise BadRequest(
                f"This {PAGE_PARAMETER} was not made by this server for this search. Follow links as they are.",
                code="value",
                expression=[f"http.{PAGE_PARAMETER}"],
            ) from None
        if plain[:1] == _FORM:
            end = 5 + int.from_bytes(plain[1:5])
            given, cursor = json.loads(zlib.decompress(plain[5:end])), plain[end:].decode()
        else:  # a link that was made before: zlib's first byte is 0x78
            given, cursor = json.loads(zlib.decompress(plain))
        return PageToken(tuple((name, value) for name, value in given), cursor)


def _bound_to(tenant: str, path: str) -> bytes:
    return f"{tenant} {path}".encode()
