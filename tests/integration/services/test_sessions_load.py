"""What a reading costs: as much at the end of a long visit as at its beginning, in statements and in rows read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.runtime.timers import run_once
from shared.store.connection import Connection

LONG = 10
"""Minutes that are watched before what a reading costs is counted, and again before it is counted once more."""


@dataclass
class Work:
    """What was asked of PostgreSQL."""

    statements: int = 0
    rows: int = 0


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """Count the statements that are sent, and the rows that come back."""
    work = Work()
    plain = {name: getattr(Connection, name) for name in ("execute", "executemany", "fetch", "fetchrow", "fetchval")}

    def counting(name: str) -> Any:
        async def asked(self: Connection, *arguments: Any, **options: Any) -> Any:
            found = await plain[name](self, *arguments, **options)
            if not str(arguments[0]).startswith("SET plan_cache_mode"):  # which plan the connection had last is chance
                work.statements += 1
                work.rows += len(found) if name == "fetch" else int(name in ("fetchrow", "fetchval"))
            return found

        return asked

    with monkeypatch.context() as patched:
        for name in plain:
            patched.setattr(Connection, name, counting(name))
        yield work


def feed(bedside: Any, signal: codes.Code, unit: str, data: str = "97 96 98") -> dict[str, Any]:
    """Return a minute of a device's feed."""
    begun = zulu(bedside.clock.now)
    made = bedside.reading(code=signal.concept(), effectivePeriod={"start": begun}, issued=begun)
    del made["component"], made["effectiveDateTime"]
    origin = {"value": 0, "unit": unit, "system": codes.UCUM, "code": unit}
    made["valueSampledData"] = {"origin": origin, "period": 1000, "dimensions": 1, "data": data}
    return made


SIGNALS = ((codes.HEART_RATE, "/min"), (codes.OXYGEN_SATURATION, "%"))


async def batch(bedside: Any) -> None:
    """Store a batch of the feed: each signal, its minute begun and carried on."""
    for signal, unit in SIGNALS:
        held = await bedside.sessions.create(feed(bedside, signal, unit))
        grown = {**held["valueSampledData"], "data": held["valueSampledData"]["data"] + " 97 97 97"}
        await bedside.sessions.update({**held, "valueSampledData": grown})


async def rated(bedside: Any) -> None:
    score = bedside.reading(code=codes.MOAA_S.concept(), valueInteger=4)
    del score["component"]
    await bedside.sessions.create(score)


async def dissociation_rated(bedside: Any) -> None:
    score = bedside.reading(code=codes.Code(codes.KAP, "cadss-6-total").concept(), valueInteger=4)
    del score["component"], score["category"]
    await bedside.sessions.create(score)


async def pain_rated(bedside: Any) -> None:
    score = bedside.reading(code=codes.Code(codes.LOINC, "72514-3").concept(), valueInteger=0)
    del score["component"], score["category"]
    await bedside.sessions.create(score)


async def carry_on(bedside: Any, minutes: int) -> None:
    """Let minutes pass with a feed of each, and a set charted every five, so that nothing is missed."""
    for minute in range(minutes):
        for signal, unit in SIGNALS:
            await bedside.sessions.create(feed(bedside, signal, unit))
        if minute % 5 == 0:
            await bedside.chart()
            await rated(bedside)
            await dissociation_rated(bedside)
            await pain_rated(bedside)
        bedside.clock.forward(minutes=1)


async def high(bedside: Any) -> None:
    await bedside.chart(190, 100)


async def low_in_the_feed(bedside: Any) -> None:
    await bedside.sessions.create(feed(bedside, codes.OXYGEN_SATURATION, "%", "97 85"))


async def charted(bedside: Any) -> None:
    await bedside.chart()


async def looked_at(bedside: Any) -> None:
    """Look at the clock for what is missed."""
    service = bedside.sessions.service
    (timer,) = [one for one in service.timers if one.name == "missed-vital-signs"]
    await run_once(timer, service, bedside.sessions.store, bedside.clock.now, lambda: None)


async def test_what_a_reading_costs_does_not_grow_with_the_length_of_the_visit(bedside, monkeypatch):
    """Counted early in the visit, and late, at minutes at which as much is due."""
    await bedside.chart()
    await bedside.start(40)
    cost: list[dict[str, Work]] = []
    for _ in range(3):
        await carry_on(bedside, LONG)
        each = {}
        for do in (batch, charted, rated, high, low_in_the_feed, looked_at):
            with counted(monkeypatch) as work:
                await do(bedside)
            each[do.__name__] = work
        bedside.clock.forward(minutes=1)
        await bedside.chart()  # all is within its limits again: the alarms are over
        cost.append(each)
        bedside.clock.forward(minutes=29 - LONG)
    _, early, late = cost  # the first alarm of each kind is another than those after it
    grown = {
        name: (early[name], work)
        for name, work in late.items()
        if work.statements > early[name].statements or work.rows > early[name].rows
    }
    assert not grown


async def test_a_feed_that_grows_within_its_minute_looks_for_nothing_that_is_due(bedside, monkeypatch):
    await bedside.chart()
    await bedside.start(40)
    held = await bedside.sessions.create(feed(bedside, codes.HEART_RATE, "/min"))
    held["valueSampledData"]["data"] += " 71 72"
    with counted(monkeypatch) as work:
        grown = await bedside.sessions.update(held)
    assert [one["valueInteger"] for one in grown["extension"]] == [0]
    assert work.statements <= 6
