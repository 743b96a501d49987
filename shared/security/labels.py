"""Which security labels a resource bears: the policy's section `labels`, applied to what is written. Pure.

Labels only grow: what a resource bore before, it bears again, whoever leaves it out. A resource has one
confidentiality, the highest of what its writer, its last version and the rules say.

Source: https://hl7.org/fhir/R4/security-labels.html, HL7 DS4P; codes of v3-ActCode and v3-Confidentiality
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from html import unescape
from typing import Any, Final

import msgspec

from shared.fhir.cited import Cited, Term, ValueSet
from shared.fhir.codes import ACT_CODE, CONFIDENTIALITY
from shared.fhir.extraction import compartment_key, labels_of
from shared.fhir.json import Json, Resource
from shared.fhir.links import links_of
from shared.fhir.outcome import Issue, Unprocessable
from shared.security.scopes import CLINIC_NAME

LEVELS: Final = ("U", "L", "M", "N", "R", "V")
"""Of confidentiality, lowest first; what bears none is N (normal)."""

ANY: Final = "*"

_UNIT: Final = re.compile(rf"({CLINIC_NAME.pattern}@)?[A-Z][A-Za-z]{{1,63}}/[A-Za-z0-9\-.]{{1,64}}")


class Rule(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which resources get `labels` and `confidentiality`; see `policies/labels.yaml`."""

    title: str
    types: tuple[str, ...]
    labels: tuple[str, ...] = ()
    confidentiality: str | None = None
    sets: tuple[str, ...] = ()
    codes: tuple[Term, ...] = ()
    words: tuple[str, ...] = ()
    questionnaires: tuple[str, ...] = ()


