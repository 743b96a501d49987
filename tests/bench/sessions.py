"""How 200 dosing sessions at once are charted, on a whole stack with Apache Kafka; prints, judges nothing.

    .venv/bin/python -m tests.bench.sessions [--sessions 200] [--minutes 5] [--pace 1]

Real rates, not compressed (but by `--pace`: 20 sessions at pace 10 ask as often as 200, and are sooner admitted): each
session charts one set of vital signs (a transaction of three Observations) every five minutes, and has one batch of a
monitor's feed (heart rate and saturation, ten samples each, by `Encounter/$feed`, which puts them into the SampledData
Observation of the signal and minute) every ten seconds. One set in four, and now and then a sample, is beyond its
limit. Everything goes through the gateway; this process sends it, on the same processors.

Then every acknowledged reading is looked for in the store of sessions and at the gateway, with what it says, and every
alarm beside its reading.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from cli.demo import resources
from cli.demo.acting import create
from cli.demo.client import FhirClient
from cli.demo.course import prepare_team
from cli.demo.patients import staff
from cli.demo.resources import Team, reference
from cli.stack.ports import GATEWAY, Ports
from services.sessions.rules.feeds import by_minute
from services.sessions.setting import Setting
from shared.fhir.codes import (
    HEART_RATE,
    OXYGEN_SATURATION,
    OXYGEN_SATURATION_ANY,
    VITAL_ALARM,
)
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.local.postgres import APPLICATION_ROLE
from shared.runtime.policy import load_policy
from tests.e2e.kap import Kap, free_base
from tests.live import Session, publish_questionnaires

SET_EVERY, FEED_EVERY = 300.0, 10.0
SAMPLES = 10
ALARMING_SETS = 4
"""One set in so many is beyond its limit."""
ALARMING_FEEDS = 200
QUIET = 10.0
"""Seconds that the stack is left alone, to know what it uses by itself."""
AT_ONCE = 12
"""Patients that are brought to their dose side by side."""
SIGNALS = {
    HEART_RATE.code: (HEART_RATE.concept(), "/min", (62, 98)),
    OXYGEN_SATURATION.code: (OXYGEN_SATURATION.concept(OXYGEN_SATURATION_ANY), "%", (95, 99)),
}
"""By LOINC code: the unit, and between which numbers samples are that alarm nobody."""
LOW = "85"
EARLY = Setting.of(load_policy()).monitoring.early.share
DELAY = timedelta(seconds=20)
"""So long ago was the last sample of a batch measured, when it is sent."""


@dataclass
class Timed:
    """Seconds that something took, each time."""

    taken: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.taken:
            return "none"
        cuts = [at(self.taken, share) * 1000 for share in (0.5, 0.95, 0.99, 1.0)]
        return "p50 {:6.0f}   p95 {:6.0f}   p99 {:6.0f}   max {:6.0f} ms".format(*cuts) + f"   ({len(self.taken)})"


def at(taken: Sequence[float], share: float) -> float:
    """Return the value that so great a share does not exceed."""
    ordered = sorted(taken)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


@dataclass
class Charted:
    """What one session was told to have been stored, and what must have alarmed.

    Attributes:
        session: its patient, visit and dose.
        since: when its feed began.
        says: of each reading that a person charted, by its identifier, the values.
        samples: of the feed, by LOINC code, minute and place in it.
        alarming: the readings that call somebody. feed_alarms: how many batches do. alarms: the last set did.

    """

    session: Session
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    says: dict[str, list[int]] = field(default_factory=dict)
    samples: dict[tuple[str, datetime, int], str] = field(default_factory=dict)
    alarming: list[str] = field(default_factory=list)
    feed_alarms: int = 0
    alarms: bool = False


class Ward:
    """Many sessions at once; `team` is on duty for all of them."""

    def __init__(self, gateway: FhirClient, sessions: FhirClient, team: Team, pace: float) -> None:
        self.team = team
        self.pace = pace
        self.gateway = gateway
        self.sessions = sessions
        self.sets, self.feeds, self.alarms, self.seen = Timed(), Timed(), Timed(), Timed()
        self.late = Timed()
        self.watching: set[asyncio.Task[None]] = set()

    async def chart(self, charted: Charted, until: float, dice: random.Random) -> None:
        """Chart one session: its sets and its feed, each at its own pace, both begun at a random moment."""
        charted.since = datetime.now(UTC).replace(microsecond=0) - DELAY
        await asyncio.gather(
            self._every(SET_EVERY, until, dice, lambda number: self._set(charted, number, dice)),
            self._every(FEED_EVERY, until, dice, lambda number: self._feed(charted, number, dice)),
        )

    async def _every(
        self, seconds: float, until: float, dice: random.Random, do: Callable[[int], Awaitable[None]]
    ) -> None:
        """Do something at a fixed pace: what takes long does not make the next one late."""
        seconds /= self.pace
        due = time.monotonic() + dice.uniform(0, seconds)
        number = 0
        while due < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.late.taken.append(time.monotonic() - due)
            number += 1
            await do(number)
            due += seconds

    async def _set(self, charted: Charted, number: int, dice: random.Random) -> None:
        alarming = dice.randrange(ALARMING_SETS) == 0 and not charted.alarms  # one that lasts is one call
        charted.alarms = alarming
        made = charted.session.reading(1000 + number, heart_rate=150 if alarming else dice.randint(60, 100))
        begun = time.monotonic()
        held = await self.gateway.transact([(f"urn:uuid:set-{n}", one, once(one)) for n, one in enumerate(made)])
        took = time.monotonic() - begun
        self.sets.taken.append(took)
        for one in made:
            charted.says[one["identifier"][0]["value"]] = said(one)
        if alarming:
            self.alarms.taken.append(took)
            rate = held[1].reference
            charted.alarming.append(rate)
            task = asyncio.create_task(self._see(charted.session.subject, rate, begun))
            self.watching.add(task)
            task.add_done_callback(self.watching.discard)

    async def _see(self, subject: str, reading: str, begun: float) -> None:
        """Look for the call at the gateway, as a screen of the clinic would, and take it."""
        query = {"patient": subject, "code": VITAL_ALARM.token(), "_sort": "-_lastUpdated"}
        while True:
            found = await self.gateway.search("Task", query)
            mine = [one for one in found if one["focus"]["reference"] == reading]
            if mine:
                break
            await asyncio.sleep(0.02)
        self.seen.taken.append(time.monotonic() - begun)
        taken = {"status": "accepted", "owner": reference(self.team.prescriber)}
        await self.gateway.bring(
            f"Task/{mine[0]['id']}", lambda now: None if now["status"] == "accepted" else {**now, **taken}
        )

    async def _feed(self, charted: Charted, number: int, dice: random.Random) -> None:
        """Put ten more samples of each signal into the Observation of its minute."""
        low = dice.randrange(ALARMING_FEEDS) == 0
        apart = timedelta(seconds=1 / self.pace)
        start = charted.since + (number - 1) * SAMPLES * apart
        said = {code: [str(dice.randint(*usual)) for _ in range(SAMPLES)] for code, (*_, usual) in SIGNALS.items()}
        if low:
            said[OXYGEN_SATURATION.code][-1] = LOW
        parts = [signal(code, start, apart, samples) for code, samples in said.items()]
        batch = {"resourceType": "Parameters", "parameter": parts}
        begun = time.monotonic()
        await self.gateway.call(f"{charted.session.visit_ref}/$feed", batch)
        took = time.monotonic() - begun
        self.feeds.taken.append(took)
        if low:
            self.alarms.taken.append(took)
            charted.feed_alarms += 1
        for code, samples in said.items():
            for place, sample in enumerate(samples):
                charted.samples[placed(code, start + place * apart, apart)] = sample


def signal(code: str, start: datetime, apart: timedelta, samples: Iterable[str]) -> Resource:
    """Return a signal of `Encounter/$feed`."""
    concept, unit, _ = SIGNALS[code]
    said: dict[str, Resource] = {
        "code": {"valueCodeableConcept": concept},
        "unit": {"valueCode": unit},
        "start": {"valueInstant": zulu(start)},
        "period": {"valueDecimal": apart / timedelta(milliseconds=1)},
        "data": {"valueString": " ".join(samples)},
    }
    return {"name": "signal", "part": [{"name": name, **value} for name, value in said.items()]}


def placed(code: str, when: datetime, apart: timedelta) -> tuple[str, datetime, int]:
    """Return the minute of a sample, and its place in it."""
    ((minute, places),) = by_minute(when, apart, [LOW], EARLY).items()
    return code, minute, next(iter(places))


def samples_of(one: Resource) -> Iterable[tuple[tuple[str, datetime, int], str]]:
    """Yield each sample of a minute of a signal."""
    minute = datetime.fromisoformat(one["effectivePeriod"]["start"])
    for place, sample in enumerate(one["valueSampledData"]["data"].split()):
        yield (one["code"]["coding"][0]["code"], minute, place), sample


def once(one: Resource) -> str:
    """Return the search that finds a resource by its identifier."""
    return f"identifier={one['identifier'][0]['system']}|{one['identifier'][0]['value']}"


def said(one: Resource) -> list[int]:
    """Return what a reading says: its value, or its components'."""
    values = one.get("component", [one])
    return [int(part["valueQuantity"]["value"]) for part in values]


