from __future__ import annotations

import re

import pytest

from shared.runtime.tracing import continued, trace_of

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_goes_on_with_this_hop_as_the_next_ones_parent():
    one, two = continued(GIVEN), continued(GIVEN)
    assert trace_of(one) == trace_of(two) == trace_of(GIVEN)
    assert one.endswith("-01")
    assert len({one, two, GIVEN}) == 3


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "00-ab-cd-01",
        GIVEN.upper(),
        f"{GIVEN}\r\nX: y",
        f"{GIVEN}-more",
        "ff" + GIVEN[2:],
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
    ],
)
def test_what_is_no_trace_context_begins_a_new_trace(given):
    made = continued(given)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", made)
    assert trace_of(made) not in str(given)


def test_a_later_version_of_the_header_is_read_as_far_as_it_is_known():
    assert trace_of(continued(f"cc{GIVEN[2:]}-what.the.future.will.be")) == trace_of(GIVEN)
