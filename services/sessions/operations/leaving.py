"""At the end of a visit: `Encounter/$discharge`, and `Encounter/$resume` where it was ended by mistake."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from services.sessions.gathering import answers_of
from services.sessions.leaving import stays_after_all
from services.sessions.operations.parameters import given_in, moment_in
from services.sessions.operations.summary import have_amended
from services.sessions.rules.leaving import AGAINST_ADVICE, DISPOSITION, HOME
from services.sessions.setting import Setting
from services.sessions.watching import take_up_watch
from shared.fhir.codes import DISCHARGE_QUESTIONNAIRE, ESCORT, RESUMED, WITNESS, Code
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import has_code, id_in, patient_of, reference
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.runtime.raising import content_of, own_work
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

DISPOSITIONS: Final = {
    HOME: Code(DISPOSITION, HOME, "Home"),
    AGAINST_ADVICE: Code(DISPOSITION, AGAINST_ADVICE, "Left against advice"),
    "psy": Code(DISPOSITION, "psy", "Psychiatric hospital"),
    "other-hcf": Code(DISPOSITION, "other-hcf", "Other healthcare facility"),
    "oth": Code(DISPOSITION, "oth", "Other"),
}
PEOPLE: Final = ("Practitioner", "PractitionerRole")
AUTHOR: Final = Code("http://terminology.hl7.org/CodeSystem/provenance-participant-type", "author", "Author")
FORMS: Final = {
    "disposition": "valueCode",
    "left": "valueDateTime",
    "witness": "valueReference",
    "attempt": "valueString",
}


def leaving_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return the operations at the end of a visit."""

    async def discharge(call: OperationCall, record: Record) -> Resource:
        return await _discharge(call, record, setting)

    async def resume(call: OperationCall, record: Record) -> Resource:
        return await _resume(call, record, setting)

    return (
        Operation(
            name="resume",
            type="Encounter",
            level="instance",
            handler=resume,
            documentation=(
                "Goes on with a visit that was finished by mistake, while the patient is still there: it is in "
                "progress again, without end and disposition, what it was is in its statusHistory, and the watch takes "
                "up again, what was due meanwhile too. What was raised because the patient had left is taken back. "
                "Parameters: reason (string), performer (Reference to the Practitioner or PractitionerRole who says "
                "so), both kept as a Provenance. Returns the Encounter."
            ),
        ),
        Operation(
            name="discharge",
            type="Encounter",
            level="instance",
            handler=discharge,
            documentation=(
                "Ends a visit and records how the patient left. Parameters: disposition (home, aadvice, psy, "
                "other-hcf, oth; default home), left (dateTime; default now), for aadvice witness (Reference), attempt "
                "(string: what was tried). Home after a dose needs the least stay, the checklist (Questionnaire "
                "kap-discharge) and a pressure; else 422 with all that lacks. Other ways are always recorded. Returns "
                "the Encounter."
            ),
        ),
    )


def _parameters(call: OperationCall) -> dict[str, Any]:
    given = given_in(call, FORMS)
    if (given["disposition"] or HOME) not in DISPOSITIONS:
        raise BadRequest(
            f"The disposition is one of {', '.join(DISPOSITIONS)}.", code="value", expression=["Parameters.parameter"]
        )
    return given


async def _discharge(call: OperationCall, record: Record, setting: Setting) -> Resource:
    visit = await record.get("Encounter", str(call.id))
    if visit is None:
        raise NotFound(f"There is no Encounter/{call.id} here.")
    given = _parameters(call)
    left = moment_in("left", given["left"], setting.clock())
    disposition = DISPOSITIONS[given["disposition"] or HOME]
    concept = disposition.concept(text=given["attempt"]) if given["attempt"] else disposition.concept()
    asked = await answers_of(record, str(call.id), DISCHARGE_QUESTIONNAIRE, None, left)
    escort = None if asked is None else asked.answers.get("escort-name")
    people = list(visit.get("participant", []))
    if given["witness"] is not None:
        people.append({"type": [WITNESS.concept()], "individual": given["witness"]})
    named = any(has_code(one.get("type"), ESCORT) for one in people)
    if escort and not named and disposition.code == HOME:
        people.append({"type": [ESCORT.concept()], "individual": {"display": escort}})
    ended = {
        **visit,
        "status": "finished",
        "participant": people,
        "period": {**visit.get("period", {}), "end": zulu(left)},
        "hospitalization": {**visit.get("hospitalization", {}), "dischargeDisposition": concept},
    }
    written = await record.update(content_of({key: value for key, value in ended.items() if value != []}))
    encounter: Resource = parse(written.stored.body)
    return encounter


async def _resume(call: OperationCall, record: Record, setting: Setting) -> Resource:
    visit = await record.get("Encounter", str(call.id))
    if visit is None:
        raise NotFound(f"There is no Encounter/{call.id} here.")
    given = given_in(call, {"reason": "valueString", "performer": "valueReference"}, ("reason", "performer"))
    reason = given["reason"].strip()
    if not reason or not any(id_in(given["performer"], type_) for type_ in PEOPLE):
        raise BadRequest(
            "$resume needs a reason in words, and a performer who is a Practitioner or PractitionerRole.",
            expression=["Parameters.parameter"],
        )
    now, hours = setting.clock(), setting.monitoring.longest.hours
    ended = visit.get("period", {}).get("end") or visit["meta"]["lastUpdated"]
    if visit["status"] != "finished" or interval(ended)[0] < now - timedelta(hours=hours):
        said = f"is {visit['status']}" if visit["status"] != "finished" else f"ended at {ended}"
        raise Unprocessable(
            f"The visit {said}: one goes on that is finished, and has ended within {hours} hours. What it says wrongly "
            "is corrected where it stands; for a patient who has come again there is another visit.",
            expression=["Encounter.status"],
            rule="N-STATE",
            source=setting.monitoring.longest.source,
        )
    stay = {key: one for key, one in visit.get("hospitalization", {}).items() if key != "dischargeDisposition"}
    period = {key: one for key, one in visit.get("period", {}).items() if key != "end"}
    goes_on = {**visit, "status": "in-progress", "period": period, "hospitalization": stay}
    with own_work():
        written = await record.update(content_of({key: one for key, one in goes_on.items() if one not in ({}, [])}))
        await record.create(_provenance(visit, reason, given["performer"], zulu(now)))
    encounter: Resource = parse(written.stored.body)
    await stays_after_all(record, encounter, f"The visit goes on: {reason}", setting)
    await take_up_watch(record, encounter, setting)
    await have_amended(record, str(visit["id"]), str(patient_of(visit)), setting)
    return encounter


def _provenance(visit: Resource, reason: str, who: Resource, when: str) -> Resource:
    """Return why a visit goes on, who says so, and the version that said that it had ended."""
    ended = f"Encounter/{visit['id']}/_history/{visit['meta']['versionId']}"
    clinic = visit.get("serviceProvider", {"display": "The clinic of the visit"})
    return {
        "resourceType": "Provenance",
        "target": [reference("Encounter", visit["id"])],
        "recorded": when,
        "reason": [{"text": reason}],
        "activity": RESUMED.concept(),
        "agent": [{"type": AUTHOR.concept(), "who": who, "onBehalfOf": clinic}],
        "entity": [{"role": "revision", "what": {"reference": ended}}],
    }
