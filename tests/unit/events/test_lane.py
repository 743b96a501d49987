from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from types import SimpleNamespace

from prometheus_client import REGISTRY

from shared.events import claims, watermark
from shared.events.codec import encode
from shared.events.envelope import Event
from shared.events.handler import Outcome, Position
from shared.events.lane import Lane, Limits
from shared.events.watermark import Watermark
from shared.fhir.outcome import Unavailable
from shared.testing.events import MemoryInbox, event_of, events_of, eventually

QUICK = Limits(attempts=3, first_wait=0.001, longest_wait=0.01, most_parked=4, recheck=0.01, queue=10)


def record_of(event: Event, offset: int) -> SimpleNamespace:
    record = encode(event)
    return SimpleNamespace(key=record.key, value=record.value, headers=record.headers, offset=offset)


def records_of(events: list[Event]) -> list[SimpleNamespace]:
    return [record_of(event, offset) for offset, event in enumerate(events)]


@asynccontextmanager
async def lane_with(inbox: MemoryInbox, *, service: str = "test", limits: Limits = QUICK) -> AsyncIterator[Lane]:
    lane = Lane(
        "kap.intake.v1",
        0,
        inbox,
        service=service,
        limits=limits,
        slots=asyncio.Semaphore(2),
        beat=lambda: None,
        heard=lambda one: inbox.heard.append((len(inbox.applied) + len(inbox.waiting), one)),
    )
    try:
        yield lane
    finally:
        await lane.close(1)


def gauge(name: str, service: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"service": service, "topic": "kap.intake.v1", "partition": "0"})


async def test_events_are_taken_in_in_the_order_they_were_read():
    inbox = MemoryInbox()
    async with lane_with(inbox) as lane:
        lane.add(records_of(events_of(30, source="intake")))
        assert lane.is_full()
        await eventually(lambda: lane.done == 30)
        assert lane.has_room()
    assert [event.sequence for event in inbox.applied] == list(range(1, 31))


async def test_what_is_replayed_for_another_consumer_passes_by():
    events = events_of(6, source="intake")
    told = [None, "test", "another", "*", "another", None]
    inbox = MemoryInbox()
    async with lane_with(inbox) as lane:
        lane.add(records_of([replace(event, replay=whom) for event, whom in zip(events, told, strict=True)]))
        await eventually(lambda: lane.done == 6)
    assert [event.sequence for event in inbox.applied] == [1, 2, 4, 6]


async def test_a_repeat_is_done_at_once():
    inbox, event = MemoryInbox(), event_of(1)
    async with lane_with(inbox) as lane:
        lane.add([record_of(event, 0), record_of(event, 1)])
        await eventually(lambda: lane.done == 2)
    assert len(inbox.applied) == 1
    assert inbox.outcomes[Outcome.DUPLICATE] == 1


async def test_poison_is_parked_after_its_attempts_and_only_its_key_waits():
    inbox = MemoryInbox(poison=lambda event: event.sequence == 2)
    async with lane_with(inbox) as lane:
        lane.add(records_of(events_of(8, source="intake", patients=4)))
        await eventually(lambda: lane.done == 8)
    assert inbox.calls["Observation/2/1"] == QUICK.attempts
    assert [event.sequence for event in inbox.applied] == [1, 3, 4, 5, 7, 8]
    assert [(event.sequence, position.offset) for event, position, _ in inbox.waiting] == [(2, 1), (6, 5)]
    assert inbox.waiting[0][2] == "ValueError: this event is poison"


async def test_an_outage_of_the_database_parks_nothing_however_long_it_is():
    inbox = MemoryInbox()
    inbox.available = False
    async with lane_with(inbox) as lane:
        lane.add(records_of(events_of(3, source="intake")))
        await asyncio.sleep(0.1)
        assert lane.done is None
        inbox.available = True
        await eventually(lambda: lane.done == 3)
    assert len(inbox.applied) == 3
    assert not inbox.waiting


async def test_a_failure_that_passes_parks_nothing():
    failures = iter([ValueError("once"), ValueError("twice")])

    async def before(_: Event) -> None:
        if error := next(failures, None):
            raise error

    inbox = MemoryInbox(before=before)
    async with lane_with(inbox) as lane:
        lane.add([record_of(event_of(1), 0)])
        await eventually(lambda: lane.done == 1)
    assert len(inbox.applied) == 1
    assert not inbox.waiting


