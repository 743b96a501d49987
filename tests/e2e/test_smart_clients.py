"""Apps by other people's libraries log a patient in and read what is his own: SMART App Launch and Backend Services.

fhirclient.js runs in a browser (Chromium, driven by Playwright), fhirclient for Python on a server; the Backend
Services client is written from the specification, on httpx and joserfc.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import pyotp
import pytest
from fhirclient import client as smart
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient
from fhirclient.server import FHIRNotFoundException, FHIRPermissionDeniedException
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from tests.contract.npm import installed
from tests.e2e.kap import Kap
from tests.integration.security.consents import consent, provision
from tests.integration.security.people import fields

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

JAVASCRIPT = Path(__file__).resolve().parents[1] / "contract" / "javascript"
LIBRARY = Path("node_modules") / "fhirclient" / "build" / "fhir-client.js"
SCOPE = "launch/patient openid fhirUser offline_access patient/*.rs"
RATE = {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]}
LAUNCH_PAGE = """<!doctype html><title>launch</title><script src="fhir-client.js"></script><script>
FHIR.oauth2.authorize({client_id: "%(client)s", scope: "%(scope)s", redirectUri: "app.html", iss: "%(iss)s",
  pkceMode: "required"});
</script>"""
APP_PAGE = """<!doctype html><title>app</title><pre id="told"></pre><script src="fhir-client.js"></script><script>
FHIR.oauth2.ready().then(async client => {
  const own = await client.request("Observation?patient=" + client.patient.id, {pageLimit: 0, flat: true});
  const other = await client.request("Observation?patient=%(other)s", {flat: true});
  const status = path => client.request(path).then(() => 200, error => error.status || error.statusCode);
  const refreshed = await client.refresh();
  return {patient: client.patient.id, user: client.getFhirUser(), own: own.length, other: other.length,
    read: await status("Patient/" + client.patient.id), others: await status("Patient/%(other)s"),
    written: await client.create({resourceType: "Observation"}).then(() => 201, error => error.status),
    refreshed: !!refreshed.tokenResponse.access_token};
}).then(JSON.stringify, error => "failed: " + error).then(text => {
  document.getElementById("told").textContent = text; document.title = "done"; });
</script>"""


@dataclass(frozen=True)
class Clinic:
    """A running stack with two patients, one of whom logs in."""

    kap: Kap
    fhir: str
    own: str
    other: str
    password: str
    codes: pyotp.TOTP


@pytest.fixture(scope="module")
def clinic(make_stack: Callable[..., Kap]) -> Clinic:
    kap = make_stack("--kafka", "memory", "--single")
    fhir = f"{kap.ports.url('gateway')}/fhir"
    ids = []
    with httpx.Client(auth=kap.auth(), trust_env=False, timeout=30) as http:
        for family in ("Own", "Other"):
            patient = http.post(f"{fhir}/Patient", json={"resourceType": "Patient", "name": [{"family": family}]})
            ids.append(patient.raise_for_status().json()["id"])
            for number in range(3):
                http.post(f"{fhir}/Observation", json=rate(ids[-1], 60 + number)).raise_for_status()
    password, address = kap.must("users", "add", "ada", "patient", f"Patient/{ids[0]}").split()
    codes = pyotp.parse_uri(address)
    assert isinstance(codes, pyotp.TOTP)
    assert "ada" in kap.must("users", "list")
    return Clinic(kap, fhir, ids[0], ids[1], password, codes)


def rate(patient: str, value: int) -> dict[str, Any]:
    """Return a heart rate that was measured elsewhere."""
    return {
        "resourceType": "Observation",
        "status": "final",
        "meta": {"source": "urn:example:elsewhere"},
        "code": RATE,
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": "2026-01-05",
        "valueQuantity": {"value": value, "system": "http://unitsofmeasure.org", "code": "/min"},
    }


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, or another at KAP_CHROMIUM. Without one the test is skipped; in CI it fails."""
    path = os.environ.get("KAP_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        said = "There is no Chromium: apt-get install chromium, or KAP_CHROMIUM=/path/to/it."
        if os.environ.get("CI") == "true":
            pytest.fail(said)
        pytest.skip(said)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and where it is served: an app's own origin."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_app_in_a_browser_by_fhirclient_js_reads_its_patients_observations_and_no_others(
    clinic: Clinic, chromium: Any, site: tuple[Path, str]
) -> None:
    folder, origin = site
    id_ = clinic.kap.must("clients", "add", "Heart diary", "--redirect", f"{origin}/app.html", "--scope", SCOPE).strip()
    said = {"client": id_, "scope": SCOPE, "iss": clinic.fhir, "other": clinic.other}
    shutil.copy(installed(JAVASCRIPT) / LIBRARY, folder / "fhir-client.js")
    (folder / "launch.html").write_text(LAUNCH_PAGE % said)
    (folder / "app.html").write_text(APP_PAGE % said)

    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{origin}/launch.html")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(clinic.password)
    page.get_by_label("One-time code").fill(clinic.codes.now())
    page.get_by_role("button", name="Sign in").click()
    assert page.get_by_role("heading", name="Let Heart diary in?").is_visible()
    assert page.get_by_role("checkbox", name="Read and search everything in your record").is_checked()
    page.get_by_role("button", name="Allow", exact=True).click()
    page.wait_for_function("document.title === 'done'", timeout=60_000)
    text = page.locator("#told").text_content() or ""
    context.close()
    assert text.startswith("{"), text
    told = json.loads(text)

    assert told["user"].endswith(f"Patient/{clinic.own}")
    told.pop("user")
    assert told == {
        "patient": clinic.own, "own": 3, "other": 0, "read": 200, "others": 404, "written": 403, "refreshed": True,
    }  # fmt: skip


