"""What goes with a disclosure under 42 CFR Part 2: the notice, and the consent it is made by; pure.

The same for what is pushed and for what somebody outside reads. Only what comes of a programme bears the label
42CFRPart2 (`policies/labels.yaml`), so nothing else is told so.

Source: 42 CFR 2.32(a) (notice), 2.32(b) (copy of the consent or explanation of its scope), 2.12(d) (legal proceedings);
HL7 DS4P, https://hl7.org/fhir/uv/security-label-ds4p (display on `meta`, related artifact on the label)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from shared.fhir.codes import ACT_CODE
from shared.fhir.content import labelled
from shared.store.visibility import PART_2

if TYPE_CHECKING:
    from shared.fhir.json import Resource
    from shared.store.behind import Behind

NOTICE: Final = "42 CFR part 2 prohibits unauthorized use or disclosure of these records."
"""The short form of the notice: 42 CFR 2.32(a)(2)."""

_DS4P: Final = "http://hl7.org/fhir/uv/security-label-ds4p/StructureDefinition/"
DISPLAY: Final = f"{_DS4P}extension-display"
RELATED: Final = f"{_DS4P}extension-related-artifact"
_TPO: Final = frozenset(("TREAT", "HPAYMT", "HOPERAT"))
NO_REDISCLOSURE: Final = {"system": ACT_CODE, "code": "NORDSCLCD"}


def with_notice(sent: Resource, behind: Sequence[Behind], *, own_base: str | None) -> Resource:
    """Return what is told of a programme with the notice and the Consents `behind` it; `own_base` None: not which ones.

    No redisclosure without consent (NORDSCLCD) is said where no consent is one for treatment, payment and operations:
    under such a one a covered entity may redisclose as HIPAA has it (42 CFR 2.33(b)(1)).
    """
    for_tpo = any(one.scope >= _TPO for one in behind)
    marked = labelled(sent, {"system": ACT_CODE, "code": PART_2}, *(() if for_tpo else (NO_REDISCLOSURE,)))
    meta: dict[str, Any] = marked["meta"]
    consents = [{"url": RELATED, "valueRelatedArtifact": _artifact(one, own_base)} for one in behind]
    security = [
        {**one, "extension": [*one.get("extension", ()), *consents]} if one.get("code") == PART_2 else one
        for one in meta.get("security", ())
    ]
    display = {"url": DISPLAY, "valueString": NOTICE}
    return {**marked, "meta": {**meta, "extension": [*meta.get("extension", ()), display], "security": security}}


def _artifact(one: Behind, own_base: str | None) -> Resource:
    what = f"for {', '.join(sorted(one.scope))}" if one.scope else "for any purpose"
    said: Resource = {"type": "documentation", "display": f"The patient's consent {what}"}
    return said if own_base is None else {**said, "url": f"{own_base}/{one.consent}"}
