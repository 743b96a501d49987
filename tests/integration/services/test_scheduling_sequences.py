"""No sequence of calls and events books a dosing session without its ground, or anybody twice at one time."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from itertools import combinations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.scheduling.ground import ground_of
from services.scheduling.rules.booking import INTENDED, OCCUPYING, booked_actors, span_of
from services.scheduling.rules.ground import unmet
from services.scheduling.service import scheduling as scheduling_service
from services.scheduling.setting import Setting
from shared.events.envelope import Event
from shared.events.handler import Position
from shared.events.shards import shard_of
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.extraction import compartment_key
from shared.fhir.json import dump
from shared.fhir.kap import stage_extension, visit_of
from shared.fhir.outcome import FhirError
from shared.runtime.consume import ServiceEvents
from shared.runtime.policy import load_policy
from shared.runtime.timers import run_once
from shared.store.access import DEFAULT_TENANT
from tests.integration.services.course import START, Bench, Clock, appointment, care_plan, consent, order
from tests.integration.services.test_scheduling_operations import ref, schedule

POLICY = load_policy()
PATIENTS = ("ada", "bo")
GROUND = {"S-ELIGIBLE", "S-EPISODE", "S-CONSENT", "S-PLAN", "S-ORDER"}
HOURS = st.sampled_from([0, 1, 3, 20, 50, 52, 100, 101, 150, 200]).map(lambda count: timedelta(hours=count))
WHO = st.sampled_from(PATIENTS)


def who(name):
    return {"resourceType": "Patient", "id": name}


def assessment(name, outcome):
    return {
        "resourceType": "RiskAssessment",
        "status": "final",
        "code": codes.ELIGIBILITY.concept(),
        "subject": {"reference": f"Patient/{name}"},
        "occurrenceDateTime": zulu(START),
        "prediction": [{"outcome": codes.OUTCOMES[outcome].concept()}],
    }


def course(name, status):
    return {
        "resourceType": "EpisodeOfCare",
        "status": status,
        "type": [codes.COURSE.concept()],
        "patient": {"reference": f"Patient/{name}"},
    }


NEWS = {
    "eligible": lambda name: assessment(name, "eligible"),
    "not eligible": lambda name: assessment(name, "not-eligible"),
    "course runs": lambda name: course(name, "active"),
    "course on hold": lambda name: course(name, "onhold"),
    "only referred": lambda name: {**course(name, "planned"), "extension": [stage_extension("referred", zulu(START))]},
    "consent": lambda name: consent(who(name)),
    "consent withdrawn": lambda name: consent(who(name), status="inactive"),
    "consent from elsewhere": lambda name: consent(who(name), meta={"source": "urn:hospital"}),
    "plan": lambda name: care_plan(who(name)),
    "plan of something else": lambda name: care_plan(who(name), category=[{"text": "diabetes"}]),
    "plan revoked": lambda name: care_plan(who(name), status="revoked"),
    "order": lambda name: order(who(name)),
    "order stopped": lambda name: order(who(name), status="stopped"),
    "order from elsewhere": lambda name: order(who(name), meta={"source": "urn:hospital"}),
}


GOOD = ("eligible", "course runs", "consent", "plan", "order")


class Sequences(RuleBasedStateMachine):
    make_database = None
    seen = set()  # noqa: RUF012 - of the whole campaign: dosing sessions that were booked

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock(START)
        self.bench = Bench(self.make_database, self.clock, POLICY)
        self.scheduling = self.run(self.bench.open(scheduling_service))
        self.setting = Setting.of(POLICY, self.clock)
        self.versions = Counter()
        self.sequence = 0

    def run(self, work):
        return self.runner.run(work)

    def teardown(self):
        self.run(self.bench.close())
        self.runner.close()

    # What intake says

    async def hear(self, resource):
        type_, name = resource["resourceType"], compartment_key(resource, resource["resourceType"], "x")
        id_ = f"{type_.lower()}-{name.rpartition('/')[2]}"
        self.versions[id_] += 1
        self.sequence += 1
        version = self.versions[id_]
        meta = {**resource.get("meta", {}), "versionId": str(version), "lastUpdated": zulu(self.clock.now)}
        event = Event(
            id=f"{type_}/{id_}/{version}",
            source="intake",
            interaction="create" if version == 1 else "update",
            type=type_,
            resource_id=id_,
            version=version,
            time=self.clock.now,
            tenant=DEFAULT_TENANT,
            key=name,
            shard=shard_of(DEFAULT_TENANT, name),
            sequence=self.sequence,
            body=dump({**resource, "id": id_, "meta": meta}),
        )
        handler = ServiceEvents(self.scheduling.service, self.scheduling.store)
        await handler.handle(event, Position("kap.intake.v1", event.shard, self.sequence))

    @initialize(names=st.sampled_from([PATIENTS, PATIENTS[:1]]), after=HOURS)
    def some_are_ready_and_one_is_booked(self, names, after):
        for name in names:
            for kind in GOOD:
                self.run(self.hear(NEWS[kind](name)))
        for actor, role in (
            ("Practitioner/therapist", "therapist"),
            ("Practitioner/m", "monitor"),
            ("Location/room", "room"),
        ):
            self.run(self.scheduling.create(schedule(actor, role, hours=(("00:00:00", "23:45:00"),))))
        self.run(self.scheduling.create(self.wanted(names[0], after, "booked")))

    @rule(name=WHO, kind=st.sampled_from(sorted(NEWS)))
    def news(self, name, kind):
        self.run(self.hear(NEWS[kind](name)))

    @rule(name=WHO)
    def all_is_well(self, name):
        for kind in GOOD:
            self.run(self.hear(NEWS[kind](name)))

    # What clients ask

    def attempt(self, work):
        try:
            made = self.run(work)
        except FhirError as error:
            if error.status not in (400, 404, 422):
                raise
            return None
        return made

    def wanted(self, name, after, status, visit=codes.VISIT_DOSING):
        made = appointment(
            who(name), {"resourceType": "MedicationRequest", "id": f"medicationrequest-{name}"}, START + after
        )
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
        self.clock.forward(minutes=minutes)
        timer = next(one for one in self.scheduling.service.timers if one.name == name)
        self.run(run_once(timer, self.scheduling.service, self.scheduling.store, self.clock.now, lambda: None))

    # What holds

    @invariant()
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
    def nobody_and_nothing_is_in_two_visits_at_one_time(self):
        self.run(self._apart())

    async def _apart(self):
        held = await self.scheduling.search("Appointment", status=",".join(OCCUPYING))
        excused = {
            task["focus"]["reference"].rpartition("/")[2]
            for task in await self.scheduling.search("Task", code="double-booked")
        }
        taking = [one for one in held if one["id"] not in excused]
        for first, second in combinations(taking, 2):
            low, high = max(span_of(first)[0], span_of(second)[0]), min(span_of(first)[1], span_of(second)[1])
            shared = set(booked_actors(first)) & set(booked_actors(second))
            assert high <= low or not shared, (first["id"], second["id"], shared)


def campaign(make_database, examples, steps):
    Sequences.make_database = staticmethod(make_database)
    Sequences.seen.clear()
    run_state_machine_as_test(
        Sequences,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert len(Sequences.seen) >= examples, "the campaign has to book something to say anything"


def test_no_sequence_books_without_ground_or_anybody_twice(make_database):
    campaign(make_database, 8, 20)


@pytest.mark.slow
def test_no_long_sequence_books_without_ground_or_anybody_twice(make_database):
    campaign(make_database, 150, 40)
