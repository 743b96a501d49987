"""The refusals of an operation that was asked wrongly, or about what is not held: each names its rule and source."""

from __future__ import annotations

from typing import Final

from shared.fhir.outcome import BadRequest, NotFound

PARAMETERS: Final = "Parameters.parameter"
SOURCE: Final = "FHIR R4 operations.html"


def wrongly_asked(said: str, *, code: str = "value", where: str = PARAMETERS) -> BadRequest:
    """Return the refusal (400) of what an operation was given; `said`: what is wrong, and what to give instead."""
    return BadRequest(said, code=code, expression=[where], rule="Q-PARAMETER", source=SOURCE)


def not_held(
    what: str, what_to_do: str = "Look for it by search, and name one that is held.", *, where: str | None = None
) -> NotFound:
    """Return the refusal (404) of an operation on a resource (``Patient/7``) that is not held here.

    `where`: a FHIRPath location; without one the resource's type.
    """
    return NotFound(
        f"{what} is not held here. {what_to_do}",
        expression=[where or what.partition("/")[0]],
        rule="Q-HELD",
        source="FHIR R4 http.html#read",
    )
