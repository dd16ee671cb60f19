"""The files that operations use name things that exist, and the containers are as closed as they say."""

import json
import re
from pathlib import Path
from typing import Any

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
    assert len(ours) == 6
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
