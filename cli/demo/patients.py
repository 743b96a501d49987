"""Plausible KAP patients out of a seeded generator: the same seed makes the same patients, whenever it runs.

Nobody here exists. The shapes are from practice: indications and codes as clinics of this kind treat them, doses and
monitoring by route (IV 0.5 mg/kg over 40 min with a mean peak of +16/+11 mmHg at 40 min; IM 0.5 to 1.5 mg/kg;
sublingual 100 to 300 mg), PHQ-9 totals that fall fast after the first dose in those who respond.
SNOMED CT, ICD-10-CM, RxNorm and LOINC codes are named, their terminologies are not copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from random import Random
from typing import Literal

from shared.fhir.codes import (
    ICD10CM,
    KAP,
    KETAMINE,
    ROUTE_IM,
    ROUTE_IV,
    ROUTE_NASAL,
    ROUTE_SUBLINGUAL,
    RXNORM,
    SNOMED,
    Code,
)

Story = Literal["forgetful", "aneurysm", "past-gate", "straight", "slow"]
"""What the patient's course shows.

forgetful: the desk books before consent is signed and the nurse starts before the baseline blood pressure; both are
    refused, put right, and the course goes on.
aneurysm: referred for esketamine, refused by rule at screening.
past-gate: the pressure is above the limit, the start is refused, the dose was given all the same and is recorded, which
    raises the alarm.
straight: nothing in the way.
slow: a relative with psychosis, so that the prescriber has to decide; little benefit.
"""
STORIES: tuple[Story, ...] = ("forgetful", "aneurysm", "past-gate", "straight", "slow")

MINUTES: dict[str, tuple[int, ...]] = {
    "iv": (10, 20, 30, 40, 60, 90, 120),
    "im": (15, 30, 45, 60, 90, 120),
    "sl": (40, 80, 120),
    "nasal": (40, 80, 120),
}
"""Minutes after the start of the dose at which vital signs are taken, by route."""


@dataclass(frozen=True, slots=True)
class Indication:
    """Why the patient is referred: the same diagnosis in SNOMED CT and in ICD-10-CM."""

    snomed: Code
    icd10: Code
    resistant: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A route: its key (``iv``), its SNOMED CT code, and the product that is given by it."""

    key: str
    concept: Code
    product: Code


@dataclass(frozen=True, slots=True)
class Reading:
    """One set of vital signs: minutes from the start of the dose (before it: negative), mmHg, beats per minute, %."""

    minute: int
    systolic: int
    diastolic: int
    heart_rate: int
    saturation: int


@dataclass(frozen=True, slots=True)
class Session:
    """One dosing session: the dose in mg, the readings before and under it, and the CADSS-6 total at its peak."""

    dose_mg: int
    baseline: Reading
    readings: tuple[Reading, ...]
    dissociation: int


@dataclass(frozen=True, slots=True)
class Staff:
    """A practitioner of a team; `role` is ``prescriber``, ``therapist`` or ``nurse``."""

    role: str
    family: str
    given: str
    suffix: str
    qualification: Code


@dataclass(frozen=True, slots=True)
class Person:
    """One generated patient.

    `key` is stable for (seed, number) and names him in every business identifier. `failed` are antidepressants of the
    current episode that did not help, `current` what he takes now, `others` further diagnoses, `hits` the items of the
    screening questionnaire that he answers against the treatment. `phq9` holds the nine answers (0 to 3) at intake and
    after each dosing session.
    """

    key: str
    number: int
    story: Story
    family: str
    given: str
    gender: Literal["female", "male"]
    birth_date: date
    phone: str
    city: str
    weight_kg: float
    height_cm: int
    indication: Indication
    onset: date
    failed: tuple[Code, ...]
    current: tuple[Code, ...]
    others: tuple[Code, ...]
    hits: frozenset[str]
    route: Route
    sessions: tuple[Session, ...]
    phq9: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """Given and family name."""
        return f"{self.given} {self.family}"


INDICATIONS: tuple[Indication, ...] = (
    Indication(
        Code(SNOMED, "66344007", "Recurrent major depression"),
        Code(ICD10CM, "F33.2", "Major depressive disorder, recurrent severe without psychotic features"),
        resistant=True,
    ),
    Indication(
        Code(SNOMED, "36923009", "Major depression, single episode"),
        Code(ICD10CM, "F32.2", "Major depressive disorder, single episode, severe without psychotic features"),
        resistant=True,
    ),
    Indication(
        Code(SNOMED, "313182004", "Chronic post-traumatic stress disorder"),
        Code(ICD10CM, "F43.12", "Post-traumatic stress disorder, chronic"),
        resistant=False,
    ),
    Indication(
        Code(SNOMED, "21897009", "Generalized anxiety disorder"),
        Code(ICD10CM, "F41.1", "Generalized anxiety disorder"),
        resistant=False,
    ),
)

