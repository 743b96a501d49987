"""The Kubernetes manifests render, are what the API accepts, and name only what exists."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.secrets import make_secrets

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted(path.parent for path in (ROOT / "deploy/k8s/overlays").glob("*/kustomization.yaml"))
KUBERNETES = "1.33"
SERVICES = {"identity", "intake", "scheduling", "sessions", "outcomes", "delivery", "gateway"}
OWNERS = SERVICES - {"identity", "gateway"}
RESTRICTED = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""


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
    } - {"Deployment/identity-worker"}  # it sends and takes in no events
    assert set(_pods(manifests)) == expected


def test_every_pod_is_what_the_restricted_standard_admits(manifests: list[dict[str, Any]]) -> None:
    [namespace] = [one for one in manifests if one["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in _pods(manifests).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= RESTRICTED, name
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name


def test_each_service_gets_the_settings_and_the_secrets_of_its_own_name(manifests: list[dict[str, Any]]) -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in manifests if one["kind"] == "ConfigMap"}
    for name, pod in _pods(manifests).items():
        service = name.split("/")[1].rsplit("-", 1)[0]
        [settings] = [source["configMapRef"]["name"] for source in pod["containers"][0]["envFrom"]]
        assert maps[settings]["KAP_SERVICE"] == service
        named = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        assert named == [f"{service}-secrets"]


def test_secrets_are_files_and_in_no_environment(manifests: list[dict[str, Any]]) -> None:
    for name, pod in _pods(manifests).items():
        [container] = pod["containers"]
        [mount] = [one for one in container["volumeMounts"] if one["name"] == "secrets"]
        assert mount["readOnly"] is True, name
        told = {one["name"]: one.get("value") for one in container["env"]}
        assert told["KAP_SECRETS_DIR"] == mount["mountPath"], name
        assert not any("valueFrom" in one for one in container["env"]), name
        assert not any("secretRef" in source for source in container["envFrom"]), name
        assert not {"KAP_DATABASE_URL", "KAP_LINK_SECRET", "KAP_NOTES_DATABASE_URL"} & told.keys(), name


def test_every_pod_asks_for_tokens_of_the_issuer(manifests: list[dict[str, Any]]) -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in manifests if one["kind"] == "ConfigMap"}
    for name, pod in _pods(manifests).items():
        [container] = pod["containers"]
        [settings] = [source["configMapRef"]["name"] for source in container["envFrom"]]
        told = {**maps[settings], **{one["name"]: one["value"] for one in container["env"]}}
        assert "KAP_NO_AUTH" not in told, name
        assert told["KAP_ISSUER"].startswith("https://"), name
        assert told["KAP_AUDIENCE"].startswith("https://"), name
        assert told["KAP_ISSUER_AT"] == "http://identity-fhir", name
        if name.startswith("Deployment/sessions-"):
            assert told["KAP_NOTES_KEYS"] == f"{told['KAP_SECRETS_DIR']}/notes_keys"


def test_every_process_notes_the_end_of_the_audit_on_other_storage_and_bounds_a_searchs_cost(
    manifests: list[dict[str, Any]],
) -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in manifests if one["kind"] == "ConfigMap"}
    [claim] = [one["metadata"]["name"] for one in manifests if one["kind"] == "PersistentVolumeClaim"]
    for name, pod in _pods(manifests).items():
        [container] = pod["containers"]
        told = {one["name"]: one.get("value") for one in container["env"]}
        if name.startswith("Deployment/"):
            [volume] = [one["name"] for one in pod["volumes"] if "persistentVolumeClaim" in one]
            assert {one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if one["name"] == volume} == {
                claim
            }
            [mount] = [one for one in container["volumeMounts"] if one["name"] == volume]
            assert told["KAP_AUDIT_ANCHORS"] == mount["mountPath"], name
        if "identity" not in name:
            [settings] = [source["configMapRef"]["name"] for source in container["envFrom"]]
            assert float(maps[settings]["KAP_SEARCH_COST"]) > 0, name
    for service in SERVICES:
        one = _compose()["services"][service]
        [[volume, folder]] = [mount.split(":") for mount in one["volumes"]]
        assert volume not in {mount.split(":")[0] for mount in _compose()["services"]["postgres"]["volumes"]}
        assert one["environment"]["KAP_AUDIT_ANCHORS"] == folder
        assert one["environment"]["KAP_SEARCH_COST"]
        assert f"/anchors {folder}" in (ROOT / "Dockerfile").read_text(), "its owner is the service's user"


def test_probes_ask_at_a_port_that_clients_do_not_reach(manifests: list[dict[str, Any]]) -> None:
    for name, pod in _pods(manifests).items():
        if name.startswith("Deployment/"):
            [container] = pod["containers"]
            assert {port["name"] for port in container["ports"]} == {"http", "health"}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] == "health", name
    for one in manifests:
        if one["kind"] == "Service":
            assert [port["targetPort"] for port in one["spec"]["ports"]] == ["http"]


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector picks a pod (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels)."""
    wanted = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] in {"In", "Exists"} for one in expressions)
    return all(labels.get(name) == value for name, value in wanted.items()) and all(
        one["key"] in labels if one["operator"] == "Exists" else labels.get(one["key"]) in one["values"]
        for one in expressions
    )


