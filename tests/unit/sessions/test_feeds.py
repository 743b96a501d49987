"""A device's feed by signal and minute: every sample in its place, and none taken back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rules.feeds import by_minute, is_sample, news_of, put_in
from services.sessions.setting import Setting
from shared.runtime.policy import load_policy

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
EARLY = Setting.of(load_policy()).monitoring.early.share


def newest(_held, _new):
    """Let the sample that comes last stand."""
    return False


def test_samples_are_parted_by_the_minute_they_were_measured_in():
    found = by_minute(NOON + timedelta(seconds=58.3), SECOND, ["71", "72", "73"], EARLY)
    assert found == {NOON: {58: "71", 59: "72"}, NOON + timedelta(minutes=1): {0: "73"}}


@pytest.mark.parametrize("early", [0, 1, 100, 200, 499])
def test_a_batch_whose_clock_is_a_little_early_takes_no_place_of_the_one_before(early):
    start = NOON + timedelta(seconds=50)
    held = put_in("", by_minute(start, SECOND, ["85"], EARLY)[NOON], newest)
    (further,) = by_minute(start + SECOND - timedelta(milliseconds=early), SECOND, ["99"], EARLY).values()
    assert put_in(held, further, newest).split()[-2:] == ["85", "99"]
    edge = by_minute(NOON + timedelta(seconds=60) - timedelta(milliseconds=early), SECOND, ["98", "97"], EARLY)
    assert edge == {NOON + timedelta(minutes=1): {0: "98", 1: "97"}}


@pytest.mark.parametrize(
    ("held", "samples", "now"),
    [
        ("", {0: "71"}, "71"),
        ("", {2: "71"}, "E E 71"),
        ("71 72", {2: "73"}, "71 72 73"),
        ("71 E 73", {1: "72"}, "71 72 73"),
        ("71 72", {0: "71", 1: "72"}, "71 72"),
        ("71 72", {1: "E", 2: "E"}, "71 72 E"),
    ],
)
def test_a_sample_stands_in_its_place_and_what_was_measured_stays(held, samples, now):
    assert put_in(held, samples, newest) == now


def test_of_two_samples_in_one_place_the_one_that_stays_is_left():
    assert put_in("85 97", {0: "99", 1: "E", 2: "98"}, lambda held, new: int(held) < int(new)) == "85 97 98"


@pytest.mark.parametrize(
    ("text", "known"), [("71", True), ("-1.5", True), ("E", True), ("U", True), ("NaN", False), ("x", False)]
)
def test_a_sample_is_a_number_or_one_of_the_marks(text, known):
    assert is_sample(text) is known


@given(
    st.lists(st.integers(30, 220).map(str), min_size=1, max_size=200),
    st.integers(0, 59_999),
    st.sampled_from([250, 500, 1000, 1500, 7000]),
    st.randoms(use_true_random=False),
    st.integers(1, 30),
)
def test_however_a_feed_is_cut_and_in_whatever_order_it_comes_it_says_the_same(samples, late, period, dice, size):
    start, apart = NOON + timedelta(milliseconds=late), timedelta(milliseconds=period)
    whole = {minute: put_in("", placed, newest) for minute, placed in by_minute(start, apart, samples, EARLY).items()}
    cut = [(number, samples[number : number + size]) for number in range(0, len(samples), size)]
    cut += cut[: len(cut) // 2]  # some come twice
    dice.shuffle(cut)
    held: dict[datetime, str] = {}
    for number, part in cut:
        for minute, placed in by_minute(start + number * apart, apart, part, EARLY).items():
            held[minute] = put_in(held.get(minute, ""), placed, newest)
    assert held == whole
    assert [one for minute in sorted(held) for one in held[minute].split() if one != "E"] == samples


@pytest.mark.parametrize(
    ("before", "after", "news"),
    [
        ("", "71", "71"),
        ("71 72", "71 72", "E E"),
        ("71 72", "71 72 73", "E E 73"),
        ("71 E", "71 72", "E 72"),
        ("71", "70", "70"),
    ],
)
def test_news_of_a_minute_is_what_it_did_not_say_before(before, after, news):
    assert news_of(before, after) == news
