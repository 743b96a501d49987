"""What a person does with his own account: another password, and an end of what he let apps do.

GET  /auth/account    who is signed in, and which apps he let in; or the login
POST /auth/account    signs in, for no app
POST /auth/password   another password, for who gives the one he has (and a one-time code, where he has them)
POST /auth/apps       ends what one app was let do, with every token that came of it

Each form goes on only in the browser it was made for, and from a page of the issuer's own (`door`).
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from services.identity import pages
from services.identity.context import Context
from services.identity.door import BROWSER, SESSION, Door, NotIn, account, see
from services.identity.rules.launch import OF_LAUNCH, in_words
from services.identity.rules.logins import require_password
from services.identity.rules.refusal import OAuthRefusal
from services.identity.tokens import new_secret
from shared.security.audit import say
from shared.store.logins import LetIn, Person

GONE = "This page has ended, or was opened in another browser. Open it again."


@dataclass(frozen=True, slots=True)
class Account:
    """Shows people their accounts."""

    context: Context
    door: Door

    async def page(self, request: Request) -> Response:
        """Show who is signed in and what he let apps do; where nobody is, the login."""
        person = await self._person(request)
        return self._login(request) if person is None else await self._shown(request, person)

    def _login(self, request: Request, *, name: str = "", refused: NotIn | None = None) -> Response:
        browser = self.door.cookie(request, BROWSER) or new_secret()
        wrong, status = (None, 200) if refused is None else (str(refused), refused.status)
        page = pages.account_login(self.door.mark(browser), name=name, wrong=wrong, status=status)
        page.headers.update({} if refused is None else refused.headers)
        self.door.keep(page, BROWSER, browser)
        return page

    async def login(self, request: Request) -> Response:
        """Sign somebody in to his account."""
        said = await self.door.said(request)
        if said is None or not self.door.marked(request, said, BROWSER):
            return pages.problem(GONE, status=403)
        try:
            person = await self.door.enter(request, said)
        except NotIn as error:
            return self._login(request, name=said.get("name", "").strip().lower(), refused=error)
        answer = see("account")
        await self.door.begin(answer, person)
        return answer

    async def password(self, request: Request) -> Response:
        """Give the person who is signed in another password; his other logins and what apps were let do end."""
        said = await self.door.said(request)
        person = await self._person(request)
        if said is None or person is None or not self.door.marked(request, said, SESSION):
            return pages.problem(GONE, status=403)
        account(person)
        new = said.get("new", "")
        if new != said.get("again") or new == said.get("password"):
            wrong = "The new password is the one you have." if new == said.get("password") else "They are not the same."
            return await self._shown(request, person, wrong=wrong, status=400)
        try:  # what is wrong with the new one is told before the code, which counts once, is used up
            require_password(new, person.name, code=person.totp is not None)
            await self.door.enter(request, {**said, "name": person.name}, person.tenant)
        except NotIn as error:
            return await self._shown(request, person, wrong=str(error), status=error.status, headers=error.headers)
        except OAuthRefusal as error:
            return await self._shown(request, person, wrong=error.why, status=400)
        logins = self.context.logins
        await logins.set_password(person.id, await self.door.passwords.hashed(new))
        await logins.sign_out_everywhere(person.id, self.door.now(), disable=False)
        answer = see("account")
        await self.door.begin(answer, person)
        return answer

    async def end(self, request: Request) -> Response:
        """End what the person who is signed in let one app do."""
        said = await self.door.said(request)
        person = await self._person(request)
        if said is None or person is None or not self.door.marked(request, said, SESSION):
            return pages.problem(GONE, status=403)
        account(person)
        now = self.door.now()
        found = [one for one in await self.context.logins.let_in(person.id, now) if one.grant.id == said.get("app")]
        if found:
            say(what=(f"grant {found[0].grant.id}", f"client {found[0].grant.client}"))
            await self.context.logins.end_grant(found[0].grant.id, now)
        return see("account")

    async def _person(self, request: Request) -> Person | None:
        session = await self.door.session(request)
        return None if session is None else await self.context.logins.person(session.person)

    async def _shown(
        self,
        request: Request,
        person: Person,
        *,
        wrong: str | None = None,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> Response:
        mark = self.door.mark(self.door.cookie(request, SESSION) or "")
        apps = [_told(one, person) for one in await self.context.logins.let_in(person.id, self.door.now())]
        page = pages.account(person.name, mark, apps, code=person.totp is not None, wrong=wrong, status=status)
        page.headers.update(headers or {})
        return page


def _told(one: LetIn, person: Person) -> pages.AppLetIn:
    """Return what a person is shown of an app that he let in."""
    patient = person.user.startswith("Patient/")
    scopes = [scope for scope in one.grant.scope.split() if scope not in OF_LAUNCH]
    return pages.AppLetIn(
        one.grant.id,
        one.app,
        [in_words(scope, patient=patient) for scope in scopes],
        since=one.grant.began_at,
        until=one.grant.ends_at,
        used=one.used_at,
    )