async def test_at_the_bound_of_parked_events_the_partition_pauses_alerts_and_drops_nothing():
    inbox = MemoryInbox(poison=lambda _: True)
    async with lane_with(inbox, service="bounded") as lane:
        lane.add(records_of(events_of(8, source="intake", patients=8)))
        await eventually(lambda: lane.paused)
        await asyncio.sleep(0.05)
        assert len(inbox.waiting) == QUICK.most_parked
        assert lane.done == QUICK.most_parked
        assert gauge("kap_consumer_paused", "bounded") == 1
        assert gauge("kap_events_parked", "bounded") == QUICK.most_parked
        inbox.cure()
        await eventually(lambda: lane.done == 8)
        assert gauge("kap_consumer_paused", "bounded") == 0
    assert sorted(event.sequence for event in inbox.applied) == list(range(1, 9))


async def test_a_record_that_cannot_be_read_is_parked_with_its_bytes():
    inbox = MemoryInbox()
    unreadable = SimpleNamespace(key=b"Patient/p1", value=b"{not even json", headers=[("ce_id", b"x")], offset=0)
    async with lane_with(inbox) as lane:
        lane.add([unreadable, record_of(event_of(1, patient="p1"), 1), record_of(event_of(2, patient="p2"), 2)])
        await eventually(lambda: lane.done == 3)
    parked, position, error = inbox.waiting[0]
    assert (parked.body, parked.key, position.offset) == (b"{not even json", "Patient/p1", 0)
    assert error.startswith("UnreadableEvent")
    assert inbox.applied_of("Patient/p2") == [2]


async def test_a_lane_that_closes_finishes_what_is_at_hand_and_leaves_the_rest():
    began, may_end = asyncio.Event(), asyncio.Event()

    async def before(_: Event) -> None:
        began.set()
        await may_end.wait()

    inbox = MemoryInbox(before=before)
    async with lane_with(inbox, limits=replace(QUICK, together=2)) as lane:
        lane.add(records_of(events_of(5, source="intake")))
        await began.wait()
        closing = asyncio.create_task(lane.close(5))
        await asyncio.sleep(0.01)
        may_end.set()
        await closing
        assert lane.done == 2
    assert [event.sequence for event in inbox.applied] == [1, 2]


# Several together


async def test_what_waits_is_taken_in_together_in_order():
    inbox = MemoryInbox()
    async with lane_with(inbox, limits=replace(QUICK, together=8, most_parked=100)) as lane:
        lane.add(records_of(events_of(33, source="intake")))
        await eventually(lambda: lane.done == 33)
    assert inbox.together == [8, 8, 8, 8]
    assert inbox.calls.total() == 1  # the one that was left
    assert [event.sequence for event in inbox.applied] == list(range(1, 34))


async def test_where_several_fail_together_each_is_tried_alone_and_those_after_them_go_together_again():
    inbox = MemoryInbox(poison=lambda event: event.sequence == 3)
    async with lane_with(inbox, limits=replace(QUICK, together=4, most_parked=100)) as lane:
        lane.add(records_of(events_of(12, source="intake", patients=6)))
        await eventually(lambda: lane.done == 12)
    assert inbox.together == [4, 4, 4]
    assert inbox.calls == {f"Observation/{number}/1": 3 if number == 3 else 1 for number in (1, 2, 3, 4)}
    assert [event.sequence for event in inbox.applied] == [1, 2, 4, 5, 6, 7, 8, 10, 11, 12]
    assert [event.sequence for event, _, _ in inbox.waiting] == [3, 9]
    assert lane.parked == 2


async def test_what_is_too_large_together_goes_apart():
    inbox, large = MemoryInbox(), b"{" + b" " * 60 + b"}"
    events = [event_of(number, body=large if number == 4 else b"{" + b" " * 20 + b"}") for number in range(1, 8)]
    async with lane_with(inbox, limits=replace(QUICK, together_bytes=50)) as lane:
        lane.add(records_of(events))
        await eventually(lambda: lane.done == 7)
    assert inbox.together == [2, 2]
    assert sorted(inbox.calls) == ["Observation/3/1", "Observation/4/1", "Observation/7/1"]
    assert [event.sequence for event in inbox.applied] == list(range(1, 8))


async def test_events_of_two_clinics_are_never_taken_in_together():
    inbox = MemoryInbox()
    events = [event_of(number, tenant="north" if number < 3 else "south") for number in range(1, 6)]
    async with lane_with(inbox) as lane:
        lane.add(records_of(events))
        await eventually(lambda: lane.done == 5)
    assert inbox.together == [2, 3]


