"""`$validate` and the operations of terminology, as every service offers them."""

from __future__ import annotations

import pytest

from shared.fhir.validation import validate
from shared.store.terminology import Loading
from shared.terminology.release import CodeSystemRelease, LoadedCode, ValueSetRelease

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
GENDER = "http://hl7.org/fhir/administrative-gender"
GENDERS = "http://hl7.org/fhir/ValueSet/administrative-gender"
SNOMED = "http://snomed.info/sct"
PATIENT = {"resourceType": "Patient", "gender": "female"}


def parameters(**given):
    listed = [
        {"name": name, "resource" if isinstance(value, dict) else "valueString": value} for name, value in given.items()
    ]
    return {"resourceType": "Parameters", "parameter": listed}


def told(answer):
    assert answer.status_code == 200, answer.text
    outcome = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    return [(issue["severity"], *issue.get("expression", [None])) for issue in outcome["issue"]]


@pytest.mark.parametrize("mode", [None, "create", "profile"])
async def test_what_is_right_is_all_right_in_both_forms_of_the_body(fhir, mode):
    said = {} if mode is None else {"mode": mode}
    for body in (PATIENT, parameters(resource=PATIENT)):
        answer = await fhir.http.post("/fhir/Patient/$validate", json=body, params=said)
        assert told(answer) == [("information", None)]
    assert await fhir.held() == 0


async def test_all_issues_are_told_with_200_and_nothing_is_stored(fhir):
    wrong = {"resourceType": "Patient", "gender": "nope", "birthDate": "yesterday", "colour": "red"}
    found = told(await fhir.http.post("/fhir/Patient/$validate", json=wrong))
    assert {place for _, place in found} == {"Patient.gender", "Patient.birthDate", "Patient.colour"}
    assert await fhir.held() == 0


async def test_a_profile_is_asked_for_by_parameter_and_by_claim(fhir):
    asked = await fhir.http.post("/fhir/Patient/$validate", json=PATIENT, params={"profile": f"{US_CORE}patient"})
    assert told(asked) == [("error", "Patient.identifier"), ("error", "Patient.name")]
    claimed = {**PATIENT, "meta": {"profile": [f"{US_CORE}patient|6.1.0"]}}
    assert told(await fhir.http.post("/fhir/Patient/$validate", json=claimed)) == told(asked)
    refused = await fhir.http.post("/fhir/Patient", json=claimed)
    assert refused.status_code == 422


async def test_a_profile_that_is_not_known_is_said(fhir):
    claimed = {**PATIENT, "meta": {"profile": ["urn:own"]}}
    found = told(await fhir.http.post("/fhir/Patient/$validate", json=claimed))
    assert found == [("information", "Patient.meta.profile[0]")]
    assert (await fhir.http.post("/fhir/Patient", json=claimed)).status_code == 201
    found = told(await fhir.http.post("/fhir/Patient/$validate", json=PATIENT, params={"profile": "urn:own"}))
    assert found == [("error", "Parameters.profile")]


async def test_an_instance_is_validated_as_held_or_as_it_would_become(fhir):
    held = await fhir.create(PATIENT)
    place = f"/fhir/Patient/{held['id']}/$validate"
    assert told(await fhir.http.get(place)) == [("information", None)]
    asked = await fhir.http.get(place, params={"profile": f"{US_CORE}patient"})
    assert ("error", "Patient.name") in told(asked)
    wrong = {**PATIENT, "id": held["id"], "gender": "nope"}
    answer = await fhir.http.post(place, json=parameters(resource=wrong, mode="update"))
    assert told(answer) == [("error", "Patient.gender")]
    assert (await fhir.http.post(place, json=PATIENT)).status_code == 400
    assert told(await fhir.http.post(place, json=parameters(mode="delete"))) == [("information", None)]
    assert (await fhir.http.get("/fhir/Patient/nobody/$validate")).status_code == 404
    assert (await fhir.http.get(f"/fhir/Patient/{held['id']}")).json() == held


@pytest.mark.parametrize("body", [{}, {"resourceType": "Parameters"}, parameters(mode="now", resource=PATIENT)])
async def test_a_call_that_cannot_be_understood_is_refused(fhir, issues, body):
    issues(await fhir.http.post("/fhir/Patient/$validate", json=body), 400)


async def test_a_resource_of_another_type_is_an_issue(fhir):
    other = {"resourceType": "Organization", "name": "X"}
    assert told(await fhir.http.post("/fhir/Patient/$validate", json=other)) == [("error", "Patient")]


async def test_a_value_set_is_expanded_by_its_id_as_well(fhir, issues):
    [entry] = (await fhir.http.get("/fhir/ValueSet", params={"url": GENDERS})).json()["entry"]
    by_id = f"/fhir/ValueSet/{entry['resource']['id']}"
    expanded = (await fhir.http.get(f"{by_id}/$expand", params={"filter": "MALE"})).json()
    assert {one["code"] for one in expanded["expansion"]["contains"]} == {"male", "female"}
    assert expanded["url"] == GENDERS
    told = (await fhir.http.get(f"{by_id}/$validate-code", params={"code": "female"})).json()
    assert told["parameter"][0] == {"name": "result", "valueBoolean": True}
    issues(await fhir.http.get(f"{by_id}/$expand", params={"url": GENDERS}), 400)
    issues(await fhir.http.get("/fhir/ValueSet/nobody/$expand"), 404)


