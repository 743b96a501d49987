"""Who passes a record on: an intermediary under 42 CFR Part 2, and for which of its participants it asks.

An exchange (`hospital-system`, its token's user the Organization) reads for a participant by naming it in `HEADER`, in
each request. It is told what the patient's consents let be told to that participant through it, and the audit has both.
Without the header it asks for itself.

Source: 42 CFR 2.11 (intermediary), 2.31(a)(4)(ii) (its name on the consent; participants by name, or a general
designation of those who treat the patient), 2.24 (the list of those to whom it was disclosed, for three years)
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shared.fhir.outcome import BadRequest, Forbidden

if TYPE_CHECKING:
    from shared.security.caller import Caller

HEADER: Final = "X-Kap-On-Behalf-Of"

_WHOM: Final = re.compile(r"(Organization|Practitioner|PractitionerRole)/[A-Za-z0-9\-.]{1,64}")
_EXCHANGES: Final = "Organization/"


def on_behalf_of(caller: Caller, header: str) -> Caller:
    """Return the caller as one who asks for a participant of his.

    Raises:
        BadRequest: the header names nobody.
        Forbidden: he is no intermediary: he is of the clinic, or nobody knows which Organization he is.

    """
    named = header.strip()
    if _WHOM.fullmatch(named) is None:
        raise BadRequest(
            f"{HEADER} is whom you ask for: Organization/[id], Practitioner/[id] or PractitionerRole/[id], as the "
            "clinic's directory names it.",
            code="value",
            expression=[f"http.{HEADER.lower()}"],
        )
    told, user = caller.disclosure, caller.user
    if told is None:
        raise Forbidden(
            f"You are of the clinic, and pass nothing on: there is nobody to ask for. Read without {HEADER}."
        )
    if user is None or not user.startswith(_EXCHANGES) or told.permitted:
        raise Forbidden(
            f"{HEADER} is for an exchange whose token names it (fhirUser, Organization/[id]) and which is told what "
            "patients consent to. Ask for yourself, without it."
        )
    if named == user:
        return caller
    return replace(caller, disclosure=replace(told, recipients=frozenset((named,)), through=frozenset((user,))))
