"""How the command line speaks: sentences on the terminal, problems without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

WIDTH = 120  # of what is written to a file or another program

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
err = Console(stderr=True, highlight=False)


def problem(sentence: str) -> None:
    """Tell what is in the way."""
    err.print(f"[bold red]kap:[/] {escape(sentence)}", soft_wrap=True)


@contextmanager
def telling(console: Console = err) -> Iterator[Callable[[str], None]]:
    """Give a function that tells what is being done: a line each, with a spinner where somebody watches."""
    if not console.is_terminal:
        yield lambda sentence: console.print(sentence, markup=False, soft_wrap=True)
        return
    with console.status("") as status:

        def report(sentence: str) -> None:
            console.print(f"[dim]{escape(sentence)}[/]", soft_wrap=True)
            status.update(escape(sentence))

        yield report


def megabytes(size: int | None) -> str:
    """Return a size in bytes as ``97 MB``; a dash where it is unknown."""
    return "-" if size is None else f"{size / 1_000_000:.0f} MB"
