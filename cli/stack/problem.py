"""What went wrong with the local stack, in a sentence for the person at the terminal."""

from __future__ import annotations


class StackProblem(Exception):
    """The message says what is in the way and what to do; it is shown without a traceback."""
