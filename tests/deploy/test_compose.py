"""The files that operations use name things that exist, and the containers are as closed as they say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from casework import config

ROOT = Path(__file__).resolve().parents[2]
METRIC = re.compile(r"\bcasework_[a-z_]+\b")


def metrics() -> set[str]:
    """Every metric that the program makes, with what a histogram adds."""
    made = set()
    for path in (ROOT / "service").rglob("*.py"):
        made |= set(METRIC.findall(path.read_text("utf-8")))
    return made | {name + suffix for name in made for suffix in ("_bucket", "_sum", "_count")}


def compose() -> dict[str, Any]:
    """docker-compose.yml."""
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8")))


def test_alerts_and_dashboards_name_metrics_that_exist() -> None:
    """A metric that is renamed in the program fails here before an alert goes blind."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    board = json.loads((ROOT / "deploy/grafana/dashboards/casework.json").read_text("utf-8"))
    asked = [rule["expr"] for rule in rules] + [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    named = {name for expression in asked for name in METRIC.findall(expression)}
    assert len(named) > 8
    assert named <= metrics()


def test_every_alert_names_its_first_command() -> None:
    """An alert without a next step is noise."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    assert all(rule["annotations"]["runbook"] and rule["annotations"]["summary"] for rule in rules)


KEYS = {  # of the Compose Specification, those that these files use
    "": {"name", "services", "secrets", "volumes"},
    "service": {
        "build", "cap_drop", "command", "depends_on", "deploy", "entrypoint", "environment", "healthcheck", "image", "init", "logging",
        "ports", "profiles", "read_only", "restart", "secrets", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "user", "volumes",
    },
    "healthcheck": {"test", "interval", "timeout", "retries", "disable"},
}  # fmt: skip


@pytest.mark.parametrize("name", ["docker-compose.yml", "compose.gpu.yml"])
def test_the_compose_files_hold_together(name: str) -> None:
    """Without an engine: no misspelt key, and every container, volume and secret that is named is there, as is every mounted file."""
    document = yaml.safe_load((ROOT / name).read_text("utf-8"))
    assert {key for key in document if not key.startswith("x-")} <= KEYS[""]
    for service in document["services"].values():
        assert set(service) <= KEYS["service"]
        assert set(service.get("healthcheck", {})) <= KEYS["healthcheck"]
        assert set(service.get("depends_on", {})) <= set(document["services"])
        assert set(service.get("secrets", [])) <= set(document.get("secrets", []))
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in document["volumes"], mount
        if "build" in service:
            build = service["build"]
            text = (ROOT / build["context"] / "Dockerfile").read_text("utf-8")
            assert f" AS {build['target']}\n" in text if "target" in build else "FROM" in text


def test_prometheus_reads_every_door() -> None:
    """A door that is added to compose and not to Prometheus would be unseen."""
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"][0]
    doors = {n for n, s in compose()["services"].items() if "CASEWORK_DOOR" in s.get("environment", {})}
    assert set(scrape["dns_sd_configs"][0]["names"]) == doors
    port = compose()["x-door"]["environment"]["CASEWORK_METRICS_PORT"]
    assert str(scrape["dns_sd_configs"][0]["port"]) == port


def test_what_looks_on_has_no_privileges() -> None:
    """Viewer, Prometheus and Grafana: a read-only root, no capability; the viewer's server is nobody."""
    for name in ("viewer", "prometheus", "grafana"):
        service = compose()["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert "USER 10001:10001" in (ROOT / "deploy/viewer/Dockerfile").read_text("utf-8")


def test_nothing_is_published_beyond_loopback() -> None:
    """Every port of every container is published on 127.0.0.1; databases on none."""
    services = compose()["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "ports" not in services["postgres"]
    assert "ports" not in services["redis"]


def test_doors_run_without_privileges() -> None:
    """Every container of ours: no root, no capability, a read-only root, no new privileges; secrets only as files."""
    services = compose()["services"]
    ours = [s for s in services.values() if str(s.get("image", "")).startswith(("casework-service", "casework-infer"))]
    assert len(ours) == 7
    for service in ours:
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not any("PASSWORD" in key and not key.endswith("_FILE") for key in service["environment"])


def test_the_containers_settings_are_accepted(tmp_path: Path) -> None:
    """deploy/casework.toml with the environment of the compose file is a configuration that starts."""
    (tmp_path / "password").write_text("x")
    environment = {
        **compose()["x-door"]["environment"],
        "CASEWORK_CONFIG": str(ROOT / "deploy/casework.toml"),
        "CASEWORK_STORAGE_ROOT": str(tmp_path),
        "CASEWORK_STORAGE_LEDGER_PASSWORD_FILE": str(tmp_path / "password"),
        "CASEWORK_QUEUE_PASSWORD_FILE": str(tmp_path / "password"),
    }
    settings = config.load(None, environment)
    assert settings.ledger_url == "postgresql+psycopg://casework:x@postgres:5432/casework"
    assert settings.metrics.port == 9100
    assert settings.queue.kind == "celery"
    assert settings.queue_url == "redis://casework:x@redis:6379/0"


def test_the_dockerfile_needs_no_front_end_from_a_registry() -> None:
    """A `# syntax` line would be pulled; a site without a registry could not build."""
    for path in (ROOT / "Dockerfile", ROOT / "deploy/viewer/Dockerfile"):
        assert not path.read_text("utf-8").startswith("# syntax")
