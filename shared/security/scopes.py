"""SMART scopes: what a token lets its bearer do, as values.

``user/Observation.rs?category=vital-signs``: context, type, permissions out of ``cruds`` in that order, and a search
that narrows what it is about. Those of version 1 (``.read``, ``.write``, ``.*``) are read as version 2. An operation
that is not part of FHIR's own reading has a scope of its own, ``user/Encounter.$start-dose``; ``$*`` is every one.

Source: https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

from shared.fhir.definitions import RESOURCE_TYPES
from shared.fhir.outcome import FhirError
from shared.fhir.query import parse_search
from shared.fhir.search import Condition

Context: TypeAlias = Literal["patient", "user", "system"]
Letter: TypeAlias = Literal["c", "r", "u", "d", "s"]

LETTERS: Final[tuple[Letter, ...]] = get_args(Letter)
"""Create; read a resource, a version, its history; update, patch; delete; search a type or all, and their history."""

OPERATE: Final = "kap/operate"
"""Lets its bearer ask the services' ``/ops``, of all clinics: no role's, but of who runs the installation."""

MANAGE_CLIENTS: Final = "kap/clients"
"""Lets its bearer register clients and turn keys at the issuer."""

PROCESS_NOTES: Final = "kap/process-notes"
"""Lets its bearer, who has to be a person, keep process notes and read those that are open to him."""

MANAGE_USERS: Final = "kap/users"
"""Lets its bearer add people who log in at the issuer."""

LAUNCH_APPS: Final = "kap/launch"
"""Lets its bearer, an EHR, register the context of an app's launch at the issuer."""

