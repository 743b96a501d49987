"""What an app may ask a person for, and what he can give it. Pure.

Source: https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html,
https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html, RFC 6749, RFC 7636, RFC 9207
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.identity.rules.refusal import OAuthRefusal
from shared.security.scopes import OTHERS, Scope, ScopeRefused, common, parse_scope, parse_scopes, wider_than

OPENID: Final = "openid"
FHIR_USER: Final = "fhirUser"
PROFILE: Final = "profile"
LAUNCH: Final = "launch"
LAUNCH_PATIENT: Final = "launch/patient"
OFFLINE: Final = "offline_access"
ONLINE: Final = "online_access"
OF_LAUNCH: Final = (OPENID, FHIR_USER, PROFILE, LAUNCH, LAUNCH_PATIENT, OFFLINE, ONLINE)
"""Scopes that are about the login and the launch, and not about resources."""

REQUEST_SECONDS: Final = 900
"""For how long a login page waits for its person."""

CODE_SECONDS: Final = 60
SESSION_SECONDS: Final = 12 * 3600
LAUNCH_SECONDS: Final = 300
OFFLINE_IDLE_DAYS: Final = 90
"""For how long an unused refresh token of `offline_access` is good (45 CFR 170.315(g)(10)(v): three months or more)."""

OFFLINE_DAYS: Final = 365
"""After so long the person is asked again."""

MOST_STATE: Final = 2048
MOST_NONCE: Final = 512

_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_ID: Final = re.compile(r"[A-Za-z0-9.-]{1,64}")
_CONTEXT: Final = frozenset(("patient", "encounter", "intent", "need_patient_banner", "fhir_user", "client_id"))


@dataclass(frozen=True, slots=True)
class AppRequest:
    """An authorization request that may be put to a person."""

    redirect_uri: str
    scope: str
    state: str
    challenge: str
    nonce: str | None = None
    launch: str | None = None
    prompt: frozenset[str] = frozenset()
    max_age: int | None = None


class PromptRefused(OAuthRefusal):
    """An error of an authorization request that its app is told by a redirect."""


def app_request(
    said: Mapping[str, str], redirect_uri: str, registered: str, grants: Collection[str], audience: Collection[str]
) -> AppRequest:
    """Return what an app asks for, once its id and its redirect URI are known to be right.

    Args:
        said: the request's parameters.
        redirect_uri: where the answer goes.
        registered: the client's scopes.
        grants: the client's grant types.
        audience: the FHIR bases of the installation, without a slash at the end.

    Raises:
        PromptRefused: the app is told.

    """
    if "authorization_code" not in grants:
        raise PromptRefused("unauthorized_client", "This client is not registered for authorization_code.")
    if said.get("response_type") != "code":
        raise PromptRefused("unsupported_response_type", "response_type is code here.")
    if "request" in said or "request_uri" in said:
        raise PromptRefused("request_not_supported", "Send the parameters themselves.")
    if said.get("response_mode", "query") != "query":
        raise PromptRefused("invalid_request", "response_mode is query here.")
    if said.get("code_challenge_method") != "S256":
        raise PromptRefused("invalid_request", "PKCE is required: code_challenge_method is S256 and nothing else.")
    challenge = said.get("code_challenge", "")
    if not _CHALLENGE.fullmatch(challenge):
        raise PromptRefused("invalid_request", "code_challenge is 43 characters: BASE64URL(SHA256(code_verifier)).")
    state, nonce = said.get("state", ""), said.get("nonce")
    if not 0 < len(state) <= MOST_STATE:
        raise PromptRefused("invalid_request", "Send a state that cannot be guessed.")
    if nonce is not None and len(nonce) > MOST_NONCE:
        raise PromptRefused("invalid_request", "The nonce is too long.")
    if said.get("aud", "").rstrip("/") not in audience:
        raise PromptRefused("invalid_request", "aud has to be the FHIR base URL that the token is for.")
    return AppRequest(
        redirect_uri=redirect_uri,
        scope=_asked_scope(said.get("scope", ""), registered, launch="launch" in said),
        state=state,
        challenge=challenge,
        nonce=nonce,
        launch=said.get("launch"),
        prompt=_prompt(said.get("prompt", "")),
        max_age=_max_age(said.get("max_age")),
    )


def _asked_scope(text: str, registered: str, *, launch: bool) -> str:
    scopes = list(dict.fromkeys(text.split()))
    try:
        wider = wider_than(" ".join(scopes), [registered])
    except ScopeRefused as error:
        raise PromptRefused("invalid_scope", str(error)) from None
    if wider or not scopes:
        raise PromptRefused("invalid_scope", f"Wider than what is registered: {' '.join(wider) or 'nothing is asked'}.")
    if (LAUNCH in scopes) != launch:
        raise PromptRefused("invalid_request", "An EHR launch has both, the scope launch and the parameter launch.")
    if (FHIR_USER in scopes or PROFILE in scopes) and OPENID not in scopes:
        raise PromptRefused("invalid_scope", "fhirUser is told in an id_token: ask for openid, too.")
    if any(one.context == "system" for one in parse_scopes(text)):
        raise PromptRefused("invalid_scope", "system/ scopes are for client_credentials, not for people.")
    return " ".join(scopes)


def _prompt(text: str) -> frozenset[str]:
    prompt = frozenset(text.split())
    if "none" in prompt and len(prompt) > 1:
        raise PromptRefused("invalid_request", "prompt=none stands alone.")
    return prompt


def _max_age(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise PromptRefused("invalid_request", "max_age is a number of seconds.")
    return int(text)


def offered(asked: str, registered: str, role_scopes: str, *, patient: bool) -> tuple[str, ...]:
    """Return which of the scopes that an app asks for a person may give it: what it is registered for and he may do.

    A scope of which the person may do only a part is offered as that part. What is about the login and the launch is
    his to give.

    Args:
        asked: the request's scope.
        registered: the client's.
        role_scopes: the scopes of the person's role.
        patient: whether the person is a patient: what his role has as ``patient/`` he may give as ``user/``, too.

    """
    held, other = parse_scopes(role_scopes), frozenset(role_scopes.split())
    allowed = frozenset(registered.split())
    found: dict[str, None] = {}
    for text in asked.split():
        scope = parse_scope(text)
        if scope is None:
            if text in allowed and (text in OF_LAUNCH or (text in OTHERS and text in other)):
                found[text] = None
            continue
        parts = [part for part in (common(scope, one, patient=patient) for one in held) if part is not None]
        if any(scope.within(part) for part in parts):
            found[text] = None
            continue
        found.update(dict.fromkeys(str(part) for part in _widest(parts)))
    return tuple(found)


def _widest(parts: Sequence[Scope]) -> list[Scope]:
    return [
        part
        for place, part in enumerate(parts)
        if not any(part.within(one) and (one != part or at < place) for at, one in enumerate(parts) if at != place)
    ]


def chosen(offered_: Collection[str], ticked: Collection[str]) -> str:
    """Return the scopes that a person gives of those that he was offered; the order is the app's."""
    return " ".join(one for one in offered_ if one in ticked or one in (LAUNCH, LAUNCH_PATIENT))


