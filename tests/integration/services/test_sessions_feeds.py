"""A continuous device's feed through `Encounter/$feed`: a SampledData Observation a signal and minute."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, Unprocessable
from tests.integration.services.bedside import vital

RATE, SATURATION = codes.HEART_RATE, codes.OXYGEN_SATURATION


def signal(start, data, code=RATE, unit="/min", other=None):
    """Return a signal of a call: a sample each second from `start` on; `other` parts in the place of these."""
    said = {
        "code": {"valueCodeableConcept": code.concept()},
        "unit": {"valueCode": unit},
        "start": {"valueInstant": zulu(start)},
        "period": {"valueDecimal": 1000},
        "data": {"valueString": data},
        **(other or {}),
    }
    return {"name": "signal", "part": [{"name": name, **value} for name, value in said.items()]}


async def feed(bedside, *signals):
    told = await bedside.sessions.call("feed", bedside.visit, *signals)
    return [one["valueReference"]["reference"] for one in told["parameter"]]


async def minutes(bedside):
    """Return what is held of the feed: code, minute, data, version."""
    found = await bedside.sessions.search("Observation", encounter=f"Encounter/{bedside.visit['id']}")
    return sorted(
        (
            one["code"]["coding"][0]["code"],
            one["effectivePeriod"]["start"],
            one["valueSampledData"]["data"],
            one["meta"]["versionId"],
        )
        for one in found
        if "valueSampledData" in one
    )


async def test_samples_become_one_observation_of_each_signal_and_minute_however_they_are_sent(bedside):
    begun = bedside.clock.now.replace(second=0, microsecond=0)
    bedside.clock.forward(minutes=5)
    at = begun + timedelta(seconds=58)
    first = await feed(bedside, signal(at, "71 72 73 74"), signal(at, "97 98", SATURATION, "%"))
    assert len(first) == 3
    again = await feed(bedside, signal(at, "71 72"), signal(at + timedelta(seconds=5), "76"))
    assert again == first[:2]
    gap = " ".join(["E"] * 58)
    assert await minutes(bedside) == [
        ("59408-5", zulu(begun), f"{gap} 97 98", "1"),
        ("8867-4", zulu(begun), f"{gap} 71 72", "1"),
        ("8867-4", zulu(begun + timedelta(minutes=1)), "73 74 E 76", "2"),
    ]


async def test_a_feed_alarms_in_the_transaction_that_takes_it_in(bedside):
    await bedside.chart()
    await bedside.start(40)
    bedside.clock.forward(minutes=3)
    at = bedside.clock.now - timedelta(seconds=10)
    assert await bedside.raised() == [0, 0, 0]
    await feed(bedside, signal(at, "97 96 85", SATURATION, "%"))
    assert await bedside.rules() == {"A-SPO2"}
    raised = await bedside.raised()
    await feed(bedside, signal(at + timedelta(seconds=3), "84 85", SATURATION, "%"))
    assert await bedside.raised() == raised


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"data": {"valueString": "71 high"}}, "numbers"),
        ({"data": {"valueString": " "}}, "numbers"),
        ({"period": {"valueDecimal": 0}}, "60,000"),
        ({"data": {"valueString": "71 " * 3601}}, "an hour"),
        ({"start": {"valueInstant": "noon"}}, "not an instant"),
        ({"start": {"valueInstant": "9999-12-31T23:59:59Z"}}, "wrong by so much"),
        ({"code": {"valueCodeableConcept": {"text": "pulse"}}}, "LOINC"),
        ({"unit": {"valueString": "/min"}}, "unit"),
        ({"colour": {"valueString": "red"}}, "colour"),
    ],
)
async def test_what_is_no_feed_is_refused_and_nothing_is_kept(bedside, wrong, says):
    at = bedside.clock.now - timedelta(hours=2)
    with pytest.raises(BadRequest, match=says):
        await feed(bedside, signal(at, "71 72"), signal(at, "71", other=wrong))
    assert await minutes(bedside) == []


async def test_nobody_is_measured_in_a_visit_that_has_not_begun(bedside):
    planned = {**bedside.visit, "status": "planned"}
    for name in ("id", "meta", "period", "statusHistory", "identifier"):
        planned.pop(name, None)
    planned["appointment"] = [{"reference": "Appointment/later"}]
    visit = await bedside.sessions.create(planned)
    with pytest.raises(Unprocessable, match="Begin it first"):
        await bedside.sessions.call("feed", visit, signal(bedside.clock.now, "71"))


# -- calls of a feed: one while it lasts, another where it deepens or begins anew --------------------------------------


async def accept(bedside):
    """Let the nurse take every call that climbs; return how many there are."""
    found = await bedside.sessions.search("Task", patient=bedside.who["id"], code=codes.VITAL_ALARM.token())
    for one in found:
        if one["status"] == "requested":
            await bedside.sessions.update({**one, "status": "accepted", "owner": {"reference": "Practitioner/nurse"}})
    return len(found)


async def climbing(bedside):
    asked = {"patient": bedside.who["id"], "code": codes.VITAL_ALARM.token(), "status": "requested"}
    return await bedside.sessions.search("Task", **asked)


async def saturations(bedside, data):
    """Send some seconds of saturation a minute later."""
    bedside.clock.forward(minutes=1)
    await feed(bedside, signal(bedside.clock.now - timedelta(seconds=10), data, SATURATION, "%"))


@pytest.fixture
async def desaturated(bedside):
    """A patient whose first desaturation somebody has taken."""
    await bedside.chart()
    await bedside.start(40)
    bedside.clock.now = bedside.clock.now.replace(second=12, microsecond=0) + timedelta(minutes=3)
    await saturations(bedside, "97 89")
    assert await accept(bedside) == 1
    return bedside


async def test_a_second_desaturation_after_minutes_within_the_limits_calls_anew(desaturated):
    for _ in range(3):
        await saturations(desaturated, "97 98 97")
    (flag,) = await desaturated.sessions.search("Flag", patient=desaturated.who["id"])
    assert flag["status"] == "inactive"
    await saturations(desaturated, "89 88")
    (task,) = await climbing(desaturated)
    assert "88 %" in task["description"]


async def test_a_desaturation_that_lasts_is_one_call_and_one_that_deepens_another(desaturated):
    for data in ("88 87", "89 86", "97 88"):
        await saturations(desaturated, data)
    assert await climbing(desaturated) == []
    await saturations(desaturated, "84 70")
    assert len(await climbing(desaturated)) == 1
    await accept(desaturated)
    await saturations(desaturated, "72 69")
    assert await climbing(desaturated) == []


async def test_one_normal_minute_beside_one_beyond_the_limit_ends_no_call(desaturated):
    await saturations(desaturated, "97 98 97")
    (flag,) = await desaturated.sessions.search("Flag", patient=desaturated.who["id"])
    assert flag["status"] == "active"


async def test_a_call_that_was_ended_is_not_opened_again_by_normal_samples_of_the_same_minute(bedside):
    await bedside.chart()
    await bedside.start(40)
    bedside.clock.now = bedside.clock.now.replace(second=12, microsecond=0) + timedelta(minutes=3)
    await feed(bedside, signal(bedside.clock.now - timedelta(seconds=10), "97 85", SATURATION, "%"))
    (call,) = await climbing(bedside)
    bedside.clock.forward(seconds=18)
    await bedside.sessions.update({**call, "status": "completed", "owner": {"reference": "Practitioner/nurse"}})
    await feed(bedside, signal(bedside.clock.now - timedelta(seconds=3), "97 98", SATURATION, "%"))
    assert await climbing(bedside) == []
    bedside.clock.forward(seconds=10)
    await feed(bedside, signal(bedside.clock.now - timedelta(seconds=3), "97 88", SATURATION, "%"))
    assert len(await climbing(bedside)) == 1


async def test_what_is_below_all_that_a_device_can_measure_calls(bedside):
    bedside.clock.forward(minutes=3)
    ago = bedside.clock.now - timedelta(seconds=10)
    await feed(bedside, signal(ago, "71 U L"))
    (call,) = await bedside.sessions.search("Task", code=codes.VITAL_ALARM.token())
    assert ("<45 /min" in call["description"], ">130 /min" in call["description"]) == (True, True)
    await feed(bedside, signal(ago, "97 L L", SATURATION, "%"))
    found = await bedside.sessions.search("Task", code=codes.VITAL_ALARM.token())
    assert ["<90 %" in one["description"] for one in found] == [False, True]


@pytest.mark.parametrize("data", ["NaN 97", "sNaN", "1E+9999999 97", "-Infinity 97"])
async def test_what_is_no_number_in_a_feed_that_was_charted_is_kept_and_asked_about(bedside, data):
    made = bedside.reading(code=SATURATION.concept())
    del made["component"]
    origin = {"value": 0, "unit": "%", "system": codes.UCUM, "code": "%"}
    sampled = {"origin": origin, "period": 1000, "dimensions": 1, "data": data}
    await bedside.sessions.create({**made, "valueSampledData": sampled})
    (asked,) = await bedside.sessions.search("Task", code=codes.REVIEW.token())
    assert "no limit is read" in asked["description"]


# -- a device that is off: its clock, its range, its sensor ------------------------------------------------------------


async def second_by_second(bedside, said, *batches, other=None):
    """Send batches of saturation ten seconds apart from a device whose clock is `said` off."""
    for data in batches:
        bedside.clock.forward(seconds=10)
        await feed(bedside, signal(bedside.clock.now + said - timedelta(seconds=10), data, SATURATION, "%", other))


@pytest.fixture
async def fed(bedside):
    """A patient after a dose, whose monitor is to feed from a minute's twelfth second on."""
    await bedside.chart()
    await bedside.start(40)
    bedside.clock.now = bedside.clock.now.replace(second=12, microsecond=0) + timedelta(minutes=3)
    return bedside


