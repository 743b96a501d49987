"""Therapists' process notes at an endpoint of their own, ``/process-notes``, beside the FHIR API and never part of it.

POST  /process-notes/DocumentReference                a new note; the author is the token's user
GET   /process-notes/DocumentReference?patient=ID     those of one patient that the caller may read, newest first
GET   /process-notes/DocumentReference/{id}           the newest version
PUT   /process-notes/DocumentReference/{id}           a new version, with If-Match; nothing is ever overwritten
GET   /process-notes/DocumentReference/{id}/_history  its versions

They are kept in a database of their own, sealed under a key of the patient's, and reach no outbox, search, gateway,
export or hospital. A note is for its author, and for whom the patient authorised by a Consent; for everybody else,
who runs the clinic included, it is not there. Who was answered what is kept before he is answered. How old what is
known of consents may be is the policy's `knowledge.disclosure`; older, others than the author are asked to wait.

Source: 45 CFR 164.501 and 164.508(a)(2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from services.sessions.rules.process_notes import SOURCE, WRITERS, authorising, check_note, labelled
from services.sessions.sealing import Sealing
from services.sessions.setting import Setting
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, dump
from shared.fhir.kap import id_in
from shared.fhir.outcome import (
    BadRequest,
    FhirError,
    Forbidden,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unprocessable,
)
from shared.http.body import parse_body, read_body
from shared.http.bundle import history, searchset
from shared.http.negotiation import FHIR_JSON, etag, http_date, require_json, version_of_etag
from shared.runtime.ownership import SESSIONS
from shared.runtime.record import open_record, valid
from shared.security.audit import Auditing, record, record_refusal
from shared.security.scopes import PROCESS_NOTES
from shared.security.tokens import TokenRefused
from shared.store.access import Access as Reach
from shared.store.notes import Access, SealedNote
from shared.store.types import Stored

if TYPE_CHECKING:
    from shared.runtime.service import Service
    from shared.security.caller import Authenticate
    from shared.store.audit import Action as AuditAction
    from shared.store.notes import Action
    from shared.store.store import Store

PLACE: Final = "/process-notes"
_AUDITED: Final[Mapping[str, tuple[str, AuditAction]]] = {
    "create": ("create", "C"),
    "search": ("search-type", "E"),
    "read": ("read", "R"),
    "update": ("update", "U"),
    "history": ("history-instance", "R"),
}
TYPE: Final = "DocumentReference"
LONGEST: Final = 1024 * 1024
"""Bytes of one note."""

PAGE: Final = 50
_NO_STORE: Final = {"Cache-Control": "no-store"}
_NOT_THERE: Final = "There is no such process note for you."


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks: the token's tenant and client, its user as ``Practitioner/<id>``, the request; and the vault."""

    tenant: str
    client: str
    user: str
    request_id: str
    vault: Sealing

    def access(self, action: Action, note: SealedNote, consent: str | None = None) -> Access:
        """Return that he is answered with this version; `consent` by which, where it is not his own."""
        return Access(
            tenant=self.tenant,
            reader=self.user,
            client=self.client,
            action=action,
            patient=note.patient,
            request_id=self.request_id,
            note=note.id,
            version=note.version,
            consent=consent,
        )