async def test_what_waits_never_parks_more_than_the_bound():
    inbox = MemoryInbox()
    inbox.waiting.append((event_of(99, patient="p1"), Position("kap.intake.v1", 0, 0), "parked before"))
    async with lane_with(inbox, service="bounded-together") as lane:
        lane.add(records_of([event_of(number, patient="p1") for number in range(1, 9)]))
        await eventually(lambda: lane.paused)
        assert len(inbox.waiting) == lane.parked == QUICK.most_parked


async def test_an_outage_in_the_midst_of_several_repeats_none_of_them():
    failures = iter([Unavailable("no database"), None, Unavailable("no database")])

    async def before(_: Event) -> None:
        if error := next(failures, None):
            raise error

    inbox = MemoryInbox(before=before)
    async with lane_with(inbox) as lane:
        lane.add(records_of(events_of(6, source="intake")))
        await eventually(lambda: lane.done == 6)
    assert [event.sequence for event in inbox.applied] == list(range(1, 7))
    assert inbox.outcomes == {Outcome.APPLIED: 6}
    assert not inbox.waiting


async def test_pieces_are_kept_for_the_event_that_has_the_claim_on_them(monkeypatch):
    monkeypatch.setattr(claims, "MAX_EVENT_BODY_BYTES", 50)
    monkeypatch.setattr(claims, "PIECE_BYTES", 40)
    inbox, events = MemoryInbox(), [event_of(number, body=b"%d" % number * 99) for number in (1, 2, 3)]
    records = [record for event in (event_of(7), *events, event_of(8)) for record in claims.records_of(event)]
    async with lane_with(inbox, limits=replace(QUICK, queue=100)) as lane:
        lane.add([SimpleNamespace(**asdict(record), offset=offset) for offset, record in enumerate(records)])
        await eventually(lambda: lane.done == len(records) == 14)
    assert [event.body for event in inbox.applied][1:4] == [event.body for event in events]
    assert not inbox.waiting


async def test_an_outage_at_a_piece_is_waited_for(monkeypatch):
    monkeypatch.setattr(claims, "MAX_EVENT_BODY_BYTES", 50)
    monkeypatch.setattr(claims, "PIECE_BYTES", 40)
    inbox, event = MemoryInbox(), event_of(1, body=b"x" * 99)
    inbox.available = False
    async with lane_with(inbox) as lane:
        lane.add([SimpleNamespace(**asdict(one), offset=offset) for offset, one in enumerate(claims.records_of(event))])
        await asyncio.sleep(0.05)
        assert lane.done is None
        inbox.available = True
        await eventually(lambda: lane.done == 4)
    assert [one.body for one in inbox.applied] == [event.body]


async def test_a_lane_is_full_by_bytes_too():
    async with lane_with(MemoryInbox(), limits=replace(QUICK, queue=1000, queue_bytes=200)) as lane:
        lane.add(records_of([event_of(number, body=b"x" * 100) for number in (1, 2, 3)]))
        assert lane.is_full()
        assert not lane.has_room()
        await eventually(lambda: lane.done == 3)
        assert lane.has_room()


def watermark_at(offset: int, until: datetime) -> SimpleNamespace:
    record = watermark.encode(Watermark("intake", 3, until))
    return SimpleNamespace(key=record.key, value=record.value, headers=record.headers, offset=offset)


async def test_a_watermark_is_heard_when_all_before_it_is_done_or_parked():
    until = datetime(2026, 11, 22, 9, 30, 0, 5999, UTC)
    inbox = MemoryInbox(poison=lambda event: event.sequence == 4)
    records = records_of(events_of(9, source="intake"))
    async with lane_with(inbox) as lane:
        lane.add([*records[:6], watermark_at(6, until), *(replace_offset(one, 1) for one in records[6:])])
        await eventually(lambda: lane.done == 10)
    assert inbox.heard == [(6, Watermark("intake", 3, until.replace(microsecond=5000)))]


async def test_a_watermark_that_cannot_be_read_is_parked_and_not_believed():
    inbox, record = MemoryInbox(), watermark_at(0, datetime(2026, 11, 22, tzinfo=UTC))
    record.headers = [(name, b"yesterday" if name == "ce_time" else value) for name, value in record.headers]
    async with lane_with(inbox) as lane:
        lane.add([record])
        await eventually(lambda: lane.done == 1)
    assert not inbox.heard
    assert len(inbox.waiting) == 1


def replace_offset(record: SimpleNamespace, by: int) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(record), "offset": record.offset + by})
