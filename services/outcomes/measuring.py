"""Gathering what the clinic's measures count: courses, visits, questionnaires, of a period."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from services.outcomes.doses import courses_of, drug_given, first_dose
from services.outcomes.rules.change import REMISSION, RESPONSE, SUSTAINED, Series, point_of
from services.outcomes.rules.measures import Case, Measured
from services.outcomes.rules.schedule import MISSED, OVERDUE, is_answered, is_marked
from services.outcomes.setting import Setting
from shared.fhir.codes import (
    EXPECT_QUESTIONNAIRE,
    EXT_REMS,
    KAP,
    REMS_QUESTIONNAIRE,
    ROUTES,
    SNOMED,
    VISIT_DOSING,
    VISITS,
)
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, id_in, moment, patient_of
from shared.runtime.record import Record

VOID: Final = frozenset(("refuted", "entered-in-error"))
"""Codes of a Condition's verificationStatus by which the patient has, and had, none."""


@dataclass(frozen=True, slots=True)
class Asked:
    """For what a measure is evaluated: from, to, and for whom; None: everybody."""

    start: datetime
    end: datetime
    patient: str | None = None

    def holds(self, when: datetime) -> bool:
        """Tell whether a moment is in the period."""
        return self.start <= when < self.end


async def cases_of(measure: Measured, asked: Asked, record: Record, setting: Setting) -> list[Case]:
    """Return what a measure counts in a period."""
    if measure.kind == "completion":
        return await _expectations(asked, record, setting)
    visits = [one for one in await _visits(asked, record) if asked.holds(_start(one))]
    if measure.kind == "adverse-events":
        dosed = [one for one in visits if await first_dose(str(one["id"]), record, setting) is not None]
        return [await _with_events(one, record, setting) for one in dosed]
    if measure.kind == "rems":
        forms = await record.search("QuestionnaireResponse", {"questionnaire": REMS_QUESTIONNAIRE})
        found = [await _with_form(one, forms, timedelta(days=measure.days), record, setting) for one in visits]
        return [one for one in found if one is not None]
    patients = sorted({patient for one in visits if (patient := patient_of(one)) is not None})
    judged = [await _judged(patient, measure, asked, record, setting) for patient in patients]
    return [one for one in judged if one is not None]


async def visits_of(asked: Asked, record: Record) -> list[Resource]:
    """Return every finished KAP visit of a period, whatever its kind, oldest first."""
    kinds = ",".join(visit.token() for visit, _ in VISITS.values())
    found = await record.search("Encounter", {"status": "finished", "type": kinds})
    return sorted((one for one in found if asked.holds(_start(one))), key=_start)


async def _visits(asked: Asked, record: Record) -> list[Resource]:
    criteria = {"status": "finished", "type": VISIT_DOSING.token()} | (
        {} if asked.patient is None else {"subject": f"Patient/{asked.patient}"}
    )
    return await record.search("Encounter", criteria)


def _start(visit: Resource) -> datetime:
    return moment(visit.get("period", {}).get("start"))


async def _judged(patient: str, measure: Measured, asked: Asked, record: Record, setting: Setting) -> Case | None:
    """Return a patient's course as its last score of the period says; None where there is none, or no baseline."""
    total = setting.instruments[measure.instrument or ""].total
    if total is None:
        return None
    courses = await courses_of(patient, record, setting)
    scored = await record.search("Observation", {"patient": f"Patient/{patient}", "code": total.of().token()})
    dated = [(point, one) for one in scored if (point := point_of(one)) is not None and asked.holds(point.at)]
    treated = [(point, one) for point, one in dated if any(series.first <= point.at for series in courses)]
    if not treated:
        return None
    _, last = max(treated, key=lambda one: one[0].at)
    baseline = [one["reference"] for one in last["derivedFrom"] if one["reference"].startswith("Observation/")]
    if not baseline:
        return None
    said = set(codes_of(last.get("interpretation"), KAP))
    if measure.kind == "durability":
        after = _after_series(dated, courses, timedelta(days=setting.policy.sustained.days))
        if after is None:
            return None
        said, last = after
    wanted = {"response": RESPONSE, "remission": REMISSION, "durability": SUSTAINED}[measure.kind]
    strata = {
        "route": await _routes(await _visits(Asked(asked.start, asked.end, patient), record), record, setting),
        "condition": await _conditions(patient, record, setting),
    }
    return Case(patient, wanted.code in said, (f"Observation/{last['id']}", *baseline), strata)


def _after_series(
    dated: Iterable[tuple[object, Resource]], courses: Iterable[Series], lasting: timedelta
) -> tuple[set[str], Resource] | None:
    """Return the last score that is late enough after the series, of a patient who responded at its end."""
    ends = [series.last for series in courses]
    if not ends:
        return None
    since = sorted((one for _, one in dated if moment(one.get("effectiveDateTime")) >= max(ends)), key=_effective)
    if not since or RESPONSE.code not in codes_of(since[0].get("interpretation"), KAP):
        return None
    late = [one for one in since if _effective(one) - max(ends) >= lasting]
    return (set(codes_of(late[-1].get("interpretation"), KAP)), late[-1]) if late else None


