"""Intake's operations: those of Patient, `Questionnaire/$populate` and `RiskAssessment/$replay`."""

from __future__ import annotations

from typing import Any, get_args

from services.intake.glass import glass_operation
from services.intake.matching import match_operation
from services.intake.merging import merge_operations
from services.intake.planning import plan_operation
from services.intake.populate import known_of
from services.intake.replay import replay
from services.intake.screening import write_screening
from services.intake.setting import Setting
from shared.fhir.codes import ROUTES, SNOMED
from shared.fhir.json import Resource
from shared.fhir.kap import Drug
from shared.runtime.asking import not_held, wrongly_asked
from shared.runtime.populate import populate_operations
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall


def operations(setting: Setting) -> tuple[Operation, ...]:
    """Return intake's operations under a policy."""

    async def run(call: OperationCall, record: Record) -> Resource:
        return await _screen(call, record, setting)

    async def again(call: OperationCall, record: Record) -> Resource:
        return await replay(call, record, setting)

    return (
        Operation(
            name="replay",
            type="RiskAssessment",
            level="instance",
            handler=again,
            affects_state=False,
            documentation=(
                "Makes the decision of a screening again, on the versions it was made on and under the policy it was "
                "made under. Answers whether it is the same, and what it is now found to be. Writes nothing."
            ),
        ),
        Operation(
            name="screen",
            type="Patient",
            level="instance",
            handler=run,
            documentation=(
                "Judges from the record and the newest screening questionnaire whether the patient may be treated. "
                "Writes and returns a RiskAssessment, and a DetectedIssue for every rule that was hit. "
                "Parameters drug (code: ketamine or esketamine) and route (code or Coding: SNOMED CT); without them "
                "the graver severity counts. It is judged again by itself whenever the record changes."
            ),
        ),
        plan_operation(setting),
        match_operation(setting),
        *merge_operations(setting),
        glass_operation(setting),
        *populate_operations(known_of(setting), setting.clock),
    )


async def _screen(call: OperationCall, record: Record, setting: Setting) -> Resource:
    patient = await record.get("Patient", str(call.id))
    if patient is None:
        raise not_held(f"Patient/{call.id}")
    drug, route = _planned(call.parameters)
    return await write_screening(record, patient, drug, route, setting)


def _planned(parameters: Resource) -> tuple[Drug | None, str | None]:
    """Return the drug and the route that are planned.

    Raises:
        BadRequest: another parameter, or a value that is none of the known ones.

    """
    drug: Drug | None = None
    route: str | None = None
    for parameter in parameters.get("parameter", []):
        name = parameter.get("name")
        if name == "drug":
            drug = next((known for known in get_args(Drug) if known == parameter.get("valueCode")), None)
            if drug is None:
                raise wrongly_asked("The parameter drug is not known: give the valueCode ketamine or esketamine.")
        elif name == "route":
            route = _route(parameter)
        else:
            raise wrongly_asked(f"$screen has no parameter '{name}': leave it out. It has: drug, route.")
    return drug, route


def _route(parameter: dict[str, Any]) -> str:
    coding = parameter.get("valueCoding", {})
    said = coding.get("code") if coding.get("system") == SNOMED else parameter.get("valueCode")
    if said in ROUTES:
        return str(said)
    known = ", ".join(f"{code} {one.display}" for code, one in ROUTES.items())
    raise wrongly_asked(
        f"The parameter route is not known: give a valueCode or valueCoding of SNOMED CT, one of {known}."
    )
