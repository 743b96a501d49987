"""`./kap down`: stop the stack."""

from __future__ import annotations

from cli.options import DATA, DataOption
from cli.stack.stack import Stack
from cli.terminal import out, telling


def down(*, data: DataOption = DATA) -> None:
    """Stop everything in good order; the data stays."""
    with telling() as report:
        ran = Stack(data, report=report).down()
    out.print("Stopped. The data stays; ./kap up finds it again." if ran else "Nothing ran.")
