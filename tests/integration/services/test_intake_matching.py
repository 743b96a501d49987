"""Nobody is entered twice: `Patient/$match`, `$merge`, and `$unmerge`, which is exact."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.intake.service import intake as intake_service
from shared.fhir.codes import ACT_CODE, POSSIBLE_DOUBLE, Code
from shared.fhir.dates import zulu
from shared.fhir.ids import new_id
from shared.fhir.kap import eligibility_outcome, latest_eligibility
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.fhir.search import Criterion, ReferenceValue
from shared.runtime.raising import content_of
from shared.runtime.record import prepare
from shared.store.access import DEFAULT_TENANT, Access, Disclosure, Grant
from tests.integration.services.bedside import Bedside
from tests.integration.services.course import about, eligible, patient, planned, referral, screening

JANE = {
    "resourceType": "Patient",
    "identifier": [{"system": "urn:mrn", "value": "1"}],
    "active": True,
    "name": [{"family": "Müller", "given": ["Jane"]}],
    "birthDate": "1984-03-09",
    "gender": "female",
    "telecom": [{"system": "phone", "value": "+15550100"}],
}


@pytest.fixture
async def intake(bench):
    return await bench.open(intake_service)


def twin(**more):
    made = {**{name: value for name, value in JANE.items() if name != "identifier"}, **more}
    return {name: value for name, value in made.items() if value != []}


async def ask(intake, resource, **more):
    given = [{"name": "resource", "resource": resource}]
    given += [{"name": name, **value} for name, value in more.items()]
    return await intake.ask("match", "Patient", *given)


def grades(bundle):
    return [
        (
            one["resource"]["id"],
            next(e["valueCode"] for e in one["search"]["extension"] if e["url"].endswith("/match-grade")),
        )
        for one in bundle.get("entry", [])
    ]


async def test_who_is_entered_though_he_is_held_is_entered_and_a_person_is_asked(intake):
    held = await intake.create(JANE)
    again = await intake.create(twin(identifier=[{"system": "urn:partner", "value": "77"}]))
    other = await intake.create(
        {**twin(), "name": [{"family": "Ferrer", "given": ["Olga"]}], "birthDate": "1951-01-02"}
    )

    asked = await intake.search("Task", code="possible-double")
    assert [one["focus"] for one in asked] == [about(again)]
    assert f"Patient/{held['id']}" in asked[0]["description"]
    assert f"Patient/{other['id']}" not in asked[0]["description"]
    assert (asked[0]["status"], asked[0]["priority"]) == ("requested", "asap")

    await intake.update({**again, "active": False})
    assert len(await intake.search("Task", code="possible-double")) == 1


REFERRED = {**JANE, "identifier": [{"system": "urn:clinic", "value": "MRN-9"}]}


async def test_nobody_is_entered_for_a_referral_who_is_certainly_held_and_the_one_who_is_held_is_referred(intake):
    held = await intake.create(REFERRED)
    for order in ("patient first", "referral first"):
        with pytest.raises(Unprocessable) as refused:
            await transaction(intake, REFERRED, patient_first=order == "patient first")
        assert rules_of(refused) == {"M-HELD"}
        assert refused.value.issues[0].evidence == (f"Patient/{held['id']}",)
        assert len(await intake.search("Patient")) == 1
        assert await intake.search("ServiceRequest") == await intake.search("Task") == []
    await intake.create(referral(held))
    assert len(await intake.search("EpisodeOfCare", patient=held["id"])) == 1


async def test_of_two_whom_a_person_found_to_be_two_each_is_referred(intake):
    await intake.create(REFERRED)
    other = await intake.create(REFERRED)
    with pytest.raises(Unprocessable) as refused:
        await intake.create(referral(other))
    assert rules_of(refused) == {"M-HELD"}
    (asked,) = await intake.search("Task", code="possible-double")
    await intake.update({**asked, "status": "completed"})
    await intake.create(referral(other))
    assert len(await intake.search("EpisodeOfCare", patient=other["id"])) == 1


async def test_who_is_only_probably_held_is_referred_and_a_person_is_asked(intake):
    await intake.create(JANE)
    again = await transaction(intake, twin(identifier=[{"system": "urn:partner", "value": "77"}], telecom=[]))
    assert [one["focus"] for one in await intake.search("Task", code="possible-double")] == [about(again)]
    assert len(await intake.search("EpisodeOfCare", patient=again["id"])) == 1


async def transaction(intake, person, *, patient_first=True):
    """Enter a patient and his referral in one transaction; return the Patient."""
    who = prepare(person, new_id())
    asked = prepare(referral({"resourceType": "Patient", "id": who.id}), new_id())
    async with intake.record(f"Patient/{who.id}") as record:
        for one in (who, asked) if patient_first else (asked, who):
            await record.create(one)
    return await intake.get("Patient", who.id)


def pair(source, target, **more):
    named = (("source-patient", source), ("target-patient", target))
    return [{"name": name, "valueReference": about(one)} for name, one in named] + list(more.values())


async def merge(intake, source, target, **more):
    return await intake.ask("merge", "Patient", *pair(source, target, **more))


async def unmerge(intake, source, target):
    return await intake.ask("unmerge", "Patient", *pair(source, target))


def rules_of(error):
    return {issue.rule for issue in error.value.issues}


async def outcome(intake, who):
    return eligibility_outcome(
        latest_eligibility(await intake.search("RiskAssessment", patient=f"Patient/{who['id']}"))
    )


HOSPITAL = Disclosure(frozenset(("Organization/h1",)), frozenset(("TREAT",)))
PARTNER = Disclosure(frozenset(("Practitioner/doc",)), frozenset(("TREAT",)), permitted=True)
HIS = Grant(conditions=(Criterion("general-practitioner", "reference", (ReferenceValue(("Practitioner",), "doc"),)),))


@pytest.mark.parametrize(
    "reads",
    [
        Access.outside(DEFAULT_TENANT, HOSPITAL),
        Access(DEFAULT_TENANT, None, None, frozenset(), {"Patient": (HIS,)}, PARTNER),
    ],
    ids=["hospital", "partner"],
)
async def test_a_referral_from_outside_tells_nothing_of_who_is_held_and_a_person_compares(intake, reads):
    await intake.create(patient(identifier=[{"system": "urn:ssn", "value": "123"}]))
    theirs = prepare(patient(identifier=[{"system": "urn:ssn", "value": "123"}]), new_id())
    asked = prepare(referral({"resourceType": "Patient", "id": theirs.id}), new_id())
    async with intake.record(f"Patient/{theirs.id}", client="h", reads=reads) as record:
        for one in (theirs, asked):
            await record.create(one)
    (task,) = await intake.search("Task", patient=theirs.id, code=POSSIBLE_DOUBLE.code)
    assert task["status"] == "requested"


async def test_a_match_finds_who_is_held_best_first_and_creates_nothing(intake):
    jane = await intake.create(JANE)
    joan = await intake.create(twin(name=[{"family": "Müller", "given": ["Joan"]}]))
    await intake.create({"resourceType": "Patient", "name": [{"family": "Smith"}], "birthDate": "1950-01-01"})
    before = await intake.count()
    found = await ask(intake, twin(birthDate="1984-03-09"))
    assert grades(found) == [(jane["id"], "certain"), (joan["id"], "possible")]
    assert found["entry"][0]["search"]["score"] == 1
    assert "birthDate same (+5)" in found["entry"][0]["search"]["extension"][1]["valueString"]
    assert grades(await ask(intake, twin(), count={"valueInteger": 1})) == [(jane["id"], "certain")]
    assert await intake.count() == before


async def test_only_certain_matches_names_one_or_nobody(intake):
    jane = await intake.create(JANE)
    await intake.create(twin(name=[{"family": "Müller", "given": ["Joan"]}]))
    only = {"onlyCertainMatches": {"valueBoolean": True}}
    assert grades(await ask(intake, JANE, **only)) == [(jane["id"], "certain")]
    await intake.create(twin())
    assert (await ask(intake, twin(), **only))["total"] == 0


@pytest.mark.parametrize(
    "given",
    [
        [],
        [{"name": "resource", "resource": {"resourceType": "Practitioner"}}],
        [{"name": "resource", "resource": {"resourceType": "Patient", "birthDate": "yesterday"}}],
        [{"name": "resource", "resource": JANE}, {"name": "count", "valueInteger": 0}],
        [{"name": "resource", "resource": JANE}, {"name": "onlyCertainMatches", "valueString": "maybe"}],
        [{"name": "resource", "resource": JANE}, {"name": "guess", "valueBoolean": True}],
    ],
)
async def test_a_match_that_is_asked_wrongly_is_refused(intake, given):
    with pytest.raises(BadRequest):
        await intake.ask("match", "Patient", *given)


async def test_a_merge_links_both_ways_and_its_undo_is_exact(intake):
    one, other = await intake.create(twin()), await intake.create(JANE)
    held = await intake.create(allergy(one))
    await merge(intake, one, other)
    source, target = await intake.get("Patient", one["id"]), await intake.get("Patient", other["id"])
    assert source["active"] is False
    assert source["link"] == [{"other": about(other), "type": "replaced-by"}]
    assert target["link"] == [{"other": about(one), "type": "replaces"}]
    assert await intake.get("AllergyIntolerance", held["id"]) == held
    assert grades(await ask(intake, twin())) == [(other["id"], "certain")]
    await unmerge(intake, one, other)
    for before in (one, other):
        assert content_of(await intake.get("Patient", before["id"])) == content_of(before)
    with pytest.raises(Unprocessable) as refused:
        await unmerge(intake, one, other)
    assert rules_of(refused) == {"M-JOINED"}
    assert [(one["code"]["coding"][0]["code"], one["status"]) for one in await intake.search("Task")] == [
        ("possible-double", "completed"),
        ("merge-records", "requested"),
        ("unmerge-records", "requested"),
    ]


def allergy(who):
    return {
        "resourceType": "AllergyIntolerance",
        "clinicalStatus": {
            "coding": [
                {"system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active"}
            ]
        },
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "373464007"}]},
        "patient": about(who),
    }


async def test_what_either_record_holds_counts_for_the_one_that_stands_also_later(intake, clock):
    who = await eligible(intake, clock)
    other = await intake.create({**patient(), "active": True})
    await merge(intake, other, who)
    assert await outcome(intake, who) == "eligible"
    held = await intake.create(allergy(other))
    assert await outcome(intake, who) == "not-eligible"
    await unmerge(intake, other, who)
    assert await outcome(intake, who) == "eligible"
    assert held["patient"] == about(other)


async def test_a_replaced_record_is_eligible_for_nothing(intake):
    who = await intake.create(patient())
    await intake.create(screening(who))
    await intake.call("screen", who)
    assert await outcome(intake, who) == "eligible"
    other = await intake.create(patient())
    await merge(intake, who, other)
    assert await outcome(intake, who) == "not-eligible"
    await unmerge(intake, who, other)
    assert await outcome(intake, who) == "eligible"


async def test_a_record_in_which_something_goes_on_is_not_given_up(intake, clock):
    who = await eligible(intake, clock)
    other = await intake.create(patient())
    with pytest.raises(Unprocessable) as refused:
        await merge(intake, who, other)
    assert rules_of(refused) == {"M-COURSE"}
    preview = {"preview": {"name": "preview", "valueBoolean": True}}
    before = await intake.count()
    await merge(intake, other, who, **preview)
    assert await intake.count() == before


async def test_a_record_with_an_order_in_force_or_a_recent_visit_is_not_given_up(intake, clock):
    who, _, _ = await planned(intake, clock)
    visit = {
        "resourceType": "Encounter",
        "status": "finished",
        "class": Code(ACT_CODE, "AMB").coding(),
        "subject": about(who),
        "period": {"start": zulu(clock.now - timedelta(days=1)), "end": zulu(clock.now - timedelta(hours=23))},
    }
    await Bedside(intake, clock).tell("sessions", visit)
    with pytest.raises(Unprocessable) as refused:
        await merge(intake, who, await intake.create(patient()))
    assert rules_of(refused) == {"M-COURSE", "M-ORDER", "M-VISIT"}


async def test_two_people_who_are_not_alike_and_one_record_are_not_joined(intake):
    jane = await intake.create(JANE)
    john = await intake.create({"resourceType": "Patient", "name": [{"family": "Doe"}], "birthDate": "1950-01-01"})
    for source, target, rule in ((jane, john, "M-ALIKE"), (jane, jane, "M-SAME")):
        with pytest.raises(Unprocessable) as refused:
            await merge(intake, source, target)
        assert rules_of(refused) == {rule}
    with pytest.raises(NotFound):
        await merge(intake, jane, {"resourceType": "Patient", "id": "nobody"})
    with pytest.raises(BadRequest):
        await intake.ask("merge", "Patient")


async def test_records_are_not_joined_or_parted_by_hand(intake):
    one, other = await intake.create(twin()), await intake.create(JANE)
    with pytest.raises(Unprocessable) as refused:
        await intake.update({**one, "link": [{"other": about(other), "type": "replaced-by"}]})
    assert rules_of(refused) == {"M-LINK"}
    await merge(intake, one, other)
    source = await intake.get("Patient", one["id"])
    with pytest.raises(Unprocessable) as refused:
        await intake.update({name: value for name, value in source.items() if name != "link"})
    assert rules_of(refused) == {"M-LINK"}
    await intake.update({**source, "gender": "other"})