CLINIC_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a clinic may be called (`kap_tenant`)."""

OTHERS: Final = frozenset((OPERATE, MANAGE_CLIENTS, PROCESS_NOTES, MANAGE_USERS, LAUNCH_APPS))

_FORM: Final = re.compile(
    r"(?P<context>patient|user|system)/(?P<type>\*|[A-Z][A-Za-z]+)"
    r"\.(?:(?P<letters>(?=[cruds])c?r?u?d?s?)|(?P<v1>read|write|\*)|\$(?P<operation>[a-z][a-z-]*|\*))"
    r"(?:\?(?P<query>.+))?"
)
_V1: Final = {"read": "rs", "write": "cud", "*": "cruds"}
_NARROWS_NOTHING: Final = re.compile(
    r"_(sort|count|include|revinclude|total|summary|elements|contained|containedType|type|explain|page|format|pretty)\b"
)
_LOOKED_UP: Final = re.compile(r":(in|not-in|below|above)$")


class ScopeRefused(ValueError):
    """A scope that means nothing here; the message is for the person who registers or asks."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One scope.

    Attributes:
        context: ``patient``: of the one patient of the launch; ``user``: of what the user may; ``system``: of all.
        type: a resource type, or ``*``.
        letters: of `LETTERS`.
        operation: the name of an operation without its ``$``, ``*``: any; None where it is about `letters`.
        query: a search as in a URL that what it is about has to satisfy; "": anything.

    """

    context: Context
    type: str
    letters: frozenset[str]
    operation: str | None = None
    query: str = ""

    def __str__(self) -> str:
        """Return it as it stands in a token."""
        what = "".join(letter for letter in LETTERS if letter in self.letters)
        what = what if self.operation is None else f"${self.operation}"
        return f"{self.context}/{self.type}.{what}" + (f"?{self.query}" if self.query else "")

    def names(self, type_: str) -> bool:
        """Tell whether it is about a type."""
        return self.type in ("*", type_)

    def conditions(self, type_: str) -> tuple[Condition, ...] | None:
        """Return what resources of a type have to satisfy; None where the search is not one of that type."""
        if not self.query:
            return ()
        try:
            return conditions_of(type_, self.query)
        except ScopeRefused:
            return None

    def within(self, other: Scope) -> bool:
        """Tell whether everything that it allows is allowed by `other`."""
        return (
            self.context == other.context
            and other.type in ("*", self.type)
            and (self.operation is None) == (other.operation is None)
            and (self.operation is None or other.operation in ("*", self.operation))
            and self.letters <= other.letters
            and (not other.query or _parts(other.query) <= _parts(self.query))
        )


def parse_scope(text: str) -> Scope | None:
    """Return a scope about resources; None for any other (``openid``).

    Raises:
        ScopeRefused: it looks like one about resources and cannot be understood.

    """
    if not re.match(r"(patient|user|system)/", text):
        return None
    found = _FORM.fullmatch(text)
    if found is None:
        raise ScopeRefused(
            f"'{text[:100]}' is not a SMART scope: patient|user|system / a type or * . letters of cruds in that order."
        )
    context, type_, query = found["context"], found["type"], found["query"] or ""
    if type_ != "*" and type_ not in RESOURCE_TYPES:
        raise ScopeRefused(f"'{text[:100]}': {type_} is not a FHIR R4 resource type.")
    if found["operation"] is not None:
        if query:
            raise ScopeRefused(f"'{text[:100]}': a scope for an operation has no search.")
        return Scope(context, type_, frozenset(), found["operation"])  # type: ignore[arg-type] # by its form
    if query and type_ == "*":
        raise ScopeRefused(f"'{text[:100]}': a search belongs to one type; name it.")
    scope = Scope(context, type_, frozenset(found["letters"] or _V1[found["v1"]]), None, query)  # type: ignore[arg-type]
    if query:
        conditions_of(type_, query)
    return scope


def conditions_of(type_: str, query: str) -> tuple[Condition, ...]:
    """Return the conditions of a scope's search.

    Raises:
        ScopeRefused: it is not a search, or has more in it than conditions that the record alone decides.

    """
    pairs = [(name, value) for name, _, value in (part.partition("=") for part in query.split("&"))]
    for name, _ in pairs:
        if _NARROWS_NOTHING.match(name) or _LOOKED_UP.search(name):
            raise ScopeRefused(f"'?{query[:100]}': {name} cannot be used in a scope.")
    try:
        return parse_search(type_, pairs, strict=True).criteria
    except FhirError as error:
        raise ScopeRefused(f"'?{query[:100]}' is not a search of {type_}: {error}") from None


def common(asked: Scope, held: Scope, *, patient: bool = False) -> Scope | None:
    """Return what two scopes have in common, with the context of the first; None: nothing.

    What somebody may as ``user/`` he may let an app do of one patient, as ``patient/``. `patient`: `held` is a
    patient's, whose ``user/`` is what is his own.
    """
    contexts = {(asked.context, held.context)}
    same = {("patient", "patient"), ("user", "user"), ("system", "system"), ("patient", "user")}
    if not contexts & (same | ({("user", "patient")} if patient else set())):
        return None
    if not (asked.names(held.type) or held.names(asked.type)) or (asked.operation is None) != (held.operation is None):
        return None
    type_ = held.type if asked.type == "*" else asked.type
    query = "&".join(dict.fromkeys(part for one in (asked, held) if one.query for part in one.query.split("&")))
    if asked.operation is not None and held.operation is not None:
        if "*" not in (asked.operation, held.operation) and asked.operation != held.operation:
            return None
        operation = held.operation if asked.operation == "*" else asked.operation
        return Scope(asked.context, type_, frozenset(), operation)
    letters = asked.letters & held.letters
    return Scope(asked.context, type_, letters, None, query) if letters else None


def parse_scopes(text: str) -> tuple[Scope, ...]:
    """Return the scopes about resources in a token's `scope`; what cannot be understood allows nothing."""
    found = []
    for part in text.split():
        try:
            scope = parse_scope(part)
        except ScopeRefused:
            continue
        if scope is not None:
            found.append(scope)
    return tuple(found)


def wider_than(asked: str, registered: Iterable[str]) -> list[str]:
    """Return those of the scopes in `asked` that the registered ones do not allow; one permission at a time counts.

    Raises:
        ScopeRefused: one of `asked` cannot be understood.

    """
    known = [text for one in registered for text in one.split()]
    allowed, others = parse_scopes(" ".join(known)), frozenset(known)
    wider = []
    for text in asked.split():
        scope = parse_scope(text)
        if scope is None:
            fits = text in others
        elif scope.operation is not None:
            fits = any(scope.within(one) for one in allowed)
        else:
            fits = all(
                any(replace(scope, letters=frozenset((letter,))).within(one) for one in allowed)
                for letter in scope.letters
            )
        if not fits:
            wider.append(text)
    return wider


def _parts(query: str) -> frozenset[str]:
    return frozenset(query.split("&"))
