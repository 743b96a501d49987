"""Making a QuestionnaireResponse of a Questionnaire, with what is known filled in: pure.

What a patient is asked to rate is never filled in from elsewhere: only what the caller of `populated` gives as known,
and what the Questionnaire itself gives as `initial`. Source: https://hl7.org/fhir/uv/sdc/populate.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from shared.fhir.dates import zulu
from shared.fhir.json import Resource

Known: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]
"""By linkId, the answers that are known: ``{"E12": [{"valueBoolean": False}]}``."""


def canonical_of(questionnaire: Resource) -> str | None:
    """Return a Questionnaire's canonical with its version, None where it has no url."""
    url, version = questionnaire.get("url"), questionnaire.get("version")
    if url is None:
        return None
    return f"{url}|{version}" if version else str(url)


def populated(
    questionnaire: Resource,
    subject: Mapping[str, Any],
    known: Known,
    now: datetime,
    *,
    author: Mapping[str, Any] | None = None,
    encounter: Mapping[str, Any] | None = None,
) -> Resource:
    """Return a response in progress to a Questionnaire: its items in their order and groups, answers where known.

    Args:
        questionnaire: with its `item`.
        subject: a Reference to the patient.
        known: answers by linkId; they go before the Questionnaire's `initial`.
        now: `authored`.
        author: a Reference to who answers.
        encounter: a Reference to the visit it is answered in.

    """
    made: dict[str, Any] = {
        "resourceType": "QuestionnaireResponse",
        "questionnaire": canonical_of(questionnaire),
        "status": "in-progress",
        "subject": dict(subject),
        "encounter": None if encounter is None else dict(encounter),
        "authored": zulu(now),
        "author": None if author is None else dict(author),
        "item": _items(questionnaire.get("item", []), known) or None,
    }
    return {key: value for key, value in made.items() if value is not None}


def _items(items: Sequence[Mapping[str, Any]], known: Known) -> list[dict[str, Any]]:
    return [_item(one, known) for one in items if one.get("type") != "display"]


def _item(asked: Mapping[str, Any], known: Known) -> dict[str, Any]:
    made: dict[str, Any] = {"linkId": asked["linkId"]}
    if "text" in asked:
        made["text"] = asked["text"]
    inner = _items(asked.get("item", []), known)
    if asked.get("type") == "group":
        return {**made, "item": inner} if inner else made
    given = [dict(one) for one in known.get(str(asked["linkId"]), ())] or [
        dict(one) for one in asked.get("initial", [])
    ]
    given = given if asked.get("repeats") else given[:1]
    if not given:
        return {**made, "item": inner} if inner else made
    # What is asked beneath a question stands, in a response, beneath its answer.
    return {**made, "answer": [{**one, "item": inner} if inner else one for one in given]}
