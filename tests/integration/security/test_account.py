"""A person's own account at the issuer: another password, the apps he let in, and what the audit says of it."""

from __future__ import annotations

import re
import time

import pyotp

from shared.fhir.json import parse
from tests.integration.security.clinic import ISSUER
from tests.integration.security.people import PASSWORD, Browser, app, fields, person

NEW = "a heron at the lock gate"


async def refused(clinic, token, monkeypatch):
    """Tell whether services refuse a token, once what they know of those that were taken back has grown old."""
    passed = time.monotonic() + 6
    monkeypatch.setattr("shared.security.keys.monotonic", lambda: passed)
    return (await clinic.send(token, "GET", "Observation?_count=1")).status_code == 401


async def change(browser, page, **said):
    given = {**fields(page.text)["password"], "password": PASSWORD, "new": NEW, "again": NEW, **said}
    return await browser.send("POST", f"{ISSUER}/auth/password", given)


async def audited(clinic, **wanted):
    """Return the issuer's rows of the audit, of a path where one is named."""
    rows = [one.row for one in await clinic.stores["identity"].audit.rows()]
    return [one for one in rows if all(getattr(one, name) == value for name, value in wanted.items())]


async def test_a_person_changes_his_password_and_is_signed_out_everywhere_else(clinic, monkeypatch):
    await person(clinic, "ada", "Patient/1")
    heart, elsewhere, browser = await app(clinic), Browser(clinic.http), Browser(clinic.http)
    told = await heart.launched("ada", browser=elsewhere)
    page = await browser.account("ada")
    assert "You are signed in as <strong>ada</strong>" in page.text
    page = await change(browser, page)
    assert "You are signed in as <strong>ada</strong>" in page.text, "he stays signed in where he changed it"
    assert 'action="account"' in (await elsewhere.send("GET", f"{ISSUER}/auth/account")).text
    assert await refused(clinic, told["access_token"], monkeypatch)
    assert (await heart.refresh(told["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await Browser(clinic.http).account("ada")).status_code == 401
    assert (await Browser(clinic.http).account("ada", NEW)).status_code == 200
    [row] = await audited(clinic, does="/auth/password")
    assert (row.user, row.outcome, row.patients) == ("Patient/1", 0, ("1",))
    bodies = b"".join(held.body for held in await clinic.stores["identity"].audit.rows())
    assert NEW.encode() not in bodies
    assert PASSWORD.encode() not in bodies


async def test_nobody_gets_another_password_without_the_one_he_has_and_his_code(clinic):
    codes = await person(clinic, "pat", "Practitioner/1", "prescriber", totp=True)
    now = time.time()
    browser = Browser(clinic.http)
    page = await browser.account("pat", code=codes.at(int(now)))
    for said, status in (
        ({"password": "not the one", "code": codes.at(int(now) + 30)}, 401),
        ({"code": ""}, 401),
        ({"code": codes.at(int(now))}, 401),  # it was used to sign in
        ({"code": codes.at(int(now) + 30), "new": "short", "again": "short"}, 400),
        ({"code": codes.at(int(now) + 30), "password": "not the one"}, 401),  # a slip did not use it up
    ):
        page = await change(browser, page, **said)
        assert page.status_code == status, said
        assert 'role="alert"' in page.text
    assert isinstance(codes, pyotp.TOTP)
    assert (await audited(clinic, does="/auth/password"))[-1].outcome == 4
    assert {one.user for one in await audited(clinic, does="/auth/password")} == {"Practitioner/1"}


async def test_the_new_password_is_another_one_and_is_given_twice(clinic):
    await person(clinic, "ada", "Patient/1")
    browser = Browser(clinic.http)
    page = await browser.account("ada")
    for said in (
        {"again": f"{NEW}!"},
        {"new": PASSWORD, "again": PASSWORD},
        {"new": "ada ada ada ada", "again": "ada ada ada ada"},
    ):
        page = await change(browser, page, **said)
        assert page.status_code == 400, said
    assert (await Browser(clinic.http).account("ada")).status_code == 200


async def test_guesses_at_the_password_close_the_account_as_those_at_the_login_do(clinic):
    await person(clinic, "ada", "Patient/1")
    browser = Browser(clinic.http)
    page = await browser.account("ada")
    for _ in range(5):
        page = await change(browser, page, password="a guess at it")
    assert page.status_code == 401
    page = await change(browser, page)
    assert (page.status_code, "Retry-After" in page.headers) == (429, True)
    assert (await Browser(clinic.http).account("ada")).status_code == 429
    assert (await audited(clinic, does="/auth/account"))[-1].reason == "closed after too many tries"


async def test_a_person_sees_the_apps_he_let_in_and_ends_one(clinic, monkeypatch):
    await person(clinic, "ada", "Patient/1")
    await person(clinic, "bob", "Patient/2")
    heart, diary, browser = await app(clinic), await app(clinic, client_name="Diary"), Browser(clinic.http)
    kept = await diary.launched("ada", browser=browser)
    told = await heart.launched("ada", browser=browser)
    page = await browser.send("GET", f"{ISSUER}/auth/account")
    assert re.findall(r"<legend>(.*?)</legend>", page.text) == ["Heart &amp; Mind", "Diary"]
    assert "Read and search everything in your record" in page.text
    first = fields(page.text.partition("</fieldset>")[0] + "</form>")["apps"]

    other = Browser(clinic.http)
    his = await other.account("bob")
    assert "You let no app in." in his.text
    mark = fields(his.text)["password"]["form"]
    await other.send("POST", f"{ISSUER}/auth/apps", {"form": mark, "app": first["app"]})
    assert (await heart.refresh(told["refresh_token"])).status_code == 200, "another person's grant is not his to end"

    page = await browser.send("POST", f"{ISSUER}/auth/apps", first)
    assert re.findall(r"<legend>(.*?)</legend>", page.text) == ["Diary"]
    assert await refused(clinic, told["access_token"], monkeypatch)
    assert not await refused(clinic, kept["access_token"], monkeypatch)
    row = (await audited(clinic, does="/auth/apps"))[-1]
    assert (row.user, row.what[1]) == ("Patient/1", f"client {heart.id}")


async def test_a_form_of_the_account_goes_on_only_in_its_browser_and_from_its_page(clinic):
    await person(clinic, "ada", "Patient/1")
    await person(clinic, "eve", "Patient/2")
    hers, eves = Browser(clinic.http), Browser(clinic.http)
    page, evil = await hers.account("ada"), await eves.account("eve")
    given = {**fields(page.text)["password"], "password": PASSWORD, "new": NEW, "again": NEW}
    url = f"{ISSUER}/auth/password"
    for said, headers in (
        ({**given, "form": fields(evil.text)["password"]["form"]}, {}),  # made for another's login
        ({**given, "form": ""}, {}),
        ({name: value for name, value in given.items() if name != "form"}, {}),
        (given, {"Sec-Fetch-Site": "cross-site"}),
        (given, {"Origin": "https://evil.example"}),
    ):
        assert (await hers.send("POST", url, said, **headers)).status_code == 403, (said, headers)
    assert (await Browser(clinic.http).send("POST", url, given)).status_code == 403, "nobody is signed in there"
    login = fields((await eves.send("GET", f"{ISSUER}/auth/logout")).text)
    assert login is not None
    victim = Browser(clinic.http)
    await victim.send("GET", f"{ISSUER}/auth/account")
    forged = {
        "form": fields((await Browser(clinic.http).send("GET", f"{ISSUER}/auth/account")).text)["account"]["form"]
    }
    answer = await victim.send("POST", f"{ISSUER}/auth/account", {**forged, "name": "eve", "password": PASSWORD})
    assert answer.status_code == 403, "nobody is signed in as somebody else by a page that was made elsewhere"
    assert (await Browser(clinic.http).account("ada")).status_code == 200, "nothing was changed"


# What the audit says


async def told(clinic, token, query=""):
    answer = await clinic.send(token, "GET", f"AuditEvent?_count=1000{query}")
    assert answer.status_code == 200, answer.text
    return [one["resource"] for one in parse(answer.content).get("entry", ())]


def issuers(events):
    return [one for one in events if one["id"].startswith("identity-")]


def does(event):
    return event["subtype"][0]["code"]


async def test_logins_lockouts_and_tokens_are_auditevents_at_the_gateway(clinic):
    await person(clinic, "ada", "Patient/1")
    heart, browser = await app(clinic), Browser(clinic.http)
    granted = await heart.launched("ada", browser=browser)
    for _ in range(6):
        await Browser(clinic.http).account("ada", "a guess at it")
    await heart.token(grant_type="refresh_token", refresh_token="stolen")
    await clinic.http.post(f"{ISSUER}/auth/revoke", data={"token": granted["access_token"], "client_id": heart.id})
    auditor = await clinic.token("auditor", kap_user="Practitioner/aud")
    found = issuers(await told(clinic, auditor))
    assert [one["recorded"] for one in found] == sorted((one["recorded"] for one in found), reverse=True)
    hers = [one for one in found if any(agent["who"].get("reference") == "Patient/1" for agent in one["agent"])]
    assert {"/auth/login", "/auth/consent", "/auth/token", "/auth/account"} <= {does(one) for one in hers}
    tried = [one for one in hers if does(one) == "/auth/account"]
    assert [one["outcome"] for one in tried] == ["4"] * 6
    assert tried[0]["outcomeDesc"] == "closed after too many tries"
    assert {one["type"]["code"] for one in tried} == {"110114"}
    assert len(issuers(await told(clinic, auditor, "&type=110114&outcome=4&agent=Patient/1"))) == 6
    assert len(issuers(await told(clinic, auditor, "&subtype=110122&outcome=0"))) == 1
    of_app = [does(one) for one in issuers(await told(clinic, auditor, f"&agent={heart.id}"))]
    assert {"/auth/revoke", "/auth/token"} <= set(of_app)
    for one in found:
        assert (await clinic.send(auditor, "GET", f"AuditEvent/{one['id']}")).status_code == 200


async def test_a_person_sees_who_tried_his_account_and_no_one_elses(clinic):
    for name, user in (("ada", "Patient/1"), ("bob", "Patient/2")):
        await person(clinic, name, user)
        await Browser(clinic.http).account(name, "a guess at it")
    hers = await clinic.token("patient", kap_patient="1")
    found = issuers(await told(clinic, hers, "&type=110114&outcome=4"))
    assert [one["agent"][-1]["who"] for one in found] == [{"reference": "Patient/1"}]
    assert "Patient/2" not in str(await told(clinic, hers))
    every = issuers(await told(clinic, await clinic.token("auditor"), "&type=110114&outcome=4"))
    of_bob = next(one for one in every if "Patient/2" in str(one))
    assert (await clinic.send(hers, "GET", f"AuditEvent/{of_bob['id']}")).status_code == 404
    nurse = await clinic.token("monitor-nurse")
    direct = await clinic.http.get(f"{ISSUER}/auth/audit/AuditEvent", headers={"Authorization": f"Bearer {nurse}"})
    assert (direct.status_code, direct.json()["resourceType"]) == (403, "OperationOutcome")
    assert (await clinic.http.get(f"{ISSUER}/auth/audit/AuditEvent")).status_code == 401


async def test_what_was_done_at_the_issuer_is_told_to_its_clinics_auditor_alone(clinic):
    north = {"Authorization": f"Bearer {await clinic.token(scope='kap/users', kap_tenant='north')}"}
    said = {"name": "nora", "password": PASSWORD, "fhir_user": "Practitioner/9", "role": "prescriber", "totp": False}
    assert (await clinic.http.post(f"{ISSUER}/auth/users", json=said, headers=north)).status_code == 201
    await Browser(clinic.http).account("nora", "a guess at it")
    await Browser(clinic.http).account("nora")
    await Browser(clinic.http).account("tulips over the viaduct", "x")  # a password where the name belongs
    ours = await told(clinic, await clinic.token("auditor", kap_tenant="north"), "&agent=Practitioner/9")
    assert [one["outcome"] for one in issuers(ours)] == ["0", "4"]
    others = await told(clinic, await clinic.token("auditor"))
    assert "Practitioner/9" not in str(others)
    bodies = b"".join(held.body for held in await clinic.stores["identity"].audit.rows())
    assert b"viaduct" not in bodies


async def test_while_the_issuer_is_away_nobody_is_told_an_audit_with_a_hole_in_it(clinic):
    auditor = await clinic.token("auditor")
    assert (await clinic.send(auditor, "GET", "AuditEvent")).status_code == 200
    clinic.wire.apps.pop("identity")
    assert (await clinic.send(auditor, "GET", "AuditEvent")).status_code == 503
