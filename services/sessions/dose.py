"""The gate at work: what is known where a dose begins, and what follows from a dose past a closed gate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal

from services.sessions.calling import Finding, have_reviewed
from services.sessions.deciding import decisions_of
from services.sessions.drugs import drug_at_worst, gated_drug, is_unheard_of
from services.sessions.gathering import asked_of, enrolment_of, holds_of, places_of, risk_flags
from services.sessions.leaving import judge_home
from services.sessions.lots import batch_of
from services.sessions.past_gate import raise_past_gate
from services.sessions.rules.amounts import (
    AMOUNT_RULES,
    Amounts,
    Dose,
    Weighed,
    amount_checks,
    as_dose,
    decided_on,
    newest_weight,
    quantity_of,
)
from services.sessions.rules.checks import Check, issues_of
from services.sessions.rules.claims import (
    COUNTED,
    UNSURE,
    begins_ahead,
    claim_of,
    corrects_the_amount,
    is_vague,
    latest_start,
    lessens,
    resumes,
    runs_faster,
    says_its_rate,
)
from services.sessions.rules.gate import Batch, Situation, gate, news_check
from services.sessions.rules.infusions import gives_more, may_be_slower
from services.sessions.rules.monitoring import implausible
from services.sessions.rules.readings import readings_of
from services.sessions.rules.series import SERIES_RULES, Before, series_checks
from services.sessions.setting import Setting
from services.sessions.steps import siblings_of, steps_among, whole_of
from shared.fhir.codes import DRUG_NOT_KNOWN, SNOMED, VISIT_DOSING, WEIGHT
from shared.fhir.freshness import as_words
from shared.fhir.json import Resource
from shared.fhir.kap import (
    Drug,
    codes_of,
    comes_from_elsewhere,
    course_status,
    drug_of,
    effective_start,
    has_code,
    id_in,
    is_course,
    is_order_in_force,
    kilograms_in,
    moment,
    patient_of,
    routes_consented,
    routes_of_order,
)
from shared.fhir.outcome import Issue, Unprocessable
from shared.fhir.zones import day_at, end_of_day, interval_in, zone_of
from shared.runtime.joined import denied_elsewhere
from shared.runtime.medications import substances_of
from shared.runtime.record import Record
from shared.runtime.service import Change


@dataclass(frozen=True, slots=True)
class Known:
    """What is held about the start of a dose: the gate's situation, what went before it, and the amounts."""

    situation: Situation
    before: Before
    amounts: Amounts

    def ground(self, setting: Setting) -> list[Check]:
        """Return every check of the gate on what does not depend on the amount of the dose."""
        series = series_checks(self.before, setting.series, self.situation.decisions)
        return [*gate(self.situation, setting.gate), *series]

    def checks(self, setting: Setting) -> list[Check]:
        """Return every check of the gate."""
        return [*self.ground(setting), *amount_checks(self.amounts, setting.dosing)]


