"""Bundles from files: order, references, and nothing lost on the way."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cli.demo.bundles import Entry, owners_first, read_folder, references, translate, unless, waves
from cli.demo.client import DemoError
from cli.demo.synthea import creatable
from shared.fhir.json import dump


def entry(url: str, type_: str, file: str = "a.json", **members: Any) -> Entry:
    return Entry(url, {"resourceType": type_, "id": url.removeprefix("urn:uuid:"), **members}, file)


def bundle(*entries: Entry) -> bytes:
    return dump(
        {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [{"fullUrl": each.url, "resource": each.resource} for each in entries],
        }
    )


PATIENT = entry("urn:uuid:p", "Patient", identifier=[{"system": "urn:mrn", "value": "1"}])
VISIT = entry("urn:uuid:e", "Encounter", subject={"reference": "urn:uuid:p"})
VITAL = entry(
    "urn:uuid:o",
    "Observation",
    subject={"reference": "urn:uuid:p"},
    encounter={"reference": "urn:uuid:e"},
    valueQuantity={"value": Decimal("159.90")},
)
DOCTOR = entry("urn:uuid:d", "Practitioner", identifier=[{"system": "urn:npi", "value": "200"}])


def test_plain_and_gzipped_bundles_are_read_and_other_json_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(bundle(PATIENT))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(bundle(DOCTOR)))
    (tmp_path / "c.json").write_text('{"not": "a Bundle"}')
    (tmp_path / "notes.txt").write_text("x")

    read = read_folder(tmp_path)

    assert {file: [each.type for each in entries] for file, entries in read.items()} == {
        "a.json": ["Patient"],
        "b.json.gz": ["Practitioner"],
    }


@pytest.mark.parametrize("content", [b"\x1f\x8bbroken", b"{"])
def test_a_broken_file_is_named_in_a_plain_sentence(tmp_path: Path, content: bytes) -> None:
    name = "broken.json.gz" if content[:1] == b"\x1f" else "broken.json"
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DemoError, match="broken"):
        read_folder(tmp_path)


def test_a_missing_or_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="no folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DemoError, match="no FHIR Bundle"):
        read_folder(tmp_path)


def test_what_is_referred_to_comes_first() -> None:
    ordered = waves([VITAL, VISIT, PATIENT])

    assert [[each.type for each in wave] for wave in ordered] == [["Patient"], ["Encounter"], ["Observation"]]


def test_a_circle_of_references_ends() -> None:
    one = entry("urn:uuid:1", "Condition", evidence=[{"detail": [{"reference": "urn:uuid:2"}]}])
    two = entry("urn:uuid:2", "Observation", focus=[{"reference": "urn:uuid:1"}])

    assert waves([one, two]) == [[one, two]]


def test_a_conditional_reference_orders_too() -> None:
    visit = entry(
        "urn:uuid:v", "Encounter", participant=[{"individual": {"reference": "Practitioner?identifier=urn:npi|200"}}]
    )

    assert [[each.type for each in wave] for wave in waves([visit, DOCTOR])] == [["Practitioner"], ["Encounter"]]


def test_references_become_the_servers_and_the_rest_stays_as_it_was() -> None:
    known = {"urn:uuid:p": "Patient/10", "urn:uuid:e": "Encounter/20"}

    sent = translate(VITAL, known.get)

    assert sent["subject"] == {"reference": "Patient/10"}
    assert sent["encounter"] == {"reference": "Encounter/20"}
    assert str(sent["valueQuantity"]["value"]) == "159.90"
    assert "id" not in sent
    assert sent["meta"]["source"] == "urn:uuid:o"
    assert VITAL.resource["subject"] == {"reference": "urn:uuid:p"}


def test_a_reference_to_what_was_left_out_stays_as_a_logical_one() -> None:
    report = entry(
        "urn:uuid:r",
        "DiagnosticReport",
        imagingStudy=[{"reference": "urn:uuid:i"}],
        performer=[{"reference": "Practitioner?identifier=urn:npi|9"}],
        result=[{"reference": "#inside"}],
    )

    sent = translate(report, {}.get)

    assert sent["imagingStudy"] == [{"identifier": {"system": "urn:ietf:rfc:3986", "value": "urn:uuid:i"}}]
    assert sent["performer"] == [{"type": "Practitioner", "identifier": {"system": "urn:npi", "value": "9"}}]
    assert sent["result"] == [{"reference": "#inside"}]


def test_people_and_houses_are_known_by_identifier_and_the_rest_by_the_entry_they_were() -> None:
    assert unless(DOCTOR) == "identifier=urn:npi|200"
    assert unless(VITAL) == "_tag=https://kap-exchange.org/fhir/sid/source-entry|urn:uuid:o"


def test_practitioners_come_first_and_an_entry_of_two_files_is_loaded_once() -> None:
    again = Entry(DOCTOR.url, DOCTOR.resource, "b.json")

    shared, of_patients, repeats = owners_first({"a.json": [PATIENT, DOCTOR, VISIT], "b.json": [again]})

    assert shared == [DOCTOR]
    assert of_patients == {"a.json": [PATIENT, VISIT]}
    assert repeats == [again]


def test_what_a_server_takes_is_read_from_its_capability_statement() -> None:
    statement = {
        "rest": [
            {
                "resource": [
                    {"type": "Patient", "interaction": [{"code": "read"}, {"code": "create"}]},
                    {"type": "Claim", "interaction": [{"code": "read"}]},
                ]
            }
        ]
    }

    assert creatable(statement) == {"Patient"}


def test_references_are_found_at_every_depth() -> None:
    found = list(references({"contained": [{"subject": {"reference": "a"}}], "x": [{"y": {"reference": "b"}}]}))

    assert [element["reference"] for element in found] == ["a", "b"]
