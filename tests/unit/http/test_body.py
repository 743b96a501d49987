from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from starlette.requests import ClientDisconnect

from shared.fhir.outcome import BadRequest, TooLarge, UnsupportedMediaType
from shared.http.body import LARGE, MAX_DEPTH, parse_body, read_body


def stream(*chunks: bytes, then_gone=False):
    """Return an ASGI receive of `chunks`, and the list that counts how many were taken."""
    taken: list[int] = []

    async def receive():
        number = len(taken)
        taken.append(number)
        if number >= len(chunks) or (then_gone and number == len(chunks) - 1):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunks[number], "more_body": number < len(chunks) - 1}

    return receive, taken


async def test_a_body_is_put_together():
    receive, _ = stream(b"ab", b"", b"c")
    assert await read_body(receive, {}, 3) == b"abc"


async def test_an_announced_body_above_the_limit_is_refused_before_a_byte_is_read():
    receive, taken = stream(b"x" * 10)
    with pytest.raises(TooLarge):
        await read_body(receive, {"content-length": "11"}, 10)
    assert taken == []


async def test_a_streamed_body_is_refused_as_soon_as_it_is_above_the_limit():
    receive, taken = stream(*[b"x" * 10] * 1000)
    with pytest.raises(TooLarge) as refused:
        await read_body(receive, {}, 100)
    assert len(taken) == 11
    assert refused.value.issues[0].expression == ("http.body",)


async def test_a_caller_that_goes_away_is_no_error_of_ours():
    receive, _ = stream(b"x", b"y", then_gone=True)
    with pytest.raises(ClientDisconnect):
        await read_body(receive, {}, 100)


@pytest.mark.parametrize("pieces", [1, 7, 1000])
async def test_a_packed_body_is_unpacked_piece_by_piece(pieces):
    packed = gzip.compress(b"resource " * 50)
    step = -(-len(packed) // pieces)
    receive, _ = stream(*(packed[start : start + step] for start in range(0, len(packed), step)))
    assert await read_body(receive, {"content-encoding": "gzip"}, 450) == b"resource " * 50


async def test_a_few_bytes_that_unpack_to_more_than_the_limit_are_refused_and_never_held():
    bomb = gzip.compress(b"0" * 20_000_000, compresslevel=9)
    receive, _ = stream(bomb)
    tracemalloc.start()
    with pytest.raises(TooLarge):
        await read_body(receive, {"content-encoding": "gzip", "content-length": str(len(bomb))}, 300_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_000_000


@pytest.mark.parametrize(
    "packed",
    [b"plain", gzip.compress(b"x" * 90)[:-3], gzip.compress(b"x") + b"more", b"", zlib.compress(b"x")],
    ids=["plain", "cut off", "followed by more", "empty", "zlib"],
)
async def test_a_body_that_is_not_what_gzip_made_is_refused(packed):
    receive, _ = stream(packed)
    with pytest.raises(BadRequest):
        await read_body(receive, {"content-encoding": "gzip"}, 100)


async def test_a_body_packed_otherwise_is_refused_with_what_is_read():
    receive, _ = stream(b"x")
    with pytest.raises(UnsupportedMediaType) as refused:
        await read_body(receive, {"content-encoding": "br"}, 100)
    assert refused.value.headers == {"Accept-Encoding": "gzip, identity"}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b'{"resourceType": "Patient"', "line 1, column 27"),
        (b'{"a": 1, "a": 2}', "more than once"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "number"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_its_place(raw, said):
    with pytest.raises(BadRequest, match=said) as refused:
        await parse_body(raw)
    assert refused.value.issues[0].expression == ("http.body",)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 500, 5_000, 100_000])
async def test_json_nested_too_deeply_is_refused(levels):
    with pytest.raises(BadRequest) as refused:
        await parse_body(b'{"a":' * levels + b"1" + b"}" * levels)
    assert refused.value.issues[0].code == "too-costly"


async def test_json_at_the_limit_of_depth_is_read():
    assert await parse_body(b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH)


async def test_a_large_body_is_parsed_as_a_small_one_is():
    raw = b'{"a":"' + b"x" * LARGE + b'"}'
    assert (await parse_body(raw))["a"] == "x" * LARGE