async def known_of(record: Record, dose: Resource, start: datetime, drug: Drug, setting: Setting) -> Known:
    """Return what is held about the start of a dose; `dose` carries its id where it is recorded already."""
    patient = patient_of(dose)
    about = {"patient": f"Patient/{patient}"}
    visit_id = id_in(dose.get("context"), "Encounter")
    visit = None if visit_id is None else await record.get("Encounter", visit_id)
    said = codes_of(dose.get("dosage", {}).get("route"), SNOMED)
    orders = await _orders(record, dose, start, drug, setting)
    ordered_routes = [route for order in orders for route in routes_of_order(order)]
    route = said[0] if said else (ordered_routes[-1] if ordered_routes else None)
    fitting = [order for order in orders if route in routes_of_order(order)]
    readings = [] if visit_id is None else await _readings(record, visit_id, setting)
    zone = zone_of(await places_of(record, visit), setting.zone)
    courses = [one for one in await record.search("EpisodeOfCare", about) if is_course(one)]
    situation = Situation(
        zone=zone,
        visit=visit if visit is not None and patient_of(visit) == patient else None,
        course=course_status([one for one in courses if not comes_from_elsewhere(one)], start),
        start=start,
        drug=drug,
        route=route,
        consented=routes_consented(
            [*await record.search("Consent", about), *await denied_elsewhere(record, str(patient), start)], start
        ),
        ordered=bool(fitting),
        readings=[reading for one in readings if patient_of(one) in (patient, None) for reading in readings_of(one)],
        decisions=[] if visit_id is None else await decisions_of(record, visit_id, setting),
        asked=None if visit_id is None else await asked_of(record, visit_id, start, setting, zone),
        gender=(await record.get("Patient", str(patient)) or {}).get("gender"),
        flags=await risk_flags(record, patient, start, setting),
        enrolment=await enrolment_of(record, dose, visit, start),
        batch=await _product_of(record, dose, setting),
        holds=await holds_of(record, patient),
        unheard=as_words(await record.unheard(setting.knowledge.dose, f"Patient/{patient}")),
    )
    weights = await weights_of(record, patient, setting, zone)
    kilograms = newest_weight(weights, start, setting.dosing.weight_age.days, zone)
    order = await record.as_written(fitting[-1], "authoredOn") if fitting else None
    on_series = any(one.rule in SERIES_RULES for one in situation.decisions)
    others = await _other_doses(record, dose, kilograms, setting, dated=on_series)
    plans = [one for one in await record.search("CarePlan", about) if not comes_from_elsewhere(one)]
    before = Before(start, drug, route, zone, others, visit_id, order, plans, situation.at_home)
    amounts = Amounts(
        dose=quantity_of(dose),
        start=start,
        drug=drug,
        route=route,
        visit=visit_id,
        order=order,
        others=others,
        kilograms=kilograms,
        kilograms_ordered=None if order is None else _weight_ordered(weights, order, setting, zone),
        decisions=decided_on(situation.decisions, kilograms, weights, setting.dosing.weight_age.days, zone),
    )
    return Known(situation, before, amounts)


async def _product_of(record: Record, dose: Resource, setting: Setting) -> Batch:
    """Return the product of a dose; a step of an infusion gives what the infusion gives."""
    parent = await whole_of(record, dose, setting)
    said = await batch_of(record, dose)
    if parent is None:
        return said
    whole = await batch_of(record, parent)
    return Batch(
        said.lot or whole.lot,
        said.expires or whole.expires,
        whole.strength if said.strength is None else said.strength,
        said.codes or whole.codes,
    )


async def _readings(record: Record, visit: str, setting: Setting) -> list[Resource]:
    """Return the visit's Observations of what the gate looks at, oldest first."""
    codes = {code for limit in setting.gate.readings.values() for code in limit.codes}
    asked = ",".join(f"http://loinc.org|{code}" for code in sorted(codes))
    return await record.search("Observation", {"encounter": f"Encounter/{visit}", "combo-code": asked})


async def weights_of(record: Record, patient: str | None, setting: Setting, zone: tzinfo) -> list[Weighed]:
    """Return the patient's body weights that count and can be read, each with the time at which it was taken."""
    found = []
    for one in await record.search("Observation", {"patient": f"Patient/{patient}", "code": WEIGHT.token()}):
        said = (
            one.get("effectiveDateTime") or one.get("effectiveInstant") or one.get("effectivePeriod", {}).get("start")
        )
        kilograms = kilograms_in(one.get("valueQuantity"))
        if one["status"] in ("final", "amended", "corrected") and said and kilograms is not None and kilograms > 0:
            can_be = not implausible(one, setting.monitoring)
            known = moment(((await record.as_written(one)).get("meta") or {}).get("lastUpdated"))
            found.append(Weighed(interval_in(said, zone), kilograms if can_be else None, known))
    return found


async def weight_of(record: Record, patient: str | None, when: datetime, setting: Setting) -> Decimal | None:
    """Return the newest body weight, in kg, of the days before `when` that the policy allows; None: there is none."""
    weights = await weights_of(record, patient, setting, setting.zone)
    return newest_weight(weights, when, setting.dosing.weight_age.days, setting.zone)