@dataclass(frozen=True, slots=True)
class ProcessNotes:
    """Answers.

    Attributes:
        service, store: where the patient's record and consents are held.
        vault: where the notes are kept; None: this installation keeps none.
        authenticate: tells whose token it is.
        setting: the policy, and what time it is.
        base_url: the public base of links, ``http://.../process-notes``.

    """

    service: Service
    store: Store
    vault: Sealing | None
    authenticate: Authenticate
    setting: Setting
    base_url: str

    def routes(self) -> Mount:
        """Return the routes."""
        all_, one = f"/{TYPE}", f"/{TYPE}/{{id}}"
        return Mount(
            PLACE,
            routes=[
                self._route("POST", all_, self.create),
                self._route("GET", all_, self.search),
                self._route("GET", one, self.read),
                self._route("PUT", one, self.update),
                self._route("GET", f"{one}/_history", self.history),
            ],
        )

    def _route(self, method: str, path: str, answer: Callable[[Request, Asking], Awaitable[Response]]) -> Route:
        async def answered(request: Request) -> Response:
            request.scope["state"]["route"] = f"{PLACE}{path}"  # neither id nor patient is logged

            async def work() -> Response:
                asking = await self._asking(request)
                does, action = _AUDITED[answer.__name__]
                patient = request.query_params.get("patient", "")
                parts: dict[str, Any] = {"what": ("DocumentReference",)}  # its id is in the notes' own database only
                parts["patients"] = (patient.removeprefix("Patient/"),) if patient else ()
                parts |= {"tenant": asking.tenant, "client": asking.client, "user": asking.user}
                try:
                    answered = await answer(request, asking)
                except FhirError as error:
                    record_refusal("notes", does, action, error, **parts)
                    raise
                record("notes", does, action, **parts, status=answered.status_code)
                return answered

            return await Auditing(self.store.audit, self.service.name).request(request.scope, work)

        return Route(path, answered, methods=[method])

    async def _asking(self, request: Request) -> Asking:
        """Return who asks.

        Raises:
            TokenRefused: no token.
            Forbidden: not one for process notes, or of no user.
            Unavailable: this installation keeps none.

        """
        caller = await self.authenticate(request.headers)
        if caller.everything:
            raise Forbidden(
                "Process notes are for their authors, and a stack without tokens cannot tell who asks. Start it with "
                "tokens (./kap up --auth)."
            )
        if caller.client is None:
            raise TokenRefused("Send a token: 'Authorization: Bearer ...'.", error=None)
        if not caller.has(PROCESS_NOTES) or caller.user is None or caller.user.partition("/")[0] not in WRITERS:
            raise Forbidden(
                f"Process notes are for tokens with the scope {PROCESS_NOTES} that name their user (fhirUser: a "
                "Practitioner)."
            )
        if self.vault is None:
            raise Unavailable(
                "This installation keeps no process notes: KAP_NOTES_DATABASE_URL and KAP_NOTES_KEYS are not set."
            )
        request_id = request.scope["state"]["request_id"]
        return Asking(caller.tenant, caller.client, caller.user, request_id, self.vault)

    # Writing

    async def create(self, request: Request, asking: Asking) -> Response:
        """Keep a new note of the caller's."""
        return await self._write(asking, await _sent(request), new_id(), 1)

    async def update(self, request: Request, asking: Asking) -> Response:
        """Keep a new version of a note of the caller's."""
        id_ = request.path_params["id"]
        versions = await asking.vault.notes.versions(asking.tenant, id_)
        if not versions or versions[0].author != asking.user:
            raise NotFound(_NOT_THERE)
        newest, header = versions[0], request.headers.get("if-match")
        if header is None:
            raise BadRequest(
                "Say which version you have read: If-Match with its ETag.",
                code="required",
                expression=["http.if-match"],
            )
        if version_of_etag(header) != newest.version:
            raise PreconditionFailed(
                f"The note is at version {newest.version} by now. Read it, and try again.",
                expression=["http.if-match"],
            )
        note = await _sent(request)
        if note.get("id") != id_:
            raise BadRequest("The id of the body is not that of the URL.", expression=[f"{TYPE}.id"])
        if id_in(note.get("subject"), "Patient") != newest.patient:
            raise _of_another("A note stays with its patient. Mark this one entered-in-error, and write another.")
        return await self._write(asking, note, id_, newest.version + 1)

    async def _write(self, asking: Asking, sent: Resource, id_: str, version: int) -> Response:
        note = valid(sent, id_)
        issues = check_note(note, asking.user)
        if issues:
            raise Unprocessable(issues)
        patient = str(id_in(note["subject"], "Patient"))
        if await self.store.find(Reach.unrestricted(asking.tenant), "Patient", patient) is None:
            raise _of_another(
                "The patient is not known to sessions. Use the id of the clinic's record; who was entered just now is "
                "known after a moment."
            )
        now = self.setting.clock().astimezone(UTC)
        note = labelled(note, author=asking.user, version=version, now=now)
        sealed = await asking.vault.sealed(
            note, tenant=asking.tenant, version=version, patient=patient, author=asking.user, now=now
        )
        if not await asking.vault.notes.append(sealed, asking.access("create" if version == 1 else "update", sealed)):
            raise PreconditionFailed("Another version came first. Read the note, and try again.")
        headers = _headers(sealed) | {"Location": f"{self.base_url}/{TYPE}/{id_}/_history/{version}"}
        return Response(dump(note), 201 if version == 1 else 200, headers, FHIR_JSON)

    # Reading

    async def read(self, request: Request, asking: Asking) -> Response:
        """Return the newest version."""
        (newest, *_), consent = await self._open_to(asking, request.path_params["id"])
        body = await asking.vault.opened(newest)
        await asking.vault.notes.accessed([asking.access("read", newest, consent)])
        return Response(body, 200, _headers(newest), FHIR_JSON)

    async def history(self, request: Request, asking: Asking) -> Response:
        """Return all versions, the newest first."""
        versions, consent = await self._open_to(asking, request.path_params["id"])
        entries = [await _stored(one, asking.vault) for one in versions]
        await asking.vault.notes.accessed([asking.access("history", one, consent) for one in versions])
        return Response(history(self.base_url, entries, links=()), 200, _NO_STORE, FHIR_JSON)

    async def search(self, request: Request, asking: Asking) -> Response:
        """Return the notes of one patient that the caller may read; his own, too, where others' have to wait."""
        patient, before = _asked(request.query_params)
        consent, waits = None, None
        try:
            consent = await self._authorised(asking, patient)
        except Unavailable as error:
            waits = error.as_fhir()
        found = await asking.vault.notes.of_patient(
            asking.tenant, patient, author=None if consent else asking.user, before=before, limit=PAGE
        )
        entries = [await _stored(one, asking.vault) for one in found]
        await asking.vault.notes.accessed([asking.access("search", one, consent) for one in found])
        links = []
        if len(found) == PAGE:
            links.append(("next", f"{self.base_url}/{TYPE}?patient={patient}&_before={found[-1].id}"))
        return Response(searchset(self.base_url, entries, links=links, outcome=waits), 200, _NO_STORE, FHIR_JSON)

    async def _open_to(self, asking: Asking, id_: str) -> tuple[Sequence[SealedNote], str | None]:
        """Return the versions of a note, and by which Consent they are open to who asks (None: they are his own).

        Raises:
            NotFound: there is no such note, or not for him.
            Unavailable: he did not write it, and what is known of consents is too old.

        """
        versions = await asking.vault.notes.versions(asking.tenant, id_)
        if versions and versions[0].author == asking.user:
            return versions, None
        consent = await self._authorised(asking, versions[0].patient if versions else "unknown")
        if consent is None:
            raise NotFound(_NOT_THERE)
        return versions, consent

    async def _authorised(self, asking: Asking, patient: str) -> str | None:
        """Return the Consent by which a patient opens notes to who asks, though he did not write them.

        Raises:
            Unavailable: what is known here of consents is older than the policy allows.

        """
        async with open_record(self.service, self.store, Reach.unrestricted(asking.tenant), keys=()) as record:
            await record.require_current(self.setting.knowledge.disclosure, f"Patient/{patient}")
            consents = await record.search("Consent", {"patient": f"Patient/{patient}", "status": "active"})
        found = authorising(consents, asking.user, self.setting.clock())
        return None if found is None else f"Consent/{found['id']}"


