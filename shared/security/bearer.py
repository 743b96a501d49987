"""The bearer of a token as a `Caller`: what every service does with the `Authorization` of a request.

Keys come from the issuer's metadata (RFC 8414), whoever the issuer is. A token that was believed is remembered for as
long as keys are, so that its signature is not checked at each request; whether it was taken back is asked every
`REVOKED_FRESH` seconds where the issuer tells it (the built-in one does).
"""

from __future__ import annotations

import hashlib
import json
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from shared.fhir.outcome import Unavailable
from shared.security.caller import Authenticate, Caller, believed, disclosure_of
from shared.security.keys import FRESH, Fetched, Keys, at_url
from shared.security.roles import Roles
from shared.security.scopes import OTHERS, parse_scopes
from shared.security.tokens import TokenRefused, header_of, verified
from shared.store.access import DEFAULT_TENANT

REVOKED_FRESH: Final = 5.0
REVOKED_STALE: Final = 60.0
"""Seconds for which what is known of tokens that were taken back may be used: then nothing is answered (503)."""

REMEMBERED: Final = 2000
"""Tokens that are remembered."""

METADATA: Final = "/.well-known/openid-configuration"
REVOKED: Final = "kap_revoked_tokens_endpoint"
"""In the issuer's metadata: where the ids of tokens are that were taken back before their end."""

ENDED: Final = "kap_ended_endpoint"
"""In the issuer's metadata: where it tells which clients, permissions and tokens have ended."""

ASKED_AT_ONCE: Final = 300
"""Ids of each kind that the issuer is asked about in one request, at most."""

ASKED_BYTES: Final = 48 * 1024
"""Of what it is asked in one request: less than an issuer of any version takes."""

AUDIT: Final = "kap_audit_endpoint"
"""In the issuer's metadata: the base of its own AuditEvents, which the gateway tells with those of the services."""

CONNECT_SECONDS: Final = 3.0


def open_client(tls: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    """Return the client for the issuer's metadata, keys and revocations; it follows no redirect.

    `tls`: whom it believes; None: the public authorities.
    """
    timeout = httpx.Timeout(CONNECT_SECONDS)
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False, verify=tls or True)


class Issuer:
    """Whose tokens are believed, known by its URL."""

    def __init__(self, url: str, client: httpx.AsyncClient, *, at: str | None = None) -> None:
        """Ask the issuer `url` by `client`, at `at` where it is reached from here by another address than its URL."""
        self.url = url.rstrip("/")
        self._at = (at or url).rstrip("/")
        self._client = client
        self._metadata = Fetched(at_url(client, self._reached(f"{self.url}{METADATA}")))
        self._keys: dict[str, Keys] = {}
        self._revoked: dict[str, Fetched] = {}

    def _reached(self, url: str) -> str:
        """Return where one of the issuer's own URLs is reached from here."""
        return self._at + url.removeprefix(self.url) if url.startswith(f"{self.url}/") else url

    async def metadata(self) -> Mapping[str, Any]:
        """Return what the issuer says of itself.

        Raises:
            Unavailable: it does not answer, or is another one.

        """
        document = await self._metadata.get()
        if not isinstance(document, Mapping) or str(document.get("issuer")).rstrip("/") != self.url:
            raise Unavailable("The issuer of tokens does not answer with its own metadata.")
        return document

    async def audit(self) -> str | None:
        """Return the base at which its AuditEvents are reached from here; None: it tells none (another's issuer).

        Raises:
            Unavailable: it does not say.

        """
        url = (await self.metadata()).get(AUDIT)
        return self._reached(url) if isinstance(url, str) else None

    async def keys(self) -> Keys:
        """Return its keys.

        Raises:
            Unavailable: it does not say where they are.

        """
        url = (await self.metadata()).get("jwks_uri")
        if not isinstance(url, str):
            raise Unavailable("The issuer of tokens does not say where its keys are.")
        if url not in self._keys:
            self._keys = {url: Keys(Fetched(at_url(self._client, self._reached(url))))}
        return self._keys[url]

    async def took_back(self, token: str) -> bool:
        """Tell whether the issuer took the token of this id (`jti`) back.

        Raises:
            Unavailable: it has not said for `REVOKED_STALE` seconds.

        """
        url = (await self.metadata()).get(REVOKED)
        if not isinstance(url, str):
            return False
        if url not in self._revoked:
            fetched = Fetched(at_url(self._client, self._reached(url)), fresh=REVOKED_FRESH, stale=REVOKED_STALE)
            self._revoked = {url: fetched}
        document = await self._revoked[url].get()
        revoked = document.get("revoked") if isinstance(document, Mapping) else None
        if not isinstance(revoked, list):
            raise Unavailable("The issuer of tokens does not tell which it took back.")
        return token in revoked

    async def ended(self, asked: Iterable[Caller]) -> Ended | None:
        """Return what of these callers' clients, permissions and tokens has ended; None: this issuer does not tell.

        And whom of them it would not give his scopes any more: the callers are of those scopes that matter.

        Raises:
            Unavailable: it does not answer.

        """
        url = (await self.metadata()).get(ENDED)
        if not isinstance(url, str):
            return None
        found = Ended()
        for some in _at_once(asked):
            try:
                answer = await self._client.post(self._reached(url), json=_asking(some))
                said = answer.raise_for_status().json()
                told = [frozenset(str(one) for one in said[name]) for name in ("clients", "grants", "tokens")]
                narrowed = frozenset(_name(some[int(place)]) for place in said.get("narrowed", ()))
            except (httpx.HTTPError, ValueError, TypeError, LookupError) as error:
                raise Unavailable(f"The issuer does not tell what has ended ({type(error).__name__}).") from None
            found = Ended(
                found.clients | told[0], found.grants | told[1], found.tokens | told[2], found.narrowed | narrowed
            )
        return found


