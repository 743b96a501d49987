"""Write policies/questionnaires/*.json of the outcome instruments from policies/instruments/*.yaml.

An instrument that has no `questions` has its Questionnaire written by hand (PHQ-9, GAD-7). A clinic that enters
licensed texts into its own policy file runs this with KAP_POLICY set, and names a folder for what is written.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from services.outcomes.rules.instruments import Instrument
from services.outcomes.setting import Setting
from shared.fhir.codes import KAP, LOINC
from shared.runtime.policy import FOLDER, load_policy

ORDINAL = "http://hl7.org/fhir/StructureDefinition/ordinalValue"
LOINC_ANSWER = "LA"
LOINC_ITEM = tuple("0123456789")


def questionnaire(name: str, instrument: Instrument, version: str) -> dict[str, Any]:
    """Return an instrument's Questionnaire."""
    items: list[dict[str, Any]] = []
    if instrument.instruction:
        items.append({"linkId": f"{name}-instruction", "text": instrument.instruction, "type": "display"})
    items.extend(_item(link, instrument) for link in (*instrument.items, *instrument.also))
    made = {
        "resourceType": "Questionnaire",
        "url": instrument.canonicals[0],
        "version": version,
        "name": "".join(part.capitalize() for part in name.split("-")),
        "title": instrument.title,
        "status": "active",
        "subjectType": ["Patient"],
        "publisher": "KAP Exchange",
        "copyright": instrument.copyright,
        "code": [instrument.panel.of().coding()] if instrument.panel is not None else None,
        "item": items,
    }
    return {key: value for key, value in made.items() if value is not None}


def _item(link: str, instrument: Instrument) -> dict[str, Any]:
    item: dict[str, Any] = {"linkId": link}
    if link.startswith(LOINC_ITEM):
        item["code"] = [{"system": LOINC, "code": link}]
    item["text"] = instrument.questions[link].text
    answers = instrument.answers_of(link)
    item["type"] = "choice" if answers else "integer"
    if link in instrument.needed_if:
        yes = next(
            (code for code, value in instrument.answers_of(instrument.needed_if[link]).items() if value == 0), None
        )
        coding = {"system": LOINC if str(yes).startswith(LOINC_ANSWER) else KAP, "code": yes}
        item["enableWhen"] = [{"question": instrument.needed_if[link], "operator": "!=", "answerCoding": coding}]
    if instrument.several:
        item["repeats"] = True
    item["required"] = not any(link in group for group in instrument.alternatives)
    if answers:
        item["answerOption"] = [_option(code, value, instrument) for code, value in answers.items()]
    else:
        low, high = instrument.lowest(link), instrument.highest(link)
        item["extension"] = [
            {"url": "http://hl7.org/fhir/StructureDefinition/minValue", "valueInteger": low},
            {"url": "http://hl7.org/fhir/StructureDefinition/maxValue", "valueInteger": high},
        ]
    return item


def _option(code: str, value: int, instrument: Instrument) -> dict[str, Any]:
    system = LOINC if code.startswith(LOINC_ANSWER) else KAP
    coding = {"system": system, "code": code, "display": instrument.displays[code]}
    if instrument.several:  # kinds, which no order makes numbers of
        return {"valueCoding": coding}
    return {"extension": [{"url": ORDINAL, "valueDecimal": value}], "valueCoding": coding}


def main(folder: Path) -> None:
    """Write them."""
    given = os.environ.get("KAP_POLICY")
    setting = Setting.of(load_policy(Path(given) if given else None))
    for name, instrument in setting.instruments.items():
        if instrument.questions:
            text = json.dumps(questionnaire(name, instrument, setting.version), indent=2, ensure_ascii=False)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
            print(folder / f"{name}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "questionnaires")
