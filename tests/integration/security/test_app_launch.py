"""SMART App Launch with the built-in issuer: apps that people log in to, what they get, and what they do not."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.integration.security.clinic import BASE, ISSUER, ROLES, key_of
from tests.integration.security.people import (
    PASSWORD,
    REDIRECT,
    App,
    Browser,
    app,
    fields,
    person,
    pkce,
    said_to_app,
)

OBSERVATION = {
    "resourceType": "Observation",
    "status": "final",
    "meta": {"source": "urn:example:elsewhere"},
    "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
    "valueQuantity": {"value": 61, "system": "http://unitsofmeasure.org", "code": "/min"},
}


async def two_patients(clinic):
    """Return the ids of two patients with an observation each."""
    admin, ids = await clinic.token("clinic-admin"), []
    for family in ("Own", "Other"):
        patient = await clinic.made({"resourceType": "Patient", "name": [{"family": family}]}, admin)
        await clinic.made({**OBSERVATION, "subject": {"reference": f"Patient/{patient['id']}"}}, admin)
        ids.append(patient["id"])
    return ids


async def pass_time(monkeypatch, seconds):
    """Let what is known of tokens that were taken back grow old."""
    passed = time.monotonic() + seconds
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: passed)


async def refused(clinic, token, monkeypatch):
    await pass_time(monkeypatch, 6)
    return (await clinic.send(token, "GET", "Observation?_count=1")).status_code == 401


@pytest.mark.parametrize("kind", ["public", "secret", "key"])
async def test_a_patients_app_reads_what_is_the_patients_own_and_nothing_else(clinic, kind):
    own, other = await two_patients(clinic)
    await person(clinic, "ada", f"Patient/{own}")
    ways = {
        "public": {},
        "secret": {"token_endpoint_auth_method": "client_secret_basic"},
        "key": {"key": key_of("ES384")},
    }
    heart = await app(clinic, **ways[kind])
    told = await heart.launched("ada", nonce="n-1")
    assert (told["token_type"], told["patient"], told["scope"]) == ("bearer", own, heart.scope)
    token = told["access_token"]
    found = (await clinic.send(token, "GET", f"Observation?patient={own}")).json()
    assert [entry["resource"]["subject"]["reference"] for entry in found["entry"]] == [f"Patient/{own}"]
    assert "entry" not in (await clinic.send(token, "GET", f"Observation?patient={other}")).json()
    assert (await clinic.send(token, "GET", f"Patient/{other}")).status_code == 404
    assert (await clinic.send(token, "POST", "Observation", OBSERVATION)).status_code == 403

    keys = KeySet.import_key_set((await clinic.http.get(f"{ISSUER}/auth/jwks")).json())
    said = jwt.decode(told["id_token"], keys, algorithms=["RS256"])
    assert said.claims["fhirUser"] == f"{BASE}/Patient/{own}"
    assert (said.claims["iss"], said.claims["aud"], said.claims["nonce"]) == (ISSUER, heart.id, "n-1")


async def test_an_id_token_opens_nothing(clinic):
    own, _ = await two_patients(clinic)
    await person(clinic, "ada", f"Patient/{own}")
    told = await (await app(clinic)).launched("ada")
    answer = await clinic.send(told["id_token"], "GET", "Observation")
    assert answer.status_code == 401
    assert "audience" in answer.text


async def test_a_code_counts_once_and_who_replays_it_ends_what_came_of_it(clinic, monkeypatch):
    own, _ = await two_patients(clinic)
    await person(clinic, "ada", f"Patient/{own}")
    heart, browser = await app(clinic), Browser(clinic.http)
    verifier, challenge = pkce()
    page = await browser.login(await browser.authorize(**heart.request(challenge)), "ada")
    code = said_to_app(await browser.consent(page))["code"]
    told = (await heart.redeem(code, verifier)).json()
    assert (await clinic.send(told["access_token"], "GET", "Observation")).status_code == 200
    again = await heart.redeem(code, verifier)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert await refused(clinic, told["access_token"], monkeypatch)
    assert (await heart.refresh(told["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_code_is_of_its_client_its_redirect_its_verifier_and_its_minute(clinic):
    await person(clinic, "ada", "Patient/1")
    heart, thief, browser = await app(clinic), await app(clinic), Browser(clinic.http)

    async def code():
        page = await browser.authorize(**heart.request(challenge))
        page = await browser.login(page, "ada") if 'action="login"' in page.text else page
        return said_to_app(await browser.consent(page))["code"]

    verifier, challenge = pkce()
    given = await code()
    for refused in (
        await thief.redeem(given, verifier),
        await heart.redeem(given, pkce()[0]),
        await heart.redeem(given, ""),
        await heart.redeem(given, challenge),
        await heart.redeem(given, verifier, redirect_uri=f"{REDIRECT}/"),
        await heart.redeem("x", verifier),
    ):
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert (await heart.redeem(given, verifier)).status_code == 200
    given = await code()
    clinic.late = timedelta(seconds=61)
    assert (await heart.redeem(given, verifier)).json()["error"] == "invalid_grant"


REFUSED = [
    ({"code_challenge_method": "plain"}, "invalid_request"),
    ({"code_challenge_method": None}, "invalid_request"),
    ({"code_challenge": None}, "invalid_request"),
    ({"code_challenge": "short"}, "invalid_request"),
    ({"state": None}, "invalid_request"),
    ({"aud": None}, "invalid_request"),
    ({"aud": "https://evil.example/fhir"}, "invalid_request"),
    ({"response_type": "token"}, "unsupported_response_type"),
    ({"response_mode": "fragment"}, "invalid_request"),
    ({"request": "ey.."}, "request_not_supported"),
    ({"scope": "patient/*.cruds"}, "invalid_scope"),
    ({"scope": "system/*.rs"}, "invalid_scope"),
    ({"scope": ""}, "invalid_scope"),
    ({"scope": "patient/Nothing.rs"}, "invalid_scope"),
    ({"scope": "launch patient/*.rs"}, "invalid_scope"),
    ({"launch": "made-up"}, "invalid_request"),
    ({"prompt": "none"}, "login_required"),
    ({"max_age": "soon"}, "invalid_request"),
]


async def test_an_app_is_told_what_is_wrong_with_its_request(clinic):
    heart = await app(clinic)
    for said, error in REFUSED:
        answer = await Browser(clinic.http).authorize(**heart.request(pkce()[1], **said))
        told = said_to_app(answer)
        assert answer.headers["location"].startswith(f"{REDIRECT}?")
        assert (told["error"], told["iss"], told.get("state")) == (error, ISSUER, said.get("state", "s" * 22)), said
        assert told["error_description"]


async def test_nobody_is_sent_to_a_redirect_uri_that_is_not_registered_letter_for_letter(clinic):
    heart = await app(clinic)
    for redirect in (
        f"{REDIRECT}/",
        f"{REDIRECT}?a=1",
        REDIRECT.upper(),
        "https://app.example.evil.example/back",
        "https://app.example/",
        "//evil.example",
        "",
    ):
        answer = await Browser(clinic.http).authorize(**heart.request(pkce()[1], redirect_uri=redirect))
        assert (answer.status_code, "location" in answer.headers) == (400, False), redirect
        assert "default-src 'none'" in answer.headers["content-security-policy"]


ASTRAY = (
    "http://app.example/back",
    "https://app.example/back#there",
    "https://*.example/back",
    "https://user:word@app.example/",
    "javascript:alert(1)",
    "data:text/html,x",
    "app.example/back",
    "/back",
    "https://app.example\\@evil.example/",
    "https://[/",
)
NO_APPS = (
    {"grant_types": ["client_credentials", "authorization_code"]},
    {"grant_types": ["implicit"]},
    {"grant_types": ["refresh_token"]},
    {"response_types": ["token"]},
    {"kap_role": "clinic-admin"},
    {"kap_user": "Practitioner/1"},
    {"jwks": {"keys": []}},
    {"token_endpoint_auth_method": "client_secret_post"},
    {"scope": "launch/everything"},
)


async def test_an_app_is_not_registered_with_what_could_lead_astray_or_no_app_may_have(clinic):
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/clients')}"}
    usual = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none", "scope": "patient/*.rs"}
    wrong = [(said, "invalid_client_metadata") for said in NO_APPS]
    wrong += [({"redirect_uris": [one]}, "invalid_redirect_uri") for one in ASTRAY]
    for said, error in wrong:
        answer = await clinic.http.post(f"{ISSUER}/auth/register", json={**usual, **said}, headers=manager)
        assert (answer.status_code, answer.json()["error"]) == (400, error), said


async def test_the_answer_names_the_issuer_so_that_no_app_takes_it_for_anothers(clinic):
    await person(clinic, "ada", "Patient/1")
    heart, browser = await app(clinic), Browser(clinic.http)
    page = await browser.login(await browser.authorize(**heart.request(pkce()[1])), "ada")
    assert said_to_app(await browser.consent(page))["iss"] == ISSUER
    metadata = (await clinic.http.get(f"{ISSUER}/.well-known/openid-configuration")).json()
    assert metadata["authorization_response_iss_parameter_supported"] is True
    assert metadata["code_challenge_methods_supported"] == ["S256"]


async def test_a_refresh_token_turns_and_one_that_was_used_before_ends_all(clinic, monkeypatch):
    own, _ = await two_patients(clinic)
    await person(clinic, "ada", f"Patient/{own}")
    heart, thief = await app(clinic), await app(clinic)
    first = await heart.launched("ada")
    assert (await thief.refresh(first["refresh_token"])).json()["error"] == "invalid_grant"
    second = (await heart.refresh(first["refresh_token"])).json()
    assert (second["patient"], second["scope"]) == (own, heart.scope)
    assert second["refresh_token"] != first["refresh_token"]
    assert (await clinic.send(second["access_token"], "GET", "Observation")).status_code == 200
    narrow = (await heart.refresh(second["refresh_token"], scope="patient/Observation.rs")).json()
    assert narrow["scope"] == "patient/Observation.rs"
    wide = await heart.refresh(narrow["refresh_token"], scope="patient/*.cruds")
    assert wide.json()["error"] == "invalid_scope"
    third = (await heart.refresh(narrow["refresh_token"])).json()
    assert third["scope"] == heart.scope
    stolen = await heart.refresh(first["refresh_token"])
    assert (stolen.status_code, stolen.json()["error"]) == (400, "invalid_grant")
    assert (await heart.refresh(third["refresh_token"])).json()["error"] == "invalid_grant"
    assert await refused(clinic, third["access_token"], monkeypatch)


async def test_offline_access_outlives_the_login_and_online_access_does_not(clinic, monkeypatch):
    own, _ = await two_patients(clinic)
    await person(clinic, "ada", f"Patient/{own}")
    scope = "offline_access online_access patient/*.rs"
    heart, browser = await app(clinic, scope=scope), Browser(clinic.http)
    offline = await heart.launched("ada", browser=browser, scope="offline_access patient/*.rs")
    online = await heart.launched("ada", browser=browser, scope="online_access patient/*.rs")
    neither = await heart.launched("ada", browser=browser, scope="patient/*.rs")
    assert "refresh_token" not in neither
    online = (await heart.refresh(online["refresh_token"])).json()
    signed_out = await browser.send("POST", f"{ISSUER}/auth/logout", {"flow": ""})
    assert "Nobody is signed in" in signed_out.text
    assert (await heart.refresh(online["refresh_token"])).json()["error"] == "invalid_grant"
    offline = (await heart.refresh(offline["refresh_token"])).json()
    assert await refused(clinic, online["access_token"], monkeypatch)
    clinic.late = timedelta(days=91)
    assert (await heart.refresh(offline["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_person_takes_away_what_an_app_is_not_to_have(clinic):
    own, _ = await two_patients(clinic)
    await person(clinic, "ada", f"Patient/{own}")
    scope = "launch/patient offline_access patient/Patient.rs patient/Observation.rs"
    heart = await app(clinic, scope=scope)
    told = await heart.launched("ada", without=("offline_access", "patient/Observation.rs"))
    assert told["scope"] == "launch/patient patient/Patient.rs"
    assert "refresh_token" not in told
    assert (await clinic.send(told["access_token"], "GET", f"Patient/{own}")).status_code == 200
    assert (await clinic.send(told["access_token"], "GET", "Observation")).status_code == 403


async def test_more_than_was_offered_is_not_given_by_a_form_that_was_changed(clinic):
    await person(clinic, "ada", "Patient/1")
    heart, browser = await app(clinic, scope="patient/Patient.rs"), Browser(clinic.http)
    verifier, challenge = pkce()
    page = await browser.login(await browser.authorize(**heart.request(challenge)), "ada")
    said = {**fields(page.text)["consent"], "decision": "allow", "patient": "other"}
    said["scope"] = ["patient/Patient.rs", "patient/*.cruds", "user/*.cruds"]
    told = said_to_app(await browser.send("POST", f"{ISSUER}/auth/consent", said))
    given = (await heart.redeem(told["code"], verifier)).json()
    assert (given["scope"], given["patient"]) == ("patient/Patient.rs", "1")


async def test_who_does_not_let_an_app_in_is_sent_back_with_that_and_a_page_counts_once(clinic):
    await person(clinic, "ada", "Patient/1")
    heart, browser = await app(clinic), Browser(clinic.http)
    page = await browser.login(await browser.authorize(**heart.request(pkce()[1])), "ada")
    assert said_to_app(await browser.consent(page, "deny"))["error"] == "access_denied"
    assert (await browser.consent(page)).status_code == 403


async def test_a_practitioner_says_which_patient_and_gives_no_more_than_his_role_has(clinic):
    own, other = await two_patients(clinic)
    await person(clinic, "pat", "Practitioner/p1", "front-desk")
    scope = "launch/patient openid fhirUser patient/*.rs user/Patient.rs"
    heart, browser = await app(clinic, scope=scope), Browser(clinic.http)
    page = await browser.login(await browser.authorize(**heart.request(pkce()[1])), "pat")
    assert "patient/Observation.rs" not in page.text
    assert (await browser.consent(page, patient="not an id!")).status_code == 400
    told = await heart.launched("pat", browser=browser, patient=f"Patient/{own}")
    assert told["patient"] == own
    assert "user/Patient.rs" in told["scope"].split()
    assert not {"patient/*.rs", "patient/Observation.rs"} & set(told["scope"].split())
    assert (await clinic.send(told["access_token"], "GET", f"Patient/{other}")).status_code == 200
    assert (await clinic.send(told["access_token"], "GET", "Observation")).status_code == 403


async def launch(clinic, **context):
    """Register a launch as an EHR does."""
    key = key_of("ES384")
    ehr = (await clinic.register(key=key, scope="kap/launch", client_name="EHR")).json()["client_id"]
    token = (await clinic.asked("token", ehr, key)).json()["access_token"]
    return await clinic.http.post(f"{ISSUER}/auth/launch", json=context, headers={"Authorization": f"Bearer {token}"})


async def test_an_ehr_launches_an_app_with_its_patient_and_encounter(clinic):
    own, _ = await two_patients(clinic)
    await person(clinic, "pat", "Practitioner/p1", "prescriber")
    scope = "launch openid fhirUser patient/Observation.rs"
    heart = await app(clinic, scope=scope)
    answer = await launch(
        clinic, patient=own, encounter="e1", intent="dosing", need_patient_banner=False, fhir_user="Practitioner/p1"
    )
    opened = answer.json()
    assert opened["iss"] == BASE
    told = await heart.launched("pat", launch=opened["launch"])
    said = {name: told[name] for name in ("patient", "encounter", "intent", "need_patient_banner")}
    assert said == {"patient": own, "encounter": "e1", "intent": "dosing", "need_patient_banner": False}
    found = (await clinic.send(told["access_token"], "GET", "Observation")).json()
    assert {entry["resource"]["subject"]["reference"] for entry in found["entry"]} == {f"Patient/{own}"}
    again = await Browser(clinic.http).authorize(**heart.request(pkce()[1], launch=opened["launch"]))
    assert said_to_app(again)["error"] == "invalid_request"


async def test_a_launch_is_of_its_app_its_user_and_who_may_launch(clinic):
    await person(clinic, "pat", "Practitioner/p1", "prescriber")
    heart = await app(clinic, scope="launch patient/Observation.rs")
    for_other = (await launch(clinic, patient="1", client_id="another")).json()["launch"]
    answer = await Browser(clinic.http).authorize(**heart.request(pkce()[1], launch=for_other))
    assert said_to_app(answer)["error"] == "invalid_request"
    of_other = (await launch(clinic, patient="1", fhir_user="Practitioner/p2")).json()["launch"]
    browser = Browser(clinic.http)
    page = await browser.authorize(**heart.request(pkce()[1], launch=of_other))
    assert (await browser.login(page, "pat")).status_code == 403
    token = await clinic.token("prescriber")
    refused = await clinic.http.post(
        f"{ISSUER}/auth/launch", json={"patient": "1"}, headers={"Authorization": f"Bearer {token}"}
    )
    assert refused.status_code == 403
    assert (await launch(clinic, patient="../1")).status_code == 400


async def test_a_login_in_another_browser_or_from_another_site_goes_nowhere(clinic):
    await person(clinic, "ada", "Patient/1")
    heart, browser = await app(clinic), Browser(clinic.http)
    page = await browser.authorize(**heart.request(pkce()[1]))
    other = Browser(clinic.http)
    assert (await other.login(page, "ada")).status_code == 403
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert (await browser.login(page, "ada", **headers)).status_code == 403
    page = await browser.login(page, "ada", Origin=ISSUER, **{"Sec-Fetch-Site": "same-origin"})
    victim = Browser(clinic.http)
    assert (await victim.consent(page)).status_code == 403
    stolen = Browser(clinic.http, {"kap-browser": browser.cookies["kap-browser"]})
    assert (await stolen.consent(page)).status_code == 403
    evil = await browser.send(
        "POST",
        f"{ISSUER}/auth/consent",
        {**fields(page.text)["consent"], "decision": "allow"},
        Origin="https://evil.example",
    )
    assert evil.status_code == 403
    assert "code" in said_to_app(await browser.consent(page))


async def test_pages_run_nothing_frame_nowhere_and_keep_their_cookies_to_themselves(clinic):
    heart = await app(clinic, client_name="<script>alert(1)</script>")
    first = await clinic.http.get(f"{ISSUER}/auth/authorize", params=heart.request(pkce()[1]))
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    page = await Browser(clinic.http).authorize(**heart.request(pkce()[1]))
    assert "<script" not in page.text
    policy = page.headers["content-security-policy"]
    for part in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"):
        assert part in policy
    assert "script-src" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert '<html lang="en">' in page.text
    for name in ("name", "password", "code"):
        assert f'<label for="{name}">' in page.text


async def test_a_one_time_code_is_asked_for_and_counts_once(clinic):
    codes = await person(clinic, "ada", "Patient/1", totp=True)
    heart = await app(clinic)
    code = codes.now()

    async def tried(code):
        browser = Browser(clinic.http)
        page = await browser.authorize(**heart.request(pkce()[1]))
        return (await browser.login(page, "ada", code=code)).status_code

    assert [await tried(""), await tried("000000"), await tried(code), await tried(code)] == [401, 401, 200, 401]


async def test_an_account_that_is_guessed_at_is_closed_for_a_while_whether_there_is_one_or_not(clinic):
    await person(clinic, "ada", "Patient/1")
    heart, browser = await app(clinic), Browser(clinic.http)
    page = await browser.authorize(**heart.request(pkce()[1]))

    async def tried(name, password="wrong"):
        return await browser.login(page, name, password)

    told = {}
    for name in ("ada", "nobody"):
        said = [(await tried(name)) for _ in range(6)]
        assert [one.status_code for one in said] == [401] * 5 + [429]
        assert int(said[-1].headers["retry-after"]) > 800
        told[name] = [re.sub(r'value="[^"]*"', "", one.text) for one in said]
    assert told["ada"] == told["nobody"]
    assert (await tried("ada", PASSWORD)).status_code == 429
    clinic.late = timedelta(minutes=14)
    page = await browser.authorize(**heart.request(pkce()[1]))
    assert (await tried("ada", PASSWORD)).status_code == 429
    clinic.late = timedelta(minutes=15, seconds=30)
    assert (await tried("ada", PASSWORD)).status_code == 200


async def test_an_address_that_guesses_at_many_accounts_is_shut_out_for_a_while(clinic, monkeypatch):
    monkeypatch.setattr("services.identity.passwords.TRIES_OF_ADDRESS", 6)
    await person(clinic, "ada", "Patient/1")
    heart, browser = await app(clinic), Browser(clinic.http)
    page = await browser.authorize(**heart.request(pkce()[1]))
    answers = [(await browser.login(page, f"guess{number}", "wrong")).status_code for number in range(7)]
    assert answers == [401] * 6 + [429]
    assert (await browser.login(page, "ada")).status_code == 429


async def test_who_is_let_in_no_more_loses_what_he_let_apps_do(clinic, monkeypatch):
    own, _ = await two_patients(clinic)
    await person(clinic, "ada", f"Patient/{own}")
    heart, browser = await app(clinic), Browser(clinic.http)
    told = await heart.launched("ada", browser=browser)
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/users')}"}
    assert (await clinic.http.delete(f"{ISSUER}/auth/users/ada", headers=manager)).status_code == 204
    assert (await heart.refresh(told["refresh_token"])).json()["error"] == "invalid_grant"
    assert await refused(clinic, told["access_token"], monkeypatch)
    page = await browser.authorize(**heart.request(pkce()[1]))
    assert 'action="login"' in page.text
    assert (await browser.login(page, "ada")).status_code == 401
    again = await clinic.http.post(
        f"{ISSUER}/auth/users/ada", json={"password": "another one of tulips"}, headers=manager
    )
    assert again.status_code == 200
    assert 'action="consent"' in (await browser.login(page, "ada", "another one of tulips")).text


async def test_people_are_added_by_who_may_with_a_password_that_is_hard_to_guess(clinic):
    token = await clinic.token("prescriber")
    assert (
        await clinic.http.get(f"{ISSUER}/auth/users", headers={"Authorization": f"Bearer {token}"})
    ).status_code == 403
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/users')}"}
    good = {"name": "ada", "password": PASSWORD, "fhir_user": "Patient/1", "role": "patient", "totp": False}
    bad = (
        {"password": "short"}, {"password": "ada" * 6}, {"password": "a" * 20}, {"password": "x" * 300},
        {"role": "king"}, {"fhir_user": "Practitioner/1"}, {"fhir_user": "Patient/../1"},
        {"role": "prescriber"}, {"name": "a b"},
    )  # fmt: skip
    for said in bad:
        assert (await clinic.http.post(f"{ISSUER}/auth/users", json=good | said, headers=manager)).status_code == 400, (
            said
        )
    assert (await clinic.http.post(f"{ISSUER}/auth/users", json=good, headers=manager)).status_code == 201
    assert (await clinic.http.post(f"{ISSUER}/auth/users", json=good, headers=manager)).status_code == 409
    [told] = (await clinic.http.get(f"{ISSUER}/auth/users", headers=manager)).json()["users"]
    assert (told["name"], told["fhir_user"], "password" in told) == ("ada", "Patient/1", False)
    kept = await clinic.stores["identity"].logins.named("ada")
    assert kept.password.startswith("$argon2id$")


async def test_a_client_shows_who_it_is_in_the_way_it_is_registered_for(clinic):
    await person(clinic, "ada", "Patient/1")
    hidden = await app(clinic, token_endpoint_auth_method="client_secret_basic")
    told = await hidden.launched("ada")
    for impostor in (
        App(clinic, hidden.id),
        App(clinic, hidden.id, secret="guess"),
        App(clinic, hidden.id, key=key_of("ES384")),
    ):
        answer = await impostor.refresh(told["refresh_token"])
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert (await App(clinic, hidden.id, secret="guess").refresh("x")).headers["www-authenticate"].startswith("Basic")
    both = await clinic.http.post(
        f"{ISSUER}/auth/token",
        data={"grant_type": "refresh_token", "refresh_token": told["refresh_token"], "client_secret": hidden.secret},
        auth=(hidden.id, hidden.secret),
    )
    assert both.status_code == 401
    manager = {"Authorization": f"Bearer {await clinic.token(scope='kap/clients')}"}
    rotated = await clinic.http.post(f"{ISSUER}/auth/clients/{hidden.id}/rotate", json={}, headers=manager)
    assert (await hidden.refresh(told["refresh_token"])).status_code == 401
    hidden.secret = rotated.json()["client_secret"]
    assert (await hidden.refresh(told["refresh_token"])).status_code == 200


async def test_a_public_app_takes_its_tokens_back_and_a_confidential_one_asks_about_them(clinic, monkeypatch):
    own, _ = await two_patients(clinic)
    await person(clinic, "ada", f"Patient/{own}")
    heart = await app(clinic)
    told = await heart.launched("ada")
    answer = await clinic.http.post(
        f"{ISSUER}/auth/revoke", data={"client_id": heart.id, "token": told["refresh_token"]}
    )
    assert answer.status_code == 200
    assert (await heart.refresh(told["refresh_token"])).json()["error"] == "invalid_grant"
    assert await refused(clinic, told["access_token"], monkeypatch)

    key = key_of("ES384")
    office = await app(clinic, key=key)
    told = await office.launched("ada")
    said = (await clinic.asked("introspect", office.id, key, token=told["access_token"])).json()
    assert (said["active"], said["patient"], said["fhirUser"]) == (True, own, f"{BASE}/Patient/{own}")
    said = (await clinic.asked("introspect", office.id, key, token=told["refresh_token"])).json()
    assert (said["active"], said["client_id"]) == (True, office.id)
    public = await clinic.http.post(
        f"{ISSUER}/auth/introspect", data={"client_id": heart.id, "token": told["access_token"]}
    )
    assert public.status_code == 401


async def test_a_request_may_come_as_a_form_and_who_is_logged_in_is_asked_for_his_consent_only(clinic):
    await person(clinic, "ada", "Patient/1")
    heart, browser = await app(clinic), Browser(clinic.http)
    page = await browser.send("POST", f"{ISSUER}/auth/authorize", heart.request(pkce()[1]))
    await browser.login(page, "ada")
    page = await browser.authorize(**heart.request(pkce()[1]))
    assert 'action="consent"' in page.text
    for again in ({"prompt": "login"}, {"max_age": "0"}):
        clinic.late = timedelta(seconds=2)
        assert 'action="login"' in (await browser.authorize(**heart.request(pkce()[1], **again))).text
    answer = await browser.authorize(**heart.request(pkce()[1], prompt="none"))
    assert said_to_app(answer)["error"] == "consent_required"
    where = urlsplit(answer.headers["location"])
    assert parse_qs(where.query)["iss"] == [ISSUER]


async def test_nothing_of_a_code_a_token_a_cookie_or_a_password_is_in_the_database(clinic):
    await person(clinic, "ada", "Patient/1")
    heart, browser = await app(clinic, token_endpoint_auth_method="client_secret_basic"), Browser(clinic.http)
    verifier, challenge = pkce()
    page = await browser.login(await browser.authorize(**heart.request(challenge)), "ada")
    flow = fields(page.text)["consent"]["flow"]
    code = said_to_app(await browser.consent(page))["code"]
    told = (await heart.redeem(code, verifier)).json()
    pool = clinic.stores["identity"]._clinics
    tables = [row[0] for row in await pool.fetch("SELECT tablename FROM pg_tables WHERE tablename LIKE 'oauth%'")]
    kept = "\n".join([str(await pool.fetchval(f"SELECT array_agg(t::text) FROM {table} t")) for table in tables])
    assert "ada" in kept
    for secret in (
        code,
        flow,
        told["refresh_token"],
        told["access_token"],
        heart.secret,
        PASSWORD,
        *browser.cookies.values(),
    ):
        assert secret not in kept
        assert secret.encode().hex() not in kept


async def test_nobody_else_is_made_the_user_of_an_account_not_when_it_was_disabled_either(clinic):
    await person(clinic, "grace", "Practitioner/author", "therapist")
    admin = {"Authorization": f"Bearer {await clinic.token('clinic-admin')}"}
    mallory = {"name": "mallory", "password": PASSWORD, "fhir_user": "Practitioner/author", "role": "therapist"}

    async def refused():
        answer = await clinic.http.post(f"{ISSUER}/auth/users", json=mallory, headers=admin)
        assert (answer.status_code, "POST /auth/users/" in answer.text) == (409, True), answer.text
        answer = await clinic.register(key=key_of("ES384"), kap_role="therapist", kap_user="Practitioner/author")
        assert answer.status_code == 409, answer.text

    await refused()
    for user in ("Practitioner/author/", f"{BASE}/Practitioner/author", "Practitioner/author/_history/1"):
        answer = await clinic.register(key=key_of("ES384"), kap_role="therapist", kap_user=user)
        assert answer.status_code == 400, "no other way of writing him"
    await clinic.http.delete(f"{ISSUER}/auth/users/grace", headers=admin)
    await refused()
    elsewhere = {"Authorization": f"Bearer {await clinic.token('clinic-admin', kap_tenant='north')}"}
    answer = await clinic.http.post(f"{ISSUER}/auth/users", json=mallory, headers=elsewhere)
    assert answer.status_code == 201, "in another clinic the id is another's"


async def test_a_programs_user_is_nobody_who_logs_in_until_it_is_disabled(clinic):
    made = await clinic.register(key=key_of("ES384"), kap_role="prescriber", kap_user="Practitioner/robot")
    admin = {"Authorization": f"Bearer {await clinic.token('clinic-admin')}"}
    said = {"name": "ada", "password": PASSWORD, "fhir_user": "Practitioner/robot", "role": "prescriber"}
    assert (await clinic.http.post(f"{ISSUER}/auth/users", json=said, headers=admin)).status_code == 409
    await clinic.http.delete(f"{ISSUER}/auth/clients/{made.json()['client_id']}", headers=admin)
    assert (await clinic.http.post(f"{ISSUER}/auth/users", json=said, headers=admin)).status_code == 201


async def test_no_program_is_given_process_notes(clinic):
    key = key_of("ES384")
    said = await clinic.register(key=key, scope="user/Patient.r kap/process-notes", kap_user="Practitioner/author")
    assert (said.status_code, "log in" in said.text) == (400, True)
    made = await clinic.register(key=key, kap_role="therapist", kap_user="Practitioner/author")
    told = (await clinic.asked("token", made.json()["client_id"], key)).json()
    assert "user/*.rs" in told["scope"].split()
    assert "kap/process-notes" not in told["scope"].split()
    asked = await clinic.asked("token", made.json()["client_id"], key, scope="kap/process-notes")
    assert (asked.status_code, asked.json()["error"]) == (400, "invalid_scope")


async def test_a_password_that_an_administrator_gives_is_in_the_audit_and_ends_what_there_was(clinic, monkeypatch):
    await person(clinic, "grace", "Practitioner/author", "therapist")
    diary = await app(clinic, scope="launch/patient openid fhirUser offline_access user/*.rs kap/process-notes")
    told = await diary.launched("grace", patient="ann")
    assert "kap/process-notes" in told["scope"].split(), "who logs in is given it"
    admin = await clinic.token("clinic-admin", kap_user="Practitioner/admin")
    url, headers = f"{ISSUER}/auth/users/grace", {"Authorization": f"Bearer {admin}"}
    answer = await clinic.http.post(url, json={"password": "another one of tulips", "totp": True}, headers=headers)
    assert answer.status_code == 200
    assert (await diary.refresh(told["refresh_token"])).json()["error"] == "invalid_grant"
    assert await refused(clinic, told["access_token"], monkeypatch)
    kept = clinic.stores["identity"].audit
    await kept.seal()
    rows = [json.loads(one.body) for one in await kept.rows(0)]
    [row] = [one for one in rows if one["does"] == "/auth/users/{name}"]
    assert (row["user"], row["role"]) == ("Practitioner/admin", "clinic-admin")
    assert "Practitioner/author" in row["what"]
    assert "tulips" not in str(rows)


async def test_what_a_role_no_longer_has_is_not_in_a_refreshed_token(clinic, monkeypatch):
    own, _ = await two_patients(clinic)
    await person(clinic, "ada", f"Patient/{own}")
    heart = await app(clinic)
    told = await heart.launched("ada")
    fewer = msgspec.structs.replace(ROLES["patient"], scopes=("patient/Patient.rs",))
    monkeypatch.setitem(ROLES, "patient", fewer)
    again = (await heart.refresh(told["refresh_token"])).json()
    resources = [one for one in again["scope"].split() if one.startswith("patient/")]
    assert resources == ["patient/Patient.rs"]
    monkeypatch.delitem(ROLES, "patient")
    assert (await heart.refresh(again["refresh_token"])).json()["error"] == "invalid_grant"
