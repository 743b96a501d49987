"""Counts the steps that a backtracking matcher takes, so that how they grow can be told without a clock.

A regular expression is parsed by Python's own parser and run on a small machine that tries what `re` tries, in the same
order, without the shortcuts that `re` has: what grows slowly here grows slowly there.

Source: Russ Cox, "Regular Expression Matching: the Virtual Machine Approach"; CWE-1333
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from re import _constants as sre  # the parser's own names; nothing public tells a pattern's parts
from re import _parser as parser

WHOLE, FIRST, ANYWHERE = "fullmatch", "match", "search"
MOST_STEPS = 400_000
CLIPPED = 8
"""``{1,64}`` is taken for ``{1,8}``: what is bounded is a factor, and a small one shows growth in short texts."""


class TooManySteps(Exception):
    """The matcher went on and on."""


@cache
def _category(name, ascii_only):
    form = {"DIGIT": r"\d", "NOT_DIGIT": r"\D", "SPACE": r"\s", "NOT_SPACE": r"\S", "WORD": r"\w", "NOT_WORD": r"\W"}
    return re.compile(form[str(name).removeprefix("CATEGORY_")], re.ASCII if ascii_only else 0).match


@dataclass
class Machine:
    """A compiled pattern.

    Attributes:
        flags: of the pattern.
        program: instructions: a character's test, or where to go on.
        samples: characters that its tests tell apart.
        loops: of each repeat without an end, a text that leads to it, and texts that its body takes.

    """

    flags: int
    program: list = field(default_factory=list)
    samples: set = field(default_factory=set)
    loops: list = field(default_factory=list)
    marks: int = 0

    @classmethod
    def of(cls, pattern, flags=0):
        tree = parser.parse(pattern, flags)
        machine = cls(tree.state.flags)
        machine._emit(tree, [])
        machine.program.append(("end",))
        return machine

    # Compiling

    def _emit(self, items, before):
        for op, value in items:
            getattr(self, f"_{str(op).lower()}")(value, before)
            before.append((op, value))

    def _test(self, takes, samples):
        if self.flags & re.IGNORECASE:
            plain = takes
            takes = lambda code: plain(ord(chr(code).lower()[0])) or plain(ord(chr(code).upper()[0]))  # noqa: E731
        self.samples.update(samples)
        self.program.append(("char", takes))

    def _literal(self, code, _before):
        self._test(lambda one: one == code, [code])

    def _not_literal(self, code, _before):
        self._test(lambda one: one != code, [code])

    def _any(self, _value, _before):
        every = self.flags & re.DOTALL
        self._test(lambda one: bool(every) or one != 10, [])

    def _in(self, value, _before):
        self._test(lambda one: self._is_in(value, one), _edges(value))

    def _is_in(self, value, code):
        negated = value[0][0] is sre.NEGATE
        for op, what in value[1:] if negated else value:
            if op is sre.LITERAL and code == what:
                return not negated
            if op is sre.RANGE and what[0] <= code <= what[1]:
                return not negated
            if op is sre.CATEGORY and _category(what, bool(self.flags & re.ASCII) or code > 255)(chr(code)):
                return not negated
        return negated

    def _subpattern(self, value, before):
        self._emit(value[-1], list(before))

    def _branch(self, value, before):
        ends = []
        for index, one in enumerate(value[1]):
            last = index == len(value[1]) - 1
            at = len(self.program)
            if not last:
                self.program.append(None)
            self._emit(one, list(before))
            if not last:
                ends.append(len(self.program))
                self.program.append(None)
                self.program[at] = ("split", at + 1, len(self.program))
        for at in ends:
            self.program[at] = ("jump", len(self.program))

    def _max_repeat(self, value, before):
        self._repeat(value, before, greedy=True)

    def _min_repeat(self, value, before):
        self._repeat(value, before, greedy=False)

    def _repeat(self, value, before, *, greedy):
        least, most, body = value
        for _ in range(min(least, CLIPPED)):
            self._emit(body, list(before))
        if most is sre.MAXREPEAT:
            self.loops.append((sample(before), list(samples_of(body))))
            at = len(self.program)
            self.program.append(None)
            empty = body.getwidth()[0] == 0
            if empty:
                self.marks += 1
                mark = self.marks
                self.program.append(("mark", mark))
            self._emit(body, list(before))
            if empty:
                self.program.append(("moved", mark))
            self.program.append(("jump", at))
            here = len(self.program)
            self.program[at] = ("split", at + 1, here) if greedy else ("split", here, at + 1)
            return
        splits = []
        for _ in range(min(most, CLIPPED) - min(least, CLIPPED)):
            splits.append(len(self.program))
            self.program.append(None)
            self._emit(body, list(before))
        for at in splits:
            here = len(self.program)
            self.program[at] = ("split", at + 1, here) if greedy else ("split", here, at + 1)

    def _at(self, value, _before):
        self.program.append(("at", str(value)))

    def _assert(self, value, _before):
        self._look(value, wanted=True)

    def _assert_not(self, value, _before):
        self._look(value, wanted=False)

    def _look(self, value, *, wanted):
        direction, body = value
        inner = Machine(self.flags, samples=self.samples, loops=self.loops)
        inner._emit(body, [])
        inner.program.append(("end",))
        self.program.append(("look", inner, wanted, body.getwidth()[0] if direction < 0 else 0))

    # Running

    def run(self, text: Sequence[int], start: int, steps: list, *, whole: bool) -> int | None:  # noqa: C901, PLR0912 - one arm an instruction
        """Return where a match that begins at `start` ends; count in ``steps[0]``."""
        program, end = self.program, len(text)
        stack = [(0, start, ())]
        while stack:
            pc, at, marks = stack.pop()
            while True:
                steps[0] += 1
                if steps[0] > MOST_STEPS:
                    raise TooManySteps
                op = program[pc]
                match op[0]:
                    case "char":
                        if at == end or not op[1](text[at]):
                            break
                        at += 1
                    case "split":
                        stack.append((op[2], at, marks))
                        pc = op[1]
                        continue
                    case "jump":
                        pc = op[1]
                        continue
                    case "mark":
                        marks = (*(one for one in marks if one[0] != op[1]), (op[1], at))
                    case "moved":
                        if (op[1], at) in marks:
                            break
                    case "at":
                        if not self._is_at(op[1], text, at):
                            break
                    case "look":
                        _, inner, wanted, back = op
                        if (at >= back and inner.run(text, at - back, steps, whole=False) is not None) is not wanted:
                            break
                    case _:
                        if whole and at != end:
                            break
                        return at
                pc += 1
        return None

    def _is_at(self, what, text, at):
        word = lambda where: 0 <= where < len(text) and bool(_category("WORD", False)(chr(text[where])))  # noqa: E731
        match what.removeprefix("AT_"):
            case "BEGINNING" | "BEGINNING_STRING":
                return at == 0 or (bool(self.flags & re.MULTILINE) and text[at - 1] == 10)
            case "END":
                return at == len(text) or (at == len(text) - 1 and text[at] == 10)
            case "END_STRING":
                return at == len(text)
            case "BOUNDARY":
                return word(at - 1) != word(at)
        raise NotImplementedError(what)

    def tried(self, text: Sequence[int], method: str) -> tuple[list[tuple[int, int]], int]:
        """Return where it matches (begin, end), and in how many steps that was found."""
        steps, found, at = [0], [], 0
        while at <= len(text):
            end = self.run(text, at, steps, whole=method == WHOLE)
            if end is not None:
                found.append((at, end))
            if method != ANYWHERE:
                break
            at = at + 1 if end is None or end == at else end
        return found, steps[0]


def _edges(value):
    for op, what in value:
        if op is sre.LITERAL:
            yield what
        elif op is sre.RANGE:
            yield from what
        elif op is sre.CATEGORY:
            yield {"DIGIT": 48, "SPACE": 32, "WORD": 97}.get(str(what).rpartition("_")[2], 33)


def samples_of(items) -> Iterator[list[int]]:
    """Yield some texts that a part of a pattern takes: the shortest way, by each of its branches' first edges."""
    choices = [list(_one_of(op, value))[:3] for op, value in items]
    for several in list(product(*choices))[:6]:
        yield [code for one in several for code in one]


