"""A dosing session that goes on now, through the gateway: the demo's patient and team, with the dose begun just so long
ago. For what has to be looked at while it happens: kills in its middle, and how many go on at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cli.demo import after, bedside
from cli.demo.acting import create
from cli.demo.client import FhirClient, condition
from cli.demo.course import Course, prepare_team
from cli.demo.patients import Reading, generate
from cli.demo.play import QUESTIONNAIRES
from cli.demo.progress import Bars
from cli.demo.resources import AFTER_ARRIVAL, DAYS, Calendar, Team, instant
from cli.terminal import out
from shared.fhir.json import Resource, parse

INJECTED = 7
"""The generated patient of this number is treated by injection, and nothing stands in the way of his dose."""
_DOSE_DAY = DAYS["kap-dosing"][0]


@dataclass(frozen=True, slots=True)
class Live(Calendar):
    """A course whose first dose begins at `dose`; all that comes before it is on the days before."""

    dose: datetime = field(default_factory=lambda: datetime.now(UTC))

    def at(self, day: int, hour: float = 9.0) -> datetime:
        """Return a time of a day of the course."""
        return self.dose - timedelta(days=_DOSE_DAY - day) + timedelta(hours=hour - 9)

    def visit(self, kind: str, index: int) -> datetime:
        """Return when a visit begins."""
        return self.dose - AFTER_ARRIVAL if kind == "kap-dosing" else self.at(DAYS[kind][index])


async def publish_questionnaires(gateway: FhirClient) -> None:
    """Publish the clinic's questionnaires, each once."""
    for path in sorted(QUESTIONNAIRES.glob("*.json")):
        questionnaire = parse(path.read_bytes())
        await gateway.create(questionnaire, unless=condition(url=questionnaire["url"]))


class Session(Course):
    """One patient's dosing session.

    Args:
        gateway: the FHIR server.
        team: who treats; nobody of it may be booked elsewhere at the time.
        seed: tells the patients of a run apart.
        dose: when the dose began, or is to begin.

    """

    def __init__(self, gateway: FhirClient, team: Team, seed: int, dose: datetime) -> None:
        person = generate(seed, INJECTED)[INJECTED - 1]
        calendar = Live(dose.date(), person.number, dose)
        super().__init__(person, gateway, team, calendar, Bars(out).bar(person.name, 0))
        self.began = dose
        self.key = f"{person.key}-live"
        self.visit_ref = ""
        self.dose_ref = ""
        self.order_ref = ""

    @classmethod
    async def of_a_team_of_its_own(cls, gateway: FhirClient, seed: int, dose: datetime) -> Session:
        """Return a session with a team that treats nobody else."""
        return cls(gateway, await prepare_team(gateway, f"live-{seed}"), seed, dose)

    async def until_the_dose(self) -> None:
        """Refer, screen, consent, plan, prepare, order, book and begin; ask, measure, and give the dose."""
        await self._admit()
        assert await self._screen() == "eligible"
        await self._agree()
        await self.visit("kap-prep", 0)
        self.order_ref = (await create(self.gateway, self.order(0))).reference
        _, self.visit_ref = await self.book("kap-dosing", 0, self.order_ref)
        await self.begin(self.visit_ref, self.began - AFTER_ARRIVAL)
        await self._before(self.key, 0, self.visit_ref, self.order_ref, self.began)
        dose = await self.start_dose(self.visit_ref, self.order_ref, self.person.sessions[0].dose_mg, self.began, [])
        self.dose_ref = f"MedicationAdministration/{dose['id']}"

    def reading(self, number: int, *, heart_rate: int = 72) -> list[Resource]:
        """Return one set of vital signs, taken now: pressure, heart rate, saturation; `number` tells it apart."""
        now = datetime.now(UTC)
        values = Reading(number, 128, 80, heart_rate, 98)
        made = bedside.vitals(self.key, self.subject, self.visit_ref, values, now, self.team.nurse)
        return [{**one, "issued": instant(now)} for one in made]

    def vial(self) -> dict[str, str]:
        """Return what names the vial of the session in the ledger, as parameters."""
        return bedside.vial(self.person, 0)

    def phq9(self, *answers: int) -> Resource:
        """Return a PHQ-9 with these nine answers, given now."""
        person = replace(self.person, phq9=(self.person.phq9[0], answers))
        return after.phq9(person, 1, self.subject, datetime.now(UTC))