def _weight_ordered(weights: list[Weighed], order: Resource, setting: Setting, zone: tzinfo) -> Decimal | None:
    """Return what the patient weighed on the day on which an order was written, or before it."""
    said = order.get("authoredOn") or order.get("meta", {}).get("lastUpdated")
    if said is None:
        return None
    written = end_of_day(day_at(interval_in(said, zone)[1] - timedelta(microseconds=1), zone), zone)
    return newest_weight(weights, written, setting.dosing.weight_age.days, zone)


async def _other_doses(
    record: Record, dose: Resource, kilograms: Decimal | None, setting: Setting, *, dated: bool
) -> list[Dose]:
    """Return the patient's other doses of the two drugs, oldest first; `dated`: with when they were put on record."""
    found = []
    held = await record.search("MedicationAdministration", {"patient": f"Patient/{patient_of(dose)}"})
    steps = {one.get("id") for one in await steps_among(record, held, setting, last=dose)}
    for one in held:
        if one["id"] == dose.get("id") or one["id"] in steps or one.get("status") not in COUNTED:
            continue
        if (await drug_at_worst(record, one, setting))[0] is not None:
            latest = latest_start(one, setting.clock()) if is_vague(one) else None
            counted = replace(as_dose(one, kilograms), latest=latest)
            if dated:
                known = moment(((await record.as_written(one)).get("meta") or {}).get("lastUpdated"))
                counted = replace(counted, known=known)
            found.append(replace(counted, milligrams=None) if one["status"] == UNSURE else counted)
    return found


async def _orders(record: Record, dose: Resource, start: datetime, drug: Drug, setting: Setting) -> list[Resource]:
    """Return the patient's orders in force for the drug at `start`, oldest first: the one the dose names, else all."""
    patient = patient_of(dose)
    named = id_in(dose.get("request"), "MedicationRequest")
    if named is not None:
        order = await record.get("MedicationRequest", named)
        found = [] if order is None or patient_of(order) != patient else [order]
    else:
        found = await record.search("MedicationRequest", {"patient": f"Patient/{patient}"})
    counted = [
        one
        for one in found
        if is_order_in_force(one)
        and ("authoredOn" not in one or moment(one["authoredOn"]) <= start)
        and drug_of(await substances_of(record, one), setting.sets) == drug
    ]
    return sorted(counted, key=lambda one: str(one.get("authoredOn", "")))


async def guard_dose(change: Change, record: Record, setting: Setting) -> None:
    """Refuse the start of a dose past a closed gate; record one that was given, and raise what follows."""
    after, now = change.after, setting.clock()
    if after is None:
        await _refuse_deletion(change, record, setting)
        return
    drug, known = await drug_at_worst(record, after, setting)
    was = False
    if change.before is not None:
        was = (await drug_at_worst(record, change.before, setting))[0] is not None
    claim = claim_of(change.before, after, was_gated=was, is_gated=drug is not None, now=now, policy=setting.gate)
    if claim != "start" and not known and after.get("status") in COUNTED:
        await _raise_unknown(change, record, after, setting)
    if claim == "nothing" or drug is None or (claim == "given" and not known):
        return
    infusion = await whole_of(record, after, setting)
    if infusion is not None:
        others = await _others(change, after, record)
        if not gives_more(after, infusion, others[0]) and not gives_more(after, infusion, others[-1]):
            return
        if claim == "start" and may_be_slower(after, infusion, others[-1]):
            claim = "given"  # that an infusion is slowed down is never refused
    now_on = says_its_rate(change.before, after)
    goes_on = claim == "start" and (
        resumes(change.before, after) or runs_faster(change.before, after) or is_vague(after)
    )
    start = now if goes_on or now_on else effective_start(after) or now
    found = await known_of(record, after, start, drug, setting)
    corrected = claim == "given" and was and corrects_the_amount(change.before, after)
    if infusion is not None:  # its steps share its whole amount
        checks = gate(found.situation, setting.gate)
    else:
        checks = list(amount_checks(found.amounts, setting.dosing)) if corrected else found.checks(setting)
    if claim == "given":
        judged = AMOUNT_RULES if corrected else frozenset() if now_on else None  # how it goes now says nothing of then
        less = change.before is not None and lessens(change.before, after)
        await raise_past_gate(change.id, record, after, issues_of(checks), setting, judged=judged, graver=not less)
        return
    issues = issues_of([*checks, news_check(found.situation, setting.knowledge)])
    issues.extend(begins_ahead(start, now, setting.gate))
    if issues and not known:
        issues.append(_not_named(setting))
    if issues:
        raise Unprocessable(issues)
    if not known:
        await _raise_unknown(change, record, after, setting)


