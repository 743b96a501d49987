"""No sequence of requests doses past a closed gate unseen, or sends a patient home before the least stay unseen."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.ids import new_id
from shared.fhir.json import dump
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.policy import load_policy
from shared.runtime.settings import Settings
from tests.integration.services.bedside import Bedside
from tests.integration.services.course import START, Bench, Clock, milligrams, weight
from tests.integration.services.test_sessions_infusions import product
from tests.integration.services.test_sessions_leaving import ready, with_disposition

STAY = timedelta(minutes=120)
FRESH = timedelta(minutes=30)
WAYS = (
    *("operation", "create", "transaction", "batch", "update", "conditional-update"),
    *("merge-patch", "json-patch", "fhirpath-patch", "resume", "event"),
)
COME_TO = ("begun", "refused", "given", "kept", "left")
INFUSED = ("begun", "more", "no more", "pushed", "watched")
"""What a campaign has to come to, to say anything."""
MERGE, JSON = "application/merge-patch+json", "application/json-patch+json"

STEP = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 9, 40, 121])),
    st.tuples(st.just("chart"), st.sampled_from([120, 120, 165, 185])),
    st.tuples(st.just("chart"), st.just(120)),
    st.tuples(st.just("ask"), st.sampled_from([False, False, True])),
    st.tuples(st.just("dose"), st.sampled_from(WAYS)),
    st.tuples(st.just("dose"), st.sampled_from(WAYS)),
    st.tuples(st.just("given"), st.sampled_from([0, 8, 130])),
    st.tuples(st.just("end"), st.none()),
    st.tuples(st.just("ready"), st.none()),
    st.tuples(st.just("home"), st.sampled_from(["operation", "update", "transaction", "merge-patch", "ahead"])),
)


@dataclass
class Scene:
    """One visit, what was charted and asked in it, and the doses that were taken in (by what they began at)."""

    at: Bedside
    http: httpx.AsyncClient
    seen: Counter[str]
    charted: list[tuple[datetime, int]] = field(default_factory=list)
    asked: list[tuple[datetime, bool]] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    ordered: ClassVar[tuple[Any, ...]] = ()

    @property
    def now(self) -> datetime:
        return self.at.clock.now

    @classmethod
    async def begun(cls, at: Bedside, http: httpx.AsyncClient, seen: Counter[str]) -> Self:
        """Begin a visit in which everything is in order."""
        await at.begin(*cls.ordered)
        await at.tell("intake", weight(at.who, on=at.clock.now.date().isoformat()))
        scene = cls(at, http, seen, asked=[(at.clock.now, False)])
        await scene.step("chart", 120)
        return scene

    def gate_is_closed(self, start: datetime) -> bool:
        """Tell by a model of its own whether the gate was certainly closed: never whether it was open."""
        fresh = [pressure for when, pressure in self.charted if start - FRESH <= when <= start]
        answers = [suicidal for when, suicidal in self.asked if when <= start]
        return not fresh or fresh[-1] >= 160 or not answers or answers[-1]

    async def send(self, method, path, body, kind="application/fhir+json"):
        headers = {"Content-Type": kind}
        return await self.http.request(method, f"/fhir/{path}", content=dump(body), headers=headers)

    async def in_transaction(self, method, path, resource, kind="transaction"):
        entry = {"resource": resource, "request": {"method": method, "url": path}}
        bundle = {"resourceType": "Bundle", "type": kind, "entry": [entry]}
        return await self.http.post("/fhir", json=bundle)

    async def visit(self):
        return await self.at.sessions.get("Encounter", self.at.visit["id"])

    async def doses(self):
        """Return the doses of sessions; what another house gave is known of, and is none of them."""
        held = await self.at.sessions.search("MedicationAdministration", patient=self.at.who["id"])
        return [one for one in held if one["id"] not in self.elsewhere]

    async def step(self, name, how):
        if name == "wait":
            self.at.clock.forward(minutes=how)
        elif name == "chart":
            await self.at.chart(how)
            self.charted.append((self.now, how))
        elif name == "ask":
            await self.at.ask(suicidality=how)
            self.asked.append((self.now, how))
        elif name == "ready":
            await ready(self.at)
        elif name == "end":
            for one in await self.doses():
                if one["status"] == "in-progress":
                    period = {**one["effectivePeriod"], "end": zulu(self.now)}
                    await self.at.sessions.update({**one, "status": "completed", "effectivePeriod": period})
        else:
            await getattr(self, f"_{name}")(how)
        self.seen[name] += 1

    async def _dose(self, how):
        began, before = self.now, {one["id"]: one["status"] for one in await self.doses()}
        dose = self.at.dose(10, request={"reference": f"MedicationRequest/{self.at.ordered['id']}"})
        if how == "operation":
            parameters = [
                {"name": "medicationRequest", "valueReference": dose["request"]},
                {"name": "dose", "valueQuantity": dose["dosage"]["dose"]},
                {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
            ]
            path = f"Encounter/{self.at.visit['id']}/$start-dose"
            answer = await self.send("POST", path, {"resourceType": "Parameters", "parameter": parameters})
        elif how == "create":
            answer = await self.send("POST", "MedicationAdministration", dose)
        elif how in ("transaction", "batch"):
            answer = await self.in_transaction("POST", "MedicationAdministration", dose, how)
        elif how == "event":  # another service's, or a replayed one of somebody's: no dose begins by news
            self.elsewhere.add((await self.at.tell("intake", dose))["id"])
            answer = httpx.Response(200)
        else:
            planned = await self._planned(dose, how)
            path = f"MedicationAdministration/{planned['id']}"
            before[planned["id"]] = planned["status"]
            if how == "merge-patch":
                answer = await self.send("PATCH", path, {"status": "in-progress"}, MERGE)
            elif how == "fhirpath-patch":
                values = {"type": "replace", "path": "MedicationAdministration.status", "value": "in-progress"}
                parts = [
                    {"name": name, "valueCode" if name != "path" else "valueString": one}
                    for name, one in values.items()
                ]
                patch = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}
                answer = await self.send("PATCH", path, patch)
            elif how == "conditional-update":
                named = planned["identifier"][0]["value"]
                content = {key: value for key, value in planned.items() if key != "id"}
                path = f"MedicationAdministration?identifier=urn:doses|{named}"
                answer = await self.send("PUT", path, {**content, "status": "in-progress"})
            elif how == "json-patch":
                operation = {"op": "replace", "path": "/status", "value": "in-progress"}
                answer = await self.send("PATCH", path, [operation], JSON)
            else:
                answer = await self.send("PUT", path, {**planned, "status": "in-progress"})
        assert answer.status_code in (200, 201, 422), answer.text
        live = [one for one in await self.doses() if one["status"] == "in-progress"]
        begun = [one for one in live if before.get(one["id"]) != "in-progress"]
        if self.gate_is_closed(began):
            assert not begun, (how, self.charted, self.asked)
        self.seen["begun" if begun else "refused"] += 1
        self.seen[how] += 1

    async def _planned(self, dose, how):
        """Return a dose that was not begun; to resume one: that was given, and is said to go on."""
        if how != "resume":
            named = {"system": "urn:doses", "value": new_id()}
            waited = {"status": "not-done", "statusReason": [{"text": "waited"}], "identifier": [named]}
            return await self.at.sessions.create({**dose, **waited})
        made = await self.at.sessions.create({**dose, "status": "completed"})
        self._note(made, self.now)
        return made

    async def _given(self, minutes):
        start = self.now - timedelta(minutes=minutes)
        made = await self.at.sessions.create(self.at.dose(10, "completed", minutes=minutes))
        self._note(made, start)

    def _note(self, dose, start):
        if self.gate_is_closed(start):
            self.closed.add(dose["id"])

    async def _home(self, how):
        visit, path = await self.visit(), f"Encounter/{self.at.visit['id']}"
        home = with_disposition(visit, "home", self.now + timedelta(minutes=200 if how == "ahead" else 0))
        if how == "operation":
            answer = await self.send("POST", f"{path}/$discharge", {"resourceType": "Parameters"})
        elif how == "transaction":
            answer = await self.in_transaction("PUT", path, home)
        elif how == "merge-patch":
            patch = {name: home[name] for name in ("status", "period", "hospitalization")}
            answer = await self.send("PATCH", path, patch, MERGE)
        else:
            answer = await self.send("PUT", path, home)
        assert answer.status_code in (200, 422), answer.text
        self.seen["left" if answer.status_code == 200 else "kept"] += 1

    async def holds(self):
        """Hold the two promises against what is stored."""
        issues = await self.at.sessions.search("DetectedIssue", patient=self.at.who["id"])
        past = {codes.GATE_PASSED_CLOSED.code}
        told = {
            one["reference"].rpartition("/")[2]
            for issue in issues
            if {coding["code"] for coding in issue["code"]["coding"]} & past
            for one in issue["implicated"]
        }
        assert self.closed <= told, "a dose was given past a closed gate, and nothing says so"
        tasks = await self.at.sessions.search("Task", patient=self.at.who["id"])
        focused = {one["focus"]["reference"].rpartition("/")[2] for one in tasks if one["priority"] == "stat"}
        assert self.closed <= focused, "a dose was given past a closed gate, and nobody is called"
        visit = await self.visit()
        said = visit.get("hospitalization", {}).get("dischargeDisposition", {}).get("coding", [{}])[0].get("code")
        counted = [one for one in await self.doses() if one["status"] in ("in-progress", "completed")]
        if said == "home" and counted:
            starts = [datetime.fromisoformat(one["effectivePeriod"]["start"]) for one in counted]
            end = datetime.fromisoformat(visit["period"]["end"])
            rules = {coding["code"] for issue in issues for coding in issue["code"]["coding"]}
            if end < min(starts) + STAY:
                assert "L-STAY" in rules, "home before the least stay, and nothing says so"
                self.seen["found too early"] += 1


@dataclass
class Infusion(Scene):
    """A visit with an infusion: made faster and slower, held, gone on with, pushed into, withdrawn and charted anew."""

    ordered: ClassVar[tuple[Any, ...]] = (codes.ROUTE_IV, 35)
    rate: float = 20

    @classmethod
    async def begun(cls, at: Bedside, http: httpx.AsyncClient, seen: Counter[str]) -> Self:
        """Begin a visit in which everything is in order, and the infusion."""
        scene = await super().begun(at, http, seen)
        await scene.running()
        return scene

    async def running(self):
        """Return the infusion that goes on or is held; one is begun, or said to have been, where there is none."""
        held = [
            one for one in await self.doses() if "partOf" not in one and one["status"] in ("in-progress", "on-hold")
        ]
        if held:
            return held[0]
        self.rate = 20
        dose = self.rated(self.at.dose(35) | product(1), self.rate)
        del dose["medicationCodeableConcept"]
        answer = await self.send("POST", "MedicationAdministration", dose)
        assert answer.status_code in (201, 422), answer.text
        if self.gate_is_closed(self.now):
            assert answer.status_code == 422, (self.charted, self.asked)
        self.seen["begun" if answer.status_code == 201 else "refused"] += 1
        return answer.json() if answer.status_code == 201 else None

    def rated(self, dose, rate):
        return {**dose, "dosage": {**dose["dosage"], "rateQuantity": milligrams(rate, "mg/h")}}

    async def put(self, dose):
        return await self.send("PUT", f"MedicationAdministration/{dose['id']}", dose)

    async def gives_more(self, answer):
        """Hold that more of the drug is refused wherever the gate is certainly closed."""
        assert answer.status_code in (200, 201, 422), answer.text
        if self.gate_is_closed(self.now):
            assert answer.status_code == 422, (self.charted, self.asked)
        self.seen["more" if answer.status_code < 300 else "no more"] += 1
        return answer.status_code < 300

    async def _faster(self, _):
        dose = await self.running()
        if (
            dose
            and dose["status"] == "in-progress"
            and await self.gives_more(await self.put(self.rated(dose, self.rate * 2)))
        ):
            self.rate *= 2

    async def _slower(self, _):
        if dose := await self.running():
            answer = await self.put(self.rated(dose, self.rate / 2))
            assert answer.status_code == 200, answer.text
            self.rate /= 2

    async def _hold(self, _):
        if dose := await self.running():
            assert (await self.put({**dose, "status": "on-hold"})).status_code == 200

    async def _go_on(self, _):
        dose = await self.running()
        if dose and dose["status"] == "on-hold":
            await self.gives_more(await self.put({**dose, "status": "in-progress"}))

    async def _step(self, status):
        """A step of the infusion: a higher rate from now on, or a push that was given."""
        dose = await self.running()
        if dose is None:
            return
        part = self.at.dose(5, status, partOf=[{"reference": f"MedicationAdministration/{dose['id']}"}])
        if status == "completed":
            kept = await self.at.sessions.create(part)
            self._note(kept, self.now)
            self.seen["pushed"] += 1
        else:
            part["dosage"] = {
                "route": part["dosage"]["route"],
                "rateQuantity": milligrams(self.rate * 2, "mg/h"),
            }
            if await self.gives_more(await self.send("POST", "MedicationAdministration", part)):
                self.rate *= 2

    async def _again(self, _):
        """Withdraw the infusion that goes on, and chart it as it was."""
        dose = await self.running()
        if dose is None or dose["status"] != "in-progress":
            return
        wrong = await self.put({**dose, "status": "entered-in-error"})
        assert wrong.status_code == 200, wrong.text
        self.closed.discard(dose["id"])
        anew = {name: value for name, value in dose.items() if name not in ("id", "meta")}
        begun = datetime.fromisoformat(dose["effectivePeriod"]["start"])
        answer = await self.send("POST", "MedicationAdministration", anew)
        assert answer.status_code in (201, 422), answer.text
        if answer.status_code == 201:
            self._note(answer.json(), begun)
            self.seen["charted again"] += 1

    async def holds(self):
        """Hold the promises; and that somebody is asked to look after whoever is given ketamine."""
        await super().holds()
        if any(one["status"] == "in-progress" for one in await self.doses()):
            due = ",".join(code.token() for code in codes.DUE_AT_BEDSIDE)
            found = {"patient": self.at.who["id"], "code": due, "status": "requested,accepted,in-progress,ready"}
            assert await self.at.sessions.search("Task", **found), "ketamine runs in, and no reading is due"
            self.seen["watched"] += 1


INFUSING = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 9, 14])),
    st.tuples(st.just("chart"), st.sampled_from([120, 120, 165, 185])),
    st.tuples(st.sampled_from(["faster", "slower", "hold", "go_on", "again"]), st.none()),
    st.tuples(st.just("faster"), st.none()),
    st.tuples(st.just("step"), st.sampled_from(["in-progress", "completed"])),
)


def campaign(make_database, examples, scene=Scene, step=STEP, *, same=False, ways=()):
    loop = asyncio.new_event_loop()
    clock, seen = Clock(START), Counter()
    bench = Bench(make_database, clock, load_policy())
    try:
        opened = loop.run_until_complete(bench.open(sessions_service))
        app = create_fhir_app(
            opened.service,
            LocalBackend(opened.service, opened.store),
            Settings(
                service="sessions",
                database_url=SecretStr("postgresql://the-fixture-connects"),
                public_base="http://sessions.example/fhir",
                no_auth=True,
            ),
        )

        async def act(steps):
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://sessions.example"
            ) as client:
                played = await scene.begun(Bedside(opened, clock), client, seen)
                for name, how in steps:
                    await played.step(name, how)
                await played.holds()

        @settings(max_examples=examples, deadline=None, derandomize=same, suppress_health_check=list(HealthCheck))
        @given(st.lists(step, min_size=4, max_size=14))
        def play(steps):
            loop.run_until_complete(act(steps))

        play()
    finally:
        loop.run_until_complete(bench.close())
        loop.close()
    for name in ways:
        assert seen[name], f"the campaign has to come to '{name}' to say anything: {seen}"


def test_no_sequence_doses_past_a_closed_gate_or_goes_home_too_early_unseen(make_database):
    campaign(make_database, 24, same=True, ways=COME_TO)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_long_campaign_doses_past_a_closed_gate_or_goes_home_too_early_unseen(make_database):
    campaign(make_database, 400, ways=(*COME_TO, *WAYS))


def test_no_change_of_an_infusion_gives_more_past_a_closed_gate_or_ends_its_watch(make_database):
    campaign(make_database, 24, Infusion, INFUSING, same=True, ways=INFUSED)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_long_campaign_gives_more_past_a_closed_gate_or_ends_the_watch_of_an_infusion(make_database):
    campaign(make_database, 300, Infusion, INFUSING, ways=(*INFUSED, "charted again"))
