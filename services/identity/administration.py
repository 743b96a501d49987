"""What administrators ask: clients (RFC 7591), people, keys, and launches by an EHR. Each needs a token for that.

POST   /auth/register             registers a client; kap/clients
GET    /auth/clients              the clients; kap/clients
DELETE /auth/clients/{id}         disables one, and takes its tokens back; kap/clients
POST   /auth/clients/{id}/rotate  another secret or other keys for one; kap/clients
POST   /auth/keys                 turns the signing keys; kap/clients of who runs the installation
POST   /auth/users                adds a person who may log in; kap/users
GET    /auth/users                the people; kap/users
POST   /auth/users/{name}         another password, other one-time codes; lets in again; kap/users
DELETE /auth/users/{name}         lets a person in no more, and ends what he let apps do; kap/users
POST   /auth/launch               registers the context of a launch, for an EHR; kap/launch
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.identity.asking import LONGEST_BODY, NO_STORE, json_object, redirectable
from services.identity.context import Context
from services.identity.passwords import Passwords
from services.identity.rules.clients import MOST_TOKEN_SECONDS, USUAL_TOKEN_SECONDS, require_registrable
from services.identity.rules.launch import LAUNCH_SECONDS, is_user, launch_context
from services.identity.rules.logins import require_name, require_password
from services.identity.rules.refusal import OAuthRefusal
from services.identity.tokens import new_secret
from shared.fhir.ids import new_id
from shared.http.outbound import Outside
from shared.security.audit import say
from shared.security.bearer import OF_CLINIC
from shared.security.keys import KeysRefused, key_set
from shared.security.scopes import LAUNCH_APPS, MANAGE_CLIENTS, MANAGE_USERS
from shared.store.identity import Client
from shared.store.logins import Person, digest_of

METHODS: Final = ("private_key_jwt", "client_secret_basic", "none")
GRANTS: Final = ("client_credentials", "authorization_code", "refresh_token")
MOST_REDIRECTS: Final = 20
_KNOWN_METADATA: Final = frozenset(
    (
        "client_name",
        "jwks",
        "jwks_uri",
        "scope",
        "grant_types",
        "response_types",
        "redirect_uris",
        "token_endpoint_auth_method",
        "kap_role",
        "kap_user",
        "kap_patient",
        "kap_token_seconds",
    )
)


@dataclass(frozen=True, slots=True)
class Administration:
    """Keeps clients, people, keys and launches; `outside`: where clients' keys may be."""

    context: Context
    passwords: Passwords
    outside: Outside

    # Clients

    async def register(self, request: Request) -> Response:
        """Register a client of the administrator's clinic."""
        manager = await self.context.bearer(request, MANAGE_CLIENTS)
        said = await json_object(request)
        unknown = sorted(said.keys() - _KNOWN_METADATA)
        if unknown:
            raise _refused(f"'{unknown[0][:64]}' is not known here.")
        client, secret = self._registration(said, manager["kap_tenant"])
        if not await self.context.held.add_client(client):
            why = f"{client.user} is the user of another account. Leave kap_user out, or name another."
            raise OAuthRefusal("invalid_client_metadata", why, status=409)
        return JSONResponse({**_described(client), **secret}, status_code=201, headers=NO_STORE)

    def _registration(self, said: Mapping[str, Any], tenant: str) -> tuple[Client, dict[str, Any]]:
        redirects = _texts(said, "redirect_uris", [])
        usual = ["authorization_code"] if redirects else ["client_credentials"]
        grants = _texts(said, "grant_types", usual)
        by_people = "authorization_code" in grants
        if not grants or set(grants) - set(GRANTS) or ("refresh_token" in grants and not by_people):
            raise _refused(f"grant_types are of {', '.join(GRANTS)}; refresh_token goes with authorization_code.")
        if _texts(said, "response_types", ["code"] if by_people else []) != (["code"] if by_people else []):
            raise _refused("response_types is code, with authorization_code.")
        _require_redirects(redirects, by_people=by_people)
        method = _text(said, "token_endpoint_auth_method") or "private_key_jwt"
        if method not in METHODS:
            raise _refused(f"token_endpoint_auth_method is one of {', '.join(METHODS)} here.")
        if method != "private_key_jwt" and "client_credentials" in grants:
            raise _refused("client_credentials goes with token_endpoint_auth_method private_key_jwt.")
        jwks, uri = _keys(said, self.outside, wanted=method == "private_key_jwt")
        seconds = said.get("kap_token_seconds", USUAL_TOKEN_SECONDS)
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= MOST_TOKEN_SECONDS:
            raise _refused(f"kap_token_seconds is 1 to {MOST_TOKEN_SECONDS}.")
        scope, role = _text(said, "scope") or "", _text(said, "kap_role")
        if by_people and any(name in said for name in ("kap_role", "kap_user", "kap_patient")):
            raise _refused("An app that people log in to has their role, user and patient, and none of its own.")
        user = _text(said, "kap_user")
        require_registrable(scope, role, user, self.context.roles, by_people=by_people)
        secret = new_secret() if method == "client_secret_basic" else None
        client = Client(
            id=new_id(),
            tenant=tenant,
            name=_text(said, "client_name") or "unnamed",
            jwks=jwks,
            jwks_uri=uri,
            scope=scope,
            role=role,
            user=user,
            patient=_text(said, "kap_patient"),
            acts_for_others=False,
            token_seconds=seconds,
            created_at=self.context.clock(),
            method=method,
            secret=None if secret is None else digest_of(secret),
            redirect_uris=tuple(redirects),
            grants=tuple(grants),
        )
        return client, {} if secret is None else {"client_secret": secret, "client_secret_expires_at": 0}

    async def clients(self, request: Request) -> Response:
        """List the clinic's clients."""
        manager = await self.context.bearer(request, MANAGE_CLIENTS)
        found = await self.context.held.clients(manager["kap_tenant"])
        return JSONResponse({"clients": [_described(one) for one in found]}, headers=NO_STORE)

    async def disable(self, request: Request) -> Response:
        """Disable a client and take its tokens back."""
        manager = await self.context.bearer(request, MANAGE_CLIENTS)
        id_, now = request.path_params["id"], self.context.clock()
        if not await self.context.held.disable_client(manager["kap_tenant"], id_, now):
            raise OAuthRefusal("invalid_request", "There is no such client.", status=404)
        return Response(status_code=204, headers=NO_STORE)

    async def rotate(self, request: Request) -> Response:
        """Give a client another secret, or other keys (``jwks``, ``jwks_uri``); what the old ones got is taken back."""
        manager = await self.context.bearer(request, MANAGE_CLIENTS)
        client = await self.context.held.client(request.path_params["id"])
        if client is None or client.tenant != manager["kap_tenant"] or client.disabled_at is not None:
            raise OAuthRefusal("invalid_request", "There is no such client.", status=404)
        said = await json_object(request)
        if client.method == "none":
            raise _refused("A public client has nothing to rotate.")
        if client.method == "client_secret_basic":
            secret = new_secret()
            await self.context.held.put_client(replace(client, secret=digest_of(secret)))
            await self.context.held.take_back(client.id, self.context.clock())
            return JSONResponse({"client_id": client.id, "client_secret": secret}, headers=NO_STORE)
        jwks, uri = _keys(said, self.outside, wanted=True)
        await self.context.held.put_client(replace(client, jwks=jwks, jwks_uri=uri))
        await self.context.held.take_back(client.id, self.context.clock())
        return JSONResponse({"client_id": client.id}, headers=NO_STORE)

    async def turn(self, request: Request) -> Response:
        """Turn the signing keys; ``?compromised=true`` publishes the others no more. For who runs the installation.

        They sign for all clinics, and no clinic's administrator ends what others are given.
        """
        asks = await self.context.bearer(request, MANAGE_CLIENTS)
        if asks.get(OF_CLINIC) is not True:
            why = "The keys are of all clinics: who runs the installation turns them (./kap clients turn-keys)."
            raise OAuthRefusal("insufficient_scope", why, status=403)
        compromised = request.query_params.get("compromised") == "true"
        kid = await self.context.signing.turn(self.context.clock(), compromised=compromised)
        return JSONResponse({"kid": kid}, status_code=201, headers=NO_STORE)

    # People

    async def add_user(self, request: Request) -> Response:
        """Add a person: ``name``, ``password``, ``fhir_user``, ``role``, and ``totp`` (true unless said otherwise)."""
        manager = await self.context.bearer(request, MANAGE_USERS)
        said = await json_object(request, "invalid_request")
        name, password = require_name(str(said.get("name", ""))), str(said.get("password", ""))
        role, user = str(said.get("role", "")), str(said.get("fhir_user", ""))
        code = said.get("totp", True) is not False
        require_password(password, name, code=code)
        if role not in self.context.roles:
            known = ", ".join(sorted(self.context.roles))
            raise OAuthRefusal("invalid_request", f"There is no role '{role[:64]}'. There are: {known}.")
        if not is_user(user) or (role == "patient") != user.startswith("Patient/"):
            raise OAuthRefusal(
                "invalid_request", "fhir_user is Patient/<id> for the role patient, Practitioner/<id> for the others."
            )
        id_ = new_id()
        sealed, address = self.passwords.new_codes(id_, name) if code else (None, None)
        kept = await self.passwords.hashed(password)
        person = Person(id_, manager["kap_tenant"], name, user, role, kept, sealed, self.context.clock())
        added = await self.context.logins.add_person(person)
        if added == "user is taken":
            why = (
                f"{user} is the user of another account, and nobody else logs in as him. Give that account another "
                "password (POST /auth/users/<name>), or end it where it is a program's (DELETE /auth/clients/<id>)."
            )
            raise OAuthRefusal("invalid_request", why, status=409)
        if added == "name is taken":
            raise OAuthRefusal("invalid_request", f"The name {name} is taken.", status=409)
        _audited(person)
        told = {**_person(person), **({} if address is None else {"totp": address})}
        return JSONResponse(told, status_code=201, headers=NO_STORE)

    async def users(self, request: Request) -> Response:
        """List the clinic's people."""
        manager = await self.context.bearer(request, MANAGE_USERS)
        found = await self.context.logins.people(manager["kap_tenant"])
        return JSONResponse({"users": [_person(one) for one in found]}, headers=NO_STORE)

    async def change_user(self, request: Request) -> Response:
        """Give a person another password, and other one-time codes where ``totp`` is true; he is let in again."""
        person = await self._named(request)
        said = await json_object(request, "invalid_request")
        password, again = str(said.get("password", "")), said.get("totp") is True
        require_password(password, person.name, code=again or person.totp is not None)
        sealed, address = self.passwords.new_codes(person.id, person.name) if again else (None, None)
        logins = self.context.logins
        await logins.set_password(person.id, await self.passwords.hashed(password), totp=sealed)
        await logins.sign_out_everywhere(person.id, self.context.clock(), disable=False)
        await logins.enable_person(person.id)
        told = {**_person(replace(person, disabled_at=None)), **({} if address is None else {"totp": address})}
        return JSONResponse(told, headers=NO_STORE)

    async def disable_user(self, request: Request) -> Response:
        """Let a person in no more, and end what he let apps do."""
        person = await self._named(request)
        await self.context.logins.sign_out_everywhere(person.id, self.context.clock(), disable=True)
        return Response(status_code=204, headers=NO_STORE)

    async def _named(self, request: Request) -> Person:
        manager = await self.context.bearer(request, MANAGE_USERS)
        person = await self.context.logins.named(request.path_params["name"].lower())
        if person is None or person.tenant != manager["kap_tenant"]:
            raise OAuthRefusal("invalid_request", "There is nobody of that name.", status=404)
        _audited(person)
        return person

    # Launches

    async def launch(self, request: Request) -> Response:
        """Register the context of a launch by an EHR; the answer's ``launch`` goes to the app, and counts once."""
        ehr = await self.context.bearer(request, LAUNCH_APPS)
        context = launch_context(await json_object(request, "invalid_request"))
        launch, now = new_secret(), self.context.clock()
        ends = now + timedelta(seconds=LAUNCH_SECONDS)
        await self.context.logins.add_launch(launch, ehr["kap_tenant"], ehr["client_id"], context, now, ends)
        told = {"launch": launch, "iss": self.context.audience[0], "expires_in": LAUNCH_SECONDS}
        return JSONResponse(told, status_code=201, headers=NO_STORE)