async def _others(change: Change, step: Resource, record: Record) -> list[list[Resource]]:
    """Return the other steps of an infusion; and, where one is changed, those with it as it was before."""
    others = await siblings_of(record, step)
    return [others, *([] if change.before is None else [[*others, change.before]])]


def _not_named(setting: Setting) -> Issue:
    return Issue(
        "The record does not say which drug this is: its Medication is not known here, so it counts as ketamine. "
        "Name it (medicationCodeableConcept with a text), or try again in a moment. What was given is recorded as "
        "completed.",
        code="business-rule",
        expression=("MedicationAdministration.medication",),
        rule="G-DRUG",
        source=setting.gate.order.source,
    )


async def _refuse_deletion(change: Change, record: Record, setting: Setting) -> None:
    if change.before is not None and (await drug_at_worst(record, change.before, setting))[0] is not None:
        raise Unprocessable(
            "The record of a dose of ketamine is not deleted. If it is wrong, mark it entered-in-error.",
            rule="D-KEEP",
            source="21 CFR 1304.21: a complete record of each substance administered",
        )


async def judge_given(dose: Resource, record: Record, setting: Setting) -> None:
    """Judge a recorded dose whose drug has become known only now."""
    drug = await gated_drug(record, dose, setting)
    if drug is None or dose.get("status") not in COUNTED or comes_from_elsewhere(dose):
        return
    now = setting.clock()
    await judge_home(record, dose, setting)
    known = await known_of(record, dose, effective_start(dose) or now, drug, setting)
    issues = issues_of(known.checks(setting))
    if issues:
        await raise_past_gate(dose["id"], record, dose, issues, setting)


async def ask_which(change: Change, record: Record, setting: Setting) -> None:
    """Ask about what is given in a dosing visit under words that no value set knows: it may be ketamine by a name."""
    dose = change.after
    if dose is None or (await drug_at_worst(record, dose, setting))[0] is not None:
        return
    id_ = id_in(dose.get("context"), "Encounter")
    visit = None if id_ is None else await record.get("Encounter", id_)
    patient, substances = patient_of(dose), await substances_of(record, dose)
    asked = dose.get("status") in COUNTED and is_unheard_of(substances, setting)
    if not asked or patient is None or not has_code((visit or {}).get("type"), VISIT_DOSING):
        return
    words = ", ".join(dict.fromkeys(str(one.get("text")) for one in substances if "text" in one)) or "no name"
    text = (
        f"Which drug is this? It was given in a dosing visit as '{words}', which no value set knows, and without a "
        "code of RxNorm, NDC or SNOMED CT. It passed no gate. See to it now; correct its medication."
    )
    about = (f"MedicationAdministration/{change.id}",)
    await have_reviewed(
        record, Finding(("dose", change.id, "drug"), patient, DRUG_NOT_KNOWN, text, about, visit=id_), setting
    )


async def _raise_unknown(change: Change, record: Record, dose: Resource, setting: Setting) -> None:
    """A drug that cannot be named is given all the same, and a person finds out which it was."""
    patient = patient_of(dose)
    if patient is None:
        return
    text = "The record does not say which drug this dose was: its Medication is not known here."
    about = (f"MedicationAdministration/{change.id}",)
    visit = id_in(dose.get("context"), "Encounter")
    unknown = Finding(("dose", change.id, "drug"), patient, DRUG_NOT_KNOWN, text, about, visit=visit)
    await have_reviewed(record, unknown, setting)
