"""`Patient/[id]/$break-the-glass`: opens a record in an emergency, and writes down by whom, why and until when."""

from __future__ import annotations

from typing import Final

from services.intake.rules.glass import KEPT, SAID, said_in, task_of
from services.intake.setting import Setting
from shared.fhir.codes import BREAK_GLASS, KAP
from shared.fhir.ids import new_id
from shared.fhir.json import Resource, parse
from shared.fhir.kap import codes_of
from shared.fhir.outcome import Unprocessable
from shared.runtime.asking import not_held, wrongly_asked
from shared.runtime.raising import find, is_own_work
from shared.runtime.record import Record
from shared.runtime.service import Change, Operation, OperationCall
from shared.security.audit import row_of
from shared.security.glass import OPERATION, PURPOSES, requester
from shared.store.audit import note

_LONGEST_REASON: Final = 500
"""Characters of a reason in the audit; the Task has all of it."""


def glass_operation(setting: Setting) -> Operation:
    """Return the operation under a policy."""

    async def run(call: OperationCall, record: Record) -> Resource:
        return await break_glass(call, record, setting)

    return Operation(
        name=OPERATION,
        type="Patient",
        level="instance",
        handler=run,
        documentation=(
            "Opens the record of one patient to somebody outside of the clinic, past the patient's consents, in an "
            "emergency, for the time that the policy says. Answers a Task; reads that name it by the header "
            "X-Kap-Break-Glass are told all but process notes. Parameters reason, emergency, personnel, facility "
            "(valueString each, all required: 42 CFR 2.51(c)). The privacy officer is told at once."
        ),
    )


async def break_glass(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Write the Task and its row of the audit, in one transaction, and tell the privacy officer.

    Raises:
        BadRequest: something that has to be said is not; nobody's token called this.
        NotFound: there is no such patient.

    """
    if call.user is None or call.client is None:
        raise wrongly_asked("Nobody is known here. Ask with a token that says who breaks the glass (fhirUser).")
    patient = str(call.id)
    if await record.get("Patient", patient) is None:
        raise not_held(f"Patient/{patient}")
    said, wrong = said_in(call.parameters)
    if wrong:
        raise wrongly_asked(
            f"It has to be documented at once (42 CFR 2.51(c)), and this is not: {'; '.join(wrong)}. Give "
            f"{', '.join(SAID)}, each as valueString."
        )
    now = setting.clock()
    by = requester(call.user, call.client)
    made = task_of(new_id(), patient, said, by, now, setting.glass, setting.policy.version)
    await setting.escalation.raise_task(record, made, now)
    found = await find(record, "Task", made["identifier"][0])
    stored = None if found is None else await record.stored("Task", found["id"])
    if stored is None:
        raise AssertionError("what was written in this transaction is there")
    row = row_of(
        record.service.name,
        "decide",
        OPERATION,
        "E",
        tenant=record.transaction.tenant,
        recipient=call.user,
        authorisation=f"Task/{stored.id}",
        patients=(patient,),
        what=(f"Task/{stored.id}/_history/{stored.version}",),
        purpose=PURPOSES,
        reason=said["reason"][:_LONGEST_REASON],
    )
    await note(record.transaction.connection, row)
    body: Resource = parse(stored.body)
    return body


async def guard_glass(change: Change, record: Record) -> None:
    """Guard of Task: what opens a record is made by the operation alone, and stays as it was written.

    Raises:
        Unprocessable: B-GLASS.

    """
    concerned = [one for one in (change.before, change.after) if one is not None and _opens(one)]
    if not concerned or is_own_work():
        return
    before, after = change.before, change.after
    if before is None or after is None or any(before.get(name) != after.get(name) for name in KEPT):
        raise Unprocessable(
            f"A Task with the code {BREAK_GLASS.code} opens a record: it is made by Patient/[id]/${OPERATION} alone, "
            "it is the patient's record of that and is not deleted, and who, of whom, why and until when stay as they "
            "were written. Take it (owner), and complete or cancel it.",
            code="business-rule",
            expression=["Task.code"],
            rule="B-GLASS",
            source="42 CFR 2.51(c)",
        )


def _opens(task: Resource) -> bool:
    return BREAK_GLASS.code in codes_of(task.get("code"), KAP)
