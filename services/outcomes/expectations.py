"""The Tasks that expect answers: which of them a response fulfils, whichever of the two came first."""

from __future__ import annotations

from services.outcomes.rules import Instrument, task_for
from services.outcomes.setting import Setting
from shared.fhir.codes import EXPECT_QUESTIONNAIRE
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import patient_of
from shared.runtime.raising import content_of, own_work
from shared.runtime.record import Record


async def fulfil(response: Resource, patient: str, instrument: Instrument, record: Record, setting: Setting) -> None:
    """Complete the open Task that the response answers, where there is one."""
    asked = await record.search("Task", {"patient": f"Patient/{patient}", "code": EXPECT_QUESTIONNAIRE.token()})
    own = [one for one in asked if patient_of(one) == patient]
    fulfilled = task_for(own, response, instrument.canonicals)
    if fulfilled is None:
        return
    output = {
        "type": {"text": "answers"},
        "valueReference": {"reference": f"QuestionnaireResponse/{response['id']}"},
    }
    done = {**fulfilled, "status": "completed", "output": [output], "lastModified": zulu(setting.clock())}
    with own_work():
        await record.update(content_of(done))