ROUTES: tuple[Route, ...] = (
    Route(
        "iv",
        ROUTE_IV,
        Code(RXNORM, "238082", "ketamine hydrochloride 10 MG/ML Injectable Solution"),
    ),
    Route(
        "im",
        ROUTE_IM,
        Code(RXNORM, "238084", "ketamine hydrochloride 50 MG/ML Injectable Solution"),
    ),
    Route("sl", ROUTE_SUBLINGUAL, KETAMINE),
)

ESKETAMINE = Route("nasal", ROUTE_NASAL, Code(RXNORM, "2201623", "esketamine nasal spray"))
AORTIC_ANEURYSM = Code(SNOMED, "67362008", "Aortic aneurysm")

ANTIDEPRESSANTS: tuple[Code, ...] = (
    Code(RXNORM, "36437", "sertraline"),
    Code(RXNORM, "4493", "fluoxetine"),
    Code(RXNORM, "321988", "escitalopram"),
    Code(RXNORM, "39786", "venlafaxine"),
    Code(RXNORM, "72625", "duloxetine"),
    Code(RXNORM, "42347", "bupropion"),
    Code(RXNORM, "15996", "mirtazapine"),
)

_FAMILIES = (
    "Abara", "Bergman", "Castellanos", "Dubois", "Eklund", "Fontaine", "Gallagher", "Haddad", "Ibarra", "Jansen",
    "Kowalczyk", "Lindqvist", "Marchetti", "Nakamura", "Okonkwo", "Petrov", "Quigley", "Ramirez", "Sorensen", "Tanaka",
    "Underhill", "Vargas", "Whitfield", "Yilmaz", "Zielinski", "Achterberg", "Brennan", "Coleman", "Deveraux",
    "Ellison",
)  # fmt: skip
_GIVEN: dict[str, tuple[str, ...]] = {
    "female": (
        "Amara", "Beatriz", "Clara", "Dolores", "Elin", "Farida", "Grace", "Hanna", "Ingrid", "Joana", "Keiko", "Leila",
        "Maren", "Nadia", "Olive", "Priya", "Rosa", "Selma", "Teresa", "Wanda",
    ),
    "male": (
        "Adrian", "Bruno", "Cyril", "Daniel", "Emeka", "Felix", "Gustav", "Hugo", "Ivan", "Jonas", "Kenji", "Luis",
        "Marco", "Niels", "Omar", "Pavel", "Rafael", "Simon", "Tomas", "Walter",
    ),
}  # fmt: skip
_STAFF = (
    ("prescriber", "MD", Code(SNOMED, "309343006", "Physician")),
    ("therapist", "PhD", Code(KAP, "kap-therapist", "KAP therapist")),
    ("nurse", "RN", Code(SNOMED, "224535009", "Registered nurse")),
)
_CITIES = ("Portland", "Asheville", "Santa Fe", "Boulder", "Ann Arbor", "Burlington", "Madison", "Eugene")

_HITS: dict[Story, frozenset[str]] = {"aneurysm": frozenset({"E01"}), "slow": frozenset({"E08"})}

_ITEMS = 9
_SUICIDE_ITEM = 8
_TOP = 3
_LATEST_BIRTH = date(2004, 12, 31)
_EARLIEST_BIRTH = date(1957, 1, 1)


def generate(seed: int, count: int, *, sessions: int = 2) -> list[Person]:
    """Return `count` patients of `seed`, each with `sessions` dosing sessions.

    Patient n of a seed is the same whatever `count` is.
    """
    return [_person(seed, number, sessions) for number in range(1, count + 1)]


def staff(team: str) -> list[Staff]:
    """Return the three practitioners of a team, the same ones for the same name of the team."""
    dice = Random(f"kap-demo/team/{team}")  # noqa: S311 - plausible, not secret
    return [
        Staff(role, dice.choice(_FAMILIES), dice.choice(_GIVEN[dice.choice(("female", "male"))]), suffix, qualification)
        for role, suffix, qualification in _STAFF
    ]


def answers(total: int, dice: Random) -> tuple[int, ...]:
    """Return nine PHQ-9 answers, each 0 to 3, that add up to `total` (0 to 27).

    The ninth (thoughts of being better off dead) is filled last, so that it is above 0 only in high totals.
    """
    if not 0 <= total <= _ITEMS * _TOP:
        raise ValueError(f"A PHQ-9 total is 0 to 27, not {total}.")
    items = [0] * _ITEMS
    for _ in range(total):
        open_items = [item for item in range(_ITEMS) if items[item] < _TOP]
        preferred = [item for item in open_items if item != _SUICIDE_ITEM]
        items[dice.choice(preferred or open_items)] += 1
    return tuple(items)