async def a_team(gateway: FhirClient, name: str, whole: Team) -> Team:
    """Return people and a room of their own for one session; who is on duty is the clinic's first team."""
    made = await asyncio.gather(
        create(gateway, resources.room(name, whole.clinic)),
        *(create(gateway, resources.practitioner(name, member)) for member in staff(name)),
    )
    room, prescriber, therapist, nurse = (one.reference for one in made)
    roles = {"room": room, "prescriber": prescriber, "therapist": therapist, "monitor": nurse}
    await asyncio.gather(
        create(gateway, resources.duty(name, "prescriber", prescriber, whole.clinic, room)),  # orders, is not on call
        *(create(gateway, resources.schedule(name, role, who)) for role, who in roles.items()),
    )
    return Team(prescriber, therapist, nurse, room, whole.clinic, whole.referrer)


async def admit(gateway: FhirClient, count: int) -> tuple[Team, list[Charted]]:
    """Bring so many patients to their dose."""
    await publish_questionnaires(gateway)
    whole = await prepare_team(gateway, "bench")
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Charted:
        async with gate:
            team = await a_team(gateway, f"bench-{number}", whole)
            session = Session(gateway, team, 50_000 + number, datetime.now(UTC))
            await session.until_the_dose()
            return Charted(session)

    return whole, await asyncio.gather(*(one(number) for number in range(count)))