def _asking(some: Sequence[Caller]) -> dict[str, Any]:
    """Return what the issuer is asked about callers."""
    return {
        "clients": sorted({one.client for one in some if one.client is not None}),
        "grants": sorted({one.grant for one in some if one.grant is not None}),
        "tokens": sorted({one.token for one in some if one.token is not None}),
        "held": [_held(one) for one in some],
    }


def _at_once(callers: Iterable[Caller]) -> Iterator[list[Caller]]:
    """Yield callers, so many at once as fit into one request."""
    some: list[Caller] = []
    size = 0
    for one in callers:
        more = len(json.dumps(_asking([one])))
        if some and (len(some) == ASKED_AT_ONCE or size + more > ASKED_BYTES):
            yield some
            some, size = [], 0
        some.append(one)
        size += more
    if some:
        yield some


def _held(one: Caller) -> dict[str, str | None]:
    """Return to whom his scopes were given, and as whom."""
    scope = " ".join(str(each) for each in one.scopes)
    whom = {"client": one.client, "grant": one.grant, "role": one.role, "user": one.user, "patient": one.patient}
    return {"scope": scope, **whom}


def _name(one: Caller) -> tuple[str | None, ...]:
    return tuple(_held(one).values())


@dataclass(frozen=True, slots=True)
class Ended:
    """Ids of clients, permissions and tokens that give nothing any more; and who would be given less than he was."""

    clients: frozenset[str] = frozenset()
    grants: frozenset[str] = frozenset()
    tokens: frozenset[str] = frozenset()
    narrowed: frozenset[tuple[str | None, ...]] = frozenset()

    def why(self, one: Caller) -> str | None:
        """Return why what a caller asked for with his token does not stand any more; None: it does."""
        if one.client in self.clients:
            return "The client was turned off."
        if one.grant in self.grants:
            return "What a person let the client do has ended."
        if one.token in self.tokens:
            return "The token that it was asked for with was taken back."
        return (
            "Its client may do less now than by the token it was asked for with."
            if _name(one) in self.narrowed
            else None
        )


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller
    token: str
    until: float


GRANT: Final = "kap_grant"
"""Claim of a person's token: the id of what he let the client do."""

OF_CLINIC: Final = "kap_of_clinic"
"""Claim of a token without a role that the clinic itself asked for: consents do not bind it."""


class Bearer:
    """Tells who the bearer of a token is."""

    def __init__(
        self,
        issuer: Issuer,
        audience: Sequence[str],
        *,
        origin: str | None,
        roles: Roles,
        clock: Callable[[], float] = time.time,
        names: Mapping[str, str] | None = None,
        clinic: str | None = None,
        base: str | None = None,
    ) -> None:
        """Believe `issuer` about tokens for one of `audience`; callers see what `origin` owns, or (None) all.

        `roles` tell who is of the clinic, and who is told what patients' consents permit. `names`: what the issuer
        calls the claims that are read here. `clinic`: whose a token is that names none; None: it is refused. `base`: of
        this server, where `fhirUser` is an absolute URL; that of an audience will do, too.
        """
        self._clinic = clinic
        self._names = names or {}
        self._roles = roles
        self._issuer = issuer
        self._audience = frozenset(one.rstrip("/") for one in audience)
        self._bases = self._audience if base is None else self._audience | {base.rstrip("/")}
        self._origin = origin
        self._clock = clock
        self._known: OrderedDict[bytes, _Remembered] = OrderedDict()

    async def __call__(self, headers: Mapping[str, str]) -> Caller:
        """Return who sent a request.

        A request without `Authorization` is nobody's, who may read what the server says of itself and nothing else.

        Raises:
            TokenRefused: the token cannot be believed.
            Unavailable: the issuer cannot be asked for its keys.

        """
        header = headers.get("authorization")
        if header is None:
            return Caller(DEFAULT_TENANT, self._origin)
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise TokenRefused("Authorization has to be 'Bearer' and a token.", error="invalid_request")
        digest = hashlib.sha256(token.encode()).digest()
        found = self._known.get(digest)
        if found is None or found.until <= self._clock():
            found = await self._look(token, header)
            self._known[digest] = found
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        if await self._issuer.took_back(found.token):
            raise TokenRefused("The token was taken back. Ask for a new one.")
        believed(found.caller)
        return found.caller

    async def _look(self, token: str, header: str) -> _Remembered:
        keys = await (await self._issuer.keys()).holding(header_of(token)["kid"])
        claims = verified(token, keys, issuer=self._issuer.url, audience=self._audience, now=self._clock())
        claims = renamed(claims, self._names, self._roles)
        caller = caller_of(
            claims,
            origin=self._origin,
            roles=self._roles,
            clinic=self._clinic,
            authorization=header,
            bases=self._bases,
        )
        until = min(float(claims["exp"]), self._clock() + FRESH)  # a key may be taken back, too
        return _Remembered(caller, str(claims.get("jti", "")), until)


