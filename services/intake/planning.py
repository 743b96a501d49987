"""`Patient/$plan`: a plan of the course from a template, made personal, with the patient's goals and his team."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from html import escape
from typing import Any, Final, Literal, get_args

from services.intake.order_facts import aged, sets_met, weights_of
from services.intake.orders import lacking_of
from services.intake.rules.findings import is_active
from services.intake.rules.plans import (
    Step,
    Template,
    Wish,
    check_agreed,
    check_plan,
    choose,
    personal,
    planned,
)
from services.intake.rules.trials import Entry
from services.intake.rules.workup import ToDo
from services.intake.screening import concept_of, lacking
from services.intake.setting import Setting
from shared.fhir.codes import (
    EXT_PLANNED_DOSE,
    KAP,
    PLAN,
    POLICY_URI,
    ROLES,
    ROUTES,
    SNOMED,
    VISITS,
    Code,
)
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import (
    Drug,
    PlannedDose,
    is_plan,
    latest_eligibility,
    planned_doses,
    quantity_in,
    reference,
    screened_for,
)
from shared.fhir.outcome import BadRequest, Issue, Unprocessable
from shared.fhir.raised import policy_extension
from shared.runtime.asking import not_held, wrongly_asked
from shared.runtime.raising import content_of, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change, Operation, OperationCall

ASSESS_PLAN: Final = Code("http://hl7.org/fhir/us/core/CodeSystem/careplan-category", "assess-plan")
DRUGS: Final[Mapping[str, Code]] = {
    "ketamine": Code("http://www.nlm.nih.gov/research/umls/rxnorm", "6130", "ketamine"),
    "esketamine": Code("http://www.nlm.nih.gov/research/umls/rxnorm", "2201623", "esketamine nasal spray"),
}
WHERE: Final = "Parameters.parameter"
NUMBERS: Final = ("sessions", "days-between", "preparation", "integration", "followup")


@dataclass(slots=True)
class Asked:
    """What `$plan` was asked for; `date` is when it was agreed, None: now."""

    wish: Wish
    date: datetime | None = None
    template: str | None = None
    drug: Drug | None = None
    route: str | None = None
    status: Literal["draft", "active"] = "draft"
    goals: tuple[str, ...] = ()
    members: tuple[tuple[Code, str], ...] = ()


def plan_operation(setting: Setting) -> Operation:
    """Return `Patient/$plan` under a policy."""

    async def run(call: OperationCall, record: Record) -> Resource:
        return await _plan(call, record, setting)

    return Operation(
        name="plan",
        type="Patient",
        level="instance",
        handler=run,
        documentation=(
            "Makes the plan of a course from a template of the policy, by drug, route and condition, and makes it "
            "personal. Parameters: template, drug, route (code); dose (Quantity in mg or mg/kg) or step (parts session "
            "and dose); sessions, days-between, preparation, integration, followup (positiveInt); therapy, goal "
            "(string; goals in the patient's words); member (parts role and reference); status (draft or active); date "
            "(dateTime: when it was agreed, now where none is given). "
            "Writes and returns CarePlan, Goals and CareTeam; an active plan takes the place of the one before."
        ),
    )


async def guard_plan(change: Change, record: Record, setting: Setting) -> None:
    """Refuse an active plan of a course whose doses are out of range, rise too fast or are too many.

    Raises:
        Unprocessable: with everything that is wrong.

    """
    after = change.after
    if after is None or not is_plan(after):
        return
    doses = planned_doses(after)
    patient = str(after.get("subject", {}).get("reference", "")).rpartition("/")[2]
    if doses:
        at = interval(after["created"])[0] if "created" in after else setting.clock()
        weights = await weights_of(record, patient, at)
        met = await sets_met(record, patient, setting)
        old = await aged(record, patient, at)
        found = check_plan(doses, weights, setting.orders, "CarePlan.activity", met, old)
        issues = [lacking_of(patient, one) for one in found]
        if issues:
            raise Unprocessable(issues)


async def _plan(call: OperationCall, record: Record, setting: Setting) -> Resource:
    patient = await record.get("Patient", str(call.id))
    if patient is None:
        raise not_held(f"Patient/{call.id}")
    asked, policy = _asked(call.parameters), setting.plans
    conditions = await _conditions(record, str(call.id))
    drug, route = await _screened(record, str(call.id)) if asked.template is None else (None, None)
    if asked.drug is not None or asked.route is not None:
        drug, route = asked.drug, asked.route
    met, now = await sets_met(record, str(call.id), setting), setting.clock()
    at = asked.date or now
    old = await aged(record, str(call.id), at)
    chosen = choose(policy, asked.template, drug, route, met, old)
    if isinstance(chosen, Issue):
        raise Unprocessable([chosen])
    name, template = chosen[0], personal(chosen[1], asked.wish)
    doses = planned(template)
    if asked.date is not None and asked.date > now:
        raise _wrong("date", "valueDateTime with its zone, not in the future")
    weights = await weights_of(record, str(call.id), at)
    found = check_plan(doses, weights, setting.orders, WHERE, met, old)
    issues = [lacking_of(str(call.id), one) for one in found]
    if asked.status == "active":
        issues.extend(check_agreed(asked.goals, [role.code for role, _ in asked.members], template, policy))
    if issues:
        raise Unprocessable(issues)
    concerned = [
        one
        for one in conditions
        if not template.conditions or any(setting.sets[set_].holds(one.get("code")) for set_ in template.conditions)
    ]
    recommended = await lacking(record, patient, [_entry(one) for one in conditions], setting)
    return await _write(record, patient, name, template, doses, concerned, asked, at, setting, recommended)


async def _conditions(record: Record, patient: str) -> list[Resource]:
    found = await record.search("Condition", {"patient": f"Patient/{patient}"})
    return [one for one in found if is_active(one)]


def _entry(condition: Resource) -> Entry:
    return Entry(f"Condition/{condition['id']}", condition.get("code"), condition)


async def _screened(record: Record, patient: str) -> tuple[Drug | None, str | None]:
    newest = latest_eligibility(await record.search("RiskAssessment", {"patient": f"Patient/{patient}"}))
    return (None, None) if newest is None else screened_for(newest)


async def _write(
    record: Record,
    patient: Resource,
    name: str,
    template: Template,
    doses: Sequence[PlannedDose],
    conditions: Sequence[Resource],
    asked: Asked,
    at: datetime,
    setting: Setting,
    recommended: Sequence[ToDo],
) -> Resource:
    subject = reference("Patient", str(patient["id"]))
    active = asked.status == "active"
    goals = [
        await _created(
            record,
            {
                "resourceType": "Goal",
                "lifecycleStatus": "active" if active else "proposed",
                "description": {"text": words},
                "subject": subject,
                "startDate": zulu(at)[:10],
                "expressedBy": subject,
                **({"addresses": [reference("Condition", one["id"]) for one in conditions]} if conditions else {}),
            },
        )
        for words in asked.goals
    ]
    team = (
        []
        if not asked.members
        else [
            await _created(
                record,
                {
                    "resourceType": "CareTeam",
                    "status": "active" if active else "proposed",
                    "name": f"Team of the course: {template.title}",
                    "subject": subject,
                    "participant": [
                        {"role": [role.concept()], "member": {"reference": member}} for role, member in asked.members
                    ],
                },
            )
        ]
    )
    before = [one for one in await record.search("CarePlan", {"patient": f"Patient/{patient['id']}"}) if is_plan(one)]
    made: dict[str, Any] = {
        "resourceType": "CarePlan",
        "extension": [policy_extension(setting.policy.version)],
        "text": {"status": "generated", "div": _narrative(template, doses, asked.goals, recommended)},
        "instantiatesUri": [f"{POLICY_URI}{setting.policy.digest}#plans.templates.{name}"],
        "replaces": [reference("CarePlan", one["id"]) for one in before] if active else None,
        "status": asked.status,
        "intent": "plan",
        "category": [ASSESS_PLAN.concept(), PLAN.concept()],
        "title": template.title,
        "subject": subject,
        "created": zulu(at),
        "careTeam": [reference("CareTeam", one["id"]) for one in team],
        "addresses": [reference("Condition", one["id"]) for one in conditions],
        "goal": [reference("Goal", one["id"]) for one in goals],
        "activity": [{"detail": one} for one in [*_measured(recommended), *activities(template, doses)]],
    }
    plan = await _created(record, {key: value for key, value in made.items() if value})
    if active:
        with own_work():
            for one in before:
                await record.update(content_of({**one, "status": "revoked"}))
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": one} for one in (plan, *goals, *team)],
    }


async def _created(record: Record, resource: Resource) -> Resource:
    written = await record.create(resource)
    found: Resource = parse(written.stored.body)
    return found


def activities(template: Template, doses: Sequence[PlannedDose]) -> list[dict[str, Any]]:
    """Return what a plan does, as details of its activities, in its order."""
    made = [
        _visits("kap-prep", template.preparation, "before the first dose"),
        *(_dosing(template, one) for one in doses),
        _visits("kap-integration", template.integration, "within 24 to 72 hours after each dose"),
        _visits("kap-followup", template.followup, "after the last dose"),
    ]
    therapies = [
        {"kind": "ServiceRequest", "code": {"text": one}, "status": "not-started", "description": one}
        for one in template.therapies
    ]
    return [one for one in made if one] + therapies


def _visits(kind: str, count: int, when: str) -> dict[str, Any]:
    own, theirs = VISITS[kind]
    return (
        {
            "kind": "Appointment",
            "code": own.concept(theirs),
            "status": "not-started",
            "scheduledTiming": {"repeat": {"count": count}},
            "description": f"{own.display}: {count}, {when}.",
        }
        if count
        else {}
    )


def _dosing(template: Template, dose: PlannedDose) -> dict[str, Any]:
    own, theirs = VISITS["kap-dosing"]
    inner = [
        {"url": "drug", "valueCode": dose.drug},
        {"url": "route", "valueCoding": ROUTES[dose.route].coding()},
        {"url": "session", "valuePositiveInt": dose.session},
        {"url": "sessions", "valuePositiveInt": dose.sessions},
    ]
    return {
        "extension": [{"url": EXT_PLANNED_DOSE, "extension": inner}],
        "kind": "MedicationRequest",
        "code": own.concept(theirs),
        "status": "not-started",
        "scheduledTiming": {
            "repeat": {
                "count": dose.sessions,
                "frequency": 1,
                "period": template.days_between,
                "periodUnit": "d",
            }
        },
        "productCodeableConcept": DRUGS[dose.drug].concept(),
        "quantity": dict(dose.quantity),
        "description": _said(dose),
    }


def _said(dose: PlannedDose) -> str:
    last = dose.session + dose.sessions - 1
    which = f"Session {dose.session}" if last == dose.session else f"Sessions {dose.session} to {last}"
    amount = f"{dose.quantity['value']} {dose.quantity['unit']}"
    return f"{which}: {dose.drug} {amount}, {ROUTES[dose.route].display.lower()}."


def _measured(recommended: Sequence[ToDo]) -> list[dict[str, Any]]:
    """Return what is recommended to be measured before the first dose, as details of activities."""
    return [
        {"kind": "ServiceRequest", "code": concept_of(one.test), "status": "not-started", "description": one.text}
        for one in recommended
    ]


def _narrative(
    template: Template, doses: Sequence[PlannedDose], goals: Sequence[str], recommended: Sequence[ToDo]
) -> str:
    lines = [
        template.title,
        *(_said(one) for one in doses),
        (
            f"Preparation: {template.preparation}; integration after each dose: {template.integration}; "
            f"follow-up: {template.followup}; at least {template.days_between} days from dose to dose."
        ),
        *(f"Besides: {one}." for one in template.therapies),
        *(f"Recommended before the first dose: {one.test.title.lower()}." for one in recommended),
        *(f'In the patient\'s words: "{one}"' for one in goals),
    ]
    said = "".join(f"<p>{escape(line, quote=False)}</p>" for line in lines)
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{said}</div>'


# -- Parameters -----------------------------------------------------------------------------------------------------


def _asked(parameters: Resource) -> Asked:
    """Return what is asked for.

    Raises:
        BadRequest: a parameter that is not known, or a value of the wrong kind.

    """
    asked, wished = Asked(Wish()), dict[str, Any]()
    steps: list[Step] = []
    for one in parameters.get("parameter", []):
        name = one.get("name")
        if name == "template":
            asked.template = _code(one, name)
        elif name == "drug":
            asked.drug = next((known for known in get_args(Drug) if known == _code(one, name)), None)
            if asked.drug is None:
                raise _wrong("drug", "valueCode: ketamine or esketamine")
        elif name == "route":
            asked.route = _route(one)
        elif name == "status":
            asked.status = "active" if _one_of(one, name, ("draft", "active")) == "active" else "draft"
        elif name == "dose":
            steps.append(_step(1, one))
        elif name == "step":
            parts = {part.get("name"): part for part in one.get("part", [])}
            steps.append(_step(_number(parts.get("session", {}), "step.session"), parts.get("dose", {})))
        elif name in NUMBERS:
            wished[name.replace("-", "_")] = _number(one, name)
        elif name in ("goal", "therapy"):
            text = _text(one, name)
            if name == "goal":
                asked.goals = (*asked.goals, text)
            else:
                wished["therapies"] = (*wished.get("therapies", ()), text)
        elif name == "date":
            asked.date = _moment(one)
        elif name == "member":
            asked.members = (*asked.members, _member(one))
        else:
            raise wrongly_asked(
                f"$plan has no parameter '{name}': leave it out. It has: template, drug, route, dose, step, "
                f"{', '.join(NUMBERS)}, therapy, goal, member, status, date."
            )
    asked.wish = Wish(doses=tuple(steps), **wished)
    return asked


def _wrong(name: str, form: str) -> BadRequest:
    return wrongly_asked(f"The parameter {name} of $plan cannot be read: give it as {form}.")


def _code(one: Mapping[str, Any], name: str) -> str:
    value = one.get("valueCode", one.get("valueString"))
    if not isinstance(value, str):
        raise _wrong(name, "valueCode")
    return value


def _one_of(one: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    value = _code(one, name)
    if value not in known:
        raise _wrong(name, f"valueCode: {' or '.join(known)}")
    return value


def _route(one: Mapping[str, Any]) -> str:
    coding = one.get("valueCoding", {})
    said = coding.get("code") if coding.get("system") == SNOMED else one.get("valueCode")
    if said not in ROUTES:
        raise _wrong("route", f"valueCode or valueCoding of SNOMED CT: {', '.join(ROUTES)}")
    return str(said)


def _text(one: Mapping[str, Any], name: str) -> str:
    value = one.get("valueString")
    if not isinstance(value, str) or not value.strip():
        raise _wrong(name, "valueString")
    return value.strip()


def _moment(one: Mapping[str, Any]) -> datetime:
    value = one.get("valueDateTime")
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _wrong("date", "valueDateTime with its zone, not in the future")
    return moment


def _number(one: Mapping[str, Any], name: str) -> int:
    value = one.get("valuePositiveInt", one.get("valueInteger", one.get("valueUnsignedInt")))
    try:
        number = int(value) if not isinstance(value, bool) and value is not None else 0
    except (TypeError, ValueError, InvalidOperation):
        number = 0
    if number < 1:
        raise _wrong(name, "valuePositiveInt")
    return number


def _step(session: int, one: Mapping[str, Any]) -> Step:
    quantity = one.get("valueQuantity")
    for unit in ("mg", "mg/kg"):
        value = quantity_in(quantity, (unit,))
        if value is not None:
            return Step(session, Decimal(value), "mg" if unit == "mg" else "mg/kg")
    raise _wrong("dose", "valueQuantity in mg or mg/kg (UCUM); a step has the parts session and dose")


def _member(one: Mapping[str, Any]) -> tuple[Code, str]:
    parts = {part.get("name"): part for part in one.get("part", [])}
    said = parts.get("role", {})
    code = said.get("valueCoding", {}).get("code") or said.get("valueCode")
    who = parts.get("reference", {}).get("valueReference", {}).get("reference")
    if code not in ROLES or not who:
        raise _wrong("member", f"parameter with the parts role (valueCode: {', '.join(ROLES)}) and reference")
    return Code(KAP, code, ROLES[code].display), str(who)
