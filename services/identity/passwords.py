"""Passwords and one-time codes: made, checked, and tried so often only.

argon2id by argon2-cffi with the parameters of RFC 9106, section 4 (64 MiB): in threads, two at a time, so that guesses
of strangers take neither the event loop nor the memory. One-time codes are RFC 6238's, by pyotp.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import pyotp
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from services.identity.context import Context
from services.identity.rules.logins import TRIES, TRIES_OF_ADDRESS, WITHIN, steps
from shared.security.envelope import opened, seal
from shared.store.logins import Person

AT_ONCE: Final = 2
HASHER: Final = PasswordHasher()
NOBODYS: Final = "$argon2id$v=19$m=65536,t=3,p=4$c29tZWJvZHllbHNlc2FsdA$7fJ1DyMuqdxH1Qeh1pW7rdrDp2XN7gBc2yS6bVhFVRY"
"""Of no password: what is checked for a name that nobody has takes as long as for one that somebody has."""

ISSUER_NAME: Final = "KAP Exchange"


class TooManyTries(Exception):
    """An account or an address was tried too often; `seconds` until it may be tried again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Too many tries. Wait {seconds} s.")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Passwords:
    """Checks who logs in."""

    context: Context
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def hashed(self, password: str) -> str:
        """Return what is kept of a password."""
        async with self._turns:
            return await asyncio.to_thread(HASHER.hash, password)

    async def check(self, name: str, password: str, code: str, address: str) -> Person | None:
        """Return who logs in; None where name, password and code do not belong together, whichever of them is wrong.

        Raises:
            TooManyTries: nothing was checked.

        """
        logins, now = self.context.logins, self.context.clock()
        account, place = f"account {name}", f"address {address}"
        until = await logins.try_login({account: TRIES, place: TRIES_OF_ADDRESS}, now, WITHIN)
        if until is not None:
            raise TooManyTries(max(1, int((until - now).total_seconds())))
        person = await logins.named(name)
        kept = NOBODYS if person is None else person.password
        right = await self._is(kept, password)
        if person is None or not right or person.disabled_at is not None:
            return None
        if person.totp is not None and not await self._code_is_right(person, code, now):
            return None
        await logins.succeeded((account, place), now)
        if HASHER.check_needs_rehash(person.password):
            await logins.set_password(person.id, await self.hashed(password))
        return person

    async def _is(self, kept: str, password: str) -> bool:
        async with self._turns:
            try:
                return await asyncio.to_thread(HASHER.verify, kept, password)
            except (VerificationError, InvalidHashError):
                return False

    async def _code_is_right(self, person: Person, code: str, now: datetime) -> bool:
        secret = opened(self.context.signing.secret, person.totp or b"", _about(person.id)).decode()
        code = "".join(code.split())
        totp = pyotp.TOTP(secret)
        for step in steps(now.timestamp()):
            if pyotp.utils.strings_equal(totp.generate_otp(step), code):
                return await self.context.logins.first_use_of_step(person.id, step)
        return False

    def new_codes(self, id_: str, name: str) -> tuple[bytes, str]:
        """Return the sealed secret of a person's one-time codes, and the ``otpauth:`` address that an app reads."""
        secret = pyotp.random_base32()
        sealed = seal(self.context.signing.secret, secret.encode(), _about(id_))
        return sealed, pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=ISSUER_NAME)


def _about(id_: str) -> str:
    return f"one-time codes of {id_}"
