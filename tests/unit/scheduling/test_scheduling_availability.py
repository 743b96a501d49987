"""Working hours keep their place on the wall when the clocks change; time as bits says the same as time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduling.rules.availability import Grid, bits_of, fits, hours_in, working_bits, working_of
from shared.fhir.codes import EXT_AVAILABLE_TIME, EXT_TIMEZONE
from shared.fhir.zones import zone_named

QUARTER = timedelta(minutes=15)
ALL_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def hours(start, end, *days):
    parts = [{"url": "daysOfWeek", "valueCode": day} for day in days or ALL_DAYS]
    times = [{"url": "availableStartTime", "valueTime": start}, {"url": "availableEndTime", "valueTime": end}]
    return {"url": EXT_AVAILABLE_TIME, "extension": [*parts, *times]}


def schedule(zone, *windows, **more):
    named = [{"url": EXT_TIMEZONE, "valueCode": zone}] if zone else []
    return {"resourceType": "Schedule", "active": True, "extension": [*named, *windows], **more}


def utc(text):
    return datetime.fromisoformat(f"{text}:00+00:00")


def on_day(made, day):
    low = utc(f"{day}T00:00") - timedelta(hours=12)
    found = hours_in(working_of(made, "UTC"), low, low + timedelta(hours=50))
    return [(f"{start:%d %H:%M}", f"{end:%d %H:%M}") for start, end in found]


@pytest.mark.parametrize(
    ("zone", "window", "day", "expected"),
    [
        # An ordinary day, east and west of Greenwich, and where the offset is no whole hour.
        ("America/New_York", ("09:00:00", "17:00:00"), "2026-01-14", ("14 14:00", "14 22:00")),
        ("Asia/Kolkata", ("09:00:00", "17:00:00"), "2026-01-14", ("14 03:30", "14 11:30")),
        # The clocks go forward: 02:00 to 03:00 is left out. Nine o'clock is an hour earlier in UTC than the day before.
        ("America/New_York", ("09:00:00", "17:00:00"), "2026-03-08", ("08 13:00", "08 21:00")),
        ("America/New_York", ("01:00:00", "05:00:00"), "2026-03-08", ("08 06:00", "08 09:00")),
        ("America/New_York", ("02:30:00", "05:00:00"), "2026-03-08", ("08 07:30", "08 09:00")),
        ("America/New_York", ("01:00:00", "02:30:00"), "2026-03-08", ("08 06:00", "08 07:30")),
        ("Europe/Berlin", ("01:00:00", "05:00:00"), "2026-03-29", ("29 00:00", "29 03:00")),
        # They go back: 01:00 to 02:00 comes twice. The window has both.
        ("America/New_York", ("09:00:00", "17:00:00"), "2026-11-01", ("01 14:00", "01 22:00")),
        ("America/New_York", ("00:30:00", "01:30:00"), "2026-11-01", ("01 04:30", "01 06:30")),
        ("America/New_York", ("01:15:00", "05:00:00"), "2026-11-01", ("01 05:15", "01 10:00")),
        # In the southern hemisphere the other way round, and by half an hour only.
        ("Australia/Lord_Howe", ("09:00:00", "17:00:00"), "2026-10-04", ("03 22:00", "04 06:00")),
        # Where the clocks do not change.
        ("America/Phoenix", ("09:00:00", "17:00:00"), "2026-03-08", ("08 16:00", "09 00:00")),
        # Over midnight, in the night in which they go forward and back.
        ("America/New_York", ("22:00:00", "06:00:00"), "2026-03-08", ("08 03:00", "08 10:00")),
        ("America/New_York", ("22:00:00", "06:00:00"), "2026-11-01", ("01 02:00", "01 11:00")),
    ],
)
def test_hours_are_those_of_the_wall_clock_whatever_it_does(zone, window, day, expected):
    assert expected in on_day(schedule(zone, hours(*window)), day)


def test_a_window_that_lies_wholly_in_the_hour_that_is_left_out_is_no_time():
    found = on_day(schedule("America/New_York", hours("02:00:00", "03:00:00", "sun")), "2026-03-08")
    assert [one for one in found if one[0].startswith("08")] in ([], [("08 07:00", "08 07:00")])


def test_weekdays_are_those_of_the_place_not_of_greenwich():
    made = schedule("Pacific/Auckland", hours("08:00:00", "10:00:00", "mon"))
    (window,) = hours_in(working_of(made, "UTC"), utc("2026-11-22T00:00"), utc("2026-11-24T00:00"))
    assert window == (utc("2026-11-22T19:00"), utc("2026-11-22T21:00"))


def test_a_schedule_without_a_zone_is_in_the_clinics_and_ends_with_its_horizon():
    made = schedule(None, hours("08:00:00", "10:00:00"), planningHorizon={"start": "2026-11-23", "end": "2026-11-23"})
    found = hours_in(working_of(made, "Europe/Berlin"), utc("2026-11-20T00:00"), utc("2026-11-27T00:00"))
    assert found == [(utc("2026-11-23T07:00"), utc("2026-11-23T09:00"))]


def test_who_is_not_active_has_no_hours():
    made = schedule("UTC", hours("08:00:00", "10:00:00"), active=False)
    assert hours_in(working_of(made, "UTC"), utc("2026-11-20T00:00"), utc("2026-11-27T00:00")) == []


@pytest.mark.parametrize(
    "wrong",
    [
        schedule("Mars/North", hours("08:00:00", "10:00:00")),
        schedule("UTC", hours("08:00:00", "10:00:00", "monday")),
        schedule("UTC", {"url": EXT_AVAILABLE_TIME, "extension": [{"url": "daysOfWeek", "valueCode": "mon"}]}),
        schedule("UTC", {"url": EXT_AVAILABLE_TIME}),
    ],
)
def test_hours_that_cannot_be_read_are_refused_and_not_taken_for_none(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        working_of(wrong, "UTC")


ORIGIN = utc("2026-11-22T00:00")
minutes = st.integers(-300, 1500).map(lambda count: ORIGIN + timedelta(minutes=count))


@given(minutes, minutes)
def test_a_step_is_within_or_touched_exactly_when_its_time_is(low, high):
    grid = Grid.over(ORIGIN, ORIGIN + timedelta(days=1), QUARTER)
    steps = [(grid.at(bit), grid.at(bit) + QUARTER) for bit in range(grid.count)]
    assert list(bits_of(grid.within(low, high))) == [
        bit for bit, (start, end) in enumerate(steps) if low <= start and end <= high
    ]
    if low < high:
        assert list(bits_of(grid.touching(low, high))) == [
            bit for bit, (start, end) in enumerate(steps) if start < high and low < end
        ]


@given(st.integers(0, 2**40), st.integers(1, 12))
def test_a_length_fits_exactly_where_all_its_steps_are_free(free, length):
    expected = [bit for bit in range(41) if all(free >> (bit + step) & 1 for step in range(length))]
    assert list(bits_of(fits(free, length))) == expected


def test_two_schedules_of_one_person_count_together():
    grid = Grid.over(ORIGIN, ORIGIN + timedelta(days=1), QUARTER)
    morning, evening = (
        working_of(schedule("UTC", hours(*window)), "UTC")
        for window in (("08:00:00", "09:00:00"), ("18:00:00", "19:00:00"))
    )
    assert [grid.at(bit).hour for bit in bits_of(working_bits(grid, [morning, evening]))] == [8] * 4 + [18] * 4


def test_a_grid_begins_at_a_step_that_is_not_before_its_low_end():
    grid = Grid.over(datetime(2026, 11, 22, 9, 1, tzinfo=UTC), datetime(2026, 11, 22, 10, tzinfo=UTC), QUARTER)
    assert (grid.at(0), grid.count) == (utc("2026-11-22T09:15"), 3)


@pytest.mark.parametrize("zone", ["America", "A" * 300, "Nowhere/At-all"])
def test_a_folder_of_zones_and_a_name_that_is_too_long_are_no_zone(zone):
    assert zone_named(zone) is None
    with pytest.raises(ValueError, match="no time zone"):
        working_of(schedule(zone, hours("09:00:00", "10:00:00")), "UTC")
