"""How a course moves: by itself with its ground, by hand between visits and to its end.

referred -> screening -> eligible -> consented -> planned -> preparing, dosing, integrating, follow-up -> finished
or not-eligible                                 any stage that is not an end -> stopped
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

UNDECIDED: Final = ("referred", "screening")
BEFORE_PLAN: Final = (*UNDECIDED, "eligible", "consented")
RUNNING: Final = ("planned", "preparing", "dosing", "integrating", "follow-up")
ENDED: Final = ("not-eligible", "finished", "stopped")
AFTER_DOSE: Final = frozenset(("dosing", "integrating", "follow-up"))
STAGE_OF_VISIT: Final = {
    "kap-prep": "preparing",
    "kap-dosing": "dosing",
    "kap-integration": "integrating",
    "kap-followup": "follow-up",
}
REFERRAL_WITHDRAWN: Final = "The referral was withdrawn, or is of another patient."
FOUND_NOT_ELIGIBLE: Final = "Found not eligible by screening."

FOLLOWS: Final[Mapping[str, frozenset[str]]] = {
    "referred": frozenset(("screening", "eligible", "not-eligible", "consented", "planned", "stopped")),
    "screening": frozenset(("eligible", "not-eligible", "consented", "planned", "stopped")),
    "eligible": frozenset(("consented", "planned", "stopped")),
    "consented": frozenset(("planned", "stopped")),
    **{stage: frozenset((*RUNNING, "finished", "stopped")) - {stage} for stage in RUNNING},
    **{stage: frozenset() for stage in ENDED},
}
"""By stage, those that may follow it at once; whatever moves a course keeps to it."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a course stands on.

    Attributes:
        outcome: of the newest screening (``eligible``, ``not-eligible``, ...); None: there is none.
        consented: a consent is in force.
        planned: an active plan and an active order.
        screening: screening questions were answered, or a screening made.
        referred: the referral that opened it was not withdrawn.

    """

    outcome: str | None
    consented: bool
    planned: bool
    screening: bool = False
    referred: bool = True

    @property
    def eligible(self) -> bool:
        """Whether the newest screening says so."""
        return self.outcome == "eligible"


def course_after(stage: str, status: str, ground: Ground) -> tuple[str, str]:
    """Return stage and status of a course, given what it now stands on.

    It advances to planned by itself. Until it is decided, a finding that blocks ends it; later, when its ground falls
    away, it is put on hold, and a person lifts that.
    """
    if status not in ("planned", "active"):
        return stage, status
    if stage in (*UNDECIDED, "eligible") and not ground.referred:
        return "stopped", "cancelled"
    if stage in UNDECIDED:
        if ground.outcome == "not-eligible":
            return "not-eligible", "cancelled"
        if not ground.eligible:
            return ("screening" if ground.screening else stage), "planned"
        stage = "eligible"
    consent_needed = stage != "eligible"
    if not ground.eligible or (consent_needed and not ground.consented):
        return stage, "onhold"
    if stage in BEFORE_PLAN and ground.consented:
        stage = "planned" if ground.planned else "consented"
    return stage, "active" if stage in RUNNING else "planned"


def why_ended(stage: str) -> str | None:
    """Return why a course that `course_after` ended is over; None where it goes on."""
    return {"not-eligible": FOUND_NOT_ELIGIBLE, "stopped": REFERRAL_WITHDRAWN}.get(stage)


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
        return before not in ENDED
    if before in RUNNING:
        return after in (*RUNNING, "finished")
    return False
