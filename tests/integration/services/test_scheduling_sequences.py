"""No sequence of calls and events books a dosing session without its ground, or anybody twice at one time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from shared.events.envelope import Event
from shared.events.handler import Position
from shared.events.shards import shard_of
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.extraction import compartment_key
from shared.fhir.json import dump
from shared.fhir.kap import stage_extension
from shared.runtime.consume import ServiceEvents
from shared.store.access import DEFAULT_TENANT
from tests.integration.services.booking_machine import HOURS, PATIENTS, WHO, Bookings
from tests.integration.services.course import START, care_plan, consent, for_sessions, order


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
    "order": lambda name: for_sessions(order(who(name)), 6),
    "order stopped": lambda name: order(who(name), status="stopped"),
    "order from elsewhere": lambda name: order(who(name), meta={"source": "urn:hospital"}),
}


GOOD = ("eligible", "course runs", "consent", "plan", "order")


class Sequences(Bookings):
    """Scheduling, told by intake whatever it may be told."""

    def __init__(self):
        super().__init__()
        self.versions = Counter()
        self.sequence = 0

    def who(self, name):
        return who(name)

    def order_of(self, name):
        return {"resourceType": "MedicationRequest", "id": f"medicationrequest-{name}"}

    # What intake says

    async def hear(self, resource):
        self.wrote()
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
        self.open_the_clinic()
        self.run(self.scheduling.create(self.wanted(names[0], after, "booked")))

    @rule(name=WHO, kind=st.sampled_from(sorted(NEWS)))
    def news(self, name, kind):
        self.run(self.hear(NEWS[kind](name)))

    @rule(name=WHO)
    def all_is_well(self, name):
        for kind in GOOD:
            self.run(self.hear(NEWS[kind](name)))


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
@pytest.mark.timeout(3000)
def test_no_long_sequence_books_without_ground_or_anybody_twice(make_database):
    campaign(make_database, 40, 40)
