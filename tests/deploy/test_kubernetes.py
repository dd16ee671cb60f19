"""What a cluster is given: valid by the API's own schemas, closed, and the same settings as the containers of compose."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from casework import config
from casework.entrypoints import pulse
from tests.deploy.kustomize import Doc, build, containers

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ("cpu", "gpu")
VERSIONS = ("1.29", "1.33", "1.37")  # the oldest that is tried, and the newest that the schemas know
DOORS = {"listener", "api", "keeper", "infer-worker", "deliver-worker", "fetch-worker"}
SCALED = {  # keda.sh/v1alpha1, docs: keda.sh/docs/2.18/reference/scaledobject-spec; its schema is in no registry
    "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "fallback", "advanced", "triggers",
}  # fmt: skip


@pytest.fixture(params=OVERLAYS, name="docs")
def _docs(request: pytest.FixtureRequest) -> list[Doc]:
    """One overlay, rendered."""
    return build(ROOT / "deploy/kubernetes/overlays" / request.param)


def workloads(docs: list[Doc]) -> list[Doc]:
    """Everything that runs."""
    return [doc for doc in docs if doc["kind"] in ("Deployment", "StatefulSet", "Job")]


def doors(docs: list[Doc]) -> dict[str, Doc]:
    """The doors by name."""
    return {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == "Deployment"}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_the_cluster_expects(docs: list[Doc], version: str) -> None:
    """Each document fits the API's schema of that version, where an unknown field is an error."""
    checked = [kubernetes_validate.validate(doc, version, strict=True) for doc in docs if doc["kind"] != "ScaledObject"]
    assert len(checked) == len(docs) - 1 > 25


def test_a_misspelt_field_is_found(docs: list[Doc]) -> None:
    """The check above can fail: one letter in a probe."""
    door = doors(docs)["listener"]
    probe = containers(door)[0].pop("livenessProbe")
    containers(door)[0]["livenesProbe"] = probe
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(door, VERSIONS[-1], strict=True)


