"""Every alert is on metrics that the services have, and says what to do."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

FILE = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(FILE.read_text("utf-8"))["groups"] for rule in group["rules"]
]
HOME = ("shared.events.metrics", "shared.http.metrics", "shared.runtime.knowledge", "services.delivery.courier")


def offered() -> dict[str, set[str]]:
    """Return the labels of each time series by its name, as Prometheus sees it."""
    for module in HOME:
        importlib.import_module(module)
    series: dict[str, set[str]] = {}
    for collector in list(REGISTRY._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for name in REGISTRY._collector_to_names[collector]:
            series[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return series


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_on_series_and_labels_that_there_are(rule):
    series = offered()
    used = set(re.findall(r"kap_\w+", rule["expr"]))
    assert used
    assert used <= series.keys()
    common = set.intersection(*(series[name] for name in used)) | {"le"}
    for grouped in re.findall(r"by \(([^)]*)\)", rule["expr"]):
        assert {label.strip() for label in grouped.split(",")} <= common
    said = " ".join(rule["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", said)) <= common
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description"}


def test_each_commands_name_in_an_alert_is_one_that_there_is():
    from cli.main import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name or group.typer_instance.info.name for group in app.registered_groups}
    said = " ".join(text for rule in RULES for text in rule["annotations"].values())
    assert set(re.findall(r"\./kap (\w+)", said)) <= known
