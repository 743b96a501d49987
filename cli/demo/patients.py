"""Plausible KAP patients out of a seeded generator: the same seed makes the same patients, whenever it runs.

Nobody here exists. The shapes are from practice: indications and codes as clinics of this kind treat them, doses and
monitoring by route (IV 0.5 mg/kg over 40 min with a mean peak of +16/+11 mmHg at 40 min; IM 0.5 to 1.5 mg/kg;
sublingual 100 to 300 mg), PHQ-9 totals that fall fast after the first dose in those who respond.
SNOMED CT, ICD-10-CM, RxNorm and LOINC codes are named, their terminologies are not copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from random import Random
from typing import Final, Literal

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
from shared.fhir.kap import Drug

Story = Literal["iv", "aneurysm", "im", "home", "esketamine", "pregnancy", "withdrawn"]
"""What the patient's course shows.

iv: infusions for treatment-resistant depression. The desk books before consent is signed, the nurse starts before the
    baseline blood pressure: both are refused. The pressure is too high, is repeated, and the dose proceeds. A reading
    beyond the limit is missed and charted late, which asks for a review. A response.
aneurysm: referred for esketamine, refused by rule at screening.
im: injections for PTSD. The pressure is far too high, the start is refused, the dose was given all the same and is
    recorded, which raises the alarm. In the second session nausea, treated. A reminder, and a freed time, by message.
home: lozenges at home, referred by a partner physician; a chaperone by video, what Schedule III asks for, and an answer
    about suicidal thoughts, taken up by a clinician.
esketamine: under its REMS, in two devices; a relative with psychosis, on whom the prescriber decides; no response.
pregnancy: found after the course was booked.
withdrawn: consent, after the first session.
"""
STORIES: tuple[Story, ...] = ("iv", "aneurysm", "im", "home", "esketamine", "pregnancy", "withdrawn")
"""In the order of the patients: the first three show most."""

MINUTES: dict[str, tuple[int, ...]] = {
    "iv": (10, 20, 30, 40, 55, 70, 85, 100, 115),
    "im": (15, 30, 45, 60, 90, 120),
    "sl": (40, 120),
    "nasal": (40, 80, 120),
}
"""Minutes after the start of the dose at which vital signs are taken, by route, as the policy's cadence says."""


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
    """One dosing session: the dose in mg, the readings before and under it, and the CADSS-6 total at its peak.

    `held` are readings before the baseline at which the dose had to wait; `late` is the minute of a reading that was
    charted only after the session; `nauseous` tells of an adverse event, `past_gate` that the dose was given though the
    gate was closed; `devices` are the mg of each device of a nasal spray.
    """

    dose_mg: int
    baseline: Reading
    readings: tuple[Reading, ...]
    dissociation: int
    held: tuple[Reading, ...] = ()
    late: int | None = None
    nauseous: bool = False
    past_gate: bool = False
    devices: tuple[int, ...] = ()


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
    after each dosing session, `pcl5` the twenty (0 to 4) at intake and at the end, where it is asked. `escort` is who
    takes him home, and is with him where the dose is taken at home.
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
    pcl5: tuple[tuple[int, ...], ...] = ()
    escort: str = ""

    @property
    def drug(self) -> Drug:
        """The drug: ``ketamine`` or ``esketamine``."""
        return "esketamine" if self.route is ESKETAMINE else "ketamine"

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

ADEQUATE_MG = {
    "36437": 150, "4493": 40, "321988": 20, "39786": 225, "72625": 60, "42347": 300, "15996": 45,
}  # fmt: skip
"""mg a day at which each of them was tried, by its code: an adequate dose."""

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

_HITS: dict[Story, frozenset[str]] = {"aneurysm": frozenset({"E01"}), "esketamine": frozenset({"E08"})}
_ROUTES: dict[Story, Route] = {
    "iv": ROUTES[0],
    "aneurysm": ESKETAMINE,
    "im": ROUTES[1],
    "home": ROUTES[2],
    "esketamine": ESKETAMINE,
    "pregnancy": ROUTES[0],
    "withdrawn": ROUTES[1],
}
_INDICATIONS: dict[Story, tuple[Indication, ...]] = {
    "iv": INDICATIONS[:2],
    "aneurysm": INDICATIONS[:2],
    "im": INDICATIONS[2:3],
    "home": INDICATIONS[1:2],
    "esketamine": INDICATIONS[:2],
    "pregnancy": INDICATIONS[:2],
    "withdrawn": INDICATIONS[2:],
}

_ITEMS = 9
_SUICIDE_ITEM = 8
_TOP = 3
_LATEST_BIRTH = date(2004, 12, 31)
_PEAK = 40
_DEVICE_MG = 28
_EARLIEST_BIRTH = date(1957, 1, 1)
_FERTILE_BIRTH = date(1986, 1, 1)
_EARLIEST_OF: Final[Mapping[Story, date]] = {"pregnancy": _FERTILE_BIRTH, "esketamine": date(1970, 1, 1)}
"""Esketamine begins lower from 65 years on, and is given here as to the others."""
_PCL5_ITEMS = 20
_PCL5_TOP = 4


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
    thoughts = max(0, total - _SUICIDE_ITEM * _TOP)
    return (*spread(total - thoughts, _SUICIDE_ITEM, _TOP, dice), thoughts)


