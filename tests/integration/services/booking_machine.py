"""What clients ask of scheduling, in any order, and what holds whatever they ask: for machines of hypothesis.

A machine says who the patients are and what their orders are called, and where the news of intake comes from.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from functools import wraps
from itertools import combinations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.scheduling.ground import ground_of
from services.scheduling.rules.booking import INTENDED, OCCUPYING, booked_actors, span_of
from services.scheduling.rules.ground import unmet
from services.scheduling.service import scheduling as scheduling_service
from services.scheduling.setting import Setting
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import actors, visit_of
from shared.fhir.outcome import FhirError
from shared.runtime.policy import load_policy
from shared.runtime.timers import run_once
from tests.integration.services.at_scheduling import ref, schedule
from tests.integration.services.course import START, Bench, Clock, appointment

POLICY = load_policy()
PATIENTS = ("ada", "bo")
GROUND = {"S-ELIGIBLE", "S-EPISODE", "S-CONSENT", "S-PLAN", "S-ORDER"}
HOURS = st.sampled_from([0, 1, 3, 20, 50, 52, 100, 101, 150, 200]).map(lambda count: timedelta(hours=count))
WHO = st.sampled_from(PATIENTS)


def when_changed(check):
    """Look only where something was written, or the clock moved, since this check held: a refusal changes nothing."""

    @wraps(check)
    def looked(self):
        if self.held_at.get(check.__name__) != self.written:
            check(self)
            self.held_at[check.__name__] = self.written

    return looked


class Bookings(RuleBasedStateMachine):
    """Scheduling on its own database, and its clients.

    `written` counts what may have changed something: whatever writes or moves the clock says so by `wrote`.
    """

    make_database = None
    seen = set()  # noqa: RUF012 - of the whole campaign: dosing sessions that were booked

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock(START)
        self.bench = Bench(self.make_database, self.clock, POLICY)
        self.scheduling = self.run(self.bench.open(scheduling_service))
        self.setting = Setting.of(POLICY, self.clock)
        self.written = 0
        self.held_at = {}

    def run(self, work):
        return self.runner.run(work)

    def wrote(self):
        self.written += 1

    def teardown(self):
        self.run(self.bench.close())
        self.runner.close()

    def who(self, name):
        """Return the Patient of that name; each campaign says."""
        raise NotImplementedError

    def order_of(self, name):
        """Return what a booking names as that patient's order; each campaign says."""
        raise NotImplementedError

    def open_the_clinic(self):
        """Let everybody work around the clock."""
        for actor, role in (
            ("Practitioner/therapist", "therapist"),
            ("Practitioner/m", "monitor"),
            ("Location/room", "room"),
        ):
            self.run(self.scheduling.create(schedule(actor, role, hours=(("00:00:00", "23:45:00"),))))

    # What clients ask

    def attempt(self, work):
        try:
            made = self.run(work)
        except FhirError as error:
            if error.status not in (400, 404, 409, 422):
                raise
            return None
        self.wrote()
        return made

    def wanted(self, name, after, status, visit=codes.VISIT_DOSING):
        made = appointment(self.who(name), self.order_of(name), START + after)
        return {**made, "status": status, "serviceType": [visit.concept()]}

    @rule(
        name=WHO,
        after=HOURS,
        status=st.sampled_from(
            ["booked"] * 4 + ["pending", "proposed", "waitlist", "arrived", "cancelled", "fulfilled"]
        ),
        visit=st.sampled_from([codes.VISIT_DOSING] * 3 + [codes.VISIT_PREP]),
        both=st.booleans(),
    )
    def post(self, name, after, status, visit, both):
        made = self.wanted(name, after, status, visit)
        if both:
            made["serviceType"] = [codes.VISIT_PREP.concept(), *made["serviceType"]]
        self.attempt(self.scheduling.create(made))

    @rule(name=WHO, after=HOURS, operation=st.sampled_from(["hold", "book"]))
    def operate(self, name, after, operation):
        resource = {"name": "resource", "resource": self.wanted(name, after, "proposed")}
        self.attempt(self.scheduling.ask(operation, "Appointment", resource))

    def one_of(self, data):
        held = self.run(self.scheduling.search("Appointment"))
        return data.draw(st.sampled_from(held)) if held else None

    @rule(
        data=st.data(),
        status=st.sampled_from(["booked", "pending", "proposed", "arrived", "fulfilled", "cancelled", "noshow"]),
    )
    def change(self, data, status):
        held = self.one_of(data)
        if held is not None:
            self.attempt(self.scheduling.update({**held, "status": status}))

    @rule(data=st.data(), visit=st.sampled_from([codes.VISIT_DOSING, codes.VISIT_PREP]))
    def retype(self, data, visit):
        held = self.one_of(data)
        if held is not None:
            self.attempt(self.scheduling.update({**held, "serviceType": [visit.concept()]}))

    @rule(data=st.data(), after=HOURS)
    def move(self, data, after):
        held = self.one_of(data)
        if held is not None:
            start = {"name": "start", "valueDateTime": zulu(START + after)}
            self.attempt(self.scheduling.call("reschedule", held, start))

    @rule(data=st.data())
    def book_held(self, data):
        held = self.one_of(data)
        if held is not None:
            self.attempt(self.scheduling.ask("book", "Appointment", ref("appt-id", f"Appointment/{held['id']}")))

    @rule(name=st.sampled_from(["holds", "waiting-list", "coming-visits"]), minutes=st.sampled_from([0, 15, 300]))
    def time_passes(self, name, minutes):
        self.wrote()
        self.clock.forward(minutes=minutes)
        timer = next(one for one in self.scheduling.service.timers if one.name == name)
        self.run(run_once(timer, self.scheduling.service, self.scheduling.store, self.clock.now, lambda: None))

    # What holds

    @invariant()
    @when_changed
    def every_booked_dosing_session_has_its_ground_or_is_flagged(self):
        self.run(self._grounded())

    async def _grounded(self):
        async with self.scheduling.record("none") as record:
            for one in await record.search("Appointment", {"status": ",".join(INTENDED)}):
                if visit_of(one) != "kap-dosing":
                    continue
                self.seen.add(one["id"])
                ground = await ground_of(record, one, self.setting)
                lacking = {issue.rule for issue in unmet("kap-dosing", ground, None, self.setting.policy)} & GROUND
                flags = await record.search("Flag", {"identifier": f"{codes.ID_FLAG}|ground:{one['id']}"})
                assert not lacking or [flag["status"] for flag in flags] == ["active"], (one["id"], lacking)

    @invariant()
    @when_changed
    def nobody_and_nothing_is_in_two_visits_at_one_time(self):
        self.run(self._apart())

    async def _taking(self):
        """Return the appointments that take the time of their actors, but those with a Task that they clash."""
        held = await self.scheduling.search("Appointment", status=",".join(OCCUPYING))
        excused = {
            task["focus"]["reference"].rpartition("/")[2]
            for task in await self.scheduling.search("Task", code="double-booked")
        }
        return [one for one in held if one["id"] not in excused]

    async def _apart(self):
        taking = await self._taking()
        for first, second in combinations(taking, 2):
            low, high = max(span_of(first)[0], span_of(second)[0]), min(span_of(first)[1], span_of(second)[1])
            shared = set(booked_actors(first)) & set(booked_actors(second))
            assert high <= low or not shared, (first["id"], second["id"], shared)

    @invariant()
    @when_changed
    def the_time_of_a_booked_visit_is_refused_to_everybody_else(self):
        self.run(self._refused_again())

    async def _refused_again(self):
        """Ask for the time of a visit that is booked, for another patient; what is granted is not kept."""
        for one in (each for each in await self._taking() if each["status"] in INTENDED):
            other = next(name for name in PATIENTS if self.who(name)["id"] not in actors(one, "Patient"))
            clashing = {**self.wanted(other, timedelta(), "booked", codes.VISIT_PREP), **_time_of(one)}
            rules = await self.tried(clashing)
            assert rules is not None, f"{one['id']} is booked a second time"
            assert "S-DOUBLE" in rules, (one["id"], rules)
            return

    async def tried(self, appointment):
        """Return the rules that refuse an appointment, None where none does; nothing is kept of it."""
        with suppress(_NotKept):
            try:
                async with self.scheduling.record("none") as record:
                    await record.create(appointment)
                    raise _NotKept
            except FhirError as refused:
                return {issue.rule for issue in getattr(refused, "issues", ())}
        return None


class _NotKept(Exception):
    """Ends a transaction that only asked."""


def _time_of(appointment):
    return {name: appointment[name] for name in ("start", "end")}
