"""AuditEvents, made of the rows of the audit: read and searched, never written.

One row is one AuditEvent, made as IHE's Basic Audit Log Patterns have it. It claims no profile of them: nothing here
holds them. Who asks for one patient's is shown that patient alone in each.

Source: https://profiles.ihe.net/ITI/BALP/ 1.1, https://hl7.org/fhir/R4/auditevent.html
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from shared.fhir.codes import ACT_REASON, BASE, INTERMEDIARY, PARTICIPATION
from shared.fhir.dates import interval
from shared.fhir.json import Resource, dump
from shared.fhir.outcome import BadRequest, NotFound
from shared.http.audits_beside import Part, together
from shared.http.bundle import instant
from shared.security.gate import ScopeMissing
from shared.store.audit import Wanted
from shared.store.types import Page, Stored

if TYPE_CHECKING:
    from shared.http.audits_beside import AuditsBeside
    from shared.http.backend import RequestContext, TypeInteraction
    from shared.security.caller import Caller
    from shared.security.scopes import Letter
    from shared.store.audit import Audit, Held, Row

TYPE: Final = "AuditEvent"
INTERACTIONS: Final[frozenset[TypeInteraction]] = frozenset(("read", "search-type"))
PARAMETERS: Final[Mapping[str, str]] = {
    "_id": "token",
    "action": "token",
    "agent": "reference",
    "date": "date",
    "outcome": "token",
    "patient": "reference",
    "subtype": "token",
    "type": "token",
}
"""What AuditEvents are searched by, with its kind."""

BALP: Final = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
_DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
_EVENT: Final = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_RESTFUL: Final = "http://hl7.org/fhir/restful-interaction"
_LIFECYCLE: Final = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
_ENTITY: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_ROLE: Final = "http://terminology.hl7.org/CodeSystem/object-role"
_KIND: Final = f"{BASE}/CodeSystem/audit"
_CLIENT: Final = f"{BASE}/identifier/client"
_SERVICE: Final = f"{BASE}/identifier/service"
_POLICY: Final = f"{BASE}/policy/"

DISCLOSE: Final = "disclose"
"""Of `subtype`: what was told to somebody outside of the clinic, pushed there or read."""

_TYPES: Final[Mapping[str, tuple[str, str, str]]] = {
    "rest": (_EVENT, "rest", "Restful Operation"),
    "notes": (_EVENT, "rest", "Restful Operation"),
    "audit": (_DCM, "110101", "Audit Log Used"),
    "token": (_DCM, "110114", "User Authentication"),
    "login": (_DCM, "110114", "User Authentication"),
    "operate": (_DCM, "110100", "Application Activity"),
    "decide": (_DCM, "110113", "Security Alert"),
    "disclose": (_DCM, "110106", "Export"),
}
_AUTHENTICATION: Final[Mapping[str, tuple[str, str]]] = {
    "/auth/login": ("110122", "Login"),
    "/auth/account": ("110122", "Login"),
    "/auth/logout": ("110123", "Logout"),
}
"""What DICOM calls what people do at the issuer."""

_OUTCOMES: Final = {"0": 0, "4": 4, "8": 8, "12": 12}
_NO_OUTCOME: Final = -1
_LONGEST_SEQUENCE: Final = 19
_COUNT: Final = 50
_MOST: Final = 1000
_REFERENCE: Final = re.compile(r"(?:.*/)?Patient/([A-Za-z0-9\-.]{1,64})|([A-Za-z0-9\-.]{1,64})")
_ID: Final = re.compile(r"([a-z][a-z-]*)-([0-9]{1,18})")


def reach(caller: Caller, letter: Letter) -> tuple[str, ...] | None:
    """Return the patients about whom a caller may read the audit; None: about everybody and everything.

    Who looked at what is for auditors: a scope has to name AuditEvent, ``*`` is not enough. A patient sees who looked
    at what is his own.

    Raises:
        ScopeMissing: the token lets him see none.

    """
    if caller.everything:
        return None
    why = "Who looked at what is for auditors of the clinic, and for patients what is their own."
    if caller.disclosure is not None:  # somebody outside
        raise ScopeMissing(why, f"user/{TYPE}.{letter}")
    theirs = caller.user is not None and not caller.user.startswith("Practitioner")
    for one in caller.scopes:
        names = one.type == TYPE and letter in one.letters and not one.query
        if names and one.context != "patient" and not theirs:
            return None
    if caller.own and caller.may(TYPE, letter):
        return tuple(sorted(caller.own))
    raise ScopeMissing(why, f"user/{TYPE}.{letter}")


class AuditEvents:
    """The AuditEvents of one service."""

    def __init__(self, kept: Audit, base_url: str) -> None:
        self._kept = kept
        self._base_url = base_url

    async def read(self, tenant: str, id_: str, patients: tuple[str, ...] | None) -> Stored:
        """Return one.

        Raises:
            NotFound: there is none of this id, or not for who asks.

        """
        found = await self._kept.find(Wanted(tenant, patients=patients, sequence=self._sequence(id_)), limit=1)
        if not found:
            raise NotFound(f"There is no {TYPE}/{id_} here.")
        return self._stored(found[0], patients)

    async def search(
        self,
        tenant: str,
        given: Iterable[tuple[str, str]],
        cursor: str | None,
        patients: tuple[str, ...] | None,
        *,
        strict: bool,
    ) -> Page:
        """Return a page of those that match, the newest first, of those about `patients` (None: about anybody).

        Raises:
            BadRequest: a parameter is not known here, or cannot be understood.

        """
        wanted, count = self._wanted(tenant, given, patients, strict=strict)
        if cursor is not None and not (cursor.isdecimal() and len(cursor) < _LONGEST_SEQUENCE):
            raise BadRequest("This is no place in the audit.", code="value")
        total = await self._kept.count(wanted)
        if count == 0:
            return Page(entries=(), total=total)
        before = None if cursor is None else int(cursor)
        rows = await self._kept.find(wanted, before=before, limit=count + 1)
        shown = rows[:count]
        return Page(
            entries=[self._stored(one, wanted.patients) for one in shown],
            total=total,
            next=str(shown[-1].sequence) if len(rows) > count else None,
        )

    async def search_with(
        self,
        beside: AuditsBeside,
        context: RequestContext,
        given: Sequence[tuple[str, str]],
        before: Mapping[str, int],
        patients: tuple[str, ...] | None,
        *,
        strict: bool,
    ) -> Page:
        """Return a page of those that match, of this service's and of those beside it, the newest first.

        Raises:
            BadRequest: a parameter is not known here, or cannot be understood.
            FhirError: a service beside it refused, or is not there.

        """
        _, count = self._wanted(context.caller.tenant, given, patients, strict=strict)
        own, cursor = self._kept.service, before.get(self._kept.service)
        page = await self.search(
            context.caller.tenant, given, None if cursor is None else str(cursor), patients, strict=strict
        )
        parts = {own: Part(page.entries, page.next is not None, page.total or 0)}
        return together({**parts, **await beside.search(context, given, before)}, before, count)

    def _wanted(
        self, tenant: str, given: Iterable[tuple[str, str]], patients: tuple[str, ...] | None, *, strict: bool
    ) -> tuple[Wanted, int]:
        parts: dict[str, Any] = {}
        count = _COUNT
        for name, text in given:
            values = tuple(text.split(","))
            match name:
                case "_count":
                    count = _number(text)
                case "patient":
                    named = tuple(patient_in(one) for one in values)
                    both = named if patients is None else tuple(set(named) & set(patients))
                    parts["patients"] = both
                case "agent" | "agent:identifier":
                    parts["agents"] = tuple(one.rpartition("|")[2] for one in values)
                case "action":
                    parts["actions"] = tuple(one.rpartition("|")[2] for one in values)
                case "outcome":
                    parts["outcomes"] = tuple(_OUTCOMES.get(one.rpartition("|")[2], _NO_OUTCOME) for one in values)
                case "type":
                    codes = {one.rpartition("|")[2] for one in values}
                    parts["kinds"] = tuple(kind for kind, (_, code, _) in _TYPES.items() if code in codes) or ("-",)
                case "subtype":
                    codes = {one.rpartition("|")[2] for one in values}
                    paths = {path for path, (code, _) in _AUTHENTICATION.items() if code in codes}
                    parts |= {"disclosed": True} if DISCLOSE in codes else {"does": tuple(sorted(codes | paths))}
                case "date":
                    since, until = _period(text)
                    parts["since"] = max(filter(None, (since, parts.get("since"))), default=None)
                    parts["until"] = min(filter(None, (until, parts.get("until"))), default=None)
                case "_id":
                    parts["sequence"] = self._sequence(text)
                case "_sort" | "_total" if name == "_total" or text == "-date":
                    pass
                case _ if strict:
                    raise BadRequest(
                        f"{TYPE} is searched here by {', '.join(sorted(PARAMETERS))}, the newest first; not by "
                        f"'{name[:64]}'.",
                        code="not-supported",
                        expression=[f"http.{name[:64]}"],
                    )
        return Wanted(tenant, **{"patients": patients, **parts}), count

    def _sequence(self, id_: str) -> int:
        """Return the sequence of a row; -1, which no row has, for what is no id of one of this service."""
        found = _ID.fullmatch(id_)
        return int(found[2]) if found is not None and found[1] == self._kept.service else -1

    def _stored(self, held: Held, patients: Collection[str] | None) -> Stored:
        row = held.row
        return Stored(
            type=TYPE,
            id=f"{self._kept.service}-{held.sequence}",
            version=1,
            last_updated=datetime.fromisoformat(row.at),
            deleted=False,
            body=dump(as_audit_event(held.sequence, row, self._base_url, only=patients)),
            origin=self._kept.service,
            interaction="create",
        )


def as_audit_event(sequence: int, row: Row, base_url: str, *, only: Collection[str] | None = None) -> Resource:
    """Return a row as an AuditEvent; of the patients it names `only` these (None: all).

    What was asked is left out where others are among its patients and not to be shown: it may name them.
    """
    patients = [one for one in row.patients if only is None or one in only]
    whole = len(patients) == len(row.patients)
    system, code, display = _TYPES[row.kind]
    made: Resource = {
        "resourceType": TYPE,
        "id": f"{row.service}-{sequence}",
        "meta": {"lastUpdated": instant(datetime.fromisoformat(row.at))},
        "type": {"system": system, "code": code, "display": display},
        "subtype": _subtypes(row),
        "action": "R" if row.kind == "disclose" else row.action,
        "recorded": row.at,
        "outcome": str(row.outcome),
    }
    if row.reason is not None:
        made["outcomeDesc"] = row.reason
    if row.purpose:
        made["purposeOfEvent"] = [{"coding": [{"system": ACT_REASON, "code": one}]} for one in row.purpose]
    made["agent"] = list(_agents(row, base_url))
    made["source"] = {
        "observer": _server(row),
        "type": [{"system": "http://terminology.hl7.org/CodeSystem/security-source-type", "code": "4"}],
    }
    entities = list(_entities(row, patients, whole=whole))
    if entities:
        made["entity"] = entities
    return made


def _subtypes(row: Row) -> list[Resource]:
    does = row.does
    if row.kind in {"rest", "notes"}:
        code = "operation" if does.startswith("$") else does
        said = [{"system": _RESTFUL, "code": code}]
        if does.startswith("$"):
            said.append({"system": _KIND, "code": does})
    elif row.kind == "decide":
        said = [{"system": f"{BALP.rpartition('StructureDefinition')[0]}CodeSystem/BasicAuditEntityType",
                 "code": "AuthZ-Consent"}]  # fmt: skip
    elif row.kind == "disclose":
        said = []
    else:
        said = [{"system": _KIND, "code": does}]
        if row.kind == "login" and does in _AUTHENTICATION:
            code, display = _AUTHENTICATION[does]
            said.append({"system": _DCM, "code": code, "display": display})
    if row.kind == "disclose" or (row.recipient is not None and row.outcome == 0):
        said.append({"system": _LIFECYCLE, "code": DISCLOSE, "display": "Disclose Record Lifecycle Event"})
    return said


def _server(row: Row) -> Resource:
    return {"identifier": {"system": _SERVICE, "value": row.service}, "display": row.service}


def _agents(row: Row, base_url: str) -> Iterable[Resource]:
    """Yield client, server and user; of what is read the server is the source (BALP)."""
    reads = row.action == "R" or row.kind == "disclose"
    source, destination = _coded(_DCM, "110153", "Source Role ID"), _coded(_DCM, "110152", "Destination Role ID")
    policy = {} if row.policy is None else {"policy": [f"{_POLICY}{row.policy}"]}
    if row.kind == "disclose":
        client: Resource = {
            "who": _who(row.recipient or "unknown"),
            "network": {"address": row.address or "", "type": "5"},
        }
    elif row.client is None and row.address is None:
        client = {"who": _server(row)}
    else:
        who = {"identifier": {"system": _CLIENT, "value": row.client}} if row.client else {"display": "nobody known"}
        client = {"who": who, "network": {"address": row.address or "unknown", "type": "2"}}
    if row.kind == "disclose" and not row.address:
        del client["network"]
    yield {"type": destination if reads else source, **client, "requestor": row.user is None, **policy}
    network = {"network": {"address": base_url, "type": "5"}}
    yield {"type": source if reads else destination, "who": _server(row), "requestor": False, **network}
    if row.user is not None:
        role = {} if row.role is None else {"role": [_coded(f"{BASE}/CodeSystem/role", row.role)]}
        passes = bool(row.through) and row.recipient not in (None, row.user)
        recipient = _INTERMEDIARY if passes else _RECIPIENT
        use = [{"coding": [{"system": ACT_REASON, "code": one}]} for one in row.purpose]
        yield {
            "type": recipient,
            **role,
            "who": _who(row.user),
            "requestor": True,
            **({"purposeOfUse": use} if use else {}),
        }
        if passes and row.recipient is not None:
            yield {"type": _RECIPIENT, "who": _who(row.recipient), "requestor": False}
    for one in row.through:
        if row.user != one or row.recipient in (None, one):
            yield {"type": _INTERMEDIARY, "who": _who(one), "requestor": False}


def _who(name: str) -> Resource:
    type_, slash, _ = name.partition("/")
    known = {"Practitioner", "PractitionerRole", "Organization", "Device", "Patient", "RelatedPerson"}
    return {"reference": name} if slash and type_ in known else {"display": name}


def _coded(system: str, code: str, display: str | None = None) -> Resource:
    return {"coding": [{"system": system, "code": code, **({} if display is None else {"display": display})}]}


_RECIPIENT: Final = _coded(PARTICIPATION, "IRCP", "information recipient")
_INTERMEDIARY: Final = {"coding": [INTERMEDIARY.coding()]}
"""Who passes on what it is told: 42 CFR 2.11. HL7 has no code for it."""


def _entities(row: Row, patients: Iterable[str], *, whole: bool) -> Iterable[Resource]:
    for one in patients:
        yield {
            "what": {"reference": f"Patient/{one}"},
            "type": {"system": _ENTITY, "code": "1", "display": "Person"},
            "role": {"system": _ROLE, "code": "1", "display": "Patient"},
        }
    thing = {"system": _ENTITY, "code": "2", "display": "System Object"}
    if row.query is not None and whole:
        yield {
            "type": thing,
            "role": {"system": _ROLE, "code": "24", "display": "Query"},
            "description": row.query,
            "query": b64encode(row.query.encode()).decode(),
        }
    elif row.kind != "audit" or whole:
        own = {f"Patient/{one}" for one in patients}  # else it may be another patient's
        for what in (one for one in row.what if whole or one.partition("/_history/")[0] in own):
            said = (
                {"reference": what}
                if re.fullmatch(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}(/_history/\d+)?", what)
                else {"display": what}
            )
            yield {"what": said, "type": thing, "role": {"system": _ROLE, "code": "4", "display": "Domain Resource"}}
    for one in () if row.authorisation is None else row.authorisation.split(", "):
        names = one.startswith(("Consent/", "Task/"))
        if names and not whole:
            continue  # it may be another patient's
        decided = {"reference": one} if names else _who(one)
        yield {"what": decided, "type": thing, "role": {"system": _ROLE, "code": "13", "display": "Security Resource"}}
    if row.request is not None:
        system = f"{BALP.rpartition('StructureDefinition')[0]}CodeSystem/BasicAuditEntityType"
        yield {"what": {"identifier": {"value": row.request}}, "type": {"system": system, "code": "XrequestId"}}


def patient_in(text: str) -> str:
    """Return the id of a patient, given as ``Patient/ID`` or the id alone; raises BadRequest for anything else."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise BadRequest("patient is Patient/ID, or the id alone.", code="value", expression=["http.patient"])
    return found[1] or found[2]


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) > _MOST:
        raise BadRequest(f"_count is a number from 0 to {_MOST}.", code="value", expression=["http._count"])
    return int(text)


_BOUNDS: Final[Mapping[str, Callable[[datetime, datetime], tuple[datetime | None, datetime | None]]]] = {
    "eq": lambda low, high: (low, high),
    "ge": lambda low, _: (low, None),
    "gt": lambda _, high: (high, None),
    "sa": lambda _, high: (high, None),
    "le": lambda _, high: (None, high),
    "lt": lambda low, _: (None, low),
    "eb": lambda low, _: (None, low),
}


def _period(text: str) -> tuple[datetime | None, datetime | None]:
    prefix, moment = (text[:2], text[2:]) if text[:2] in _BOUNDS else ("eq", text)
    try:
        low, high = interval(moment)
    except ValueError:
        raise BadRequest(
            "date is a date or a time, with eq, ge, gt, le, lt, sa or eb before it.",
            code="value",
            expression=["http.date"],
        ) from None
    return _BOUNDS[prefix](low, high)
