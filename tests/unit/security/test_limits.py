from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from shared.security import limits
from shared.security.caller import Caller, believed
from shared.security.limits import BURST, RateLimit


async def answer(request):
    """Answer as a service does that believes each token: one of a client, of which one may have several (``a.1``)."""
    _, _, token = request.headers.get("authorization", "").partition(" ")
    if token:
        believed(Caller("default", client=token.strip().partition(".")[0]))
    return JSONResponse({})


async def of_itself(_request):
    """Answer without a look at whose token it is, as `metadata` does."""
    return JSONResponse({})


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def http(clock):
    routes = [Route("/fhir/Patient", answer), Route("/fhir/metadata", of_itself), Route("/livez", of_itself)]
    transport = httpx.ASGITransport(RateLimit(Starlette(routes=routes), 2.0, clock))
    async with httpx.AsyncClient(transport=transport, base_url="http://kap.example") as client:
        yield client


async def asked(http, token=None, times=1, path="/fhir/Patient"):
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return [(await http.get(path, headers=headers)).status_code for _ in range(times)]


async def test_who_asks_too_often_is_told_when_to_come_again_and_others_are_not_held_up(http, clock):
    assert await asked(http, "a", 2 * BURST) == [200] * 2 * BURST
    refused = await http.get("/fhir/Patient", headers={"Authorization": "Bearer a"})
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"
    assert refused.json()["issue"][0]["code"] == "throttled"
    assert await asked(http, "b") == [200]
    assert await asked(http) == [200]
    clock.now += 1.0
    assert await asked(http, "a", 3) == [200, 200, 429]


async def test_who_waits_long_has_no_more_than_a_full_bucket(http, clock):
    clock.now += 3600
    assert (await asked(http, "a", 2 * BURST + 1))[-1] == 429


async def test_who_sends_no_token_is_counted_by_address(http):
    assert (await asked(http, None, 2 * BURST + 1))[-1] == 429


async def test_what_keeps_the_stack_running_is_not_counted(http):
    assert set(await asked(http, "a", 5 * BURST, path="/livez")) == {200}


async def test_callers_are_forgotten_before_they_fill_the_memory(http, monkeypatch):
    monkeypatch.setattr(limits, "MOST_CALLERS", 3)
    for number in range(10):
        await asked(http, str(number))
    transport = http._transport
    assert len(transport.app._left) == 3


async def test_who_makes_bearers_up_is_counted_by_his_address(clock):
    async def judged(request):
        good = request.headers.get("authorization") == "Bearer good"
        if good:
            believed(Caller("default", client="good"))
        return JSONResponse({}, status_code=200 if good else 401)

    routes = [Route("/fhir/Patient", judged), Route("/auth/login", of_itself)]
    transport = httpx.ASGITransport(RateLimit(Starlette(routes=routes), 2.0, clock))
    async with httpx.AsyncClient(transport=transport, base_url="http://kap.example") as http:
        assert await asked(http, "good") == [200]
        for path, let_in in (("/fhir/Patient", 401), ("/auth/login", 200)):
            clock.now += 3600
            said = [(await asked(http, f"made-up-{number}", path=path))[0] for number in range(3 * BURST)]
            assert said == [let_in] * 2 * BURST + [429] * BURST, path
        assert await asked(http, "good") == [200], "who was let in has a bucket of his own"


async def test_one_token_is_one_bearer_however_it_is_written(http):
    assert await asked(http, "one") == [200]
    ways = [
        f"{scheme}{' ' * blanks}one{end}" for scheme in ("Bearer", "bearer") for blanks in (1, 2) for end in ("", " ")
    ]
    said = [(await http.get("/fhir/Patient", headers={"Authorization": one})).status_code for one in 20 * ways]
    assert said.count(429) > len(said) / 2


async def test_a_client_has_one_bucket_however_many_tokens_it_has(http):
    fresh = [(await asked(http, f"a.{number}"))[0] for number in range(5 * BURST)]
    assert fresh == [200] * 4 * BURST + [429] * BURST, "its own bucket, and then that of its address"
    assert {(await asked(http, f"a.{number}"))[0] for number in range(BURST)} == {429}


async def test_a_token_that_nobody_looked_at_is_no_bearer(http):
    made_up = [(await asked(http, f"a.{number}", path="/fhir/metadata"))[0] for number in range(3 * BURST)]
    assert made_up == [200] * 2 * BURST + [429] * BURST
