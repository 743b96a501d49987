"""Privacy consents for tests: the patterns, strategies, and in Python what a Consent means for a resource's labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from shared.fhir.codes import ACT_CODE, ACT_REASON, INTERMEDIARY, PARTICIPATION
from shared.store.access import Disclosure

Resource = dict[str, Any]

RECIPIENTS = ("Organization/h1", "Organization/h2", "Practitioner/gp")
EXCHANGES = ("Organization/hie", "Organization/h2")
"""Who may be named as an intermediary."""

PURPOSES = ("TREAT", "HPAYMT", "HRESCH", "ETREAT")
LABELS = ("R", "V", "MH", "SUD", "ETHUD", "SDV", "42CFRPart2", "PSYTHPN")
TPO = ("TREAT", "HPAYMT", "HOPERAT")
_UNKNOWN = frozenset(("action", "class", "code", "modifierExtension"))
Held = Mapping[str, Resource]
"""By ``Type/id``: what is held."""


def provision(type_: str | None, *, to: Iterable[str] = (), why: Iterable[str] = (), labels: Iterable[str] = (),
              through: Iterable[str] = (), **more: Any) -> Resource:  # fmt: skip
    """Return a provision; `through` are intermediaries."""
    role, passes = {"coding": [{"system": PARTICIPATION, "code": "IRCP"}]}, {"coding": [INTERMEDIARY.coding()]}
    made: Resource = {} if type_ is None else {"type": type_}
    actors = [{"role": role, "reference": {"reference": one}} for one in to]
    if actors := actors + [{"role": passes, "reference": {"reference": one}} for one in through]:
        made["actor"] = actors
    if purposes := [{"system": ACT_REASON, "code": one} for one in why]:
        made["purpose"] = purposes
    if security := [{"system": ACT_CODE, "code": one} for one in labels]:
        made["securityLabel"] = security
    return {**made, **more}


def consent(patient: str, rule: Resource, *, part_2: bool = False, status: str = "active",
            scope: str = "patient-privacy", **more: Any) -> Resource:  # fmt: skip
    """Return a privacy consent that PCF allows."""
    categories = [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}]
    if part_2:
        categories.append({"coding": [{"system": ACT_CODE, "code": "42CFRPart2CD"}]})
    return {
        "resourceType": "Consent",
        "status": status,
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": scope}]},
        "category": categories,
        "patient": {"reference": f"Patient/{patient}"},
        "dateTime": "2026-11-01T10:00:00Z",
        "performer": [{"reference": f"Patient/{patient}"}],
        "organization": [{"reference": "Organization/clinic"}],
        "sourceAttachment": {"title": "signed"},
        "policy": [{"uri": "http://terminology.hl7.org/CodeSystem/consentpolicycodes#hipaa-auth"}],
        "provision": rule,
        **more,
    }


PATTERNS: dict[str, Resource] = {
    "P1": provision("permit", why=TPO),
    "P2": provision("permit", why=TPO, to=["Organization/h1"]),
    "P3": provision("permit", why=TPO, provision=[provision("deny", labels=["SUD", "ETH"])]),
    "P4": provision("permit", why=TPO, provision=[provision("deny", labels=["PSYTHPN"])]),
    "P5": provision("permit", why=TPO),
    "P6": provision("deny", provision=[provision("permit", why=["ETREAT"])]),
    "P7": provision("deny"),
    "P8": provision("permit", why=TPO, provision=[provision("deny", why=["HPAYMT"])]),
    "P9": provision("permit", why=["HRESCH"]),
}
"""The rules of the patterns of kap-domain 6.3; P5 is one with the category 42CFRPart2CD."""


# What a Consent means


def permits(
    consents: Iterable[Resource],
    labels: Iterable[str],
    told: Disclosure,
    now: datetime | None = None,
    *,
    about: Resource | None = None,
    held: Held | None = None,
    joined: Iterable[Resource] = (),
) -> bool:
    """Tell whether what bears these labels may be told, by the consents of its patient: `about`, among what is held.

    Of the consents of his other records (`joined`) those that deny count.
    """
    asked = _Asked(frozenset(labels), told, now or datetime.now(UTC), about or {}, held or {})
    bears = asked.labels
    said = [one for each in consents if (one := _said(each, asked)) is not None]
    said.extend(False for each in joined if _said(each, asked) is False)
    if "PSYTHPN" in bears:
        return False
    return all(said) if said else told.permitted and "42CFRPart2" not in bears


@dataclass(frozen=True)
class _Asked:
    labels: frozenset[str]
    told: Disclosure
    now: datetime
    about: Resource
    held: Held


def _said(one: Resource, asked: _Asked) -> bool | None:
    labels = asked.labels
    out = any(each["code"].startswith("OPTOUT") for each in one.get("policyRule", {}).get("coding", []))
    rule = one.get("provision", {"type": "deny"} if out else None)
    if rule is None or one["status"] != "active" or one["scope"]["coding"][0]["code"] != "patient-privacy":
        return None
    exceptions = rule.get("provision", [])
    category = {coding["code"] for concept in one["category"] for coding in concept["coding"]}
    part_2 = "42CFRPart2" not in labels or "42CFRPart2CD" in category
    understood = not (_UNKNOWN & rule.keys() or _UNKNOWN & one.keys())
    if not _meets(rule, asked):
        return None
    if any(each.get("type") != "permit" and _meets(each, asked) for each in exceptions):
        return False
    if rule.get("type") == "permit":
        named = _meets(rule, asked, whom=asked.told.recipients) and _names_who_passes_on(asked, rule)
        return True if understood and part_2 and named else None
    return any(
        each.get("type") == "permit"
        and _meets(rule, asked, doubted=False, whom=asked.told.recipients)
        and _names_who_passes_on(asked, each, rule)
        and understood
        and part_2
        and not _UNKNOWN & each.keys()
        and "provision" not in each
        and _meets(each, asked, whom=asked.told.recipients)
        for each in exceptions
    )


def _actors(rule: Resource) -> tuple[set[str] | None, set[str] | None]:
    """Return whom a rule names, and of one that permits, the intermediaries; None: nobody, or not understood."""
    actors = rule.get("actor")
    if not actors:
        return None, None
    known = [one["reference"].get("reference", "") for one in actors]
    known = [one if one.partition("/")[0] in ("Organization", "Practitioner") else "" for one in known]
    if rule.get("type") != "permit":
        return (set(known) if all(known) else None), None
    roles = [one["role"]["coding"][0]["code"] for one in actors]
    passes = {one for one, role in zip(known, roles, strict=True) if one and role == "intermediary"}
    receives = {one for one, role in zip(known, roles, strict=True) if one and role == "IRCP"}
    return (
        None if set(roles) == {"intermediary"} else receives,
        passes if "intermediary" in roles else None,
    )


def _names_who_passes_on(asked: _Asked, *rules: Resource) -> bool:
    """Tell whether a permission names the intermediary by which is asked; one to everybody does, but for Part 2."""
    by = asked.told.through
    named = [one for rule in rules for one in _actors(rule)]
    passes = next((one for rule in rules if (one := _actors(rule)[1]) is not None), set())
    return (
        not by or bool(passes & by) or (not any(one is not None for one in named) and "42CFRPart2" not in asked.labels)
    )


def _is_about(rule: Resource, told: Disclosure, whom: frozenset[str]) -> bool:
    to, passes = _actors(rule)
    if to is None and passes is None:
        return True
    if to is not None and to & whom:
        return True
    if passes is None or (told.through and to is not None):
        return False
    return bool(passes & (told.through or told.recipients))


def _meets(rule: Resource, asked: _Asked, *, doubted: bool = True, whom: frozenset[str] | None = None) -> bool:
    """Tell whether a rule is about what is asked by `whom`: None: by whoever asks, or passes it on."""
    labels, told, now = asked.labels, asked.told, asked.now
    whom = told.recipients | told.through if whom is None else whom
    allows = rule.get("type") == "permit"
    why: set[str] | None = None
    if purposes := rule.get("purpose"):
        of = {one["code"] for one in purposes if one["system"] == ACT_REASON}
        why = of if allows or len(of) == len({(one["system"], one["code"]) for one in purposes}) else None
    security = {one["code"] for one in rule["securityLabel"]} if rule.get("securityLabel") else None
    low, high = _period(rule.get("period", {}))
    return (
        (_is_about(rule, told, whom) or (doubted and not allows and not told.recipients))
        and (why is None or bool(why & told.purposes))
        and (security is None or bool(security & labels))
        and (low is None or low <= now)
        and (high is None or now < high)
        and _of_its_time(rule, allows, asked.about)
        and _of_its_data(rule, allows, asked)
    )


def _of_its_time(rule: Resource, allows: bool, about: Resource) -> bool:
    low, high = _period(rule.get("dataPeriod", {}))
    if low is None and high is None:
        return True
    care = _care(about)
    if care is None:
        return not allows
    low, high = low or _EARLIEST, high or _LATEST
    return low <= care[0] and care[1] <= high if allows else care[0] < high and low < care[1]


_EARLIEST, _LATEST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


def _care(about: Resource) -> tuple[datetime, datetime] | None:
    """Return when what a resource of the tests tells of was: the day, or the years of an Encounter."""
    if "effectiveDateTime" in about:
        day = datetime.fromisoformat(about["effectiveDateTime"]).replace(tzinfo=UTC)
        return day, day + timedelta(days=1)
    if "recordedDate" in about:
        day = datetime.fromisoformat(about["recordedDate"]).replace(tzinfo=UTC)
        return day, day + timedelta(days=1)
    if "period" in about:
        low, high = _period(about["period"])
        return low or _EARLIEST, high or _LATEST
    if about.get("resourceType") == "DocumentReference":
        moment = datetime.fromisoformat(about["date"])
        return moment, moment + timedelta(seconds=1)
    if about.get("resourceType") == "Consent" and "dateTime" in about:
        moment = datetime.fromisoformat(about["dateTime"])
        return moment, moment + timedelta(microseconds=1)
    return None


def _of_its_data(rule: Resource, allows: bool, asked: _Asked) -> bool:
    if not rule.get("data"):
        return True
    named = [(one["meaning"], one["reference"].get("reference", "")) for one in rule["data"]]
    understood = [one for one in named if one[1].count("/") == 1 and "://" not in one[1]]
    if not allows and len(understood) < len(named):
        return True
    return any(_is_of(meaning, of, asked) for meaning, of in understood)


def _is_of(meaning: str, of: str, asked: _Asked) -> bool:
    about = asked.about
    own = f"{about.get('resourceType')}/{about.get('id')}"
    if meaning == "authoredby":
        written = (about.get(name, []) for name in ("performer", "recorder", "asserter"))
        by = [one for each in written for one in (each if isinstance(each, list) else [each])]
        return of in {one.get("reference") for one in by}
    if own == of:
        return True
    if meaning == "dependents":
        return of in _references(about)
    return meaning == "related" and own in _references(asked.held.get(of, {}))


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["reference"]} if isinstance(node.get("reference"), str) else set()
        return own.union(*map(_references, node.values()))
    return set().union(*map(_references, node)) if isinstance(node, list) else set()


def _period(period: Resource) -> tuple[datetime | None, datetime | None]:
    """Return its ends; years are all that tests say."""
    low = datetime(int(period["start"]), 1, 1, tzinfo=UTC) if "start" in period else None
    return low, datetime(int(period["end"]) + 1, 1, 1, tzinfo=UTC) if "end" in period else None


# Strategies

_YEARS = st.sampled_from(["2020", "2025", "2026", "2027"])
_PERIODS = st.fixed_dictionaries({}, optional={"start": _YEARS, "end": _YEARS}).filter(bool)


def _oddities(made: Resource, odd: str) -> Resource:
    """Return a provision with something in it that nothing here understands."""
    if odd == "class":
        return {**made, "class": [{"system": "http://hl7.org/fhir/resource-types", "code": "Condition"}]}
    if odd == "actor" and "actor" in made:
        return {**made, "actor": [*made["actor"], {**made["actor"][0], "reference": {"display": "somebody"}}]}
    if odd == "url" and "actor" in made:
        reference = {"reference": "http://elsewhere/Organization/h1"}
        return {**made, "actor": [{**made["actor"][0], "reference": reference}]}
    if odd == "role" and "actor" in made:
        role = {"coding": [{"system": PARTICIPATION, "code": "CST"}]}
        return {**made, "actor": [{**made["actor"][0], "role": role}, *made["actor"][1:]]}
    if odd == "purpose" and "purpose" in made:
        return {**made, "purpose": [*made["purpose"], {"system": "http://elsewhere", "code": "TREAT"}]}
    return made


def _some(values: Iterable[str]) -> st.SearchStrategy[list[str]]:
    return st.just([]) | st.lists(st.sampled_from(list(values)), min_size=1, max_size=2, unique=True)


_ODD = st.sampled_from(["", "", "", "", "class", "actor", "url", "role", "purpose"])
_TYPES = st.sampled_from(["permit", "deny"])
_DATA = st.fixed_dictionaries(
    {
        "meaning": st.sampled_from(["instance", "related", "dependents", "authoredby"]),
        "reference": st.sampled_from(
            ["Condition/c0", "Condition/c1", "Patient/ada", "Practitioner/doc", "http://elsewhere/Condition/c0"]
        ).map(lambda one: {"reference": one}),
    }
)
_ABOUT = (
    st.just({})
    | st.just({})
    | st.fixed_dictionaries({"dataPeriod": _PERIODS})
    | st.fixed_dictionaries({"data": st.lists(_DATA, min_size=1, max_size=2)})
)
"""Which data a rule is about: all of it, of a time, or what it names."""

_PLAIN = st.builds(
    lambda type_, to, through, why, labels, period, about, odd: _oddities(
        provision(
            type_, to=to, through=through, why=why, labels=labels, **({"period": period} if period else {}), **about
        ),
        odd,
    ),
    _TYPES,
    _some(RECIPIENTS),
    st.just([]) | st.just([]) | _some(EXCHANGES),
    _some(PURPOSES),
    _some(LABELS),
    st.none() | _PERIODS,
    _ABOUT,
    _ODD,
)
RULES = st.sampled_from(list(PATTERNS.values())) | st.builds(
    lambda base, exceptions: {**base, "provision": exceptions} if exceptions else base,
    _PLAIN,
    st.lists(_PLAIN, max_size=2),
)


def consents(patient: str) -> st.SearchStrategy[Resource]:
    """Return consents of a patient."""
    return st.builds(
        lambda rule, part_2, status, scope: consent(patient, rule, part_2=part_2, status=status, scope=scope),
        RULES,
        st.booleans(),
        st.sampled_from(["active", "active", "active", "inactive", "draft"]),
        st.sampled_from(["patient-privacy", "patient-privacy", "treatment"]),
    )


DISCLOSURES = st.builds(
    lambda to, why, permitted: Disclosure(frozenset(to), frozenset(why), permitted),
    _some((*RECIPIENTS, "Organization/hie")),
    _some(PURPOSES),
    st.booleans(),
) | st.builds(
    lambda to, by, why: Disclosure(frozenset((to,)), frozenset(why), through=frozenset((by,))),
    st.sampled_from(RECIPIENTS),
    st.sampled_from(EXCHANGES),
    _some(PURPOSES),
)
LABELLED = st.lists(st.sampled_from(LABELS), max_size=3, unique=True)
