"""An app that a patient lets in: SMART App Launch with PKCE, as a browser and an app do it, over HTTP.

It reads the patient's own record, is refused another's, and asks who saw the patient's.

Source: https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from cli.audit import checked, disclosures, of_stack
from cli.demo.client import FHIR_JSON, DemoError
from cli.stack.operator import Wanted
from cli.stack.ports import GATEWAY, IDENTITY
from cli.stack.stack import Stack
from shared.security.scopes import MANAGE_CLIENTS, MANAGE_USERS

SCOPE: Final = "launch/patient openid fhirUser patient/*.rs"
BACK: Final = "http://127.0.0.1/back"
"""Where the app would be sent back to; nobody listens there, the address alone is read."""

Token = Callable[[Wanted], httpx.Auth | None]


@dataclass(frozen=True, slots=True)
class AppSaw:
    """What the app was answered: of the patient's own record how much, of another's which status.

    `rows` and `services`: how much the audits say of who saw the record, and of how many services.
    """

    observations: int
    others: int
    rows: int
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audited:
    """What was told of the patient outside; of all services, in how many rows, whose chain is broken."""

    disclosed: int
    checked: int
    broken: tuple[str, ...]


async def app_of(stack: Stack, patient: str, token: Token) -> AppSaw:
    """Have a patient (``Patient/<id>``) let an app in; registers both for it, and lets neither in afterwards.

    Raises:
        DemoError: something was not answered as it should be.

    """
    ports = stack.ports()
    id_ = patient.partition("/")[2]
    issuer, fhir = f"{ports.url(IDENTITY)}/auth", ports.fhir(GATEWAY)
    async with httpx.AsyncClient(trust_env=False, timeout=30, headers={"Accept": FHIR_JSON}) as http:
        office, people, prescriber = (
            token(wanted) or httpx.Auth()
            for wanted in (Wanted(scope=MANAGE_CLIENTS), Wanted(scope=MANAGE_USERS), Wanted(role="prescriber"))
        )
        another = await _another(http, fhir, id_, prescriber)
        said = {"client_name": "The patient's app", "redirect_uris": [BACK], "token_endpoint_auth_method": "none"}
        app = _json(await http.post(f"{issuer}/register", json={**said, "scope": SCOPE}, auth=office), 201)["client_id"]
        login = {"name": f"demo-{id_[-12:]}".lower(), "password": secrets.token_urlsafe(18)}
        person = {**login, "fhir_user": patient, "role": "patient", "totp": False}
        added = await http.post(f"{issuer}/users", json=person, auth=people)
        if added.status_code == httpx.codes.CONFLICT:  # from a demo before: nobody has two accounts
            again = {"password": login["password"]}
            _json(await http.post(f"{issuer}/users/{login['name']}", json=again, auth=people), 200)
        else:
            _json(added, 201)
        try:
            given = await _let_in(http, fhir, app, login)
            http.headers["Authorization"] = f"Bearer {given}"
            return await _seen(http, fhir, id_, another)
        finally:
            http.headers.pop("Authorization", None)
            await http.delete(f"{issuer}/users/{login['name']}", auth=people)
            await http.delete(f"{issuer}/clients/{app}", auth=office)


async def audited(stack: Stack, patient: str) -> Audited:
    """Check every service's audit, and count what of a patient was told outside."""
    found = await checked(stack, of_stack(stack))
    told = await disclosures(stack, patient.partition("/")[2])
    broken = tuple(sorted(name for name, one in found.items() if one.broken))
    return Audited(len(told), sum(one.rows for one in found.values()), broken)


async def _let_in(http: httpx.AsyncClient, fhir: str, app: str, login: dict[str, str]) -> str:
    """Send the patient from the app to the issuer and back; return the app's token."""
    places = _json(await http.get(f"{fhir}/.well-known/smart-configuration"), 200)
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "response_type": "code",
        "client_id": app,
        "redirect_uri": BACK,
        "scope": SCOPE,
        "state": state,
        "aud": fhir,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    page = await _page(http, await http.get(places["authorization_endpoint"], params=asked))
    page = await _page(http, await _sent(http, page, "login", login))
    answer = await _sent(http, page, "consent", {"decision": "allow"})
    back = parse_qs(urlsplit(answer.headers.get("location", "")).query)
    if back.get("state") != [state] or "code" not in back:
        raise DemoError(f"The app was not let in ({answer.status_code}).")
    form = {
        "grant_type": "authorization_code",
        "code": back["code"][0],
        "redirect_uri": BACK,
        "client_id": app,
        "code_verifier": verifier,
    }
    return str(_json(await http.post(places["token_endpoint"], data=form), 200)["access_token"])


async def _seen(http: httpx.AsyncClient, fhir: str, id_: str, another: str) -> AppSaw:
    if _json(await http.get(f"{fhir}/Patient/{id_}"), 200).get("id") != id_:
        raise DemoError("The app does not see the patient who let it in.")
    own = _json(await http.get(f"{fhir}/Observation", params={"patient": id_, "_summary": "count"}), 200)
    others = await http.get(f"{fhir}/Patient/{another}")
    trail = _json(await http.get(f"{fhir}/AuditEvent", params={"patient": id_, "_count": "1000"}), 200)
    services = {entry["resource"]["source"]["observer"]["display"] for entry in trail.get("entry", ())}
    return AppSaw(int(own["total"]), others.status_code, int(trail["total"]), tuple(sorted(services)))


async def _another(http: httpx.AsyncClient, fhir: str, id_: str, auth: httpx.Auth) -> str:
    """Return another patient's id; where there is none, one that nobody has: the answer is the same."""
    found = _json(await http.get(f"{fhir}/Patient", params={"_count": "2"}, auth=auth), 200)
    ids = [entry["resource"]["id"] for entry in found.get("entry", ())]
    return next((one for one in ids if one != id_), "another")


class _Forms(HTMLParser):
    """The forms of a page: by action, its fields."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: dict[str, dict[str, list[str]]] = {}
        self._fields: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a form or a field in."""
        said = dict(attrs)
        if tag == "form":
            self._fields = self.forms.setdefault(said.get("action") or "", {})
        elif tag == "input" and said.get("name"):
            self._fields.setdefault(str(said["name"]), []).append(said.get("value") or "")


async def _sent(http: httpx.AsyncClient, page: httpx.Response, action: str, said: dict[str, str]) -> httpx.Response:
    """Fill a page's form in and send it."""
    fields = _Forms(page.text).forms.get(action)
    if fields is None:
        raise DemoError(f"The issuer shows no form to {action} ({page.status_code}).")
    return await http.post(urljoin(str(page.url), action), data={**fields, **said})


async def _page(http: httpx.AsyncClient, answer: httpx.Response) -> httpx.Response:
    """Follow the issuer to its next page."""
    if answer.status_code != httpx.codes.SEE_OTHER:
        return answer
    return await http.get(urljoin(str(answer.url), answer.headers["location"]))


def _json(answer: httpx.Response, status: int) -> dict[str, Any]:
    if answer.status_code != status:
        raise DemoError(f"{answer.request.method} {answer.url.path} was answered {answer.status_code}.")
    said: dict[str, Any] = answer.json()
    return said
