"""Play one patient through a whole KAP course, by the public FHIR API at the gateway and nothing else.

Everything it does may be done again: creates are conditional, changes look at what is there first, and a dose is
started only where none was. So a run that was cut off anywhere is finished by running it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cli.demo import resources
from cli.demo.client import DemoError, FhirClient, Held, Refused, condition
from cli.demo.patients import Person, staff
from cli.demo.progress import Bar
from cli.demo.resources import Calendar, Team, identifier, instant, reference
from shared.fhir.codes import COURSE, EXPECT_QUESTIONNAIRE, GATE_PASSED_CLOSED, LOINC, PROCEED, RULE
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, eligibility_outcome, latest_eligibility, with_stage, with_status

PATIENCE = 180.0
"""Seconds that an event may take to show its effect: long enough for a person to start a killed process again."""

PHQ9_SCORE = f"{LOINC}|44261-6"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal by rule that belongs to the course: what was tried, the rules, and the server's own words."""

    tried: str
    rules: tuple[str, ...]
    said: str


@dataclass(slots=True)
class Told:
    """What happened to one patient, in the order in which it happened."""

    person: Person
    steps: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    scores: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    patient: str = ""


async def prepare_team(gateway: FhirClient, name: str) -> Team:
    """Return a team of the clinic, made where it is not there yet."""
    clinic = (await _create(gateway, resources.clinic())).reference
    room = await _create(gateway, resources.room(name, clinic))
    people = await asyncio.gather(*(_create(gateway, resources.practitioner(name, member)) for member in staff(name)))
    prescriber, therapist, nurse = (member.reference for member in people)
    return Team(prescriber, therapist, nurse, room.reference, clinic)


async def _create(gateway: FhirClient, resource: Resource) -> Held:
    """Create a resource under its business identifier."""
    named = resource["identifier"]
    first = named[0] if isinstance(named, list) else named
    return await gateway.create(resource, unless=condition(identifier=f"{first['system']}|{first['value']}"))


