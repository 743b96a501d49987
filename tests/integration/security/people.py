"""People and apps of the tests of App Launch: a browser without scripts, an app that does as SMART says."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from dataclasses import dataclass, field
from secrets import token_urlsafe
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx
import pyotp

from tests.integration.security.clinic import BASE, ISSUER

REDIRECT = "https://app.example/back"
SCOPE = "launch/patient openid fhirUser offline_access patient/*.rs"
PASSWORD = "tulips over the viaduct"


def pkce():
    """Return a verifier and its challenge."""
    verifier = token_urlsafe(48)
    return verifier, base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def fields(page):
    """Return the forms of a page: by action, the values of its fields; a field that is there several times: a list."""
    forms = {}
    for action, inside in re.findall(r'<form method="post" action="([a-z]+)"[^>]*>(.*?)</form>', page, re.DOTALL):
        found = forms.setdefault(action, {})
        for tag in re.findall(r"<input [^>]*>", inside):
            said = dict(re.findall(r'([a-z]+)="([^"]*)"', tag))
            name, value = said["name"], html.unescape(said.get("value", ""))
            if said["type"] == "checkbox":
                found.setdefault(name, []).append(value)
            else:
                found[name] = value
    return forms


@dataclass
class Browser:
    """Somebody's browser: its cookies, and the way back to an app."""

    http: httpx.AsyncClient
    cookies: dict = field(default_factory=dict)

    async def send(self, method, url, data=None, **headers):
        """Send a request and follow the issuer's own redirects; an answer that leads to an app is returned."""
        for _ in range(5):
            sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()), **headers}
            answer = await self.http.request(method, url, data=data, headers=sent)
            for one in answer.headers.get_list("set-cookie"):
                name, _, value = one.split(";")[0].partition("=")
                self.cookies[name] = value.strip('"')
            where = urljoin(url, answer.headers.get("location", ""))
            if answer.status_code != 303 or not where.startswith(ISSUER):
                return answer
            method, url, data = "GET", where, None
        raise AssertionError("The issuer leads round in a circle.")

    async def authorize(self, **said):
        return await self.send("GET", str(httpx.URL(f"{ISSUER}/auth/authorize", params=said)))

    async def login(self, page, name, password=PASSWORD, code="", **headers):
        said = {**fields(page.text)["login"], "name": name, "password": password, "code": code}
        return await self.send("POST", f"{ISSUER}/auth/login", said, **headers)

    async def account(self, name, password=PASSWORD, code="", **headers):
        """Sign in to one's own account; return its page."""
        page = await self.send("GET", f"{ISSUER}/auth/account")
        said = {**fields(page.text)["account"], "name": name, "password": password, "code": code}
        return await self.send("POST", f"{ISSUER}/auth/account", said, **headers)

    async def consent(self, page, decision="allow", *, without=(), **more):
        said = {**fields(page.text)["consent"], "decision": decision, **more}
        said["scope"] = [one for one in said.get("scope", []) if one not in without]
        return await self.send("POST", f"{ISSUER}/auth/consent", said)


def said_to_app(answer):
    """Return what an app is told by a redirect."""
    assert answer.status_code == 303, (answer.status_code, answer.text)
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


@dataclass
class App:
    """An app that people log in to; public unless it has a secret or a key."""

    clinic: object
    id: str
    scope: str = SCOPE
    secret: str | None = None
    key: object = None
    redirect: str = REDIRECT

    def request(self, challenge, **said):
        usual = {
            "response_type": "code",
            "client_id": self.id,
            "redirect_uri": self.redirect,
            "scope": self.scope,
            "state": "s" * 22,
            "aud": BASE,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return {name: value for name, value in {**usual, **said}.items() if value is not None}

    async def token(self, **form):
        """Ask for a token as the app does."""
        auth = None if self.secret is None else (self.id, self.secret)
        if self.key is not None:
            return await self.clinic.asked("token", self.id, self.key, **form)
        if auth is None:
            form = {"client_id": self.id, **form}
        return await self.clinic.http.post(f"{ISSUER}/auth/token", data=form, auth=auth)

    async def redeem(self, code, verifier, **said):
        usual = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect,
            "code_verifier": verifier,
        }
        return await self.token(**{**usual, **said})

    async def refresh(self, token, **said):
        return await self.token(grant_type="refresh_token", refresh_token=token, **said)

    async def launched(self, name, *, browser=None, password=PASSWORD, without=(), patient=None, **said):
        """Have somebody log in and let it in; return the token endpoint's answer."""
        browser = browser or Browser(self.clinic.http)
        verifier, challenge = pkce()
        page = await browser.authorize(**self.request(challenge, **said))
        if 'action="login"' in page.text:
            page = await browser.login(page, name, password)
        answer = await browser.consent(page, without=without, **({} if patient is None else {"patient": patient}))
        told = said_to_app(answer)
        assert told["state"] == said.get("state", "s" * 22)
        return (await self.redeem(told["code"], verifier)).json()


async def app(clinic, **said):
    """Register an app."""
    key = said.pop("key", None)
    manager = await clinic.token(scope="kap/clients")
    body = {
        "client_name": "Heart & Mind",
        "redirect_uris": [REDIRECT],
        "grant_types": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_method": "none" if key is None else "private_key_jwt",
        "scope": SCOPE,
        **({} if key is None else {"jwks": {"keys": [key.as_dict(private=False)]}}),
        **said,
    }
    answer = await clinic.http.post(
        f"{ISSUER}/auth/register", json=body, headers={"Authorization": f"Bearer {manager}"}
    )
    assert answer.status_code == 201, answer.text
    told = answer.json()
    return App(clinic, told["client_id"], body["scope"], told.get("client_secret"), key, body["redirect_uris"][0])


async def person(clinic, name, user, role="patient", *, totp=False, password=PASSWORD):
    """Add somebody who logs in; return his one-time codes, where he has some."""
    manager = await clinic.token(scope="kap/users")
    answer = await clinic.http.post(
        f"{ISSUER}/auth/users",
        json={"name": name, "password": password, "fhir_user": user, "role": role, "totp": totp},
        headers={"Authorization": f"Bearer {manager}"},
    )
    assert answer.status_code == 201, answer.text
    return pyotp.parse_uri(answer.json()["totp"]) if totp else None
