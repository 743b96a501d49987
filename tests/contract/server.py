"""A FHIR server as the contract tests see it, and the rows of the contract."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any, TypeAlias

import httpx

JSON = "application/fhir+json"
SOURCE = "urn:example:contract"


class Server:
    """A FHIR base and what one asks of it; every method returns the answer or asserts what it says."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.http = httpx.Client(base_url=base, trust_env=False, timeout=30, headers={"Content-Type": JSON})

    def send(
        self, method: str, path: str, content: Any = None, *, status: int | tuple[int, ...] = 200, **headers: str
    ) -> httpx.Response:
        """Send a request; hold the answer to `status`, and a refusal to an OperationOutcome."""
        text = content if content is None or isinstance(content, str | bytes) else json.dumps(content)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.http.request(method, path, content=text, headers=named)
        expected = (status,) if isinstance(status, int) else status
        assert answer.status_code in expected, (method, path, answer.status_code, answer.text[:800])
        if answer.status_code >= 400 and method != "HEAD":
            assert answer.json()["resourceType"] == "OperationOutcome"
            assert answer.json()["issue"][0]["diagnostics"]
        return answer

    def make(self, resource: dict[str, Any], **headers: str) -> dict[str, Any]:
        """Create a resource that comes from elsewhere; return it as it was stored."""
        meta = {"source": SOURCE, **resource.get("meta", {})}
        made = self.send("POST", resource["resourceType"], {**resource, "meta": meta}, status=201, **headers)
        stored: dict[str, Any] = made.json()
        return stored

    def patient(self, **members: Any) -> dict[str, Any]:
        """Create a Patient of a family of its own."""
        return self.make({"resourceType": "Patient", "name": [{"family": f"T{uuid.uuid4().hex[:12]}"}], **members})

    def observation(self, patient: dict[str, Any], value: str = "70", unit: str = "kg", **members: Any) -> Any:
        """Create a weight of a patient."""
        text = json.dumps(
            {
                "resourceType": "Observation",
                "meta": {"source": SOURCE},
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7", "display": "Body weight"}]},
                "subject": {"reference": f"Patient/{patient['id']}"},
                "effectiveDateTime": "2026-03-04",
                "valueQuantity": {
                    "value": "VALUE",
                    "unit": unit,
                    "system": "http://unitsofmeasure.org",
                    "code": unit,
                },
                **members,
            }
        ).replace('"VALUE"', value)
        return self.send("POST", "Observation", text, status=201).json()

    def found(self, query: str, **headers: str) -> list[str]:
        """Return the ids of the matches of a search, over all its pages."""
        ids: list[str] = []
        url: str | None = query
        while url is not None:
            bundle = self.send("GET", url, **headers).json()
            assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "searchset")
            ids += [entry["resource"]["id"] for entry in bundle.get("entry", []) if entry["search"]["mode"] == "match"]
            url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
        return ids


def token() -> str:
    """Return a word that nobody else has used."""
    return uuid.uuid4().hex[:16]


def person(**members: Any) -> dict[str, Any]:
    """Return a Patient that comes from elsewhere."""
    return {"resourceType": "Patient", "meta": {"source": SOURCE}, **members}


Row: TypeAlias = Callable[[Server], None]
ROWS: dict[str, Row] = {}


def row(cell: str) -> Callable[[Row], Row]:
    """Register a function as the proof of one cell of the table of interactions: ``"instance: vread"``."""

    def register(function: Row) -> Row:
        assert cell not in ROWS, cell
        ROWS[cell] = function
        return function

    return register


def rows_of(module: str) -> list[str]:
    """Return the cells whose proofs are in a module."""
    return [cell for cell, function in ROWS.items() if function.__module__ == module]
