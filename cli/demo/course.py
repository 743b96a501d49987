"""Play one patient through a whole KAP course, by the public FHIR API at the gateway and nothing else.

Everything it does may be done again: creates are conditional, changes look at what is there first, and a dose is
started only where none was. So a run that was cut off anywhere is finished by running it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

from cli.demo import after, before, resources
from cli.demo.acting import Refusal, Told, create, once
from cli.demo.client import FhirClient
from cli.demo.coming import Coming
from cli.demo.patients import staff
from cli.demo.resources import Team, instant, parameters, reference
from cli.demo.visits import with_status
from shared.fhir.codes import (
    ASK_CSSRS,
    BOOKING_CHANGED,
    COURSE,
    EXPECT_QUESTIONNAIRE,
    GROUND_LOST,
    KAP,
    LOINC,
    PROCEED,
    RULE,
)
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, eligibility_outcome, latest_eligibility, stages_of, with_stage
from shared.fhir.kap import with_status as episode_with

OVER = ("finished", "cancelled")
PHQ9_SCORE = f"{LOINC}|44261-6"
PCL5_SCORE = f"{LOINC}|101698-9"
_AHEAD = timedelta(days=14)
_LOOKED_AT = timedelta(days=21)


async def prepare_team(gateway: FhirClient, name: str) -> Team:
    """Return a team of the clinic with its room, hours and duty, made where it is not there yet."""
    clinic, practice = await asyncio.gather(create(gateway, resources.clinic()), create(gateway, resources.practice()))
    made = await asyncio.gather(
        create(gateway, resources.room(name, clinic.reference)),
        create(gateway, resources.partner(name)),
        *(create(gateway, resources.practitioner(name, member)) for member in staff(name)),
    )
    room, partner, prescriber, therapist, nurse = (one.reference for one in made)
    roles = {"room": room, "prescriber": prescriber, "therapist": therapist, "monitor": nurse}
    await asyncio.gather(
        create(gateway, resources.duty(name, "clinician-on-call", therapist, clinic.reference, room)),
        create(gateway, resources.duty(name, "prescriber-on-call", prescriber, clinic.reference, room)),
        create(gateway, resources.works_at(name, partner, practice.reference)),
        *(create(gateway, resources.schedule(name, role, actor)) for role, actor in roles.items()),
    )
    return Team(prescriber, therapist, nurse, room, clinic.reference, partner)


class Course(Coming):
    """One patient's course."""

    async def play(self) -> Told:
        """Play the course to its end, and tell what happened."""
        await self._admit()
        outcome = await self._screen()
        answered = 1
        if outcome == "eligible":
            await self._agree()
            answered = await self._treat()
        else:
            await self.refused("booking", "S-ELIGIBLE", self.create(self.booking("kap-dosing", 0)))
        self.told.scores = await self._scores(answered)
        self.bar.end("done")
        return self.told

    async def _treat(self) -> int:
        """Go on as the patient's story goes; return how many PHQ-9 are answered by the end."""
        story = self.person.story
        if story == "pregnancy":
            await self._becomes_pregnant()
            return 1
        if story == "im":
            await self.look_ahead()
        await self.visit("kap-prep", 0)
        self.step("prepared")
        sessions = 1 if story == "withdrawn" else len(self.person.sessions)
        for index in range(sessions):
            await self.create(self.booking("kap-integration", index))
            encounter = await self.dosing(index)
            await self.visit("kap-integration", index)
            await self._questionnaire(index + 1, encounter)
        if story == "withdrawn":
            await self._withdraws(sessions)
            return sessions + 1
        if self.person.pcl5:
            await self._pcl5(1)
        await self._judged()
        if story == "im":
            await self.looked_ahead()
        live = story == "iv" and self.person.number == 1
        if live:
            await self.live()
        await self._end("finished", sessions + live)
        return sessions + 1

    # -- Intake -----------------------------------------------------------------------------------------------------

    async def _admit(self) -> None:
        """Register the patient, his record and the referral in one transaction, as a partner sends it."""
        person, on, urn = self.person, self.calendar.at(0), f"urn:uuid:{uuid4()}"
        partner = self.team.referrer if person.story == "home" else ""
        told = before.told_to(person, urn, on, self.team.clinic)
        made = [
            *([] if told is None else [told]),
            *before.conditions(person, urn),
            *before.medications(person, urn, on),
            before.weight(person, urn, on),
            before.referral(person.key, urn, on, before.reasons(person), partner),
            before.screening_answers(person, urn, on),
            before.escort(person, urn),
        ]
        entries = [(urn, before.patient(person, self.team.clinic, self.team.referrer))]
        entries.extend((f"urn:uuid:{uuid4()}", one) for one in made)
        held = await self.gateway.transact([(url, one, once(one)) for url, one in entries])
        self.bar.advance(len(held))
        self.subject = self.told.patient = held[0].reference
        self.escort = held[-1].reference
        self.step("referred by a partner physician" if partner else "referred")
        await self.all(after.phq9(person, 0, self.subject, on), after.gad7(person, 0, self.subject, on))
        if person.story != "home":  # there it is asked for by what item 9 says
            await self.create(after.cssrs(person, self.subject, self.team.therapist, on))
        if person.pcl5:
            await self._pcl5(0)
        if person.story == "home":
            await self._suicidality()
            await self.visit("kap-consult", 0)
            self.step("seen in person")

    async def _suicidality(self) -> None:
        """The answer about suicidal thoughts was raised with itself; the clinician on call takes it and asks."""
        therapist = self.team.therapist
        query = {"patient": self.subject, "code": ASK_CSSRS.token()}
        task = await self.until(f"the call after item 9 of {self.person.name}", lambda: self.first("Task", query))

        def taken(current: Resource) -> Resource | None:
            if current["status"] != "requested":
                return None
            return {**current, "status": "accepted", "owner": reference(therapist)}

        await self.gateway.bring(f"Task/{task['id']}", taken)
        self.step("item 9 raised, taken by the clinician on call")
        on = self.calendar.at(0, 10)
        await self.create(after.cssrs(self.person, self.subject, therapist, on))

        async def over() -> Resource | None:
            held = await self.gateway.read(f"Task/{task['id']}")
            return held if held["status"] == "completed" else None

        await self.until(f"the end of the call after item 9 of {self.person.name}", over)
        self.step("C-SSRS no risk")

    async def _screen(self) -> str:
        """Screen by rule; where a prescriber has to decide, he decides, and it is screened again."""
        drug = self.person.drug
        assessment = await screened(self.gateway, self.subject, drug)
        outcome, found = verdict(assessment)
        if outcome == "needs-decision":
            self.told.refusals.append(Refusal("screening", tuple(found), "A prescriber has to decide."))
            await self._decide(found)
            self.step(f"prescriber decided on {', '.join(found)}")
            outcome, found = verdict(await screened(self.gateway, self.subject, drug, again=True))
        expected = "not-eligible" if self.person.story == "aneurysm" else "eligible"
        if self.person.story == "pregnancy" and outcome == "not-eligible" and found == ["E12"]:
            outcome = "eligible"  # An earlier run has come to the pregnancy.
        if outcome == "eligible":
            self.step("eligible")
        else:
            self.step(f"{outcome.replace('-', ' ')} ({', '.join(found) or 'no rule named'})")
        if outcome != expected:
            self.told.faults.append(f"screened {outcome}, expected {expected}")
        return outcome

    async def _decide(self, rules: Sequence[str]) -> None:
        """The prescriber decides to proceed, on the finding of each of these rules, once the event has brought it."""
        decided = {
            "action": PROCEED.concept(text="Reviewed with the patient; early signs are watched for."),
            "date": instant(self.calendar.at(1)),
            "author": reference(self.team.prescriber),
        }
        for rule in rules:
            issue = await self.until(f"the finding {rule} of {self.person.name}", partial(self._finding, rule))
            await self.gateway.bring(
                f"DetectedIssue/{issue['id']}",
                lambda current: None if current.get("mitigation") else {**current, "mitigation": [decided]},
                by=self.team.prescriber,
            )

    async def _finding(self, rule: str) -> Resource | None:
        """Return what the screening found by a rule and stands; None where it is not there."""
        query = {"patient": self.subject, "code": f"{RULE}|{rule}"}
        found = await self.gateway.search("DetectedIssue", query)
        return next((one for one in found if one["status"] == "final"), None)

    # -- Consent, plan ----------------------------------------------------------------------------------------------

    async def _agree(self) -> None:
        person, at, subject = self.person, self.calendar.at, self.subject
        consent = before.consent(person, subject, at(1, 11), self.team.clinic)
        if person.story == "iv" and not await self.is_there(consent):
            await self.refused("booking", "S-CONSENT", self.create(self.booking("kap-dosing", 0)))
        await self.create(consent)
        self.step("consented")
        await self.gateway.call_once(f"{subject}/$plan", before.plan(person, self.team, at(1, 12)), self._any_plan)

    # -- What stops a course ----------------------------------------------------------------------------------------

    async def _becomes_pregnant(self) -> None:
        """The course is laid; then a pregnancy is found, and what is booked is suspended."""
        order = (await self.create(self.order(0))).reference
        ahead = datetime.now(UTC) + _AHEAD
        series = parameters(
            patient_valueReference=reference(self.subject),
            order_valueReference=reference(order),
            start_valueDateTime=instant(ahead),
            sessions_valuePositiveInt=2,
            practitioner_valueReference=reference(self.team.therapist),
            location_valueReference=reference(self.team.room),
        )
        made = await self.gateway.call_once("Appointment/$book-series", series, self._any_ahead)
        laid = await self._laid(made)
        self.step(f"course laid, {laid} visits")
        await self.create(before.pregnancy(self.person, self.subject, self.calendar.at(resources.COURSE_DAYS - 1)))
        await self._suspended("found pregnant (E12)")
        await self.refused("booking while pregnant", "S-ELIGIBLE", self.create(self.booking("kap-dosing", 1, order)))
        await self._call_off("pat-preg")
        await self._end("stopped")

    async def _withdraws(self, doses: int) -> None:
        """The next dose is booked; then the consent is withdrawn, and the booking is flagged."""
        order = (await self.create(self.order(1))).reference
        await self._book_next(order)
        query = {"patient": self.subject, "category": f"{KAP}|kap-treatment-consent"}
        consent = await self.until(f"the consent of {self.person.name}", lambda: self.first("Consent", query))
        await self.gateway.bring(f"Consent/{consent['id']}", lambda current: with_status(current, "inactive"))
        await self._suspended("consent withdrawn")
        attempt = self.create(self.booking("kap-dosing", 1, order))
        await self.refused("booking after the withdrawal", "S-CONSENT", attempt)
        await self._call_off("pat")
        await self._end("stopped", doses)

    async def _book_next(self, order: str) -> None:
        """Find a time for the next dose, hold it and book it."""
        if await self._any_ahead() is None:
            begin = datetime.now(UTC) + _AHEAD
            wanted = parameters(
                start_valueDateTime=instant(begin),
                end_valueDateTime=instant(begin + _LOOKED_AT),
                visit_type_valueCode="kap-dosing",
                patient_valueReference=reference(self.subject),
                order_valueReference=reference(order),
                practitioner_valueReference=reference(self.team.therapist),
            )
            found = await self.gateway.call("Appointment/$find", wanted)
            proposed = [one["resource"] for one in found["entry"] if one["search"]["mode"] == "match"]
            hold = parameters(patient_valueReference=reference(self.subject))
            hold["parameter"].append({"name": "appointment-resource", "resource": proposed[0]})
            held = (await self.gateway.call("Appointment/$hold", hold))["entry"][0]["resource"]
            named = parameters(appointment_reference_valueReference=reference(f"Appointment/{held['id']}"))
            await self.gateway.call_once("Appointment/$book", named, self._any_ahead)
        self.step("next dose found, held and booked")

    async def _ahead(self) -> list[Resource]:
        """Return what is, or was, booked after the course's last charted day."""
        last = self.calendar.at(resources.COURSE_DAYS)
        found = await self.gateway.search("Appointment", {"patient": self.subject, "date": f"gt{instant(last)}"})
        return [one for one in found if one["status"] in {"booked", "cancelled"}]

    async def _laid(self, made: Resource) -> int:
        """Wait until all visits that `$book-series` answered with have come by their events; return how many there are.

        `made` is one of them where an earlier run booked the series.
        """
        booked = {
            one["resource"]["id"] for one in made.get("entry", []) if one["resource"]["resourceType"] == "Appointment"
        }

        async def all_there() -> Resource | None:
            ahead = {one["id"] for one in await self._ahead()}
            return {"count": len(ahead)} if booked <= ahead else None

        return int((await self.until(f"the visits of {self.person.name}", all_there))["count"])

    async def _any_plan(self) -> Resource | None:
        """Return the plan of the course, if there is one."""
        return await self.first("CarePlan", {"patient": self.subject, "status": "active"})

    async def _any_ahead(self) -> Resource | None:
        """Return one of them, if there is any."""
        return next(iter(await self._ahead()), None)

    async def _suspended(self, why: str) -> None:
        """Wait until the course is on hold and the booked dose is flagged."""
        name = self.person.name
        if await self._is_over():
            self.step(why)
            return

        async def held() -> Resource | None:
            episode = await self._episode()
            return episode if episode["status"] == "onhold" else None

        await self.until(f"the hold of the course of {name}", held)

        async def flagged() -> Resource | None:
            flags = await self.gateway.search("Flag", {"patient": self.subject})
            return next((one for one in flags if GROUND_LOST.code in codes_of(one["code"], KAP)), None)

        await self.until(f"the flag on the booked dose of {name}", flagged)

        async def told() -> Resource | None:
            letters = await self.gateway.search("Communication", {"patient": self.subject})
            about = [one for one in letters if BOOKING_CHANGED.code in codes_of(one.get("topic"), KAP)]
            to = {one["reference"] for letter in about for one in letter.get("recipient", [])}
            return {"to": sorted(to)} if {self.subject, self.team.therapist} <= to else None

        await self.until(f"what {name} and the therapist are told", told)
        self.step(f"{why}: course on hold, booked dose suspended, patient and therapist told")

    async def _call_off(self, reason: str) -> None:
        """Cancel what is booked ahead."""
        for one in await self._ahead():
            if one["status"] != "cancelled":
                visit = f"Appointment/{one['id']}"

                async def done(visit: str = visit) -> Resource | None:
                    held = await self.gateway.read(visit)
                    return held if held["status"] == "cancelled" else None

                await self.gateway.call_once(f"{visit}/$cancel", parameters(reason_valueCode=reason), done)

    # -- Outcomes ---------------------------------------------------------------------------------------------------

    async def _questionnaire(self, index: int, encounter: str) -> None:
        """Answer the PHQ-9 that the finished visit made outcomes expect."""
        expected = {"encounter": encounter, "code": EXPECT_QUESTIONNAIRE.token()}
        await self.until(
            f"the questionnaires expected after dosing session {index} of {self.person.name}",
            lambda: self.first("Task", expected),
        )
        await self.create(after.meq30(f"{self.person.key}-dose-{index}", self.subject, self._morning_after(index)))
        day = resources.PHQ9_DAYS[index]
        at = self.calendar.at(day, 18)
        answered = after.phq9(self.person, index, self.subject, at)
        await self.create({**answered, "encounter": reference(encounter)})
        if index == len(self.person.sessions):
            await self.create(after.gad7(self.person, index, self.subject, at))
        self.step(f"PHQ-9 {sum(self.person.phq9[index])}")

    def _morning_after(self, index: int) -> datetime:
        """Return a time of the day after a dosing session."""
        return self.calendar.at(resources.DAYS["kap-dosing"][index - 1] + 1)

    async def _pcl5(self, index: int) -> None:
        at = self.calendar.at(resources.PCL5_DAYS[index], 18)
        await self.create(after.pcl5(self.person, index, self.subject, at))
        self.step(f"PCL-5 {sum(self.person.pcl5[index])}")

    async def _judged(self) -> None:
        """Tell what the last PHQ-9 is against the one before treatment: response or not."""
        last = self.calendar.at(resources.PHQ9_DAYS[len(self.person.sessions)], 18)
        query = {"patient": self.subject, "code": PHQ9_SCORE, "date": f"ge{instant(last)}"}

        async def compared() -> Resource | None:
            score = await self.first("Observation", query)
            return score if score is not None and score.get("component") else None

        score = await self.until(f"the last PHQ-9 of {self.person.name} against the first", compared)
        is_response = "response" in _meanings(score)
        if is_response == (self.person.story == "esketamine"):
            self.told.faults.append(f"the last PHQ-9 says {', '.join(_meanings(score)) or 'nothing'}")
        self.step("response" if is_response else "no response")

    async def _episode(self) -> Resource:
        query = {"patient": self.subject, "type": COURSE.token()}
        return await self.until(f"the course of {self.person.name}", lambda: self.first("EpisodeOfCare", query))

    async def _is_over(self) -> bool:
        return bool((await self._episode())["status"] in OVER)

    async def _end(self, stage: str, doses: int = 0) -> None:
        """Close the course once its stages tell of all its dosing sessions; what is asked of him later is then set."""

        async def followed() -> Resource | None:
            episode = await self._episode()
            there = stages_of(episode).count("dosing") >= doses
            return episode if there or episode["status"] in OVER else None

        episode = await self.until(f"the stage of the last dosing session of {self.person.name}", followed)
        await self.gateway.bring(f"EpisodeOfCare/{episode['id']}", lambda current: _ended(current, stage))
        self.step(stage)
        if stage != "finished":
            return
        later = f"expect:{episode['id']}:series"
        query = {"patient": self.subject, "code": EXPECT_QUESTIONNAIRE.token()}

        async def asked() -> Resource | None:
            tasks = await self.gateway.search("Task", query)
            return next((one for one in tasks if one["identifier"][0]["value"].startswith(later)), None)

        await self.until(f"what is asked of {self.person.name} after the series", asked)

    async def _scores(self, count: int) -> list[int]:
        """Return the PHQ-9 totals as outcomes computed them, oldest first, once all `count` are there."""
        query = {"patient": self.subject, "code": PHQ9_SCORE}

        async def all_there() -> Resource | None:
            found = await self.gateway.search("Observation", query)
            return {"found": found} if len(found) >= count else None

        found = (await self.until(f"the PHQ-9 totals of {self.person.name}", all_there))["found"]
        dated = sorted((str(one.get("effectiveDateTime", "")), int(one["valueQuantity"]["value"])) for one in found)
        scores = [value for _, value in dated]
        expected = [sum(answers) for answers in self.person.phq9[:count]]
        if scores != expected:
            self.told.faults.append(f"PHQ-9 totals are {scores}, expected {expected}")
        return scores


# -- What is read from, and done to, resources: pure ----------------------------------------------------------------


async def screened(gateway: FhirClient, patient: str, drug: str | None = None, *, again: bool = False) -> Resource:
    """Return the verdict on a patient: the one there is; where there is none, or `again`, that of a new screening."""
    held = latest_eligibility(await gateway.search("RiskAssessment", {"patient": patient}))
    if held is not None and not again:
        return held
    named = [{"name": "drug", "valueCode": drug}] if drug else []
    parameters_ = {"resourceType": "Parameters", **({"parameter": named} if named else {})}
    return await gateway.call(f"{patient}/$screen", parameters_)


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


def _meanings(score: Resource) -> list[str]:
    return [code for one in score.get("interpretation", []) for code in codes_of(one, KAP)]


def _ended(episode: Resource, stage: str) -> Resource | None:
    now = datetime.now(UTC)
    if episode["status"] in OVER:
        return None
    status = "finished" if "dosing" in stages_of(episode) else "cancelled"
    why = "The patient and the team agreed to end the course." if stage == "stopped" else None
    return episode_with(with_stage(episode, stage, now, why), status, now)