async def test_a_value_set_is_expanded_filtered_and_paged(fhir):
    for way in ({"params": {"url": GENDERS}}, {"json": parameters(url=GENDERS)}):
        method = "GET" if "params" in way else "POST"
        answer = await fhir.http.request(method, "/fhir/ValueSet/$expand", **way)
        assert answer.status_code == 200, answer.text
        expansion = answer.json()["expansion"]
        assert expansion["total"] == 4
        assert {one["code"] for one in expansion["contains"]} == {"male", "female", "other", "unknown"}
    few = (await fhir.http.get("/fhir/ValueSet/$expand", params={"url": GENDERS, "filter": "MALE"})).json()
    assert {one["code"] for one in few["expansion"]["contains"]} == {"male", "female"}
    page = {"url": GENDERS, "offset": "1", "count": "2"}
    paged = (await fhir.http.get("/fhir/ValueSet/$expand", params=page)).json()["expansion"]
    assert (paged["total"], paged["offset"], [one["code"] for one in paged["contains"]]) == (4, 1, ["male", "other"])


async def test_a_value_set_of_licensed_codes_says_how_to_load_it(fhir, issues):
    conditions = "http://hl7.org/fhir/us/core/ValueSet/us-core-condition-code"
    [issue] = issues(await fhir.http.get("/fhir/ValueSet/$expand", params={"url": conditions}), 422)
    assert "kap terminology load" in issue["diagnostics"]
    issues(await fhir.http.get("/fhir/ValueSet/$expand", params={"url": "urn:none"}), 404)
    issues(await fhir.http.get("/fhir/ValueSet/$expand"), 400)


def verdict(answer):
    assert answer.status_code == 200, answer.text
    return {
        one["name"]: next(value for key, value in one.items() if key.startswith("value"))
        for one in answer.json()["parameter"]
    }


async def test_codes_are_validated_in_value_sets_and_systems(fhir):
    place = "/fhir/ValueSet/$validate-code"
    asked = {"url": GENDERS, "system": GENDER, "code": "female"}
    assert verdict(await fhir.http.get(place, params=asked)) == {"result": True, "display": "Female"}
    assert verdict(await fhir.http.get(place, params={**asked, "code": "x"}))["result"] is False
    wrong = verdict(await fhir.http.get(place, params={**asked, "display": "Male"}))
    assert (wrong["result"], wrong["display"]) == (False, "Female")
    coding = {"name": "coding", "valueCoding": {"system": GENDER, "code": "male"}}
    body = {"resourceType": "Parameters", "parameter": [{"name": "url", "valueUri": GENDERS}, coding]}
    assert verdict(await fhir.http.post(place, json=body))["result"] is True
    concept = {"coding": [{"system": "urn:x", "code": "male"}, {"system": GENDER, "code": "male"}]}
    body["parameter"][1] = {"name": "codeableConcept", "valueCodeableConcept": concept}
    assert verdict(await fhir.http.post(place, json=body))["result"] is True
    place = "/fhir/CodeSystem/$validate-code"
    assert verdict(await fhir.http.get(place, params={"url": GENDER, "code": "male"}))["result"] is True
    assert verdict(await fhir.http.get(place, params={"url": GENDER, "code": "x"}))["result"] is False


async def test_a_code_is_looked_up_with_what_is_above_and_below(fhir, issues):
    roles = "http://terminology.hl7.org/CodeSystem/v3-RoleCode"
    answer = await fhir.http.get("/fhir/CodeSystem/$lookup", params={"system": roles, "code": "PRN"})
    assert answer.status_code == 200
    said = answer.json()["parameter"]
    assert {"name": "display", "valueString": "parent"} in said
    linked = {(one["part"][0]["valueCode"], one["part"][1]["valueCode"]) for one in said if one["name"] == "property"}
    assert ("parent", "FAMMEMB") in linked
    assert {code for name, code in linked if name == "child"} >= {"NPRN"}
    own = {"system": "https://kap-exchange.org/fhir/CodeSystem/kap", "code": "kap-dosing"}
    said = (await fhir.http.get("/fhir/CodeSystem/$lookup", params=own)).json()["parameter"]
    assert {one["name"] for one in said} >= {"display", "definition"}
    issues(await fhir.http.get("/fhir/CodeSystem/$lookup", params={"system": roles, "code": "NOPE"}), 404)
    issues(await fhir.http.get("/fhir/CodeSystem/$lookup", params={"system": "urn:x", "code": "1"}), 404)


