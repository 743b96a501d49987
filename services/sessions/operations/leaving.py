"""At the end of a visit: `Encounter/$discharge`."""

from __future__ import annotations

from typing import Any, Final

from services.sessions.gathering import answers_of
from services.sessions.operations.parameters import given_in, moment_in
from services.sessions.rules.leaving import AGAINST_ADVICE, DISPOSITION, HOME
from services.sessions.setting import Setting
from shared.fhir.codes import DISCHARGE_QUESTIONNAIRE, ESCORT, WITNESS, Code
from shared.fhir.dates import zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import has_code
from shared.fhir.outcome import BadRequest, NotFound
from shared.runtime.raising import content_of
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

DISPOSITIONS: Final = {
    HOME: Code(DISPOSITION, HOME, "Home"),
    AGAINST_ADVICE: Code(DISPOSITION, AGAINST_ADVICE, "Left against advice"),
    "psy": Code(DISPOSITION, "psy", "Psychiatric hospital"),
    "other-hcf": Code(DISPOSITION, "other-hcf", "Other healthcare facility"),
    "oth": Code(DISPOSITION, "oth", "Other"),
}
FORMS: Final = {
    "disposition": "valueCode",
    "left": "valueDateTime",
    "witness": "valueReference",
    "attempt": "valueString",
}


def leaving_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return the operation at the end of a visit."""

    async def discharge(call: OperationCall, record: Record) -> Resource:
        return await _discharge(call, record, setting)

    return (
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