class Course:
    """One patient's course.

    Args:
        person: the patient.
        gateway: the FHIR server.
        team: who treats him.
        calendar: when.
        bar: shows how far it is.

    """

    def __init__(self, person: Person, gateway: FhirClient, team: Team, calendar: Calendar, bar: Bar) -> None:
        self.person = person
        self.gateway = gateway
        self.team = team
        self.calendar = calendar
        self.told = Told(person)
        self._bar = bar
        self._subject = ""

    async def play(self) -> Told:
        """Play the course to its end, and tell what happened."""
        await self._admit()
        outcome = await self._screen()
        if outcome == "eligible":
            await self._agree()
            await self._visit("kap-prep", 0)
            self._step("prepared")
            for index in range(len(self.person.sessions)):
                encounter = await self._dosing(index)
                await self._visit("kap-integration", index)
                await self._questionnaire(index + 1, encounter)
            await self._finish()
        else:
            await self._try_to_book_unscreened()
        self.told.scores = await self._scores(len(self.person.phq9) if outcome == "eligible" else 1)
        self._bar.end("done")
        return self.told

    # -- Intake -----------------------------------------------------------------------------------------------------

    async def _admit(self) -> None:
        """Register the patient, his record and the referral."""
        person, at = self.person, self.calendar.at
        held = await self._create(resources.patient(person, self.team.clinic))
        self._subject = self.told.patient = held.reference
        subject = self._subject
        reasons = resources.reasons(person)
        await self._all(
            *resources.conditions(person, subject),
            *resources.medications(person, subject, at(0)),
            resources.weight(person, subject, at(0)),
            resources.referral(person.key, subject, at(0), reasons),
            resources.screening_answers(person, subject, at(0)),
        )
        self._step("referred")
        await self._create(resources.phq9(person, 0, subject, at(0)))

    async def _screen(self) -> str:
        """Screen by rule; where a prescriber has to decide, he decides, and it is screened again."""
        drug = resources.screening_drug(self.person)
        assessment = await screened(self.gateway, self._subject, drug)
        outcome, found = verdict(assessment)
        if outcome == "needs-decision":
            self.told.refusals.append(Refusal("screening", tuple(found), "A prescriber has to decide."))
            await self._decide()
            self._step(f"prescriber decided on {', '.join(found)}")
            outcome, found = verdict(await screened(self.gateway, self._subject, drug, again=True))
        if outcome == "eligible":
            self._step("eligible")
        else:
            self._step(f"{outcome.replace('-', ' ')} ({', '.join(found) or 'no rule named'})")
        expected = "not-eligible" if self.person.story == "aneurysm" else "eligible"
        if outcome != expected:
            self.told.faults.append(f"screened {outcome}, expected {expected}")
        return outcome

    async def _decide(self) -> None:
        """The prescriber decides to proceed, on each finding that leaves it to him."""
        issues = await self.gateway.search("DetectedIssue", {"patient": self._subject})
        decided = {
            "action": PROCEED.concept(text="Reviewed with the patient; early signs are watched for."),
            "date": instant(self.calendar.at(1)),
            "author": reference(self.team.prescriber),
        }
        for issue in issues:
            if not codes_of(issue.get("code"), RULE):
                continue
            await self.gateway.bring(
                f"DetectedIssue/{issue['id']}",
                lambda current: None if current.get("mitigation") else {**current, "mitigation": [decided]},
            )

    async def _try_to_book_unscreened(self) -> None:
        """Show that nobody can book a dosing visit for him."""
        await self._refused("booking", "S-ELIGIBLE", self._create(self._booking("kap-dosing", 0)))

    # -- Consent, plan, order ---------------------------------------------------------------------------------------

    async def _agree(self) -> None:
        person, at, subject = self.person, self.calendar.at, self._subject
        consent = resources.consent(person, subject, at(1), self.team.clinic)
        if person.story == "forgetful" and not await self._is_there(consent):
            await self._refused("booking", "S-CONSENT", self._create(self._booking("kap-dosing", 0)))
        await self._create(consent)
        self._step("consented")
        await self._create(resources.plan(person, subject, at(2)))

    def _order(self, index: int) -> Resource:
        day = resources.DAYS["kap-dosing"][index] - 5
        return resources.order(self.person, self._subject, self.calendar.at(day), self.team, index)

    def _booking(self, kind: str, index: int, order: str | None = None) -> Resource:
        start = self.calendar.visit(kind, index)
        return resources.appointment(self.person, kind, index, self._subject, start, self.team, order)

    # -- Visits -----------------------------------------------------------------------------------------------------

    async def _visit(self, kind: str, index: int) -> None:
        """Book a visit without a dose, hold it, and close it."""
        booked, encounter = await self._book(kind, index)
        start = self.calendar.visit(kind, index)
        await self._begin(encounter, start)
        await self._close(booked, encounter, start + timedelta(minutes=resources.VISIT_MINUTES[kind]))

    async def _dosing(self, index: int) -> str:
        """One dosing session: booked, planned by the event, gated, given, watched, closed, documented."""
        person, team, subject = self.person, self.team, self._subject
        order = (await self._create(self._order(index))).reference
        booked, encounter = await self._book("kap-dosing", index, order)
        arrival = self.calendar.visit("kap-dosing", index)
        await self._begin(encounter, arrival)
        start = arrival + timedelta(minutes=15)
        session = person.sessions[index]
        key = f"{person.key}-dose-{index + 1}"

        given = await self._given(encounter)
        if given is None and person.story == "forgetful" and index == 0:
            baseline = await self.gateway.search("Observation", {"encounter": encounter, "_count": "1"})
            if not baseline:
                await self._refused("start without blood pressure", "G-BP", self._start(encounter, order, index, start))
        before = start + timedelta(minutes=session.baseline.minute)
        await self._all(*resources.vitals(key, subject, encounter, session.baseline, before, team.nurse))

        if person.story == "past-gate" and index == 0:
            given = await self._past_the_gate(encounter, order, start, given)
        else:
            given = await self._start(encounter, order, index, start)
        for reading in session.readings:
            at = start + timedelta(minutes=reading.minute)
            await self._all(*resources.vitals(key, subject, encounter, reading, at, team.nurse))
        end = start + timedelta(minutes=session.readings[-1].minute)
        await self.gateway.bring(f"MedicationAdministration/{given['id']}", lambda current: _completed(current, end))
        await self._create(resources.session_note(person, index, subject, encounter, team.therapist, end))
        await self._close(booked, encounter, arrival + timedelta(minutes=resources.VISIT_MINUTES["kap-dosing"]))
        self._step(f"{session.dose_mg} mg {person.route.key.upper()}")
        return encounter

    async def _start(self, encounter: str, order: str, index: int, start: datetime) -> Resource:
        """Start the dose, unless an earlier run did."""
        session = self.person.sessions[index]
        parameters = resources.start_parameters(order, session, self.team.nurse, start)
        return await self.gateway.call_once(f"{encounter}/$start-dose", parameters, lambda: self._given(encounter))

    async def _given(self, encounter: str) -> Resource | None:
        """Return the dose of ketamine that this visit has, if it has one."""
        found = await self.gateway.search("MedicationAdministration", {"context": encounter})
        return found[0] if found else None

    async def _past_the_gate(self, encounter: str, order: str, start: datetime, given: Resource | None) -> Resource:
        """The gate refuses; the dose was given all the same, is recorded, and the alarm is there at once."""
        person = self.person
        if given is None:
            await self._refused("start at high pressure", "G-BP-STOP", self._start(encounter, order, 0, start))
        dose = resources.given_dose(person, 0, self._subject, encounter, order, self.team.nurse, start)
        held = await self._create(dose)
        alarm = await self._until(
            f"the alarm after the dose past the gate of {person.name}",
            lambda: self._first("DetectedIssue", {"patient": self._subject, "code": GATE_PASSED_CLOSED.token()}),
        )
        self._step(f"dose past the gate recorded, alarm raised ({alarm.get('severity', 'no')} severity)")
        return await self.gateway.read(held.reference)

    async def _book(self, kind: str, index: int, order: str | None = None) -> tuple[str, str]:
        """Book, and wait until the event has made sessions plan the visit."""
        booked = (await self._create(self._booking(kind, index, order))).reference
        encounter = await self._until(
            f"the planned {kind} visit of {self.person.name}",
            lambda: self._first("Encounter", {"appointment": booked}),
        )
        return booked, f"Encounter/{encounter['id']}"

    async def _begin(self, encounter: str, start: datetime) -> None:
        await self.gateway.bring(encounter, _arrived)
        await self.gateway.bring(encounter, lambda current: _in_progress(current, start))

    async def _close(self, booked: str, encounter: str, end: datetime) -> None:
        await self.gateway.bring(encounter, lambda current: _finished(current, end))
        await self.gateway.bring(booked, lambda current: _with_status(current, "fulfilled"))

    # -- Outcomes ---------------------------------------------------------------------------------------------------

    async def _questionnaire(self, index: int, encounter: str) -> None:
        """Answer the PHQ-9 that the finished visit made outcomes expect."""
        expected = {"encounter": encounter, "code": EXPECT_QUESTIONNAIRE.token()}
        await self._until(
            f"the questionnaires expected after dosing session {index} of {self.person.name}",
            lambda: self._first("Task", expected),
        )
        day = resources.PHQ9_DAYS[index]
        at = self.calendar.at(day, 18)
        answered = resources.phq9(self.person, index, self._subject, at)
        await self._create({**answered, "encounter": reference(encounter)})
        self._step(f"PHQ-9 {sum(self.person.phq9[index])}")

    async def _finish(self) -> None:
        """Close the course once its stage has followed the last visit."""
        query = {"patient": self._subject, "type": COURSE.token()}
        episode = await self._until(f"the course of {self.person.name}", lambda: self._first("EpisodeOfCare", query))
        await self.gateway.bring(f"EpisodeOfCare/{episode['id']}", _finished_course)
        self._step("finished")

    async def _scores(self, count: int) -> list[int]:
        """Return the PHQ-9 totals as outcomes computed them, oldest first, once all `count` are there."""
        query = {"patient": self._subject, "code": PHQ9_SCORE}

        async def all_there() -> Resource | None:
            found = await self.gateway.search("Observation", query)
            return {"found": found} if len(found) >= count else None

        found = (await self._until(f"the PHQ-9 totals of {self.person.name}", all_there))["found"]
        dated = sorted((str(one.get("effectiveDateTime", "")), int(one["valueQuantity"]["value"])) for one in found)
        scores = [value for _, value in dated]
        expected = [sum(answers) for answers in self.person.phq9[:count]]
        if scores != expected:
            self.told.faults.append(f"PHQ-9 totals are {scores}, expected {expected}")
        return scores

    # -- Tools ------------------------------------------------------------------------------------------------------

    async def _create(self, resource: Resource) -> Held:
        held = await _create(self.gateway, resource)
        self._bar.advance()
        return held

    async def _all(self, *created: Resource) -> None:
        await asyncio.gather(*(self._create(resource) for resource in created))

    async def _is_there(self, resource: Resource) -> bool:
        named = identifier(resource["identifier"][0]["value"])
        query = {"identifier": f"{named['system']}|{named['value']}"}
        return bool(await self.gateway.search(resource["resourceType"], query))

    async def _first(self, type_: str, query: dict[str, str]) -> Resource | None:
        found = await self.gateway.search(type_, query)
        return found[0] if found else None

    async def _until(self, what: str, look: Callable[[], Awaitable[Resource | None]]) -> Resource:
        """Look again and again until an event has had its effect."""
        deadline = time.monotonic() + PATIENCE
        pause = 0.02
        while True:
            found = await look()
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{what[0].upper()}{what[1:]} did not come within {PATIENCE:.0f} s: events do not flow. "
                    "./kap status shows what is down, ./kap up starts it again, then the same ./kap demo goes on."
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)

    async def _refused(self, tried: str, rule: str, attempt: Awaitable[Any]) -> None:
        """Do what must be refused, and keep the refusal to show it."""
        try:
            await attempt
        except Refused as refusal:
            if refusal.status != 422:
                raise
            self.told.refusals.append(Refusal(tried, refusal.rules, refusal.first))
            self._step(f"{tried} refused ({', '.join(refusal.rules)})")
            if rule not in refusal.rules:
                self.told.faults.append(f"{tried} was refused by {', '.join(refusal.rules)}, expected {rule}")
        else:
            self.told.faults.append(f"{tried} was not refused, expected {rule}")

    def _step(self, what: str) -> None:
        self.told.steps.append(what)
        self._bar.show(self._bar.done, note=what)


