"""The guard of the directory: who and what is named here carries numbers that can be right."""

from __future__ import annotations

from collections.abc import Callable

from shared.fhir.codes import DEA, NPI
from shared.fhir.kap import comes_from_elsewhere
from shared.fhir.outcome import Issue, Unprocessable
from shared.fhir.registrations import is_dea, is_npi
from shared.runtime.record import Record
from shared.runtime.service import Change

NUMBERS: dict[str, tuple[Callable[[str], bool], str, str]] = {
    NPI: (is_npi, "NPI", "45 CFR 162.406: ten digits, the last a check digit"),
    DEA: (is_dea, "DEA registration number", "21 CFR 1301: two letters, six digits and a check digit"),
}


async def guard_directory(change: Change, record: Record) -> None:
    """Refuse a Practitioner, Organization, Location or PractitionerRole with a number that cannot be one.

    Raises:
        Unprocessable: D-NUMBER, with every such number.

    """
    after = change.after
    if after is None or comes_from_elsewhere(after):
        return
    issues = []
    for position, one in enumerate(after.get("identifier", [])):
        judged = NUMBERS.get(str(one.get("system")))
        if judged is not None and not judged[0](str(one.get("value", ""))):
            issues.append(
                Issue(
                    f"{one.get('value')} is no {judged[1]}: its form or check digit is wrong. Correct it.",
                    code="business-rule",
                    expression=(f"{change.type}.identifier[{position}].value",),
                    rule="D-NUMBER",
                    source=judged[2],
                )
            )
    if issues:
        raise Unprocessable(issues)
