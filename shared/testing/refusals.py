"""What a refusal has to say: judged on its sentence, for tests."""

from __future__ import annotations

import re
from typing import Final

from shared.fhir.outcome import Unprocessable

_VERBS: Final = """
a prescriber, add, ask, assess, arrange, book, bring, certify, change, choose, code, complete, correct, create, do not,
end, find, give, go on, have, hold, issue, join, keep, leave, load, look, make, name, obtain, order, plan, post, record,
refer, screen, see, stabilise, start, stop, take, tell, treat, try again, wait, weigh, write
"""
_DO: Final = re.compile(
    rf"(?:^|[.;:,·)] *|\b(?:and|or|then|first|only) )(?:{'|'.join(one.strip() for one in _VERBS.split(','))})\b",
    re.IGNORECASE,
)
"""A clause that begins with what to do."""


def tells_what_to_do(said: str) -> bool:
    """Tell whether a refusal says what to do; one whose end is put into it (·) by others says so there."""
    return _DO.search(said) is not None or said.rstrip(". ").endswith("·")


def lacking(refused: Unprocessable) -> list[str]:
    """Return what the issues of a refusal that name a rule do not say besides."""
    found = []
    for issue in refused.issues:
        if issue.severity not in ("error", "fatal") or issue.rule is None:
            continue
        for name, there in (
            ("its source", issue.source),
            ("where", issue.expression),
            ("what to do", tells_what_to_do(issue.diagnostics)),
        ):
            if not there:
                found.append(f"{name}: {issue.diagnostics}")
    return found
