"""The authorization endpoint: an app sends a person here, who logs in and lets it in, or does not.

GET, POST /auth/authorize   the app's request; leads to the pages
GET, POST /auth/login       name, password, one-time code
GET, POST /auth/consent     what the app asks for; leads back to it
GET, POST /auth/logout      ends the login, and what was let do for as long as it lasts (online_access)

Nothing leads to a redirect URI that is not registered letter for letter. A request is bound to the browser that brought
it, by a cookie: nobody can have another go on with his (CSRF on login). The answer names the issuer (RFC 9207).

Source: https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html, RFC 6749 section 4.1, RFC 9700
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from services.identity import pages
from services.identity.asking import NO_STORE, once, pairs, with_query
from services.identity.context import Context
from services.identity.door import BROWSER, GONE, SEE_OTHER, SESSION, Door, NotIn, account, see
from services.identity.rules.launch import (
    CODE_SECONDS,
    OF_LAUNCH,
    OFFLINE,
    OFFLINE_DAYS,
    ONLINE,
    REQUEST_SECONDS,
    AppRequest,
    PromptRefused,
    app_request,
    chosen,
    in_words,
    needs_patient,
    offered,
    patient_id,
)
from services.identity.rules.refusal import OAuthRefusal
from services.identity.tokens import new_secret
from shared.fhir.ids import new_id
from shared.security.audit import say
from shared.security.roles import scopes_of
from shared.store.identity import Client
from shared.store.logins import Code, Grant, Pending, Person, Session


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request with its client, and who is to answer it."""

    flow: str
    pending: Pending
    client: Client
    person: Person | None
    session: Session | None

    @property
    def asked(self) -> Any:
        return self.pending.asked

    @property
    def context(self) -> Any:
        return self.pending.asked["context"]


