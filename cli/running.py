"""What every command asks first that needs a running stack."""

from __future__ import annotations

from pathlib import Path

from cli.stack.problem import StackProblem
from cli.stack.stack import Stack


def running(data: Path) -> Stack:
    """Return the stack of a data folder.

    Raises:
        StackProblem: nothing of it runs.

    """
    stack = Stack(data)
    if not stack.any_lives():
        raise StackProblem(f"Nothing runs from {stack.data}. ./kap up starts it.")
    return stack
