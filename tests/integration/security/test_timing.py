"""What an answer takes does not tell what is hidden from what is not there.

Clocks are noisy. What is compared is the work: which statements the database is asked, in which order, and how often a
password is hashed. That the rows behind them take the same time is the database's; the slow form asks a clock, too.
"""

from __future__ import annotations

import re
import statistics
from time import perf_counter

import pytest
from argon2 import extract_parameters

from services.identity import passwords
from shared.store.connection import Connection
from tests.integration.security.clinic import ISSUER
from tests.integration.security.people import PASSWORD, Browser, app, person, pkce
from tests.integration.security.test_gate import two

__all__ = ["two"]

ABSENT = "nobody-at-all"


@pytest.fixture
def asked(monkeypatch):
    """The statements that databases are asked, as they are asked, each with whose connection it is."""
    statements: list[tuple[str, str]] = []

    def noting(real):
        async def noted(self, query, *args, **options):
            whose = self.get_settings().application_name
            statements.append((whose, re.sub(r"(?<=advisory_xact_lock\()-?\d+", "KEY", query)))
            return await real(self, query, *args, **options)

        return noted

    for name in ("execute", "executemany", "fetch", "fetchrow", "fetchval"):
        monkeypatch.setattr(Connection, name, noting(getattr(Connection, name)))
    return statements


def answer_to(patient):
    return {
        "resourceType": "QuestionnaireResponse",
        "status": "completed",
        "questionnaire": "https://kap-exchange.org/fhir/Questionnaire/phq-9",
        "subject": {"reference": f"Patient/{patient}"},
        "source": {"reference": f"Patient/{patient}"},
    }


WAYS = [
    ("GET", "Patient/{patient}"),
    ("GET", "Patient/{patient}/_history"),
    ("GET", "Patient/{patient}/_history/1"),
    ("GET", "Patient/{patient}/$everything"),
    ("GET", "Patient?_id={patient}"),
    ("GET", "AllergyIntolerance/{allergy}"),
    ("GET", "AllergyIntolerance?patient={patient}&_include=AllergyIntolerance:patient&_total=accurate"),
    ("GET", "AllergyIntolerance?_id={allergy}&_revinclude=Provenance:target"),
    ("GET", "Patient?_has:AllergyIntolerance:patient:_id={allergy}"),
    ("GET", "AllergyIntolerance/_history?_count=0"),
    ("POST", "QuestionnaireResponse"),
    ("PUT", "Patient/{patient}"),
    ("DELETE", "AllergyIntolerance/{allergy}"),
]


def callers(two):
    """Of several kinds: by compartment, by consent, by a search in the scope; Bob is hidden from each."""
    return {
        "patient": {"role": "patient", "kap_patient": two["ada"]},
        "a patient who writes": {"scope": "patient/*.cruds", "kap_patient": two["ada"]},
        "hospital": {"role": "hospital-system", "kap_user": "Organization/h1"},
        "partner": {"role": "partner-physician", "kap_user": "Practitioner/p1"},
    }


async def test_what_is_hidden_takes_the_statements_of_what_is_not_there(clinic, two, asked):
    hidden = {"patient": two["bob"], "allergy": two["of bob"]}
    absent = {"patient": ABSENT, "allergy": "nothing-at-all"}
    compared = 0
    for who, said in callers(two).items():
        token = await clinic.token(**said)
        for method, path in WAYS:
            bodies = {"POST": answer_to, "PUT": lambda one: {"resourceType": "Patient", "id": one, "active": True}}
            found = []
            for ids in (hidden, absent, hidden, absent):
                body = bodies[method](ids["patient"]) if method in bodies else None
                asked.clear()
                answer = await clinic.send(token, method, path.format(**ids), body)
                # the services ask the issuer every few seconds what was taken back, whoever asks them what
                found.append((answer.status_code, [one for one in asked if one[0] != "kap-identity"]))
            # the first of each fills caches (prepared plans, the numbers of clinics)
            differs = [both for both in zip(found[2][1], found[3][1], strict=False) if both[0] != both[1]]
            assert found[2] == found[3], f"{who}: {method} {path}: {differs[:1]}"
            compared += len(found[2][1])
    assert compared > 80


async def test_a_name_that_nobody_has_takes_the_work_of_a_wrong_password(clinic, asked, monkeypatch):
    tried = await app(clinic)
    await person(clinic, "ada", "Patient/1")
    await person(clinic, "eve", "Patient/2")
    manager = await clinic.token(scope="kap/users")
    await clinic.http.delete(f"{ISSUER}/auth/users/eve", headers={"Authorization": f"Bearer {manager}"})
    hashed = []
    real = passwords.HASHER

    class Noting:
        def verify(self, kept, password):
            hashed.append(extract_parameters(kept))
            return real.verify(kept, password)

        check_needs_rehash = real.check_needs_rehash

    monkeypatch.setattr(passwords, "HASHER", Noting())
    found = {}
    for name, password in (("nobody-here", PASSWORD), ("ada", "not the password"), ("eve", PASSWORD)):
        browser = Browser(clinic.http)
        page = await browser.authorize(**tried.request(pkce()[1]))
        hashed.clear()
        asked.clear()
        answer = await browser.login(page, name, password)
        assert answer.status_code == 401
        found[name] = (list(hashed), list(asked), answer.text.replace(name, "NAME"))
    unknown = found.pop("nobody-here")
    assert len(unknown[0]) == 1
    for name, one in found.items():
        assert one[0] == unknown[0], f"{name}: another hash"
        assert one[1] == unknown[1], f"{name}: other statements"
        assert len(one[2]) == len(unknown[2]), f"{name}: another page"
    assert extract_parameters(passwords.NOBODYS) == extract_parameters(real.hash("x"))


@pytest.mark.slow
async def test_by_a_clock_what_is_hidden_takes_as_long_as_what_is_not_there(clinic, two):
    token = await clinic.token("patient", kap_patient=two["ada"])
    times = {two["bob"]: [], ABSENT: []}
    for turn in range(600):
        for id_ in sorted(times, reverse=bool(turn % 2)):
            began = perf_counter()
            answer = await clinic.send(token, "GET", f"Patient/{id_}")
            times[id_].append(perf_counter() - began)
            assert answer.status_code == 404
    hidden, absent = (statistics.median(one[100:]) for one in times.values())
    assert 0.8 < hidden / absent < 1.25, (hidden, absent)