class VeryRestricted(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Resources of `types` that bear one of `labels` are V."""

    labels: tuple[str, ...]
    types: tuple[str, ...]


class ProcessNotes(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is a process note: what bears `label` or one of `laws`; of `types` what has one of `words` in its `type`."""

    label: str
    laws: tuple[str, ...] = ()
    types: tuple[str, ...]
    words: tuple[str, ...]


class Part2(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is a programme under 42 CFR Part 2: each clinic of the installation, or these clinics, or these units.

    Its records are whatever it writes of a patient, that he is one among it (2.11, "records"). A unit is
    ``clinic@Organization/1``, of that clinic; one without a clinic (``Organization/1``) is of each that has it.
    """

    label: str
    whole_clinic: bool = False
    clinics: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def of(self, clinic: str) -> Part2:
        """Return what of it is about one clinic, which names none any more."""
        own = [(name, unit) for name, _, unit in (one.rpartition("@") for one in self.units) if name in ("", clinic)]
        return msgspec.structs.replace(
            self,
            whole_clinic=self.whole_clinic or clinic in self.clinics,
            clinics=(),
            units=tuple(unit for _, unit in own),
        )


class LabelPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `labels`."""

    rules: dict[str, Rule]
    implied: dict[str, str]
    very_restricted: VeryRestricted
    process_notes: ProcessNotes
    part_2: Part2


@dataclass(frozen=True)
class Labels:
    """The policy with the value sets that its rules name."""

    policy: LabelPolicy
    sets: Mapping[str, ValueSet]

    def __post_init__(self) -> None:
        """Refuse a rule that names a value set that there is not, or no level; a unit or clinic that cannot be one.

        Raises:
            ValueError: it does; names the rule.

        """
        part_2 = self.policy.part_2
        for wrong in (one for one in part_2.units if not _UNIT.fullmatch(one)):
            raise ValueError(f"labels.part_2.units: '{wrong}' is neither Organization/ID nor clinic@Organization/ID.")
        for wrong in (one for one in part_2.clinics if not CLINIC_NAME.fullmatch(one)):
            raise ValueError(f"labels.part_2.clinics: '{wrong}' is no name of a clinic.")
        for name, rule in self.policy.rules.items():
            missing = [one for one in rule.sets if one not in self.sets]
            if missing or rule.confidentiality not in (None, *LEVELS):
                raise ValueError(f"labels.rules.{name}: {[*missing, rule.confidentiality][0]} is not known.")

    @cached_property
    def _known(self) -> Mapping[str, tuple[_Looking, ...]]:
        """By type (`ANY`: the others) the rules about it."""
        rules = self.policy.rules.values()
        types = {ANY, *(one for rule in rules for one in rule.types)}
        looking = [(rule, _Looking.of(rule, self.sets)) for rule in rules]
        return {
            type_: tuple(one for rule, one in looking if type_ in rule.types or ANY in rule.types) for type_ in types
        }

    @cached_property
    def digest(self) -> str:
        """A name of these rules: others have another."""
        said = msgspec.to_builtins([self.policy, dict(self.sets)])
        if not self.policy.part_2.clinics:  # as rules from before it could be said are named
            del said[0]["part_2"]["clinics"]
        return sha256(msgspec.json.encode(said, order="sorted")).hexdigest()

    def of(self, clinic: str) -> Labels:
        """Return the rules as they are for one clinic: with what is a programme there."""
        part_2 = self.policy.part_2
        if not part_2.clinics and not any("@" in one for one in part_2.units):
            return self
        if clinic not in self._by_clinic:
            policy = msgspec.structs.replace(self.policy, part_2=part_2.of(clinic))
            self._by_clinic[clinic] = Labels(policy, self.sets)
        return self._by_clinic[clinic]

    @cached_property
    def _by_clinic(self) -> dict[str, Labels]:
        return {}

    def require_kept_here(self, resource: Resource) -> None:
        """Refuse a process note, and what holds one: those are not part of the record that is exchanged.

        Raises:
            Unprocessable: it is one.

        """
        notes = self.policy.process_notes
        said = resource.get("resourceType") in notes.types and _texts(resource.get("type"))
        for one in _inside(resource):
            self.require_kept_here(one)
        if {notes.label, *notes.laws}.intersection(labels_of(resource)) or (
            said and any(word in said for word in notes.words)
        ):
            raise Unprocessable(
                [
                    Issue(
                        "This is a therapist's process note (psychotherapy note), which is no part of the record that "
                        "is exchanged, and was not kept here. Send it to sessions' endpoint for process notes: POST "
                        "/process-notes/DocumentReference at that service. What belongs to the record (times, doses, "
                        f"progress, plan) is sent without the label {notes.label}.",
                        code="business-rule",
                        expression=(f"{resource.get('resourceType')}.meta.security",),
                        rule="L-PSYTHPN",
                        source=notes.source,
                    )
                ]
            )

    def ask_for_unit(self, resource: Resource) -> str | None:
        """Return the Encounter that tells whether a resource comes of a programme, where it does not say itself."""
        part_2 = self.policy.part_2
        if part_2.whole_clinic or not part_2.units or not _is_of_a_patient(resource) or self._of_unit(resource):
            return None
        return next(_encounters(resource), None)

    def labelled(
        self, resource: Resource, *, before: Resource | None = None, encounter: Resource | None = None
    ) -> Resource:
        """Return a resource with the labels it has to bear; itself where it bears them all.

        Args:
            resource: what is written.
            before: the version whose labels stay; None: there is none, or they are being taken away.
            encounter: what `ask_for_unit` asked for.

        Raises:
            Unprocessable: it is a process note.

        """
        self.require_kept_here(resource)
        type_ = str(resource.get("resourceType"))
        given = _security(resource)
        kept = [*given]
        for one in _security(before):
            if _pair(one) not in {_pair(other) for other in kept}:
                kept.append(one)
        level, codes = self._of_rules(resource)
        for one in _inside(resource):  # what holds resources is as confidential as what is in it
            inner = _security(self.labelled(one))
            codes += [str(each.get("code")) for each in inner if each.get("system") == ACT_CODE]
            levels = (str(each.get("code")) for each in inner if each.get("system") == CONFIDENTIALITY)
            level = _highest((level, *levels))
        codes = [*codes, *(str(one.get("code")) for one in kept if one.get("system") == ACT_CODE)]
        codes += [wider for code in codes if (wider := self.policy.implied.get(code)) is not None]
        part_2, very = self.policy.part_2, self.policy.very_restricted
        if _is_of_a_patient(resource) and (
            part_2.whole_clinic or self._of_unit(resource) or (encounter is not None and self._of_unit(encounter))
        ):
            codes.append(part_2.label)
        if type_ in very.types and set(codes) & set(very.labels):
            level = _highest((level, "V"))
        bears = {str(one.get("code")) for one in kept if one.get("system") == ACT_CODE}
        kept += [{"system": ACT_CODE, "code": code} for code in dict.fromkeys(codes) if code not in bears]
        borne = [str(one.get("code")) for one in kept if one.get("system") == CONFIDENTIALITY]
        highest = _highest((level, *borne))
        if highest is not None and borne != [highest]:
            kept = [one for one in kept if one.get("system") != CONFIDENTIALITY]
            kept.append({"system": CONFIDENTIALITY, "code": highest})
        if kept == given:
            return resource
        return {**resource, "meta": {**(resource.get("meta") or {}), "security": kept}}

    def _of_rules(self, resource: Resource) -> tuple[str | None, list[str]]:
        type_ = str(resource.get("resourceType"))
        said = _Said(resource)
        rules = [one.rule for one in self._known.get(type_, self._known[ANY]) if one.meets(said)]
        codes = list(dict.fromkeys(code for rule in rules for code in rule.labels))
        return _highest(rule.confidentiality for rule in rules), codes

    def _of_unit(self, resource: Resource) -> bool:
        units = self.policy.part_2.units
        return bool(units) and any(kind == "reference" and text in units for kind, text in links_of(resource))


def high_water(levels: Iterable[str | None]) -> str | None:
    """Return the confidentiality of what holds resources of these levels; None: of nothing."""
    every = [one or "N" for one in levels]
    return _highest(every) if every else None


_NO_WORDS: Final = frozenset(
    (
        "resourceType", "id", "system", "code", "reference", "url", "uri", "canonical", "instantiatesCanonical",
        "instantiatesUri", "implicitRules", "language", "contentType", "data", "hash", "linkId", "versionId", "fullUrl",
        "version", "profile", "valueUri", "valueUrl", "valueCanonical", "valueCode", "valueId", "valueOid", "valueUuid",
        "valueBase64Binary", "questionnaire",
    )
)  # fmt: skip
"""Elements whose strings are names of something, and not said."""

_MARKUP: Final = re.compile(r"<[^<>]*>")


class _Said:
    """The codings and texts anywhere in a resource, and the questionnaire it answers."""

    def __init__(self, resource: Resource) -> None:
        self.codings: set[tuple[str, str]] = set()
        self.texts: set[str] = set()
        self.questionnaire = str(resource.get("questionnaire", "")).partition("|")[0]
        about = {name: value for name, value in resource.items() if name != "meta"}
        if resource.get("resourceType") == "Consent":
            about.pop("provision", None)  # what may be told of is no fact about the patient
        if resource.get("resourceType") == "Bundle":
            about.pop("entry", None)  # each is looked at by itself
        self._gather(about)

    def _gather(self, value: Json, *, is_said: bool = True) -> None:
        if isinstance(value, list):
            for one in value:
                self._gather(one, is_said=is_said)
        elif isinstance(value, dict):
            system, code = value.get("system"), value.get("code")
            if isinstance(system, str) and isinstance(code, str):
                self.codings.add((system, code))
            for name, one in value.items():
                self._gather(one, is_said=name not in _NO_WORDS)
        elif isinstance(value, str) and is_said:
            self.texts.add((unescape(_MARKUP.sub(" ", value)) if "<" in value else value).casefold())


@dataclass(frozen=True, slots=True)
class _Looking:
    """A rule, and what it looks for; nothing: it is about all of its types."""

    rule: Rule
    exact: frozenset[tuple[str, str]]
    prefixes: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    @classmethod
    def of(cls, rule: Rule, sets: Mapping[str, ValueSet]) -> _Looking:
        """Return it with the codes and words of its value sets."""
        terms = [*rule.codes, *(term for name in rule.sets for term in sets[name].codes)]
        words = [*rule.words, *(word for name in rule.sets for word in sets[name].words)]
        return cls(
            rule,
            frozenset((one.system, one.code) for one in terms if one.code is not None),
            tuple((one.system, one.prefix) for one in terms if one.prefix is not None),
            tuple(word.casefold() for word in words),
        )

    def meets(self, said: _Said) -> bool:
        """Tell whether it is about a resource of its types."""
        asks = self.exact or self.prefixes or self.words or self.rule.questionnaires
        return (
            not asks
            or said.questionnaire in self.rule.questionnaires
            or not self.exact.isdisjoint(said.codings)
            or any(
                system == of and code.startswith(prefix)
                for system, code in said.codings
                for of, prefix in self.prefixes
            )
            or any(word in text for word in self.words for text in said.texts)
        )


def _inside(resource: Resource) -> Iterator[Resource]:
    """Yield the resources that a Bundle or Parameters holds."""
    for name in ("entry", "parameter", "part"):
        several = resource.get(name)
        for one in several if isinstance(several, list) else ():
            if isinstance(one, dict):
                if isinstance(one.get("resource"), dict):
                    yield one["resource"]
                yield from _inside(one)


def _is_of_a_patient(resource: Resource) -> bool:
    type_ = str(resource.get("resourceType"))
    return compartment_key(resource, type_, "").startswith("Patient/")


def _encounters(resource: Resource) -> Iterator[str]:
    """Yield the ids of the Encounters that a resource names as its own; an Encounter: the one it is part of."""
    named: list[Json] = [resource.get("encounter"), resource.get("context")]
    if resource.get("resourceType") == "Encounter":
        named.append(resource.get("partOf"))
    while named:
        one = named.pop()
        if isinstance(one, list):
            named += one
        elif isinstance(one, dict):
            literal = one.get("reference")
            if isinstance(literal, str) and literal.startswith("Encounter/"):
                yield literal.removeprefix("Encounter/").partition("/")[0]
            named.append(one.get("encounter"))


def _highest(levels: Iterable[str | None]) -> str | None:
    return max((one for one in levels if one in LEVELS), key=LEVELS.index, default=None)


def _security(resource: Resource | None) -> list[dict[str, Any]]:
    meta = {} if resource is None else resource.get("meta") or {}
    return [one for one in meta.get("security", ()) if isinstance(one, dict)]


def _pair(coding: Mapping[str, Any]) -> tuple[object, object]:
    return coding.get("system"), coding.get("code")


def _texts(concept: Mapping[str, Any] | None) -> str:
    return "\n".join(_words(concept)).casefold()


def _words(concept: Mapping[str, Any] | None) -> Iterator[str]:
    for one in (concept or {}, *(concept or {}).get("coding", ())):
        for name in ("text", "display"):
            if isinstance(one.get(name), str):
                yield one[name]
