"""The REMS of esketamine: `Encounter/$rems-form` fills the monitoring form; a Task says until when it is to be sent."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from services.sessions.calling import Finding, have_reviewed
from services.sessions.monitoring_form import devices_of, fill, is_inpatient
from services.sessions.operations.parameters import given_in, moment_in
from services.sessions.setting import Setting
from shared.fhir.codes import REPORT_EVENT, REPORT_LATE, SUBMIT_REMS
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import has_code, id_in, moment, patient_of, reference
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.runtime.raising import OPEN_TASK, content_of, own_work
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall
from shared.runtime.timers import Round, Timer

EVERY: Final = timedelta(minutes=1)


def rems_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return the operation on the monitoring form."""

    async def form(call: OperationCall, record: Record) -> Resource:
        return await _fill(call, record, setting)

    async def submitted(call: OperationCall, record: Record) -> Resource:
        return await _submitted(call, record, setting)

    return (
        Operation(
            name="rems-form",
            type="Encounter",
            level="instance",
            handler=form,
            documentation=(
                "Fills the monitoring form of the Spravato REMS (QuestionnaireResponse kap-rems-pmf) from what the "
                "session has recorded, and keeps what a person answered in it. Returns Parameters: `form` (Reference), "
                "`missing` (code, each), `task` (Reference) with the day until which it is to be sent. Run again, it "
                "brings the same form up to date. At the end of a session it is filled without being asked."
            ),
        ),
        Operation(
            name="rems-submitted",
            type="Encounter",
            level="instance",
            handler=submitted,
            documentation=(
                "Records that the monitoring form of the REMS was sent. Parameters: sent (dateTime; default now), "
                "channel (code: web or fax), by (Reference to the Practitioner or PractitionerRole), confirmation "
                "(string; what the programme answered). Completes the Task, in time or late, and names what the form "
                "lacks; one that was sent with something missing is reviewed. Returns Parameters: task, missing."
            ),
        ),
    )


async def _fill(call: OperationCall, record: Record, setting: Setting, *, sent: datetime | None = None) -> Resource:
    visit = await record.get("Encounter", str(call.id))
    if visit is None:
        raise NotFound(f"There is no Encounter/{call.id} here.")
    if is_inpatient(visit, setting):
        raise _no_form("Inpatients have no monitoring form; serious events are reported all the same.", setting)
    doses = await devices_of(record, visit, setting)
    if not doses:
        raise _no_form("There is no dose of esketamine in this visit, so there is no form.", setting)
    filled = await fill(visit, doses, record, setting, sent=sent)
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "form", "valueReference": reference("QuestionnaireResponse", filled.form)},
            {"name": "task", "valueReference": reference("Task", str(filled.task["id"]))},
            *({"name": "missing", "valueCode": link} for link in filled.lacking),
        ],
    }


def _no_form(what: str, setting: Setting) -> Unprocessable:
    return Unprocessable(what, rule="G-REMS-FORM", source=setting.gate.rems.source)


FORMS: Final = {
    "sent": "valueDateTime",
    "channel": "valueCode",
    "by": "valueReference",
    "confirmation": "valueString",
}
CHANNELS: Final = ("web", "fax")


def _parameters(call: OperationCall, now: datetime) -> tuple[dict[str, Any], datetime]:
    given = given_in(call, FORMS)
    person = any(id_in(given["by"], type_) for type_ in ("Practitioner", "PractitionerRole"))
    if given["channel"] not in CHANNELS or not person:
        raise BadRequest(
            "$rems-submitted needs channel (web or fax) and by (a Practitioner or PractitionerRole).",
            code="required",
            expression=["Parameters.parameter"],
        )
    sent = moment_in("sent", given["sent"], now)
    if sent > now:
        raise BadRequest("What is recorded has happened: sent is still to come.", expression=["Parameters.parameter"])
    return given, sent


async def _submitted(call: OperationCall, record: Record, setting: Setting) -> Resource:
    now = setting.clock()
    given, sent = _parameters(call, now)
    filled = await _fill(call, record, setting, sent=sent)
    named = {one["name"]: one["valueReference"]["reference"] for one in filled["parameter"] if "valueReference" in one}
    lacking = [one["valueCode"] for one in filled["parameter"] if one["name"] == "missing"]
    held = await record.get("Task", id_in({"reference": named["task"]}, "Task") or "")
    told = [] if held is None else [one for one in held.get("output", []) if has_code(one.get("type"), SUBMIT_REMS)]
    if held is None or told:
        raise Unprocessable(
            "How the form was sent is recorded already. A correction is sent to the REMS by telephone.",
            code="duplicate",
            rule="G-REMS-FORM",
            source=setting.rems.submit.source,
        )
    late = sent > moment(held["restriction"]["period"]["end"])
    how = {"type": SUBMIT_REMS.concept(text="Sent"), "valueDateTime": zulu(sent)}
    channel = {"type": SUBMIT_REMS.concept(text="Channel"), "valueCode": given["channel"]}
    answer = {"type": SUBMIT_REMS.concept(text="Confirmation"), "valueString": given["confirmation"]}
    done = {
        **held,
        "status": "completed",
        "owner": given["by"],
        "businessStatus": {"text": "late" if late else "in time"},
        "lastModified": zulu(now),
        "output": [how, channel, *([answer] if given["confirmation"] else [])],
    }
    with own_work():
        await record.update(content_of(done))
    if lacking:
        text = f"The monitoring form of the REMS was sent, and lacks {', '.join(lacking)}. Complete it."
        name = ("rems", str(call.id), "incomplete")
        visit = str(call.id)
        asked = Finding(name, str(patient_of(held)), REPORT_LATE, text, (named["form"],), ("G-REMS-FORM",), visit)
        await have_reviewed(record, asked, setting)
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "task", "valueReference": {"reference": named["task"]}},
            *({"name": "missing", "valueCode": link} for link in lacking),
        ],
    }


def timer(setting: Setting) -> Timer:
    """Return the timer that has reports looked at which were not sent in their time."""

    async def look(one: Round) -> None:
        codes = f"{SUBMIT_REMS.token()},{REPORT_EVENT.token()}"
        found = await one.search("Task", {"code": codes, "status": ",".join(sorted(OPEN_TASK))})
        late = [due for due in found if moment(due["restriction"]["period"]["end"]) < one.now]

        async def ask(due: Resource, record: Record) -> None:
            patient, visit = patient_of(due), id_in(due.get("encounter"), "Encounter")
            if due["status"] not in OPEN_TASK or patient is None or "businessStatus" in due:
                return
            text = f"Not sent by {due['restriction']['period']['end']}: {due['description']}"
            name, about = ("report", str(due["id"])), (f"Task/{due['id']}",)
            asked = Finding(name, patient, REPORT_LATE, text, about, ("G-REMS-FORM",), visit)
            await have_reviewed(record, asked, setting)
            with own_work():
                await record.update(content_of({**due, "businessStatus": {"text": "overdue"}}))

        await one.each([due for due in late if "businessStatus" not in due], ask)

    return Timer("late-reports", EVERY, look)
