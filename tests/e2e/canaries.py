"""Names, numbers, dates, texts and secrets that are nobody's: planted in everything that a stack is sent.

They are sent in what is stored and in what is refused, in bodies, searches, paths, headers, forms and tokens; and then
looked for in what operators see: logs, metrics, the end of the audit, what commands print.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import httpx

from cli.stack.operator import Wanted
from cli.stack.ports import GATEWAY, OWNERS
from cli.stack.stack import Stack
from tests.e2e.kap import Kap

_AT_INTAKE = "https://kap-exchange.org/fhir/StructureDefinition/intake-measurement"
_JSON = {"Content-Type": "application/fhir+json"}
_PSYTHPN = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "PSYTHPN"}


class Planted:
    """Canaries for one stack.

    Attributes:
        canaries: what was planted, by what it is.
        requests: the ids of the requests that held it.

    """

    def __init__(self, kap: Kap) -> None:
        self._kap = kap
        self.requests: list[str] = []
        self.canaries = {
            "family name": f"Zorquist{token_hex(4)}",
            "birth date": "1907-02-19",
            "record number": f"MRN{token_hex(6)}",
            "telephone": "+1-555-0199-48151623",
            "note": f"bruxelled{token_hex(5)}",
            "process note": f"whisperleaf{token_hex(5)}",
            "password": f"Tamarind-{token_hex(8)}",
            "bearer": f"eyJ{token_hex(12)}",
        }

    def sow(self) -> None:
        """Send them, in what is taken and in what is refused."""
        said = self.canaries
        stack = Stack(self._kap.data)
        admin = stack.auth(Wanted(role="clinic-admin"))
        therapist = stack.auth(Wanted(role="therapist", user="Practitioner/canary"))
        assert admin is not None
        assert therapist is not None
        self.canaries["access token"] = admin.token()["access_token"]
        base = self._kap.ports.fhir(GATEWAY)
        with httpx.Client(trust_env=False, timeout=30, headers=_JSON) as http:

            def send(method: str, path: str, body: Any = None, auth: Any = admin, **headers: str) -> httpx.Response:
                traced = {"tracestate": f"ehr={said['family name']}", "baggage": f"name={said['note']}"}
                content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
                answer = http.request(
                    method, f"{base}/{path}", content=content, auth=auth, headers={**traced, **headers}
                )
                assert answer.status_code < 500, answer.text
                self.requests.append(answer.headers["x-request-id"])
                return answer

            person = self._person()
            made = send("POST", "Patient", person)
            assert made.status_code == 201, made.text
            patient = f"Patient/{made.json()['id']}"
            self._ask(send)
            reading = self._reading(patient)
            answer = send("POST", "Observation", reading)
            assert answer.status_code == 201, answer.text
            self._be_refused(send, person, reading)
            self._write_notes(http, patient, therapist)
            send("GET", "Patient", auth=None, Authorization=f"Bearer {said['bearer']}")
            issuer = self._kap.ports.url("identity")
            form = {"client_id": said["bearer"], "client_secret": said["password"], "grant_type": "client_credentials"}
            assert http.post(f"{issuer}/auth/token", data=form, headers={"Content-Type": _FORM}).status_code in (
                400,
                401,
            )
            form = {"name": said["family name"], "password": said["password"]}
            assert http.post(f"{issuer}/auth/login", data=form, headers={"Content-Type": _FORM}).status_code < 500

    def _person(self) -> dict[str, Any]:
        said = self.canaries
        return {
            "resourceType": "Patient",
            "identifier": [{"system": "urn:canary", "value": said["record number"]}],
            "name": [{"family": said["family name"], "given": ["Ada"]}],
            "gender": "female",
            "birthDate": said["birth date"],
            "telecom": [{"system": "phone", "value": said["telephone"]}],
        }

    def _reading(self, patient: str) -> dict[str, Any]:
        return {
            "resourceType": "Observation",
            "status": "final",
            "code": {"text": "heart rate"},
            "subject": {"reference": patient},
            "effectiveDateTime": "2026-11-22T10:00:00Z",
            "valueQuantity": {"value": 71, "unit": "/min"},
            "extension": [{"url": _AT_INTAKE, "valueBoolean": True}],
            "note": [{"text": self.canaries["note"]}],
        }

    def _ask(self, send: Any) -> None:
        said = self.canaries
        name, number = said["family name"], quote(f"urn:canary|{said['record number']}")
        for search in (
            f"Patient?family={name}",
            f"Patient?identifier={number}",
            f"Patient?birthdate={said['birth date']}&telecom={quote(said['telephone'])}",
            f"Observation?patient.family={name}",
            f"Patient?nonsense={name}",
            f"Patient?birthdate={name}",
            f"Patient/{name}",
            f"{name}/1",
            f"Patient?_page={name}",
        ):
            send("GET", search)
        match = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": self._person()}]}
        send("POST", "Patient/$match", match)

    def _be_refused(self, send: Any, person: dict[str, Any], reading: dict[str, Any]) -> None:
        said = self.canaries
        for body in (
            {**person, "birthDate": f"{said['birth date']}T{said['family name']}"},
            {**person, "gender": said["family name"]},
            {**person, said["family name"]: True},
            {**person, "name": [{"family": said["family name"] + "\0"}]},
        ):
            assert send("POST", "Patient", body).status_code in (400, 422)
        send("POST", "Patient", json.dumps(person).encode()[:-9])
        send("POST", "Observation", {**reading, "status": said["note"]})
        send("POST", "Patient", person, **{"If-None-Exist": f"identifier={said['record number']}"})
        labelled = {**reading, "meta": {"security": [_PSYTHPN]}}
        send("POST", "Observation", labelled)
        entries = [
            {"fullUrl": "urn:uuid:0", "resource": one, "request": {"method": "POST", "url": one["resourceType"]}}
            for one in (person, {**reading, "status": said["note"]})
        ]
        send("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries[:1] + entries[1:]})

    def _write_notes(self, http: httpx.Client, patient: str, therapist: httpx.Auth) -> None:
        text = base64.b64encode(self.canaries["process note"].encode()).decode()
        note = {
            "resourceType": "DocumentReference",
            "status": "current",
            "subject": {"reference": patient},
            "content": [{"attachment": {"contentType": "text/plain", "data": text}}],
        }
        self.canaries["process note in base64"] = text
        url = f"{self._kap.ports.url('sessions')}/process-notes/DocumentReference"
        until = time.monotonic() + 30
        while True:  # sessions hears of the patient by event
            answer = http.post(url, content=json.dumps(note), auth=therapist)
            if answer.status_code == 201 or time.monotonic() > until:
                break
            time.sleep(0.5)
        assert answer.status_code == 201, answer.text
        broken = {**note, "status": self.canaries["process note"]}
        assert http.post(url, content=json.dumps(broken), auth=therapist).status_code in (400, 422)

    def told_by_the_demo(self) -> set[str]:
        """Return names, telephones, numbers and birth dates of the demo's patients, and the texts about them.

        What it played is asked for by FHIR, so that a demo that says more is looked for with it. What is short enough
        to stand in an id by chance is left out.
        """
        admin = Stack(self._kap.data).auth(Wanted(role="clinic-admin"))
        base, found = self._kap.ports.fhir(GATEWAY), set[str]()
        with httpx.Client(trust_env=False, timeout=60, auth=admin) as http:
            for type_ in _TELLING:
                bundle = http.get(f"{base}/{type_}?_count=500").raise_for_status().json()
                for entry in bundle.get("entry", ()):
                    found |= set(_said_in(entry["resource"], type_))
        return found

    def places(self) -> dict[str, str]:
        """Return what operators look at, by its name."""
        found = {
            str(file.relative_to(self._kap.data)): file.read_text(errors="replace")
            for file in sorted(self._kap.data.rglob("*"))
            if file.is_file() and not _DATA.intersection(file.relative_to(self._kap.data).parts) and file.stat().st_size
        }
        for service in (*OWNERS, GATEWAY, "delivery"):
            url = f"{self._kap.ports.url(service)}/metrics"
            found[f"metrics of {service}"] = httpx.get(url, trust_env=False, timeout=30).raise_for_status().text
        for command in (("status",), ("lag",), ("parked", "list"), ("audit", "verify"), ("clients", "list")):
            found[f"./kap {' '.join(command)}"] = self._kap.run(*command)[1]
        return found


_DATA = frozenset(("pgdata", "data"))
"""Of PostgreSQL and Kafka: what is meant to hold it."""

_FORM = "application/x-www-form-urlencoded"

_TELLING = (
    "Patient", "RelatedPerson", "Observation", "Communication", "ClinicalImpression", "AdverseEvent", "CarePlan",
)  # fmt: skip
_OF_A_PERSON = frozenset(("family", "birthDate", "value", "line"))
_OF_A_TEXT = frozenset(("text", "contentString", "valueString", "description"))
_SHORTEST, _SHORTEST_TEXT = 6, 24


def _said_in(value: Any, type_: str, name: str = "") -> Iterator[str]:
    """Yield what of a resource would tell who somebody is, or what was said of him."""
    if isinstance(value, list):
        for one in value:
            yield from _said_in(one, type_, name)
    elif isinstance(value, dict):
        if name not in {"coding", "code", "meta", "statusReason"}:  # these are the project's own words
            for key, one in value.items():
                yield from _said_in(one, type_, key)
    elif isinstance(value, str):
        of_a_person = type_ in {"Patient", "RelatedPerson"} and name in _OF_A_PERSON and len(value) >= _SHORTEST
        if of_a_person or (name in _OF_A_TEXT and len(value) >= _SHORTEST_TEXT and not value.startswith("http")):
            yield value
