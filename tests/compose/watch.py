"""What looks on: Prometheus has every door, its rules and data for every panel; Grafana the dashboard; OHIF the patient."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.api.browser import chromium
from tests.compose.stack import DOORS, ROOT

BOARD = ROOT / "deploy/grafana/dashboards/casework.json"
QUIET = {  # what a panel or rule may honestly have nothing to say about
    "casework_log_fields_dropped_total",
}


def prometheus(port: int, within_s: float = 90.0) -> list[str]:
    """What is wrong with Prometheus: doors that it does not reach, rules that it did not load, panels without data."""
    deadline = time.monotonic() + within_s
    while True:
        wrong = _prometheus(f"http://127.0.0.1:{port}")
        if not wrong or time.monotonic() > deadline:
            return wrong
        time.sleep(3)


def _prometheus(root: str) -> list[str]:
    try:
        targets = _get(root + "/api/v1/targets")["data"]["activeTargets"]
        groups = _get(root + "/api/v1/rules")["data"]["groups"]
    except (OSError, urllib.error.URLError) as error:
        return [f"Prometheus does not answer: {error}"]
    up = {target["labels"].get("door") for target in targets if target["health"] == "up"}
    wrong = [f"Prometheus does not reach {door}" for door in DOORS if door not in up]
    rules = [rule for group in groups for rule in group["rules"]]
    wrong += [
        f"rule {rule['name']}: {rule['health']} {rule.get('lastError', '')}" for rule in rules if rule["health"] != "ok"
    ]
    if not rules:
        wrong.append("Prometheus loaded no rules")
    for panel in json.loads(BOARD.read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            found = _query(root, target["expr"])
            if not any(value not in ("NaN", "") for value in found):
                wrong.append(f"panel {panel['title']!r} has no data: {target['expr']}")
    return wrong


def firing(port: int) -> list[str]:
    """The alerts that fire now."""
    alerts = _get(f"http://127.0.0.1:{port}/api/v1/alerts")["data"]["alerts"]
    return sorted({a["labels"]["alertname"] for a in alerts if a["state"] == "firing"})


def _query(root: str, expression: str) -> list[str]:
    asked = urllib.parse.urlencode({"query": expression})
    result = _get(f"{root}/api/v1/query?{asked}")["data"]["result"]
    return [str(series["value"][1]) for series in result]


def grafana(port: int) -> list[str]:
    """What is wrong with Grafana: the dashboard is there, and its data source answers a panel's question."""
    root = f"http://127.0.0.1:{port}"
    board = _get(f"{root}/api/dashboards/uid/casework")["dashboard"]
    asked = urllib.parse.urlencode({"query": "sum(casework_cases)"})
    answer = _get(f"{root}/api/datasources/proxy/uid/prometheus/api/v1/query?{asked}")
    wrong = [] if board["panels"] else ["Grafana's dashboard is empty"]
    return wrong + ([] if answer["data"]["result"] else ["Grafana's data source has no data"])


def viewer(port: int, patient_id: str, study: str, out: Path) -> list[str]:
    """What is wrong with OHIF: its list shows the patient, and the study opens with a picture; screenshots in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{port}/?disableConfirmPrompts=true")
        try:
            page.get_by_text(patient_id).first.wait_for()
        except Exception:  # noqa: BLE001 - whatever it was, the picture says it
            page.screenshot(path=out / "viewer-list.png")
            return [f"the viewer's list does not show {patient_id} ({out / 'viewer-list.png'})"]
        page.screenshot(path=out / "viewer-list.png")
        page.goto(f"http://127.0.0.1:{port}/viewer?StudyInstanceUIDs={study}")
        drawn = "() => [...document.querySelectorAll('canvas')].some(c => c.width > 200 && c.height > 200)"
        try:
            page.wait_for_function(drawn)
            page.wait_for_timeout(4000)
        except Exception:  # noqa: BLE001 - as above
            page.screenshot(path=out / "viewer-study.png")
            return [f"the viewer opens no picture of the study ({out / 'viewer-study.png'})"]
        page.screenshot(path=out / "viewer-study.png")
    return []


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - loopback
        return json.load(answer)
