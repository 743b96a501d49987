"""Visits by the FHIR API: booked, planned by the event, held, closed; a dosing session with all that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from cli.demo import after, bedside, before, resources
from cli.demo.acting import Acting, Refusal
from cli.demo.resources import AFTER_ARRIVAL, instant, parameters, quantity, reference
from shared.fhir.codes import GATE_PASSED_CLOSED, REVIEW, SUBMIT_REMS
from shared.fhir.json import Resource

GIVEN_OVER = {"iv": 40, "im": 1, "sl": 15, "nasal": 1}
"""Minutes from the start of a dose to its end, by route; of a nasal spray, of one device."""
_ASKED = timedelta(minutes=3)
_GATE = timedelta(minutes=3)
_BETWEEN_DEVICES = timedelta(minutes=5)
_LEAVES = timedelta(minutes=125)
_CADSS = timedelta(minutes=40)
_NAUSEA = timedelta(minutes=35)
_VIAL_MG = 500
_HELD = "Too high to begin: held, to be repeated after 10 to 15 minutes."


class Visits(Acting):
    """The visits of one patient."""

    def order(self, index: int) -> Resource:
        """Return the order of a dosing session, written five days before it."""
        day = resources.DAYS["kap-dosing"][index] - 5
        return before.order(self.person, self.subject, self.calendar.at(day), self.team, index)

    def booking(self, kind: str, index: int, order: str | None = None) -> Resource:
        """Return the booking of a visit."""
        start = self.calendar.visit(kind, index)
        return before.appointment(self.person, kind, index, self.subject, start, self.team, order, self.escort)

    async def visit(self, kind: str, index: int) -> None:
        """Book a visit without a dose, hold it, and close it."""
        booked, encounter = await self.book(kind, index)
        start = self.calendar.visit(kind, index)
        await self.begin(encounter, start)
        end = start + timedelta(minutes=resources.VISIT_MINUTES[kind])
        if kind in bedside.CONTENT:
            await self.record(kind, encounter, end)
        await self.gateway.bring(encounter, lambda current: _finished(current, end))
        await self.gateway.bring(booked, lambda current: with_status(current, "fulfilled"))

    async def dosing(self, index: int) -> str:
        """One dosing session: ordered, booked, gated, given, watched, documented, left."""
        person, session = self.person, self.person.sessions[index]
        order = await self._ordered(index)
        booked, encounter = await self.book("kap-dosing", index, order)
        arrival = self.calendar.visit("kap-dosing", index)
        await self.begin(encounter, arrival)
        start = arrival + AFTER_ARRIVAL
        key = f"{person.key}-dose-{index + 1}"
        await self._before(key, index, encounter, order, start)
        if session.past_gate:
            dose = await self._past_the_gate(encounter, order, start)
        else:
            dose = await self._give(encounter, order, index, start)
        await self._watch(key, index, encounter, dose, start)
        if person.story != "home":  # there the lozenges were handed out by the pharmacy
            await self._book_vials(index, encounter)
        await self._leave(key, encounter, booked, start)
        self.step(f"{session.dose_mg} mg {person.route.key.upper()}{' at home' if person.story == 'home' else ''}")
        if person.drug == "esketamine":
            await self._rems(encounter)
        if session.late is not None or session.past_gate:
            await self._review(encounter)
        await self.summarise(encounter)
        return encounter

    async def summarise(self, encounter: str) -> Resource:
        """Sum the session up and sign it, once: a second time would amend it."""
        signed = after.summary_parameters(self.team.therapist, self.team.prescriber)

        async def summed_up() -> Resource | None:
            return await self.first("Composition", {"encounter": encounter})

        return await self.gateway.call_once(f"{encounter}/$summarize", signed, summed_up)

    async def record(self, kind: str, encounter: str, on: datetime) -> None:
        """Record what is shareable of the psychotherapy in a visit."""
        said = bedside.therapy(self.team.therapist, on, **bedside.CONTENT[kind])
        await self.gateway.call(f"{encounter}/$record-psychotherapy", said)

    # -- Before the dose --------------------------------------------------------------------------------------------

    async def _ordered(self, index: int) -> str:
        """Order; for home the prescription monitoring programme is asked first."""
        order = self.order(index)
        if self.person.story == "home":
            day = resources.DAYS["kap-dosing"][index] - 5
            asked = self.calendar.at(day, 8)
            await self.create(before.pdmp_query(self.person, index, self.subject, self.team.prescriber, asked))
        held = await self.create(order)
        if self.person.story == "home" and index == 0:
            self.step("PDMP asked, prescription number recorded")
        return held.reference

    async def _before(self, key: str, index: int, encounter: str, order: str, start: datetime) -> None:
        """Ask, measure, and look at the gate; where it is closed for a moment, wait and measure again."""
        person, session, team, subject = self.person, self.person.sessions[index], self.team, self.subject
        given = await self._doses(encounter)
        if person.story == "iv" and index == 0 and not given:
            measured = await self.gateway.search("Observation", {"encounter": encounter, "_count": "1"})
            if not measured:
                attempt = self.start_dose(encounter, order, session.dose_mg, start, given)
                await self.refused("start without blood pressure", "G-BP", attempt)
        asked = start - AFTER_ARRIVAL + _ASKED
        await self.all(
            bedside.pre_dose(key, subject, encounter, asked, team.nurse, person.escort),
            after.since_last_contact(key, subject, encounter, team.therapist, asked),
        )
        for reading in (*session.held, session.baseline):
            at = start + timedelta(minutes=reading.minute)
            note = _HELD if reading in session.held else ""
            await self.transact(*bedside.vitals(key, subject, encounter, reading, at, self._reader, note=note))
            if session.held and not given:
                expected = [] if reading is session.baseline else ["G-BP-HOLD"]
                said = f"{reading.systolic}/{reading.diastolic}"
                await self._look_at_the_gate(encounter, order, at + _GATE, said, expected)

    async def _look_at_the_gate(
        self, encounter: str, order: str, at: datetime, pressure: str, expected: list[str]
    ) -> None:
        """Ask which checks are closed."""
        named = parameters(
            medicationRequest_valueReference=reference(order),
            effective_valueDateTime=instant(at),
            **bedside.diluted(self.person),
        )
        told = await self.gateway.call(f"{encounter}/$pre-dose-gate", named)
        checks = [parts_of(one) for one in told.get("parameter", []) if one["name"] == "check"]
        closed = {str(one["rule"]): str(one["text"]) for one in checks if one["closes"]}
        if list(closed) != expected:
            self.told.faults.append(f"the gate at {pressure} is closed by {', '.join(closed) or 'nothing'}")
        if closed:
            self.told.refusals.append(Refusal(f"gate at {pressure}", tuple(closed), next(iter(closed.values()))))
            self.step(f"held at {pressure} ({', '.join(closed)})")
        else:
            self.step(f"repeated {pressure}, gate open")

    @property
    def _reader(self) -> str:
        """Who reads the vital signs: at home the chaperone, in front of the camera."""
        return self.escort if self.person.story == "home" else self.team.nurse

    # -- The dose ---------------------------------------------------------------------------------------------------

    async def _doses(self, encounter: str) -> list[Resource]:
        """Return the doses of ketamine or esketamine that this visit has, first one first."""
        found = await self.gateway.search("MedicationAdministration", {"context": encounter})
        doses = [one for one in found if "effectivePeriod" in one]
        return sorted(doses, key=lambda one: str(one["effectivePeriod"]["start"]))

    async def start_dose(
        self, encounter: str, order: str, dose_mg: int, start: datetime, given: list[Resource]
    ) -> Resource:
        """Start one more dose than `given`, unless an earlier run did. What a patient takes himself has a witness."""
        himself = self.person.route.key in {"sl", "nasal"}
        performer, witness = (self.subject, self.team.nurse) if himself else (self.team.nurse, None)
        named = bedside.start_parameters(self.person, order, dose_mg, start, performer, witness)

        async def done() -> Resource | None:
            there = await self._doses(encounter)
            return there[len(given)] if len(there) > len(given) else None

        return await self.gateway.call_once(f"{encounter}/$start-dose", named, done)

    async def _give(self, encounter: str, order: str, index: int, start: datetime) -> str:
        """Give the dose, of a nasal spray device by device, five minutes apart; return the first."""
        session = self.person.sessions[index]
        given: list[Resource] = []
        for number, part in enumerate(session.devices or (session.dose_mg,)):
            at = start + number * _BETWEEN_DEVICES
            dose = await self.start_dose(encounter, order, part, at, given)
            over = at + timedelta(minutes=GIVEN_OVER[self.person.route.key])
            await self.gateway.bring(f"MedicationAdministration/{dose['id']}", _completed(over))
            given.append(dose)
        if len(given) > 1 and index == 0:
            self.step(f"{len(given)} devices, 5 min apart, under a witness")
        return f"MedicationAdministration/{given[0]['id']}"

    async def _past_the_gate(self, encounter: str, order: str, start: datetime) -> str:
        """The gate refuses; the dose was given all the same, is recorded, and the alarm is there at once."""
        person = self.person
        if not await self._doses(encounter):
            attempt = self.start_dose(encounter, order, person.sessions[0].dose_mg, start, [])
            await self.refused("start at high pressure", "G-BP-STOP", attempt)
        dose = bedside.given_dose(person, 0, self.subject, encounter, order, self.team.nurse, start)
        held = await self.create(dose)
        alarm = await self.until(
            f"the alarm after the dose past the gate of {person.name}",
            lambda: self.first("DetectedIssue", {"patient": self.subject, "code": GATE_PASSED_CLOSED.token()}),
        )
        self.step(f"dose past the gate recorded, alarm raised ({alarm.get('severity', 'no')} severity)")
        return held.reference

    # -- Under and after it -----------------------------------------------------------------------------------------

    async def _watch(self, key: str, index: int, encounter: str, dose: str, start: datetime) -> None:
        """Chart what was seen: vital signs, the setting, what went wrong and what was done about it, the note."""
        person, session, team, subject = self.person, self.person.sessions[index], self.team, self.subject
        charted: list[Resource] = []
        for reading in session.readings:
            at = start + timedelta(minutes=reading.minute)
            late = timedelta(minutes=75) if reading.minute == session.late else None
            charted.extend(bedside.vitals(key, subject, encounter, reading, at, self._reader, late=late))
        if person.story == "home":
            for minute in range(15, 121, 15):
                at = start + timedelta(minutes=minute)
                charted.append(bedside.looked(key, subject, encounter, self._reader, minute, at))
        else:
            for minute, score in ((40, 4), (120, 5)):
                at = start + timedelta(minutes=minute)
                charted.append(bedside.sedation(key, subject, encounter, team.nurse, minute, score, at))
        if session.nauseous:
            at = start + _NAUSEA
            charted.append(bedside.rescue(key, subject, encounter, team.nurse, at + timedelta(minutes=5)))
            charted.append(bedside.nausea(key, subject, encounter, dose, team.nurse, at))
        await self.transact(*charted)
        await self.record("kap-dosing", encounter, start)
        if session.nauseous:
            self.step("nausea, ondansetron given, adverse event recorded")
        peak = start + _CADSS
        rated = after.cadss6(key, session.dissociation, subject, encounter, team.therapist, peak)
        await self.create(rated)

    async def _leave(self, key: str, encounter: str, booked: str, start: datetime) -> None:
        """Go through the checklist, and let the patient go home."""
        left = start + _LEAVES
        asked = left - timedelta(minutes=3)
        leaving = after.leaving(key, self.subject, encounter, asked, self.team.nurse, self.person.escort)
        await self.create(leaving)
        named = after.discharge_parameters(left)

        async def done() -> Resource | None:
            held = await self.gateway.read(encounter)
            return held if held["status"] == "finished" else None

        await self.gateway.call_once(f"{encounter}/$discharge", named, done)
        await self.gateway.bring(booked, lambda current: with_status(current, "fulfilled"))

    async def _book_vials(self, index: int, encounter: str) -> None:
        """Book a vial for each dose of a session; nothing is left of it."""
        for number, dose in enumerate(await self._doses(encounter), start=1):
            await self.book_vial(f"{index + 1}-{number}", dose)
        if index == 0:
            self.step("vial balanced")

    async def book_vial(self, name: str, dose: Resource) -> None:
        """Book the vial of a dose in the ledger: received, opened, given, the rest wasted before a witness."""
        nurse, amount = self.team.nurse, int(dose["dosage"]["dose"]["value"])
        held = max(amount, _VIAL_MG if self.person.drug == "ketamine" else 0)
        vial, start = bedside.vial(self.person, name), datetime.fromisoformat(dose["effectivePeriod"]["start"])
        entries: list[tuple[str, timedelta, dict[str, Any]]] = [
            ("receive", timedelta(days=-1), {"amount_valueQuantity": quantity(held, "mg")}),
            ("open", timedelta(minutes=-5), {}),
            (
                "administer",
                timedelta(),
                {
                    "amount_valueQuantity": quantity(amount, "mg"),
                    "administration_valueReference": reference(f"MedicationAdministration/{dose['id']}"),
                },
            ),
        ]
        if held > amount:
            wasted = {
                "amount_valueQuantity": quantity(held - amount, "mg"),
                "witness_valueReference": reference(self.team.prescriber),
            }
            entries.append(("waste", timedelta(), wasted))
        for kind, when, more in entries:
            named = parameters(
                kind_valueCode=kind,
                **vial,
                performer_valueReference=reference(nurse),
                occurred_valueDateTime=instant(start + when),
                **more,
            )
            booked = self._booked(kind, vial["vial_valueString"], start + when)
            await self.gateway.call_once("SupplyDelivery/$substance-book", named, booked)
        balance = await self.gateway.call("SupplyDelivery/$substance-balance", parameters(**vial))
        left = balance["parameter"][0]["valueQuantity"]["value"]
        if left:
            self.told.faults.append(f"the vial holds {left} by the ledger, expected nothing")

    def _booked(self, kind: str, vial: str, when: datetime) -> Callable[[], Any]:
        """Return what tells whether the ledger has an entry of this kind for the vial."""

        async def done() -> Resource | None:
            second = parameters(start_valueDateTime=instant(when), end_valueDateTime=instant(when))
            log = await self.gateway.call("SupplyDelivery/$substance-log", second)
            entries = [parts_of(one) for one in log.get("parameter", [])]
            return log if any(one.get("kind") == kind and one.get("vial") == vial for one in entries) else None

        return done

    async def _rems(self, encounter: str) -> None:
        """Have the monitoring form filled from the session, answer what only a person knows, and send it."""
        found = {"encounter": encounter, "code": SUBMIT_REMS.token()}
        task = await self.first("Task", found)
        if task is not None and task["status"] == "completed":
            return
        filled = await self.gateway.call(f"{encounter}/$rems-form")
        form = next(one["valueReference"]["reference"] for one in filled["parameter"] if one["name"] == "form")
        found_form = {"_id": form.partition("/")[2]}
        await self.until(
            f"the REMS form of {self.person.name}", lambda: self.first("QuestionnaireResponse", found_form)
        )
        lot = f"LOT-{self.person.key}"
        await self.gateway.bring(form, lambda current: after.with_what_a_person_answers(current, lot))
        filled = await self.gateway.call(f"{encounter}/$rems-form")
        lacking = [str(one["valueCode"]) for one in filled["parameter"] if one["name"] == "missing"]
        if lacking:
            self.told.faults.append(f"the REMS form lacks {', '.join(lacking)}")

        async def done() -> Resource | None:
            held = await self.first("Task", found)
            return held if held is not None and held["status"] == "completed" else None

        await self.gateway.call_once(f"{encounter}/$rems-submitted", after.sent_parameters(self.team.nurse), done)
        self.step("REMS form sent")

    async def _review(self, encounter: str) -> None:
        """The prescriber looks at what asks for a review.

        Events of one patient's record come in the order in which sessions wrote it, and the psychotherapy was recorded
        after the readings: when it is there, so is every review that they ask for.
        """
        said = {"encounter": encounter}
        await self.until(f"the psychotherapy of {self.person.name}", lambda: self.first("Procedure", said))
        query = {"patient": self.subject, "code": REVIEW.token()}
        await self.until(f"the review of {self.person.name}", lambda: self.first("Task", query))
        looked = self.done_by(self.team.prescriber, "Seen: it passed without symptoms.")
        for task in await self.gateway.search("Task", query):
            await self.gateway.bring(f"Task/{task['id']}", looked)
        self.step("reviewed by the prescriber")

    def done_by(self, who: str, note: str) -> Callable[[Resource], Resource | None]:
        """Return the change that completes a Task in somebody's name."""

        def change(task: Resource) -> Resource | None:
            if task["status"] in {"completed", "cancelled"}:
                return None
            return {**task, "status": "completed", "owner": reference(who), "note": [{"text": note}]}

        return change

    # -- Booking and beginning --------------------------------------------------------------------------------------

    async def book(self, kind: str, index: int, order: str | None = None) -> tuple[str, str]:
        """Book, and wait until the event has made sessions plan the visit."""
        return await self.book_as(self.booking(kind, index, order), kind)

    async def book_as(self, booking: Resource, kind: str) -> tuple[str, str]:
        """Book as it is said, and wait until the event has made sessions plan the visit."""
        booked = (await self.create(booking)).reference
        encounter = await self.until(
            f"the planned {kind} visit of {self.person.name}",
            lambda: self.first("Encounter", {"appointment": booked}),
        )
        return booked, f"Encounter/{encounter['id']}"

    async def begin(self, encounter: str, start: datetime) -> None:
        """Begin a visit: the patient has come."""
        await self.gateway.bring(encounter, _arrived)
        await self.gateway.bring(encounter, lambda current: _in_progress(current, start))


# -- What is read from, and done to, resources: pure ----------------------------------------------------------------


def parts_of(parameter: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a parameter by their names."""
    return {
        part["name"]: next((value for name, value in part.items() if name.startswith("value")), None)
        for part in parameter.get("part", [])
    }


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


def _completed(end: datetime) -> Callable[[Resource], Resource | None]:
    def change(administration: Resource) -> Resource | None:
        if administration["status"] == "completed":
            return None
        period = {**administration.get("effectivePeriod", {}), "end": instant(end)}
        return {**administration, "status": "completed", "effectivePeriod": period}

    return change


def with_status(resource: Resource, status: str) -> Resource | None:
    """Return the resource with another status; None: it has it."""
    return None if resource["status"] == status else {**resource, "status": status}
