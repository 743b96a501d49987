"""A number that somebody sends is taken for what it says, or refused: never its beginning, and however long it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.gateway.everything import asked_by
from shared.fhir.outcome import BadRequest
from shared.http import audit_events, conformance
from shared.http.backend import parse_awaits, parse_positions
from shared.http.operations import lastn

TAKING: dict[str, Callable[[str], object]] = {
    "X-Kap-Await": lambda text: parse_awaits(f"intake Patient/1 {text}", "default"),
    "X-Kap-Position": lambda text: parse_positions(f"intake default Patient/1 {text}"),
    "$everything": lambda text: asked_by([("_count", text)]),
    "AuditEvent": audit_events._number,
    "metadata": conformance._number,
    "$lastn": lambda text: lastn._most([text]),
}


@pytest.mark.parametrize("take", TAKING.values(), ids=TAKING)
@pytest.mark.parametrize("text", ["000000001" + "9" * 25, "1" * 5000, "-1", "1.0", "one", ""])
def test_a_number_that_is_too_long_or_none_is_refused(take: Callable[[str], object], text: str) -> None:
    with pytest.raises(BadRequest):
        take(text)


@pytest.mark.parametrize("take", TAKING.values(), ids=TAKING)
def test_a_number_that_may_be_is_taken(take: Callable[[str], object]) -> None:
    assert take("10") is not None
