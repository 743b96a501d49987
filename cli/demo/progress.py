"""Progress on a terminal as bars; where nobody watches (a pipe, a log), one plain line as each thing ends."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Bar:
    """One thing that goes on: `done` of `total`, and a word on where it is."""

    def __init__(self, bars: Bars, name: str, total: int) -> None:
        self.name = name
        self.total = total
        self.done = 0
        self.note = ""
        self._bars = bars
        self._task: TaskID | None = None
        self._said = False
        if bars.progress is not None:
            self._task = bars.progress.add_task(name, total=total or None, note="")

    def advance(self, count: int = 1) -> None:
        """Count `count` more as done."""
        self.show(self.done + count)

    def show(self, done: int, *, total: int | None = None, note: str | None = None) -> None:
        """Set how far it is."""
        self.done = done
        self.total = self.total if total is None else total
        self.note = self.note if note is None else note
        if self._bars.progress is not None and self._task is not None:
            self._bars.progress.update(self._task, completed=done, total=self.total or None, note=self.note)

    def end(self, note: str | None = None) -> None:
        """Say that it is over."""
        self.show(self.done, note=note)
        if self._bars.progress is None and not self._said:
            self._said = True
            count = f"{self.done} of {self.total}" if self.total else str(self.done)
            self._bars.console.print(
                f"  {self.name}: {count}{f', {self.note}' if self.note else ''}", highlight=False, soft_wrap=True
            )


class Bars:
    """Several bars under one another, as long as the `with` block runs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None
        if console.is_terminal:
            self.progress = Progress(
                SpinnerColumn(finished_text="[green]✓"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[note]}"),
                console=console,
                refresh_per_second=8,
            )

    def __enter__(self) -> Self:
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.live.transient = error is not None  # what was broken off does not stand as if it went on
            self.progress.stop()

    def bar(self, name: str, total: int) -> Bar:
        """Add a bar."""
        return Bar(self, name, total)
