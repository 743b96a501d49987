"""How a course moves: by itself with its ground, by hand between visits and to its end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

BEFORE_PLAN = ("referred", "screening", "eligible", "consented")
RUNNING = ("planned", "preparing", "dosing", "integrating", "follow-up")
ENDED = ("finished", "stopped")
AFTER_DOSE = frozenset(("dosing", "integrating", "follow-up"))
STAGE_OF_VISIT = {
    "kap-prep": "preparing",
    "kap-dosing": "dosing",
    "kap-integration": "integrating",
    "kap-followup": "follow-up",
}


@dataclass(frozen=True, slots=True)
class Ground:
    """What a course stands on. `planned`: an active plan and an active order."""

    eligible: bool
    consented: bool
    planned: bool


def course_after(stage: str, status: str, ground: Ground) -> tuple[str, str]:
    """Return stage and status of a course, given what it now stands on.

    It advances to consented and planned by itself. When its ground falls away it is put on hold; a person lifts that.
    """
    if status not in ("planned", "active"):
        return stage, status
    consent_needed = stage not in ("referred", "screening", "eligible")
    if not ground.eligible or (consent_needed and not ground.consented):
        return stage, "onhold"
    if stage in BEFORE_PLAN and ground.consented:
        stage = "planned" if ground.planned else "consented"
    return stage, "active" if stage in RUNNING else "planned"


def stage_after_visit(stage: str, visit: str | None) -> str:
    """Return the stage of a course in which such a visit began."""
    wanted = None if visit is None else STAGE_OF_VISIT.get(visit)
    return stage if wanted is None or stage not in RUNNING else wanted


def statuses_of(stages: Collection[str], stage: str | None) -> frozenset[str]:
    """Return the statuses that FHIR's binding lets a course have in a stage; `stages` are all it has been in.

    One that ends before the first dosing session never was: cancelled, not finished.
    """
    if stage in ENDED:
        return frozenset(("finished",) if AFTER_DOSE.intersection(stages) else ("cancelled",))
    if stage in RUNNING:
        return frozenset(("active", "onhold"))
    return frozenset(("planned", "onhold"))


def may_move(before: str | None, after: str | None) -> bool:
    """Tell whether a person may move a course from a stage to another: between the visits, and to its end."""
    if before == after:
        return True
    if after == "stopped":
        return before not in ("finished", "stopped")
    if before in RUNNING:
        return after in (*RUNNING, "finished")
    return False