def _one_of(op, value) -> Iterable[list[int]]:
    if op is sre.LITERAL:
        return [[value]]
    if op is sre.NOT_LITERAL:
        return [[97 if value != 97 else 98]]
    if op is sre.ANY:
        return [[97]]
    if op is sre.IN:
        if value[0][0] is sre.NEGATE:
            taken = set(_edges(value[1:]))
            return [[next(code for code in (97, 48, 33, 95, 126) if code not in taken)]]
        return [[code] for code in _edges(value)]
    if op is sre.SUBPATTERN:
        return samples_of(value[-1])
    if op is sre.BRANCH:
        return [next(iter(samples_of(one)), []) for one in value[1]]
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        times = max(1, min(value[0], CLIPPED))
        return [one * times for one in samples_of(value[2])]
    return [[]]


def sample(items) -> list[int]:
    """Return a text that a part of a pattern takes."""
    return next(iter(samples_of(items)), [])


SIZES = (20, 40, 80)
"""How often a part is repeated in an adversary's text; each twice the one before."""

MOST_GROWTH = 3.0
"""Twice the text is twice the steps; where one part can be taken by two repeats it is four times, or worse."""


def worst_growth(pattern, flags: int, method: str) -> tuple[float, str]:
    """Return the worst growth of steps with the length of a text that was found, and that text's part."""
    machine = Machine.of(pattern, flags)
    letters = sorted(machine.samples)[:: max(1, len(machine.samples) // 6)] or [97]
    parts = {tuple(part) for _, bodies in machine.loops for part in bodies if part}
    parts |= {one for count in (1, 2) for one in product(letters, repeat=count)}
    before = {(), *(tuple(lead) for lead, _ in machine.loops)}
    worst = (0.0, "")
    for lead, part, tail in product(sorted(before), sorted(parts), ((), (0,))):
        texts = [[*lead, *part * size, *tail] for size in SIZES]
        try:
            few = machine.tried(texts[0], method)[1]
            if few < 3 * SIZES[0]:  # it gave up at once
                continue
            some, many = (machine.tried(text, method)[1] for text in texts[1:])
        except TooManySteps:
            return float("inf"), _shown(lead, part, tail)
        growth = (many - some) / max(some - few, SIZES[0])
        worst = max(worst, (growth, _shown(lead, part, tail)))
    return worst


def _shown(lead, part, tail) -> str:
    return f"{''.join(map(chr, lead))!r} + {''.join(map(chr, part))!r} * n + {''.join(map(chr, tail))!r}"