def _person(seed: int, number: int, sessions: int) -> Person:
    dice = Random(f"kap-demo/{seed}/{number}")  # noqa: S311 - plausible, not secret
    story = STORIES[(number - 1) % len(STORIES)]
    gender: Literal["female", "male"] = dice.choice(("female", "male"))
    days = (_LATEST_BIRTH - _EARLIEST_BIRTH).days
    birth_date = date.fromordinal(_EARLIEST_BIRTH.toordinal() + dice.randrange(days))
    height = round(dice.gauss(164 if gender == "female" else 177, 6))
    weight = round(min(max(dice.gauss(25.5, 3.5), 18.5), 33.0) * (height / 100) ** 2, 1)
    failed = dice.sample(ANTIDEPRESSANTS, 3)
    route = ESKETAMINE if story == "aneurysm" else ROUTES[(number - 1) % len(ROUTES)]
    resting = (dice.randint(108, 130), dice.randint(66, 82), dice.randint(58, 84))
    start = dice.randint(16, 22)
    return Person(
        key=f"{seed}-{number}",
        number=number,
        story=story,
        family=dice.choice(_FAMILIES),
        given=dice.choice(_GIVEN[gender]),
        gender=gender,
        birth_date=birth_date,
        phone=f"+1-555-01{dice.randrange(100):02d}",
        city=dice.choice(_CITIES),
        weight_kg=weight,
        height_cm=height,
        indication=dice.choice(INDICATIONS[:2]) if story in {"straight", "slow"} else dice.choice(INDICATIONS),
        onset=date(dice.randint(2015, 2024), dice.randint(1, 12), dice.randint(1, 28)),
        failed=tuple(failed[:2]),
        current=(failed[2],),
        others=(AORTIC_ANEURYSM,) if story == "aneurysm" else (),
        hits=_HITS.get(story, frozenset()),
        route=route,
        sessions=tuple(_session(route, weight, resting, story, index, dice) for index in range(sessions)),
        phq9=tuple(answers(total, dice) for total in _totals(start, story, sessions, dice)),
    )


def _totals(start: int, story: Story, sessions: int, dice: Random) -> Sequence[int]:
    """PHQ-9 totals at intake and after each session: in those who respond, most of the fall comes with the first."""
    share = (0.97, 0.9, 0.86) if story == "slow" else (0.62, 0.42, 0.3)
    later = (
        max(0, round(start * share[min(index, len(share) - 1)]) + dice.randint(-1, 1)) for index in range(sessions)
    )
    return [start, *later]


def _session(
    route: Route, weight: float, resting: tuple[int, int, int], story: Story, index: int, dice: Random
) -> Session:
    dose = _dose(route.key, weight, index)
    systolic, diastolic, rate = (value + dice.randint(-4, 4) for value in resting)
    peak = (dice.randint(11, 20), dice.randint(7, 14), dice.randint(6, 18))
    if story == "past-gate" and index == 0:
        systolic, diastolic = dice.randint(184, 190), dice.randint(112, 116)
        peak = (-20, -14, 8)
    baseline = Reading(-10, systolic, diastolic, rate, dice.randint(96, 99))
    readings = tuple(_reading(baseline, peak, minute, dice) for minute in MINUTES[route.key])
    return Session(dose, baseline, readings, dissociation=dice.randint(3, 12))


def _dose(route: str, weight: float, index: int) -> int:
    """Dose in mg: the second session may go up by a step, as the response allows."""
    if route == "nasal":
        return (56, 84)[min(index, 1)]
    if route == "sl":
        return (100, 150)[min(index, 1)]
    per_kg = (0.5, 0.6)[min(index, 1)] if route == "iv" else (0.7, 0.9)[min(index, 1)]
    return round(weight * per_kg)


def _reading(baseline: Reading, peak: tuple[int, int, int], minute: int, dice: Random) -> Reading:
    """Rise to the peak at 40 min, back to the baseline by 120 min."""
    rise = minute / 40 if minute <= 40 else max(0.0, 1 - (minute - 40) / 80)
    return Reading(
        minute,
        round(baseline.systolic + peak[0] * rise) + dice.randint(-2, 2),
        round(baseline.diastolic + peak[1] * rise) + dice.randint(-2, 2),
        round(baseline.heart_rate + peak[2] * rise) + dice.randint(-2, 2),
        min(100, baseline.saturation - round(rise) + dice.randint(-1, 1)),
    )
