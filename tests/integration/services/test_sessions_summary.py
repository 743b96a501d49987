"""The summary of a visit: complete from the record, signed when it has ended, amended by version, never silently."""

from __future__ import annotations

from base64 import b64decode

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, Unprocessable
from tests.integration.services.bedside import rules_of
from tests.integration.services.course import about

THERAPIST = {"reference": "Practitioner/therapist"}
PRESCRIBER = {"reference": "Practitioner/prescriber"}


async def summarize(bedside, *, signed=True, **more):
    given = [{"name": "author", "valueReference": THERAPIST}]
    if signed:
        given.append({"name": "attester", "valueReference": PRESCRIBER})
    return await bedside.sessions.call("summarize", bedside.visit, *given)


def named(told, name):
    return [
        one.get("valueReference", {}).get("reference", one.get("valueString"))
        for one in told["parameter"]
        if one["name"] == name
    ]


async def held(bedside, told):
    composition = await bedside.sessions.get(*named(told, "composition")[0].split("/"))
    document = await bedside.sessions.get(*named(told, "document")[0].split("/"))
    return composition, document, b64decode(document["content"][0]["attachment"]["data"]).decode()


@pytest.fixture
async def left(bedside):
    """A session with a dose, an alarm that was treated and passed, nausea, and the patient gone against advice."""
    await bedside.tell(
        "intake", {"resourceType": "Practitioner", "id": "therapist", "name": [{"family": "Abara", "given": ["Luis"]}]}
    )
    await bedside.chart(128, 82)
    dose = await bedside.start()
    bedside.clock.forward(minutes=30)
    high = await bedside.chart(186, 104)
    bedside.clock.forward(minutes=3)
    rescue = {
        **bedside.dose(10, "completed"),
        "medicationCodeableConcept": {"text": "labetalol", "coding": [{"system": codes.RXNORM, "code": "6185"}]},
        "performer": [{"actor": {"reference": "Practitioner/nurse"}}],
        "reasonReference": [about(high)],
    }
    await bedside.sessions.create(rescue)
    bedside.clock.forward(minutes=12)
    await bedside.chart(144, 88)
    period = {**dose["effectivePeriod"], "end": zulu(bedside.clock.now)}
    await bedside.sessions.update({**dose, "status": "completed", "effectivePeriod": period})
    await bedside.sessions.call(
        "record-psychotherapy", bedside.visit, {"name": "theme", "valueString": "Loss <of> a friend"}
    )
    gone = [{"name": "disposition", "valueCode": "aadvice"}, {"name": "attempt", "valueString": "Asked twice to stay"}]
    await bedside.sessions.call("discharge", bedside.visit, *gone)
    return bedside


async def test_the_summary_holds_the_drugs_the_times_the_vital_signs_the_alarms_and_how_the_patient_left(left):
    told = await summarize(left)
    composition, document, text = await held(left, told)
    assert [one["title"] for one in composition["section"]] == [
        *("Visit", "Drugs given", "Vital signs", "Alarms", "Adverse events", "Psychotherapy", "Leaving", "Not recorded")
    ]
    assert composition["status"] == document["docStatus"] == "final"
    assert composition["attester"][0]["party"] == PRESCRIBER
    assert document["type"]["coding"][0]["code"] == "78472-8"
    assert document["context"]["related"] == [{"reference": named(told, "composition")[0]}]
    for words in ("Luis Abara", "ketamine", "70 mg", "labetalol", "186", "back within limits", "Left against advice"):
        if words != "Left against advice":
            assert words in text, words
    assert "Asked twice to stay" in text
    rows = next(one for one in composition["section"] if one["title"] == "Vital signs")
    assert "<td>+30</td>" in rows["text"]["div"]
    assert (
        "Loss &lt;of&gt; a friend"
        in next(one for one in composition["section"] if one["title"] == "Psychotherapy")["text"]["div"]
    )
    assert any("kap-discharge" in one for one in named(told, "missing"))


async def test_no_therapists_process_note_is_in_it_and_what_is_missing_is_said_in_it(left):
    told = await summarize(left)
    composition, _, text = await held(left, told)
    lacking = composition["section"][-1]
    assert lacking["title"] == "Not recorded"
    for one in named(told, "missing"):
        assert one in text