def test_an_app_on_a_server_by_fhirclient_for_python_reads_its_patients_observations_and_no_others(
    clinic: Clinic,
) -> None:
    scope = "launch/patient patient/*.read"
    redirect = "http://localhost:9/back"
    printed = clinic.kap.must("clients", "add", "Study", "--redirect", redirect, "--scope", scope, "--secret")
    id_, secret = printed.split()
    settings = {"app_id": id_, "app_secret": secret, "api_base": clinic.fhir, "redirect_uri": redirect, "scope": scope}
    study = smart.FHIRClient(settings=settings)
    study.server.session.trust_env = False
    assert not study.ready
    study.prepare()
    assert study.authorize_url is not None

    clinic.kap.must("users", "add", "grace", "patient", f"Patient/{clinic.other}", "--no-totp")
    password = clinic.kap.must("users", "reset", "grace").strip()
    study.handle_callback(let_in(study.authorize_url, "grace", password))

    assert study.ready
    assert study.patient_id == clinic.other
    assert study.patient.name[0].family == "Other"
    found = list(Observation.where({"patient": clinic.other}).perform_resources_iter(study.server))
    assert sorted(one.valueQuantity.value for one in found) == [60, 61, 62]
    assert list(Observation.where({"patient": clinic.own}).perform_resources_iter(study.server)) == []
    with pytest.raises(FHIRNotFoundException):
        Patient.read(clinic.own, study.server)
    with pytest.raises(FHIRPermissionDeniedException):
        Observation(rate(clinic.other, 70)).create(study.server)


def let_in(url: str, name: str, password: str) -> str:
    """Log in and let an app in, by the pages' forms as they are; return where that leads."""
    with httpx.Client(trust_env=False, timeout=30, follow_redirects=False) as http:
        answer = http.get(url)
        for _ in range(6):
            if "location" in answer.headers:
                where = str(httpx.URL(url).join(answer.headers["location"]))
                if not where.startswith(url.split("/auth/", 1)[0]):
                    return where
                answer = http.get(where)
                continue
            action, said = next(iter(fields(answer.text).items()))
            more = {"name": name, "password": password} if action == "login" else {"decision": "allow"}
            body = urlencode({**said, **more}, doseq=True)
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = http.post(str(answer.url.join(action)), content=body, headers=form)
    raise AssertionError("The pages lead nowhere.")


def test_a_backend_service_written_from_the_specification_reads_of_whom_consents_and_of_nobody_else(
    clinic: Clinic, tmp_path: Path
) -> None:
    key = ECKey.generate_key("P-384", parameters={"kid": str(uuid4()), "use": "sig", "alg": "ES384"})
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    with httpx.Client(auth=clinic.kap.auth(), trust_env=False, timeout=30) as http:
        hospital = http.post(f"{clinic.fhir}/Organization", json={"resourceType": "Organization", "name": "St. Anna"})
        to = f"Organization/{hospital.raise_for_status().json()['id']}"
        said = consent(clinic.own, provision("permit", to=[to], why=["TREAT"]))
        http.post(f"{clinic.fhir}/Consent", json=said).raise_for_status()
    more = ("--scope", "system/Observation.rs", "--user", to)
    id_ = clinic.kap.must("clients", "add", "St. Anna", "--jwks", str(jwks), *more).strip()

    with httpx.Client(trust_env=False, timeout=30) as http:
        place = http.get(f"{clinic.fhir}/.well-known/smart-configuration").raise_for_status().json()
        assert "client-confidential-asymmetric" in place["capabilities"]
        told = ask(http, place["token_endpoint"], id_, key, "system/Observation.rs").raise_for_status().json()
        bearer = {"Authorization": f"Bearer {told['access_token']}"}
        url = f"{clinic.fhir}/Observation"
        own = http.get(url, params={"patient": clinic.own}, headers=bearer).raise_for_status().json()
        assert len(own["entry"]) == 3
        other = http.get(url, params={"patient": clinic.other}, headers=bearer).raise_for_status().json()
        assert "entry" not in other
        assert http.get(f"{clinic.fhir}/Patient/{clinic.own}", headers=bearer).status_code == 403
        wider = ask(http, place["token_endpoint"], id_, key, "system/*.cruds")
        assert (wider.status_code, wider.json()["error"]) == (400, "invalid_scope")


def ask(http: httpx.Client, endpoint: str, id_: str, key: ECKey, scope: str) -> httpx.Response:
    """Ask for a token as SMART Backend Services has it."""
    claims = {"iss": id_, "sub": id_, "aud": endpoint, "exp": int(time.time()) + 300, "jti": str(uuid4())}
    assertion = jwt.encode({"alg": "ES384", "kid": key.kid, "typ": "JWT"}, claims, key, algorithms=["ES384"])
    form = {
        "grant_type": "client_credentials",
        "scope": scope,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion,
    }
    return http.post(endpoint, data=form)