def needs_patient(scope: str) -> bool:
    """Tell whether a patient has to be known for these scopes."""
    return LAUNCH_PATIENT in scope.split() or any(one.context == "patient" for one in parse_scopes(scope))


def patient_id(text: str) -> str | None:
    """Return the logical id that somebody entered, as it is or as ``Patient/<id>``; None: it is none."""
    id_ = text.strip().removeprefix("Patient/")
    return id_ if _ID.fullmatch(id_) else None


def require_verifier(verifier: str, challenge: str) -> None:
    """Pass the secret that a challenge was made of (RFC 7636, section 4.6).

    Raises:
        OAuthRefusal: it is another.

    """
    made = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    if not _VERIFIER.fullmatch(verifier) or not hmac.compare_digest(made, challenge):
        raise OAuthRefusal("invalid_grant", "code_verifier is not the one that code_challenge was made of.")


def narrowed(granted: str, asked: str | None) -> str:
    """Return the scopes of a refreshed token: those that were granted, or fewer (RFC 6749, section 6).

    Raises:
        OAuthRefusal: it asks for more.

    """
    if not asked:
        return granted
    try:
        wider = wider_than(asked, [granted])
    except ScopeRefused as error:
        raise OAuthRefusal("invalid_scope", str(error)) from None
    if wider:
        raise OAuthRefusal("invalid_scope", f"Wider than what was granted: {' '.join(wider)}.")
    return asked


