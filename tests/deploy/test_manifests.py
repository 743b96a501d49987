"""The Kubernetes manifests render, are what the API accepts, and name only what exists."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted(path.parent for path in (ROOT / "deploy/k8s/overlays").glob("*/kustomization.yaml"))
KUBERNETES = "1.33"
SERVICES = {"intake", "scheduling", "sessions", "outcomes", "delivery", "gateway"}


def _renderer() -> list[str]:
    """Kustomize, alone or within kubectl; in CI one of them must be there."""
    if kustomize := shutil.which("kustomize"):
        return [kustomize, "build"]
    if kubectl := shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    if os.environ.get("CI") == "true":
        pytest.fail("CI needs kustomize or kubectl to render the manifests")
    pytest.skip("neither kustomize nor kubectl is here to render the manifests")


@pytest.fixture(params=OVERLAYS, ids=lambda path: path.name)
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    done = subprocess.run([*_renderer(), str(request.param)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def _pods(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        f"{one['kind']}/{one['metadata']['name']}": one["spec"]["template"]["spec"]
        for one in manifests
        if one["kind"] in {"Deployment", "Job"}
    }


def test_every_manifest_is_what_kubernetes_accepts(manifests: list[dict[str, Any]]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for one in manifests:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_every_service_runs_its_api_its_worker_and_its_migration_apart(manifests: list[dict[str, Any]]) -> None:
    expected = {
        f"{kind}/{service}-{role}"
        for service in SERVICES
        for kind, role in (("Deployment", "api"), ("Deployment", "worker"), ("Job", "migrate"))
    }
    assert set(_pods(manifests)) == expected


def test_no_pod_runs_as_root_or_may_become_root(manifests: list[dict[str, Any]]) -> None:
    for name, pod in _pods(manifests).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name


def test_each_service_gets_the_settings_and_the_secret_of_its_own_name(manifests: list[dict[str, Any]]) -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in manifests if one["kind"] == "ConfigMap"}
    for name, pod in _pods(manifests).items():
        service = name.split("/")[1].rsplit("-", 1)[0]
        sources = pod["containers"][0]["envFrom"]
        settings = next(source["configMapRef"]["name"] for source in sources if "configMapRef" in source)
        secret = next(source["secretRef"]["name"] for source in sources if "secretRef" in source)
        assert maps[settings]["KAP_SERVICE"] == service
        assert secret == f"{service}-database"


def test_every_service_selects_the_pods_of_its_own_name_only(manifests: list[dict[str, Any]]) -> None:
    for one in manifests:
        if one["kind"] == "Service":
            service = one["metadata"]["name"].removesuffix("-fhir")
            assert one["spec"]["selector"] == {
                "app.kubernetes.io/name": service,
                "app.kubernetes.io/component": "api",
            }


def test_the_gateway_is_told_the_address_of_every_owner(manifests: list[dict[str, Any]]) -> None:
    names = {one["metadata"]["name"] for one in manifests if one["kind"] == "Service"}
    gateway = next(
        one["data"]
        for one in manifests
        if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("gateway-settings")
    )
    for service in SERVICES - {"gateway"}:
        assert gateway[f"KAP_{service.upper()}_URL"] == f"http://{service}-fhir/fhir"
        assert f"{service}-fhir" in names


def test_compose_runs_every_service_with_a_database_and_an_image_of_its_own() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert set(compose["services"]) == SERVICES | {"postgres", "kafka"}
    databases = (ROOT / "deploy/compose/create-databases.sh").read_text()
    for service in SERVICES:
        one = compose["services"][service]
        assert one["build"]["args"] == {"SERVICE": service}
        assert one["environment"]["KAP_DATABASE_URL"].endswith(f"/kap_{service}")
        assert service in databases
        assert (ROOT / "services" / service).is_dir()
