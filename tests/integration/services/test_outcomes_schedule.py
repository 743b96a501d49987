"""The schedule of measurement on the record: due by visits, overdue by the clock; changes against the baseline."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.outcomes.service import outcomes as outcomes_service
from services.sessions.service import sessions as sessions_service
from shared.events.envelope import Event
from shared.events.handler import Position
from shared.fhir import codes
from shared.fhir.codes import KAP, Code
from shared.fhir.dates import interval, zulu
from shared.fhir.extraction import compartment_key, extract
from shared.fhir.json import dump
from shared.fhir.validation import validate
from shared.runtime.consume import ServiceEvents
from shared.runtime.record import Record
from shared.runtime.timers import Round, run_once
from tests.integration.services.course import START, about

WHO = {"resourceType": "Patient", "id": "ada"}
PHQ9 = ["44250-9", "44255-8", "44259-0", "44254-1", "44251-7", "44258-2", "44252-5", "44253-3", "44260-8"]


@pytest.fixture
async def outcomes(bench):
    return await bench.open(outcomes_service)


async def heard(outcomes, source, resource, version=1):
    """Take in an event of another service, with the reactions to it."""
    held = {**resource, "meta": {"versionId": str(version), "lastUpdated": "2026-11-22T09:00:00Z"}}
    type_, id_ = resource["resourceType"], resource["id"]
    event = Event(
        id=f"{type_}/{id_}/{version}", source=source, interaction="create" if version == 1 else "update", type=type_,
        resource_id=id_, version=version, time=START, tenant="default", key=compartment_key(held, type_, id_), shard=0,
        sequence=version, body=dump(held), labels=(), request_id=None, traceparent=None,
    )  # fmt: skip
    assert extract(held) is not None
    await ServiceEvents(outcomes.service, outcomes.store).handle(event, Position("t", 0, version))


def patient():
    return {**WHO, "gender": "female", "telecom": [{"system": "sms", "value": "+1555"}]}


def visit(id_, status, day=0, kind=codes.VISIT_DOSING):
    start = START + timedelta(days=day)
    period = {"start": zulu(start)} | ({"end": zulu(start + timedelta(hours=3))} if status == "finished" else {})
    return {
        "resourceType": "Encounter",
        "id": id_,
        "status": status,
        "class": codes.Code(codes.ACT_CODE, "AMB").coding(),
        "type": [kind.concept()],
        "subject": about(WHO),
        "episodeOfCare": [{"reference": "EpisodeOfCare/course"}],
        "period": period,
    }


def dose(id_, of, minutes, drug=codes.KETAMINE):
    return {
        "resourceType": "MedicationAdministration",
        "id": id_,
        "status": "in-progress",
        "medicationCodeableConcept": drug.concept(),
        "subject": about(WHO),
        "context": {"reference": f"Encounter/{of}"},
        "effectivePeriod": {"start": zulu(START + timedelta(minutes=minutes))},
    }


def with_lot(given, product):
    """The dose as $start-dose writes it with a lot: its product is inside, and referred to."""
    inside = {"resourceType": "Medication", "id": "product", "code": product.concept(), "batch": {"lotNumber": "L1"}}
    rest = {key: value for key, value in given.items() if key != "medicationCodeableConcept"}
    return {**rest, "contained": [inside], "medicationReference": {"reference": "#product"}}


async def dosed_on(outcomes, name, day):
    """A finished session with its dose."""
    await heard(outcomes, "sessions", dose(f"m-{name}", name, 5 + day * 24 * 60))
    await heard(outcomes, "sessions", visit(name, "finished", day=day))


def course(stage, status="active"):
    inner = [{"url": "stage", "valueCode": stage}, {"url": "period", "valuePeriod": {"start": zulu(START)}}]
    return {
        "resourceType": "EpisodeOfCare",
        "id": "course",
        "extension": [{"url": codes.EXT_STAGE, "extension": inner}],
        "status": status,
        "type": [codes.COURSE.concept()],
        "patient": about(WHO),
        "managingOrganization": {"reference": "Organization/clinic"},
    }


def phq9(day, total, **more):
    values = [min(3, max(0, total - 3 * number)) for number in range(9)]
    return {
        "resourceType": "QuestionnaireResponse",
        "questionnaire": codes.PHQ9_QUESTIONNAIRE,
        "status": "completed",
        "subject": about(WHO),
        "authored": zulu(START + timedelta(days=day)),
        "author": about(WHO),
        "item": [
            {"linkId": link, "answer": [{"valueInteger": value}]} for link, value in zip(PHQ9, values, strict=True)
        ],
        **more,
    }


async def asked(outcomes, **criteria):
    found = await outcomes.search("Task", patient="ada", code=codes.EXPECT_QUESTIONNAIRE.token(), **criteria)
    return sorted(
        (one["input"][0]["valueCanonical"].rpartition("/")[2], interval(one["restriction"]["period"]["end"])[0] - START)
        for one in found
    )


async def scores(outcomes):
    found = await outcomes.search("Observation", patient="ada", code="http://loinc.org|44261-6")
    return {one["effectiveDateTime"]: one for one in found}


def said(observation):
    return {one["coding"][0]["code"] for one in observation["interpretation"]}


async def tick(bench, outcomes, name):
    (timer,) = [one for one in outcomes.service.timers if one.name == name]
    await run_once(timer, outcomes.service, outcomes.store, bench.clock(), lambda: None)


async def test_an_opened_course_expects_the_intake_set_once(outcomes):
    await heard(outcomes, "intake", course("eligible", "planned"))
    await heard(outcomes, "intake", course("consented", "planned"), 2)
    names = [name for name, _ in await asked(outcomes)]
    assert names == [
        "audit-c", "brs", "c-ssrs-screener", "dast-10", "gad-7", "lec-5", "pcl-5", "phq-9",
        "promis-global-10", "qids-sr16",
    ]  # fmt: skip


async def test_arriving_for_a_dose_expects_the_screener_and_mood_and_a_phq9_only_where_the_last_is_a_week_old(outcomes):
    await outcomes.create(phq9(-6, 10))
    await heard(outcomes, "sessions", visit("v1", "planned"))
    assert await asked(outcomes) == []
    await heard(outcomes, "sessions", visit("v1", "arrived"), 2)
    assert [name for name, _ in await asked(outcomes)] == ["c-ssrs-since-last-contact", "mood"]
    await heard(outcomes, "sessions", visit("v2", "arrived", day=1))
    assert [name for name, _ in await asked(outcomes)].count("phq-9") == 1


async def test_the_first_dose_of_a_visit_expects_the_cadss6_an_hour_later_and_a_rescue_drug_does_not(outcomes):
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    before = await asked(outcomes)
    ondansetron = codes.Code(codes.RXNORM, "26225", "ondansetron")
    await heard(outcomes, "sessions", dose("m0", "v1", 5, ondansetron))
    assert await asked(outcomes) == before
    await heard(outcomes, "sessions", dose("m1", "v1", 10))
    await heard(outcomes, "sessions", dose("m2", "v1", 40))
    assert [one for one in await asked(outcomes) if one not in before] == [("cadss-6", timedelta(minutes=70))]


ONDANSETRON = codes.Code(codes.RXNORM, "26225", "ondansetron")


@pytest.mark.parametrize(("product", "expects"), [(ONDANSETRON, False), (codes.KETAMINE, True)])
async def test_a_drug_that_is_given_with_its_lot_is_what_its_product_says(outcomes, product, expects):
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await heard(outcomes, "sessions", with_lot(dose("m1", "v1", 10), product))
    assert ("cadss-6" in {name for name, _ in await asked(outcomes)}) is expects


async def test_a_drug_that_nobody_can_name_counts_as_ketamine_until_it_is_known_as_another(outcomes):
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    named = {key: value for key, value in dose("m1", "v1", 10).items() if key != "medicationCodeableConcept"}
    await heard(outcomes, "sessions", {**named, "medicationReference": {"reference": "Medication/p"}})
    assert "cadss-6" in {name for name, _ in await asked(outcomes, status="requested")}
    await heard(outcomes, "intake", {"resourceType": "Medication", "id": "p", "code": ONDANSETRON.concept()})
    assert "cadss-6" not in {name for name, _ in await asked(outcomes, status="requested")}


async def test_a_dose_of_which_nobody_knows_whether_it_was_given_counts(outcomes):
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await heard(outcomes, "sessions", {**dose("m1", "v1", 10), "status": "unknown"})
    assert "cadss-6" in {name for name, _ in await asked(outcomes)}


@pytest.mark.parametrize("status", ["entered-in-error", "not-done"])
async def test_a_dose_that_never_was_is_none_for_scores_and_schedule_and_one_charted_again_is(outcomes, status):
    await outcomes.create(phq9(-3, 20))
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await heard(outcomes, "sessions", dose("m1", "v1", 10))
    await outcomes.create(phq9(3, 9))
    at = zulu(START + timedelta(days=3))
    assert "response" in said((await scores(outcomes))[at])
    await heard(outcomes, "sessions", {**dose("m1", "v1", 10), "status": status}, 2)
    assert "response" not in said((await scores(outcomes))[at])
    assert await standing(outcomes, "v1-dose", "dose-cadss-6") == ("cancelled", [])
    await heard(outcomes, "sessions", dose("m2", "v1", 25))
    assert "response" in said((await scores(outcomes))[at])
    assert ("cadss-6", timedelta(minutes=85)) in await asked(outcomes, status="requested")


async def test_where_the_first_of_two_doses_is_in_error_the_rating_is_due_after_the_other(outcomes):
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await heard(outcomes, "sessions", dose("m1", "v1", 10))
    await heard(outcomes, "sessions", dose("m2", "v1", 40))
    await heard(outcomes, "sessions", {**dose("m1", "v1", 10), "status": "entered-in-error"}, 2)
    assert ("cadss-6", timedelta(minutes=100)) in await asked(outcomes, status="requested")


async def test_what_a_person_cancelled_is_not_expected_again_by_the_next_news(outcomes):
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await heard(outcomes, "sessions", dose("m1", "v1", 10))
    (task,) = await outcomes.search("Task", identifier=f"{codes.ID_TASK}|expect:v1-dose:dose-cadss-6")
    await outcomes.update({**task, "status": "cancelled", "statusReason": {"text": "Refused."}})
    await heard(outcomes, "sessions", dose("m1", "v1", 10), 2)
    assert await standing(outcomes, "v1-dose", "dose-cadss-6") == ("cancelled", [])


@pytest.mark.parametrize(
    "second",
    [[], [{"reference": "https://kap.example/fhir/EpisodeOfCare/course"}], [{"reference": "EpisodeOfCare/course"}]],
    ids=["no course", "an absolute reference", "the same"],
)
@pytest.mark.parametrize("known", [False, True])
async def test_a_visit_of_the_course_that_runs_is_of_it_however_it_names_it(outcomes, second, known):
    if known:
        await heard(outcomes, "intake", {**course("dosing"), "period": {"start": zulu(START - timedelta(days=9))}})
    await outcomes.create(phq9(-3, 20))
    for name, day, named, total in (("v0", 0, [{"reference": "EpisodeOfCare/course"}], 12), ("v1", 7, second, 9)):
        held = {**visit(name, "finished", day=day), "episodeOfCare": named}
        await heard(outcomes, "sessions", {key: value for key, value in held.items() if value})
        await heard(outcomes, "sessions", dose(f"m-{name}", name, 10 + day * 24 * 60))
        await outcomes.create(phq9(day + 3, total))
    assert "response" in said((await scores(outcomes))[zulu(START + timedelta(days=10))])


@pytest.mark.parametrize(("day", "is_asked"), [(6, False), (7, True), (10, True)])
async def test_a_phq9_before_the_dose_is_asked_where_the_last_is_a_week_old_and_the_next_is_put_off(
    outcomes, day, is_asked
):
    await outcomes.create(phq9(0, 12))
    await dosed_on(outcomes, "v0", 0)
    await heard(outcomes, "sessions", visit("v1", "in-progress", day=day))
    due = sorted(when for name, when in await asked(outcomes, status="requested") if name == "phq-9")
    planned = timedelta(days=14, hours=3)
    if is_asked:
        assert due == [timedelta(days=day), max(planned, timedelta(days=day + 7))]
    else:
        assert due == [planned]


async def test_a_session_that_was_held_at_the_gate_is_no_session_for_long_term_use(bench, outcomes):
    await heard(outcomes, "intake", patient())
    await heard(outcomes, "sessions", visit("v0", "finished", day=0))
    await dosed_on(outcomes, "v1", 1)
    for number in range(2, 8):
        await heard(outcomes, "sessions", visit(f"v{number}", "finished", day=number))
    await tick(bench, outcomes, "surveillance")
    for name in ("review-spacing", "review-craving", "review-bladder"):
        assert await outcomes.search("Task", patient="ada", code=Code(KAP, name).token()) == []
    await dosed_on(outcomes, "v9", 2)
    assert len(await outcomes.search("Task", patient="ada", code=Code(KAP, "review-spacing").token())) == 1


async def test_an_integration_expects_the_screener_and_a_cancelled_visit_nothing(outcomes):
    await heard(outcomes, "sessions", visit("v1", "finished", kind=codes.VISIT_INTEGRATION))
    assert [name for name, _ in await asked(outcomes)] == ["c-ssrs-screener", "gad-7", "phq-9"]
    await heard(outcomes, "sessions", visit("v2", "arrived", day=3))
    await heard(outcomes, "sessions", visit("v2", "cancelled", day=3), 2)
    assert len(await asked(outcomes, status="requested")) == 3


FULL = {
    *("phq-9", "gad-7", "pcl-5", "c-ssrs-screener", "audit-c", "dast-10", "qids-sr16", "promis-global-10", "brs"),
}
"""The intake set, but for what is asked once in a lifetime."""


async def test_the_full_set_is_expected_at_the_end_of_the_series_and_four_twelve_and_twenty_six_weeks_after(
    bench, outcomes
):
    await heard(outcomes, "intake", course("eligible", "planned"))
    bench.clock.forward(days=10, hours=4)
    await heard(outcomes, "sessions", visit("v1", "finished", day=10))
    await heard(outcomes, "sessions", dose("m1", "v1", 10 * 24 * 60 + 10))
    before = await asked(outcomes)
    await heard(outcomes, "intake", course("follow-up"), 2)
    await heard(outcomes, "intake", course("finished", "finished"), 3)
    later = [one for one in await asked(outcomes) if one not in before]
    last = timedelta(days=10, hours=3)
    sets = {day: {name for name, due in later if due == last + timedelta(days=day)} for day in (28, 84, 182)}
    # what was asked for at intake ten days ago, or is due a week after the dose, is not asked again so soon
    soon = {name for name, due in later if due == timedelta(days=10, hours=4)}
    assert soon == FULL - {"pcl-5", "brs", "audit-c", "dast-10", "qids-sr16"}
    assert sets == {28: FULL - {"audit-c", "dast-10"}, 84: FULL, 182: FULL}


async def test_an_integration_asks_for_phq9_and_gad7_every_two_weeks_at_the_most(outcomes):
    for day in (1, 8, 15, 22, 29):
        await heard(outcomes, "sessions", visit(f"v{day}", "finished", day=day, kind=codes.VISIT_INTEGRATION))
    days = {name: [due.days for which, due in await asked(outcomes) if which == name] for name in ("phq-9", "gad-7")}
    assert days == {"phq-9": [1, 15, 29], "gad-7": [1, 15, 29]}
    assert len([1 for name, _ in await asked(outcomes) if name == "c-ssrs-screener"]) == 5


async def test_the_clock_reads_what_is_due_and_not_what_is_open_for_months_ahead(bench, outcomes, monkeypatch):
    await heard(outcomes, "intake", course("finished", "finished"))
    bench.clock.forward(days=29)
    await outcomes.create(
        {
            "resourceType": "Task",
            "status": "requested",
            "intent": "order",
            "code": codes.EXPECT_QUESTIONNAIRE.concept(),
            "for": about(WHO),
            "restriction": {"period": {"end": zulu(START)}},
        }
    )
    read, search = [], Round.search

    async def spied(self, type_, criteria):
        found = await search(self, type_, criteria)
        read.extend(found)
        return found

    monkeypatch.setattr(Round, "search", spied)
    await tick(bench, outcomes, "expectations")
    now = zulu(bench.clock.now)
    assert read
    assert all(one["restriction"]["period"]["end"] < now for one in read)
    assert any("executionPeriod" not in one for one in read), "one of before the index was not looked at"
    open_ = await outcomes.search("Task", patient="ada", status="requested")
    ahead = [one for one in open_ if one["restriction"]["period"]["end"] >= now]
    assert len(ahead) > 10


async def test_what_is_late_is_marked_reminded_and_given_up_and_late_answers_still_count(bench, outcomes):
    await heard(outcomes, "intake", patient())
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await heard(outcomes, "sessions", visit("v1", "finished"), 2)
    bench.clock.forward(days=14, hours=5)
    await tick(bench, outcomes, "expectations")
    await tick(bench, outcomes, "expectations")
    overdue = await outcomes.search("Task", patient="ada", business_status=f"{KAP}|overdue")
    assert {one["status"] for one in overdue} == {"requested"}
    reminded = {one["about"][0]["reference"] for one in await outcomes.search("Communication", subject="Patient/ada")}
    (phq,) = [one for one in overdue if one["input"][0]["valueCanonical"] == codes.PHQ9_QUESTIONNAIRE]
    assert f"Task/{phq['id']}" in reminded
    (told,) = [
        one for one in await outcomes.search("Communication", subject="Patient/ada") if one["about"] == [about(phq)]
    ]
    assert "988" in told["payload"][0]["contentString"]
    bench.clock.forward(days=8)
    await tick(bench, outcomes, "expectations")
    held = await outcomes.get("Task", phq["id"])
    assert (held["status"], held["businessStatus"]["coding"][0]["code"]) == ("failed", "missed")
    answered = await outcomes.create(phq9(22, 10, encounter={"reference": "Encounter/v1"}))
    ended = await outcomes.search("Task", patient="ada", status="completed")
    assert [one["output"][0]["valueReference"] for one in ended] == [about(answered)]


async def test_what_a_visit_charted_weeks_later_called_for_is_late_from_the_beginning_and_reminds_nobody(
    bench, outcomes
):
    await heard(outcomes, "intake", patient())
    bench.clock.forward(days=16)
    await heard(outcomes, "sessions", visit("v1", "finished"))
    before = await outcomes.count()
    await tick(bench, outcomes, "expectations")
    assert await outcomes.count() == before
    tasks = await outcomes.search("Task", patient="ada", code=codes.EXPECT_QUESTIONNAIRE.token())
    assert {(one["status"], one["businessStatus"]["coding"][0]["code"]) for one in tasks} == {
        ("failed", "missed"),
        ("requested", "overdue"),
    }
    answered = await outcomes.create(phq9(16, 10, encounter={"reference": "Encounter/v1"}))
    (done,) = await outcomes.search("Task", patient="ada", status="completed")
    assert done["output"][0]["valueReference"] == about(answered)


def answered_at(name, minutes, of="v1"):
    """Answers that name the visit, of so many minutes after its beginning; what they say is of no matter here."""
    return {
        "resourceType": "QuestionnaireResponse",
        "questionnaire": f"{codes.BASE}/Questionnaire/{name}",
        "status": "completed",
        "subject": about(WHO),
        **({} if of is None else {"encounter": {"reference": f"Encounter/{of}"}}),
        "authored": zulu(START + timedelta(minutes=minutes)),
        "author": {"reference": "Practitioner/anna"},
    }


async def standing(outcomes, of, name):
    """What became of one expectation, and which answers it names."""
    (one,) = await outcomes.search("Task", identifier=f"{codes.ID_TASK}|expect:{of}:{name}")
    return one["status"], [output["valueReference"]["reference"] for output in one.get("output", [])]


async def test_answers_that_came_before_the_news_of_their_visit_fulfil_what_that_news_expects(outcomes):
    early = await outcomes.create(answered_at("c-ssrs-since-last-contact", 5))
    looked = await outcomes.create(answered_at("cadss-6", 60))
    await heard(outcomes, "sessions", visit("v1", "arrived"))
    await heard(outcomes, "sessions", dose("m1", "v1", 10), 1)
    assert await standing(outcomes, "v1", "arrival-c-ssrs") == ("completed", [about(early)["reference"]])
    assert await standing(outcomes, "v1-dose", "dose-cadss-6") == ("completed", [about(looked)["reference"]])
    await heard(outcomes, "sessions", visit("v1", "finished"), 2)
    assert await standing(outcomes, "v1", "next-day-c-ssrs") == ("requested", []), "what was asked before is no answer"


async def test_a_screener_of_an_integration_counts_for_it_though_the_news_of_its_end_comes_after(outcomes):
    screened = await outcomes.create(answered_at("c-ssrs-screener", 20))
    await heard(outcomes, "sessions", visit("v1", "finished", kind=codes.VISIT_INTEGRATION))
    assert await standing(outcomes, "v1", "integration-c-ssrs") == ("completed", [about(screened)["reference"]])


async def test_what_was_answered_before_the_referral_is_no_answer_for_intake_and_one_answer_fulfils_one_task(outcomes):
    await outcomes.create(answered_at("c-ssrs-screener", -30, of=None))
    opened = {**course("eligible", "planned"), "period": {"start": zulu(START)}}
    await heard(outcomes, "intake", opened)
    assert await standing(outcomes, "course", "intake-c-ssrs") == ("requested", [])
    screened = await outcomes.create(answered_at("c-ssrs-screener", 30, of=None))
    await heard(outcomes, "intake", {**opened, "id": "another"})
    assert await standing(outcomes, "course", "intake-c-ssrs") == ("completed", [about(screened)["reference"]])
    assert await standing(outcomes, "another", "intake-c-ssrs") == ("requested", []), "one answer fulfils one Task"
    later = await outcomes.create(answered_at("c-ssrs-full", 60, of=None))
    await heard(outcomes, "intake", {**opened, "id": "third"})
    assert about(later)["reference"] in (await standing(outcomes, "another", "intake-c-ssrs"))[1]


async def test_answers_given_before_the_course_was_opened_are_its_intake_answers(outcomes):
    screened = await outcomes.create(answered_at("c-ssrs-screener", 30, of=None))
    await heard(outcomes, "intake", {**course("eligible", "planned"), "period": {"start": zulu(START)}})
    assert await standing(outcomes, "course", "intake-c-ssrs") == ("completed", [about(screened)["reference"]])


async def test_a_dissociation_rated_before_the_dose_does_not_count_for_after_it(outcomes):
    await outcomes.create(answered_at("cadss-6", 5))
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await heard(outcomes, "sessions", dose("m1", "v1", 10))
    assert await standing(outcomes, "v1-dose", "dose-cadss-6") == ("requested", [])


async def test_a_score_is_judged_against_the_one_before_the_first_dose_whichever_is_heard_first(outcomes):
    await outcomes.create(phq9(-3, 20))
    await outcomes.create(phq9(14, 9))
    after = zulu(START + timedelta(days=14))
    assert said((await scores(outcomes))[after]) == {"phq-9-mild"}
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await heard(outcomes, "sessions", dose("m1", "v1", 10))
    found = await scores(outcomes)
    baseline, judged = found[zulu(START - timedelta(days=3))], found[after]
    assert said(judged) == {"phq-9-mild", "response", "reliable-improvement"}
    assert about(baseline) in judged["derivedFrom"]
    assert said(baseline) == {"phq-9-severe"}
    assert judged["status"] == "final"


async def test_quality_of_life_is_held_against_its_baseline_by_its_t_scores(outcomes):
    def promis(day, value):
        items = [f"promis-global-{number:02}" for number in range(1, 11)]
        given = [{"linkId": link, "answer": [{"valueInteger": value}]} for link in items]
        canonical = f"{codes.BASE}/Questionnaire/promis-global-10"
        return phq9(day, 0, questionnaire=canonical, item=given)

    await outcomes.create(promis(-3, 2))
    await heard(outcomes, "sessions", visit("v1", "finished"))
    await heard(outcomes, "sessions", dose("m1", "v1", 10))
    await outcomes.create(promis(30, 4))
    found = await outcomes.search("Observation", patient="ada", code=f"{KAP}|promis-global-10")
    last = max(found, key=lambda one: one["effectiveDateTime"])
    by_code = {part["code"]["coding"][0]["code"]: part for part in last["component"]}
    # physical from 2+2+4 (pain 2)+2 = 10, T 34.9, to 4+4+3 (pain 4)+4 = 15, T 47.7
    score = by_code["promis-global-physical-t-score"]
    assert float(score["valueQuantity"]["value"]) == 47.7
    assert said(score) == {"reliable-improvement"}
    change = by_code["promis-global-physical-t-score-change-from-baseline"]["valueQuantity"]["value"]
    assert float(change) == 12.8


async def test_an_amended_baseline_changes_what_later_scores_are(outcomes):
    first = await outcomes.create(phq9(-3, 20))
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await outcomes.create(phq9(14, 9))
    await outcomes.update({**phq9(-3, 12), "id": first["id"], "status": "amended"})
    found = await scores(outcomes)
    assert said(found[zulu(START + timedelta(days=14))]) == {"phq-9-mild"}
    assert found[zulu(START - timedelta(days=3))]["status"] == "amended"
    await outcomes.update({**phq9(-3, 12), "id": first["id"], "status": "entered-in-error"})
    judged = (await scores(outcomes))[zulu(START + timedelta(days=14))]
    assert len(judged["derivedFrom"]) == 1
    assert "component" not in judged


async def test_an_unchanged_put_makes_no_new_version_of_the_score(outcomes):
    made = await outcomes.create(phq9(0, 10))
    await outcomes.update({**phq9(0, 10), "id": made["id"]})
    await outcomes.update({**phq9(0, 10), "id": made["id"], "status": "amended"})
    (score,) = (await scores(outcomes)).values()
    assert (score["status"], score["meta"]["versionId"]) == ("final", "1")


async def test_answers_moved_to_another_questionnaire_leave_no_old_score(outcomes):
    made = await outcomes.create(phq9(0, 10))
    gad = [
        {"linkId": link, "answer": [{"valueInteger": 1}]}
        for link in ("69725-0", "68509-9", "69733-4", "69734-2", "69735-9", "69689-8", "69736-7")
    ]
    await outcomes.update({**made, "questionnaire": codes.GAD7_QUESTIONNAIRE, "item": gad})
    (old,) = (await scores(outcomes)).values()
    assert old["status"] == "entered-in-error"
    (new,) = await outcomes.search("Observation", patient="ada", code="http://loinc.org|70274-6")
    assert new["valueQuantity"]["value"] == 7


async def test_a_score_that_is_worse_by_five_calls_for_a_prescriber_once(outcomes):
    await outcomes.create(phq9(0, 8))
    await outcomes.create(phq9(14, 13))
    (task,) = await outcomes.search("Task", patient="ada", code=codes.PRESCRIBER_REVIEW.token())
    assert interval(task["restriction"]["period"]["end"])[0] == START + timedelta(hours=48)
    await outcomes.create(phq9(28, 13))
    assert len(await outcomes.search("Task", patient="ada", code=codes.PRESCRIBER_REVIEW.token())) == 1


@pytest.mark.parametrize("author", ["Patient/ada", "RelatedPerson/mother", "Practitioner/anna"])
async def test_a_patient_a_proxy_and_a_clinician_may_answer(outcomes, author):
    await outcomes.create(phq9(0, 8, author={"reference": author}))
    (score,) = (await scores(outcomes)).values()
    assert score["performer"] == [{"reference": author}]


async def test_partial_answers_are_kept_without_a_score_until_they_are_finished(outcomes):
    begun = phq9(0, 8, status="in-progress")
    begun["item"] = begun["item"][:4]
    made = await outcomes.create(begun)
    assert await scores(outcomes) == {}
    assert await outcomes.search("Task", patient="ada") == []
    await outcomes.update({**phq9(0, 8), "id": made["id"]})
    (score,) = (await scores(outcomes)).values()
    assert score["valueQuantity"]["value"] == 8


async def test_sessions_that_add_up_raise_the_checks_of_long_term_use_once_until_they_are_done(bench, outcomes):
    await heard(outcomes, "intake", patient())
    for number in range(6):
        await dosed_on(outcomes, f"v{number}", -7 * (number + 1))
    for _ in range(2):
        await tick(bench, outcomes, "surveillance")
    raised = {
        name: await outcomes.search("Task", patient="ada", code=Code(KAP, name).token())
        for name in ("review-bladder", "review-cognition", "review-craving", "reevaluate-need")
    }
    assert {name: len(found) for name, found in raised.items()} == {
        "review-bladder": 1,
        "review-cognition": 1,
        "review-craving": 1,
        "reevaluate-need": 0,
    }
    done = {**raised["review-craving"][0], "status": "completed", "lastModified": zulu(bench.clock())}
    await outcomes.update(done)
    bench.clock.forward(days=1)
    await tick(bench, outcomes, "surveillance")
    assert len(await outcomes.search("Task", patient="ada", code=f"{KAP}|review-craving")) == 1


def condition(code=None, text=None, **more):
    said = {"coding": [code.coding()]} if code else {"text": text}
    return {"resourceType": "Condition", "id": "c", "code": said, "subject": about(WHO), **more}


ICD = codes.ICD10CM
HELD = "http://terminology.hl7.org/CodeSystem/condition-clinical"


@pytest.mark.parametrize(
    ("complaint", "task"),
    [
        (condition(Code(ICD, "R31.9")), "review-bladder"),
        (condition(Code(ICD, "R35.0")), "review-bladder"),
        (condition(Code(codes.SNOMED, "49650001")), "review-bladder"),
        (condition(Code(codes.SNOMED, "386807006")), "review-cognition"),
        (condition(text="Memory loss, says her husband"), "review-cognition"),
        (condition(text="Craving between the sessions"), "review-craving"),
        (condition(Code(codes.SNOMED, "724715004")), "review-craving"),
        (condition(Code(codes.SNOMED, "197834003")), "review-bladder"),
        (condition(Code(ICD, "R31.9"), recordedDate="2026-11-22"), "review-bladder"),
        (condition(Code(ICD, "R31.9"), recordedDate="2026-10-23T09:00:00Z"), "review-bladder"),
        (condition(Code(ICD, "R31.9"), recordedDate="2026-10-23T08:59:59Z"), None),
        (condition(Code(ICD, "R31.9"), clinicalStatus=Code(HELD, "resolved").concept()), None),
        (condition(Code(ICD, "R31.9"), verificationStatus=Code(HELD, "refuted").concept()), None),
        (condition(Code(ICD, "F33.2")), None),
        (condition(), None),
    ],
    ids=[
        "blood in the urine", "frequency", "pain", "memory", "memory in words", "craving in words", "dependence",
        "interstitial cystitis", "of today",
        "of 30 days ago", "of more", "resolved", "refuted", "another condition", "not said what",
    ],
)  # fmt: skip
async def test_a_complaint_of_long_term_use_calls_for_its_check_and_a_pause_at_once(outcomes, complaint, task):
    await dosed_on(outcomes, "v1", -14)
    await heard(outcomes, "intake", complaint)
    names = ("review-bladder", "review-cognition", "review-craving")
    found = [one for name in names for one in await outcomes.search("Task", patient="ada", code=f"{KAP}|{name}")]
    assert [one["code"]["coding"][0]["code"] for one in found] == ([] if task is None else [task])
    for one in found:
        assert (one["priority"], one["focus"]["reference"]) == ("urgent", "Condition/c")
        assert "on hold" in one["description"]
        (up,) = await outcomes.search("Flag", patient="ada")
        assert (up["status"], up["code"]["coding"][0]["code"]) == ("active", "pause-for-review")
        assert validate(one) == validate(up) == []
        await outcomes.update({**one, "status": "in-progress"})
        assert [flag["status"] for flag in await outcomes.search("Flag", patient="ada")] == ["active"]
        await outcomes.update({**one, "status": "completed"})
        await heard(outcomes, "intake", complaint, 2)
        assert [flag["status"] for flag in await outcomes.search("Flag", patient="ada")] == ["inactive"]


async def test_an_adverse_event_is_a_complaint_and_one_of_who_was_never_dosed_is_the_screenings(outcomes):
    event = {"resourceType": "AdverseEvent", "id": "e", "actuality": "actual", "subject": about(WHO)}
    event |= {"event": {"text": "Blood in the urine"}, "date": "2026-11-22"}
    await heard(outcomes, "sessions", event)
    assert await outcomes.search("Task", patient="ada", code=f"{KAP}|review-bladder") == []
    await dosed_on(outcomes, "v1", -14)
    await heard(outcomes, "sessions", event, 2)
    (task,) = await outcomes.search("Task", patient="ada", code=f"{KAP}|review-bladder")
    await heard(outcomes, "sessions", event, 3)
    assert len(await outcomes.search("Task", patient="ada", code=f"{KAP}|review-bladder")) == 1
    await heard(outcomes, "sessions", {**event, "event": {"text": "Nausea"}}, 4)
    assert (await outcomes.get("Task", task["id"]))["status"] == "cancelled"
    assert [one["status"] for one in await outcomes.search("Flag", patient="ada")] == ["inactive"]
    await heard(outcomes, "sessions", event, 5)
    assert [one["status"] for one in await outcomes.search("Flag", patient="ada")] == ["active"]


async def test_a_session_that_ended_is_looked_at_with_its_event_and_the_timer_reads_no_older_ones(
    bench, outcomes, monkeypatch
):
    await heard(outcomes, "intake", patient())
    for number in range(6):
        await dosed_on(outcomes, f"v{number}", -30 * (number + 1))
    assert len(await outcomes.search("Task", patient="ada", code=f"{KAP}|review-bladder")) == 1
    asked = []
    plain = Record.get

    async def noted(self, type_, id_):
        asked.append((type_, id_))
        return await plain(self, type_, id_)

    monkeypatch.setattr(Record, "get", noted)
    await tick(bench, outcomes, "surveillance")
    assert ("Patient", "ada") not in asked
    await dosed_on(outcomes, "v9", -14)
    await tick(bench, outcomes, "surveillance")
    assert ("Patient", "ada") in asked


async def test_sessions_owns_the_visits_that_outcomes_hears_of(bench, outcomes):
    sessions = await bench.open(sessions_service)
    held = {key: value for key, value in visit("x", "in-progress").items() if key != "id"}
    await sessions.create(held)
    await bench.deliver(sessions, outcomes)
    assert [name for name, _ in await asked(outcomes)] == ["c-ssrs-since-last-contact", "mood", "phq-9"]


@pytest.mark.parametrize("taken_back", ["entered-in-error", "in-progress"])
async def test_answers_that_are_taken_back_are_asked_for_again(outcomes, taken_back):
    await heard(outcomes, "intake", patient())
    await heard(outcomes, "intake", course("screened"))
    wrong = await outcomes.create(phq9(0, 9))
    before = await asked(outcomes, status="requested")
    assert len(await asked(outcomes, status="completed")) == 1
    await outcomes.update({**wrong, "status": taken_back})
    assert await asked(outcomes, status="completed") == []
    assert len(await asked(outcomes, status="requested")) == len(before) + 1
    await outcomes.create(phq9(0, 12))
    assert await asked(outcomes, status="requested") == before


async def asked_for(outcomes, instrument):
    """Return the Tasks that expect an instrument."""
    held = await outcomes.search("Task", patient="ada", code=codes.EXPECT_QUESTIONNAIRE.token())
    return [one for one in held if any(f"/{instrument}" in given["valueCanonical"] for given in one["input"])]


async def test_what_a_dose_calls_for_follows_its_time_and_its_visit(outcomes):
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await heard(outcomes, "sessions", visit("v2", "in-progress"))
    await heard(outcomes, "sessions", dose("m1", "v1", 5))
    await heard(outcomes, "sessions", dose("m1", "v1", 125), 2)
    (task,) = await asked_for(outcomes, "cadss-6")
    assert task["restriction"]["period"]["end"] == zulu(START + timedelta(minutes=185))
    await heard(outcomes, "sessions", dose("m1", "v2", 125), 3)
    standing = {one["encounter"]["reference"]: one["status"] for one in await asked_for(outcomes, "cadss-6")}
    assert standing == {"Encounter/v1": "cancelled", "Encounter/v2": "requested"}


async def test_what_a_clinician_is_to_ask_is_not_fulfilled_by_the_patients_own_answers(outcomes):
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    (task,) = await asked_for(outcomes, "c-ssrs-since-last-contact")
    answers = {"questionnaire": "https://kap-exchange.org/fhir/Questionnaire/c-ssrs-since-last-contact"}
    for author, status in ((WHO, "requested"), ({"resourceType": "Practitioner", "id": "anna"}, "completed")):
        said = {"resourceType": "QuestionnaireResponse", "status": "completed", "subject": about(WHO), **answers}
        said |= {"authored": zulu(START), "author": about(author), "encounter": {"reference": "Encounter/v1"}}
        said["item"] = [{"linkId": f"cssrs-slc-{n}", "answer": [{"valueBoolean": False}]} for n in range(1, 7)]
        await outcomes.create(said)
        assert (await outcomes.get("Task", task["id"]))["status"] == status
