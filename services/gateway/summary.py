"""`Patient/$summary`: the International Patient Summary, a document made of the gateway's copy when it is asked for.

It is not kept. Every reference of its Composition is to an entry of the same Bundle, and who and what these refer to
comes with them; the stored bytes of a resource are in it as they are.

Source: https://hl7.org/fhir/uv/ips/STU2/OperationDefinition-summary.html
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from services.gateway.beside import TYPES_BESIDE, beside
from services.gateway.ips import BUNDLE, COMPOSITION, GATHERED, NEWEST, composition, sorted_out
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, dump, parse
from shared.fhir.kap import id_in
from shared.fhir.outcome import BadRequest, NotFound, PreconditionFailed
from shared.fhir.query import parse_search
from shared.http import bundle
from shared.http.backend import OperationResult
from shared.http.operations.kinds import reading, texts
from shared.http.operations.lastn import Newest
from shared.version import VERSION

if TYPE_CHECKING:
    from shared.fhir.search import SearchQuery
    from shared.http.backend import Backend, RequestContext
    from shared.runtime.service import OperationCall
    from shared.store.types import Page, Stored

PAGE: Final = "1000"
IN_SUMMARY: Final = TYPES_BESIDE | {"Observation", "Specimen"}
"""What comes with what a section holds: the results of a report, too."""


async def _of_instance(call: OperationCall, backend: Backend, context: RequestContext) -> OperationResult:
    _profile(texts(call, ("profile",)))
    return await _document(await backend.read(context, "Patient", str(call.id)), backend, context)


async def _of_type(call: OperationCall, backend: Backend, context: RequestContext) -> OperationResult:
    given = texts(call, ("identifier", "profile"))
    _profile(given)
    identifiers = [value for name, value in given if name == "identifier"]
    if len(identifiers) != 1:
        raise BadRequest(
            "Patient/$summary has one identifier, system|value; or ask Patient/[id]/$summary.",
            code="required",
            expression=["http.identifier"],
        )
    pairs = [("identifier", identifiers[0]), ("_count", "2")]
    query = parse_search("Patient", pairs, strict=True, base=context.base_url)
    found = (await backend.search(context, query, cursor=None)).entries
    if not found:
        raise NotFound("No patient here has that identifier.", expression=["http.identifier"])
    if len(found) > 1:
        raise PreconditionFailed("Several patients have that identifier. Ask by id.", code="multiple-matches")
    return await _document(found[0], backend, context)


def _profile(given: list[tuple[str, str]]) -> None:
    for name, value in given:
        if name == "profile" and value.partition("|")[0] not in (COMPOSITION, BUNDLE):
            raise BadRequest(
                f"$summary makes an International Patient Summary, {COMPOSITION}, and no other.",
                code="not-supported",
                expression=["http.profile"],
            )


async def _document(patient: Stored, backend: Backend, context: RequestContext) -> OperationResult:
    async def search(query: SearchQuery) -> Page:
        return await backend.search(context, query, cursor=None)

    gathered: dict[tuple[str, str], Stored] = {("Patient", patient.id): patient}
    for type_, pairs in GATHERED:
        for stored in await _all(type_, pairs, patient.id, backend, context):
            gathered[stored.type, stored.id] = stored
    resources = {place: parse(stored.body) for place, stored in gathered.items()}
    found = sorted_out(resources.values())
    chosen = {(one["resourceType"], one["id"]) for told in found.values() for one in told} | {("Patient", patient.id)}
    kept = [resources[place] for place in resources if place in chosen]
    others = await beside(search, kept, chosen, context.base_url, IN_SUMMARY)

    def url_of(resource: Resource) -> str:
        return f"{context.base_url}/{resource['resourceType']}/{resource['id']}"

    now = datetime.now(UTC)
    author, text = f"urn:uuid:{(device := _software())['id']}", new_id()
    clinic = id_in(resources["Patient", patient.id].get("managingOrganization"), "Organization")
    held = any((stored.type, stored.id) == ("Organization", clinic) for stored in others)
    made = composition(
        id_=text,
        date=bundle.instant(now),
        subject=url_of(resources["Patient", patient.id]),
        author=author,
        custodian=f"{context.base_url}/Organization/{clinic}" if held else None,
        found=found,
        lists=[one for (type_, _), one in resources.items() if type_ == "List"],
        url_of=url_of,
        beside={f"{stored.type}/{stored.id}": parse(stored.body) for stored in others if stored.type == "Medication"},
    )
    entries = [(f"urn:uuid:{text}", dump(made))]
    entries += [
        (f"{context.base_url}/{stored.type}/{stored.id}", stored.body)
        for stored in [*(gathered[place] for place in gathered if place in chosen), *others]
    ]
    entries.append((author, dump(device)))
    return OperationResult(bundle.document(f"urn:uuid:{new_id()}", BUNDLE, now, entries))


async def _all(
    type_: str, pairs: tuple[tuple[str, str], ...], patient: str, backend: Backend, context: RequestContext
) -> list[Stored]:
    asked = [("patient", f"Patient/{patient}"), *pairs, ("_count", PAGE)]
    query = parse_search(type_, asked, strict=True, base=context.base_url)
    found: list[Stored] = []
    newest = Newest(1)
    cursor: str | None = None
    while True:
        page = await backend.search(context, query, cursor=cursor)
        if type_ in NEWEST:
            newest.take(page.entries)
        else:
            found.extend(page.entries)
        cursor = page.next
        if cursor is None:
            return newest.entries() if type_ in NEWEST else found


def _software() -> Resource:
    """Return what put the document together."""
    return {
        "resourceType": "Device",
        "id": new_id(),
        "deviceName": [{"name": "KAP Exchange", "type": "model-name"}],
        "type": {"text": "software that keeps the clinic's record"},
        "version": [{"value": VERSION}],
    }


_SAID: Final = "The International Patient Summary, a document made now of what is recorded."
_DEFINITION: Final = "http://hl7.org/fhir/uv/ips/OperationDefinition/summary"

SUMMARY: Final = (
    reading("summary", "Patient", "instance", _of_instance, documentation=_SAID, definition=_DEFINITION),
    reading("summary", "Patient", "type", _of_type, documentation=_SAID, definition=_DEFINITION),
)
