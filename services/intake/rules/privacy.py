"""Privacy consents: what IHE's PCF asks of one, and which of the patterns that a clinic can enforce it is.

Source: IHE ITI Privacy Consent on FHIR (PCF); the patterns P1 to P9 are in `kap-domain` 6.3. Enforced by
`shared/store/visibility.py` (ADR 24).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from shared.fhir.codes import ACT_CODE, ACT_REASON, LOINC, PARTICIPATION
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, concepts, is_given_by_the_patient
from shared.fhir.outcome import Issue

SOURCE: Final = "IHE ITI Privacy Consent on FHIR (PCF), Consent"
TREATMENT_PAYMENT_OPERATIONS: Final = frozenset(("TREAT", "HPAYMT", "HOPERAT"))
SUBSTANCE_USE: Final = frozenset(("SUD", "ETH", "ETHUD", "OPIOIDUD"))
PSYCHOTHERAPY_NOTES: Final = "PSYTHPN"


def check_privacy(consent: Resource) -> list[Issue]:
    """Return what an active privacy consent has against PCF, or that it is none of the patterns."""
    issues = [_issue(said, where) for said, where in _against(consent)]
    if not issues and not patterns(consent):
        issues.append(
            Issue(
                "This consent is none of the patterns that this clinic can enforce: P1 permit treatment, payment and "
                "operations; P2 permit named recipients; P3 the same without substance use data; P4 without "
                "psychotherapy notes; P5 42 CFR Part 2; P6 emergency only; P7 opt-out; P8 not to payers; P9 research. "
                "Write it as one of these.",
                code="business-rule",
                expression=("Consent.provision",),
                rule="P-PATTERN",
                source="kap-domain 6.3",
            )
        )
    return issues


def check_notes(consent: Resource, writer: str | None) -> list[Issue]:
    """Return what stands against a privacy consent that lets somebody read process notes (PSYTHPN).

    The patient gives it, or who stands in for him, and nobody writes one for himself: `writer` is the resource of the
    person who does, None where that is not known.

    Source: 45 CFR 164.508(a)(2)
    """
    readers = {
        str(actor.get("reference", {}).get("reference", ""))
        for provision in (consent.get("provision", {}), *_exceptions(consent.get("provision", {})))
        if provision.get("type") == "permit"
        and PSYCHOTHERAPY_NOTES in {str(one.get("code")) for one in provision.get("securityLabel", [])}
        for actor in provision.get("actor", [])
    }
    if not readers:
        return []
    said = []
    if not is_given_by_the_patient(consent):
        said.append(("needs the patient, or a RelatedPerson for him, as performer: it is his to give", "performer"))
    if writer is not None and writer in readers:
        said.append(("lets the person who writes it read process notes: somebody else has to write it", "provision"))
    return [_issue(*one) for one in said]


def _against(consent: Resource) -> Iterator[tuple[str, str]]:
    if "59284-0" not in codes_of(consent.get("category"), LOINC):
        yield "needs the category LOINC 59284-0 (consent document)", "category"
    yield from (
        (f"needs {name}", name)
        for name in ("patient", "dateTime", "performer", "organization")
        if not consent.get(name)
    )
    if not ("sourceReference" in consent or "sourceAttachment" in consent):
        yield "needs its source (sourceReference or sourceAttachment): the signed document", "source[x]"
    if not any(one.get("uri") for one in consent.get("policy", [])):
        yield "needs policy.uri: the policy it is given under", "policy"
    if consent.get("verification"):
        yield "has a verification, which PCF does not allow", "verification"
    provision = consent.get("provision")
    if not provision or provision.get("type") not in ("permit", "deny"):
        yield "needs a provision of type permit or deny", "provision"
        return
    yield from _against_provision(provision, "provision")
    for number, exception in enumerate(provision.get("provision", [])):
        where = f"provision.provision[{number}]"
        yield from _against_provision(exception, where)
        if exception.get("type") not in ("permit", "deny"):
            yield "needs an exception of type permit or deny", where
        if exception.get("provision"):
            yield "has exceptions of exceptions; PCF allows one level", where


def _against_provision(provision: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    for name in ("action", "class", "code"):
        if provision.get(name):
            yield f"has provision.{name}, which PCF does not allow", f"{where}.{name}"
    for number, actor in enumerate(provision.get("actor", [])):
        if "IRCP" not in codes_of(actor.get("role"), PARTICIPATION):
            yield "names an actor who is not a recipient (v3-ParticipationType IRCP)", f"{where}.actor[{number}].role"


def patterns(consent: Resource) -> frozenset[str]:
    """Return which of the patterns P1 to P9 a privacy consent that PCF allows is; several may be joined."""
    provision: Mapping[str, Any] = consent.get("provision", {})
    categories = set(codes_of(consent.get("category"), ACT_CODE))
    purposes = _purposes(provision)
    policies = {str(one.get("uri", "")).rpartition("#")[-1] for one in consent.get("policy", [])} | {
        coding.get("code") for rule in concepts(consent.get("policyRule")) for coding in rule.get("coding", [])
    }
    found = set()
    if provision.get("type") == "deny":
        if categories & {"OPTOUT", "OPTOUTE"} or policies & {"OPTOUT", "OPTOUTE"}:
            found.add("P7")
        if "EMRGONLY" in categories | policies or any("ETREAT" in _purposes(one) for one in _exceptions(provision)):
            found.add("P6")
        return frozenset(found)
    if purposes and purposes <= TREATMENT_PAYMENT_OPERATIONS:
        found.add("P2" if provision.get("actor") else "P1")
    if purposes == {"HRESCH"}:
        found.add("P9")
    if "42CFRPart2CD" in categories and purposes & TREATMENT_PAYMENT_OPERATIONS:
        found.add("P5")
    for exception in _exceptions(provision):
        if exception.get("type") != "deny":
            continue
        labels = {str(one.get("code")) for one in exception.get("securityLabel", [])}
        if labels & SUBSTANCE_USE:
            found.add("P3")
        if PSYCHOTHERAPY_NOTES in labels:
            found.add("P4")
        if "hipaa-self-pay" in policies and _purposes(exception) == {"HPAYMT"}:
            found.add("P8")
    return frozenset(found)


def _exceptions(provision: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(provision.get("provision", []))


def _purposes(provision: Mapping[str, Any]) -> set[str]:
    return {str(one.get("code")) for one in provision.get("purpose", []) if one.get("system") == ACT_REASON}


def _issue(said: str, where: str) -> Issue:
    return Issue(
        f"A privacy consent {said}. Correct it, or leave it a draft.",
        code="business-rule",
        expression=(f"Consent.{where}",),
        rule="P-PCF",
        source=SOURCE,
    )