def launch_context(said: Mapping[str, object]) -> dict[str, object]:
    """Return the context of a launch as an EHR registers it.

    ``patient``, ``encounter``: logical ids; ``intent``: a text; ``need_patient_banner``: a boolean; ``fhir_user``: who
    is at the EHR, ``Practitioner/<id>``, and nobody else may go on with it; ``client_id``: for this app alone.

    Raises:
        OAuthRefusal: something else is in it.

    """
    unknown = sorted(said.keys() - _CONTEXT)
    if unknown:
        raise OAuthRefusal("invalid_request", f"'{unknown[0][:64]}' is not known here.")
    for name in ("patient", "encounter"):
        value = said.get(name)
        if value is not None and not (isinstance(value, str) and _ID.fullmatch(value)):
            raise OAuthRefusal("invalid_request", f"{name} is a logical id.")
    user = said.get("fhir_user")
    if user is not None and not (isinstance(user, str) and is_user(user)):
        raise OAuthRefusal("invalid_request", "fhir_user is Practitioner/<id> or Patient/<id>.")
    for name in ("intent", "client_id"):
        value = said.get(name)
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= 200):
            raise OAuthRefusal("invalid_request", f"{name} is a short text.")
    if not isinstance(said.get("need_patient_banner", True), bool):
        raise OAuthRefusal("invalid_request", "need_patient_banner is true or false.")
    return dict(said)


def is_user(text: str) -> bool:
    """Tell whether something is a person's resource: ``Practitioner/<id>``, ``Patient/<id>``."""
    type_, _, id_ = text.partition("/")
    return type_ in ("Practitioner", "Patient") and _ID.fullmatch(id_) is not None


_DOES: Final = {"c": "create", "r": "read", "u": "change", "d": "delete", "s": "search"}
_SAYS: Final = {
    OPENID: "Know that it is you",
    FHIR_USER: "Know your own entry in the record",
    PROFILE: "Know your own entry in the record",
    OFFLINE: "Keep this access after you have signed out, until you or the clinic end it",
    ONLINE: "Keep this access for as long as you are signed in",
    "kap/process-notes": "Read and write your process notes",
    "kap/operate": "See how the services run",
    "kap/clients": "Register programs and turn keys",
    "kap/users": "Add people who may log in",
    "kap/launch": "Launch apps",
}


def in_words(scope: str, *, patient: bool) -> str:
    """Return what a scope means, for the person who is asked; `patient`: who is one."""
    said = parse_scope(scope)
    if said is None:
        return _SAYS.get(scope, scope)
    things = "everything" if said.type == "*" else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", said.type).lower()
    whose = "in your record" if patient else "of one patient" if said.context == "patient" else "that you may see"
    if said.operation is not None:
        return f"Use {'every operation' if said.operation == '*' else '$' + said.operation} on {things} {whose}"
    does = [_DOES[letter] for letter in "rscud" if letter in said.letters]
    doing = does[0] if len(does) == 1 else f"{', '.join(does[:-1])} and {does[-1]}"
    only = f", only where {said.query.replace('&', ' and ')}" if said.query else ""
    return f"{doing[0].upper()}{doing[1:]} {things} {whose}{only}"
