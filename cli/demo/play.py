"""The two things a demo can play: generated patients through their courses, or a folder of real Bundles."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cli.demo import report, resources
from cli.demo.acting import Told
from cli.demo.bundles import read_folder
from cli.demo.client import DemoError, FhirClient, Held, condition
from cli.demo.course import Course, prepare_team
from cli.demo.journal import Journal
from cli.demo.patients import generate
from cli.demo.progress import Bar, Bars
from cli.demo.resources import Calendar
from cli.demo.synthea import Loader, Screened, refer_and_screen
from cli.stack.stack import ROOT
from cli.terminal import out, problem
from shared.fhir.json import parse

AT_ONCE = 6
"""So many patients go through their course side by side."""
QUESTIONNAIRES = ROOT / "policies" / "questionnaires"


@dataclass(frozen=True, slots=True)
class Played:
    """How it went: whether all came to its end, and a patient to look at.

    Attributes:
        whole: whether all came to its end.
        patient: ``Patient/id``; empty where there is none to look at.
        given: his given name.
        therapist: who treats him, ``Practitioner/id``.
        named: what `./kap timeline` calls him: ``1-3`` is patient 3 of seed 1, else ``Patient/id``.
        patients: all of them, ``Patient/id``.
        seed: which they are of.

    """

    whole: bool
    patient: str = ""
    given: str = ""
    therapist: str = ""
    named: str = ""
    patients: tuple[str, ...] = ()
    seed: int = 0


async def play(
    gateway: FhirClient,
    journal: Journal,
    patients: int | None,
    seed: int | None,
    *,
    partner: Callable[[str], Awaitable[None]] | None = None,
) -> Played:
    """Play generated patients through their courses, side by side, and show what happened to each.

    `partner` is called with the partner physician (``Practitioner/<id>``) of the one that is looked at, before any is
    treated.
    """
    run, again = journal.begin(patients, seed, datetime.now(UTC).date())
    people = generate(run.seed, run.patients)
    out.print(
        f"[bold]KAP Exchange demo[/]{', going on' if again else ''}: {len(people)} patients of seed {run.seed}, "
        f"through {gateway.base}\n"
    )
    first = run.day - timedelta(days=resources.COURSE_DAYS)
    blocks = sorted({block_of(person.number) for person in people})
    with Bars(out) as bars:
        clinic = bars.bar("The clinic", len(blocks))
        await _questionnaires(gateway)
        made = await asyncio.gather(*(prepare_team(gateway, f"{run.seed}-{block}") for block in blocks))
        teams = dict(zip(blocks, made, strict=True))
        clinic.show(len(teams))
        clinic.end("teams, and the questionnaires")
        shown = next((one for one in people if one.story == "im"), people[0])
        if partner is not None:
            await partner(teams[block_of(shown.number)].referrer)
        gate = asyncio.Semaphore(AT_ONCE)
        courses = [
            Course(
                person,
                gateway,
                teams[block_of(person.number)],
                Calendar(first, person.number),
                bars.bar(person.name, 0),
            )
            for person in people
        ]
        told = await asyncio.gather(*(_course(gate, course) for course in courses))
    out.print()
    report.courses(out, told, run.day)
    faults = [f"{one.person.name}: {fault}" for one in told for fault in one.faults]
    for fault in faults:
        problem(fault)
    if not faults:
        journal.finish(run)
    best = next(one for one in told if one.person is shown)
    therapist = teams[block_of(shown.number)].therapist
    everybody = tuple(one.patient for one in told if one.patient)
    return Played(not faults, best.patient, shown.given, therapist, shown.key, everybody, run.seed)


def block_of(number: int) -> int:
    """Return which team treats the patient of this number."""
    return (number - 1) // resources.PATIENTS_PER_TEAM + 1


async def _course(gate: asyncio.Semaphore, course: Course) -> Told:
    async with gate:
        try:
            return await course.play()
        except DemoError as error:  # told at the end; the other patients go on
            course.told.faults.append(str(error))
            return course.told


async def _questionnaires(gateway: FhirClient) -> None:
    """Publish the clinic's questionnaires, each once."""
    for path in sorted(QUESTIONNAIRES.glob("*.json")):
        questionnaire = parse(path.read_bytes())
        await gateway.create(questionnaire, unless=condition(url=questionnaire["url"]))


async def load(gateway: FhirClient, folder: Path) -> Played:
    """Load the Bundles of a folder, refer and screen their patients, and show what became of each entry."""
    files = read_folder(folder)
    entries = sum(len(found) for found in files.values())
    out.print(f"[bold]KAP Exchange demo[/]: {entries:,} entries of {len(files)} Bundles in {folder}\n")
    with Bars(out) as bars:
        bar = bars.bar("Bundle entries", entries)
        loaded = await Loader(gateway, bar.advance).load(files)
        bar.end("created, found, or left out with a reason")
        bar = bars.bar("Patients referred and screened", len(loaded.patients))
        now = datetime.now(UTC)
        screened = await asyncio.gather(*(_screen(gateway, patient, now, bar) for patient in loaded.patients.values()))
        bar.end()
    out.print()
    report.loading(out, loaded, screened)
    if loaded.accounted != loaded.entries:
        problem(f"{loaded.entries - loaded.accounted} entries are not accounted for.")
        return Played(whole=False)
    for file, patient in loaded.patients.items():
        return Played(True, patient.reference, file.partition("_")[0], named=patient.reference)
    return Played(whole=True)


async def _screen(gateway: FhirClient, patient: Held, on: datetime, bar: Bar) -> Screened:
    screened = await refer_and_screen(gateway, patient, on)
    bar.advance()
    return screened
