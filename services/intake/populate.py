"""What the record already answers of the screening questionnaire, for `Questionnaire/$populate`.

Only what speaks for a finding, each with its evidence: that nothing is on record is no answer.
"""

from __future__ import annotations

from services.intake.chart import View, chart_of
from services.intake.rules.eligibility import known_answers
from services.intake.setting import Setting
from shared.fhir.codes import SCREENING_QUESTIONNAIRE
from shared.fhir.json import Resource
from shared.fhir.populating import Known
from shared.runtime.populate import Source
from shared.runtime.record import Record


def known_of(setting: Setting) -> Source:
    """Return what is known of answers, under a policy."""

    async def known(questionnaire: Resource, patient_id: str, record: Record) -> Known:
        view = View(record, patient_id)
        patient = await view.the_patient()
        if questionnaire.get("url") != SCREENING_QUESTIONNAIRE or patient is None:
            return {}
        chart = await chart_of(view, patient, setting, drug=None, route=None, now=setting.clock())
        answers: dict[str, list[dict[str, object]]] = {}
        for link, (value, evidence) in known_answers(chart, setting.rules).items():
            answers[link] = [{"valueBoolean": value} if isinstance(value, bool) else {"valueInteger": value}]
            answers[f"{link}-DETAIL"] = [{"valueString": f"On record: {', '.join(evidence)}"}]
        if "E24" in answers:
            answers["TRD"] = [{"valueBoolean": True}]
        return answers

    return known
