"""Gathering what a dosing session stands on, from what scheduling holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from services.scheduling.rules import Ground, SchedulingPolicy
from shared.fhir.json import Resource
from shared.fhir.kap import (
    actors,
    eligibility_outcome,
    id_in,
    is_course,
    is_order_in_force,
    latest_eligibility,
    moment,
    patient_of,
    routes_consented,
    routes_of_order,
)
from shared.runtime.policy import Policy
from shared.runtime.record import Record

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Setting:
    """Scheduling's policy and clock."""

    policy: SchedulingPolicy
    clock: Clock

    @classmethod
    def of(cls, policy: Policy, clock: Clock = utc_now) -> Setting:
        """Return the setting under `policy`.

        Raises:
            PolicyError: the section cannot be used.

        """
        return cls(policy.section("scheduling", SchedulingPolicy), clock)


async def ground_of(record: Record, appointment: Resource) -> Ground:
    """Return what is held about the patient of a dosing appointment."""
    patients = actors(appointment, "Patient")
    if not patients:
        return Ground(None, None, None, None, order_active=False, routes=(), consented=frozenset(), planned=False)
    patient = patients[0]
    about = {"patient": f"Patient/{patient}"}
    newest = latest_eligibility(await record.search("RiskAssessment", about))
    courses = [one for one in await record.search("EpisodeOfCare", about) if is_course(one)]
    named = [id_ for one in appointment.get("supportingInformation", []) if (id_ := id_in(one, "MedicationRequest"))]
    order = await record.get("MedicationRequest", named[0]) if named else None
    when = moment(appointment.get("start"))
    return Ground(
        outcome=None if newest is None else eligibility_outcome(newest),
        assessment=None if newest is None else f"RiskAssessment/{newest['id']}",
        episode_status=None if not courses else str(courses[-1]["status"]),
        order=f"MedicationRequest/{named[0]}" if named else None,
        order_active=order is not None and is_order_in_force(order) and patient_of(order) == patient,
        routes=() if order is None else tuple(dict.fromkeys(routes_of_order(order))),
        consented=routes_consented(await record.search("Consent", about), when),
        planned=any(plan.get("status") == "active" for plan in await record.search("CarePlan", about)),
    )
