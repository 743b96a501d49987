"""$populate: every item in its order and group, known answers filled in, and nothing that a patient is to rate."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from shared.fhir.populating import populated
from shared.fhir.validation import validate
from shared.runtime.policy import FOLDER

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
WHO = {"reference": "Patient/ada"}
SHIPPED = sorted((FOLDER / "questionnaires").glob("*.json"))


def links(items):
    return [link for one in items for link in (one["linkId"], *links(one.get("item", [])))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_questionnaire_gives_a_valid_response_with_all_its_items_and_no_rating(path):
    asked = json.loads(path.read_text(encoding="utf-8"))
    made = populated(asked, WHO, {}, NOW)
    assert validate(made) == []
    assert made["questionnaire"].startswith(f"{asked['url']}|")
    assert (made["status"], made["subject"]) == ("in-progress", WHO)

    def shown(items):
        return [
            link
            for one in items
            if one["type"] != "display"
            for link in (one["linkId"], *(shown(one.get("item", [])) if one["type"] == "group" else []))
        ]

    assert set(shown(asked["item"])) <= set(links(made["item"]))
    assert '"answer"' not in json.dumps(made)


def test_what_is_known_goes_before_what_the_questionnaire_begins_with():
    asked = {
        "resourceType": "Questionnaire",
        "url": "urn:q",
        "item": [
            {"linkId": "a", "type": "boolean", "initial": [{"valueBoolean": True}]},
            {"linkId": "b", "type": "boolean", "initial": [{"valueBoolean": True}]},
            {"linkId": "c", "type": "string", "repeats": True},
            {"linkId": "d", "type": "string"},
            {"linkId": "g", "type": "group", "item": [{"linkId": "e", "type": "integer"}]},
            {"linkId": "t", "type": "display", "text": "Read this"},
        ],
    }
    words = [{"valueString": "one"}, {"valueString": "two"}]
    made = populated(
        asked, WHO, {"a": [{"valueBoolean": False}], "c": words, "d": words, "e": [{"valueInteger": 1}]}, NOW
    )
    assert validate(made) == []
    assert made["questionnaire"] == "urn:q"
    assert made["item"] == [
        {"linkId": "a", "answer": [{"valueBoolean": False}]},
        {"linkId": "b", "answer": [{"valueBoolean": True}]},
        {"linkId": "c", "answer": words},
        {"linkId": "d", "answer": words[:1]},
        {"linkId": "g", "item": [{"linkId": "e", "answer": [{"valueInteger": 1}]}]},
    ]


def test_what_is_asked_beneath_a_question_stands_beneath_its_answer():
    asked = {
        "item": [{"linkId": "a", "type": "boolean", "item": [{"linkId": "b", "type": "string"}]}],
    }
    made = populated(
        asked, WHO, {"a": [{"valueBoolean": True}]}, NOW, author=WHO, encounter={"reference": "Encounter/v"}
    )
    assert made["item"] == [{"linkId": "a", "answer": [{"valueBoolean": True, "item": [{"linkId": "b"}]}]}]
    assert (made["author"], made["encounter"]) == (WHO, {"reference": "Encounter/v"})
    assert "questionnaire" not in made
    assert populated(asked, WHO, {}, NOW)["item"] == [{"linkId": "a", "item": [{"linkId": "b"}]}]