@pytest.mark.parametrize("off", [timedelta(hours=-1), timedelta(days=-9000), timedelta(minutes=2), timedelta(hours=1)])
async def test_a_device_whose_clock_is_wrong_alarms_as_its_samples_come_and_its_clock_is_asked_about_once(fed, off):
    before = fed.clock.now
    await second_by_second(fed, off, "97 97 97", "97 85 84", "85 84 84", "84 84 84")
    assert len(await climbing(fed)) == 1
    assert len(await fed.sessions.search("DetectedIssue", code=codes.DEVICE_CLOCK.token())) == 1
    held = await minutes(fed)
    assert sum(one != "E" for _, _, data, _ in held for one in data.split()) == 12
    assert max(minute for _, minute, _, _ in held) >= zulu(before.replace(second=0))
    again = signal(fed.clock.now + off - timedelta(seconds=10), "84 84 84", SATURATION, "%")
    await feed(fed, again)
    assert await minutes(fed) == held


async def test_the_first_samples_of_a_device_whose_clock_is_behind_alarm_as_they_come(fed):
    await second_by_second(fed, -timedelta(hours=1), "97 85 84")
    (call,) = await climbing(fed)
    assert f"The device says that it was so at {zulu(fed.clock.now - timedelta(hours=1))[:13]}" in call["description"]
    await second_by_second(fed, -timedelta(hours=1), "84 84 84")
    assert len(await climbing(fed)) == 1
    assert await fed.sessions.search("DetectedIssue", code=codes.CHARTED_LATE.token()) == []


