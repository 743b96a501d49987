"""Days of a place: an ordinary one, and the ends of time, which senders without a date like to say."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from shared.fhir.zones import day_at, end_of_day

NEW_YORK, BERLIN = ZoneInfo("America/New_York"), ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("moment", "zone", "day"),
    [
        (datetime(2026, 11, 23, 3, tzinfo=UTC), NEW_YORK, date(2026, 11, 22)),
        (datetime(2026, 11, 22, 23, 30, tzinfo=UTC), BERLIN, date(2026, 11, 23)),
        (datetime(1, 1, 1, tzinfo=UTC), NEW_YORK, date(1, 1, 1)),
        (datetime(9999, 12, 31, 23, 59, tzinfo=UTC), BERLIN, date(9999, 12, 31)),
    ],
)
def test_a_moment_has_a_day_in_every_zone(moment, zone, day):
    assert day_at(moment, zone) == day


@pytest.mark.parametrize("zone", [NEW_YORK, BERLIN])
def test_every_day_has_an_end(zone):
    assert end_of_day(date(2026, 11, 23), zone) == datetime(2026, 11, 24, tzinfo=zone)
    assert end_of_day(date.max, zone).date() == date.max
