"""What the demo shows: readable by a clinician, and complete."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta

import pytest
from rich.console import Console

from cli.compare import Digest
from cli.demo import report
from cli.demo.acting import Refusal, Told
from cli.demo.client import Held
from cli.demo.course import rules_hit, verdict
from cli.demo.patients import generate
from cli.demo.progress import Bars
from cli.demo.synthea import Loaded, Screened
from cli.demo.watch import Counted, Picture, missing
from cli.ops import SOURCES, DeliveryLine, Destination, Flow, Inbox, Latency, Outbox
from cli.stack.ports import GATEWAY, Ports
from shared.fhir.codes import ELIGIBILITY, EXT_FINDING, NOT_ELIGIBLE

COMMITTED = datetime(2026, 11, 22, 10, tzinfo=UTC)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=160, highlight=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line(state: str = "accepted") -> DeliveryLine:
    accepted = COMMITTED + timedelta(milliseconds=250) if state == "accepted" else None
    return DeliveryLine("Patient", "a", state, 1, 1, "h1", "0", "", COMMITTED, accepted)


def destination(*lines: DeliveryLine, problem: str | None = None) -> Destination:
    states: dict[str, int] = {}
    for one in lines:
        states[one.state] = states.get(one.state, 0) + 1
    pending = sum(one.state == "queued" for one in lines)
    return Destination("e", "hospital", "http://h/fhir", True, problem, [], {"Patient": states}, pending, list(lines))


def picture(*destinations: Destination) -> Picture:
    digests = [Digest("Patient", "intake", 1234, 1, 7)]
    flow = Flow(
        "intake",
        Outbox(1234, 1234, 0, None),
        [Inbox("gateway", "intake", 1234)],
        [],
        0,
        [Latency("published", "intake", 1234, 0.004, 0.02, 0.1), Latency("applied", "intake", 1234, 0.02, 0.05, 12.0)],
    )
    names = (*SOURCES, GATEWAY)
    held = dict.fromkeys(names, digests)
    return Picture(Ports(8000), held, held, dict.fromkeys(names, flow), destinations)


def test_each_patient_has_a_line_and_each_refusal_its_words(console: Console) -> None:
    person = generate(1, 1)[0]
    told = Told(person, ["referred", "eligible"], [Refusal("booking", ("S-CONSENT",), "No consent [yet].")], [18, 9])

    report.courses(console, [told], date(2026, 11, 22))

    assert person.name in printed(console)
    assert "referred → eligible" in printed(console)
    assert "18 → 9" in printed(console)
    assert f"{person.name}, booking: [S-CONSENT] No consent [yet]." in printed(console)


def test_every_entry_of_a_bundle_is_accounted_for(console: Console) -> None:
    loaded = Loaded(entries=7)
    loaded.created["Patient"] = 1
    loaded.there["Practitioner"] = 2
    loaded.repeated["Practitioner"] = 1
    loaded.omitted["Claim", "KAP Exchange does not hold this type"] = 3
    loaded.patients["a.json"] = Held("Patient", "1", created=True)

    report.loading(console, loaded, [Screened("Patient/1", "needs-answers", ("E01",))])

    assert loaded.accounted == loaded.entries
    assert "3 Claim: KAP Exchange does not hold this type" in printed(console)
    assert "1 needs answers" in printed(console)
    assert "E01 (1)" in printed(console)


def test_services_hospital_and_hops_are_shown_with_their_numbers(console: Console) -> None:
    taken = picture(destination(line(), line("refused")))

    report.services(console, taken)
    report.hospital(console, taken)
    report.hops(console, taken)
    report.urls(console, taken, "Patient/a", "Amara", "1-3")

    assert "1,234" in printed(console)
    assert "accepted" in printed(console)
    assert "refused" in printed(console)
    assert "intake → Kafka" in printed(console)
    assert "250 ms" in printed(console)
    assert "12.0 s" in printed(console)
    assert "http://127.0.0.1:8000/fhir/Patient/a/$everything" in printed(console)
    assert "http://127.0.0.1:8007/fhir/Patient?identifier=" in printed(console)


def test_what_has_not_arrived_is_said_in_sentences() -> None:
    counted = Counted(dict.fromkeys(SOURCES, 5), dict.fromkeys(SOURCES, 5) | {"intake": 3}, 1, 1)

    said = missing(counted, [destination(line("queued"), problem="It refuses connections.")])

    assert not counted.complete
    assert said[0] == "2 of 5 events of intake are not at the gateway."
    assert said[1].startswith("1 resources have not reached hospital, such as Patient/a (queued).")
    assert said[1].endswith("It refuses connections.")


def test_without_a_terminal_each_bar_ends_in_one_plain_line(console: Console) -> None:
    with Bars(console) as bars:
        bar = bars.bar("Bundle entries", 3)
        for _ in range(3):
            bar.advance()
        bar.end("all there")
        bar.end("all there")

    assert printed(console) == "  Bundle entries: 3 of 3, all there\n"


def test_a_screening_is_read_with_the_rules_that_stood_in_the_way() -> None:
    def finding(rule: str, found: str, severity: str) -> dict[str, object]:
        parts = {"rule": rule, "verdict": found, "severity": severity}
        return {"url": EXT_FINDING, "extension": [{"url": url, "valueCode": code} for url, code in parts.items()]}

    assessment = {
        "resourceType": "RiskAssessment",
        "status": "final",
        "code": ELIGIBILITY.concept(),
        "prediction": [{"outcome": NOT_ELIGIBLE.concept()}],
        "extension": [
            finding("E01", "hit", "A"),
            finding("E08", "decided", "R"),
            finding("I-LITHIUM", "hit", "I"),
            finding("E12", "not-known", "A"),
        ],
    }

    assert verdict(assessment) == ("not-eligible", ["E01", "E12"])
    assert rules_hit({}) == []


def test_the_95th_percentile_of_one_value_is_that_value() -> None:
    assert report.percentile95([0.5]) == 0.5
    assert report.percentile95([float(value) for value in range(101)]) == 95.0
