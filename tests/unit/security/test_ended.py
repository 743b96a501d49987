"""What the gateway asks the issuer of all who subscribed: in requests that an issuer takes, however many they are."""

from __future__ import annotations

import json

import httpx
import pytest

from services.identity.asking import LONGEST_BODY
from shared.security.bearer import ASKED_AT_ONCE, ENDED, Issuer
from shared.security.caller import Caller
from shared.security.scopes import parse_scopes

ISSUER = "https://issuer.example"


@pytest.mark.parametrize("several", [0, 1, ASKED_AT_ONCE, 2000])
@pytest.mark.parametrize(
    "scope", ["system/Patient.rs", "user/Observation.rs?patient.general-practitioner=Practitioner/" + "a" * 64]
)
async def test_the_issuer_is_asked_about_everybody_in_requests_that_it_takes(scope, several):
    asked = []

    def answer(request):
        if request.method == "GET":
            return httpx.Response(200, json={"issuer": ISSUER, ENDED: f"{ISSUER}/auth/ended"})
        assert len(request.content) < LONGEST_BODY
        body = json.loads(request.content)
        assert len(body["held"]) <= ASKED_AT_ONCE
        asked.extend(one["client"] for one in body["held"])
        ends = [place for place, one in enumerate(body["held"]) if one["client"] == callers[-1].client]
        return httpx.Response(200, json={"clients": [], "grants": [], "tokens": [], "narrowed": ends})

    callers = [
        Caller("default", client=f"{number:036}", user=f"Practitioner/{number:036}", role="partner-physician",
               token=f"{number:036}", grant=f"{number:036}", scopes=parse_scopes(scope))
        for number in range(several)
    ]  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        ended = await Issuer(ISSUER, client).ended(callers)
    assert asked == [one.client for one in callers]
    assert [one.client for one in callers if ended.why(one) is not None] == [one.client for one in callers[-1:]]
