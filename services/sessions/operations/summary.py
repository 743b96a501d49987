"""The summary of a visit: `Encounter/$summarize` writes, signs and amends it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

from services.sessions.names import name_of
from services.sessions.operations.parameters import given_in
from services.sessions.rules.summary import (
    PROGRESS_NOTE,
    SIGNED,
    TYPES,
    XHTML,
    Section,
    as_text,
    is_tampered_with,
    same_content,
    status_of,
)
from services.sessions.rules.visits import OVER
from services.sessions.setting import Setting
from services.sessions.summing import sections_of
from shared.fhir.codes import AMEND_SUMMARY, ID_SUMMARY, ID_TASK, Code
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, patient_of, reference, visit_of
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.fhir.raised import identifier, policy_extension, task
from shared.runtime.raising import close_task, content_of, find, is_own_work, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change, Operation, OperationCall

CLINICAL_NOTE: Final = Code(
    "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category", "clinical-note", "Clinical Note"
)
SOURCE: Final = "https://hl7.org/fhir/R4/composition.html"
FORMS: Final = {"author": "valueReference", "attester": "valueReference"}


def summary_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return the operation on the summary of a visit."""

    async def summarize(call: OperationCall, record: Record) -> Resource:
        return await _summarize(call, record, setting)

    return (
        Operation(
            name="summarize",
            type="Encounter",
            level="instance",
            handler=summarize,
            documentation=(
                "Writes the summary of a visit from its record, as a Composition and, as plain text for readers of "
                "documents, a DocumentReference: drugs, times, vital signs, alarms with treatment and outcome, adverse "
                "events, psychotherapy, leaving, and what is not recorded. Parameters: author (Reference; needed), "
                "attester (Reference to the Practitioner or PractitionerRole who signs; without it the summary is "
                "preliminary). Run again, it brings the same resources up to date; a signed one is then amended, in a "
                "new version, and is signed again. Returns Parameters: composition, document (References), missing "
                "(string, each)."
            ),
        ),
    )


def _parameters(call: OperationCall) -> dict[str, Any]:
    given = given_in(call, FORMS, ("author",))
    for name, one in given.items():
        if one is not None and not any(id_in(one, type_) for type_ in ("Practitioner", "PractitionerRole")):
            raise BadRequest(
                f"{name} names a Practitioner or PractitionerRole.", code="value", expression=["Parameters.parameter"]
            )
    return given


async def _summarize(call: OperationCall, record: Record, setting: Setting) -> Resource:
    visit = await record.get("Encounter", str(call.id))
    if visit is None:
        raise NotFound(f"There is no Encounter/{call.id} here.")
    given, now = _parameters(call), setting.clock()
    if visit["status"] in ("planned", "cancelled", "entered-in-error"):
        raise _refused(f"The visit is {visit['status']}: there is nothing to summarize.")
    if given["attester"] is not None and visit["status"] not in OVER:
        raise _refused("The visit is still under way: leave attester out, and sign the summary when it has ended.")
    name = identifier(ID_SUMMARY, visit["id"])
    held = await find(record, "Composition", name)
    sections, lacking = await sections_of(record, visit, setting)
    made = _composition(visit, sections, given["author"], setting)
    changed = not same_content(held, made)
    signed = given["attester"] is not None
    if held is not None and held["status"] in SIGNED and changed and not signed:
        raise _refused("The summary is signed, and the record says something else now. Amend it by signing: attester.")
    status = status_of(held, signed=signed, changed=changed)
    if held is not None and not changed and status == held["status"]:
        await close_task(record, identifier(ID_TASK, "summary", visit["id"]), now, why="The summary says it already.")
        document = await find(record, "DocumentReference", name)
        return _told(held["id"], (document or held)["id"], lacking)
    signatures = list((held or {}).get("attester", []))
    if signed:
        signatures.append({"mode": "professional", "time": zulu(now), "party": given["attester"]})
    composition = {
        **made,
        "identifier": name,
        "status": status,
        "date": zulu(now),
        "author": [given["author"]],
        **({"attester": signatures} if signatures else {}),
    }
    kept = await _keep(record, held, composition)
    await close_task(record, identifier(ID_TASK, "summary", visit["id"]), now, why="The summary was written again.")
    text = as_text(made["title"], await _about(record, visit, composition), sections)
    document = _document(visit, composition, kept, text)
    held_document = await find(record, "DocumentReference", name)
    return _told(kept, await _keep(record, held_document, document), lacking)


async def _keep(record: Record, held: Resource | None, resource: Resource) -> str:
    with own_work():
        if held is None:
            return (await record.create(resource)).stored.id
        await record.update(content_of({**resource, "id": held["id"]}))
        return str(held["id"])


