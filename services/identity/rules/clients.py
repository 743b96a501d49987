"""What a client that is known gets of what it asks for. Pure.

Source: https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html, RFC 6749 section 5.2
"""

from __future__ import annotations

from dataclasses import dataclass

from services.identity.rules.launch import OF_LAUNCH
from services.identity.rules.refusal import OAuthRefusal
from shared.fhir.outcome import BadRequest
from shared.fhir.references import Literal, parse_literal
from shared.security.roles import Roles, scopes_of
from shared.security.scopes import CLINIC_NAME, OPERATE, OTHERS, PROCESS_NOTES, ScopeRefused, parse_scope, wider_than

LONGEST_ASSERTION = 300
"""Seconds: an assertion that lives longer is refused (Backend Services: at most five minutes)."""

PATIENT = "patient"
"""The role whose user is a patient."""

OF_PEOPLE = frozenset((PROCESS_NOTES,))
"""Scopes that only who logs in is given: no program writes or reads as somebody's own what is his alone."""

_NO_PROGRAMS = OF_PEOPLE | {OPERATE}

_OF_OPERATOR = "kap/operate opens what is of all clinics: it is for who runs the installation, and no client's."
_OF_PEOPLE = "kap/process-notes is for people who log in to an app (authorization_code), never a program's own."
_NOBODYS = (
    "user/... is what a user may, and this client has none: register it with kap_role or kap_user, or for system/..., "
    "which patients' consents decide about."
)

_NOT_FOR_OTHERS = "This client is not registered to act for others."
_OPERATOR_ONLY = (
    "The operator is nobody else here: people log in, and programs are registered with a role of their own (./kap "
    "users, ./kap clients, --issuer). A stack on one's own machine gives such tokens (./kap up)."
)

MOST_TOKEN_SECONDS = 3600
USUAL_TOKEN_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Registered:
    """What is registered of a client: see `shared.store.identity.Client`."""

    scope: str
    role: str | None
    user: str | None
    patient: str | None
    acts_for_others: bool
    operates: bool = False
    """Whether it is the client of who runs the installation."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What it asks for; "" and None: whatever is registered."""

    scope: str = ""
    role: str | None = None
    user: str | None = None
    patient: str | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """What it gets."""

    scope: str
    role: str | None
    user: str | None
    patient: str | None


def grant(client: Registered, asked: Asked, roles: Roles) -> Granted:
    """Return what a client gets: all that it asked for, or nothing.

    Raises:
        OAuthRefusal: wider than registered; another's role, user or patient; a scope that cannot be understood.

    """
    own = (client.role, client.user, client.patient)
    for value, registered in zip((asked.role, asked.user, asked.patient), own, strict=True):
        if value is not None and value != registered and not client.acts_for_others:
            raise OAuthRefusal("unauthorized_client", _OPERATOR_ONLY if client.operates else _NOT_FOR_OTHERS)
    role = asked.role or client.role
    user = asked.user or client.user
    patient = asked.patient or client.patient or _patient_in(user)
    if user is None and role == PATIENT and patient is not None:
        user = f"Patient/{patient}"
    allowed = []
    try:
        if role is not None:
            allowed.append(scopes_of(roles, role, user))
        if client.scope and not (client.acts_for_others and role is not None):
            allowed.append(client.scope)
        if not client.operates:
            allowed = [" ".join(one for one in text.split() if one not in _NO_PROGRAMS) for text in allowed]
        scope = asked.scope or " ".join(allowed[:1])
        wider = sorted({one for registered in allowed for one in wider_than(scope, [registered])})
    except (ScopeRefused, BadRequest) as error:
        raise OAuthRefusal("invalid_scope", str(error)) from None
    if not allowed or wider or not scope:
        raise OAuthRefusal("invalid_scope", f"Wider than what is registered: {' '.join(wider) or 'nothing is'}.")
    if not client.acts_for_others and role is None and user is None and _is_of_users(scope):
        raise OAuthRefusal("invalid_scope", _NOBODYS)
    if patient is None and any(one.startswith("patient/") for one in scope.split()):
        raise OAuthRefusal("invalid_request", "A scope patient/... needs a patient, and none is registered or named.")
    return Granted(scope, role, user, patient)


def clinic_asked_for(own: str, asked: str | None, *, operates: bool) -> str:
    """Return for which clinic a client's token is: its own, or another that who runs the installation names.

    Raises:
        OAuthRefusal: another than its own, and it does not run the installation; or no name of a clinic.

    """
    if asked is None or asked == own:
        return own
    if not operates:
        raise OAuthRefusal("unauthorized_client", _NOT_FOR_OTHERS)
    if not CLINIC_NAME.fullmatch(asked):
        raise OAuthRefusal("invalid_request", "A clinic's name is letters, digits, '.', '_' and '-', 64 at most.")
    return asked


def _is_of_users(scope: str) -> bool:
    return any(one.startswith("user/") for one in scope.split())


def _patient_in(user: str | None) -> str | None:
    return user.removeprefix("Patient/") if user is not None and user.startswith("Patient/") else None


def require_registrable(
    scope: str, role: str | None, user: str | None, roles: Roles, *, by_people: bool = False
) -> None:
    """Pass the scopes, the role and the user of a registration; `by_people`: of an app, which people log in to.

    Raises:
        OAuthRefusal: one means nothing here, or there is neither.

    """
    if not scope and role is None:
        raise OAuthRefusal("invalid_client_metadata", "Name a scope or a role (kap_role): without one it gets nothing.")
    if role is not None and role not in roles:
        known = ", ".join(sorted(roles))
        raise OAuthRefusal("invalid_client_metadata", f"There is no role '{role[:64]}'. There are: {known}.")
    if user is not None and parse_literal(user) != Literal(*user.partition("/")[::2]):
        raise OAuthRefusal("invalid_client_metadata", "kap_user is Type/id: Organization/<id>, Practitioner/<id>.")
    if OPERATE in scope.split():
        raise OAuthRefusal("invalid_client_metadata", _OF_OPERATOR)
    if not by_people and OF_PEOPLE.intersection(scope.split()):
        raise OAuthRefusal("invalid_client_metadata", _OF_PEOPLE)
    if not by_people and role is None and user is None and _is_of_users(scope):
        raise OAuthRefusal("invalid_client_metadata", _NOBODYS)
    for text in scope.split():
        try:
            understood = parse_scope(text) is not None or text in OTHERS or (by_people and text in OF_LAUNCH)
        except ScopeRefused as error:
            raise OAuthRefusal("invalid_client_metadata", str(error)) from None
        if not understood:
            raise OAuthRefusal("invalid_client_metadata", f"'{text[:64]}' is not a scope that is given here.")
