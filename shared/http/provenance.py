"""`X-Provenance`: who made what a request writes, and from what, kept in the transaction of the write (ADR 15).

The header is a Provenance as JSON in one line, without `target`: the server names the versions that it wrote. It goes
with a create, update, patch, delete, transaction or operation; in a batch, with each entry.

Source: https://hl7.org/fhir/R4/provenance.html#6.3.4.5
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shared.fhir.json import Resource, dump, parse
from shared.fhir.outcome import BadRequest
from shared.fhir.validation import require_valid

if TYPE_CHECKING:
    from shared.store.types import Stored

HEADER: Final = "X-Provenance"
KEPT_AS: Final = "X-Kap-Provenance"
"""The header of an answer that names the Provenance that was kept: ``Provenance/<id>``."""

_WHERE: Final = "http.x-provenance"
_ANY: Final = "urn:uuid:00000000-0000-4000-8000-000000000000"


def provenance_in(header: str) -> Resource:
    """Return the Provenance in a header, valid but for the `target` that it is to get.

    Raises:
        BadRequest: it is none, is not valid, or names a target itself.

    """
    try:
        said = parse(header.encode("latin-1"))
    except BadRequest as error:
        raise _in_the_header(error) from error
    if not isinstance(said, dict) or said.get("resourceType") != "Provenance":
        raise BadRequest(f"{HEADER} holds a Provenance as JSON, in one line.", expression=[_WHERE])
    if "target" in said or "id" in said:
        raise BadRequest(
            f"A Provenance in {HEADER} has neither target nor id: the target is what this request writes. Leave them "
            "out, or create the Provenance by itself.",
            expression=[_WHERE],
        )
    try:
        require_valid({**said, "target": [{"reference": _ANY}]})
    except BadRequest as error:
        raise _in_the_header(error) from error
    return said


def _in_the_header(error: BadRequest) -> BadRequest:
    return BadRequest([replace(issue, expression=(_WHERE, *issue.expression)) for issue in error.issues])


def in_one_line(provenance: Resource) -> str:
    """Return a Provenance as the header holds it, which is ASCII."""
    text = dump(provenance).decode()
    return re.sub(r"[^\x20-\x7e]", lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    """Return a character as JSON escapes it: by UTF-16, beyond the first plane a pair."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def of_versions(provenance: Resource, versions: Iterable[Stored]) -> Resource:
    """Return the Provenance of what was written."""
    targets = [{"reference": f"{one.type}/{one.id}/_history/{one.version}"} for one in versions]
    return {"resourceType": "Provenance", "target": targets, **provenance}