def _refused(what: str) -> Unprocessable:
    return Unprocessable(what, expression=["Encounter"], rule="V-SIGNED", source=SOURCE)


def _told(composition: str, document: str, lacking: list[str]) -> Resource:
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "composition", "valueReference": reference("Composition", composition)},
            {"name": "document", "valueReference": reference("DocumentReference", document)},
            *({"name": "missing", "valueString": one} for one in lacking),
        ],
    }


def _composition(visit: Resource, sections: list[Section], author: Resource, setting: Setting) -> Resource:
    kind = TYPES.get(str(visit_of(visit)), PROGRESS_NOTE)
    title = f"{_display(visit)}: summary"
    return {
        "resourceType": "Composition",
        "extension": [policy_extension(setting.version)],
        "text": {"status": "generated", "div": f'<div xmlns="{XHTML}"><p>{title}</p></div>'},
        "type": kind.concept(),
        "category": [CLINICAL_NOTE.concept()],
        "subject": reference("Patient", str(patient_of(visit))),
        "encounter": reference("Encounter", visit["id"]),
        "author": [author],
        "title": title,
        "confidentiality": "R",
        "section": [one.as_fhir() for one in sections],
    }


def _display(visit: Resource) -> str:
    for concept in visit.get("type", []):
        for coding in concept.get("coding", []):
            if coding.get("display"):
                return str(coding["display"])
    return "Visit"


async def _about(record: Record, visit: Resource, composition: Resource) -> list[str]:
    lines = [
        f"Patient: {await name_of(record, composition['subject'])}",
        f"Author: {await name_of(record, composition['author'][0])}",
        f"Status: {composition['status']}, {composition['date']}",
    ]
    signatures = [
        f"Signed {one['time']} by {await name_of(record, one['party'])}" for one in composition.get("attester", [])
    ]
    return [*lines, *signatures]


def _document(visit: Resource, composition: Resource, id_: str, text: str) -> Resource:
    period = visit.get("period")
    return {
        "resourceType": "DocumentReference",
        "identifier": [composition["identifier"]],
        "status": "current",
        "docStatus": composition["status"],
        "type": composition["type"],
        "category": composition["category"],
        "subject": composition["subject"],
        "date": composition["date"],
        "author": composition["author"],
        **({"authenticator": composition["attester"][-1]["party"]} if "attester" in composition else {}),
        "content": [
            {
                "attachment": {
                    "contentType": "text/plain;charset=utf-8",
                    "data": b64encode(text.encode()).decode(),
                    "title": composition["title"],
                    "creation": composition["date"],
                }
            }
        ],
        "context": {
            "encounter": [reference("Encounter", visit["id"])],
            **({"period": period} if period else {}),
            "related": [reference("Composition", id_)],
        },
    }


async def keep_signed(change: Change, record: Record) -> None:
    """Guard: what was signed is amended by $summarize, and by nobody else; it may be said to be an error.

    Raises:
        Unprocessable: a signed summary would be changed or deleted.

    """
    before, after = change.before, change.after
    if not is_own_work() and is_tampered_with(before, after):
        raise Unprocessable(
            f"This {change.type} is a signed summary. Amend it by Encounter/$summarize, or mark it entered-in-error.",
            expression=[change.type],
            rule="V-SIGNED",
            source=SOURCE,
        )


async def ask_for_amendment(change: Change, record: Record, setting: Setting) -> None:
    """Have the signed summary of a visit that has ended amended where its record says something else since."""
    changed = change.after or change.before or {}
    visit_id = id_in(changed.get("context") or changed.get("encounter"), "Encounter")
    if visit_id is None or is_own_work():
        return
    visit = await record.get("Encounter", visit_id)
    patient = None if visit is None else patient_of(visit)
    if visit is not None and patient is not None and visit["status"] in OVER:
        await have_amended(record, visit_id, patient, setting)


async def have_amended(record: Record, visit_id: str, patient: str, setting: Setting) -> None:
    """Ask for the amendment of a visit's summary where it is signed."""
    held = await find(record, "Composition", identifier(ID_SUMMARY, visit_id))
    if held is None or held["status"] not in SIGNED:
        return
    asked = task(
        ("summary", visit_id),
        patient=patient,
        code=AMEND_SUMMARY,
        description="The record of the visit was changed after its summary was signed. Amend the summary ($summarize).",
        now=setting.clock(),
        focus=f"Composition/{held['id']}",
        encounter=visit_id,
    )
    await raise_once(record, asked, reopen=True)
