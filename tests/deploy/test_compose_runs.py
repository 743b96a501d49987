"""`docker-compose.yml`, whole: every container, with tokens, from the outside. Runs where a Docker engine answers.

    KAP_DOCKER_TESTS=1 ./kap test tests/deploy/test_compose_runs.py

It builds seven images (minutes the first time). Where nothing can be pulled, `stand_in_images.sh` makes what they
begin from.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.demo.before import privacy
from cli.secrets import CONTAINED, make_secrets
from cli.stack.operator import OperatorAuth, OperatorKey, Wanted

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600.0
ARRIVE_SECONDS = 180.0
FAMILY = "Containerprobe"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def _compose() -> list[str]:
    if os.environ.get("KAP_DOCKER_TESTS") != "1":
        pytest.skip("the containers are built and run where KAP_DOCKER_TESTS=1 says so")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker engine answers here")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if found := shutil.which("docker-compose"):
        return [found]
    pytest.skip("there is neither `docker compose` nor `docker-compose`")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Containers:
    """The installation that runs."""

    command: list[str]
    environment: dict[str, str]
    secrets: Path
    gateway: str
    issuer: str

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.command, *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    def inspected(self, service: str) -> dict[str, Any]:
        container = self.run("ps", "-q", service).stdout.strip()
        done = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True)
        [told] = json.loads(done.stdout)
        return dict(told)

    def within(self, service: str, python: str) -> str:
        """Run Python in a container; what it prints."""
        return self.run("exec", "-T", service, "python", "-c", python).stdout.strip()

    def auth(self, role: str, user: str | None = None) -> OperatorAuth:
        return OperatorAuth(self.issuer, OperatorKey(self.secrets / "operator"), Wanted(role=role, user=user))


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    compose = _compose()
    secrets = tmp_path_factory.mktemp("installation") / "secrets"
    make_secrets(secrets, database_host="postgres")
    hospital = secrets / "hospital" / "KAP_DATABASE_URL"
    hospital.parent.mkdir()
    hospital.write_text("postgresql://kap_hospital:another-organisation@postgres/kap_hospital\n")
    gateway, identity = _free_port(), _free_port()
    files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(ROOT / "tests/deploy/compose.hospital.yaml")]
    running = Containers(
        command=[*compose, "--project-name", f"kaptest{os.getpid()}", *files],
        environment={
            **{name: value for name, value in os.environ.items() if not name.startswith("KAP_")},
            "KAP_SECRETS": str(secrets),
            "KAP_GATEWAY_PORT": str(gateway),
            "KAP_IDENTITY_PORT": str(identity),
            "COMPOSE_HTTP_TIMEOUT": "300",
            "KAP_PUBLIC_BASE": f"http://127.0.0.1:{gateway}/fhir",
            "KAP_ISSUER": f"http://127.0.0.1:{identity}",
            "KAP_OPERATOR_ACTS_FOR_OTHERS": "true",
        },
        secrets=secrets,
        gateway=f"http://127.0.0.1:{gateway}/fhir",
        issuer=f"http://127.0.0.1:{identity}",
    )
    try:
        running.run("build")
        running.run("up", "--detach")
        yield running
    finally:
        running.run("down", "--volumes", "--timeout", "10", check=False)


def _until(what: str, seconds: float, found: Any) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        if answer := found():
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(1)


def _patient(given: str) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "https://kap.example/mrn", "value": f"compose-{given}"}],
        "name": [{"family": FAMILY, "given": [given]}],
        "gender": "female",
        "birthDate": "1980-02-03",
    }


def test_every_container_becomes_healthy(containers: Containers) -> None:
    for service in (*CONTAINED, "hospital", "postgres", "kafka"):
        _until(
            f"{service} is healthy",
            START_SECONDS,
            lambda service=service: containers.inspected(service)["State"].get("Health", {}).get("Status") == "healthy",
        )


def test_a_write_needs_a_token(containers: Containers) -> None:
    with httpx.Client(base_url=containers.gateway, trust_env=False, timeout=30) as client:
        refused = client.post("/Patient", json=_patient("Nobody"))
        assert refused.status_code == 401
        assert refused.json()["resourceType"] == "OperationOutcome"
        made = client.post("/Patient", json=_patient("Anna"), auth=containers.auth("clinic-admin"))
        assert made.status_code == 201, made.text
        assert made.headers["Location"].startswith(f"{containers.gateway}/Patient/")


def test_what_a_service_took_in_is_seen_at_the_gateway_by_its_event(containers: Containers) -> None:
    token = containers.auth("clinic-admin").token()["access_token"]
    place = containers.within(
        "intake",
        "import httpx; print(httpx.post('http://127.0.0.1:8000/fhir/Patient', "
        f"json={_patient('Berta')!r}, headers={{'Authorization': 'Bearer {token}'}}).json()['id'])",
    )
    with httpx.Client(base_url=containers.gateway, trust_env=False, timeout=30) as client:
        auth = containers.auth("clinic-admin")
        _until(
            "the gateway shows it",
            ARRIVE_SECONDS,
            lambda: client.get(f"/Patient/{place}", auth=auth).status_code == 200,
        )


def test_a_database_opens_to_its_own_service_only(containers: Containers) -> None:
    login = (containers.secrets / "intake" / "KAP_DATABASE_URL").read_text().strip().rpartition("/")[0]
    login = login.replace("@postgres", "@127.0.0.1")
    assert containers.run("exec", "-T", "postgres", "psql", f"{login}/kap_intake", "-c", "SELECT 1").returncode == 0
    for other in ("kap_sessions", "kap_notes", "kap_identity", "kap_gateway"):
        done = containers.run("exec", "-T", "postgres", "psql", f"{login}/{other}", "-c", "SELECT 1", check=False)
        assert done.returncode != 0, other
        assert "permission denied for database" in done.stderr


def test_no_container_of_ours_is_root_may_write_its_files_has_a_shell_or_is_open_to_everybody(
    containers: Containers,
) -> None:
    for service in CONTAINED:
        told = containers.inspected(service)
        assert told["Config"]["User"] == "10001:10001", service
        assert told["HostConfig"]["ReadonlyRootfs"] is True, service
        assert told["HostConfig"]["CapDrop"] == ["ALL"], service
        assert not any(one.startswith("KAP_NO_AUTH") for one in told["Config"]["Env"]), service
        assert containers.run("exec", "-T", service, "sh", "-c", "true", check=False).returncode != 0, service
        assert containers.run("exec", "-T", service, "/bin/sh", "-c", "true", check=False).returncode != 0, service


def test_no_secret_is_told_by_the_engine_or_by_a_log(containers: Containers) -> None:
    told = json.dumps([containers.inspected(service) for service in (*CONTAINED, "postgres")])
    told += containers.run("logs", "--no-color").stdout
    for file in containers.secrets.rglob("*"):
        if file.is_file() and file.name != "KAP_OPERATOR_JWKS":  # public keys
            assert file.read_text().strip() not in told, file
            login = file.read_text().strip().rpartition("@")[0].rpartition(":")[2]
            assert not login or login not in told, file


def test_nobody_reaches_an_owner_the_database_or_kafka_from_outside(containers: Containers) -> None:
    for service in (*CONTAINED, "postgres", "kafka"):
        published = {
            port for port, where in (containers.inspected(service)["NetworkSettings"]["Ports"] or {}).items() if where
        }
        assert published == ({"8000/tcp"} if service in {"gateway", "identity"} else set()), service


def test_the_hospital_gets_its_part_once_and_nothing_of_who_consented_to_nothing(containers: Containers) -> None:
    def in_the_hospital() -> str:
        return containers.within(
            "hospital",
            "import httpx; print(sorted(entry['resource']['name'][0]['given'][0] for entry in httpx.get("
            f"'http://127.0.0.1:8000/fhir/Patient?family={FAMILY}').json().get('entry', [])))",
        )

    with httpx.Client(base_url=containers.gateway, trust_env=False, timeout=30) as client:
        auth = containers.auth("clinic-admin")
        [anna] = client.get("/Patient?given=Anna", auth=auth).json()["entry"]
        subject = f"Patient/{anna['resource']['id']}"
        consent = privacy("compose", subject, datetime.now(UTC), {"display": "The clinic"})
        made = client.post("/Consent", json=consent, auth=auth)
        assert made.status_code == 201, made.text
    _until("Anna is in the hospital", ARRIVE_SECONDS, lambda: "Anna" in in_the_hospital())
    assert in_the_hospital() == "['Anna']"