@dataclass(frozen=True, slots=True)
class Authorize:
    """Has people let apps in."""

    context: Context
    door: Door

    async def authorize(self, request: Request) -> Response:
        """Take an app's request and lead its person to the pages."""
        try:
            said = once(request.query_params.multi_items() if request.method == "GET" else await pairs(request))
        except OAuthRefusal as error:
            return pages.problem(error.why)
        client = await self.context.held.client(said.get("client_id", ""))
        redirect = said.get("redirect_uri", "")
        if client is None or client.disabled_at is not None or redirect not in client.redirect_uris:
            return pages.problem("The app that sent you here is not registered, or not with this redirect_uri.")
        try:
            asked = app_request(said, redirect, client.scope, client.grants, self.context.audience)
            session = await self._session(request, asked)
            context = await self._launched(asked, client)
        except PromptRefused as error:
            return self._back(redirect, said.get("state", ""), error=error.error, error_description=error.why)
        flow, browser, now = new_secret(), self.door.cookie(request, BROWSER) or new_secret(), self._now()
        ends = now + timedelta(seconds=REQUEST_SECONDS)
        kept = {**asdict(asked), "prompt": sorted(asked.prompt), "context": context}
        await self.context.logins.begin_request(flow, browser, client.id, kept, now, ends)
        if session is not None:
            await self.context.logins.answered_by(flow, session)
        answer = see(f"{'login' if session is None else 'consent'}?flow={flow}")
        self.door.keep(answer, BROWSER, browser)
        return answer

    async def _session(self, request: Request, asked: AppRequest) -> Session | None:
        session, now = await self.door.session(request), self._now()
        if asked.prompt == {"none"}:
            error = "login_required" if session is None else "consent_required"
            raise PromptRefused(error, "Somebody has to be asked.")
        if session is None or {"login", "select_account"} & asked.prompt:
            return None
        if asked.max_age is not None and (now - session.began_at).total_seconds() > asked.max_age:
            return None
        return session

    async def _launched(self, asked: AppRequest, client: Client) -> dict[str, Any]:
        if asked.launch is None:
            return {}
        found = await self.context.logins.use_launch(asked.launch, client.tenant, self._now())
        if found is None or found.get("client_id", client.id) != client.id:
            raise PromptRefused(
                "invalid_request", "There is no such launch for this app, or it was used, or has ended."
            )
        return dict(found)

    # Logging in

    async def login_page(self, request: Request) -> Response:
        """Show the login."""
        waiting = await self._waiting(request, request.query_params.get("flow", ""))
        if waiting is None:
            return pages.problem(GONE)
        if waiting.person is not None:
            return see(f"consent?flow={waiting.flow}")
        return pages.login(waiting.client.name, waiting.flow)

    async def login(self, request: Request) -> Response:
        """Log somebody in."""
        said = await self.door.said(request)
        waiting = None if said is None else await self._waiting(request, said.get("flow", ""))
        if said is None or waiting is None:
            return pages.problem(GONE, status=403)
        app, flow, name = waiting.client.name, waiting.flow, said.get("name", "").strip().lower()
        say(tenant=waiting.client.tenant, client=waiting.client.id)
        try:
            person = await self.door.enter(request, said, waiting.client.tenant)
        except NotIn as error:
            page = pages.login(app, flow, name=name, wrong=str(error), status=error.status)
            page.headers.update(error.headers)
            return page
        if waiting.context.get("fhir_user", person.user) != person.user:
            say(reason="launched by somebody else")
            return pages.login(app, flow, wrong="The app was launched by somebody else than you.", status=403)
        answer = see(f"consent?flow={flow}")
        await self.context.logins.answered_by(flow, await self.door.begin(answer, person))
        return answer

    async def logout_page(self, request: Request) -> Response:
        """Show who is signed in."""
        session = await self.door.session(request)
        person = None if session is None else await self.context.logins.person(session.person)
        return pages.sign_out(None if person is None else person.name)

    async def logout(self, request: Request) -> Response:
        """End a login."""
        said = await self.door.said(request)
        if said is None:
            return pages.problem(GONE, status=403)
        secret, session = self.door.cookie(request, SESSION), await self.door.session(request)
        person = None if session is None else await self.context.logins.person(session.person)
        if person is not None:
            account(person)
        waiting = await self._waiting(request, said.get("flow", ""))
        if waiting is not None:
            await self.context.logins.answered_by(waiting.flow, None)
        if secret is not None:
            await self.context.logins.end_session(secret, self._now())
        answer = see("logout" if waiting is None else f"login?flow={waiting.flow}")
        self.door.forget(answer, SESSION)
        return answer

    # Letting in

    async def consent_page(self, request: Request) -> Response:
        """Show what an app asks for."""
        waiting = await self._waiting(request, request.query_params.get("flow", ""))
        if waiting is None:
            return pages.problem(GONE)
        if waiting.person is None:
            return see(f"login?flow={waiting.flow}")
        return self._ask(waiting, waiting.person)

    def _ask(self, waiting: _Waiting, person: Person, *, wrong: str | None = None) -> Response:
        scopes = self._offered(waiting, person)
        if not any(one not in OF_LAUNCH for one in scopes) and "openid" not in scopes:
            return pages.problem(
                f"{waiting.client.name} asks for nothing that {person.name} may let it do.", status=403
            )
        patient = person.user.startswith("Patient/")
        told = [(one, in_words(one, patient=patient)) for one in scopes if one not in ("launch", "launch/patient")]
        return pages.consent(
            waiting.client.name,
            waiting.flow,
            person.name,
            told,
            waiting.asked["redirect_uri"],
            ask_patient=self._patient(waiting, person) is None and needs_patient(" ".join(scopes)),
            wrong=wrong,
            status=200 if wrong is None else 400,
        )

    async def consent(self, request: Request) -> Response:
        """Send the person's answer to the app."""
        if not self.door.is_own(request):
            return pages.problem(GONE, status=403)
        fields = await pairs(request)
        said = {name: value for name, value in fields if name != "scope"}
        waiting = await self._waiting(request, said.get("flow", ""))
        if waiting is None or waiting.person is None or waiting.session is None:
            return pages.problem(GONE, status=403)
        person, asked = waiting.person, waiting.asked
        account(person)
        say(client=waiting.client.id)
        scope = chosen(self._offered(waiting, person), [value for name, value in fields if name == "scope"])
        if said.get("decision") != "allow" or not set(scope.split()) - {"launch", "launch/patient"}:
            await self.context.logins.end_request(waiting.flow)
            say(reason="access_denied")
            return self._back(
                asked["redirect_uri"], asked["state"], error="access_denied", error_description="Nothing was allowed."
            )
        patient = self._patient(waiting, person)
        if patient is None and needs_patient(scope):
            patient = patient_id(said.get("patient", ""))
            if patient is None:
                return self._ask(waiting, person, wrong="Say which patient it is about, by the id in the record.")
        if not await self.context.logins.end_request(waiting.flow):
            return pages.problem(GONE, status=403)
        code = await self._granted(waiting, person, waiting.session, scope, patient)
        return self._back(asked["redirect_uri"], asked["state"], code=code)

    async def _granted(
        self, waiting: _Waiting, person: Person, session: Session, scope: str, patient: str | None
    ) -> str:
        asked, now, code = waiting.asked, self._now(), new_secret()
        offline, online = OFFLINE in scope.split(), ONLINE in scope.split()
        ends = now + timedelta(days=OFFLINE_DAYS) if offline else session.expires_at
        grant = Grant(
            id=new_id(),
            client=waiting.client.id,
            person=person.id,
            scope=scope,
            patient=patient,
            context=waiting.context,
            auth_at=session.began_at,
            session=session.digest if online and not offline else None,
            began_at=now,
            ends_at=ends,
        )
        until = now + timedelta(seconds=CODE_SECONDS)
        given = Code(grant, asked["redirect_uri"], asked["challenge"], asked["nonce"], until)
        await self.context.logins.add_grant(grant, code, given)
        say(what=(f"grant {grant.id}", f"scope {scope}"), **({} if patient is None else {"patients": (patient,)}))
        return code

    def _offered(self, waiting: _Waiting, person: Person) -> tuple[str, ...]:
        role = scopes_of(self.context.roles, person.role, person.user)
        return offered(waiting.asked["scope"], waiting.client.scope, role, patient=person.user.startswith("Patient/"))

    def _patient(self, waiting: _Waiting, person: Person) -> str | None:
        if person.user.startswith("Patient/"):
            return person.user.removeprefix("Patient/")
        named: str | None = waiting.context.get("patient")
        return named

    # Who is there

    async def _waiting(self, request: Request, flow: str) -> _Waiting | None:
        browser = self.door.cookie(request, BROWSER)
        pending = None if browser is None else await self.context.logins.pending(flow, browser, self._now())
        client = None if pending is None else await self.context.held.client(pending.client)
        if pending is None or client is None or client.disabled_at is not None:
            return None
        session = await self.door.session(request)
        if session is None or pending.session != session.digest:
            return _Waiting(flow, pending, client, None, None)
        person = await self.context.logins.person(session.person)
        if person is None or person.role not in self.context.roles or person.tenant != client.tenant:
            return _Waiting(flow, pending, client, None, None)
        if waiting_for_another(pending, person):
            return _Waiting(flow, pending, client, None, None)
        return _Waiting(flow, pending, client, person, session)

    # Answers

    def _back(self, redirect: str, state: str, **said: str) -> Response:
        """Send the person back to the app."""
        told = {**said, **({"state": state} if state else {}), "iss": self.context.issuer}
        headers = {**NO_STORE, "Referrer-Policy": "no-referrer"}
        return RedirectResponse(with_query(redirect, told), status_code=SEE_OTHER, headers=headers)

    def _now(self) -> Any:
        return self.context.clock()


def waiting_for_another(pending: Pending, person: Person) -> bool:
    """Tell whether a launch is of somebody else than who is logged in."""
    return bool(pending.asked["context"].get("fhir_user", person.user) != person.user)
