"""One session charted while it goes on: a reading is missed, pressure and headache treated, the infusion stopped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from cli.demo import bedside, before
from cli.demo.patients import Reading
from cli.demo.resources import IDENTIFIER, instant, parameters, quantity, reference
from cli.demo.visits import Visits, parts_of, with_status
from shared.fhir.codes import (
    ID_TASK,
    PROCEED,
    REVIEW,
    SUSTAINED_PRESSURE,
    SYMPTOM_ALARM,
    VITAL_ALARM,
    VITALS_MISSED,
    Code,
)
from shared.fhir.json import Resource

INDEX = 2
"""The session is the third."""
_ARRIVED = timedelta(minutes=45)
"""So long ago the patient came, and a quarter of an hour ago, all but half a minute, the infusion began: its first
reading, due at ten minutes, is missed five minutes later, while the demo looks on."""
_BEGAN = timedelta(minutes=14, seconds=30)
_BASELINE = Reading(-8, 128, 80, 72, 98)
_LATE = Reading(10, 138, 86, 78, 97)
_HIGH = Reading(12, 184, 104, 92, 97)
_AGAIN = Reading(14, 182, 102, 90, 97)
_FINE = Reading(15, 158, 94, 84, 97)
_LABETALOL = Code("http://www.nlm.nih.gov/research/umls/rxnorm", "6185", "labetalol")


class Live(Visits):
    """The session that is charted as it happens."""

    async def live(self) -> None:
        """Play it: begun, a reading missed and flagged, found high, treated, stopped, and the patient handed over."""
        person, team, subject = self.person, self.team, self.subject
        key = f"{person.key}-dose-{INDEX + 1}"
        now = await self._begun(key)
        start = now - _BEGAN
        ordered = now - timedelta(days=1)
        weighed = before.weight(person, subject, ordered - timedelta(hours=1))
        await self.create({**weighed, "identifier": _named(f"{key}-weight-ordered")})
        made = before.order(person, subject, ordered, team, 0)
        order = (await self.create({**made, "identifier": _named(f"{person.key}-order-{INDEX + 1}")})).reference
        booking = before.appointment(person, "kap-dosing", INDEX, subject, now - _ARRIVED, team, order, self.escort)
        booked, encounter = await self.book_as(booking, "kap-dosing")
        if (await self.gateway.read(encounter))["status"] == "finished":
            self.step("live session told before")
            return
        await self.begin(encounter, now - _ARRIVED)
        dose = await self._start(key, encounter, order, start)
        await self._missed(key, encounter, start)
        await self._alarmed(key, encounter, start)
        await self._stopped(key, encounter, booked, dose)

    async def _begun(self, key: str) -> datetime:
        """Return when the scene is played: now, or when an earlier run began to play it."""
        query = {"identifier": f"{IDENTIFIER}|{self.person.key}-kap-dosing-{INDEX + 1}"}
        held = await self.first("Appointment", query)
        return datetime.now(UTC) if held is None else datetime.fromisoformat(held["start"]) + _ARRIVED

    async def _start(self, key: str, encounter: str, order: str, start: datetime) -> Resource:
        person, team, subject = self.person, self.team, self.subject
        weight = {**before.weight(person, subject, start + timedelta(minutes=_BASELINE.minute)), "meta": {}}
        weight |= {"identifier": _named(f"{key}-weight"), "encounter": reference(encounter)}
        weight["valueQuantity"] = quantity(Decimal(str(person.weight_kg)), "kg")
        del weight["meta"]
        asked = bedside.pre_dose(key, subject, encounter, start - timedelta(minutes=9), team.nurse, person.escort)
        await self.create(asked)
        await self.transact(weight, *self._read(key, encounter, _BASELINE, start))
        await self._one_more(encounter, order, start)
        return await self.start_dose(encounter, order, person.sessions[0].dose_mg, start, [])

    async def _one_more(self, encounter: str, order: str, start: datetime) -> None:
        """The plan is for two sessions: the gate asks the prescriber about a third, and he decides, with his reason."""
        named = parameters(
            medicationRequest_valueReference=reference(order),
            effective_valueDateTime=instant(start),
            **bedside.diluted(self.person),
        )
        told = await self.gateway.call(f"{encounter}/$pre-dose-gate", named)
        checks = [parts_of(one) for one in told.get("parameter", []) if one["name"] == "check"]
        decided = {
            "action": PROCEED.concept(text="He fell back between the sessions; a third, then the plan is made anew."),
            "date": instant(start - timedelta(minutes=2)),
            "author": reference(self.team.prescriber),
        }
        for issue in [
            one["decision"]["reference"] for one in checks if one["rule"] == "G-SERIES" and "decision" in one
        ]:
            await self.gateway.bring(
                issue,
                lambda held: None if held.get("mitigation") else {**held, "mitigation": [decided]},
                by=self.team.prescriber,
            )
            self.step("a third session of two planned: the prescriber decides (G-SERIES)")

    def _read(self, key: str, encounter: str, reading: Reading, start: datetime) -> list[Resource]:
        at = start + timedelta(minutes=reading.minute)
        return bedside.vitals(key, self.subject, encounter, reading, at, self.team.nurse)

    async def _missed(self, key: str, encounter: str, start: datetime) -> None:
        """Wait until the clock flags the reading of ten minutes, take the call, and chart it."""
        query = {"encounter": encounter, "code": VITALS_MISSED.token()}
        call = await self.until(f"the missed reading of {self.person.name}", lambda: self.first("Task", query))
        self.step("reading at 10 min missed, flagged live (M-MISSED)")
        taken = {"status": "in-progress", "owner": reference(self.team.prescriber)}
        await self.gateway.bring(
            f"Task/{call['id']}", lambda held: {**held, **taken} if held["status"] == "requested" else None
        )
        await self.transact(*self._read(key, encounter, _LATE, start))

    async def _alarmed(self, key: str, encounter: str, start: datetime) -> None:
        """The pressure is high twice: it calls, it is treated by order, and it comes down."""
        await self.transact(*self._read(key, encounter, _HIGH, start))
        await self.transact(*self._read(key, encounter, _AGAIN, start))
        found = {"encounter": encounter, "code": SUSTAINED_PRESSURE.token()}
        call = await self.until(f"the sustained alarm of {self.person.name}", lambda: self.first("Task", found))
        self.step("184/104, 182/102: sustained alarm")
        await self._complains(key, encounter, start)
        rescue = bedside.rescue(key, self.subject, encounter, self.team.nurse, start + timedelta(minutes=14))
        rescue |= {"identifier": _named(f"{key}-labetalol"), "medicationCodeableConcept": _LABETALOL.concept()}
        rescue |= {"reasonReference": [call["focus"]], "dosage": {"dose": quantity(10, "mg")}}
        del rescue["reasonCode"]
        await self.create(rescue)
        await self.transact(*self._read(key, encounter, _FINE, start))
        for code in (VITAL_ALARM, SUSTAINED_PRESSURE, SYMPTOM_ALARM):
            for one in await self.gateway.search("Task", {"encounter": encounter, "code": code.token()}):
                done = self.done_by(
                    self.team.prescriber, "At the bedside. Labetalol 10 mg; the headache passed, no other symptom."
                )
                await self.gateway.bring(f"Task/{one['id']}", done)
        self.step("labetalol given, back within limits")

    async def _complains(self, key: str, encounter: str, start: datetime) -> None:
        """The patient tells of a headache: beside such a pressure it calls at once, and the prescriber takes it."""
        at = start + timedelta(minutes=14)
        told = bedside.headache(f"{key}-headache", self.subject, encounter, self.team.nurse, at)
        held = await self.create(told)
        query = {"encounter": encounter, "code": SYMPTOM_ALARM.token()}

        async def called() -> Resource | None:
            calls = await self.gateway.search("Task", query)
            return next((one for one in calls if one["focus"]["reference"] == held.reference), None)

        call = await self.until(f"the call after the headache of {self.person.name}", called)
        taken = {"status": "accepted", "owner": reference(self.team.prescriber)}
        await self.gateway.bring(
            f"Task/{call['id']}", lambda now: {**now, **taken} if now["status"] == "requested" else None
        )
        self.step("headache beside it: called at once (A-SYMPTOM), taken by the prescriber")

    async def _stopped(self, key: str, encounter: str, booked: str, dose: Resource) -> None:
        """Stop the infusion with what was given, book it, and hand the patient over to the hospital's ward."""
        start = datetime.fromisoformat(dose["effectivePeriod"]["start"])
        given = quantity(dose["dosage"]["dose"]["value"] // 3, "mg")
        end = start + timedelta(minutes=14)

        def stopped(held: Resource) -> Resource | None:
            if held["status"] == "stopped":
                return None
            period = {**held["effectivePeriod"], "end": instant(end)}
            dosage = {**held["dosage"], "dose": given}
            why = [{"text": "Pressure beyond 180/100 mmHg in two readings"}]
            return {**held, "status": "stopped", "statusReason": why, "effectivePeriod": period, "dosage": dosage}

        reference_ = f"MedicationAdministration/{dose['id']}"
        await self.gateway.bring(reference_, stopped)
        await self.book_vial(f"{INDEX + 1}-1", await self.gateway.read(reference_))
        await self.record("kap-dosing", encounter, start)
        leaving = parameters(disposition_valueCode="other-hcf")

        async def left() -> Resource | None:
            held = await self.gateway.read(encounter)
            return held if held["status"] == "finished" else None

        await self.gateway.call_once(f"{encounter}/$discharge", leaving, left)
        review = {"identifier": f"{ID_TASK}|left:{encounter.rpartition('/')[2]}:L-HANDOVER"}
        asked = await self.until("the review of the handover", lambda: self.first("Task", review))
        done = self.done_by(self.team.prescriber, "The ward knows of the dose and of its time.")
        await self.gateway.bring(f"Task/{asked['id']}", done)
        seen = self.done_by(self.team.prescriber, "Seen.")  # what else asked for it came before the handover did
        for task in await self.gateway.search("Task", {"encounter": encounter, "code": REVIEW.token()}):
            await self.gateway.bring(f"Task/{task['id']}", seen)
        await self.gateway.bring(booked, lambda current: with_status(current, "fulfilled"))
        told = await self.summarise(encounter)
        lacking = [one for one in told.get("parameter", []) if one["name"] == "missing"]
        self.step("infusion stopped, handed over to the ward, which is told of the dose (L-HANDOVER)")
        self.step(f"summary signed ({len(lacking)} not recorded)")


def _named(key: str) -> list[dict[str, str]]:
    return [{"system": IDENTIFIER, "value": key}]