def _audited(person: Person) -> None:
    """Have the audit say whose account was made, changed or ended."""
    say(what=(f"person {person.id}", person.user))


def _refused(why: str) -> OAuthRefusal:
    return OAuthRefusal("invalid_client_metadata", why)


def _text(said: Mapping[str, Any], name: str) -> str | None:
    value = said.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > LONGEST_BODY or "\0" in value):
        raise _refused(f"{name} is a text.")
    return value


def _texts(said: Mapping[str, Any], name: str, usual: list[str]) -> list[str]:
    value = said.get(name, usual)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _refused(f"{name} is a list of texts.")
    return list(value)


def _keys(said: Mapping[str, Any], outside: Outside, *, wanted: bool) -> tuple[Mapping[str, Any] | None, str | None]:
    jwks, uri = said.get("jwks"), _text(said, "jwks_uri")
    if not wanted:
        if jwks is not None or uri is not None:
            raise _refused("Public keys (jwks, jwks_uri) go with token_endpoint_auth_method private_key_jwt.")
        return None, None
    if (jwks is None) == (uri is None):
        raise _refused("Give the public keys: jwks, or jwks_uri; one of them.")
    if uri is not None:
        problem = outside.problem(uri)
        if problem is not None:
            raise _refused(f"The keys cannot be asked for at this jwks_uri. {problem}")
        return None, uri
    try:
        key_set(jwks)
    except KeysRefused as error:
        raise _refused(str(error)) from None
    return jwks, None


