"""Clients that chart without a pause: creates, updates, deletes and what follows from them, at every service.

Each actor charts a few patients of its own and now and then touches another's, through the gateway or at the owner's
own endpoint. It writes down every answer; a request without an answer is nothing it could rely on. A create that was
not answered is sent again under the same condition (`If-None-Exist`), as FHIR says a client should.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from cli.stack.ports import GATEWAY, Ports
from shared.fhir import codes
from tests.chaos.evidence import Answer

OWNER = {
    **dict.fromkeys(
        ("Patient", "Condition", "AllergyIntolerance", "MedicationStatement", "EpisodeOfCare", "Consent"), "intake"
    ),
    "Schedule": "scheduling",
    "Slot": "scheduling",
    "Encounter": "sessions",
    "Observation": "sessions",
    "QuestionnaireResponse": "outcomes",
}
IDENTIFIER = "urn:kap:chaos"
PHQ9 = ("44250-9", "44255-8", "44259-0", "44254-1", "44251-7", "44258-2", "44252-5", "44253-3", "44260-8")
TIMEOUT = 15.0
TRIES = 4
_CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
_ALLERGY_CLINICAL = "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical"
_MOVES = {"arrived": "in-progress", "in-progress": "finished"}

Resource = dict[str, Any]


class Unanswered(Exception):
    """No answer came, or one that says nothing about whether it was done."""


@dataclass(slots=True)
class Chart:
    """What an actor knows of one patient: the resources it made, by type, as they were last answered."""

    patient: Resource
    visit: Resource | None = None
    made: dict[str, list[Resource]] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        return f"Patient/{self.patient['id']}"


@dataclass(slots=True)
class Log:
    """What all actors saw."""

    answers: list[Answer] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    repeated: list[tuple[str, str]] = field(default_factory=list)
    """Creates that were sent again: their type and identifier."""
    broken: list[str] = field(default_factory=list)
    """Answers that no client should ever get."""


class Workload:
    """All actors of a campaign, over one log."""

    def __init__(self, ports: Ports, seed: int, *, actors: int = 6, pause: float = 0.1) -> None:
        self.ports = ports
        self.log = Log()
        self.stopping = asyncio.Event()
        self._pause = pause
        self._random = [random.Random(f"{seed} actor {number}") for number in range(actors)]
        self._charts: list[Chart] = []

    async def run(self) -> None:
        """Chart until `stopping` is set."""
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
        async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, limits=limits) as http:
            await asyncio.gather(
                *(self._actor(http, number, dice) for number, dice in enumerate(self._random)),
            )

    async def _actor(self, http: httpx.AsyncClient, number: int, dice: random.Random) -> None:
        actor = Actor(self, http, number, dice)
        own: list[Chart] = []
        while not self.stopping.is_set():
            try:
                if len(own) < 2 or dice.random() < 0.01:
                    own.append(await actor.admit())
                    self._charts.append(own[-1])
                chart = dice.choice(self._charts) if dice.random() < 0.15 else dice.choice(own)
                await actor.act(chart)
            except Unanswered:
                self.log.unanswered += 1
                await asyncio.sleep(0.2)
            await asyncio.sleep(dice.expovariate(1 / self._pause))


class Actor:
    """One client."""

    def __init__(self, workload: Workload, http: httpx.AsyncClient, number: int, dice: random.Random) -> None:
        self._work = workload
        self._log = workload.log
        self._http = http
        self._number = number
        self._dice = dice
        self._count = 0

    async def act(self, chart: Chart) -> None:
        """Do one thing."""
        actions: list[tuple[int, Callable[[Chart], Awaitable[None]]]] = [
            (5, self._note),
            (4, self._amend),
            (2, self._take_away),
            (1, self._move_house),
            (5, self._take_reading),
            (2, self._ask),
            (2, self._place),
            (1, self._consent),
            (1, self._together),
            (1, self._visit_on),
        ]
        weights = [weight for weight, _ in actions]
        await self._dice.choices([action for _, action in actions], weights)[0](chart)

    # What is charted

    async def admit(self) -> Chart:
        patient = await self._create(
            {"resourceType": "Patient", "active": True, "name": [{"family": f"Actor {self._number}"}]}
        )
        if patient is None:
            raise Unanswered
        chart = Chart(patient)
        if self._dice.random() < 0.7:  # the others sign later, or never
            await self._consent(chart)
        await self._begin_visit(chart)
        return chart

    async def _begin_visit(self, chart: Chart) -> None:
        episode = await self._create(
            {"resourceType": "EpisodeOfCare", "status": "planned", "patient": {"reference": chart.reference}}
        )
        if episode is None:
            return
        chart.visit = await self._create(
            {
                "resourceType": "Encounter",
                "status": "arrived",
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
                "type": [codes.VISIT_DOSING.concept()],
                "subject": {"reference": chart.reference},
                "episodeOfCare": [{"reference": f"EpisodeOfCare/{episode['id']}"}],
                "period": {"start": _now()},
            }
        )

    async def _note(self, chart: Chart) -> None:
        about = {"reference": chart.reference}
        text = {"text": f"Seen {self._dice.randrange(10**6)}"}
        kind = self._dice.randrange(3)
        if kind == 0:
            made: Resource = {
                "resourceType": "Condition",
                "subject": about,
                "code": text,
                "clinicalStatus": {"coding": [{"system": _CLINICAL, "code": "active"}]},
            }
        elif kind == 1:
            made = {
                "resourceType": "AllergyIntolerance",
                "clinicalStatus": {"coding": [{"system": _ALLERGY_CLINICAL, "code": "active"}]},
                "patient": about,
                "code": text,
                "criticality": "low",
            }
        else:
            made = {
                "resourceType": "MedicationStatement",
                "status": "active",
                "subject": about,
                "medicationCodeableConcept": text,
            }
        await self._keep(chart, made)

    async def _amend(self, chart: Chart) -> None:
        kinds = [type_ for type_, several in chart.made.items() if several and type_ not in {"Slot", "Schedule"}]
        if not kinds:
            return
        several = chart.made[self._dice.choice(sorted(kinds))]
        place = self._dice.randrange(len(several))
        changed = {**several[place]}
        if changed["resourceType"] == "QuestionnaireResponse":
            changed["status"] = "amended"
        if changed["resourceType"] == "Consent":
            changed["status"] = "inactive"
        elif changed["resourceType"] == "Observation":
            changed["status"] = "amended"
        changed["text"] = _narrative(self._dice)
        answered = await self._update(changed)
        if answered is not None and place < len(several) and several[place]["id"] == answered["id"]:
            several[place] = answered

    async def _take_away(self, chart: Chart) -> None:
        kinds = [
            type_
            for type_ in ("Condition", "AllergyIntolerance", "MedicationStatement", "Slot")
            if chart.made.get(type_)
        ]
        if kinds:
            several = chart.made[self._dice.choice(kinds)]
            gone = several.pop(self._dice.randrange(len(several)))
            await self._delete(gone)

    async def _move_house(self, chart: Chart) -> None:
        changed = {**chart.patient, "address": [{"city": f"Town {self._dice.randrange(1000)}"}]}
        answered = await self._update(changed)
        if answered is not None:
            chart.patient = answered

    async def _take_reading(self, chart: Chart) -> None:
        """A blood pressure; one in six raises alarms, which are written with it."""
        if chart.visit is None:
            await self._begin_visit(chart)
            return
        alarming = self._dice.random() < 1 / 6
        values = (210, 125) if alarming else (self._dice.randrange(105, 135), self._dice.randrange(65, 85))
        parts = [
            {
                "code": code.concept(),
                "valueQuantity": {"value": value, "unit": "mmHg", "system": codes.UCUM, "code": "mm[Hg]"},
            }
            for code, value in zip((codes.SYSTOLIC, codes.DIASTOLIC), values, strict=True)
        ]
        await self._keep(
            chart,
            {
                "resourceType": "Observation",
                "status": "final",
                "category": [codes.Code(codes.OBSERVATION_CATEGORY, "vital-signs").concept()],
                "code": codes.BLOOD_PRESSURE.concept(),
                "subject": {"reference": chart.reference},
                "encounter": {"reference": f"Encounter/{chart.visit['id']}"},
                "effectiveDateTime": _now(),
                "component": parts,
            },
        )

    async def _visit_on(self, chart: Chart) -> None:
        """Bring the visit on a state; a finished one is followed by another."""
        if chart.visit is None or chart.visit["status"] not in _MOVES:
            await self._begin_visit(chart)
            return
        answered = await self._update({**chart.visit, "status": _MOVES[chart.visit["status"]]})
        if answered is not None:
            chart.visit = answered

    async def _ask(self, chart: Chart) -> None:
        """A PHQ-9, which is scored; one in five says yes to item 9, which escalates."""
        answers = [self._dice.randrange(4) for _ in PHQ9[:-1]] + [int(self._dice.random() < 0.2)]
        await self._keep(
            chart,
            {
                "resourceType": "QuestionnaireResponse",
                "questionnaire": codes.PHQ9_QUESTIONNAIRE,
                "status": "completed",
                "subject": {"reference": chart.reference},
                "authored": _now(),
                "item": [
                    {"linkId": link, "answer": [{"valueInteger": value}]}
                    for link, value in zip(PHQ9, answers, strict=True)
                ],
            },
        )

    async def _place(self, chart: Chart) -> None:
        """A slot in the patient's own schedule."""
        schedules = chart.made.get("Schedule")
        if not schedules:
            await self._keep(
                chart, {"resourceType": "Schedule", "active": True, "actor": [{"reference": chart.reference}]}
            )
            return
        start = datetime.now(UTC) + timedelta(days=self._dice.randrange(5, 300), minutes=self._dice.randrange(1440))
        await self._keep(
            chart,
            {
                "resourceType": "Slot",
                "schedule": {"reference": f"Schedule/{schedules[0]['id']}"},
                "status": "free",
                "start": _instant(start),
                "end": _instant(start + timedelta(minutes=30)),
            },
        )

    async def _consent(self, chart: Chart) -> None:
        await self._keep(
            chart,
            {
                "resourceType": "Consent",
                "status": "active",
                "scope": {
                    "coding": [
                        {"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}
                    ]
                },
                "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
                "patient": {"reference": chart.reference},
                "dateTime": _now(),
                "performer": [{"reference": chart.reference}],
                "organization": [{"display": "The clinic"}],
                "sourceAttachment": {"contentType": "text/plain", "title": "What was signed", "data": "c2lnbmVk"},
                "policy": [{"uri": "http://terminology.hl7.org/CodeSystem/consentpolicycodes#hipaa-auth"}],
                "provision": {"type": "permit", "purpose": [{"system": codes.ACT_REASON, "code": "TREAT"}]},
            },
        )

    async def _together(self, chart: Chart) -> None:
        """Three conditions in one transaction: all or none."""
        entries = [
            {
                "resource": {
                    "resourceType": "Condition",
                    "subject": {"reference": chart.reference},
                    "code": {"text": f"One of three, {self._dice.randrange(10**6)}"},
                },
                "request": {"method": "POST", "url": "Condition"},
            }
            for _ in range(3)
        ]
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        through = self._through("intake")
        sent = time.monotonic()
        answer = await self._send("POST", self._work.ports.fhir(through), through, json=bundle)
        if answer.is_success:
            for entry in answer.json()["entry"]:
                type_, id_, _, version = entry["response"]["location"].split("/")[-4:]
                self._answered("intake", f"{type_}/{id_}/{version}", None, sent, through)

    # How it is written

    async def _keep(self, chart: Chart, resource: Resource) -> None:
        made = await self._create(resource)
        if made is not None:
            chart.made.setdefault(str(made["resourceType"]), []).append(made)

    async def _create(self, resource: Resource) -> Resource | None:
        """Create, until there is an answer or patience ends; return what was answered, None where it was refused."""
        self._count += 1
        name = f"{self._number}-{self._count}"
        type_ = str(resource["resourceType"])
        if type_ == "QuestionnaireResponse":
            resource = {**resource, "identifier": {"system": IDENTIFIER, "value": name}}
        else:
            resource = {**resource, "identifier": [{"system": IDENTIFIER, "value": name}]}
        through = self._through(OWNER[type_])
        for attempt in range(TRIES):
            try:
                return await self._write(
                    "POST",
                    type_,
                    type_,
                    through,
                    resource,
                    headers={"If-None-Exist": f"identifier={IDENTIFIER}|{name}"},
                )
            except Unanswered:
                if attempt == 0:
                    self._log.repeated.append((type_, name))
                if attempt == TRIES - 1 or self._work.stopping.is_set():
                    raise
                self._log.unanswered += 1
                await asyncio.sleep(0.3 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _update(self, resource: Resource) -> Resource | None:
        type_ = str(resource["resourceType"])
        return await self._write("PUT", f"{type_}/{resource['id']}", type_, self._through(OWNER[type_]), resource)

    async def _delete(self, resource: Resource) -> None:
        type_ = str(resource["resourceType"])
        await self._write("DELETE", f"{type_}/{resource['id']}", type_, self._through(OWNER[type_]), None)

    async def _write(
        self,
        method: str,
        path: str,
        type_: str,
        through: str,
        resource: Resource | None,
        headers: dict[str, str] | None = None,
    ) -> Resource | None:
        sent = time.monotonic()
        answer = await self._send(
            method, f"{self._work.ports.fhir(through)}/{path}", through, json=resource, headers=headers
        )
        if not answer.is_success:
            return None
        if method == "DELETE":
            if "etag" in answer.headers:
                version = answer.headers["etag"].removeprefix('W/"').rstrip('"')
                self._answered(OWNER[type_], f"{path}/{version}", None, sent, through)
            return None
        held: Resource = answer.json()
        event = f"{held['resourceType']}/{held['id']}/{held['meta']['versionId']}"
        content = hashlib.sha256(answer.content).hexdigest()
        if answer.status_code == httpx.codes.CREATED or method == "PUT":
            self._answered(OWNER[type_], event, content, sent, through)
        return held

    def _answered(self, source: str, event: str, content: str | None, sent: float, through: str) -> None:
        self._log.answers.append(Answer(source, event, content, sent, time.monotonic(), through))

    async def _send(self, method: str, url: str, through: str, **options: Any) -> httpx.Response:
        if options.get("json") is None:
            options.pop("json", None)
        else:
            options["content"] = json.dumps(options.pop("json"))
            options["headers"] = {"content-type": "application/fhir+json", **(options.get("headers") or {})}
        try:
            answer = await self._http.request(method, url, **options)
        except httpx.TransportError as error:
            self._log.statuses[f"{through} {type(error).__name__}"] += 1
            raise Unanswered from error
        self._log.statuses[f"{through} {answer.status_code}"] += 1
        if answer.status_code >= 500:
            if answer.status_code not in {502, 503, 504}:
                self._log.broken.append(f"{method} {url}: {answer.status_code} {answer.text[:300]}")
            raise Unanswered
        if not answer.is_success:
            issues = answer.json().get("issue", ()) if answer.content else ()
            words = " ".join(issue.get("diagnostics", "") for issue in issues)
            what = url.partition("/fhir/")[2].partition("/")[0]
            self._log.refusals[f"{method} {what} {answer.status_code}: {words[:90]}"] += 1
        return answer

    def _through(self, owner: str) -> str:
        return GATEWAY if self._dice.random() < 0.6 else owner


def _narrative(dice: random.Random) -> Resource:
    words = f"Revision {dice.randrange(10**6)}. " * dice.randrange(1, 30)
    return {"status": "additional", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{words}</div>'}


def _now() -> str:
    return _instant(datetime.now(UTC))


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
