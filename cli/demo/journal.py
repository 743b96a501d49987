"""Which run of the demo was begun and which was finished, kept in the stack's data folder, so that a run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import msgspec

from cli.demo.patients import STORIES


@dataclass(frozen=True, slots=True)
class Run:
    """A run: its seed, how many patients, the day it stands for, and whether it came to its end."""

    seed: int
    patients: int
    day: date
    finished: bool = False


class Journal:
    """The runs of one stack, in ``demo.json``."""

    def __init__(self, data: Path) -> None:
        self._path = data / "demo.json"

    def runs(self) -> list[Run]:
        """Return the runs, oldest first; none where the file is not there or cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Run])
        except (FileNotFoundError, msgspec.DecodeError):
            return []

    def begin(self, patients: int | None, seed: int | None, today: date) -> tuple[Run, bool]:
        """Return the run to play, and whether it was begun before.

        Without a seed: the last run where it was not finished, else a new one. With a seed: that run, of the day it was
        first played on.
        """
        runs = self.runs()
        if seed is None and runs and not runs[-1].finished and patients in {None, runs[-1].patients}:
            return runs[-1], True
        known = next((run for run in runs if run.seed == seed), None)
        if known is not None:
            run = Run(known.seed, patients or known.patients, known.day)
        else:
            chosen = max((one.seed for one in runs), default=0) + 1 if seed is None else seed
            run = Run(chosen, patients or len(STORIES), today)
        self._write([one for one in runs if one.seed != run.seed] + [run])
        return run, known is not None

    def finish(self, run: Run) -> None:
        """Note that a run came to its end."""
        done = Run(run.seed, run.patients, run.day, finished=True)
        self._write([done if one.seed == run.seed else one for one in self.runs()])

    def _write(self, runs: list[Run]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(runs)))
        beside.replace(self._path)
