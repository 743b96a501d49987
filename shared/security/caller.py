"""Who is calling, and what they may see or change: a token's scopes as an `Access` for each interaction."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from shared.fhir.codes import BASE
from shared.fhir.definitions import TYPES
from shared.fhir.search import Condition, Criterion, TokenValue
from shared.security.roles import TREATMENT, Roles
from shared.security.scopes import LETTERS, OPERATE, Letter, Scope
from shared.store.access import DEFAULT_TENANT, EVERYTHING, NO_ONES, Access, Disclosure, Grant

DIRECTORY: Final = NO_ONES
"""Types of which no resource is in any patient's compartment: ``patient/Practitioner.r`` reads all of them.

Source: https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#scopes-for-requesting-fhir-resources
"""

OWNED: Final = frozenset(("Subscription",))
"""Types whose resources are the client's that made them, and operators'; nobody else knows of them."""

OWNER: Final = f"{BASE}/CodeSystem/owner"
"""System of the tag that says whose such a resource is."""

BELIEVED: Final[ContextVar[list[str] | None]] = ContextVar("BELIEVED", default=None)
"""Whose token was believed in the present request, for who counts requests (`limits`); None: nobody does."""

Grants: TypeAlias = Mapping[str, tuple[Grant, ...]]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        tenant: the clinic.
        origin: the service whose own resources are all that its FHIR endpoint shows; None: copies too.
        client: the client's id; None: nobody said who asks.
        user: ``Practitioner/<id>``, ``Patient/<id>`` or None: the user's resource (`fhirUser`).
        role: for which role of the clinic the token was made.
        scopes: what its token allows about resources.
        others: the token's other scopes (``kap/operate``).
        disclosure: who receives what he reads, where that is somebody outside of the clinic; None: he is of it.
        everything: whether no token is asked for at all (`--no-auth`).
        authorization: the header that was sent; the gateway sends it on, and the owner judges for itself.
        grant, token: the ids of what a person let the client do (`kap_grant`) and of its token (`jti`): by them the
            issuer tells whether what was asked for with the token still stands.

    """

    tenant: str
    origin: str | None = None
    client: str | None = None
    user: str | None = None
    role: str | None = None
    patient: str | None = None
    scopes: tuple[Scope, ...] = ()
    others: frozenset[str] = frozenset()
    disclosure: Disclosure | None = None
    everything: bool = False
    authorization: str | None = None
    grant: str | None = None
    token: str | None = None
    _grants: Mapping[Letter, Grants] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out the grants once: a caller is kept as long as the token is used."""
        grants = {} if self.everything else {letter: self._granted(letter) for letter in LETTERS}
        object.__setattr__(self, "_grants", grants)

    @property
    def known(self) -> bool:
        """Whether it is known who asks."""
        return self.everything or self.client is not None

    @property
    def own(self) -> frozenset[str]:
        """The patients (logical ids) whom the token itself names: of the launch, and the user, where he is one."""
        user = self.user if self.user is not None and self.user.startswith("Patient/") else None
        return frozenset(one for one in (self.patient, None if user is None else user[8:]) if one is not None)

    def access(self, letter: Letter) -> Access:
        """Return what exists for the caller by one kind of permission."""
        if self.everything:
            return Access.unrestricted(self.tenant, origin=self.origin)
        told = None if letter == "c" else self.disclosure
        return Access(self.tenant, self.origin, None, frozenset(), self._grants[letter], told)

    def may(self, type_: str, letter: Letter) -> bool:
        """Tell whether something of a type is allowed."""
        return bool(self.access(letter).granted(type_))

    def in_full(self, type_: str, letter: Letter) -> bool:
        """Tell whether everything of a type is allowed."""
        return self.access(letter).in_full((type_,))

    def operates(self, type_: str, name: str) -> bool:
        """Tell whether an operation is allowed on everything it is offered for."""
        return self.everything or any(
            one.operation in ("*", name) and one.names(type_) and one.context != "patient" and self._of(one) is None
            for one in self.scopes
            if one.operation is not None
        )

    def has(self, scope: str) -> bool:
        """Tell whether the token has a scope that is not about resources."""
        return self.everything or scope in self.others

    def _of(self, scope: Scope) -> frozenset[str] | None:
        """Return the patients whose compartments a scope is about; None: everybody's.

        A user who is a patient sees by ``user/`` what is his own.
        """
        if scope.context == "patient":
            return frozenset(() if self.patient is None else (self.patient,))
        if scope.context == "user" and self.user is not None and not self.user.startswith("Practitioner"):
            return frozenset((self.user.removeprefix("Patient/"),) if self.user.startswith("Patient/") else ())
        return None

    @property
    def owner(self) -> str:
        """The code of the tag of what is this client's, in this role, for this user."""
        whose = "\n".join((self.client or "", self.role or "", self.user or "", self.patient or ""))
        return hashlib.sha256(whose.encode()).hexdigest()[:32]

    def _own_alone(self) -> tuple[Condition, ...]:
        """Return what a resource of `OWNED` has to satisfy."""
        if OPERATE in self.others:
            return ()
        return (Criterion("_tag", "token", (TokenValue(OWNER, self.owner),)),)

    def _granted(self, letter: Letter) -> Grants:
        found: dict[str, list[Grant]] = {}
        for scope in self.scopes:
            if letter not in scope.letters:
                continue
            patients = self._of(scope)
            for type_ in TYPES if scope.type == "*" else (scope.type,):
                conditions = scope.conditions(type_)
                if conditions is None or (patients is not None and not patients):
                    continue
                open_to_all = patients is None or (type_ in DIRECTORY and letter in "rs")
                if patients is not None and not open_to_all and type_ in DIRECTORY:
                    continue
                if type_ in OWNED:
                    open_to_all, conditions = True, (*conditions, *self._own_alone())
                grant = Grant(None if open_to_all else patients, conditions)
                found.setdefault(type_, []).append(grant)
        return {
            type_: EVERYTHING if any(one.full for one in grants) else tuple(dict.fromkeys(grants))
            for type_, grants in found.items()
        }


def believed(caller: Caller) -> None:
    """Tell who counts the present request that it is this client's, in this role, for this user, by a good token."""
    counted = BELIEVED.get()
    if counted is not None:
        counted.append(f"{caller.tenant} {caller.owner}")


def disclosure_of(roles: Roles, name: str | None, user: str | None) -> Disclosure | None:
    """Return to whom what a bearer reads is disclosed, and what for; None: he is of the clinic.

    A role that is not in the policy, and none, is of nobody of the clinic's: what consents permit, and no more.
    """
    recipients = frozenset(() if user is None else (user,))
    role = roles.get(name or "")
    if role is None:
        return Disclosure(recipients, frozenset((TREATMENT,)))
    if role.disclosure is None:
        return None
    return Disclosure(recipients, frozenset((role.purpose,)), permitted=role.disclosure == "unless-denied")


Authenticate: TypeAlias = Callable[[Mapping[str, str]], Awaitable[Caller]]
"""Tells who sent a request from its headers; raises Unauthorized where that cannot be believed."""


def everybody(*, origin: str | None) -> Authenticate:
    """Return what lets every caller do everything: with the rows that `origin` owns, or (None) with all."""
    caller = Caller(DEFAULT_TENANT, origin, everything=True)

    async def authenticate(_headers: Mapping[str, str]) -> Caller:
        return caller

    return authenticate
