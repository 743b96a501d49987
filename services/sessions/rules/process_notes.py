"""Therapists' process notes: what a note must be, and whom a patient lets read one. Pure.

A process note is what a therapist writes for himself about a conversation (a "psychotherapy note"). It is no part of
the session record: drug, times, vital signs, scores, progress and plan belong there, and flow.

Source: 45 CFR 164.501 (definition), 164.508(a)(2) and (b)(3)(ii) (an authorization of its own), 164.524(a)(1)(i).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from shared.fhir.codes import ACT_CODE, ACT_REASON, CONSENT_PRIVACY, PARTICIPATION
from shared.fhir.dates import period_interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import (
    codes_of,
    comes_from_elsewhere,
    has_code,
    id_in,
    is_given_by_the_patient,
    is_opt_out,
    moment,
)
from shared.fhir.outcome import Issue

LABEL: Final = "PSYTHPN"
CONFIDENTIALITY: Final = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
SECURITY: Final = (
    {"system": ACT_CODE, "code": LABEL, "display": "psychotherapy note information sensitivity"},
    {"system": CONFIDENTIALITY, "code": "R", "display": "restricted"},
)
"""The labels that every process note bears."""

BEARS: Final = frozenset((LABEL, "PSY", "MH", "BH", "R"))
"""What a denial may call process notes by: their labels, and what is wider than these."""

_RECIPIENT: Final = re.compile(r"([A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64})(?:/_history/.*)?")

WRITERS: Final = ("Practitioner", "PractitionerRole")
STATUSES: Final = ("current", "entered-in-error")
SOURCE: Final = "45 CFR 164.501, psychotherapy notes"


def check_note(note: Resource, author: str) -> list[Issue]:
    """Return what is wrong with a process note that `author` (``Practitioner/<id>``) writes."""
    return [_issue(said, where, rule) for said, where, rule in _against(note, author)]


def _against(note: Resource, author: str) -> Iterator[tuple[str, str, str]]:
    if id_in(note.get("subject"), "Patient") is None:
        yield "A process note is about one patient: name him as subject.", "subject", "N-SUBJECT"
    if note.get("status") not in STATUSES:
        yield f"The status of a process note is one of {', '.join(STATUSES)}.", "status", "N-STATUS"
    named = [one.get("reference") for one in note.get("author", [])]
    if named and named != [author]:
        yield f"Only its author writes a process note. Leave author out, or name {author}.", "author", "N-AUTHOR"
    for number, content in enumerate(note.get("content", [])):
        attachment = content.get("attachment", {})
        where = f"content[{number}].attachment"
        if "data" not in attachment or "url" in attachment:
            yield "The text of a process note is within it, as attachment.data, and nowhere else.", where, "N-TEXT"
        if not str(attachment.get("contentType", "")).startswith("text/"):
            yield "A process note is text: contentType text/plain or text/markdown.", f"{where}.contentType", "N-TEXT"


def _issue(said: str, where: str, rule: str) -> Issue:
    return Issue(said, code="business-rule", expression=(f"DocumentReference.{where}",), rule=rule, source=SOURCE)


def labelled(note: Resource, *, author: str, version: int, now: datetime) -> Resource:
    """Return a note as it is kept: its author, its version, and the labels of a process note among its own."""
    meta = note.get("meta", {})
    ours = {label["code"] for label in SECURITY}
    own = [label for label in meta.get("security", []) if label.get("code") not in ours]
    kept = {**meta, "versionId": str(version), "lastUpdated": zulu(now), "security": [*SECURITY, *own]}
    return {**note, "author": [{"reference": author}], "meta": kept}


def authorising(consents: Iterable[Resource], reader: str, when: datetime) -> Resource | None:
    """Return the Consent by which a patient lets `reader` see process notes at `when`; None: he does not.

    It is an authorization of its own: a privacy consent in force, given by the patient or who stands in for him, that
    permits PSYTHPN, that label and no other, to the reader by name, and was taken by the clinic. One in force that
    denies goes before every permission, whichever is older and wherever it comes from: a denial without actors is to
    everybody, one without labels about everything, and what of it nothing here understands widens it. Within one
    Consent a permission by name is an exception from what its rule denies.
    """
    found = None
    for consent in consents:
        if consent.get("status") != "active" or not has_code(consent.get("scope"), CONSENT_PRIVACY):
            continue
        rule = consent.get("provision") or ({"type": "deny"} if is_opt_out(consent) else {})
        permits = _permits(consent, rule, reader, when)
        exceptions = [one for one in rule.get("provision", ()) if one.get("type") != "permit"]
        within = _denies(rule, reader, when)  # an exception is from its rule: to whom, of what, when that is
        if within and (any(_denies(one, reader, when) for one in exceptions) or (_is_deny(rule) and not permits)):
            return None
        if permits:
            found = consent
    return found


def _permits(consent: Resource, rule: Mapping[str, Any], reader: str, when: datetime) -> bool:
    """Tell whether a Consent lets `reader` see process notes, by name and of its own accord."""
    if moment(consent.get("dateTime")) > when or not _in_force(rule, when):
        return False
    if comes_from_elsewhere(consent) or not is_given_by_the_patient(consent):
        return False
    return any(
        one.get("type") == "permit"
        and _in_force(one, when)
        and reader in _recipients(one)
        and {str(each.get("code")) for each in one.get("securityLabel", [])} == {LABEL}
        for one in (rule, *rule.get("provision", []))
    )


def _is_deny(rule: Mapping[str, Any]) -> bool:
    return bool(rule) and rule.get("type") != "permit"


def _denies(provision: Mapping[str, Any], reader: str, when: datetime) -> bool:
    """Tell whether a provision, if it denies, is about process notes, to `reader`, now."""
    named = [_RECIPIENT.fullmatch(str(one.get("reference", {}).get("reference"))) for one in provision.get("actor", [])]
    labels = [one.get("code") for one in provision.get("securityLabel", [])]
    purposes = [one.get("code") for one in provision.get("purpose", []) if one.get("system") == ACT_REASON]
    data = provision.get("data", [])
    return (
        _in_force(provision, when)
        and (not named or not all(named) or reader in {one[1] for one in named if one})
        and (not labels or not all(labels) or not BEARS.isdisjoint(labels))
        and (len(purposes) < len(provision.get("purpose", [])) or not purposes or "TREAT" in purposes)
        and (not data or any(_may_be_a_note(one) for one in data))
    )


def _may_be_a_note(data: Mapping[str, Any]) -> bool:
    """Tell whether `data` of a denial names process notes: by who wrote them, or one by its reference."""
    named = str(data.get("reference", {}).get("reference", ""))
    return (
        data.get("meaning") not in ("instance", "related", "dependents")
        or not _RECIPIENT.fullmatch(named)
        or (named.startswith(("DocumentReference/", "Patient/")))
    )


def _in_force(provision: Mapping[str, Any], when: datetime) -> bool:
    period = period_interval(provision.get("period", {}))
    return period is None or period[0] <= when < period[1]


def _recipients(provision: Mapping[str, Any]) -> set[str]:
    return {
        str(one.get("reference", {}).get("reference", ""))
        for one in provision.get("actor", [])
        if "IRCP" in codes_of(one.get("role"), PARTICIPATION)
    }