async def compare(ward: Ward, charted: Iterable[Charted]) -> dict[str, int]:
    """Count what was acknowledged, and what of it is lost, doubled or changed, at the owner and at the gateway."""
    wrong = ("lost in sessions", "lost at the gateway", "doubled", "changed", "alarms due", "alarms lost")
    found = dict.fromkeys(("acknowledged", *wrong), 0)
    for one in charted:
        found["acknowledged"] += len(one.says) + len(one.samples)
        for name, client in (("sessions", ward.sessions), ("the gateway", ward.gateway)):
            held = await client.search("Observation", {"encounter": one.session.visit_ref, "_count": "1000"})
            there: dict[str, list[Resource]] = {}
            fed: dict[tuple[str, datetime, int], list[str]] = {}
            for reading in held:
                for key in reading.get("identifier", []):
                    there.setdefault(key["value"], []).append(reading)
                if "valueSampledData" in reading:
                    for where, sample in samples_of(reading):
                        fed.setdefault(where, []).append(sample)
            for where, sample in one.samples.items():
                found[f"lost {'in' if name == 'sessions' else 'at'} {name}"] += where not in fed
                found["doubled"] += len(fed.get(where, [])) > 1
                found["changed"] += where in fed and fed[where][0] != sample
            for key, value in one.says.items():
                got = there.get(key, [])
                found[f"lost {'in' if name == 'sessions' else 'at'} {name}"] += not got
                found["doubled"] += len(got) > 1
                found["changed"] += bool(got) and said(got[0]) != value
        calls = await ward.sessions.search("Task", {"patient": one.session.subject, "code": VITAL_ALARM.token()})
        raised = [call["focus"]["reference"] for call in calls]
        found["alarms due"] += len(one.alarming) + (one.feed_alarms > 0)
        found["alarms lost"] += sum(raised.count(reading) != 1 for reading in one.alarming)
        found["alarms lost"] += one.feed_alarms > 0 and len(raised) <= len(one.alarming)
    return found