def _effective(observation: Resource) -> datetime:
    return moment(observation.get("effectiveDateTime"))


async def _routes(visits: Iterable[Resource], record: Record, setting: Setting) -> tuple[str, ...]:
    """Return by which routes one of the two drugs was given in visits; another drug's route is none."""
    found: set[str] = set()
    for visit in visits:
        for given in await record.search("MedicationAdministration", {"context": f"Encounter/{visit['id']}"}):
            is_dose = await drug_given(given, record, setting) is not None
            codes = codes_of(given.get("dosage", {}).get("route"), SNOMED) if is_dose else ()
            found.update(ROUTES[code].display for code in codes if code in ROUTES)
    return tuple(sorted(found)) or ("not known",)


async def conditions_of(patient: str, record: Record) -> list[Resource]:
    """Return the Conditions of a patient, without those that are refuted or were entered in error."""
    held = await record.search("Condition", {"patient": f"Patient/{patient}"})
    return [
        one
        for one in held
        if not any(coding.get("code") in VOID for coding in one.get("verificationStatus", {}).get("coding", []))
    ]


async def _conditions(patient: str, record: Record, setting: Setting) -> tuple[str, ...]:
    held = await conditions_of(patient, record)
    named = {
        name
        for name, values in setting.measures.conditions.items()
        if any(values.holds(one.get("code")) for one in held)
    }
    return tuple(sorted(named)) or ("other",)


async def _with_events(visit: Resource, record: Record, setting: Setting) -> Case:
    events = [
        one
        for one in await record.search("AdverseEvent", {"subject": str(visit["subject"]["reference"])})
        if id_in(one.get("encounter"), "Encounter") == visit["id"] and one.get("actuality") == "actual"
    ]
    evidence = (f"Encounter/{visit['id']}", *(f"AdverseEvent/{one['id']}" for one in events))
    return Case(str(patient_of(visit)), bool(events), evidence, {"route": await _routes([visit], record, setting)})


async def _with_form(
    visit: Resource, forms: Iterable[Resource], days: timedelta, record: Record, setting: Setting
) -> Case | None:
    """Return an outpatient's visit of esketamine with whether its form was sent in time.

    None of another drug, of an inpatient (who has no form), and while one that was not sent yet may still be in time.
    """
    if visit.get("class", {}).get("code") in setting.inpatient:
        return None
    given = await record.search("MedicationAdministration", {"context": f"Encounter/{visit['id']}"})
    if "esketamine" not in [await drug_given(one, record, setting) for one in given]:
        return None
    ours = [one for one in forms if id_in(one.get("encounter"), "Encounter") == visit["id"]]
    said = [part for one in ours if one["status"] != "entered-in-error" for part in _submission(one)]
    sent = min((moment(one["valueDateTime"]) for one in said if one["url"] == "sent"), default=None)
    first = await first_dose(str(visit["id"]), record, setting) or _start(visit)
    due = max((moment(one["valueInstant"]) for one in said if one["url"] == "due"), default=first + days)
    if sent is None and setting.clock() <= due:
        return None
    evidence = (f"Encounter/{visit['id']}", *(f"QuestionnaireResponse/{one['id']}" for one in ours))
    return Case(str(patient_of(visit)), sent is not None and sent <= due, evidence)


def _submission(form: Resource) -> list[dict[str, Any]]:
    """Return what a form of the REMS says of its submission: until when it is due, and when it was sent."""
    return [part for one in form.get("extension", []) if one.get("url") == EXT_REMS for part in one["extension"]]


async def _expectations(asked: Asked, record: Record, setting: Setting) -> list[Case]:
    criteria = {"code": EXPECT_QUESTIONNAIRE.token()}
    if asked.patient is not None:
        criteria["patient"] = f"Patient/{asked.patient}"
    names = {one.canonicals[0]: name for name, one in setting.instruments.items()}
    found = []
    for one in await record.search("Task", criteria):
        due = one.get("restriction", {}).get("period", {}).get("end")
        done = is_answered(one)
        if (
            due is None
            or not asked.holds(interval(due)[0])
            or not (one["status"] == "completed" or is_marked(one, OVERDUE) or is_marked(one, MISSED))
        ):
            continue
        asks = next((given["valueCanonical"] for given in one.get("input", []) if "valueCanonical" in given), "")
        strata: dict[str, tuple[str, ...]] = {"instrument": (names.get(asks, "other"),)}
        found.append(Case(str(patient_of(one)), done, (f"Task/{one['id']}",), strata))
    return found
