"""What each caller sees of a patient's record and of her therapist's process notes: the same requests, other tokens."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from cli.demo.client import FHIR_JSON
from cli.stack.operator import Wanted
from cli.stack.ports import GATEWAY, Ports
from shared.fhir.json import Resource, dump

ASKED: Final = ("Patient", "Appointment", "Observation", "MedicationAdministration")
"""Types that are asked for at the gateway."""

PROCESS_NOTES: Final = "process notes"
NOTES: Final = "process-notes/DocumentReference"
"""Where sessions keeps them, apart from the FHIR API."""

ROLES: Final = ("prescriber", "monitor-nurse", "front-desk", "outcomes-analyst", "hospital-system")

Token = Callable[[Wanted], httpx.Auth | None]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one caller was answered: by type how many resources, or the status of the refusal (401, 403)."""

    who: str
    answers: Sequence[str]


async def seen(ports: Ports, patient: str, therapist: str, token: Token) -> list[Seen]:
    """Ask as everybody who has a role might, as the patient, as another patient, as nobody.

    Her therapist has written a process note before: kept apart, and for nobody else.

    Args:
        ports: of the stack.
        patient: ``Patient/<id>``.
        therapist: ``Practitioner/<id>``.
        token: sends a token for who is wanted.

    """
    id_ = patient.partition("/")[2]
    callers = {
        "her therapist": token(Wanted(role="therapist", user=therapist)),
        "another therapist": token(Wanted(role="therapist", user="Practitioner/another")),
        **{role: token(Wanted(role=role)) for role in ROLES},
        "the patient": token(Wanted(role="patient", patient=id_)),
        "another patient": token(Wanted(role="patient", patient="another")),
        "another clinic's administrator": token(Wanted(role="clinic-admin", clinic="another")),
        "nobody (no token)": None,
    }
    places = [f"{ports.fhir(GATEWAY)}/{type_}" for type_ in ASKED]
    async with httpx.AsyncClient(headers={"Accept": FHIR_JSON}, trust_env=False, timeout=30) as http:
        notes = f"{ports.url('sessions')}/{NOTES}"
        await _write_a_note(http, notes, id_, callers["her therapist"])
        answers = await asyncio.gather(*(_asked(http, auth, id_, places, notes) for auth in callers.values()))
    return [Seen(who, one) for who, one in zip(callers, answers, strict=True)]


async def _write_a_note(http: httpx.AsyncClient, notes: str, id_: str, auth: httpx.Auth | None) -> None:
    """Write one where there is none yet."""
    if await _count(http, notes, {"patient": id_}, auth) != "0":
        return
    text = "Speaks of her brother for the first time. Do not press; come back to it in the next integration."
    note: Resource = {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"reference": f"Patient/{id_}"},
        "content": [
            {"attachment": {"contentType": "text/plain", "data": base64.b64encode(text.encode()).decode()}},
        ],
    }
    answer = await http.post(notes, content=dump(note), auth=auth or httpx.Auth(), headers={"Content-Type": FHIR_JSON})
    answer.raise_for_status()


async def _asked(
    http: httpx.AsyncClient, auth: httpx.Auth | None, id_: str, places: Sequence[str], notes: str
) -> list[str]:
    found = []
    for place in places:
        by = {"_id": id_} if place.endswith("/Patient") else {"patient": id_}
        found.append(await _count(http, place, {**by, "_summary": "count"}, auth))
    found.append(await _count(http, notes, {"patient": id_}, auth))
    return found


async def _count(http: httpx.AsyncClient, place: str, by: dict[str, str], auth: httpx.Auth | None) -> str:
    answer = await http.get(place, params=by, auth=auth)
    if answer.status_code != httpx.codes.OK:
        return str(answer.status_code)
    said = answer.json()
    found = sum(entry["search"]["mode"] == "match" for entry in said.get("entry", ()))
    return str(said.get("total", found))
