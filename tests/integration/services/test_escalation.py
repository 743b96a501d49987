"""Escalation: what cannot wait is told to one after the other until a person takes it; it never falls silent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from shared.fhir.codes import ASK_CSSRS, EXT_ESCALATION, KAP, REVIEW, Code
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import task
from shared.notify.sending import Sending
from shared.runtime.escalation import Escalation, is_acknowledged, standing_of
from shared.runtime.policy import Policy, PolicyError, load_policy
from shared.runtime.raising import content_of, own_work
from shared.runtime.service import Service
from shared.runtime.timers import run_once
from shared.store.store import Store
from tests.integration.services.course import START, Clock, Opened

LADDER = [("clinician-on-call", 5), ("prescriber-on-call", 10), ("medical-director", 15)]
STEPS = ("clinician-on-call", "prescriber-on-call", "medical-director")
STATUSES = (
    *("requested", "accepted", "in-progress", "on-hold", "completed"),
    *("rejected", "failed", "cancelled", "ready", "entered-in-error"),
)
ANNA = {"reference": "Practitioner/anna"}
TYPES = frozenset(("Task", "Communication", "PractitionerRole", "Practitioner"))


def policy():
    shipped = load_policy()
    steps = [{"role": role, "minutes": minutes} for role, minutes in LADDER]
    ladder = {"title": "Somebody may be at risk", "source": "test", "verified": False, "steps": steps}
    return Policy("1", {**shipped.sections, "escalation": {"ladders": {"one": ladder}, "tasks": {"run-c-ssrs": "one"}}})


ESCALATION = Escalation.of(policy())
SERVICE = Service(
    name="outcomes",
    title="Outcomes",
    types=TYPES,
    guards={"Task": (ESCALATION.guard,)},
    consumes=("intake",),
    timers=(ESCALATION.timer(),),
)


class Ward(Opened):
    """A service with a ladder, its clock, and its people."""

    async def people(self, *roles, **more):
        for role in roles:
            made = {
                "resourceType": "PractitionerRole",
                "code": [Code(KAP, role).concept()],
                "telecom": [{"system": "email", "value": f"{role}@clinic.example"}],
                **more,
            }
            await self.create({name: value for name, value in made.items() if value != []})

    async def raised(self, now, name="1", **more):
        made = {
            **task(("risk", name), patient="ada", code=ASK_CSSRS, description="x", now=now, priority="stat"),
            **more,
        }
        async with self.record("Patient/ada") as record:
            await ESCALATION.raise_task(record, made, now)
        (found,) = await self.search("Task", identifier=made["identifier"][0]["value"])
        return found

    async def tick(self, clock, **by):
        clock.forward(**by)
        await run_once(self.service.timers[0], self.service, self.store, clock.now, lambda: None)

    async def told(self, status=None):
        found = await self.search("Communication", **({} if status is None else {"status": status}))
        held = {one["id"]: one for one in await self.search("PractitionerRole")}
        return [
            held[one["recipient"][0]["reference"].split("/")[1]]["code"][0]["coding"][0]["code"]
            if "recipient" in one
            else None
            for one in found
        ]

    async def reads(self, one):
        return await self.get("Task", one["id"])


@pytest.fixture
async def ward(make_database):
    store = await Store.connect(make_database("outcomes"), service="outcomes")
    yield Ward(SERVICE, store)
    await store.close()


async def test_the_first_is_told_in_the_transaction_that_raises_it(ward, clock):
    await ward.people(*STEPS)
    raised = await ward.raised(clock.now)
    assert await ward.told("preparation") == ["clinician-on-call"]
    (sent,) = await ward.search("Communication")
    assert sent["about"] == [{"reference": f"Task/{raised['id']}"}]
    assert sent["priority"] == "urgent"
    assert "ada" not in sent["payload"][0]["contentString"]
    assert standing_of(raised, clock.now).step == 1

    async def fails_after_it():
        async with ward.record("Patient/ada") as record:
            again = task(("risk", "2"), patient="ada", code=ASK_CSSRS, description="x", now=clock.now)
            await ESCALATION.raise_task(record, again, clock.now)
            raise RuntimeError("of the answer")

    with pytest.raises(RuntimeError, match="of the answer"):
        await fails_after_it()
    assert len(await ward.search("Communication")) == 1


async def test_it_climbs_when_nobody_answers_and_repeats_the_last_at_the_top(ward, clock):
    await ward.people(*STEPS)
    await ward.raised(clock.now)
    await ward.tick(clock, minutes=4, seconds=59)
    assert await ward.told() == ["clinician-on-call"]
    await ward.tick(clock, seconds=1)
    assert await ward.told() == ["clinician-on-call", "prescriber-on-call"]
    await ward.tick(clock, minutes=9)
    assert len(await ward.told()) == 2
    await ward.tick(clock, minutes=1)
    await ward.tick(clock, minutes=15)
    await ward.tick(clock, minutes=15)
    assert await ward.told() == [*STEPS, "medical-director", "medical-director"]


@pytest.mark.parametrize("status", ["accepted", "in-progress", "completed"])
async def test_a_person_who_takes_it_ends_it(ward, clock, status):
    await ward.people(*STEPS)
    raised = await ward.raised(clock.now)
    await ward.update({**raised, "status": status, "owner": ANNA})
    await ward.tick(clock, days=1)
    assert await ward.told() == ["clinician-on-call"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"status": "accepted"}, "T-OWNER"),
        ({"status": "completed"}, "T-OWNER"),
        ({"status": "cancelled"}, "T-OWNER"),
        ({"status": "entered-in-error"}, "T-OWNER"),
        ({"status": "accepted", "owner": {"reference": "Organization/clinic"}}, "T-OWNER"),
        ({"status": "rejected", "owner": ANNA}, "T-KEEP"),
        ({"status": "failed", "owner": ANNA}, "T-KEEP"),
        ({"code": REVIEW.concept()}, "T-KEEP"),
    ],
)
async def test_it_cannot_be_silenced_without_a_person(ward, clock, change, rule):
    await ward.people(*STEPS)
    raised = await ward.raised(clock.now)
    with pytest.raises(Unprocessable) as refused:
        await ward.update({**raised, **change})
    assert {issue.rule for issue in refused.value.issues} == {rule}
    await ward.tick(clock, minutes=5)
    assert len(await ward.told()) == 2


@pytest.mark.parametrize("status", ["accepted", "in-progress", "completed", "cancelled"])
async def test_it_is_taken_in_no_name_that_nobody_knows_whoever_is_logged_in(ward, clock, status):
    await ward.people(*STEPS)
    raised = await ward.raised(clock.now)
    for nobody in ("Practitioner/unheard-of", "PractitionerRole/unheard-of"):
        with pytest.raises(Unprocessable) as refused:
            await ward.update({**raised, "status": status, "owner": {"reference": nobody}}, user="Practitioner/anna")
        (issue,) = refused.value.issues
        assert (issue.rule, issue.expression) == ("T-OWNER", ("Task.owner",))
        assert f"{nobody} is not known here (intake: never heard of)." in issue.diagnostics
    await ward.tick(clock, minutes=5)
    assert len(await ward.told()) == 2
    bea = await ward.create({"resourceType": "Practitioner", "name": [{"family": "Ito"}]})
    taken = await ward.update(
        {**raised, "status": status, "owner": {"reference": f"Practitioner/{bea['id']}"}}, user="Practitioner/anna"
    )
    if status in ("accepted", "in-progress"):
        with pytest.raises(Unprocessable):
            await ward.update({**taken, "owner": {"reference": "Practitioner/unheard-of"}}, user="Practitioner/anna")


async def test_it_cannot_be_deleted_before_it_was_taken(ward, clock):
    raised = await ward.raised(clock.now)
    with pytest.raises(Unprocessable):
        await ward.delete(raised)
    await ward.update({**raised, "status": "accepted", "owner": ANNA})
    await ward.delete(raised)


async def test_what_is_on_hold_and_owned_still_climbs(ward, clock):
    await ward.people(*STEPS)
    raised = await ward.raised(clock.now)
    await ward.update({**raised, "status": "on-hold", "owner": ANNA})
    await ward.tick(clock, minutes=5)
    assert len(await ward.told()) == 2


async def test_who_has_no_address_or_is_off_duty_or_is_nobody_is_on_record_and_the_next_is_told_at_once(ward, clock):
    await ward.people("clinician-on-call", telecom=[])
    await ward.people("prescriber-on-call", active=False)
    await ward.people("prescriber-on-call", period={"end": zulu(START - timedelta(days=1))})
    await ward.people("medical-director")
    await ward.raised(clock.now)
    await ward.tick(clock, seconds=5)
    await ward.tick(clock, seconds=5)
    assert await ward.told() == ["clinician-on-call", None, "medical-director"]
    failed = await ward.search("Communication", status="not-done")
    assert "No address" in failed[0]["statusReason"]["text"]
    assert "Nobody is on duty as prescriber-on-call" in failed[1]["statusReason"]["text"]
    await ward.tick(clock, seconds=5)
    assert len(await ward.told()) == 3


async def test_a_message_that_no_server_takes_makes_it_climb_at_once(ward, clock):
    await ward.people(*STEPS)
    await ward.raised(clock.now)
    await ward.tick(clock, seconds=5)
    assert len(await ward.told()) == 1
    await Sending(ward.service, ward.store, (), clock).once()
    await ward.tick(clock, seconds=5)
    assert await ward.told() == ["clinician-on-call", "prescriber-on-call"]


async def test_with_nobody_at_all_it_goes_on_trying_at_the_pace_of_the_top(ward, clock):
    await ward.raised(clock.now)
    for _ in range(5):
        await ward.tick(clock, seconds=5)
    assert await ward.told() == [None] * 3
    await ward.people("medical-director")
    await ward.tick(clock, minutes=15)
    assert await ward.told() == [None, None, None, "medical-director"]


async def test_an_address_of_the_person_serves_where_the_duty_has_none(ward, clock):
    anna = await ward.create({"resourceType": "Practitioner", "telecom": [{"system": "email", "value": "a@x.example"}]})
    await ward.people("clinician-on-call", telecom=[], practitioner={"reference": f"Practitioner/{anna['id']}"})
    await ward.raised(clock.now)
    assert await ward.told("preparation") == ["clinician-on-call"]


async def test_one_that_a_client_made_or_that_lost_its_standing_climbs_from_the_bottom(ward, clock):
    await ward.people(*STEPS)
    posted = await ward.create(task(("by", "hand"), patient="ada", code=ASK_CSSRS, description="x", now=clock.now))
    await ward.tick(clock, seconds=5)
    assert await ward.told() == ["clinician-on-call"]
    await ward.tick(clock, minutes=5)
    held = await ward.reads(posted)
    await ward.update({key: value for key, value in held.items() if key != "extension"})
    await ward.tick(clock, seconds=5)
    assert await ward.told() == ["clinician-on-call", "prescriber-on-call", "clinician-on-call"]


async def test_a_standing_set_into_the_future_does_not_stop_it(ward, clock):
    await ward.people(*STEPS)
    raised = await ward.raised(clock.now)
    (own,) = raised["extension"]
    later = [
        {**one, "valueDateTime": "2099-01-01T00:00:00Z"} if one["url"] == "at" else one for one in own["extension"]
    ]
    await ward.update({**raised, "extension": [{**own, "extension": later}]})
    await ward.tick(clock, seconds=5)
    assert len(await ward.told()) == 2


async def test_raising_it_again_changes_nothing_while_it_is_open_and_begins_anew_once_it_was_ended(ward, clock):
    await ward.people(*STEPS)
    raised = await ward.raised(clock.now)
    assert (await ward.raised(clock.now))["meta"]["versionId"] == "1"
    await ward.update({**raised, "status": "completed", "owner": ANNA})
    async with ward.record("Patient/ada") as record:
        made = task(("risk", "1"), patient="ada", code=ASK_CSSRS, description="x", now=clock.now)
        await ESCALATION.raise_task(record, made, clock.now)
        assert (await record.get("Task", raised["id"]))["status"] == "completed"
        clock.forward(minutes=1)
        await ESCALATION.raise_task(record, made, clock.now, reopen=True)
        assert (await record.get("Task", raised["id"]))["status"] == "requested"
    assert await ward.told("preparation") == ["clinician-on-call", "clinician-on-call"]


async def test_the_service_itself_may_end_what_has_lost_its_ground(ward, clock):
    raised = await ward.raised(clock.now)
    async with ward.record("Patient/ada") as record:
        with own_work():
            await record.update(content_of({**raised, "status": "cancelled"}))
    await ward.tick(clock, days=1)
    assert len(await ward.told()) == 1


@pytest.mark.parametrize(
    "section",
    [
        {"ladders": {}, "tasks": {"run-c-ssrs": "none"}},
        {"ladders": {"one": {"title": "t", "source": "s", "verified": False, "steps": []}}, "tasks": {}},
        {
            "ladders": {
                "one": {"title": "t", "source": "s", "verified": False, "steps": [{"role": "r", "minutes": 0}]}
            },
            "tasks": {},
        },
    ],
)
def test_a_ladder_that_cannot_be_climbed_is_refused_at_start(section):
    with pytest.raises(PolicyError):
        Escalation.of(Policy("1", {"escalation": section}))


def test_every_ladder_that_is_shipped_has_its_tasks():
    shipped = Escalation.of(load_policy()).policy
    assert set(shipped.tasks.values()) == set(shipped.ladders)


# An escalation is always either acknowledged or climbing.


def machine(ward, loop):
    class Climbing(RuleBasedStateMachine):
        """Time passes, people come and go, messages fail, clients change the Task as they like."""

        number = 0

        def __init__(self):
            super().__init__()
            type(self).number += 1
            self.clock = Clock(START + timedelta(days=type(self).number))
            self.task = self._do(ward.raised(self.clock.now, name=f"m{type(self).number}"))
            self.at_rest = False

        def _do(self, work):
            return loop.run_until_complete(work)

        def _tries(self, resource):
            async def attempt():
                try:
                    await ward.update(resource)
                except Unprocessable:
                    return

            self._do(attempt())
            self.at_rest = False

        @rule(seconds=st.sampled_from([1, 5, 60, 301, 1000, -700]))
        def time_passes(self, seconds):
            self._do(ward.tick(self.clock, seconds=seconds))
            self.at_rest = True

        @rule(status=st.sampled_from(STATUSES), owned=st.booleans(), keeps=st.booleans())
        def a_client_changes_it(self, status, owned, keeps):
            held = self._do(ward.reads(self.task))
            made = {**held, "status": status}
            made.pop("owner", None)
            if owned:
                made["owner"] = ANNA
            if not keeps:
                made.pop("extension", None)
            self._tries(made)

        @rule()
        def the_messages_fail(self):
            self._do(Sending(ward.service, ward.store, (), self.clock).once())
            self.at_rest = False

        @rule(stale=st.integers(0, 3))
        def a_client_writes_an_old_copy(self, stale):
            self._tries({**self.task, "note": [{"text": str(stale)}]})

        @precondition(lambda self: self.at_rest)
        @invariant()
        def it_is_acknowledged_or_its_last_step_is_not_yet_over(self):
            held = self._do(ward.reads(self.task))
            if is_acknowledged(held):
                return
            assert any(one["url"] == EXT_ESCALATION for one in held["extension"])
            standing = standing_of(held, self.clock.now)
            waits = LADDER[min(standing.step, len(LADDER)) - 1][1]
            assert standing.step > 0
            assert standing.told
            assert timedelta(0) <= self.clock.now - standing.at < timedelta(minutes=waits)

    return Climbing


def test_an_escalation_is_always_either_acknowledged_or_climbing(make_database):
    loop = asyncio.new_event_loop()
    store = loop.run_until_complete(Store.connect(make_database("outcomes"), service="outcomes"))
    try:
        ward = Ward(replace(SERVICE), store)
        loop.run_until_complete(ward.people("clinician-on-call", "medical-director"))
        run_state_machine_as_test(
            machine(ward, loop),
            settings=settings(max_examples=25, stateful_step_count=12, deadline=None),
        )
    finally:
        loop.run_until_complete(store.close())
        loop.close()