def spent(kap: Kap) -> Counter[str]:
    """Return the seconds of a processor that each part of the stack has used so far, PostgreSQL's by database."""
    used: Counter[str] = Counter()
    _, printed = kap.run("status", "--json")
    for row in json.loads(printed)["processes"]:
        used[row["name"]] += seconds_of(psutil.Process(row["pid"]))
    server = psutil.Process(int((kap.data / "postgres" / "pgdata" / "postmaster.pid").read_text().split()[0]))
    for child in (server, *server.children()):
        with suppress(psutil.NoSuchProcess):
            said = " ".join(child.cmdline()).removeprefix("postgres: ").split()
            if not said:  # it has just ended
                continue
            named = said[1] if said[0] == APPLICATION_ROLE else "by itself"
            used[f"PostgreSQL {named}"] += seconds_of(child)
    return used


def told(parts: Counter[str], count: float, each: str) -> str:
    """Return what was used, in milliseconds of a processor for each of so many, the most first."""
    shares = ", ".join(f"{name} {seconds * 1000 / count:.1f}" for name, seconds in parts.most_common(14))
    return f"milliseconds of a processor a {each}: {sum(parts.values()) * 1000 / count:.0f}, of which {shares}"


def seconds_of(process: psutil.Process) -> float:
    """Return the seconds of a processor that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(kap: Kap, count: int, minutes: float, pace: float) -> None:
    """Admit, chart, compare, print."""
    ports = kap.ports
    async with (
        FhirClient(ports.fhir(GATEWAY), concurrency=64) as gateway,
        FhirClient(ports.fhir("sessions"), name="Sessions", concurrency=16) as sessions,
    ):
        begun, parts = time.monotonic(), spent(kap)
        whole, charted = await admit(gateway, count)
        took = time.monotonic() - begun
        print(f"{count} patients brought to their dose in {took:.0f} s; {told(spent(kap) - parts, count, 'patient')}")
        ward = Ward(gateway, sessions, whole, pace)
        await asyncio.sleep(QUIET)  # what follows from the admissions is over
        parts = spent(kap)
        await asyncio.sleep(QUIET)
        print(f"while nothing is asked: {told(spent(kap) - parts, QUIET, 'second')}")
        parts = spent(kap)
        before, here, since = psutil.cpu_times(), time.process_time(), time.monotonic()
        until = since + minutes * 60
        dice = random.Random(7)
        await asyncio.gather(*(ward.chart(one, until, random.Random(dice.random())) for one in charted))
        seconds = time.monotonic() - since
        used = psutil.cpu_times()
        busy = sum(getattr(used, name) - getattr(before, name) for name in ("user", "system", "nice"))
        asked = len(ward.sets.taken) + len(ward.feeds.taken)
        print(
            f"{count} sessions for {seconds / 60:.1f} min at {pace:g} times the real rate: {asked} requests, "
            f"{asked / seconds:.1f} a second; {psutil.cpu_count()} processors "
            f"{100 * busy / seconds / psutil.cpu_count():.0f} % busy, of which this process "
            f"{100 * (time.process_time() - here) / seconds / psutil.cpu_count():.0f} %"
        )
        print(told(spent(kap) - parts, asked, "request"))
        print(f"a set of vital signs, to its answer      {ward.sets}")
        print(f"a batch of the feed, to its answer       {ward.feeds}")
        print(f"an alarm, from the reading sent to there {ward.alarms}")
        if ward.watching:
            await asyncio.wait(ward.watching, timeout=60)
        print(f"an alarm, until the gateway finds it     {ward.seen}")
        print(f"this process was late in sending by      {ward.late}")
        print(f"requests sent again                      {gateway.retried}")
        kap.must("verify", timeout=600)
        print(", ".join(f"{name} {number}" for name, number in (await compare(ward, charted)).items()))


def main() -> None:
    """Start a stack, measure, and stop it."""
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("--sessions", type=int, default=200)
    given.add_argument("--minutes", type=float, default=5)
    given.add_argument("--pace", type=float, default=1)
    asked = given.parse_args(sys.argv[1:])
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] - told as it comes, into a file too
    with tempfile.TemporaryDirectory(prefix="kap-bench-", ignore_cleanup_errors=True) as folder:
        kap = Kap(Path(folder), Ports(free_base()))
        try:
            kap.must("up", "--detach", "--port-base", str(kap.ports.base), "--kafka", "apache", "--no-auth")
            asyncio.run(measure(kap, asked.sessions, asked.minutes, asked.pace))
        finally:
            kap.run("down")


if __name__ == "__main__":
    main()
