"""Breaking the glass: reading of one patient, in an emergency, what no consent lets somebody outside be told.

Who may declares it by ``Patient/[id]/$break-the-glass`` and is answered a Task: who, of whom, why, until when, for the
privacy officer to review. His reads then name it by `HEADER`, each of them: nothing is opened by the way. What the
Task says is asked anew at each; a Task that is ended ends it. Process notes stay closed, and so does all to legal
proceedings.

Source: 42 CFR 2.51 (medical emergencies; (c) what is to be documented), 45 CFR 164.312(a)(2)(ii);
HL7 v3-ActReason BTG, ETREAT; IHE PCF, consents that except break-glass (purpose BTG)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from shared.fhir.codes import BASE, BREAK_GLASS, KAP
from shared.fhir.json import Resource, parse
from shared.fhir.kap import codes_of, id_in, moment
from shared.fhir.outcome import BadRequest, Forbidden
from shared.runtime.ownership import INTAKE

if TYPE_CHECKING:
    from shared.security.caller import Caller
    from shared.store.types import Stored

HEADER: Final = "X-Kap-Break-Glass"
OPERATION: Final = "break-the-glass"
PURPOSES: Final = ("BTG", "ETREAT")
"""Of v3-ActReason: what reads past the consents are for, in the audit."""

CLIENT: Final = f"{BASE}/identifier/client"
"""System of a client's id, as the identifier of `Task.requester`."""

_TASK: Final = re.compile(r"Task/([A-Za-z0-9\-.]{1,64})")
_ENDED: Final = frozenset(("cancelled", "rejected", "failed", "entered-in-error"))
_ASK: Final = f"Declare the emergency: POST Patient/[id]/${OPERATION}, and name the Task it answers."


@dataclass(frozen=True, slots=True)
class Broken:
    """By which Task (``Task/1``) the glass is broken, for which patient (logical id), and why."""

    task: str
    patient: str
    reason: str


def task_in(header: str) -> str:
    """Return the id of the Task that a request names.

    Raises:
        BadRequest: it names none.

    """
    found = _TASK.fullmatch(header.strip())
    if found is None:
        raise BadRequest(f"{HEADER} is Task/[id]. {_ASK}", code="value", expression=[f"http.{HEADER.lower()}"])
    return found[1]


def require_may_break(caller: Caller) -> None:
    """Pass somebody outside of the clinic whose role and token name the operation and whose user is known.

    Raises:
        Forbidden: anybody else; says what he has to do.

    """
    if caller.disclosure is None:
        raise Forbidden(
            "You are of the clinic, and patients' consents do not bind you: there is no glass to break. Read without "
            f"{HEADER}; what you may not see, your role does not have."
        )
    named = any(one.operation == OPERATION and one.names("Patient") for one in caller.scopes)  # `*` is not enough
    if not named or caller.role is None:
        raise Forbidden(
            f"This token may not break the glass: its role has to have the scope Patient.${OPERATION}, by name. Ask "
            "the clinic by telephone; it can tell in an emergency whom it sees fit."
        )
    if caller.user is None or caller.client is None:
        raise Forbidden(
            "Who breaks the glass has to be known: ask with a token that names its user (fhirUser), whom the clinic "
            "registered."
        )
    if "HLEGAL" in caller.disclosure.purposes:
        raise Forbidden("Nothing is opened for legal proceedings: 42 CFR 2.12(d). Ask the court for an order.")


def requester(user: str, client: str) -> Resource:
    """Return who broke the glass, as `Task.requester`."""
    return {"reference": user, "identifier": {"system": CLIENT, "value": client}}


def broken(held: Stored | None, caller: Caller, now: datetime) -> Broken:
    """Return what a Task opens to its requester now.

    Raises:
        Forbidden: nothing; in the same words whether there is such a Task or not, unless it is the caller's own.

    """
    task: Resource = {} if held is None or held.deleted or held.origin != INTAKE else parse(held.body)
    patient = id_in(task.get("for"), "Patient")
    own = BREAK_GLASS.code in codes_of(task.get("code"), KAP)
    own = own and task.get("requester") == requester(str(caller.user), str(caller.client))
    if not own or patient is None:
        raise Forbidden(f"The glass is not broken for you by this Task. {_ASK}")
    period = task.get("executionPeriod", {})
    if "start" not in period or "end" not in period or not moment(period["start"]) <= now < moment(period["end"]):
        raise Forbidden(f"The glass was broken until {period.get('end')}. Is it still an emergency? {_ASK}")
    if task["status"] in _ENDED:
        raise Forbidden("The clinic has ended this: the Task is over. Ask the clinic.")
    return Broken(f"Task/{task['id']}", patient, str(task.get("reasonCode", {}).get("text", "")))


def opened(caller: Caller, by: Broken) -> Caller:
    """Return the caller with the record of one patient open to him."""
    if caller.disclosure is None:
        return caller
    return replace(caller, disclosure=replace(caller.disclosure, opened=by.patient))