def _require_redirects(redirects: list[str], *, by_people: bool) -> None:
    if by_people != bool(redirects) or len(redirects) > MOST_REDIRECTS:
        raise OAuthRefusal("invalid_redirect_uri", "authorization_code needs redirect_uris, and nothing else has them.")
    for one in redirects:
        if len(one) > 2000 or not redirectable(one):
            raise OAuthRefusal(
                "invalid_redirect_uri",
                f"'{one[:100]}' is not an https URL without a fragment (http on this machine only), nor of an app's "
                "own scheme such as com.example.app:/back.",
            )


def _described(client: Client) -> dict[str, Any]:
    told = {
        "client_id": client.id,
        "client_name": client.name,
        "jwks": client.jwks,
        "jwks_uri": client.jwks_uri,
        "scope": client.scope,
        "kap_role": client.role,
        "kap_user": client.user,
        "kap_patient": client.patient,
        "kap_token_seconds": client.token_seconds,
        "client_id_issued_at": int(client.created_at.timestamp()),
        "grant_types": list(client.grants),
        "response_types": ["code"] if "authorization_code" in client.grants else None,
        "redirect_uris": list(client.redirect_uris) or None,
        "token_endpoint_auth_method": client.method,
        "kap_disabled": None if client.disabled_at is None else True,
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _person(person: Person) -> dict[str, Any]:
    told = {
        "id": person.id,
        "name": person.name,
        "fhir_user": person.user,
        "role": person.role,
        "one_time_codes": person.totp is not None,
        "disabled": None if person.disabled_at is None else True,
    }
    return {name: value for name, value in told.items() if value is not None}
