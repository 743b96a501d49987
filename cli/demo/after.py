"""The FHIR resources after the dose: leaving, the note, the forms, and the questionnaires with their answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from random import Random

from cli.demo.patients import Person, spread
from cli.demo.resources import answer, instant, parameters, reference, response
from shared.fhir.codes import BASE, DISCHARGE_QUESTIONNAIRE, LOINC, PHQ9_QUESTIONNAIRE, Code
from shared.fhir.json import Resource

PHQ9_ITEMS = ("44250-9", "44255-8", "44259-0", "44254-1", "44251-7", "44258-2", "44252-5", "44253-3", "44260-8")
PHQ9_ANSWERS = (
    Code(LOINC, "LA6568-5", "Not at all"),
    Code(LOINC, "LA6569-3", "Several days"),
    Code(LOINC, "LA6570-1", "More than half the days"),
    Code(LOINC, "LA6571-9", "Nearly every day"),
)
PCL5_QUESTIONNAIRE = f"{BASE}/Questionnaire/pcl-5"
CADSS6_QUESTIONNAIRE = f"{BASE}/Questionnaire/cadss-6"
CSSRS_QUESTIONNAIRE = f"{BASE}/Questionnaire/c-ssrs-screener"
CADSS6_ITEMS = ("cadss-1", "cadss-2", "cadss-6", "cadss-7", "cadss-15", "cadss-22")
CSSRS_ITEMS = ("93246-7", "93247-5", "93267-3")
"""The wish to be dead, thoughts of suicide, behaviour: where the second is no, those between are not asked."""
SINCE_QUESTIONNAIRE = f"{BASE}/Questionnaire/c-ssrs-since-last-contact"
SINCE_ITEMS = ("cssrs-slc-1", "cssrs-slc-2", "cssrs-slc-6")
GAD7_QUESTIONNAIRE = f"{BASE}/Questionnaire/gad-7"
GAD7_ITEMS = ("69725-0", "68509-9", "69733-4", "69734-2", "69735-9", "69689-8", "69736-7")
MEQ30_QUESTIONNAIRE = f"{BASE}/Questionnaire/meq-30"
_MEQ30_ITEMS = 30
_ANXIETY = 0.7
"""The GAD-7 total of a generated patient, as a share of his PHQ-9 total."""
REMS_LEFT = ("hypnotic", "psychostimulant", "maoi", "respiratory-depression", "serious-event")
"""What a person answers on the monitoring form of the REMS, here always no."""

_NO = Code(LOINC, "LA32-8", "No")


def leaving(key: str, subject: str, encounter: str, on: datetime, nurse: str, escort: str) -> Resource:
    """Return what is asked before a patient goes home, all in order."""
    parts = ("activity", "respiration", "circulation", "consciousness", "saturation")
    items = [answer(f"aldrete-{part}", valueInteger=2) for part in parts]
    items.append(answer("sedation", valueBoolean=False))
    items.extend(
        answer(link, valueBoolean=True)
        for link in ("oriented", "gait", "fluids", "escort-present", "taught-driving", "taught-alcohol", "safe")
    )
    items.append(answer("escort-name", valueString=escort))
    items.append(answer("escort-identity", valueString="Driving licence seen"))
    made = response(f"{key}-leaving", DISCHARGE_QUESTIONNAIRE, subject, on, items)
    return {**made, "encounter": reference(encounter), "author": reference(nurse)}


def discharge_parameters(on: datetime) -> Resource:
    """Return the Parameters of ``Encounter/$discharge``."""
    return parameters(disposition_valueCode="home", left_valueDateTime=instant(on))


def summary_parameters(author: str, attester: str) -> Resource:
    """Return the Parameters of ``Encounter/$summarize``: who writes it, and who signs."""
    return parameters(author_valueReference=reference(author), attester_valueReference=reference(attester))


def sent_parameters(by: str) -> Resource:
    """Return the Parameters of ``Encounter/$rems-submitted``."""
    return parameters(channel_valueCode="web", by_valueReference=reference(by), confirmation_valueString="Received")


def with_what_a_person_answers(form: Resource, lot: str) -> Resource | None:
    """Return the form of the REMS with what only a person knows; None: it is there already."""
    there = {item["linkId"] for item in form.get("item", [])}
    said = [answer(link, valueBoolean=False) for link in REMS_LEFT if link not in there]
    said.extend(answer(link, valueBoolean=yes) for link, yes in _SEEN.items() if link not in there)
    said.extend(answer(link, valueInteger=minute) for link, minute in _MINUTES.items() if link not in there)
    words = {"lot": lot, "professional-email": "ward@four-rivers.example"}
    said.extend(answer(link, valueString=word) for link, word in words.items() if link not in there)
    return {**form, "item": [*form.get("item", []), *said]} if said else None


_SEEN: Mapping[str, bool] = {"sedation": False, "dissociation": True, "vitals-before": True, "vitals-end": True}
_MINUTES: Mapping[str, int] = {"dissociation-onset": 40, "dissociation-resolution": 110, "ready-minutes": 110}
"""Dissociation is expected, was seen, and was gone before the two hours were over."""


# -- Questionnaires -------------------------------------------------------------------------------------------------


def phq9(person: Person, index: int, subject: str, on: datetime) -> Resource:
    """Return the PHQ-9 of one moment of the course."""
    items = [
        answer(link, valueCoding=PHQ9_ANSWERS[value].coding())
        for link, value in zip(PHQ9_ITEMS, person.phq9[index], strict=True)
    ]
    return response(f"{person.key}-phq9-{index}", PHQ9_QUESTIONNAIRE, subject, on, items)


def pcl5(person: Person, index: int, subject: str, on: datetime) -> Resource:
    """Return the PCL-5 of one moment of the course."""
    items = [answer(f"pcl5-{number}", valueInteger=value) for number, value in enumerate(person.pcl5[index], start=1)]
    return response(f"{person.key}-pcl5-{index}", PCL5_QUESTIONNAIRE, subject, on, items)


def cadss6(key: str, total: int, subject: str, encounter: str, by: str, on: datetime) -> Resource:
    """Return the CADSS-6 that a clinician rates at the peak, adding up to `total` (0 to 24)."""
    each, rest = divmod(total, len(CADSS6_ITEMS))
    rated: Mapping[str, int] = {link: each + (number < rest) for number, link in enumerate(CADSS6_ITEMS)}
    items = [answer(link, valueInteger=value) for link, value in rated.items()]
    made = response(f"{key}-cadss-6", CADSS6_QUESTIONNAIRE, subject, on, items)
    return {**made, "encounter": reference(encounter), "author": reference(by)}


def gad7(person: Person, index: int, subject: str, on: datetime) -> Resource:
    """Return the GAD-7 of one moment of the course: anxiety that goes with the depression."""
    total = min(len(GAD7_ITEMS) * 3, round(sum(person.phq9[index]) * _ANXIETY))
    values = spread(total, len(GAD7_ITEMS), 3, Random(f"{person.key}/gad-7/{index}"))  # noqa: S311 - plausible
    items = [
        answer(link, valueCoding=PHQ9_ANSWERS[value].coding()) for link, value in zip(GAD7_ITEMS, values, strict=True)
    ]
    return response(f"{person.key}-gad7-{index}", GAD7_QUESTIONNAIRE, subject, on, items)


def meq30(key: str, subject: str, on: datetime) -> Resource:
    """Return the MEQ-30 that the patient answers the day after a session."""
    dice = Random(f"{key}/meq-30")  # noqa: S311 - plausible
    items = [answer(f"meq-{number}", valueInteger=dice.randint(1, 5)) for number in range(1, _MEQ30_ITEMS + 1)]
    return response(f"{key}-meq-30", MEQ30_QUESTIONNAIRE, subject, on, items)


def since_last_contact(key: str, subject: str, encounter: str, by: str, on: datetime) -> Resource:
    """Return the C-SSRS since the last contact that a clinician ran before a dose: nothing."""
    items = [answer(link, valueCoding=_NO.coding()) for link in SINCE_ITEMS]
    made = response(f"{key}-c-ssrs", SINCE_QUESTIONNAIRE, subject, on, items)
    return {**made, "encounter": reference(encounter), "author": reference(by)}


def cssrs(person: Person, subject: str, by: str, on: datetime) -> Resource:
    """Return the C-SSRS screener that a clinician ran: nothing now."""
    items = [answer(link, valueCoding=_NO.coding()) for link in CSSRS_ITEMS]
    made = response(f"{person.key}-c-ssrs", CSSRS_QUESTIONNAIRE, subject, on, items)
    return {**made, "author": reference(by)}
