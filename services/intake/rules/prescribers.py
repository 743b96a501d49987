"""Who may order ketamine or esketamine, and where: a role and a licence in force on the day. Sources: `orders.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from shared.fhir.cited import Cited
from shared.fhir.codes import EXT_JURISDICTION, ID_REMS_SITE, KAP
from shared.fhir.dates import period_interval
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, codes_of
from shared.fhir.outcome import Issue


class PrescriberPolicy(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who orders: `roles` are codes of a PractitionerRole."""

    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prescriber:
    """Who ordered, as the directory knows him.

    Attributes:
        named: references of `requester` that are a Practitioner or PractitionerRole; none: nobody is named.
        practitioner: who it is; None: not in the directory.
        roles: his PractitionerRoles, or the one that ordered.
        sites: the Locations where it is ordered for.
        at: when it was ordered.

    """

    named: Sequence[str]
    practitioner: Resource | None
    roles: Sequence[Resource]
    sites: Sequence[Resource]
    at: datetime


def check_prescriber(who: Prescriber, policy: PrescriberPolicy, licence: Cited) -> list[Issue]:
    """Return what forbids this prescriber to order; nothing where he may."""
    if not who.named:
        return [
            _issue(
                "An order of ketamine needs its prescriber: give MedicationRequest.requester as a Practitioner or "
                "PractitionerRole.",
                "RX-PRESCRIBER",
                policy,
            )
        ]
    if who.practitioner is None or who.practitioner.get("active") is False:
        return [
            _issue(
                f"{who.named[0]} is not in the directory as an active practitioner. Record him (Practitioner with his "
                "licence as qualification, PractitionerRole with its period), then order.",
                "RX-PRESCRIBER",
                policy,
                who.named,
            )
        ]
    return [*_role(who, policy), *_licence(who, licence)]


def _role(who: Prescriber, policy: PrescriberPolicy) -> Iterator[Issue]:
    able = [one for one in who.roles if set(policy.roles) & set(codes_of(one.get("code"), KAP))]
    if not any(one.get("active") is not False and _in_force(one.get("period"), who.at) for one in able):
        ended = [f"PractitionerRole/{one['id']}" for one in able]
        said = f"{', '.join(ended)} is not in force then" if ended else "none is in the directory"
        yield _issue(
            f"This needs a PractitionerRole of the prescriber ({', '.join(policy.roles)}) that is active on "
            f"{who.at.date()}; {said}. Record or renew it.",
            "RX-PRESCRIBER",
            policy,
            ended or who.named,
        )


def _licence(who: Prescriber, policy: Cited) -> Iterator[Issue]:
    held = [one for one in (who.practitioner or {}).get("qualification", []) if one.get("period")]
    current = [one for one in held if _in_force(one["period"], who.at)]
    if not current:
        said = "none says from when to when it is valid" if not held else "none of them is valid then"
        yield _issue(
            f"The prescriber's licence for {who.at.date()} is not on record: {said}. Record it as "
            "Practitioner.qualification with its period.",
            "RX-LICENCE",
            policy,
            _himself(who),
        )
        return
    for where in dict.fromkeys(place for site in who.sites if (place := jurisdiction_of(site)) is not None):
        if not any(where in _jurisdictions(one) for one in current):
            yield _issue(
                f"The prescriber has no licence on record for {where}, where it is ordered for. Record it as "
                "Practitioner.qualification with its period and the extension licence-jurisdiction, or let somebody "
                "order who has one.",
                "RX-LICENCE",
                policy,
                [*_himself(who), *(f"Location/{one['id']}" for one in who.sites if jurisdiction_of(one) == where)],
            )


def check_decider(who: Prescriber, policy: PrescriberPolicy, licence: Cited) -> list[Issue]:
    """Return what forbids this prescriber to decide past a finding at that time; nothing where he may.

    He is named, known to the directory, and has a role of `policy` and a licence that are in force.
    """
    if not who.named or who.practitioner is None or who.practitioner.get("active") is False:
        said = f"{who.named[0]} is not" if who.named else "nobody is named who is"
        return [
            _issue(
                f"A decision to proceed is a prescriber's (mitigation.author): {said} in the directory as an active "
                "practitioner. Record him (Practitioner with his licence as qualification, PractitionerRole with its "
                "period), then decide.",
                "E-OVERRIDE",
                policy,
                who.named,
            )
        ]
    lacking = [*_role(who, policy), *_licence(replace(who, sites=()), licence)]
    return [replace(one, rule="E-OVERRIDE") for one in lacking]


def not_his_own(author: str | None, user: str | None, client: str | None) -> str | None:
    """Return why what is an author's alone (``Practitioner/<id>``) was not written by him; None where it was.

    `user` is who is logged in, `client` the client by whose token. Where no token is asked for (neither is known), the
    author is believed. A program without a person is nobody.
    """
    if author is None or user == author or (user is None and client is None):
        return None
    by = "a program without a person" if user is None else user
    return f"{author} has to log in and write it himself, not {by} for him"


def check_site(drug: Drug, who: Prescriber, policy: Cited) -> list[Issue]:
    """Return what forbids to order a drug with a REMS at these places: esketamine only at a certified one."""
    if drug != "esketamine" or any(is_certified(one, who.at) for one in who.sites):
        return []
    return [
        Issue(
            "Esketamine is ordered for a setting that the Spravato REMS has certified, and none is named. Name it "
            "(PractitionerRole.location, or MedicationRequest.performer), and record its number as Location.identifier "
            f"with system {ID_REMS_SITE} and its period.",
            code="business-rule",
            expression=("MedicationRequest.requester",),
            rule="RX-REMS",
            source=policy.source,
            evidence=tuple(f"Location/{one['id']}" for one in who.sites) or tuple(who.named),
        )
    ]


def is_certified(site: Resource, when: datetime) -> bool:
    """Tell whether a Location is certified by the Spravato REMS at a time."""
    return any(
        one.get("system") == ID_REMS_SITE and one.get("value") and _in_force(one.get("period"), when)
        for one in site.get("identifier", [])
    )


def jurisdiction_of(site: Resource) -> str | None:
    """Return where a Location is by ISO 3166-2 (``US-NY``); None where its address names no state."""
    address = site.get("address", {})
    state = str(address.get("state", "")).strip()
    return f"{address.get('country') or 'US'}-{state}" if state else None


def _jurisdictions(qualification: Mapping[str, Any]) -> Iterable[str]:
    return [one["valueCode"] for one in qualification.get("extension", []) if one.get("url") == EXT_JURISDICTION]


def _in_force(period: Mapping[str, str] | None, when: datetime) -> bool:
    span = period_interval(dict(period or {}))
    return span is None or span[0] <= when < span[1]


def _himself(who: Prescriber) -> list[str]:
    return [] if who.practitioner is None else [f"Practitioner/{who.practitioner['id']}"]


def _issue(said: str, rule: str, cited: Cited, evidence: Sequence[str] = ()) -> Issue:
    return Issue(
        said,
        code="business-rule",
        expression=("MedicationRequest.requester",),
        rule=rule,
        source=cited.source,
        evidence=tuple(evidence),
    )
