"""Envelope encryption: what belongs to one patient is sealed under a key of his own, and that key under another's.

The key of the installation (`kek`) lies in a file and never in a database; a patient's key is stored wrapped by it.
AES-256-GCM throughout, a random nonce of 96 bits before each ciphertext. What a sealed text is about (whose, which
version) is authenticated with it: a row that is moved or exchanged does not open.

Source: NIST SP 800-38D (GCM); NIST SP 800-57 part 1, section 5.3 (keys that wrap keys).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class KeyringError(ValueError):
    """The file of keys cannot be used; the message is for who runs the installation."""


class SealBroken(RuntimeError):
    """What is stored is not what was sealed: it was changed, moved, or sealed under another key."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """The installation's keys by id: `current` wraps, the others unwrap what they wrapped before."""

    current: str
    keys: Mapping[str, bytes]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the keys of a file: a line each, 32 bytes in base64, the current one first.

        Raises:
            KeyringError: there is no such file, or it holds something else.

        """
        try:
            lines = path.read_text(encoding="ascii").split()
            found = [base64.b64decode(line, validate=True) for line in lines]
        except (OSError, UnicodeDecodeError, binascii.Error) as error:
            raise KeyringError(f"{path} cannot be read as keys, 32 bytes in base64 a line: {error}") from None
        if not found or any(len(key) != KEY_BYTES for key in found):
            raise KeyringError(f"{path} must hold keys of 32 bytes in base64, a line each: openssl rand -base64 32")
        return cls(_id_of(found[0]), {_id_of(key): key for key in found})

    def wrap(self, key: bytes, about: str) -> bytes:
        """Return a key wrapped by the current one; `about` says whose it is."""
        return seal(self.keys[self.current], key, about)

    def unwrap(self, kek: str, wrapped: bytes, about: str) -> bytes:
        """Return a wrapped key.

        Raises:
            KeyringError: the key that wrapped it is not in the file any more.
            SealBroken: it is not what was wrapped.

        """
        if kek not in self.keys:
            raise KeyringError(f"The key {kek} is missing in the file of keys. Put it back, after the current one.")
        return opened(self.keys[kek], wrapped, about)


def new_key() -> bytes:
    """Return a new key."""
    return token_bytes(KEY_BYTES)


def seal(key: bytes, text: bytes, about: str) -> bytes:
    """Return `text` sealed, with what it is about."""
    nonce = token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, text, about.encode())


def opened(key: bytes, sealed: bytes, about: str) -> bytes:
    """Return what was sealed.

    Raises:
        SealBroken: it was changed, is about something else, or was sealed under another key.

    """
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about.encode())
    except (InvalidTag, ValueError) as error:
        raise SealBroken("A sealed text does not open: it was changed, moved or sealed under another key.") from error


def _id_of(key: bytes) -> str:
    return hashlib.sha256(b"kap kek" + key).hexdigest()[:16]
