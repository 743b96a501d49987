"""One trace from a request to all that comes of it: the owner's commit, its event, each consumer, the hospital.

Source: https://www.w3.org/TR/trace-context/ (version 00). Each hop keeps the trace id and the flags, and names itself
as the parent of the next. Nothing is collected here: log lines and records of each hop are found by the trace id.
"""

from __future__ import annotations

import re
import secrets

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?")
_NOT_SAMPLED = "00"


def continued(traceparent: str | None) -> str:
    """Return the trace context of this hop: of the same trace as what came, else of a new one.

    What is not a `traceparent` is as good as none, as the recommendation has it; of a later version what this one knows
    is read.
    """
    matched = None if traceparent is None else _FORM.fullmatch(traceparent)
    if matched is None or (matched.group(3) and matched.group(0).startswith("00")):
        return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{_NOT_SAMPLED}"
    trace, flags = matched.group(1), matched.group(2)
    return f"00-{trace}-{secrets.token_hex(8)}-{flags}"


def trace_of(traceparent: str) -> str:
    """Return the trace id in a `traceparent` of this program."""
    return traceparent.split("-")[1]