def renamed(claims: Mapping[str, Any], names: Mapping[str, str], roles: Roles) -> Mapping[str, Any]:
    """Return claims of another issuer by the names that they have here.

    Args:
        claims: the token's.
        names: by the name here, the issuer's: a claim, or a way into claims that are objects, with dots. The claim of
            the name itself then counts for nothing.
        roles: of a list of roles the first that is one of these is taken; of another list, its only text.

    """
    if not names:
        return claims
    found = {name: value for name, value in claims.items() if name not in names}
    for name, other in names.items():
        value: Any = claims.get(other)
        if value is None:
            value = claims
            for part in other.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, list) and name != "scope":
            fitting = [one for one in value if isinstance(one, str) and (name != "kap_role" or one in roles)]
            value = fitting[0] if fitting and (name == "kap_role" or len(value) == 1) else None
        if value is not None:
            found[name] = value
    return found


def caller_of(
    claims: Mapping[str, Any],
    *,
    origin: str | None,
    roles: Roles,
    clinic: str | None = None,
    authorization: str | None = None,
    bases: Collection[str] = (),
) -> Caller:
    """Return the bearer of a token by its claims; of `clinic` where the token names none.

    `bases`: the FHIR bases by which clients know this server: a `fhirUser` may be an URL of one of these.

    Who has a role is of the clinic or not as the role says. Who has none is a user or a patient of the clinic's by his
    scopes, and by a scope ``system/`` somebody outside, unless the issuer says that the clinic itself asks.

    Raises:
        TokenRefused: it does not say whose it is, or for which clinic.

    """
    client = claims.get("client_id") or claims.get("azp") or claims.get("sub")
    scope = claims.get("scope", claims.get("scp", ""))
    scope = " ".join(scope) if isinstance(scope, list) else scope
    if not isinstance(client, str) or not isinstance(scope, str):
        raise TokenRefused("The token does not say whose it is and what for.")
    tenant = _text(claims, "kap_tenant") or clinic
    if tenant is None:
        raise TokenRefused("The token does not say for which clinic it is (kap_tenant). The issuer has to say so.")
    role, user, scopes = _text(claims, "kap_role"), _relative(_text(claims, "fhirUser"), bases), parse_scopes(scope)
    outside = role is not None or (any(one.context == "system" for one in scopes) and claims.get(OF_CLINIC) is not True)
    return Caller(
        tenant=tenant,
        origin=origin,
        client=client,
        user=user,
        role=role,
        patient=_text(claims, "patient"),
        scopes=scopes,
        others=OTHERS.intersection(scope.split()),
        disclosure=disclosure_of(roles, role, user) if outside else None,
        authorization=authorization,
        grant=_text(claims, GRANT),
        token=_text(claims, "jti"),
    )


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    return value if isinstance(value, str) and value else None


def _relative(user: str | None, bases: Collection[str]) -> str | None:
    """Return a `fhirUser`, which may be an absolute URL of this server, as ``Type/id``.

    Raises:
        TokenRefused: it is a resource of another server: somebody else than who has that id here.

    """
    if user is None:
        return None
    base, _, name = user.rstrip("/").rpartition("/")
    base, _, type_ = base.rpartition("/")
    if base and base not in bases:
        raise TokenRefused("The token's fhirUser is of another FHIR server. The issuer has to name who it is here.")
    return f"{type_}/{name}" if type_ else name


def bearer(
    issuer: str,
    audience: Sequence[str],
    client: httpx.AsyncClient,
    *,
    origin: str | None,
    roles: Roles,
    names: Mapping[str, str] | None = None,
    at: str | None = None,
    clinic: str | None = None,
    base: str | None = None,
) -> tuple[Authenticate, Issuer]:
    """Return what tells the bearers of an issuer's tokens, and the issuer; `at`: where that is reached from here."""
    known = Issuer(issuer, client, at=at)
    return Bearer(known, audience, origin=origin, roles=roles, names=names, clinic=clinic, base=base), known
