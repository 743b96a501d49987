from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events.codec import (
    OPTIONAL_HEADERS,
    REQUIRED_HEADERS,
    UnreadableEvent,
    decode,
    encode,
    read_again,
    unreadable,
)
from shared.events.envelope import Event
from shared.events.shards import shard_of

BODY = b'{"resourceType":"Observation","id":"0198c0de","valueQuantity":{"value":1.00}}'

EVENT = Event(
    id="Observation/0198c0de/3",
    source="sessions",
    interaction="update",
    type="Observation",
    resource_id="0198c0de",
    version=3,
    time=datetime(2026, 11, 22, 9, 30, 0, 123000, UTC),
    tenant="default",
    key="Patient/0198beef",
    shard=13,
    sequence=4711,
    body=BODY,
    labels=("R", "42CFRPart2"),
    request_id="req-1",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)

GOLDEN = [
    ("content-type", b"application/fhir+json; fhirVersion=4.0"),
    ("ce_specversion", b"1.0"),
    ("ce_id", b"Observation/0198c0de/3"),
    ("ce_source", b"/kap/sessions"),
    ("ce_type", b"org.kap-exchange.fhir.update.v1"),
    ("ce_time", b"2026-11-22T09:30:00.123Z"),
    ("ce_subject", b"Observation/0198c0de"),
    ("ce_resourcetype", b"Observation"),
    ("ce_resourceversion", b"3"),
    ("ce_tenant", b"default"),
    ("ce_sequence", b"4711"),
    ("ce_shard", b"13"),
    ("ce_labels", b"R,42CFRPart2"),
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("x-request-id", b"req-1"),
]


def test_the_record_of_an_event_is_the_golden_one():
    record = encode(EVENT)
    assert record.headers == GOLDEN
    assert record.key == b"Patient/0198beef"
    assert record.value is BODY


def test_the_golden_record_is_read_as_the_event():
    assert decode(b"Patient/0198beef", BODY, GOLDEN) == EVENT


def test_every_header_is_listed():
    assert (*(name for name, _ in GOLDEN), "ce_replay") == REQUIRED_HEADERS + OPTIONAL_HEADERS


def test_what_is_not_known_has_no_header():
    bare = replace(EVENT, labels=(), request_id=None, traceparent=None)
    names = [name for name, _ in encode(bare).headers]
    assert names == list(REQUIRED_HEADERS)


def test_a_time_of_another_zone_is_sent_in_utc():
    zoned = replace(EVENT, time=EVENT.time.astimezone(timezone(timedelta(hours=-5))))
    assert dict(encode(zoned).headers)["ce_time"] == b"2026-11-22T09:30:00.123Z"


def test_headers_of_others_are_ignored():
    assert decode(b"Patient/0198beef", BODY, [*GOLDEN, ("ce_later", b"x"), ("empty", None)]) == EVENT


words = st.text(min_size=1, max_size=20)
ids = st.from_regex(r"[A-Za-z0-9\-.]{1,64}", fullmatch=True)


@st.composite
def events(draw: st.DrawFn) -> Event:
    type_ = draw(st.sampled_from(["Patient", "Observation", "MedicationAdministration"]))
    resource_id, version = draw(ids), draw(st.integers(1, 2**31))
    tenant, key = draw(words), draw(st.builds("{}/{}".format, st.just(type_), ids))
    return Event(
        id=f"{type_}/{resource_id}/{version}",
        source=draw(st.sampled_from(["intake", "scheduling", "gateway"])),
        interaction=draw(st.sampled_from(["create", "update", "delete"])),
        type=type_,
        resource_id=resource_id,
        version=version,
        time=draw(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30))).replace(  # noqa: DTZ001
            tzinfo=UTC, microsecond=draw(st.integers(0, 999)) * 1000
        ),
        tenant=tenant,
        key=key,
        shard=shard_of(tenant, key),
        sequence=draw(st.integers(1, 2**63 - 1)),
        body=draw(st.binary(min_size=1)),
        labels=tuple(draw(st.lists(words, max_size=4))),
        request_id=draw(st.none() | words),
        traceparent=draw(st.none() | words),
    )


@given(events())
def test_what_is_encoded_is_decoded_to_the_same(event: Event):
    record = encode(event)
    assert decode(record.key, record.value, record.headers) == event


@pytest.mark.parametrize("name", REQUIRED_HEADERS[1:])
def test_a_record_without_a_required_header_is_refused_by_its_name(name):
    with pytest.raises(UnreadableEvent, match=name):
        decode(b"Patient/1", BODY, [(one, value) for one, value in GOLDEN if one != name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_specversion", b"0.3"),
        ("ce_type", b"org.kap-exchange.fhir.create.v3"),
        ("ce_type", b"org.kap-exchange.fhir.create.v2"),
        ("ce_type", b"org.kap-exchange.fhir.explode.v1"),
        ("ce_source", b"https://elsewhere.example"),
        ("ce_id", b"Observation/0198c0de/4"),
        ("ce_subject", b"Patient/0198c0de"),
        ("ce_resourceversion", b"three"),
        ("ce_sequence", b""),
        ("ce_time", b"yesterday"),
        ("ce_tenant", b"\xff"),
    ],
)
def test_a_header_that_cannot_be_is_refused(name, value):
    with pytest.raises(UnreadableEvent):
        decode(b"Patient/1", BODY, list((dict(GOLDEN) | {name: value}).items()))


@pytest.mark.parametrize(("key", "value"), [(None, BODY), (b"", BODY), (b"Patient/1", None), (b"Patient/1", b"")])
def test_a_record_without_key_or_body_is_refused(key, value):
    with pytest.raises(UnreadableEvent, match="no key or no body"):
        decode(key, value, GOLDEN)


def test_an_unreadable_record_becomes_an_event_that_keeps_its_key_its_bytes_and_its_headers():
    headers = [("ce_tenant", b"clinic"), ("ce_type", b"org.kap-exchange.fhir.update.v9"), ("empty", None)]
    event = unreadable(b"Patient/1", b"\x00\x01", headers, topic="kap.intake.v1", partition=3, offset=9)
    assert (event.id, event.key, event.body) == ("Basic/kap.intake.v1-3-9/0", "Patient/1", b"\x00\x01")
    assert (event.tenant, event.unread) == ("clinic", tuple(headers[:2]))
    bare = unreadable(None, None, [], topic="kap.intake.v1", partition=3, offset=9)
    assert (bare.key, bare.body, bare.tenant) == ("Basic/kap.intake.v1-3-9", b"{}", "unreadable")


def test_what_could_not_be_read_is_read_by_a_program_that_can():
    record = encode(EVENT)
    parked = unreadable(record.key, record.value, record.headers, topic="kap.sessions.v1", partition=3, offset=9)
    assert read_again(parked) == EVENT
    assert read_again(EVENT) is EVENT
    with pytest.raises(UnreadableEvent):
        read_again(replace(parked, unread=()))