def spread(total: int, items: int, top: int, dice: Random) -> tuple[int, ...]:
    """Return so many answers, each 0 to `top`, that add up to `total`."""
    given = [0] * items
    for _ in range(total):
        given[dice.choice([item for item in range(items) if given[item] < top])] += 1
    return tuple(given)


def _person(seed: int, number: int, sessions: int) -> Person:
    dice = Random(f"kap-demo/{seed}/{number}")  # noqa: S311 - plausible, not secret
    story = STORIES[(number - 1) % len(STORIES)]
    gender: Literal["female", "male"] = "female" if story == "pregnancy" else dice.choice(("female", "male"))
    earliest = _EARLIEST_OF.get(story, _EARLIEST_BIRTH)
    days = (_LATEST_BIRTH - earliest).days
    birth_date = date.fromordinal(earliest.toordinal() + dice.randrange(days))
    height = round(dice.gauss(164 if gender == "female" else 177, 6))
    weight = round(min(max(dice.gauss(25.5, 3.5), 18.5), 33.0) * (height / 100) ** 2, 1)
    failed = dice.sample(ANTIDEPRESSANTS, 3)
    route = _ROUTES[story]
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
        indication=dice.choice(_INDICATIONS[story]),
        onset=date(dice.randint(2015, 2024), dice.randint(1, 12), dice.randint(1, 28)),
        failed=tuple(failed[:2]),
        current=(failed[2],),
        others=(AORTIC_ANEURYSM,) if story == "aneurysm" else (),
        hits=_HITS.get(story, frozenset()),
        route=route,
        sessions=tuple(_session(route, weight, resting, story, index, dice) for index in range(sessions)),
        phq9=_phq9(start, story, sessions, dice),
        pcl5=tuple(spread(total, _PCL5_ITEMS, _PCL5_TOP, dice) for total in _pcl5_totals(story, dice)),
        escort=f"{dice.choice(_GIVEN[dice.choice(('female', 'male'))])} {dice.choice(_FAMILIES)}",
    )


def _phq9(start: int, story: Story, sessions: int, dice: Random) -> tuple[tuple[int, ...], ...]:
    """Answers at intake and after each session; at home the one about suicidal thoughts is positive at intake."""
    found = [answers(total, dice) for total in _totals(start, story, sessions, dice)]
    if story == "home":
        found[0] = (*found[0][:_SUICIDE_ITEM], 1)
    return tuple(found)


def _pcl5_totals(story: Story, dice: Random) -> Sequence[int]:
    """PCL-5 totals at intake and at the end: above the cut of 31 to 33, and below it."""
    return (dice.randint(42, 58), dice.randint(14, 26)) if story == "im" else ()


def _totals(start: int, story: Story, sessions: int, dice: Random) -> Sequence[int]:
    """PHQ-9 totals at intake and after each session: in those who respond, most of the fall comes with the first."""
    share = (0.97, 0.9, 0.86) if story == "esketamine" else (0.62, 0.42, 0.3)
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
    first = index == 0
    held: tuple[Reading, ...] = ()
    if story == "iv" and first:
        held = (Reading(-25, dice.randint(162, 168), dice.randint(101, 105), rate + 8, 97),)
        systolic, diastolic = dice.randint(142, 148), dice.randint(84, 90)
    past_gate = story == "im" and first
    if past_gate:
        systolic, diastolic = dice.randint(184, 190), dice.randint(112, 116)
    baseline = Reading(-10, systolic, diastolic, rate, dice.randint(96, 99))
    along = _settling if past_gate else _reading
    readings = tuple(along(baseline, peak, minute, dice) for minute in MINUTES[route.key])
    late = None
    if held:
        late = _PEAK
        beyond = Reading(late, dice.randint(182, 186), dice.randint(96, 102), rate + 16, baseline.saturation - 1)
        readings = tuple(beyond if one.minute == late else one for one in readings)
    return Session(
        dose,
        baseline,
        readings,
        dissociation=dice.randint(3, 12),
        held=held,
        late=late,
        nauseous=story == "im" and not first,
        past_gate=past_gate,
        devices=(_DEVICE_MG,) * (dose // _DEVICE_MG) if route.key == "nasal" else (),
    )


def _dose(route: str, weight: float, index: int) -> int:
    """Dose in mg: the second session may go up by a step, as the response allows."""
    if route == "nasal":
        return 56
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


def _settling(baseline: Reading, peak: tuple[int, int, int], minute: int, dice: Random) -> Reading:
    """From a pressure that was too high, by a fifth down to one with which the patient may go home, by 90 min."""
    share = 1 - min(minute, 90) / 90 * 0.21
    return Reading(
        minute,
        round(baseline.systolic * share) + dice.randint(-2, 2),
        round(baseline.diastolic * share) + dice.randint(-2, 2),
        baseline.heart_rate + dice.randint(-2, peak[2]),
        baseline.saturation - dice.randint(0, 2),
    )
