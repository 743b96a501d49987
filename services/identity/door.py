"""How people get in by a browser: their cookies, the forms of the issuer's own pages, a login and what the audit says.

A form goes on only in the browser it was made for, and only from a page of the issuer's own: nobody can have another
send it (CSRF), and nobody can have another log in as himself.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from services.identity.asking import NO_STORE, form
from services.identity.context import Context
from services.identity.passwords import Passwords, TooManyTries
from services.identity.rules.launch import SESSION_SECONDS
from services.identity.tokens import new_secret
from shared.security.audit import say
from shared.store.logins import Person, Session

SEE_OTHER: Final = 303
GONE: Final = "This page has ended, or was opened in another browser. Go back to the app and begin again."
BROWSER: Final = "browser"
SESSION: Final = "session"
_WRONG: Final = "Name, password and one-time code do not belong together. A code counts once."


class NotIn(Exception):
    """Somebody did not get in; the message is for him.

    Attributes:
        status: of the page that says so.
        seconds: until he may try again, where he may not now.

    """

    def __init__(self, why: str, *, status: int, seconds: int | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.seconds = seconds

    @property
    def headers(self) -> dict[str, str]:
        """Of the page that says so."""
        return {} if self.seconds is None else {"Retry-After": str(self.seconds)}


@dataclass(frozen=True, slots=True)
class Door:
    """Lets people in."""

    context: Context
    passwords: Passwords

    # Who is there

    async def session(self, request: Request) -> Session | None:
        """Return the login of a request's browser, if it is good."""
        secret = self.cookie(request, SESSION)
        return None if secret is None else await self.context.logins.session(secret, self.now())

    async def enter(self, request: Request, said: dict[str, str], tenant: str | None = None) -> Person:
        """Return who gets in by a form's name, password and code; `tenant`: of this clinic alone.

        The audit says whose account it was, whether he gets in or not; a name that nobody has in the clinic stays out
        of it, for it may be a password.

        Raises:
            NotIn: nobody does.

        """
        name, address = said.get("name", "").strip().lower(), "" if request.client is None else request.client.host
        named = await self.context.logins.named(name)
        if named is not None and tenant in (None, named.tenant):
            account(named)
        try:
            person = await self.passwords.check(name, said.get("password", ""), said.get("code", ""), address)
        except TooManyTries as error:
            say(reason="closed after too many tries")
            minutes = -(-error.seconds // 60)
            why = f"There were too many tries. Wait {minutes} minute{'' if minutes == 1 else 's'}, and try again."
            raise NotIn(why, status=429, seconds=error.seconds) from None
        if person is None or tenant not in (None, person.tenant):
            say(reason="not the name, password and code of one account")
            raise NotIn(_WRONG, status=401)
        return person

    async def begin(self, answer: Response, person: Person) -> Session:
        """Begin a login of a person, in the browser that an answer goes to."""
        secret, now = new_secret(), self.now()
        session = await self.context.logins.begin_session(
            secret, person.id, now, now + timedelta(seconds=SESSION_SECONDS)
        )
        self.keep(answer, SESSION, secret, seconds=SESSION_SECONDS)
        return session

    # Forms

    async def said(self, request: Request) -> dict[str, str] | None:
        """Return a form; None where it was not sent from a page of the issuer's own."""
        return await form(request) if self.is_own(request) else None

    def is_own(self, request: Request) -> bool:
        """Tell whether a form was sent from a page of the issuer's own."""
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        parts = urlsplit(self.context.issuer)
        own = f"{parts.scheme}://{parts.netloc}"
        return (site is None or site == "same-origin") and (origin is None or origin == own)

    def mark(self, secret: str) -> str:
        """Return what a form bears that goes on only with this cookie."""
        return hmac.new(self.context.signing.secret, f"form {secret}".encode(), hashlib.sha256).hexdigest()

    def marked(self, request: Request, said: dict[str, str], cookie: str) -> bool:
        """Tell whether a form was made for the browser that sends it."""
        secret = self.cookie(request, cookie)
        return secret is not None and hmac.compare_digest(self.mark(secret).encode(), said.get("form", "").encode())

    # Cookies

    def cookie(self, request: Request, name: str) -> str | None:
        """Return what a browser holds for us."""
        return request.cookies.get(self._named(name))

    def keep(self, answer: Response, name: str, value: str, *, seconds: int | None = None) -> None:
        """Have a browser hold something: for so many seconds, or until it is closed."""
        answer.set_cookie(
            self._named(name), value, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="lax"
        )

    def forget(self, answer: Response, name: str) -> None:
        """Have a browser hold something no more."""
        answer.delete_cookie(self._named(name), path="/", secure=self._secure, httponly=True, samesite="lax")

    def _named(self, name: str) -> str:
        return f"{'__Host-' if self._secure else ''}kap-{name}"

    @property
    def _secure(self) -> bool:
        return self.context.issuer.startswith("https://")

    def now(self) -> datetime:
        """Return the time."""
        return self.context.clock()


def account(person: Person) -> None:
    """Have the audit say whose account it is."""
    parts: dict[str, Any] = {"tenant": person.tenant, "user": person.user, "role": person.role}
    type_, _, id_ = person.user.partition("/")
    if type_ == "Patient":
        parts["patients"] = (id_,)
    say(**parts, what=(f"person {person.id}",))


def see(where: str) -> Response:
    """Return what leads to another page of the issuer's own."""
    return RedirectResponse(where, status_code=SEE_OTHER, headers=dict(NO_STORE))