def _of_another(said: str) -> Unprocessable:
    return Unprocessable(said, expression=[f"{TYPE}.subject"], rule="N-SUBJECT", source=SOURCE)


async def _stored(note: SealedNote, vault: Sealing) -> Stored:
    return Stored(
        type=TYPE,
        id=note.id,
        version=note.version,
        last_updated=note.last_updated,
        deleted=False,
        body=await vault.opened(note),
        origin=SESSIONS,
        interaction="create" if note.version == 1 else "update",
    )


async def _sent(request: Request) -> Resource:
    require_json(request.headers.get("content-type"))
    value = await parse_body(await read_body(request.receive, request.headers, LONGEST))
    if not isinstance(value, dict) or value.get("resourceType") != TYPE:
        raise BadRequest(f"A process note is a {TYPE}.", expression=["http.body"])
    return value


def _asked(given: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the patient's id, and before which note the page begins."""
    unknown = sorted(set(given) - {"patient", "_before"})
    if unknown:
        raise BadRequest(
            f"Process notes are searched by patient only, not by {', '.join(unknown)}.", expression=["http.url"]
        )
    patient = given.get("patient", "").removeprefix("Patient/")
    if not patient:
        raise BadRequest("Say whose notes: ?patient=[id].", code="required", expression=["http.url"])
    before = given.get("_before")
    try:
        return patient, None if before is None else str(UUID(before))
    except ValueError:
        raise BadRequest("Take the link to the next page as it was given.", expression=["http.url"]) from None


def _headers(note: SealedNote) -> dict[str, str]:
    return {"ETag": etag(note.version), "Last-Modified": http_date(note.last_updated), **_NO_STORE}