def _reach(manifests: list[dict[str, Any]], sender: str, receiver: str, port: str) -> bool:
    """Whether the policies let a pod of one Deployment open a port of another's: both ends have to allow it."""
    pods = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in manifests
        if one["kind"] == "Deployment"
    }
    policies = [one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"]

    def allows(direction: str, peers: str, here: dict[str, str], there: dict[str, str]) -> bool:
        return any(
            any(port == one["port"] for one in rule["ports"])
            and (
                peers not in rule
                or any(
                    "namespaceSelector" not in one
                    and _selects(one.get("podSelector", {"matchLabels": {"": ""}}), there)
                    for one in rule[peers]
                )
            )
            for policy in policies
            if direction.title() in policy["policyTypes"] and _selects(policy["podSelector"], here)
            for rule in policy.get(direction, [])
        )

    return allows("egress", "to", pods[sender], pods[receiver]) and allows(
        "ingress", "from", pods[receiver], pods[sender]
    )


def test_pods_reach_what_they_need_and_nothing_else(manifests: list[dict[str, Any]]) -> None:
    deployments = sorted(name.split("/")[1] for name in _pods(manifests) if name.startswith("Deployment/"))
    reached = {
        (sender, receiver)
        for sender in deployments
        for receiver in deployments
        for port in ("http", "health")
        if sender != receiver and _reach(manifests, sender, receiver, port)
    }
    needed = {("gateway-api", f"{owner}-api") for owner in OWNERS}
    needed |= {(sender, "identity-api") for sender in deployments if sender != "identity-api"}
    assert reached == needed


def test_out_of_the_cluster_go_the_issuer_and_the_courier_only_and_never_to_private_addresses(
    manifests: list[dict[str, Any]],
) -> None:
    blocks = [
        (one["spec"]["podSelector"], peer["ipBlock"])
        for one in manifests
        if one["kind"] == "NetworkPolicy"
        for rule in one["spec"].get("egress", [])
        for peer in rule.get("to", [{"ipBlock": {"cidr": "0.0.0.0/0"}}])
        if "ipBlock" in peer
    ]
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in manifests
        if one["kind"] == "Deployment"
    }
    for selector, block in blocks:
        assert {name for name, one in labels.items() if _selects(selector, one)} == {"identity-api", "delivery-worker"}
        assert {"169.254.0.0/16", "10.0.0.0/8"} <= set(block["except"]) or ":" in block["cidr"]
    assert {block["cidr"] for _, block in blocks} == {"0.0.0.0/0", "::/0"}


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
    for service in OWNERS:
        assert gateway[f"KAP_{service.upper()}_URL"] == f"http://{service}-fhir/fhir"
        assert f"{service}-fhir" in names


def _compose() -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return told


def test_compose_runs_every_service_with_a_database_and_an_image_of_its_own() -> None:
    compose = _compose()
    assert set(compose["services"]) == SERVICES | {"postgres", "kafka", "keycloak"}
    for service in SERVICES:
        one = compose["services"][service]
        assert one["build"]["args"] == {"SERVICE": service}
        assert {"source": f"{service}_database_url", "target": "kap_database_url"} in one["secrets"]
        assert f"{service}_database_url" in compose["services"]["postgres"]["secrets"]
        assert (ROOT / "services" / service).is_dir()


def test_compose_asks_for_tokens_and_keeps_secrets_out_of_environments() -> None:
    compose = _compose()
    for service in SERVICES:
        one = compose["services"][service]
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["environment"]["KAP_ISSUER"]
        assert "KAP_NO_AUTH" not in one["environment"]
    text = (ROOT / "docker-compose.yml").read_text()
    assert "PASSWORD:" not in text
    assert "postgresql://" not in text
    assert "notes_database_url" in compose["services"]["postgres"]["secrets"]


def test_every_secret_of_compose_is_one_that_is_made(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    before = {path: path.read_text() for path in (tmp_path / "secrets").rglob("*") if path.is_file()}
    for name, secret in _compose()["secrets"].items():
        path = tmp_path / "secrets" / secret["file"].partition("}/")[2]
        assert path in before, name
        assert path.stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    make_secrets(tmp_path / "secrets")
    assert {path: path.read_text() for path in before} == before
    passwords = [value.rpartition("@")[0].rpartition(":")[2] or value for value in before.values()]
    assert len(set(passwords)) == len(passwords)