# -- What is read from, and done to, resources: pure ----------------------------------------------------------------


async def screened(gateway: FhirClient, patient: str, drug: str | None = None, *, again: bool = False) -> Resource:
    """Return the verdict on a patient: the one there is; where there is none, or `again`, that of a new screening."""
    held = latest_eligibility(await gateway.search("RiskAssessment", {"patient": patient}))
    if held is not None and not again:
        return held
    named = [{"name": "drug", "valueCode": drug}] if drug else []
    parameters = {"resourceType": "Parameters", **({"parameter": named} if named else {})}
    return await gateway.call(f"{patient}/$screen", parameters)


def verdict(assessment: Resource) -> tuple[str, list[str]]:
    """Return a screening's outcome (``eligible``, ``not-eligible`` ...) and the rules that stood in the way."""
    return eligibility_outcome(assessment) or "no verdict", rules_hit(assessment)


def rules_hit(assessment: Resource) -> list[str]:
    """Return the rules that a screening found to stand in the way (severity A or R, not decided)."""
    hit = []
    for extension in assessment.get("extension", []):
        parts = {part.get("url"): part.get("valueCode") for part in extension.get("extension", [])}
        if parts.get("verdict") in {"hit", "not-known"} and parts.get("severity") in {"A", "R"}:
            hit.append(str(parts.get("rule")))
    return hit


def _finished_course(episode: Resource) -> Resource | None:
    now = datetime.now(UTC)
    return (
        None if episode["status"] == "finished" else with_status(with_stage(episode, "finished", now), "finished", now)
    )


def _arrived(encounter: Resource) -> Resource | None:
    return {**encounter, "status": "arrived"} if encounter["status"] == "planned" else None


def _in_progress(encounter: Resource, start: datetime) -> Resource | None:
    if encounter["status"] != "arrived":
        return None
    return {**encounter, "status": "in-progress", "period": {"start": instant(start)}}


def _finished(encounter: Resource, end: datetime) -> Resource | None:
    if encounter["status"] == "finished":
        return None
    return {**encounter, "status": "finished", "period": {**encounter.get("period", {}), "end": instant(end)}}


def _completed(administration: Resource, end: datetime) -> Resource | None:
    if administration["status"] == "completed":
        return None
    period = {**administration.get("effectivePeriod", {}), "end": instant(end)}
    return {**administration, "status": "completed", "effectivePeriod": period}


def _with_status(resource: Resource, status: str) -> Resource | None:
    return None if resource["status"] == status else {**resource, "status": status}