async def test_loaded_terminology_answers_and_judges_profiles(fhir, database):
    loading = await Loading.open(database)
    made_up = {"1": LoadedCode("One"), "2": LoadedCode("Two", active=False)}
    await loading.load_system(CodeSystemRelease(SNOMED, "2026", "SNOMED CT", "x", made_up, frozenset({("2", "1")})))
    conditions = "http://hl7.org/fhir/us/core/ValueSet/us-core-condition-code"
    await loading.load_value_set(ValueSetRelease(conditions, "7.0.0", "Conditions", "x"), [(SNOMED, "1", "One")])
    await loading.close()
    said = (await fhir.http.get("/fhir/CodeSystem/$lookup", params={"system": SNOMED, "code": "2"})).json()["parameter"]
    assert {"name": "display", "valueString": "Two"} in said
    assert [one["part"][0]["valueCode"] for one in said if one["name"] == "property"] == ["parent", "inactive"]
    expanded = (await fhir.http.get("/fhir/ValueSet/$expand", params={"url": conditions})).json()
    assert expanded["expansion"]["contains"] == [{"system": SNOMED, "code": "1", "display": "One"}]


async def test_a_search_finds_by_value_sets_and_from_above_what_was_loaded(fhir, database):
    loading = await Loading.open(database)
    made_up = {"1": LoadedCode("One"), "2": LoadedCode("Two")}
    await loading.load_system(CodeSystemRelease(SNOMED, "2026", "SNOMED CT", "x", made_up, frozenset({("2", "1")})))
    await loading.load_value_set(ValueSetRelease("urn:twos", "", "Twos", "x"), [(SNOMED, "2", "Two")])
    await loading.close()
    made = {"resourceType": "Observation", "status": "final", "code": {"coding": [{"system": SNOMED, "code": "2"}]}}
    held = await fhir.create(made)
    for name, value, found in (
        ("code:below", f"{SNOMED}|1", 1),
        ("code:above", f"{SNOMED}|1", 0),
        ("code:in", "urn:twos", 1),
        ("code:not-in", "urn:twos", 0),
    ):
        page = (await fhir.http.get("/fhir/Observation", params={name: value})).json()
        assert [entry["resource"]["id"] for entry in page.get("entry", ())] == [held["id"]] * found, name


async def test_what_the_clinic_loaded_is_listed_and_read_beside_what_is_shipped(fhir, database):
    conditions = "http://hl7.org/fhir/us/core/ValueSet/us-core-condition-code"
    before = {
        type_: (await fhir.http.get(f"/fhir/{type_}?_summary=count")).json()["total"]
        for type_ in ("CodeSystem", "ValueSet")
    }
    loading = await Loading.open(database)
    made_up = {"1": LoadedCode("One"), "2": LoadedCode("Two")}
    await loading.load_system(CodeSystemRelease(SNOMED, "2026", "SNOMED CT", "x", made_up, frozenset()))
    await loading.load_value_set(ValueSetRelease("urn:twos", "3", "Twos", "x"), [(SNOMED, "2", "Two")])
    await loading.load_value_set(ValueSetRelease(conditions, "9.9", "Conditions", "x"), [(SNOMED, "1", "One")])
    await loading.close()

    async def told(query):
        page = (await fhir.http.get(f"/fhir/{query}")).json()
        return [entry["resource"] for entry in page.get("entry", ())]

    [system] = await told(f"CodeSystem?url={SNOMED}")
    assert (system["version"], system["title"]) == ("2026", "SNOMED CT")
    assert (system["count"], system["content"]) == (2, "not-present")
    [twos] = await told("ValueSet?url=urn:twos")
    assert (twos["version"], twos["title"]) == ("3", "Twos")
    [replaced] = await told(f"ValueSet?url={conditions}")
    assert replaced["version"] == "9.9", "the loaded one has the place of the shipped one"
    for one in (system, twos, replaced):
        read = await fhir.http.get(f"/fhir/{one['resourceType']}/{one['id']}")
        assert read.json() == one
        assert validate(one) == []
    expanded = (await fhir.http.get(f"/fhir/ValueSet/{twos['id']}/$expand")).json()
    assert [each["code"] for each in expanded["expansion"]["contains"]] == ["2"]
    after = {type_: (await fhir.http.get(f"/fhir/{type_}?_count=0")).json()["total"] for type_ in before}
    assert after == {"CodeSystem": before["CodeSystem"] + 1, "ValueSet": before["ValueSet"] + 1}


async def test_definitions_are_sorted_as_asked_and_nothing_is_ignored(fhir, issues):
    def urls(answer):
        return [entry["resource"]["url"] for entry in answer.json()["entry"]]

    up = urls(await fhir.http.get("/fhir/CodeSystem?_sort=url&_count=1000"))
    down = urls(await fhir.http.get("/fhir/CodeSystem?_sort=-url&_count=1000"))
    assert up == sorted(up)
    assert down == up[::-1]
    issues(await fhir.http.get("/fhir/CodeSystem?_sort=colour"), 400)
    issues(await fhir.http.get("/fhir/CodeSystem?_sorted=url"), 400)