def test_pods_are_restricted(docs: list[Doc]) -> None:
    """Every pod: no root, no capability, a read-only root, no token of the cluster, the default system call filter."""
    assert len(workloads(docs)) == 9
    for doc in workloads(docs):
        pod = doc["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, doc["metadata"]["name"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in containers(doc):
            closed = container["securityContext"]
            assert closed["allowPrivilegeEscalation"] is False
            assert closed["readOnlyRootFilesystem"] is True
            assert closed["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]["memory"]
            assert container["resources"]["limits"]["memory"]


def test_no_service_can_change_a_setting(docs: list[Doc]) -> None:
    """A cluster puts <SERVICE>_PORT into every pod's environment; a Service `casework-http` would become the setting http.port."""
    assert all(doc["spec"]["template"]["spec"]["enableServiceLinks"] is False for doc in workloads(docs))


def test_every_door_of_compose_is_a_deployment() -> None:
    """The same doors, by the same commands, in both; the migration runs once in both."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    composed = {name for name, s in services.items() if str(s.get("image", "")).startswith("casework-")} - {"viewer"}
    made = build(ROOT / "deploy/kubernetes/overlays/cpu")
    assert composed == DOORS | {"migrate"}
    assert set(doors(made)) == DOORS
    for name, doc in doors(made).items():
        assert containers(doc)[0]["args"] == services[name]["command"] == [name]
        assert doc["metadata"]["labels"]["casework/door"] == name


def test_doors_and_migration_have_the_same_settings(docs: list[Doc], tmp_path: Path) -> None:
    """One environment for all, the same names as in compose, and the configuration that it makes is one that starts."""
    spread = [{e["name"]: e["value"] for e in containers(doc)[0]["env"]} for doc in workloads(docs) if doc["kind"] != "StatefulSet"]  # fmt: skip
    assert all(environment == spread[0] for environment in spread)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["x-door"]["environment"]
    assert set(spread[0]) - set(compose) == {"CASEWORK_HTTP_KEYS_FILE"}
    assert set(compose) <= set(spread[0])
    (tmp_path / "secret").write_text("x")
    (tmp_path / "casework.toml").write_text(_data(docs, "casework-config")["casework.toml"])
    files = {key: str(tmp_path / "secret") for key in spread[0] if key.endswith("_FILE")}
    settings = config.load(
        None,
        {
            **spread[0],
            **files,
            "CASEWORK_CONFIG": str(tmp_path / "casework.toml"),
            "CASEWORK_STORAGE_ROOT": str(tmp_path),
        },
    )
    assert settings.ledger_url == "postgresql+psycopg://casework:x@postgres:5432/casework"
    assert settings.queue_url == "redis://casework:x@redis:6379/0"
    assert (settings.dicom.port, settings.http.port, settings.metrics.port) == (11112, 8000, 9100)


def test_secrets_are_files(docs: list[Doc]) -> None:
    """No secret stands in an environment or in these files; each one that a setting names is mounted from one Secret."""
    assert not any(doc["kind"] == "Secret" for doc in docs)
    for doc in workloads(docs):
        for entry in containers(doc)[0].get("env", []):
            assert "valueFrom" not in entry
            assert "PASSWORD" not in entry["name"] or entry["value"].startswith("/run/secrets/")
        mounted = [v["secret"]["secretName"] for v in doc["spec"]["template"]["spec"]["volumes"] if "secret" in v]
        assert mounted == ["casework-secrets"]


def test_redis_and_compose_share_their_configuration(docs: list[Doc]) -> None:
    """The ConfigMap is the files that compose mounts."""
    for name, text in _data(docs, "redis-config").items():
        assert (ROOT / "deploy/redis" / name).read_text("utf-8") == text


def test_probes_ask_the_right_door(docs: list[Doc]) -> None:
    """Liveness asks whether the door is there, readiness whether it can work: a full disk must not restart the listener."""
    for name, doc in doors(docs).items():
        container = containers(doc)[0]
        asked = ["python", "-m", pulse.__name__, name]
        assert container["readinessProbe"]["exec"]["command"] == asked
        assert container["livenessProbe"]["exec"]["command"] == container["startupProbe"]["exec"]["command"] == [*asked, "alive"]  # fmt: skip
        silent_s = pulse.STALE_S + container["livenessProbe"]["periodSeconds"] * container["livenessProbe"]["failureThreshold"]  # fmt: skip
        assert silent_s > 200


def test_the_network_is_closed_but_for_what_is_needed(docs: list[Doc]) -> None:
    """All is denied; doors reach the database and the bell; only four reach a PACS; and every port is one that a pod has."""
    policies = {doc["metadata"]["name"]: doc["spec"] for doc in docs if doc["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies["pacs"]["podSelector"]["matchExpressions"][0]["values"] == [
        "deliver-worker",
        "keeper",
        "fetch-worker",
        "api",
    ]
    listening = {p["containerPort"] for doc in workloads(docs) for c in containers(doc) for p in c.get("ports", [])}
    opened = {port["port"] for p in policies.values() for rule in p.get("ingress", []) for port in rule["ports"]}
    assert opened == listening
    asked = {port["port"] for rule in policies["doors-ask"]["egress"] for port in rule["ports"]}
    assert asked == {53, 5432, 6379}


def test_selectors_find_something(docs: list[Doc]) -> None:
    """Every Service, budget and scaler points at pods that are there."""
    labels = [doc["spec"]["template"]["metadata"]["labels"] for doc in workloads(docs)]
    for doc in docs:
        selector: dict[str, Any] | None = None
        if doc["kind"] == "Service":
            selector = doc["spec"]["selector"]
        elif doc["kind"] == "PodDisruptionBudget":
            selector = doc["spec"]["selector"]["matchLabels"]
        if selector is not None:
            assert any(selector.items() <= have.items() for have in labels), doc["metadata"]["name"]


def test_workers_scale_with_the_age_of_the_queue(docs: list[Doc]) -> None:
    """The scaler's fields are KEDA's, its target has no number of its own, and it asks for metrics that the program makes."""
    (scaler,) = (doc for doc in docs if doc["kind"] == "ScaledObject")
    assert set(scaler["spec"]) <= SCALED
    assert "replicas" not in doors(docs)[scaler["spec"]["scaleTargetRef"]["name"]]["spec"]
    assert scaler["spec"]["minReplicaCount"] >= 1
    views = (ROOT / "service/casework").rglob("*.py")
    made = "".join(path.read_text("utf-8") for path in views)
    for trigger in scaler["spec"]["triggers"]:
        assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}
        assert trigger["metadata"]["query"].removeprefix("max(").removesuffix(")") in made


def test_only_the_gpu_overlay_asks_for_a_gpu() -> None:
    """And it runs the image that has the CUDA build."""
    cpu, gpu = (doors(build(ROOT / "deploy/kubernetes/overlays" / name))["infer-worker"] for name in OVERLAYS)
    assert "nvidia.com/gpu" not in containers(cpu)[0]["resources"]["limits"]
    assert containers(gpu)[0]["resources"]["limits"] == {"memory": "10Gi", "nvidia.com/gpu": "1"}
    assert "casework-infer-cpu" in containers(cpu)[0]["image"]
    assert "casework-infer-gpu" in containers(gpu)[0]["image"]


def _data(docs: list[Doc], name: str) -> dict[str, str]:
    (found,) = (doc["data"] for doc in docs if doc["kind"] == "ConfigMap" and doc["metadata"]["name"] == name)
    return dict(found)
