from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import claims
from shared.events.claims import piece_of, records_in, records_of, redeemed
from shared.events.codec import UnreadableEvent, decode, is_for, unreadable
from shared.events.topics import MAX_EVENT_BODY_BYTES, PIECE_BYTES
from shared.testing.events import event_of


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(claims, "MAX_EVENT_BODY_BYTES", 30)
    monkeypatch.setattr(claims, "PIECE_BYTES", 8)


@given(st.binary(min_size=1, max_size=200), st.sampled_from([None, "*", "gateway"]))
def test_whatever_its_size_a_body_comes_back_to_the_byte(body, replay):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "MAX_EVENT_BODY_BYTES", 30)
        patch.setattr(claims, "PIECE_BYTES", 8)
        event = replace(event_of(1, body=body), replay=replay)
        records = list(records_of(event))
        assert len(records) == records_in(event)
    *ahead, last = records
    pieces = [piece_of(record.value, record.headers) for record in ahead]
    assert [piece.number for piece in pieces] == list(range(1, len(pieces) + 1))
    assert all((piece.source, piece.event_id, piece.tenant) == ("intake", event.id, "default") for piece in pieces)
    assert all(record.key == last.key for record in ahead)
    assert all(is_for(record.headers, "sessions") == (replay != "gateway") for record in records)
    read = decode(last.key, last.value, last.headers)
    assert (read.claim is None) == (len(body) <= 30)
    whole = body if read.claim is None else redeemed(read.claim, [piece.body for piece in pieces])
    again = replace(read, body=whole, claim=None)
    assert again == replace(event, time=again.time)


def test_what_fits_a_record_needs_no_claim_and_no_record_is_above_the_brokers_limit():
    fits, large = event_of(1, body=b"x" * MAX_EVENT_BODY_BYTES), event_of(1, body=b"x" * (MAX_EVENT_BODY_BYTES + 1))
    assert [len(record.value) for record in records_of(fits)] == [MAX_EVENT_BODY_BYTES]
    assert max(len(record.value) for record in records_of(large)) == PIECE_BYTES


@pytest.mark.usefixtures("small")
def test_pieces_that_lack_one_or_have_another_byte_are_no_body():
    *ahead, last = records_of(event_of(1, body=bytes(range(40))))
    bodies = [record.value for record in ahead]
    claim = decode(last.key, last.value, last.headers).claim
    assert redeemed(claim, bodies) == bytes(range(40))
    assert redeemed(claim, bodies[:-1]) is None
    assert redeemed(claim, [b"?" * 8, *bodies[1:]]) is None
    assert redeemed(claim, [bodies[1], bodies[0], *bodies[2:]]) is None


@pytest.mark.usefixtures("small")
def test_a_program_that_knows_no_claims_parks_one_and_a_newer_one_reads_it_again():
    *_, last = records_of(event_of(1, body=b"x" * 40))
    assert dict(last.headers)["ce_type"] == b"org.kap-exchange.fhir.create.v2"
    parked = unreadable(last.key, last.value, last.headers, topic="kap.intake.v1", partition=3, offset=9)
    assert decode(parked.key.encode(), parked.body, parked.unread).claim is not None


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("header", "value"), [("ce_piece", "none"), ("ce_piece", "0"), ("ce_subject", None), ("ce_source", None)]
)
def test_a_piece_that_cannot_be_is_not_taken_for_one(header, value):
    record, *_ = records_of(event_of(1, body=b"x" * 40))
    headers = [(name, text) for name, text in record.headers if name != header]
    if value is not None:
        headers.append((header, value.encode()))
    with pytest.raises(UnreadableEvent):
        piece_of(record.value, headers)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("value", [b"{}", b"[]", b"no", b'{"pieces":"x","bytes":1,"sha256":""}'])
def test_a_claim_that_is_none_is_not_guessed_at(value):
    *_, last = records_of(event_of(1, body=b"x" * 40))
    with pytest.raises(UnreadableEvent):
        decode(last.key, value, last.headers)


@pytest.mark.usefixtures("small")
def test_a_claim_on_the_body_of_another_event_is_refused():
    *_, last = records_of(event_of(1, body=b"x" * 40))
    headers = [(name, b"/kap/intake/Patient/2/1" if name == "ce_dataref" else text) for name, text in last.headers]
    with pytest.raises(UnreadableEvent, match="not the body"):
        decode(last.key, last.value, headers)


def test_other_records_are_no_pieces():
    (record,) = records_of(event_of(1))
    assert piece_of(record.value, record.headers) is None
