"""How people log in: what a password has to be, how often it may be tried. Pure.

Source: NIST SP 800-63B-4, sections 3.1.1 (length, no composition rules), 3.2.2 (limits); RFC 6238 (one-time codes)
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from services.identity.rules.refusal import OAuthRefusal

SHORTEST_WITH_CODE: Final = 8
"""Characters of a password that is not enough alone: a one-time code is asked for, too."""

SHORTEST_ALONE: Final = 15
LONGEST_PASSWORD: Final = 256
LEAST_DIFFERENT: Final = 5
LONGEST_NAME: Final = 100

TRIES: Final = 5
"""Failed tries of one account, whether it exists or not, within `WITHIN`: then it is closed until that has passed."""

TRIES_OF_ADDRESS: Final = 50
WITHIN: Final = timedelta(minutes=15)

STEP: Final = 30
"""Seconds of a one-time code."""


def require_password(password: str, name: str, *, code: bool) -> None:
    """Pass a password that is hard enough to guess; `code`: a one-time code is asked for beside it.

    Raises:
        OAuthRefusal: it is not; says why.

    """
    least = SHORTEST_WITH_CODE if code else SHORTEST_ALONE
    if not least <= len(password) <= LONGEST_PASSWORD:
        raise OAuthRefusal("invalid_request", f"A password has {least} to {LONGEST_PASSWORD} characters here.")
    if len(set(password.lower())) < LEAST_DIFFERENT or name.lower() in password.lower():
        raise OAuthRefusal(
            "invalid_request", "The password is easy to guess: it repeats itself, or has the name in it."
        )


def require_name(name: str) -> str:
    """Return a name to log in by, in lower case.

    Raises:
        OAuthRefusal: it is none.

    """
    name = name.strip().lower()
    if not 2 < len(name) <= LONGEST_NAME or not name.isprintable() or " " in name:
        raise OAuthRefusal("invalid_request", f"A name to log in by has 3 to {LONGEST_NAME} characters and no space.")
    return name


def steps(now: float) -> tuple[int, ...]:
    """Return the time steps whose codes are taken at `now` (seconds since 1970): this one, and one to each side."""
    step = int(now // STEP)
    return (step - 1, step, step + 1)