async def test_of_two_samples_that_come_to_one_place_the_graver_stays(bedside):
    at = bedside.clock.now.replace(second=0, microsecond=0)
    bedside.clock.forward(minutes=1)
    await feed(bedside, signal(at, "97 97 85", SATURATION, "%"))
    early = at + timedelta(milliseconds=1400)
    await feed(bedside, signal(early, "99 99", SATURATION, "%"))
    await feed(bedside, signal(early, "84 99", SATURATION, "%"))
    await feed(bedside, signal(at, "L", SATURATION, "%"))
    ((_, _, data, _),) = await minutes(bedside)
    assert data == "L 84 85"


async def test_samples_beyond_a_limit_end_no_repeat_after_an_alarm_and_those_within_it_do(bedside):
    async def again():
        return [one["status"] for one in await bedside.sessions.search("Task", code=codes.SATURATION_AGAIN.token())]

    await bedside.sessions.create(bedside.reading(vital(SATURATION, 85, "%"), code=SATURATION.concept()))
    for data, status in (("85 86", "requested"), ("96 97", "completed")):
        bedside.clock.forward(minutes=2)
        await feed(bedside, signal(bedside.clock.now, data, SATURATION, "%"))
        assert await again() == [status]


async def test_samples_that_were_kept_back_come_faster_than_they_were_measured_and_call_nobody(fed):
    await second_by_second(fed, timedelta(0), "97 97")
    away = fed.clock.now
    fed.clock.forward(minutes=30)
    for number in range(6):
        fed.clock.forward(seconds=1)
        start = away + timedelta(seconds=10 * number)
        await feed(fed, signal(start, "84 84 84", SATURATION, "%"))
    assert await climbing(fed) == []
    assert await fed.sessions.search("DetectedIssue", code=codes.DEVICE_CLOCK.token()) == []
    assert await fed.sessions.search("DetectedIssue", code=codes.CHARTED_LATE.token()) != []


