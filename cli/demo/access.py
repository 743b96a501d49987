"""What each role sees of one patient's record: the same requests to the gateway, by different tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from cli.demo.client import FHIR_JSON
from cli.stack.operator import Wanted

ASKED: Final = ("Patient", "Appointment", "Observation", "MedicationAdministration")
"""Types that are asked for."""

ROLES: Final = ("prescriber", "monitor-nurse", "front-desk", "outcomes-analyst", "hospital-system")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one caller was answered: by type how many resources, or the status of the refusal (401, 403)."""

    who: str
    answers: Sequence[str]


async def seen(base: str, patient: str, token: Callable[[Wanted], httpx.Auth | None]) -> list[Seen]:
    """Ask for a patient's record as everybody who has a role might, as the patient, as another patient, as nobody.

    Args:
        base: FHIR base of the gateway.
        patient: ``Patient/<id>``.
        token: sends a token for who is wanted.

    """
    id_ = patient.partition("/")[2]
    callers: dict[str, httpx.Auth | None] = {role: token(Wanted(role=role)) for role in ROLES}
    callers["the patient"] = token(Wanted(role="patient", patient=id_))
    callers["another patient"] = token(Wanted(role="patient", patient="another"))
    callers["nobody (no token)"] = None
    async with httpx.AsyncClient(base_url=base, headers={"Accept": FHIR_JSON}, trust_env=False, timeout=30) as http:
        answers = await asyncio.gather(*(_asked(http, auth, id_) for auth in callers.values()))
    return [Seen(who, one) for who, one in zip(callers, answers, strict=True)]


async def _asked(http: httpx.AsyncClient, auth: httpx.Auth | None, id_: str) -> list[str]:
    found = []
    for type_ in ASKED:
        by = {"_id": id_} if type_ == "Patient" else {"patient": id_}
        answer = await http.get(f"/{type_}", params={**by, "_summary": "count"}, auth=auth)
        found.append(str(answer.json()["total"]) if answer.status_code == httpx.codes.OK else str(answer.status_code))
    return found
