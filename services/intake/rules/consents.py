"""What an informed consent to the treatment must say, element by element. Policy: `policies/consent.yaml`.

Each element is an extension `consent-element` of the Consent: which, when, in which version of its text, in which
language, who signed, who witnessed, and whether it was agreed to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.codes import EXT_CONSENT_ELEMENT
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, consent_routes
from shared.fhir.outcome import Issue


class Witness(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether somebody must have witnessed each signature."""

    required: bool


class Element(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An element of the informed consent, and the version of its text that is signed today."""

    text: str
    version: str
    routes: tuple[str, ...] = ()
    drugs: tuple[Drug, ...] = ()
    not_drugs: tuple[Drug, ...] = ()
    may_decline: bool = False


class ConsentPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `consent`."""

    witness: Witness
    elements: dict[str, Element]


@dataclass(frozen=True, slots=True)
class Signed:
    """An element as a Consent has it; None where a part is missing."""

    name: str
    at: datetime | None
    version: str | None
    language: str | None
    signer: str | None
    witness: str | None
    agreed: bool


def signed_elements(consent: Resource) -> list[Signed]:
    """Return the elements that a Consent has."""
    found = []
    for one in consent.get("extension", []):
        if one.get("url") == EXT_CONSENT_ELEMENT:
            parts: dict[str, Mapping[str, Any]] = {part.get("url"): part for part in one.get("extension", [])}
            at = parts.get("at", {}).get("valueDateTime")
            found.append(
                Signed(
                    name=str(parts.get("element", {}).get("valueCode")),
                    at=None if at is None else interval(at)[0],
                    version=parts.get("version", {}).get("valueString"),
                    language=parts.get("language", {}).get("valueCode"),
                    signer=parts.get("signer", {}).get("valueReference", {}).get("reference"),
                    witness=parts.get("witness", {}).get("valueReference", {}).get("reference"),
                    agreed=parts.get("agreed", {}).get("valueBoolean", True),
                )
            )
    return found


def needed_elements(routes: frozenset[str], drug: Drug | None, policy: ConsentPolicy) -> list[str]:
    """Return the elements that a consent to routes, and a drug where it names one, must have."""
    return [
        name
        for name, one in policy.elements.items()
        if (not one.routes or routes & set(one.routes))
        and (not one.drugs or drug in one.drugs)
        and drug not in one.not_drugs
    ]


def check_elements(consent: Resource, drug: Drug | None, now: datetime, policy: ConsentPolicy) -> list[Issue]:
    """Return what the elements of a treatment consent that is to be in force lack."""
    found = {one.name: one for one in signed_elements(consent)}
    issues = [
        _issue(f"There is no element '{name}' that the clinic's policy has. Leave it out.", policy.witness, position)
        for position, name in enumerate(found)
        if name not in policy.elements
    ]
    signers = {str(one.get("reference")) for one in consent.get("performer", [])}
    for name in needed_elements(consent_routes(consent), drug, policy):
        element = policy.elements[name]
        one = found.get(name)
        if one is None:
            issues.append(
                _issue(f"The element '{name}' is missing: {element.text}. Explain it, and have it signed.", element)
            )
            continue
        issues.extend(
            _issue(f"The element '{name}' {lack}. Correct it, or leave the consent a draft.", element)
            for lack in _lacks(one, element, signers, now, policy)
        )
    return issues


def _lacks(one: Signed, element: Element, signers: set[str], now: datetime, policy: ConsentPolicy) -> Iterator[str]:
    missing = [
        what for what, value in (("at", one.at), ("version", one.version), ("language", one.language)) if value is None
    ]
    if missing:
        yield f"lacks {', '.join(missing)}"
    if one.at is not None and one.at > now:
        yield "was signed in the future"
    if one.signer is None or one.signer not in signers:
        yield "is not signed by somebody who gives the consent (Consent.performer)"
    if one.witness is None and policy.witness.required:
        yield "has no witness"
    if one.witness is not None and one.witness == one.signer:
        yield "is witnessed by the signer"
    if not one.agreed and not element.may_decline:
        yield "was not agreed to; without it there is no treatment"


def outdated(consent: Resource, drug: Drug | None, policy: ConsentPolicy) -> list[str]:
    """Return the elements of a consent whose text has changed since, or that are new: to be signed again."""
    signed = {one.name: one.version for one in signed_elements(consent)}
    return [
        name
        for name in needed_elements(consent_routes(consent), drug, policy)
        if signed.get(name) != policy.elements[name].version
    ]


def _issue(said: str, cited: Cited, position: int | None = None) -> Issue:
    where = "Consent.extension" if position is None else f"Consent.extension[{position}]"
    return Issue(said, code="business-rule", expression=(where,), rule="C-ELEMENT", source=cited.source)