async def test_a_clock_that_is_set_right_within_a_visit_costs_no_sample(fed):
    await second_by_second(fed, timedelta(hours=1), "97 96 95")
    fed.clock.forward(hours=1)
    await second_by_second(fed, -timedelta(seconds=10), "94 93 92")
    found = [one for _, _, data, _ in await minutes(fed) for one in data.split() if one != "E"]
    assert sorted(found) == ["92", "93", "94", "95", "96", "97"]


async def test_what_is_under_the_range_of_a_device_calls_unless_the_range_reaches_within_the_limit(fed):
    await second_by_second(fed, timedelta(0), "97 L", other={"lower": {"valueDecimal": 95}})
    assert await climbing(fed) == []
    fed.clock.forward(minutes=1)
    await second_by_second(fed, timedelta(0), "97 L")
    (call,) = await climbing(fed)
    assert "90" in call["description"]
    await accept(fed)
    await second_by_second(fed, timedelta(0), "L L", "L L")
    assert await climbing(fed) == []


async def missing(bedside):
    return await bedside.sessions.search("Task", code=codes.VITALS_MISSED.token(), status="requested")


async def test_a_feed_that_sees_nothing_for_minutes_calls_once_until_it_measures_again(fed):
    await saturations(fed, "97 98")
    for _ in range(2):
        await saturations(fed, "E E")
    assert await missing(fed) == []
    for _ in range(3):
        await saturations(fed, "E E")
    (call,) = await missing(fed)
    assert "sensor" in call["description"]
    await saturations(fed, "E 97")
    assert await missing(fed) == []
    for _ in range(4):
        await saturations(fed, "E E")
    assert len(await missing(fed)) == 1


async def test_a_sensor_that_comes_off_again_calls_again_where_a_person_has_ended_the_first_call(fed):
    await saturations(fed, "97 98")
    for _ in range(5):
        await saturations(fed, "E E")
    (call,) = await missing(fed)
    await fed.sessions.update({**call, "status": "completed", "owner": {"reference": "Practitioner/nurse"}})
    for _ in range(3):
        await saturations(fed, "E E")
    assert await missing(fed) == []
    await saturations(fed, "97 97")
    await saturations(fed, "97 97")
    for _ in range(4):
        await saturations(fed, "E E")
    assert [one["id"] for one in await missing(fed)] == [call["id"]]
