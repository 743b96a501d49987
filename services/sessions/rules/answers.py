"""What is asked before a dose, and what else keeps its gate closed: answers, suicidality, the REMS. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from services.sessions.rules.checks import Check, Decision, Needed, Verdict, simple
from services.sessions.rules.visits import VIRTUAL_CLASS
from shared.fhir.cited import Cited
from shared.fhir.json import Resource
from shared.fhir.kap import Drug


class Answer(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an answer of the questionnaire kap-pre-dose must be.

    Attributes:
        rule, title, link, advice: the rule, what is asked, the item's linkId, what to do.
        required: when it must be answered.
        bad: this answer closes the gate; below: so does a number below it, in `unit`; named: so does no text.
        drug: only for this drug. not_for: not asked of this gender. only: asked where that item is answered yes.
        decidable: whether a prescriber's documented decision lets it pass. warns: it is told, and closes nothing.

    """

    rule: str
    title: str
    link: str
    advice: str
    required: Needed
    bad: bool | None = None
    below: Decimal | None = None
    unit: str = ""
    named: bool = False
    drug: Drug | None = None
    not_for: str | None = None
    only: str | None = None
    decidable: bool = False
    warns: bool = False


class Risk(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which Flags say that a patient is at risk of suicide: codes of theirs."""

    rule: str
    flags: tuple[str, ...]
    decidable: bool


class Held(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer (linkId) that says that what was to be held before a dose was held."""

    rule: str
    link: str
    decidable: bool


class Rems(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The REMS of esketamine; `inpatient`: classes of an Encounter in which the patient is not enrolled."""

    inpatient: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """The newest answered questionnaire kap-pre-dose of a visit: its reference, when, and the answers by linkId."""

    reference: str
    when: datetime
    answers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What is known of the REMS: whether the setting is certified, the patient enrolled, somebody watches the dose."""

    site: bool
    patient: bool
    witness: bool


NOT_ENROLLED: Final = Enrolment(site=False, patient=False, witness=False)


def answers_in(response: Resource) -> dict[str, Any]:
    """Return the first answer of each item of a QuestionnaireResponse, by linkId, groups and all."""
    found: dict[str, Any] = {}
    for item in response.get("item", []):
        for answer in item.get("answer", [])[:1]:
            values = [value for name, value in answer.items() if name.startswith("value")]
            found.update({item["linkId"]: values[0]} if values else {})
            found.update(answers_in(answer))
        found.update(answers_in(item))
    return found


def answer_checks(
    asked: Asked | None,
    wanted: Iterable[Answer],
    decisions: Sequence[Decision],
    *,
    drug: Drug,
    gender: str | None,
    at_home: bool,
) -> Iterator[Check]:
    """Yield a check for each answer that is asked of this patient for this drug."""
    answers = {} if asked is None else asked.answers
    for one in wanted:
        if (one.drug not in (None, drug)) or (one.not_for is not None and one.not_for == gender):
            continue
        if one.only is not None and answers.get(one.only) is False:
            continue
        yield _answered(one, asked, answers.get(one.link), decisions, at_home=at_home)


def _answered(one: Answer, asked: Asked | None, answer: Any, decisions: Sequence[Decision], *, at_home: bool) -> Check:
    limit = None if one.below is None else f"at least {one.below:f} {one.unit}"
    value = None if answer is None else f"{answer} {one.unit}".strip()
    is_bad = _is_bad(one, answer)
    decided = [] if asked is None or not one.decidable else _decided(decisions, one.rule, asked.when)
    verdict: Verdict = "open"
    text, closes = "In order.", False
    if is_bad is None:
        verdict, text = "not-known", f"{one.title}: not answered. Ask, and record it (kap-pre-dose, item {one.link})."
        closes = (one.required == "always" or (one.required == "clinic" and not at_home)) and not one.warns
    elif is_bad:
        verdict = "decided" if decided else "warned" if one.warns else "closed"
        text = f"{one.title}: the answer is {value}. {one.advice}"
        closes = verdict == "closed"
    return Check(
        one.rule,
        one.title,
        verdict,
        text,
        one.source,
        closes,
        value=value,
        limit=limit,
        evidence=(*(() if asked is None else (asked.reference,)), *decided[-1:]),
        decidable=one.decidable and is_bad is True,
    )


def _decided(decisions: Sequence[Decision], rule: str, since: datetime) -> list[str]:
    return [made.reference for made in decisions if made.rule == rule and made.when >= since]


def _is_bad(one: Answer, answer: Any) -> bool | None:
    """Return whether an answer speaks against the dose; None: it is not known."""
    if one.named:
        return None if answer is None else not str(answer).strip()
    if one.bad is not None:
        return answer == one.bad if isinstance(answer, bool) else None
    if isinstance(answer, bool) or not isinstance(answer, int | float | Decimal) or one.below is None:
        return None
    return Decimal(str(answer)) < one.below


def risk_check(flags: Sequence[tuple[str, datetime]], risk: Risk, decisions: Sequence[Decision]) -> Check:
    """Return the check of Flags for suicidality that are up: reference and since when of each."""
    newest = max((when for _, when in flags), default=None)
    title = "No flag for suicidality"
    if newest is None:
        return simple(risk.rule, title, opens=True, text="", source=risk.source)
    decided = _decided(decisions, risk.rule, newest) if risk.decidable else []
    return Check(
        risk.rule,
        title,
        "decided" if decided else "closed",
        "a flag for suicidality is up. Follow the escalation; a prescriber documents the decision.",
        risk.source,
        closes=not decided,
        evidence=(*(reference for reference, _ in flags), *decided[-1:]),
        decidable=risk.decidable,
    )


def held_check(holds: Sequence[str], asked: Asked | None, held: Held, decisions: Sequence[Decision]) -> Check:
    """Return the check of medicines to be held before a dose; `holds`: the DetectedIssues that say so.

    That it was not held closes the gate, and a prescriber may decide; so does that nobody has asked, until it is.
    """
    title = "Medicines held before the dose"
    answer = None if asked is None else asked.answers.get(held.link)
    if not holds or answer is True:
        return Check(held.rule, title, "open", "In order.", held.source, closes=False, evidence=tuple(holds))
    if answer is not False or asked is None:
        text = f"Screening says that a medicine is to be held. Ask whether it was (kap-pre-dose, item {held.link})."
        return Check(held.rule, title, "not-known", text, held.source, closes=True, evidence=tuple(holds))
    decided = _decided(decisions, held.rule, asked.when) if held.decidable else []
    return Check(
        held.rule,
        title,
        "decided" if decided else "closed",
        "A medicine that was to be held before the dose was not held. Wait, or have a prescriber decide.",
        held.source,
        closes=not decided,
        evidence=(*holds, asked.reference, *decided[-1:]),
        decidable=held.decidable,
    )


def rems_checks(enrolment: Enrolment, visit: Resource | None, rems: Rems) -> Iterator[Check]:
    """Yield the checks of the REMS for esketamine."""
    kind = (visit or {}).get("class", {}).get("code")
    yield simple(
        "G-REMS-SITE",
        "Setting certified",
        opens=enrolment.site,
        text="the setting is not known to be certified: give its Location or Organization the identifier of the REMS.",
        source=rems.source,
    )
    if kind not in rems.inpatient:
        yield simple(
            "G-REMS-PATIENT",
            "Patient enrolled",
            opens=enrolment.patient,
            text="the patient is not known to be enrolled: give the Patient the identifier of the REMS.",
            source=rems.source,
        )
    yield simple(
        "G-REMS-WITNESS",
        "Self-administration observed",
        opens=enrolment.witness and kind != VIRTUAL_CLASS.code,
        text="it is self-administered under the eyes of a professional in the setting, never at home: name the witness "
        "(performer with function witness).",
        source=rems.source,
    )