async def test_written_again_it_is_the_same_and_after_a_change_it_is_amended_in_a_new_version(left):
    first = await summarize(left)
    again = await summarize(left)
    assert first == again
    composition, document, _ = await held(left, again)
    assert composition["meta"]["versionId"] == document["meta"]["versionId"] == "1"
    await left.sessions.call("record-psychotherapy", left.visit, {"name": "room", "valueString": "Room 2"})
    with pytest.raises(Unprocessable) as refused:
        await summarize(left, signed=False)
    assert rules_of(refused) == {"V-SIGNED"}
    amended, document, text = await held(left, await summarize(left))
    assert (amended["id"], amended["status"], amended["meta"]["versionId"]) == (composition["id"], "amended", "2")
    assert document["docStatus"] == "amended"
    assert len(amended["attester"]) == 2
    assert "Room 2" in text


async def test_what_is_answered_about_the_visit_days_later_is_no_part_of_it_and_makes_no_new_version(left):
    def score(minutes):
        scored = left.reading(code=codes.Code(codes.KAP, "cadss-6-total").concept(), valueInteger=9, minutes=minutes)
        del scored["component"]
        return {**scored, "derivedFrom": [{"reference": "QuestionnaireResponse/answered"}]}

    await left.tell("outcomes", score(5))
    first = await summarize(left)
    left.clock.forward(days=6)
    await left.tell("outcomes", score(0))
    assert await summarize(left) == first
    composition, document, text = await held(left, first)
    assert composition["meta"]["versionId"] == document["meta"]["versionId"] == "1"
    assert text.count("cadss-6-total") == 1


async def test_a_change_that_the_summary_does_not_tell_of_asks_and_is_answered_by_the_same_version(left):
    first = await summarize(left)
    late = left.reading(code={"text": "Skin"}, valueString="warm", minutes=20)
    del late["component"]
    await left.sessions.create(late)
    tasks = {"patient": left.who["id"], "code": codes.AMEND_SUMMARY.token()}
    (asked,) = await left.sessions.search("Task", **tasks)
    assert asked["status"] == "requested"
    assert await summarize(left) == first
    (asked,) = await left.sessions.search("Task", **tasks)
    assert asked["status"] == "completed"
    composition, _, _ = await held(left, first)
    assert composition["meta"]["versionId"] == "1"


async def test_what_is_charted_after_it_was_signed_asks_for_an_amendment(left):
    await summarize(left)
    tasks = {"patient": left.who["id"], "code": codes.AMEND_SUMMARY.token()}
    assert await left.sessions.search("Task", **tasks) == []
    late = await left.chart(138, 86, minutes=20)
    (asked,) = await left.sessions.search("Task", **tasks)
    assert asked["status"] == "requested"
    _, _, text = await held(left, await summarize(left))
    assert "138" in text
    (asked,) = await left.sessions.search("Task", **tasks)
    assert asked["status"] == "completed"
    await left.sessions.update({**late, "status": "entered-in-error"})
    (asked,) = await left.sessions.search("Task", **tasks)
    assert asked["status"] == "requested"


async def test_a_reading_that_is_not_yet_final_is_in_it_and_said_to_be_that(bedside):
    await bedside.chart(186, 104, status="preliminary")
    _, _, text = await held(bedside, await summarize(bedside, signed=False))
    assert "186 (not final)" in text


async def test_while_the_visit_is_under_way_it_is_preliminary_and_cannot_be_signed(bedside):
    await bedside.chart()
    await bedside.start()
    with pytest.raises(Unprocessable) as refused:
        await summarize(bedside)
    assert rules_of(refused) == {"V-SIGNED"}
    composition, _, _ = await held(bedside, await summarize(bedside, signed=False))
    assert composition["status"] == "preliminary"
    assert "attester" not in composition


async def test_a_signed_summary_is_changed_by_nobody_and_may_be_said_to_be_an_error(left):
    composition, document, _ = await held(left, await summarize(left))
    for one in (composition, document):
        with pytest.raises(Unprocessable) as refused:
            await left.sessions.update({**one, "date": "2026-01-01T00:00:00Z"})
        assert rules_of(refused) == {"V-SIGNED"}
        with pytest.raises(Unprocessable):
            await left.sessions.delete(one)
        await left.sessions.update({**one, "status": "entered-in-error"})


async def test_a_visit_that_has_not_begun_has_no_summary_and_the_author_is_a_person(bedside):
    with pytest.raises(BadRequest):
        await bedside.sessions.call("summarize", bedside.visit)
    for one in ({"reference": "Patient/x"}, {"display": "somebody"}):
        with pytest.raises(BadRequest):
            await bedside.sessions.call("summarize", bedside.visit, {"name": "author", "valueReference": one})
