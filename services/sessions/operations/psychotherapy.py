"""The psychotherapy of a visit: `Encounter/$record-psychotherapy`."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any

from services.sessions.operations.parameters import moment_in
from services.sessions.rules.psychotherapy import THERAPY, Item, code_of, has_begun, technique_concept
from services.sessions.setting import Setting
from services.sessions.therapy import close_check_in
from shared.fhir.codes import ID_THERAPY
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import patient_of, reference, visit_of
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.fhir.raised import identifier
from shared.runtime.raising import keep
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

FORMS = {"text": "valueString", "boolean": "valueBoolean", "technique": "valueCode"}


def psychotherapy_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return the operation on the psychotherapy of a visit."""

    async def write(call: OperationCall, record: Record) -> Resource:
        return await _record(call, record, setting)

    items = ", ".join(f"{name} ({FORMS[one.value]})" for name, one in setting.psychotherapy.items.items())
    return (
        Operation(
            name="record-psychotherapy",
            type="Encounter",
            level="instance",
            handler=write,
            documentation=(
                "Records what is shareable of the psychotherapy in a visit: setting, techniques, intentions, themes; "
                "of preparation and integration their content; check-ins after a session. Each value becomes an "
                "Observation, each technique a Procedure; the same said again is not doubled. Parameters: performer "
                f"(Reference), occurred (dateTime; default now), and of what belongs to the kind of visit: {items}. "
                "Returns Parameters with a `recorded` (Reference) for each. What was said in the session belongs to "
                "the process notes, not here."
            ),
        ),
    )


async def _record(call: OperationCall, record: Record, setting: Setting) -> Resource:
    visit = await record.get("Encounter", str(call.id))
    if visit is None:
        raise NotFound(f"There is no Encounter/{call.id} here.")
    kind = visit_of(visit)
    said, performer, when = _parameters(call, kind, setting)
    if not has_begun(visit):
        raise Unprocessable(
            f"The visit is {visit['status']}: there is nothing to record of it yet. Begin it first.",
            expression=["Encounter.status"],
            rule="V-CONTENT",
            source="KAP Exchange",
        )
    made = []
    for name, value in said:
        resource = _resource(visit, name, value, performer, when, setting)
        held = await keep(record, resource)
        made.append(f"{held['resourceType']}/{held['id']}")
        if name == "check-in":
            await close_check_in(record, visit["id"], made[-1], performer, setting)
    found = [{"name": "recorded", "valueReference": {"reference": one}} for one in made]
    return {"resourceType": "Parameters", "parameter": found}


def _parameters(
    call: OperationCall, kind: str | None, setting: Setting
) -> tuple[list[tuple[str, Any]], Resource | None, datetime]:
    policy, performer, when = setting.psychotherapy, None, setting.clock()
    fitting: dict[str, Item] = {name: one for name, one in policy.items.items() if kind in one.visits}
    forms = {name: FORMS[one.value] for name, one in fitting.items()}
    said: list[tuple[str, Any]] = []
    for parameter in call.parameters.get("parameter", []):
        name = parameter.get("name")
        if name == "performer" and "valueReference" in parameter:
            performer = parameter["valueReference"]
        elif name == "occurred" and "valueDateTime" in parameter:
            when = moment_in("occurred", parameter["valueDateTime"], when)
        elif forms.get(name) in parameter:
            said.append((name, parameter[forms[name]]))
        else:
            known = ", ".join(f"{one} ({form})" for one, form in forms.items())
            raise BadRequest(
                f"A {kind or 'visit'} does not have the parameter '{name}' in this form. It has: performer "
                f"(valueReference), occurred (valueDateTime), {known}.",
                expression=["Parameters.parameter"],
            )
    strange = [value for name, value in said if fitting[name].value == "technique" and value not in policy.techniques]
    if strange:
        raise BadRequest(
            f"A technique is one of {', '.join(policy.techniques)}, not {strange[0]}.",
            code="value",
            expression=["Parameters.parameter"],
        )
    if not said:
        raise BadRequest("Nothing is said that could be recorded.", code="required", expression=["Parameters"])
    if when > setting.clock():
        raise BadRequest(
            "What is recorded has happened: occurred is still to come.", expression=["Parameters.parameter"]
        )
    return said, performer, when


def _resource(
    visit: Resource, name: str, value: Any, performer: Resource | None, when: datetime, setting: Setting
) -> Resource:
    """Return the Observation or Procedure of one value; by its name it is found again."""
    item = setting.psychotherapy.items[name]
    part = (sha256(str(value).encode()).hexdigest()[:16],) if item.many else ()
    common: dict[str, Any] = {
        "identifier": [identifier(ID_THERAPY, str(visit["id"]), name, *part)],
        "subject": reference("Patient", str(patient_of(visit))),
        "encounter": reference("Encounter", visit["id"]),
    }
    if item.value == "technique":
        return {
            "resourceType": "Procedure",
            **common,
            "status": "completed",
            "code": technique_concept(value, setting.psychotherapy),
            "performedDateTime": zulu(when),
            **({} if performer is None else {"performer": [{"actor": performer}]}),
        }
    return {
        "resourceType": "Observation",
        **common,
        "status": "final",
        "category": [THERAPY.concept()],
        "code": code_of(name, setting.psychotherapy).concept(text=item.title),
        "effectiveDateTime": zulu(when),
        **({} if performer is None else {"performer": [performer]}),
        FORMS[item.value]: value,
    }
